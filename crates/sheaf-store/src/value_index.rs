//! Value indexes: rows of `entity_index_<type>`, kept by whoever writes documents, filled and emptied by upkeep.
//!
//! It has no opinion on which attributes have one; the catalogue says so.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use sheaf_model::{AttributeId, AttributeType, EntityId, TenantId, Value};
use sheaf_pg::{Access, PgError, Pool, Statement};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::catalogue::ValueIndex;

/// Characters of a text that its index keeps; migrations say the same.
pub const INDEXED_TEXT_CHARS_MAX: usize = 100;

/// Rows of value indexes on their way into their tables, as columns, by type.
#[derive(Debug, Default)]
pub struct IndexColumns {
    by_type: BTreeMap<&'static str, Columns>,
}

#[derive(Debug, Default)]
struct Columns {
    tenant_ids: Vec<i64>,
    attribute_ids: Vec<i64>,
    entity_ids: Vec<i64>,
    values: Vec<Option<String>>,
}

impl IndexColumns {
    /// Adds what an entity's document holds of an attribute now; nothing takes its row away.
    pub fn push(
        &mut self,
        tenant: TenantId,
        attribute: AttributeId,
        kind: AttributeType,
        entity: EntityId,
        value: Option<&Value>,
    ) {
        let columns = self.by_type.entry(kind.as_str()).or_default();
        columns.tenant_ids.push(tenant.0);
        columns.attribute_ids.push(attribute.0);
        columns.entity_ids.push(entity.0);
        columns.values.push(value.map(text_of));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_type.is_empty()
    }

    /// Brings the rows to these values. After the documents, in their transaction.
    pub async fn put(&self, client: &Client) -> Result<(), PgError> {
        let put = self
            .by_type
            .iter()
            .map(|(kind, columns)| columns.put(client, kind));
        // Together, so that several types take no more round trips than one.
        try_join_all(put).await.map(drop)
    }
}

impl Columns {
    async fn put(&self, client: &Client, kind: &str) -> Result<(), PgError> {
        client
            .query_typed(
                include_str!("../sql/value_index/put_values.sql"),
                &[
                    (&kind, Type::TEXT),
                    (&self.tenant_ids, Type::INT8_ARRAY),
                    (&self.attribute_ids, Type::INT8_ARRAY),
                    (&self.entity_ids, Type::INT8_ARRAY),
                    (&self.values, Type::TEXT_ARRAY),
                ],
            )
            .await
            .map(drop)
            .map_err(PgError::statement("keeping value indexes"))
    }
}

/// A value as `->>` gives it.
fn text_of(value: &Value) -> String {
    match value {
        // What is cut off would only be sent to be cut off there.
        Value::Text(text) => text.chars().take(INDEXED_TEXT_CHARS_MAX).collect(),
        Value::Time(time) => time.to_sortable(),
        Value::Int(_) | Value::Float(_) | Value::Decimal(_) | Value::Bool(_) | Value::Json(_) => {
            let mut text = String::new();
            value.write_stored(&mut text);
            text
        }
    }
}

/// An attribute whose value index is being filled or emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MovingIndex {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its number.
    pub attribute: AttributeId,
    /// Its type.
    pub kind: AttributeType,
    /// On which way it is.
    pub state: ValueIndex,
    /// Which change of the attribute set it moving. The waiting for writers is good for this one alone.
    pub row_version: i64,
}

/// How far a step has brought a value index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexStep {
    /// More is left, after this entity.
    Through(EntityId),
    /// Nothing is left, and the attribute has settled.
    Settled,
    /// The attribute has changed since it was listed, and nothing was done.
    Overtaken,
}

