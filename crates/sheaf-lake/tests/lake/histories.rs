//! Databases that continue another history than the one that the lake was written from: a standby that was promoted, a primary that was
//! restored to a moment, and the old primary that comes back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use sheaf_cdc::sink::Sink;
use sheaf_cdc::status::SinkState;
use sheaf_export::Cell;
use sheaf_lake::analytics::{LakeReader, QueryError, Question, ReaderOptions, ShownFrom};
use sheaf_lake::{LakeError, LakeSink, remove_orphans};
use sheaf_pg::cluster::{Cluster, SUPERUSER, StopMode};
use sheaf_pg::{NewestTimeline, PgError, Pool, Tls};
use sheaf_store::settings::Settings;
use sheaf_testkit::{Injected, TestBackup, TestCluster, TestStandby, connect, wait_until};
use tokio_postgres::Config;

use crate::streamed::{Source, WITHIN, line};

/// One that comes up where the database was.
struct Successor<'a> {
    source: &'a Source,
    cluster: &'a Cluster,
}

impl Successor<'_> {
    fn config(&self, role: &str) -> Config {
        let name = self.source.world.database.name();
        self.cluster.connect_config(name, role)
    }

    fn pool(&self, role: &str) -> Pool {
        Pool::new(&self.config(role), 4, &Tls::none())
    }

    async fn execute(&self, sql: &str) -> Result<()> {
        let client = connect(&self.config(SUPERUSER)).await?;
        Ok(client.batch_execute(sql).await?)
    }

    /// What the database has.
    async fn stored(&self) -> Result<BTreeSet<(String, i64)>> {
        stored(&self.config(SUPERUSER)).await
    }

    async fn reader(&self) -> Result<LakeReader> {
        reader(self.source, &self.pool("sheaf_app")).await
    }

    /// Follows it into the lake. Each question is answered with what the database has and nothing else, from before until the lake
    /// has all of it.
    async fn require_followed(&self) -> Result<()> {
        let reader = self.reader().await?;
        require_of(&asked(self.source, &reader).await, &self.stored().await?)?;
        let source = self.source;
        let mut running = source.stream_of(
            &self.config("sheaf_cdc"),
            &self.pool("sheaf_cdc"),
            source.quick(),
        )?;
        // Something new as well.
        self.execute(
            "INSERT INTO sheaf.entity_events
             SELECT tenant_id, entity_id, observed_at + interval '1 day', seq, op, batch_id, ingested_at, attrs
             FROM sheaf.entity_events WHERE entity_id % 3 = 0",
        )
        .await?;
        let until = tokio::time::Instant::now() + WITHIN;
        loop {
            let found = asked(source, &reader).await;
            let stored = self.stored().await?;
            require_of(&found, &stored)?;
            let facts = self.facts().await?;
            let is_all = found.is_ok_and(|found| found.len() == facts);
            let is_streaming = running.status.borrow_and_update().sinks[0].state;
            if is_all && is_streaming == SinkState::Streaming {
                break;
            }
            ensure!(tokio::time::Instant::now() < until, "{:?}", running.status);
        }
        running.stop.send_replace(true);
        running.task.await?;
        Ok(())
    }

    /// How many facts there are to be found.
    async fn facts(&self) -> Result<usize> {
        let client = connect(&self.config(SUPERUSER)).await?;
        let count = "SELECT count(*) FROM sheaf.entity_events";
        let count: i64 = client.query_one(count, &[]).await?.get(0);
        Ok(usize::try_from(count)?)
    }
}

async fn reader(source: &Source, app: &Pool) -> Result<LakeReader> {
    let settings = Arc::new(Settings::read(app).await?);
    let options = ReaderOptions {
        threads: Some(2),
        ..ReaderOptions::of(&source.quick(), source.slot())
    };
    Ok(LakeReader::new(app, settings, options)?)
}

