//! Conditions put together from their operands: one set of rules for both forms of the language.

use sheaf_model::{Decimal, DecimalFault, Timestamp};

use super::FilterError;
use super::ast::{ArrayRelation, Comparison, Condition, Located, Scalar};

/// One side of a condition, before it is known which side is the property.
pub(super) struct Operand {
    pub(super) offset: usize,
    /// Inside `CASEI`.
    pub(super) folded: bool,
    pub(super) value: OperandValue,
}

pub(super) enum OperandValue {
    Property(String),
    Literal(Scalar),
    Interval {
        from: Option<Located<Timestamp>>,
        to: Option<Located<Timestamp>>,
    },
}

/// The functions on times that are served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TemporalFunction {
    Before,
    After,
    During,
}

impl TemporalFunction {
    /// By its name in text form, in any case.
    pub(super) fn named(name: &str) -> Option<TemporalFunction> {
        [
            TemporalFunction::Before,
            TemporalFunction::After,
            TemporalFunction::During,
        ]
        .into_iter()
        .find(|function| function.as_str().eq_ignore_ascii_case(name))
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            TemporalFunction::Before => "T_BEFORE",
            TemporalFunction::After => "T_AFTER",
            TemporalFunction::During => "T_DURING",
        }
    }
}

impl ArrayRelation {
    /// By the function's name in text form, in any case.
    pub(super) fn named(name: &str) -> Option<ArrayRelation> {
        [ArrayRelation::Contains, ArrayRelation::Overlaps]
            .into_iter()
            .find(|relation| relation.as_str().eq_ignore_ascii_case(name))
    }
}

pub(super) fn compare(
    left: Operand,
    comparison: Comparison,
    right: Operand,
) -> Result<Condition, FilterError> {
    let (property, comparison, literal) = match (left.is_property(), right.is_property()) {
        (true, false) => (left, comparison, right),
        (false, true) => (right, comparison.flipped(), left),
        (true, true) => {
            return Err(FilterError::invalid(
                right.offset,
                "comparing two properties is not supported",
            ));
        }
        (false, false) => {
            return Err(FilterError::invalid(
                left.offset,
                "a comparison needs a property on one side",
            ));
        }
    };
    let folded = same_folding(&property, &literal)?;
    if folded && !matches!(comparison, Comparison::Equal | Comparison::NotEqual) {
        return Err(FilterError::invalid(
            property.offset,
            "CASEI is supported with = <> IN and LIKE only",
        ));
    }
    Ok(Condition::Compare {
        property: property.into_property("a comparison")?,
        folded,
        comparison,
        value: literal.into_literal()?,
    })
}

pub(super) fn between(
    subject: Operand,
    low: Operand,
    high: Operand,
) -> Result<Condition, FilterError> {
    if let Some(folded) = [&subject, &low, &high].into_iter().find(|side| side.folded) {
        return Err(FilterError::invalid(
            folded.offset,
            "CASEI is supported with = <> IN and LIKE only",
        ));
    }
    Ok(Condition::Between {
        property: subject.into_property("BETWEEN")?,
        low: low.into_literal()?,
        high: high.into_literal()?,
    })
}

pub(super) fn in_list(subject: Operand, elements: Vec<Operand>) -> Result<Condition, FilterError> {
    if elements.is_empty() {
        return Err(FilterError::invalid(
            subject.offset,
            "the list of IN is empty",
        ));
    }
    let folded = subject.folded;
    let mut values = Vec::with_capacity(elements.len());
    for element in elements {
        same_folding(&subject, &element)?;
        values.push(element.into_literal()?);
    }
    Ok(Condition::In {
        property: subject.into_property("IN")?,
        folded,
        values,
    })
}

pub(super) fn like(subject: Operand, pattern: Operand) -> Result<Condition, FilterError> {
    let folded = same_folding(&subject, &pattern)?;
    let Located { offset, value } = pattern.into_literal()?;
    let Scalar::Text(pattern) = value else {
        return Err(FilterError::invalid(
            offset,
            format!("the pattern of LIKE is a text, not {}", value.kind()),
        ));
    };
    if super::like::ends_in_escape(&pattern) {
        return Err(FilterError::invalid(
            offset,
            "the pattern of LIKE ends in a backslash that escapes nothing",
        ));
    }
    Ok(Condition::Like {
        property: subject.into_property("LIKE")?,
        folded,
        pattern: Located {
            offset,
            value: pattern,
        },
    })
}

pub(super) fn is_null(subject: Operand) -> Result<Condition, FilterError> {
    subject.refuse_folding("IS NULL")?;
    Ok(Condition::IsNull {
        property: subject.into_property("IS NULL")?,
    })
}

pub(super) fn temporal(
    function: TemporalFunction,
    left: Operand,
    right: Operand,
) -> Result<Condition, FilterError> {
    left.refuse_folding(function.as_str())?;
    right.refuse_folding(function.as_str())?;
    let comparison = match function {
        TemporalFunction::Before => Comparison::Less,
        TemporalFunction::After => Comparison::Greater,
        TemporalFunction::During => return during(left, right),
    };
    for side in [&left, &right] {
        match &side.value {
            OperandValue::Property(_) | OperandValue::Literal(Scalar::Time(_)) => {}
            OperandValue::Literal(_) | OperandValue::Interval { .. } => {
                let name = function.as_str();
                let detail = format!("{name} takes a property and a TIMESTAMP or DATE");
                return Err(FilterError::invalid(side.offset, detail));
            }
        }
    }
    compare(left, comparison, right)
}

