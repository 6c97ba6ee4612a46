//! HTTP and PostgreSQL's protocol: wire types, authentication to scope, error to status, OpenAPI.
//!
//! A handler takes its request apart, asks the writer or the reader, and writes the answer; it decides nothing that they
//! decide. This crate writes no SQL and reads no environment.

mod admission;
mod archive;
mod attributes;
mod auth;
mod batches;
mod body;
mod changes;
mod dead_letters;
mod docs;
mod edits;
mod entities;
mod explain;
mod facets;
mod freshness;
mod histories;
mod history;
mod influx;
mod ingest;
mod keys;
mod members;
mod observe;
mod openapi;
mod page;
mod params;
mod pgwire;
mod problem;
mod rejections;
mod remainder;
mod routes;
mod serve;
mod service;
mod sql;
mod stalled;
mod state;
mod stream;
mod tenants;
mod waiting;
mod wire;

pub use admission::THROTTLED_TOTAL;
pub use archive::LakeArchive;
pub use changes::{
    ChangeFeed, SUBSCRIPTION_EVENTS_LEFT_OUT_TOTAL, SUBSCRIPTIONS_RUNNING, SUBSCRIPTIONS_TOTAL,
};
pub use observe::{REQUEST_SECONDS, REQUESTS_TOTAL};
pub use pgwire::{
    CONNECTIONS, CONNECTIONS_TOTAL, PgWire, PgWireBounds, QUESTIONS_TOTAL, serve_pgwire,
};
pub use routes::{router, router_and_pgwire};
pub use serve::serve;
pub use state::{
    AppState, BodyPace, Bounds, Check, CheckStatus, ReadinessCheck, StreamBounds,
    SubscriptionBounds,
};
pub use stream::{STREAMS_RUNNING, STREAMS_TOTAL};
pub use waiting::waiting_router;
