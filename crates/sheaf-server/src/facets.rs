//! Facets as requests ask for them, in a query and in a body, and as answers have them.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use sheaf_model::Value;
use sheaf_query::{AggregateValue, Facet, FacetKind, FacetQuery, Interval, Spread};
use utoipa::ToSchema;

use crate::members::Members;
use crate::params::first_name_before;
use crate::problem::Problem;
use crate::wire::Named;

const PARAMETER: &str = "facets";
const FORM: &str =
    "expected name, name:10, name:histogram:100 or name:histogram:1d, in a comma list";

/// Reads `manufacturer:3,seats:histogram:100`.
pub(crate) fn facets_of_text(text: &str) -> Result<Vec<FacetQuery>, Problem> {
    let mut facets = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = first_name_before(rest, &[',', ':'])
            .map_err(|detail| Problem::invalid(PARAMETER, detail))?;
        let end = after.find(',').unwrap_or(after.len());
        let kind = kind_of(after[..end].trim()).ok_or_else(|| Problem::invalid(PARAMETER, FORM))?;
        facets.push(FacetQuery { name, kind });
        match after[end..].strip_prefix(',') {
            Some(after) => rest = after,
            None => return Ok(facets),
        }
    }
}

/// What follows a name: nothing, `:10`, or `:histogram:1d`.
fn kind_of(text: &str) -> Option<FacetKind> {
    if text.is_empty() {
        return Some(FacetKind::Top(None));
    }
    let text = text.strip_prefix(':')?;
    match text.strip_prefix("histogram:") {
        Some(width) => Some(FacetKind::Histogram(width.trim().to_owned())),
        None => text
            .trim()
            .parse()
            .ok()
            .map(|values| FacetKind::Top(Some(values))),
    }
}

/// What a body says of one facet: `{"top":3}`, `{"histogram":100}`, `{"histogram":"1d"}`, or `{}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FacetBody<'a> {
    #[serde(default, deserialize_with = "given")]
    top: Option<u32>,
    #[serde(borrow, default, deserialize_with = "given")]
    histogram: Option<&'a RawValue>,
}

/// A member that is there is no null.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Reads the member `facets` of a body.
pub(crate) fn facets_of_body(members: &mut Members<'_>) -> Result<Vec<FacetQuery>, Problem> {
    let Some(raw) = members.take_raw(PARAMETER).filter(|raw| *raw != "null") else {
        return Ok(Vec::new());
    };
    let mut facets = Vec::new();
    let mut own = Members::read(raw.as_bytes())?;
    while let Some((name, raw)) = own.take_first() {
        let body: FacetBody<'_> = serde_json::from_str(raw).map_err(|_| no_facet())?;
        let kind = match (body.top, body.histogram) {
            (top, None) => FacetKind::Top(top),
            (None, Some(width)) => FacetKind::Histogram(width_of(width.get())?.into_owned()),
            (Some(_), Some(_)) => {
                return Err(Problem::invalid(
                    PARAMETER,
                    "either top or histogram of one name",
                ));
            }
        };
        facets.push(FacetQuery {
            name: name.into_owned(),
            kind,
        });
    }
    Ok(facets)
}

fn no_facet() -> Problem {
    Problem::invalid(
        PARAMETER,
        "expected {\"top\":3}, {\"histogram\":100} or {\"histogram\":\"1d\"} of each name",
    )
}

/// A number's digits as they stand; a duration is a string.
fn width_of(raw: &str) -> Result<Cow<'_, str>, Problem> {
    match raw.as_bytes().first() {
        Some(b'"') => serde_json::from_str(raw).map_err(|_| no_facet()),
        Some(b'-' | b'0'..=b'9') => Ok(Cow::Borrowed(raw)),
        Some(_) | None => Err(no_facet()),
    }
}

/// How the values of one attribute are spread over all entities that match.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum SpreadBody {
    /// The most frequent values.
    Top {
        /// The most frequent first; of equally frequent ones the least.
        buckets: Vec<ValueBody>,
        /// Entities with any other value.
        other: i64,
        /// Entities without a value.
        missing: i64,
    },
    /// The intervals that hold something.
    Histogram {
        /// Their width: a number, or a duration.
        #[schema(value_type = Object)]
        interval: IntervalBody,
        /// In order. Intervals of numbers begin at multiples of the width; those of times as buckets of history do.
        buckets: Vec<IntervalCountBody>,
        /// Entities without a value.
        missing: i64,
    },
}

/// How many entities have a value.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ValueBody {
    /// The value.
    #[schema(value_type = Object)]
    value: Value,
    /// Entities.
    count: i64,
}

