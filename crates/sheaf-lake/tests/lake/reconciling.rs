//! Both sides compared: what differs is found exactly, nothing else is told, and what is put right is right.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sheaf_lake::reconcile::{
    DifferenceKind, NotCompared, Outcome, ReconcileOptions, ReconcileRequest, Reconciler, Report,
};
use sheaf_lake::{LakeArchive, LakeOptions};
use sheaf_model::{ChangePosition, EntityId, Op, TenantId, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::lake::{CorrectionKey, LakeCorrection};
use sheaf_store::reconcile::{
    Instant, LakeRepair, ask_for_repairs, count_repairs, read_instants, read_run,
};
use sheaf_store::settings::Settings;
use sheaf_testkit::{Injected, wait_until};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_postgres::Client;

use crate::streamed::{Source, WITHIN, line};

pub(crate) const ATTRIBUTES: &str = r#"{"a":1,"b":2.5,"c":"three","d":true,"e":{"x":[1]},"f":6,"g":6.125,"h":7.25,"i":"nine","j":10}"#;

pub(crate) fn options(source: &Source) -> ReconcileOptions {
    ReconcileOptions {
        settled_after: Duration::ZERO,
        wait_max: WITHIN,
        ..ReconcileOptions::of(&source.quick(), source.slot())
    }
}

pub(crate) fn reconciler(source: &Source) -> Result<Reconciler> {
    Ok(Reconciler::new(&source.world.cdc(), options(source))?)
}

pub(crate) fn request() -> ReconcileRequest {
    ReconcileRequest {
        differences_max: 1_000,
        ..ReconcileRequest::default()
    }
}

pub(crate) fn repairing() -> ReconcileRequest {
    ReconcileRequest {
        repairs_max: ReconcileRequest::REPAIRS_MAX,
        ..request()
    }
}

/// What differs, as text.
fn found(report: &Report) -> BTreeSet<String> {
    let differences = report.differences.iter();
    differences
        .map(|difference| {
            let key = &difference.key;
            let attribute = key.attribute.unwrap_or_default();
            let kind = difference.kind.as_str();
            format!(
                "{kind} {} {} {} {} {attribute}",
                key.tenant, key.entity, key.observed_at, key.seq
            )
        })
        .collect()
}

pub(crate) async fn require_clean(reconciler: &Reconciler, claim: &str) -> Result<Report> {
    let report = reconciler.run(&request()).await?;
    ensure!(report.outcome == Outcome::Clean, "{claim}: {report:?}");
    Ok(report)
}

/// Waits until the statistics tell of everything that was done, so that a look reads nothing.
pub(crate) async fn settle(reconciler: &Reconciler) -> Result<()> {
    wait_until("nothing is left to be counted", WITHIN, async || {
        let report = reconciler.run(&request()).await;
        report.is_ok_and(|report| {
            let work = report.work;
            report.outcome == Outcome::Clean
                && (work.partitions_new, work.partitions_whole, work.files) == (0, 0, 0)
                && (work.events, work.facts) == (0, 0)
        })
    })
    .await;
    Ok(())
}

/// The events of an entity by the order of their instants.
pub(crate) async fn events_of(
    source: &Source,
    tenant: i64,
    external_id: &str,
) -> Result<Vec<LakeCorrection>> {
    let client = source.world.database.superuser().await?;
    let sql = "SELECT e.entity_id, (extract(epoch FROM e.observed_at) * 1000000)::bigint FROM sheaf.entities n
        JOIN sheaf.entity_events e USING (tenant_id, entity_id)
        WHERE n.tenant_id = $1 AND n.external_id = $2 GROUP BY 1, 2 ORDER BY 2";
    let mut instants = Vec::new();
    for row in client.query(sql, &[&tenant, &external_id]).await? {
        instants.push(Instant {
            tenant: TenantId(tenant),
            entity: EntityId(row.get(0)),
            observed_at: Timestamp::from_micros(row.get(1))?,
        });
    }
    let events = read_instants(&source.world.cdc(), &instants, None, None).await?;
    Ok(events.into_iter().map(|event| event.event).collect())
}

fn text(kind: &str, event: &LakeCorrection, attribute: i64) -> String {
    let key = event.key;
    format!(
        "{kind} {} {} {} {} {attribute}",
        key.tenant,
        key.entity,
        key.observed_at.as_micros(),
        key.seq
    )
}

pub(crate) async fn number_of(client: &Client, tenant: i64, name: &str) -> Result<i64> {
    let sql = "SELECT attribute_id FROM sheaf.attributes WHERE tenant_id = $1 AND name = $2";
    Ok(client.query_one(sql, &[&tenant, &name]).await?.get(0))
}

async fn numbers_of(client: &Client, tenant: i64) -> Result<Vec<i64>> {
    let sql = "SELECT attribute_id FROM sheaf.attributes WHERE tenant_id = $1 ORDER BY 1";
    let rows = client.query(sql, &[&tenant]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Makes the lake have events otherwise, by the code of its own writer: asked for later than any event of it came, which it would
/// not take out else.
pub(crate) async fn plant(
    source: &Source,
    events: Vec<(CorrectionKey, Option<LakeCorrection>)>,
) -> Result<()> {
    let base = source.world.standing("sheaf").await?.position.base;
    let base: ChangePosition = base.context("it has begun")?;
    let later = Timestamp::now().saturating_add_micros(2 * 3_600_000_000);
    let repair = |(key, event)| LakeRepair {
        key,
        event,
        base,
        asked_at: later,
    };
    ask(source, events.into_iter().map(repair).collect()).await
}

/// Changes a row of a catalogue again and again until it is dropped: how far the lake is, is stored soon after a change, and every ten
/// seconds else.
struct Beside(JoinHandle<()>);

impl Beside {
    async fn start(source: &Source) -> Result<Beside> {
        let client = source.world.database.superuser().await?;
        Ok(Beside(tokio::spawn(async move {
            let touch = "UPDATE sheaf.tenants SET name = name WHERE name = 'other'";
            while client.batch_execute(touch).await.is_ok() {
                sleep(Duration::from_millis(500)).await;
            }
        })))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks the lake's writer to put events right, and waits until nothing is left to be done.
pub(crate) async fn ask(source: &Source, repairs: Vec<LakeRepair>) -> Result<()> {
    let (cdc, name) = (source.world.cdc(), source.quick().name);
    ask_for_repairs(&cdc, &name, &repairs).await?;
    wait_until("what was asked for is done", WITHIN, async || {
        count_repairs(&cdc, &name)
            .await
            .is_ok_and(|count| count == 0)
    })
    .await;
    Ok(())
}

pub(crate) fn lines(first: usize, count: usize) -> Vec<String> {
    (first..first + count)
        .map(|number| line(number % 300, number, ATTRIBUTES))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_among_thousands_of_facts_is_found_exactly_and_put_right() -> Result<()> {
    let injected = Injected::new("difference between both sides");
    let source = Source::create().await?;
    let other = source.tenant("other").await?;
    for part in 0..2 {
        source.ingest(lines(part * 1_000, 1_000)).await?;
    }
    source.ingest_of(&other, lines(0, 200)).await?;
    let running = source.stream_into(LakeOptions {
        pending_bytes_max: 4 << 20,
        ..source.quick()
    })?;
    let reconciler = reconciler(&source)?;
    wait_until("the lake has begun and follows", WITHIN, async || {
        let report = reconciler.run(&request()).await;
        report.is_ok_and(|report| report.outcome == Outcome::Clean)
    })
    .await;
    let _beside = Beside::start(&source).await?;
    let (ours, theirs) = (source.scope.tenant().0, other.tenant().0);
    let client = source.world.database.superuser().await?;
    let events = events_of(&source, ours, "t1").await?;
    let first = events_of(&source, theirs, "t1").await?.remove(0);
    let [a, b, c] = [
        number_of(&client, ours, "a").await?,
        number_of(&client, ours, "b").await?,
        number_of(&client, ours, "c").await?,
    ];
    let [missing, changed, partly, twice] = [&events[0], &events[1], &events[2], &events[3]];
    let said = |event: &LakeCorrection, attrs: String| {
        let event = LakeCorrection {
            attrs: attrs.into(),
            ..event.clone()
        };
        (event.key, Some(event))
    };
    let extra = LakeCorrection {
        key: CorrectionKey {
            seq: 9,
            ..events[4].key
        },
        op: Op::Patch,
        attrs: format!(r#"{{"{a}":5}}"#).into(),
        ..events[4].clone()
    };
    let without_c = partly.attrs.replace(&format!(r#""{c}": "three", "#), "");
    assert_ne!(without_c, *partly.attrs, "{}", partly.attrs);
    let changed_b = changed.attrs.replace("2.5,", "2.25,");
    assert_ne!(changed_b, *changed.attrs, "{}", changed.attrs);
    plant(
        &source,
        vec![
            (missing.key, None),
            said(changed, changed_b),
            said(partly, without_c),
            // Beside what is there of its instant; it hides nothing of that in the lake.
            (
                extra.key,
                Some(LakeCorrection {
                    attrs: "{}".into(),
                    ..extra.clone()
                }),
            ),
            (first.key, None),
        ],
    )
    .await?;
    injected.count();
    // By hand in PostgreSQL: a patch that says again what was said, which the lake takes for one that adds.
    source
        .execute(&format!(
            "INSERT INTO sheaf.entity_events SELECT tenant_id, entity_id, observed_at, 1, 'p', batch_id, ingested_at, '{{\"{a}\": 77}}'
             FROM sheaf.entity_events WHERE tenant_id = {ours} AND entity_id = {} AND observed_at = '{}'",
            twice.key.entity, twice.key.observed_at
        ))
        .await?;
    // And one that is gone.
    let gone = &events[5];
    source
        .execute(&format!(
            "DELETE FROM sheaf.entity_events WHERE tenant_id = {ours} AND entity_id = {} AND observed_at = '{}'",
            gone.key.entity, gone.key.observed_at
        ))
        .await?;
    injected.count();
    let attributes = numbers_of(&client, ours).await?;
    assert_eq!(attributes.len(), 10);
    let mut wanted = BTreeSet::new();
    for attribute in &attributes {
        wanted.insert(text("missing", missing, *attribute));
        wanted.insert(text("extra", gone, *attribute));
    }
    wanted.insert(text("changed", changed, b));
    wanted.insert(text("missing", partly, c));
    wanted.insert(text("extra", &extra, 0));
    wanted.insert(text("shown", twice, a));
    for attribute in numbers_of(&client, theirs).await? {
        wanted.insert(text("missing", &first, attribute));
    }
    // The statistics tell of what was done by hand some seconds later.
    wait_until(
        "everything that was done by hand is found",
        WITHIN,
        async || {
            let report = reconciler.run(&request()).await;
            report.is_ok_and(|report| report.counts.total() == wanted.len() as u64)
        },
    )
    .await;
    let report = reconciler.run(&request()).await?;
    assert_eq!(report.outcome, Outcome::Different);
    assert_eq!(found(&report), wanted);
    assert_eq!(report.counts.of(DifferenceKind::Changed), 1);
    let of_them = ReconcileRequest {
        tenant: Some(theirs),
        ..request()
    };
    let report = reconciler.run(&of_them).await?;
    assert_eq!(report.counts.total(), 10, "of one tenant: {report:?}");
    let of_none = ReconcileRequest {
        until: Some(Timestamp::parse_date("2024-01-01")?),
        ..request()
    };
    let report = reconciler.run(&of_none).await?;
    assert_eq!(report.outcome, Outcome::Clean, "before all of it");
    let told = read_run(&source.world.cdc()).await?;
    assert_eq!(told.outcome.as_deref(), Some("different"), "of everything");
    let few = ReconcileRequest {
        repairs_max: 1,
        ..request()
    };
    let repaired = reconciler.run(&few).await?.repaired;
    let repaired = repaired.context("it was asked")?;
    assert!(repaired.asked < 3, "{repaired:?}");
    assert!(repaired.left > 0, "{repaired:?}");
    wanted = found(&reconciler.run(&request()).await?);
    assert_eq!(wanted.len() as u64, repaired.left);
    let report = reconciler.run(&repairing()).await?;
    assert_eq!(report.counts.total(), wanted.len() as u64);
    let repaired = report.repaired.context("it was asked")?;
    assert_eq!(repaired.left, 0, "{repaired:?}");
    require_clean(&reconciler, "after the repair").await?;
    let whole = ReconcileRequest {
        reads_whole: true,
        ..request()
    };
    let report = reconciler.run(&whole).await?;
    assert_eq!(report.outcome, Outcome::Clean, "read whole: {report:?}");
    assert!(report.work.facts >= 20_000, "{:?}", report.work);
    // What hides nothing any more: the later event is gone.
    source
        .execute(&format!(
            "DELETE FROM sheaf.entity_events WHERE tenant_id = {ours} AND entity_id = {} AND observed_at = '{}' AND seq = 1",
            twice.key.entity, twice.key.observed_at
        ))
        .await?;
    injected.count();
    let later = LakeCorrection {
        key: CorrectionKey {
            seq: 1,
            ..twice.key
        },
        ..twice.clone()
    };
    let wanted = BTreeSet::from([text("extra", &later, a), text("hidden", twice, a)]);
    wait_until("it is found", WITHIN, async || {
        let report = reconciler.run(&request()).await;
        report.is_ok_and(|report| found(&report) == wanted)
    })
    .await;
    let report = reconciler.run(&repairing()).await?;
    assert_eq!(report.repaired.context("it was asked")?.left, 0);
    require_clean(&reconciler, "after the second repair").await?;
    source.require_all_once().await?;
    running.stop.send_replace(true);
    running.task.await?;
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_look_reads_what_changed_and_nothing_else() -> Result<()> {
    let source = Source::create().await?;
    source.ingest(lines(0, 2_000)).await?;
    let running = source.stream()?;
    let reconciler = reconciler(&source)?;
    settle(&reconciler).await?;
    // Of one day: new ones, and one that corrects.
    let day = |number: usize| number * 3;
    let lines = (0..40).map(|number| line(800, day(number), r#"{"a":1,"b":2}"#));
    source.ingest(lines.collect()).await?;
    source.ingest(vec![line(800, day(1), r#"{"b":3}"#)]).await?;
    let client = source.world.database.superuser().await?;
    let counted = async |sql: &str| anyhow::Ok(client.query_one(sql, &[]).await?.get::<_, i64>(0));
    let stored = "SELECT count(*) FROM sheaf.entity_events";
    assert_eq!(counted(stored).await?, 2_041);
    let mut events = 0;
    wait_until("what is new is counted", WITHIN, async || {
        let report = reconciler
            .run(&request())
            .await
            .expect("both sides can be read");
        assert_eq!(report.outcome, Outcome::Clean, "{report:?}");
        assert_eq!(report.work.partitions_whole, 0, "{report:?}");
        events += report.work.events;
        let hidden = "SELECT sum(events_hidden_facts)::bigint FROM sheaf.reconciled_hours";
        let facts = "SELECT sum(events_facts)::bigint FROM sheaf.reconciled_hours";
        counted(hidden).await.is_ok_and(|count| count == 1)
            && counted(facts).await.is_ok_and(|count| count == 20_081)
    })
    .await;
    // Those that are new, and both of the instant of the correction once more: with each of them, where they are counted one by one.
    assert!((43..=45).contains(&events), "{events}");
    settle(&reconciler).await?;
    // What was stored of a file is not what it has: a look at the files finds it, and counts it anew.
    source
        .execute("UPDATE sheaf.reconciled_files SET sums[1] = sums[1] + 1 WHERE location = (SELECT min(location) FROM sheaf.reconciled_files)")
        .await?;
    let again = ReconcileRequest {
        files_again: 500,
        ..request()
    };
    let report = reconciler.run(&again).await?;
    assert_eq!(report.work.decayed, 1, "{report:?}");
    // Files that are gone and were read before all others keep none from being read again.
    settle(&reconciler).await?;
    let there = counted("SELECT count(*) FROM sheaf.reconciled_files").await?;
    source
        .execute(
            "INSERT INTO sheaf.reconciled_files SELECT 'gone' || n, false, '{}', '{}', '{}', '{}', '2000-01-01'
             FROM generate_series(1, 500) n",
        )
        .await?;
    let whole = ReconcileRequest {
        reads_whole: true,
        ..request()
    };
    let report = reconciler.run(&whole).await?;
    assert_eq!(report.outcome, Outcome::Clean, "{report:?}");
    // Some may have been joined meanwhile.
    let read = report.work.files + report.work.files_gone;
    assert!(read >= 500 + there.cast_unsigned(), "{there}: {report:?}");
    running.stop.send_replace(true);
    running.task.await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_put_right_while_the_lake_has_not_come_as_far() -> Result<()> {
    let source = Source::create().await?;
    let before = reconciler(&source)?.run(&repairing()).await?;
    assert_eq!(before.outcome, Outcome::NotCompared(NotCompared::NoLake));
    source.ingest(lines(0, 50)).await?;
    let running = source.stream()?;
    settle(&reconciler(&source)?).await?;
    running.stop.send_replace(true);
    running.task.await?;
    source.ingest(lines(50, 10)).await?;
    let impatient = ReconcileOptions {
        wait_max: Duration::from_millis(300),
        ..options(&source)
    };
    let reconciler = Reconciler::new(&source.world.cdc(), impatient)?;
    wait_until("it is seen that there is more", WITHIN, async || {
        let report = reconciler
            .run(&repairing())
            .await
            .expect("both sides can be read");
        assert_ne!(report.outcome, Outcome::Different);
        report.outcome == Outcome::NotCompared(NotCompared::Behind)
    })
    .await;
    let asked = count_repairs(&source.world.cdc(), &source.quick().name).await?;
    assert_eq!(asked, 0);
    // What was found to differ before is not taken back by whoever could not look.
    let differs = "UPDATE sheaf.reconcile_runs SET outcome = 'different', missing = 3";
    source.execute(differs).await?;
    let report = reconciler.run(&request()).await?;
    assert_eq!(report.outcome, Outcome::NotCompared(NotCompared::Behind));
    let told = read_run(&source.world.cdc()).await?;
    assert_eq!(told.outcome.as_deref(), Some("different"));
    assert_eq!(told.differences[0], 3);
    let running = source.stream()?;
    wait_until("it has come as far", WITHIN, async || {
        let report = reconciler
            .run(&request())
            .await
            .expect("both sides can be read");
        report.outcome == Outcome::Clean
    })
    .await;
    running.stop.send_replace(true);
    running.task.await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_period_that_is_gone_what_was_counted_stays_and_late_events_are_added() -> Result<()> {
    let source = Source::create().await?;
    source.ingest(lines(0, 300)).await?;
    let running = source.stream()?;
    let reconciler = reconciler(&source)?;
    settle(&reconciler).await?;
    let ours = source.scope.tenant().0;
    let events = events_of(&source, ours, "t1").await?;
    let client = source.world.database.superuser().await?;
    let a = number_of(&client, ours, "a").await?;
    let late = |seq: i64, event: &LakeCorrection| {
        format!(
            "INSERT INTO sheaf.entity_events_late VALUES ({ours}, {}, '{}', {seq}, 'p', gen_random_uuid(), now(), '{{\"{a}\": {seq}}}')",
            event.key.entity, event.key.observed_at
        )
    };
    // Of a period that is here, and of one that is not.
    source.execute(&late(16_384, &events[0])).await?;
    let hidden = "SELECT sum(events_hidden_facts)::bigint FROM sheaf.reconciled_hours";
    wait_until("what the late event hides is counted", WITHIN, async || {
        let report = reconciler
            .run(&request())
            .await
            .expect("both sides can be read");
        assert_ne!(report.outcome, Outcome::Different, "{report:?}");
        let found = client.query_one(hidden, &[]).await;
        found.is_ok_and(|row| row.get::<_, i64>(0) == 1)
    })
    .await;
    settle(&reconciler).await?;
    // One more, which nobody counts before the period is archived: the archive says what it came to.
    source.ingest(vec![line(900, 1, r#"{"a":1}"#)]).await?;
    wait_until("it is in the lake", WITHIN, async || {
        let facts = source.world.rows("sheaf", "facts").await;
        facts.is_ok_and(|facts| facts.len() == 300 * 10 + 1)
    })
    .await;
    let partition = Partition27::find(&client).await?;
    partition.archive(&source).await?;
    partition.detach(&source).await?;
    source.execute(&late(16_385, &events[0])).await?;
    let counted = "SELECT sum(events_facts)::bigint FROM sheaf.reconciled_hours";
    wait_until("late events are counted", WITHIN, async || {
        let report = reconciler
            .run(&request())
            .await
            .expect("both sides can be read");
        assert_ne!(report.outcome, Outcome::Different, "{report:?}");
        let found = client.query_one(counted, &[]).await;
        found.is_ok_and(|row| row.get::<_, i64>(0) == 300 * 10 + 2)
    })
    .await;
    settle(&reconciler).await?;
    require_clean(&reconciler, "the lake has what the archive came to").await?;
    // What the lake loses of it is told by the hour, and cannot be put right from here.
    partition.attach(&source).await?;
    plant(&source, vec![(events[0].key, None)]).await?;
    partition.detach(&source).await?;
    let report = reconciler.run(&repairing()).await?;
    assert_eq!(report.outcome, Outcome::Different);
    assert_eq!(report.counts.total(), 0, "{report:?}");
    assert_eq!(report.archived.len(), 1, "{report:?}");
    assert_eq!(report.repaired, None, "{report:?}");
    running.stop.send_replace(true);
    running.task.await?;
    Ok(())
}

/// The partition of the history that most of these events are in.
pub(crate) struct Partition27 {
    name: String,
    lower: String,
    upper: String,
}

impl Partition27 {
    pub(crate) async fn find(client: &Client) -> Result<Partition27> {
        let sql = "SELECT partition_name, lower_bound::text, upper_bound::text FROM sheaf.list_attached_partitions()
            WHERE lower_bound <= '2024-02-27Z' AND upper_bound > '2024-02-27Z'";
        let row = client.query_one(sql, &[]).await?;
        Ok(Partition27 {
            name: row.get(0),
            lower: row.get(1),
            upper: row.get(2),
        })
    }

    pub(crate) async fn detach(&self, source: &Source) -> Result<()> {
        let Partition27 { name, .. } = self;
        let sql = format!("ALTER TABLE sheaf.entity_events DETACH PARTITION sheaf.{name}");
        source.execute(&sql).await
    }

    async fn attach(&self, source: &Source) -> Result<()> {
        let Partition27 { name, lower, upper } = self;
        let sql = format!(
            "ALTER TABLE sheaf.entity_events ATTACH PARTITION sheaf.{name} FOR VALUES FROM ('{lower}') TO ('{upper}')"
        );
        source.execute(&sql).await
    }

    /// Notes that it is archived, with what it comes to.
    async fn archive(&self, source: &Source) -> Result<()> {
        let upkeep = source.world.database.config("sheaf_upkeep");
        let upkeep = Pool::new(&upkeep, 2, &Tls::none());
        let settings = Arc::new(Settings::read(&upkeep).await?);
        let archive = LakeArchive::new(&upkeep, settings, &source.quick(), source.slot())?;
        let Partition27 { name, lower, upper } = self;
        let side = archive.digest_partition(name).await?;
        let sql = format!(
            "INSERT INTO sheaf.partition_archives (partition_name, lower_bound, upper_bound, state, events, facts, digest, closed_at)
             VALUES ('{name}', '{lower}', '{upper}', 'verified', {}, {}, '{:032x}', now())",
            side.events, side.digest.facts, side.digest.sum
        );
        source.execute(&sql).await
    }
}
