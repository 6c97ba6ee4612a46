//! The journal as a sink of a stream: what it is held to, and that it has every event once through stops of every kind.

mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use sheaf_cdc::conformance::{Place, check};
use sheaf_cdc::journal::{Bounds, Journal, JournalEvent, JournalSink};
use sheaf_cdc::sink::Sink;
use sheaf_cdc::status::SinkState;
use sheaf_model::{ChangePosition, Lsn, TenantId};
use sheaf_testkit::{Injected, ScratchDir, wait_until};
use world::{WITHIN, World, event, events};

const SYSTEM: u64 = 7;

/// The journal in a folder.
struct Folder(PathBuf);

impl Folder {
    fn journal(&self) -> (JournalSink, Journal) {
        Journal::new("journal", &self.0, Bounds::of(64 << 20), SYSTEM)
    }
}

/// Every event of a tenant that it has, from the oldest on.
fn read_all(journal: &Journal, tenant: TenantId) -> Vec<JournalEvent> {
    let kept = journal.kept().expect("it is open");
    let mut reader = journal.read_from(tenant, kept.from).expect("kept");
    let mut found = Vec::new();
    while !reader.is_at_end() {
        found.extend(reader.read().expect("it can be read").events);
    }
    found
}

impl Place for Folder {
    fn open(&self) -> Box<dyn Sink> {
        Box::new(self.journal().0)
    }

