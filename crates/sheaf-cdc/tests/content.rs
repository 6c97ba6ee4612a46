//! What a real server sends, and what of it arrives: every kind of message, long values, tables that change, partitions that go,
//! transactions that are large or come to nothing.

mod world;

use anyhow::{Context, Result};
use sheaf_cdc::conformance::{Place, check};
use sheaf_cdc::file::FileSink;
use sheaf_cdc::pgoutput::{Message, Value, decode};
use sheaf_cdc::sink::Sink;
use sheaf_cdc::status::SinkState;
use sheaf_model::{ChangePosition, Timestamp};
use sheaf_testkit::{Injected, ScratchDir, TestDatabase, wait_until};
use world::{WITHIN, World, event, table};

#[tokio::test]
async fn what_a_server_sends_is_decoded_message_by_message() -> Result<()> {
    let database = TestDatabase::create().await?;
    let client = database.superuser().await?;
    client
        .batch_execute(
            "CREATE TABLE public.all_kinds (key bigint PRIMARY KEY, long text, small smallint, number double precision, flag boolean,
                 at timestamptz, id uuid, doc jsonb, letter \"char\", empty text);
             CREATE TYPE public.mood AS ENUM ('well', 'sick');
             CREATE TABLE public.whole (a int, b public.mood);
             ALTER TABLE public.whole REPLICA IDENTITY FULL;
             CREATE PUBLICATION every_kind FOR TABLE public.all_kinds, public.whole",
        )
        .await?;
    let slot = format!("decode_{}", database.name());
    client
        .query(
            "SELECT pg_create_logical_replication_slot($1, 'pgoutput')",
            &[&slot],
        )
        .await?;
    client
        .batch_execute(
            "INSERT INTO public.all_kinds VALUES (7, (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) n), -3, 1.5, true,
                 '2024-02-29T12:00:00Z', '00000000-0000-0000-0000-000000000009', '{\"k\": [1, null]}', 'p', NULL);
             UPDATE public.all_kinds SET small = 4;
             UPDATE public.all_kinds SET key = 8;
             DELETE FROM public.all_kinds;
             INSERT INTO public.whole VALUES (1, 'well');
             UPDATE public.whole SET b = 'sick';
             DELETE FROM public.whole;
             SELECT pg_logical_emit_message(true, 'sheaf', 'within');
             SELECT pg_logical_emit_message(false, 'sheaf', 'between');
             TRUNCATE public.all_kinds, public.whole RESTART IDENTITY CASCADE",
        )
        .await?;
    for binary in ["true", "false"] {
        let rows = client
            .query(
                "SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'proto_version', '1',
                     'publication_names', 'every_kind', 'messages', 'true', 'binary', $2)",
                &[&slot, &binary],
            )
            .await?;
        let mut kinds = String::new();
        for row in &rows {
            let bytes: &[u8] = row.get(0);
            let message = decode(bytes).with_context(|| format!("{bytes:?}"))?;
            kinds.push(char::from(bytes[0]));
            match &message {
                Message::Insert { row, .. } if row.values.len() == 10 => {
                    let [key, .., letter, empty] = row.values.as_slice() else {
                        panic!("{message:?}")
                    };
                    let (seven, p) = (7i64.to_be_bytes(), b"p");
                    let (wanted, wanted_letter) = match binary {
                        "true" => (Value::Binary(&seven), Value::Binary(p)),
                        _ => (Value::Text(b"7"), Value::Text(p)),
                    };
                    assert_eq!(
                        (*key, *letter, *empty),
                        (wanted, wanted_letter, Value::Null)
                    );
                }
                Message::Update { before, row, .. } if row.values.len() == 10 => {
                    assert_eq!(
                        row.values[1],
                        Value::Unchanged,
                        "a long value that did not change"
                    );
                    let is_of_key = before.is_some();
                    assert_eq!(is_of_key, row.values[0] == decoded_key(8, binary));
                }
                Message::Logical {
                    transactional,
                    prefix,
                    content,
                    ..
                } => {
                    let wanted = if *transactional {
                        &b"within"[..]
                    } else {
                        b"between"
                    };
                    assert_eq!((*prefix, *content), ("sheaf", wanted));
                }
                Message::Truncate {
                    relations,
                    cascade,
                    restart_identity,
                } => assert_eq!(
                    (relations.len(), cascade, restart_identity),
                    (2, &true, &true)
                ),
                _ => {}
            }
            for length in 0..bytes.len() {
                assert!(
                    decode(&bytes[..length]).is_err(),
                    "{message:?} cut to {length}"
                );
            }
        }
        for kind in "BCRYIUDTM".chars() {
            assert!(kinds.contains(kind), "{kind} is not among {kinds}");
        }
    }
    Ok(())
}

