//! A filter as an SQL condition over the aliases `e` (`sheaf.entities`) and `d` (`sheaf.entity_jsonb`).
//!
//! Only the fragments of this file become SQL. Names, numbers of attributes and literals are parameters, texts and
//! bigints alone, with their casts in the statement.
//!
//! Three-valued logic: NOTs are first pushed down to the single tests, which De Morgan's rules allow in this logic
//! too. Then no test stands under a NOT, and whether one is unknown or false no longer matters to the result. So each
//! test, denied or not, is compiled to a condition that holds exactly when the test does, and which may be false where
//! the test is unknown. That is what lets equality be `@>`, and what lets every other test name the attribute in
//! `d.present`, by which the index on it finds the few entities that have a sparse attribute. A range of an attribute
//! with a value index is a semi-join with that index, where [`Led`] says that the index is asked.
//!
//! `upper` under the collation `und-x-icu` gives Unicode's full upper-case mapping, independent of the database's
//! locale. Servers are built with ICU everywhere that PostgreSQL 15 is packaged.

use sheaf_model::{AttributeId, AttributeType};
use sheaf_store::catalogue::Temperature;

use super::alternatives::Alternatives;
use super::ast::{ArrayRelation, Scalar};
use super::conjunction::conjunction;
use super::lead::Led;
use super::parameter::{Parameter, Parameters};
use super::typed::{Bound, Predicate, Property, Reserved, Test, TypedExpr};
use super::value_index::{IndexRange, table_of};

/// A condition that is true for exactly the entities of a tenant that pass the filter. It can stand anywhere in a
/// conjunction, of documents of this tenant alone. `tenant` is an expression, such as `$1::bigint`.
pub fn compile(expr: &TypedExpr, tenant: &str, parameters: &mut Parameters) -> String {
    condition(&Led::of(expr).filter, false, tenant, parameters)
}

pub(super) fn condition(
    expr: &TypedExpr,
    denied: bool,
    tenant: &str,
    parameters: &mut Parameters,
) -> String {
    if let Some(alternatives) = Alternatives::by_index(expr, denied) {
        return alternatives.condition(&[], tenant, parameters);
    }
    match expr {
        TypedExpr::And(terms) if !denied => conjunction(terms, tenant, parameters),
        TypedExpr::And(terms) | TypedExpr::Or(terms) => {
            let is_or = matches!(expr, TypedExpr::Or(_)) != denied;
            let operator = if is_or { " OR " } else { " AND " };
            let terms: Vec<&TypedExpr> = terms.iter().collect();
            all(&terms, denied, operator, tenant, parameters)
        }
        TypedExpr::Not(inner) => condition(inner, !denied, tenant, parameters),
        TypedExpr::Predicate(Predicate { property, test }) => match *property {
            Property::Attribute {
                id,
                kind,
                temperature,
                is_indexed,
            } => Attribute {
                id,
                kind,
                temperature,
                is_indexed,
            }
            .condition(test, denied, tenant, parameters),
            Property::Reserved(reserved) => reserved_condition(reserved, test, denied, parameters),
        },
    }
}

pub(super) fn all(
    terms: &[&TypedExpr],
    denied: bool,
    operator: &str,
    tenant: &str,
    parameters: &mut Parameters,
) -> String {
    let terms: Vec<String> = terms
        .iter()
        .map(|term| condition(term, denied, tenant, parameters))
        .collect();
    format!("({})", terms.join(operator))
}

/// What the index on hot parts answers: the hot part holds all of one of these documents.
pub(super) fn contained(
    documents: impl Iterator<Item = String>,
    parameters: &mut Parameters,
) -> String {
    let list = parameters.push(texts(documents));
    format!("d.hot_attrs @> ANY ({list}::jsonb[])")
}

pub(super) struct Attribute {
    pub(super) id: AttributeId,
    pub(super) kind: AttributeType,
    pub(super) temperature: Temperature,
    pub(super) is_indexed: bool,
}

