//! Periods that are closed, archived and put back: what arrives late is kept, keyframes are what the events come to, and no step
//! takes a row from where it is read.

mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sheaf_ingest::{Ack, EditRequest};
use sheaf_model::{
    Attrs, Cell, ChangePosition, Document, EntityId, Event, LATE_SEQ, Lsn, Op, StoredRow, Tags,
    Timestamp, Value, fold_rows, merge,
};
use sheaf_pg::Pool;
use sheaf_store::TenantScope;
use sheaf_store::archive::{
    ArchiveDigest, ArchiveState, StepError, archive_again, begin_restore, close_period,
    detach_archived, drop_archived, fetch_boundaries, finish_restore, list_archives, note_verified,
    pass_boundary, prepare_restored, write_keyframes,
};
use sheaf_store::catalogue::Catalogues;
use sheaf_store::documents::document_of;
use sheaf_store::events::history_of;
use sheaf_store::invariants::{check, check_documents};
use sheaf_store::maintenance::{PartitionState, fetch_state};
use sheaf_store::partitions::{Partition, ensure_partition, list_partitions};
use sheaf_store::staging::flush;
use sheaf_testkit::{Injected, wait_until};
use tokio::runtime::Runtime;
use tokio_postgres::Client;

use world::{World, event, ingest};

const WITHIN: Duration = Duration::from_secs(60);
const BASE: ChangePosition = ChangePosition {
    timeline: 1,
    commit_lsn: Lsn(1),
    ordinal: 0,
};

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a time").0
}

fn digest() -> ArchiveDigest {
    ArchiveDigest {
        events: 1,
        facts: 1,
        sum: "0".to_owned(),
    }
}

/// A lake that nobody writes, which a boundary needs.
async fn pretend_lake(admin: &Client) -> Result<()> {
    let lake = "INSERT INTO sheaf.lake_positions (catalog_name, base_timeline, base_lsn, committed_at) VALUES ('sheaf', 1, '0/1', now())
        ON CONFLICT DO NOTHING";
    Ok(admin.batch_execute(lake).await?)
}

/// Closes the oldest partition and writes its keyframes.
async fn close(upkeep: &Pool) -> Result<Partition> {
    let oldest = list_partitions(upkeep).await?.into_iter().next();
    let oldest = oldest.context("a partition")?;
    let now = Timestamp::now();
    ensure!(close_period(upkeep, &oldest.name, now).await?, "{oldest:?}");
    while write_keyframes(upkeep, &oldest.name, 3, now).await? > 0 {}
    Ok(oldest)
}

/// The rest of an archive, of which somebody else has compared both sides.
async fn take_away(upkeep: &Pool, partition: &Partition) -> Result<()> {
    let (name, now) = (&partition.name, Timestamp::now());
    ensure!(pass_boundary(upkeep, name, ("sheaf", BASE), &digest(), now).await?);
    detach_archived(upkeep, name, now).await?;
    ensure!(note_verified(upkeep, name, &digest(), now).await?);
    ensure!(drop_archived(upkeep, name, now).await?);
    Ok(())
}

/// What is reported: of which entity, for which instant, what.
#[derive(Debug, Clone)]
struct Report {
    entity: usize,
    year: i32,
    day: u32,
    op: Op,
    values: [Option<Option<i64>>; 3],
    is_staged: bool,
}

fn a_report() -> impl Strategy<Value = Report> {
    let op = prop_oneof![8 => Just(Op::Patch), 1 => Just(Op::Replace), 1 => Just(Op::Delete)];
    let value = prop::option::weighted(0.5, prop::option::weighted(0.85, 0i64..3));
    (
        0usize..4,
        2010..2014,
        1u32..4,
        op,
        [value.clone(), value.clone(), value],
        prop::bool::weighted(0.3),
    )
        .prop_map(|(entity, year, day, op, values, is_staged)| Report {
            entity,
            year,
            day,
            op,
            values: if op == Op::Delete { [None; 3] } else { values },
            is_staged,
        })
}

