//! The lake: facts and catalogues as Apache Iceberg tables that anybody can read, each change once.
//!
//! Nothing of Arrow, Parquet, Iceberg and DataFusion leaves this crate.

pub mod analytics;
mod background;
mod catalogue;
mod compaction;
mod corrections;
mod data_file;
mod error;
mod fact;
mod facts;
mod files;
mod join;
mod lake;
mod names;
mod observer;
mod orphans;
mod pending;
mod rewrite;
mod rows;
mod schema;
mod sink;
mod stored_file;
mod table;
mod upkeep;
mod warehouse;

pub use error::LakeError;
pub use fact::EventFault;
pub use lake::Retention;
pub use observer::{CommitObserver, CommitStep};
pub use orphans::{Orphans, remove_orphans};
pub use rows::RowFault;
pub use sheaf_store::lake::LakeName;
pub use sink::{LakeOptions, LakeSink};
pub use warehouse::{Bucket, Location};
