//! The write path: decoding, naming, typing, idempotency, and the lanes that commit.
//!
//! Requests of every form become typed events, divided into the parts of the lanes that own their buckets. This crate knows
//! no HTTP.

mod admission;
pub mod decode;
pub mod instruments;
mod lane;
mod names;
mod observer;
mod partitions;
mod plan;
mod promise;
mod request;
pub mod schema;
mod staging;
mod typing;
mod writer;

pub use admission::{
    Admission, FairQueue, FairQueueBounds, Full, Permit, Rates, TenantRates, ThrottleReason,
    Throttled,
};
pub use observer::CommitObserver;
pub use request::{
    Ack, BodyFormat, EditAnswer, EditFault, EditRequest, IngestAnswer, IngestRequest, OnError,
    Precondition, WriteError,
};
pub use staging::{Staging, StagingDecision, StagingOptions, StagingPolicy, admit};
pub use typing::{HOT_ATTRIBUTES_MAX, default_temperature};
pub use writer::{REPLAYED_MAX, ReplayAnswer, ReplayRequest, Writer};
