//! What an observer of commits is told: each of them before it is acknowledged, and nothing that was not committed.

mod world;

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use sheaf_ingest::{
    Ack, BodyFormat, CommitObserver, EditRequest, IngestRequest, OnError, Precondition,
};
use sheaf_model::{EntityId, Op, Position, TenantId, Timestamp, WrittenEntity};
use world::World;

/// What was told, in order.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    Named { are_new: bool },
    Committed(Position, Vec<EntityId>),
}

#[derive(Default)]
struct Listener {
    tenant: Mutex<Option<TenantId>>,
    told: Mutex<Vec<Told>>,
}

impl Listener {
    fn push(&self, tenant: TenantId, told: Told) {
        *self.tenant.lock().expect("not poisoned") = Some(tenant);
        self.told.lock().expect("not poisoned").push(told);
    }

    /// What was told since this was last asked.
    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut *self.told.lock().expect("not poisoned"))
    }

    fn entities(&self) -> Vec<EntityId> {
        let told = self.take().into_iter();
        told.flat_map(|told| match told {
            Told::Committed(_, entities) => entities,
            Told::Named { .. } => Vec::new(),
        })
        .collect()
    }
}

impl CommitObserver for Listener {
    fn committed(&self, position: Position, written: &[WrittenEntity]) {
        if let Some(first) = written.first() {
            let entities = written.iter().map(|written| written.entity).collect();
            self.push(first.tenant, Told::Committed(position, entities));
        }
    }

    fn named(&self, tenant: TenantId, are_new: bool) {
        self.push(tenant, Told::Named { are_new });
    }

    fn committed_unseen(&self) {
        panic!("every commit was answered");
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
    let [
        Told::Named { are_new: true },
        Told::Committed(position, first),
    ] = told.as_slice()
    else {
        anyhow::bail!("told of {told:?}");
    };
    ensure!(first.len() == 1);
    assert_eq!(
        Some(*position),
        answer.position,
        "the token has what was told"
    );
    assert_eq!(
        *listener.tenant.lock().expect("not poisoned"),
        Some(world.scope.tenant())
    );
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
    assert_eq!(listener.entities(), []);
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
    assert_eq!(listener.entities(), *first);
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
    assert_eq!(*first_told, Told::Named { are_new: false });
    ensure!(matches!(told[1], Told::Committed(_, _)));
    Ok(())
}
