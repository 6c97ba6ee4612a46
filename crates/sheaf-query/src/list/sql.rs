//! The statements of a list, composed of static fragments, the filter compiler's and the order's.
//!
//! They run as `sheaf_search`, under whose policy every tenant's rows are visible: each relation that is named here
//! has its tenant predicate beside it, and the two tests that hold this together are the differential test of two
//! tenants and the gate on plans.

use postgres_types::{ToSql, Type};
use sheaf_model::TenantId;
use sheaf_pg::Statement;

use super::order::Order;
use super::walk::Walk;
use crate::filter::{Parameter, Parameters, TypedExpr, compile, is_led_by_equality};

/// Bytes of documents, as they are stored, after which a page ends early.
const PAGE_BYTES_MAX: i64 = 8 * 1024 * 1024;

/// The documents of a page, which the given steps end with.
pub(super) fn filled(page: &str, order: &Order, mut parameters: Parameters) -> Composed {
    let by = order.by();
    let bytes_max = parameters.push(Parameter::Int8(PAGE_BYTES_MAX));
    let sql = format!(
        "{page}, filled AS (\
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
    pub(super) fn new(step: &'static str, sql: String, parameters: Parameters) -> Composed {
        Composed {
            step,
            sql,
            parameters,
        }
    }

    pub(super) fn statement(&self) -> Statement<'_> {
        Statement::new(self.step, &self.sql, self.parameters())
    }

    /// The plan of this statement in place of its rows.
    pub(super) fn explained(self) -> Composed {
        Composed {
            sql: format!("EXPLAIN {}", self.sql),
            ..self
        }
    }

    pub(super) fn parameters(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.parameters.typed()
    }
}

impl Matching<'_> {
    /// The entities with a document that passes. `$1` is the tenant in every statement.
    pub(super) fn matching(&self, parameters: &mut Parameters) -> String {
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

    /// The documents that pass, without their names: for a filter that is about documents alone, of any type.
    pub(super) fn documents(&self, parameters: &mut Parameters) -> String {
        let tenant = parameters.push(Parameter::Int8(self.tenant.0));
        let mut sql =
            format!("FROM sheaf.entity_jsonb d WHERE d.tenant_id = {tenant} AND NOT d.deleted");
        if let Some(filter) = self.filter {
            sql.push_str(" AND ");
            sql.push_str(&compile(filter, parameters));
        }
        sql
    }

    /// The same for a page. Where an index on documents leads to what matches, names are looked up one by one: the planner
    /// expects one document in a hundred, whatever the value, and would read every name of the tenant to join them.
    fn found(&self, parameters: &mut Parameters) -> String {
        let Some(filter) = self.filter.filter(|filter| is_led_by_equality(filter)) else {
            return self.matching(parameters);
        };
        let tenant = parameters.push(Parameter::Int8(self.tenant.0));
        let mut sql = format!(
            "FROM sheaf.entity_jsonb d CROSS JOIN LATERAL (\
               SELECT n.entity_id, n.entity_type, n.external_id FROM sheaf.entities n \
               WHERE n.tenant_id = {tenant} AND n.entity_id = d.entity_id LIMIT 1) e \
             WHERE d.tenant_id = {tenant} AND NOT d.deleted"
        );
        if let Some(entity_type) = self.entity_type {
            let entity_type = parameters.push(Parameter::Text(entity_type.to_owned()));
            sql.push_str(&format!(" AND e.entity_type = {entity_type}"));
        }
        sql.push_str(" AND ");
        sql.push_str(&compile(filter, parameters));
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
        let walked = order.walked();
        if let Some(walk) = walked.and_then(|walked| Walk::of(self, order, walked)) {
            return walk.page(after, rows_max);
        }
        let mut parameters = Parameters::default();
        let matching = self.found(&mut parameters);
        let materialized = match self.filter {
            Some(_) => "MATERIALIZED",
            None => "NOT MATERIALIZED",
        };
        composed_page(order, after, rows_max, (parameters, matching, materialized))
    }

    /// The same page where all pages of the list are read one after the other and what matches is known to be many: the
    /// planner may walk the index of the order. All pages together then cost one walk, and not a search each.
    pub(super) fn next_page(
        &self,
        order: &Order,
        after: Option<&[Option<String>]>,
        rows_max: i64,
    ) -> Composed {
        let mut parameters = Parameters::default();
        let matching = self.matching(&mut parameters);
        composed_page(
            order,
            after,
            rows_max,
            (parameters, matching, "NOT MATERIALIZED"),
        )
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
        let matching = self.found(&mut parameters);
        let matches_max = parameters.push(Parameter::Int8(matches_max));
        Composed {
            step: "counting entities",
            sql: format!(
                "SELECT count(*) AS matches FROM (SELECT {matching} LIMIT {matches_max}) counted"
            ),
            parameters,
        }
    }
}

/// A page of what matches, in order, after a keyset.
fn composed_page(
    order: &Order,
    after: Option<&[Option<String>]>,
    rows_max: i64,
    (mut parameters, matching, materialized): (Parameters, String, &'static str),
) -> Composed {
    let columns = order.columns(&mut parameters);
    let by = order.by();
    let after = match after {
        Some(keyset) => order.after(keyset, &mut parameters),
        None => "TRUE".to_owned(),
    };
    let rows_max = parameters.push(Parameter::Int8(rows_max));
    let page = format!(
        "WITH matched AS {materialized} (\
           SELECT e.entity_id, e.entity_type, e.external_id, {columns} {matching}\
         ), page AS (\
           SELECT * FROM matched WHERE {after} ORDER BY {by} LIMIT {rows_max}\
         )"
    );
    filled(&page, order, parameters)
}
