//! What a value index answers of a test: the rows between two values of its type.
//!
//! An index holds a value in its own type: a text's first characters, a float as a double. A literal of a filter is exact,
//! so that an end can lie between two values that the index tells apart, or beyond what they can be. Each end is moved
//! outwards to the nearest value of the index; where that may let in more than the test does, the test is asked again of
//! the document.

use sheaf_model::AttributeType;
use sheaf_store::value_index::INDEXED_TEXT_CHARS_MAX;

use super::ast::Scalar;
use super::like;
use super::parameter::{Parameter, Parameters};
use super::typed::{Bound, Test};

/// A range of a value index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexRange {
    cast: &'static str,
    ends: Vec<(&'static str, String)>,
    /// Whether it holds exactly the rows for which the test does.
    pub(crate) is_exact: bool,
}

impl IndexRange {
    /// The range that holds every value for which the test does; none where no index can tell.
    pub(crate) fn of(kind: AttributeType, test: &Test) -> Option<IndexRange> {
        let cast = cast_of(kind)?;
        let mut range = IndexRange {
            cast,
            ends: Vec::new(),
            is_exact: true,
        };
        match test {
            Test::Range { low, high } => {
                if let Some(bound) = low {
                    range.begin(kind, bound)?;
                }
                if let Some(bound) = high {
                    range.end(kind, bound)?;
                }
            }
            Test::Like {
                pattern,
                folded: false,
            } if kind == AttributeType::Text => {
                range.is_exact = false;
                let prefix = like::prefix(pattern);
                // A pattern that begins with % says nothing of where the text stands.
                if prefix.is_empty() {
                    return None;
                }
                let kept = kept(&prefix);
                range.ends.push((">=", kept.to_owned()));
                if let Some(after) = after_prefix(kept) {
                    range.ends.push(("<", after));
                }
            }
            Test::Absent
            | Test::AnyOf(_)
            | Test::AnyOfFolded(_)
            | Test::Like { .. }
            | Test::Array { .. } => return None,
        }
        // Without an end it would be every row, which the presence of the attribute says as well.
        (!range.ends.is_empty()).then_some(range)
    }

    fn begin(&mut self, kind: AttributeType, bound: &Bound) -> Option<()> {
        let end = end_of(kind, bound, Side::Low)?;
        self.is_exact &= end.is_exact;
        let sign = if end.inclusive { ">=" } else { ">" };
        self.ends.push((sign, end.value));
        Some(())
    }

    fn end(&mut self, kind: AttributeType, bound: &Bound) -> Option<()> {
        let end = end_of(kind, bound, Side::High)?;
        self.is_exact &= end.is_exact;
        let sign = if end.inclusive { "<=" } else { "<" };
        self.ends.push((sign, end.value));
        Some(())
    }

    /// The conditions on the value of the alias `i`.
    pub(crate) fn conditions(&self, parameters: &mut Parameters) -> String {
        let conditions: Vec<String> = self
            .ends
            .iter()
            .map(|(sign, value)| {
                let value = parameters.push(Parameter::Text(value.clone()));
                format!("i.value {sign} {value}{}", self.cast)
            })
            .collect();
        conditions.join(" AND ")
    }
}

/// The table of a type's value index, without its schema.
pub(crate) fn table_of(kind: &str) -> String {
    format!("entity_index_{kind}")
}

/// From text to what an index of this type holds; none where there is no such index.
pub(crate) fn cast_of(kind: AttributeType) -> Option<&'static str> {
    match kind {
        AttributeType::Int => Some("::bigint"),
        AttributeType::Float => Some("::double precision"),
        AttributeType::Decimal => Some("::numeric"),
        AttributeType::Text => Some(""),
        AttributeType::Time => Some("::timestamptz"),
        AttributeType::Bool | AttributeType::Json => None,
    }
}

/// The part of a text that its index holds.
pub(crate) fn kept(text: &str) -> &str {
    match text.char_indices().nth(INDEXED_TEXT_CHARS_MAX) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Low,
    High,
}

