//! Parameters: values that stand beside the text of a question and are never a part of it.

use std::collections::HashMap;

use arrow_schema::DataType;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::logical_expr::LogicalPlan;
use sheaf_model::Timestamp;

use super::error::QueryError;
use super::statement::TEXT_BYTES_MAX;

/// A value for `$1` and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Param {
    /// No value.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number with every digit that it was written with.
    Number(String),
    /// A text; a time or a number too, where one is expected.
    Text(String),
}

/// Puts the parameters into a plan, each as what its place expects.
pub(crate) fn bind(plan: LogicalPlan, params: &[Param]) -> Result<LogicalPlan, QueryError> {
    let bytes = params.iter().map(|param| match param {
        Param::Number(text) | Param::Text(text) => text.len(),
        Param::Null | Param::Bool(_) => 0,
    });
    if bytes.sum::<usize>() > TEXT_BYTES_MAX {
        return Err(QueryError::refused(format!(
            "the parameters are longer than {TEXT_BYTES_MAX} bytes"
        )));
    }
    let expected = plan
        .get_parameter_types()
        .map_err(QueryError::of_planning)?;
    let mut values = Vec::with_capacity(params.len());
    for (number, param) in (1..).zip(params) {
        let Some(kind) = expected.get(&format!("${number}")) else {
            return Err(QueryError::Parameter {
                number,
                detail: "the query has no place for it".to_owned(),
            });
        };
        values.push(value(number, param, kind.as_ref())?);
    }
    require_all(&expected, params.len())?;
    if values.is_empty() {
        return Ok(plan);
    }
    plan.with_param_values(ParamValues::from(values))
        .map_err(QueryError::of_planning)
}

fn require_all(
    expected: &HashMap<String, Option<DataType>>,
    given: usize,
) -> Result<(), QueryError> {
    for name in expected.keys() {
        let number = number_of(name)?;
        if number > given {
            return Err(QueryError::Parameter {
                number,
                detail: "no value was given".to_owned(),
            });
        }
    }
    Ok(())
}

/// How many parameters a question with places of these names has: each number up to the highest has one.
pub(crate) fn count<'a>(
    names: impl ExactSizeIterator<Item = &'a str>,
) -> Result<usize, QueryError> {
    let places = names.len();
    let mut highest = 0;
    for name in names {
        highest = number_of(name)?.max(highest);
    }
    if highest > places {
        return Err(QueryError::Parameter {
            number: highest,
            detail: "a number before it has no place in the query".to_owned(),
        });
    }
    Ok(highest)
}

fn number_of(name: &str) -> Result<usize, QueryError> {
    let number = name
        .strip_prefix('$')
        .and_then(|number| number.parse().ok());
    number.filter(|number| *number > 0).ok_or_else(|| {
        QueryError::refused(format!("parameters are $1, $2 and so on, and not {name}"))
    })
}

fn value(
    number: usize,
    param: &Param,
    expected: Option<&DataType>,
) -> Result<ScalarValue, QueryError> {
    let misfit = |detail: String| QueryError::Parameter { number, detail };
    let plain = match (param, expected) {
        (Param::Null, Some(kind)) => {
            ScalarValue::try_from(kind).map_err(QueryError::of_planning)?
        }
        (Param::Null, None) => ScalarValue::Null,
        (Param::Text(text), Some(DataType::Timestamp(_, zone))) => {
            let (time, _) = Timestamp::parse(text)
                .or_else(|_| Timestamp::parse_date(text).map(|time| (time, false)))
                .map_err(|_| misfit("expected a time in RFC 3339 form".to_owned()))?;
            ScalarValue::TimestampMicrosecond(Some(time.as_micros()), zone.clone())
        }
        (Param::Bool(is_true), _) => ScalarValue::Boolean(Some(*is_true)),
        (Param::Text(text), _) => ScalarValue::Utf8(Some(text.clone())),
        (Param::Number(text), _) => read_number(text)
            .ok_or_else(|| misfit("expected a number of at most 38 digits".to_owned()))?,
    };
    match expected {
        Some(kind) if *kind != DataType::Null && plain.data_type() != *kind => {
            let cast = plain.cast_to(kind);
            cast.map_err(|_| misfit(format!("expected a value of type {kind}")))
        }
        Some(_) | None => Ok(plain),
    }
}

/// A number as the narrowest type that has all of its digits.
fn read_number(text: &str) -> Option<ScalarValue> {
    if let Ok(number) = text.parse::<i64>() {
        return Some(ScalarValue::Int64(Some(number)));
    }
    let is_float = text.contains(['.', 'e', 'E']);
    match text.parse::<f64>() {
        Ok(number) if is_float && number.is_finite() => Some(ScalarValue::Float64(Some(number))),
        _ => {
            let number: i128 = text.parse().ok()?;
            let fits = number.unsigned_abs() < 10u128.pow(38);
            fits.then_some(ScalarValue::Decimal128(Some(number), 38, 0))
        }
    }
}
