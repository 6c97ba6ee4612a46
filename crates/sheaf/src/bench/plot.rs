//! A picture of one case: throughput, and percentiles of latency, over time. Plain SVG of our own, because two line
//! charts do not pay for a drawing library.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::report::percentile;

/// One answered piece of work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Seconds since the work began, at the answer.
    pub(super) at: f64,
    pub(super) milliseconds: f64,
    /// What it counts for in the throughput.
    pub(super) weight: f64,
}

const WIDTH: f64 = 900.0;
const PANEL: f64 = 240.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 50.0;
const GAP: f64 = 70.0;
/// More points than this are no longer told apart.
const WINDOWS_MAX: f64 = 120.0;
/// Requests of thousands of events arrive in lumps; shorter windows show the lumps.
const WINDOW_SECONDS_MIN: f64 = 0.25;

/// A line of a chart: its name, its colour, and its points as (seconds, value).
struct Curve {
    name: &'static str,
    colour: &'static str,
    points: Vec<(f64, f64)>,
}

/// Draws the samples of a case into `<dir>/<case>.svg`.
pub(super) fn draw(dir: &Path, case: &str, unit: &str, samples: &[Sample]) -> Result<()> {
    let path = dir.join(format!("{case}.svg"));
    std::fs::write(&path, svg(case, unit, samples))
        .with_context(|| format!("writing {}", path.display()))
}

fn svg(case: &str, unit: &str, samples: &[Sample]) -> String {
    let end = samples
        .iter()
        .map(|sample| sample.at)
        .fold(0.0, f64::max)
        .max(1e-3);
    let windows = windows(samples, end);
    let height = TOP + 2.0 * PANEL + GAP + 50.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(
        &mut out,
        (LEFT, 22.0),
        "start",
        &format!("sheaf bench: {case}"),
    );
    let rate = Curve {
        name: "rate",
        colour: "#1f77b4",
        points: windows
            .iter()
            .map(|window| (window.middle, window.rate))
            .collect(),
    };
    panel(&mut out, TOP, &format!("throughput, {unit}"), end, &[rate]);
    let percentiles = [
        ("p50", "#2ca02c", 50),
        ("p95", "#ff7f0e", 95),
        ("p99", "#d62728", 99),
    ];
    let curves = percentiles.map(|(name, colour, percent)| Curve {
        name,
        colour,
        points: windows
            .iter()
            .filter(|window| !window.latencies.is_empty())
            .map(|window| (window.middle, percentile(&window.latencies, percent)))
            .collect(),
    });
    panel(&mut out, TOP + PANEL + GAP, "latency, ms", end, &curves);
    text(
        &mut out,
        (LEFT + (WIDTH - LEFT - RIGHT) / 2.0, height - 10.0),
        "middle",
        "seconds",
    );
    out += "</svg>\n";
    out
}

struct Window {
    middle: f64,
    rate: f64,
    /// Sorted.
    latencies: Vec<f64>,
}

/// The samples by time.
fn windows(samples: &[Sample], end: f64) -> Vec<Window> {
    let seconds = (end / WINDOWS_MAX).max(WINDOW_SECONDS_MIN).min(end);
    let mut windows: Vec<Window> = Vec::new();
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(|a, b| a.at.total_cmp(&b.at));
    let mut rest = sorted.as_slice();
    let mut begin = 0.0;
    while begin < end {
        // The last window takes the answer at the very end, and is as long as what is left.
        let until = if begin + 1.5 * seconds > end {
            end
        } else {
            begin + seconds
        };
        let taken = rest.partition_point(|sample| sample.at <= until);
        let (inside, after) = rest.split_at(taken);
        rest = after;
        let mut latencies: Vec<f64> = inside.iter().map(|sample| sample.milliseconds).collect();
        latencies.sort_unstable_by(f64::total_cmp);
        let weight: f64 = inside.iter().map(|sample| sample.weight).sum();
        windows.push(Window {
            middle: f64::midpoint(begin, until),
            rate: weight / (until - begin),
            latencies,
        });
        begin = until;
    }
    windows
}

