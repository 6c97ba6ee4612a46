//! The entities that pass a filter, by name and number alone, in order of id: what reads of their histories begin with.

use sheaf_model::EntityId;
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::snapshot::limit_time;

use super::bound::require_bounded;
use super::check_version;
use super::sql::{Composed, Matching};
use crate::error::ReadError;
use crate::filter::{Parameter, Parameters, TypedExpr};
use crate::reader::STATEMENT_TIME_MAX;
use crate::source::Source;

/// An entity that passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) entity: EntityId,
    pub(crate) entity_type: String,
    pub(crate) external_id: String,
}

/// From where on entities are wanted, by id, then type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MembersFrom {
    pub(crate) external_id: String,
    pub(crate) entity_type: String,
    /// Whether this one is wanted itself.
    pub(crate) is_inclusive: bool,
}

/// Which entities are wanted.
#[derive(Debug)]
pub(crate) struct MembersOf<'a> {
    pub(crate) entity_type: Option<&'a str>,
    pub(crate) filter: Option<TypedExpr>,
}

impl MembersOf<'_> {
    fn matching(&self, scope: &TenantScope) -> Matching<'_> {
        Matching {
            tenant: scope.tenant(),
            entity_type: self.entity_type,
            filter: self.filter.as_ref(),
        }
    }

    fn statement(
        &self,
        matching: &Matching<'_>,
        from: Option<&MembersFrom>,
        members_max: i64,
    ) -> Composed {
        let mut parameters = Parameters::default();
        let mut sql = matching.matching(&mut parameters);
        if let Some(from) = from {
            let id = parameters.push(Parameter::Text(from.external_id.clone()));
            let entity_type = parameters.push(Parameter::Text(from.entity_type.clone()));
            let sign = if from.is_inclusive { ">=" } else { ">" };
            sql.push_str(&format!(
                " AND (e.external_id, e.entity_type) {sign} ({id}, {entity_type})"
            ));
        }
        // As for a page of a list: with a filter, what matches is found first and ordered then.
        let materialized = match self.filter {
            Some(_) => "MATERIALIZED",
            None => "NOT MATERIALIZED",
        };
        let members_max = parameters.push(Parameter::Int8(members_max));
        let sql = format!(
            "WITH matched AS {materialized} (SELECT e.entity_id, e.entity_type, e.external_id {sql}) \
             SELECT entity_id, entity_type, external_id FROM matched \
             ORDER BY external_id, entity_type LIMIT {members_max}"
        );
        Composed::new("finding the entities of histories", sql, parameters)
    }
}

/// The next entities in order of id, at most so many.
pub(crate) async fn members(
    source: &Source,
    scope: &TenantScope,
    of: &MembersOf<'_>,
    from: Option<&MembersFrom>,
    members_max: usize,
    catalogue: &Catalogue,
) -> Result<Vec<Member>, ReadError> {
    let matching = of.matching(scope);
    let bounded = require_bounded(source, &matching, catalogue).await;
    if let Err(ReadError::Unbounded { .. }) = bounded {
        check_version(source, scope, catalogue).await?;
    }
    bounded?;
    let members_max = i64::try_from(members_max).expect("some thousands fit an i64");
    let composed = of.statement(&matching, from, members_max);
    let statements = vec![limit_time(&STATEMENT_TIME_MAX), composed.statement()];
    let rows = source.search(statements).await?;
    if of.filter.is_some() {
        check_version(source, scope, catalogue).await?;
    }
    let members = rows[1].iter().map(|row| Member {
        entity: EntityId(row.get("entity_id")),
        entity_type: row.get("entity_type"),
        external_id: row.get("external_id"),
    });
    Ok(members.collect())
}
