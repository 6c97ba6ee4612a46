//! One transaction of a lane: locks, ledger, documents, plan, documents and events written, commit.

mod catalogues;
mod outcome;
mod read;
mod write;

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use futures::{join, try_join};
use sheaf_model::{Position, Timestamp, WrittenEntity};
use sheaf_pg::{PgError, first_row};
use sheaf_store::events::{EventColumns, EventCopy, LATE};
use sheaf_store::ledger::{
    LedgerEntry, LedgerPart, insert_parts, open_requests, set_bucket_writers,
};
use sheaf_store::rejections::{NewRejection, insert_rejections};
use sheaf_store::settings::read_position;
use sheaf_store::stored::StoredFault;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{Lane, Part, PartKind, PartOutcome, PartResult, Request, StoredPart};
use crate::instruments::{GROUP_EVENTS, LATE_EVENTS_TOTAL, STEP_SECONDS};
use crate::plan::{GroupPart, GroupPlan};
use crate::request::WriteError;
use outcome::{check_condition, edited_document, rejections_of};
use read::{Read, opens_at_first};
use write::{columns, indexed};

/// Why a transaction was not made.
pub(super) enum Abort {
    /// It failed.
    Error(WriteError),
    /// It needs partitions for these instants; made outside, it can run again.
    Partitions(BTreeSet<Timestamp>),
    /// A remembered document is not the one that is there.
    Stale,
    /// Numbers of the group were learned on another lineage than this one. The ledger has these parts all the same, by
    /// their place in the group, at a position of this lineage.
    OtherLineage { was_there: HashMap<usize, Position> },
    /// Its commit was not answered: what the parts come to if it came through, by their place in the group.
    Unanswered {
        error: PgError,
        prepared: Vec<(usize, StoredPart)>,
    },
}

impl From<PgError> for Abort {
    fn from(error: PgError) -> Abort {
        Abort::Error(error.into())
    }
}

impl From<StoredFault> for Abort {
    fn from(fault: StoredFault) -> Abort {
        match fault {
            // The catalogue was compared in this transaction, so that it has every attribute that is stored.
            StoredFault::UnknownAttribute(id) => {
                PgError::unreadable("reading documents to merge into", format!("attribute {id}"))
                    .into()
            }
            StoredFault::Broken(error) => error.into(),
        }
    }
}

/// Waiting is bounded. Plans do not depend on the group: a plan made for its values would copy them, and would depend on
/// statistics that a new tenant is not in. Every join is between the group and a key, and is a probe of the key's index;
/// any other join would compare everything with everything as soon as an estimate is wrong.
/// The commit waits for this server's disk and for no other: waiting for a standby is a matter of each request.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '15s'; SET LOCAL statement_timeout = '120s'; \
                     SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_hashjoin = off; \
                     SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off; SET LOCAL jit = off; \
                     SET LOCAL synchronous_commit = local";

/// Up to so many rows leave together with the documents, in one round trip less; more are cheaper by COPY.
const FEW_ROWS_MAX: usize = 64;

