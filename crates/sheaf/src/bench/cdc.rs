//! Following: how fast and how late the change stream is in the lake, what it takes from writing, and what a fact takes there.
//!
//! The server that takes events in follows nothing. What follows is a process of its own on the same database, a
//! `sheaf serve` with a lake in the world's folder and no other sink: so following begins and ends when a case says so, and its
//! memory can be told apart. Between its lives the slot keeps the log, once there is one.

mod commits;
pub(super) mod feed;
pub(super) mod follower;
mod lag;
mod memory;
mod paced;
mod reconcile;
mod size;
mod stream;

use anyhow::Result;

use super::Scale;
use super::report::{Better, Line, Report};
use super::world::World;

/// Values of each event.
const VALUES: u64 = 10;
const MEGABYTE: f64 = 1e6;
/// What the process that follows may need, at any rate.
const MEGABYTES_MAX: f64 = 500.0;
/// Every case of the suite, in the order in which they run. The first begins with a lake that was never begun.
pub(super) const CASES: [&str; 5] = [
    stream::CASE,
    paced::CASE,
    size::CASE,
    memory::CASE,
    reconcile::CASE,
];

pub(super) async fn run(
    world: &World,
    case: &str,
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    match case {
        paced::CASE => paced::run(world, scale, report).await,
        size::CASE => size::run(world, scale, report).await,
        memory::CASE => memory::run(world, scale, report).await,
        reconcile::CASE => reconcile::run(world, scale, report).await,
        _ => stream::run(world, scale, report).await,
    }
}

/// The most memory that following has needed, one figure a life of its process.
fn memory(case: &'static str, megabytes: Vec<f64>) -> Line {
    let suite = ("cdc", case);
    Line::new(
        suite,
        "follower_resident_max",
        "MB",
        Better::Lower,
        megabytes,
    )
    .stated(MEGABYTES_MAX)
}
