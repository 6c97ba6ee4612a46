//! The current documents: read for a merge or a reader, written by a merge.

use sheaf_model::{AttributeId, Document, EntityId, TenantId, Timestamp};
use sheaf_pg::{Access, JsonbRead, JsonbWrite, PgError, PgTime, Pool, Statement};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::catalogue::{Catalogue, Temperature};
use crate::stored::{DocumentParts, StoredFault, read_document_cells};

/// A document as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDocument {
    /// Whose it is.
    pub entity: EntityId,
    /// What it says.
    pub document: Document,
    /// When a value last changed.
    pub updated_at: Timestamp,
}

/// The document of a row with a document's columns.
pub fn document_of(row: &Row, catalogue: &Catalogue) -> Result<StoredDocument, StoredFault> {
    let mut document = Document {
        version: row.get("version"),
        newest: Some(row.get::<_, PgTime>("newest").0),
        floor: row.get::<_, Option<PgTime>>("floor_at").map(|time| time.0),
        deleted: row.get("deleted"),
        ..Document::default()
    };
    let (hot, cold) = (
        row.get::<_, JsonbRead<'_>>("hot_attrs"),
        row.get::<_, JsonbRead<'_>>("cold_attrs"),
    );
    let times = row.get::<_, JsonbRead<'_>>("times");
    read_document_cells(&mut document, [hot.0, cold.0], times.0, catalogue)?;
    Ok(StoredDocument {
        entity: EntityId(row.get("entity_id")),
        document,
        updated_at: row.get::<_, PgTime>("updated_at").0,
    })
}

/// The entity of a row of [`read_entity`] or [`read_entity_alone`], where there is one, and its document where it has one.
pub fn entity_of(
    row: &Row,
    catalogue: &Catalogue,
) -> Result<Option<(EntityId, Option<StoredDocument>)>, StoredFault> {
    let Some(entity) = row.get::<_, Option<i64>>("entity_id") else {
        return Ok(None);
    };
    let document = match row.get::<_, Option<i64>>("version") {
        Some(_) => Some(document_of(row, catalogue)?),
        None => None,
    };
    Ok(Some((EntityId(entity), document)))
}

/// The documents that a group of writes is merged into. In the writer's transaction, under its buckets' locks.
pub fn read_documents<'a>(tenants: &'a Vec<i64>, entities: &'a Vec<i64>) -> Statement<'a> {
    Statement::new(
        "reading documents to merge into",
        include_str!("../sql/documents/read_documents.sql"),
        vec![(tenants, Type::INT8_ARRAY), (entities, Type::INT8_ARRAY)],
    )
}

/// An entity with its document, by name. In a reader's transaction.
pub fn read_entity<'a>(
    tenant: &'a TenantId,
    entity_type: &'a &str,
    external_id: &'a &str,
) -> Statement<'a> {
    let sql = include_str!("../sql/entities/read_entity.sql");
    read_by_name(sql, tenant, entity_type, external_id)
}

/// The same as a statement that is a transaction and sets the tenant itself, with how far the server had come before and
/// after: always one row, of which [`snapshot`](crate::snapshot) reads the positions.
pub fn read_entity_alone<'a>(
    tenant: &'a TenantId,
    entity_type: &'a &str,
    external_id: &'a &str,
) -> Statement<'a> {
    let sql = include_str!("../sql/entities/read_entity_alone.sql");
    read_by_name(sql, tenant, entity_type, external_id)
}

fn read_by_name<'a>(
    sql: &'static str,
    tenant: &'a TenantId,
    entity_type: &'a &str,
    external_id: &'a &str,
) -> Statement<'a> {
    Statement::new(
        "reading an entity",
        sql,
        vec![
            (&tenant.0, Type::INT8),
            (entity_type, Type::TEXT),
            (external_id, Type::TEXT),
        ],
    )
}

