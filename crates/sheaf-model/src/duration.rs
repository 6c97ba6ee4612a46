//! Spans of time as users write them: `250ms 3s 5m 1h 1d 1w`, a bare number is seconds.

use std::fmt;
use std::str::FromStr;

/// A span of whole microseconds, more than zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(i64);

/// A text that is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a duration such as 250ms, 3s, 5m, 1h, 1d or 1w, above zero and at most 10000 days")]
pub struct DurationFault;

const UNITS: [(&str, i64); 6] = [
    ("w", 7 * 86_400_000_000),
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
];
/// 10,000 days. Longer spans are typing errors, and the bound keeps sums of an instant and a span within 64 bits.
const MICROS_MAX: i64 = 10_000 * 86_400_000_000;

impl Duration {
    /// The span in microseconds.
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// A span of so many microseconds.
    pub fn from_micros(micros: i64) -> Result<Duration, DurationFault> {
        if (1..=MICROS_MAX).contains(&micros) {
            Ok(Duration(micros))
        } else {
            Err(DurationFault)
        }
    }
}

impl FromStr for Duration {
    type Err = DurationFault;

    fn from_str(text: &str) -> Result<Duration, DurationFault> {
        let digits_end = text
            .find(|letter: char| !letter.is_ascii_digit())
            .unwrap_or(text.len());
        let count: i64 = text[..digits_end].parse().map_err(|_| DurationFault)?;
        let unit = match &text[digits_end..] {
            "" => "s",
            unit => unit,
        };
        let micros = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .and_then(|(_, micros)| count.checked_mul(*micros))
            .ok_or(DurationFault)?;
        Duration::from_micros(micros)
    }
}

/// The shortest form: the largest unit that divides the span.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, micros)| self.0 % micros == 0) {
            Some((unit, micros)) => write!(f, "{}{unit}", self.0 / micros),
            None => write!(f, "{}us", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_in_their_units_and_print_shortest() {
        for (text, micros, printed) in [
            ("250ms", 250_000, "250ms"),
            ("3s", 3_000_000, "3s"),
            ("90", 90_000_000, "90s"),
            ("120m", 7_200_000_000, "2h"),
            ("7d", 604_800_000_000, "1w"),
        ] {
            let span: Duration = text.parse().expect(text);
            assert_eq!(
                (span.as_micros(), span.to_string().as_str()),
                (micros, printed)
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "0",
            "0s",
            "-1s",
            "1.5h",
            "1y",
            "h",
            "99999999999999999999s",
            "10001d",
        ] {
            assert_eq!(text.parse::<Duration>(), Err(DurationFault), "{text}");
        }
    }
}
