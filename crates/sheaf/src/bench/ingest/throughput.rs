//! How many values a second, by kind of load, each against what PostgreSQL alone does with the same events.

use anyhow::Result;

use super::Bench;
use super::bodies::{Encoded, Form, requests};
use super::generators::{Fields, Order, Workload};
use super::load::send;
use super::original;
use super::turns::{Side, Told, metered, take_turns, timed};
use crate::bench::CLIENTS;
use crate::bench::world::Tenant;

/// One request holds this many events, as far as the scale has them.
const BATCH: u64 = 5_000;
const RAW_COPY: &str = "raw_copy";

/// A load and how it is sent.
struct Plan {
    workload: Workload,
    form: Form,
    /// Events of a round.
    events: u64,
    batch: u64,
    values_each: u64,
    /// What makes names, attributes and documents before anything is measured, if not the load itself; and its events of
    /// a request.
    before: Option<(Workload, u64)>,
}

impl Plan {
    /// Rounds of the usual size.
    fn new(bench: &Bench<'_>, workload: Workload, form: Form) -> Plan {
        Plan {
            values_each: match workload.fields {
                Fields::All(count) => count,
                Fields::OneInTurn(_) => 1,
                Fields::Sparse { each, .. } => each,
            },
            workload,
            form,
            events: bench.scale.pick(100, 60_000, 300_000),
            batch: bench.scale.pick(25, BATCH, BATCH),
            before: None,
        }
    }

    /// Whose documents hold all attributes before each event changes one.
    fn filled(mut self, attributes: u64, batch: u64) -> Plan {
        let fields = Fields::All(attributes);
        let before = Workload {
            fields,
            ..self.workload.clone()
        };
        self.before = Some((before, batch));
        self
    }

    /// The events of a round, from round 1: after those that make every entity.
    fn range(&self, round: u64) -> std::ops::Range<u64> {
        let first = self.workload.events_of_all() + (round - 1) * self.events;
        first..first + self.events
    }

    async fn prepare(&self, tenant: &Tenant) -> Result<()> {
        let (before, batch) = match &self.before {
            Some((before, batch)) => (before, *batch),
            None => (&self.workload, self.batch),
        };
        let requests = requests(before, self.form, 0..before.events_of_all(), batch);
        send(tenant.connections(CLIENTS).await?, requests).await?;
        Ok(())
    }

    async fn over_http(&self, bench: &Bench<'_>, tenant: &Tenant, round: u64) -> Result<Side> {
        let requests = requests(&self.workload, self.form, self.range(round), self.batch);
        let connections = tenant.connections(CLIENTS).await?;
        metered(bench.world, send(connections, requests)).await
    }

    async fn raw_copy(&self, bench: &Bench<'_>, tenant: &Tenant, round: u64) -> Result<Side> {
        let world = bench.world;
        let encoded = Encoded::new(world, tenant, &self.workload, self.range(round)).await?;
        let values = (self.events * self.values_each) as f64;
        metered(world, timed(values, encoded.copy(world))).await
    }

    /// Over HTTP in turns with raw COPY of the same events.
    async fn against_copy(&self, bench: &mut Bench<'_>, told: Told) -> Result<()> {
        let tenant = bench.world.tenant(bench.name).await?;
        self.prepare(&tenant).await?;
        let turns = take_turns(
            bench.scale.rounds(),
            async |round| self.over_http(bench, &tenant, round).await,
            async |round| self.raw_copy(bench, &tenant, round).await,
        )
        .await?;
        bench.tell(&turns, told)
    }
}

fn devices(bench: &Bench<'_>, kind: &'static str) -> Workload {
    Workload::devices(kind, bench.scale.pick(50, 10_000, 20_000))
}

pub(super) async fn ndjson(bench: &mut Bench<'_>) -> Result<()> {
    let plan = Plan::new(bench, devices(bench, "device"), Form::Ndjson);
    plan.against_copy(bench, Told::values(RAW_COPY, Some(0.4)))
        .await
}

pub(super) async fn line_protocol(bench: &mut Bench<'_>) -> Result<()> {
    let plan = Plan::new(bench, devices(bench, "device"), Form::LineProtocol);
    plan.against_copy(bench, Told::values(RAW_COPY, Some(0.4)))
        .await
}

pub(super) async fn agents(bench: &mut Bench<'_>) -> Result<()> {
    let workload = Workload::agents(bench.scale.pick(100, 1_000, 4_000));
    let mut plan = Plan::new(bench, workload, Form::LineProtocol);
    // Whole batches of 100 entities and 50 instants, and every entity before anything is measured.
    plan.events = bench.scale.pick(5_000, 50_000, 400_000);
    plan.batch = BATCH;
    plan.against_copy(bench, Told::values(RAW_COPY, Some(0.8)))
        .await
}

