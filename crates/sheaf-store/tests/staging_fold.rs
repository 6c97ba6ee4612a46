//! The flush of staged events, which is SQL, against the fold of the model: whatever comes in whatever order, both make
//! the same rows and the same documents.

mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sheaf_model::{
    Appended, AttributeId, AttributeType, Attrs, Cell, Document, EntityId, Event, LATE_SEQ, Limits,
    Op, StoredRow, Tags, Timestamp, Value, append, append_late, fold_instant, fold_rows, merge,
    time_after,
};
use sheaf_pg::{PgTime, Pool};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{
    Catalogue, Catalogues, Description, NewAttribute, Temperature, declare_attribute,
};
use sheaf_store::documents::document_of;
use sheaf_store::events::history_of;
use sheaf_store::invariants::{check, check_documents};
use sheaf_store::ledger::Counts;
use sheaf_store::partitions::ensure_partition;
use sheaf_store::staging::{StagedState, fetch_staged_status, flush};
use tokio::runtime::Runtime;
use tokio_postgres::Client;

use world::World;

/// Values of each type: some equal in other words, some that only look equal.
const VALUES: [(AttributeType, &[&str]); 7] = [
    (
        AttributeType::Int,
        &[
            "1",
            "-9223372036854775808",
            "9007199254740993",
            "9007199254740992",
        ],
    ),
    (AttributeType::Float, &["0.1", "1e300", "12.5", "-3"]),
    (
        AttributeType::Decimal,
        &["12.5", "12.50", "0.1000000000000000055", "-7"],
    ),
    (
        AttributeType::Text,
        &[
            r#""a""#,
            r#""12.5""#,
            r#""\"\\ \u00e9 \ud83d\ude00""#,
            r#""""#,
        ],
    ),
    (AttributeType::Bool, &["true", "false"]),
    (
        AttributeType::Time,
        &[
            r#""2024-02-29T12:00:00Z""#,
            r#""2024-02-29T13:00:00+01:00""#,
            r#""1999-01-01T00:00:00.000001Z""#,
        ],
    ),
    (
        AttributeType::Json,
        &[
            r#"{"k":[1,null]}"#,
            r#"{"k":[1.0,null]}"#,
            "[]",
            r#""12.5""#,
            r#"{"k":[null,1]}"#,
        ],
    ),
];
const TEMPERATURES: [Temperature; 4] = [
    Temperature::Cold,
    Temperature::Hot,
    Temperature::Warming,
    Temperature::Cooling,
];

struct Bench {
    world: World,
    scope: TenantScope,
    writer: Pool,
    client: Client,
    catalogue: Arc<Catalogue>,
    /// Each attribute with values that it may have.
    attributes: Vec<(AttributeId, Vec<Value>)>,
    /// What is observed before this is late.
    closed_before: Option<Timestamp>,
}

impl Bench {
    async fn create(closed_before: Option<Timestamp>) -> Result<Bench> {
        let world = World::create().await?;
        let scope = world.tenant("acme").await?;
        for kind in AttributeType::ALL {
            for temperature in TEMPERATURES {
                let name = format!("{kind}_{}", temperature.as_str());
                let new = NewAttribute {
                    name,
                    kind,
                    temperature,
                };
                let description = Description::default();
                declare_attribute(&world.app, &scope, &new, &description, Timestamp::now()).await?;
            }
        }
        let writer = world.pool("sheaf_writer", 4);
        ensure_partition(&writer, at(0)).await?;
        ensure_partition(&writer, at(AHEAD)).await?;
        let catalogue = Catalogues::new(world.app.clone()).current(&scope).await?;
        let mut attributes = Vec::new();
        for (kind, texts) in VALUES {
            for temperature in TEMPERATURES {
                let name = format!("{kind}_{}", temperature.as_str());
                let attribute = catalogue.by_name(&name).context("declared")?;
                let values = texts.iter().map(|text| {
                    Value::from_json(kind, &name, text, &Limits::DEFAULT)
                        .map_err(|refusal| anyhow::anyhow!("{text}: {}", refusal.reason))
                });
                attributes.push((attribute.id, values.collect::<Result<Vec<_>>>()?));
            }
        }
        if let Some(closed) = closed_before {
            let client = world.database.superuser().await?;
            let close = "UPDATE sheaf.history_boundaries SET closed_before = $1";
            client.execute(close, &[&PgTime(closed)]).await?;
        }
        Ok(Bench {
            client: world.database.superuser().await?,
            world,
            scope,
            writer,
            catalogue,
            attributes,
            closed_before,
        })
    }

