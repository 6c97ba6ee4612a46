//! The interface from outside: a server in this process on a free port, over a real PostgreSQL.

#[path = "http/admission.rs"]
mod admission;
#[path = "http/attributes.rs"]
mod attributes;
#[path = "http/changes.rs"]
mod changes;
#[path = "http/entities.rs"]
mod entities;
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
#[path = "http/rejections.rs"]
mod rejections;
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
