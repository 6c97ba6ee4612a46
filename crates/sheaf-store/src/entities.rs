//! The names of entities and their numbers.

use std::collections::HashMap;

use sheaf_model::{EntityId, Timestamp};
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement};
use tokio_postgres::types::Type;

use crate::scope::TenantScope;

/// An entity's name: its type and its id within the type.
pub type EntityName<'a> = (&'a str, &'a str);

/// The numbers of these entities, in their order; absent where a name was never seen.
pub async fn fetch_entities(
    app: &Pool,
    scope: &TenantScope,
    names: &[EntityName<'_>],
) -> Result<Vec<Option<EntityId>>, PgError> {
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
    let rows = scope.run_one(app, Access::Read, statement).await?;
    let mut found = vec![None; names.len()];
    for row in rows {
        // `WITH ORDINALITY` counts from 1.
        let place = usize::try_from(row.get::<_, i64>("place") - 1).unwrap_or(usize::MAX);
        if let Some(slot) = found.get_mut(place) {
            *slot = Some(EntityId(row.get("entity_id")));
        }
    }
    Ok(found)
}

/// Creates the names that are not there yet, and gives their numbers in the order of `names`; absent for those that are
/// there already, or that someone else creates meanwhile.
pub async fn create_entities(
    app: &Pool,
    scope: &TenantScope,
    names: &[EntityName<'_>],
    created_at: Timestamp,
) -> Result<Vec<Option<EntityId>>, PgError> {
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
    let rows = scope.run_one(app, Access::Write, statement).await?;
    let created: HashMap<EntityName<'_>, EntityId> = rows
        .iter()
        .map(|row| ((row.get(0), row.get(1)), EntityId(row.get(2))))
        .collect();
    let number = |name: &EntityName<'_>| created.get(name).copied();
    Ok(names.iter().map(number).collect())
}
