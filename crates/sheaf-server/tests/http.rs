//! The interface from outside: a server in this process on a free port, over a real PostgreSQL.

#[path = "http/admission.rs"]
mod admission;
#[path = "http/archive.rs"]
mod archive;
#[path = "../../sheaf-lake/tests/analytics/attempts.rs"]
mod attempts;
#[path = "http/attributes.rs"]
mod attributes;
#[path = "http/changes.rs"]
mod changes;
#[path = "http/entities.rs"]
mod entities;
#[path = "http/escapes.rs"]
mod escapes;
#[path = "http/explain.rs"]
mod explain;
#[path = "http/facets.rs"]
mod facets;
#[path = "http/histories.rs"]
mod histories;
#[path = "http/influx.rs"]
mod influx;
#[path = "http/ingest.rs"]
mod ingest;
#[path = "http/keys.rs"]
mod keys;
#[path = "http/pgwire.rs"]
mod pgwire;
#[path = "http/rejections.rs"]
mod rejections;
#[path = "http/retention.rs"]
mod retention;
#[path = "http/service.rs"]
mod service;
#[path = "http/sql.rs"]
mod sql;
#[path = "http/staged.rs"]
mod staged;
#[path = "http/stream_turns.rs"]
mod stream_turns;
#[path = "http/streams.rs"]
mod streams;
#[path = "http/support.rs"]
mod support;
#[path = "http/tenants.rs"]
mod tenants;
#[path = "../../sheaf-lake/tests/analytics/world.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of the lake's reader, which use all of it"
)]
mod world;