struct End {
    value: String,
    inclusive: bool,
    is_exact: bool,
}

fn end_of(kind: AttributeType, bound: &Bound, side: Side) -> Option<End> {
    let exact = |value: String| End {
        value,
        inclusive: bound.inclusive,
        is_exact: true,
    };
    match (&bound.value, kind) {
        (Scalar::Number(number), AttributeType::Decimal) => Some(exact(number.to_string())),
        (Scalar::Number(number), AttributeType::Int) => Some(match number.to_i64() {
            Some(whole) => exact(whole.to_string()),
            None => nearest_int(&number.to_string(), side),
        }),
        (Scalar::Number(number), AttributeType::Float) => {
            let double: f64 = number.to_string().parse().ok()?;
            // The next value outwards and the test asked again: the literal may lie to either side of the double.
            Some(End {
                value: double_text(double),
                inclusive: true,
                is_exact: bound.inclusive && is_shortest(double, &number.to_string()),
            })
        }
        (Scalar::Text(text), AttributeType::Text) => {
            let kept = kept(text);
            if kept.len() < text.len() || text.chars().count() == INDEXED_TEXT_CHARS_MAX {
                return Some(End {
                    value: kept.to_owned(),
                    inclusive: true,
                    is_exact: false,
                });
            }
            Some(exact(text.clone()))
        }
        (Scalar::Time(time), AttributeType::Time) => Some(exact(time.to_sortable())),
        (_, _) => None,
    }
}

