//! The vocabulary of sheaf: ids, attribute types, values, times, events, and the fold that makes a document of events.
//!
//! Everything here is pure: no I/O, no clock, no global. What a fact means is decided in this crate and nowhere else.

mod change;
mod decimal;
mod duration;
mod event;
mod exact;
mod fold;
mod id;
mod json;
mod limits;
mod lsn;
mod name;
mod network;
mod refusal;
mod time;
mod value;
mod written;

pub use change::{ChangePosition, ChangePositionFault};
pub use decimal::{Decimal, DecimalFault};
pub use duration::{Duration, DurationFault};
pub use event::{Attrs, Cell, Event, Op, Tags};
pub use exact::ExactSum;
pub use fold::{
    Appended, DocumentChange, Instant, LATE_SEQ, StoredRow, append, append_late, fold_instant,
    fold_rows, time_after,
};
pub use fold::{Document, merge, merge_rows};
pub use id::{
    AttributeId, BatchId, EntityId, IdFault, KeyId, LetterId, RejectionId, TenantId, crockford,
};
pub use json::{JsonFault, JsonText, object_members, string_text};
pub use limits::Limits;
pub use lsn::{Lineage, Lsn, Position};
pub use name::{ExternalIdFault, Name, NameFault, external_id, is_reserved};
pub use network::{Network, NetworkFault};
pub use refusal::{Refusal, RefusalCode};
pub use time::{Timestamp, TimestampFault};
pub use value::{AttributeType, Value, write_number};
pub use written::WrittenEntity;