const NAMES: [&str; 3] = ["a_int", "b", "c"];

struct Bench {
    world: World,
    admin: Client,
    upkeep: Pool,
    scope: TenantScope,
    entities: Vec<EntityId>,
}

impl Bench {
    async fn create() -> Result<Bench> {
        let world = World::create().await?;
        let scope = world.tenant("acme").await?;
        let admin = world.database.superuser().await?;
        pretend_lake(&admin).await?;
        admin
            .batch_execute("CREATE TABLE taken AS SELECT * FROM sheaf.entity_events LIMIT 0")
            .await?;
        let upkeep = world.pool("sheaf_upkeep", 4);
        let writer = world.writer().await?;
        for year in 2010..2014 {
            ensure_partition(&upkeep, at(&format!("{year}-05-05T00:00:00Z"))).await?;
        }
        let mut lines = Vec::new();
        for entity in 0..4 {
            lines.push(event(
                &format!("e{entity}"),
                "2013-06-01T00:00:00Z",
                r#"{"a_int":1,"b":1,"c":1}"#,
            ));
        }
        ingest(&writer, &scope, &lines).await?;
        let sql = "SELECT entity_id FROM sheaf.entities ORDER BY external_id";
        let rows = admin.query(sql, &[]).await?;
        Ok(Bench {
            world,
            admin,
            upkeep,
            scope,
            entities: rows.iter().map(|row| EntityId(row.get(0))).collect(),
        })
    }

