//! Instants: UTC, in whole microseconds, between the years 1 and 9999.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Serialize, Serializer};

/// An instant in microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A text or number that is no instant that sheaf can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimestampFault {
    /// The text is not RFC 3339.
    #[error("not a time in RFC 3339 form")]
    Malformed,
    /// The instant lies outside the years 1 to 9999.
    #[error("outside the years 1 to 9999")]
    OutOfRange,
}

const MICROS_PER_SECOND: i64 = 1_000_000;
/// 0001-01-01T00:00:00Z, the first instant of the first year that a four-digit year can name.
const MICROS_MIN: i64 = -62_135_596_800 * MICROS_PER_SECOND;
/// 9999-12-31T23:59:59.999999Z, the last instant whose year has four digits, so that texts sort.
const MICROS_MAX: i64 = 253_402_300_800 * MICROS_PER_SECOND - 1;

impl Timestamp {
    /// The first instant that can be held.
    pub const MIN: Timestamp = Timestamp(MICROS_MIN);
    /// The last instant that can be held.
    pub const MAX: Timestamp = Timestamp(MICROS_MAX);

    /// The instant so many microseconds after 1970-01-01T00:00:00Z.
    pub fn from_micros(micros: i64) -> Result<Timestamp, TimestampFault> {
        if (MICROS_MIN..=MICROS_MAX).contains(&micros) {
            Ok(Timestamp(micros))
        } else {
            Err(TimestampFault::OutOfRange)
        }
    }

    /// The instant so many nanoseconds after 1970, cut to whole microseconds (floor); tells whether digits were cut.
    pub fn from_nanos(nanos: i128) -> Result<(Timestamp, bool), TimestampFault> {
        let micros =
            i64::try_from(nanos.div_euclid(1000)).map_err(|_| TimestampFault::OutOfRange)?;
        Ok((Timestamp::from_micros(micros)?, nanos.rem_euclid(1000) != 0))
    }

    /// Reads RFC 3339 with any offset. Digits below a microsecond are cut (floor); tells whether any were.
    pub fn parse(text: &str) -> Result<(Timestamp, bool), TimestampFault> {
        let bytes = text.as_bytes();
        // RFC 3339 allows a space or a lower-case t; chrono takes both, and also forms that RFC 3339 does not.
        if bytes.len() < 20 || !bytes[..4].iter().all(u8::is_ascii_digit) || text.len() > 64 {
            return Err(TimestampFault::Malformed);
        }
        let (seconds_part, fraction) = cut_fraction(text);
        let parsed =
            DateTime::parse_from_rfc3339(&seconds_part).map_err(|_| TimestampFault::Malformed)?;
        let (fraction_micros, cut) = fraction;
        // A leap second (:60) reads as the second after it, as PostgreSQL does.
        let leap = i64::from(parsed.timestamp_subsec_nanos() >= 1_000_000_000);
        let micros = (parsed.timestamp() + leap) * MICROS_PER_SECOND + fraction_micros;
        Ok((Timestamp::from_micros(micros)?, cut))
    }

    /// The midnight that begins this calendar day (`2013-01-01`) in UTC.
    pub fn parse_date(text: &str) -> Result<Timestamp, TimestampFault> {
        if text.len() != 10 {
            return Err(TimestampFault::Malformed);
        }
        let date =
            NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| TimestampFault::Malformed)?;
        let midnight = date
            .and_hms_opt(0, 0, 0)
            .expect("midnight exists every day in UTC");
        Timestamp::from_micros(midnight.and_utc().timestamp() * MICROS_PER_SECOND)
    }

    /// The wall clock's time. The only reading of a clock in this crate; callers pass the result on.
    pub fn now() -> Timestamp {
        Timestamp(Utc::now().timestamp_micros())
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// This instant moved by so many microseconds, held within the range.
    pub fn saturating_add_micros(self, micros: i64) -> Timestamp {
        Timestamp(self.0.saturating_add(micros).clamp(MICROS_MIN, MICROS_MAX))
    }

    /// How long after another instant this one is; zero where it is not after it.
    pub fn since(self, earlier: Timestamp) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }

    /// The one stored form of a time value: always six digits of fraction, so that texts sort as instants do.
    pub fn to_sortable(self) -> String {
        self.date_time()
            .format("%Y-%m-%dT%H:%M:%S%.6fZ")
            .to_string()
    }

    fn date_time(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0)
            .expect("the years 1 to 9999 are within chrono's range")
    }
}

