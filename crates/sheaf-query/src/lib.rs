//! The read path: filters, cursors, consistency tokens, entities, history and their freshness.
//!
//! [`Reader`] answers every read of the interface. It knows no HTTP; what it refuses, it refuses as a [`ReadError`].

mod answer;
mod attempt;
mod buckets;
mod consistency;
pub mod cursor;
mod entity;
mod entity_name;
mod error;
pub mod filter;
mod history;
mod list;
mod reader;
mod seal;
mod selection;
pub mod token;

pub use answer::{EntityAnswer, Page, Read};
pub use buckets::{Aggregate, AggregateValue, BucketItem, BucketQuery, BucketsAnswer, Fill};
pub use consistency::{ConsistencyLevel, Freshness, ReadOptions};
pub use entity::EntityQuery;
pub use error::ReadError;
pub use history::{HistoryAnswer, HistoryItem, HistoryQuery, RowSource};
pub use list::{Count, CountKind, CountMode, ListAnswer, ListQuery, SortKey};
pub use reader::Reader;
