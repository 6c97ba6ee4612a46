//! What hours that differ come to, fact by fact, and what is asked to be put right of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use sheaf_model::{ChangePosition, Timestamp};
use sheaf_store::reconcile::{
    EventKey, Instant, LakeRepair, Span, ask_for_repairs, count_repairs, list_held, read_moment,
};
use sheaf_store::retention::list_retentions;
use tokio::time::{Instant as Moments, sleep};

use super::drilling::{Drilling, LakeView, instant_of_key};
use super::explosion::Explosion;
use super::lake_files::LakeFacts;
use super::report::{Difference, NotCompared, Repaired, Report};
use super::run::{Counted, LOOK_EVERY};
use super::second_look::{Looked, SecondLook, event_of};
use super::suspects::Suspect;
use super::{ReconcileRequest, Reconciler};
use crate::error::LakeError;
use crate::names::Names;
use crate::retention::Boundaries;

/// Instants that are looked at again together, and of which the files are read at once.
const INSTANTS: usize = 20_000;
const INSTANTS_ONCE: usize = 2_000;
/// Repairs that are asked for in one statement.
const REPAIRS_ONCE: usize = 1_000;

impl Reconciler {
    /// Looks into hours, tells what differs indeed and asks to put it right, unless both sides could not be compared.
    pub(super) async fn look_into(
        &self,
        request: &ReconcileRequest,
        suspects: Vec<Suspect>,
        counted: Counted,
        cutoff: Timestamp,
        report: &mut Report,
    ) -> Result<Result<(), NotCompared>, LakeError> {
        if suspects.is_empty() {
            return Ok(Ok(()));
        }
        let mut explosion = Explosion::new(Names::new(self.cdc.clone()));
        let present = match counted.present {
            Some(present) => present,
            None => {
                let facts = LakeFacts::load(&self.warehouse, &counted.standing).await?;
                facts.files(&self.warehouse).await?
            }
        };
        let view = LakeView::new(self.files(), present, counted.waiting, self.kept().await?)?;
        // What is missing in a file that is damaged is there again once that is put back.
        let repairs_max = match report.damaged.is_empty() {
            true => request.repairs_max,
            false => 0,
        };
        let mut asking = Asking::new(repairs_max, counted.standing.position.base);
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
            let looked = match self.look_again(&instants, &mut explosion).await? {
                Ok(looked) => looked,
                Err(reason) => return Ok(Err(reason)),
            };
            report.letters += looked.letters;
            for difference in &looked.differences {
                report.counts.add(difference.kind);
                if report.differences.len() < request.differences_max {
                    report.differences.push(*difference);
                }
            }
            asking.note(looked);
        }
        if repairs_max > 0 {
            report.repaired = Some(self.repair(asking, &mut explosion).await?);
        }
        Ok(Ok(()))
    }

    /// Up to where facts may have been taken out: asked after it is known which files there are.
    async fn kept(&self) -> Result<Boundaries, LakeError> {
        Ok(Boundaries::new(&list_retentions(&self.cdc).await?))
    }

    /// Looks at instants again.
    async fn look_again(
        &self,
        instants: &[Instant],
        explosion: &mut Explosion,
    ) -> Result<Result<Looked, NotCompared>, LakeError> {
        let mut all = Looked::default();
        if instants.is_empty() {
            return Ok(Ok(all));
        }
        let before = list_held(&self.cdc).await?;
        let mut look = SecondLook {
            cdc: &self.cdc,
            name: &self.options.name,
            feed: &self.options.feed,
            explosion,
            wait_max: self.options.wait_max,
        };
        let mut events = Vec::new();
        for some in instants.chunks(INSTANTS_ONCE) {
            events.push(look.events(some).await?);
        }
        let moment = read_moment(&self.cdc, Duration::ZERO).await?;
        for (some, events) in instants.chunks(INSTANTS_ONCE).zip(events) {
            if self.wait_for(moment.position).await?.is_none() {
                return Ok(Err(NotCompared::Behind));
            }
            let waiting = look.waiting(some).await?;
            let (Some(standing), _) = self.standing().await? else {
                return Ok(Err(NotCompared::Behind));
            };
            let facts = LakeFacts::load(&self.warehouse, &standing).await?;
            let present = facts.files(&self.warehouse).await?;
            let view = LakeView::new(self.files(), present, HashMap::new(), self.kept().await?)?;
            let looked = match look.compare(some, events, (&waiting, &view)).await? {
                Ok(looked) => looked,
                Err(reason) => return Ok(Err(reason)),
            };
            all.letters += looked.letters;
            all.differences.extend(looked.differences);
            all.events.extend(looked.events);
        }
        // Of a partition that was detached meanwhile nothing is here any more, and the lake's is the only copy.
        if !all.is_held(&[before, list_held(&self.cdc).await?]) {
            return Ok(Err(NotCompared::Detached));
        }
        Ok(Ok(all))
    }

    /// Asks the writer of the lake to put events right, waits until it has, and looks at them again.
    async fn repair(
        &self,
        asking: Asking,
        explosion: &mut Explosion,
    ) -> Result<Repaired, LakeError> {
        let instants: Vec<Instant> = asking.instants.into_iter().collect();
        let name = &self.options.name;
        let repairs: Vec<LakeRepair> = asking.repairs.into_values().collect();
        for some in repairs.chunks(REPAIRS_ONCE) {
            ask_for_repairs(&self.cdc, name, some).await?;
        }
        let deadline = Moments::now() + self.options.wait_max;
        while count_repairs(&self.cdc, name).await? > 0 && Moments::now() < deadline {
            sleep(LOOK_EVERY).await;
        }
        let asked = repairs.len() as u64;
        let left = match self.look_again(&instants, explosion).await? {
            Ok(looked) => looked.differences.len() as u64,
            Err(_) => asked,
        };
        Ok(Repaired {
            asked,
            left: left + asking.left,
        })
    }
}