impl Attribute {
    fn condition(
        &self,
        test: &Test,
        denied: bool,
        tenant: &str,
        parameters: &mut Parameters,
    ) -> String {
        let is_hot = self.temperature == Temperature::Hot && !denied;
        if self.is_indexed
            && !denied
            && let Some(range) = IndexRange::of(self.kind, test)
        {
            return self.in_ranges(&[(range, test)], tenant, parameters);
        }
        let holds = match test {
            Test::Absent => return deny(!denied, self.present(parameters)),
            Test::AnyOf(values) if is_hot => {
                return self.contained(values.iter().map(json), parameters);
            }
            Test::Array { relation, elements } if is_hot => {
                return self.contained(array_patterns(*relation, elements), parameters);
            }
            Test::AnyOf(values) => {
                let value = self.value("->", parameters);
                let list = parameters.push(texts(values.iter().map(json)));
                format!("{value} = ANY ({list}::jsonb[])")
            }
            Test::Array { relation, elements } => {
                let value = self.value("->", parameters);
                let patterns = parameters.push(texts(array_patterns(*relation, elements)));
                format!("{value} @> ANY ({patterns}::jsonb[])")
            }
            Test::Range { low, high } => {
                let value = self.value("->>", parameters);
                let (value, cast) = match self.kind {
                    AttributeType::Int | AttributeType::Float | AttributeType::Decimal => {
                        (format!("{value}::numeric"), "::numeric")
                    }
                    AttributeType::Text
                    | AttributeType::Bool
                    | AttributeType::Time
                    | AttributeType::Json => (format!("{value} COLLATE \"C\""), ""),
                };
                range(&value, cast, low, high, parameters)
            }
            Test::AnyOfFolded(values) => {
                let value = self.value("->>", parameters);
                any_of_folded(&value, values, parameters)
            }
            Test::Like { pattern, folded } => {
                let value = self.value("->>", parameters);
                like(&value, pattern, *folded, parameters)
            }
        };
        let present = self.present(parameters);
        format!("({present} AND {})", deny(denied, holds))
    }

    /// What the value index answers, and where it may say too much, the document.
    pub(super) fn in_ranges(
        &self,
        ranges: &[(IndexRange, &Test)],
        tenant: &str,
        parameters: &mut Parameters,
    ) -> String {
        let rows = self.index_rows(tenant, parameters);
        let table = table_of(self.kind.as_str());
        let within: Vec<String> = ranges
            .iter()
            .map(|(range, _)| range.conditions(parameters))
            .collect();
        let mut conditions = vec![format!(
            "EXISTS (SELECT FROM sheaf.{table} i WHERE {rows} AND i.entity_id = d.entity_id AND {})",
            within.join(" AND ")
        )];
        let plain = Attribute {
            is_indexed: false,
            ..*self
        };
        for (_, test) in ranges.iter().filter(|(range, _)| !range.is_exact) {
            conditions.push(plain.condition(test, false, tenant, parameters));
        }
        match conditions.as_slice() {
            [one] => one.clone(),
            several => format!("({})", several.join(" AND ")),
        }
    }

    /// The rows of the attribute's value index, by the alias `i`.
    pub(super) fn index_rows(&self, tenant: &str, parameters: &mut Parameters) -> String {
        let id = parameters.push(Parameter::Int8(self.id.0));
        format!("i.tenant_id = {tenant} AND i.attribute_id = {id}")
    }

    fn present(&self, parameters: &mut Parameters) -> String {
        let id = parameters.push(Parameter::Int8Array(vec![self.id.0]));
        format!("d.present @> {id}")
    }

    /// The hot part holds this attribute with one of these values.
    fn contained(
        &self,
        values: impl Iterator<Item = String>,
        parameters: &mut Parameters,
    ) -> String {
        let documents = values.map(|value| format!("{{\"{}\":{value}}}", self.id));
        contained(documents, parameters)
    }

    fn value(&self, operator: &'static str, parameters: &mut Parameters) -> String {
        attribute_value(self.id, self.temperature, operator, parameters)
    }
}

/// The value of an attribute, by `->` or `->>`. While values move, the other part may still hold ones that were written
/// before; where both do, the part that they move to is right.
pub(crate) fn attribute_value(
    id: AttributeId,
    temperature: Temperature,
    operator: &'static str,
    parameters: &mut Parameters,
) -> String {
    let key = parameters.push(Parameter::Text(id.to_string()));
    let hot = format!("d.hot_attrs {operator} {key}");
    let cold = format!("d.cold_attrs {operator} {key}");
    match temperature {
        Temperature::Hot => format!("({hot})"),
        Temperature::Cold => format!("({cold})"),
        Temperature::Warming => format!("coalesce({hot}, {cold})"),
        Temperature::Cooling => format!("coalesce({cold}, {hot})"),
    }
}