impl Lane {
    /// Commits a group. The outcomes are in the order of its parts.
    pub(super) async fn transact(
        &mut self,
        client: &Client,
        group: &[Part],
    ) -> Result<Vec<PartResult>, Abort> {
        let mut steps = Steps::begin();
        let read = self.read(client, group).await?;
        steps.ended("read");
        let mut outcomes: Vec<Option<PartResult>> = Vec::new();
        outcomes.resize_with(group.len(), || None);
        let mut running = Vec::new();
        for (place, part) in group.iter().enumerate() {
            if let Some(position) = read.was_there.get(&place) {
                if part.may_be_stored {
                    // Its commit came through after all.
                    self.tell_unseen();
                }
                outcomes[place] = Some(Ok(part.already_there(*position)));
            } else if let Err(error) = check_condition(part, &read.documents) {
                outcomes[place] = Some(Err(error));
            } else {
                running.push((place, part));
            }
        }
        let Read {
            remembers,
            documents,
            catalogues,
            foreign_buckets,
            closed_before,
            ..
        } = read;
        let parts: Vec<GroupPart<'_>> = running
            .iter()
            .map(|(_, part)| GroupPart {
                events: &part.events,
                series_tags: catalogues
                    .of_tenant(part.request.entry.tenant)
                    .series_tags(),
                now: part.request.now,
            })
            .collect();
        let plan = self
            .plan(client, &parts, documents, &catalogues, closed_before)
            .await?;
        let mut rejections: Vec<Vec<NewRejection>> = running
            .iter()
            .zip(&plan.parts)
            .map(|((_, part), planned)| rejections_of(part, &planned.refusals, &catalogues))
            .collect();
        let mut storing = Vec::new();
        for (active, (place, part)) in running.iter().enumerate() {
            if part.kind != PartKind::Bulk && !plan.parts[active].refusals.is_empty() {
                // Nothing of it is in the plan: an edit is one event, and who wants all or nothing is alone.
                let refused = std::mem::take(&mut rejections[active]);
                outcomes[*place] = Some(Ok(PartOutcome::RefusedByPlan(refused)));
            } else {
                storing.push((active, *place, *part));
            }
        }
        if storing.is_empty() {
            let ended = client.batch_execute("ROLLBACK").await;
            ended.map_err(PgError::statement("ending a write that changes nothing"))?;
            return Ok(outcomes.into_iter().flatten().collect());
        }
        let (inserts, updates) = columns(&plan, &catalogues);
        let index = indexed(&plan, &catalogues);
        let ledger_parts: Vec<LedgerPart<'_>> = storing
            .iter()
            .map(|(active, _, part)| LedgerPart {
                entry: &part.request.entry,
                buckets: &part.buckets,
                counts: plan.parts[*active].counts,
            })
            .collect();
        let to_open: Vec<&LedgerEntry> = storing
            .iter()
            .filter(|(_, _, part)| part.opens && !opens_at_first(part))
            .map(|(_, _, part)| &part.request.entry)
            .collect();
        steps.ended("plan");
        let is_few = plan.rows.len() <= FEW_ROWS_MAX;
        let few: Vec<(String, EventColumns)> = if is_few {
            self.rows(&running, &plan)?
        } else {
            Vec::new()
        };
        // Its table has a policy, so that COPY into it is refused.
        let late = Lane::late_rows(&running, &plan);
        let inserted_few = async {
            for (partition, rows) in &few {
                rows.insert(client, partition).await?;
            }
            if !late.is_empty() {
                late.insert(client, LATE).await?;
            }
            Ok(())
        };
        // Many are encoded while PostgreSQL writes the documents.
        let encode = async {
            if is_few {
                return Ok(Vec::new());
            }
            self.rows::<EventCopy>(&running, &plan)
        };
        let rejected = async {
            for (active, _, part) in &storing {
                let Request { scope, entry, .. } = &*part.request;
                let refused = &rejections[*active];
                insert_rejections(client, scope, entry.batch, entry.received_at, refused).await?;
            }
            Ok(())
        };
        let written = async {
            try_join!(
                inserts.insert(client),
                updates.update(client),
                index.put(client),
                inserted_few,
                insert_parts(client, &ledger_parts),
                open_requests(client, &to_open),
                set_bucket_writers(client, &foreign_buckets, self.identity),
                rejected,
            )
        };
        let (written, copies) = join!(written, encode);
        // Rows that go along with the documents are there before it is known that a document is not.
        let met_a_row = |error: &PgError| error.sqlstate() == Some(&SqlState::UNIQUE_VIOLATION);
        let (inserted, updated, ..) = match written {
            Err(error) if remembers && met_a_row(&error) => return Err(Abort::Stale),
            written => written?,
        };
        let copies = copies?;
        if (inserted, updated) != (inserts.len(), updates.len()) {
            return Err(Abort::Stale);
        }
        steps.ended("write_documents");
        for (partition, copy) in copies {
            copy.send(client, &partition).await?;
        }
        steps.ended("copy_events");
        let prepared = storing.iter().map(|(active, place, part)| {
            let stored = StoredPart {
                counts: plan.parts[*active].counts,
                rejections: std::mem::take(&mut rejections[*active]),
                document: edited_document(*active, part, &plan, &catalogues),
            };
            (*place, stored)
        });
        let prepared: Vec<(usize, StoredPart)> = prepared.collect();
        let position = match self.end(client).await {
            Ok(position) => position,
            Err(error) => return Err(Abort::Unanswered { error, prepared }),
        };
        self.tell(position, &plan);
        steps.ended("commit");
        metrics::counter!(LATE_EVENTS_TOTAL)
            .increment(u64::try_from(late.len()).unwrap_or(u64::MAX));
        let events: usize = parts.iter().map(|part| part.events.len()).sum();
        metrics::histogram!(GROUP_EVENTS).record(events as f64);
        for (place, stored) in prepared {
            outcomes[place] = Some(Ok(PartOutcome::Stored(Box::new(stored), position)));
        }
        for planned in plan.documents {
            let bucket = self.settings.bucket(planned.tenant, planned.stored.entity);
            self.documents.put(bucket, planned.stored);
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Tells which documents the group wrote, before anybody hears that it was stored.
    fn tell(&self, position: Position, plan: &GroupPlan) {
        let Some(observer) = self.observed.get() else {
            return;
        };
        let written = plan.documents.iter();
        let written: Vec<WrittenEntity> = written
            .filter(|planned| planned.change.written)
            .map(|planned| WrittenEntity {
                tenant: planned.tenant,
                entity: planned.stored.entity,
                is_first: !planned.existed,
            })
            .collect();
        observer.committed(position, &written);
    }

    /// Tells that something was or may have been committed that cannot be named any more.
    pub(super) fn tell_unseen(&self) {
        if let Some(observer) = self.observed.get() {
            observer.committed_unseen();
        }
    }

    /// Commits, and reads the position of the write history that has all of it.
    async fn end(&self, client: &Client) -> Result<Position, PgError> {
        let (committed, position) = join!(client.batch_execute("COMMIT"), self.position(client));
        committed.map_err(PgError::statement("committing a write"))?;
        position
    }

    /// A position of the write history that has what this connection has seen, on the lineage where it saw it.
    async fn position(&self, client: &Client) -> Result<Position, PgError> {
        const STEP: &str = "reading the position of a write";
        let position = read_position();
        let rows = client.query_typed(position.sql, &position.params).await;
        let rows = rows.map_err(PgError::statement(STEP))?;
        let row = first_row(&rows, STEP)?;
        Ok(self.settings.position(row)?.0)
    }
}

/// Seconds of each step of a transaction, so that an operator sees where writes spend their time.
struct Steps {
    begun: Instant,
}

impl Steps {
    fn begin() -> Steps {
        Steps {
            begun: Instant::now(),
        }
    }

    fn ended(&mut self, step: &'static str) {
        let seconds = self.begun.elapsed().as_secs_f64();
        metrics::histogram!(STEP_SECONDS, "step" => step).record(seconds);
        self.begun = Instant::now();
    }
}
