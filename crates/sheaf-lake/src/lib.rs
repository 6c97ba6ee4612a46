//! The lake: facts and catalogues as Apache Iceberg tables that anybody can read, each change once.
//!
//! Nothing of Arrow, Parquet and Iceberg leaves this crate.

mod background;
mod data_file;
mod error;
mod fact;
mod facts;
mod lake;
mod names;
mod observer;
mod orphans;
mod pending;
mod rows;
mod schema;
mod sink;
mod table;
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
