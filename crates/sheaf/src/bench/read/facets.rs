//! Facets over HTTP: the top values of one attribute and a histogram of another, over a filter that three entities in ten
//! pass, against the same by hand on a typed wide table with a B-tree for each column and no policy.
//!
//! Both sides answer the first entity of the list as well, as a page does. The documents hold eight attributes, the wide table as
//! many columns, so that neither reads less than a real one would.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio_postgres::types::{ToSql, Type};

use crate::bench::Scale;
use crate::bench::report::{Better, Line, Report, percentile};
use crate::bench::world::{Tenant, World};

pub(in crate::bench) const CASE: &str = "facets";

/// The attributes: name, type, and a pin.
const ATTRIBUTES: [(&str, &str, &str); 8] = [
    ("kind", "text", "hot"),
    ("maker", "text", "hot"),
    ("seats", "int", "cold"),
    ("speed", "float", "cold"),
    ("owner", "text", "hot"),
    ("weight", "int", "cold"),
    ("height", "float", "cold"),
    ("note", "text", "cold"),
];
/// Of the ratio of the medians.
const BAR: f64 = 3.0;
const TOP: usize = 20;

pub(in crate::bench) async fn run(world: &World, scale: Scale, report: &mut Report) -> Result<()> {
    let entities = scale.pick(2_000, 50_000, 1_000_000);
    let tenant = world.tenant("faceted").await?;
    fill(world, &tenant, entities).await?;
    let calls = scale.pick(3, 10, 20);
    let (mut p50s, mut baselines) = (Vec::new(), Vec::new());
    for round in 0..=scale.rounds() {
        let case = over_http(&tenant, calls, entities).await?;
        let baseline = by_hand(world, &tenant, calls).await?;
        // The first round fills caches on both sides and is not counted.
        if round > 0 {
            p50s.push(percentile(&case, 50));
            baselines.push(percentile(&baseline, 50));
        }
    }
    let line = Line::new(
        ("read", "top_and_histogram"),
        "p50",
        "ms",
        Better::Lower,
        p50s,
    );
    let bar = matches!(scale, Scale::Full).then_some(BAR);
    report.add(&line.against("wide_table", &baselines, bar))
}

async fn fill(world: &World, tenant: &Tenant, entities: i64) -> Result<()> {
    let mut connection = tenant.connect().await?;
    for (name, kind, pin) in ATTRIBUTES {
        let body = Bytes::from(json!({"name": name, "type": kind, "pin": pin}).to_string());
        let path = "/v1/attributes";
        connection
            .call(Method::POST, path, "application/json", body)
            .await?;
    }
    let catalogue = world.catalogue(tenant).await?;
    let mut numbers = Vec::new();
    for (name, _, _) in ATTRIBUTES {
        let attribute = catalogue
            .by_name(name)
            .with_context(|| format!("{name} was declared"))?;
        numbers.push(attribute.id.0);
    }
    let [kind, maker, seats, speed, owner, weight, height, note] = numbers[..] else {
        anyhow::bail!("there are eight attributes");
    };
    let tenant = tenant.scope.tenant().0;
    let mut present = numbers.clone();
    present.sort_unstable();
    // Makers are as skewed as such things are: each is half as frequent as one a few places before it.
    let tables = format!(
        "INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)
         SELECT {tenant}, 'plane', 'N' || n, now() FROM generate_series(1, {entities}) n;
         CREATE TABLE bench.faceted (tenant_id bigint NOT NULL, entity_id bigint PRIMARY KEY, external_id text COLLATE \"C\" NOT NULL,
            kind text COLLATE \"C\", maker text COLLATE \"C\", seats bigint, speed double precision, owner text COLLATE \"C\",
            weight bigint, height double precision, note text COLLATE \"C\");
         INSERT INTO bench.faceted
         SELECT tenant_id, entity_id, external_id, CASE WHEN n % 10 < 3 THEN 'jet' ELSE 'k' || n % 10 END,
            'm' || floor(200 * power(n * 7919 % 100003 / 100003.0, 3)), n * 104729 % 850, n % 977 / 7.0, 'o' || n % 5003,
            n * 31 % 400000, n % 211 / 3.0, md5(n::text)
         FROM (SELECT *, substr(external_id, 2)::bigint AS n FROM sheaf.entities WHERE tenant_id = {tenant}) e;
         INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at, hot_attrs, cold_attrs, present, times)
         SELECT tenant_id, entity_id, 1, now(), false, now(), jsonb_build_object('{kind}', kind, '{maker}', maker, '{owner}', owner),
            jsonb_build_object('{seats}', seats, '{speed}', speed, '{weight}', weight, '{height}', height, '{note}', note),
            '{{{}}}', '{{}}'
         FROM bench.faceted;
         CREATE INDEX ON bench.faceted (external_id); CREATE INDEX ON bench.faceted (kind); CREATE INDEX ON bench.faceted (maker);
         CREATE INDEX ON bench.faceted (seats)",
        present.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
    );
    world.client.batch_execute(&tables).await?;
    for table in ["bench.faceted", "sheaf.entities", "sheaf.entity_jsonb"] {
        let vacuum = format!("VACUUM (ANALYZE) {table}");
        world.client.batch_execute(&vacuum).await?;
    }
    Ok(())
}

/// Latencies in milliseconds, sorted.
async fn over_http(tenant: &Tenant, calls: usize, entities: i64) -> Result<Vec<f64>> {
    let mut connection = tenant.connect().await?;
    let body = json!({"type": "plane", "filter": "kind = 'jet'", "limit": 1,
        "facets": {"maker": {"top": TOP}, "seats": {"histogram": 100}}});
    let body = Bytes::from(body.to_string());
    let mut latencies = Vec::with_capacity(calls);
    for _ in 0..calls {
        let begun = Instant::now();
        let path = "/v1/entities/search";
        let answer = connection
            .call(Method::POST, path, "application/json", body.clone())
            .await?;
        latencies.push(begun.elapsed().as_secs_f64() * 1000.0);
        let answer: Value = serde_json::from_slice(&answer)?;
        let buckets = answer["facets"]["seats"]["buckets"].as_array();
        let counted = buckets.into_iter().flatten();
        let counted: i64 = counted.filter_map(|bucket| bucket["count"].as_i64()).sum();
        ensure!(
            counted == entities * 3 / 10,
            "{counted} entities were counted"
        );
    }
    latencies.sort_unstable_by(f64::total_cmp);
    Ok(latencies)
}

async fn by_hand(world: &World, tenant: &Tenant, calls: usize) -> Result<Vec<f64>> {
    let tenant = tenant.scope.tenant().0;
    let params: [(&(dyn ToSql + Sync), Type); 1] = [(&tenant, Type::INT8)];
    let whole = "FROM bench.faceted WHERE tenant_id = $1 AND kind = 'jet'";
    let statements = [
        format!("SELECT * {whole} ORDER BY external_id LIMIT 1"),
        format!(
            "SELECT maker, count(*) {whole} GROUP BY maker ORDER BY count(*) DESC, maker LIMIT {TOP}"
        ),
        format!("SELECT seats / 100 * 100, count(*) {whole} GROUP BY 1 ORDER BY 1"),
    ];
    let mut latencies = Vec::with_capacity(calls);
    for _ in 0..calls {
        let begun = Instant::now();
        for statement in &statements {
            world.client.query_typed(statement, &params).await?;
        }
        latencies.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    latencies.sort_unstable_by(f64::total_cmp);
    Ok(latencies)
}