/// Documents on their way into the table, as columns.
#[derive(Debug, Default)]
pub struct DocumentColumns {
    tenant_ids: Vec<i64>,
    entity_ids: Vec<i64>,
    versions: Vec<i64>,
    newest: Vec<Option<PgTime>>,
    floors: Vec<Option<PgTime>>,
    deleted: Vec<bool>,
    updated: Vec<PgTime>,
    hot: Vec<Option<JsonbWrite<String>>>,
    cold: Vec<Option<JsonbWrite<String>>>,
    present: Vec<Option<String>>,
    times: Vec<Option<JsonbWrite<String>>>,
}

impl DocumentColumns {
    /// Adds a document.
    pub fn push(&mut self, tenant: TenantId, stored: &StoredDocument, parts: DocumentParts) {
        self.tenant_ids.push(tenant.0);
        self.entity_ids.push(stored.entity.0);
        self.versions.push(stored.document.version);
        self.newest.push(stored.document.newest.map(PgTime));
        self.floors.push(stored.document.floor.map(PgTime));
        self.deleted.push(stored.document.deleted);
        self.updated.push(PgTime(stored.updated_at));
        self.hot.push(parts.hot_attrs.map(JsonbWrite));
        self.cold.push(parts.cold_attrs.map(JsonbWrite));
        self.present.push(parts.present);
        self.times.push(parts.times.map(JsonbWrite));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entity_ids.is_empty()
    }

    /// Writes documents of entities that had none. Gives back how many were written: others had one.
    pub async fn insert(&self, client: &Client) -> Result<usize, PgError> {
        let sql = include_str!("../sql/documents/insert_documents.sql");
        self.execute(client, "inserting documents", sql).await
    }

    /// Writes documents over those of the version before. Gives back how many were written: others had another version.
    pub async fn update(&self, client: &Client) -> Result<usize, PgError> {
        let sql = include_str!("../sql/documents/update_documents.sql");
        self.execute(client, "updating documents", sql).await
    }

    /// How many documents these are.
    pub fn len(&self) -> usize {
        self.entity_ids.len()
    }

    async fn execute(
        &self,
        client: &Client,
        step: &'static str,
        sql: &str,
    ) -> Result<usize, PgError> {
        if self.is_empty() {
            return Ok(0);
        }
        let written = client
            .execute_typed(
                sql,
                &[
                    (&self.tenant_ids, Type::INT8_ARRAY),
                    (&self.entity_ids, Type::INT8_ARRAY),
                    (&self.versions, Type::INT8_ARRAY),
                    (&self.newest, Type::TIMESTAMPTZ_ARRAY),
                    (&self.floors, Type::TIMESTAMPTZ_ARRAY),
                    (&self.deleted, Type::BOOL_ARRAY),
                    (&self.updated, Type::TIMESTAMPTZ_ARRAY),
                    (&self.hot, Type::JSONB_ARRAY),
                    (&self.cold, Type::JSONB_ARRAY),
                    (&self.present, Type::TEXT_ARRAY),
                    (&self.times, Type::JSONB_ARRAY),
                ],
            )
            .await
            .map_err(PgError::statement(step))?;
        usize::try_from(written).map_err(|_| PgError::unreadable(step, "a number of rows"))
    }
}

/// An attribute whose values are on their way between the parts of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MovingAttribute {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its number.
    pub attribute: AttributeId,
    /// Whether it moves to the indexed part; else out of it.
    pub warming: bool,
    /// Which change of the attribute set it moving. The waiting for writers is good for this one alone.
    pub row_version: i64,
}

/// Attributes of every tenant that are moving. As `sheaf_upkeep`.
pub async fn list_moving(upkeep: &Pool) -> Result<Vec<MovingAttribute>, PgError> {
    let sql = include_str!("../sql/attributes/list_moving_attributes.sql");
    let rows = upkeep_run(
        upkeep,
        vec![Statement::new("listing moving attributes", sql, vec![])],
    )
    .await?;
    let moving = rows[0].iter().map(|row| MovingAttribute {
        tenant: TenantId(row.get("tenant_id")),
        attribute: AttributeId(row.get("attribute_id")),
        warming: row.get::<_, &str>("temperature") == Temperature::Warming.as_str(),
        row_version: row.get("row_version"),
    });
    Ok(moving.collect())
}

