//! What a filter says, whichever form it was sent in.

use sheaf_model::{Decimal, Timestamp};

/// Something and the byte of the filter where it stands.
#[derive(Debug, Clone)]
pub struct Located<T> {
    /// Bytes from the start of the filter.
    pub offset: usize,
    /// What stands there.
    pub value: T,
}

/// Two things are equal when they say the same, wherever they stand.
impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Located<T>) -> bool {
        self.value == other.value
    }
}

/// A filter or a part of one.
pub type Expr = Located<Node>;

/// A condition, or several put together. `x NOT IN (..)` and the like are `Not` of the plain form.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// All of them; two or more.
    And(Vec<Expr>),
    /// Any of them; two or more.
    Or(Vec<Expr>),
    /// The opposite; of unknown, unknown.
    Not(Box<Expr>),
    /// What is said of one property.
    Condition(Condition),
}

/// What is said of one property.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// `property op value`.
    Compare {
        /// The name on one side, as it was written.
        property: Located<String>,
        /// `CASEI` on both sides.
        folded: bool,
        /// How the property stands to the value.
        comparison: Comparison,
        /// The literal on the other side.
        value: Located<Scalar>,
    },
    /// `property BETWEEN low AND high`, both ends included.
    Between {
        /// The name.
        property: Located<String>,
        /// The lower end.
        low: Located<Scalar>,
        /// The upper end.
        high: Located<Scalar>,
    },
    /// `property IN (values)`.
    In {
        /// The name.
        property: Located<String>,
        /// `CASEI` on both sides.
        folded: bool,
        /// One or more literals.
        values: Vec<Located<Scalar>>,
    },
    /// `property LIKE pattern`.
    Like {
        /// The name.
        property: Located<String>,
        /// `CASEI` on both sides.
        folded: bool,
        /// `%` any text, `_` any one character, `\` takes the next character as itself.
        pattern: Located<String>,
    },
    /// `property IS NULL`: the attribute is absent.
    IsNull {
        /// The name.
        property: Located<String>,
    },
    /// `T_DURING(property, INTERVAL(from, to))`, both ends excluded; an open end is `None`.
    During {
        /// The name.
        property: Located<String>,
        /// The start.
        from: Option<Located<Timestamp>>,
        /// The end.
        to: Option<Located<Timestamp>>,
    },
    /// `A_CONTAINS(property, (values))` or `A_OVERLAPS`.
    Array {
        /// The name.
        property: Located<String>,
        /// All of the values, or any.
        relation: ArrayRelation,
        /// Literals, possibly none.
        values: Vec<Located<Scalar>>,
    },
}

impl Condition {
    /// The name of the property that it is about.
    pub fn property(&self) -> &Located<String> {
        match self {
            Condition::Compare { property, .. }
            | Condition::Between { property, .. }
            | Condition::In { property, .. }
            | Condition::Like { property, .. }
            | Condition::IsNull { property }
            | Condition::During { property, .. }
            | Condition::Array { property, .. } => property,
        }
    }
}

/// How a property stands to a literal. `T_BEFORE` is `Less`, `T_AFTER` is `Greater`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Comparison {
    /// Every comparison.
    pub const ALL: [Comparison; 6] = [
        Comparison::Equal,
        Comparison::NotEqual,
        Comparison::Less,
        Comparison::LessOrEqual,
        Comparison::Greater,
        Comparison::GreaterOrEqual,
    ];

    /// The sign in both forms of CQL2.
    pub fn as_str(self) -> &'static str {
        match self {
            Comparison::Equal => "=",
            Comparison::NotEqual => "<>",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        }
    }

    /// The comparison that says the same with its sides exchanged.
    pub(super) fn flipped(self) -> Comparison {
        match self {
            Comparison::Equal | Comparison::NotEqual => self,
            Comparison::Less => Comparison::Greater,
            Comparison::LessOrEqual => Comparison::GreaterOrEqual,
            Comparison::Greater => Comparison::Less,
            Comparison::GreaterOrEqual => Comparison::LessOrEqual,
        }
    }
}

/// How the array of a json attribute stands to a list of literals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArrayRelation {
    /// Every literal is an element.
    Contains,
    /// At least one literal is an element.
    Overlaps,
}

impl ArrayRelation {
    /// The function in text form; in JSON form it is in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            ArrayRelation::Contains => "A_CONTAINS",
            ArrayRelation::Overlaps => "A_OVERLAPS",
        }
    }
}

/// A literal.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// An exact number.
    Number(Decimal),
    /// A text without NUL, which PostgreSQL cannot hold.
    Text(String),
    /// `TRUE` or `FALSE`.
    Bool(bool),
    /// `TIMESTAMP('..')` or `DATE('..')`.
    Time(Timestamp),
}

impl Scalar {
    /// What it is, in the words of an error.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Scalar::Number(_) => "a number",
            Scalar::Text(_) => "a text",
            Scalar::Bool(_) => "a truth value",
            Scalar::Time(_) => "a time",
        }
    }
}
