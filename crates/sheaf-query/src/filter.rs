//! Filters: the part of CQL2 (OGC 21-065r2) that this server answers, in its text and in its JSON form.
//!
//! A filter goes three steps, each pure: [`parse_text`] or [`parse_json`] makes an [`Expr`], [`TypedExpr::resolve`]
//! finds its properties in the catalogue and checks every literal against its attribute's type, and
//! [`compile`] writes the result as SQL with parameters. [`TypedExpr::evaluate`] says in a few plain lines what
//! the SQL has to mean.
//!
//! Numbers never pass through a double. What is not served (functions, geometry, arithmetic, comparing two
//! properties, intervals outside `T_DURING`) is an error that names it and the byte where it stands, never a guess.
//! Every filter is bounded before it is read: the text by its length, the tree by its nodes and its depth.
//!
//! Choices where the standard leaves room: `DATE('2013-01-01')` is that day's midnight in UTC; `T_DURING` excludes
//! both ends of its interval; `CASEI` compares upper-case forms by Unicode's full mapping, so that `Straße` equals
//! `STRASSE`; `A_CONTAINS` and `A_OVERLAPS` are false for a json value that is no array; truth values have no order.

mod access;
mod alternatives;
mod ast;
mod budget;
mod conjunction;
mod evaluate;
mod json;
mod lead;
mod like;
mod operand;
mod parameter;
mod print;
mod sql;
mod text;
mod token;
mod typed;
mod value_index;

pub use access::AccessPath;
pub(crate) use access::{Reading, is_led_by_equality};
pub use ast::{ArrayRelation, Comparison, Condition, Expr, Located, Node, Scalar};
pub use json::parse_json;
pub(crate) use lead::{Led, unindexed};
pub use parameter::{Parameter, Parameters};
pub(crate) use sql::attribute_value;
pub use sql::compile;
pub use text::parse_text;
pub(crate) use typed::mentions_names;
pub use typed::{Bound, Predicate, Property, Reserved, Test, TypedExpr};
pub(crate) use value_index::{IndexRange, cast_of, kept, table_of};

/// Bytes of a filter in text form. A request line of this size still passes usual proxies; it holds 256 conditions.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a filter in JSON form: it comes in a body and is several times as wordy, and a list of 1,000 UUIDs
/// (39 KB) should fit.
pub const JSON_BYTES_MAX: usize = 64 * 1024;
/// Conditions and operators of one filter. People write ten, programs a hundred; PostgreSQL plans 256 in
/// milliseconds, and its time grows faster than their number.
pub const NODES_MAX: usize = 256;
/// Nested parentheses and NOTs, or nested operators in JSON. Parser, printer and compiler recurse this deep at most,
/// which takes a few KiB of the 2 MiB stack of a worker thread.
pub const DEPTH_MAX: usize = 16;
/// Elements of one list. A longer one is a join, which a filter is the wrong place for.
pub const LIST_LENGTH_MAX: usize = 1_000;

/// Why a filter is not answered. Offsets are bytes into the filter as it was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not CQL2, or a part of CQL2 that is not served, or a literal of another type than its attribute.
    #[error("{detail}")]
    Invalid {
        /// Where.
        offset: usize,
        /// What is wrong, in a safe sentence.
        detail: String,
    },
    /// Past one of the limits of this module.
    #[error("{detail}")]
    TooComplex {
        /// Where the limit was passed.
        offset: usize,
        /// Which limit.
        detail: String,
    },
    /// A property that the tenant's catalogue does not have.
    #[error("unknown attribute {name:?}")]
    UnknownAttribute {
        /// Where.
        offset: usize,
        /// The name as the catalogue would spell it.
        name: String,
    },
}

impl FilterError {
    fn invalid(offset: usize, detail: impl Into<String>) -> FilterError {
        FilterError::Invalid {
            offset,
            detail: detail.into(),
        }
    }

    /// The code that clients get.
    pub fn code(&self) -> &'static str {
        match self {
            FilterError::Invalid { .. } => "invalid_filter",
            FilterError::TooComplex { .. } => "filter_too_complex",
            FilterError::UnknownAttribute { .. } => "unknown_attribute",
        }
    }

    /// The byte of the filter that the error is about.
    pub fn offset(&self) -> usize {
        match self {
            FilterError::Invalid { offset, .. }
            | FilterError::TooComplex { offset, .. }
            | FilterError::UnknownAttribute { offset, .. } => *offset,
        }
    }
}

/// A piece of the filter as an error quotes it: never more than 64 bytes of what was sent.
fn quoted(text: &str) -> String {
    const BYTES_MAX: usize = 64;
    if text.len() <= BYTES_MAX {
        return format!("{text:?}");
    }
    format!("{:?}..", &text[..text.floor_char_boundary(BYTES_MAX)])
}

#[cfg(test)]
mod tests;
