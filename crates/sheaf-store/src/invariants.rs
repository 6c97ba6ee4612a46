//! What must always hold of a database of ours, each as a query that gives back its counterexamples.
//!
//! Tests, fault runs and `sheaf doctor` ask the same questions. They are asked as `sheaf_upkeep`, which sees every
//! tenant, and change nothing.

use std::collections::HashMap;
use std::fmt;

use futures::TryStreamExt;
use sheaf_model::{AttributeId, Cell, Document, EntityId, StoredRow, TenantId, fold_rows, merge};
use sheaf_pg::PgError;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::catalogue::{Catalogue, catalogue_of, read_catalogue};
use crate::documents::document_of;
use crate::events::history_of;
use crate::stored::StoredFault;

/// What an invariant is about, and so what asking costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvariantKind {
    /// The schema: a few milliseconds on any database.
    Schema,
    /// The rows: each is read.
    Rows,
}

/// One claim with the query that looks for its counterexamples.
#[derive(Debug, Clone, Copy)]
pub struct Invariant {
    /// Its name, which is that of its file.
    pub name: &'static str,
    /// What holds.
    pub claim: &'static str,
    /// Gives one text a counterexample, at most a hundred.
    pub sql: &'static str,
    /// What it is about.
    pub kind: InvariantKind,
}

/// A counterexample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The name of the invariant.
    pub invariant: &'static str,
    /// What was found, in words.
    pub counterexample: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.counterexample)
    }
}

macro_rules! invariant {
    ($kind:ident, $name:literal, $claim:literal) => {
        Invariant {
            name: $name,
            claim: $claim,
            sql: include_str!(concat!("../sql/invariants/", $name, ".sql")),
            kind: InvariantKind::$kind,
        }
    };
}

/// Every invariant that is a query. [`check_documents`] is one more.
pub const ALL: &[Invariant] = &[
    invariant!(
        Schema,
        "reader_sees_every_tenant",
        "whoever asks is shown the rows of all tenants"
    ),
    invariant!(
        Schema,
        "tenant_tables_are_guarded",
        "every table of tenants forces row-level security and its unique keys begin with the tenant"
    ),
    invariant!(
        Schema,
        "partitions_are_closed",
        "nobody may do anything with a partition but insert as sheaf_writer"
    ),
    invariant!(
        Schema,
        "everything_is_described",
        "every table, view, sequence, column and function has a comment"
    ),
    invariant!(
        Schema,
        "views_run_as_their_reader",
        "no view shows more than its reader may see"
    ),
    invariant!(
        Schema,
        "functions_are_closed",
        "every function is the owner's, none may be called by everybody, and none looks for names where its caller puts some"
    ),
    invariant!(
        Rows,
        "events_have_entities",
        "every event's entity has a name"
    ),
    invariant!(
        Rows,
        "documents_have_entities",
        "every document's entity has a name"
    ),
    invariant!(
        Rows,
        "events_hold_typed_values",
        "every value in an event is what the tenant's catalogue says of its attribute"
    ),
    invariant!(
        Rows,
        "documents_hold_typed_values",
        "every value in a document is what the tenant's catalogue says of its attribute"
    ),
    invariant!(
        Rows,
        "documents_keep_values_in_place",
        "every value lies in the part of the document that its attribute's temperature says"
    ),
    invariant!(
        Rows,
        "documents_list_their_attributes",
        "every document lists the attributes that it has, each in one part"
    ),
    invariant!(
        Rows,
        "value_indexes_hold_documents_values",
        "every value index holds what the documents hold, and a filled one all of it"
    ),
    invariant!(
        Rows,
        "requests_add_up",
        "every event of a request is refused, in one of its parts, or in a part that is missing"
    ),
    invariant!(
        Rows,
        "parts_divide_buckets",
        "each bucket of a request was written by one of its parts at most, and no other bucket by any"
    ),
    invariant!(
        Rows,
        "parts_have_requests",
        "a request that a client's key names is in the ledger if one of its parts is"
    ),
    invariant!(
        Rows,
        "events_are_in_the_ledger",
        "every request that the ledger knows stored as many rows as it says, and no other did of late"
    ),
    invariant!(
        Rows,
        "staged_batches_are_whole",
        "every staged batch has as many events as it was registered with, until all are lost together"
    ),
];

impl Invariant {
    /// Its counterexamples, at most a hundred.
    pub async fn check(&self, client: &Client) -> Result<Vec<Violation>, PgError> {
        let rows = client
            .query_typed(self.sql, &[])
            .await
            .map_err(PgError::statement(self.name))?;
        let violation = |row: &Row| Violation {
            invariant: self.name,
            counterexample: row.get(0),
        };
        Ok(rows.iter().map(violation).collect())
    }
}

/// The counterexamples of every query. Each query has a snapshot of its own.
pub async fn check(client: &Client) -> Result<Vec<Violation>, PgError> {
    let mut violations = Vec::new();
    for invariant in ALL {
        violations.extend(invariant.check(client).await?);
    }
    Ok(violations)
}

