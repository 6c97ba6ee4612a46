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
use crate::filter::{AccessPath, Property, Reserved, parse_text};

mod alternatives;
mod members;
mod walk;

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
            INSERT INTO sheaf.entity_index_int (tenant_id, attribute_id, entity_id, value)
            SELECT tenant_id, tenant_id, entity_id, (hot_attrs ->> tenant_id::text)::bigint FROM sheaf.entity_jsonb;
            ANALYZE",
        )
        .await
        .context("populate two tenants")
}

/// `a1` is hot attribute 1; `i1` is that with a value index; `c1` is cold.
fn lookup(name: &str) -> Option<Property> {
    if let Some(reserved) = Reserved::named(name) {
        return Some(Property::Reserved(reserved));
    }
    let id = AttributeId(name.trim_start_matches(['a', 'i', 'c']).parse().ok()?);
    Some(Property::Attribute {
        id,
        kind: AttributeType::Int,
        temperature: match name.starts_with('c') {
            true => Temperature::Cold,
            false => Temperature::Hot,
        },
        is_indexed: name.starts_with('i'),
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
    let client = database.superuser().await?;
    populate(&client).await?;
    client
        .batch_execute(
            "INSERT INTO sheaf.tenants (tenant_id, name, created_at) OVERRIDING SYSTEM VALUE VALUES (3, 'small', now());
            INSERT INTO sheaf.entities (tenant_id, entity_id, entity_type, external_id, created_at)
            SELECT 3, n, 'plane', 'N' || n, now() FROM generate_series(50001, 55000) n;
            INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at,
                hot_attrs, cold_attrs, present, times)
            SELECT 3, n, 1, now(), false, now(), jsonb_build_object('3', CASE WHEN n > 54995 THEN 7 ELSE 1000 END),
                '{}', ARRAY[3], '{}'
            FROM generate_series(50001, 55000) n;
            ANALYZE",
        )
        .await?;
    let search = database.client("sheaf_search").await?;
    // The planner takes each further value of a list for as many matches again.
    let filters = [
        (1, "a1 = 7"),
        (3, "a3 = 7"),
        (
            1,
            "a1 IN (7, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16)",
        ),
    ];
    let orders = [
        Order::of(&[], None),
        Order::of(&[], Some("plane")),
        Order::of(&[("external_id", true)], Some("plane")),
        Order::of(&[("updated_at", false)], None),
    ];
    for (tenant, filter) in filters {
        let typed = TypedExpr::resolve(&parse_text(filter)?, &lookup)?;
        for order in &orders {
            for (entity_type, rows_max) in [(None, 101), (Some("plane"), 101), (Some("plane"), 2)] {
                let matching = Matching {
                    tenant: TenantId(tenant),
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
                let plan = explain(&search, &page).await?;
                ensure!(
                    !plan.contains("Bitmap Index Scan on entity_jsonb_pkey"),
                    "{filter} by {order:?} reads the numbers of the whole tenant:\n{plan}"
                );
                let rows = search.query_typed(&page.sql, &page.parameters()).await?;
                let expected = usize::try_from(rows_max.min(5))?;
                ensure!(rows.len() == expected, "{} rows", rows.len());
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_found_and_an_order_walked_by_the_value_index() -> Result<()> {
    let database = TestDatabase::create().await?;
    populate(&database.superuser().await?).await?;
    let search = database.client("sheaf_search").await?;
    let by_value = |descending| Order::of_indexed(AttributeId(1), descending);
    // What matches, the order, after which keyset, and whether the page is sorted a group of equal values at a time.
    let after = [Some("1100".to_owned()), Some("N20000".to_owned())];
    let table = [
        (Some("i1 < 100"), Order::of(&[], Some("plane")), None, false),
        (
            Some("i1 BETWEEN 1000 AND 1001"),
            Order::of(&[], None),
            None,
            false,
        ),
        (Some("i1 >= 1000"), by_value(false), None, true),
        (Some("i1 >= 1000"), by_value(true), None, true),
        (None, by_value(false), None, true),
        (None, by_value(true), Some(&after[..]), true),
    ];
    for (filter, order, after, is_walked) in table {
        let typed = filter
            .map(|filter| anyhow::Ok(TypedExpr::resolve(&parse_text(filter)?, &lookup)?))
            .transpose()?;
        let matching = Matching {
            tenant: TenantId(1),
            entity_type: Some("plane"),
            filter: typed.as_ref(),
        };
        let page = matching.page(&order, after, 101);
        let plan = explain(&search, &page).await?;
        ensure!(
            plan.contains("entity_index_int_value"),
            "{filter:?} by {order:?} is not answered by the value index:\n{plan}"
        );
        if is_walked {
            ensure!(
                plan.contains("Incremental Sort"),
                "{filter:?} by {order:?} is not walked:\n{plan}"
            );
        }
        let rows = search.query_typed(&page.sql, &page.parameters()).await?;
        ensure!(!rows.is_empty() && rows.len() <= 101, "{} rows", rows.len());
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
async fn how_many_documents_an_attribute_has_is_known_without_reading_them() -> Result<()> {
    let database = TestDatabase::create().await?;
    let client = database.superuser().await?;
    populate(&client).await?;
    client
        .batch_execute(
            "UPDATE sheaf.entity_jsonb SET present = present || 3::bigint WHERE entity_id % 1000 = 0; ANALYZE",
        )
        .await?;
    let app = Pool::new(&database.config("sheaf_app"), 2, &Tls::none());
    let search = Pool::new(&database.config("sheaf_search"), 2, &Tls::none());
    let settings = Arc::new(Settings::read(&app).await?);
    let catalogues = Arc::new(Catalogues::new(app.clone()));
    let reader = Reader::new(app, search, settings, catalogues);
    let options = ReadOptions::new(None, Timestamp::now());
    let source = Source::primary(&reader.sources, false, &options).await?;
    let matching = Matching {
        tenant: TenantId(1),
        entity_type: Some("plane"),
        filter: None,
    };
    let paths = [
        AccessPath::Presence(AttributeId(1)),
        AccessPath::Presence(AttributeId(3)),
        AccessPath::Presence(AttributeId(4)),
        AccessPath::AbsenceOf(AttributeId(3)),
    ];
    let counted = bound::count(&source, &matching, &paths).await?;
    let bounds = [12_500..50_000, 20..200, 0..1_000, 12_500..50_000];
    for (found, bounds) in counted.documents.iter().zip(bounds) {
        ensure!(bounds.contains(found), "{found} is not in {bounds:?}");
    }
    ensure!((12_500..50_000).contains(&counted.of_type));
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
    let options = ReadOptions::new(None, Timestamp::now());
    let count = async |tenant, filter: Option<&str>, count| {
        let query = ListQuery {
            entity_type: None,
            filter: filter.map(parse_text).transpose()?,
            sort: Vec::new(),
            select: None,
            limit: 1,
            cursor: None,
            count,
            facets: Vec::new(),
        };
        let scope = TenantScope::authenticated(TenantId(tenant));
        let answer = reader.list(&scope, &query, &options).await?.value;
        answer.count.context("a count")
    };
    // Common, common by another tenant's standards, in one stretch of the entities, and unknown to any statistics.
    for (tenant, filter, matches) in [
        (1, None, 25_000),
        (2, Some("a2 = 7"), 20_000),
        (2, Some("a2 <> 8"), 25_000),
        (2, Some("external_id > 'N3'"), 13_889),
        (1, Some("a1 >= 1200"), 14_999),
        (1, Some("a1 >= 1200 AND external_id LIKE '%_'"), 14_999),
    ] {
        let exact = count(tenant, filter, CountMode::Exact).await?;
        ensure!(
            exact.kind == CountKind::Exact && (exact.value - matches).abs() <= 5,
            "{filter:?}: {exact:?}"
        );
        let estimate = count(tenant, filter, CountMode::Estimate).await?;
        ensure!(estimate.kind == CountKind::Estimate);
        ensure!(
            (exact.value / 2..=exact.value * 2).contains(&estimate.value),
            "{filter:?}: {} of {}",
            estimate.value,
            exact.value
        );
    }
    // Few are counted.
    let few = count(1, Some("a1 = 7"), CountMode::Estimate).await?;
    ensure!(few.value == 5, "{few:?}");
    Ok(())
}
