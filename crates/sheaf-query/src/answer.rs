//! What reads give back, whatever they read.

use sheaf_model::{Timestamp, Value};

use crate::consistency::Freshness;

/// An answer and how fresh it is. Nothing found is an answer too, and as fresh.
#[derive(Debug, Clone, PartialEq)]
pub struct Read<T> {
    /// The answer.
    pub value: T,
    /// Where it came from and how old it is.
    pub freshness: Freshness,
}

/// A page of a longer result.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// Its items, in order. A page can hold fewer than its limit and still not be the last.
    pub items: Vec<T>,
    /// Where the next page begins; absent at the end.
    pub next_cursor: Option<String>,
}

/// An entity with its values, now or at an instant.
#[derive(Debug, Clone, PartialEq)]
pub struct EntityAnswer {
    /// Its type, in its canonical spelling.
    pub entity_type: String,
    /// Its id within the type, in its canonical spelling.
    pub external_id: String,
    /// The document's version; absent for the state at an instant.
    pub version: Option<i64>,
    /// The time of the newest event.
    pub observed_at: Timestamp,
    /// When a value last changed. For the state at an instant: when the newest of the rows that make it arrived.
    pub updated_at: Timestamp,
    /// The values, in order of name.
    pub attributes: Vec<(String, Value)>,
    /// Since when each value holds, in order of name; where it was asked for.
    pub times: Option<Vec<(String, Timestamp)>>,
}
