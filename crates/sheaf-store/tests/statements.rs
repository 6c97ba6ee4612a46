//! Every statement fits the schema, and the hot ones are planned the way that their files say.

mod world;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sheaf_model::{EntityId, TenantId, Timestamp};
use sheaf_pg::{PgTime, Statement};
use sheaf_store::buckets::{AggregatedAttributes, BucketRange};
use sheaf_store::documents::read_entity;
use sheaf_store::histories::{Division, HistoriesOf, SharedPlace, SharedWalk, ValuesBeside};
use sheaf_store::history::{Direction, HistoryOf, HistoryStep, Place};
use sheaf_store::late::{LateEvents, LateRange, LateStep};
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
            || plan.contains(&format!("Index Only Scan using {index}"))
            || plan.contains(&format!("Index Only Scan Backward using {index}"));
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

/// A snapshot is read in the order of keys: a page of it sorts nothing and opens one partition.
#[tokio::test]
async fn a_page_of_a_snapshot_is_read_by_the_key_of_its_table() -> Result<()> {
    let world = filled().await?;
    let cdc = world.database.client("sheaf_cdc").await?;
    let (snapshot, now) = ("1000000000:1000000000:", PgTime(Timestamp::now()));
    let (before, number, rows_max, bytes_max) = (i64::MIN, i64::MIN, 100_i64, 1_i64 << 20);
    let (lower, upper) = (
        PgTime(Timestamp::parse_date("2021-01-01")?),
        PgTime(Timestamp::parse_date("2022-01-01")?),
    );
    let after: Vec<(&(dyn ToSql + Sync), Type)> =
        vec![(&before, Type::INT8), (&number, Type::INT8)];
    let mut names = after.clone();
    names.extend([
        (&rows_max as _, Type::INT8),
        (&snapshot as _, Type::TEXT),
        (&now as _, Type::TIMESTAMPTZ),
    ]);
    let sql = include_str!("../sql/changes/read_entities.sql");
    assert_uses(&plan(&cdc, sql, &names).await?, &["entities_pkey"]);
    let mut events = after;
    events.extend([
        (&lower as _, Type::TIMESTAMPTZ),
        (&0_i16 as _, Type::INT2),
        (&lower as _, Type::TIMESTAMPTZ),
        (&upper as _, Type::TIMESTAMPTZ),
        (&rows_max as _, Type::INT8),
        (&snapshot as _, Type::TEXT),
        (&now as _, Type::TIMESTAMPTZ),
        (&bytes_max as _, Type::INT8),
    ]);
    let sql = include_str!("../sql/changes/read_events.sql");
    let found = plan(&cdc, sql, &events).await?;
    assert_uses(&found, &["entity_events_20210101_20220101_pkey"]);
    assert!(!found.contains("Sort"), "{found}");
    assert!(!found.contains("entity_events_2020"), "{found}");
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
    // And the other way round: by their numbers.
    let sql = include_str!("../sql/entities/find_names.sql");
    let numbers: Vec<i64> = (1..=500).collect();
    let params: &Params<'_> = &[(&2_i64, Type::INT8), (&numbers, Type::INT8_ARRAY)];
    assert_uses(&plan(&app, sql, params).await?, &["entities_pkey"]);
    Ok(())
}

/// What a lane's transaction says to the planner, as it says it.
const LANE_SETTINGS: [&str; 5] = [
    "SET LOCAL plan_cache_mode = force_generic_plan",
    "SET LOCAL enable_hashjoin = off",
    "SET LOCAL enable_mergejoin = off",
    "SET LOCAL enable_seqscan = off",
    "SET LOCAL jit = off",
];

/// The plan that a lane gets for a statement with so many parameters, whatever they are.
async fn lane_plan(client: &Client, sql: &str) -> Result<String> {
    let prepared = client.prepare(sql).await?;
    let types: Vec<&str> = prepared.params().iter().map(Type::name).collect();
    let nulls = vec!["NULL"; types.len()].join(", ");
    client
        .batch_execute(&format!(
            "BEGIN; {}; PREPARE lanes ({}) AS {sql}",
            LANE_SETTINGS.join("; "),
            types.join(", ")
        ))
        .await?;
    let rows = client
        .query_typed(&format!("EXPLAIN (COSTS off) EXECUTE lanes ({nulls})"), &[])
        .await?;
    client.batch_execute("ROLLBACK; DEALLOCATE lanes").await?;
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(lines.join("\n"))
}

