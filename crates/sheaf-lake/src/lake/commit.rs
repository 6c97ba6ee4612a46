//! A commit: files that nobody knows, and then one statement in PostgreSQL that makes them what the tables are, from exactly what
//! they were, together with the position of the change stream that they reach. Before it there are only files in vain; after it
//! the position says so. Of two writers the later one finds another position and commits nothing.

use std::collections::HashMap;

use sheaf_cdc::change::Progress;
use sheaf_model::{ChangePosition, Timestamp};
use sheaf_store::lake::{CorrectionsChange, LakePosition, SwappedTable, commit_lake};

use super::{Lake, OpenLake};
use crate::archived::keep_archived;
use crate::background::in_background;
use crate::catalogue::change_rows;
use crate::corrections::Resolved;
use crate::error::LakeError;
use crate::files::Stop;
use crate::keyframes::NamedKeyframes;
use crate::names::Names;
use crate::observer::CommitStep;
use crate::pending::Pending;
use crate::rewrite::Prepared;
use crate::schema::LakeTable;
use crate::table::{Advance, CommitContext, TableChange, TableState, Written};

/// What a commit adds.
#[derive(Debug)]
pub(crate) enum Addition {
    /// Nothing: what was there before goes, but for the history before an instant, which is nowhere else.
    Begin(Option<Timestamp>),
    /// What was given since the last, and what was made beside.
    Changes(Box<Given>),
}

/// What was given since the last commit, and what was made beside.
#[derive(Debug)]
pub(crate) struct Given {
    /// The first change of it; absent where there is none.
    pub(crate) first: Option<ChangePosition>,
    pub(crate) pending: Pending,
    pub(crate) resolved: Resolved,
    pub(crate) prepared: Prepared,
}

/// What a commit does to each table that it changes.
type Changes = HashMap<LakeTable, TableChange>;

impl Lake {
    /// Commits, from exactly this state. Where it fails, what the lake holds has to be read again.
    pub(crate) async fn commit(
        &self,
        open: &OpenLake,
        addition: Addition,
        progress: Progress,
        names: &mut Names,
    ) -> Result<OpenLake, LakeError> {
        let mut written = Written::default();
        let mut corrections = CorrectionsChange::default();
        let mut changes = match addition {
            Addition::Begin(archived_before) => {
                self.warehouse
                    .begin_timeline(progress.base.timeline)
                    .await?;
                corrections.clears = true;
                corrections.archived_before = archived_before;
                self.clear(open, archived_before).await?
            }
            Addition::Changes(given) => {
                let Given {
                    first,
                    pending,
                    resolved,
                    prepared,
                } = *given;
                let waiting = resolved.waiting.iter();
                corrections.added = waiting.filter_map(|at| pending.correction(*at)).collect();
                corrections.added.extend_from_slice(&prepared.noted);
                corrections.held_until = first;
                corrections.applied.clone_from(&prepared.applied);
                corrections.repaired.clone_from(&prepared.repaired);
                corrections.removed.clone_from(&prepared.removed);
                let mut changes = self.change(open, pending, resolved, names).await?;
                put_in_place(&mut changes, prepared);
                changes
            }
        };
        let mut context = self.context(&progress);
        let rest = self.catalog.next(open)?;
        if let Some((_, mark)) = &rest {
            context.marked(mark);
        }
        let mut advances = Vec::new();
        for state in &open.tables {
            let change = changes.remove(&state.table).unwrap_or_default();
            let is_first = rest.is_some() && state.table == LakeTable::Facts;
            if change.is_empty() && !is_first {
                continue;
            }
            written.add(&change);
            let (warehouse, observed) = (&self.warehouse, &self.observed);
            let advanced = state.advance(warehouse, change, &context, observed, &mut written);
            advances.push(advanced.await?);
        }
        let position = LakePosition {
            number: open.position.number,
            base: Some(progress.base),
            snapshot: progress.snapshot,
            stream: progress.stream,
        };
        let open = match rest {
            Some((rest, mark)) => {
                let (asked, told) = ((mark, advances), (position, corrections));
                rest.commit(self, open, asked, told, written).await?
            }
            None => {
                let tables = self.describe(open, advances, &mut written).await?;
                let open = self.swap(open, tables, position, &corrections, &written);
                open.await?
            }
        };
        names.forget_many();
        Ok(open)
    }

    /// Writes the descriptions of what the tables came to.
    async fn describe(
        &self,
        open: &OpenLake,
        advances: Vec<Advance>,
        written: &mut Written,
    ) -> Result<Vec<TableState>, LakeError> {
        let mut tables = open.tables.clone();
        for advance in advances {
            let table = advance.table;
            if let Some(state) = tables.iter_mut().find(|state| state.table == table) {
                let (warehouse, observed) = (&self.warehouse, &self.observed);
                let described = state.write_next(warehouse, advance, observed, written);
                *state = described.await?;
            }
        }
        Ok(tables)
    }

