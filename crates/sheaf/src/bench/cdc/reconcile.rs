//! Comparing the lake with PostgreSQL: all of it, then nothing new, then a fact that the lake lacks, one that only it has and one
//! that it has otherwise; exactly these are found.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::feed::Feed;
use super::follower::Follower;
use crate::bench::Scale;
use crate::bench::report::{Better, Line, Report};
use crate::bench::world::{Tenant, World};

pub(super) const CASE: &str = "reconcile";
/// Where nothing changed since the last time.
const UNCHANGED_SECONDS_MAX: f64 = 2.0;
/// Its exit code where both sides differ.
const DIFFERENT: i32 = 5;
const PUT_RIGHT_WITHIN: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Asks the lake's writer to have an event of a device otherwise than PostgreSQL has it.
const PLANT: &str = "INSERT INTO sheaf.lake_repairs
    SELECT e.tenant_id, e.entity_id, e.observed_at, e.seq, p.catalog_name, e.op, e.batch_id, e.ingested_at, {attrs},
        p.base_timeline, p.base_lsn, now()
    FROM (SELECT * FROM sheaf.entity_events ORDER BY tenant_id DESC, entity_id, observed_at OFFSET {offset} LIMIT 1) e
    CROSS JOIN sheaf.lake_positions p
    CROSS JOIN LATERAL (SELECT f.key, f.value FROM jsonb_each(e.attrs) f ORDER BY 1 LIMIT 1) first";
/// One less, a changed one, and one of the attribute that no event has.
const PLANTED: [&str; 3] = [
    "e.attrs - first.key",
    "jsonb_set(e.attrs, ARRAY[first.key], '-1.25')",
    "e.attrs || jsonb_build_object((SELECT a.attribute_id::text FROM sheaf.attributes a
        WHERE a.tenant_id = e.tenant_id AND a.name = 'other'), 1)",
];

pub(super) async fn run(world: &World, scale: Scale, report: &mut Report) -> Result<()> {
    let feed = Feed::new(world, CASE, scale).await?;
    declare_other(&feed.tenant).await?;
    let follower = Follower::start(world).await?;
    follower.until_all().await?;
    feed.fill(events(scale)).await?;
    follower.stop().await?;
    let follower = Follower::start(world).await?;
    follower.until_all().await?;

    let (all, told) = compare(world).await?;
    ensure!(told["outcome"] == "clean", "before any difference: {told}");
    let (unchanged, told) = compare(world).await?;
    ensure!(told["outcome"] == "clean", "without any change: {told}");
    plant(world, scale).await?;
    let (planted, told) = compare(world).await?;
    let found = |kind: &str| told["differences"][kind] == 1;
    let kinds = ["missing", "changed", "extra"];
    let facts = told["facts"].as_array().map_or(0, Vec::len);
    ensure!(
        kinds.into_iter().all(found) && facts == kinds.len(),
        "of three differences: {told}"
    );
    follower.stop().await?;

    let line = |measure: &'static str, seconds| {
        Line::new(("cdc", CASE), measure, "s", Better::Lower, vec![seconds])
    };
    report.add(&line("all", all))?;
    let unchanged = line("unchanged", unchanged);
    report.add(&match scale {
        Scale::Full => unchanged.stated(UNCHANGED_SECONDS_MAX),
        Scale::Tiny | Scale::Small => unchanged,
    })?;
    report.add(&line("three_differences", planted))
}

/// Of ten values each.
fn events(scale: Scale) -> u64 {
    scale.pick(100, 300_000, 10_000_000)
}

/// An attribute that no event has.
async fn declare_other(tenant: &Tenant) -> Result<()> {
    let body = json!({ "name": "other", "type": "int" }).to_string();
    let mut connection = tenant.connect().await?;
    let declared = connection.call(
        Method::POST,
        "/v1/attributes",
        "application/json",
        Bytes::from(body),
    );
    declared.await.context("declaring an attribute")?;
    Ok(())
}

/// Seconds that the command takes, and what it tells.
async fn compare(world: &World) -> Result<(f64, Value)> {
    let begun = Instant::now();
    let arguments = [
        "reconcile",
        "--json",
        "--settled-after",
        "0",
        "--wait",
        "600",
    ];
    let output = world.run_beside_second(&arguments).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let errors = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    if !matches!(code, Some(0 | DIFFERENT)) {
        bail!("sheaf reconcile ended with {}: {errors}", output.status);
    }
    let told = serde_json::from_slice(&output.stdout);
    let told = told.with_context(|| format!("sheaf reconcile told no JSON: {errors}"))?;
    Ok((seconds, told))
}

/// Asks for the differences, and waits until the lake has them.
async fn plant(world: &World, scale: Scale) -> Result<()> {
    for (place, attrs) in PLANTED.iter().enumerate() {
        let offset = (events(scale) / 4 * (place as u64 + 1)).to_string();
        let statement = PLANT.replace("{attrs}", attrs).replace("{offset}", &offset);
        let rows = world.client.execute(&statement, &[]).await;
        let rows = rows.context("asking for a difference")?;
        ensure!(rows == 1, "{rows} events were chosen for a difference");
    }
    let begun = Instant::now();
    while begun.elapsed() < PUT_RIGHT_WITHIN {
        let waiting = "SELECT count(*) FROM sheaf.lake_repairs";
        let row = world.client.query_one(waiting, &[]).await;
        if row.context("counting what waits")?.get::<_, i64>(0) == 0 {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("the lake's writer leaves what it was asked for")
}
