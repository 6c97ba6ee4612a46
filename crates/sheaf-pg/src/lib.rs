//! PostgreSQL itself: private clusters, pools, transactions, error classes, the form of its values.
//!
//! This crate knows no tenant and no table of ours.

pub mod cluster;
mod error;
mod fence;
mod json;
mod pool;
mod reading;
mod replay;
mod replication;
mod role;
mod time;
mod timeline;
mod transaction;

pub use error::{Disposition, PgError, chain};
pub use fence::{Fence, FenceError};
pub use json::{JsonbRead, JsonbWrite};
pub use pool::{Connection, Pool, Tls, TlsFault, Unfinished, trusting};
pub use reading::Reading;
pub use replay::{has_wait, wait_replayed};
pub use replication::{Received, ReplicationConnection, ReplicationError, ServerError};
pub use role::{RoleFault, check_role};
pub use time::PgTime;
pub use timeline::NewestTimeline;
pub use transaction::{Access, Setting, Statement, first_row, run, run_after, run_alone, run_if};
