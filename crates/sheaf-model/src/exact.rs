//! Exact sums of numbers and their means: the same to the digit whatever order the numbers come in, and as PostgreSQL's `numeric` has
//! them.

use std::fmt;
use std::str::FromStr;

use bigdecimal::num_bigint::{BigInt, BigUint, Sign};
use bigdecimal::{BigDecimal, Zero};

use crate::value::Value;

/// Digits after the point that a mean has at least, before the zeros at its end are left out: more than a double holds.
const MEAN_PLACES_MIN: i64 = 30;
/// Digits that count which a mean has at least.
const MEAN_DIGITS_MIN: i64 = 16;
/// Digits after the point that a mean has at most.
const MEAN_PLACES_MAX: i64 = 1_000;
/// How many decimal digits one digit of a `numeric` is.
const GROUP: usize = 4;
/// Digits after the point of numbers that are summed in a machine's integers.
const PLACES_MAX: u32 = 30;

/// The sum of some numbers. Most are summed in a machine's integers, and what does not fit those in as many digits as it takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExactSum {
    /// In units of the last place.
    units: i128,
    /// Digits after the point.
    places: u32,
    rest: Option<BigDecimal>,
}

impl ExactSum {
    /// Adds a number. Values of other types are none.
    pub fn add(&mut self, value: &Value) {
        match value {
            Value::Int(number) => self.add_units(i128::from(*number), 0),
            Value::Float(number) => self.add_float(*number),
            Value::Decimal(number) => self.add_text(&number.to_string()),
            Value::Text(_) | Value::Bool(_) | Value::Time(_) | Value::Json(_) => {}
        }
    }

    /// Adds another sum.
    pub fn add_sum(&mut self, other: &ExactSum) {
        self.add_units(other.units, other.places);
        if let Some(rest) = &other.rest {
            self.add_large(rest);
        }
    }

    /// The shortest digits that stand for the double are what is stored of it.
    fn add_float(&mut self, number: f64) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i64 = exponent
            .parse()
            .expect("invariant: a double has an exponent");
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let places = i64::try_from(fraction.len()).expect("invariant: few digits") - exponent;
        let mut units: i128 = format!("{whole}{fraction}")
            .parse()
            .expect("invariant: a double has at most 17 digits");
        // Zeros before the point are digits.
        for _ in places..0 {
            match units.checked_mul(10) {
                Some(more) => units = more,
                None => return self.add_large(&large(&text)),
            }
        }
        match u32::try_from(places.max(0)) {
            Ok(places) if places <= PLACES_MAX => self.add_units(units, places),
            _ => self.add_large(&large(&text)),
        }
    }

    /// A number without exponent.
    fn add_text(&mut self, text: &str) {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let units = format!("{whole}{fraction}").parse();
        match (units, u32::try_from(fraction.len())) {
            (Ok(units), Ok(places)) if places <= PLACES_MAX => self.add_units(units, places),
            _ => self.add_large(&large(text)),
        }
    }

    fn add_units(&mut self, units: i128, places: u32) {
        let most = self.places.max(places);
        let scaled = |units: i128, places: u32| units.checked_mul(10i128.pow(most - places));
        let sum = scaled(self.units, self.places)
            .zip(scaled(units, places))
            .and_then(|(one, other)| one.checked_add(other));
        match sum {
            Some(sum) => (self.units, self.places) = (sum, most),
            None => self.add_large(&BigDecimal::new(BigInt::from(units), places.into())),
        }
    }

    fn add_large(&mut self, number: &BigDecimal) {
        self.rest = Some(match self.rest.take() {
            Some(rest) => rest + number,
            None => number.clone(),
        });
    }

    fn whole(&self) -> BigDecimal {
        let units = BigDecimal::new(BigInt::from(self.units), self.places.into());
        let whole = match &self.rest {
            Some(rest) => units + rest,
            None => units,
        };
        // A negative scale becomes zeros.
        let places = whole.fractional_digit_count().max(self.places.into());
        whole.with_scale(places)
    }

    /// The mean of so many numbers whose sum it is, without zeros at its end.
    ///
    /// It has thirty digits after the point, or as many as the sum, and sixteen that count where that is more.
    pub fn mean(&self, count: i64) -> String {
        let sum = self.whole();
        let (units, places) = sum.into_bigint_and_exponent();
        let text = plain(&units, places);
        let quotient_weight = quotient_weight(&text, &count.to_string());
        let counting = MEAN_DIGITS_MIN - quotient_weight * i64::try_from(GROUP).unwrap_or(4);
        let wanted = MEAN_PLACES_MIN
            .max(places)
            .max(counting)
            .min(MEAN_PLACES_MAX);
        let more = u32::try_from(wanted - places).unwrap_or_default();
        let (sign, magnitude) = units.into_parts();
        let divided = magnitude * BigUint::from(10u32).pow(more);
        let count = BigUint::from(count.unsigned_abs().max(1));
        // Half a unit is rounded away from zero.
        let rounded = (divided * 2u32 + &count) / (count * 2u32);
        let sign = if rounded.is_zero() {
            Sign::NoSign
        } else {
            sign
        };
        let text = plain(&BigInt::from_biguint(sign, rounded), wanted);
        match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text,
        }
    }
}

fn large(text: &str) -> BigDecimal {
    text.parse().expect("invariant: a number has digits")
}

