//! Every statement fits the schema, and the hot ones are planned the way that their files say.

mod world;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sheaf_model::{TenantId, Timestamp};
use sheaf_pg::{PgTime, Statement};
use sheaf_store::documents::{read_documents, read_entity};
use sheaf_store::history::{Direction, HistoryOf, HistoryStep, Place};
use sheaf_store::partitions::ensure_partition;
use sheaf_testkit::TestDatabase;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use world::World;

fn sql_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(sql_files(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[tokio::test]
async fn every_statement_is_one_that_the_schema_understands() -> Result<()> {
    let database = TestDatabase::create().await?;
    let client = database.superuser().await?;
    let files = sql_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("sql"))?;
    for file in &files {
        let sql = std::fs::read_to_string(file)?;
        client
            .prepare(&sql)
            .await
            .with_context(|| format!("prepare {}", file.display()))?;
        assert!(
            sql.starts_with("-- Purpose: ")
                && sql.contains("-- Parameters: ")
                && sql.contains("Locks: "),
            "{} says what it is for, takes and locks",
            file.display()
        );
    }
    #[expect(clippy::print_stdout, reason = "the test harness shows it")]
    {
        println!("prepared {} statements", files.len());
    }
    assert!(files.len() > 40, "{}", files.len());
    Ok(())
}

const ENTITIES: i64 = 20_000;

/// A small tenant beside a large one, documents of a few hundred bytes, three years of history, and statistics.
async fn filled() -> Result<World> {
    let world = World::create().await?;
    for name in ["large", "small"] {
        world.tenant(name).await?;
    }
    let pool = world.pool("sheaf_writer", 1);
    for year in [2020, 2021, 2022] {
        let time = Timestamp::parse_date(&format!("{year}-01-01"))?;
        ensure_partition(&pool, time).await?;
    }
    let client = world.database.superuser().await?;
    client
        .batch_execute(&format!(
            "INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)
             SELECT CASE WHEN n % 100 = 0 THEN 2 ELSE 1 END, 'thing', 'id' || n, now() FROM generate_series(1, {ENTITIES}) n;
             INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at, hot_attrs, cold_attrs, present, times)
             SELECT tenant_id, entity_id, 1, now(), false, now(), '{{\"1\":\"x\"}}', jsonb_build_object('2', repeat(md5(entity_id::text), 10)), '{{1,2}}', '{{}}' FROM sheaf.entities;
             INSERT INTO sheaf.entity_events (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
             SELECT tenant_id, entity_id, timestamptz '2020-06-01Z' + month * interval '5 months', 0, 'p', gen_random_uuid(), now(), '{{\"2\":1.5}}'
             FROM sheaf.entities, generate_series(0, 5) month;
             ANALYZE sheaf.entities, sheaf.entity_jsonb, sheaf.entity_events"
        ))
        .await?;
    Ok(world)
}

type Params<'a> = [(&'a (dyn ToSql + Sync), Type)];

/// The plan for these very parameters, as a server's statement without a name gets it.
async fn plan(client: &Client, sql: &str, params: &Params<'_>) -> Result<String> {
    client
        .batch_execute("BEGIN; SELECT set_config('sheaf.tenant_id', '2', true)")
        .await?;
    let rows = client
        .query_typed(&format!("EXPLAIN {sql}"), params)
        .await?;
    client.batch_execute("ROLLBACK").await?;
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(lines.join("\n"))
}

/// The plan reads these indexes and no table from end to end.
fn assert_uses(plan: &str, indexes: &[&str]) {
    assert!(!plan.contains("Seq Scan"), "{plan}");
    for index in indexes {
        let is_used = plan.contains(&format!("Index Scan using {index}"))
            || plan.contains(&format!("Index Scan Backward using {index}"))
            || plan.contains(&format!("Index Only Scan using {index}"));
        assert!(is_used, "{index} is not used: {plan}");
    }
}

async fn statement_plan(client: &Client, statement: &Statement<'_>) -> Result<String> {
    plan(client, statement.sql, &statement.params).await
}

#[tokio::test]
async fn an_entity_is_read_by_its_keys() -> Result<()> {
    let world = filled().await?;
    let app = world.database.client("sheaf_app").await?;
    let statement = read_entity(&TenantId(2), &"thing", &"id100");
    let plan = statement_plan(&app, &statement).await?;
    assert_uses(&plan, &["entities_external_id_key", "entity_jsonb_pkey"]);
    Ok(())
}

#[tokio::test]
async fn names_are_found_by_their_key() -> Result<()> {
    let world = filled().await?;
    let app = world.database.client("sheaf_app").await?;
    let sql = include_str!("../sql/entities/find_entities.sql");
    let (types, ids) = (
        vec!["thing"; 10],
        (0..10).map(|n| format!("id{n}")).collect::<Vec<_>>(),
    );
    let params: &Params<'_> = &[
        (&1_i64, Type::INT8),
        (&types, Type::TEXT_ARRAY),
        (&ids, Type::TEXT_ARRAY),
    ];
    assert_uses(
        &plan(&app, sql, params).await?,
        &["entities_external_id_key"],
    );
    Ok(())
}

