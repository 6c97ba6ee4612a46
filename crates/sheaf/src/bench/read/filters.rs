//! Filters over HTTP: the first page of a hundred, against the same query by hand on a typed wide table with a B-tree for
//! each column and no policy, which has every entity of every tenant as well.
//!
//! Both sides hold the same million entities of one tenant among half as many of another, for whose attributes the rare
//! values are common. The data is put into the tables as a server would have left it, since writing is not measured here.

use std::ops::RangeInclusive;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};
use sheaf_store::catalogue::Catalogue;
use tokio_postgres::types::{ToSql, Type};

use crate::bench::Scale;
use crate::bench::connection::Connection;
use crate::bench::report::{Better, Line, Report, percentile};
use crate::bench::world::{Tenant, World};

pub(in crate::bench) const CASE: &str = "filters";

const PAGE: usize = 100;
/// Of what is selective: one in as many.
pub(super) const LOTS: i64 = 5_000;

/// The attributes: name, type, and a pin.
const ATTRIBUTES: [(&str, &str, Option<&str>); 6] = [
    ("status", "text", Some("hot")),
    ("region", "text", Some("hot")),
    ("model", "text", Some("hot")),
    ("lot", "text", Some("hot")),
    ("speed", "int", Some("hot")),
    ("note", "float", Some("cold")),
];

/// One query in both forms. `$1` is the tenant of the wide table's; `{}` in a literal is another number each time.
pub(super) struct Query {
    pub(super) name: &'static str,
    filter: &'static str,
    sort: &'static [&'static str],
    /// What is compared with, where anything is, and the bar of the ratio of the medians.
    by_hand: Option<(&'static str, f64)>,
    /// Milliseconds of the 95th percentile.
    p95_max: Option<f64>,
    /// Whether every page is full at the full scale.
    is_full: bool,
    variants: usize,
}

pub(super) const QUERIES: [Query; 6] = [
    Query {
        name: "two_hot_attributes",
        filter: "status = 's{a}' AND region = 'r{b}'",
        sort: &[],
        by_hand: Some((
            "status = 's{a}' AND region = 'r{b}' ORDER BY external_id",
            1.5,
        )),
        p95_max: Some(25.0),
        is_full: true,
        variants: 200,
    },
    Query {
        name: "three_hot_attributes",
        filter: "status = 's{a}' AND region = 'r{b}' AND model = 'm{c}'",
        sort: &[],
        by_hand: Some((
            "status = 's{a}' AND region = 'r{b}' AND model = 'm{c}' ORDER BY external_id",
            1.5,
        )),
        p95_max: Some(25.0),
        is_full: false,
        variants: 200,
    },
    Query {
        name: "range_and_sort",
        filter: "speed BETWEEN {n} AND {m}",
        sort: &["speed"],
        by_hand: Some(("speed BETWEEN {n} AND {m} ORDER BY speed, external_id", 1.3)),
        p95_max: None,
        is_full: true,
        variants: 900,
    },
    Query {
        name: "selective",
        filter: "lot = 'l{l}'",
        sort: &[],
        by_hand: None,
        p95_max: Some(5.0),
        is_full: false,
        variants: 5_000,
    },
    Query {
        name: "selective_here_and_common_elsewhere",
        filter: "lot = 'l0'",
        sort: &[],
        by_hand: None,
        p95_max: Some(5.0),
        is_full: false,
        variants: 1,
    },
    Query {
        name: "cold_sparse",
        filter: "note > 0.{h}",
        sort: &[],
        by_hand: None,
        p95_max: Some(20.0),
        is_full: false,
        variants: 9,
    },
];

impl Query {
    /// The literals of a variant in place of their names.
    fn filled(&self, text: &str, variant: usize) -> String {
        let variant = variant % self.variants;
        [
            ("{a}", variant % 10),
            ("{b}", variant % 20),
            ("{c}", variant % 50),
            ("{n}", variant * 100),
            ("{m}", variant * 100 + 999),
            ("{l}", variant),
            ("{h}", variant),
        ]
        .into_iter()
        .fold(text.to_owned(), |text, (name, number)| {
            text.replace(name, &number.to_string())
        })
    }
}

