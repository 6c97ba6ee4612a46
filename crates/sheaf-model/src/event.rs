//! Events: what one entity reported for one instant.

use std::sync::Arc;

use crate::id::AttributeId;
use crate::time::Timestamp;
use crate::value::Value;

/// What an event does to an entity's document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Sets or removes the attributes that it names.
    Patch,
    /// Removes every attribute that it does not name.
    Replace,
    /// Removes every attribute, and the entity from lists.
    Delete,
    /// A patch that changed a value already stored for its instant. Never sent; the append decides it.
    Correct,
}

impl Op {
    /// The one letter that the database holds.
    pub fn letter(self) -> i8 {
        let letter = match self {
            Op::Patch => b'p',
            Op::Replace => b'r',
            Op::Delete => b'd',
            Op::Correct => b'c',
        };
        i8::try_from(letter).expect("an ASCII letter fits seven bits")
    }

    /// The op of a letter that the database holds.
    pub fn from_letter(letter: i8) -> Option<Op> {
        match u8::try_from(letter).ok()? {
            b'p' => Some(Op::Patch),
            b'r' => Some(Op::Replace),
            b'd' => Some(Op::Delete),
            b'c' => Some(Op::Correct),
            _ => None,
        }
    }
}

/// What an event says of one attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// It has this value from here on.
    Value(Value),
    /// It has no value from here on.
    Removed,
}

impl Cell {
    /// About how many bytes it takes where it is stored.
    pub fn stored_bytes(&self) -> usize {
        match self {
            Cell::Value(value) => value.stored_bytes(),
            Cell::Removed => 0,
        }
    }
}

/// The attributes of one event: each number once, in ascending order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attrs(Vec<(AttributeId, Cell)>);

impl Attrs {
    /// Sorts what was collected. The caller has made sure that no attribute stands twice.
    pub fn from_distinct(mut cells: Vec<(AttributeId, Cell)>) -> Attrs {
        cells.sort_unstable_by_key(|(id, _)| *id);
        debug_assert!(
            cells.windows(2).all(|pair| pair[0].0 < pair[1].0),
            "an attribute stands twice"
        );
        Attrs(cells)
    }

    /// The cells in ascending order of attribute.
    pub fn iter(&self) -> std::slice::Iter<'_, (AttributeId, Cell)> {
        self.0.iter()
    }

    /// The cell of one attribute.
    pub fn get(&self, id: AttributeId) -> Option<&Cell> {
        self.0
            .binary_search_by_key(&id, |(id, _)| *id)
            .ok()
            .map(|place| &self.0[place].1)
    }

    /// The cells that this does not hold true of.
    pub fn without(self, drop: impl Fn(AttributeId, &Cell) -> bool) -> Attrs {
        Attrs(
            self.0
                .into_iter()
                .filter(|(id, cell)| !drop(*id, cell))
                .collect(),
        )
    }

    /// These cells and those of `others` that they do not name.
    pub fn with(self, others: &Attrs) -> Attrs {
        let added: Vec<_> = others
            .iter()
            .filter(|(id, _)| self.get(*id).is_none())
            .cloned()
            .collect();
        let mut cells = self.0;
        cells.extend(added);
        Attrs::from_distinct(cells)
    }

    /// How many attributes the event names.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the event names none: the entity was seen, and no more.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The tags of a line of line protocol: what names the series that the event belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tags {
    /// Not from line protocol, or a line without tags.
    #[default]
    None,
    /// The whole tag set is the entity's id, so that it cannot change: recorded with the entity's first event, the
    /// first after a delete or replace, and every late one.
    Series(Arc<Attrs>),
    /// Some tags are the id; these others are among the event's attributes. Two lines of one entity and instant
    /// that differ in one of them are two series in one entity, which is a conflict and no correction.
    Beside(Vec<AttributeId>),
}

/// An event with its names resolved and its values typed, before it is appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When it was observed; absent: the merge gives it a time after the entity's newest event.
    pub observed_at: Option<Timestamp>,
    /// Patch, replace or delete.
    pub op: Op,
    /// What it says.
    pub attrs: Attrs,
    /// The tags that name its series.
    pub tags: Tags,
}
