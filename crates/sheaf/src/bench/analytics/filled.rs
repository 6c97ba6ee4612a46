//! A lake that was filled as any other: events are sent over HTTP, committed, and followed by another process.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sheaf_config::Changes;
use sheaf_lake::LakeOptions;
use sheaf_lake::analytics::{LakeReader, ReaderOptions};
use sheaf_store::settings::Settings;

use super::questions::Span;
use crate::bench::Scale;
use crate::bench::cdc::feed::Feed;
use crate::bench::cdc::follower::{Follower, standing};
use crate::bench::ingest::generators::Workload;
use crate::bench::world::{Tenant, World};

/// 2013-01-01T00:00:00Z, where the workloads begin.
const EPOCH_MICROS: i64 = 1_356_998_400_000_000;
const DAY_SECONDS: u64 = 86_400;
/// Attributes that say what an entity is: as many as an event has, by which the follower counts facts.
const ABOUT: [&str; 10] = [
    "site", "model", "vendor", "firmware", "building", "floor", "room", "rack", "owner", "grade",
];
/// Sites that entities are at.
const SITES: u64 = 40;
/// Events of a request.
const BATCH: u64 = 5_000;
/// Small files are joined beside the stream: nothing is measured while they are.
const SETTLED_AFTER: Duration = Duration::from_secs(8);
const SETTLED_WITHIN: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Amount {
    pub(super) kind: &'static str,
    pub(super) entities: u64,
    pub(super) instants: u64,
    pub(super) days: u64,
}

pub(super) struct Filled {
    /// At the server that is asked.
    pub(super) tenant: Tenant,
    /// The tenant's data files.
    pub(super) files: Vec<String>,
    pub(super) span: Span,
    /// Numbers of attributes by name.
    pub(super) attributes: BTreeMap<String, i64>,
}

impl Filled {
    /// What devices of ten sensors say in thirty days.
    pub(super) async fn month(world: &World, scale: Scale) -> Result<Filled> {
        let amount = Amount {
            kind: "device",
            entities: scale.pick(50, 1_000, 4_000),
            instants: scale.pick(60, 150, 2_500),
            days: 30,
        };
        Filled::of(world, amount, scale).await
    }

    pub(super) async fn of(world: &World, amount: Amount, scale: Scale) -> Result<Filled> {
        let tenant = world.tenant(amount.kind).await?;
        about(&tenant, &amount).await?;
        let step = amount.days * DAY_SECONDS / amount.instants;
        let workload = Workload::devices(amount.kind, amount.entities).every(step);
        let feed = Feed::of(tenant.clone(), workload, scale.pick(100, BATCH, BATCH));
        // Followed as they come, which is faster than what is there already.
        let follower = Follower::start(world).await?;
        follower.until_all().await?;
        feed.fill(amount.entities * amount.instants).await?;
        follower.stop().await?;
        let follower = Follower::start(world).await?;
        follower.until_all().await?;
        let authority = follower.stay();
        settle(world, scale).await?;
        let files = files(world, &tenant).await?;
        let catalogue = world.catalogue(&tenant).await?;
        let attributes = catalogue.attributes();
        Ok(Filled {
            tenant: tenant.at(&authority),
            files,
            span: Span::days_from(EPOCH_MICROS, i64::try_from(amount.days)?),
            attributes: attributes
                .map(|attribute| (attribute.name.to_string(), attribute.id.0))
                .collect(),
        })
    }

    pub(super) fn tenant_number(&self) -> i64 {
        self.tenant.scope.tenant().0
    }

    pub(super) async fn stop(self, world: &World) -> Result<()> {
        world.stop_second().await
    }
}

/// Says of each entity what it is, an hour before it reports.
async fn about(tenant: &Tenant, amount: &Amount) -> Result<()> {
    let entities: Vec<u64> = (0..amount.entities).collect();
    for some in entities.chunks(1_000) {
        let mut body = String::new();
        for entity in some {
            let values = ABOUT.iter().map(|name| {
                let value = entity % if *name == "site" { SITES } else { 7 };
                format!(r#""{name}":"{name} {value}""#)
            });
            let values: Vec<String> = values.collect();
            body.push_str(&format!(
                r#"{{"type":"{}","id":"d{entity}","observed_at":"2012-12-31T23:00:00Z","attributes":{{{}}}}}"#,
                amount.kind,
                values.join(",")
            ));
            body.push('\n');
        }
        let said = tenant.ingest(body).await;
        said.context("saying what entities are")?;
    }
    Ok(())
}

/// Waits until the table of facts has been left as it is for a while.
async fn settle(world: &World, scale: Scale) -> Result<()> {
    let after = scale.pick(Duration::ZERO, SETTLED_AFTER, SETTLED_AFTER);
    let begun = Instant::now();
    let mut known = (Instant::now(), standing(world).await?);
    while begun.elapsed() < SETTLED_WITHIN {
        let now = standing(world).await?;
        let tables = |standing: &Option<sheaf_store::lake::LakeStanding>| {
            standing.as_ref().map(|standing| standing.tables.clone())
        };
        if tables(&now) != tables(&known.1) {
            known = (Instant::now(), now);
        }
        if known.0.elapsed() >= after {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("the lake is written anew again and again");
}

/// The files that hold the tenant's facts now.
async fn files(world: &World, tenant: &Tenant) -> Result<Vec<String>> {
    let app = &world.pools.app;
    let settings = std::sync::Arc::new(Settings::read(app).await?);
    let written = LakeOptions::in_folder(world.path(crate::bench::cdc::follower::FOLDER));
    let reader = LakeReader::new(
        app,
        settings,
        ReaderOptions::of(&written, Changes::SLOT.to_owned()),
    )?;
    let snapshot = reader.look(None).await?;
    let files = reader.data_files(&tenant.scope, &snapshot).await?;
    let paths = files.iter().map(|location| {
        let path = location.strip_prefix("file://");
        path.map_or_else(|| location.clone(), str::to_owned)
    });
    Ok(paths.collect())
}