    /// The rows and the document of an entity.
    async fn stored(
        &self,
        entity: EntityId,
    ) -> Result<(Vec<StoredRow>, Option<(Document, Timestamp)>)> {
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
            [&self.scope.tenant().0, &entity.0];
        let rows = "SELECT * FROM sheaf.entity_events WHERE tenant_id = $1 AND entity_id = $2
            UNION ALL SELECT * FROM sheaf.entity_events_late WHERE tenant_id = $1 AND entity_id = $2
            ORDER BY observed_at, seq";
        let mut history = Vec::new();
        for row in self.client.query(rows, &params).await? {
            history.push(
                history_of(&row, &self.catalogue)
                    .map_err(|fault| anyhow::anyhow!("{fault}"))?
                    .row,
            );
        }
        let document = "SELECT * FROM sheaf.entity_jsonb WHERE tenant_id = $1 AND entity_id = $2";
        let document = match self.client.query(document, &params).await?.first() {
            Some(row) => {
                let stored = document_of(row, &self.catalogue)
                    .map_err(|fault| anyhow::anyhow!("{fault}"))?;
                Some((stored.document, stored.updated_at))
            }
            None => None,
        };
        Ok((history, document))
    }
}

/// Instants near each other in a partition that is there.
fn at(place: i64) -> Timestamp {
    Timestamp::parse_date("2024-03-01")
        .expect("a date")
        .saturating_add_micros(place)
}

/// Beyond these, times are ahead of now, so that those which flushes give come after them and meet others.
const AHEAD: i64 = 8 * 366 * 86_400_000_000;

/// An entity as the model keeps it.
#[derive(Default)]
struct Entity {
    rows: BTreeMap<(Timestamp, i16), StoredRow>,
    document: Document,
    updated_at: Option<Timestamp>,
}

impl Entity {
    /// A group of events in order of commit: each appended, then their rows merged.
    fn commit<'a>(
        &mut self,
        events: impl Iterator<Item = &'a Event>,
        now: Timestamp,
        closed_before: Option<Timestamp>,
        counts: &mut Counts,
    ) {
        let mut seen = self.document.newest;
        let mut newest = self.document.newest;
        let mut emptied = newest.is_some() && self.document.floor == newest;
        let mut fresh = BTreeMap::new();
        for event in events {
            let at = event.observed_at.unwrap_or_else(|| time_after(now, seen));
            seen = seen.max(Some(at));
            let is_late = closed_before.is_some_and(|closed| at < closed);
            let first = if is_late { LATE_SEQ } else { 0 };
            let there: Vec<StoredRow> = self
                .rows
                .range((at, first)..=(at, i16::MAX))
                .map(|(_, row)| row.clone())
                .collect();
            let is_unnamed = there.is_empty() || fold_instant(&there).replaced;
            let is_named_time = newest.is_none_or(|newest| at <= newest) || emptied;
            let attrs = match &event.tags {
                Tags::Series(tags) if is_unnamed && is_named_time => event.attrs.clone().with(tags),
                Tags::Series(_) | Tags::Beside(_) | Tags::None => event.attrs.clone(),
            };
            counts.values += i64::try_from(attrs.len()).expect("few");
            let append = if is_late { append_late } else { append };
            let row = match append(&there, at, event.op, attrs) {
                Appended::Merged(row) | Appended::Corrected(row) if is_late => {
                    counts.accepted += 1;
                    row
                }
                Appended::New(row) => {
                    counts.accepted += 1;
                    row
                }
                Appended::Merged(row) => {
                    counts.merged += 1;
                    row
                }
                Appended::Corrected(row) => {
                    counts.corrected += 1;
                    row
                }
                Appended::Duplicate => {
                    counts.duplicates += 1;
                    continue;
                }
                Appended::Full => unreachable!("few rows"),
            };
            newest = newest.max(Some(at));
            if newest == Some(at) {
                emptied = matches!(row.op, Op::Replace | Op::Delete);
            }
            self.rows.insert((at, row.seq), row.clone());
            fresh.insert((at, row.seq), row);
        }
        if fresh.is_empty() {
            return;
        }
        let is_new = self.document.newest.is_none();
        if !merge(&mut self.document, fold_rows(fresh.values()))
            .changed
            .is_empty()
            || is_new
        {
            self.updated_at = Some(now);
        }
    }
}

