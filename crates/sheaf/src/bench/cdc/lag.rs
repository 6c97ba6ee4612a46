//! How late the lake is: the end of the log is looked at again and again, and how long it takes until the lake holds all that
//! was committed before it.

use std::collections::VecDeque;

use sheaf_model::Lsn;

use crate::bench::report::percentile;

/// Looks at the end of the log, and how old each was when the lake held it.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// When, in seconds, and where the log ended; oldest first.
    waiting: VecDeque<(f64, Lsn)>,
    seconds: Vec<f64>,
}

impl Lag {
    /// The log ended there at a moment.
    pub(super) fn ends(&mut self, at: f64, end: Lsn) {
        self.waiting.push_back((at, end));
    }

    /// The lake's last change was committed there: it holds all of before.
    pub(super) fn holds(&mut self, at: f64, change: Lsn) {
        while let Some((begun, _)) = self.waiting.pop_front_if(|(_, end)| *end <= change) {
            self.seconds.push(at - begun);
        }
    }

    /// Whether the lake holds all that was looked at.
    pub(super) fn is_over(&self) -> bool {
        self.waiting.is_empty()
    }

    /// In seconds.
    pub(super) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        percentile(&sorted, percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_late_until_a_change_after_it_is_held() {
        let mut lag = Lag::default();
        lag.ends(1.0, Lsn(10));
        lag.ends(2.0, Lsn(20));
        lag.holds(2.5, Lsn(9));
        assert!(!lag.is_over() && lag.percentile(50).is_nan());
        lag.holds(3.0, Lsn(19));
        assert_eq!(lag.percentile(99), 2.0);
        lag.holds(6.0, Lsn(20));
        assert!(lag.is_over());
        assert_eq!((lag.percentile(50), lag.percentile(99)), (2.0, 4.0));
    }
}
