//! The JSON form of CQL2: `{"op":">=","args":[{"property":"seats"},100]}`.
//!
//! The text is cut into raw values, so that a number keeps its digits, and each piece knows where it stands.

use std::borrow::Cow;

use serde_json::value::RawValue;
use sheaf_model::{JsonFault, object_members, string_text};

use super::ast::{ArrayRelation, Comparison, Condition, Expr, Located, Node, Scalar};
use super::budget::Budget;
use super::operand::{self, Operand, OperandValue, TemporalFunction};
use super::{FilterError, JSON_BYTES_MAX, quoted};

/// Reads a filter in JSON form.
pub fn parse_json(text: &str) -> Result<Expr, FilterError> {
    Budget::length(text.len(), JSON_BYTES_MAX)?;
    let root: &RawValue = serde_json::from_str(text)
        .map_err(|fault| FilterError::invalid(byte_of(text, &fault), "not valid JSON"))?;
    let mut parser = Parser {
        text,
        budget: Budget::default(),
    };
    parser.expr(root.get())
}

/// The byte that a parser's line and column, both counted from 1, mean.
fn byte_of(text: &str, fault: &serde_json::Error) -> usize {
    if fault.is_eof() {
        return text.len();
    }
    let line_start: usize = text
        .split_inclusive('\n')
        .take(fault.line().saturating_sub(1))
        .map(str::len)
        .sum();
    text.floor_char_boundary(line_start + fault.column().saturating_sub(1))
}

struct Parser<'a> {
    text: &'a str,
    budget: Budget,
}