fn panel(out: &mut String, top: f64, title: &str, end: f64, curves: &[Curve]) {
    let points = curves.iter().flat_map(|curve| &curve.points);
    let most = points.map(|(_, value)| *value).fold(0.0, f64::max);
    let step = round_step(most / 4.0);
    let ceiling = (most / step).ceil().max(1.0) * step;
    let x = |seconds: f64| LEFT + (WIDTH - LEFT - RIGHT) * seconds / end;
    let y = |value: f64| top + PANEL * (1.0 - value / ceiling);
    text(out, (LEFT, top - 8.0), "start", title);
    let mut value = 0.0;
    while value <= ceiling + step / 2.0 {
        line(out, (LEFT, y(value)), (WIDTH - RIGHT, y(value)));
        text(out, (LEFT - 6.0, y(value) + 4.0), "end", &label(value));
        value += step;
    }
    let step = round_step(end / 8.0);
    let mut seconds = 0.0;
    while seconds <= end {
        line(
            out,
            (x(seconds), top + PANEL),
            (x(seconds), top + PANEL + 4.0),
        );
        text(
            out,
            (x(seconds), top + PANEL + 18.0),
            "middle",
            &label(seconds),
        );
        seconds += step;
    }
    for (place, curve) in curves.iter().enumerate() {
        let mut path = String::new();
        for (seconds, value) in &curve.points {
            let _ = write!(path, "{:.1},{:.1} ", x(*seconds), y(*value));
        }
        let Curve { name, colour, .. } = curve;
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            path.trim_end()
        );
        let at = (
            WIDTH - RIGHT + 8.0,
            top + 12.0 + 16.0 * f64::from(u8::try_from(place).unwrap_or(u8::MAX)),
        );
        let _ = write!(out, "<g fill=\"{colour}\">");
        text(out, at, "start", name);
        *out += "</g>\n";
    }
}

fn line(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(
        out,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ccc\"/>"
    );
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

/// The next of 1, 2, 5, 10, 20, .. that is not below a step.
fn round_step(least: f64) -> f64 {
    let least = least.max(1e-3);
    let decade = 10_f64.powf(least.log10().floor());
    let found = [1.0, 2.0, 5.0].map(|factor| factor * decade);
    found
        .into_iter()
        .find(|step| *step >= least * 0.999)
        .unwrap_or(10.0 * decade)
}

fn label(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{}M", round(value / 1e6)),
        size if size >= 1e4 => format!("{}k", round(value / 1e3)),
        _ => round(value).to_string(),
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: f64, milliseconds: f64) -> Sample {
        Sample {
            at,
            milliseconds,
            weight: 10.0,
        }
    }

    #[test]
    fn every_sample_is_in_one_window() {
        let samples: Vec<Sample> = (0..1000)
            .map(|n| sample(f64::from(n) / 100.0 + 0.01, 1.0))
            .collect();
        let windows = windows(&samples, 10.0);
        assert_eq!(
            windows
                .iter()
                .map(|window| window.latencies.len())
                .sum::<usize>(),
            1000
        );
        assert_eq!(windows.len(), 40);
        let rate = windows.iter().map(|window| window.rate).sum::<f64>() / 40.0;
        assert!((rate - 1000.0).abs() < 1e-6, "{rate}");
    }

    #[test]
    fn a_picture_has_both_charts_and_a_line_for_each_percentile() {
        let picture = svg("ndjson", "values/s", &[sample(0.1, 2.0), sample(0.9, 4.0)]);
        assert_eq!(picture.matches("<polyline").count(), 4);
        for wanted in [
            "throughput, values/s",
            "latency, ms",
            "p50",
            "p95",
            "p99",
            "</svg>",
        ] {
            assert!(picture.contains(wanted), "{wanted} is missing");
        }
        assert!(
            !picture.contains("NaN") && !picture.contains("inf"),
            "{picture}"
        );
        assert!(!svg("empty", "values/s", &[]).contains("NaN"));
    }

    #[test]
    fn axes_are_labelled_with_round_numbers() {
        assert_eq!(
            [0.3, 1.0, 2.1, 70.0].map(round_step),
            [0.5, 1.0, 5.0, 100.0]
        );
        assert_eq!(
            [0.5, 2000.0, 50_000.0, 1_500_000.0].map(label),
            ["0.5", "2000", "50k", "1.5M"]
        );
    }
}
