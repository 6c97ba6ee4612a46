//! A page in the order of a value index, read until it is full.
//!
//! The entities with a value come first, in the index's order, from where the page before ended. Those that are equal by
//! it are told apart by the other keys, a group of equal ones at a time. Then come the entities without a value, which the
//! index does not have; they are only looked for where the others do not fill the page.
//!
//! It serves a list without a filter, or with ranges of the same attribute alone: any other filter could let pass one
//! entity in a million, and the walk would meet them all.

use sheaf_model::AttributeType;

use super::order::{Order, Walked};
use super::sql::{Composed, Matching, filled};
use crate::filter::{
    IndexRange, Parameter, Parameters, Predicate, Property, TypedExpr, compile, kept, table_of,
};

/// A list that can be walked.
pub(super) struct Walk<'a> {
    matching: &'a Matching<'a>,
    order: &'a Order,
    walked: Walked,
    ranges: Vec<(&'a Predicate, IndexRange)>,
}

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
        })
    }

    /// One page and one more, after a keyset.
    pub(super) fn page(&self, after: Option<&[Option<String>]>, rows_max: i64) -> Composed {
        let mut parameters = Parameters::default();
        // `$1`, as in every statement of a list.
        let tenant = parameters.push(Parameter::Int8(self.matching.tenant.0));
        let rows_max = parameters.push(Parameter::Int8(rows_max));
        let mut branches = Vec::new();
        let is_past_values = after.is_some_and(|keyset| keyset.first() == Some(&None));
        if !is_past_values || !self.ranges.is_empty() {
            let values = self.with_values(&tenant, after, &mut parameters);
            branches.push(format!("({values} LIMIT {rows_max})"));
        }
        if self.ranges.is_empty() {
            let after = after.filter(|_| is_past_values);
            let others = self.without_values(&tenant, after, &mut parameters);
            branches.push(format!("({others} LIMIT {rows_max})"));
        }
        // The second is asked for nothing that the first has filled: branches run one after the other.
        let page = format!(
            "WITH page AS (SELECT * FROM ({}) both_of LIMIT {rows_max})",
            branches.join(" UNION ALL ")
        );
        filled(&page, self.order, parameters)
    }

    fn with_values(
        &self,
        tenant: &str,
        after: Option<&[Option<String>]>,
        parameters: &mut Parameters,
    ) -> String {
        let Walked {
            id,
            kind,
            cast,
            descending,
        } = self.walked;
        let table = table_of(kind.as_str());
        let attribute = parameters.push(Parameter::Int8(id.0));
        let columns = self.order.columns(parameters);
        let mut conditions = self.common(tenant, parameters);
        conditions.push_str(&format!(
            " AND i.tenant_id = {tenant} AND i.attribute_id = {attribute}"
        ));
        for (predicate, range) in &self.ranges {
            conditions.push_str(&format!(" AND {}", range.conditions(parameters)));
            if !range.is_exact {
                conditions.push_str(&format!(" AND {}", of_document(predicate, parameters)));
            }
        }
        let mut beyond = "TRUE".to_owned();
        if let Some(keyset) = after {
            if let Some(Some(value)) = keyset.first() {
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
                conditions.push_str(&format!(" AND i.value {sign} {value}{cast}"));
            }
            beyond = self.order.after(keyset, parameters);
        }
        let direction = if descending { " DESC" } else { "" };
        format!(
            "SELECT entity_id, entity_type, external_id, {keys} FROM (\
               SELECT e.entity_id, e.entity_type, e.external_id, i.value AS walked, {columns} \
               FROM sheaf.{table} i \
               JOIN sheaf.entity_jsonb d ON d.tenant_id = i.tenant_id AND d.entity_id = i.entity_id \
               JOIN sheaf.entities e ON e.tenant_id = i.tenant_id AND e.entity_id = i.entity_id \
               WHERE {conditions}\
             ) valued WHERE {beyond} ORDER BY walked{direction}, {by}",
            keys = self.order.names(),
            by = self.order.by(),
        )
    }

    fn without_values(
        &self,
        tenant: &str,
        after: Option<&[Option<String>]>,
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
               WHERE {conditions} AND NOT (d.present @> {id})\
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

/// A test asked of the document itself.
fn of_document(predicate: &Predicate, parameters: &mut Parameters) -> String {
    let property = match predicate.property {
        Property::Attribute {
            id,
            kind,
            temperature,
            ..
        } => Property::Attribute {
            id,
            kind,
            temperature,
            is_indexed: false,
        },
        Property::Reserved(reserved) => Property::Reserved(reserved),
    };
    let plain = Predicate {
        property,
        test: predicate.test.clone(),
    };
    compile(&TypedExpr::Predicate(plain), parameters)
}
