//! Exact decimal numbers whose scale is kept: `12.50` stays `12.50`, and equals `12.5`.

use std::fmt;
use std::str::FromStr;

use bigdecimal::{BigDecimal, RoundingMode, Zero};

/// An exact decimal number of at most 1,000 digits.
///
/// The bound keeps nine bytes such as `1e131000` from becoming 131,000 bytes of answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal(BigDecimal);

/// Why a text is no decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecimalFault {
    /// Not a number in JSON's form.
    #[error("not a number")]
    Malformed,
    /// More than 1,000 digits when written out.
    #[error("more than 1000 digits when written out")]
    TooManyDigits,
}

const DIGITS_MAX: i64 = 1_000;
/// Digits after the point of a number between two others.
const TOWARD_DIGITS: i64 = 30;
/// A longer text cannot be a number within the bound, unless padded with zeros on purpose.
const TEXT_BYTES_MAX: usize = 1_100;

impl Decimal {
    /// The number, when it is whole and fits 64 bits.
    pub fn to_i64(&self) -> Option<i64> {
        use bigdecimal::ToPrimitive;
        if self.0.is_integer() {
            self.0.to_i64()
        } else {
            None
        }
    }

    /// One text for all scales of one number: no trailing zeros, no exponent.
    pub(crate) fn normalized_text(&self) -> String {
        self.0.normalized().to_plain_string()
    }

    /// Whether the number has no fraction, whatever its scale.
    pub fn is_integer(&self) -> bool {
        self.0.is_integer()
    }

    /// Whether the number is zero, whatever its scale.
    pub fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

impl Decimal {
    /// The number that lies `part` of `whole` on the way to another, rounded to thirty digits after the point where it
    /// has more. Nothing of a whole is no way at all.
    pub fn toward(&self, other: &Decimal, part: i64, whole: i64) -> Decimal {
        if whole == 0 {
            return self.clone();
        }
        let way = (&other.0 - &self.0) * BigDecimal::from(part) / BigDecimal::from(whole);
        let number = &self.0 + way;
        let digits = number.fractional_digit_count().min(TOWARD_DIGITS);
        let number = number.with_scale_round(digits.max(0), RoundingMode::HalfEven);
        let number = number.normalized();
        let digits = number.fractional_digit_count().max(0);
        Decimal(number.with_scale(digits))
    }
}

impl From<i64> for Decimal {
    fn from(number: i64) -> Decimal {
        Decimal(BigDecimal::from(number))
    }
}

impl FromStr for Decimal {
    type Err = DecimalFault;

    fn from_str(text: &str) -> Result<Decimal, DecimalFault> {
        if !is_json_number(text.as_bytes()) {
            return Err(DecimalFault::Malformed);
        }
        if text.len() > TEXT_BYTES_MAX {
            return Err(DecimalFault::TooManyDigits);
        }
        // The exponent is bounded before the number is built, so that no text can ask for a large allocation.
        if let Some(at) = text.find(['e', 'E']) {
            let exponent: i64 = text[at + 1..]
                .parse()
                .map_err(|_| DecimalFault::TooManyDigits)?;
            if exponent.abs() > DIGITS_MAX {
                return Err(DecimalFault::TooManyDigits);
            }
        }
        let number = BigDecimal::from_str(text).map_err(|_| DecimalFault::Malformed)?;
        // Written out in full, `1.5e3` is `1500`: a negative scale becomes zeros.
        let number = if number.fractional_digit_count() < 0 {
            number.with_scale(0)
        } else {
            number
        };
        let digits = i64::try_from(number.digits()).unwrap_or(i64::MAX);
        if digits.max(number.fractional_digit_count()) > DIGITS_MAX {
            return Err(DecimalFault::TooManyDigits);
        }
        Ok(Decimal(number))
    }
}

/// JSON's grammar of a number: no leading zeros, no plus, digits on both sides of the point.
fn is_json_number(bytes: &[u8]) -> bool {
    let digits = |from: usize| {
        bytes[from..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || (whole > 1 && bytes[at] == b'0') {
        return false;
    }
    at += whole;
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return false;
        }
        at += 1 + fraction;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at);
        if exponent == 0 {
            return false;
        }
        at += exponent;
    }
    at == bytes.len()
}

/// Written out, without an exponent, its scale kept.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_plain_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_between_two_others_is_exact_to_thirty_digits() {
        let number = |text: &str| text.parse::<Decimal>().expect(text);
        for (from, to, part, whole, between) in [
            ("10.00", "20", 1, 4, "12.5"),
            ("20", "10", 1, 4, "17.5"),
            ("0", "1", 1, 3, "0.333333333333333333333333333333"),
            ("-1", "1", 1, 2, "0"),
            ("1000", "3000", 1, 2, "2000"),
            (
                "99999999999999999999.99",
                "99999999999999999999.97",
                1,
                2,
                "99999999999999999999.98",
            ),
            ("7", "9", 1, 0, "7"),
        ] {
            let found = number(from).toward(&number(to), part, whole);
            assert_eq!(
                found.to_string(),
                between,
                "{part} of {whole} from {from} to {to}"
            );
        }
    }

    #[test]
    fn decimals_keep_their_digits_and_scale() {
        for (text, printed) in [
            ("12.50", "12.50"),
            ("0.000", "0.000"),
            ("-0.10", "-0.10"),
            ("1.5e3", "1500"),
            ("1E-3", "0.001"),
            (
                "123456789012345678901234567890.123456789",
                "123456789012345678901234567890.123456789",
            ),
        ] {
            assert_eq!(text.parse::<Decimal>().expect(text).to_string(), printed);
        }
    }

    #[test]
    fn equal_numbers_are_equal_whatever_their_scale() {
        let parse = |text: &str| text.parse::<Decimal>().expect(text);
        assert_eq!(parse("12.5"), parse("12.50"));
        assert_eq!(parse("0"), parse("-0.00"));
        assert!(parse("12.5") < parse("12.51"));
        assert_eq!(parse("3.00").to_i64(), Some(3));
        assert_eq!(parse("9223372036854775808").to_i64(), None);
    }

    #[test]
    fn hostile_and_malformed_numbers_are_refused() {
        for text in [
            "1e131000",
            "1e-16000",
            &"9".repeat(100_000),
            "1e99999999999999999999",
        ] {
            assert_eq!(text.parse::<Decimal>(), Err(DecimalFault::TooManyDigits));
        }
        for text in [
            "", "-", "+1", "01", "1.", ".5", "1e", "NaN", "1_000", " 1", "0x1",
        ] {
            assert_eq!(
                text.parse::<Decimal>(),
                Err(DecimalFault::Malformed),
                "{text}"
            );
        }
    }
}
