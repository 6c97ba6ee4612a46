//! A cache of answers about single entities: in this process, and in Redis where there is one.
//!
//! A remembered answer carries the position that its source had reached before it was read, and when that was. Whether it
//! may answer a read is decided by those alone ([`Demand`]): it must be young enough, cover the client's token, and be
//! ahead of every write of its entity that was announced. So nothing rests on an invalidation that arrives, on a key that
//! is still there or on a clock of Redis: what is lost or late makes the cache slower or an answer older within what the
//! read allows, and never wrong. This crate knows no HTTP, no PostgreSQL and no policy of levels.

mod breaker;
mod cache;
mod decision;
mod fences;
mod flights;
mod horizon;
pub mod instruments;
mod local;
mod reading;
mod remote;
mod sampler;
mod seal;
mod value;

pub use cache::{Cache, Database, Options};
pub use decision::Demand;
pub use reading::{Answer, EntityName, Fetched, Reading};
pub use remote::{RemoteFault, RemoteOptions};
pub use sampler::Sample;
pub use value::{Origin, Value};