/// A number of units of the last place, written out.
fn plain(units: &BigInt, places: i64) -> String {
    let digits = units.magnitude().to_string();
    let places = usize::try_from(places).unwrap_or_default();
    let padded = format!("{digits:0>width$}", width = places + 1);
    let (whole, fraction) = padded.split_at(padded.len() - places);
    let sign = if units.sign() == Sign::Minus { "-" } else { "" };
    match fraction {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    }
}

/// In which place of four decimal digits a quotient begins, as it is estimated from the first such digit of each number.
fn quotient_weight(dividend: &str, divisor: &str) -> i64 {
    let (of_dividend, first) = first_group(dividend);
    let (of_divisor, by) = first_group(divisor);
    of_dividend - of_divisor - i64::from(first <= by)
}

/// The first four digits of a number that are not all zero, counted from the point, and in which place they are.
fn first_group(text: &str) -> (i64, u32) {
    let text = text.trim_start_matches('-');
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = whole.trim_start_matches('0');
    let number = |digits: &str| digits.parse().expect("invariant: digits");
    let place = |groups: usize| i64::try_from(groups).expect("invariant: few digits");
    if !whole.is_empty() {
        let first = (whole.len() - 1) % GROUP + 1;
        return (place((whole.len() - 1) / GROUP), number(&whole[..first]));
    }
    let digits = fraction.as_bytes().chunks(GROUP);
    for (groups, digits) in digits.enumerate() {
        let digits = std::str::from_utf8(digits).expect("invariant: digits");
        let first = number(&format!("{digits:0<GROUP$}"));
        if first != 0 {
            return (-place(groups + 1), first);
        }
    }
    (0, 0)
}

impl FromStr for ExactSum {
    type Err = bigdecimal::ParseBigDecimalError;

    /// Reads a number, its digits after the point kept.
    fn from_str(text: &str) -> Result<ExactSum, Self::Err> {
        let number: BigDecimal = text.parse()?;
        let mut sum = ExactSum::default();
        match number.fractional_digit_count() < 0 || text.contains(['e', 'E']) {
            true => sum.add_large(&number.with_scale(number.fractional_digit_count().max(0))),
            false => sum.add_text(text),
        }
        Ok(sum)
    }
}

/// Written out, with as many digits after the point as the number that had most of them.
impl fmt::Display for ExactSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (units, places) = self.whole().into_bigint_and_exponent();
        f.write_str(&plain(&units, places))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: &[Value]) -> ExactSum {
        let mut sum = ExactSum::default();
        values.iter().for_each(|value| sum.add(value));
        sum
    }

    fn decimal(text: &str) -> Value {
        Value::Decimal(text.parse().expect(text))
    }

    #[test]
    fn sums_are_exact_and_keep_the_most_digits_after_the_point() {
        let long = "123456789012345678901234567890123456789.5";
        for (values, wanted) in [
            (
                vec![Value::Int(i64::MAX), Value::Int(i64::MAX)],
                "18446744073709551614",
            ),
            (vec![decimal("12.50"), decimal("1")], "13.50"),
            (vec![decimal("-0.25"), decimal("0.250")], "0.000"),
            (vec![Value::Float(0.1), Value::Float(0.2)], "0.3"),
            (
                vec![Value::Float(1e21), Value::Float(-1.0)],
                "999999999999999999999",
            ),
            (
                vec![decimal(long), decimal("0.25")],
                "123456789012345678901234567890123456789.75",
            ),
            (vec![], "0"),
        ] {
            assert_eq!(sum(&values).to_string(), wanted, "{values:?}");
        }
        let beyond = sum(&[Value::Float(1e300), Value::Float(1.5), Value::Float(-1e300)]);
        assert_eq!(beyond.to_string(), "1.5");
        let tiny = sum(&[Value::Float(5e-324), Value::Float(0.0)]).to_string();
        assert_eq!(tiny.parse::<f64>().expect("a number"), 5e-324);
    }

    #[test]
    fn a_sum_of_sums_is_the_sum_of_all() {
        let values = [
            decimal("12.50"),
            decimal("-99999999999999999999999999999999999999.999"),
            decimal("0.1"),
            Value::Float(1e300),
            Value::Int(7),
        ];
        for cut in 0..values.len() {
            let (mut one, other) = (sum(&values[..cut]), sum(&values[cut..]));
            one.add_sum(&other);
            assert_eq!(one.to_string(), sum(&values).to_string());
            let read: ExactSum = one.to_string().parse().expect("a number");
            assert_eq!(read.to_string(), one.to_string());
        }
    }

    #[test]
    fn a_mean_has_thirty_digits_after_the_point_and_rounds_half_away_from_zero() {
        for (values, wanted) in [
            (vec![Value::Int(1), Value::Int(2)], "1.5"),
            (vec![Value::Int(10)], "10"),
            (
                vec![decimal("1"), decimal("0"), decimal("0")],
                "0.333333333333333333333333333333",
            ),
            (
                vec![decimal("2"), decimal("0"), decimal("0")],
                "0.666666666666666666666666666667",
            ),
            (
                vec![decimal("-2"), decimal("0"), decimal("0")],
                "-0.666666666666666666666666666667",
            ),
            (vec![decimal("0.00")], "0"),
            (vec![decimal("1"), decimal("-1")], "0"),
        ] {
            let count = i64::try_from(values.len()).expect("few");
            assert_eq!(sum(&values).mean(count), wanted, "{values:?}");
        }
    }
}
