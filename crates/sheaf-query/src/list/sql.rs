//! The statements of a list, composed of static fragments, the filter compiler's and the order's.
//!
//! They run as `sheaf_search`, under whose policy every tenant's rows are visible: each relation that is named here
//! has its tenant predicate beside it, and the two tests that hold this together are the differential test of two
//! tenants and the gate on plans.

use postgres_types::{ToSql, Type};
use sheaf_model::TenantId;
use sheaf_pg::Statement;

use super::order::Order;
use crate::filter::{Parameter, Parameters, TypedExpr, compile};

/// Bytes of documents, as they are stored, after which a page ends early.
const PAGE_BYTES_MAX: i64 = 8 * 1024 * 1024;

/// Which entities a list is about.
#[derive(Debug)]
pub(super) struct Matching<'a> {
    pub(super) tenant: TenantId,
    pub(super) entity_type: Option<&'a str>,
    pub(super) filter: Option<&'a TypedExpr>,
}

/// A statement with its parameters.
#[derive(Debug)]
pub(super) struct Composed {
    step: &'static str,
    pub(super) sql: String,
    parameters: Parameters,
}

impl Composed {
    pub(super) fn statement(&self) -> Statement<'_> {
        Statement::new(self.step, &self.sql, self.parameters())
    }

    pub(super) fn parameters(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.parameters.typed()
    }
}

impl Matching<'_> {
    /// The entities with a document that passes. `$1` is the tenant in every statement.
    fn matching(&self, parameters: &mut Parameters) -> String {
        let tenant = parameters.push(Parameter::Int8(self.tenant.0));
        let mut sql = format!(
            "FROM sheaf.entities e \
             JOIN sheaf.entity_jsonb d ON d.tenant_id = e.tenant_id AND d.entity_id = e.entity_id \
             WHERE e.tenant_id = {tenant} AND d.tenant_id = {tenant} AND NOT d.deleted"
        );
        if let Some(entity_type) = self.entity_type {
            let entity_type = parameters.push(Parameter::Text(entity_type.to_owned()));
            sql.push_str(&format!(" AND e.entity_type = {entity_type}"));
        }
        if let Some(filter) = self.filter {
            sql.push_str(" AND ");
            sql.push_str(&compile(filter, parameters));
        }
        sql
    }

    /// One page and one more, in order, after a keyset.
    ///
    /// With a filter, what matches is found first and ordered then. The planner knows nothing of how often a jsonb
    /// condition holds under a policy, guesses often, and would otherwise walk the index of the order until the page is
    /// full: for a rare value, past the tenant's every entity.
    pub(super) fn page(
        &self,
        order: &Order,
        after: Option<&[Option<String>]>,
        rows_max: i64,
    ) -> Composed {
        let mut parameters = Parameters::default();
        let matching = self.matching(&mut parameters);
        let columns = order.columns(&mut parameters);
        let by = order.by();
        let after = match after {
            Some(keyset) => order.after(keyset, &mut parameters),
            None => "TRUE".to_owned(),
        };
        let materialized = match self.filter {
            Some(_) => "MATERIALIZED",
            None => "NOT MATERIALIZED",
        };
        let rows_max = parameters.push(Parameter::Int8(rows_max));
        let bytes_max = parameters.push(Parameter::Int8(PAGE_BYTES_MAX));
        let sql = format!(
            "WITH matched AS {materialized} (\
               SELECT e.entity_id, e.entity_type, e.external_id, {columns} {matching}\
             ), page AS (\
               SELECT * FROM matched WHERE {after} ORDER BY {by} LIMIT {rows_max}\
             ), filled AS (\
               SELECT p.entity_type, p.external_id, d.entity_id, d.version, d.newest, d.floor_at, d.deleted, \
                 d.updated_at, d.hot_attrs, d.cold_attrs, d.times, row_number() OVER by_keys AS place, \
                 sum(pg_column_size(d.hot_attrs) + pg_column_size(d.cold_attrs)) OVER by_keys AS bytes, \
                 count(*) OVER () AS found \
               FROM page p JOIN sheaf.entity_jsonb d ON d.tenant_id = $1 AND d.entity_id = p.entity_id \
               WINDOW by_keys AS (ORDER BY {by} ROWS UNBOUNDED PRECEDING)\
             ) \
             SELECT * FROM filled WHERE place = 1 OR bytes <= {bytes_max} ORDER BY place"
        );
        Composed {
            step: "listing entities",
            sql,
            parameters,
        }
    }

    /// How many match.
    pub(super) fn count(&self) -> Composed {
        let mut parameters = Parameters::default();
        let matching = self.matching(&mut parameters);
        Composed {
            step: "counting entities",
            sql: format!("SELECT count(*) AS matches {matching}"),
            parameters,
        }
    }

    /// How many match, counted no further than a bound.
    pub(super) fn count_to(&self, matches_max: i64) -> Composed {
        let mut parameters = Parameters::default();
        let matching = self.matching(&mut parameters);
        let matches_max = parameters.push(Parameter::Int8(matches_max));
        Composed {
            step: "counting entities",
            sql: format!(
                "SELECT count(*) AS matches FROM (SELECT {matching} LIMIT {matches_max}) counted"
            ),
            parameters,
        }
    }

    /// The plan of finding all that match, whose first line holds the planner's estimate.
    pub(super) fn plan(&self) -> Composed {
        let mut parameters = Parameters::default();
        let matching = self.matching(&mut parameters);
        Composed {
            step: "estimating a count",
            sql: format!("EXPLAIN SELECT e.entity_id {matching}"),
            parameters,
        }
    }
}
