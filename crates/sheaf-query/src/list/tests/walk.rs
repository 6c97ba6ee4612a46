//! A walk for entities of one type ends, whatever the planner takes the type for.

use std::collections::BTreeMap;

use super::super::walk::{Left, Walk};
use super::*;

/// The walk by attribute 1 of one type of the first tenant, to so many rows of the index, and left to so many names.
fn walk<'a>(
    matching: &'a Matching<'a>,
    order: &'a Order,
    (index_rows_max, names_max): (i64, i64),
) -> Result<Walk<'a>> {
    let walked = order.walked().context("an order of an indexed attribute")?;
    let walk = Walk::of(matching, order, walked).context("a list that can be walked")?;
    Ok(walk.to(index_rows_max, names_max))
}

/// The ids of a page, and what is left of it.
async fn found(client: &Client, composed: &Composed) -> Result<(Vec<String>, Option<Left>)> {
    let mut rows = client
        .query_typed(&composed.sql, &composed.parameters())
        .await?;
    let left = Left::by(&mut rows);
    let ids = rows.iter().map(|row| row.get("external_id")).collect();
    Ok((ids, left))
}

/// Rows that the plan of a statement has read from relations, by having run it.
async fn rows_read(client: &Client, composed: &Composed) -> Result<(u64, String)> {
    let sql = format!("EXPLAIN (ANALYZE, TIMING OFF) {}", composed.sql);
    let rows = client.query_typed(&sql, &composed.parameters()).await?;
    let lines: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    let passed_over = lines.iter().filter_map(|line| {
        let (_, figure) = line.split_once("Rows Removed by Filter: ")?;
        figure.parse::<u64>().ok()
    });
    let mut read: u64 = passed_over.sum();
    for line in lines
        .iter()
        .filter(|line| line.contains("Scan ") && line.contains("entit"))
    {
        let figure = |name: &str| {
            let (_, after) = line.rsplit_once(name)?;
            after.split([' ', ')']).next()?.parse::<f64>().ok()
        };
        // One that was never asked has no figures.
        let (Some(rows), Some(loops)) = (figure("rows="), figure("loops=")) else {
            continue;
        };
        // Rows are a mean of all loops, and one that finds nothing has looked.
        read += (rows.max(1.0) * loops) as u64;
    }
    Ok((read, lines.join("\n")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_for_a_rare_type_reads_what_the_bound_and_the_type_have() -> Result<()> {
    let database = TestDatabase::create().await?;
    // In the first tenant 10 entities are of the rare type, in the middle of the order; in the second all are, so that
    // statistics take it for a common one.
    database
        .superuser()
        .await?
        .batch_execute(
            "INSERT INTO sheaf.tenants (tenant_id, name, created_at) OVERRIDING SYSTEM VALUE
            VALUES (1, 'ours', now()), (2, 'theirs', now());
            INSERT INTO sheaf.entities (tenant_id, entity_id, entity_type, external_id, created_at)
            SELECT 1, n, CASE WHEN n BETWEEN 15000 AND 15009 THEN 'rare' ELSE 'common' END, 'N' || n, now()
            FROM generate_series(1, 30000) n
            UNION ALL SELECT 2, 50000 + n, 'rare', 'N' || n, now() FROM generate_series(1, 30000) n;
            INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at,
                hot_attrs, cold_attrs, present, times)
            SELECT tenant_id, entity_id, 1, now(), false, now(), jsonb_build_object(tenant_id, entity_id), '{}',
                ARRAY[tenant_id], '{}' FROM sheaf.entities;
            INSERT INTO sheaf.entity_index_int (tenant_id, attribute_id, entity_id, value)
            SELECT tenant_id, tenant_id, entity_id, entity_id FROM sheaf.entities;
            ANALYZE",
        )
        .await?;
    let search = database.client("sheaf_search").await?;
    for filter in [None, Some("i1 >= 5"), Some("i1 >= 5 AND i1 < 40000")] {
        let typed = filter
            .map(|filter| anyhow::Ok(TypedExpr::resolve(&parse_text(filter)?, &lookup)?))
            .transpose()?;
        for descending in [false, true] {
            let order = Order::of_indexed(AttributeId(1), descending);
            let matching = |entity_type| Matching {
                tenant: TenantId(1),
                entity_type: Some(entity_type),
                filter: typed.as_ref(),
            };
            let rare = matching("rare");
            let walk_of_rare = walk(&rare, &order, (1_000, 100))?;
            let by_name = walk_of_rare
                .page_left(Left::ToNames, None, 101)
                .context("a page of one type")?;
            for (page, listed) in [
                (walk_of_rare.page(None, 101), (0, Some(Left::ToNames))),
                (by_name, (10, None)),
            ] {
                let (ids, left) = found(&search, &page).await?;
                ensure!((ids.len(), left) == listed, "{ids:?}, {left:?}");
                let (read, plan) = rows_read(&search, &page).await?;
                ensure!(read < 6_000, "{filter:?}: {read} rows were read:\n{plan}");
                ensure!(!plan.contains("Seq Scan on entities"), "{plan}");
            }
            // A type that fills the page is walked no further than that.
            let common = matching("common");
            let page = walk(&common, &order, (1_000, 100))?.page(None, 101);
            let (ids, left) = found(&search, &page).await?;
            ensure!((ids.len(), left) == (101, None), "{ids:?}, {left:?}");
            let (read, plan) = rows_read(&search, &page).await?;
            ensure!(read < 1_000, "{filter:?}: {read} rows were read:\n{plan}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_among_many_equals_reads_those_and_not_all_of_a_common_type() -> Result<()> {
    let database = TestDatabase::create().await?;
    // 25 values, with 1,200 entities each.
    let client = database.superuser().await?;
    client
        .batch_execute(
            "INSERT INTO sheaf.tenants (tenant_id, name, created_at) OVERRIDING SYSTEM VALUE VALUES (1, 'ours', now());
            INSERT INTO sheaf.entities (tenant_id, entity_id, entity_type, external_id, created_at)
            SELECT 1, n, 'common', 'N' || n, now() FROM generate_series(1, 30000) n;
            INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at,
                hot_attrs, cold_attrs, present, times)
            SELECT 1, n, 1, now(), false, now(), jsonb_build_object(1, n % 25), '{}', ARRAY[1], '{}'
            FROM generate_series(1, 30000) n;
            INSERT INTO sheaf.entity_index_int (tenant_id, attribute_id, entity_id, value)
            SELECT 1, 1, n, n % 25 FROM generate_series(1, 30000) n;
            ANALYZE",
        )
        .await?;
    let search = database.client("sheaf_search").await?;
    let matching = Matching {
        tenant: TenantId(1),
        entity_type: Some("common"),
        filter: None,
    };
    let after = [Some("10".to_owned()), Some("N2".to_owned())];
    for descending in [false, true] {
        let order = Order::of_indexed(AttributeId(1), descending);
        for after in [None, Some(&after[..])] {
            let walk = walk(&matching, &order, (300, 2_000))?;
            let page = walk.page(after, 101);
            let (ids, left) = found(&search, &page).await?;
            ensure!((ids.len(), left) == (0, Some(Left::ToWalk)), "{left:?}");
            let (read, plan) = rows_read(&search, &page).await?;
            ensure!(read < 40_000, "{read} rows were read:\n{plan}");
            let page = walk
                .page_left(Left::ToWalk, after, 101)
                .context("a page of one type")?;
            let (ids, left) = found(&search, &page).await?;
            ensure!((ids.len(), left) == (101, None), "{left:?}");
            let (read, plan) = rows_read(&search, &page).await?;
            ensure!(read < 40_000, "{read} rows were read:\n{plan}");
            let plain = matching.next_page(&order, after, 101);
            ensure!(ids == found(&search, &plain).await?.0, "{ids:?}");
        }
    }
    // What leaves the index after the walk takes nothing from the page.
    let order = Order::of_indexed(AttributeId(1), false);
    let walk = walk(&matching, &order, (300, 30_000))?;
    let (ids, left) = found(&search, &walk.page(None, 101)).await?;
    ensure!((ids.len(), left) == (0, Some(Left::ToNames)), "{left:?}");
    client
        .execute(
            "DELETE FROM sheaf.entity_index_int WHERE value > 0 OR entity_id > 5000",
            &[],
        )
        .await?;
    for left in [Left::ToNames, Left::ToWalk] {
        let page = walk.page_left(left, None, 101).context("a page")?;
        let (ids, _) = found(&search, &page).await?;
        ensure!(ids.len() == 101, "{left:?}: {ids:?}");
    }
    // Nor does one that has gone to the end and met nothing leave anything.
    client
        .execute("DELETE FROM sheaf.entity_index_int", &[])
        .await?;
    let (ids, left) = found(&search, &walk.page(None, 101)).await?;
    ensure!((ids.len(), left) == (0, None), "{ids:?}, {left:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_that_ends_early_changes_no_page() -> Result<()> {
    let database = TestDatabase::create().await?;
    let client = database.superuser().await?;
    // Few values, so that equal ones stand across every bound; one in nine entities has none, one in eleven is deleted.
    client
        .batch_execute(
            "INSERT INTO sheaf.tenants (tenant_id, name, created_at) OVERRIDING SYSTEM VALUE VALUES (1, 'ours', now());
            INSERT INTO sheaf.entities (tenant_id, entity_id, entity_type, external_id, created_at)
            SELECT 1, n, CASE WHEN n % 4 = 0 THEN 'rare' ELSE 'common' END, 'N' || n, now() FROM generate_series(1, 200) n;
            INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at,
                hot_attrs, cold_attrs, present, times)
            SELECT 1, n, 1, now(), n % 11 = 0,
                now(), CASE WHEN n % 9 = 0 OR n % 11 = 0 THEN '{}' ELSE jsonb_build_object(1, n * n % 17) END, '{}',
                CASE WHEN n % 9 = 0 OR n % 11 = 0 THEN '{}' ELSE ARRAY[1] END, '{}' FROM generate_series(1, 200) n;
            INSERT INTO sheaf.entity_index_int (tenant_id, attribute_id, entity_id, value)
            SELECT 1, 1, entity_id, (hot_attrs ->> '1')::bigint FROM sheaf.entity_jsonb WHERE hot_attrs ? '1';
            ANALYZE",
        )
        .await?;
    let sql = "SELECT external_id, hot_attrs ->> '1' FROM sheaf.entities JOIN sheaf.entity_jsonb USING (tenant_id, entity_id)";
    let values: BTreeMap<String, Option<String>> = client
        .query(sql, &[])
        .await?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let search = database.client("sheaf_search").await?;
    let (mut pages, mut by_names, mut on) = (0, 0, 0);
    for filter in [None, Some("i1 >= 2"), Some("i1 BETWEEN 2 AND 9")] {
        let typed = filter
            .map(|filter| anyhow::Ok(TypedExpr::resolve(&parse_text(filter)?, &lookup)?))
            .transpose()?;
        for (entity_type, descending, index_rows_max, rows_max) in [
            ("rare", false, 1, 7),
            ("rare", true, 5, 7),
            ("rare", false, 30, 5),
            ("rare", true, 60, 5),
            ("common", false, 20, 7),
            ("common", true, 40, 11),
            ("common", false, 150, 30),
            ("none", false, 5, 7),
        ] {
            let order = Order::of_indexed(AttributeId(1), descending);
            let matching = Matching {
                tenant: TenantId(1),
                entity_type: Some(entity_type),
                filter: typed.as_ref(),
            };
            let mut after: Option<Vec<Option<String>>> = None;
            loop {
                let plain = matching.next_page(&order, after.as_deref(), rows_max);
                let walk = walk(&matching, &order, (index_rows_max, 100))?;
                let page = walk.page(after.as_deref(), rows_max);
                let (mut walked, left) = found(&search, &page).await?;
                if let Some(left) = left {
                    ensure!(walked.is_empty(), "{walked:?} and {left:?}");
                    let page = walk.page_left(left, after.as_deref(), rows_max);
                    walked = found(&search, &page.context("a page")?).await?.0;
                    match left {
                        Left::ToNames => by_names += 1,
                        Left::ToWalk => on += 1,
                    }
                }
                let ids = [found(&search, &plain).await?.0, walked];
                ensure!(
                    ids[0] == ids[1],
                    "{filter:?} {entity_type} after {after:?}: {ids:?}"
                );
                pages += 1;
                // One more than the page was asked for.
                let Some(last) = ids[0].get(usize::try_from(rows_max)? - 2) else {
                    break;
                };
                after = Some(vec![values[last].clone(), Some(last.clone())]);
            }
        }
    }
    ensure!(pages > 100, "{pages} pages");
    ensure!(
        (20..pages - 20).contains(&by_names),
        "{by_names} of {pages}"
    );
    ensure!((10..pages - by_names).contains(&on), "{on} of {pages}");
    Ok(())
}
