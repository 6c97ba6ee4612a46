//! Which hours differ, by what was counted of both sides.

use std::collections::{BTreeSet, HashMap, HashSet};

use sheaf_model::Timestamp;
use sheaf_store::reconcile::{
    CountedRange, Counters, FactSum, HourSums, Moment, Span, list_differing, list_gone, read_hours,
};

use super::counting::{gone_ranges, hours_of};
use super::drilling::span_of;
use super::explosion::HourlySums;
use super::report::Report;
use super::run::Counted;
use super::{ReconcileRequest, Reconciler};
use crate::digest::{Digest, TenantHour, hour_of};
use crate::error::LakeError;

/// Hours that are read at once, and how many that differ are looked at in one reconciliation.
const HOURS: usize = 1_000;
const HOURS_MAX: usize = 5_000;
/// Hours that differ by what was counted, of which more are not listed.
const DIFFERING_MAX: usize = 100_000;

/// An hour that differs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Suspect {
    pub(super) hour: TenantHour,
    pub(super) facts: u64,
}

/// What is known of time and tenants beside what was counted.
pub(super) struct Bounds {
    /// Periods that PostgreSQL does not have any more, but had when they were counted.
    pub(super) gone: Vec<Span>,
    /// Periods that it did not have any more when it was first looked.
    unknown: Vec<Span>,
}

impl Reconciler {
    /// What is known beside what was counted.
    pub(super) async fn bounds(
        &self,
        known: &[CountedRange],
        partitions: &[(Span, Counters)],
    ) -> Result<Bounds, LakeError> {
        let gone = gone_ranges(known, partitions);
        let mut unknown = list_gone(&self.cdc).await?;
        unknown.retain(|span| !gone.contains(span));
        Ok(Bounds { gone, unknown })
    }

    /// The hours that differ, as they were counted.
    pub(super) async fn suspects(
        &self,
        request: &ReconcileRequest,
        counted: &Counted,
        bounds: &Bounds,
        as_of: (&Moment, Timestamp),
        report: &mut Report,
    ) -> Result<Vec<Suspect>, LakeError> {
        report.archived.clear();
        report.hours_left = 0;
        report.periods_unknown = bounds.unknown.len() as u64;
        let mut beside: HourlySums = counted.count.unsettled.clone();
        let mut waiting_hours: HashSet<TenantHour> = HashSet::new();
        for (instant, digest) in &counted.waiting {
            let hour = TenantHour {
                tenant: instant.tenant.0,
                hour: hour_of(instant.observed_at.as_micros()),
            };
            waiting_hours.insert(hour);
            beside.entry(hour).or_default().all += *digest;
        }
        let mut asked: BTreeSet<(i64, i64)> =
            beside.keys().map(|hour| (hour.tenant, hour.hour)).collect();
        let mut after = (i64::MIN, i64::MIN);
        loop {
            let some = list_differing(&self.cdc, after, 10_000).await?;
            let Some(last) = some.last() else {
                break;
            };
            after = *last;
            asked.extend(some);
            if asked.len() > DIFFERING_MAX {
                report.hours_left += 1;
                break;
            }
        }
        let asked: Vec<(i64, i64)> = asked.into_iter().collect();
        let mut suspects = Vec::new();
        for some in asked.chunks(HOURS) {
            let found = read_hours(&self.cdc, some).await?;
            let found: HashMap<(i64, i64), HourSums> = found
                .into_iter()
                .map(|sums| ((sums.tenant, sums.hour), sums))
                .collect();
            for (tenant, hour) in some {
                let (key, hour) = (
                    (*tenant, *hour),
                    TenantHour {
                        tenant: *tenant,
                        hour: *hour,
                    },
                );
                let sums = found.get(&key).copied().unwrap_or_default();
                let more = beside.get(&hour).copied().unwrap_or_default();
                let lake = Digest::from(sums.lake) + more.all;
                let lake_hidden = Digest::from(sums.lake_hidden) + more.hidden;
                let differs = FactSum::from(lake) != sums.events;
                let differs_hidden = FactSum::from(lake_hidden) != sums.events_hidden
                    && !waiting_hours.contains(&hour);
                if !(differs || differs_hidden) || !is_asked(request, hour, bounds) {
                    continue;
                }
                let is_in = |span: &Span| {
                    let (first, end) = hours_of(*span);
                    (first..end).contains(&hour.hour)
                };
                if bounds.gone.iter().any(is_in) {
                    // What late events hide of what is gone cannot be counted any more. What waits may be in the files as well.
                    if differs && !waiting_hours.contains(&hour) {
                        report.archived.push(hour);
                    }
                    continue;
                }
                let facts = sums.events.facts.unsigned_abs().max(lake.facts);
                suspects.push(Suspect { hour, facts });
            }
        }
        let archived = &mut report.archived;
        self.leave_unarchived(archived, &bounds.gone, &beside, as_of)
            .await?;
        if suspects.len() > HOURS_MAX {
            report.hours_left += (suspects.len() - HOURS_MAX) as u64;
            suspects.truncate(HOURS_MAX);
        }
        Ok(suspects)
    }
}

/// Whether an hour is compared at all.
fn is_asked(request: &ReconcileRequest, hour: TenantHour, bounds: &Bounds) -> bool {
    let Some(span) = span_of(hour) else {
        return true;
    };
    let is_unknown = |unknown: &Span| {
        let (first, end) = hours_of(*unknown);
        (first..end).contains(&hour.hour)
    };
    request.tenant.is_none_or(|tenant| tenant == hour.tenant)
        && request.from.is_none_or(|from| span.upper > from)
        && request.until.is_none_or(|until| span.lower < until)
        && !bounds.unknown.iter().any(is_unknown)
}