    fn found(&self) -> std::pin::Pin<Box<dyn Future<Output = Vec<ChangePosition>> + '_>> {
        Box::pin(async {
            // The sink may have it open: what is there is read in a copy.
            let copy = ScratchDir::new("copy").expect("a directory");
            for entry in fs::read_dir(&self.0).expect("a folder") {
                let path = entry.expect("a file").path();
                let name = path.file_name().expect("a name");
                fs::copy(&path, copy.path().join(name)).expect("it can be copied");
            }
            let folder = Folder(copy.path().to_owned());
            let (mut sink, journal) = folder.journal();
            sink.held().await.expect("it opens");
            let found = read_all(&journal, TenantId(1)).into_iter();
            let position = |event: JournalEvent| ChangePosition {
                timeline: 1,
                commit_lsn: event.commit_lsn,
                ordinal: event.ordinal,
            };
            found.map(position).collect()
        })
    }

    fn keeps_order(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_journal_is_a_sink() -> Result<()> {
    let dir = ScratchDir::new("journal")?;
    Ok(check(&Folder(dir.path().join("changes"))).await?)
}

/// Events of the database by what tells them apart, beside how often the journal has each.
async fn require_all_once(world: &World, journal: &Journal) -> Result<()> {
    let tenant = world.scope.tenant();
    let client = world.database.superuser().await?;
    let stored = async || -> Result<Vec<String>> {
        let text = |event: String| {
            let parts: Vec<&str> = event.splitn(8, '/').collect();
            format!("{}/{}/{}/{}", parts[1], parts[2], parts[4], parts[7])
        };
        Ok(events(&client).await?.into_iter().map(text).collect())
    };
    wait_until(
        "the journal has as many events as the database",
        WITHIN,
        async || {
            let stored = stored().await.unwrap_or_default().len();
            journal.kept().is_some() && read_all(journal, tenant).len() >= stored
        },
    )
    .await;
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let mut last = (Lsn(0), 0);
    for event in read_all(journal, tenant) {
        let at = (event.commit_lsn, event.ordinal);
        ensure!(at > last, "{at:?} after {last:?}");
        last = at;
        let letter = char::from(event.op.letter().cast_unsigned());
        let micros = event.observed_at.as_micros();
        let text = format!("{}/{micros}/{letter}/{}", event.entity.0, event.attrs);
        *found.entry(text).or_default() += 1;
    }
    let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
    for event in stored().await? {
        *wanted.entry(event).or_default() += 1;
    }
    assert_eq!(found, wanted);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_has_what_is_committed_from_its_beginning_on_through_kills() -> Result<()> {
    let world = Arc::new(World::create().await?);
    let folder = Folder(world.path("changes"));
    let (sink, journal) = folder.journal();
    let mut running = world.stream(
        world.options(),
        vec![Box::new(sink), world.file_sink("file")],
    );
    running
        .wait_for("both stream", |status| {
            let mut sinks = status.sinks.iter();
            sinks.all(|sink| sink.state == SinkState::Streaming)
        })
        .await;
    let begins = journal.kept().context("open")?;
    let lines: Vec<String> = (0..130).map(|n| event(n, n, n)).collect();
    world.ingest(&lines).await?;
    require_all_once(&world, &journal).await?;
    running.kill().await;
    let killed = Injected::new("kill of a stream with a journal");
    for round in 1..=8 {
        let (sink, journal) = folder.journal();
        let mut options = world.options();
        // Sometimes nothing is ever stored, or stored and never confirmed.
        if round % 3 == 1 {
            options.store_every = std::time::Duration::from_secs(3600);
        }
        if round % 3 == 2 {
            options.tick_every = std::time::Duration::from_secs(3600);
        }
        let running = world.stream(options, vec![Box::new(sink), world.file_sink("file")]);
        let writing = async {
            for part in 0..4 {
                let at = 1000 + 40 * round + 10 * part;
                let lines: Vec<String> = (0..10).map(|n| event(n, at + n, n)).collect();
                world.ingest(&lines).await?;
            }
            anyhow::Ok(())
        };
        let reads_some = async {
            let tenant = world.scope.tenant();
            let is_fed =
                async || journal.kept().is_some() && !read_all(&journal, tenant).is_empty();
            wait_until("the journal is open", WITHIN, is_fed).await;
        };
        let (written, ()) = tokio::join!(writing, reads_some);
        written?;
        running.kill().await;
        killed.count();
    }
    let (sink, journal) = folder.journal();
    let running = world.stream(
        world.options(),
        vec![Box::new(sink), world.file_sink("file")],
    );
    require_all_once(&world, &journal).await?;
    assert_eq!(journal.kept(), Some(begins), "it was never begun anew");
    world.require_all_events_once("file").await?;
    // Attributes and names that nothing follows are held by a journal too: the slot moves on.
    world.wait_confirmed().await?;
    running.stop().await?;
    killed.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_nobody_feeds_is_left_to_another_process() -> Result<()> {
    let world = World::create().await?;
    let shut_out = Injected::new("stream that lost its database");
    let folder = Folder(world.path("changes"));
    let (sink, journal) = folder.journal();
    let running = world.stream(world.options(), vec![Box::new(sink)]);
    let is_open = async || journal.kept().is_some();
    wait_until("the journal is open", WITHIN, is_open).await;
    let (mut other, _) = folder.journal();
    let refused = other.held().await.err().context("it is taken")?;
    let cause = refused.source.to_string();
    ensure!(cause.contains("another process"), "{cause}");
    let client = world.database.superuser().await?;
    let close = format!(
        "ALTER DATABASE {} CONNECTION LIMIT 0;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND usename = 'sheaf_cdc'",
        world.database.name()
    );
    client.batch_execute(&close).await?;
    shut_out.count();
    wait_until("the folder is left", WITHIN, async || {
        other.held().await.is_ok()
    })
    .await;
    ensure!(!running.task.is_finished(), "it goes on trying");
    running.kill().await;
    shut_out.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_joins_later_begins_there_and_one_that_is_lost_begins_anew() -> Result<()> {
    let world = World::create().await?;
    let lost = Injected::new("journal that somebody removed");
    world.ingest(&[event(1, 2, 1)]).await?;
    let running = world.stream(world.options(), vec![world.file_sink("file")]);
    world.require_all_events_once("file").await?;
    world.wait_confirmed().await?;
    running.stop().await?;
    let tenant = world.scope.tenant();
    let folder = Folder(world.path("changes"));
    let mut begins = Lsn(0);
    for round in 0..3 {
        let (sink, journal) = folder.journal();
        let running = world.stream(
            world.options(),
            vec![Box::new(sink), world.file_sink("file")],
        );
        wait_until("the journal is open", WITHIN, async || {
            journal.kept().is_some()
        })
        .await;
        let kept = journal.kept().context("open")?.from;
        ensure!(kept > begins, "{kept} after {begins}");
        begins = kept;
        world.ingest(&[event(10 + round, 3, 1)]).await?;
        let has_it = async || read_all(&journal, tenant).len() == 1;
        wait_until(
            "the journal has what came, and nothing of before",
            WITHIN,
            has_it,
        )
        .await;
        world.wait_confirmed().await?;
        running.stop().await?;
        std::fs::remove_dir_all(&folder.0)?;
        lost.count();
    }
    lost.require();
    Ok(())
}