    /// Writes what was given since the last commit.
    async fn change(
        &self,
        open: &OpenLake,
        mut pending: Pending,
        resolved: Resolved,
        names: &mut Names,
    ) -> Result<Changes, LakeError> {
        let mut changes = Changes::new();
        for state in &open.tables {
            let rows = pending.take_rows(state.table);
            if rows.is_empty() {
                continue;
            }
            let (table, state) = (state.table, state.clone());
            let files = self.files(Stop::default());
            let changed = in_background(move || change_rows(&files, &state, &rows));
            changes.insert(table, changed.await?);
        }
        let keyframes = std::mem::take(&mut pending.keyframes);
        if !keyframes.is_empty() {
            let entities = names.entities(&keyframes.entities()).await?;
            let named = NamedKeyframes::new(keyframes, entities, names);
            let files = self.files(Stop::default());
            let state = open.table(LakeTable::Keyframes)?.clone();
            let added = in_background(move || files.write_keyframes(&state, &named));
            let change = TableChange {
                added: added.await?,
                ..TableChange::default()
            };
            changes.insert(LakeTable::Keyframes, change);
        }
        if pending.events.is_empty() {
            return Ok(changes);
        }
        let facts = self.name(pending, names).await?;
        let files = self.files(Stop::default());
        let tables = open.tables.clone();
        let added = in_background(move || {
            let waits = |place| {
                let fact = facts.pending.fact(place);
                resolved.waiting.contains(&fact.event)
            };
            let is_hidden = |place: u32| resolved.hidden.contains(&place);
            let mut added = Vec::new();
            for state in tables.iter().filter(|state| state.table.has_facts()) {
                let is_replaced = state.table == LakeTable::FactsCorrected;
                if is_replaced && resolved.hidden.is_empty() {
                    continue;
                }
                let is_wanted = |place| is_hidden(place) == is_replaced && !waits(place);
                added.push((state.table, files.write_facts(state, &facts, is_wanted)?));
            }
            Ok(added)
        });
        for (table, added) in added.await? {
            let change = TableChange {
                added,
                ..TableChange::default()
            };
            changes.insert(table, change);
        }
        Ok(changes)
    }

    /// Nothing of what was there before stays, but for what is archived.
    async fn clear(
        &self,
        open: &OpenLake,
        archived_before: Option<Timestamp>,
    ) -> Result<Changes, LakeError> {
        let Some(before) = archived_before else {
            let change = |state: &TableState| TableChange {
                clears: state.metadata.current_snapshot().is_some()
                    || open.lost.contains(&state.table),
                ..TableChange::default()
            };
            let states = open.tables.iter();
            return Ok(states.map(|state| (state.table, change(state))).collect());
        };
        if !open.lost.is_empty() {
            return Err(LakeError::Archived { before });
        }
        let (tables, files) = (open.tables.clone(), self.files(Stop::default()));
        let cleared = in_background(move || {
            let tables = tables.iter();
            let changes = tables.map(|state| {
                let change = keep_archived(&files, state, before)?;
                Ok((state.table, change))
            });
            changes.collect::<Result<Changes, LakeError>>()
        });
        cleared.await
    }

    pub(crate) fn context(&self, progress: &Progress) -> CommitContext {
        let age = self.retention.snapshots_age.as_millis();
        let mut properties = HashMap::from([
            ("sheaf.base".to_owned(), progress.base.to_string()),
            ("sheaf.snapshot".to_owned(), progress.snapshot.to_string()),
        ]);
        if let Some(stream) = progress.stream {
            properties.insert("sheaf.position".to_owned(), stream.to_string());
        }
        CommitContext {
            now_ms: Timestamp::now().as_micros() / 1000,
            snapshots_age_ms: i64::try_from(age).unwrap_or(i64::MAX / 2),
            snapshots_kept: self.retention.snapshots_min..=self.retention.snapshots_max,
            properties,
        }
    }

    /// The one statement that makes written files what the tables are.
    pub(super) async fn swap(
        &self,
        open: &OpenLake,
        tables: Vec<TableState>,
        position: LakePosition,
        corrections: &CorrectionsChange,
        written: &Written,
    ) -> Result<OpenLake, LakeError> {
        self.warehouse.settle(written.0.clone()).await?;
        self.observed.passed(CommitStep::Settled);
        let from = |table: LakeTable| open.table(table).ok()?.location.clone();
        self.name_tables(from, tables, position, corrections).await
    }

    /// The transaction that makes these the tables, from exactly those that were named before, with the position.
    pub(crate) async fn name_tables(
        &self,
        from: impl Fn(LakeTable) -> Option<String>,
        tables: Vec<TableState>,
        position: LakePosition,
        corrections: &CorrectionsChange,
    ) -> Result<OpenLake, LakeError> {
        let states = tables.iter();
        let swapped = states.filter(|state| state.location != from(state.table));
        let swapped: Vec<SwappedTable> = swapped
            .filter_map(|state| {
                Some(SwappedTable {
                    name: state.table.name().to_owned(),
                    from: from(state.table),
                    to: state.location.clone()?,
                })
            })
            .collect();
        let now = Timestamp::now();
        let (cdc, name) = (&self.cdc, &self.name);
        let number = commit_lake(cdc, name, &position, &swapped, corrections, now).await?;
        self.observed.passed(CommitStep::Committed);
        Ok(OpenLake {
            position: LakePosition { number, ..position },
            tables,
            lost: Vec::new(),
        })
    }
}

/// Adds what was made beside the stream. Where the commit takes files away by itself, they may be those that were joined.
fn put_in_place(changes: &mut Changes, prepared: Prepared) {
    for (table, change) in prepared.changes {
        let own = changes.entry(table).or_default();
        if own.removed.is_empty() {
            own.added.extend(change.added);
            own.removed = change.removed;
        }
    }
}
