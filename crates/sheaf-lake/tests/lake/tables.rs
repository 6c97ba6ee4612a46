//! What is done to tables of PostgreSQL, other than adding rows, as the lake has it.

use anyhow::{Context, Result, ensure};
use sheaf_cdc::status::SinkState;
use sheaf_testkit::{Injected, wait_until};

use crate::streamed::{Running, Source, WITHIN, line};

async fn streaming(source: &Source) -> Result<Running> {
    let mut running = source.stream()?;
    let streaming = running
        .status
        .wait_for(|status| status.sinks[0].state == SinkState::Streaming);
    tokio::time::timeout(WITHIN, streaming).await??;
    Ok(running)
}

/// Nine kilobytes that are kept beside their row, and that an update of another column does not send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_value_that_an_update_does_not_send_stays_what_it_was_and_columns_may_come()
-> Result<()> {
    let unsent = Injected::new("update that does not send a long value");
    let altered = Injected::new("column added while changes are followed");
    let source = Source::create().await?;
    source.ingest(vec![line(1, 1, r#"{"a":1}"#)]).await?;
    let schema = |length: usize| {
        format!(
            "UPDATE sheaf.attributes SET schema = (SELECT jsonb_build_object('title', string_agg(md5(n::text), '')) FROM generate_series(1, {length}) n)"
        )
    };
    let said = |column: &str, value: &str| {
        format!("UPDATE sheaf.attributes SET {column} = '{value}' WHERE name = 'a'")
    };
    source.execute(&schema(300)).await?;
    let client = source.world.database.superuser().await?;
    let wanted = async || -> Result<serde_json::Value> {
        let sql = "SELECT schema::text FROM sheaf.attributes WHERE name = 'a'";
        let text: String = client.query_one(sql, &[]).await?.get(0);
        Ok(serde_json::from_str(&text)?)
    };
    ensure!(wanted().await?.to_string().len() > 9_000);
    let mut running = streaming(&source).await?;
    // Of a row that came by the snapshot, of one that was streamed, in one transaction with it, and after a restart.
    for (round, statements) in [
        said("description", "first"),
        format!("{}; {}", said("description", "second"), said("unit", "m")),
        "ALTER TABLE sheaf.attributes ADD COLUMN further text DEFAULT 'x'".to_owned(),
        said("description", "third"),
        format!("BEGIN; {}; {}; COMMIT", schema(400), said("unit", "s")),
        "ALTER TABLE sheaf.entity_events ADD COLUMN further bigint DEFAULT 5".to_owned(),
        said("unit", "kg"),
    ]
    .iter()
    .enumerate()
    {
        source.execute(statements).await?;
        if statements.contains("ALTER") {
            altered.count();
        } else {
            unsent.count();
        }
        source
            .ingest(vec![line(2 + round, 1, r#"{"a":2,"b":"x"}"#)])
            .await?;
        source.require_all_once().await?;
        let row = client
            .query_one(
                "SELECT description, unit FROM sheaf.attributes WHERE name = 'a'",
                &[],
            )
            .await?;
        let stored: [Option<String>; 2] = [row.get(0), row.get(1)];
        let here = async || -> Result<Option<crate::world::Row>> {
            let rows = source.world.rows("sheaf", "attributes").await?;
            Ok(rows.into_iter().find(|row| row["name"] == "a"))
        };
        wait_until("the lake has the last description", WITHIN, async || {
            here().await.is_ok_and(|row| {
                row.is_some_and(|row| {
                    ["description", "unit"].map(|name| row.get(name).cloned()) == stored
                })
            })
        })
        .await;
        let row = here().await?.context("the attribute")?;
        let schema: serde_json::Value = serde_json::from_str(&row["schema"])?;
        assert_eq!(schema, wanted().await?, "after {statements}");
        if round == 4 {
            running.stop.send_replace(true);
            running.task.await?;
            running = streaming(&source).await?;
        }
    }
    assert_eq!(running.status.borrow().sinks[0].failures, 0);
    running.stop.send_replace(true);
    running.task.await?;
    unsent.require();
    altered.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_detached_dropped_or_truncated_stays_in_the_lake() -> Result<()> {
    let taken_out = Injected::new("statement that takes events away from PostgreSQL");
    let source = Source::create().await?;
    source
        .ingest((0..60).map(|n| line(n, n, r#"{"a":1,"b":"x"}"#)).collect())
        .await?;
    let running = streaming(&source).await?;
    source.require_all_once().await?;
    // These come by the stream.
    source
        .ingest((60..90).map(|n| line(n, n, r#"{"a":1,"b":"x"}"#)).collect())
        .await?;
    source.require_all_once().await?;
    let facts = source.world.facts("sheaf").await?;
    assert_eq!(facts.len(), 2 * 90);
    let client = source.world.database.superuser().await?;
    let name: String = client
        .query_one(
            "SELECT min(partition_name) FROM sheaf.list_attached_partitions()",
            &[],
        )
        .await?
        .get(0);
    let entity = "SELECT min(entity_id) FROM sheaf.entities";
    let entity: i64 = client.query_one(entity, &[]).await?.get(0);
    for (number, statement) in [
        "DELETE FROM sheaf.entity_events WHERE entity_id % 2 = 0".to_owned(),
        "TRUNCATE sheaf.entity_events".to_owned(),
        format!("ALTER TABLE sheaf.entity_events DETACH PARTITION sheaf.{name} CONCURRENTLY"),
        format!("TRUNCATE sheaf.{name}"),
        format!("DROP TABLE sheaf.{name}"),
    ]
    .into_iter()
    .enumerate()
    {
        source.execute(&statement).await?;
        taken_out.count();
        // What comes after it is there, and so it was passed.
        source
            .execute(&format!(
                "INSERT INTO sheaf.entity_events_late SELECT tenant_id, {entity}, '2024-02-27T10:00:0{number}Z', 16384, 'p', gen_random_uuid(),
                     now(), jsonb_build_object(attribute_id, 'after {number}') FROM sheaf.attributes WHERE name = 'b'"
            ))
            .await?;
        let mark = format!("value_text=after {number}");
        wait_until("what comes after it is in the lake", WITHIN, async || {
            let found = source.world.facts("sheaf").await;
            found.is_ok_and(|found| found.iter().any(|fact| fact.ends_with(&mark)))
        })
        .await;
        let mut found = source.world.facts("sheaf").await?;
        found.retain(|fact| !fact.contains("value_text=after "));
        assert_eq!(found, facts, "after {statement}");
    }
    assert_eq!(running.status.borrow().slots_made, 1);
    running.stop.send_replace(true);
    running.task.await?;
    taken_out.require();
    Ok(())
}
