//! A correction replaces exactly the fact that it corrects, whenever it comes, and nobody ever sees both.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sheaf_cdc::change::{Batch, ChangedRow, Origin};
use sheaf_cdc::sink::Sink;
use sheaf_lake::LakeSink;
use sheaf_model::Op;
use sheaf_testkit::Injected;

use crate::world::{World, event, position, transaction};

const NOON: &str = "2024-02-29T12:00:00Z";
const NIGHT: &str = "2024-03-01T00:00:00Z";
const AT_NOON: &str = "1709208000000000";
const AT_NIGHT: &str = "1709251200000000";

async fn begun(world: &World) -> Result<LakeSink> {
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    Ok(sink)
}

async fn commit(sink: &mut LakeSink, lsn: u64, rows: Vec<ChangedRow>) -> Result<()> {
    sink.apply(&transaction(lsn, rows)).await?;
    sink.flush().await?;
    Ok(())
}

/// The same rows as a part of the snapshot, whose first has this place.
fn snapshot(first: u64, rows: Vec<ChangedRow>) -> Batch {
    let mut batch = transaction(10, rows);
    batch.origin = Origin::Snapshot;
    for (ordinal, change) in (first..).zip(&mut batch.changes) {
        change.position = position(10, ordinal);
    }
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn corrections_wait_and_then_replace_exactly_theirs_with_long_attributes_too() -> Result<()> {
    let world = World::create().await?;
    let mut sink = begun(&world).await?;
    sink.follow();
    // Beyond what PostgreSQL keeps in a row, and different in each place.
    let long: String = (0..1_500).map(|n| format!("{n:06}")).collect();
    let attrs =
        |number: i64| format!(r#"{{"1":{number},"2":0.5,"4":"{long}{number}","7":["{long}"]}}"#);
    let rows = |time| (1..=3).map(move |entity| event(entity, time, 0, Op::Patch, &attrs(entity)));
    commit(&mut sink, 20, rows(NOON).chain(rows(NIGHT)).collect()).await?;
    let before = world.facts("sheaf").await?;
    assert_eq!(before.len(), 24);
    let rows = vec![
        // A merge adds.
        event(1, NOON, 1, Op::Patch, r#"{"5":true}"#),
        // A correction that adds as well.
        event(
            2,
            NOON,
            1,
            Op::Correct,
            &format!(r#"{{"4":"{long} anew","6":"2024-02-29T12:00:00Z"}}"#),
        ),
        // A merge after one that waits.
        event(2, NOON, 2, Op::Patch, r#"{"3":1.5}"#),
        // A removal.
        event(3, NIGHT, 1, Op::Correct, r#"{"1":null}"#),
    ];
    commit(&mut sink, 30, rows).await?;
    let merged = format!("1 1 5 {AT_NOON} 1 patch false value_bool=true");
    let mut wanted: BTreeSet<String> = before.iter().cloned().collect();
    wanted.insert(merged);
    assert_eq!(BTreeSet::from_iter(world.facts("sheaf").await?), wanted);
    assert_eq!(world.replaced("sheaf").await?, Vec::<String>::new());
    assert_eq!(world.waiting("sheaf").await?, 3);
    sink.tidy().await?;
    let replaced = [
        format!("1 2 4 {AT_NOON} 0 patch false value_text={long}2"),
        format!("1 3 1 {AT_NIGHT} 0 patch false value_int=3"),
    ];
    for fact in &replaced {
        assert!(wanted.remove(fact), "{fact}");
    }
    wanted.extend([
        format!("1 2 4 {AT_NOON} 1 correct false value_text={long} anew"),
        format!("1 2 6 {AT_NOON} 1 correct false value_time={AT_NOON}"),
        format!("1 2 3 {AT_NOON} 2 patch false value_decimal=1500000000000"),
        format!("1 3 1 {AT_NIGHT} 1 correct true"),
    ]);
    let facts = world.facts("sheaf").await?;
    assert_eq!(facts.len(), wanted.len());
    assert_eq!(BTreeSet::from_iter(facts), wanted);
    assert_eq!(world.replaced("sheaf").await?, replaced);
    assert_eq!(world.waiting("sheaf").await?, 0);
    world.require_one_value("sheaf").await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_corrections_of_a_fact_the_last_counts_and_each_value_is_replaced_once()
-> Result<()> {
    let world = World::create().await?;
    let mut sink = begun(&world).await?;
    sink.follow();
    let said = |seq: i16| {
        let op = if seq == 0 { Op::Patch } else { Op::Correct };
        event(5, NOON, seq, op, &format!(r#"{{"1":{}}}"#, seq % 2))
    };
    // A, B, A, B: some in one commit, some before and some after others were applied.
    let mut lsn = 20;
    for (seqs, is_applied) in [
        (0..1, false),
        (1..2, false),
        (2..4, true),
        (4..5, true),
        (5..9, false),
        (9..10, true),
    ] {
        commit(&mut sink, lsn, seqs.map(said).collect()).await?;
        lsn += 10;
        if is_applied {
            sink.tidy().await?;
        }
        world.require_one_value("sheaf").await?;
    }
    let fact = |seq: i16| {
        let op = if seq == 0 { "patch" } else { "correct" };
        format!("1 5 1 {AT_NOON} {seq} {op} false value_int={}", seq % 2)
    };
    assert_eq!(world.facts("sheaf").await?, [fact(9)]);
    assert_eq!(
        world.replaced("sheaf").await?,
        (0..9).map(fact).collect::<Vec<_>>()
    );
    Ok(())
}

/// The first event of an instant may come by the snapshot long after what corrects it came by the stream.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_snapshot_brings_late_is_replaced_all_the_same() -> Result<()> {
    let world = World::create().await?;
    let mut options = world.options("sheaf");
    // As soon as can be.
    options.pending_age_max = Duration::ZERO;
    options.corrections_age_max = Duration::ZERO;
    let mut sink = LakeSink::new(&world.cdc(), options)?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let streamed = vec![
        event(5, NOON, 2, Op::Patch, r#"{"3":1}"#),
        event(5, NOON, 3, Op::Correct, r#"{"1":3,"3":2}"#),
        event(6, NOON, 1, Op::Delete, "{}"),
    ];
    sink.apply(&transaction(20, streamed)).await?;
    for _ in 0..5 {
        sink.idle().await?;
    }
    assert_eq!(
        world.waiting("sheaf").await?,
        2,
        "what they replace may come yet"
    );
    // The rows of one instant in two parts, the second with its own correction.
    let first = vec![event(5, NOON, 0, Op::Patch, r#"{"1":1,"2":1}"#)];
    let second = vec![
        event(5, NOON, 1, Op::Correct, r#"{"2":2}"#),
        event(6, NOON, 0, Op::Patch, r#"{"1":1}"#),
        event(7, NOON, 0, Op::Patch, r#"{"1":1}"#),
        event(7, NOON, 1, Op::Correct, r#"{"1":2}"#),
    ];
    sink.apply(&snapshot(1, first)).await?;
    sink.apply(&snapshot(2, second)).await?;
    assert_eq!(world.waiting("sheaf").await?, 3);
    sink.follow();
    while world.waiting("sheaf").await? > 0 {
        sink.idle().await?;
    }
    let facts = [
        format!("1 5 1 {AT_NOON} 3 correct false value_int=3"),
        format!("1 5 2 {AT_NOON} 1 correct false value_float=2"),
        format!("1 5 3 {AT_NOON} 3 correct false value_decimal=2000000000000"),
        format!("1 6 - {AT_NOON} 1 delete false"),
        format!("1 7 1 {AT_NOON} 1 correct false value_int=2"),
    ];
    let replaced = [
        format!("1 5 1 {AT_NOON} 0 patch false value_int=1"),
        format!("1 5 2 {AT_NOON} 0 patch false value_float=1"),
        format!("1 5 3 {AT_NOON} 2 patch false value_decimal=1000000000000"),
        format!("1 6 1 {AT_NOON} 0 patch false value_int=1"),
        format!("1 7 1 {AT_NOON} 0 patch false value_int=1"),
    ];
    assert_eq!(world.facts("sheaf").await?, facts);
    assert_eq!(world.replaced("sheaf").await?, replaced);
    world.require_one_value("sheaf").await
}

/// Gives a batch as the change stream does: not while there is no room.
async fn give(sink: &mut LakeSink, batch: &Batch) -> Result<()> {
    while !sink.has_room() {
        sink.idle().await?;
        tokio::task::yield_now().await;
    }
    sink.apply(batch).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_corrections_wait_than_may_and_the_stream_does_instead() -> Result<()> {
    let world = World::create().await?;
    let full = Injected::new("batch without room");
    let mut options = world.options("sheaf");
    options.corrections_max = 10;
    let mut sink = LakeSink::new(&world.cdc(), options)?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let said = |seq: i16, op: Op| {
        let rows =
            (1..=30).map(move |entity| event(entity, NOON, seq, op, &format!(r#"{{"1":{seq}}}"#)));
        rows.collect::<Vec<_>>()
    };
    sink.apply(&transaction(20, said(0, Op::Patch))).await?;
    sink.flush().await?;
    // They have to wait while a snapshot is read, and no more of the stream is taken.
    sink.apply(&transaction(30, said(1, Op::Correct))).await?;
    assert!(!sink.has_room());
    sink.flush().await?;
    sink.idle().await?;
    assert!(!sink.has_room());
    assert_eq!(world.waiting("sheaf").await?, 30);
    sink.follow();
    let mut lsn = 40;
    for seq in 2..=5 {
        for rows in said(seq, Op::Correct).chunks(5) {
            if !sink.has_room() {
                full.count();
            }
            give(&mut sink, &transaction(lsn, rows.to_vec())).await?;
            let waiting = world.waiting("sheaf").await?;
            assert!(waiting < 10 + 5, "{waiting} wait");
            lsn += 10;
        }
    }
    sink.flush().await?;
    sink.tidy().await?;
    assert!(sink.has_room());
    assert_eq!(world.facts("sheaf").await?.len(), 30);
    assert_eq!(world.replaced("sheaf").await?.len(), 5 * 30);
    full.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_waits_too_while_corrections_cannot_be_applied() -> Result<()> {
    let world = World::create().await?;
    let injected = Injected::new("lost file");
    let mut options = world.options("sheaf");
    options.pending_age_max = Duration::ZERO;
    options.corrections_max = 1;
    let mut sink = LakeSink::new(&world.cdc(), options.clone())?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let row = |seq, op| vec![event(5, NOON, seq, op, r#"{"1":1}"#)];
    sink.apply(&transaction(20, row(0, Op::Patch))).await?;
    for file in std::fs::read_dir(world.folder("sheaf").join("facts/data"))? {
        std::fs::remove_file(file?.path())?;
        injected.count();
    }
    sink.follow();
    assert!(sink.has_room());
    sink.apply(&transaction(30, row(1, Op::Correct))).await?;
    for _ in 0..20 {
        assert!(!sink.has_room());
        sink.idle().await?;
    }
    assert_eq!(world.waiting("sheaf").await?, 1);
    // Nor does a writer that begins again take more.
    let mut again = LakeSink::new(&world.cdc(), options)?;
    again.held().await?;
    assert!(!again.has_room());
    injected.require();
    Ok(())
}

/// Who has written a correction must not be told that the lake has it.
#[tokio::test(flavor = "multi_thread")]
async fn readers_can_tell_up_to_where_no_correction_waits() -> Result<()> {
    let world = World::create().await?;
    let client = sheaf_testkit::connect(&world.database.config("sheaf_app")).await?;
    let held_until = async || -> Result<Option<(i64, String)>> {
        let sql = "SELECT timeline, lsn::text FROM sheaf.lake_held_until('sheaf')";
        let row = client.query_opt(sql, &[]).await?;
        Ok(row.map(|row| (row.get(0), row.get(1))))
    };
    let mut sink = begun(&world).await?;
    sink.follow();
    let first = vec![event(5, NOON, 0, Op::Patch, r#"{"1":1}"#)];
    commit(&mut sink, 0x20, first).await?;
    assert_eq!(held_until().await?, None);
    let other = vec![event(6, NOON, 0, Op::Patch, r#"{"1":1}"#)];
    sink.apply(&transaction(0x30, other)).await?;
    let correction = |seq| vec![event(5, NOON, seq, Op::Correct, r#"{"1":2}"#)];
    commit(&mut sink, 0x40, correction(1)).await?;
    // What was committed together is told together.
    assert_eq!(held_until().await?, Some((1, "0/30".to_owned())));
    commit(&mut sink, 0x50, correction(2)).await?;
    assert_eq!(held_until().await?, Some((1, "0/30".to_owned())));
    sink.tidy().await?;
    assert_eq!(held_until().await?, None);
    commit(&mut sink, 0x60, correction(3)).await?;
    assert_eq!(held_until().await?, Some((1, "0/60".to_owned())));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_that_begins_anew_forgets_what_waited() -> Result<()> {
    let world = World::create().await?;
    let mut sink = begun(&world).await?;
    let rows = vec![event(5, NOON, 1, Op::Correct, r#"{"1":1}"#)];
    commit(&mut sink, 20, rows).await?;
    assert_eq!(world.waiting("sheaf").await?, 1);
    sink.begin(position(30, 0)).await?;
    assert_eq!(world.waiting("sheaf").await?, 0);
    sink.follow();
    sink.tidy().await?;
    assert_eq!(world.facts("sheaf").await?, Vec::<String>::new());
    Ok(())
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What the rows of an instant do, and which attributes they name.
type Rows = Vec<(Op, Vec<i64>)>;

/// Events as a writer appends them, and what comes of them by the rule that the view in PostgreSQL has.
#[derive(Default)]
struct Model(BTreeMap<(i64, usize), Rows>);

impl Model {
    /// Some event, as a row that the history may have.
    fn event(&mut self, dice: &mut Dice) -> ChangedRow {
        let (entity, time) = (
            dice.below(3).cast_signed(),
            usize::try_from(dice.below(4)).expect("small"),
        );
        let rows = self.0.entry((entity, time)).or_default();
        let seq = rows.len();
        let mut attributes: Vec<i64> = (1..=3).filter(|_| dice.below(2) == 0).collect();
        let visible = visible(rows);
        let is_said = |attribute: &i64| visible.contains(&Some(*attribute));
        let op = match dice.below(10) {
            0 => Op::Replace,
            1 => Op::Delete,
            _ if seq > 0 && attributes.iter().any(is_said) => Op::Correct,
            _ => Op::Patch,
        };
        if op == Op::Delete {
            attributes.clear();
        }
        let values = attributes.iter().map(|number| match number {
            1 => format!(r#""1":{seq}"#),
            2 => format!(r#""2":{seq}.5"#),
            _ => format!(r#""3":{seq}"#),
        });
        let attrs = format!("{{{}}}", values.collect::<Vec<_>>().join(","));
        rows.push((op, attributes));
        event(
            entity,
            TIMES[time],
            i16::try_from(seq).expect("small"),
            op,
            &attrs,
        )
    }

    /// The facts that count, and those that were replaced.
    fn facts(&self) -> [Vec<String>; 2] {
        let mut facts = [Vec::new(), Vec::new()];
        for ((entity, time), rows) in &self.0 {
            for (seq, (op, attributes)) in rows.iter().enumerate() {
                let is_of_event = attributes.is_empty() || matches!(op, Op::Replace | Op::Delete);
                let all = is_of_event
                    .then_some(None)
                    .into_iter()
                    .chain(attributes.iter().copied().map(Some));
                for attribute in all {
                    let is_hidden = rows[seq + 1..].iter().any(|(op, said)| {
                        matches!(op, Op::Replace | Op::Delete)
                            || attribute.is_some_and(|number| said.contains(&number))
                    });
                    let number = attribute.map_or("-".to_owned(), |number| number.to_string());
                    facts[usize::from(is_hidden)]
                        .push(format!("1 {entity} {number} {} {seq}", MICROS[*time]));
                }
            }
        }
        for facts in &mut facts {
            facts.sort();
        }
        facts
    }
}

const TIMES: [&str; 4] = [
    NOON,
    NIGHT,
    "2024-02-29T12:00:00.000001Z",
    "1970-01-01T00:00:00Z",
];
const MICROS: [&str; 4] = [AT_NOON, AT_NIGHT, "1709208000000001", "0"];

/// What an instant says in the end.
fn visible(rows: &[(Op, Vec<i64>)]) -> BTreeSet<Option<i64>> {
    let mut visible = BTreeSet::new();
    for (op, attributes) in rows {
        if matches!(op, Op::Replace | Op::Delete) {
            visible.clear();
        }
        visible.extend(attributes.iter().copied().map(Some));
    }
    visible
}

async fn found(world: &World, catalog: &str) -> Result<[Vec<String>; 2]> {
    let five = |facts: Vec<String>| {
        let first = |fact: &String| fact.split(' ').take(5).collect::<Vec<_>>().join(" ");
        let mut facts: Vec<String> = facts.iter().map(first).collect();
        facts.sort();
        facts
    };
    Ok([
        five(world.facts(catalog).await?),
        five(world.replaced(catalog).await?),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_come_to_what_the_view_of_the_database_says() -> Result<()> {
    let world = World::create().await?;
    let again = Injected::new("writer that begins again");
    for seed in 1..=12u64 {
        let catalog = format!("seed{seed}");
        let (mut dice, mut model) = (
            Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            Model::default(),
        );
        let mut sink = world.sink(&catalog)?;
        sink.held().await?;
        sink.begin(position(10, 0)).await?;
        sink.follow();
        let mut sent = Vec::new();
        for lsn in 1..=12 {
            let count = 1 + dice.below(6);
            let rows = (0..count).map(|_| model.event(&mut dice)).collect();
            let batch = transaction(100 + lsn, rows);
            sink.apply(&batch).await?;
            sent.push(batch);
            match dice.below(6) {
                0 | 1 => drop(sink.flush().await?),
                2 => sink.tidy().await?,
                3 => {
                    sink.flush().await?;
                    sink.tidy().await?;
                }
                4 => {
                    // What it lacks is sent again.
                    again.count();
                    sink = world.sink(&catalog)?;
                    sink.held().await?;
                    sink.follow();
                    for batch in &sent {
                        sink.apply(batch).await?;
                    }
                }
                _ => {}
            }
        }
        sink.flush().await?;
        sink.tidy().await?;
        let found = found(&world, &catalog).await?;
        ensure!(
            found == model.facts(),
            "seed {seed}: {found:?} and not {:?}",
            model.facts()
        );
        world
            .require_one_value(&catalog)
            .await
            .context(format!("seed {seed}"))?;
    }
    again.require();
    Ok(())
}
