//! Which buckets hold something of what the archive has, and of what arrived late.

use std::collections::BTreeSet;

use sheaf_model::{EntityId, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::history::EventsAsked;

use super::divided::{Range, STEP_ROWS};
use super::width::Width;
use crate::error::ReadError;
use crate::selection::Selection;
use crate::source::Source;
use crate::united::{Late, Located, attributes_of, key_before};

/// The buckets of an entity's history that hold a row, or one that names an attribute, from one end of what the archive has on: at
/// most so many, by their starts.
pub(crate) async fn starts(
    (source, scope): (&Source, &TenantScope),
    (entity, selection, catalogue): (EntityId, &Selection, &Catalogue),
    (from, to): Range,
    (newest_first, width, most): (bool, Width, usize),
) -> Result<BTreeSet<Timestamp>, ReadError> {
    let mut starts = BTreeSet::new();
    let (mut from, mut to) = (from, to);
    while from < to && starts.len() < most {
        let state = source.archive().older(to).await?;
        let asked = EventsAsked {
            entities: vec![entity],
            attributes: attributes_of(selection, catalogue)?,
            from,
            to,
            newest_first,
            enough: STEP_ROWS,
            with_requests: false,
        };
        let read = state.events(scope, asked).await?;
        let named = read.events.iter().filter(|row| is_named(row, selection));
        let named = named.map(|(_, history)| width.start(history.row.observed_at));
        add_starts(&mut starts, named, most);
        match (read.reached, newest_first) {
            (None, _) => break,
            (Some(reached), true) => to = reached,
            (Some(reached), false) => from = reached,
        }
    }
    Ok(starts)
}

/// The same of rows that arrived late.
pub(crate) async fn late_starts(
    asked: (&Source, &TenantScope),
    (entity, selection, catalogue): (EntityId, &Selection, &Catalogue),
    (from, to): Range,
    (newest_first, width, most): (bool, Width, usize),
) -> Result<BTreeSet<Timestamp>, ReadError> {
    let mut starts = BTreeSet::new();
    let (begin, end) = if newest_first { (to, from) } else { (from, to) };
    let late = Late::new(asked.1.tenant(), &[entity], newest_first, end);
    let mut next = Some(key_before(begin)).filter(|_| from < to);
    while let Some(place) = next.filter(|_| starts.len() < most) {
        let read = late.step(asked, catalogue, place).await?;
        let named = read.rows.iter().filter(|row| is_named(row, selection));
        let named = named.map(|(_, history)| width.start(history.row.observed_at));
        add_starts(&mut starts, named, most);
        next = read.reach;
    }
    Ok(starts)
}

fn is_named((_, history): &Located, selection: &Selection) -> bool {
    let mut named = history.row.attrs.iter();
    *selection == Selection::All || named.any(|(id, _)| selection.contains(*id))
}

/// Adds starts as they come, until there are so many.
fn add_starts(starts: &mut BTreeSet<Timestamp>, new: impl Iterator<Item = Timestamp>, most: usize) {
    for start in new {
        if starts.len() == most {
            break;
        }
        starts.insert(start);
    }
}