    async fn report(&self, report: &Report) -> Result<()> {
        let observed_at = format!("{}-03-{:02}T00:00:00Z", report.year, report.day);
        if report.is_staged {
            let catalogues = Catalogues::new(self.world.app.clone());
            let catalogue = catalogues.current(&self.scope).await?;
            let cells = NAMES.iter().zip(report.values);
            let cells = cells.filter_map(|(name, value)| {
                let id = catalogue.by_name(name)?.id;
                #[expect(clippy::cast_precision_loss, reason = "a few")]
                let cell = value?.map_or(Cell::Removed, |value| {
                    Cell::Value(Value::Float(value as f64))
                });
                Some((id, cell))
            });
            let event = Event {
                observed_at: Some(at(&observed_at)),
                op: report.op,
                attrs: Attrs::from_distinct(cells.collect()),
                tags: Tags::None,
            };
            let entity = self.entities[report.entity];
            self.world
                .stage(&self.scope, None, &[(entity, event)])
                .await?;
            let writer = self.world.pool("sheaf_writer", 2);
            flush(&writer, i32::MAX).await?;
            return Ok(());
        }
        let values = NAMES.iter().zip(report.values);
        let values = values.filter_map(|(name, value)| {
            let value = value?.map_or("null".to_owned(), |value| value.to_string());
            Some(format!(r#""{name}":{value}"#))
        });
        let attributes = values.collect::<Vec<_>>().join(",");
        let request = EditRequest {
            entity_type: "thing".into(),
            external_id: format!("e{}", report.entity),
            op: report.op,
            body: match report.op {
                Op::Delete => Bytes::new(),
                _ => Bytes::from(format!(
                    r#"{{"observed_at":"{observed_at}","attributes":{{{attributes}}}}}"#
                )),
            },
            observed_at: (report.op == Op::Delete).then(|| at(&observed_at)),
            precondition: None,
            ack: Ack::Durable,
            received_at: Timestamp::now(),
        };
        self.world
            .writer()
            .await?
            .edit(&self.scope, request)
            .await?;
        Ok(())
    }

    /// All rows of an entity in the order of the fold, those that were taken away among them.
    async fn rows(&self, entity: EntityId) -> Result<Vec<StoredRow>> {
        let catalogues = Catalogues::new(self.world.app.clone());
        let catalogue = catalogues.current(&self.scope).await?;
        let sql = "SELECT * FROM (
                SELECT * FROM taken UNION ALL SELECT * FROM sheaf.entity_events UNION ALL SELECT * FROM sheaf.entity_events_late
            ) e WHERE entity_id = $1 ORDER BY observed_at, seq";
        let rows = self.admin.query(sql, &[&entity.0]).await?;
        let rows = rows.iter().map(|row| {
            let read = history_of(row, &catalogue);
            Ok(read.map_err(|fault| anyhow::anyhow!("{fault}"))?.row)
        });
        rows.collect()
    }

    /// Keyframes with what arrived late are what everything before them comes to; documents what everything does.
    async fn require_right(&self) -> Result<()> {
        let catalogues = Catalogues::new(self.world.app.clone());
        let catalogue = catalogues.current(&self.scope).await?;
        let documents: BTreeMap<EntityId, Document> = self
            .documents("sheaf.entity_jsonb", &catalogue)
            .await?
            .into_iter()
            .map(|(entity, _, document)| (entity, document))
            .collect();
        for entity in &self.entities {
            let all = self.rows(*entity).await?;
            let document = documents.get(entity).context("a document")?;
            let folded = fold_rows(&all);
            ensure!(
                Document {
                    version: 0,
                    ..document.clone()
                } == folded,
                "document {document:?}, by all rows {folded:?}"
            );
        }
        for (entity, before, mut keyframe) in self.keyframes(&catalogue).await? {
            let all = self.rows(entity).await?;
            let own: Vec<&StoredRow> = all.iter().filter(|row| row.observed_at < before).collect();
            let late = own.iter().filter(|row| row.seq >= LATE_SEQ).copied();
            merge(&mut keyframe, fold_rows(late));
            let folded = fold_rows(own.iter().copied());
            ensure!(
                Document {
                    version: 0,
                    ..keyframe.clone()
                } == folded,
                "keyframe {keyframe:?}, by all rows {folded:?}"
            );
        }
        let upkeep = self.world.database.client("sheaf_upkeep").await?;
        ensure!(
            check_documents(&upkeep, i64::MAX)
                .await?
                .violations
                .is_empty()
        );
        let violations = check(&upkeep).await?;
        ensure!(violations.is_empty(), "{violations:?}");
        Ok(())
    }

    async fn documents(
        &self,
        table: &str,
        catalogue: &sheaf_store::catalogue::Catalogue,
    ) -> Result<Vec<(EntityId, Timestamp, Document)>> {
        let rows = self
            .admin
            .query(&format!("SELECT * FROM {table}"), &[])
            .await?;
        let documents = rows.iter().map(|row| {
            let stored = document_of(row, catalogue).map_err(|fault| anyhow::anyhow!("{fault}"))?;
            Ok((stored.entity, stored.updated_at, stored.document))
        });
        documents.collect()
    }

    /// The keyframes, in the form of documents that changed at their instant.
    async fn keyframes(
        &self,
        catalogue: &sheaf_store::catalogue::Catalogue,
    ) -> Result<Vec<(EntityId, Timestamp, Document)>> {
        let keyframes = "(SELECT entity_id, 0::bigint AS version, newest, floor_at, deleted, at AS updated_at,
                coalesce((SELECT jsonb_object_agg(c.key, c.value) FROM jsonb_each(attrs) c WHERE c.value <> 'null'), '{}') AS hot_attrs,
                '{}'::jsonb AS cold_attrs, times FROM sheaf.entity_keyframes) k";
        self.documents(keyframes, catalogue).await
    }
}

