//! What hours that differ come to, fact by fact, and what is asked to be put right of it.

use std::collections::{BTreeMap, HashMap};

use sheaf_model::{ChangePosition, Timestamp};
use sheaf_store::reconcile::{
    EventKey, Instant, LakeRepair, ask_for_repairs, count_repairs, read_moment,
};
use tokio::time::{Instant as Moments, sleep};

use super::drilling::{Drilling, LakeView};
use super::explosion::Explosion;
use super::lake_files::LakeFacts;
use super::report::{Difference, Repaired, Report};
use super::run::{Counted, LOOK_EVERY, TRIES};
use super::second_look::{Looked, SecondLook, event_of};
use super::suspects::Suspect;
use super::{ReconcileRequest, Reconciler};
use crate::error::LakeError;
use crate::names::Names;

/// Instants that are looked at again together, and of which the files are read at once.
const INSTANTS: usize = 20_000;
const INSTANTS_ONCE: usize = 2_000;
/// Events that are put right in one reconciliation.
const REPAIRS_MAX: usize = 100_000;
/// Repairs that are asked for in one statement.
const REPAIRS_ONCE: usize = 1_000;

impl Reconciler {
    /// Looks into hours, tells what differs indeed and asks to put it right. False where the lake did not come as far in time.
    pub(super) async fn look_into(
        &self,
        request: &ReconcileRequest,
        suspects: Vec<Suspect>,
        counted: Counted,
        cutoff: Timestamp,
        report: &mut Report,
    ) -> Result<bool, LakeError> {
        if suspects.is_empty() {
            return Ok(true);
        }
        let mut explosion = Explosion::new(Names::new(self.cdc.clone()));
        let present = match counted.present {
            Some(present) => present,
            None => {
                let facts = LakeFacts::load(&self.warehouse, &counted.standing).await?;
                facts.files(&self.warehouse).await?
            }
        };
        let view = LakeView::new(self.files(), present, counted.waiting)?;
        let mut repairs: BTreeMap<EventKey, LakeRepair> = BTreeMap::new();
        let mut instants: Vec<Instant> = Vec::new();
        let last = suspects.len() - 1;
        for (place, suspect) in suspects.into_iter().enumerate() {
            report.work.hours_drilled += 1;
            let mut drilling = Drilling {
                cdc: &self.cdc,
                view: &view,
                explosion: &mut explosion,
                cutoff,
            };
            let (found, has_more) = drilling.instants(suspect.hour, suspect.facts).await?;
            report.hours_left += u64::from(has_more);
            instants.extend(found);
            if instants.len() < INSTANTS && place < last {
                continue;
            }
            let instants = std::mem::take(&mut instants);
            let Some(looked) = self.look_again(&instants, &mut explosion).await? else {
                return Ok(false);
            };
            report.letters += looked.letters;
            for difference in &looked.differences {
                report.counts.add(difference.kind);
                if report.differences.len() < request.differences_max {
                    report.differences.push(*difference);
                }
            }
            if request.repairs && repairs.len() < REPAIRS_MAX {
                note_repairs(&mut repairs, looked, counted.standing.position.base);
            }
        }
        if request.repairs {
            report.repaired = Some(self.repair(repairs, &mut explosion).await?);
        }
        Ok(true)
    }

    /// Looks at instants again. None where the lake did not come as far in time.
    async fn look_again(
        &self,
        instants: &[Instant],
        explosion: &mut Explosion,
    ) -> Result<Option<Looked>, LakeError> {
        let mut all = Looked::default();
        if instants.is_empty() {
            return Ok(Some(all));
        }
        let mut look = SecondLook {
            cdc: &self.cdc,
            name: &self.options.name,
            feed: &self.options.feed,
            explosion,
        };
        let mut events = Vec::new();
        for some in instants.chunks(INSTANTS_ONCE) {
            events.push(look.events(some).await?);
        }
        let moment = read_moment(&self.cdc).await?;
        for (some, events) in instants.chunks(INSTANTS_ONCE).zip(events) {
            let mut tries = 0;
            let looked = loop {
                let Some(standing) = self.wait_for(moment.position).await? else {
                    return Ok(None);
                };
                let facts = LakeFacts::load(&self.warehouse, &standing).await?;
                let present = facts.files(&self.warehouse).await?;
                let view = LakeView::new(self.files(), present, HashMap::new())?;
                let looked = look.compare(some, events.clone(), &view).await?;
                tries += 1;
                // What waited may have been put into files in between. Where nothing differs that is no matter.
                let (now, _) = self.standing().await?;
                let number = now.map(|now| now.position.number);
                let is_same = number == Some(standing.position.number);
                if looked.differences.is_empty() || is_same || tries >= TRIES {
                    break looked;
                }
            };
            all.letters += looked.letters;
            all.differences.extend(looked.differences);
            all.events.extend(looked.events);
        }
        Ok(Some(all))
    }

    /// Asks the writer of the lake to put events right, waits until it has, and looks at them again.
    async fn repair(
        &self,
        repairs: BTreeMap<EventKey, LakeRepair>,
        explosion: &mut Explosion,
    ) -> Result<Repaired, LakeError> {
        let mut instants: Vec<Instant> = repairs.keys().map(instant_of).collect();
        instants.dedup();
        instants.sort_unstable();
        instants.dedup();
        let repairs: Vec<LakeRepair> = repairs.into_values().collect();
        let mut repaired = Repaired {
            asked: repairs.len() as u64,
            left: 0,
        };
        let name = &self.options.name;
        for some in repairs.chunks(REPAIRS_ONCE) {
            ask_for_repairs(&self.cdc, name, some, Timestamp::now()).await?;
        }
        let deadline = Moments::now() + self.options.wait_max;
        while count_repairs(&self.cdc, name).await? > 0 && Moments::now() < deadline {
            sleep(LOOK_EVERY).await;
        }
        let left = self.look_again(&instants, explosion).await?;
        repaired.left = left.map_or(repaired.asked, |left| left.differences.len() as u64);
        Ok(repaired)
    }
}

/// What has to be asked for, so that instants are in the lake as PostgreSQL has them.
fn note_repairs(
    repairs: &mut BTreeMap<EventKey, LakeRepair>,
    looked: Looked,
    base: Option<ChangePosition>,
) {
    let Some(base) = base else {
        return;
    };
    for Difference { key, .. } in &looked.differences {
        if let Some(event) = event_of(key) {
            let nothing = LakeRepair {
                key: event,
                event: None,
                base,
            };
            repairs.entry(event).or_insert(nothing);
        }
    }
    for event in looked.events {
        let repair = LakeRepair {
            key: event.key,
            event: Some(event),
            base,
        };
        repairs.insert(repair.key, repair);
    }
}

fn instant_of(event: &EventKey) -> Instant {
    Instant {
        tenant: event.tenant,
        entity: event.entity,
        observed_at: event.observed_at,
    }
}
