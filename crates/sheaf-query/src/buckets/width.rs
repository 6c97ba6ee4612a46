//! Where buckets begin.

use sheaf_model::{Duration, Timestamp};

const DAY_MICROS: i64 = 86_400_000_000;
const WEEK_MICROS: i64 = 7 * DAY_MICROS;
/// Monday 1970-01-05, in microseconds since 1970-01-01, a Thursday.
const MONDAY_MICROS: i64 = 4 * DAY_MICROS;

/// The width of buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Width(i64);

impl Width {
    pub(crate) fn new(bucket: Duration) -> Width {
        Width(bucket.as_micros())
    }

    pub(crate) fn as_micros(self) -> i64 {
        self.0
    }

    /// The bucket that holds an instant, by its start. The bucket that holds the first instant of all begins with it.
    pub(crate) fn start(self, time: Timestamp) -> Timestamp {
        let offset = self.offset();
        let start = (time.as_micros() - offset).div_euclid(self.0) * self.0 + offset;
        Timestamp::from_micros(start).unwrap_or(Timestamp::MIN)
    }

    /// The first instant after a bucket.
    pub(crate) fn end(self, start: Timestamp) -> Timestamp {
        start.saturating_add_micros(self.0)
    }

    /// The earliest start of a bucket.
    pub(crate) fn origin(self) -> Timestamp {
        self.start(Timestamp::MIN.saturating_add_micros(self.0))
    }

    fn offset(self) -> i64 {
        if self.0 % WEEK_MICROS == 0 {
            MONDAY_MICROS
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_begin_at_the_epoch_and_weeks_on_monday() {
        let table = [
            ("1h", "2013-01-01T06:59:59.999999Z", "2013-01-01T06:00:00Z"),
            ("1h", "1969-12-31T23:59:59.999999Z", "1969-12-31T23:00:00Z"),
            ("1d", "2013-01-01T06:00:00Z", "2013-01-01T00:00:00Z"),
            ("7h", "1970-01-01T06:59:59Z", "1970-01-01T00:00:00Z"),
            // A Sunday and a Monday.
            ("1w", "2013-01-06T23:59:59Z", "2012-12-31T00:00:00Z"),
            ("1w", "2013-01-07T00:00:00Z", "2013-01-07T00:00:00Z"),
            ("7d", "1969-12-28T12:00:00Z", "1969-12-22T00:00:00Z"),
        ];
        for (width, time, start) in table {
            let width = Width::new(width.parse().expect(width));
            let (time, _) = Timestamp::parse(time).expect(time);
            assert_eq!(width.start(time).to_string(), start, "{width:?}");
            assert_eq!(width.start(width.origin()), width.origin());
        }
    }
}
