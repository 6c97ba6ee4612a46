//! A writer for one test.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use sheaf_ingest::{Ack, BodyFormat, IngestAnswer, IngestRequest, OnError, Writer};
use sheaf_model::{AttributeType, Limits, Lsn, Name, TenantId, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{
    Catalogues, Description, NewAttribute, Temperature, declare_attribute,
};
use sheaf_store::invariants;
use sheaf_store::settings::Settings;
use sheaf_store::tenants::{TenantPolicy, create_tenant};
use sheaf_testkit::{TestCluster, TestDatabase, TestStandby};
use tokio_postgres::{Client, Config};

/// A writer over a database of its own, with one tenant.
pub(crate) struct World {
    pub(crate) database: TestDatabase,
    pub(crate) app: Pool,
    pub(crate) writer: Writer,
    pub(crate) scope: TenantScope,
}

impl World {
    /// Whether the tenant makes attributes that nobody has declared is the test's to say.
    pub(crate) async fn create(creates_unknown_attributes: bool) -> Result<World> {
        let cluster = TestCluster::shared().await?;
        World::create_in(&cluster, creates_unknown_attributes).await
    }

    /// The same on this cluster.
    pub(crate) async fn create_in(
        cluster: &Arc<TestCluster>,
        creates_unknown_attributes: bool,
    ) -> Result<World> {
        let database = TestDatabase::create_in(cluster).await?;
        let app = Pool::new(&database.config("sheaf_app"), 4, &Tls::none());
        let policy = TenantPolicy {
            creates_unknown_attributes,
            ..TenantPolicy::default()
        };
        let name = Name::parse("acme")?;
        let tenant: TenantId = create_tenant(&app, &name, &policy, Timestamp::now())
            .await?
            .context("a new name")?;
        let writer = writer_over(|role| database.config(role)).await?;
        Ok(World {
            database,
            app,
            writer,
            scope: TenantScope::authenticated(tenant),
        })
    }

    pub(crate) async fn declare(&self, name: &str, kind: AttributeType) -> Result<()> {
        let attribute = NewAttribute {
            name: name.to_owned(),
            kind,
            temperature: Temperature::Cold,
        };
        let (description, now) = (Description::default(), Timestamp::now());
        declare_attribute(&self.app, &self.scope, &attribute, &description, now).await?;
        Ok(())
    }

    pub(crate) async fn ingest(&self, format: BodyFormat, lines: &[&str]) -> Result<IngestAnswer> {
        let request = IngestRequest {
            body: Bytes::from(lines.join("\n")),
            format,
            ack: Ack::Durable,
            on_error: OnError::Partial,
            idempotency_key: None,
            received_at: Timestamp::now(),
        };
        Ok(self.writer.ingest(&self.scope, request).await?)
    }

    /// The writer of a second server on the same database.
    pub(crate) async fn another_writer(&self) -> Result<Writer> {
        writer_over(|role| self.database.config(role)).await
    }

    /// Documents are the fold of their events, and no invariant has a counterexample.
    pub(crate) async fn assert_consistent(&self) -> Result<()> {
        assert_consistent(&self.database.superuser().await?).await
    }

    /// One text of the database, for what no interface shows.
    pub(crate) async fn text(&self, sql: &str) -> Result<String> {
        let client = self.database.superuser().await?;
        Ok(client.query_one(sql, &[]).await?.get(0))
    }
}

/// As [`World::assert_consistent`], over a superuser's connection.
pub(crate) async fn assert_consistent(client: &Client) -> Result<()> {
    let check = invariants::check_documents(client, i64::MAX).await?;
    ensure!(check.documents > 0, "no document was compared");
    assert_eq!(check.violations, []);
    assert_eq!(invariants::check(client).await?, []);
    Ok(())
}

/// How far a standby has what its primary wrote.
pub(crate) async fn received(standby: &TestStandby) -> Result<Lsn> {
    let client = standby.superuser("postgres").await?;
    let row = client
        .query_one("SELECT pg_last_wal_receive_lsn()::text", &[])
        .await?;
    Ok(row.get::<_, &str>(0).parse()?)
}

/// The writer of a server whose roles connect like this.
pub(crate) async fn writer_over(config: impl Fn(&str) -> Config) -> Result<Writer> {
    let pool = |role: &str| Pool::new(&config(role), 4, &Tls::none());
    let app = pool("sheaf_app");
    let settings = Arc::new(Settings::read(&app).await?);
    let catalogues = Arc::new(Catalogues::new(app.clone()));
    let (writer, _lanes) = Writer::start(
        app,
        pool("sheaf_writer"),
        settings,
        catalogues,
        Limits::DEFAULT,
    );
    Ok(writer)
}
