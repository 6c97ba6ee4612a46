//! A writer for one test.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use sheaf_ingest::{Ack, BodyFormat, IngestAnswer, IngestRequest, OnError, Writer};
use sheaf_model::{AttributeType, Limits, Name, TenantId, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{
    Catalogues, Description, NewAttribute, Temperature, declare_attribute,
};
use sheaf_store::invariants;
use sheaf_store::settings::Settings;
use sheaf_store::tenants::{TenantPolicy, create_tenant};
use sheaf_testkit::TestDatabase;

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
        let database = TestDatabase::create().await?;
        let app = Pool::new(&database.config("sheaf_app"), 4, &Tls::none());
        let policy = TenantPolicy {
            creates_unknown_attributes,
            ..TenantPolicy::default()
        };
        let name = Name::parse("acme")?;
        let tenant: TenantId = create_tenant(&app, &name, &policy, Timestamp::now())
            .await?
            .context("a new name")?;
        let writer = writer_over(&database).await?;
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
        writer_over(&self.database).await
    }

    /// Documents are the fold of their events, and no invariant has a counterexample.
    pub(crate) async fn assert_consistent(&self) -> Result<()> {
        let client = self.database.superuser().await?;
        let check = invariants::check_documents(&client, i64::MAX).await?;
        ensure!(check.documents > 0, "no document was compared");
        assert_eq!(check.violations, []);
        assert_eq!(invariants::check(&client).await?, []);
        Ok(())
    }

    /// One text of the database, for what no interface shows.
    pub(crate) async fn text(&self, sql: &str) -> Result<String> {
        let client = self.database.superuser().await?;
        Ok(client.query_one(sql, &[]).await?.get(0))
    }
}

async fn writer_over(database: &TestDatabase) -> Result<Writer> {
    let pool = |role: &str| Pool::new(&database.config(role), 4, &Tls::none());
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
