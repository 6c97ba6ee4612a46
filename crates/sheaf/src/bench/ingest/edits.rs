//! Single edits over HTTP: how soon one is stored and read back, and how many a second go through when many clients send
//! one each.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use hyper::body::Bytes;

use super::Bench;
use super::by_hand::{ENTITIES, by_hand, create_tables, inserters};
use super::load::{Client, closed_loop, joined, open_loop};
use super::turns::{Side, metered};
use crate::bench::connection::Connection;
use crate::bench::report::{Better, percentile};
use crate::bench::world::Tenant;

/// Edits a second that are offered.
const OFFERED: u32 = 500;
/// Clients that edit as fast as they are answered.
const CLIENTS_EDITING: usize = 64;
/// Enough that no edit waits for a free client while answers take a hundredth of a second.
const EDITORS: usize = 16;

pub(super) async fn single_edit(bench: &mut Bench<'_>) -> Result<()> {
    let during = Duration::from_secs_f64(bench.scale.pick(0.2, 2.0, 10.0));
    let tenant = bench.world.tenant(bench.name).await?;
    edit_each_once(&tenant).await?;
    create_tables(bench.world).await?;
    let parts = Parts::default();
    let (mut cases, mut baselines) = (Vec::new(), Vec::new());
    let (mut edits, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..bench.scale.rounds() {
        let inserters = inserters(bench.world, EDITORS).await?;
        baselines.push(open_loop(inserters, OFFERED, during).await?);
        let editors = editors(&tenant, EDITORS, Some(&parts)).await?;
        cases.push(metered(bench.world, open_loop(editors, OFFERED, during)).await?);
        let (edit, read) = parts.take();
        edits.push(edit);
        reads.push(read);
    }
    let of_insert = |percent: usize| -> Vec<f64> {
        let figures = baselines.iter().map(|round| round.percentile(percent));
        figures.collect()
    };
    let of_case = |percent: usize| -> Vec<f64> {
        let figures = cases.iter().map(|round| round.done.percentile(percent));
        figures.collect()
    };
    for (percent, bar) in [(50, None), (95, None), (99, Some(2.0))] {
        let measure = format!("edit_and_read_p{percent}");
        let line = bench.line(measure, "ms", Better::Lower, of_case(percent));
        let line = line.against("bare_insert", &of_insert(percent), bar);
        bench.report.add(&line)?;
    }
    let measure = "edit_and_read_p99_stated";
    let line = bench.line(measure, "ms", Better::Lower, of_case(99));
    bench.report.add(&line.stated(5.0))?;
    for percent in [50, 95, 99] {
        let figures = edits.iter().map(|sorted| percentile(sorted, percent));
        let measure = format!("edit_p{percent}");
        let line = bench.line(measure, "ms", Better::Lower, figures.collect());
        let line = line.against("bare_insert", &of_insert(percent), None);
        bench.report.add(&line)?;
    }
    let figures = reads.iter().map(|sorted| percentile(sorted, 99));
    let line = bench.line("read_back_p99", "ms", Better::Lower, figures.collect());
    bench.report.add(&line)?;
    tell_steps(bench, &cases)?;
    bench.draw("edits/s", &joined(cases.iter().map(|side| &side.done)))
}

pub(super) async fn edit_clients(bench: &mut Bench<'_>) -> Result<()> {
    let during = Some(Duration::from_secs_f64(bench.scale.pick(0.2, 1.0, 5.0)));
    let tenant = bench.world.tenant(bench.name).await?;
    edit_each_once(&tenant).await?;
    create_tables(bench.world).await?;
    let world = bench.world;
    let mut cases = Vec::new();
    let mut hands = [
        ("by_hand", 1, Some(3.0)),
        ("by_hand_8_connections", 8, None),
    ]
    .map(|(name, connections, bar)| (name, connections, bar, Vec::new()));
    let mut alone = Vec::new();
    for _ in 0..bench.scale.rounds() {
        let many = editors(&tenant, CLIENTS_EDITING, None).await?;
        cases.push(metered(world, closed_loop(many, during)).await?);
        for (_, connections, _, sides) in &mut hands {
            let hands = by_hand(world, *connections).await?;
            sides.push(metered(world, closed_loop(hands, during)).await?);
        }
        let one = editors(&tenant, 1, None).await?;
        alone.push(metered(world, closed_loop(one, during)).await?);
    }
    let rates = |sides: &[Side]| {
        sides
            .iter()
            .map(|side| side.done.rate())
            .collect::<Vec<f64>>()
    };
    let against = hands
        .iter()
        .map(|(name, _, bar, sides)| (*name, *bar, sides))
        .chain([("one_client", None, &alone)]);
    for (name, bar, sides) in against {
        let measure = format!("edits_against_{name}");
        let line = bench.line(measure, "edits/s", Better::Higher, rates(&cases));
        bench.report.add(&line.against(name, &rates(sides), bar))?;
    }
    for percent in [50, 99] {
        let figures = cases.iter().map(|side| side.done.percentile(percent));
        let measure = format!("edit_p{percent}");
        let line = bench.line(measure, "ms", Better::Lower, figures.collect());
        bench.report.add(&line)?;
    }
    let (by_hand, _, _, one_hand) = &hands[0];
    bench.tell_cpu((&cases, "us/edit"), (one_hand, by_hand))?;
    tell_steps(bench, &cases)?;
    let commits = |side: &Side| {
        side.cost
            .steps
            .get("commit")
            .map_or(f64::NAN, |step| step.times)
    };
    let figures = cases.iter().map(|side| side.done.weight() / commits(side));
    let line = bench.line("edits_a_commit", "edits", Better::Higher, figures.collect());
    bench.report.add(&line)?;
    bench.draw("edits/s", &joined(cases.iter().map(|side| &side.done)))
}

/// How long each step of a transaction took, each time. One transaction may hold the edits of several clients.
fn tell_steps(bench: &mut Bench<'_>, sides: &[Side]) -> Result<()> {
    let Some(first) = sides.first() else {
        return Ok(());
    };
    for name in first.cost.steps.keys() {
        let figures = sides.iter().map(|side| {
            let step = side.cost.steps.get(name).copied();
            step.unwrap_or_default().mean_us()
        });
        let measure = format!("step_{name}");
        let line = bench.line(measure, "us/transaction", Better::Lower, figures.collect());
        bench.report.add(&line)?;
    }
    Ok(())
}

/// Milliseconds of edits and of the reads after them.
#[derive(Clone, Default)]
struct Parts(Arc<Mutex<(Vec<f64>, Vec<f64>)>>);

impl Parts {
    fn push(&self, edit: f64, read: f64) {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.0.push(edit);
        parts.1.push(read);
    }

    /// What was pushed since, sorted.
    fn take(&self) -> (Vec<f64>, Vec<f64>) {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut edits, mut reads) = std::mem::take(&mut *parts);
        edits.sort_unstable_by(f64::total_cmp);
        reads.sort_unstable_by(f64::total_cmp);
        (edits, reads)
    }
}

