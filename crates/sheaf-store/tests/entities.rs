//! Names get one number each, whoever creates them and in whatever order, in a statement a batch.

mod world;

use std::collections::HashSet;
use std::time::Instant;

use anyhow::{Context, Result};
use sheaf_model::Timestamp;
use sheaf_store::entities::{EntityName, create_entities, fetch_entities};
use tokio_postgres::types::Type;

use world::World;

const BATCH: usize = 5_000;

fn ids(batch: usize) -> Vec<String> {
    let id = |n| format!("building-{}/device-{n}", n % 7);
    (batch * BATCH..(batch + 1) * BATCH).map(id).collect()
}

fn names(ids: &[String]) -> Vec<EntityName<'_>> {
    ids.iter().map(|id| ("device", id.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_create_the_same_names_in_opposite_orders_do_not_wait_for_each_other()
-> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let (mut shared, started) = (0, Instant::now());
    for batch in 0..4 {
        let ids = ids(batch);
        let forwards = names(&ids);
        let backwards: Vec<EntityName<'_>> = forwards.iter().rev().copied().collect();
        let now = Timestamp::now();
        let create = async |names| {
            let created = create_entities(&world.app, &scope, names, now).await;
            created.map(|created| created.numbers)
        };
        let (one, mut other) = tokio::try_join!(create(&forwards), create(&backwards))?;
        other.reverse();
        let numbers = fetch_entities(&world.app, &scope, &forwards).await?.numbers;
        for ((one, other), number) in one.iter().zip(&other).zip(&numbers) {
            assert!(number.is_some());
            assert_eq!(one.or(*other), *number, "who created it knows its number");
            assert!(one.is_none() || other.is_none(), "it is created once");
        }
        shared += usize::from(one.contains(&None)) + usize::from(other.contains(&None));
    }
    assert!(shared >= 4, "they met at no name");
    let count = world.count("SELECT count(*) FROM sheaf.entities").await?;
    assert_eq!(usize::try_from(count)?, 4 * BATCH);
    #[expect(clippy::print_stdout, reason = "the test harness shows it")]
    {
        println!(
            "{} names by two at once in {:?}",
            4 * BATCH,
            started.elapsed()
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_batch_that_repeats_names_and_has_old_ones_numbers_each_once() -> Result<()> {
    let world = World::create().await?;
    let (scope, other) = (world.tenant("acme").await?, world.tenant("other").await?);
    let now = Timestamp::now();
    let known = create_entities(&world.app, &scope, &[("a", "1")], now)
        .await?
        .numbers;
    let batch = [("b", "1"), ("a", "1"), ("b", "1"), ("a", "2")];
    let created = create_entities(&world.app, &scope, &batch, now)
        .await?
        .numbers;
    assert_eq!(created[1], None, "it was there");
    assert_eq!(created[0], created[2]);
    let numbers = fetch_entities(&world.app, &scope, &batch).await?.numbers;
    assert_eq!(
        (numbers[0], numbers[1], numbers[3]),
        (created[0], known[0], created[3])
    );
    assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 3);
    let elsewhere = fetch_entities(&world.app, &other, &batch).await?;
    assert_eq!(elsewhere.numbers, [None; 4]);
    Ok(())
}

#[tokio::test]
async fn a_batch_of_names_is_found_by_a_probe_each() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    // Of a tenant without statistics, and of one with them.
    for batch in 0..2 {
        let ids = ids(batch);
        create_entities(&world.app, &scope, &names(&ids), Timestamp::now()).await?;
        let client = world.database.superuser().await?;
        client
            .batch_execute("SELECT set_config('sheaf.tenant_id', '1', false); SET ROLE sheaf_app")
            .await?;
        let sql = include_str!("../sql/entities/find_entities.sql");
        let types = vec!["device"; ids.len()];
        let rows = client
            .query_typed(
                &format!("EXPLAIN (ANALYZE, TIMING off) {sql}"),
                &[
                    (&scope.tenant().0, Type::INT8),
                    (&types, Type::TEXT_ARRAY),
                    (&ids, Type::TEXT_ARRAY),
                ],
            )
            .await?;
        let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let plan = lines.join("\n");
        let probe = lines
            .iter()
            .find(|line| line.contains("Index Scan using entities_external_id_key"))
            .with_context(|| plan.clone())?;
        assert!(probe.contains("rows=1 loops=5000"), "{plan}");
        assert!(!plan.contains("Seq Scan"), "{plan}");
        client
            .batch_execute("RESET ROLE; ANALYZE sheaf.entities")
            .await?;
    }
    Ok(())
}