#[tokio::test]
async fn documents_are_read_and_updated_by_their_key() -> Result<()> {
    let world = filled().await?;
    let writer = world.database.client("sheaf_writer").await?;
    for tenant in [TenantId(1), TenantId(2)] {
        for count in [1, 100] {
            let ids: Vec<i64> = (1..=count).collect();
            let read = read_documents(&tenant, &ids);
            assert_uses(
                &statement_plan(&writer, &read).await?,
                &["entity_jsonb_pkey"],
            );
            let times = vec![PgTime(Timestamp::now()); ids.len()];
            let floors: Vec<Option<PgTime>> = vec![None; ids.len()];
            let deleted = vec![false; ids.len()];
            let objects = vec![sheaf_pg::JsonbWrite("{}"); ids.len()];
            let present = vec!["{}"; ids.len()];
            let params: &Params<'_> = &[
                (&tenant.0, Type::INT8),
                (&ids, Type::INT8_ARRAY),
                (&ids, Type::INT8_ARRAY),
                (&times, Type::TIMESTAMPTZ_ARRAY),
                (&floors, Type::TIMESTAMPTZ_ARRAY),
                (&deleted, Type::BOOL_ARRAY),
                (&times, Type::TIMESTAMPTZ_ARRAY),
                (&objects, Type::JSONB_ARRAY),
                (&objects, Type::JSONB_ARRAY),
                (&present, Type::TEXT_ARRAY),
                (&objects, Type::JSONB_ARRAY),
            ];
            let sql = include_str!("../sql/documents/update_documents.sql");
            assert_uses(&plan(&writer, sql, params).await?, &["entity_jsonb_pkey"]);
        }
    }
    Ok(())
}

fn partitions_in(plan: &str) -> Vec<&str> {
    let mut found: Vec<&str> = plan
        .match_indices(" on entity_events_")
        .map(|(at, _)| &plan[at + 4..at + 4 + "entity_events_YYYYMMDD".len()])
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[tokio::test]
async fn a_history_is_walked_by_its_key_through_the_partitions_that_its_bounds_name() -> Result<()>
{
    let world = filled().await?;
    let app = world.database.client("sheaf_app").await?;
    let of = HistoryOf::new(TenantId(2), "thing", "id100");
    let keys = vec!["2".to_owned()];
    for (from, to, partitions) in [
        ("2021-02-01", "2021-03-01", &["entity_events_20210101"][..]),
        (
            "2020-12-01",
            "2021-03-01",
            &["entity_events_20200101", "entity_events_20210101"],
        ),
    ] {
        let (from, to) = (Timestamp::parse_date(from)?, Timestamp::parse_date(to)?);
        for (direction, start, end) in [
            (Direction::Forwards, from, to),
            (Direction::Backwards, to, from),
            (Direction::ToFloor, to, from),
        ] {
            for keys in [None, Some(&keys)] {
                let step = HistoryStep::new(&of, direction, Place::before(start), end, keys, 250);
                let plan = statement_plan(&app, &step.statement()).await?;
                assert_eq!(partitions_in(&plan), partitions, "{direction:?}: {plan}");
                assert_uses(&plan, &["entities_external_id_key"]);
                let scan = match direction {
                    Direction::Forwards => "Index Scan using",
                    Direction::Backwards | Direction::ToFloor => "Index Scan Backward using",
                };
                for partition in partitions {
                    let is_in_order = plan.contains(&format!("{scan} {partition}_"));
                    assert!(is_in_order, "{direction:?} {partition}: {plan}");
                }
                // Rows come in the order of the walk, so that the limit bounds what is read.
                assert!(!plan.contains("Sort"), "{direction:?}: {plan}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn late_events_are_compared_by_key_in_the_partitions_of_their_times() -> Result<()> {
    let world = filled().await?;
    let writer = world.database.client("sheaf_writer").await?;
    let sql = include_str!("../sql/events/read_instants.sql");
    let ids: Vec<i64> = (1..=200).collect();
    let time = PgTime(Timestamp::parse_date("2021-02-01")?);
    let times = vec![time; ids.len()];
    let params: &Params<'_> = &[
        (&1_i64, Type::INT8),
        (&ids, Type::INT8_ARRAY),
        (&times, Type::TIMESTAMPTZ_ARRAY),
    ];
    // Which partitions are probed is decided for each instant when the statement runs, so that the plan names all; what
    // counts is that each is probed by its key.
    let plan = plan(&writer, sql, params).await?;
    assert!(
        !plan.contains("Seq Scan on entity_events") && plan.contains("observed_at = n.observed_at"),
        "{plan}"
    );
    Ok(())
}
