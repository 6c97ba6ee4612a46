//! An entity as it was at an instant: the fold of the events observed at or before it.
//!
//! Rows are walked backwards, to the last replace or delete at most, and each attribute is settled by the first row that
//! names it. After the first rows the database is told which attributes are settled and gives only rows that name
//! others, so that telemetry of a million rows costs one scan of an index range and not a million rows sent.

use std::collections::BTreeSet;

use sheaf_model::{AttributeId, EntityId, Op, StoredRow, Timestamp, fold_rows};
use sheaf_pg::PgError;
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::documents::{StoredDocument, entity_of, read_entity};
use sheaf_store::events::{HistoryRow, history_of};
use sheaf_store::history::{Direction, HistoryOf, HistoryStep, Place};
use sheaf_store::snapshot::limit_time;

use super::{EntityQuery, Wanted};
use crate::answer::{EntityAnswer, Read};
use crate::attempt::Attempt;
use crate::consistency::ReadOptions;
use crate::entity_name::EntityName;
use crate::error::ReadError;
use crate::reader::{Reader, STATEMENT_TIME_MAX};
use crate::selection::Selection;
use crate::source::Source;

/// Rows of the first step. Most entities report the same attributes each time, so that a few rows settle all.
const FIRST_ROWS_MAX: i64 = 50;
/// Rows of each further step, each of which names an attribute that the step before had not settled.
const ROWS_MAX: i64 = 500;
/// Steps of one read. Each settles at least one attribute; entities of which this many do not settle all have
/// attributes named once in thousands of events.
const STEPS_MAX: usize = 200;

impl Reader {
    /// An entity as it was at an instant, whose version is absent. Nothing where it had no event by then, or was
    /// deleted.
    pub async fn entity_as_of(
        &self,
        scope: &TenantScope,
        entity_type: &str,
        external_id: &str,
        at: Timestamp,
        query: &EntityQuery,
        options: &ReadOptions,
    ) -> Result<Read<Option<EntityAnswer>>, ReadError> {
        let name = EntityName::canonical(entity_type, external_id);
        let mut attempt = Attempt::first(self, scope, options).await?;
        loop {
            let source = attempt.source().await?;
            let result = match Wanted::resolve(query, attempt.catalogue()) {
                Ok(wanted) => as_of_under(&wanted, &source, scope, &name, at).await,
                Err(error) => Err(error),
            };
            if let Some(answer) = attempt.judge(source, result).await? {
                return Ok(answer);
            }
        }
    }
}

async fn as_of_under(
    wanted: &Wanted<'_>,
    source: &Source,
    scope: &TenantScope,
    name: &EntityName,
    at: Timestamp,
) -> Result<Option<EntityAnswer>, ReadError> {
    let tenant = scope.tenant();
    let (entity_type, external_id) = (name.entity_type.as_str(), name.external_id.as_str());
    let of = HistoryOf::new(tenant, entity_type, external_id);
    let first = HistoryStep::new(
        &of,
        Direction::ToFloor,
        Place::after(at),
        Timestamp::MIN,
        None,
        FIRST_ROWS_MAX,
    );
    let statements = vec![
        read_entity(&tenant, &entity_type, &external_id),
        first.statement(),
    ];
    let rows = source.run(scope, statements).await?;
    let Some(row) = rows[0].first() else {
        return Ok(None);
    };
    let Some((_, Some(current))) = entity_of(row, wanted.catalogue)? else {
        return Ok(None);
    };
    let stored = if current.document.newest.is_some_and(|newest| newest <= at) {
        // Nothing was observed since: the document is the fold.
        current
    } else {
        let mut walk = Walk::new(current.entity);
        let is_end = walk.take(&rows[1], FIRST_ROWS_MAX, wanted.catalogue)?;
        if !is_end {
            walk_on(&mut walk, wanted, source, scope, &of, at).await?;
        }
        walk.into_document()
    };
    if !stored.document.exists() {
        return Ok(None);
    }
    Ok(Some(wanted.answer(name, stored, None)?))
}

/// Walks from the first step on, until all that is wanted is settled.
async fn walk_on(
    walk: &mut Walk,
    wanted: &Wanted<'_>,
    source: &Source,
    scope: &TenantScope,
    of: &HistoryOf,
    at: Timestamp,
) -> Result<(), ReadError> {
    let mut steps = 1;
    while !walk.is_settled(&wanted.selection) {
        if steps == STEPS_MAX {
            return Err(ReadError::QueryLimit {
                detail: "rows of history; select fewer attributes",
                source: None,
            });
        }
        steps += 1;
        let (keys, place) = (walk.settled_keys(), walk.place(at));
        let step = HistoryStep::new(
            of,
            Direction::ToFloor,
            place,
            Timestamp::MIN,
            Some(&keys),
            ROWS_MAX,
        );
        let statements = vec![limit_time(&STATEMENT_TIME_MAX), step.statement()];
        let rows = source.run(scope, statements).await?;
        if walk.take(&rows[1], ROWS_MAX, wanted.catalogue)? {
            break;
        }
    }
    Ok(())
}

/// The rows met so far that say something, newest first.
struct Walk {
    entity: EntityId,
    rows: Vec<StoredRow>,
    settled: BTreeSet<AttributeId>,
    last: Option<Place>,
    newest_arrival: Option<Timestamp>,
}

impl Walk {
    fn new(entity: EntityId) -> Walk {
        Walk {
            entity,
            rows: Vec::new(),
            settled: BTreeSet::new(),
            last: None,
            newest_arrival: None,
        }
    }

    /// Takes the rows of a step; tells whether there is nothing older that matters.
    fn take(
        &mut self,
        rows: &[tokio_postgres::Row],
        rows_max: i64,
        catalogue: &Catalogue,
    ) -> Result<bool, ReadError> {
        for row in rows {
            if self.meet(history_of(row, catalogue)?) {
                return Ok(true);
            }
        }
        let count = i64::try_from(rows.len())
            .map_err(|_| PgError::unreadable("walking an entity's history", "rows"))?;
        Ok(count < rows_max)
    }

    /// Takes a row; tells whether nothing older shows through it.
    fn meet(&mut self, history: HistoryRow) -> bool {
        let HistoryRow {
            row, ingested_at, ..
        } = history;
        let is_floor = match row.op {
            Op::Replace | Op::Delete => true,
            Op::Patch | Op::Correct => false,
        };
        self.last = Some(Place {
            observed_at: row.observed_at,
            seq: row.seq,
        });
        let mut says_something = is_floor || self.rows.is_empty();
        for (id, _) in row.attrs.iter() {
            says_something |= self.settled.insert(*id);
        }
        if says_something {
            self.newest_arrival = self.newest_arrival.max(Some(ingested_at));
            self.rows.push(row);
        }
        is_floor
    }

    fn is_settled(&self, selection: &Selection) -> bool {
        match selection {
            Selection::All => false,
            Selection::These(ids) => ids.iter().all(|id| self.settled.contains(id)),
        }
    }

    fn settled_keys(&self) -> Vec<String> {
        self.settled.iter().map(ToString::to_string).collect()
    }

    fn place(&self, at: Timestamp) -> Place {
        self.last.unwrap_or(Place::after(at))
    }

    fn into_document(self) -> StoredDocument {
        let document = fold_rows(self.rows.iter().rev());
        StoredDocument {
            entity: self.entity,
            updated_at: self.newest_arrival.unwrap_or(Timestamp::MIN),
            document,
        }
    }
}