/// Value indexes of every tenant that are being filled or emptied. As `sheaf_upkeep`.
pub async fn list_moving_indexes(upkeep: &Pool) -> Result<Vec<MovingIndex>, PgError> {
    const STEP: &str = "listing moving value indexes";
    let sql = include_str!("../sql/value_index/list_moving_indexes.sql");
    let client = upkeep.get().await?;
    let statement = Statement::new(STEP, sql, vec![]);
    let rows = sheaf_pg::run(&client, Access::Read, None, &[statement]).await?;
    let moving = rows[0].iter().map(|row| {
        let (kind, state): (&str, &str) = (row.get("type"), row.get("value_index"));
        Ok(MovingIndex {
            tenant: TenantId(row.get("tenant_id")),
            attribute: AttributeId(row.get("attribute_id")),
            kind: AttributeType::parse(kind).ok_or_else(|| PgError::unreadable(STEP, kind))?,
            state: ValueIndex::parse(state).ok_or_else(|| PgError::unreadable(STEP, state))?,
            row_version: row.get("row_version"),
        })
    });
    moving.collect()
}

/// One step of filling or emptying, of at most so many rows after an entity: the last of the step before it.
pub async fn step_index(
    upkeep: &Pool,
    moving: &MovingIndex,
    after: EntityId,
    rows_max: i64,
) -> Result<IndexStep, PgError> {
    let (state, kind) = (moving.state.as_str(), moving.kind.as_str());
    // Held until the commit: a change of the pin waits for the step.
    let hold = Statement::new(
        "holding a moving value index",
        include_str!("../sql/value_index/hold_moving_index.sql"),
        vec![
            (&moving.tenant.0, Type::INT8),
            (&moving.attribute.0, Type::INT8),
            (&state, Type::TEXT),
            (&moving.row_version, Type::INT8),
        ],
    );
    let step = match moving.state {
        ValueIndex::Filling | ValueIndex::Filled | ValueIndex::None => Statement::new(
            "filling a value index",
            include_str!("../sql/value_index/fill_values.sql"),
            vec![
                (&moving.tenant.0, Type::INT8),
                (&moving.attribute.0, Type::INT8),
                (&kind, Type::TEXT),
                (&after.0, Type::INT8),
                (&rows_max, Type::INT8),
                (&state, Type::TEXT),
                (&moving.row_version, Type::INT8),
            ],
        ),
        ValueIndex::Emptying => Statement::new(
            "emptying a value index",
            empty_sql(moving.kind),
            vec![
                (&moving.tenant.0, Type::INT8),
                (&moving.attribute.0, Type::INT8),
                (&after.0, Type::INT8),
                (&rows_max, Type::INT8),
            ],
        ),
    };
    let client = upkeep.get().await?;
    let rows = sheaf_pg::run(&client, Access::Write, None, &[hold, step]).await?;
    if rows[0].is_empty() {
        return Ok(IndexStep::Overtaken);
    }
    let through: Option<i64> = rows[1].first().and_then(|row| row.get("through"));
    if let Some(through) = through {
        return Ok(IndexStep::Through(EntityId(through)));
    }
    let settle = Statement::new(
        "settling a value index",
        include_str!("../sql/value_index/settle_index.sql"),
        vec![
            (&moving.tenant.0, Type::INT8),
            (&moving.attribute.0, Type::INT8),
            (&state, Type::TEXT),
            (&moving.row_version, Type::INT8),
        ],
    );
    let advance = Statement::new(
        "advancing a catalogue's version",
        include_str!("../sql/tenants/advance_catalogue_version.sql"),
        vec![(&moving.tenant.0, Type::INT8)],
    );
    let rows = sheaf_pg::run(&client, Access::Write, None, &[advance, settle]).await?;
    Ok(if rows[1].is_empty() {
        IndexStep::Overtaken
    } else {
        IndexStep::Settled
    })
}

fn empty_sql(kind: AttributeType) -> &'static str {
    match kind {
        AttributeType::Int => include_str!("../sql/value_index/empty_int.sql"),
        AttributeType::Float => include_str!("../sql/value_index/empty_float.sql"),
        AttributeType::Decimal => include_str!("../sql/value_index/empty_decimal.sql"),
        AttributeType::Time => include_str!("../sql/value_index/empty_time.sql"),
        // The others have no value index, so that none of theirs is ever emptied.
        AttributeType::Text | AttributeType::Bool | AttributeType::Json => {
            include_str!("../sql/value_index/empty_text.sql")
        }
    }
}
