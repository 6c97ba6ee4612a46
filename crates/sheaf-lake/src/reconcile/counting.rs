//! PostgreSQL's side: partitions counted by hour and tenant, whole or what came since.
//!
//! A partition is counted as of a snapshot and a cutoff: the events that were received before the one, of transactions that the other
//! sees. Events are only ever added, so that those which count now and did not then are what came since. Where somebody changed or
//! removed rows, which the statistics tell, it is read whole.

use std::collections::BTreeSet;
use std::time::Duration;

use sheaf_model::Timestamp;
use sheaf_pg::Pool;
use sheaf_store::lake::LakeCorrection;
use sheaf_store::reconcile::{
    Counted, CountedRange, Counters, EventKey, HourSums, Instant, Moment, Span, add_hours,
    begin_range, end_range, read_instants, read_new, read_range,
};

use super::explosion::{Explosion, HourlySums, Sums, all, instant_of, split_last_instant};
use crate::digest::{HOUR_MICROS, TenantHour, hour_of};
use crate::error::LakeError;
use crate::names::Names;

/// Events that are read at once, and how many bytes of them.
pub(crate) const PAGE_ROWS: i64 = 5_000;
pub(crate) const PAGE_BYTES: i64 = 4 << 20;
/// Hours of tenants that are kept before they are stored.
const HOURS_MAX: usize = 50_000;
/// What came since is stored at once, with as of when that is. Where it is of more hours, or changes more instants, all is read.
const NEW_HOURS_MAX: usize = 500_000;
const NEW_INSTANTS_MAX: usize = 500_000;
/// Instants that are looked at together, and bytes of attributes that are taken apart at once.
const INSTANTS: usize = 2_000;
const BYTES: usize = 4 << 20;
/// An event may be received so long before it is visible: it waits in staging or for its lane, which refuse what waits for longer.
/// Those beyond are found when the partition is read whole.
pub(crate) const VISIBLE_WITHIN: Duration = Duration::from_secs(3_600);

/// How a partition is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HowToRead {
    /// All of it.
    Whole,
    /// What came since.
    New,
    /// The same of a partition that is gone, of which the rest cannot be read any more.
    Late,
    /// Nothing: nothing was done to it.
    Nothing,
}

/// Decides that from what was known of a partition and what is.
pub(crate) fn how_to_read(known: Option<&Counted>, now: &Counters, reads_whole: bool) -> HowToRead {
    let Some(known) = known else {
        return HowToRead::Whole;
    };
    let then = &known.counters;
    let was_changed = then.file_node != now.file_node
        || then.rows_changed != now.rows_changed
        || then.late_changed != now.late_changed;
    // Statistics that are less than they were began anew, and what was counted by them meanwhile is gone.
    let began_anew = now.rows_added < then.rows_added || now.late_added < then.late_added;
    if reads_whole || was_changed || began_anew {
        return HowToRead::Whole;
    }
    if now == then {
        HowToRead::Nothing
    } else {
        HowToRead::New
    }
}

/// Partitions as they are counted: an hour is of one of them, so that those which share one are taken together.
pub(crate) fn join_within_hours(partitions: Vec<(Span, Counters)>) -> Vec<(Span, Counters)> {
    let mut joined: Vec<(Span, Counters)> = Vec::new();
    for (span, counters) in partitions {
        let shares_an_hour = |last: &&mut (Span, Counters)| {
            hour_of(last.0.upper.as_micros() - 1) == hour_of(span.lower.as_micros())
                && span.lower.as_micros().rem_euclid(HOUR_MICROS) != 0
        };
        match joined.last_mut().filter(shares_an_hour) {
            Some((last, of_last)) => {
                last.upper = span.upper;
                of_last.file_node = of_last.file_node.wrapping_mul(31) + counters.file_node;
                of_last.rows_added += counters.rows_added;
                of_last.rows_changed += counters.rows_changed;
            }
            None => joined.push((span, counters)),
        }
    }
    joined
}

/// What was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CountingWork {
    pub(crate) partitions_whole: u64,
    pub(crate) partitions_new: u64,
    pub(crate) events: u64,
    pub(crate) unreadable: u64,
}

/// Counts partitions as of a moment.
pub(crate) struct Counting {
    cdc: Pool,
    moment: Moment,
    cutoff: Timestamp,
    explosion: Explosion,
    pub(crate) work: CountingWork,
}

impl Counting {
    pub(crate) fn new(cdc: &Pool, moment: Moment, cutoff: Timestamp) -> Counting {
        Counting {
            cdc: cdc.clone(),
            moment,
            cutoff,
            explosion: Explosion::new(Names::new(cdc.clone())),
            work: CountingWork::default(),
        }
    }