/// The text without its fraction of a second, and the fraction in microseconds with whether digits were cut.
fn cut_fraction(text: &str) -> (String, (i64, bool)) {
    let Some(point) = text.find('.') else {
        return (text.to_owned(), (0, false));
    };
    let digits_end = text[point + 1..]
        .find(|letter: char| !letter.is_ascii_digit())
        .map_or(text.len(), |length| point + 1 + length);
    let digits = &text[point + 1..digits_end];
    if digits.is_empty() {
        // Left as it is: the parser refuses it.
        return (text.to_owned(), (0, false));
    }
    let kept: i64 = format!("{digits:0<6.6}").parse().unwrap_or(0);
    let cut = digits.bytes().skip(6).any(|digit| digit != b'0');
    (
        format!("{}{}", &text[..point], &text[digits_end..]),
        (kept, cut),
    )
}

/// `2013-01-01T06:00:00Z`, with one to six digits of fraction only where they are not zero.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.date_time().format("%Y-%m-%dT%H:%M:%S").to_string();
        let fraction = self.0.rem_euclid(MICROS_PER_SECOND);
        if fraction == 0 {
            return write!(f, "{whole}Z");
        }
        let digits = format!("{fraction:06}");
        write!(f, "{whole}.{}Z", digits.trim_end_matches('0'))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_after_an_instant_is_no_time_after_it() {
        let at = |micros| Timestamp::from_micros(micros).expect("within the range");
        assert_eq!(at(5).since(at(2)), Duration::from_micros(3));
        assert_eq!(at(2).since(at(2)), Duration::ZERO);
        assert_eq!(at(2).since(at(5)), Duration::ZERO);
        let all = u64::try_from(MICROS_MAX - MICROS_MIN).expect("positive");
        assert_eq!(
            Timestamp::MAX.since(Timestamp::MIN),
            Duration::from_micros(all)
        );
    }

    #[test]
    fn times_read_and_print_in_the_canonical_form() {
        let table = [
            ("2013-01-01T06:00:00Z", "2013-01-01T06:00:00Z", false),
            ("2013-01-01T06:00:00.000Z", "2013-01-01T06:00:00Z", false),
            (
                "2013-01-01T06:00:00.5+05:30",
                "2013-01-01T00:30:00.5Z",
                false,
            ),
            (
                "2013-01-01T06:00:00.1234567Z",
                "2013-01-01T06:00:00.123456Z",
                true,
            ),
            (
                "1969-12-31T23:59:59.9999999Z",
                "1969-12-31T23:59:59.999999Z",
                true,
            ),
            (
                "2013-01-01T06:00:00.1234560Z",
                "2013-01-01T06:00:00.123456Z",
                false,
            ),
            ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z", false),
        ];
        for (text, printed, cut) in table {
            let (time, was_cut) = Timestamp::parse(text).expect(text);
            assert_eq!(
                (time.to_string().as_str(), was_cut),
                (printed, cut),
                "{text}"
            );
            assert_eq!(
                Timestamp::parse(&time.to_sortable()),
                Ok((time, false)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2013-01-01",
            "2013-01-01T06:00:00",
            "2013-13-01T06:00:00Z",
            "+12013-01-01T06:00:00Z",
            "2013-01-01T06:00:00.Z",
            "infinity",
            "0000-12-31T00:00:00Z",
        ] {
            assert!(
                Timestamp::parse(text).is_err(),
                "{text} was taken for a time"
            );
        }
    }

    #[test]
    fn nanoseconds_are_cut_downwards() {
        assert_eq!(Timestamp::from_nanos(-1), Ok((Timestamp(-1), true)));
        assert_eq!(Timestamp::from_nanos(1_999), Ok((Timestamp(1), true)));
        assert_eq!(Timestamp::from_nanos(2_000), Ok((Timestamp(2), false)));
        assert_eq!(
            Timestamp::from_nanos(i128::MAX),
            Err(TimestampFault::OutOfRange)
        );
    }
}
