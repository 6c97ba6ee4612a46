//! Whether the lake holds all of a partition: what PostgreSQL has of it, and what the files have of its time, by one encoding.
//!
//! Late events are left out on both sides: they stay in PostgreSQL. The files it reads alone; what it puts back into PostgreSQL is
//! compared by whoever asks for that.

mod loading;

use std::sync::Arc;

use arrow_array::RecordBatch;
use iceberg::spec::DataFile;

use sheaf_model::{ChangePosition, LATE_SEQ, Timestamp};
use sheaf_pg::{PgError, Pool};
use sheaf_store::archive::{count_waiting, read_partition};
use sheaf_store::lake::{CorrectionKey, LakeCorrection, LakeFeed, LakeName, look_at_lake};
use sheaf_store::partitions::Partition;
use sheaf_store::retention::read_lake_and_removals;
use sheaf_store::settings::Settings;

use crate::analytics::covered;
use crate::background::in_background;
use crate::digest::{Digest, digest_pending, digest_rows};
use crate::error::{Cause, LakeError};
use crate::facts::day_of;
use crate::files::{Files, Stop};
use crate::names::Names;
use crate::observer::Observed;
use crate::pending::Pending;
use crate::reconcile::event_row;
use crate::rewrite::{partition_of, ranges_of};
use crate::schema::LakeTable;
use crate::sink::LakeOptions;
use crate::table::TableState;
use crate::warehouse::Warehouse;

/// Events that are read at once.
const EVENTS_MAX: i64 = 10_000;

/// What the lake holds of archived partitions.
#[derive(Debug, Clone)]
pub struct LakeArchive {
    upkeep: Pool,
    settings: Arc<Settings>,
    name: LakeName,
    feed: LakeFeed,
    warehouse: Warehouse,
}

/// How far the lake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveStanding {
    /// Where it began; absent where it never did.
    pub base: Option<ChangePosition>,
    /// A position below which its tables have everything; absent where nobody can say.
    pub covered: Option<ChangePosition>,
}

/// What one side has of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveSide {
    /// How many events.
    pub events: u64,
    /// What their facts come to.
    pub digest: Digest,
}

impl LakeArchive {
    /// Of the lake that these options describe, fed from this slot. Asks PostgreSQL as `sheaf_upkeep`.
    ///
    /// # Errors
    /// The place cannot hold a lake.
    pub fn new(
        upkeep: &Pool,
        settings: Arc<Settings>,
        options: &LakeOptions,
        slot: String,
    ) -> Result<LakeArchive, LakeError> {
        Ok(LakeArchive {
            upkeep: upkeep.clone(),
            settings,
            name: options.name.clone(),
            feed: LakeFeed {
                slot,
                sink: options.sink.clone(),
            },
            warehouse: Warehouse::open(&options.location)?,
        })
    }

    /// What it is called in its catalogue.
    pub fn catalog(&self) -> &str {
        &self.name.catalog
    }

    /// How far it is.
    ///
    /// # Errors
    /// PostgreSQL failed.
    pub async fn standing(&self) -> Result<ArchiveStanding, LakeError> {
        let look = look_at_lake(&self.upkeep, &self.name, &self.feed, &self.settings).await?;
        let position = look.standing.map(|standing| standing.position);
        Ok(ArchiveStanding {
            base: position.and_then(|position| position.base),
            covered: position
                .and_then(|position| covered(&position, look.followed, look.held_until)),
        })
    }

    /// How many events of a partition's time are on their way into the files, but for late ones.
    ///
    /// # Errors
    /// PostgreSQL failed.
    pub async fn waiting(&self, partition: &Partition) -> Result<i64, LakeError> {
        Ok(count_waiting(&self.upkeep, &self.name.catalog, partition).await?)
    }

    /// What PostgreSQL has of a partition, attached or not.
    ///
    /// # Errors
    /// PostgreSQL failed, or has an event that the lake cannot hold.
    pub async fn digest_partition(&self, name: &str) -> Result<ArchiveSide, LakeError> {
        let mut names = Names::new(self.upkeep.clone());
        let (mut events, mut digest) = (0, Digest::default());
        let mut last = CorrectionKey::FIRST;
        loop {
            let read = read_partition(&self.upkeep, name, last, EVENTS_MAX).await?;
            let mut pending = Pending::default();
            for event in &read {
                push(&mut pending, event, &mut names).await?;
            }
            let kind_of = |tenant, id| names.kind(tenant, id);
            digest_pending(&pending, kind_of, |_, fact| digest += fact.digest);
            events += u64::try_from(read.len()).unwrap_or(u64::MAX);
            match read.last() {
                Some(event) => last = event.key,
                None => return Ok(ArchiveSide { events, digest }),
            }
        }
    }

