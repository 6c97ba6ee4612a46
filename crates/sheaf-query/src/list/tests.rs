//! The gate on plans: what a filter matches is found by an index, whatever the order, the page or other tenants.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use sheaf_model::{AttributeId, AttributeType, TenantId, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::catalogue::{Catalogues, Temperature};
use sheaf_store::settings::Settings;
use sheaf_testkit::TestDatabase;
use tokio_postgres::Client;

use super::order::Order;
use super::sql::{Composed, Matching};
use super::*;
use crate::filter::{Property, parse_text};

/// Two tenants with 25,000 entities each and one hot attribute each, 1 and 2. Value 7 has 5 entities of the first
/// tenant and nine in ten of the second.
async fn populate(client: &Client) -> Result<()> {
    client
        .batch_execute(
            "INSERT INTO sheaf.tenants (tenant_id, name, created_at) OVERRIDING SYSTEM VALUE
            VALUES (1, 'rare', now()), (2, 'common', now());
            INSERT INTO sheaf.attributes (tenant_id, attribute_id, name, type, origin, temperature, created_at)
            SELECT n, n, 'a' || n, 'int', 'declared', 'hot', now() FROM generate_series(1, 2) n;
            INSERT INTO sheaf.entities (tenant_id, entity_id, entity_type, external_id, created_at)
            SELECT 1 + n % 2, n, 'plane', 'N' || n, now() FROM generate_series(1, 50000) n;
            INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at,
                hot_attrs, cold_attrs, present, times)
            SELECT 1 + n % 2, n, 1, now(), false, now(),
                jsonb_build_object((1 + n % 2)::text, CASE
                    WHEN n % 2 = 0 AND n > 49990 THEN 7
                    WHEN n % 2 = 1 AND n % 10 <> 1 THEN 7
                    ELSE 1000 + n % 500 END),
                '{}', ARRAY[1 + n % 2], '{}'
            FROM generate_series(1, 50000) n;
            ANALYZE",
        )
        .await
        .context("populate two tenants")
}

fn lookup(name: &str) -> Option<Property> {
    let id = AttributeId(name.strip_prefix('a')?.parse().ok()?);
    Some(Property::Attribute {
        id,
        kind: AttributeType::Int,
        temperature: Temperature::Hot,
    })
}

async fn explain(client: &Client, composed: &Composed) -> Result<String> {
    let sql = format!("EXPLAIN {}", composed.sql);
    let rows = client.query_typed(&sql, &composed.parameters()).await?;
    let lines: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    Ok(lines.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rare_value_is_found_by_its_index_whatever_the_order_and_other_tenants() -> Result<()> {
    let database = TestDatabase::create().await?;
    populate(&database.superuser().await?).await?;
    let search = database.client("sheaf_search").await?;
    // The planner takes each further value of a list for as many matches again.
    let filters = [
        "a1 = 7",
        "a1 IN (7, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16)",
    ];
    let orders = [
        Order::of(&[], None),
        Order::of(&[], Some("plane")),
        Order::of(&[("external_id", true)], Some("plane")),
        Order::of(&[("updated_at", false)], None),
    ];
    for filter in filters {
        let typed = TypedExpr::resolve(&parse_text(filter)?, &lookup)?;
        for order in &orders {
            for (entity_type, rows_max) in [(None, 101), (Some("plane"), 101), (Some("plane"), 2)] {
                let matching = Matching {
                    tenant: TenantId(1),
                    entity_type,
                    filter: Some(&typed),
                };
                let page = matching.page(order, None, rows_max);
                for composed in [&page, &matching.count()] {
                    let plan = explain(&search, composed).await?;
                    ensure!(
                        plan.contains("Bitmap Index Scan on entity_jsonb_hot_attrs"),
                        "{filter} by {order:?} is not answered by the index:\n{plan}"
                    );
                }
                let rows = search.query_typed(&page.sql, &page.parameters()).await?;
                let expected = usize::try_from(rows_max.min(5))?;
                ensure!(rows.len() == expected, "{} rows", rows.len());
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_without_a_filter_walks_the_names_and_stops() -> Result<()> {
    let database = TestDatabase::create().await?;
    populate(&database.superuser().await?).await?;
    let search = database.client("sheaf_search").await?;
    let order = Order::of(&[], Some("plane"));
    let matching = Matching {
        tenant: TenantId(1),
        entity_type: Some("plane"),
        filter: None,
    };
    let keyset = [Some("N30000".to_owned())];
    for after in [None, Some(&keyset[..])] {
        let page = matching.page(&order, after, 101);
        let plan = explain(&search, &page).await?;
        ensure!(
            plan.contains("entities_external_id_key") && !plan.contains("Seq Scan"),
            "the page is not read in order of the index:\n{plan}"
        );
        if after.is_some() {
            ensure!(
                plan.contains("external_id > "),
                "the page does not begin in the index:\n{plan}"
            );
        }
        let rows = search.query_typed(&page.sql, &page.parameters()).await?;
        ensure!(rows.len() == 101, "{} rows", rows.len());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_matches_are_estimated_and_counted_when_asked() -> Result<()> {
    let database = TestDatabase::create().await?;
    populate(&database.superuser().await?).await?;
    let app = Pool::new(&database.config("sheaf_app"), 2, &Tls::none());
    let search = Pool::new(&database.config("sheaf_search"), 2, &Tls::none());
    let settings = Arc::new(Settings::read(&app).await?);
    let catalogues = Arc::new(Catalogues::new(app.clone()));
    let reader = Reader::new(app, search, settings, catalogues);
    let scope = TenantScope::authenticated(TenantId(1));
    let options = ReadOptions::new(None, Timestamp::now());
    let count = async |count| {
        let query = ListQuery {
            entity_type: None,
            filter: None,
            sort: Vec::new(),
            select: None,
            limit: 1,
            cursor: None,
            count,
        };
        anyhow::Ok(reader.list(&scope, &query, &options).await?.value.count)
    };
    let exact = Count {
        kind: CountKind::Exact,
        value: 25_000,
    };
    ensure!(count(CountMode::Exact).await? == Some(exact));
    let estimate = count(CountMode::Estimate).await?.context("a count")?;
    ensure!(estimate.kind == CountKind::Estimate);
    ensure!(
        (12_500..=50_000).contains(&estimate.value),
        "{} of 25000",
        estimate.value
    );
    Ok(())
}

#[test]
fn the_estimate_is_read_from_the_first_line_of_a_plan() {
    let line = "Nested Loop  (cost=0.29..8.31 rows=12345 width=8)";
    assert_eq!(estimated_rows(line), Some(12_345));
    assert_eq!(estimated_rows("Result"), None);
}
