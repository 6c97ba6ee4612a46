//! What the sink does beside the stream: begun here, on threads that may be kept busy, from the lake as of its last commit.

use std::collections::{BTreeSet, HashMap};

use sheaf_model::Timestamp;
use sheaf_store::lake::{CorrectionKey, LakeCorrection, count_corrections, list_corrections};
use sheaf_store::reconcile::{Instant, LakeRepair, list_held, list_repairs, read_instants};
use sheaf_store::retention::note_retentions;

use super::{Filling, LakeSink, waiting_since};
use crate::background::in_background;
use crate::compaction::JoinLimits;
use crate::error::LakeError;
use crate::facts::day_of;
use crate::files::Stop;
use crate::instruments::CORRECTIONS_WAITING;
use crate::orphans::sweep;
use crate::pending::Pending;
use crate::reconcile::{VISIBLE_WITHIN, event_row};
use crate::repair::{Here, repair};
use crate::retention::{Boundaries, OldTables, take_out};
use crate::rewrite::{Prepared, correct, join_files};
use crate::schema::LakeTable;
use crate::table::TableState;
use crate::upkeep::Work;

/// Corrections that are applied in one step.
const STEP_ROWS: i64 = 10_000;
/// And how many bytes of them.
const STEP_BYTES: i64 = 16 << 20;
/// And of how many days, in each of which files are written anew. A commit for each day would let late events of a year wait for a
/// quarter of an hour.
const STEP_DAYS: usize = 32;

impl LakeSink {
    /// Begins what is due, if anything is.
    pub(super) async fn begin_work(&mut self, filling: &mut Filling) {
        let waiting = filling.waiting.map_or(0, |waiting| waiting.count);
        metrics::gauge!(CORRECTIONS_WAITING).set(waiting as f64);
        if let Some(work) = self.upkeep.due(self.is_following, filling.waiting)
            && let Err(error) = self.begin_this(filling, work).await
        {
            self.upkeep.fail(work, &error);
        }
    }

    async fn begin_this(&mut self, filling: &mut Filling, work: Work) -> Result<(), LakeError> {
        match work {
            Work::Correct => self.begin_correcting(filling).await,
            Work::Repair => self.begin_repairing(filling).await,
            Work::Retain => self.begin_retaining(filling).await,
            Work::Join => {
                let stop = Stop::default();
                let files = self.lake.files(stop.clone());
                let tables = filling.lake.tables.clone();
                let joining = move || join_files(&files, &tables, &JoinLimits::DEFAULT);
                let going = tokio::spawn(in_background(joining));
                self.upkeep.begin(work, CorrectionKey::FIRST, stop, going);
                Ok(())
            }
            Work::Sweep => {
                let lake = self.lake.clone();
                let going = tokio::spawn(async move {
                    let swept = sweep(&lake).await?;
                    tracing::debug!(
                        removed = swept.removed,
                        young = swept.young,
                        "removed files that no table needs"
                    );
                    Ok(Prepared::default())
                });
                let stop = Stop::default();
                self.upkeep.begin(work, CorrectionKey::FIRST, stop, going);
                Ok(())
            }
        }
    }

    /// Begins to apply the next of the corrections that wait: those of few days, so that few files are concerned.
    async fn begin_correcting(&mut self, filling: &mut Filling) -> Result<(), LakeError> {
        let (cdc, name) = (self.lake.cdc.clone(), self.lake.name.clone());
        let after = self.upkeep.corrected_until();
        let mut waiting = list_corrections(&cdc, &name, after, STEP_ROWS, STEP_BYTES).await?;
        let mut days = BTreeSet::new();
        waiting.retain(|correction| {
            days.insert(day_of(correction.key.observed_at.as_micros()));
            days.len() <= STEP_DAYS
        });
        let Some(until) = waiting.last().map(|correction| correction.key) else {
            self.upkeep.end_round();
            let (count, oldest_at) = count_corrections(&cdc, &name).await?;
            filling.waiting = oldest_at.map(|at| waiting_since(count, at));
            return Ok(());
        };
        let begun = self.begin_days(filling, waiting, until).await;
        if begun.is_err() {
            self.upkeep.pass_over(until);
        }
        begun
    }

    /// Begins to apply corrections of a few days, the last of which is this.
    async fn begin_days(
        &mut self,
        filling: &Filling,
        waiting: Vec<LakeCorrection>,
        until: CorrectionKey,
    ) -> Result<(), LakeError> {
        let mut pending = Pending::default();
        let mut applied = Vec::with_capacity(waiting.len());
        for correction in waiting {
            applied.push(correction.key);
            let event = event_row(&correction);
            let position = filling.held.stream.unwrap_or(filling.held.base);
            let put = self.put_event(&mut pending, &event).await?;
            put.map_err(|source| LakeError::Event { position, source })?;
        }
        let events = self.lake.name(pending, &mut self.names).await?;
        let stop = Stop::default();
        let files = self.lake.files(stop.clone());
        let [facts, corrected] = tables_of_facts(filling)?;
        let correcting = move || correct(&files, &facts, &corrected, &events, applied);
        let going = tokio::spawn(in_background(correcting));
        self.upkeep.begin(Work::Correct, until, stop, going);
        Ok(())
    }