    /// Counts a partition, as much of it as is said.
    pub(crate) async fn count(
        &mut self,
        span: Span,
        counters: Counters,
        counted: Option<&Counted>,
        how: HowToRead,
    ) -> Result<(), LakeError> {
        match (how, counted) {
            (HowToRead::Nothing, _) => Ok(()),
            (HowToRead::New, Some(then)) => {
                if self.count_new(span, counters, then).await? {
                    return Ok(());
                }
                self.count_whole(span, counters).await
            }
            (HowToRead::Late, Some(then)) => {
                if !self.count_new(span, counters, then).await? {
                    let from = span.lower;
                    tracing::warn!(%from, "too many late events of a period that is gone to be counted");
                }
                Ok(())
            }
            (HowToRead::New | HowToRead::Late | HowToRead::Whole, _) => {
                self.count_whole(span, counters).await
            }
        }
    }

    async fn count_whole(&mut self, span: Span, counters: Counters) -> Result<(), LakeError> {
        self.work.partitions_whole += 1;
        begin_range(&self.cdc, span, hours_of(span)).await?;
        let mut sums = HourlySums::new();
        let mut place = EventKey::FIRST;
        let mut kept: Vec<LakeCorrection> = Vec::new();
        loop {
            let as_of = (&self.moment, self.cutoff);
            let page = read_range(&self.cdc, span, place, as_of, PAGE_ROWS, PAGE_BYTES).await?;
            self.work.events += page.len() as u64;
            let is_end = page.is_empty();
            if let Some(last) = page.last() {
                place = last.key;
            }
            kept.extend(page);
            let rest = if is_end {
                Vec::new()
            } else {
                split_last_instant(&mut kept)
            };
            for exploded in self.explosion.explode(&all(&kept)).await? {
                let sum = sums.entry(exploded.fact.key.hour()).or_default();
                sum.add(exploded.fact.digest, exploded.is_hidden);
            }
            kept = rest;
            if is_end {
                break;
            }
            if sums.len() >= HOURS_MAX {
                add_hours(&self.cdc, &events_side(&sums)).await?;
                sums.clear();
            }
        }
        self.end(span, counters, &sums, true).await
    }

    /// Counts what came since. False where that is too much to be counted so.
    async fn count_new(
        &mut self,
        span: Span,
        counters: Counters,
        then: &Counted,
    ) -> Result<bool, LakeError> {
        self.work.partitions_new += 1;
        let micros = i64::try_from(VISIBLE_WITHIN.as_micros()).unwrap_or(i64::MAX);
        let since = then.cutoff.saturating_add_micros(-micros);
        let (was, now) = (
            (then.snapshot.as_str(), then.cutoff),
            (&self.moment, self.cutoff),
        );
        let mut rows = read_new(&self.cdc, span, was, now, since).await?;
        let mut sums = HourlySums::new();
        let mut shared: BTreeSet<Instant> = BTreeSet::new();
        let mut kept = Vec::new();
        let mut bytes = 0;
        loop {
            let row = rows.next().await?;
            let is_end = row.is_none();
            if let Some((event, has_others)) = row {
                self.work.events += 1;
                bytes += event.attrs.len();
                if has_others {
                    shared.insert(instant_of(&event));
                }
                kept.push(event);
            }
            if is_end || kept.len() >= INSTANTS || bytes >= BYTES {
                for exploded in self.explosion.explode(&all(&kept)).await? {
                    // Which are hidden is looked at below, with what was there before.
                    let sum = sums.entry(exploded.fact.key.hour()).or_default();
                    sum.add(exploded.fact.digest, false);
                }
                kept.clear();
                bytes = 0;
            }
            if sums.len() > NEW_HOURS_MAX || shared.len() > NEW_INSTANTS_MAX {
                return Ok(false);
            }
            if is_end {
                break;
            }
        }
        let shared: Vec<Instant> = shared.into_iter().collect();
        for instants in shared.chunks(INSTANTS) {
            self.count_hidden(instants, then, &mut sums).await?;
        }
        self.end(span, counters, &sums, false).await?;
        Ok(true)
    }

    /// Adds what is hidden of some instants now, and takes away what was.
    async fn count_hidden(
        &mut self,
        instants: &[Instant],
        then: &Counted,
        sums: &mut HourlySums,
    ) -> Result<(), LakeError> {
        let was = Some((then.snapshot.as_str(), then.taken_at, then.cutoff));
        let now = Some((&self.moment, self.cutoff));
        let rows = read_instants(&self.cdc, instants, was, now).await?;
        self.work.events += rows.len() as u64;
        let before = rows.iter().filter(|row| row.was_counted);
        let before: Vec<_> = before.map(|row| &row.event).collect();
        for exploded in self.explosion.explode(&before).await? {
            if exploded.is_hidden {
                let sum = sums.entry(exploded.fact.key.hour()).or_default();
                sum.hidden = sum.hidden.without(exploded.fact.digest);
            }
        }
        let after = rows.iter().filter(|row| row.is_counted);
        let after: Vec<_> = after.map(|row| &row.event).collect();
        for exploded in self.explosion.explode(&after).await? {
            if exploded.is_hidden {
                let sum = sums.entry(exploded.fact.key.hour()).or_default();
                sum.hidden += exploded.fact.digest;
            }
        }
        Ok(())
    }