pub(in crate::bench) async fn run(world: &World, scale: Scale, report: &mut Report) -> Result<()> {
    let entities = scale.pick(2_000, 50_000, 1_000_000);
    let ours = world.tenant("filters").await?;
    let others = world.tenant("filters_beside").await?;
    fill(world, &ours, &others, entities).await?;
    let calls = scale.pick(5, 60, 400);
    for query in &QUERIES {
        let (mut p50s, mut p95s, mut baselines) = (Vec::new(), Vec::new(), Vec::new());
        let is_full = query.is_full && matches!(scale, Scale::Full);
        let least = if is_full { PAGE } else { 0 };
        for round in 0..=scale.rounds() {
            let case = over_http(&ours, query, calls, round, least).await?;
            // The first round fills caches on both sides and is not counted.
            if round > 0 {
                p50s.push(percentile(&case, 50));
                p95s.push(percentile(&case, 95));
            }
            if let Some((condition, _)) = query.by_hand {
                let condition = |variant| query.filled(condition, variant);
                let baseline = by_hand(world, &ours, &condition, calls, round).await?;
                if round > 0 {
                    baselines.push(percentile(&baseline, 50));
                }
            }
        }
        let line = Line::new(("read", query.name), "p50", "ms", Better::Lower, p50s);
        report.add(&match query.by_hand {
            Some((_, bar)) => {
                let bar = matches!(scale, Scale::Full).then_some(bar);
                line.against("wide_table", &baselines, bar)
            }
            None => line,
        })?;
        let line = Line::new(("read", query.name), "p95", "ms", Better::Lower, p95s);
        report.add(&match query.p95_max {
            Some(bound) if matches!(scale, Scale::Full) => line.stated(bound),
            Some(_) | None => line,
        })?;
    }
    Ok(())
}

async fn fill(world: &World, ours: &Tenant, others: &Tenant, entities: i64) -> Result<()> {
    declare(&[others, ours]).await?;
    create_wide(world).await?;
    fill_tenant(world, others, 1..=entities / 2, 1).await?;
    fill_tenant(world, ours, 1..=entities, LOTS).await?;
    finish(world).await
}

/// Creates the attributes.
pub(super) async fn declare(tenants: &[&Tenant]) -> Result<()> {
    for tenant in tenants {
        let mut connection = tenant.connect().await?;
        for (name, kind, pin) in ATTRIBUTES {
            let body = json!({"name": name, "type": kind, "pin": pin}).to_string();
            let body = Bytes::from(body);
            let path = "/v1/attributes";
            connection
                .call(Method::POST, path, "application/json", body)
                .await?;
        }
    }
    Ok(())
}

/// Creates the wide table, in place of that of a case before.
pub(super) async fn create_wide(world: &World) -> Result<()> {
    world
        .client
        .batch_execute(
            "DROP TABLE IF EXISTS bench.wide;
            CREATE TABLE bench.wide (tenant_id bigint NOT NULL, entity_id bigint PRIMARY KEY, external_id text COLLATE \"C\" NOT NULL,
                status text COLLATE \"C\", region text COLLATE \"C\", model text COLLATE \"C\", lot text COLLATE \"C\", speed bigint,
                note double precision, version bigint, newest timestamptz, updated_at timestamptz)",
        )
        .await?;
    Ok(())
}

/// Indexes and statistics, after the data.
pub(super) async fn finish(world: &World) -> Result<()> {
    world
        .client
        .batch_execute(
            "CREATE INDEX IF NOT EXISTS wide_external_id ON bench.wide (external_id); CREATE INDEX IF NOT EXISTS wide_status ON bench.wide (status); CREATE INDEX IF NOT EXISTS wide_region ON bench.wide (region);
             CREATE INDEX IF NOT EXISTS wide_model ON bench.wide (model); CREATE INDEX IF NOT EXISTS wide_lot ON bench.wide (lot); CREATE INDEX IF NOT EXISTS wide_speed ON bench.wide (speed);
             CREATE INDEX IF NOT EXISTS wide_note ON bench.wide (note)",
        )
        .await?;
    for table in [
        "bench.wide",
        "sheaf.entities",
        "sheaf.entity_jsonb",
        "sheaf.entity_index_int",
        "sheaf.entity_index_text",
    ] {
        let vacuum = format!("VACUUM (ANALYZE) {table}");
        world.client.batch_execute(&vacuum).await?;
    }
    Ok(())
}

