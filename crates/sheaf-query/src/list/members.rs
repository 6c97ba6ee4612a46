//! The entities that pass a filter, by name and number alone, in their order: what reads of their histories begin with.

use sheaf_model::EntityId;
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::snapshot::plan_page;

use super::bound::require_bounded;
use super::sql::{Composed, Matching, passing};
use super::{Pace, check_version};
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

/// From where on entities are wanted, in their order.
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
    /// By type, then id: the order that an index of names has where no type is given. Else by id, then type.
    pub(crate) is_by_type: bool,
}

impl MembersOf<'_> {
    pub(in crate::list) fn matching(&self, scope: &TenantScope) -> Matching<'_> {
        Matching {
            tenant: scope.tenant(),
            entity_type: self.entity_type,
            filter: self.filter.as_ref(),
        }
    }

    /// Whether an index of names has the order, so that there is something to walk on in.
    pub(crate) fn is_walkable(&self) -> bool {
        self.entity_type.is_some() || self.is_by_type
    }

    /// What tells entities apart, first to last.
    fn order(&self) -> &'static [&'static str] {
        match (self.entity_type, self.is_by_type) {
            (Some(_), _) => &["external_id"],
            (None, true) => &["entity_type", "external_id"],
            (None, false) => &["external_id", "entity_type"],
        }
    }

    pub(in crate::list) fn statement(
        &self,
        matching: &Matching<'_>,
        (from, pace): (Option<&MembersFrom>, Pace),
        members_max: i64,
    ) -> Composed {
        let mut parameters = Parameters::default();
        let (mut sql, ending) = match (&self.filter, pace) {
            (Some(filter), Pace::AllPages) => self.walked(matching, filter, &mut parameters),
            // As for a page of a list: what matches is found first and ordered then.
            (Some(_), Pace::OnePage) => self.found(matching, "MATERIALIZED", &mut parameters),
            (None, _) => self.found(matching, "NOT MATERIALIZED", &mut parameters),
        };
        let order = self.order();
        if let Some(from) = from {
            let (mut columns, mut values) = (Vec::new(), Vec::new());
            for name in order {
                let value = match *name {
                    "entity_type" => &from.entity_type,
                    _ => &from.external_id,
                };
                columns.push(format!("e.{name}"));
                values.push(parameters.push(Parameter::Text(value.clone())));
            }
            let sign = if from.is_inclusive { ">=" } else { ">" };
            let (columns, values) = (columns.join(", "), values.join(", "));
            sql.push_str(&format!(" AND ({columns}) {sign} ({values})"));
        }
        let members_max = parameters.push(Parameter::Int8(members_max));
        let by = order.join(", ");
        sql.push_str(&format!("{ending} ORDER BY {by} LIMIT {members_max}"));
        Composed::new("finding the entities of histories", sql, parameters)
    }

    fn found(
        &self,
        matching: &Matching<'_>,
        materialized: &str,
        parameters: &mut Parameters,
    ) -> (String, &'static str) {
        let matching = matching.found(parameters);
        let sql = format!(
            "WITH matched AS {materialized} (SELECT e.entity_id, e.entity_type, e.external_id {matching}"
        );
        (
            sql,
            ") SELECT entity_id, entity_type, external_id FROM matched",
        )
    }

    /// What is found by walking the names.
    fn walked(
        &self,
        matching: &Matching<'_>,
        filter: &TypedExpr,
        parameters: &mut Parameters,
    ) -> (String, &'static str) {
        let tenant = parameters.push(Parameter::Int8(matching.tenant.0));
        let passing = passing(filter, &tenant, parameters);
        let mut sql = format!(
            "SELECT e.entity_id, e.entity_type, e.external_id FROM sheaf.entities e {passing} WHERE e.tenant_id = {tenant}"
        );
        if let Some(entity_type) = self.entity_type {
            let entity_type = parameters.push(Parameter::Text(entity_type.to_owned()));
            sql.push_str(&format!(" AND e.entity_type = {entity_type}"));
        }
        (sql, "")
    }
}

/// The next entities in their order, at most so many.
pub(crate) async fn members(
    (source, scope, catalogue): (&Source, &TenantScope, &Catalogue),
    of: &MembersOf<'_>,
    from: Option<&MembersFrom>,
    pace: Pace,
    members_max: usize,
) -> Result<Vec<Member>, ReadError> {
    let matching = of.matching(scope);
    let bounded = require_bounded(source, &matching, catalogue).await;
    if let Err(ReadError::Unbounded { .. }) = bounded {
        check_version(source, scope, catalogue).await?;
    }
    bounded?;
    let members_max = i64::try_from(members_max).expect("some thousands fit an i64");
    let composed = of.statement(&matching, (from, pace), members_max);
    let statements = vec![plan_page(&STATEMENT_TIME_MAX), composed.statement()];
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