/// The name of each entity with the number that it was given.
async fn stored(config: &Config) -> Result<BTreeSet<(String, i64)>> {
    let client = connect(config).await?;
    let sql = "SELECT n.external_id, (f.value #>> '{}')::double precision::bigint FROM sheaf.entity_events e
        JOIN sheaf.entities n ON n.tenant_id = e.tenant_id AND n.entity_id = e.entity_id
        CROSS JOIN LATERAL jsonb_each(e.attrs) f";
    let rows = client.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The same as a question finds it, each fact by itself.
async fn asked(source: &Source, reader: &LakeReader) -> Result<Vec<(String, i64)>, QueryError> {
    let snapshot = reader.look(None).await?;
    let question = Question {
        query: "SELECT external_id, CAST(value_float AS BIGINT) FROM facts".to_owned(),
        params: Vec::new(),
        shown: ShownFrom::default(),
    };
    let mut answer = reader.ask(&source.scope, &snapshot, question).await?;
    let mut found = Vec::new();
    while let Some(rows) = answer.next().await? {
        for row in rows {
            let text = |cell: &Cell| match cell {
                Cell::Value(value) => serde_json::to_string(value).unwrap_or_default(),
                other => format!("{other:?}"),
            };
            let number = text(&row[1]).parse().unwrap_or(i64::MIN);
            found.push((text(&row[0]).trim_matches('"').to_owned(), number));
        }
    }
    Ok(found)
}

/// An answer has nothing that is not stored. That there is none for a moment is no lie.
fn require_of(
    found: &Result<Vec<(String, i64)>, QueryError>,
    stored: &BTreeSet<(String, i64)>,
) -> Result<()> {
    match found {
        Ok(found) => {
            let others: Vec<_> = found
                .iter()
                .filter(|fact| !stored.contains(*fact))
                .collect();
            ensure!(others.is_empty(), "not in the database: {others:?}");
        }
        Err(QueryError::Superseded { .. } | QueryError::Empty) => {}
        Err(error) => anyhow::bail!("{}", sheaf_pg::chain(error)),
    }
    Ok(())
}

fn lines(first: usize, count: usize) -> Vec<String> {
    let lines = (first..first + count).map(|n| line(n % 20, n, &format!(r#"{{"n":{n}}}"#)));
    lines.collect()
}

/// A primary whose lake has everything, and a standby that lacks the last of it.
async fn ahead_of_its_standby(cluster: &Arc<TestCluster>) -> Result<(Source, TestStandby)> {
    let source = Source::create_in(cluster).await?;
    source.ingest(lines(0, 60)).await?;
    let running = source.stream()?;
    source.require_all_once().await?;
    let standby = TestStandby::follow(cluster, "standby").await?;
    standby.wait_caught_up(cluster).await?;
    standby.cut_link().await?;
    source.ingest(lines(1_000, 10)).await?;
    source.require_all_once().await?;
    running.stop.send_replace(true);
    running.task.await?;
    Ok((source, standby))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_no_question_is_answered_with_what_the_database_lost() -> Result<()> {
    let failed_over = Injected::new("failover to a standby that lacked commits of the lake");
    let cluster = TestCluster::private().await?;
    let (source, standby) = ahead_of_its_standby(&cluster).await?;
    let before = stored(&source.world.database.superuser_config()).await?;
    cluster.cluster().kill9().await?;
    standby.promote().await?;
    failed_over.count();
    let successor = Successor {
        source: &source,
        cluster: standby.cluster(),
    };
    let after = successor.stored().await?;
    assert_eq!(before.len() - after.len(), 10, "commits were lost");
    successor.require_followed().await?;
    failed_over.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_to_a_moment_the_lake_has_what_the_database_had_then() -> Result<()> {
    let restored = Injected::new("restore to a moment before commits of the lake");
    let swept = Injected::new("file that the restored database takes for its lake's");
    for are_states_gone in [false, true] {
        let cluster = TestCluster::private().await?;
        let source = Source::create_in(&cluster).await?;
        source.ingest(lines(0, 60)).await?;
        let mut options = source.quick();
        options.retention.snapshots_age = std::time::Duration::ZERO;
        options.retention.snapshots_min = 1;
        let running = source.stream_into(options.clone())?;
        source.require_all_once().await?;
        let backup = TestBackup::take(&cluster).await?;
        source.ingest(lines(100, 30)).await?;
        source.require_all_once().await?;
        let client = source.world.database.superuser().await?;
        let here = "SELECT pg_current_wal_insert_lsn()::text";
        let moment: String = client.query_one(here, &[]).await?.get(0);
        // The lake goes on, and is ahead of that moment in what it has and in what it does not have any more.
        for first in [1_000, 1_100, 1_200] {
            source.ingest(lines(first, 10)).await?;
            source.require_all_once().await?;
        }
        running.stop.send_replace(true);
        running.task.await?;
        if are_states_gone {
            let late = SystemTime::now() + std::time::Duration::from_secs(7200);
            let orphans = remove_orphans(&source.world.cdc(), &options, WITHIN, late).await?;
            for _ in 0..orphans.removed {
                swept.count();
            }
        }
        cluster.cluster().stop(StopMode::Fast).await?;
        let server = backup.restore(&cluster, &moment).await?;
        restored.count();
        let successor = Successor {
            source: &source,
            cluster: server.cluster(),
        };
        assert_eq!(successor.facts().await?, 90);
        let slots = "SELECT count(*) FROM pg_replication_slots";
        let slots: i64 = server
            .superuser("postgres")
            .await?
            .query_one(slots, &[])
            .await?
            .get(0);
        assert_eq!(slots, 0, "a restored server has none");
        successor.require_followed().await?;
    }
    restored.require();
    swept.require();
    Ok(())
}

/// Whether something was refused because a promotion has left the database behind.
fn is_left_behind(error: &LakeError) -> bool {
    matches!(
        error,
        LakeError::LeftBehind { .. } | LakeError::Postgres(PgError::NotPrimary { .. })
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_primary_that_comes_back_is_not_followed_nor_asked_and_touches_no_file() -> Result<()>
{
    let returned = Injected::new("old primary that comes back");
    let cluster = TestCluster::private_durable().await?;
    let (source, standby) = ahead_of_its_standby(&cluster).await?;
    cluster.cluster().kill9().await?;
    standby.promote().await?;
    let (old, new) = (cluster.cluster(), standby.cluster());
    let successor = Successor {
        source: &source,
        cluster: new,
    };
    // The old one is named first, as it is in a configuration that nobody has changed.
    let both = |role: &str| {
        let mut config = Config::new();
        config
            .host_path(old.socket_dir())
            .port(old.port())
            .host_path(new.socket_dir())
            .port(new.port())
            .dbname(source.world.database.name())
            .user(role)
            .target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
        config
    };
    let newest = Arc::<NewestTimeline>::default();
    let cdc = Pool::of_cluster(&both("sheaf_cdc"), 4, &Tls::none(), &newest);
    let app = Pool::of_cluster(&both("sheaf_app"), 4, &Tls::none(), &newest);
    let reader = reader(&source, &app).await?;
    let mut running = source.stream_of(&both("sheaf_cdc"), &cdc, source.quick())?;
    let follows = running.status.wait_for(|status| status.is_following);
    tokio::time::timeout(WITHIN, follows).await??;
    wait_until(
        "the lake has what the new primary has",
        WITHIN,
        async || {
            let found = asked(&source, &reader).await;
            let facts = successor.facts().await.unwrap_or(0);
            found.is_ok_and(|found| found.len() == facts)
        },
    )
    .await;
    // A process that was killed at that moment can still hold the memory that the next server wants.
    wait_until("the old primary is back", WITHIN, async || {
        old.restart().await.is_ok()
    })
    .await;
    returned.count();
    let of_old = connect(&old.connect_config(source.world.database.name(), SUPERUSER)).await?;
    let row = of_old.query_one("SELECT pg_is_in_recovery()", &[]).await?;
    assert!(!row.get::<_, bool>(0), "it takes itself for a primary");
    let kept = "SELECT concat_ws(' ', (SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE NOT active),
            (SELECT string_agg(s::text, ',') FROM sheaf.change_sinks s), (SELECT string_agg(p::text, ',') FROM sheaf.lake_positions p))";
    let before: String = of_old.query_one(kept, &[]).await?.get(0);
    // Whoever is connected to the new one connects again, and finds the old one first.
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('sheaf_cdc', 'sheaf_app')";
    for round in 0..3 {
        successor.execute(cut).await?;
        successor
            .execute(&format!(
                "INSERT INTO sheaf.entity_events
                 SELECT tenant_id, entity_id, observed_at + interval '{} days', seq, op, batch_id, ingested_at, attrs
                 FROM sheaf.entity_events WHERE entity_id % 3 = 0 AND observed_at < '2024-03-02'",
                10 + round
            ))
            .await?;
        let until = tokio::time::Instant::now() + WITHIN;
        loop {
            let found = asked(&source, &reader).await;
            if let Ok(found) = &found {
                require_of(&Ok(found.clone()), &successor.stored().await?)?;
                if found.len() == successor.facts().await? {
                    break;
                }
            }
            ensure!(tokio::time::Instant::now() < until, "{found:?}");
        }
    }
    let after: String = of_old.query_one(kept, &[]).await?.get(0);
    assert_eq!(before, after, "the old primary was followed");
    // Where there is no other, it is refused.
    let alone = |role: &str| old.connect_config(source.world.database.name(), role);
    let app = Pool::of_cluster(&alone("sheaf_app"), 4, &Tls::none(), &newest);
    let of_old_alone = crate::histories::reader(&source, &app).await?;
    let refused = of_old_alone.look(None).await;
    let is_refused = matches!(
        refused,
        Err(QueryError::Postgres(PgError::NotPrimary { .. }))
    );
    assert!(is_refused, "{refused:?}");
    // Nor does a process that knows only the old one write there or remove what it takes for nobody's.
    let ignorant = Pool::new(&alone("sheaf_cdc"), 4, &Tls::none());
    let options = source.quick();
    let refused = LakeSink::new(&ignorant, options.clone())?.held().await;
    let refused = refused.err().context("it is opened")?;
    let because = refused.source.downcast_ref();
    assert!(because.is_some_and(is_left_behind), "{refused:?}");
    let late = SystemTime::now() + std::time::Duration::from_secs(7200);
    let removed = remove_orphans(&ignorant, &options, WITHIN, late).await;
    let refused = removed.err().context("files are removed")?;
    assert!(is_left_behind(&refused), "{refused:?}");
    let found = asked(&source, &reader).await?;
    assert_eq!(found.len(), successor.facts().await?);
    running.stop.send_replace(true);
    running.task.await?;
    returned.require();
    Ok(())
}