    /// Begins to put right the next of the events that are asked for: those of one day, so that few files are concerned.
    async fn begin_repairing(&mut self, filling: &Filling) -> Result<(), LakeError> {
        let (cdc, name) = (self.lake.cdc.clone(), self.lake.name.clone());
        let asked = list_repairs(&cdc, &name, STEP_ROWS, STEP_BYTES).await?;
        let day = |key: &CorrectionKey| day_of(key.observed_at.as_micros());
        let Some(first) = asked.first().map(|repair| day(&repair.key)) else {
            self.upkeep.found_no_repairs();
            return Ok(());
        };
        let asked = asked.into_iter().filter(|asked| day(&asked.key) == first);
        let asked: Vec<LakeRepair> = asked.collect();
        let here = self.look_here(&asked).await?;
        let (mut pending, mut keys, mut others) = (Pending::default(), Vec::new(), Vec::new());
        for repair in asked {
            // Or meant for the lake that was there before this one began anew.
            if !here.vouches_for(&repair) || repair.base != filling.held.base {
                others.push(repair.key);
                continue;
            }
            if let Some(event) = &repair.event
                && let Err(fault) = self.put_event(&mut pending, &event_row(event)).await?
            {
                tracing::warn!(%fault, "an event that cannot be read was asked to be put right");
                others.push(repair.key);
                continue;
            }
            keys.push(repair.key);
        }
        tracing::info!(
            events = keys.len(),
            passed_over = others.len(),
            "putting right events of the lake"
        );
        let events = self.lake.name(pending, &mut self.names).await?;
        let stop = Stop::default();
        let files = self.lake.files(stop.clone());
        let [facts, corrected] = tables_of_facts(filling)?;
        let repairing = move || {
            let mut prepared = repair(&files, &facts, &corrected, &events, keys)?;
            prepared.repaired.append(&mut others);
            Ok(prepared)
        };
        let going = tokio::spawn(in_background(repairing));
        self.upkeep
            .begin(Work::Repair, CorrectionKey::FIRST, stop, going);
        Ok(())
    }

    /// What PostgreSQL has by now of what is to be put right.
    async fn look_here(&self, asked: &[LakeRepair]) -> Result<Here, LakeError> {
        let cdc = &self.lake.cdc;
        let held = list_held(cdc).await?;
        let removals = asked.iter().filter(|repair| repair.event.is_none());
        let removals: HashMap<CorrectionKey, Timestamp> = removals
            .map(|repair| (repair.key, repair.asked_at))
            .collect();
        let instants: BTreeSet<Instant> = removals
            .keys()
            .map(|key| Instant {
                tenant: key.tenant,
                entity: key.entity,
                observed_at: key.observed_at,
            })
            .collect();
        let instants: Vec<Instant> = instants.into_iter().collect();
        let events = read_instants(cdc, &instants, None, None).await?;
        let came = events.into_iter().filter_map(|found| {
            let asked_at = removals.get(&found.event.key)?;
            let age = asked_at.since(found.event.ingested_at);
            (age < VISIBLE_WITHIN).then_some(found.event.key)
        });
        Ok(Here {
            come_since: came.collect(),
            // Again: what is not there any more was perhaps there before.
            held: [held, list_held(cdc).await?],
        })
    }

    /// Begins to take out facts that are older than they are kept. Up to where is noted before, so that nobody who compares takes what
    /// is gone for missing.
    async fn begin_retaining(&mut self, filling: &Filling) -> Result<(), LakeError> {
        let noted = note_retentions(&self.lake.cdc, Timestamp::now()).await?;
        let boundaries = Boundaries::new(&noted);
        let Some(from) = self.upkeep.begin_retaining(&boundaries) else {
            return Ok(());
        };
        let stop = Stop::default();
        let files = self.lake.files(stop.clone());
        let [facts, corrected] = tables_of_facts(filling)?;
        let tables = OldTables {
            facts,
            corrected,
            keyframes: filling.lake.table(LakeTable::Keyframes)?.clone(),
        };
        let taking = move || take_out(&files, &tables, &boundaries, from);
        let going = tokio::spawn(in_background(taking));
        self.upkeep
            .begin(Work::Retain, CorrectionKey::FIRST, stop, going);
        Ok(())
    }

    /// Applies every correction that waits, puts right what is asked, takes out what is older than it is kept and joins every file that can be, and commits that: what else is done beside the
    /// stream, as it is due. The snapshot has to have come to its end.
    ///
    /// # Errors
    /// The lake was not asked what it holds, or a commit failed. What it holds has to be asked again then.
    pub async fn tidy(&mut self) -> Result<(), LakeError> {
        let mut filling = self.open.take().ok_or(LakeError::NotAsked)?;
        for work in [Work::Correct, Work::Repair, Work::Retain, Work::Join] {
            loop {
                self.upkeep.wait().await;
                if let Some(prepared) = self.upkeep.take().await {
                    filling = self.commit_with(filling, prepared).await?;
                }
                self.begin_this(&mut filling, work).await?;
                self.upkeep.wait().await;
                match self.upkeep.take().await {
                    Some(prepared) => filling = self.commit_with(filling, prepared).await?,
                    None => break,
                }
            }
        }
        self.open = Some(filling);
        Ok(())
    }
}

/// The facts that count, and those that are hidden.
fn tables_of_facts(filling: &Filling) -> Result<[TableState; 2], LakeError> {
    let table = |wanted| filling.lake.table(wanted).cloned();
    Ok([table(LakeTable::Facts)?, table(LakeTable::FactsCorrected)?])
}
