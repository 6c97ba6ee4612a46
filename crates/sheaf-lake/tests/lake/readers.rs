//! Readers that are not ours find in the tables what was written, by their files and by the catalogue, before and after more
//! of it.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sheaf_cdc::change::{Batch, Catalogue};
use sheaf_cdc::column::ColumnValue;
use sheaf_cdc::sink::Sink;
use sheaf_model::{Op, Timestamp};
use tokio_postgres::config::Host;

use crate::world::{World, attribute, catalogue_row, entity, event, position, transaction};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lake/readers.py");
pub(crate) const PYTHON: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/venv/bin/python");

async fn ask(world: &World) -> Result<Value> {
    let mut locations = BTreeMap::new();
    for table in [
        "facts",
        "facts_corrected",
        "entities",
        "attributes",
        "tenants",
        "keyframes",
    ] {
        locations.insert(table, world.location("sheaf", table).await?);
    }
    let config = world.database.superuser_config();
    let Some(Host::Unix(socket_dir)) = config.get_hosts().first() else {
        anyhow::bail!("the cluster of tests listens on a socket");
    };
    let uri = format!(
        "postgresql+psycopg2://{}@/{}?host={}&port={}&options=-csearch_path%3Dsheaf",
        config.get_user().context("a user")?,
        world.database.name(),
        socket_dir.display(),
        config.get_ports().first().context("a port")?
    );
    let output = Command::new(PYTHON)
        .args([SCRIPT, &serde_json::to_string(&locations)?, &uri])
        .output()
        .with_context(|| format!("{PYTHON}: scripts/bootstrap.sh --test installs it"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Every reader found this.
fn require(found: &Value, wanted: &Value) {
    for reader in ["pyiceberg", "pyiceberg by catalogue", "duckdb"] {
        for (name, wanted) in wanted.as_object().expect("an object") {
            assert_eq!(&found[reader][name], wanted, "{name} by {reader}");
        }
    }
}

/// Fifty entities, each with a value of every type at one instant.
fn day(commit_lsn: u64, date: &str, entities: std::ops::Range<i64>) -> Batch {
    let rows = entities.map(|number| {
        let cents = format!("{number}.25");
        let attrs = format!(
            r#"{{"1":{number},"2":{cents},"3":{cents},"4":"text {}","5":{},"6":"{date}T00:00:00Z","7":[{number}]}}"#,
            number % 3,
            number % 2 == 0,
        );
        event(number, &format!("{date}T00:00:{:02}Z", number % 60), 0, Op::Patch, &attrs)
    });
    transaction(commit_lsn, rows.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn pyiceberg_and_duckdb_find_what_was_written_before_and_after_a_second_commit() -> Result<()>
{
    let world = World::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let tenant = catalogue_row(
        Catalogue::Tenants,
        true,
        &[
            ("tenant_id", ColumnValue::Int(1)),
            ("name", ColumnValue::Text("acme".to_owned())),
        ],
    );
    let time = |text| ColumnValue::Time(Timestamp::parse(text).expect("a time").0);
    let json = |text: &str| ColumnValue::Json(text.to_owned());
    let keyframe = catalogue_row(
        Catalogue::Keyframes,
        true,
        &[
            ("tenant_id", ColumnValue::Int(1)),
            ("entity_id", ColumnValue::Int(5)),
            ("at", time("2024-01-01T00:00:00Z")),
            ("newest", time("2023-12-31T00:00:00Z")),
            ("floor_at", ColumnValue::Null),
            ("deleted", ColumnValue::Bool(false)),
            ("attrs", json(r#"{"1":7,"4":"a text"}"#)),
            (
                "times",
                json(r#"{"1":1703980800000000,"4":1703980800000000}"#),
            ),
        ],
    );
    let mut names = vec![
        tenant,
        keyframe,
        attribute(101, true, "m", ColumnValue::Null),
    ];
    names.extend((0..50).map(entity));
    sink.apply(&transaction(15, names)).await?;
    sink.apply(&day(20, "2024-02-29", 0..50)).await?;
    sink.flush().await?;
    let found = ask(&world).await?;
    assert_eq!(
        found["listed"],
        json!([
            "lake.attributes",
            "lake.entities",
            "lake.facts",
            "lake.facts_corrected",
            "lake.keyframes",
            "lake.tenants"
        ])
    );
    require(
        &found,
        &json!({
            "facts": 350, "int": 1225, "float": 1237.5, "decimal": "1237.500000000000", "texts": 3, "true": 25, "removed": 0,
            "ids": 50, "first": "2024-02-29T00:00:00+00:00", "last": "2024-02-29T00:00:49+00:00", "batches": 1, "entities": 50,
            "attributes": ["number 101"], "tenants": 1, "one_day": 350, "one_attribute": 50,
            // Of a keyframe a row for each value, and one for itself.
            "keyframes": 3, "keyframes_int": 7, "keyframes_at": "2024-01-01T00:00:00+00:00",
        }),
    );
    // More entities on another day, a correction, a removal, and a row of a catalogue replaced.
    sink.apply(&day(30, "2024-03-01", 0..60)).await?;
    let rows = vec![
        attribute(101, false, "km", ColumnValue::Null),
        attribute(102, true, "s", ColumnValue::Null),
        event(7, "2024-02-29T00:00:07Z", 1, Op::Correct, r#"{"1":1000}"#),
        event(7, "2024-02-29T00:00:08Z", 0, Op::Patch, r#"{"1":null}"#),
        event(7, "2024-02-29T00:00:09Z", 0, Op::Delete, "{}"),
    ];
    sink.apply(&transaction(40, rows)).await?;
    sink.flush().await?;
    // The correction waits: nobody sees both values.
    let found = ask(&world).await?;
    let both =
        json!({"facts": 350 + 420 + 2, "int": 1225 + 1770, "corrected": 0, "values_per_fact": 1});
    require(&found, &both);
    sink.tidy().await?;
    let found = ask(&world).await?;
    require(
        &found,
        &json!({
            "corrected": 1, "corrected_int": 7, "values_per_fact": 1,
            "facts": 350 + 420 + 2, "int": 1225 + 1770 + 1000 - 7, "texts": 3, "true": 55, "removed": 1, "ids": 50,
            "last": "2024-03-01T00:00:59+00:00", "entities": 50, "attributes": ["number 101", "number 102"], "tenants": 1,
            "one_day": 352, "one_attribute": 110,
        }),
    );
    // By days and bounds files are passed over.
    for reader in ["pyiceberg", "pyiceberg by catalogue"] {
        assert_eq!(found[reader]["files"], 4, "{reader}");
        assert_eq!(found[reader]["one_day_files"], 3, "{reader}");
        assert_eq!(found[reader]["no_attribute"], 0, "{reader}");
    }
    Ok(())
}
