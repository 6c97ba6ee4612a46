//! Views over the lake give what PostgreSQL says of the same events, and read no more files than they need.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use sheaf_cdc::change::{Catalogue, ChangedRow, EventRow};
use sheaf_cdc::column::ColumnValue;
use sheaf_cdc::conformance::{position, transaction};
use sheaf_cdc::sink::Sink;
use sheaf_ingest::{Ack, EditRequest, Writer};
use sheaf_lake::analytics::{LakeReader, QueryError};
use sheaf_model::{BatchId, EntityId, Limits, Op, TenantId, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogues;
use sheaf_store::settings::Settings;
use uuid::Uuid;

use crate::world::{KINDS, OWN, World, attribute_number, catalogues_of, row, rows, scanned};

/// A type of entities whose name needs quotes.
const ODD: &str = r#"Th"ing. of 'odd' name"#;

/// What both tenants did: patches, removals, replaces and deletes of every kind of value, in no order of time.
async fn write(world: &World) -> Result<()> {
    let app = world.pool("sheaf_app");
    let settings = Arc::new(Settings::read(&app).await?);
    let catalogues = Arc::new(Catalogues::new(app.clone()));
    let of_writer = world.pool("sheaf_writer");
    let (writer, _lanes) = Writer::start(app, of_writer, settings, catalogues, Limits::DEFAULT);
    for step in 0..120i64 {
        for tenant in [OWN, world.other] {
            let scope = TenantScope::system(tenant, "a test writes");
            edit(&writer, &scope, step).await?;
        }
    }
    Ok(())
}

async fn edit(writer: &Writer, scope: &TenantScope, step: i64) -> Result<()> {
    // Each number below 997 once, so that no instant is told of twice but where it is meant to be.
    let mixed = step * 541 % 997;
    let op = match mixed % 11 {
        0 => Op::Delete,
        1 | 2 => Op::Replace,
        _ => Op::Patch,
    };
    let entity_type = if step % 3 == 0 { ODD } else { "thing" };
    let minute = if step % 10 == 9 { 500 } else { mixed };
    let at = Timestamp::parse("2013-01-01T00:00:00Z")?.0;
    let at = at.saturating_add_micros(minute * 11 * 60_000_000);
    let is_own = scope.tenant() == OWN;
    let mut attributes = serde_json::Map::new();
    for (place, kind) in (0..).zip(KINDS) {
        if (mixed >> place) & 1 == 0 {
            continue;
        }
        let value = match (kind, (mixed >> 7) & 3) {
            (_, 3) => serde_json::Value::Null,
            ("int", _) => (mixed - 300).into(),
            ("float", _) => serde_json::json!(mixed as f64 + 0.25),
            ("decimal", _) => serde_json::json!(mixed as f64 / 8.0 + 0.0625),
            ("bool", _) => (mixed % 2 == 0).into(),
            ("time", _) => "2020-02-29T12:00:00.5Z".into(),
            ("json", _) => serde_json::json!({ "a": [mixed, null], "b": is_own }),
            _ => format!("{} {mixed}", if is_own { "own" } else { "globex-secret" }).into(),
        };
        attributes.insert(format!("an {kind}"), value);
    }
    let body = serde_json::json!({ "observed_at": at.to_string(), "attributes": attributes });
    let request = EditRequest {
        entity_type: entity_type.to_owned(),
        external_id: format!("{} {}", if is_own { "own" } else { "other" }, step % 13),
        body: match op {
            Op::Delete => Bytes::new(),
            _ => Bytes::from(body.to_string()),
        },
        observed_at: (op == Op::Delete).then_some(at),
        op,
        precondition: None,
        ack: Ack::Durable,
        received_at: Timestamp::now(),
    };
    match writer.edit(scope, request).await {
        Ok(_) => Ok(()),
        // There is nothing to delete.
        Err(sheaf_ingest::WriteError::NotFound) => Ok(()),
        Err(error) => Err(error).context("an edit"),
    }
}

/// Brings what PostgreSQL holds into a lake, in commits that divide it by time.
async fn copy(world: &World, catalog: &str, tenants: &[TenantId]) -> Result<()> {
    let client = world.database.superuser().await?;
    let mut sink = world.sink(catalog)?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let mut names = Vec::new();
    for tenant in tenants {
        let sql = "SELECT entity_id, entity_type, external_id FROM sheaf.entities WHERE tenant_id = $1 ORDER BY 1";
        let entities = client.query(sql, &[&tenant.0]).await?;
        let entities = entities
            .iter()
            .map(|row| (row.get(0), row.get(1), row.get(2)));
        let entities: Vec<(i64, String, String)> = entities.collect();
        names.extend(catalogues_of(*tenant, world.other, entities));
    }
    sink.apply(&transaction(20, names)).await?;
    let tenants: Vec<i64> = tenants.iter().map(|tenant| tenant.0).collect();
    let events = client
        .query(
            "SELECT tenant_id, entity_id, (extract(epoch FROM observed_at) * 1000000)::bigint, seq, op, batch_id, attrs::text
             FROM sheaf.entity_events WHERE tenant_id = ANY ($1) ORDER BY observed_at, tenant_id, entity_id, seq",
            &[&tenants],
        )
        .await?;
    ensure!(events.len() > 50, "there are {} events", events.len());
    let events: Vec<ChangedRow> = events
        .iter()
        .map(|row| -> Result<ChangedRow> {
            let attrs: String = row.get(6);
            Ok(ChangedRow::Event(EventRow {
                tenant: TenantId(row.get(0)),
                entity: EntityId(row.get(1)),
                observed_at: Timestamp::from_micros(row.get(2))?,
                seq: row.get(3),
                op: Op::from_letter(row.get(4)).context("an op")?,
                batch: BatchId(row.get::<_, Uuid>(5)),
                ingested_at: Timestamp::parse("2024-05-01T00:00:00Z")?.0,
                attrs: attrs.into(),
            }))
        })
        .collect::<Result<_>>()?;
    let at = |row: &ChangedRow| match row {
        ChangedRow::Event(event) => Some((event.tenant, event.entity, event.observed_at)),
        ChangedRow::Catalogue(_) => None,
    };
    let mut parts: Vec<Vec<ChangedRow>> = vec![Vec::new()];
    for event in events {
        let part = parts.last_mut().context("a part")?;
        // All of an instant is in one commit.
        if part.len() >= 40 && part.last().and_then(at) != at(&event) {
            parts.push(vec![event]);
        } else {
            part.push(event);
        }
    }
    for (lsn, part) in (30..).zip(parts) {
        sink.apply(&transaction(lsn, part)).await?;
        sink.flush().await?;
    }
    Ok(())
}

/// A document or a row of the view, comparable.
type Values = BTreeMap<String, serde_json::Value>;

async fn documents(world: &World, tenant: TenantId, of: &str) -> Result<BTreeMap<String, Values>> {
    let client = world.database.superuser().await?;
    let rows = client
        .query(
            "SELECT n.external_id, n.entity_id, (extract(epoch FROM d.newest) * 1000000)::bigint, (d.hot_attrs || d.cold_attrs)::text
             FROM sheaf.entity_jsonb d JOIN sheaf.entities n USING (tenant_id, entity_id)
             WHERE tenant_id = $1 AND n.entity_type = $2 AND NOT d.deleted",
            &[&tenant.0, &of],
        )
        .await?;
    let mut documents = BTreeMap::new();
    for row in rows {
        let attributes: serde_json::Value = serde_json::from_str(&row.get::<_, String>(3))?;
        let mut values = Values::from([
            ("entity_id".to_owned(), row.get::<_, i64>(1).into()),
            ("observed_at".to_owned(), row.get::<_, i64>(2).into()),
        ]);
        for (place, kind) in (1..).zip(KINDS) {
            let number = attribute_number(tenant, place).to_string();
            let Some(value) = attributes.get(&number) else {
                continue;
            };
            // One instant has several texts.
            let value = match (kind, value.as_str()) {
                ("time", Some(text)) => Timestamp::parse(text)?.0.to_string().into(),
                _ => value.clone(),
            };
            values.insert(format!("an {kind}"), value);
        }
        documents.insert(row.get(0), values);
    }
    Ok(documents)
}

async fn current(
    reader: &LakeReader,
    tenant: TenantId,
    query: &str,
) -> Result<BTreeMap<String, Values>> {
    let (columns, found) = rows(reader, tenant, query, &[]).await?;
    let mut all = BTreeMap::new();
    for row in found {
        let mut values = Values::new();
        for (column, cell) in columns.iter().zip(row) {
            let value = match column.name.as_str() {
                _ if cell == "-" => continue,
                "external_id" | "an text" => cell.into(),
                "observed_at" => Timestamp::parse(&cell)?.0.as_micros().into(),
                "an json" => {
                    let text: String = serde_json::from_str(&format!("\"{cell}\""))?;
                    serde_json::from_str(&text).with_context(|| text.clone())?
                }
                "an time" => Timestamp::parse(&cell)?.0.to_string().into(),
                _ => serde_json::from_str(&cell).with_context(|| cell.clone())?,
            };
            values.insert(column.name.clone(), value);
        }
        let id = values.remove("external_id").context("an id")?;
        let id = id.as_str().context("a text")?.to_owned();
        ensure!(all.insert(id, values).is_none(), "an entity has two rows");
    }
    Ok(all)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn current_values_are_the_documents_of_postgres() -> Result<()> {
    let world = World::create().await?;
    write(&world).await?;
    copy(&world, "sheaf", &[OWN, world.other]).await?;
    let reader = world.reader("sheaf").await?;
    let mut deleted = 0;
    for tenant in [OWN, world.other] {
        for of in ["thing", ODD] {
            let wanted = documents(&world, tenant, of).await?;
            ensure!(!wanted.is_empty(), "there are documents of {of}");
            deleted += 13 - wanted.len().min(13);
            let table = format!("current.{}", quoted(of));
            let found = current(&reader, tenant, &format!("SELECT * FROM {table}")).await?;
            assert_eq!(found, wanted, "{tenant} {of}");
            // By name, one after the other, and the fixed columns alone.
            for kind in KINDS {
                let column = format!("an {kind}");
                let query = format!("SELECT external_id, {} FROM {table}", quoted(&column));
                let found = current(&reader, tenant, &query).await?;
                let only = |values: &Values| -> Values {
                    let pairs = values.iter().filter(|(name, _)| **name == column);
                    pairs
                        .map(|(name, value)| (name.clone(), value.clone()))
                        .collect()
                };
                let wanted: BTreeMap<String, Values> = wanted
                    .iter()
                    .map(|(id, values)| (id.clone(), only(values)))
                    .collect();
                assert_eq!(found, wanted, "{query}");
            }
            let query = format!("SELECT count(*) FROM {table}");
            let (_, found) = rows(&reader, tenant, &query, &[]).await?;
            assert_eq!(found, [[wanted.len().to_string()]], "{query}");
            for (id, values) in &wanted {
                let query = format!("SELECT * FROM {table} WHERE external_id = '{id}'");
                let found = current(&reader, tenant, &query).await?;
                assert_eq!(found.get(id), Some(values), "{query}");
                assert_eq!(found.len(), 1, "{query}");
            }
            let numbers = wanted.values().filter_map(|values| values.get("an int"));
            let wanted = numbers.filter(|number| number.as_i64() > Some(0)).count();
            let query = format!("SELECT count(*) FROM {table} WHERE \"an int\" > 0");
            let (_, found) = rows(&reader, tenant, &query, &[]).await?;
            assert_eq!(found, [[wanted.to_string()]], "{query}");
        }
    }
    ensure!(deleted > 0, "some entities are deleted or were never there");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_by_the_hour_are_what_postgres_adds_up() -> Result<()> {
    let world = World::create().await?;
    write(&world).await?;
    copy(&world, "sheaf", &[OWN, world.other]).await?;
    let reader = world.reader("sheaf").await?;
    let client = world.database.superuser().await?;
    let wanted = client
        .query(
            "SELECT concat_ws('|', entity_type, entity_id, external_id, attribute,
                    (extract(epoch FROM date_trunc('hour', observed_at AT TIME ZONE 'UTC')) * 1000000)::bigint, count(x)),
                ARRAY[min(x), max(x), sum(x), avg(x), (array_agg(x ORDER BY observed_at))[1], (array_agg(x ORDER BY observed_at DESC))[1]]
             FROM (SELECT v.*, coalesce(value_int::float8, value_float, value_decimal::float8) AS x FROM sheaf.entity_values_ts v) v
             WHERE tenant_id = $1 AND x IS NOT NULL GROUP BY entity_type, entity_id, external_id, attribute,
                date_trunc('hour', observed_at AT TIME ZONE 'UTC')",
            &[&OWN.0],
        )
        .await?;
    let wanted = wanted.iter().map(|row| (row.get(0), row.get(1)));
    let wanted: BTreeMap<String, Vec<f64>> = wanted.collect();
    ensure!(wanted.len() > 20, "there are {} hours", wanted.len());
    let (columns, found) = rows(&reader, OWN, "SELECT * FROM facts_hourly", &[]).await?;
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(
        names.join(", "),
        "entity_type, entity_id, external_id, attribute, hour, count, min, max, sum, avg, first, last"
    );
    assert_eq!(found.len(), wanted.len());
    for row in found {
        let hour = Timestamp::parse(&row[4])?.0.as_micros();
        let key = [
            row[0].replace("\\\"", "\""),
            row[1].clone(),
            row[2].clone(),
            row[3].clone(),
            hour.to_string(),
            row[5].clone(),
        ];
        let key = key.join("|");
        let wanted = wanted.get(&key).with_context(|| key.clone())?;
        for (cell, wanted) in row[6..].iter().zip(wanted) {
            let found: f64 = cell.parse()?;
            let is_near = (found - wanted).abs() <= 1e-9 * wanted.abs().max(1.0);
            assert!(is_near, "{key}: {found} and not {wanted}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_hold_an_answer_are_not_read_for_a_view_either() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let reader = world.reader("sheaf").await?;
    // Six files of facts; a view of current values reads a file each of entities and attributes while it is planned, and the
    // facts twice.
    for (query, files) in [
        ("SELECT * FROM facts_hourly", 6),
        (
            "SELECT max(avg) FROM facts_hourly WHERE attribute = 'an int'",
            6,
        ),
        (
            "SELECT max(avg) FROM facts_hourly WHERE attribute = 'zulu'",
            0,
        ),
        ("SELECT max(avg) FROM facts_hourly WHERE entity_id = 7", 0),
        (
            "SELECT max(avg) FROM facts_hourly WHERE external_id = 'zulu'",
            0,
        ),
        (
            "SELECT max(avg) FROM facts_hourly WHERE entity_type = 'zulu'",
            0,
        ),
        (
            "SELECT max(avg) FROM facts_hourly WHERE hour >= '2013-01-04T00:00:00Z'",
            1,
        ),
        (
            "SELECT max(avg) FROM facts_hourly WHERE hour < '2013-01-01T10:00:00Z'",
            1,
        ),
        (
            "SELECT max(avg) FROM facts_hourly WHERE hour = '2013-01-04T10:00:00Z'",
            1,
        ),
        (
            "SELECT max(avg) FROM facts_hourly WHERE hour BETWEEN '2013-01-02T21:00:00Z' AND '2013-01-03T01:00:00Z'",
            2,
        ),
        ("SELECT max(count) FROM facts_hourly WHERE count > 0", 6),
        (
            "SELECT count(*) FROM facts WHERE date_trunc('day', observed_at) = '2013-01-04T00:00:00Z'",
            1,
        ),
        ("SELECT count(*) FROM current.thing", 2 + 6),
        (r#"SELECT max("an int") FROM current.thing"#, 2 + 12),
        (
            r#"SELECT max("an int") FROM current.thing WHERE entity_id = 7"#,
            2,
        ),
        (
            r#"SELECT max("an int") FROM current.thing WHERE external_id = 'zulu'"#,
            2,
        ),
    ] {
        let found = scanned(&reader, query).await?;
        assert_eq!(found.files, files, "{query}: {found:?}");
    }
    // Which attributes a type has is read once of each file.
    let whole = "SELECT * FROM current.thing";
    let first = scanned(&reader, whole).await?;
    let again = scanned(&reader, whole).await?;
    assert_eq!((first.files, again.files), (1 + 6 + 12, 1 + 12));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_of_hundreds_of_attributes_is_read_whole_and_one_of_more_by_name() -> Result<()> {
    let world = World::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let (first, wide, widest) = (1_000i64, 200i64, 1_001i64);
    let names = vec![
        (1, "wide".to_owned(), "w".to_owned()),
        (2, "widest".to_owned(), "v".to_owned()),
    ];
    let mut names = catalogues_of(OWN, world.other, names);
    names.extend((0..widest).map(|number| {
        let columns = [
            ("tenant_id", ColumnValue::Int(OWN.0)),
            ("attribute_id", ColumnValue::Int(first + number)),
            ("name", ColumnValue::Text(format!("a{number}"))),
            ("type", ColumnValue::Text("int".to_owned())),
        ];
        row(Catalogue::Attributes, &columns)
    }));
    sink.apply(&transaction(20, names)).await?;
    let event = |entity, count| {
        let pairs = (0..count).map(|number| format!(r#""{}":{number}"#, first + number));
        let attrs = format!("{{{}}}", pairs.collect::<Vec<_>>().join(","));
        ChangedRow::Event(EventRow {
            tenant: OWN,
            entity: EntityId(entity),
            observed_at: Timestamp::parse("2013-01-01T00:00:00Z").expect("a time").0,
            seq: 0,
            op: Op::Patch,
            batch: BatchId(Uuid::nil()),
            ingested_at: Timestamp::parse("2013-01-01T00:00:00Z").expect("a time").0,
            attrs: attrs.into(),
        })
    };
    sink.apply(&transaction(30, vec![event(1, wide), event(2, widest)]))
        .await?;
    sink.flush().await?;
    let reader = world.reader("sheaf").await?;
    let (columns, found) = rows(&reader, OWN, "SELECT * FROM current.wide", &[]).await?;
    assert_eq!(i64::try_from(columns.len())?, 3 + wide);
    assert_eq!(found.len(), 1);
    let values: Vec<String> = (0..wide).map(|number| number.to_string()).collect();
    assert_eq!(found[0][3..], values);
    let refused = rows(&reader, OWN, "SELECT * FROM current.widest", &[]).await;
    assert!(
        matches!(refused, Err(QueryError::Refused { .. })),
        "{refused:?}"
    );
    let (_, found) = rows(&reader, OWN, "SELECT a1000, a3 FROM current.widest", &[]).await?;
    assert_eq!(found, [["1000", "3"]]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_told_with_the_columns_that_all_stands_for() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let reader = world.reader("sheaf").await?;
    let snapshot = reader.look(None).await?;
    let scope = TenantScope::system(OWN, "a test asks");
    let tables = reader.tables(&scope, &snapshot).await?;
    let names: Vec<_> = tables
        .iter()
        .map(|table| format!("{}.{}", table.schema, table.name))
        .collect();
    for name in ["lake.facts", "lake.entities", "lake.facts_hourly"] {
        assert!(names.iter().any(|there| there == name), "{name}: {names:?}");
    }
    let of_types: Vec<_> = names
        .iter()
        .filter(|name| name.starts_with("current"))
        .collect();
    assert_eq!(
        of_types,
        ["current.thing"],
        "and none of the other tenant's"
    );
    for table in &tables {
        let name = match table.schema {
            "lake" => quoted(&table.name),
            schema => format!("{schema}.{}", quoted(&table.name)),
        };
        let (columns, _) =
            rows(&reader, OWN, &format!("SELECT * FROM {name} LIMIT 1"), &[]).await?;
        assert_eq!(columns, table.columns, "{name}");
    }
    let refused = rows(&reader, OWN, "SELECT 1 FROM current.other", &[]).await;
    let Err(QueryError::Refused { detail }) = refused else {
        anyhow::bail!("{refused:?}");
    };
    assert_eq!(detail, "no table current.other: no entity is of this type");
    let refused = rows(&reader, OWN, "SELECT nothing FROM current.thing", &[]).await;
    assert!(
        matches!(refused, Err(QueryError::Refused { .. })),
        "{refused:?}"
    );
    Ok(())
}
