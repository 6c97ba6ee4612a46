//! A filter whose properties are known and whose literals have their attributes' types.
//!
//! Seven tests are all there is to say of a property; every condition of the language is one of them, or the
//! opposite of one. `<>` is the opposite of `=`: of an absent attribute both are unknown.

use sheaf_model::{AttributeId, AttributeType, Name, Timestamp};
use sheaf_store::catalogue::Temperature;

use super::FilterError;
use super::ast::{ArrayRelation, Comparison, Condition, Expr, Located, Node, Scalar};
use super::budget::Budget;
use super::parameter::Parameters;
use super::sql::compile;

/// What a name in a filter stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// An attribute of the tenant's catalogue.
    Attribute {
        /// Its number, which is its key in documents.
        id: AttributeId,
        /// Its type.
        kind: AttributeType,
        /// Where documents hold it.
        temperature: Temperature,
        /// Whether its value index has every value.
        is_indexed: bool,
    },
    /// A property of the entity itself.
    Reserved(Reserved),
}

/// The properties that every entity has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// `entity_type`
    EntityType,
    /// `external_id`
    ExternalId,
    /// `observed_at`: the time of the newest event.
    ObservedAt,
    /// `updated_at`: the time of the last change of a value.
    UpdatedAt,
}

impl Reserved {
    /// The property with this name.
    pub fn named(name: &str) -> Option<Reserved> {
        match name {
            "entity_type" => Some(Reserved::EntityType),
            "external_id" => Some(Reserved::ExternalId),
            "observed_at" => Some(Reserved::ObservedAt),
            "updated_at" => Some(Reserved::UpdatedAt),
            _ => None,
        }
    }
}

impl Property {
    /// Whether it is an entity's type or id.
    pub(crate) fn is_of_names(self) -> bool {
        match self {
            Property::Reserved(Reserved::EntityType | Reserved::ExternalId) => true,
            Property::Reserved(Reserved::ObservedAt | Reserved::UpdatedAt)
            | Property::Attribute { .. } => false,
        }
    }

    /// The type of its values.
    pub fn kind(&self) -> AttributeType {
        match self {
            Property::Attribute { kind, .. } => *kind,
            Property::Reserved(Reserved::EntityType | Reserved::ExternalId) => AttributeType::Text,
            Property::Reserved(Reserved::ObservedAt | Reserved::UpdatedAt) => AttributeType::Time,
        }
    }
}

/// A filter that can be evaluated.
#[derive(Debug, Clone, PartialEq)]
pub enum TypedExpr {
    /// All of them.
    And(Vec<TypedExpr>),
    /// Any of them.
    Or(Vec<TypedExpr>),
    /// The opposite.
    Not(Box<TypedExpr>),
    /// What is said of one property.
    Predicate(Predicate),
}

/// What is said of one property.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicate {
    /// Of which.
    pub property: Property,
    /// What.
    pub test: Test,
}

/// A test of a value. Of an absent one all are unknown, except `Absent`.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// There is no value.
    Absent,
    /// The value is one of these; one or more, each of the property's type.
    AnyOf(Vec<Scalar>),
    /// The upper-case form of the text is that of one of these.
    AnyOfFolded(Vec<String>),
    /// The value lies between these; an end that is absent is open.
    Range {
        /// The lower end.
        low: Option<Bound>,
        /// The upper end.
        high: Option<Bound>,
    },
    /// The whole text fits the pattern.
    Like {
        /// With `%`, `_` and `\`.
        pattern: String,
        /// Whether the upper-case forms of both count.
        folded: bool,
    },
    /// The value is an array of which these are elements.
    Array {
        /// All of them, or any.
        relation: ArrayRelation,
        /// Numbers, texts and truth values.
        elements: Vec<Scalar>,
    },
}

/// One end of a range.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// A number, a text or a time.
    pub value: Scalar,
    /// Whether the value itself lies in the range.
    pub inclusive: bool,
}