/// Entities with these numbers, on both sides.
pub(super) async fn fill_tenant(
    world: &World,
    tenant: &Tenant,
    entities: RangeInclusive<i64>,
    lots: i64,
) -> Result<()> {
    let (first, last) = (entities.start(), entities.end());
    let catalogue = world.catalogue(tenant).await?;
    let of = |name: &str| number(&catalogue, name);
    let (status, region, model) = (of("status")?, of("region")?, of("model")?);
    let (lot, speed, note) = (of("lot")?, of("speed")?, of("note")?);
    let tenant = tenant.scope.tenant().0;
    let names = format!(
        "INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)
         SELECT {tenant}, 'device', 'd' || n, now() FROM generate_series({first}, {last}) n"
    );
    world.client.batch_execute(&names).await?;
    // Each column as by its own dice, so that no two go together.
    let wide = format!(
        "INSERT INTO bench.wide
         SELECT tenant_id, entity_id, external_id, 's' || {}, 'r' || {}, 'm' || {}, 'l' || n % {lots}, n * 7919 % 100000, CASE WHEN n % 1000 = 0 THEN n / 1000 % 10 / 10.0 END, 1, now(), now()
         FROM (SELECT *, substr(external_id, 2)::bigint AS n FROM sheaf.entities WHERE tenant_id = {tenant}) e WHERE n BETWEEN {first} AND {last}",
        drawn(1, 10),
        drawn(2, 20),
        drawn(3, 50),
    );
    world.client.batch_execute(&wide).await?;
    let documents = format!(
        "INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at, hot_attrs, cold_attrs, present, times)
         SELECT tenant_id, entity_id, version, newest, false, updated_at,
            jsonb_build_object('{status}', status, '{region}', region, '{model}', model, '{lot}', lot, '{speed}', speed),
            CASE WHEN note IS NULL THEN '{{}}' ELSE jsonb_build_object('{note}', note) END,
            ARRAY[{status}, {region}, {model}, {lot}, {speed}] || CASE WHEN note IS NULL THEN '{{}}' ELSE ARRAY[{note}] END, '{{}}'
         FROM bench.wide WHERE tenant_id = {tenant} AND substr(external_id, 2)::bigint BETWEEN {first} AND {last}"
    );
    world.client.batch_execute(&documents).await?;
    for (table, attribute, column) in [
        ("int", speed, "speed"),
        ("text", status, "status"),
        ("text", region, "region"),
        ("text", model, "model"),
        ("text", lot, "lot"),
    ] {
        let index = format!(
            "INSERT INTO sheaf.entity_index_{table} (tenant_id, attribute_id, entity_id, value)
             SELECT tenant_id, {attribute}, entity_id, {column} FROM bench.wide WHERE tenant_id = {tenant} AND substr(external_id, 2)::bigint BETWEEN {first} AND {last}"
        );
        world.client.batch_execute(&index).await?;
    }
    Ok(())
}

/// A number below `choices` from that of the entity, the same in every run.
fn drawn(dice: u8, choices: u8) -> String {
    format!("abs(hashint8extended(n, {dice}) % {choices})")
}

fn number(catalogue: &Catalogue, name: &str) -> Result<i64> {
    let attribute = catalogue
        .by_name(name)
        .with_context(|| format!("{name} was declared"))?;
    Ok(attribute.id.0)
}

/// Latencies in milliseconds, sorted, of pages that have so many entities at least.
pub(super) async fn over_http(
    tenant: &Tenant,
    query: &Query,
    calls: usize,
    round: usize,
    least: usize,
) -> Result<Vec<f64>> {
    let mut connection = tenant.connect().await?;
    let mut latencies = Vec::with_capacity(calls);
    for call in 0..calls {
        let filter = query.filled(query.filter, round * calls + call);
        let body = json!({"type": "device", "filter": filter, "sort": query.sort, "limit": PAGE});
        let begun = Instant::now();
        let answer = search(&mut connection, &body).await?;
        latencies.push(begun.elapsed().as_secs_f64() * 1000.0);
        let answer: Value = serde_json::from_slice(&answer)?;
        let items = answer["items"].as_array().map_or(0, Vec::len);
        ensure!(
            items >= least,
            "{}: {filter} found {items} entities",
            query.name
        );
    }
    latencies.sort_unstable_by(f64::total_cmp);
    Ok(latencies)
}

async fn search(connection: &mut Connection, body: &Value) -> Result<Bytes> {
    let body = Bytes::from(body.to_string());
    connection
        .call(
            Method::POST,
            "/v1/entities/search",
            "application/json",
            body,
        )
        .await
}

async fn by_hand(
    world: &World,
    tenant: &Tenant,
    condition: &dyn Fn(usize) -> String,
    calls: usize,
    round: usize,
) -> Result<Vec<f64>> {
    let tenant = tenant.scope.tenant().0;
    let params: [(&(dyn ToSql + Sync), Type); 1] = [(&tenant, Type::INT8)];
    let mut latencies = Vec::with_capacity(calls);
    for call in 0..calls {
        let condition = condition(round * calls + call);
        let sql =
            format!("SELECT * FROM bench.wide WHERE tenant_id = $1 AND {condition} LIMIT {PAGE}");
        let begun = Instant::now();
        world.client.query_typed(&sql, &params).await?;
        latencies.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    latencies.sort_unstable_by(f64::total_cmp);
    Ok(latencies)
}
