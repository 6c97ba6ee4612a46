//! What a benchmark prints: a table for people, one JSON object a line for programs.

use std::borrow::Cow;
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

/// The baseline of a measure that has to reach a stated figure: its `baseline_value` is that figure, its `bar` is 1.
const STATED: &str = "stated";

/// One measure of one case.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    suite: &'static str,
    case: &'static str,
    measure: Cow<'static, str>,
    /// The median over the rounds.
    value: f64,
    value_min: f64,
    value_max: f64,
    unit: &'static str,
    better: Better,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    against: Option<Against>,
    /// One figure a round.
    #[serde(skip)]
    figures: Vec<f64>,
}

/// The same measure of the baseline, in the same run.
#[derive(Debug, Serialize)]
struct Against {
    baseline: &'static str,
    /// The median over the rounds.
    baseline_value: f64,
    /// The median of the rounds' own ratios, so that a machine that slows down slows both sides.
    ratio: f64,
    ratio_min: f64,
    ratio_max: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bar: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<bool>,
}

impl Line {
    /// A measure with one figure a round.
    pub(super) fn new(
        (suite, case): (&'static str, &'static str),
        measure: impl Into<Cow<'static, str>>,
        unit: &'static str,
        better: Better,
        figures: Vec<f64>,
    ) -> Line {
        let (value, value_min, value_max) = spread(&figures);
        Line {
            suite,
            case,
            measure: measure.into(),
            value,
            value_min,
            value_max,
            unit,
            better,
            against: None,
            figures,
        }
    }

    /// Sets it against a baseline, one figure a round, and perhaps a bar for their ratio.
    pub(super) fn against(
        mut self,
        baseline: &'static str,
        figures: &[f64],
        bar: Option<f64>,
    ) -> Line {
        let pairs = self.figures.iter().zip(figures);
        let ratios: Vec<f64> = pairs.map(|(case, base)| case / base).collect();
        let (ratio, ratio_min, ratio_max) = spread(&ratios);
        let pass = bar.map(|bar| match self.better {
            Better::Higher => ratio >= bar,
            Better::Lower => ratio <= bar,
        });
        // Nothing cost nothing on both sides, or a baseline does not have it at all: there is no ratio to state.
        if ratio.is_finite() {
            self.against = Some(Against {
                baseline,
                baseline_value: spread(figures).0,
                ratio,
                ratio_min,
                ratio_max,
                bar,
                pass,
            });
        }
        self
    }

    /// Sets it against a figure that it has to reach.
    pub(super) fn stated(self, bound: f64) -> Line {
        let figures = vec![bound; self.figures.len()];
        self.against(STATED, &figures, Some(1.0))
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
    missed: usize,
    failed: usize,
}

impl Report {
    pub(super) fn new(json: Option<&Path>) -> Result<Report> {
        let create = |path: &Path| {
            File::create(path).with_context(|| format!("creating {}", path.display()))
        };
        Ok(Report {
            json: json.map(create).transpose()?,
            missed: 0,
            failed: 0,
        })
    }

    /// Prints a line, and writes it where asked.
    pub(super) fn add(&mut self, line: &Line) -> Result<()> {
        say(&text(line))?;
        let pass = line.against.as_ref().and_then(|against| against.pass);
        self.missed += usize::from(pass == Some(false));
        if let Some(file) = &mut self.json {
            serde_json::to_writer(&mut *file, line)?;
            file.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Tells of a case that could not be measured.
    pub(super) fn fail(&mut self, case: &str, error: &anyhow::Error) -> Result<()> {
        self.failed += 1;
        Ok(say(&format!("{case}: FAILED: {error:#}"))?)
    }

    /// Fails if a case could not be measured or a bar was missed.
    pub(super) fn finish(self) -> Result<()> {
        match (self.failed, self.missed) {
            (0, 0) => Ok(()),
            (0, missed) => bail!("{missed} bars were missed"),
            (failed, missed) => bail!("{failed} cases failed, {missed} bars were missed"),
        }
    }
}

fn text(line: &Line) -> String {
    let name = format!("{}/{} {}", line.suite, line.case, line.measure);
    let figure = |figure: f64| format!("{figure:.*}", digits(line.value));
    let value = format!("{} {}", figure(line.value), line.unit);
    let mut text = format!("{name:<52} {value:>20}");
    if line.figures.len() > 1 {
        text += &format!("  [{}..{}]", figure(line.value_min), figure(line.value_max));
    }
    if let Some(against) = &line.against {
        text += &format!(
            "  {} {:.*}  ratio {:.3}",
            against.baseline,
            digits(against.baseline_value),
            against.baseline_value,
            against.ratio,
        );
        if line.figures.len() > 1 {
            text += &format!(" [{:.3}..{:.3}]", against.ratio_min, against.ratio_max);
        }
        if let (Some(bar), Some(pass)) = (against.bar, against.pass) {
            text += &format!("  bar {bar} {}", if pass { "pass" } else { "MISSED" });
        }
    }
    text
}

fn digits(value: f64) -> usize {
    if value.abs() >= 100.0 { 0 } else { 3 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(better: Better, figures: &[f64]) -> Line {
        Line::new(
            ("ingest", "ndjson"),
            "rate",
            "values/s",
            better,
            figures.to_vec(),
        )
    }

    #[test]
    fn medians_and_percentiles_are_what_their_names_say() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (2.0, 1.0, 3.0));
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        let at = |percent| percentile(&sorted, percent);
        assert_eq!((at(50), at(95), at(99)), (50.0, 95.0, 99.0));
        assert_eq!(percentile(&[7.0], 99), 7.0);
    }

    #[test]
    fn a_missed_bar_and_a_failed_case_fail_the_run() {
        let finish = |line: &Line| {
            let mut report = Report::new(None).expect("must work");
            report.add(line).expect("must work");
            report.finish()
        };
        let missed = line(Better::Higher, &[1.0, 1.0]).against("copy", &[10.0, 10.0], Some(0.25));
        assert_eq!(
            finish(&missed).expect_err("must fail").to_string(),
            "1 bars were missed"
        );
        let passed = line(Better::Lower, &[1.0, 1.0]).against("copy", &[10.0, 10.0], Some(0.25));
        finish(&passed).expect("must work");
        let mut report = Report::new(None).expect("must work");
        report
            .fail("staged", &anyhow::anyhow!("not served"))
            .expect("must work");
        assert_eq!(
            report.finish().expect_err("must fail").to_string(),
            "1 cases failed, 0 bars were missed"
        );
    }

    #[test]
    fn a_line_is_the_object_that_is_documented() {
        let stated = line(Better::Higher, &[80.0]).stated(40.0);
        let wanted = serde_json::json!({
            "suite": "ingest", "case": "ndjson", "measure": "rate", "value": 80.0, "value_min": 80.0, "value_max": 80.0,
            "unit": "values/s", "better": "higher", "baseline": "stated", "baseline_value": 40.0, "ratio": 2.0,
            "ratio_min": 2.0, "ratio_max": 2.0, "bar": 1.0, "pass": true,
        });
        assert_eq!(serde_json::to_value(&stated).expect("must work"), wanted);
        let alone = serde_json::to_value(line(Better::Lower, &[1.0])).expect("must work");
        assert!(
            alone.get("ratio").is_none() && alone.get("pass").is_none(),
            "{alone}"
        );
    }
}