/// The whole number next to one with a fraction, or beyond 64 bits, inwards: no value lies between them.
fn nearest_int(text: &str, side: Side) -> End {
    let (digits, is_negative) = match text.strip_prefix('-') {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    let whole = digits.split('.').next().unwrap_or(digits);
    let towards_zero: i128 = whole.parse().unwrap_or(i128::MAX / 2);
    let towards_zero = if is_negative {
        -towards_zero
    } else {
        towards_zero
    };
    // Towards zero is up for a negative number and down for a positive one.
    let value = match (side, is_negative) {
        (Side::Low, false) => towards_zero + 1,
        (Side::High, true) => towards_zero - 1,
        (Side::Low, true) | (Side::High, false) => towards_zero,
    };
    // Beyond what the index can hold, the range is empty or open on this side, which strictly more or less than the
    // utmost value says.
    let (utmost, inclusive) = match i64::try_from(value) {
        Ok(within) => (within, true),
        Err(_) if value > 0 => (i64::MAX, side == Side::High),
        Err(_) => (i64::MIN, side == Side::Low),
    };
    End {
        value: utmost.to_string(),
        inclusive,
        is_exact: true,
    }
}

fn double_text(double: f64) -> String {
    if double.is_infinite() {
        let sign = if double < 0.0 { "-" } else { "" };
        return format!("{sign}Infinity");
    }
    format!("{double:e}")
}

/// Whether the literal is the very number that the double stands for, in a document too.
fn is_shortest(double: f64, text: &str) -> bool {
    let shortest = format!("{double}");
    let number = |text: &str| text.parse::<sheaf_model::Decimal>().ok();
    double.is_finite() && number(&shortest).is_some_and(|number_of| Some(number_of) == number(text))
}

/// The first text after all that begin with this one; none where there is no such text.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut letters: Vec<char> = prefix.chars().collect();
    while let Some(last) = letters.pop() {
        let next = match last {
            char::MAX => None,
            // The numbers between these are no letters.
            '\u{d7ff}' => Some('\u{e000}'),
            letter => char::from_u32(u32::from(letter) + 1),
        };
        if let Some(next) = next {
            letters.push(next);
            return Some(letters.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(value: Scalar, inclusive: bool) -> Option<Bound> {
        Some(Bound { value, inclusive })
    }

    fn number(text: &str) -> Scalar {
        Scalar::Number(text.parse().expect("a number"))
    }

    fn ends(kind: AttributeType, test: &Test) -> Vec<(&'static str, String)> {
        IndexRange::of(kind, test).expect("a range").ends
    }

    #[test]
    fn ends_between_whole_numbers_and_beyond_them_are_moved_to_one_that_the_index_holds() {
        let table = [
            ("3", true, (">=", "3"), ("<=", "3")),
            ("3.0", false, (">", "3"), ("<", "3")),
            ("3.5", true, (">=", "4"), ("<=", "3")),
            ("-3.5", false, (">=", "-3"), ("<=", "-4")),
            ("0.5", true, (">=", "1"), ("<=", "0")),
            ("-0.5", true, (">=", "0"), ("<=", "-1")),
            (
                "1e20",
                true,
                (">", "9223372036854775807"),
                ("<=", "9223372036854775807"),
            ),
            (
                "-1e20",
                true,
                (">=", "-9223372036854775808"),
                ("<", "-9223372036854775808"),
            ),
            (
                "1e400",
                true,
                (">", "9223372036854775807"),
                ("<=", "9223372036854775807"),
            ),
        ];
        for (text, inclusive, low, high) in table {
            let own = |(sign, value): (&'static str, &str)| vec![(sign, value.to_owned())];
            let test = |low, high| Test::Range { low, high };
            let int = AttributeType::Int;
            let from = test(bound(number(text), inclusive), None);
            assert_eq!(ends(int, &from), own(low), "from {text}");
            let to = test(None, bound(number(text), inclusive));
            assert_eq!(ends(int, &to), own(high), "to {text}");
        }
    }

    #[test]
    fn a_double_is_asked_again_unless_the_literal_is_its_own_number() {
        for (text, inclusive, value, is_exact) in [
            ("0.1", true, "1e-1", true),
            ("0.1", false, "1e-1", false),
            ("0.10000000000000001", true, "1e-1", false),
            ("1e400", true, "Infinity", false),
            ("-1e400", true, "-Infinity", false),
            ("1e-400", true, "0e0", false),
        ] {
            let test = Test::Range {
                low: bound(number(text), inclusive),
                high: None,
            };
            let range = IndexRange::of(AttributeType::Float, &test).expect("a range");
            assert_eq!(range.ends, [(">=", value.to_owned())], "{text}");
            assert_eq!(range.is_exact, is_exact, "{text}");
        }
    }

    #[test]
    fn a_pattern_is_a_range_as_far_as_it_begins_with_letters() {
        let like = |pattern: &str, folded| Test::Like {
            pattern: pattern.to_owned(),
            folded,
        };
        let text = AttributeType::Text;
        for (pattern, from, to) in [
            ("ab%", "ab", Some("ac")),
            ("ab", "ab", Some("ac")),
            ("a\\%_x", "a%", Some("a&")),
            ("\u{d7ff}%", "\u{d7ff}", Some("\u{e000}")),
            ("a\u{10ffff}%", "a\u{10ffff}", Some("b")),
            ("\u{10ffff}%", "\u{10ffff}", None),
        ] {
            let mut expected = vec![(">=", from.to_owned())];
            expected.extend(to.map(|to| ("<", to.to_owned())));
            assert_eq!(ends(text, &like(pattern, false)), expected, "{pattern}");
        }
        for (pattern, folded) in [("%a", false), ("_a", false), ("", false), ("a%", true)] {
            assert_eq!(IndexRange::of(text, &like(pattern, folded)), None);
        }
    }

    #[test]
    fn a_text_longer_than_the_index_keeps_is_asked_again() {
        for (length, is_exact, kept) in [(99, true, 99), (100, false, 100), (101, false, 100)] {
            let test = Test::Range {
                low: None,
                high: bound(Scalar::Text("é".repeat(length)), false),
            };
            let range = IndexRange::of(AttributeType::Text, &test).expect("a range");
            assert_eq!(range.is_exact, is_exact);
            let sign = if is_exact { "<" } else { "<=" };
            assert_eq!(range.ends, [(sign, "é".repeat(kept))]);
        }
    }
}