/// Waits until every writer that is at work has ended, by taking each bucket's lock once, in order. As `sheaf_upkeep`.
pub async fn await_writers(upkeep: &Pool, bucket_count: i32) -> Result<(), PgError> {
    let buckets: Vec<i32> = (0..bucket_count).collect();
    let sql = include_str!("../sql/ledger/lock_buckets.sql");
    let statement = Statement::new(
        "waiting for writers to end",
        sql,
        vec![(&buckets, Type::INT4_ARRAY)],
    );
    upkeep_run(upkeep, vec![statement]).await.map(drop)
}

/// How far a step has brought a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveStep {
    /// Documents are left.
    Unfinished,
    /// Every document has moved and the attribute has settled.
    Settled,
    /// The attribute has changed since it was listed, and nothing was moved.
    Overtaken,
}

/// One step of a move, of at most so many documents.
pub async fn step_move(
    upkeep: &Pool,
    moving: &MovingAttribute,
    documents_max: i64,
) -> Result<MoveStep, PgError> {
    let (step, temperature) = if moving.warming {
        (
            include_str!("../sql/documents/warm_documents.sql"),
            Temperature::Warming.as_str(),
        )
    } else {
        (
            include_str!("../sql/documents/cool_documents.sql"),
            Temperature::Cooling.as_str(),
        )
    };
    // Held until the commit, so that no writer is let into the part that is left while its documents move.
    let hold = Statement::new(
        "holding a moving attribute",
        include_str!("../sql/attributes/hold_moving_attribute.sql"),
        vec![
            (&moving.tenant.0, Type::INT8),
            (&moving.attribute.0, Type::INT8),
            (&temperature, Type::TEXT),
            (&moving.row_version, Type::INT8),
        ],
    );
    let move_some = Statement::new(
        "moving values between the parts of documents",
        step,
        vec![
            (&moving.tenant.0, Type::INT8),
            (&moving.attribute.0, Type::INT8),
            (&documents_max, Type::INT8),
            (&temperature, Type::TEXT),
            (&moving.row_version, Type::INT8),
        ],
    );
    let count = Statement::new(
        "counting unmoved documents",
        include_str!("../sql/documents/count_unmoved_documents.sql"),
        vec![
            (&moving.tenant.0, Type::INT8),
            (&moving.attribute.0, Type::INT8),
            (&moving.warming, Type::BOOL),
        ],
    );
    let rows = upkeep_run(upkeep, vec![hold, move_some, count]).await?;
    if rows[0].is_empty() {
        return Ok(MoveStep::Overtaken);
    }
    let unmoved: i64 = rows[2].first().map_or(1, |row| row.get(0));
    if unmoved > 0 {
        return Ok(MoveStep::Unfinished);
    }
    let settle = Statement::new(
        "settling an attribute",
        include_str!("../sql/attributes/settle_attribute.sql"),
        vec![
            (&moving.tenant.0, Type::INT8),
            (&moving.attribute.0, Type::INT8),
            (&temperature, Type::TEXT),
            (&moving.row_version, Type::INT8),
        ],
    );
    let advance = Statement::new(
        "advancing a catalogue's version",
        include_str!("../sql/tenants/advance_catalogue_version.sql"),
        vec![(&moving.tenant.0, Type::INT8)],
    );
    let rows = upkeep_run(upkeep, vec![advance, settle]).await?;
    Ok(if rows[1].is_empty() {
        MoveStep::Overtaken
    } else {
        MoveStep::Settled
    })
}

async fn upkeep_run(
    upkeep: &Pool,
    statements: Vec<Statement<'_>>,
) -> Result<Vec<Vec<Row>>, PgError> {
    let client = upkeep.get().await?;
    sheaf_pg::run(&client, Access::Write, None, &statements).await
}
