//! Periods that are archived. What was counted of one may be older than its last events, as it can be archived before anybody counts
//! again: where it differs, what the archive was compared with decides, which is of the whole period but for late events.

use sheaf_model::Timestamp;
use sheaf_store::archive::{Archive, ArchiveState, list_archives};
use sheaf_store::reconcile::{EventKey, Moment, Span, read_range, sum_lake_hours};

use super::Reconciler;
use super::counting::{PAGE_BYTES, PAGE_ROWS, hours_of};
use super::explosion::{Explosion, HourlySums, all};
use crate::digest::{Digest, HOUR_MICROS, TenantHour};
use crate::error::LakeError;
use crate::names::Names;

impl Reconciler {
    /// Takes out those hours of whose whole period the lake has what the archive has come to.
    pub(super) async fn leave_unarchived(
        &self,
        hours: &mut Vec<TenantHour>,
        gone: &[Span],
        beside: &HourlySums,
        (moment, cutoff): (&Moment, Timestamp),
    ) -> Result<(), LakeError> {
        if hours.is_empty() {
            return Ok(());
        }
        for archive in list_archives(&self.cdc).await? {
            let span = Span {
                lower: archive.partition.lower,
                upper: archive.partition.upper,
            };
            let (first, end) = hours_of(span);
            let is_in = |hour: &TenantHour| (first..end).contains(&hour.hour);
            let Some(wanted) = digest_of_archive(&archive, span) else {
                continue;
            };
            if !gone.contains(&span) || !hours.iter().any(is_in) {
                continue;
            }
            let mut lake = Digest::from(sum_lake_hours(&self.cdc, (first, end)).await?);
            for (_, sums) in beside.iter().filter(|(hour, _)| is_in(hour)) {
                lake += sums.all;
            }
            let late = self.late(span, (moment, cutoff)).await?;
            if lake.without(late) == wanted {
                hours.retain(|hour| !is_in(hour));
            }
        }
        Ok(())
    }

    /// What the late events of a period come to of which there are no others here.
    async fn late(&self, span: Span, as_of: (&Moment, Timestamp)) -> Result<Digest, LakeError> {
        let mut explosion = Explosion::new(Names::new(self.cdc.clone()));
        let mut digest = Digest::default();
        let mut place = EventKey::FIRST;
        loop {
            let page = read_range(&self.cdc, span, place, as_of, PAGE_ROWS, PAGE_BYTES).await?;
            let Some(last) = page.last() else {
                return Ok(digest);
            };
            place = last.key;
            for exploded in explosion.explode(&all(&page)).await? {
                digest += exploded.fact.digest;
            }
        }
    }
}

/// What both sides of an archive were when they were compared. None where the period is here, or shares an hour with another one.
fn digest_of_archive(archive: &Archive, span: Span) -> Option<Digest> {
    let is_whole = |at: Timestamp| at.as_micros().rem_euclid(HOUR_MICROS) == 0;
    let is_gone = match archive.state {
        ArchiveState::Detached | ArchiveState::Verified | ArchiveState::Dropped => true,
        ArchiveState::Closed
        | ArchiveState::Keyframed
        | ArchiveState::BehindBoundary
        | ArchiveState::Restored => false,
    };
    if !is_gone || !is_whole(span.lower) || !is_whole(span.upper) {
        return None;
    }
    let digest = archive.digest.as_ref()?;
    Some(Digest {
        facts: digest.facts.cast_unsigned(),
        sum: u128::from_str_radix(&digest.sum, 16).ok()?,
    })
}