fn decoded_key(key: i64, binary: &str) -> Value<'static> {
    match (key, binary) {
        (8, "true") => Value::Binary(&[0, 0, 0, 0, 0, 0, 0, 8]),
        _ => Value::Text(b"8"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalogues_end_at_their_last_state_and_long_values_are_kept() -> Result<()> {
    let world = World::create().await?;
    world.ingest(&[event(1, 1, 1)]).await?;
    let long = "SELECT jsonb_build_object('k', string_agg(md5(n::text), '')) FROM generate_series(1, 1000) n";
    world
        .execute(&format!(
            "UPDATE sheaf.attributes SET schema = ({long}) WHERE name = 'a'"
        ))
        .await?;
    let mut running = world.stream(world.options(), vec![world.file_sink("file")]);
    for (round, statement) in [
        "UPDATE sheaf.attributes SET description = 'first' WHERE name = 'a'",
        "UPDATE sheaf.attributes SET description = 'second', unit = 'm' WHERE name = 'a'",
        "UPDATE sheaf.tenants SET catalogue_version = catalogue_version + 1",
        "UPDATE sheaf.attributes SET description = 'third' WHERE name = 'b'",
    ]
    .into_iter()
    .enumerate()
    {
        world.execute(statement).await?;
        // Some while the snapshot is read, some after it.
        if round == 1 {
            running
                .wait_for("it streams", |status| {
                    status.sinks[0].state == SinkState::Streaming
                })
                .await;
        }
    }
    world.ingest(&[event(2, 2, 2)]).await?;
    world.require_all_events_once("file").await?;
    for (of, key) in [
        ("tenants", "tenant_id"),
        ("attributes", "attribute_id"),
        ("entities", "entity_id"),
    ] {
        let client = world.database.superuser().await?;
        let rows = client
            .query(
                &format!("SELECT {key}, to_jsonb(t)::text FROM sheaf.{of} t"),
                &[],
            )
            .await?;
        let found = world.catalogue("file", of, key)?;
        assert_eq!(found.len(), rows.len(), "{of}");
        for row in rows {
            let (number, stored): (i64, String) = (row.get(0), row.get(1));
            let stored: serde_json::Value = serde_json::from_str(&stored)?;
            for (name, value) in stored.as_object().context("a row")? {
                let there = &found[&number][name];
                let is_same = match value {
                    serde_json::Value::Object(_) => {
                        serde_json::from_str::<serde_json::Value>(there.as_str().context("text")?)?
                            == *value
                    }
                    serde_json::Value::String(text)
                        if name.ends_with("_at") || name.ends_with("_min") =>
                    {
                        Timestamp::parse(text)?.0
                            == Timestamp::parse(there.as_str().context("text")?)?.0
                    }
                    value => value == there,
                };
                assert!(is_same, "{of}.{name} of {number}: {there} and not {value}");
            }
        }
    }
    running.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_is_added_under_load_needs_no_restart() -> Result<()> {
    let world = World::create().await?;
    let mut running = world.stream(world.options(), vec![world.file_sink("file")]);
    running
        .wait_for("it streams", |status| {
            status.sinks[0].state == SinkState::Streaming
        })
        .await;
    world.ingest(&[event(1, 1, 1)]).await?;
    world
        .execute("ALTER TABLE sheaf.entity_events ADD COLUMN further text DEFAULT 'x'; ALTER TABLE sheaf.entities ADD COLUMN further point")
        .await?;
    world.ingest(&[event(2, 2, 2)]).await?;
    world
        .execute("ALTER TABLE sheaf.entity_events DROP COLUMN further")
        .await?;
    world.ingest(&[event(3, 3, 3)]).await?;
    world.require_all_events_once("file").await?;
    let names = world.catalogue("file", "entities", "entity_id")?;
    let with: Vec<bool> = names
        .values()
        .map(|row| row.get("further").is_some())
        .collect();
    assert_eq!(with, [false, true, true]);
    running.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_are_detached_dropped_or_made_are_no_changes() -> Result<()> {
    let world = World::create().await?;
    world
        .ingest(&[event(1, 0, 1), event(1, 1, 1), event(1, 2, 1)])
        .await?;
    let mut running = world.stream(world.options(), vec![world.file_sink("file")]);
    running
        .wait_for("it streams", |status| {
            status.sinks[0].state == SinkState::Streaming
        })
        .await;
    let partition = world
        .text("SELECT min(partition_name) FROM sheaf.list_attached_partitions()")
        .await?;
    // Written and gone before it was ever read.
    world.ingest(&[event(7, 3, 1)]).await?;
    let taken_out = Injected::new("partition detached and dropped");
    for statement in [
        format!("ALTER TABLE sheaf.entity_events DETACH PARTITION sheaf.{partition} CONCURRENTLY"),
        format!("DELETE FROM sheaf.{partition}"),
        format!("DROP TABLE sheaf.{partition}"),
    ] {
        world.execute(&statement).await?;
    }
    taken_out.count();
    world.ingest(&[event(1, 0, 2), event(1, 1, 2)]).await?;
    world
        .execute(
            "DELETE FROM sheaf.entity_events WHERE seq = 1; TRUNCATE sheaf.entity_values_ingest",
        )
        .await?;
    world.ingest(&[event(5, 1, 2)]).await?;
    let count = async || {
        let lines = world.lines("file")?;
        let events = lines.iter().filter(|line| table(line) == "entity_events");
        anyhow::Ok(events.count())
    };
    wait_until("all that was ever written arrives", WITHIN, async || {
        count().await.is_ok_and(|found| found >= 7)
    })
    .await;
    world.wait_confirmed().await?;
    assert_eq!(count().await?, 7);
    assert!(world.lines("file")?.iter().all(|line| line["op"] != "d"));
    assert_eq!(running.status.borrow().ignored, 0, "not even sent");
    running.stop().await?;
    taken_out.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_detached_under_a_snapshot_makes_it_begin_anew() -> Result<()> {
    let world = World::create().await?;
    let lines: Vec<String> = (0..600).map(|n| event(n, n, n)).collect();
    world.ingest(&lines).await?;
    let (sink, mood) = world::Moody::over(&world, "file");
    // In the middle of the events of the first partition.
    mood.stand(world::StandAt::AfterApply, 18);
    let running = world.stream(world.options(), vec![sink]);
    wait_until("the sink stands still", WITHIN, async || mood.stands()).await;
    running.kill().await;
    let place = world
        .text("SELECT step || ' ' || step_range FROM sheaf.change_sinks")
        .await?;
    assert_eq!(place, "events 0");
    let detached = Injected::new("partition detached under a snapshot");
    let partition = world
        .text("SELECT min(partition_name) FROM sheaf.list_attached_partitions()")
        .await?;
    world
        .execute(&format!(
            "ALTER TABLE sheaf.entity_events DETACH PARTITION sheaf.{partition} CONCURRENTLY"
        ))
        .await?;
    detached.count();
    let running = world.stream(world.options(), vec![world.file_sink("file")]);
    world.require_all_events_once("file").await?;
    running.stop().await?;
    detached.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_is_streamed_in_parts_and_one_that_is_aborted_never() -> Result<()> {
    let world = World::create().await?;
    world.ingest(&[event(1, 2, 1)]).await?;
    let mut running = world.stream(world.options(), vec![world.file_sink("file")]);
    running
        .wait_for("it streams", |status| {
            status.sinks[0].state == SinkState::Streaming
        })
        .await;
    let insert = |count: usize, entity: usize| {
        format!(
            "INSERT INTO sheaf.entity_events SELECT t.tenant_id, {entity}, '2024-02-01Z'::timestamptz + interval '1 second' * n, 0, 'p',
                 gen_random_uuid(), now(), '{{\"1\": 1}}' FROM sheaf.tenants t, generate_series(1, {count}) n"
        )
    };
    let aborted = Injected::new("large transaction aborted");
    world
        .execute(&format!("BEGIN; {}; ROLLBACK", insert(200_000, 700)))
        .await?;
    aborted.count();
    world.execute(&insert(30_000, 701)).await?;
    world.require_all_events_once("file").await?;
    running
        .wait_for("it is all told", |status| status.changes >= 30_000)
        .await;
    let status = running.status.borrow().clone();
    assert!(status.changes < 40_000, "{status:?}");
    let options = world.options();
    let bound = (options.queue_batches + 3) * options.batch_changes_max;
    assert!(
        status.buffered_changes_max > 0 && status.buffered_changes_max <= bound,
        "{} of at most {bound}",
        status.buffered_changes_max
    );
    running.stop().await?;
    aborted.require();
    Ok(())
}

/// A file that is opened anew for each sink over it.
struct FilePlace(ScratchDir);

impl Place for FilePlace {
    fn open(&self) -> Box<dyn Sink> {
        Box::new(FileSink::new("file", &self.0.path().join("file")))
    }

    fn found(&self) -> std::pin::Pin<Box<dyn Future<Output = Vec<ChangePosition>> + '_>> {
        Box::pin(async {
            let text = std::fs::read_to_string(self.0.path().join("file")).expect("a file");
            let position = |line: &str| {
                let line: serde_json::Value = serde_json::from_str(line).expect("a line");
                let position = line["source"]["position"]
                    .as_str()
                    .expect("a position")
                    .to_owned();
                position.parse().expect("a position")
            };
            text.lines().map(position).collect()
        })
    }

    fn keeps_order(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_file_conforms_to_what_a_sink_has_to_do() -> Result<()> {
    check(&FilePlace(ScratchDir::new("conforming")?)).await?;
    Ok(())
}