    async fn end(
        &mut self,
        span: Span,
        counters: Counters,
        sums: &HourlySums,
        is_whole: bool,
    ) -> Result<(), LakeError> {
        self.work.unreadable = self.explosion.unreadable;
        let counted = Counted {
            snapshot: self.moment.snapshot.clone(),
            taken_at: self.moment.taken_at,
            cutoff: self.cutoff,
            counters,
            read_whole_at: self.moment.taken_at,
        };
        Ok(end_range(&self.cdc, span, &events_side(sums), &counted, is_whole).await?)
    }
}

/// The first hour of a span, and the first one after it.
pub(crate) fn hours_of(span: Span) -> (i64, i64) {
    (
        hour_of(span.lower.as_micros()),
        hour_of(span.upper.as_micros() - 1) + 1,
    )
}

/// Spans of partitions that are not attached any more, of those that were counted. What is attached of their time was made anew.
pub(crate) fn gone_ranges(known: &[CountedRange], attached: &[(Span, Counters)]) -> Vec<Span> {
    let is_there = |span: &Span| {
        let overlaps =
            |(other, _): &(Span, Counters)| span.lower < other.upper && other.lower < span.upper;
        attached.iter().any(overlaps)
    };
    let known = known.iter().filter(|range| range.counted.is_some());
    let spans = known.map(|range| range.span);
    spans.filter(|span| !is_there(span)).collect()
}

/// What was counted of events, to be added.
fn events_side(sums: &HourlySums) -> Vec<HourSums> {
    sides(sums, |hour, sums| HourSums {
        events: sums.all.into(),
        events_hidden: sums.hidden.into(),
        ..hour
    })
}

/// What was counted of files, to be added.
pub(crate) fn lake_side(sums: &HourlySums) -> Vec<HourSums> {
    sides(sums, |hour, sums| HourSums {
        lake: sums.all.into(),
        lake_hidden: sums.hidden.into(),
        ..hour
    })
}

fn sides(sums: &HourlySums, side: impl Fn(HourSums, &Sums) -> HourSums) -> Vec<HourSums> {
    let hour = |(hour, sums): (&TenantHour, &Sums)| {
        let empty = HourSums {
            tenant: hour.tenant,
            hour: hour.hour,
            ..HourSums::default()
        };
        side(empty, sums)
    };
    sums.iter().map(hour).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: Counters = Counters {
        file_node: 7,
        rows_added: 100,
        rows_changed: 3,
        late_added: 10,
        late_changed: 0,
    };

    fn counted() -> Counted {
        Counted {
            snapshot: "1:1:".to_owned(),
            taken_at: Timestamp::MIN,
            cutoff: Timestamp::MIN,
            counters: THEN,
            read_whole_at: Timestamp::MIN,
        }
    }

    #[test]
    fn a_partition_is_read_as_much_as_was_done_to_it() {
        let known = counted();
        for (claim, known, now, whole, wanted) in [
            ("never counted", None, THEN, false, HowToRead::Whole),
            ("nothing", Some(&known), THEN, false, HowToRead::Nothing),
            ("asked for", Some(&known), THEN, true, HowToRead::Whole),
            (
                "inserted",
                Some(&known),
                Counters {
                    rows_added: 101,
                    ..THEN
                },
                false,
                HowToRead::New,
            ),
            (
                "late ones",
                Some(&known),
                Counters {
                    late_added: 11,
                    ..THEN
                },
                false,
                HowToRead::New,
            ),
            (
                "changed by hand",
                Some(&known),
                Counters {
                    rows_changed: 4,
                    rows_added: 101,
                    ..THEN
                },
                false,
                HowToRead::Whole,
            ),
            (
                "late ones changed by hand",
                Some(&known),
                Counters {
                    late_changed: 1,
                    ..THEN
                },
                false,
                HowToRead::Whole,
            ),
            (
                "rewritten",
                Some(&known),
                Counters {
                    file_node: 8,
                    ..THEN
                },
                false,
                HowToRead::Whole,
            ),
            (
                "statistics that began anew",
                Some(&known),
                Counters {
                    rows_added: 5,
                    rows_changed: 3,
                    ..THEN
                },
                false,
                HowToRead::Whole,
            ),
        ] {
            assert_eq!(how_to_read(known, &now, whole), wanted, "{claim}");
        }
    }

    #[test]
    fn partitions_that_share_an_hour_are_counted_together() {
        let at = |minutes: i64| Timestamp::from_micros(minutes * 60_000_000).expect("a time");
        let span = |lower, upper| Span {
            lower: at(lower),
            upper: at(upper),
        };
        let partitions = vec![
            (span(0, 60), THEN),
            (span(60, 150), THEN),
            (span(150, 180), THEN),
            (span(180, 240), THEN),
        ];
        let joined = join_within_hours(partitions);
        let spans: Vec<Span> = joined.iter().map(|(span, _)| *span).collect();
        assert_eq!(spans, [span(0, 60), span(60, 180), span(180, 240)]);
        assert_eq!(joined[1].1.rows_added, 200);
        assert_eq!(hours_of(spans[1]), (1, 3));
    }
}
