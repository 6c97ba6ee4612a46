//! Rows that cannot be read and changes that a sink cannot take: they are kept, what follows goes on, and each comes to its sink
//! once when somebody asks for it.

mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use sheaf_cdc::change::{Batch, Change, ChangedRow, Progress};
use sheaf_cdc::letter::{Letter, LetterReason, Refusal, Unreadable};
use sheaf_cdc::sink::{Held, Missed, Sink, SinkFuture};
use sheaf_cdc::stream::StreamOptions;
use sheaf_model::{ChangePosition, KeyId, LetterId, Timestamp};
use sheaf_store::dead_letters::{
    LetterFilter, ask_for_letters, discard_letters, list_letter_actions, list_letters,
    look_at_letters,
};
use sheaf_testkit::{Injected, wait_until};
use uuid::Uuid;
use world::{WITHIN, World, event, table};

/// What a shelf refuses: events with this value of any attribute.
const POISON: &str = "\"poison\"";

/// A place that is durable once it is committed, and refuses some changes until it is told to take them.
#[derive(Default)]
struct Shelf {
    held: Mutex<Holding>,
    takes_all: AtomicBool,
    /// Rows that it was told that it misses, of which none is a letter; else none is told.
    missed: Option<AtomicU64>,
    commits: AtomicU64,
}

/// How far a shelf is, and how often it holds each change.
#[derive(Default, Clone)]
struct Holding {
    progress: Option<Progress>,
    changes: BTreeMap<ChangePosition, usize>,
    settled: Vec<Uuid>,
}

/// The sink over a shelf.
struct Picky {
    shelf: Arc<Shelf>,
    given: Option<Progress>,
    waiting: Vec<ChangePosition>,
    refused: Vec<Refusal>,
}

impl Picky {
    fn over(shelf: &Arc<Shelf>) -> Box<dyn Sink> {
        Box::new(Picky {
            shelf: Arc::clone(shelf),
            given: None,
            waiting: Vec::new(),
            refused: Vec::new(),
        })
    }

    fn refuses(&self, change: &Change) -> bool {
        let ChangedRow::Event(event) = &change.row else {
            return false;
        };
        event.attrs.contains(POISON) && !self.shelf.takes_all.load(Ordering::SeqCst)
    }

    fn commit(&mut self) -> Progress {
        let mut held = self.shelf.held.lock().expect("not poisoned");
        held.progress = self.given;
        for position in self.waiting.drain(..) {
            *held.changes.entry(position).or_default() += 1;
        }
        self.shelf.commits.fetch_add(1, Ordering::SeqCst);
        self.given.expect("it was begun")
    }
}

impl Sink for Picky {
    fn name(&self) -> &str {
        "picky"
    }

    fn held(&mut self) -> SinkFuture<'_, Held> {
        let held = self.shelf.held.lock().expect("not poisoned").progress;
        (self.given, self.waiting) = (held, Vec::new());
        self.refused.clear();
        Box::pin(async move { Ok(held.map_or(Held::Nothing, Held::Until)) })
    }

    fn begin(&mut self, base: ChangePosition) -> SinkFuture<'_, ()> {
        self.shelf
            .held
            .lock()
            .expect("not poisoned")
            .changes
            .clear();
        self.given = Some(Progress::begun(base));
        self.commit();
        Box::pin(async { Ok(()) })
    }

    fn apply<'a>(&'a mut self, batch: &'a Batch) -> SinkFuture<'a, Progress> {
        let before = self.commit();
        for change in &batch.changes {
            let given = self.given.as_mut().expect("it was begun");
            given.advance(batch.origin, change.position);
            if self.refuses(change) {
                self.refused.push(Refusal {
                    position: change.position,
                    reason: LetterReason::InvalidValue,
                    detail: "it is poison".to_owned(),
                });
            } else {
                self.waiting.push(change.position);
            }
        }
        // From the first refused one on nothing is durable before the next call.
        let progress = match self.refused.is_empty() {
            true => self.commit(),
            false => before,
        };
        Box::pin(async move { Ok(progress) })
    }

    fn missed(&mut self, _row: &Unreadable) -> Missed {
        let Some(missed) = &self.shelf.missed else {
            return Missed::Letter;
        };
        missed.fetch_add(1, Ordering::SeqCst);
        Missed::Nothing
    }

    fn take_refused(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.refused)
    }

    fn replay<'a>(&'a mut self, letters: &'a [Letter]) -> SinkFuture<'a, Vec<Refusal>> {
        let mut refused = Vec::new();
        for letter in letters {
            if self.refuses(&letter.change) {
                refused.push(Refusal {
                    position: letter.change.position,
                    reason: LetterReason::InvalidValue,
                    detail: "it still is poison".to_owned(),
                });
                continue;
            }
            let mut held = self.shelf.held.lock().expect("not poisoned");
            // As one thing, so that what was taken is recognised.
            if !held.settled.contains(&letter.id.0) {
                held.settled.push(letter.id.0);
                *held.changes.entry(letter.change.position).or_default() += 1;
            }
        }
        Box::pin(async move { Ok(refused) })
    }

    fn flush(&mut self) -> SinkFuture<'_, Progress> {
        let progress = self.commit();
        Box::pin(async move { Ok(progress) })
    }
}

