//! A page in the order of a value index, read until it is full.
//!
//! The entities with a value come first, in the index's order, from where the page before ended. Those that are equal by
//! it are told apart by the other keys, a group of equal ones at a time. Then come the entities without a value, which the
//! index does not have; they are only looked for where the others do not fill the page.
//!
//! It serves a list without a filter, or with ranges of the same attribute alone: any other filter could let pass one
//! entity in a million, and the walk would meet them all. So could a type. A walk for entities of one type ends after
//! [`ROWS_MAX`] rows of the index and says itself whether that was far enough. Where it was not, the page is left to the names
//! of the type if it has no more than [`NAMES_MAX`], and to a walk without an end if it has: either gives the whole page by
//! itself, whatever has changed since.

use sheaf_model::AttributeType;

use tokio_postgres::Row;

use super::order::{Order, Walked};
use super::sql::{Composed, Matching, filled};
use crate::filter::{
    IndexRange, Parameter, Parameters, Predicate, Property, TypedExpr, compile, kept, table_of,
    unindexed,
};

/// Rows of the index that a walk for entities of one type goes through: some tens of milliseconds where none is of the
/// type. They fill a page with a type that one entity in a hundred has, unless more than these are equal by the index.
const ROWS_MAX: i64 = 10_000;
/// Names that a page is left to: some tenths of a second, and what walks and sorts of a type with more take as well.
const NAMES_MAX: i64 = 100_000;

/// A list that can be walked.
pub(super) struct Walk<'a> {
    matching: &'a Matching<'a>,
    order: &'a Order,
    walked: Walked,
    ranges: Vec<(&'a Predicate, IndexRange)>,
    /// [`ROWS_MAX`] and [`NAMES_MAX`], but for tests.
    index_rows_max: i64,
    names_max: i64,
}

/// What a walk leaves its page to that has not gone far enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// To the names of the type.
    ToNames,
    /// To a walk that ends where the index does.
    ToWalk,
}

impl Left {
    /// What is left of a page, where it was a walk that may end before the index. Such a walk always has a row, in which
    /// there is no entity if it lists none; that row is taken away.
    pub(super) fn by(rows: &mut Vec<Row>) -> Option<Left> {
        let is_whole: bool = rows.first()?.try_get("is_whole").ok()?;
        let is_rare: Option<bool> = rows.first()?.get("is_rare");
        rows.retain(|row| row.get::<_, Option<&str>>("external_id").is_some());
        match (is_whole, is_rare) {
            (true, _) => None,
            (false, Some(true)) => Some(Left::ToNames),
            (false, _) => Some(Left::ToWalk),
        }
    }
}

impl Matching<'_> {
    /// The page that a walk of this list has left.
    pub(super) fn page_left(
        &self,
        left: Left,
        order: &Order,
        after: After<'_>,
        rows_max: i64,
    ) -> Option<Composed> {
        Walk::of(self, order, order.walked()?)?.page_left(left, after, rows_max)
    }
}

/// Where a page begins: after a keyset, or at the beginning.
type After<'a> = Option<&'a [Option<String>]>;