/// How many entities have a value in an interval.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IntervalCountBody {
    /// The least value of the interval.
    #[schema(value_type = Object)]
    from: AggregateValue,
    /// The least value after it.
    #[schema(value_type = Object)]
    to: AggregateValue,
    /// Entities.
    count: i64,
}

/// The width of intervals.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum IntervalBody {
    Width(Value),
    Duration(String),
}

/// The facets of an answer by name, in the order that they were asked for; nothing where none were.
pub(crate) fn facets_body(facets: Vec<Facet>) -> Option<Named<SpreadBody>> {
    if facets.is_empty() {
        return None;
    }
    let facets = facets.into_iter().map(|facet| {
        let body = SpreadBody::of(facet.spread, facet.missing);
        (facet.name, body)
    });
    Some(Named(facets.collect()))
}

impl SpreadBody {
    fn of(spread: Spread, missing: i64) -> SpreadBody {
        match spread {
            Spread::Top { values, other } => SpreadBody::Top {
                buckets: values
                    .into_iter()
                    .map(|(value, count)| ValueBody { value, count })
                    .collect(),
                other,
                missing,
            },
            Spread::Histogram { interval, buckets } => SpreadBody::Histogram {
                interval: match interval {
                    Interval::Width(width) => IntervalBody::Width(width),
                    Interval::Duration(width) => IntervalBody::Duration(width.to_string()),
                },
                buckets: buckets
                    .into_iter()
                    .map(|bucket| IntervalCountBody {
                        from: bucket.from,
                        to: bucket.to,
                        count: bucket.count,
                    })
                    .collect(),
                missing,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    fn top(name: &str, values: Option<u32>) -> FacetQuery {
        FacetQuery {
            name: name.to_owned(),
            kind: FacetKind::Top(values),
        }
    }

    fn histogram(name: &str, width: &str) -> FacetQuery {
        FacetQuery {
            name: name.to_owned(),
            kind: FacetKind::Histogram(width.to_owned()),
        }
    }

    #[test]
    fn facets_read_the_same_in_a_query_and_in_a_body() {
        for (text, body, facets) in [
            ("a", r#"{"a":{}}"#, vec![top("a", None)]),
            (
                "manufacturer:3, seats:histogram:100",
                r#"{"manufacturer":{"top":3},"seats":{"histogram":100}}"#,
                vec![top("manufacturer", Some(3)), histogram("seats", "100")],
            ),
            (
                r#""a,b:c":histogram:0.50,"d""e":2"#,
                r#"{"a,b:c":{"histogram":0.50},"d\"e":{"top":2}}"#,
                vec![histogram("a,b:c", "0.50"), top("d\"e", Some(2))],
            ),
            (
                "t:histogram:1d",
                r#"{"t":{"histogram":"1d"}}"#,
                vec![histogram("t", "1d")],
            ),
        ] {
            assert_eq!(facets_of_text(text).expect(text), facets);
            let whole = format!("{{\"facets\":{body}}}");
            let mut members = Members::read(whole.as_bytes()).expect(body);
            assert_eq!(facets_of_body(&mut members).expect(body), facets);
        }
    }

    #[test]
    fn what_is_no_facet_is_refused() {
        for text in ["", "a:", "a:x", "a:3:4", "a:bars:3", "a,,b", "\"a"] {
            assert!(facets_of_text(text).is_err(), "{text:?}");
        }
        for body in [
            r#"{"facets":[]}"#,
            r#"{"facets":{"a":3}}"#,
            r#"{"facets":{"a":{"top":3,"histogram":1}}}"#,
            r#"{"facets":{"a":{"bars":3}}}"#,
            r#"{"facets":{"a":{},"a":{}}}"#,
        ] {
            let mut members = Members::read(body.as_bytes()).expect(body);
            assert!(facets_of_body(&mut members).is_err(), "{body}");
        }
    }

    #[test]
    fn a_member_that_is_there_has_a_value_of_its_kind() {
        for body in [
            r#"{"facets":{"a":null}}"#,
            r#"{"facets":{"a":{"top":null}}}"#,
            r#"{"facets":{"a":{"histogram":null}}}"#,
            r#"{"facets":{"a":{"top":3,"histogram":null}}}"#,
            r#"{"facets":{"a":{"histogram":true}}}"#,
            r#"{"facets":{"a":{"histogram":[100]}}}"#,
        ] {
            let mut members = Members::read(body.as_bytes()).expect(body);
            let problem = facets_of_body(&mut members).expect_err(body);
            assert_eq!(problem.code, Code::InvalidParameter, "{body}");
        }
    }
}
