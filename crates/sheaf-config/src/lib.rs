//! The configuration of a sheaf process: the raw form of `sheaf.toml`, the environment over it, where each value came
//! from, and the validated [`Settings`].
//!
//! This crate opens no file and reads no environment: the caller hands in the text and the variables. It guesses
//! nothing: an unknown key, an unknown `SHEAF_` variable and an unreadable value are errors that name their place.

mod archive;
mod cache;
mod changes;
mod database_url;
mod error;
mod journal;
mod lake;
mod pgwire;
mod queries;
mod raw;
mod reader;
mod secret;
mod settings;
mod staging;
mod streams;

pub use archive::Archive;
pub use cache::{Cache, Redis, RedisUrlFault};
pub use changes::{Changes, ChangesHttp, HttpUrlFault};
pub use database_url::{DatabaseUrl, DatabaseUrlFault, HostPort};
pub use error::{ConfigError, Place, ValueFault};
pub use journal::ChangesJournal;
pub use lake::{Lake, LakeLocation, RestCatalog};
pub use pgwire::{Certificate, PgWire};
pub use queries::Queries;
pub use reader::{Provenance, Shown};
pub use secret::Secret;
pub use settings::{
    Database, Ingest, Limits, Log, LogFormat, LogLevel, Partitions, Password, Roles, Server,
    Settings,
};
pub use staging::{Staging, StagingPolicy};
pub use streams::Streams;