/// Statements of a lane's transaction that join the group with a table: the index that is probed, and by what.
const LANE_STATEMENTS: [(&str, &str, &str); 4] = [
    (
        include_str!("../sql/documents/read_documents.sql"),
        "entity_jsonb_pkey",
        "Index Cond: ((tenant_id = n.tenant_id) AND (entity_id = n.entity_id))",
    ),
    (
        include_str!("../sql/documents/update_documents.sql"),
        "entity_jsonb_pkey",
        "Index Cond: ((tenant_id = n.tenant_id) AND (entity_id = n.entity_id))",
    ),
    (
        include_str!("../sql/events/read_instants.sql"),
        "_pkey",
        "Index Cond: ((tenant_id = n.tenant_id) AND (entity_id = n.entity_id) AND (observed_at = n.observed_at))",
    ),
    (
        include_str!("../sql/ledger/find_parts.sql"),
        "ingest_parts_pkey",
        "Index Cond: ((tenant_id = r.tenant_id) AND (request_key = (r.request_key)::text))",
    ),
];

async fn assert_lanes_probe(world: &World, when: &str) -> Result<()> {
    let writer = world.database.client("sheaf_writer").await?;
    for (sql, index, condition) in LANE_STATEMENTS {
        let plan = lane_plan(&writer, sql).await?;
        for refused in ["Seq Scan", "Hash Join", "Merge Join", "Materialize"] {
            assert!(!plan.contains(refused), "{when}: {refused} in {plan}");
        }
        let scans = plan
            .lines()
            .filter(|line| line.contains("Scan") && !line.contains("Function Scan"));
        let mut probes = 0;
        for scan in scans {
            assert!(
                scan.contains("Index Scan using") && scan.contains(index),
                "{when}: {scan} in {plan}"
            );
            probes += 1;
        }
        // As many probes as tables: one, or one a partition.
        assert!(
            probes > 0 && plan.matches(condition).count() == probes,
            "{when}: {probes} scans of {index}: {plan}"
        );
        assert!(plan.contains("Nested Loop"), "{when}: {plan}");
    }
    Ok(())
}

#[test]
fn the_settings_of_these_plans_are_those_of_a_lane() {
    let lane = include_str!("../../sheaf-ingest/src/lane/transaction.rs");
    for setting in LANE_SETTINGS {
        assert!(lane.contains(setting), "a lane does not say {setting}");
    }
}