async fn archives_are_folds(phases: &[Vec<Report>; 4]) -> Result<()> {
    let bench = Bench::create().await?;
    for (place, reports) in phases.iter().enumerate() {
        for report in reports {
            bench.report(report).await?;
        }
        bench.require_right().await?;
        if place == 3 {
            break;
        }
        let closed = close(&bench.upkeep).await?;
        bench.require_right().await?;
        // Between the steps too.
        for report in reports.iter().take(2) {
            bench.report(report).await?;
        }
        bench.require_right().await?;
        let keep = format!("INSERT INTO taken SELECT * FROM sheaf.{}", closed.name);
        bench.admin.batch_execute(&keep).await?;
        take_away(&bench.upkeep, &closed).await?;
        let boundaries = fetch_boundaries(&bench.world.app).await?;
        ensure!(boundaries.archived_before == Some(closed.upper));
        ensure!(boundaries.closed_before == Some(closed.upper));
        bench.require_right().await?;
    }
    // From keyframes, late events and what is left of the history, every document is what it was.
    let everything = "SELECT array_agg(d::text ORDER BY d.entity_id) FROM (SELECT entity_id, newest, floor_at, deleted, present, times,
        hot_attrs || cold_attrs FROM sheaf.entity_jsonb) d";
    let before: Vec<String> = bench.admin.query_one(everything, &[]).await?.get(0);
    bench
        .admin
        .batch_execute("UPDATE sheaf.entity_jsonb SET hot_attrs = '{}', cold_attrs = '{}', times = '{}', present = '{}'")
        .await?;
    let rebuild = "SELECT sheaf.upsert_hot_attrs($1, array_agg(entity_id)) FROM sheaf.entity_jsonb";
    let upkeep = bench.world.database.client("sheaf_upkeep").await?;
    upkeep
        .query_one(rebuild, &[&bench.scope.tenant().0])
        .await?;
    let after: Vec<String> = bench.admin.query_one(everything, &[]).await?.get(0);
    ensure!(before == after, "{before:#?} rebuilt is {after:#?}");
    Ok(())
}

