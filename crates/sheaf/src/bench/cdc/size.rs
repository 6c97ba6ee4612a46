//! What a fact takes in the lake: values with two decimals of devices that all report at the same seconds, against what the
//! same events take in PostgreSQL.

use anyhow::{Context, Result};

use super::VALUES;
use super::feed::Feed;
use super::follower::Follower;
use crate::bench::Scale;
use crate::bench::report::{Better, Line, Report};
use crate::bench::world::World;

pub(super) const CASE: &str = "bytes_per_fact";
const BYTES_MAX: f64 = 5.0;
/// Of the bytes of heap and index.
const SHARE_MAX: f64 = 0.125;

pub(super) async fn run(world: &World, scale: Scale, report: &mut Report) -> Result<()> {
    let feed = Feed::new(world, CASE, scale).await?;
    feed.fill(scale.pick(200, 20_000, 1_000_000)).await?;
    let follower = Follower::start(world).await?;
    let reached = follower.until_all().await?;
    follower.stop().await?;
    let bytes = reached.bytes_per_fact();
    let in_postgres = bytes_per_value(world).await?;
    let line = || {
        Line::new(
            ("cdc", CASE),
            "facts_files",
            "bytes/fact",
            Better::Lower,
            vec![bytes],
        )
    };
    report.add(&line().stated(BYTES_MAX))?;
    report.add(&line().against("heap_and_index", &[in_postgres], Some(SHARE_MAX)))
}

/// Of the partitions that hold events; those of times to come have a page each.
async fn bytes_per_value(world: &World) -> Result<f64> {
    let row = world
        .client
        .query_one(
            "SELECT (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('sheaf.entity_events') \
                WHERE isleaf AND pg_relation_size(relid) > 0)::float8, \
                (SELECT count(*) FROM sheaf.entity_events)::float8",
            &[],
        )
        .await
        .context("measuring the events")?;
    let (bytes, events): (Option<f64>, f64) = (row.get(0), row.get(1));
    Ok(bytes.context("there are no events")? / (events * VALUES as f64))
}
