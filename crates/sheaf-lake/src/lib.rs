//! The lake: facts and catalogues as Apache Iceberg tables that anybody can read, each change once.
//!
//! Nothing of Arrow, Parquet, Iceberg and DataFusion leaves this crate.

pub mod analytics;
mod archive;
mod archived;
mod background;
mod catalogue;
mod checksums;
mod compaction;
mod corrections;
mod data_file;
mod digest;
mod error;
mod fact;
mod facts;
mod files;
pub mod instruments;
mod join;
mod keyframes;
mod lake;
mod names;
mod observer;
mod orphans;
mod pending;
pub mod reconcile;
mod repair;
mod rest;
mod retention;
mod rewrite;
mod rows;
mod schema;
mod sink;
mod stored_file;
mod table;
mod tenant_buckets;
mod upkeep;
mod warehouse;

pub use archive::{ArchiveSide, ArchiveStanding, LakeArchive};
pub use digest::{Digest, FactKey, Hours, TenantHour};
pub use error::LakeError;
pub use fact::EventFault;
pub use lake::Retention;
pub use observer::{CommitObserver, CommitStep};
pub use orphans::{Orphans, remove_orphans};
pub use rest::{LakeCatalog, RestAccess, RestFault, RestOptions};
pub use rows::RowFault;
pub use sheaf_store::lake::LakeName;
pub use sink::{LakeOptions, LakeSink};
pub use warehouse::{Bucket, Location};