#[tokio::test]
async fn a_lane_probes_keys_with_statistics_and_without() -> Result<()> {
    let world = World::create().await?;
    let time = Timestamp::parse_date("2021-01-01")?;
    ensure_partition(&world.pool("sheaf_writer", 1), time).await?;
    assert_lanes_probe(&world, "nothing is known").await?;
    assert_lanes_probe(&filled().await?, "many rows are known").await
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

/// The partitions that a plan opens, apart from the look for a later row of an instant: that names the instant alone, which
/// is known when the row is.
fn partitions_of_rows(plan: &str) -> Vec<&str> {
    let scans = plan.lines().filter(|line| !line.contains(" l"));
    let mut found: Vec<&str> = scans.flat_map(partitions_in).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[tokio::test]
async fn buckets_open_the_partitions_of_their_range_alone() -> Result<()> {
    let world = filled().await?;
    let app = world.database.client("sheaf_app").await?;
    let of = HistoryOf::new(TenantId(2), "thing", "id100");
    let bounds = (
        Timestamp::parse_date("2021-02-01")?,
        Timestamp::parse_date("2021-11-01")?,
    );
    let origin = Timestamp::parse_date("1970-01-01")?;
    let range = BucketRange::new(&of, bounds, 86_400_000_000, origin);
    let attributes = AggregatedAttributes {
        keys: vec!["2".to_owned()],
        types: vec!["float"],
        shown_from: vec![PgTime(Timestamp::MIN)],
        ends: true,
    };
    let (keys, rows_max) = (Some(vec!["2".to_owned()]), 250);
    for statement in [
        range.find_ends(),
        range.find_first(&keys, &rows_max),
        range.find_first(&None, &rows_max),
        range.find_last(&keys, &rows_max),
        range.aggregate(&attributes, &rows_max),
    ] {
        let plan = statement_plan(&app, &statement).await?;
        assert!(!plan.contains("Seq Scan"), "{plan}");
        assert_eq!(
            partitions_of_rows(&plan),
            ["entity_events_20210101"],
            "{plan}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn late_events_are_walked_by_their_key() -> Result<()> {
    let world = filled().await?;
    let client = world.database.superuser().await?;
    client
        .batch_execute(
            "INSERT INTO sheaf.entity_events_late SELECT tenant_id, entity_id, observed_at, 16384, op, batch_id, ingested_at, attrs
             FROM sheaf.entity_events;
             ANALYZE sheaf.entity_events_late",
        )
        .await?;
    let app = world.database.client("sheaf_app").await?;
    let (from, to) = (
        Timestamp::parse_date("2021-02-01")?,
        Timestamp::parse_date("2021-11-01")?,
    );
    let late = LateEvents::new(TenantId(2), (1..=5).map(|number| EntityId(number * 100)));
    let place = |observed_at| SharedPlace {
        observed_at,
        entity: EntityId(0),
        seq: -1,
    };
    let range = LateRange::new(from, to);
    let forwards = LateStep::new(false, place(from), to, (250, i64::MAX));
    let backwards = LateStep::new(true, place(to), from, (250, i64::MAX));
    for statement in [
        late.walk(&forwards),
        late.walk(&backwards),
        late.find_last(&range),
    ] {
        let plan = statement_plan(&app, &statement).await?;
        assert_uses(&plan, &["entity_events_late_pkey"]);
    }
    Ok(())
}

#[tokio::test]
async fn histories_of_many_open_the_partitions_of_their_range_alone() -> Result<()> {
    let world = filled().await?;
    let app = world.database.client("sheaf_app").await?;
    let entities = (1..=5).map(|number| EntityId(number * 100));
    let range = (
        Timestamp::parse_date("2021-02-01")?,
        Timestamp::parse_date("2021-11-01")?,
    );
    let of = HistoriesOf::new(TenantId(2), entities, range);
    let division = Division::new(86_400_000_000, Timestamp::parse_date("1970-01-01")?);
    let attributes = AggregatedAttributes {
        keys: vec!["2".to_owned()],
        types: vec!["float"],
        shown_from: vec![PgTime(Timestamp::MIN)],
        ends: true,
    };
    let place = SharedPlace {
        observed_at: range.0,
        entity: EntityId(0),
        seq: -1,
    };
    let (walk, rows_max) = (SharedWalk::new(place, range.1), 250);
    let keys = vec!["2".to_owned()];
    let wanted = [(EntityId(100), "2".to_owned())];
    let beside = ValuesBeside::new(TenantId(2), wanted, range);
    for statement in [
        of.aggregate(&division, &attributes, &false, &rows_max),
        of.aggregate(&division, &attributes, &true, &rows_max),
        of.walk(&walk, &keys, (&rows_max, &i64::MAX)),
        beside.find_last(),
        beside.find_first(),
    ] {
        let plan = statement_plan(&app, &statement).await?;
        assert!(!plan.contains("Seq Scan"), "{plan}");
        assert_eq!(
            partitions_of_rows(&plan),
            ["entity_events_20210101"],
            "{plan}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn letters_that_wait_are_found_among_many_that_are_settled() -> Result<()> {
    let database = TestDatabase::create().await?;
    let client = database.superuser().await?;
    client
        .batch_execute(
            "INSERT INTO sheaf.dead_letters
             SELECT gen_random_uuid(), 'slot ' || n % 2, 'sink ' || n % 3, 'stream', 1, '0/1'::pg_lsn + n, 1, 0, now(), NULL, 'unreadable', '', repeat('x', 200), 200,
                 true, now(), CASE WHEN n % 500 = 0 THEN 'replay_asked' ELSE 'replayed' END
             FROM generate_series(1, 50000) n;
             ANALYZE sheaf.dead_letters",
        )
        .await?;
    let (slot, sink) = ("slot 0", "sink 1");
    let (rows_max, bytes_max) = (200i64, 1i64 << 24);
    let count = include_str!("../sql/dead_letters/count_waiting.sql");
    let found = plan(&client, count, &[(&slot, Type::TEXT), (&sink, Type::TEXT)]).await?;
    assert_waiting(&found);
    let list = include_str!("../sql/dead_letters/list_asked.sql");
    let params: [(&(dyn ToSql + Sync), Type); 4] = [
        (&slot, Type::TEXT),
        (&sink, Type::TEXT),
        (&rows_max, Type::INT8),
        (&bytes_max, Type::INT8),
    ];
    assert_waiting(&plan(&client, list, &params).await?);
    let places = include_str!("../sql/dead_letters/list_positions.sql");
    let (timeline, lsn, ordinal, most) = (1i64, "0/C000", 1i64, 100i64);
    let params: [(&(dyn ToSql + Sync), Type); 6] = [
        (&slot, Type::TEXT),
        (&sink, Type::TEXT),
        (&timeline, Type::INT8),
        (&lsn, Type::TEXT),
        (&ordinal, Type::INT8),
        (&most, Type::INT8),
    ];
    let found = plan(&client, places, &params).await?;
    assert_uses(&found, &["dead_letters_position"]);
    // Most rows were forgotten long ago.
    client
        .batch_execute(
            "UPDATE sheaf.dead_letters SET payload = '{}', payload_bytes = 0 WHERE status = 'replayed' AND ordinal = 1
                 AND commit_lsn > '0/100';
             ANALYZE sheaf.dead_letters",
        )
        .await?;
    let empty = include_str!("../sql/dead_letters/empty_settled.sql");
    let moment = PgTime(Timestamp::now());
    let found = plan(&client, empty, &[(&moment, Type::TIMESTAMPTZ)]).await?;
    let is_used =
        found.contains("dead_letters_settled") && !found.contains("Seq Scan on dead_letters ");
    assert!(is_used, "{found}");
    Ok(())
}

/// The few that wait are read by their own index, however it is read.
fn assert_waiting(plan: &str) {
    let is_used = plan.contains("dead_letters_waiting") && !plan.contains("Seq Scan");
    assert!(is_used, "{plan}");
}
