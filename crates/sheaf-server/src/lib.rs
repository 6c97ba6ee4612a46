//! HTTP: wire types, authentication to scope, error to status, OpenAPI.
//!
//! A handler takes its request apart, asks the writer or the reader, and writes the answer; it decides nothing that they
//! decide. This crate writes no SQL and reads no environment.

mod attributes;
mod auth;
mod body;
mod docs;
mod edits;
mod entities;
mod freshness;
mod history;
mod influx;
mod ingest;
mod keys;
mod members;
mod observe;
mod openapi;
mod page;
mod params;
mod problem;
mod remainder;
mod routes;
mod serve;
mod service;
mod state;
mod tenants;
mod wire;

pub use observe::{REQUEST_SECONDS, REQUESTS_TOTAL};
pub use routes::router;
pub use serve::serve;
pub use state::{AppState, Bounds, Check, CheckStatus, ReadinessCheck};
