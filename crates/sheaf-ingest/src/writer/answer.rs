//! The answer to a request that was just stored, and what is counted of it.

use std::collections::HashSet;

use sheaf_model::Position;
use sheaf_store::ledger::{Counts, LedgerEntry};
use sheaf_store::rejections::{ListedRejection, NewRejection};

use super::LISTED_MAX;
use crate::decode::quote_line;
use crate::instruments::{EVENTS_TOTAL, REJECTIONS_TOTAL, VALUES_TOTAL};
use crate::lane::StoredPart;
use crate::request::{BodyFormat, IngestAnswer};

/// `opened` are the refusals that were stored with the request itself, outside its parts.
pub(super) fn answer(
    entry: &LedgerEntry,
    opened: Vec<NewRejection>,
    parts: Vec<StoredPart>,
    position: Option<Position>,
    format: &BodyFormat,
) -> IngestAnswer {
    let mut counts = Counts::default();
    let mut rejections = opened;
    for part in parts {
        counts += part.counts;
        rejections.extend(part.rejections);
    }
    rejections.sort_by_key(|rejection| rejection.event_index);
    counts.refused += i64::from(entry.refused);
    let first_bad_line = match format {
        BodyFormat::LineProtocol { .. } => rejections
            .first()
            .map(|rejection: &NewRejection| quote_line(&rejection.raw)),
        BodyFormat::JsonArray | BodyFormat::Ndjson => None,
    };
    let bad: HashSet<i32> = rejections
        .iter()
        .map(|rejection| rejection.event_index)
        .collect();
    IngestAnswer {
        batch: entry.batch,
        ack: entry.ack.to_owned(),
        outcome: match position {
            Some(_) => entry.outcome.settled(entry.events.into(), &counts),
            // What is staged meets what is stored in its flush.
            None => entry.outcome,
        },
        events: entry.events.into(),
        counts,
        bad_events: i64::try_from(bad.len()).unwrap_or(i64::MAX),
        rejected: rejections
            .into_iter()
            .take(LISTED_MAX)
            .map(listed)
            .collect(),
        first_bad_line,
        position,
        replayed: false,
        written: 0,
    }
}

/// What a call has written itself, whatever it is answered with: it is counted when it is written, and once.
#[derive(Debug, Default)]
pub(super) struct Written {
    values: i64,
}

impl Written {
    /// It has opened the request. `rejections` came with that, outside of any part.
    pub(super) fn count_opened(&mut self, entry: &LedgerEntry, rejections: &[NewRejection]) {
        self.values += i64::from(entry.refused);
        count_refusals(rejections);
        metrics::counter!(EVENTS_TOTAL, "result" => "refused")
            .increment(entry.refused.unsigned_abs().into());
    }

    /// It has stored a part.
    pub(super) fn count_part(&mut self, part: &StoredPart) {
        self.values += part.counts.values + part.counts.refused;
        count_events(&part.counts);
        count_refusals(&part.rejections);
    }

    /// What its sender is charged.
    pub(super) fn values(&self) -> i64 {
        self.values
    }

    /// An answer that says what to charge for. One that only repeats another may have written some of it.
    pub(super) fn charged(&self, answer: IngestAnswer) -> IngestAnswer {
        IngestAnswer {
            written: self.values,
            ..answer
        }
    }
}

fn listed(rejection: NewRejection) -> ListedRejection {
    ListedRejection {
        event_index: rejection.event_index,
        field: rejection.field,
        code: rejection.code.as_str().to_owned(),
        reason: rejection.reason,
    }
}

pub(super) fn count_events(counts: &Counts) {
    for (result, count) in [
        ("accepted", counts.accepted),
        ("duplicate", counts.duplicates),
        ("merged", counts.merged),
        ("corrected", counts.corrected),
        ("refused", counts.refused),
    ] {
        metrics::counter!(EVENTS_TOTAL, "result" => result).increment(count.unsigned_abs());
    }
    metrics::counter!(VALUES_TOTAL).increment(counts.values.unsigned_abs());
}

fn count_refusals(rejections: &[NewRejection]) {
    for rejection in rejections {
        metrics::counter!(REJECTIONS_TOTAL, "code" => rejection.code.as_str()).increment(1);
    }
}
