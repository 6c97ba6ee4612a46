//! Reads from replicas that really stream: who answers, what it says of its age, and what becomes of them when they fail.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has nothing better to do than to stop"
)]

mod away;
mod behind;
mod failing;
mod promoted;
mod remembered;
mod replicated;
mod round_trips;
mod tokens;
#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "../reads/world.rs"]
mod world;
