//! The names of entities and their numbers.

use std::collections::HashMap;

use sheaf_model::{EntityId, Lineage, Timestamp};
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::lineage::{lineage_of, read_lineage};
use crate::scope::TenantScope;

/// An entity's name: its type and its id within the type.
pub type EntityName<'a> = (&'a str, &'a str);

/// Numbers of entities, and the lineage that they are true on: another one may have given them to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityNumbers {
    /// None on a standby.
    pub lineage: Option<Lineage>,
    /// In the order of their names.
    pub numbers: Vec<Option<EntityId>>,
}

/// The numbers of these entities, in their order; absent where a name was never seen.
pub async fn fetch_entities(
    app: &Pool,
    scope: &TenantScope,
    names: &[EntityName<'_>],
) -> Result<EntityNumbers, PgError> {
    let tenant = scope.tenant().0;
    let (types, ids): (Vec<&str>, Vec<&str>) = names.iter().copied().unzip();
    let statement = Statement::new(
        "finding entities",
        include_str!("../sql/entities/find_entities.sql"),
        vec![
            (&tenant, Type::INT8),
            (&types, Type::TEXT_ARRAY),
            (&ids, Type::TEXT_ARRAY),
        ],
    );
    let (rows, lineage) = run(app, scope, Access::Read, statement).await?;
    let mut numbers = vec![None; names.len()];
    for row in rows {
        // `WITH ORDINALITY` counts from 1.
        let place = usize::try_from(row.get::<_, i64>("place") - 1).unwrap_or(usize::MAX);
        if let Some(slot) = numbers.get_mut(place) {
            *slot = Some(EntityId(row.get("entity_id")));
        }
    }
    Ok(EntityNumbers { lineage, numbers })
}

/// The names of these entities, each its type and its id, and the lineage that their numbers were read on; without those that
/// are not there.
pub async fn fetch_names(
    app: &Pool,
    scope: &TenantScope,
    entities: &[EntityId],
) -> Result<(HashMap<EntityId, (String, String)>, Option<Lineage>), PgError> {
    let tenant = scope.tenant().0;
    let numbers: Vec<i64> = entities.iter().map(|entity| entity.0).collect();
    let statement = Statement::new(
        "finding the names of entities",
        include_str!("../sql/entities/find_names.sql"),
        vec![(&tenant, Type::INT8), (&numbers, Type::INT8_ARRAY)],
    );
    let (rows, lineage) = run(app, scope, Access::Read, statement).await?;
    let name = |row: &Row| {
        let name = (row.get("entity_type"), row.get("external_id"));
        (EntityId(row.get("entity_id")), name)
    };
    Ok((rows.iter().map(name).collect(), lineage))
}

/// Creates the names that are not there yet, and gives their numbers in the order of `names`; absent for those that are
/// there already, or that someone else creates meanwhile.
pub async fn create_entities(
    app: &Pool,
    scope: &TenantScope,
    names: &[EntityName<'_>],
    created_at: Timestamp,
) -> Result<EntityNumbers, PgError> {
    let tenant = scope.tenant().0;
    let (types, ids): (Vec<&str>, Vec<&str>) = names.iter().copied().unzip();
    let created_at = PgTime(created_at);
    let statement = Statement::new(
        "creating entities",
        include_str!("../sql/entities/create_entities.sql"),
        vec![
            (&tenant, Type::INT8),
            (&types, Type::TEXT_ARRAY),
            (&ids, Type::TEXT_ARRAY),
            (&created_at, Type::TIMESTAMPTZ),
        ],
    );
    let (rows, lineage) = run(app, scope, Access::Write, statement).await?;
    let created: HashMap<EntityName<'_>, EntityId> = rows
        .iter()
        .map(|row| ((row.get(0), row.get(1)), EntityId(row.get(2))))
        .collect();
    let number = |name: &EntityName<'_>| created.get(name).copied();
    let numbers = names.iter().map(number).collect();
    Ok(EntityNumbers { lineage, numbers })
}

/// Runs a statement, and tells the lineage of its transaction.
async fn run(
    app: &Pool,
    scope: &TenantScope,
    access: Access,
    statement: Statement<'_>,
) -> Result<(Vec<Row>, Option<Lineage>), PgError> {
    let mut rows = scope.run(app, access, &[statement, read_lineage()]).await?;
    let read = rows.pop().unwrap_or_default();
    let lineage = read.first().map(lineage_of).transpose()?.flatten();
    Ok((rows.pop().unwrap_or_default(), lineage))
}