/// An event before its entity and its attributes have numbers.
#[derive(Debug, Clone)]
struct Draft {
    entity: usize,
    at: Option<i64>,
    op: Op,
    cells: Vec<(prop::sample::Index, Option<prop::sample::Index>)>,
    has_series: bool,
}

fn a_draft() -> impl Strategy<Value = Draft> {
    let op = prop_oneof![8 => Just(Op::Patch), 1 => Just(Op::Replace), 1 => Just(Op::Delete)];
    let time = prop::option::weighted(0.85, prop_oneof![6 => 0i64..6, 1 => AHEAD..AHEAD + 4]);
    let cell = (
        any::<prop::sample::Index>(),
        prop::option::weighted(0.85, any::<prop::sample::Index>()),
    );
    (
        0usize..3,
        time,
        op,
        prop::collection::vec(cell, 0..5),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(entity, at, op, cells, has_series)| Draft {
            entity,
            at,
            op,
            cells,
            has_series,
        })
}

impl Draft {
    /// Few attributes, so that events meet in them: one of each type, of any temperature.
    fn event(&self, bench: &Bench) -> Event {
        let mut cells = BTreeMap::new();
        for (attribute, value) in &self.cells {
            let (id, values) = attribute.get(&bench.attributes);
            let cell = value.map_or(Cell::Removed, |value| {
                Cell::Value(value.get(values).clone())
            });
            cells.insert(*id, cell);
        }
        let (tag, tags) = &bench.attributes[3 * TEMPERATURES.len()];
        let series = Attrs::from_distinct(vec![(*tag, Cell::Value(tags[0].clone()))]);
        let is_patch = self.op == Op::Patch;
        Event {
            observed_at: self.at.map(at),
            op: self.op,
            attrs: match self.op {
                Op::Delete => Attrs::default(),
                Op::Patch | Op::Replace | Op::Correct => {
                    Attrs::from_distinct(cells.into_iter().collect())
                }
            },
            tags: if self.has_series && is_patch {
                Tags::Series(series.into())
            } else {
                Tags::None
            },
        }
    }
}

/// Flushes of batches of events.
type Flushes = Vec<Vec<Vec<Draft>>>;