fn during(left: Operand, right: Operand) -> Result<Condition, FilterError> {
    match right.value {
        OperandValue::Interval { from, to } => Ok(Condition::During {
            property: left.into_property("T_DURING")?,
            from,
            to,
        }),
        OperandValue::Property(_) | OperandValue::Literal(_) => Err(FilterError::invalid(
            right.offset,
            "T_DURING takes a property and an INTERVAL",
        )),
    }
}

pub(super) fn array(
    relation: ArrayRelation,
    subject: Operand,
    elements: Vec<Operand>,
) -> Result<Condition, FilterError> {
    subject.refuse_folding(relation.as_str())?;
    let mut values = Vec::with_capacity(elements.len());
    for element in elements {
        element.refuse_folding(relation.as_str())?;
        values.push(element.into_literal()?);
    }
    Ok(Condition::Array {
        property: subject.into_property(relation.as_str())?,
        relation,
        values,
    })
}

/// The text of `TIMESTAMP('..')`. Digits below a microsecond are cut, as they are when a value is written.
pub(super) fn timestamp(offset: usize, text: &str) -> Result<Timestamp, FilterError> {
    match Timestamp::parse(text) {
        Ok((time, _)) => Ok(time),
        Err(fault) => Err(FilterError::invalid(offset, format!("TIMESTAMP: {fault}"))),
    }
}

/// The text of `DATE('..')`.
pub(super) fn date(offset: usize, text: &str) -> Result<Timestamp, FilterError> {
    Timestamp::parse_date(text)
        .map_err(|_| FilterError::invalid(offset, "DATE takes a day such as 2013-01-31"))
}

/// One end of an interval: `..`, a day or a time.
pub(super) fn interval_end(
    offset: usize,
    text: &str,
) -> Result<Option<Located<Timestamp>>, FilterError> {
    if text == ".." {
        return Ok(None);
    }
    let value = if text.len() == 10 {
        date(offset, text)?
    } else {
        timestamp(offset, text)?
    };
    Ok(Some(Located { offset, value }))
}

/// A number in JSON's form.
pub(super) fn number(offset: usize, text: &str) -> Result<Scalar, FilterError> {
    text.parse::<Decimal>()
        .map(Scalar::Number)
        .map_err(|fault| match fault {
            DecimalFault::Malformed => FilterError::invalid(offset, "not a number"),
            DecimalFault::TooManyDigits => {
                FilterError::invalid(offset, format!("a number of {fault}"))
            }
        })
}

fn same_folding(subject: &Operand, other: &Operand) -> Result<bool, FilterError> {
    if subject.folded == other.folded {
        return Ok(subject.folded);
    }
    Err(FilterError::invalid(
        other.offset,
        "CASEI has to stand on both sides",
    ))
}

impl Operand {
    pub(super) fn property(offset: usize, name: String) -> Operand {
        Operand {
            offset,
            folded: false,
            value: OperandValue::Property(name),
        }
    }

    pub(super) fn literal(offset: usize, value: Scalar) -> Operand {
        Operand {
            offset,
            folded: false,
            value: OperandValue::Literal(value),
        }
    }

    /// This operand inside `CASEI`, which folds texts and does not nest.
    pub(super) fn into_folded(self) -> Result<Operand, FilterError> {
        let folds = match &self.value {
            OperandValue::Property(_) | OperandValue::Literal(Scalar::Text(_)) => !self.folded,
            OperandValue::Literal(_) | OperandValue::Interval { .. } => false,
        };
        if !folds {
            return Err(FilterError::invalid(
                self.offset,
                "CASEI takes a property or a text",
            ));
        }
        Ok(Operand {
            folded: true,
            ..self
        })
    }

    fn is_property(&self) -> bool {
        matches!(self.value, OperandValue::Property(_))
    }

    fn refuse_folding(&self, condition: &str) -> Result<(), FilterError> {
        if self.folded {
            let detail = format!("{condition} does not take CASEI");
            return Err(FilterError::invalid(self.offset, detail));
        }
        Ok(())
    }

    fn into_property(self, condition: &str) -> Result<Located<String>, FilterError> {
        match self.value {
            OperandValue::Property(name) => Ok(Located {
                offset: self.offset,
                value: name,
            }),
            OperandValue::Literal(_) | OperandValue::Interval { .. } => Err(FilterError::invalid(
                self.offset,
                format!("{condition} needs a property here"),
            )),
        }
    }

    fn into_literal(self) -> Result<Located<Scalar>, FilterError> {
        match self.value {
            OperandValue::Literal(value) => Ok(Located {
                offset: self.offset,
                value,
            }),
            OperandValue::Property(_) => Err(FilterError::invalid(
                self.offset,
                "comparing two properties is not supported",
            )),
            OperandValue::Interval { .. } => Err(FilterError::invalid(
                self.offset,
                "INTERVAL is supported in T_DURING only",
            )),
        }
    }
}
