//! What is archived is in the lake alone: it is compared before, stays when the lake begins anew, and takes in what comes late.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use sheaf_cdc::sink::Sink;
use sheaf_lake::{LakeArchive, LakeSink};
use sheaf_model::Timestamp;
use sheaf_pg::{Pool, Tls};
use sheaf_store::archive::{
    ArchiveDigest, await_position, close_period, detach_archived, drop_archived, finish_restore,
    list_archives, note_verified, pass_boundary, prepare_restored, write_keyframes,
};
use sheaf_store::partitions::{Partition, list_partitions};
use sheaf_store::settings::Settings;
use sheaf_testkit::{Injected, wait_until};

use crate::streamed::{Source, WITHIN};

/// Of the year that is archived, of the last days before its end, and after it.
const TIMES: [&str; 4] = [
    "2010-03-01T00:00:00Z",
    "2010-12-31T23:59:59.999999Z",
    "2011-01-01T00:00:00Z",
    "2024-02-27T00:00:00Z",
];

fn line(id: usize, time: &str, attributes: &str) -> String {
    format!(r#"{{"type":"thing","id":"t{id}","observed_at":"{time}","attributes":{attributes}}}"#)
}

struct Archiving {
    source: Source,
    upkeep: Pool,
    archive: LakeArchive,
}

impl Archiving {
    async fn create() -> Result<Archiving> {
        let source = Source::create().await?;
        let upkeep = Pool::new(
            &source.world.database.config("sheaf_upkeep"),
            4,
            &Tls::none(),
        );
        let settings = Arc::new(Settings::read(&upkeep).await?);
        let archive = LakeArchive::new(&upkeep, settings, &source.quick(), source.slot())?;
        Ok(Archiving {
            source,
            upkeep,
            archive,
        })
    }

    /// Waits until the lake covers what was written by now.
    async fn covered(&self, name: &str) -> Result<()> {
        await_position(&self.upkeep, name).await?;
        let archives = list_archives(&self.upkeep).await?;
        let awaited = archives[0].awaited.context("a position")?;
        wait_until("the lake covers it", WITHIN, async || {
            let standing = self.archive.standing().await;
            standing.is_ok_and(|standing| standing.covered >= Some(awaited))
        })
        .await;
        Ok(())
    }

    async fn compared(&self, partition: &Partition) -> Result<Option<ArchiveDigest>> {
        let here = self.archive.digest_partition(&partition.name).await?;
        let there = self.archive.digest_lake(partition).await?;
        Ok((here.digest == there).then(|| ArchiveDigest {
            events: i64::try_from(here.events).unwrap_or_default(),
            facts: i64::try_from(there.facts).unwrap_or_default(),
            sum: format!("{:032x}", there.sum),
        }))
    }

    /// What every table of the lake has of facts, those of keyframes with them.
    async fn in_lake(&self) -> Result<[Vec<String>; 3]> {
        let mut found: [Vec<String>; 3] = Default::default();
        for (rows, table) in found
            .iter_mut()
            .zip(["facts", "facts_corrected", "keyframes"])
        {
            let read = self.source.world.rows("sheaf", table).await?;
            rows.extend(read.iter().map(|row| format!("{row:?}")));
            rows.sort();
        }
        Ok(found)
    }

    async fn number(&self, sql: &str) -> Result<i64> {
        let client = self.source.world.database.superuser().await?;
        Ok(client.query_one(sql, &[]).await?.get(0))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_archived_is_compared_and_kept_by_a_lake_that_begins_anew() -> Result<()> {
    let changed = Injected::new("value changed in a partition that is to be archived");
    let anew = Injected::new("slot lost after a partition was archived");
    let archiving = Archiving::create().await?;
    let source = &archiving.source;
    let values = |number: usize| {
        format!(r#"{{"n":{number},"name":"x{number}","on":true,"doc":{{"a":[{number}]}}}}"#)
    };
    for time in TIMES {
        let lines = (0..20).map(|number| line(number, time, &values(number)));
        source.ingest(lines.collect()).await?;
    }
    // Corrected while they are written, and merged.
    let lines = (0..6).map(|number| line(number, TIMES[0], r#"{"n":-1,"more":2}"#));
    source.ingest(lines.collect()).await?;
    let lines = (0..6).map(|number| line(number, TIMES[1], r#"{"more":null}"#));
    source.ingest(lines.collect()).await?;
    let running = source.stream()?;
    source.require_all_once().await?;

    let partition = list_partitions(&archiving.upkeep).await?.remove(0);
    let (name, now) = (partition.name.as_str(), Timestamp::now());
    close_period(&archiving.upkeep, name, now).await?;
    archiving.covered(name).await?;
    while write_keyframes(&archiving.upkeep, name, 7, now).await? > 0 {}
    archiving.covered(name).await?;
    let digest = archiving.compared(&partition).await?;
    let digest = digest.context("both sides are the same")?;
    assert_eq!(digest.events, 52, "40 and those that correct and add");
    let standing = archiving.archive.standing().await?;
    let base = standing.base.context("it has begun")?;
    let lake = (archiving.archive.catalog(), base);
    ensure!(pass_boundary(&archiving.upkeep, name, lake, &digest, now).await?);
    detach_archived(&archiving.upkeep, name, now).await?;
    archiving.covered(name).await?;
    // One value that differs is seen. By itself the table is not published, so that the lake hears nothing of it.
    let change = |from: &str, to: &str| {
        format!("UPDATE sheaf.{name} SET attrs = replace(attrs::text, '{from}', '{to}')::jsonb")
    };
    source.execute(&change("x7", "y7")).await?;
    changed.count();
    assert_eq!(archiving.compared(&partition).await?, None);
    source.execute(&change("y7", "x7")).await?;
    assert_eq!(archiving.compared(&partition).await?, Some(digest.clone()));
    let again = archiving.compared(&partition).await?;
    ensure!(note_verified(&archiving.upkeep, name, &again.context("the same")?, now).await?);
    ensure!(drop_archived(&archiving.upkeep, name, now).await?);

    // A value that differs, the same again, an instant that is new, an entity that is new.
    let late = [
        line(7, TIMES[0], r#"{"n":70}"#),
        line(8, TIMES[0], &values(8)),
        line(9, "2010-04-01T00:00:00Z", r#"{"n":90}"#),
        line(99, "2010-04-01T00:00:00Z", r#"{"n":99}"#),
    ];
    source.ingest(late.into()).await?;
    let is_there = async || {
        let facts = source.world.rows("sheaf", "facts").await?;
        let found = |id: &str, value: &str| {
            facts.iter().any(|row| {
                row["external_id"] == id
                    && row.get("attribute").is_some_and(|name| name == "n")
                    && row.get("value_float").is_some_and(|found| found == value)
                    && row["seq"] == "16384"
            })
        };
        anyhow::Ok(found("t7", "70") && found("t9", "90") && found("t99", "99") && found("t8", "8"))
    };
    wait_until("late events are in the lake", WITHIN, async || {
        is_there().await.unwrap_or_default()
            && source
                .world
                .waiting("sheaf")
                .await
                .is_ok_and(|waiting| waiting == 0)
    })
    .await;
    source.world.require_one_value("sheaf").await?;
    let keyframes = source.world.rows("sheaf", "keyframes").await?;
    let of_seven = keyframes.iter().filter(|row| row["external_id"] == "t7");
    let mut names: Vec<&str> = of_seven
        .map(|row| row.get("attribute").map_or("-", String::as_str))
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["-", "doc", "n", "name", "on"]);
    let removed = keyframes
        .iter()
        .filter(|row| row["removed"] == "true")
        .count();
    assert_eq!(removed, 6, "what was removed is remembered");
    let values = "SELECT sum(1 + (SELECT count(*) FROM jsonb_object_keys(attrs)))::bigint FROM sheaf.entity_keyframes";
    assert_eq!(
        i64::try_from(keyframes.len())?,
        archiving.number(values).await?
    );

    // As when the slot was lost: the lake begins anew, and PostgreSQL has not what it held.
    let before = archiving.in_lake().await?;
    running.stop.send_replace(true);
    running.task.await?;
    source
        .execute("DELETE FROM sheaf.change_sinks; DELETE FROM sheaf.change_slots")
        .await?;
    anew.count();
    let running = source.stream()?;
    wait_until("another lake follows", WITHIN, async || {
        let standing = archiving.archive.standing().await;
        standing.is_ok_and(|standing| standing.base != Some(base) && standing.covered.is_some())
    })
    .await;
    wait_until("what came late was looked up", WITHIN, async || {
        source
            .world
            .waiting("sheaf")
            .await
            .is_ok_and(|waiting| waiting == 0)
            && archiving
                .in_lake()
                .await
                .is_ok_and(|found| found[0].len() == before[0].len())
    })
    .await;
    let after = archiving.in_lake().await?;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.len(), after.len());
        for (one, other) in before.iter().zip(after) {
            assert_eq!(one, other);
        }
    }
    running.stop.send_replace(true);
    running.task.await?;

    // Put back, it is what it was: every event with its values as they were written.
    ensure!(prepare_restored(&archiving.upkeep, name).await?);
    let (loaded, removed) = archiving.archive.load(&partition).await?;
    assert_eq!((loaded, removed.facts), (52, 0));
    let restored = archiving.archive.digest_partition(name).await?;
    assert_eq!(format!("{:032x}", restored.digest.sum), digest.sum);
    ensure!(finish_restore(&archiving.upkeep, name, now).await?);
    let back = "SELECT count(*) FROM sheaf.entity_events WHERE observed_at < '2011-01-01Z'";
    assert_eq!(archiving.number(back).await?, 52);

    // A lake without what is archived cannot take the place of the one that has it; nor can one that lacks some of it.
    source
        .execute("UPDATE sheaf.history_boundaries SET archived_before = closed_before")
        .await?;
    for gone in ["WHERE table_name = 'facts_corrected'", ""] {
        source
            .execute(&format!("DELETE FROM sheaf.iceberg_tables {gone}"))
            .await?;
        let mut sink = LakeSink::new(&source.world.cdc(), source.world.options("sheaf"))?;
        let error = sink.held().await.expect_err("it lacks the archive");
        let cause = sheaf_pg::chain(&error);
        assert!(
            cause.contains("is archived, and not in this lake"),
            "{cause}"
        );
    }
    changed.require();
    anew.require();
    Ok(())
}
