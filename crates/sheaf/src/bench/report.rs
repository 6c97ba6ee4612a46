//! What a benchmark prints: a table for people, one JSON object a line for programs.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::exit::say;

/// Which way a measure improves.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Better {
    Higher,
    Lower,
}

/// One measure of one case.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) suite: &'static str,
    pub(super) case: &'static str,
    pub(super) measure: &'static str,
    /// The median over the rounds.
    pub(super) value: f64,
    pub(super) value_min: f64,
    pub(super) value_max: f64,
    pub(super) unit: &'static str,
    pub(super) better: Better,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) against: Option<Against>,
}

/// The same measure of the baseline, in the same run.
#[derive(Debug, Serialize)]
pub(super) struct Against {
    pub(super) baseline: &'static str,
    /// The median over the rounds.
    pub(super) baseline_value: f64,
    /// The median of the rounds' own ratios, so that a machine that slows down slows both sides.
    pub(super) ratio: f64,
    pub(super) ratio_min: f64,
    pub(super) ratio_max: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bar: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pass: Option<bool>,
}

/// Figures of a case and of its baseline, one a round each.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    pub(super) case: Vec<f64>,
    pub(super) baseline: Vec<f64>,
}

impl Rounds {
    /// The figures as a line against their baseline.
    pub(super) fn against(
        &self,
        baseline: &'static str,
        better: Better,
        bar: Option<f64>,
    ) -> Against {
        let ratios: Vec<f64> = self
            .case
            .iter()
            .zip(&self.baseline)
            .map(|(case, base)| case / base)
            .collect();
        let (ratio, ratio_min, ratio_max) = spread(&ratios);
        let pass = bar.map(|bar| match better {
            Better::Higher => ratio >= bar,
            Better::Lower => ratio <= bar,
        });
        let (baseline_value, _, _) = spread(&self.baseline);
        Against {
            baseline,
            baseline_value,
            ratio,
            ratio_min,
            ratio_max,
            bar,
            pass,
        }
    }
}

/// Median, least and greatest.
pub(super) fn spread(figures: &[f64]) -> (f64, f64, f64) {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
    (
        at(sorted.len() / 2),
        at(0),
        at(sorted.len().saturating_sub(1)),
    )
}

/// The value at a percentile, nearest rank.
pub(super) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or(f64::NAN)
}

/// Collects lines.
pub(super) struct Report {
    json: Option<File>,
    failed: usize,
}

impl Report {
    pub(super) fn new(json: Option<&Path>) -> Result<Report> {
        let create = |path: &Path| {
            File::create(path).with_context(|| format!("creating {}", path.display()))
        };
        Ok(Report {
            json: json.map(create).transpose()?,
            failed: 0,
        })
    }

    /// Prints a line, and writes it where asked.
    pub(super) fn add(&mut self, line: &Line) -> Result<()> {
        let name = format!("{}/{} {}", line.suite, line.case, line.measure);
        let value = format!("{:.*} {}", digits(line.value), line.value, line.unit);
        let spread = format!(
            "{:.*}..{:.*}",
            digits(line.value),
            line.value_min,
            digits(line.value),
            line.value_max
        );
        let mut text = format!("{name:<44} {value:>20}  [{spread}]");
        if let Some(against) = &line.against {
            text += &format!(
                "  {} {:.*}  ratio {:.3} [{:.3}..{:.3}]",
                against.baseline,
                digits(against.baseline_value),
                against.baseline_value,
                against.ratio,
                against.ratio_min,
                against.ratio_max,
            );
            if let (Some(bar), Some(pass)) = (against.bar, against.pass) {
                text += &format!("  bar {bar} {}", if pass { "pass" } else { "FAIL" });
                self.failed += usize::from(!pass);
            }
        }
        say(&text)?;
        if let Some(file) = &mut self.json {
            serde_json::to_writer(&mut *file, line)?;
            file.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Fails if a bar was missed.
    pub(super) fn finish(self) -> Result<()> {
        if self.failed > 0 {
            bail!("{} bars were missed", self.failed);
        }
        Ok(())
    }
}

fn digits(value: f64) -> usize {
    if value.abs() >= 100.0 { 0 } else { 3 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles_are_what_their_names_say() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (2.0, 1.0, 3.0));
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            (percentile(&sorted, 50), percentile(&sorted, 99)),
            (50.0, 99.0)
        );
    }

    #[test]
    fn a_missed_bar_fails_the_run() {
        let rounds = Rounds {
            case: vec![1.0, 1.0],
            baseline: vec![10.0, 10.0],
        };
        let against = rounds.against("copy", Better::Higher, Some(0.25));
        assert_eq!((against.ratio, against.pass), (0.1, Some(false)));
        assert_eq!(
            rounds.against("copy", Better::Lower, Some(0.25)).pass,
            Some(true)
        );
    }
}
