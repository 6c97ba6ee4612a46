//! A data file in which a bit is another one than was written: no answer is made of it, wherever the bit is, and whatever else is to be
//! done is done.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sheaf_cdc::change::{Batch, ChangedRow, EventRow};
use sheaf_cdc::sink::Sink;
use sheaf_lake::analytics::{LakeReader, ReaderOptions};
use sheaf_lake::reconcile::{DifferenceKind, Outcome, ReconcileRequest};
use sheaf_lake::{LakeOptions, LakeSink};
use sheaf_model::{Op, TenantId};
use sheaf_pg::{Pool, Tls};
use sheaf_store::settings::Settings;
use sheaf_testkit::{Injected, wait_until};

use crate::faulty_bucket::sum;
use crate::reconciling::{ATTRIBUTES, reconciler, repairing, request, settle};
use crate::streamed::{Source, WITHIN, line};
use crate::world::{World, entity, event, position, transaction};

const NOON: &str = "2024-02-29T12:00:00Z";
const ENTITIES: i64 = 3_000;
/// Bits that are flipped, one at a time, from the begin of the file to its end.
const PLACES: usize = 150;

/// The data files of the facts.
fn data_files(lake: &Path) -> Result<Vec<PathBuf>> {
    let files = std::fs::read_dir(lake.join("facts/data"))?;
    let mut files: Vec<PathBuf> = files
        .map(|file| Ok(file?.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    Ok(files)
}

/// The same file with another bit, until this is told to put back what was written.
struct Flipped {
    file: PathBuf,
    written: Vec<u8>,
}

impl Flipped {
    fn new(file: PathBuf) -> Result<Flipped> {
        let written = std::fs::read(&file)?;
        Ok(Flipped { file, written })
    }

    fn flip(&self, at: usize, bit: usize) -> Result<()> {
        let mut flipped = self.written.clone();
        flipped[at] ^= 1 << (bit % 8);
        Ok(std::fs::write(&self.file, &flipped)?)
    }

    fn put_back(&self) -> Result<()> {
        Ok(std::fs::write(&self.file, &self.written)?)
    }
}

/// As after a start, so that what failed is tried at once.
async fn do_all(sink: &mut LakeSink, more: &[Batch]) -> Result<()> {
    sink.held().await?;
    sink.follow();
    for batch in more {
        sink.apply(batch).await?;
    }
    sink.flush().await?;
    Ok(sink.tidy().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_made_of_a_file_with_a_flipped_bit() -> Result<()> {
    let injected = Injected::new("flipped bit in a data file");
    let world = World::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    sink.follow();
    let mut rows = vec![entity(1)];
    // As little alike as numbers are that no compression makes much smaller.
    let value = |number: i64| number.wrapping_mul(6_364_136_223_846_793_005) >> 20;
    rows.extend((1..=ENTITIES).map(|number| {
        let attrs = format!(r#"{{"1":{}}}"#, value(number));
        event(number, NOON, 0, Op::Patch, &attrs)
    }));
    sink.apply(&transaction(20, rows)).await?;
    sink.flush().await?;
    let wanted: i64 = (1..=ENTITIES).map(value).sum();
    let app = Pool::new(&world.database.config("sheaf_app"), 4, &Tls::none());
    let settings = Arc::new(Settings::read(&app).await?);
    // Each remembers nothing of those before.
    let asked = async || {
        let options = ReaderOptions::of(&world.options("sheaf"), "slot".to_owned());
        let reader = LakeReader::new(&app, Arc::clone(&settings), options)?;
        sum(&reader).await
    };
    assert_eq!(asked().await?, wanted);

    let file = data_files(&world.folder("sheaf"))?;
    let [file] = &file[..] else {
        anyhow::bail!("{file:?}");
    };
    let file = Flipped::new(file.clone())?;
    let last = file.written.len() - 1;
    ensure!(last > 3 * 8192, "it has several blocks");
    let (mut refused, mut unread) = (0, 0);
    for place in 0..=PLACES {
        let at = place * last / PLACES;
        file.flip(at, place)?;
        injected.count();
        match asked().await {
            // Where columns are that the question does not ask for.
            Ok(found) => {
                assert_eq!(found, wanted, "byte {at} of {last}");
                unread += 1;
            }
            Err(error) => {
                let error = format!("{error:#}");
                assert!(error.contains("not those that were written"), "{error}");
                refused += 1;
            }
        }
    }
    ensure!(refused > PLACES / 4, "{refused} refused, {unread} answered");

    // Whoever writes it anew reads all of it: a correction waits, and loses nothing.
    for (seq, at) in (1..).zip([5, last / 2, last - 20]) {
        file.flip(at, 2)?;
        injected.count();
        let row = event(1, NOON, seq, Op::Correct, r#"{"1":10}"#);
        let lsn = 30 + u64::from(seq.unsigned_abs());
        do_all(&mut sink, &[transaction(lsn, vec![row])]).await?;
        let waiting = i16::try_from(world.waiting("sheaf").await?)?;
        assert_eq!(waiting, seq, "byte {at}: some were applied");
    }
    file.put_back()?;
    do_all(&mut sink, &[]).await?;
    assert_eq!(world.waiting("sheaf").await?, 0);
    assert_eq!(asked().await?, wanted - value(1) + 10);
    injected.require();
    Ok(())
}

const OTHER_DAY: &str = "2024-03-05T12:00:00Z";

#[tokio::test(flavor = "multi_thread")]
async fn corrections_of_other_days_and_the_joining_of_other_files_go_on() -> Result<()> {
    let injected = Injected::new("damaged file among others");
    let world = World::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    sink.follow();
    let of_day = |day: &'static str, number: i64| {
        let attrs = format!(r#"{{"1":{number}}}"#);
        vec![event(number, day, 0, Op::Patch, &attrs)]
    };
    sink.apply(&transaction(20, of_day(OTHER_DAY, 1))).await?;
    sink.flush().await?;
    let file = data_files(&world.folder("sheaf"))?;
    let damaged = Flipped::new(file.first().context("a file")?.clone())?;
    for number in 2..=20_i64 {
        let lsn = 20 + number.unsigned_abs();
        sink.apply(&transaction(lsn, of_day(NOON, number))).await?;
        sink.flush().await?;
    }
    for number in 21..=40_i64 {
        let lsn = 20 + number.unsigned_abs();
        sink.apply(&transaction(lsn, of_day(OTHER_DAY, number)))
            .await?;
        sink.flush().await?;
    }
    damaged.flip(damaged.written.len() / 3, 0)?;
    injected.count();
    let corrected = vec![
        event(1, OTHER_DAY, 1, Op::Correct, r#"{"1":100}"#),
        event(2, NOON, 1, Op::Correct, r#"{"1":200}"#),
    ];
    do_all(&mut sink, &[transaction(90, corrected)]).await?;
    // The one that is not damaged is applied; all whole files of a day are one, and the damaged one is as it was.
    assert_eq!(world.waiting("sheaf").await?, 1);
    assert_eq!(world.files("sheaf", "facts").await?, 3);
    ensure!(damaged.file.exists(), "it is in the table still");
    damaged.put_back()?;
    do_all(&mut sink, &[]).await?;
    assert_eq!(world.waiting("sheaf").await?, 0);
    let mut values = Vec::new();
    for row in world.rows("sheaf", "facts").await? {
        values.push(row["value_int"].parse::<i64>()?);
    }
    values.sort_unstable();
    let wanted: Vec<i64> = (3..=40).chain([100, 200]).collect();
    assert_eq!(values, wanted);
    world.require_one_value("sheaf").await?;
    injected.require();
    Ok(())
}

const KEPT_FOR_A_MONTH: &str = "
    INSERT INTO sheaf.tenants (tenant_id, name, created_at, retention_micros) OVERRIDING SYSTEM VALUE
        SELECT n, 'tenant ' || n, now(), 30 * 86400000000::bigint FROM generate_series(2, 5) n;
    INSERT INTO sheaf.attributes (tenant_id, attribute_id, name, type, origin, temperature, created_at)
        SELECT n, 10 + n, 'an int', 'int', 'declared', 'cold', now() FROM generate_series(2, 5) n";

#[tokio::test(flavor = "multi_thread")]
async fn what_other_tenants_do_not_keep_any_more_is_taken_out() -> Result<()> {
    let injected = Injected::new("damaged file beside facts that are to go");
    let world = World::create().await?;
    let admin = world.database.superuser().await?;
    admin.batch_execute(KEPT_FOR_A_MONTH).await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let mut rows = Vec::new();
    for tenant in 2..=5 {
        for day in [NOON, OTHER_DAY] {
            let attrs = format!(r#"{{"{}":{tenant}}}"#, 10 + tenant);
            let ChangedRow::Event(row) = event(tenant, day, 0, Op::Patch, &attrs) else {
                anyhow::bail!("an event");
            };
            rows.push(ChangedRow::Event(EventRow {
                tenant: TenantId(tenant),
                ..row
            }));
        }
    }
    sink.apply(&transaction(20, rows)).await?;
    sink.flush().await?;
    let before = world.facts("sheaf").await?;
    assert_eq!(before.len(), 8, "nothing was due before it was followed");
    let files = data_files(&world.folder("sheaf"))?;
    let damaged = Flipped::new(files.first().context("a file")?.clone())?;
    damaged.flip(damaged.written.len() / 3, 0)?;
    injected.count();
    do_all(&mut sink, &[]).await?;
    damaged.put_back()?;
    let left = world.facts("sheaf").await?.len();
    ensure!((5..8).contains(&left), "{left} are left");
    // With the next look.
    do_all(&mut sink, &[]).await?;
    assert_eq!(world.facts("sheaf").await?.len(), 4, "what is current");
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconciliation_names_the_file_and_compares_the_others() -> Result<()> {
    let injected = Injected::new("damaged file under a reconciliation");
    let source = Source::create().await?;
    let running = source.stream_into(LakeOptions {
        pending_age_max: Duration::from_millis(200),
        ..source.world.options("sheaf")
    })?;
    let reconciler = reconciler(&source)?;
    source
        .ingest((0..50).map(|n| line(n, 1, ATTRIBUTES)).collect())
        .await?;
    settle(&reconciler).await?;
    let lake = source.world.folder("sheaf");
    let before = data_files(&lake)?;
    source
        .ingest((0..20).map(|n| line(n, 2, ATTRIBUTES)).collect())
        .await?;
    let new = || -> Result<Option<PathBuf>> {
        let files = data_files(&lake)?;
        Ok(files.into_iter().find(|file| !before.contains(file)))
    };
    wait_until("they are in a file", WITHIN, async || {
        new().is_ok_and(|new| new.is_some())
    })
    .await;
    settle(&reconciler).await?;
    let damaged = Flipped::new(new()?.context("a new file")?)?;
    damaged.flip(damaged.written.len() / 2, 1)?;
    injected.count();
    let looks = ReconcileRequest {
        reads_whole: true,
        ..repairing()
    };
    for _ in 0..2 {
        let report = reconciler.run(&looks).await?;
        assert_eq!(report.outcome, Outcome::Different, "{report:?}");
        let named: Vec<&str> = report.damaged.iter().map(String::as_str).collect();
        let location = format!("file://{}", damaged.file.display());
        assert_eq!(named, [location], "{report:?}");
        // What is in it is missing, and nothing else; and nothing is put right that is there.
        let missing = report.counts.of(DifferenceKind::Missing);
        assert_eq!((missing, report.counts.total()), (200, 200), "{report:?}");
        assert_eq!(report.repaired, None);
    }
    damaged.put_back()?;
    let report = reconciler.run(&request()).await?;
    assert_eq!(report.outcome, Outcome::Clean, "{report:?}");
    assert!(report.damaged.is_empty(), "{report:?}");
    running.stop.send_replace(true);
    running.task.await?;
    injected.require();
    Ok(())
}
