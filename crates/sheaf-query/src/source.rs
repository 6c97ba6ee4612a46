//! The sources of reads: the primary and its replicas, what is known of each, and which one answers.
//!
//! A watch looks at every source many times a second ([`watch`]); the [`decision`] is pure; a read follows it from one
//! source to the next ([`choice`]); what was chosen is asked through a [`Source`], which judges each answer by what it says of
//! itself ([`proof`]) before it counts.

mod asked;
mod breaker;
mod choice;
mod decision;
mod proof;
mod registry;
mod shelf;
mod status;
mod view;
mod watch;

pub(crate) use asked::Source;
pub(crate) use choice::Choice;
pub(crate) use registry::Replica;
pub use registry::{SourcePools, Sources};
pub(crate) use shelf::{Shelf, Whole};
pub use status::SourceStatus;
pub use watch::{SOURCE_BREAKER, SOURCE_LAG_SECONDS, SOURCE_UP};