impl Shelf {
    /// How many changes it holds. Each is there once.
    fn count(&self) -> usize {
        let held = self.held.lock().expect("not poisoned").clone();
        let twice: Vec<_> = held
            .changes
            .iter()
            .filter(|(_, times)| **times > 1)
            .collect();
        assert!(twice.is_empty(), "more than once: {twice:?}");
        held.changes.len()
    }
}

fn poison(id: usize, minute: usize) -> String {
    event(id, minute, 1).replace(&format!("\"x{id}\""), POISON)
}

/// A row that nobody can read: it was received at the end of time.
const UNREADABLE: &str = "INSERT INTO sheaf.entity_events SELECT t.tenant_id, 900001, '2024-02-05Z', 0, 'p', gen_random_uuid(),
    'infinity', '{}' FROM sheaf.tenants t";

/// Events in a file: none of them twice.
fn events_in(world: &World, file: &str) -> Result<usize> {
    let lines = world.lines(file)?;
    let events = lines.iter().filter(|line| table(line) == "entity_events");
    let mut positions: Vec<String> = events
        .map(|line| line["source"]["position"].to_string())
        .collect();
    let count = positions.len();
    positions.sort_unstable();
    positions.dedup();
    anyhow::ensure!(positions.len() == count, "a change is in the file twice");
    Ok(count)
}

async fn wait_events(world: &World, file: &str, wanted: usize) {
    let claim = format!("{file} has {wanted} events");
    wait_until(&claim, WITHIN, async || {
        events_in(world, file).is_ok_and(|found| found == wanted)
    })
    .await;
}

async fn wait_letters(world: &World, wanted: &str) {
    let sql = "SELECT coalesce(string_agg(sink_name || ' ' || origin || ' ' || reason || ' ' || status, ', ' ORDER BY sink_name, letter_id), '')
        FROM sheaf.dead_letters";
    let claim = format!("the letters are {wanted}");
    wait_until(&claim, WITHIN, async || {
        world.text(sql).await.is_ok_and(|found| found == wanted)
    })
    .await;
}

async fn letters(world: &World) -> Result<Vec<LetterId>> {
    let letters = list_letters(&world.app, &LetterFilter::default(), 1000).await?;
    Ok(letters.iter().map(|letter| letter.id).collect())
}

/// Waits until nobody is asked for any more, and gives the statuses back.
async fn wait_answered(world: &World, ids: &[LetterId]) -> Result<Vec<String>> {
    wait_until("the sinks have answered", WITHIN, async || {
        let looks = look_at_letters(&world.app, ids).await.unwrap_or_default();
        looks.len() == ids.len() && looks.iter().all(|look| look.status != "replay_asked")
    })
    .await;
    let looks = look_at_letters(&world.app, ids).await?;
    Ok(looks.into_iter().map(|look| look.status).collect())
}

