//! A tenant who stages, for the tests of the staged mode.
#![allow(dead_code, reason = "each test binary uses another part")]

use std::time::Duration;

use anyhow::Result;
use sheaf_model::{
    AttributeId, AttributeType, Attrs, BatchId, Cell, EntityId, Event, Op, Tags, Timestamp, Value,
};
use sheaf_pg::Pool;
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{Description, NewAttribute, Temperature, declare_attribute};
use sheaf_store::invariants::{check, check_documents};
use sheaf_store::partitions::ensure_partition;
use sheaf_store::staging::{
    StageOutcome, StagedBatch, StagedState, confirm, detect_loss, fetch_staged_status,
};
use sheaf_testkit::wait_until;

use crate::world::World;

pub(crate) const WITHIN: Duration = Duration::from_secs(30);

/// A tenant with two attributes, who stages.
pub(crate) struct Staging {
    pub(crate) world: World,
    pub(crate) scope: TenantScope,
    pub(crate) writer: Pool,
    pub(crate) attributes: Vec<AttributeId>,
}

impl Staging {
    pub(crate) async fn create() -> Result<Staging> {
        Self::of(World::create().await?).await
    }

    pub(crate) async fn of(world: World) -> Result<Staging> {
        let scope = world.tenant("acme").await?;
        for name in ["one", "other"] {
            let new = NewAttribute {
                name: name.into(),
                kind: AttributeType::Text,
                temperature: Temperature::Hot,
            };
            declare_attribute(
                &world.app,
                &scope,
                &new,
                &Description::default(),
                Timestamp::now(),
            )
            .await?;
        }
        let client = world.database.superuser().await?;
        let rows = client
            .query("SELECT attribute_id FROM sheaf.attributes ORDER BY 1", &[])
            .await?;
        let writer = world.pool("sheaf_writer", 4);
        ensure_partition(&writer, second(0)).await?;
        Ok(Staging {
            attributes: rows.iter().map(|row| AttributeId(row.get(0))).collect(),
            world,
            scope,
            writer,
        })
    }

    pub(crate) fn event(&self, at: Option<Timestamp>, cells: &[(usize, &str)]) -> Event {
        let cells = cells.iter().map(|(place, text)| {
            (
                self.attributes[*place],
                Cell::Value(Value::Text((*text).to_owned())),
            )
        });
        Event {
            observed_at: at,
            op: Op::Patch,
            attrs: Attrs::from_distinct(cells.collect()),
            tags: Tags::None,
        }
    }

    pub(crate) async fn stage(&self, events: &[(EntityId, Event)]) -> Result<StagedBatch> {
        match self.world.stage(&self.scope, None, events).await?.1 {
            StageOutcome::Staged(staged) => Ok(staged),
            StageOutcome::AlreadyThere
            | StageOutcome::OtherLineage
            | StageOutcome::LossUnnoticed => anyhow::bail!("not staged"),
        }
    }

    pub(crate) async fn state(&self, batch: BatchId) -> Result<Option<StagedState>> {
        let status = fetch_staged_status(&self.world.app, &self.scope, batch).await?;
        Ok(status.map(|status| status.state))
    }

    /// Until everything that has committed is confirmed.
    pub(crate) async fn confirm_all(&self) -> Result<()> {
        let seen = confirm(&self.writer).await?.seen_at;
        wait_until("the flush is on disk", WITHIN, async || {
            confirm(&self.writer)
                .await
                .is_ok_and(|now| Some(now.confirmed_at) > seen)
        })
        .await;
        Ok(())
    }

    pub(crate) async fn assert_invariants(&self) -> Result<()> {
        let upkeep = self.world.database.client("sheaf_upkeep").await?;
        assert_eq!(check(&upkeep).await?, Vec::new());
        assert_eq!(
            check_documents(&upkeep, i64::MAX).await?.violations,
            Vec::new()
        );
        Ok(())
    }
}

pub(crate) fn second(place: i64) -> Timestamp {
    Timestamp::parse_date("2024-03-01")
        .expect("a date")
        .saturating_add_micros(place * 1_000_000)
}

/// Until PostgreSQL answers and the loss is found: the epoch after it.
pub(crate) async fn wait_for_loss(staging: &Staging) -> Result<i64> {
    wait_until("the loss is found", WITHIN, async || {
        detect_loss(&staging.writer).await.is_ok()
    })
    .await;
    Ok(detect_loss(&staging.writer).await?.epoch)
}
