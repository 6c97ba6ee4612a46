//! The server's memory while it takes in as much as it can, in both forms.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;

use super::Bench;
use super::bodies::{Form, request};
use super::generators::Workload;
use super::load::{Sender, closed_loop};
use super::turns::metered;
use crate::bench::CLIENTS;
use crate::bench::cost::resident_bytes;
use crate::bench::report::{Better, spread};

const LOOK_EVERY: Duration = Duration::from_millis(200);
const MEGABYTE: f64 = 1e6;
const MEGABYTES_MAX: f64 = 400.0;
/// What the last quarter of the run may need of what the second needed: caches have filled by then.
const GROWTH_MAX: f64 = 1.1;

pub(super) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    let during = match bench.minutes {
        Some(minutes) => Duration::from_secs(u64::from(minutes) * 60),
        None => Duration::from_secs_f64(bench.scale.pick(0.5, 2.0, 60.0)),
    };
    let batch = bench.scale.pick(50, 5_000, 5_000);
    let tenant = bench.world.tenant(bench.name).await?;
    let devices = bench.scale.pick(50, 10_000, 20_000);
    let workloads = [
        (Workload::devices("memory", devices), Form::Ndjson),
        (
            Workload::devices("memory_line", devices),
            Form::LineProtocol,
        ),
    ];
    // Made while they are sent: minutes of requests do not fit anywhere.
    let next = Arc::new(AtomicU64::new(0));
    let make = move |_| {
        let turn = next.fetch_add(1, Ordering::Relaxed);
        let (workload, form) = &workloads[usize::from(turn % 2 == 1)];
        let from = turn / 2 * batch;
        Some(request(workload, *form, from, from + batch))
    };
    let senders = Sender::all(tenant.connections(CLIENTS).await?, make);
    let pid = bench.world.server_pid();
    let mut looks: Vec<f64> = Vec::new();
    let watch = async {
        loop {
            looks.push(resident_bytes(pid)? / MEGABYTE);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let side = tokio::select! {
        side = metered(bench.world, closed_loop(senders, Some(during))) => side?,
        failed = watch => {
            let failed: Result<()> = failed;
            failed?;
            unreachable!("looking ends only by a failure");
        }
    };
    looks.push(resident_bytes(pid)? / MEGABYTE);
    let share = side.client_cpu_share();
    let done = side.done;
    let most = looks.iter().copied().fold(0.0, f64::max);
    let line = bench.line("resident_max", "MB", Better::Lower, vec![most]);
    bench.report.add(&line.stated(MEGABYTES_MAX))?;
    let (earlier, later) = (quarter(&looks, 1), quarter(&looks, 3));
    let line = bench.line("resident_last_quarter", "MB", Better::Lower, vec![later]);
    let bar = bench.scale.pick(None, None, Some(GROWTH_MAX));
    bench
        .report
        .add(&line.against("second_quarter", &[earlier], bar))?;
    let line = bench.line(
        "durable_values",
        "values/s",
        Better::Higher,
        vec![done.rate()],
    );
    bench.report.add(&line)?;
    let line = bench.line("client_cpu_share", "cores", Better::Lower, vec![share]);
    bench.report.add(&line)?;
    bench.draw("values/s", &done.samples)
}

/// The median of a quarter of the looks, counted from 0.
fn quarter(looks: &[f64], number: usize) -> f64 {
    let begin = looks.len() * number / 4;
    let end = (looks.len() * (number + 1) / 4).max(begin + 1);
    spread(looks.get(begin..end).unwrap_or_default()).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_are_in_order_and_never_empty() {
        let looks: Vec<f64> = (0..8).map(f64::from).collect();
        let of = |looks: &[f64]| [0, 1, 2, 3].map(|number| quarter(looks, number));
        assert_eq!(of(&looks), [1.0, 3.0, 5.0, 7.0]);
        assert_eq!(of(&[2.0]), [2.0; 4]);
    }
}
