//! The read path: filters, cursors, consistency tokens, entities, history and their freshness.
//!
//! [`Reader`] answers every read of the interface. It knows no HTTP; what it refuses, it refuses as a [`ReadError`].

mod answer;
mod archive;
mod attempt;
mod buckets;
mod changes;
mod consistency;
pub mod cursor;
mod entity;
mod entity_name;
mod error;
pub mod filter;
mod histories;
mod history;
mod list;
mod reader;
mod retention;
mod seal;
mod selection;
mod source;
pub mod token;
mod united;

pub use answer::{EntityAnswer, Page, Read};
pub use archive::{Archive, ArchiveError, ArchiveFuture, ArchiveStanding, Archived, Keyframe};
pub use buckets::{
    Aggregate, AggregateValue, BucketItem, BucketQuery, BucketsAnswer, Fill, aggregates_of,
};
pub use changes::{
    ChangeFilter, ChangedEvent, KnownNames, LeftOut, NamedChange, NamingError, ReadChanges, Unnamed,
};
pub use consistency::{ConsistencyLevel, DataSource, Freshness, Lag, ReadOptions};
pub use entity::{Encode, EncodedEntity, EntityQuery};
pub use error::ReadError;
pub use histories::{Bucketing, HistoriesQuery, SeriesEntry, SeriesItem, Upcoming};
pub use history::{HistoryAnswer, HistoryItem, HistoryQuery, RowSource};
pub use list::{
    Count, CountKind, CountMode, ExplainedPart, Explanation, Facet, FacetKind, FacetQuery,
    HistogramBucket, Interval, ListAnswer, ListQuery, SortKey, Spread,
};
pub use reader::Reader;
pub use retention::Shown;
pub use source::{
    SOURCE_BREAKER, SOURCE_LAG_SECONDS, SOURCE_UP, SourcePools, SourceStatus, Sources,
};
