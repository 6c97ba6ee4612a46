//! The change stream: what is written becomes changes, in order and with positions, for sinks that hold each of them once.

pub mod assembly;
pub mod change;
pub mod column;
pub mod conformance;
pub mod envelope;
pub mod feed;
pub mod file;
pub mod http;
pub mod journal;
mod lane;
pub mod letter;
pub mod pgoutput;
pub mod resume;
pub mod retention;
pub mod sink;
pub mod slot;
pub mod snapshot;
pub mod status;
pub mod stream;
pub mod table;
