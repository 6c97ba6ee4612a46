//! The stored form of attributes: one JSON object, attribute number to value, null for a removal.
//!
//! What is read here was checked before it was written, so that a text that does not fit is a broken database.

use sheaf_model::{
    AttributeId, AttributeType, Attrs, Cell, Document, Timestamp, Value, object_members,
    write_number,
};
use sheaf_pg::PgError;

use crate::catalogue::Catalogue;

/// Why stored attributes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StoredFault {
    /// The catalogue at hand lacks an attribute; a newer one has it.
    #[error("the catalogue at hand lacks attribute {0}")]
    UnknownAttribute(AttributeId),
    /// The database holds something that was never written by us.
    #[error(transparent)]
    Broken(#[from] PgError),
}

const STEP: &str = "reading stored attributes";

/// Appends the stored form of an event's attributes.
pub fn write_attrs(attrs: &Attrs, out: &mut String) {
    out.push('{');
    for (place, (id, cell)) in attrs.iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        write_key(*id, out);
        match cell {
            Cell::Value(value) => value.write_stored(out),
            Cell::Removed => out.push_str("null"),
        }
    }
    out.push('}');
}

fn write_key(id: AttributeId, out: &mut String) {
    out.push('"');
    write_number(id.0, out);
    out.push_str("\":");
}

/// Reads the stored form of an event's attributes.
pub fn read_attrs(raw: &str, catalogue: &Catalogue) -> Result<Attrs, StoredFault> {
    let mut cells = Vec::new();
    for (key, value) in members(raw)? {
        let id = attribute_id(&key)?;
        let cell = match value {
            "null" => Cell::Removed,
            value => Cell::Value(read_value(id, value, catalogue)?),
        };
        cells.push((id, cell));
    }
    Ok(Attrs::from_distinct(cells))
}

fn members(raw: &str) -> Result<Vec<(std::borrow::Cow<'_, str>, &str)>, StoredFault> {
    let members = object_members(raw).map_err(|_| PgError::unreadable(STEP, "attrs"))?;
    Ok(members
        .into_iter()
        .map(|(key, value)| (key, value.get()))
        .collect())
}

fn attribute_id(key: &str) -> Result<AttributeId, StoredFault> {
    // `01` is another key of the object than `1`, and the same number.
    let is_written_so = key.starts_with(|first| matches!(first, '1'..='9'));
    let number = key.parse().ok().filter(|_| is_written_so);
    let number = number.ok_or_else(|| PgError::unreadable(STEP, key))?;
    Ok(AttributeId(number))
}

fn read_value(id: AttributeId, raw: &str, catalogue: &Catalogue) -> Result<Value, StoredFault> {
    let kind: AttributeType = catalogue
        .by_id(id)
        .map(|attribute| attribute.kind)
        .ok_or(StoredFault::UnknownAttribute(id))?;
    let value = Value::from_stored(kind, raw);
    Ok(value.ok_or_else(|| PgError::unreadable(STEP, format!("value of attribute {id}")))?)
}

/// The columns of a document that hold its attributes. Absent is unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocumentParts {
    /// The values of hot attributes.
    pub hot_attrs: Option<String>,
    /// The values of the others.
    pub cold_attrs: Option<String>,
    /// The numbers of all of them, as an array literal.
    pub present: Option<String>,
    /// The times that do not follow from the newest event.
    pub times: Option<String>,
}

/// Which columns of a document have to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartsToWrite {
    /// A value of a hot attribute changed.
    pub hot_attrs: bool,
    /// A value of another attribute changed.
    pub cold_attrs: bool,
    /// An attribute got its first value, or lost it.
    pub present: bool,
    /// A time changed that does not follow from the newest event.
    pub times: bool,
}

impl PartsToWrite {
    /// All of them.
    pub const ALL: PartsToWrite = PartsToWrite {
        hot_attrs: true,
        cold_attrs: true,
        present: true,
        times: true,
    };
}

/// Lays a document's cells out in columns, by the temperatures of this catalogue.
pub fn write_document(
    document: &Document,
    catalogue: &Catalogue,
    parts: PartsToWrite,
) -> DocumentParts {
    let begin = |wanted: bool| wanted.then(|| "{".to_owned());
    let (mut hot, mut cold) = (begin(parts.hot_attrs), begin(parts.cold_attrs));
    let (mut present, mut times) = (begin(parts.present), begin(parts.times));
    for (id, (cell, time)) in &document.cells {
        if let Cell::Value(value) = cell {
            let is_hot = catalogue
                .by_id(*id)
                .is_some_and(|attribute| attribute.temperature.writes_hot());
            if let Some(part) = if is_hot { &mut hot } else { &mut cold } {
                separate(part);
                write_key(*id, part);
                value.write_stored(part);
            }
            if let Some(present) = &mut present {
                separate(present);
                write_number(id.0, present);
            }
        }
        if let Some(times) = &mut times
            && (*cell == Cell::Removed || Some(*time) != document.newest)
        {
            separate(times);
            write_key(*id, times);
            write_number(time.as_micros(), times);
        }
    }
    let end = |part: Option<String>| part.map(|part| part + "}");
    DocumentParts {
        hot_attrs: end(hot),
        cold_attrs: end(cold),
        present: end(present),
        times: end(times),
    }
}

fn separate(part: &mut String) {
    if part.len() > 1 {
        part.push(',');
    }
}

/// Fills a document's cells from its columns. `newest` is already there.
pub fn read_document_cells(
    document: &mut Document,
    parts: [&str; 2],
    times: &str,
    catalogue: &Catalogue,
) -> Result<(), StoredFault> {
    let newest = document
        .newest
        .ok_or_else(|| PgError::unreadable(STEP, "newest"))?;
    for part in parts {
        for (key, value) in members(part)? {
            let id = attribute_id(&key)?;
            document
                .cells
                .insert(id, (Cell::Value(read_value(id, value, catalogue)?), newest));
        }
    }
    for (key, value) in members(times)? {
        let micros = value
            .parse()
            .map_err(|_| PgError::unreadable(STEP, "times"))?;
        let time =
            Timestamp::from_micros(micros).map_err(|_| PgError::unreadable(STEP, "times"))?;
        // A time without a value is a removal that is remembered.
        document
            .cells
            .entry(attribute_id(&key)?)
            .or_insert((Cell::Removed, time))
            .1 = time;
    }
    Ok(())
}
