//! PostgreSQL itself: private clusters, pools, transactions, error classes, the form of its values.
//!
//! This crate knows no tenant and no table of ours.

pub mod cluster;
mod error;
mod fence;
mod json;
mod pool;
mod reading;
mod role;
mod time;
mod transaction;

pub use error::{Disposition, PgError};
pub use fence::{Fence, FenceError};
pub use json::{JsonbRead, JsonbWrite};
pub use pool::{Connection, Pool, Tls, TlsFault, Unfinished};
pub use reading::Reading;
pub use role::{RoleFault, check_role};
pub use time::PgTime;
pub use transaction::{Access, Setting, Statement, run, run_after};