impl TypedExpr {
    /// Finds the properties with `lookup`, which is asked for names in their canonical spelling, and checks the
    /// literals against their types. What cannot be sent to PostgreSQL is refused.
    pub fn resolve(
        expr: &Expr,
        lookup: &dyn Fn(&str) -> Option<Property>,
    ) -> Result<TypedExpr, FilterError> {
        let typed = TypedExpr::found(expr, lookup)?;
        let mut parameters = Parameters::default();
        compile(&typed, "$1", &mut parameters);
        Budget::parameters(&parameters)?;
        Ok(typed)
    }

    fn found(
        expr: &Expr,
        lookup: &dyn Fn(&str) -> Option<Property>,
    ) -> Result<TypedExpr, FilterError> {
        match &expr.value {
            Node::And(terms) => Ok(TypedExpr::And(resolve_all(terms, lookup)?)),
            Node::Or(terms) => Ok(TypedExpr::Or(resolve_all(terms, lookup)?)),
            Node::Not(inner) => Ok(TypedExpr::Not(Box::new(TypedExpr::found(inner, lookup)?))),
            Node::Condition(condition) => {
                let name = condition.property();
                let subject = Subject {
                    name,
                    property: find(name, lookup)?,
                };
                subject.typed(condition)
            }
        }
    }
}

/// Whether a filter is about an entity's type or id, which documents do not have.
pub(crate) fn mentions_names(filter: &TypedExpr) -> bool {
    match filter {
        TypedExpr::And(terms) | TypedExpr::Or(terms) => terms.iter().any(mentions_names),
        TypedExpr::Not(inner) => mentions_names(inner),
        TypedExpr::Predicate(predicate) => predicate.property.is_of_names(),
    }
}

fn resolve_all(
    terms: &[Expr],
    lookup: &dyn Fn(&str) -> Option<Property>,
) -> Result<Vec<TypedExpr>, FilterError> {
    terms
        .iter()
        .map(|term| TypedExpr::found(term, lookup))
        .collect()
}

fn find(
    name: &Located<String>,
    lookup: &dyn Fn(&str) -> Option<Property>,
) -> Result<Property, FilterError> {
    let canonical = Name::parse(&name.value)
        .map_err(|fault| FilterError::invalid(name.offset, fault.to_string()))?;
    lookup(canonical.as_str()).ok_or_else(|| FilterError::UnknownAttribute {
        offset: name.offset,
        name: canonical.into_string(),
    })
}

/// The property of one condition, and its name for errors.
struct Subject<'a> {
    name: &'a Located<String>,
    property: Property,
}