/// An object of the JSON form, by its members.
enum Object<'a> {
    Call { op: String, args: Vec<&'a str> },
    Property(Located<String>),
    Timestamp(Located<String>),
    Date(Located<String>),
    Interval(Vec<&'a str>),
}

impl<'a> Parser<'a> {
    fn expr(&mut self, raw: &'a str) -> Result<Expr, FilterError> {
        let offset = self.offset(raw);
        self.budget.node(offset)?;
        if !raw.starts_with('{') {
            return Err(not_a_condition(offset));
        }
        let Object::Call { op, args } = self.object(raw)? else {
            return Err(not_a_condition(offset));
        };
        let value = match op.as_str() {
            "and" => Node::And(self.terms(offset, &op, &args)?),
            "or" => Node::Or(self.terms(offset, &op, &args)?),
            "not" => {
                let [inner] = exactly(offset, &op, &args)?;
                self.budget.enter(offset)?;
                let inner = self.expr(inner)?;
                self.budget.leave();
                Node::Not(Box::new(inner))
            }
            _ => Node::Condition(self.condition(offset, &op, &args)?),
        };
        Ok(Located { offset, value })
    }

    fn terms(
        &mut self,
        offset: usize,
        op: &str,
        args: &[&'a str],
    ) -> Result<Vec<Expr>, FilterError> {
        if args.len() < 2 {
            let detail = format!("{op} takes two or more args");
            return Err(FilterError::invalid(offset, detail));
        }
        self.budget.enter(offset)?;
        let mut terms = Vec::new();
        for arg in args {
            terms.push(self.expr(arg)?);
        }
        self.budget.leave();
        Ok(terms)
    }

    fn condition(
        &self,
        offset: usize,
        op: &str,
        args: &[&'a str],
    ) -> Result<Condition, FilterError> {
        let comparison = Comparison::ALL
            .into_iter()
            .find(|comparison| comparison.as_str() == op);
        if let Some(comparison) = comparison {
            let [left, right] = exactly(offset, op, args)?;
            return operand::compare(self.operand(left)?, comparison, self.operand(right)?);
        }
        // Text form takes functions in any case, JSON in lower case only.
        let is_lower_case = !op.bytes().any(|byte| byte.is_ascii_uppercase());
        if let Some(function) = TemporalFunction::named(op)
            && is_lower_case
        {
            let [left, right] = exactly(offset, op, args)?;
            return operand::temporal(function, self.operand(left)?, self.operand(right)?);
        }
        if let Some(relation) = ArrayRelation::named(op)
            && is_lower_case
        {
            let [subject, list] = exactly(offset, op, args)?;
            return operand::array(relation, self.operand(subject)?, self.list(list)?);
        }
        match op {
            "between" => {
                let [subject, low, high] = exactly(offset, op, args)?;
                operand::between(
                    self.operand(subject)?,
                    self.operand(low)?,
                    self.operand(high)?,
                )
            }
            "in" => {
                let [subject, list] = exactly(offset, op, args)?;
                operand::in_list(self.operand(subject)?, self.list(list)?)
            }
            "like" => {
                let [subject, pattern] = exactly(offset, op, args)?;
                operand::like(self.operand(subject)?, self.operand(pattern)?)
            }
            "isNull" => {
                let [subject] = exactly(offset, op, args)?;
                operand::is_null(self.operand(subject)?)
            }
            _ => Err(FilterError::invalid(
                offset,
                format!("operator {} is not supported", quoted(op)),
            )),
        }
    }

    fn list(&self, raw: &'a str) -> Result<Vec<Operand>, FilterError> {
        let elements = self.elements(raw)?;
        if let Some(first_past) = elements.get(super::LIST_LENGTH_MAX) {
            Budget::list(elements.len(), self.offset(first_past))?;
        }
        elements.into_iter().map(|raw| self.operand(raw)).collect()
    }

    fn operand(&self, raw: &'a str) -> Result<Operand, FilterError> {
        let offset = self.offset(raw);
        match raw.as_bytes().first() {
            Some(b'"') => Ok(Operand::literal(
                offset,
                Scalar::Text(self.text(raw)?.value),
            )),
            Some(b'-' | b'0'..=b'9') => Ok(Operand::literal(offset, operand::number(offset, raw)?)),
            Some(b't') => Ok(Operand::literal(offset, Scalar::Bool(true))),
            Some(b'f') => Ok(Operand::literal(offset, Scalar::Bool(false))),
            Some(b'{') => self.object_operand(offset, raw),
            Some(_) | None => Err(FilterError::invalid(
                offset,
                "expected a property or a literal",
            )),
        }
    }

    fn object_operand(&self, offset: usize, raw: &'a str) -> Result<Operand, FilterError> {
        match self.object(raw)? {
            Object::Property(name) => Ok(Operand::property(name.offset, name.value)),
            Object::Timestamp(text) => {
                let value = operand::timestamp(text.offset, &text.value)?;
                Ok(Operand::literal(offset, Scalar::Time(value)))
            }
            Object::Date(text) => {
                let value = operand::date(text.offset, &text.value)?;
                Ok(Operand::literal(offset, Scalar::Time(value)))
            }
            Object::Interval(ends) => {
                let [from, to] = exactly(offset, "interval", &ends)?;
                let (from, to) = (self.text(from)?, self.text(to)?);
                Ok(Operand {
                    offset,
                    folded: false,
                    value: OperandValue::Interval {
                        from: operand::interval_end(from.offset, &from.value)?,
                        to: operand::interval_end(to.offset, &to.value)?,
                    },
                })
            }
            Object::Call { op, args } if op == "casei" => {
                let [inner] = exactly(offset, &op, &args)?;
                // A call inside would recurse; CASEI does not nest, so that its argument is never another call.
                if inner.starts_with('{') {
                    let Object::Property(name) = self.object(inner)? else {
                        let detail = "CASEI takes a property or a text";
                        return Err(FilterError::invalid(self.offset(inner), detail));
                    };
                    return Operand::property(name.offset, name.value).into_folded();
                }
                self.operand(inner)?.into_folded()
            }
            Object::Call { op, .. } => Err(FilterError::invalid(
                offset,
                format!("function {} is not supported", quoted(&op)),
            )),
        }
    }

    fn object(&self, raw: &'a str) -> Result<Object<'a>, FilterError> {
        let offset = self.offset(raw);
        let members = object_members(raw).map_err(|fault| json_fault(offset, &fault))?;
        let mut members: Vec<(Cow<'a, str>, &'a str)> = members
            .into_iter()
            .map(|(name, value)| (name, value.get()))
            .collect();
        members.sort_by(|one, two| one.0.cmp(&two.0));
        let names: Vec<&str> = members.iter().map(|(name, _)| name.as_ref()).collect();
        match names.as_slice() {
            ["args", "op"] => Ok(Object::Call {
                args: self.elements(members[0].1)?,
                op: self.text(members[1].1)?.value,
            }),
            ["property"] => Ok(Object::Property(self.text(members[0].1)?)),
            ["timestamp"] => Ok(Object::Timestamp(self.text(members[0].1)?)),
            ["date"] => Ok(Object::Date(self.text(members[0].1)?)),
            ["interval"] => Ok(Object::Interval(self.elements(members[0].1)?)),
            _ => {
                let known = ["args", "op", "property", "timestamp", "date", "interval"];
                let stranger = names.iter().find(|name| !known.contains(name));
                let detail = match stranger {
                    Some(name) => format!("unknown member {}", quoted(name)),
                    None => "expected an object with op and args, or with exactly one of property, timestamp, \
                             date and interval"
                        .to_owned(),
                };
                Err(FilterError::invalid(offset, detail))
            }
        }
    }

    fn elements(&self, raw: &'a str) -> Result<Vec<&'a str>, FilterError> {
        let elements: Vec<&'a RawValue> = serde_json::from_str(raw)
            .map_err(|_| FilterError::invalid(self.offset(raw), "expected an array"))?;
        Ok(elements.into_iter().map(RawValue::get).collect())
    }

    fn text(&self, raw: &'a str) -> Result<Located<String>, FilterError> {
        let offset = self.offset(raw);
        if !raw.starts_with('"') {
            return Err(FilterError::invalid(offset, "expected a string"));
        }
        match string_text(raw) {
            Ok(text) => Ok(Located {
                offset,
                value: text.into_owned(),
            }),
            Err(fault) => Err(json_fault(offset, &fault)),
        }
    }

    /// Raw values are slices of the filter, so that their place is the distance of their first byte from its.
    fn offset(&self, raw: &str) -> usize {
        (raw.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }
}

fn exactly<'a, const N: usize>(
    offset: usize,
    op: &str,
    args: &[&'a str],
) -> Result<[&'a str; N], FilterError> {
    args.try_into().map_err(|_| {
        let detail = format!("{op} takes {N} args, got {}", args.len());
        FilterError::invalid(offset, detail)
    })
}

fn not_a_condition(offset: usize) -> FilterError {
    FilterError::invalid(offset, "expected a condition: an object with op and args")
}

fn json_fault(offset: usize, fault: &JsonFault) -> FilterError {
    FilterError::invalid(offset, fault.to_string())
}