pub(super) async fn one_value(bench: &mut Bench<'_>) -> Result<()> {
    let workload = Workload {
        fields: Fields::OneInTurn(10),
        ..devices(bench, "device")
    };
    let batch = bench.scale.pick(25, BATCH, BATCH);
    let plan = Plan::new(bench, workload, Form::Ndjson).filled(10, batch);
    let told = Told {
        stated: Some(40_000.0),
        ..Told::events(1.0, RAW_COPY, Some(0.14))
    };
    plan.against_copy(bench, told).await
}

pub(super) async fn wide_documents(bench: &mut Bench<'_>) -> Result<()> {
    let workload = Workload {
        fields: Fields::OneInTurn(150),
        ..Workload::devices("wide", bench.scale.pick(10, 1_000, 5_000))
    };
    let mut plan = Plan::new(bench, workload, Form::Ndjson).filled(150, 500);
    plan.events = bench.scale.pick(100, 20_000, 100_000);
    let told = Told {
        stated: Some(10_000.0),
        ..Told::events(1.0, RAW_COPY, None)
    };
    plan.against_copy(bench, told).await
}

pub(super) async fn sparse(bench: &mut Bench<'_>) -> Result<()> {
    let of = bench.scale.pick(100, 1_000, 5_000);
    let workload = Workload {
        fields: Fields::Sparse { each: 10, of },
        ..devices(bench, "custom")
    };
    let plan = Plan::new(bench, workload, Form::Ndjson);
    plan.against_copy(bench, Told::values(RAW_COPY, None)).await
}

pub(super) async fn hot_few(bench: &mut Bench<'_>) -> Result<()> {
    let workload = Workload {
        order: Order::HotFew { hot: 10 },
        ..devices(bench, "device")
    };
    let plan = Plan::new(bench, workload, Form::Ndjson);
    plan.against_copy(bench, Told::values(RAW_COPY, None)).await
}

pub(super) async fn original(bench: &mut Bench<'_>) -> Result<()> {
    let mut plan = Plan::new(bench, devices(bench, "device"), Form::Ndjson);
    // The baseline takes seconds for what takes the case a part of one.
    plan.events = bench.scale.pick(100, 10_000, 100_000);
    let world = bench.world;
    let tenant = world.tenant(bench.name).await?;
    plan.prepare(&tenant).await?;
    let turns = take_turns(
        bench.scale.rounds(),
        async |round| plan.over_http(bench, &tenant, round).await,
        async |round| {
            let texts = original::prepare(world, &plan.workload, plan.range(round)).await?;
            metered(world, original::write(world, texts)).await
        },
    )
    .await?;
    bench.tell(&turns, Told::values("original_way", Some(4.0)))
}

pub(super) async fn late_duplicate(bench: &mut Bench<'_>) -> Result<()> {
    let workload = Workload {
        late_percent: 20,
        duplicate_percent: 5,
        ..devices(bench, "late")
    };
    let clean = Plan::new(bench, devices(bench, "clean"), Form::Ndjson);
    let plan = Plan::new(bench, workload, Form::Ndjson);
    let tenant = bench.world.tenant(bench.name).await?;
    plan.prepare(&tenant).await?;
    clean.prepare(&tenant).await?;
    let turns = take_turns(
        bench.scale.rounds(),
        async |round| plan.over_http(bench, &tenant, round).await,
        async |round| clean.over_http(bench, &tenant, round).await,
    )
    .await?;
    bench.tell(&turns, Told::values("clean", Some(0.5)))
}

pub(super) async fn two_servers(bench: &mut Bench<'_>) -> Result<()> {
    let plan = Plan::new(bench, devices(bench, "device"), Form::Ndjson);
    let world = bench.world;
    let tenant = world.tenant(bench.name).await?;
    let second = tenant.at(&world.start_second("").await?);
    let outcome = async {
        plan.prepare(&tenant).await?;
        // Each turn goes on where the last has ended, or it would only find duplicates and late events.
        let turn = std::cell::Cell::new(0);
        let sent = async |places: [&Tenant; 2]| {
            turn.set(turn.get() + 1);
            let range = plan.range(turn.get());
            let requests = requests(&plan.workload, plan.form, range, plan.batch);
            let mut connections = Vec::new();
            for client in 0..CLIENTS {
                connections.push(places[client % 2].connect().await?);
            }
            metered(world, send(connections, requests)).await
        };
        take_turns(
            bench.scale.rounds(),
            async |_| sent([&tenant, &second]).await,
            async |_| sent([&tenant, &tenant]).await,
        )
        .await
    }
    .await;
    world.stop_second().await?;
    bench.tell(&outcome?, Told::values("one_server", Some(0.9)))
}
