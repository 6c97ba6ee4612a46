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
use crate::filter::{Parameter, Parameters, TypedExpr, compile, is_led_by_equality, unindexed};

/// How many entities, for each one of the page, are looked at in the order of their ids before all that match are found. It
/// fills the page where one in a few matches, which would be most to find, and costs a millisecond where few do.
const NEAR_FACTOR: i64 = 4;
/// The least of them, for pages of a few.
const NEAR_MIN: i64 = 100;

/// Bytes of documents, as they are when they are not compressed, after which a page ends early.
const PAGE_BYTES_MAX: i64 = 8 * 1024 * 1024;

/// The documents of a page, which the given steps end with.
pub(super) fn filled(page: &str, order: &Order, mut parameters: Parameters) -> Composed {
    let by = order.by();
    let bytes_max = parameters.push(Parameter::Int8(PAGE_BYTES_MAX));
    let (hot_bytes, cold_bytes) = (bytes_of("d.hot_attrs"), bytes_of("d.cold_attrs"));
    let sql = format!(
        "{page}, filled AS (\
           SELECT p.entity_type, p.external_id, d.entity_id, d.version, d.newest, d.floor_at, d.deleted, \
             d.updated_at, d.hot_attrs, d.cold_attrs, d.times, row_number() OVER by_keys AS place, \
             sum({hot_bytes} + {cold_bytes}) OVER by_keys AS bytes, \
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

/// The bytes of a part of a document. What is stored compressed is put together, without which it counts for next to nothing;
/// as text it would be written out as well.
fn bytes_of(part: &str) -> String {
    format!(
        "CASE WHEN pg_column_compression({part}) IS NULL THEN pg_column_size({part}) ELSE pg_column_size({part} || '{{}}') END"
    )
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
            sql.push_str(&compile(filter, &tenant, parameters));
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
            sql.push_str(&compile(filter, &tenant, parameters));
        }
        sql
    }

    /// The same for a page. Where an index on documents leads to what matches, names are looked up one by one: the planner
    /// expects one document in a hundred of all tenants, whatever the value, and would read every name of the tenant to join
    /// them. It would read every number of the tenant too, to narrow what that index finds, which is of this tenant alone: so
    /// the tenant is asked of the documents in a form that no index answers.
    pub(super) fn found(&self, parameters: &mut Parameters) -> String {
        let Some(filter) = self
            .filter
            .filter(|filter| is_led_by_equality(filter, false))
        else {
            return self.matching(parameters);
        };
        let tenant = parameters.push(Parameter::Int8(self.tenant.0));
        let mut sql = format!(
            "FROM sheaf.entity_jsonb d CROSS JOIN LATERAL (\
               SELECT n.entity_id, n.entity_type, n.external_id FROM sheaf.entities n \
               WHERE n.tenant_id = {tenant} AND n.entity_id = d.entity_id LIMIT 1) e \
             WHERE d.tenant_id + 0 = {tenant} AND NOT d.deleted"
        );
        if let Some(entity_type) = self.entity_type {
            let entity_type = parameters.push(Parameter::Text(entity_type.to_owned()));
            sql.push_str(&format!(" AND e.entity_type = {entity_type}"));
        }
        sql.push_str(" AND ");
        sql.push_str(&compile(filter, &tenant, parameters));
        sql
    }

    /// One page and one more, in order, after a keyset.
    ///
    /// With a filter, what matches is found first and ordered then. The planner knows nothing of how often a jsonb
    /// condition holds under a policy, guesses often, and would otherwise walk the index of the order until the page is
    /// full: for a rare value, past the tenant's every entity. It does so for a bounded number of entities first, where an
    /// index leads to what matches.
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
        if let (Some(entity_type), Some(filter)) = (self.entity_type, self.filter)
            && order.is_by_id()
            && is_led_by_equality(filter, false)
        {
            return self.page_by_id(entity_type, filter, order, after, rows_max);
        }
        let mut parameters = Parameters::default();
        let matching = self.found(&mut parameters);
        let materialized = match self.filter {
            Some(_) => "MATERIALIZED",
            None => "NOT MATERIALIZED",
        };
        composed_page(order, after, rows_max, (parameters, matching, materialized))
    }

    /// The page from the first entities after the keyset, where enough of them match; else from all that match.
    fn page_by_id(
        &self,
        entity_type: &str,
        filter: &TypedExpr,
        order: &Order,
        after: Option<&[Option<String>]>,
        rows_max: i64,
    ) -> Composed {
        let mut parameters = Parameters::default();
        let tenant = parameters.push(Parameter::Int8(self.tenant.0));
        let entity_type = parameters.push(Parameter::Text(entity_type.to_owned()));
        let columns = order.columns(&mut parameters);
        let by = order.by();
        let beyond = match after {
            Some(keyset) => order.after(keyset, &mut parameters),
            None => "TRUE".to_owned(),
        };
        let near_max = (rows_max * NEAR_FACTOR).max(NEAR_MIN);
        let near_max = parameters.push(Parameter::Int8(near_max));
        let rows_max = parameters.push(Parameter::Int8(rows_max));
        let passing = passing(&unindexed(filter), &tenant, &mut parameters);
        let matching = self.found(&mut parameters);
        let page = format!(
            "WITH near AS MATERIALIZED (\
               SELECT e.* FROM (\
                 SELECT * FROM (\
                   SELECT e.entity_id, e.entity_type, e.external_id, {columns} FROM sheaf.entities e \
                   WHERE e.tenant_id = {tenant} AND e.entity_type = {entity_type}\
                 ) named WHERE {beyond} ORDER BY {by} LIMIT {near_max}\
               ) e {passing}\
             ), matched AS MATERIALIZED (\
               SELECT e.entity_id, e.entity_type, e.external_id, {columns} {matching} \
               AND (SELECT count(*) FROM near) < {rows_max}\
             ), page AS (\
               SELECT * FROM (\
                 SELECT * FROM near WHERE (SELECT count(*) FROM near) >= {rows_max} \
                 UNION ALL SELECT * FROM matched WHERE {beyond}\
               ) both_of ORDER BY {by} LIMIT {rows_max}\
             )"
        );
        filled(&page, order, parameters)
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
        if let (Some(entity_type), Some(filter)) = (self.entity_type, self.filter)
            && order.is_by_id()
        {
            let walked = self.walked(entity_type, filter, order, after, &mut parameters);
            let rows_max = parameters.push(Parameter::Int8(rows_max));
            let by = order.by();
            let page = format!(
                "WITH page AS (SELECT * FROM ({walked}) walked ORDER BY {by} LIMIT {rows_max})"
            );
            return filled(&page, order, parameters);
        }
        // Its documents are met in the order of names, where no index of values leads.
        let filter = self.filter.map(unindexed);
        let met = Matching {
            filter: filter.as_ref(),
            ..*self
        };
        let matching = met.matching(&mut parameters);
        composed_page(
            order,
            after,
            rows_max,
            (parameters, matching, "NOT MATERIALIZED"),
        )
    }

    /// What is found by walking the names.
    fn walked(
        &self,
        entity_type: &str,
        filter: &TypedExpr,
        order: &Order,
        after: Option<&[Option<String>]>,
        parameters: &mut Parameters,
    ) -> String {
        let tenant = parameters.push(Parameter::Int8(self.tenant.0));
        let entity_type = parameters.push(Parameter::Text(entity_type.to_owned()));
        let columns = order.columns(parameters);
        let passing = passing(&unindexed(filter), &tenant, parameters);
        let beyond = match after {
            Some(keyset) => order.after(keyset, parameters),
            None => "TRUE".to_owned(),
        };
        format!(
            "SELECT e.entity_id, e.entity_type, e.external_id, k0 FROM (\
               SELECT e.entity_id, e.entity_type, e.external_id, {columns} FROM sheaf.entities e \
               WHERE e.tenant_id = {tenant} AND e.entity_type = {entity_type}\
             ) e {passing} WHERE {beyond}"
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

/// Keeps names `e` whose documents pass. Name after name, each looked up among the documents: an order that the planner, which
/// takes any filter for rare, would not walk by itself.
pub(super) fn passing(filter: &TypedExpr, tenant: &str, parameters: &mut Parameters) -> String {
    let filter = compile(filter, tenant, parameters);
    format!(
        "CROSS JOIN LATERAL (\
           SELECT FROM sheaf.entity_jsonb d \
           WHERE d.tenant_id = {tenant} AND d.entity_id = e.entity_id AND NOT d.deleted AND {filter} LIMIT 1) passing"
    )
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
