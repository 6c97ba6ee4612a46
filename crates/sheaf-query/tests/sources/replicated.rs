//! A primary with an entity that counts, replicas of it, and a reader of them all.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use sheaf_model::{Op, Position};
use sheaf_pg::cluster::Cluster;
use sheaf_pg::{Pool, Tls};
use sheaf_query::{
    ConsistencyLevel, CountMode, DataSource, EntityQuery, ListQuery, Read, ReadError, ReadOptions,
    Reader, SourcePools,
};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogues;
use sheaf_store::heartbeat::beat;
use sheaf_store::settings::Settings;
use sheaf_testkit::{TestCluster, TestDatabase, TestStandby, wait_until};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::world::{World, now, second};

pub(crate) const WITHIN: Duration = Duration::from_secs(60);
/// More often than servers do, so that ages are told finely.
const BEAT_EVERY: Duration = Duration::from_millis(50);

pub(crate) struct Replicated {
    pub(crate) primary: Arc<TestCluster>,
    pub(crate) world: World,
    pub(crate) scope: TenantScope,
    pub(crate) reader: Reader,
    heart: Option<JoinHandle<()>>,
    watching: watch::Sender<bool>,
}

impl Drop for Replicated {
    fn drop(&mut self) {
        self.watching.send_replace(true);
        self.stop_heart();
    }
}

impl Replicated {
    /// Without replicas so far.
    pub(crate) async fn new() -> Result<Replicated> {
        let primary = TestCluster::private().await?;
        let database = TestDatabase::create_in(&primary).await?;
        let world = World::on(database).await?;
        let mut tenant = world.tenant("acme").await?;
        for id in ["one", "two"] {
            tenant.write(("counter", id), second(0), Op::Patch, &[]);
        }
        world.save(&tenant).await?;
        let reader = world.reader.clone();
        let (watching, stop) = watch::channel(false);
        tokio::spawn(Arc::clone(reader.sources()).watch(stop));
        let upkeep = Pool::new(&world.database.config("sheaf_upkeep"), 1, &Tls::none());
        let heart = tokio::spawn(async move {
            loop {
                // The primary may be away; then it does not beat.
                let _ = beat(&upkeep, Duration::ZERO).await;
                tokio::time::sleep(BEAT_EVERY).await;
            }
        });
        Ok(Replicated {
            primary,
            scope: tenant.scope.clone(),
            world,
            reader,
            heart: Some(heart),
            watching,
        })
    }

    /// No beats any more.
    pub(crate) fn stop_heart(&mut self) {
        if let Some(heart) = self.heart.take() {
            heart.abort();
        }
    }

    /// The pools of a server that has this database.
    pub(crate) fn pools(&self, cluster: &Cluster) -> SourcePools {
        SourcePools {
            app: self.pool(cluster, "sheaf_app"),
            search: self.pool(cluster, "sheaf_search"),
        }
    }

    pub(crate) fn pool(&self, cluster: &Cluster, role: &str) -> Pool {
        Pool::new(&self.config(cluster, role), 4, &Tls::none())
    }

    pub(crate) fn config(&self, cluster: &Cluster, role: &str) -> tokio_postgres::Config {
        cluster.connect_config(self.world.database.name(), role)
    }

    /// A replica of this name, which has answered.
    pub(crate) async fn replica(&self, name: &str) -> Result<TestStandby> {
        let standby = TestStandby::follow(&self.primary, name).await?;
        let pools = self.pools(standby.cluster());
        self.reader.sources().add_replica(name, pools);
        self.wait_used(name).await;
        Ok(standby)
    }

    /// Returns once a read is answered by the replica.
    pub(crate) async fn wait_used(&self, name: &str) {
        wait_until(&format!("{name} is used"), WITHIN, async || {
            let read = self.read(ConsistencyLevel::Eventual, None).await;
            read.is_ok_and(|read| read.freshness.source == source(name))
        })
        .await;
    }

    /// Writes a number, which reads give back, and the token of its commit.
    pub(crate) async fn write(&self, number: i64) -> Result<Position> {
        let client = &self.world.superuser;
        let sql = "UPDATE sheaf.entity_jsonb SET version = $1";
        client.execute(sql, &[&number]).await?;
        self.position().await
    }

    /// Where the primary's history stands.
    pub(crate) async fn position(&self) -> Result<Position> {
        let settings = &self.world.settings;
        let pool = &self.world.app;
        let client = pool.get().await?;
        let statement = sheaf_store::settings::read_position();
        let rows = client.query_typed(statement.sql, &[]).await?;
        Ok(settings.position(&rows[0])?.0)
    }

    pub(crate) async fn read(
        &self,
        level: ConsistencyLevel,
        token: Option<Position>,
    ) -> Result<Read<i64>, ReadError> {
        read_with(&self.reader, &self.scope, level, token).await
    }

    /// Who answers a list.
    pub(crate) async fn list(&self, level: ConsistencyLevel) -> Result<DataSource, ReadError> {
        list_with(&self.reader, &self.scope, level).await
    }

    /// The reader of a server that begins now, over this as its primary.
    pub(crate) async fn another_reader(&self, cluster: &Cluster) -> Result<Reader> {
        let SourcePools { app, search } = self.pools(cluster);
        let settings = Arc::new(Settings::read(&app).await?);
        let catalogues = Arc::new(Catalogues::new(app.clone()));
        let reader = Reader::new(app, search, settings, catalogues);
        let stop = self.watching.subscribe();
        tokio::spawn(Arc::clone(reader.sources()).watch(stop));
        Ok(reader)
    }
}

pub(crate) async fn read_with(
    reader: &Reader,
    scope: &TenantScope,
    level: ConsistencyLevel,
    token: Option<Position>,
) -> Result<Read<i64>, ReadError> {
    read_as(reader, scope, &options(level, token)).await
}

pub(crate) async fn read_as(
    reader: &Reader,
    scope: &TenantScope,
    options: &ReadOptions,
) -> Result<Read<i64>, ReadError> {
    let query = EntityQuery::default();
    let read = reader
        .entity(scope, "counter", "one", &query, options)
        .await?;
    let entity = read.value.context("it is there").unwrap();
    Ok(Read {
        value: entity.version.unwrap(),
        freshness: read.freshness,
    })
}

/// A page of the counters.
pub(crate) fn page(limit: u32, cursor: Option<String>) -> ListQuery {
    ListQuery {
        entity_type: Some("counter".to_owned()),
        filter: None,
        sort: Vec::new(),
        select: None,
        limit,
        cursor,
        count: CountMode::None,
        facets: Vec::new(),
    }
}

/// Who answers a list, which is read as `sheaf_search`.
pub(crate) async fn list_with(
    reader: &Reader,
    scope: &TenantScope,
    level: ConsistencyLevel,
) -> Result<DataSource, ReadError> {
    list_as(reader, scope, &options(level, None)).await
}

pub(crate) async fn list_as(
    reader: &Reader,
    scope: &TenantScope,
    options: &ReadOptions,
) -> Result<DataSource, ReadError> {
    let read = reader.list(scope, &page(10, None), options).await?;
    assert_eq!(read.value.page.items.len(), 2);
    Ok(read.freshness.source)
}

pub(crate) fn options(level: ConsistencyLevel, token: Option<Position>) -> ReadOptions {
    let mut options = ReadOptions::new(token, now());
    options.level = level;
    options
}

pub(crate) fn source(name: &str) -> DataSource {
    DataSource::Replica(name.into())
}

pub(crate) fn code<T>(read: Result<T, ReadError>) -> &'static str {
    read.err().map_or("answered", |error| error.code())
}
