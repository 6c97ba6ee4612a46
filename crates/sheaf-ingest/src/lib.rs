//! The write path: decoding, naming, typing, idempotency, and the lane that commits.
//!
//! Requests of every form become one batch of typed events and go through one lane. This crate knows no HTTP.

pub mod decode;
mod lane;
mod names;
mod plan;
mod request;
pub mod schema;
mod typing;
mod writer;

pub use request::{
    Ack, BodyFormat, EditAnswer, EditFault, EditRequest, IngestAnswer, IngestRequest, OnError,
    Precondition, WriteError,
};
pub use typing::{HOT_ATTRIBUTES_MAX, default_temperature};
pub use writer::Writer;
