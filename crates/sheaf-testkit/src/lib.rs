//! For tests only: a real PostgreSQL for each test process, a database for each test, server processes, an HTTP
//! client, faults that are counted, and waiting for a condition.
//!
//! Nothing is left behind: a watchdog process ends and removes it all when the test process ends, however it ends.

mod backup;
mod cluster;
mod database;
mod http;
mod injected;
mod round_trips;
mod scratch;
mod server;
mod standby;
mod waiting;
mod watchdog;

pub use backup::{TestBackup, TestRestored};
pub use cluster::{TestCluster, connect};
pub use database::TestDatabase;
pub use http::{HttpClient, HttpResponse};
pub use injected::Injected;
pub use round_trips::RoundTrips;
pub use scratch::{ScratchDir, free_port};
pub use server::{ServerCommand, ServerProcess};
pub use standby::TestStandby;
pub use waiting::wait_until;