/// The name under which [`check_documents`] reports.
pub const DOCUMENTS_ARE_THE_FOLD: &str = "documents_are_the_fold";

/// What a comparison of documents with their events came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DocumentCheck {
    /// Documents that were compared: none means that nothing is known.
    pub documents: u64,
    /// Rows of history that were folded.
    pub rows: u64,
    /// What was found, at most a hundred.
    pub violations: Vec<Violation>,
}

const VIOLATIONS_MAX: usize = 100;
/// Larger pages save round trips and cost memory.
const PAGE_DOCUMENTS: i64 = 200;
const STEP: &str = "comparing documents with the fold of their events";

/// Compares the documents of every tenant, of each at most so many, with the fold of their events. In one snapshot, on
/// a connection that is in no transaction; holds a page of documents and the history of one entity at a time.
pub async fn check_documents(
    client: &Client,
    documents_max: i64,
) -> Result<DocumentCheck, PgError> {
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await
        .map_err(PgError::statement(STEP))?;
    let outcome = check_tenants(client, documents_max).await;
    client
        .batch_execute("ROLLBACK")
        .await
        .map_err(PgError::statement(STEP))?;
    outcome
}

async fn check_tenants(client: &Client, documents_max: i64) -> Result<DocumentCheck, PgError> {
    let mut check = DocumentCheck::default();
    let mut after = i64::MIN;
    loop {
        let rows = client
            .query_typed(
                include_str!("../sql/invariants/scan/list_tenants.sql"),
                &[(&after, Type::INT8)],
            )
            .await
            .map_err(PgError::statement(STEP))?;
        let Some(row) = rows.first() else {
            return Ok(check);
        };
        after = row.get(0);
        check_tenant(client, TenantId(after), documents_max, &mut check).await?;
        if check.violations.len() >= VIOLATIONS_MAX {
            return Ok(check);
        }
    }
}

async fn check_tenant(
    client: &Client,
    tenant: TenantId,
    documents_max: i64,
    check: &mut DocumentCheck,
) -> Result<(), PgError> {
    let mut results = Vec::new();
    for statement in read_catalogue(&tenant) {
        let rows = client
            .query_typed(statement.sql, &statement.params)
            .await
            .map_err(PgError::statement(STEP))?;
        results.push(rows);
    }
    let catalogue = catalogue_of(&results)?;
    let mut after = i64::MIN;
    let mut left = documents_max;
    while left > 0 && check.violations.len() < VIOLATIONS_MAX {
        let page_max = left.min(PAGE_DOCUMENTS);
        let rows = client
            .query_typed(
                include_str!("../sql/invariants/scan/list_documents.sql"),
                &[
                    (&tenant.0, Type::INT8),
                    (&after, Type::INT8),
                    (&page_max, Type::INT8),
                ],
            )
            .await
            .map_err(PgError::statement(STEP))?;
        let listed = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        // The last page takes in every event after it, which then belongs to no document.
        let through = match rows.last() {
            Some(row) if listed == page_max => row.get("entity_id"),
            Some(_) | None => i64::MAX,
        };
        let page = Page {
            tenant,
            catalogue: &catalogue,
            documents: rows.into_iter().peekable(),
            keyframes: HashMap::new(),
        };
        page.check(client, after, through, check).await?;
        if through == i64::MAX {
            break;
        }
        after = through;
        left -= listed;
    }
    Ok(())
}

/// Documents in order of entity that wait for their events, which come in the same order.
struct Page<'a> {
    tenant: TenantId,
    catalogue: &'a Catalogue,
    documents: std::iter::Peekable<std::vec::IntoIter<Row>>,
    /// What the events come to that are not here any more.
    keyframes: HashMap<EntityId, Document>,
}