#[test]
fn keyframes_with_late_events_are_what_all_events_before_them_come_to() -> Result<()> {
    let runtime = Runtime::new()?;
    let phase = || prop::collection::vec(a_report(), 4..14);
    let mut runner = TestRunner::new(Config {
        cases: 8,
        max_shrink_iters: 60,
        ..Config::default()
    });
    runner.run(&[phase(), phase(), phase(), phase()], |phases| {
        let outcome = runtime.block_on(archives_are_folds(&phases));
        outcome.map_err(|error| TestCaseError::fail(format!("{error:#}")))
    })?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_period_that_is_closed_while_lanes_write_holds_what_was_acknowledged_and_nothing_after()
-> Result<()> {
    const WRITERS: usize = 4;
    let closed = Injected::new("period closed under writers");
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let upkeep = world.pool("sheaf_upkeep", 4);
    let admin = world.database.superuser().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let accepted = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for number in 0..WRITERS {
        let (writer, scope) = (world.writer().await?, scope.clone());
        let (stop, accepted) = (Arc::clone(&stop), Arc::clone(&accepted));
        tasks.push(tokio::spawn(async move {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                written += 1;
                let lines: Vec<String> = (0..3)
                    .map(|entity| {
                        let time = at("2010-05-01T00:00:00Z").saturating_add_micros(written);
                        event(
                            &format!("w{number}e{entity}"),
                            &time.to_string(),
                            r#"{"a":1}"#,
                        )
                    })
                    .collect();
                let answer = ingest(&writer, &scope, &lines).await?;
                ensure!(answer.counts.refused == 0, "{answer:?}");
                accepted.fetch_add(u64::try_from(answer.counts.accepted)?, Ordering::Relaxed);
            }
            anyhow::Ok(())
        }));
    }
    let count = async |table: &str| -> Result<i64> {
        let sql = format!("SELECT count(*) FROM sheaf.{table}");
        Ok(admin.query_one(&sql, &[]).await?.get(0))
    };
    wait_until("events are there", WITHIN, async || {
        count("entity_events")
            .await
            .is_ok_and(|events| events > 100)
    })
    .await;
    // Two servers at once: one closes, and the other finds it closed.
    let name = list_partitions(&upkeep).await?[0].name.clone();
    let close = async || {
        loop {
            match close_period(&upkeep, &name, Timestamp::now()).await {
                Ok(is_first) => return anyhow::Ok(is_first),
                Err(error) if error.disposition() == sheaf_pg::Disposition::Retry => {}
                Err(error) => return Err(error.into()),
            }
        }
    };
    let (one, other) = futures::join!(close(), close());
    assert!(one? ^ other?, "one of two closes it");
    closed.count();
    let held = count("entity_events").await?;
    let late_now = count("entity_events_late").await?;
    wait_until("late events are there", WITHIN, async || {
        count("entity_events_late")
            .await
            .is_ok_and(|events| events > late_now + 50)
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await??;
    }
    assert_eq!(
        count("entity_events").await?,
        held,
        "nothing after it was closed"
    );
    let there = held + count("entity_events_late").await?;
    assert_eq!(u64::try_from(there)?, accepted.load(Ordering::Relaxed));
    let misplaced = "SELECT count(*) FROM sheaf.entity_events e JOIN sheaf.entity_events_late l USING (tenant_id, entity_id, observed_at)";
    let misplaced: i64 = admin.query_one(misplaced, &[]).await?.get(0);
    assert_eq!(misplaced, 0, "each event was written once");
    let client = world.database.client("sheaf_upkeep").await?;
    assert_eq!(check_documents(&client, i64::MAX).await?.violations, []);
    assert_eq!(check(&client).await?, []);
    closed.require();
    Ok(())
}

#[tokio::test]
async fn what_is_late_is_accepted_once_and_never_makes_a_partition() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let upkeep = world.pool("sheaf_upkeep", 4);
    let (writer, admin) = (world.writer().await?, world.database.superuser().await?);
    let first = event("e", "2010-05-01T00:00:00Z", r#"{"a":1,"b":1}"#);
    ingest(&writer, &scope, std::slice::from_ref(&first)).await?;
    ingest(
        &writer,
        &scope,
        &[event("e", "2012-05-01T00:00:00Z", r#"{"a":2}"#)],
    )
    .await?;
    close(&upkeep).await?;
    // The same as what is archived is accepted, as nobody looks; the same again is a duplicate; a value that differs is accepted.
    for (line, counts) in [
        (first.clone(), (1, 0)),
        (first, (0, 1)),
        (
            event("e", "2010-05-01T00:00:00Z", r#"{"b":7,"c":1}"#),
            (1, 0),
        ),
        (event("e", "2009-01-01T00:00:00Z", r#"{"d":1}"#), (1, 0)),
        (event("new", "2010-07-01T00:00:00Z", r#"{"a":1}"#), (1, 0)),
        // Where there is no partition, and nothing is closed: it is made as ever.
        (event("e", "2011-01-01T00:00:00Z", r#"{"a":1}"#), (1, 0)),
    ] {
        let answer = ingest(&writer, &scope, std::slice::from_ref(&line)).await?;
        let counted = (answer.counts.accepted, answer.counts.duplicates);
        assert_eq!(counted, counts, "{line}");
        assert_eq!(
            (answer.counts.merged, answer.counts.corrected),
            (0, 0),
            "{line}"
        );
    }
    let late = "SELECT array_agg(concat_ws(' ', observed_at::date, seq, op) ORDER BY entity_id, observed_at, seq)
        FROM sheaf.entity_events_late";
    let late: Vec<String> = admin.query_one(late, &[]).await?.get(0);
    let expected = [
        "2009-01-01 16384 p",
        "2010-05-01 16384 p",
        "2010-05-01 16385 c",
        "2010-07-01 16384 p",
    ];
    assert_eq!(late, expected);
    let partitions = list_partitions(&upkeep).await?;
    let lowest = partitions.iter().map(|partition| partition.lower).min();
    assert!(lowest >= Some(at("2011-01-01T00:00:00Z")), "{partitions:?}");
    let facts = "SELECT array_agg(concat_ws(' ', attribute, value_float) ORDER BY attribute) FROM sheaf.entity_values_ts
        WHERE external_id = 'e' AND observed_at = '2010-05-01Z'";
    let facts: Vec<String> = admin.query_one(facts, &[]).await?.get(0);
    assert_eq!(facts, ["a 1", "b 7", "c 1"], "each value once");
    // A server of before asks for a partition of the period all the same, and is refused.
    let error = ensure_partition(&upkeep, at("2010-05-01T00:00:00Z")).await;
    let error = error.expect_err("it is closed");
    assert_eq!(error.disposition(), sheaf_pg::Disposition::Retry);
    let client = world.database.client("sheaf_upkeep").await?;
    assert_eq!(check_documents(&client, i64::MAX).await?.violations, []);
    assert_eq!(check(&client).await?, []);
    Ok(())
}

#[tokio::test]
async fn steps_are_taken_in_their_order_and_put_back_from_wherever_they_are() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let upkeep = world.pool("sheaf_upkeep", 4);
    let (writer, admin) = (world.writer().await?, world.database.superuser().await?);
    pretend_lake(&admin).await?;
    for year in [2010, 2012] {
        let time = format!("{year}-05-01T00:00:00Z");
        ingest(&writer, &scope, &[event("e", &time, r#"{"a":1}"#)]).await?;
    }
    let now = Timestamp::now();
    let partitions = list_partitions(&upkeep).await?;
    let (old, other) = (&partitions[0], &partitions[1]);
    let state = async || -> Result<Option<ArchiveState>> {
        Ok(list_archives(&upkeep)
            .await?
            .first()
            .map(|archive| archive.state))
    };
    close_period(&upkeep, &other.name, now)
        .await
        .expect_err("an older one is there");
    assert_eq!(state().await?, None);
    close_period(&upkeep, &old.name, now).await?;
    close_period(&upkeep, &other.name, now)
        .await
        .expect_err("one at a time");
    // What reads ask is not taken out, nor given to others to write.
    let detach = format!("SELECT sheaf.close_event_partition('{}', now())", old.name);
    admin
        .batch_execute(&detach)
        .await
        .expect_err("it is being archived");
    let attach = format!("SELECT sheaf.attach_event_partition('{}')", old.name);
    admin
        .batch_execute(&attach)
        .await
        .expect_err("its time is closed");
    // Steps that are not next do nothing.
    assert!(!pass_boundary(&upkeep, &old.name, ("sheaf", BASE), &digest(), now).await?);
    detach_archived(&upkeep, &old.name, now).await?;
    assert!(!drop_archived(&upkeep, &old.name, now).await?);
    assert_eq!(state().await?, Some(ArchiveState::Closed));
    assert!(finish_restore(&upkeep, &old.name, now).await?);
    assert_eq!(state().await?, Some(ArchiveState::Restored));
    archive_again(&upkeep, &old.name).await?;
    while write_keyframes(&upkeep, &old.name, 10, now).await? > 0 {}
    // A lake that has begun anew is not the one that was compared.
    let elsewhere = ChangePosition {
        commit_lsn: Lsn(2),
        ..BASE
    };
    let error = pass_boundary(&upkeep, &old.name, ("sheaf", elsewhere), &digest(), now).await;
    let error = error.expect_err("another lake");
    assert_eq!(error.disposition(), sheaf_pg::Disposition::Retry);
    assert_eq!(fetch_boundaries(&upkeep).await?.archived_before, None);
    assert!(pass_boundary(&upkeep, &old.name, ("sheaf", BASE), &digest(), now).await?);
    detach_archived(&upkeep, &old.name, now).await?;
    assert_eq!(state().await?, Some(ArchiveState::Detached));
    let another = ArchiveDigest {
        facts: 2,
        ..digest()
    };
    assert!(
        !note_verified(&upkeep, &old.name, &another, now).await?,
        "not what it was"
    );
    assert!(note_verified(&upkeep, &old.name, &digest(), now).await?);
    assert!(finish_restore(&upkeep, &old.name, now).await?);
    assert_eq!(fetch_boundaries(&upkeep).await?.archived_before, None);
    let events: i64 = admin
        .query_one("SELECT count(*) FROM sheaf.entity_events", &[])
        .await?
        .get(0);
    assert_eq!(events, 2, "it is back");
    let answer = ingest(
        &writer,
        &scope,
        &[event("e", "2010-06-01T00:00:00Z", r#"{"a":3}"#)],
    )
    .await?;
    assert_eq!(answer.counts.accepted, 1);
    let late: i64 = admin
        .query_one("SELECT count(*) FROM sheaf.entity_events_late", &[])
        .await?
        .get(0);
    assert_eq!(late, 1, "it stays closed");
    let client = world.database.client("sheaf_upkeep").await?;
    assert_eq!(check_documents(&client, i64::MAX).await?.violations, []);
    assert_eq!(check(&client).await?, []);
    Ok(())
}

/// A history of these years, an event of one entity in each.
async fn of_years(years: &[i32]) -> Result<(World, Pool, Client)> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let (writer, admin) = (world.writer().await?, world.database.superuser().await?);
    pretend_lake(&admin).await?;
    for year in years {
        let time = format!("{year}-05-01T00:00:00Z");
        ingest(&writer, &scope, &[event("e", &time, r#"{"a":1}"#)]).await?;
    }
    let upkeep = world.pool("sheaf_upkeep", 4);
    Ok((world, upkeep, admin))
}

async fn events(admin: &Client) -> Result<i64> {
    let sql = "SELECT count(*) FROM sheaf.entity_events";
    Ok(admin.query_one(sql, &[]).await?.get(0))
}

/// The boundary would move beyond it while it is here, and back over the other one when it is archived again.
#[tokio::test]
async fn a_partition_is_not_put_back_while_the_one_after_it_is_on_its_way() -> Result<()> {
    let refused = Injected::new("restore while a younger partition is compared");
    let (_world, upkeep, _admin) = of_years(&[2010, 2012, 2014]).await?;
    let now = Timestamp::now();
    let first = close(&upkeep).await?;
    take_away(&upkeep, &first).await?;
    let second = close(&upkeep).await?;
    ensure!(prepare_restored(&upkeep, &first.name).await?);
    let error = finish_restore(&upkeep, &first.name, now).await;
    refused.count();
    assert!(matches!(error, Err(StepError::Younger { .. })), "{error:?}");
    let states = async || -> Result<Vec<ArchiveState>> {
        let archives = list_archives(&upkeep).await?;
        Ok(archives.iter().map(|archive| archive.state).collect())
    };
    assert_eq!(
        states().await?,
        [ArchiveState::Dropped, ArchiveState::Keyframed]
    );
    let boundary = async || anyhow::Ok(fetch_boundaries(&upkeep).await?.archived_before);
    assert_eq!(boundary().await?, Some(first.upper));
    // The other way round: the younger one first. Both are archived again, the boundary never back.
    ensure!(finish_restore(&upkeep, &second.name, now).await?);
    ensure!(finish_restore(&upkeep, &first.name, now).await?);
    assert_eq!(boundary().await?, None);
    for partition in [&first, &second] {
        archive_again(&upkeep, &partition.name).await?;
        while write_keyframes(&upkeep, &partition.name, 10, now).await? > 0 {}
        take_away(&upkeep, partition).await?;
        assert_eq!(boundary().await?, Some(partition.upper));
    }
    assert_eq!(states().await?, [ArchiveState::Dropped; 2]);
    refused.require();
    Ok(())
}

#[tokio::test]
async fn a_partition_whose_detachment_was_interrupted_is_seen_again_once_it_is_put_back()
-> Result<()> {
    let interrupted = Injected::new("detachment interrupted");
    let (world, upkeep, admin) = of_years(&[2010, 2012]).await?;
    let now = Timestamp::now();
    let old = close(&upkeep).await?;
    ensure!(pass_boundary(&upkeep, &old.name, ("sheaf", BASE), &digest(), now).await?);
    let interrupt = async || -> Result<()> {
        let reader = world.database.superuser().await?;
        reader
            .batch_execute("BEGIN; SELECT FROM sheaf.entity_events")
            .await?;
        // It waits for the reader.
        let detach = format!(
            "ALTER TABLE sheaf.entity_events DETACH PARTITION sheaf.{} CONCURRENTLY",
            old.name
        );
        admin.batch_execute("SET statement_timeout = '1s'").await?;
        admin.batch_execute(&detach).await.expect_err("it waits");
        admin.batch_execute("RESET statement_timeout").await?;
        interrupted.count();
        reader.batch_execute("ROLLBACK").await?;
        let state = fetch_state(&upkeep, &old.name).await?;
        assert_eq!(state, Some(PartitionState::Pending));
        assert_eq!(events(&admin).await?, 1, "nobody sees it");
        Ok(())
    };
    interrupt().await?;
    let restored = finish_restore(&upkeep, &old.name, now);
    ensure!(tokio::time::timeout(WITHIN, restored).await??);
    assert_eq!(fetch_boundaries(&upkeep).await?.archived_before, None);
    assert_eq!(events(&admin).await?, 2, "it is back");
    // And where the archive goes on.
    archive_again(&upkeep, &old.name).await?;
    ensure!(write_keyframes(&upkeep, &old.name, 10, now).await? == 0);
    ensure!(pass_boundary(&upkeep, &old.name, ("sheaf", BASE), &digest(), now).await?);
    interrupt().await?;
    let detached = detach_archived(&upkeep, &old.name, now);
    tokio::time::timeout(WITHIN, detached).await??;
    let archives = list_archives(&upkeep).await?;
    assert_eq!(archives[0].state, ArchiveState::Detached);
    ensure!(finish_restore(&upkeep, &old.name, now).await?);
    assert_eq!(events(&admin).await?, 2, "it is back again");
    let client = world.database.client("sheaf_upkeep").await?;
    assert_eq!(check_documents(&client, i64::MAX).await?.violations, []);
    interrupted.require();
    Ok(())
}

#[tokio::test]
async fn a_partition_that_is_taken_out_by_hand_is_not_closed_for_an_archive() -> Result<()> {
    let (_world, upkeep, admin) = of_years(&[2010, 2012]).await?;
    let old = list_partitions(&upkeep).await?.remove(0);
    let by_hand = format!("SELECT sheaf.close_event_partition('{}', now())", old.name);
    admin.batch_execute(&by_hand).await?;
    let error = close_period(&upkeep, &old.name, Timestamp::now()).await;
    assert!(matches!(error, Err(StepError::Leaving { .. })), "{error:?}");
    assert_eq!(list_archives(&upkeep).await?, []);
    assert_eq!(fetch_boundaries(&upkeep).await?.closed_before, None);
    let undo = format!("SELECT sheaf.attach_event_partition('{}')", old.name);
    admin.batch_execute(&undo).await?;
    ensure!(close_period(&upkeep, &old.name, Timestamp::now()).await?);
    Ok(())
}

#[tokio::test]
async fn one_at_a_time_puts_a_partition_back() -> Result<()> {
    let broken = Injected::new("lock lost with its connection");
    let (_world, upkeep, admin) = of_years(&[2010]).await?;
    let one = begin_restore(&upkeep).await?.context("nobody else does")?;
    assert!(begin_restore(&upkeep).await?.is_none(), "somebody does");
    one.require().await?;
    one.release().await?;
    let other = begin_restore(&upkeep).await?.context("nobody does now")?;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_locks
        WHERE locktype = 'advisory' AND classid = 24239 AND objid = 4294967288 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    for _ in admin.query(kill, &[]).await? {
        broken.count();
    }
    wait_until("its lock is gone", WITHIN, async || {
        other.require().await.is_err()
    })
    .await;
    broken.require();
    Ok(())
}