async fn flushes_are_folds(bench: &Bench, flushes: &Flushes) -> Result<()> {
    let ids = bench.world.entities(&bench.scope, 3).await?;
    let mut entities: BTreeMap<EntityId, Entity> =
        ids.iter().map(|id| (*id, Entity::default())).collect();
    for batches in flushes {
        let mut staged = Vec::new();
        for drafts in batches {
            let events: Vec<(EntityId, Event)> = drafts
                .iter()
                .map(|draft| (ids[draft.entity], draft.event(bench)))
                .collect();
            let (batch, _) = bench.world.stage(&bench.scope, None, &events).await?;
            staged.push((batch, events));
        }
        let flushed = flush(&bench.writer, i32::MAX).await?;
        let sql = "SELECT durable_at FROM sheaf.ingest_requests WHERE batch_id = $1";
        let row = bench.client.query_one(sql, &[&staged[0].0.0]).await?;
        let now = row.get::<_, PgTime>(0).0;
        let mut expected = Counts::default();
        for (id, entity) in &mut entities {
            let events = staged.iter().flat_map(|(_, events)| events);
            let own = events.filter(|(of, _)| of == id).map(|(_, event)| event);
            entity.commit(own, now, bench.closed_before, &mut expected);
        }
        let mut counted = Counts::default();
        for (batch, events) in &staged {
            let status = fetch_staged_status(&bench.world.app, &bench.scope, *batch)
                .await?
                .context("known")?;
            anyhow::ensure!(matches!(
                status.state,
                StagedState::Staged | StagedState::Durable
            ));
            anyhow::ensure!(status.events == i64::try_from(events.len())?, "{status:?}");
            counted += status.counts;
        }
        anyhow::ensure!(
            counted == expected,
            "counted {counted:?}, expected {expected:?}"
        );
        anyhow::ensure!(
            (flushed.duplicates, flushed.merged, flushed.corrected)
                == (expected.duplicates, expected.merged, expected.corrected),
            "{flushed:?}, expected {expected:?}"
        );
        for (id, entity) in &entities {
            let (rows, document) = bench.stored(*id).await?;
            let model: Vec<StoredRow> = entity.rows.values().cloned().collect();
            anyhow::ensure!(rows == model, "rows {rows:#?}, in the model {model:#?}");
            let model = entity
                .updated_at
                .map(|updated| (entity.document.clone(), updated));
            anyhow::ensure!(
                document == model,
                "document {document:#?}, in the model {model:#?}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_flush_makes_the_rows_and_documents_of_the_model() -> Result<()> {
    flushes_make_those_of_the_model(None, 150)
}

#[test]
fn a_flush_of_a_closed_period_makes_late_rows_and_the_same_documents() -> Result<()> {
    flushes_make_those_of_the_model(Some(at(3)), 100)
}

fn flushes_make_those_of_the_model(closed_before: Option<Timestamp>, cases: u32) -> Result<()> {
    let runtime = Runtime::new()?;
    let bench = runtime.block_on(Bench::create(closed_before))?;
    let batches = prop::collection::vec(prop::collection::vec(a_draft(), 1..6), 1..4);
    let flushes = prop::collection::vec(batches, 1..6);
    let mut runner = TestRunner::new(Config {
        cases,
        max_shrink_iters: 300,
        ..Config::default()
    });
    runner.run(&flushes, |flushes| {
        let outcome = runtime.block_on(flushes_are_folds(&bench, &flushes));
        outcome.map_err(|error| TestCaseError::fail(format!("{error:#}")))
    })?;
    runtime.block_on(async {
        let upkeep = bench.world.database.client("sheaf_upkeep").await?;
        assert_eq!(check(&upkeep).await?, Vec::new());
        let documents = check_documents(&upkeep, i64::MAX).await?;
        assert_eq!(documents.violations, Vec::new());
        assert!(documents.documents > u64::from(cases), "{documents:?}");
        // Rebuilt from history, every document is what it was.
        let everything = "SELECT entity_id, newest, floor_at, deleted, updated_at, present, times, hot_attrs || cold_attrs
            FROM sheaf.entity_jsonb ORDER BY entity_id";
        let texts = async || -> Result<Vec<String>> {
            let rows = bench.client.query(&format!("SELECT d::text FROM ({everything}) d"), &[]).await?;
            Ok(rows.iter().map(|row| row.get(0)).collect())
        };
        let before = texts().await?;
        bench.client.batch_execute("UPDATE sheaf.entity_jsonb SET hot_attrs = '{}', cold_attrs = '{}', times = '{}', present = '{}'
            WHERE entity_id % 2 = 0").await?;
        let sql = "SELECT sheaf.upsert_hot_attrs($1, array_agg(entity_id)) FROM sheaf.entity_jsonb";
        let rebuilt: i64 = upkeep.query_one(sql, &[&bench.scope.tenant().0]).await?.get(0);
        assert_eq!(usize::try_from(rebuilt)?, before.len());
        assert_eq!(check_documents(&upkeep, i64::MAX).await?.violations, Vec::new());
        assert_eq!(check(&upkeep).await?, Vec::new());
        Ok(())
    })
}