    /// The tables of facts, those that count and those that were replaced, and what retention has taken out of them of a partition's time.
    async fn tables(&self, partition: &Partition) -> Result<(Vec<TableState>, Digest), LakeError> {
        let gone = || PgError::unreadable("reading how far the lake is", "no position");
        let span = (partition.lower, partition.upper);
        let read = read_lake_and_removals(&self.upkeep, &self.name, span).await?;
        let (standing, removed) = (read.0.ok_or_else(gone)?, read.1);
        let mut tables = Vec::new();
        for table in [LakeTable::Facts, LakeTable::FactsCorrected] {
            let location = standing.location(table.name()).ok_or_else(gone)?;
            tables.push(TableState::load_own(table, &self.warehouse, location).await?);
        }
        Ok((tables, removed.into()))
    }

    fn files(&self) -> Files {
        Files {
            warehouse: self.warehouse.clone(),
            observed: Observed(None),
            runtime: tokio::runtime::Handle::current(),
            stop: Stop::default(),
        }
    }

    /// What the files have of a partition's time, with what retention has taken out of them.
    ///
    /// # Errors
    /// PostgreSQL failed, or a file could not be read.
    pub async fn digest_lake(&self, partition: &Partition) -> Result<Digest, LakeError> {
        let ((tables, removed), files) = (self.tables(partition).await?, self.files());
        let (lower, upper) = (partition.lower, partition.upper);
        let digested = in_background(move || {
            let mut digest = removed;
            for state in &tables {
                digest += digest_table(&files, state, (lower, upper))?;
            }
            Ok(digest)
        });
        digested.await
    }
}

async fn push(
    pending: &mut Pending,
    event: &LakeCorrection,
    names: &mut Names,
) -> Result<(), LakeError> {
    let row = event_row(event);
    let pushed = pending.take_event(&row, names).await?;
    pushed.map_err(|source| LakeError::ArchivedEvent {
        observed_at: row.observed_at,
        source,
    })
}

fn digest_table(
    files: &Files,
    state: &TableState,
    (lower, upper): (Timestamp, Timestamp),
) -> Result<Digest, LakeError> {
    let (first, after) = (lower.as_micros(), upper.as_micros());
    let mut digest = Digest::default();
    for file in files_between(files, state, (lower, upper))? {
        each_batch(files, &file, |batch| {
            digest_rows(batch, |_, fact| {
                let key = fact.key;
                if (first..after).contains(&key.observed_at) && key.seq < i64::from(LATE_SEQ) {
                    digest += fact.digest;
                }
            })
        })?;
    }
    Ok(digest)
}

/// The files of a table that may have rows of these times.
fn files_between(
    files: &Files,
    state: &TableState,
    (lower, upper): (Timestamp, Timestamp),
) -> Result<Vec<DataFile>, LakeError> {
    let (first, after) = (lower.as_micros(), upper.as_micros());
    let days = day_of(first)..=day_of(after - 1);
    let mut found = Vec::new();
    for manifest in &state.manifests {
        let in_manifest = state.files_of(&files.warehouse, manifest);
        found.extend(
            files
                .runtime
                .block_on(in_manifest)?
                .into_iter()
                .filter(|file| {
                    let day = partition_of(file).first().copied().flatten();
                    let (least, greatest) = ranges_of(state.table, file).instants;
                    day.is_none_or(|day| days.contains(&day)) && greatest >= first && least < after
                }),
        );
    }
    Ok(found)
}

fn each_batch(
    files: &Files,
    file: &DataFile,
    mut each: impl FnMut(&RecordBatch) -> Result<(), Cause>,
) -> Result<(), LakeError> {
    let stored = files.open(file.file_path())?;
    let decoding = || LakeError::file("decoding file", file.file_path());
    for batch in stored.rows().map_err(decoding())? {
        let batch = batch.map_err(Cause::from).map_err(decoding())?;
        each(&batch).map_err(decoding())?;
    }
    Ok(())
}
