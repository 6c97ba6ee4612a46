//! Large catalogues and many names: what arrives is typed and named rightly, by every server, in a bounded time.

mod world;

use std::time::Instant;

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use sheaf_ingest::{Ack, BodyFormat, IngestAnswer, IngestRequest, OnError, Writer};
use sheaf_model::Timestamp;
use sheaf_store::invariants;
use world::World;

async fn send(world: &World, writer: &Writer, body: String) -> Result<IngestAnswer> {
    let request = IngestRequest {
        body: Bytes::from(body),
        format: BodyFormat::Ndjson,
        ack: Ack::Durable,
        on_error: OnError::Partial,
        idempotency_key: None,
        received_at: Timestamp::now(),
    };
    Ok(writer.ingest(&world.scope, request).await?)
}

/// An event of one device with the attributes of these numbers.
fn event(device: usize, second: usize, attributes: impl Iterator<Item = usize>) -> String {
    let value = |n: usize| match n % 4 {
        0 => format!(r#""a{n}":{n}.5"#),
        1 => format!(r#""a{n}":"text {n}""#),
        2 => format!(r#""a{n}":true"#),
        _ => format!(r#""a{n}":{{"n":{n}}}"#),
    };
    let values: Vec<String> = attributes.map(value).collect();
    format!(
        r#"{{"type":"device","id":"d{device}","observed_at":"2024-01-01T00:00:{second:02}Z","attributes":{{{}}}}}"#,
        values.join(",")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_attributes_that_arrive_at_two_servers_are_typed_once_and_rightly()
-> Result<()> {
    let world = World::create(true).await?;
    let servers = [world.writer.clone(), world.another_writer().await?];
    let (world, servers, started) = (&world, &servers, Instant::now());
    // Each body has 100 attributes that are new, and the next body's, which another client sends at the same time.
    let client = async |client: usize| {
        for body in (client..100).step_by(8) {
            let events = (0..10).map(|n| event(body * 10 + n, 1, own(body, n)));
            let body = events.collect::<Vec<_>>().join("\n");
            let answer = send(world, &servers[client % 2], body).await?;
            assert_eq!((answer.counts.accepted, answer.counts.refused), (10, 0));
        }
        anyhow::Ok(())
    };
    try_join_all((0..8).map(client)).await?;
    let grown = started.elapsed();
    let types = "SELECT string_agg(type || ' ' || n, ', ' ORDER BY type) FROM
        (SELECT type, count(*) AS n FROM sheaf.attributes GROUP BY type) t";
    assert_eq!(
        world.text(types).await?,
        "bool 2500, float 2500, json 2500, text 2500"
    );
    // As wide as events may be, at both servers.
    let wide = (0..10).map(|n| event(n, 2, n * 1_000..(n + 1) * 1_000));
    let wide: Vec<String> = wide.collect();
    let started = Instant::now();
    for (server, half) in servers.iter().zip(wide.chunks(5)) {
        let answer = send(world, server, half.join("\n")).await?;
        assert_eq!((answer.counts.accepted, answer.counts.refused), (5, 0));
    }
    let written = started.elapsed();
    // One value of another type, one attribute too many, and one event that is too wide.
    let bad = [
        r#"{"type":"device","id":"d0","observed_at":"2024-01-01T00:00:03Z","attributes":{"a0":"text","a1":"text"}}"#.to_owned(),
        event(1, 3, 10_000..10_001),
        event(2, 3, 0..1_001),
    ];
    let answer = send(world, &servers[1], bad.join("\n")).await?;
    let mut codes: Vec<String> = answer.rejected.iter().map(|r| r.code.to_string()).collect();
    codes.sort();
    assert_eq!(
        codes,
        ["quota_exceeded", "too_many_attributes", "type_mismatch"]
    );
    let client = world.database.superuser().await?;
    // Without statistics the joins with the catalogue compare every value with every attribute.
    client.batch_execute("ANALYZE").await?;
    let check = invariants::check_documents(&client, i64::MAX).await?;
    ensure!(check.documents >= 1_000, "no document was compared");
    assert_eq!(check.violations, []);
    assert_eq!(invariants::check(&client).await?, []);
    #[expect(clippy::print_stdout, reason = "the test harness shows it")]
    {
        println!("10,000 attributes in 100 bodies: {grown:?}; 10 events of 1,000: {written:?}");
    }
    Ok(())
}

/// Ten of a body's attributes, and ten of those that another of its events or the next body has.
fn own(body: usize, n: usize) -> impl Iterator<Item = usize> {
    let first = body * 100 + n * 10;
    let next = (first + 50) % 10_000;
    (first..first + 10).chain(next..next + 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_two_servers_see_first_at_the_same_time_get_one_number_each() -> Result<()> {
    let world = World::create(true).await?;
    let servers = [world.writer.clone(), world.another_writer().await?];
    let started = Instant::now();
    for batch in 0..2 {
        let names: Vec<usize> = (batch * 5_000..(batch + 1) * 5_000).collect();
        let body = |server: usize| {
            let line = |n: &usize| event(*n, server, 1..2);
            let lines: Vec<String> = match server {
                0 => names.iter().map(line).collect(),
                _ => names.iter().rev().map(line).collect(),
            };
            lines.join("\n")
        };
        let (one, other) = tokio::try_join!(
            send(&world, &servers[0], body(0)),
            send(&world, &servers[1], body(1)),
        )?;
        for answer in [one, other] {
            assert_eq!(answer.counts.accepted, 5_000);
        }
    }
    let took = started.elapsed();
    let counted = "SELECT (SELECT count(*) FROM sheaf.entities) || ' ' || (SELECT count(*) FROM sheaf.entity_jsonb)
        || ' ' || (SELECT count(*) FROM (SELECT entity_id FROM sheaf.entity_events GROUP BY 1 HAVING count(*) = 2) e)";
    assert_eq!(world.text(counted).await?, "10000 10000 10000");
    #[expect(clippy::print_stdout, reason = "the test harness shows it")]
    {
        println!("10,000 new names at two servers: {took:?}");
    }
    Ok(())
}