fn reserved_condition(
    reserved: Reserved,
    test: &Test,
    denied: bool,
    parameters: &mut Parameters,
) -> String {
    let (column, cast) = match reserved {
        Reserved::EntityType => ("e.entity_type", ""),
        Reserved::ExternalId => ("e.external_id", ""),
        Reserved::ObservedAt => ("d.newest", "::timestamptz"),
        Reserved::UpdatedAt => ("d.updated_at", "::timestamptz"),
    };
    let holds = match test {
        // Every entity has them all.
        Test::Absent => "FALSE".to_owned(),
        Test::AnyOf(values) => {
            let list = parameters.push(texts(values.iter().map(plain)));
            let cast = if cast.is_empty() {
                ""
            } else {
                "::timestamptz[]"
            };
            format!("{column} = ANY ({list}{cast})")
        }
        Test::Range { low, high } => range(column, cast, low, high, parameters),
        Test::AnyOfFolded(values) => any_of_folded(column, values, parameters),
        Test::Like { pattern, folded } => like(column, pattern, *folded, parameters),
        // No reserved property is json, and typing lets arrays at json alone.
        Test::Array { .. } => "FALSE".to_owned(),
    };
    deny(denied, holds)
}

fn deny(denied: bool, holds: String) -> String {
    if denied {
        format!("NOT ({holds})")
    } else {
        holds
    }
}

fn range(
    value: &str,
    cast: &str,
    low: &Option<Bound>,
    high: &Option<Bound>,
    parameters: &mut Parameters,
) -> String {
    let ends = [(low, ">"), (high, "<")];
    let mut conditions = Vec::new();
    for (bound, operator) in ends {
        if let Some(Bound {
            value: end,
            inclusive,
        }) = bound
        {
            let or_equal = if *inclusive { "=" } else { "" };
            let end = parameters.push(Parameter::Text(plain(end)));
            conditions.push(format!("{value} {operator}{or_equal} {end}{cast}"));
        }
    }
    if conditions.is_empty() {
        return "TRUE".to_owned();
    }
    conditions.join(" AND ")
}

fn any_of_folded(value: &str, values: &[String], parameters: &mut Parameters) -> String {
    let list = parameters.push(texts(values.iter().cloned()));
    format!(
        "{} = ANY (ARRAY(SELECT {} FROM unnest({list}) AS list (text)))",
        folded(value),
        folded("list.text")
    )
}

fn like(value: &str, pattern: &str, is_folded: bool, parameters: &mut Parameters) -> String {
    let pattern = parameters.push(Parameter::Text(pattern.to_owned()));
    if is_folded {
        return format!("{} LIKE {}", folded(value), folded(&pattern));
    }
    format!("{value} COLLATE \"C\" LIKE {pattern}")
}

fn folded(text: &str) -> String {
    format!("upper({text} COLLATE \"und-x-icu\") COLLATE \"C\"")
}

fn texts(values: impl Iterator<Item = String>) -> Parameter {
    Parameter::TextArray(values.collect())
}

/// Arrays one of which the value has to contain: one with all elements, or one for each.
fn array_patterns(
    relation: ArrayRelation,
    elements: &[Scalar],
) -> impl Iterator<Item = String> + use<> {
    let elements: Vec<String> = elements.iter().map(json).collect();
    let patterns = match relation {
        ArrayRelation::Contains => vec![format!("[{}]", elements.join(","))],
        ArrayRelation::Overlaps => elements
            .iter()
            .map(|element| format!("[{element}]"))
            .collect(),
    };
    patterns.into_iter()
}

/// A literal in the form that documents hold.
pub(super) fn json(value: &Scalar) -> String {
    match value {
        Scalar::Number(_) | Scalar::Bool(_) => plain(value),
        Scalar::Text(_) | Scalar::Time(_) => {
            serde_json::to_string(&plain(value)).expect("a string is JSON")
        }
    }
}

/// A literal as text, as `->>` gives it.
fn plain(value: &Scalar) -> String {
    match value {
        Scalar::Number(number) => number.to_string(),
        Scalar::Text(text) => text.clone(),
        Scalar::Bool(truth) => truth.to_string(),
        Scalar::Time(time) => time.to_sortable(),
    }
}