fn key() -> KeyId {
    KeyId::from_bits(7)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_nobody_can_read_is_a_letter_of_each_sink_and_what_follows_comes() -> Result<()>
{
    let injected = Injected::new("row that cannot be read");
    let world = World::create().await?;
    world.ingest(&[event(1, 2, 1), event(2, 2, 1)]).await?;
    // One that was there before, and one on the way.
    world.execute(UNREADABLE).await?;
    injected.count();
    let sinks = vec![world.file_sink("one"), world.file_sink("two")];
    let mut running = world.streaming(world.options(), sinks).await;
    world.ingest(&[event(3, 2, 1)]).await?;
    let later = UNREADABLE.replace("900001", "900002");
    world.execute(&later).await?;
    injected.count();
    world.ingest(&[event(4, 2, 1)]).await?;
    for file in ["one", "two"] {
        wait_events(&world, file, 4).await;
    }
    wait_letters(
        &world,
        "one snapshot unreadable open, one stream unreadable open, two snapshot unreadable open, two stream unreadable open",
    )
    .await;
    running
        .wait_for("the holes are told", |status| {
            status.sinks.iter().all(|sink| sink.holes == Some(2))
        })
        .await;
    for sink in &running.status.borrow().sinks {
        let counted: u64 = sink.letters.each().map(|(_, count)| count).sum();
        assert_eq!((counted, sink.failures), (2, 0), "{}", sink.name);
    }
    // What there is of it: the tenant, what could be read, and the bytes of the rest.
    let kept = world
        .text("SELECT of_tenant || ' ' || (payload::jsonb)::text FROM sheaf.dead_letters WHERE sink_name = 'one' AND origin = 'stream'")
        .await?;
    assert!(
        kept.starts_with(&format!("{} ", world.scope.tenant())),
        "{kept}"
    );
    assert!(kept.contains(r#""entity_id": {"int": 900002}"#), "{kept}");
    assert!(kept.contains(r#""bytes": "7fffffffffffffff""#), "{kept}");
    // Confirmed past them, so that they come no more.
    world.wait_confirmed().await?;
    // They are still what they were.
    let ids = letters(&world).await?;
    assert_eq!(
        ask_for_letters(&world.app, &ids, &key(), Timestamp::now())
            .await?
            .len(),
        4
    );
    let statuses = wait_answered(&world, &ids).await?;
    assert_eq!(statuses, ["open"; 4]);
    let discarded = discard_letters(&world.app, &ids, &key(), Timestamp::now()).await?;
    assert_eq!(discarded.len(), 4);
    assert!(
        discard_letters(&world.app, &ids, &key(), Timestamp::now())
            .await?
            .is_empty()
    );
    let actions = list_letter_actions(&world.app, ids[0], 10).await?;
    let actions: Vec<_> = actions
        .iter()
        .map(|action| (action.action.as_str(), action.key.is_some()))
        .collect();
    assert_eq!(
        actions,
        [("ask_replay", true), ("refuse", false), ("discard", true)]
    );
    running
        .wait_for("no holes are left", |status| {
            status.sinks.iter().all(|sink| sink.holes == Some(0))
        })
        .await;
    running.stop().await?;
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_lacks_nothing_by_what_cannot_be_read_is_told_of_it_and_has_no_letter()
-> Result<()> {
    let injected = Injected::new("row that cannot be read");
    let world = World::create().await?;
    world.ingest(&[event(1, 2, 1)]).await?;
    world.execute(UNREADABLE).await?;
    injected.count();
    let shelf = Arc::new(Shelf {
        missed: Some(AtomicU64::new(0)),
        ..Shelf::default()
    });
    let sinks = vec![Picky::over(&shelf), world.file_sink("file")];
    let running = world.streaming(world.options(), sinks).await;
    world
        .execute(&UNREADABLE.replace("900001", "900002"))
        .await?;
    injected.count();
    world.ingest(&[event(2, 2, 1)]).await?;
    wait_events(&world, "file", 2).await;
    wait_letters(
        &world,
        "file snapshot unreadable open, file stream unreadable open",
    )
    .await;
    let missed = shelf.missed.as_ref().context("a count")?;
    wait_until("it is told of both", WITHIN, async || {
        missed.load(Ordering::SeqCst) == 2
    })
    .await;
    world.wait_confirmed().await?;
    assert_eq!(running.status.borrow().sinks[0].holes, Some(0));
    running.stop().await?;
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_lacks_what_it_refused_and_gets_it_once_when_asked_for() -> Result<()> {
    let injected = Injected::new("change that a sink refuses");
    let world = World::create().await?;
    world.ingest(&[event(1, 2, 1), poison(2, 2)]).await?;
    injected.count();
    let shelf = Arc::<Shelf>::default();
    let sinks = vec![Picky::over(&shelf), world.file_sink("file")];
    let mut running = world.streaming(world.options(), sinks).await;
    let rows = shelf.count();
    world.ingest(&[event(3, 2, 1)]).await?;
    // The last of its batch, so that nothing that follows takes its place.
    world.ingest(&[poison(4, 2)]).await?;
    injected.count();
    wait_letters(
        &world,
        "picky snapshot invalid_value open, picky stream invalid_value open",
    )
    .await;
    world.wait_confirmed().await?;
    wait_events(&world, "file", 4).await;
    // Two names, one event.
    assert_eq!(shelf.count(), rows + 3);
    let ids = letters(&world).await?;
    let ask = async || ask_for_letters(&world.app, &ids, &key(), Timestamp::now()).await;
    assert_eq!(ask().await?.len(), 2);
    assert_eq!(wait_answered(&world, &ids).await?, ["open"; 2]);
    assert_eq!(
        look_at_letters(&world.app, &ids).await?[0].detail,
        "it still is poison"
    );
    // Newer ones of the same entities come before them.
    world.ingest(&[event(2, 5, 1), event(4, 5, 1)]).await?;
    shelf.takes_all.store(true, Ordering::SeqCst);
    assert_eq!(ask().await?.len(), 2);
    assert_eq!(wait_answered(&world, &ids).await?, ["replayed"; 2]);
    let whole = rows + 3 + 2 + 2;
    wait_until("the shelf has all", WITHIN, async || shelf.count() == whole).await;
    // Twice changes nothing.
    assert!(ask().await?.is_empty());
    let late = discard_letters(&world.app, &ids, &key(), Timestamp::now()).await?;
    assert!(late.is_empty(), "what was taken is not let go");
    running
        .wait_for("no holes are left", |status| {
            status.sinks[0].holes == Some(0)
        })
        .await;
    running.stop().await?;
    assert_eq!(shelf.count(), whole);
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_dies_before_its_letter_is_kept_loses_and_doubles_none() -> Result<()> {
    let killed = Injected::new("kill between a refusal and its letter");
    let world = World::create().await?;
    world.ingest(&[event(1, 2, 1)]).await?;
    let shelf = Arc::<Shelf>::default();
    let running = world
        .streaming(world.options(), vec![Picky::over(&shelf)])
        .await;
    let rows = shelf.count();
    let mut running = Some(running);
    for round in 0..3usize {
        let holder = world.database.superuser().await?;
        holder
            .batch_execute("BEGIN; LOCK sheaf.dead_letters IN EXCLUSIVE MODE")
            .await?;
        world
            .ingest(&[
                event(1, 5 + 3 * round, 7),
                poison(1, 400 + 3 * round),
                event(1, 800 + 3 * round, 7),
            ])
            .await?;
        let waits = "SELECT count(*)::text FROM pg_locks WHERE NOT granted AND relation = 'sheaf.dead_letters'::regclass";
        wait_until("the letter waits", WITHIN, async || {
            world.text(waits).await.is_ok_and(|count| count == "1")
        })
        .await;
        running.take().context("it runs")?.kill().await;
        killed.count();
        // The statement goes on in the server, or does not.
        let end = "SELECT count(pg_terminate_backend(pid))::text FROM pg_locks WHERE NOT granted AND relation = 'sheaf.dead_letters'::regclass";
        if round != 1 {
            world.text(end).await?;
        }
        holder.batch_execute("ROLLBACK").await?;
        running = Some(
            world
                .streaming(world.options(), vec![Picky::over(&shelf)])
                .await,
        );
        let wanted = rows + 2 * (round + 1);
        wait_until("what it takes is there", WITHIN, async || {
            shelf.count() == wanted
        })
        .await;
        let wanted = vec!["picky stream invalid_value open"; round + 1].join(", ");
        wait_letters(&world, &wanted).await;
    }
    running.take().context("it runs")?.stop().await?;
    assert_eq!(shelf.count(), rows + 6);
    killed.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_behind_a_row_that_cannot_be_read_is_held_before_its_letter() -> Result<()> {
    let killed = Injected::new("kill before the letter of an unreadable row");
    let world = World::create().await?;
    world.ingest(&[event(1, 2, 1)]).await?;
    let running = world
        .streaming(world.options(), vec![world.file_sink("file")])
        .await;
    wait_events(&world, "file", 1).await;
    let holder = world.database.superuser().await?;
    holder
        .batch_execute("BEGIN; LOCK sheaf.dead_letters IN EXCLUSIVE MODE")
        .await?;
    let good = |entity: usize| {
        UNREADABLE
            .replace("900001", &entity.to_string())
            .replace("'infinity'", "now()")
    };
    let (before, after) = (good(800_001), good(800_002));
    world
        .execute(&format!("BEGIN; {before}; {UNREADABLE}; {after}; COMMIT"))
        .await?;
    let waits = "SELECT count(*)::text FROM pg_locks WHERE NOT granted AND relation = 'sheaf.dead_letters'::regclass";
    wait_until("the letter waits", WITHIN, async || {
        world.text(waits).await.is_ok_and(|count| count == "1")
    })
    .await;
    running.kill().await;
    killed.count();
    let end = "SELECT count(pg_terminate_backend(pid))::text FROM pg_locks WHERE NOT granted AND relation = 'sheaf.dead_letters'::regclass";
    world.text(end).await?;
    holder.batch_execute("ROLLBACK").await?;
    assert_eq!(events_in(&world, "file")?, 1);
    let running = world
        .streaming(world.options(), vec![world.file_sink("file")])
        .await;
    wait_events(&world, "file", 3).await;
    wait_letters(&world, "file stream unreadable open").await;
    running.stop().await?;
    killed.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_cannot_be_kept_stops_its_sink_and_nothing_is_dropped() -> Result<()> {
    let refused = Injected::new("dead letters that cannot be written");
    let world = World::create().await?;
    world.ingest(&[event(1, 2, 1)]).await?;
    let shelf = Arc::<Shelf>::default();
    let sinks = vec![Picky::over(&shelf), world.file_sink("file")];
    let mut running = world.streaming(world.options(), sinks).await;
    let rows = shelf.count();
    let fill = "INSERT INTO sheaf.dead_letters SELECT gen_random_uuid(), (SELECT slot_name FROM sheaf.change_slots), 'picky', 'stream', 1, '0/1', n, 0, now(), NULL, 'unreadable', '', '{}', 2,
        true, now(), 'open' FROM generate_series(1, 10000) n";
    for (number, (stop, go)) in [
        (
            "REVOKE INSERT ON sheaf.dead_letters FROM sheaf_cdc",
            "GRANT INSERT ON sheaf.dead_letters TO sheaf_cdc",
        ),
        (
            fill,
            "UPDATE sheaf.dead_letters SET status = 'discarded' WHERE commit_lsn = '0/1'",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        world.execute(stop).await?;
        refused.count();
        let failures = running.status.borrow().sinks[0].failures;
        world
            .ingest(&[poison(1, 5 + 3 * number), event(1, 8 + 30 * number, 5)])
            .await?;
        running
            .wait_for("it is tried again and again", |status| {
                status.sinks[0].failures >= failures + 3
            })
            .await;
        assert_eq!(shelf.count(), rows + number, "nothing behind it is held");
        wait_events(&world, "file", 3 + 2 * number).await;
        world.execute(go).await?;
        wait_until("what follows is there", WITHIN, async || {
            shelf.count() == rows + number + 1
        })
        .await;
        let open = "SELECT count(*)::text FROM sheaf.dead_letters WHERE status = 'open'";
        assert_eq!(world.text(open).await?, (number + 1).to_string());
    }
    running.stop().await?;
    refused.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_was_too_long_comes_once_when_longer_ones_are_taken() -> Result<()> {
    let injected = Injected::new("row beyond the limit");
    let world = World::create().await?;
    let options = StreamOptions {
        row_bytes_max: 2_000,
        ..world.options()
    };
    let running = world
        .streaming(options, vec![world.file_sink("file")])
        .await;
    let long = event(2, 2, 1).replace("\"x2\"", &format!("\"{}\"", "y".repeat(5_000)));
    world.ingest(&[event(1, 2, 1)]).await?;
    world.ingest(&[long]).await?;
    injected.count();
    world.ingest(&[event(3, 2, 1)]).await?;
    wait_events(&world, "file", 2).await;
    wait_letters(&world, "file stream too_large open").await;
    let ids = letters(&world).await?;
    ask_for_letters(&world.app, &ids, &key(), Timestamp::now()).await?;
    assert_eq!(wait_answered(&world, &ids).await?, ["open"]);
    running.stop().await?;
    // Somebody asks while nobody is there, and again.
    ask_for_letters(&world.app, &ids, &key(), Timestamp::now()).await?;
    let running = world
        .streaming(world.options(), vec![world.file_sink("file")])
        .await;
    assert_eq!(wait_answered(&world, &ids).await?, ["replayed"]);
    wait_events(&world, "file", 3).await;
    // As after a crash between the file and the letter.
    world
        .execute("UPDATE sheaf.dead_letters SET status = 'replay_asked'")
        .await?;
    assert_eq!(wait_answered(&world, &ids).await?, ["replayed"]);
    world.ingest(&[event(4, 2, 1)]).await?;
    wait_events(&world, "file", 4).await;
    running.stop().await?;
    let last = world.lines("file")?.pop().context("a line")?;
    assert!(
        last["after"]["attrs"]
            .as_str()
            .is_some_and(|attrs| attrs.len() < 100)
    );
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_letters_of_a_sink_that_begins_anew_are_no_holes_in_it() -> Result<()> {
    let world = World::create().await?;
    world.ingest(&[event(1, 2, 1)]).await?;
    let shelf = Arc::<Shelf>::default();
    let running = world
        .streaming(world.options(), vec![Picky::over(&shelf)])
        .await;
    world.ingest(&[poison(2, 2)]).await?;
    wait_letters(&world, "picky stream invalid_value open").await;
    running.stop().await?;
    let slot = world.slot();
    // Of a sink of this name behind another slot, at the same place.
    let copied = "INSERT INTO sheaf.dead_letters SELECT gen_random_uuid(), 'another', sink_name, origin, timeline, commit_lsn, ordinal, xid,
        committed_at, of_tenant, reason, detail, payload, payload_bytes, is_whole, received_at, status FROM sheaf.dead_letters";
    world.execute(copied).await?;
    world
        .execute(&format!("SELECT pg_drop_replication_slot('{slot}')"))
        .await?;
    let mut running = world
        .streaming(world.options(), vec![Picky::over(&shelf)])
        .await;
    running
        .wait_for("its own holes are told", |status| {
            status.sinks[0].holes == Some(1)
        })
        .await;
    let kept = "SELECT string_agg(concat_ws(' ', slot_name = 'another', origin, status, payload_bytes > 0, is_whole, payload = '{}'), ', '
        ORDER BY slot_name = 'another', origin) FROM sheaf.dead_letters";
    assert_eq!(
        world.text(kept).await?,
        "f snapshot open t t f, f stream discarded f f t, t stream open t t f"
    );
    let ids = letters(&world).await?;
    world
        .execute("DELETE FROM sheaf.dead_letters WHERE slot_name = 'another'")
        .await?;
    let discarded = "SELECT letter_id::text FROM sheaf.dead_letters WHERE status = 'discarded'";
    let discarded: Uuid = world.text(discarded).await?.parse()?;
    assert!(ids.iter().any(|id| id.0 == discarded));
    let actions = list_letter_actions(&world.app, LetterId(discarded), 10).await?;
    assert_eq!(actions.len(), 1);
    assert_eq!(
        (actions[0].action.as_str(), &actions[0].key),
        ("discard", &None)
    );
    running.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_with_all_the_letters_that_are_kept_goes_on_once_some_are_offered_again()
-> Result<()> {
    let full = Injected::new("sink with as many letters as are kept");
    let world = World::create().await?;
    world.ingest(&[event(1, 2, 1)]).await?;
    let shelf = Arc::<Shelf>::default();
    let mut running = world
        .streaming(world.options(), vec![Picky::over(&shelf)])
        .await;
    world.ingest(&[poison(1, 5)]).await?;
    wait_letters(&world, "picky stream invalid_value open").await;
    // Which it takes now.
    let fill = "INSERT INTO sheaf.dead_letters SELECT gen_random_uuid(), slot_name, sink_name, origin, timeline, '0/1', n, xid, committed_at,
        of_tenant, reason, detail, replace(payload, 'poison', 'fine'), payload_bytes, is_whole, received_at, status
        FROM sheaf.dead_letters, generate_series(1, 9999) n";
    world.execute(fill).await?;
    world.ingest(&[poison(1, 8)]).await?;
    running
        .wait_for("it is tried again and again", |status| {
            status.sinks[0].failures_in_row >= 3
        })
        .await;
    full.count();
    world
        .execute("UPDATE sheaf.dead_letters SET status = 'replay_asked' WHERE commit_lsn = '0/1'")
        .await?;
    let each = "SELECT string_agg(format('%s %s', status, count), ', ' ORDER BY status)
        FROM (SELECT status, count(*) FROM sheaf.dead_letters GROUP BY status) s";
    wait_until(
        "all are taken, and what follows is kept",
        WITHIN,
        async || {
            world
                .text(each)
                .await
                .is_ok_and(|each| each == "open 2, replayed 9999")
        },
    )
    .await;
    running
        .wait_for("it is well", |status| status.sinks[0].failures_in_row == 0)
        .await;
    assert!(running.status.borrow().sinks[0].failures >= 3);
    running.stop().await?;
    full.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rows_of_settled_letters_are_forgotten_after_days_and_what_was_done_with_them_is_not()
-> Result<()> {
    let world = World::create().await?;
    let shelf = Arc::<Shelf>::default();
    let running = world
        .streaming(world.options(), vec![Picky::over(&shelf)])
        .await;
    for minute in 0..3 {
        world.ingest(&[poison(1, 2 + 3 * minute)]).await?;
    }
    wait_letters(&world, &["picky stream invalid_value open"; 3].join(", ")).await;
    let ids = letters(&world).await?;
    let discarded = discard_letters(&world.app, &ids[..2], &key(), Timestamp::now()).await?;
    assert_eq!(discarded.len(), 2);
    running.stop().await?;
    // All are old, and one of them was settled just now.
    let just_now = ids[0].0;
    world
        .execute(&format!(
            "UPDATE sheaf.dead_letters SET received_at = received_at - interval '8 days';
             UPDATE sheaf.dead_letter_actions SET acted_at = acted_at - interval '8 days' WHERE letter_id <> '{just_now}'"
        ))
        .await?;
    // Whatever sinks there are, or none.
    let running = world.streaming(world.options(), Vec::new()).await;
    let emptied =
        "SELECT string_agg(letter_id::text, ' ') FROM sheaf.dead_letters WHERE payload = '{}'";
    wait_until("the row of one is forgotten", WITHIN, async || {
        world.text(emptied).await.is_ok_and(|text| !text.is_empty())
    })
    .await;
    assert_eq!(world.text(emptied).await?, ids[1].0.to_string());
    let actions = list_letter_actions(&world.app, ids[1], 10).await?;
    assert_eq!(actions.len(), 1);
    assert!(actions[0].key.is_some());
    running.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_offered_letters_in_their_order_and_recognises_them() -> Result<()> {
    use sheaf_cdc::conformance::change;
    use sheaf_cdc::file::FileSink;
    let dir = sheaf_testkit::ScratchDir::new("letters")?;
    let path = dir.path().join("file");
    let base = ChangePosition::before(1, sheaf_model::Lsn(10));
    let mut sink = FileSink::new("file", &path);
    sink.begin(base).await?;
    let letter = |ordinal| Letter {
        id: LetterId::new(),
        origin: sheaf_cdc::change::Origin::Stream,
        change: change(1, 20, ordinal),
    };
    let three = [letter(3), letter(1), letter(2)];
    assert!(sink.replay(&three[..2]).await?.is_empty());
    assert!(sink.replay(&three).await?.is_empty());
    sink.leave().await?;
    let held = FileSink::new("file", &path).held().await?;
    assert_eq!(
        held,
        Held::Until(Progress::begun(base)),
        "it holds no more of the stream"
    );
    let text = std::fs::read_to_string(&path)?;
    let places: Vec<_> = text
        .lines()
        .filter(|line| line.contains("\"entity_events\""))
        .filter_map(|line| {
            line.split_once("\"position\":\"1:0/14:")?
                .1
                .split('"')
                .next()
        })
        .collect();
    assert_eq!(places, ["1", "3", "2"]);
    Ok(())
}