/// Edits one entity after the other, and perhaps reads each back.
struct Editor {
    connection: Connection,
    read_back: Option<Parts>,
}

async fn editors(
    tenant: &Tenant,
    clients: usize,
    read_back: Option<&Parts>,
) -> Result<Vec<Editor>> {
    let editor = |connection| Editor {
        connection,
        read_back: read_back.cloned(),
    };
    Ok(tenant
        .connections(clients)
        .await?
        .into_iter()
        .map(editor)
        .collect())
}

/// Makes the entities and their attribute.
async fn edit_each_once(tenant: &Tenant) -> Result<()> {
    let mut body = String::new();
    for entity in 0..ENTITIES {
        body += &format!(
            "{{\"type\":\"edited\",\"id\":\"e{entity}\",\"observed_at\":\"2013-01-01T00:00:00Z\",\"attributes\":\
             {{\"a\":1.5,\"b\":2.5,\"c\":3.5,\"d\":4.5,\"e\":5.5,\"f\":6.5,\"g\":7.5,\"h\":8.5,\"i\":9.5,\"n\":0}}}}\n"
        );
    }
    let made = tenant.ingest(body).await;
    made.context("making the entities to edit")?;
    // The first edit of now makes its partition.
    editors(tenant, 1, None).await?[0].act(0).await.map(drop)
}

impl Client for Editor {
    async fn act(&mut self, ticket: u64) -> Result<Option<f64>> {
        let path = format!("/v1/entities/edited/e{}", ticket % ENTITIES);
        let body = format!("{{\"attributes\":{{\"n\":{ticket}}}}}");
        let begun = Instant::now();
        self.connection
            .call(Method::PATCH, &path, "application/json", Bytes::from(body))
            .await?;
        let edit = begun.elapsed().as_secs_f64() * 1000.0;
        if let Some(parts) = &self.read_back {
            let begun = Instant::now();
            let answer = self
                .connection
                .call(Method::GET, &path, "application/json", Bytes::new())
                .await?;
            parts.push(edit, begun.elapsed().as_secs_f64() * 1000.0);
            let answer: serde_json::Value = serde_json::from_slice(&answer)?;
            let found = answer["attributes"]["n"].as_f64();
            ensure!(
                found == Some(ticket as f64),
                "{ticket} was written and {found:?} read"
            );
        }
        Ok(Some(1.0))
    }
}
