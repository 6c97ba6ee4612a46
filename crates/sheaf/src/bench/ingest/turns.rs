//! Case and baseline in turns, with what each cost, and the lines that come of it.

use anyhow::Result;
use std::time::Instant;

use super::Bench;
use super::load::{Done, joined};
use crate::bench::cost::Cost;
use crate::bench::plot::Sample;
use crate::bench::report::Better;
use crate::bench::world::World;

/// One of the counters.
type Figure = fn(&Cost) -> f64;

/// One round of one side.
#[derive(Debug)]
pub(in crate::bench) struct Side {
    pub(in crate::bench) done: Done,
    pub(super) cost: Cost,
}

impl Side {
    /// How much of a core sending itself took.
    pub(super) fn client_cpu_share(&self) -> f64 {
        self.cost.client_cpu_seconds / self.done.seconds
    }
}

/// All rounds of both sides; weights are values.
#[derive(Debug, Default)]
pub(in crate::bench) struct Turns {
    pub(in crate::bench) case: Vec<Side>,
    pub(in crate::bench) baseline: Vec<Side>,
}

/// Does something, and sees what it cost.
pub(in crate::bench) async fn metered(
    world: &World,
    work: impl Future<Output = Result<Done>>,
) -> Result<Side> {
    let before = Cost::now(world).await?;
    let done = work.await?;
    let cost = Cost::now(world).await?.since(&before);
    Ok(Side { done, cost })
}

/// Work in one piece.
pub(super) async fn timed(weight: f64, work: impl Future<Output = Result<()>>) -> Result<Done> {
    let begun = Instant::now();
    work.await?;
    let seconds = begun.elapsed().as_secs_f64();
    let sample = Sample {
        at: seconds,
        milliseconds: seconds * 1000.0,
        weight,
    };
    Ok(Done {
        seconds,
        samples: vec![sample],
    })
}

/// Runs both sides once a round, from round 1. They take turns in going first, so that neither always meets the
/// other's checkpoint.
pub(in crate::bench) async fn take_turns(
    rounds: usize,
    mut case: impl AsyncFnMut(u64) -> Result<Side>,
    mut baseline: impl AsyncFnMut(u64) -> Result<Side>,
) -> Result<Turns> {
    let mut turns = Turns::default();
    for round in 1..=rounds as u64 {
        if round % 2 == 0 {
            turns.case.push(case(round).await?);
            turns.baseline.push(baseline(round).await?);
        } else {
            turns.baseline.push(baseline(round).await?);
            turns.case.push(case(round).await?);
        }
    }
    Ok(turns)
}

/// How a throughput is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    pub(super) measure: &'static str,
    pub(super) unit: &'static str,
    /// Values of one of the unit's things.
    pub(super) values_each: f64,
    pub(super) baseline: &'static str,
    pub(super) bar: Option<f64>,
    /// What has to be reached whatever the baseline does.
    pub(super) stated: Option<f64>,
}

impl Told {
    /// Values a second.
    pub(super) fn values(baseline: &'static str, bar: Option<f64>) -> Told {
        Told {
            measure: "durable_values",
            unit: "values/s",
            values_each: 1.0,
            baseline,
            bar,
            stated: None,
        }
    }

    /// Events a second, of as many values each.
    pub(super) fn events(values_each: f64, baseline: &'static str, bar: Option<f64>) -> Told {
        Told {
            measure: "durable_events",
            unit: "events/s",
            values_each,
            ..Told::values(baseline, bar)
        }
    }
}

impl Bench<'_> {
    /// Reports rates, latencies, costs and steps of a throughput case, and draws it.
    pub(super) fn tell(&mut self, turns: &Turns, told: Told) -> Result<()> {
        let rates = |sides: &[Side]| -> Vec<f64> {
            sides
                .iter()
                .map(|side| side.done.rate() / told.values_each)
                .collect()
        };
        let (case, baseline) = (rates(&turns.case), rates(&turns.baseline));
        let line = self.line(told.measure, told.unit, Better::Higher, case.clone());
        self.report
            .add(&line.against(told.baseline, &baseline, told.bar))?;
        if let Some(stated) = told.stated {
            let measure = format!("{}_stated", told.measure);
            let line = self
                .line(measure, told.unit, Better::Higher, case)
                .stated(stated);
            self.report.add(&line)?;
        }
        for percent in [50, 95, 99] {
            let figures = turns.case.iter().map(|side| side.done.percentile(percent));
            let measure = format!("request_p{percent}");
            let line = self.line(measure, "ms", Better::Lower, figures.collect());
            self.report.add(&line)?;
        }
        self.tell_costs(turns, told.baseline)?;
        let samples = joined(turns.case.iter().map(|side| &side.done));
        self.draw("values/s", &samples)
    }

    /// Reports what each of them computes for one thing that was done.
    pub(super) fn tell_cpu(
        &mut self,
        case: (&[Side], &'static str),
        baseline: (&[Side], &'static str),
    ) -> Result<()> {
        let computed: [(&str, Figure); 3] = [
            ("server_cpu", |cost| cost.server_cpu_seconds * 1e6),
            ("postgres_cpu", |cost| cost.postgres_cpu_seconds * 1e6),
            ("client_cpu", |cost| cost.client_cpu_seconds * 1e6),
        ];
        for measure in computed {
            self.tell_cost(measure, case, baseline)?;
        }
        Ok(())
    }

    fn tell_cost(
        &mut self,
        (measure, figure): (&'static str, Figure),
        (case, unit): (&[Side], &'static str),
        (baseline, name): (&[Side], &'static str),
    ) -> Result<()> {
        let each = |sides: &[Side]| -> Vec<f64> {
            let figures = sides
                .iter()
                .map(|side| figure(&side.cost) / side.done.weight());
            figures.collect()
        };
        let line = self.line(measure, unit, Better::Lower, each(case));
        self.report.add(&line.against(name, &each(baseline), None))
    }

    fn tell_costs(&mut self, turns: &Turns, baseline: &'static str) -> Result<()> {
        let written: [(&str, Figure); 3] = [
            ("wal", |cost| cost.wal_bytes),
            ("heap", |cost| cost.heap_bytes),
            ("index", |cost| cost.index_bytes),
        ];
        let case = (turns.case.as_slice(), "bytes/value");
        let base = (turns.baseline.as_slice(), baseline);
        for (measure, figure) in written {
            self.tell_cost((measure, figure), case, base)?;
        }
        self.tell_cpu((&turns.case, "us/value"), base)?;
        let shares = turns.case.iter().map(Side::client_cpu_share).collect();
        let line = self.line("client_cpu_share", "cores", Better::Lower, shares);
        self.report.add(&line)?;
        let Some(first) = turns.case.first() else {
            return Ok(());
        };
        for step in first.cost.steps.keys() {
            let each = turns.case.iter().map(|side| {
                let seconds = side.cost.steps.get(step).map_or(0.0, |step| step.seconds);
                seconds * 1e6 / side.done.weight()
            });
            let measure = format!("step_{step}");
            let line = self.line(measure, "us/value", Better::Lower, each.collect());
            self.report.add(&line)?;
        }
        Ok(())
    }
}
