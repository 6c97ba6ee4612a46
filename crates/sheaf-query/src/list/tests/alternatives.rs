//! Alternatives are found each by its own index, among the tenant's own rows.

use super::*;

/// A small tenant beside one with ten times its entities. Of entity `n` of the first, attribute 1 is `n`, attribute 3 is
/// `n % 500`, and every thousandth has attribute 5, which is cold; the second has 2, 4 and 6 in their places.
async fn populate(client: &Client) -> Result<()> {
    client
        .batch_execute(
            "INSERT INTO sheaf.tenants (tenant_id, name, created_at) OVERRIDING SYSTEM VALUE
            VALUES (1, 'small', now()), (2, 'large', now());
            CREATE TEMPORARY TABLE made AS
            SELECT 1 AS t, n AS entity, n FROM generate_series(1, 4000) n
            UNION ALL SELECT 2, 10000 + n, n FROM generate_series(1, 40000) n;
            INSERT INTO sheaf.entities (tenant_id, entity_id, entity_type, external_id, created_at)
            SELECT t, entity, 'plane', 'N' || n, now() FROM made;
            INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at,
                hot_attrs, cold_attrs, present, times)
            SELECT t, entity, 1, now(), false, now(), jsonb_build_object(t, n, t + 2, n % 500),
                CASE WHEN n % 1000 = 0 THEN jsonb_build_object(t + 4, n) ELSE '{}' END,
                ARRAY[t, t + 2] || CASE WHEN n % 1000 = 0 THEN ARRAY[t + 4] ELSE '{}' END, '{}'
            FROM made;
            INSERT INTO sheaf.entity_index_int (tenant_id, attribute_id, entity_id, value)
            SELECT t, t, entity, n FROM made UNION ALL SELECT t, t + 2, entity, n % 500 FROM made;
            ANALYZE",
        )
        .await
        .context("populate a small and a large tenant")
}

/// The relations of ours that a plan reaches otherwise than by an index condition with the tenant. The indexes on parts of
/// documents have numbers of attributes, which are one tenant's.
fn reached_otherwise(plan: &str) -> Vec<&str> {
    let lines: Vec<&str> = plan.lines().collect();
    let mut found = Vec::new();
    for (place, line) in lines.iter().enumerate() {
        let is_scan = line.contains("Scan ") && line.contains("entit");
        // What it reads is in the index scans below it.
        if !is_scan || line.contains("Bitmap Heap Scan") {
            continue;
        }
        let is_of_part =
            line.contains("entity_jsonb_hot_attrs") || line.contains("entity_jsonb_present");
        let own = lines[place + 1..]
            .iter()
            .take_while(|line| !line.contains("->"));
        let names_tenant = own
            .filter(|line| line.contains("Index Cond: "))
            .any(|line| line.contains("tenant_id = "));
        if !is_of_part && !names_tenant {
            found.push(*line);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn alternatives_are_found_by_their_indexes_whatever_another_tenant_has() -> Result<()> {
    let database = TestDatabase::create().await?;
    populate(&database.superuser().await?).await?;
    let search = database.client("sheaf_search").await?;
    const VALUE: &str = "entity_index_int_value";
    const HOT: &str = "entity_jsonb_hot_attrs";
    const PRESENT: &str = "entity_jsonb_present";
    // What answers it, and how many pass.
    let table: [(&str, &[&str], usize); 10] = [
        ("i1 < 10 OR i1 > 3990", &[VALUE], 19),
        ("i1 < 10 OR i3 = 7", &[VALUE, HOT], 16),
        ("i1 < 10 OR a3 IN (7, 8) OR a3 = 9", &[VALUE, HOT], 30),
        ("i1 < 10 OR c5 >= 3000", &[VALUE, PRESENT], 11),
        (
            "i1 < 10 OR i1 < 5 AND a3 = 7 OR i1 BETWEEN 100 AND 103.5",
            &[VALUE],
            13,
        ),
        ("i1 < 100 AND (i1 > 90 OR a3 = 7)", &[VALUE], 10),
        ("NOT (NOT i1 < 10 AND a3 <> 7)", &[VALUE], 16),
        ("a3 = 7 AND (i1 < 600 OR i1 > 3500)", &[HOT], 3),
        ("i1 < 10 OR external_id = 'N20'", &[], 10),
        // Wide: a join of all of the tenant, and no more than that.
        ("i1 > 0 OR a3 = 7", &[], 4_000),
    ];
    for (filter, indexes, passing) in table {
        let typed = TypedExpr::resolve(&parse_text(filter)?, &lookup)?;
        for (entity_type, order) in [
            (Some("plane"), Order::of(&[], Some("plane"))),
            (None, Order::of(&[("updated_at", true)], None)),
        ] {
            let matching = Matching {
                tenant: TenantId(1),
                entity_type,
                filter: Some(&typed),
            };
            let page = matching.page(&order, None, 5_000);
            for composed in [&page, &matching.page(&order, None, 101), &matching.count()] {
                let plan = explain(&search, composed).await?;
                let otherwise = reached_otherwise(&plan);
                ensure!(otherwise.is_empty(), "{filter}: {otherwise:?} in\n{plan}");
                ensure!(
                    !plan.contains("SubPlan"),
                    "{filter} is asked for each document:\n{plan}"
                );
                for index in indexes {
                    ensure!(
                        plan.contains(index),
                        "{filter} is not answered by {index}:\n{plan}"
                    );
                }
            }
            let rows = search.query_typed(&page.sql, &page.parameters()).await?;
            ensure!(rows.len() == passing, "{filter} found {}", rows.len());
        }
    }
    Ok(())
}