impl<'a> Walk<'a> {
    /// The walk of this list by this attribute, where it can be.
    pub(super) fn of(
        matching: &'a Matching<'a>,
        order: &'a Order,
        walked: Walked,
    ) -> Option<Walk<'a>> {
        let mut ranges = Vec::new();
        if let Some(filter) = matching.filter {
            collect(filter, &walked, &mut ranges)?;
        }
        Some(Walk {
            matching,
            order,
            walked,
            ranges,
            index_rows_max: ROWS_MAX,
            names_max: NAMES_MAX,
        })
    }

    /// The same walk, which ends after so many rows of the index and is left to so many names.
    #[cfg(test)]
    pub(super) fn to(self, index_rows_max: i64, names_max: i64) -> Walk<'a> {
        Walk {
            index_rows_max,
            names_max,
            ..self
        }
    }

    /// One page and one more, after a keyset.
    ///
    /// - `met`: what the walk meets, until the page is full or as far as it goes.
    /// - `reach`: whether it went far enough, where it may end before the index does, and what the page is left to if it did
    ///   not; then nothing is listed.
    /// - `page`: that, and what has no value. Branches run one after the other, so that the second is asked for nothing that
    ///   the first has filled.
    pub(super) fn page(&self, after: After<'_>, rows_max: i64) -> Composed {
        let rows_to = self.matching.entity_type.map(|_| self.index_rows_max);
        self.walk_to(rows_to, after, rows_max)
    }

    /// The same page for a walk that listed nothing.
    pub(super) fn page_left(
        &self,
        left: Left,
        after: After<'_>,
        rows_max: i64,
    ) -> Option<Composed> {
        match left {
            Left::ToNames => self.page_by_name(after, rows_max),
            Left::ToWalk => Some(self.walk_to(None, after, rows_max)),
        }
    }

    fn walk_to(&self, rows_to: Option<i64>, after: After<'_>, rows_max: i64) -> Composed {
        let mut parameters = Parameters::default();
        // `$1`, as in every statement of a list.
        let tenant = parameters.push(Parameter::Int8(self.matching.tenant.0));
        let rows_max = parameters.push(Parameter::Int8(rows_max));
        let keys = self.order.names();
        let is_past_values = after.is_some_and(|keyset| keyset.first() == Some(&None));
        let (mut steps, mut branches, mut where_whole) = (Vec::new(), Vec::new(), "");
        let mut reaches = false;
        if !is_past_values || !self.ranges.is_empty() {
            let rows = self.index_rows(&tenant, after, &mut parameters);
            let rows_to = rows_to.map(|rows_to| parameters.push(Parameter::Int8(rows_to)));
            let met = self.met(&tenant, &rows, rows_to.as_deref(), after, &mut parameters);
            steps.push(format!("met AS MATERIALIZED ({met} LIMIT {rows_max})"));
            if let Some(rows_to) = rows_to {
                let reach = self.reach(&tenant, &rows, (&rows_to, &rows_max), &mut parameters);
                steps.push(reach);
                where_whole = " AND (SELECT is_whole FROM reach)";
                reaches = true;
            }
            branches.push(format!(
                "(SELECT entity_id, entity_type, external_id, {keys} FROM met WHERE TRUE{where_whole})"
            ));
        }
        if self.ranges.is_empty() {
            let after = after.filter(|_| is_past_values);
            let others = self.without_values(&tenant, where_whole, after, &mut parameters);
            branches.push(format!("({others} LIMIT {rows_max})"));
        }
        let page = format!(
            "page AS (SELECT * FROM ({}) all_of LIMIT {rows_max})",
            branches.join(" UNION ALL ")
        );
        if !reaches {
            steps.push(page);
            let page = format!("WITH {}", steps.join(", "));
            return filled(&page, self.order, parameters);
        }
        let mut composed = filled(&format!("WITH {page}"), self.order, parameters);
        composed.sql = format!(
            "WITH {} SELECT reach.*, listed.* FROM reach LEFT JOIN ({}) listed ON TRUE ORDER BY place",
            steps.join(", "),
            composed.sql
        );
        composed
    }

    /// The same page by going through the names of the type, one document a name. A statement of its own, which most pages
    /// are not planned with. Names are taken in the order that the tenant's index has them in: the planner, which knows of
    /// types in all tenants alone, would read names of others, and every document of a type that it takes for a common one.
    fn page_by_name(&self, after: After<'_>, rows_max: i64) -> Option<Composed> {
        let entity_type = self.matching.entity_type?;
        let mut parameters = Parameters::default();
        let tenant = parameters.push(Parameter::Int8(self.matching.tenant.0));
        let entity_type = parameters.push(Parameter::Text(entity_type.to_owned()));
        let rows_max = parameters.push(Parameter::Int8(rows_max));
        let columns = self.order.columns(&mut parameters);
        let filter = match self.matching.filter {
            Some(filter) => compile(&unindexed(filter), &tenant, &mut parameters),
            None => "TRUE".to_owned(),
        };
        let beyond = match after {
            Some(keyset) => self.order.after(keyset, &mut parameters),
            None => "TRUE".to_owned(),
        };
        let page = format!(
            "WITH named AS (\
               SELECT e.entity_id, e.entity_type, e.external_id, {columns} \
               FROM (\
                 SELECT n.entity_id, n.entity_type, n.external_id FROM sheaf.entities n \
                 WHERE n.tenant_id = {tenant} AND n.entity_type = {entity_type} ORDER BY n.external_id OFFSET 0) e \
               CROSS JOIN LATERAL (\
                 SELECT * FROM sheaf.entity_jsonb o WHERE o.tenant_id = {tenant} AND o.entity_id = e.entity_id LIMIT 1) d \
               WHERE NOT d.deleted AND {filter}\
             ), page AS (SELECT * FROM named WHERE {beyond} ORDER BY {by} LIMIT {rows_max})",
            by = self.order.by(),
        );
        Some(filled(&page, self.order, parameters))
    }

    /// What stands in the index from where the page begins, by the alias `i`.
    fn index_rows(&self, tenant: &str, after: After<'_>, parameters: &mut Parameters) -> String {
        let Walked {
            id,
            kind,
            cast,
            descending,
        } = self.walked;
        let attribute = parameters.push(Parameter::Int8(id.0));
        let mut rows = format!("i.tenant_id = {tenant} AND i.attribute_id = {attribute}");
        for (_, range) in &self.ranges {
            rows.push_str(&format!(" AND {}", range.conditions(parameters)));
        }
        if let Some(Some(value)) = after.and_then(<[_]>::first) {
            let value = match kind {
                AttributeType::Text => kept(value).to_owned(),
                AttributeType::Int
                | AttributeType::Float
                | AttributeType::Decimal
                | AttributeType::Bool
                | AttributeType::Time
                | AttributeType::Json => value.clone(),
            };
            let value = parameters.push(Parameter::Text(value));
            let sign = if descending { "<=" } else { ">=" };
            rows.push_str(&format!(" AND i.value {sign} {value}{cast}"));
        }
        rows
    }

    fn table(&self) -> String {
        table_of(self.walked.kind.as_str())
    }

    fn met(
        &self,
        tenant: &str,
        rows: &str,
        rows_to: Option<&str>,
        after: After<'_>,
        parameters: &mut Parameters,
    ) -> String {
        let direction = if self.walked.descending { " DESC" } else { "" };
        let to = match rows_to {
            Some(rows_to) => format!(" ORDER BY i.value{direction} LIMIT {rows_to}"),
            None => String::new(),
        };
        let columns = self.order.columns(parameters);
        let mut conditions = self.common(tenant, parameters);
        for (predicate, _) in self.ranges.iter().filter(|(_, range)| !range.is_exact) {
            let predicate = unindexed(&TypedExpr::Predicate((*predicate).clone()));
            let holds = compile(&predicate, tenant, parameters);
            conditions.push_str(&format!(" AND {holds}"));
        }
        let beyond = match after {
            Some(keyset) => self.order.after(keyset, parameters),
            None => "TRUE".to_owned(),
        };
        format!(
            "SELECT entity_id, entity_type, external_id, {keys}, walked FROM (\
               SELECT e.entity_id, e.entity_type, e.external_id, i.value AS walked, {columns} \
               FROM (SELECT i.entity_id, i.value FROM sheaf.{table} i WHERE {rows}{to}) i \
               JOIN sheaf.entity_jsonb d ON d.entity_id = i.entity_id \
               JOIN sheaf.entities e ON e.entity_id = i.entity_id \
               WHERE {conditions}\
             ) valued WHERE {beyond} ORDER BY walked{direction}, {by}",
            table = self.table(),
            keys = self.order.names(),
            by = self.order.by(),
        )
    }

    /// A full page is the beginning of the list if the walk has gone past all that are equal to its last by the index; one
    /// that is not full, if the walk has gone to the end. Where it is neither, the type is rare if its names end soon.
    fn reach(
        &self,
        tenant: &str,
        rows: &str,
        (rows_to, rows_max): (&str, &str),
        parameters: &mut Parameters,
    ) -> String {
        let (sign, last) = match self.walked.descending {
            true => (">=", "min"),
            false => ("<=", "max"),
        };
        let to_last = format!("{rows} AND i.value {sign} (SELECT {last}(walked) FROM met)");
        let entity_type = self.matching.entity_type.unwrap_or_default().to_owned();
        let entity_type = parameters.push(Parameter::Text(entity_type));
        let names_max = parameters.push(Parameter::Int8(self.names_max));
        format!(
            "reach AS MATERIALIZED (\
               SELECT is_whole, CASE WHEN is_whole THEN NULL ELSE NOT EXISTS (\
                 SELECT FROM sheaf.entities n WHERE n.tenant_id = {tenant} AND n.entity_type = {entity_type} \
                 ORDER BY n.external_id OFFSET {names_max} LIMIT 1) END AS is_rare \
               FROM (SELECT CASE WHEN count(*) = {rows_max} THEN {} ELSE {} END AS is_whole FROM met) met_whole)",
            self.ends_within(&to_last, rows_to),
            self.ends_within(rows, rows_to),
        )
    }

    /// Whether fewer than so many rows stand there in the index; in its order, or the planner could read rows of every tenant
    /// for it.
    fn ends_within(&self, rows: &str, rows_to: &str) -> String {
        let table = self.table();
        format!(
            "NOT EXISTS (SELECT FROM sheaf.{table} i WHERE {rows} ORDER BY i.value OFFSET {rows_to} - 1 LIMIT 1)"
        )
    }

    fn without_values(
        &self,
        tenant: &str,
        where_whole: &str,
        after: After<'_>,
        parameters: &mut Parameters,
    ) -> String {
        let columns = self.order.columns(parameters);
        let conditions = self.common(tenant, parameters);
        let id = parameters.push(Parameter::Int8Array(vec![self.walked.id.0]));
        let beyond = match after {
            Some(keyset) => self.order.after_from(1, keyset, parameters),
            None => "TRUE".to_owned(),
        };
        format!(
            "SELECT entity_id, entity_type, external_id, {keys} FROM (\
               SELECT e.entity_id, e.entity_type, e.external_id, {columns} \
               FROM sheaf.entities e \
               JOIN sheaf.entity_jsonb d ON d.tenant_id = e.tenant_id AND d.entity_id = e.entity_id \
               WHERE {conditions} AND NOT (d.present @> {id}){where_whole}\
             ) others WHERE {beyond} ORDER BY {by}",
            keys = self.order.names(),
            by = self.order.by_from(1),
        )
    }

    fn common(&self, tenant: &str, parameters: &mut Parameters) -> String {
        let mut conditions =
            format!("e.tenant_id = {tenant} AND d.tenant_id = {tenant} AND NOT d.deleted");
        if let Some(entity_type) = self.matching.entity_type {
            let entity_type = parameters.push(Parameter::Text(entity_type.to_owned()));
            conditions.push_str(&format!(" AND e.entity_type = {entity_type}"));
        }
        conditions
    }
}

/// The ranges that a filter consists of, if it is nothing but ranges of this attribute.
fn collect<'a>(
    filter: &'a TypedExpr,
    walked: &Walked,
    ranges: &mut Vec<(&'a Predicate, IndexRange)>,
) -> Option<()> {
    match filter {
        TypedExpr::And(terms) => {
            for term in terms {
                collect(term, walked, ranges)?;
            }
            Some(())
        }
        TypedExpr::Predicate(predicate) => match predicate.property {
            Property::Attribute { id, kind, .. } if id == walked.id => {
                ranges.push((predicate, IndexRange::of(kind, &predicate.test)?));
                Some(())
            }
            Property::Attribute { .. } | Property::Reserved(_) => None,
        },
        TypedExpr::Or(_) | TypedExpr::Not(_) => None,
    }
}
