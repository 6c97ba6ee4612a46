//! The reader against a real PostgreSQL: what it answers is what the model says of the same events.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has nothing better to do than to stop"
)]

mod archived;
mod buckets;
mod entity;
mod facets;
mod fills;
mod histories;
mod history;
mod list;
mod many_histories;
mod means;
mod remembered;
mod streams;
mod tenants;
mod wide_histories;
mod world;
