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
//! with a value index is a semi-join with that index.
//!
//! `upper` under the collation `und-x-icu` gives Unicode's full upper-case mapping, independent of the database's
//! locale. Servers are built with ICU everywhere that PostgreSQL 15 is packaged.

use std::collections::BTreeMap;

use postgres_types::{ToSql, Type};
use sheaf_model::{AttributeId, AttributeType};
use sheaf_store::catalogue::Temperature;

use super::ast::{ArrayRelation, Scalar};
use super::typed::{Bound, Predicate, Property, Reserved, Test, TypedExpr};
use super::value_index::{IndexRange, table_of};

/// A value that is sent beside the statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parameter {
    /// `bigint`
    Int8(i64),
    /// `bigint[]`
    Int8Array(Vec<i64>),
    /// `text`
    Text(String),
    /// `text[]`
    TextArray(Vec<String>),
}

/// The parameters of one statement, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(Vec<Parameter>);

impl Parameters {
    /// Adds a parameter and gives the expression that stands for it, such as `$3::text`.
    pub fn push(&mut self, parameter: Parameter) -> String {
        let kind = match parameter {
            Parameter::Int8(_) => "bigint",
            Parameter::Int8Array(_) => "bigint[]",
            Parameter::Text(_) => "text",
            Parameter::TextArray(_) => "text[]",
        };
        self.0.push(parameter);
        format!("${}::{kind}", self.0.len())
    }

    /// The parameters with their types, for a statement that is not prepared.
    pub fn typed(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.0
            .iter()
            .map(|parameter| match parameter {
                Parameter::Int8(number) => (number as &(dyn ToSql + Sync), Type::INT8),
                Parameter::Int8Array(numbers) => (numbers as _, Type::INT8_ARRAY),
                Parameter::Text(text) => (text as _, Type::TEXT),
                Parameter::TextArray(texts) => (texts as _, Type::TEXT_ARRAY),
            })
            .collect()
    }

    /// The parameters.
    pub fn as_slice(&self) -> &[Parameter] {
        &self.0
    }
}

/// A condition that is true for exactly the entities that pass the filter. It can stand anywhere but under a NOT.
pub fn compile(expr: &TypedExpr, parameters: &mut Parameters) -> String {
    condition(expr, false, parameters)
}

fn condition(expr: &TypedExpr, denied: bool, parameters: &mut Parameters) -> String {
    match expr {
        TypedExpr::And(terms) if denied => all(terms, denied, " OR ", parameters),
        TypedExpr::And(terms) => conjunction(terms, parameters),
        TypedExpr::Or(terms) => {
            let operator = if denied { " AND " } else { " OR " };
            all(terms, denied, operator, parameters)
        }
        TypedExpr::Not(inner) => condition(inner, !denied, parameters),
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
            .condition(test, denied, parameters),
            Property::Reserved(reserved) => reserved_condition(reserved, test, denied, parameters),
        },
    }
}

fn all(terms: &[TypedExpr], denied: bool, operator: &str, parameters: &mut Parameters) -> String {
    let terms: Vec<String> = terms
        .iter()
        .map(|term| condition(term, denied, parameters))
        .collect();
    format!("({})", terms.join(operator))
}

/// Ranges of one attribute, each with its test.
struct Ranges<'a> {
    attribute: Attribute,
    all: Vec<(IndexRange, &'a Test)>,
}

