//! Every statement on the tables of sheaf: what is asked of PostgreSQL, and in which scope.
//!
//! SQL lives in `sql/`, one statement a file. Functions here take an executor, a scope and arguments, and give rows
//! back; they decide nothing.

pub mod archive;
pub mod buckets;
pub mod catalogue;
pub mod changes;
pub mod dead_letters;
pub mod documents;
pub mod entities;
pub mod events;
pub mod heartbeat;
pub mod histories;
pub mod history;
pub mod holds;
pub mod horizon;
pub mod interval;
pub mod invariants;
pub mod keys;
pub mod lake;
pub mod late;
pub mod ledger;
pub mod lineage;
pub mod maintenance;
pub mod migrate;
pub mod partitions;
pub mod reconcile;
pub mod rejections;
pub mod retention;
mod scope;
pub mod settings;
pub mod snapshot;
pub mod staging;
pub mod stored;
pub mod tenants;
pub mod value_index;

pub use scope::TenantScope;