impl Subject<'_> {
    fn typed(&self, condition: &Condition) -> Result<TypedExpr, FilterError> {
        let test = match condition {
            Condition::Compare {
                folded,
                comparison,
                value,
                ..
            } => return self.comparison(*comparison, *folded, value),
            Condition::Between { low, high, .. } => Test::Range {
                low: Some(self.bound(low, true)?),
                high: Some(self.bound(high, true)?),
            },
            Condition::In { folded, values, .. } => self.any_of(*folded, values)?,
            Condition::Like {
                folded, pattern, ..
            } => {
                self.require(AttributeType::Text, "LIKE")?;
                Test::Like {
                    pattern: pattern.value.clone(),
                    folded: *folded,
                }
            }
            Condition::IsNull { .. } => Test::Absent,
            Condition::During { from, to, .. } => {
                self.require(AttributeType::Time, "T_DURING")?;
                Test::Range {
                    low: from.as_ref().map(exclusive),
                    high: to.as_ref().map(exclusive),
                }
            }
            Condition::Array {
                relation, values, ..
            } => {
                self.require(AttributeType::Json, relation.as_str())?;
                Test::Array {
                    relation: *relation,
                    elements: values.iter().map(element).collect::<Result<_, _>>()?,
                }
            }
        };
        Ok(self.predicate(test))
    }

    fn comparison(
        &self,
        comparison: Comparison,
        folded: bool,
        value: &Located<Scalar>,
    ) -> Result<TypedExpr, FilterError> {
        let (low, high) = match comparison {
            Comparison::Equal | Comparison::NotEqual => {
                let equal = self.predicate(self.any_of(folded, std::slice::from_ref(value))?);
                return Ok(match comparison {
                    Comparison::NotEqual => TypedExpr::Not(Box::new(equal)),
                    _ => equal,
                });
            }
            Comparison::Less => (None, Some(self.bound(value, false)?)),
            Comparison::LessOrEqual => (None, Some(self.bound(value, true)?)),
            Comparison::Greater => (Some(self.bound(value, false)?), None),
            Comparison::GreaterOrEqual => (Some(self.bound(value, true)?), None),
        };
        Ok(self.predicate(Test::Range { low, high }))
    }

    fn any_of(&self, folded: bool, values: &[Located<Scalar>]) -> Result<Test, FilterError> {
        if folded {
            self.require(AttributeType::Text, "CASEI")?;
        }
        let mut texts = Vec::new();
        let mut scalars = Vec::new();
        for value in values {
            match self.fitting(value)? {
                Scalar::Text(text) if folded => texts.push(text),
                scalar => scalars.push(scalar),
            }
        }
        Ok(if folded {
            Test::AnyOfFolded(texts)
        } else {
            Test::AnyOf(scalars)
        })
    }

    fn bound(&self, value: &Located<Scalar>, inclusive: bool) -> Result<Bound, FilterError> {
        if let Scalar::Bool(_) = value.value {
            let detail = "truth values have no order; = <> and IN are supported";
            return Err(FilterError::invalid(value.offset, detail));
        }
        Ok(Bound {
            value: self.fitting(value)?,
            inclusive,
        })
    }

    /// The literal, if it is of the property's type.
    fn fitting(&self, value: &Located<Scalar>) -> Result<Scalar, FilterError> {
        let kind = self.property.kind();
        let fits = match kind {
            AttributeType::Int | AttributeType::Float | AttributeType::Decimal => {
                matches!(value.value, Scalar::Number(_))
            }
            AttributeType::Text => matches!(value.value, Scalar::Text(_)),
            AttributeType::Bool => matches!(value.value, Scalar::Bool(_)),
            AttributeType::Time => matches!(value.value, Scalar::Time(_)),
            AttributeType::Json => {
                let detail = format!(
                    "{} is json: IS NULL, A_CONTAINS and A_OVERLAPS are supported",
                    self.name.value
                );
                return Err(FilterError::invalid(self.name.offset, detail));
            }
        };
        if !fits {
            let detail = format!("{} is {kind}, got {}", self.name.value, value.value.kind());
            return Err(FilterError::invalid(value.offset, detail));
        }
        Ok(value.value.clone())
    }

    fn require(&self, kind: AttributeType, condition: &str) -> Result<(), FilterError> {
        let found = self.property.kind();
        if found == kind {
            return Ok(());
        }
        let detail = format!(
            "{condition} needs a property of type {kind}, {} is {found}",
            self.name.value
        );
        Err(FilterError::invalid(self.name.offset, detail))
    }

    fn predicate(&self, test: Test) -> TypedExpr {
        TypedExpr::Predicate(Predicate {
            property: self.property,
            test,
        })
    }
}

fn exclusive(time: &Located<Timestamp>) -> Bound {
    Bound {
        value: Scalar::Time(time.value),
        inclusive: false,
    }
}

/// JSON has no times, so that no element of an array is one.
fn element(value: &Located<Scalar>) -> Result<Scalar, FilterError> {
    match &value.value {
        Scalar::Number(_) | Scalar::Text(_) | Scalar::Bool(_) => Ok(value.value.clone()),
        Scalar::Time(_) => Err(FilterError::invalid(
            value.offset,
            "an element of a json array is a number, a text or a truth value",
        )),
    }
}