/// Equalities of several hot attributes are one document that has to be contained: the index intersects what it finds for
/// each, where conditions by themselves would each be looked up whole. And both ends of a range are one range of the value
/// index, where each by itself could be half of it.
fn conjunction(terms: &[TypedExpr], parameters: &mut Parameters) -> String {
    let mut equal: BTreeMap<AttributeId, String> = BTreeMap::new();
    let mut ranges: BTreeMap<AttributeId, Ranges<'_>> = BTreeMap::new();
    let mut others = Vec::new();
    for term in terms {
        if let Some((id, value)) = equality(term)
            && !equal.contains_key(&id)
        {
            equal.insert(id, value);
        } else if let Some((attribute, range, test)) = indexed(term) {
            let of_attribute = ranges.entry(attribute.id).or_insert_with(|| Ranges {
                attribute,
                all: Vec::new(),
            });
            of_attribute.all.push((range, test));
        } else {
            others.push(term);
        }
    }
    let mut conditions = Vec::new();
    if !equal.is_empty() {
        let members: Vec<String> = equal
            .iter()
            .map(|(id, value)| format!("\"{id}\":{value}"))
            .collect();
        let document = format!("{{{}}}", members.join(","));
        conditions.push(contained(std::iter::once(document), parameters));
    }
    for Ranges { attribute, all } in ranges.values() {
        conditions.push(attribute.in_ranges(all, parameters));
    }
    conditions.extend(
        others
            .into_iter()
            .map(|term| condition(term, false, parameters)),
    );
    format!("({})", conditions.join(" AND "))
}

/// The range of a value index that a term is.
fn indexed(term: &TypedExpr) -> Option<(Attribute, IndexRange, &Test)> {
    let TypedExpr::Predicate(Predicate {
        property:
            Property::Attribute {
                id,
                kind,
                temperature,
                is_indexed: true,
            },
        test,
    }) = term
    else {
        return None;
    };
    let attribute = Attribute {
        id: *id,
        kind: *kind,
        temperature: *temperature,
        is_indexed: true,
    };
    Some((attribute, IndexRange::of(*kind, test)?, test))
}

/// The hot attribute and the value in stored form, where a term says that they are equal.
fn equality(term: &TypedExpr) -> Option<(AttributeId, String)> {
    let TypedExpr::Predicate(Predicate {
        property:
            Property::Attribute {
                id,
                temperature: Temperature::Hot,
                ..
            },
        test: Test::AnyOf(values),
    }) = term
    else {
        return None;
    };
    match values.as_slice() {
        [value] => Some((*id, json(value))),
        _ => None,
    }
}

/// What the index on hot parts answers: the hot part holds all of one of these documents.
fn contained(documents: impl Iterator<Item = String>, parameters: &mut Parameters) -> String {
    let list = parameters.push(texts(documents));
    format!("d.hot_attrs @> ANY ({list}::jsonb[])")
}

struct Attribute {
    id: AttributeId,
    kind: AttributeType,
    temperature: Temperature,
    is_indexed: bool,
}

impl Attribute {
    fn condition(&self, test: &Test, denied: bool, parameters: &mut Parameters) -> String {
        let is_hot = self.temperature == Temperature::Hot && !denied;
        if self.is_indexed
            && !denied
            && let Some(range) = IndexRange::of(self.kind, test)
        {
            return self.in_ranges(&[(range, test)], parameters);
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
    fn in_ranges(&self, ranges: &[(IndexRange, &Test)], parameters: &mut Parameters) -> String {
        let id = parameters.push(Parameter::Int8(self.id.0));
        let table = table_of(self.kind.as_str());
        let within: Vec<String> = ranges
            .iter()
            .map(|(range, _)| range.conditions(parameters))
            .collect();
        let mut conditions = vec![format!(
            "EXISTS (SELECT FROM sheaf.{table} i WHERE i.tenant_id = d.tenant_id AND i.attribute_id = {id} \
             AND i.entity_id = d.entity_id AND {})",
            within.join(" AND ")
        )];
        let plain = Attribute {
            is_indexed: false,
            ..*self
        };
        for (_, test) in ranges.iter().filter(|(range, _)| !range.is_exact) {
            conditions.push(plain.condition(test, false, parameters));
        }
        match conditions.as_slice() {
            [one] => one.clone(),
            several => format!("({})", several.join(" AND ")),
        }
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
fn json(value: &Scalar) -> String {
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