impl Page<'_> {
    async fn check(
        mut self,
        client: &Client,
        after: i64,
        through: i64,
        check: &mut DocumentCheck,
    ) -> Result<(), PgError> {
        let params = [
            (self.tenant.0, Type::INT8),
            (after, Type::INT8),
            (through, Type::INT8),
        ];
        let sql = include_str!("../sql/invariants/scan/list_keyframes.sql");
        let keyframes = client.query_typed_raw(sql, params.clone()).await;
        let mut keyframes = std::pin::pin!(keyframes.map_err(PgError::statement(STEP))?);
        while let Some(row) = keyframes
            .try_next()
            .await
            .map_err(PgError::statement(STEP))?
        {
            let entity = EntityId(row.get("entity_id"));
            match document_of(&row, self.catalogue) {
                Ok(stored) => {
                    self.keyframes.insert(entity, stored.document);
                }
                Err(fault) => {
                    let fault = format!("has a keyframe that {}", unreadable(fault)?);
                    self.report(entity, &fault, check);
                }
            }
        }
        let sql = include_str!("../sql/invariants/scan/read_events.sql");
        let events = client
            .query_typed_raw(sql, params)
            .await
            .map_err(PgError::statement(STEP))?;
        let mut events = std::pin::pin!(events);
        let mut history: Option<(EntityId, Result<Vec<StoredRow>, StoredFault>)> = None;
        while let Some(row) = events.try_next().await.map_err(PgError::statement(STEP))? {
            check.rows += 1;
            let entity = EntityId(row.get("entity_id"));
            if let Some((ended, rows)) = history.take_if(|(current, _)| *current != entity) {
                self.compare(ended, rows, check)?;
            }
            let (_, rows) = history.get_or_insert_with(|| (entity, Ok(Vec::new())));
            if let Ok(folded) = rows {
                match history_of(&row, self.catalogue) {
                    Ok(read) => folded.push(read.row),
                    Err(fault) => *rows = Err(fault),
                }
            }
        }
        if let Some((ended, rows)) = history {
            self.compare(ended, rows, check)?;
        }
        while let Some(document) = self.documents.next() {
            self.compare_eventless(&document, check)?;
        }
        Ok(())
    }

    fn compare(
        &mut self,
        entity: EntityId,
        rows: Result<Vec<StoredRow>, StoredFault>,
        check: &mut DocumentCheck,
    ) -> Result<(), PgError> {
        let id_of = |row: &Row| row.get::<_, i64>("entity_id");
        while let Some(document) = self.documents.next_if(|row| id_of(row) < entity.0) {
            self.compare_eventless(&document, check)?;
        }
        let Some(document) = self.documents.next_if(|row| id_of(row) == entity.0) else {
            self.report(entity, "has events and no document", check);
            return Ok(());
        };
        check.documents += 1;
        let fault = match (document_of(&document, self.catalogue), rows) {
            (Ok(stored), Ok(rows)) => {
                let mut folded = self.keyframes.remove(&entity).unwrap_or_default();
                // Late ones may be in the keyframe already, which comes to the same.
                merge(&mut folded, fold_rows(&rows));
                difference(&stored.document, &folded)
            }
            (Err(fault), _) | (_, Err(fault)) => Some(unreadable(fault)?),
        };
        if let Some(fault) = fault {
            self.report(entity, &fault, check);
        }
        Ok(())
    }

    fn compare_eventless(
        &mut self,
        document: &Row,
        check: &mut DocumentCheck,
    ) -> Result<(), PgError> {
        check.documents += 1;
        let entity = EntityId(document.get("entity_id"));
        let fault = match self.keyframes.remove(&entity) {
            None => Some("has a document and no events".to_owned()),
            Some(folded) => match document_of(document, self.catalogue) {
                Ok(stored) => difference(&stored.document, &folded),
                Err(fault) => Some(unreadable(fault)?),
            },
        };
        if let Some(fault) = fault {
            self.report(entity, &fault, check);
        }
        Ok(())
    }

    fn report(&self, entity: EntityId, fault: &str, check: &mut DocumentCheck) {
        if check.violations.len() < VIOLATIONS_MAX {
            check.violations.push(Violation {
                invariant: DOCUMENTS_ARE_THE_FOLD,
                counterexample: format!("tenant {}: entity {entity} {fault}", self.tenant),
            });
        }
    }
}

/// What is stored and cannot be read is a counterexample; a failure of PostgreSQL is none.
fn unreadable(fault: StoredFault) -> Result<String, PgError> {
    match fault {
        StoredFault::UnknownAttribute(id) => {
            Ok(format!("holds attribute {id}, which its tenant lacks"))
        }
        StoredFault::Broken(error @ PgError::Unreadable { .. }) => Ok(error.to_string()),
        StoredFault::Broken(error) => Err(error),
    }
}

/// How a stored document differs from the fold, its version left aside.
fn difference(stored: &Document, folded: &Document) -> Option<String> {
    if stored.newest != folded.newest {
        let (stored, folded) = (stored.newest, folded.newest);
        return Some(format!("has newest {stored:?}, by its events {folded:?}"));
    }
    if stored.floor != folded.floor {
        let (stored, folded) = (stored.floor, folded.floor);
        return Some(format!("has floor {stored:?}, by its events {folded:?}"));
    }
    if stored.deleted != folded.deleted {
        let (stored, folded) = (stored.deleted, folded.deleted);
        return Some(format!("has deleted {stored}, by its events {folded}"));
    }
    let ids = stored.cells.keys().chain(folded.cells.keys());
    let differs = |id: &&AttributeId| stored.cells.get(id) != folded.cells.get(id);
    ids.copied().find(|id| differs(&id)).map(|id| {
        let shown = |document: &Document| match document.cells.get(&id) {
            None => "nothing".to_owned(),
            // Values are a tenant's own and stay out of logs.
            Some((Cell::Value(_), time)) => format!("a value of {time}"),
            Some((Cell::Removed, time)) => format!("a removal of {time}"),
        };
        let (stored, folded) = (shown(stored), shown(folded));
        format!("has {stored} for attribute {id}, by its events {folded}")
    })
}
