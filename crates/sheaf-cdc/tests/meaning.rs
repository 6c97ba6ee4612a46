//! Catalogues that change while events are under way: each row of them comes where it was written, before what it says something
//! of, and tables that are altered are read on without a restart.

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use serde_json::Value;
use sheaf_model::{AttributeType, ChangePosition, Timestamp};
use sheaf_store::catalogue::{Description, NewAttribute, Temperature, declare_attribute};
use sheaf_testkit::{Injected, wait_until};
use world::{WITHIN, World, event, table};

/// What a line is about and where it is, in a few words.
fn word(line: &Value) -> Option<(ChangePosition, String)> {
    let position = line["source"]["position"].as_str()?.parse().ok()?;
    let after = &line["after"];
    let word = match table(line) {
        "attributes" => format!("{} in {}", after["name"].as_str()?, after["unit"]),
        "entity_events" => format!("event of {}", after["attrs"].as_str()?),
        _ => return None,
    };
    Some((position, word))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attribute_that_is_declared_or_described_anew_comes_between_the_events_around_it()
-> Result<()> {
    let changed = Injected::new("attribute changed between two events");
    let world = World::create().await?;
    let sinks = vec![world.file_sink("file")];
    let running = world.streaming(world.options(), sinks).await;
    let write = |id: &str, attribute: &str, value: i64| {
        [format!(
            r#"{{"type":"device","id":"{id}","observed_at":"2024-02-05T00:00:00Z","attributes":{{"{attribute}":{value}}}}}"#
        )]
    };
    world.ingest(&write("d1", "heat", 1)).await?;
    for unit in ["degF", "degC"] {
        let describe = format!("UPDATE sheaf.attributes SET unit = '{unit}' WHERE name = 'heat'");
        world.execute(&describe).await?;
        changed.count();
        world
            .ingest(&write(&format!("in {unit}"), "heat", 2))
            .await?;
    }
    let declared = NewAttribute {
        name: "count".to_owned(),
        kind: AttributeType::Int,
        temperature: Temperature::Cold,
    };
    let description = Description {
        unit: Some("1".to_owned()),
        ..Description::default()
    };
    let now = Timestamp::now();
    declare_attribute(&world.app, &world.scope, &declared, &description, now).await?;
    changed.count();
    world.ingest(&write("d2", "count", 7)).await?;
    world.require_all_events_once("file").await?;
    let number = async |name: &str| {
        let sql = format!("SELECT attribute_id::text FROM sheaf.attributes WHERE name = '{name}'");
        world.text(&sql).await
    };
    let (heat, count) = (number("heat").await?, number("count").await?);
    let mut words: Vec<(ChangePosition, String)> =
        world.lines("file")?.iter().filter_map(word).collect();
    words.sort();
    let words: Vec<&str> = words.iter().map(|(_, word)| word.as_str()).collect();
    let (first, later) = (
        format!(r#"event of {{"{heat}": 1.0}}"#),
        format!(r#"event of {{"{heat}": 2.0}}"#),
    );
    let counted = format!(r#"event of {{"{count}": 7}}"#);
    let expected = [
        "heat in null",
        &first,
        "heat in \"degF\"",
        &later,
        "heat in \"degC\"",
        &later,
        "count in \"1\"",
        &counted,
    ];
    assert_eq!(words, expected);
    running.stop().await?;
    changed.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_are_added_to_events_and_attributes_under_load_need_no_restart() -> Result<()>
{
    let altered = Injected::new("table altered under load");
    let world = Arc::new(World::create().await?);
    world.ingest(&[event(1, 1, 1)]).await?;
    let sinks = vec![world.file_sink("file")];
    let running = world.streaming(world.options(), sinks).await;
    let stop = Arc::<AtomicBool>::default();
    let load = {
        let (world, stop) = (Arc::clone(&world), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut round = 1;
            while !stop.load(Ordering::SeqCst) {
                round += 1;
                let lines: Vec<String> = (0..5).map(|n| event(n, round, round)).collect();
                world.ingest(&lines).await?;
            }
            anyhow::Ok(round)
        })
    };
    for (number, statement) in [
        "ALTER TABLE sheaf.entity_events ADD COLUMN further text DEFAULT 'x'",
        "ALTER TABLE sheaf.attributes ADD COLUMN further bigint DEFAULT 5",
        "ALTER TABLE sheaf.attributes ADD COLUMN precise numeric DEFAULT 1.5",
        "ALTER TABLE sheaf.entity_events DROP COLUMN further",
    ]
    .into_iter()
    .enumerate()
    {
        let events = format!(
            "SELECT (count(*) > {})::text FROM sheaf.entity_events",
            number * 40
        );
        wait_until("events are written", WITHIN, async || {
            world.text(&events).await.is_ok_and(|is_so| is_so == "true")
        })
        .await;
        let patient = format!("SET lock_timeout = '20s'; {statement}");
        world.execute(&patient).await?;
        altered.count();
        let describe =
            format!("UPDATE sheaf.attributes SET description = 'after {number}' WHERE name = 'a'");
        world.execute(&describe).await?;
    }
    stop.store(true, Ordering::SeqCst);
    load.await??;
    world.require_all_events_once("file").await?;
    let described = async || {
        let attributes = world.catalogue("file", "attributes", "attribute_id")?;
        let row = attributes.into_values().find(|row| row["name"] == "a");
        row.context("an attribute")
    };
    wait_until("the last description is there", WITHIN, async || {
        described()
            .await
            .is_ok_and(|row| row["description"] == "after 3")
    })
    .await;
    let row = described().await?;
    assert_eq!(row["further"], 5);
    assert!(
        row["precise"].is_string(),
        "of a type that is not known: its bytes"
    );
    let status = running.status.borrow().clone();
    assert_eq!((status.slots_made, status.sinks[0].failures), (1, 0));
    running.stop().await?;
    altered.require();
    Ok(())
}