impl Looked {
    /// Whether all that differs is of times that PostgreSQL had all events of, before and after it was asked.
    fn is_held(&self, held: &[Vec<Span>; 2]) -> bool {
        self.differences.iter().all(|difference| {
            let instant = instant_of_key(&difference.key);
            let has = |span: &Span| instant.is_some_and(|instant| span.has(instant.observed_at));
            held.iter().all(|spans| spans.iter().any(has))
        })
    }
}

/// What has to be asked for, so that instants are in the lake as PostgreSQL has them.
#[derive(Debug)]
struct Asking {
    repairs: BTreeMap<EventKey, LakeRepair>,
    /// Their instants.
    instants: BTreeSet<Instant>,
    repairs_max: usize,
    base: Option<ChangePosition>,
    /// Facts that differ of instants for which there was no room.
    left: u64,
}

impl Asking {
    fn new(repairs_max: usize, base: Option<ChangePosition>) -> Asking {
        Asking {
            repairs: BTreeMap::new(),
            instants: BTreeSet::new(),
            repairs_max,
            base,
            left: 0,
        }
    }

    /// Notes what was found to differ: an instant whole or not at all.
    fn note(&mut self, looked: Looked) {
        let asked_at = Timestamp::now();
        for Difference { key, .. } in &looked.differences {
            let Some(event) = event_of(key) else {
                continue;
            };
            let has_room = self.repairs.len() < self.repairs_max;
            match self.base {
                Some(base) if has_room || self.instants.contains(&instant_of(&event)) => {
                    self.instants.insert(instant_of(&event));
                    let nothing = LakeRepair {
                        key: event,
                        event: None,
                        base,
                        asked_at,
                    };
                    self.repairs.entry(event).or_insert(nothing);
                }
                Some(_) | None => self.left += 1,
            }
        }
        for event in looked.events {
            if let Some(base) = self.base
                && self.instants.contains(&instant_of(&event.key))
            {
                let repair = LakeRepair {
                    key: event.key,
                    event: Some(event),
                    base,
                    asked_at,
                };
                self.repairs.insert(repair.key, repair);
            }
        }
    }
}

fn instant_of(event: &EventKey) -> Instant {
    Instant {
        tenant: event.tenant,
        entity: event.entity,
        observed_at: event.observed_at,
    }
}
