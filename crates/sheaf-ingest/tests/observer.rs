//! What an observer of commits is told: each of them before it is acknowledged, and nothing that was not committed.

#![allow(
    clippy::print_stdout,
    reason = "a fault that was injected is told to whoever runs the test"
)]

mod world;

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use sheaf_ingest::{
    Ack, BodyFormat, CommitObserver, EditRequest, IngestRequest, OnError, Precondition,
};
use sheaf_model::{Op, Position, TenantId, Timestamp, WrittenEntity};
use world::World;

/// What was told.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    Named(TenantId),
    /// Where a document was written.
    Committed(Position, Vec<WrittenEntity>),
    Unseen,
}

impl Told {
    fn written(self) -> Vec<WrittenEntity> {
        match self {
            Told::Committed(_, written) => written,
            Told::Named(_) | Told::Unseen => Vec::new(),
        }
    }
}

#[derive(Default)]
struct Listener {
    /// In order.
    told: Mutex<Vec<Told>>,
}

impl Listener {
    fn push(&self, told: Told) {
        self.told.lock().expect("not poisoned").push(told);
    }

    /// What was told since this was last asked.
    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut *self.told.lock().expect("not poisoned"))
    }

    fn written(&self) -> Vec<WrittenEntity> {
        self.take().into_iter().flat_map(Told::written).collect()
    }
}

impl CommitObserver for Listener {
    fn committed(&self, position: Position, written: &[WrittenEntity]) {
        if !written.is_empty() {
            self.push(Told::Committed(position, written.to_vec()));
        }
    }

    fn named(&self, tenant: TenantId) {
        self.push(Told::Named(tenant));
    }

    fn committed_unseen(&self) {
        self.push(Told::Unseen);
    }
}

fn request(lines: &[&str], on_error: OnError) -> IngestRequest {
    IngestRequest {
        body: Bytes::from(lines.join("\n")),
        format: BodyFormat::Ndjson,
        ack: Ack::Durable,
        on_error,
        idempotency_key: None,
        received_at: Timestamp::now(),
    }
}

const A: &str =
    r#"{"type":"device","id":"a","observed_at":"2024-01-01T00:00:00Z","attributes":{"n":1}}"#;
const B: &str =
    r#"{"type":"device","id":"b","observed_at":"2024-01-01T00:00:00Z","attributes":{"n":1}}"#;
const BAD: &str =
    r#"{"type":"device","id":"a","observed_at":"2024-01-02T00:00:00Z","attributes":{"n":"x"}}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_told_before_it_is_acknowledged_and_what_was_not_committed_never() -> Result<()>
{
    let world = World::create(true).await?;
    let listener = Arc::new(Listener::default());
    world
        .writer
        .tell(Arc::clone(&listener) as Arc<dyn CommitObserver>);
    let answer = world
        .writer
        .ingest(&world.scope, request(&[A], OnError::Partial))
        .await?;
    let told = listener.take();
    let [Told::Named(tenant), Told::Committed(position, written)] = told.as_slice() else {
        anyhow::bail!("told of {told:?}");
    };
    let [first] = written.as_slice() else {
        anyhow::bail!("told of {written:?}");
    };
    assert_eq!(
        Some(*position),
        answer.position,
        "the token has what was told"
    );
    let own = world.scope.tenant();
    assert_eq!((*tenant, first.tenant), (own, own));
    ensure!(first.is_first, "it had no document before");
    // Once more: nothing changes.
    world
        .writer
        .ingest(&world.scope, request(&[A], OnError::Partial))
        .await?;
    assert_eq!(listener.take(), []);
    // All or nothing, and one is bad.
    let refused = world
        .writer
        .ingest(&world.scope, request(&[B, BAD], OnError::Reject))
        .await;
    ensure!(!refused.is_ok_and(|answer| answer.counts.accepted > 0));
    assert_eq!(listener.written(), []);
    // An edit whose condition does not hold, and one whose does.
    let edit = |version| EditRequest {
        entity_type: "device".to_owned(),
        external_id: "a".to_owned(),
        op: Op::Patch,
        body: Bytes::from_static(br#"{"attributes":{"n":2}}"#),
        precondition: Some(Precondition::Version(version)),
        ack: Ack::Durable,
        observed_at: None,
        received_at: Timestamp::now(),
    };
    let failed = world.writer.edit(&world.scope, edit(7)).await;
    ensure!(failed.is_err(), "the version is another one");
    assert_eq!(listener.take(), []);
    world.writer.edit(&world.scope, edit(1)).await?;
    let again = WrittenEntity {
        is_first: false,
        ..*first
    };
    assert_eq!(listener.written(), [again]);
    // Another server writes: its own observer is told, and not this one.
    let another = world.another_writer().await?;
    another
        .ingest(&world.scope, request(&[B], OnError::Partial))
        .await?;
    assert_eq!(listener.take(), []);
    // This one learns that the name has a number before it writes under it.
    let update = B.replace("\"n\":1", "\"n\":2");
    world
        .writer
        .ingest(&world.scope, request(&[&update], OnError::Partial))
        .await?;
    let told = listener.take();
    let first_told = told.first().context("told of nothing")?;
    assert_eq!(*first_told, Told::Named(own));
    let [_, Told::Committed(_, written)] = told.as_slice() else {
        anyhow::bail!("told of {told:?}");
    };
    ensure!(written.len() == 1 && !written[0].is_first);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_write_whose_connection_breaks_it_is_told_that_anything_may_be_there() -> Result<()> {
    let world = World::create(true).await?;
    let listener = Arc::new(Listener::default());
    world
        .writer
        .tell(Arc::clone(&listener) as Arc<dyn CommitObserver>);
    let client = world.database.superuser().await?;
    let (mut killed, mut unseen) = (0, 0);
    for round in 0..20 {
        let lines: Vec<String> = (0..200)
            .map(|number| {
                let line = A.replace("\"id\":\"a\"", &format!("\"id\":\"a{number}\""));
                line.replace("2024-01-01", &format!("2024-01-{:02}", round + 1))
            })
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let write = world
            .writer
            .ingest(&world.scope, request(&lines, OnError::Partial));
        let kill = async {
            tokio::task::yield_now().await;
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE usename = 'sheaf_writer' AND datname = current_database() AND state = 'active'
                    AND query <> 'COMMIT'";
            // A backend is at work for a moment only.
            for _ in 0..50 {
                let terminated: i64 = client.query_one(sql, &[]).await?.get(0);
                if terminated > 0 {
                    return Ok(terminated);
                }
            }
            Ok::<i64, anyhow::Error>(0)
        };
        let (answer, terminated) = futures::join!(write, kill);
        let terminated = terminated?;
        killed += terminated.min(1);
        assert_eq!(answer?.counts.accepted, 200);
        let told = listener.take();
        let is_told = told.contains(&Told::Unseen);
        unseen += i64::from(is_told);
        let written: Vec<WrittenEntity> = told.into_iter().flat_map(Told::written).collect();
        ensure!(written.len() == 200 || is_told, "{written:?}");
    }
    println!("injected backend_killed: {killed}");
    ensure!(killed > 0, "no backend was at work");
    // At once, whether or not it was found to have come through. One that had just ended is missed by nobody.
    ensure!(2 * unseen >= killed, "of {killed}, {unseen} were told of");
    Ok(())
}
