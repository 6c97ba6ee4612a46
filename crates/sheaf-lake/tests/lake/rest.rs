//! A lake whose tables are in an Iceberg REST catalogue: PyIceberg's, behind the paths of the protocol.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sheaf_cdc::change::Batch;
use sheaf_cdc::column::ColumnValue;
use sheaf_cdc::sink::{Held, Sink, SinkError};
use sheaf_lake::{
    CommitObserver, LakeCatalog, LakeError, LakeOptions, LakeSink, RestAccess, RestOptions,
    remove_orphans,
};
use sheaf_model::Op;

use crate::readers::PYTHON;
use crate::stand_in::Program;
use crate::world::{World, attribute, entity, event, position, transaction};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lake/catalogue.py");
pub(crate) const NOON: &str = "2024-02-29T12:00:00Z";

/// A catalogue beside a database.
pub(crate) struct RestWorld {
    pub(crate) world: World,
    pub(crate) catalogue: Program,
}

impl RestWorld {
    pub(crate) async fn create() -> Result<RestWorld> {
        let world = World::create().await?;
        let catalogue = Program::serve(SCRIPT, Some(world.dir.path()))?;
        Ok(RestWorld { world, catalogue })
    }

    /// A lake of this name, with a namespace and a folder of its own.
    pub(crate) fn options(&self, catalog: &str) -> LakeOptions {
        LakeOptions {
            catalog: LakeCatalog::Rest(RestOptions {
                uri: self.catalogue.endpoint.clone(),
                warehouse: Some("lake".to_owned()),
                namespace: catalog.to_owned(),
                access: RestAccess::Client {
                    id: "sheaf".to_owned(),
                    secret: "of nobody else".to_owned(),
                    scope: "catalog".to_owned(),
                    token_uri: None,
                },
            }),
            ..self.world.options(catalog)
        }
    }

    pub(crate) fn sink(&self, catalog: &str) -> Result<LakeSink> {
        Ok(LakeSink::new(&self.world.cdc(), self.options(catalog))?)
    }

    pub(crate) fn observed(
        &self,
        catalog: &str,
        observer: Arc<dyn CommitObserver>,
    ) -> Result<LakeSink> {
        let options = LakeOptions {
            observer: Some(observer),
            ..self.options(catalog)
        };
        Ok(LakeSink::new(&self.world.cdc(), options)?)
    }

    /// Everything once, whoever reads.
    pub(crate) async fn require_whole(&self, catalog: &str) -> Result<()> {
        let facts = self.world.facts(catalog).await?;
        let at = "1709208000000000";
        let wanted = [
            format!("1 5 1 {at} 2 correct false value_int=4"),
            format!("1 5 2 {at} 0 patch false value_float=1.5"),
            format!("1 6 1 {at} 0 patch false value_int=7"),
        ];
        ensure!(facts == wanted, "{catalog}: {facts:?}");
        let replaced = self.world.replaced(catalog).await?;
        let wanted = [
            format!("1 5 1 {at} 0 patch false value_int=1"),
            format!("1 5 1 {at} 1 correct false value_int=3"),
        ];
        ensure!(replaced == wanted, "{catalog}: {replaced:?}");
        ensure!(
            self.world.waiting(catalog).await? == 0,
            "{catalog}: some wait"
        );
        let attributes = self.world.rows(catalog, "attributes").await?;
        ensure!(
            attributes.len() == 1 && attributes[0]["unit"] == "km",
            "{catalog}: {attributes:?}"
        );
        let entities = self.world.rows(catalog, "entities").await?;
        ensure!(entities.len() == 2, "{catalog}: {entities:?}");
        self.world.require_one_value(catalog).await
    }
}

/// Two transactions: facts and names, and then a row of a catalogue that is changed, a correction of what is there and one within.
pub(crate) fn life() -> Vec<Batch> {
    vec![
        transaction(
            20,
            vec![
                attribute(1, true, "m", ColumnValue::Null),
                entity(5),
                event(5, NOON, 0, Op::Patch, r#"{"1":1,"2":1.5}"#),
            ],
        ),
        transaction(
            30,
            vec![
                attribute(1, false, "km", ColumnValue::Null),
                entity(6),
                event(5, NOON, 1, Op::Correct, r#"{"1":3}"#),
                event(5, NOON, 2, Op::Correct, r#"{"1":4}"#),
                event(6, NOON, 0, Op::Patch, r#"{"1":7}"#),
            ],
        ),
    ]
}

/// Lives, as whoever feeds a sink does: a sink that fails is asked again what it holds.
pub(crate) async fn live(sink: &mut LakeSink) -> Result<(), SinkFault> {
    if sink.held().await? == Held::Nothing {
        sink.begin(position(10, 0)).await?;
    }
    sink.follow();
    for batch in life() {
        sink.apply(&batch).await?;
        sink.flush().await?;
        sink.tidy().await?;
    }
    Ok(())
}

/// Why a sink failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SinkFault {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Lake(#[from] LakeError),
}

impl SinkFault {
    pub(crate) fn cause(&self) -> Option<&LakeError> {
        match self {
            SinkFault::Sink(error) => error.source.downcast_ref(),
            SinkFault::Lake(error) => Some(error),
        }
    }
}

/// Lives until nothing fails, a few times at most. Gives back what failed.
pub(crate) async fn live_on(sink: &mut LakeSink) -> Result<Vec<SinkFault>> {
    let mut faults = Vec::new();
    for _ in 0..5 {
        match live(sink).await {
            Ok(()) => return Ok(faults),
            Err(fault) => faults.push(fault),
        }
    }
    anyhow::bail!("it does not get well: {faults:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_found_by_pyiceberg_and_duckdb_in_the_catalogue() -> Result<()> {
    let world = RestWorld::create().await?;
    let mut options = world.options("sheaf");
    options.retention.snapshots_age = Duration::ZERO;
    options.retention.snapshots_min = 2;
    options.retention.snapshots_max = 4;
    assert!(!format!("{options:?} {:?}", options.catalog).contains("nobody"));
    let cdc = world.world.cdc();
    let mut sink = LakeSink::new(&cdc, options.clone())?;
    live(&mut sink).await?;
    world.require_whole("sheaf").await?;
    // Small files become one, states of before go.
    for number in 0..20u64 {
        let seen = format!("2024-02-29T12:01:{number:02}Z");
        let rows = vec![event(5, &seen, 0, Op::Patch, r#"{"1":2}"#)];
        sink.apply(&transaction(100 + number, rows)).await?;
        sink.flush().await?;
    }
    sink.tidy().await?;
    ensure!(
        world.world.files("sheaf", "facts").await? < 10,
        "they were joined"
    );
    let found = world.catalogue.read("sheaf")?;
    for reader in ["pyiceberg", "duckdb"] {
        let wanted = json!({
            "attributes": [1, 0], "entities": [2, 0], "facts": [23, 51], "facts_corrected": [2, 4], "keyframes": [0, 0],
            "tenants": [0, 0],
        });
        assert_eq!(found[reader], wanted, "{reader}");
    }
    let summaries = found["summaries"].as_object().context("summaries")?;
    for (table, summary) in summaries {
        assert_eq!(summary["commit"], json!(true), "{table}");
    }
    assert_eq!(
        summaries["facts"]["position"],
        json!(position(119, 1).to_string())
    );
    // What no kept state names goes, and all that readers need stays.
    let late = SystemTime::now() + Duration::from_secs(7200);
    let orphans = remove_orphans(&cdc, &options, Duration::ZERO, late).await?;
    ensure!(orphans.removed > 20, "{orphans:?}");
    assert_eq!(world.catalogue.read("sheaf")?, found);
    let mut again = world.sink("sheaf")?;
    let Held::Until(held) = again.held().await? else {
        anyhow::bail!("it has begun");
    };
    assert_eq!(held.stream, Some(position(119, 1)));
    Ok(())
}

/// The rows by which a database names a lake.
const NAMED: &str = "SELECT table_name, metadata_location FROM sheaf.iceberg_tables";

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_an_earlier_time_changes_nothing_unless_it_was_promoted() -> Result<()> {
    let world = RestWorld::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let client = world.world.database.superuser().await?;
    let named = client.query(NAMED, &[]).await?;
    live(&mut sink).await?;
    // Several commits are taken back in the database alone.
    for row in &named {
        let (table, location): (&str, &str) = (row.get(0), row.get(1));
        let sql = "UPDATE sheaf.iceberg_tables SET metadata_location = $2 WHERE table_name = $1";
        client.execute(sql, &[&table, &location]).await?;
    }
    let sql = "UPDATE sheaf.lake_positions SET commit_number = 2, timeline = NULL, commit_lsn = NULL, ordinal = NULL";
    client.batch_execute(sql).await?;
    let mut late = world.sink("sheaf")?;
    let refused = SinkFault::from(late.held().await.expect_err("it is behind"));
    let cause = refused.cause().context("of the lake")?;
    ensure!(matches!(cause, LakeError::Ahead { .. }), "{cause:?}");
    let options = world.options("sheaf");
    let later = SystemTime::now() + Duration::from_secs(7200);
    let swept = remove_orphans(&world.world.cdc(), &options, Duration::ZERO, later).await?;
    assert_eq!(swept.removed, 0, "what is needed nobody here can say");
    // As after a promotion, with the files of an earlier timeline: the lake begins anew.
    let timeline = world.world.folder("sheaf").join("sheaf-lake.timeline");
    std::fs::write(&timeline, "0")?;
    assert_eq!(late.held().await?, Held::Nothing);
    live(&mut late).await?;
    world.require_whole("sheaf").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_of_a_lake_cannot_be_changed() -> Result<()> {
    let world = RestWorld::create().await?;
    live(&mut world.sink("rest")?).await?;
    live(&mut world.world.sink("own")?).await?;
    for mut sink in [world.world.sink("rest")?, world.sink("own")?] {
        let refused = SinkFault::from(sink.held().await.expect_err("it is in the other"));
        let cause = refused.cause().context("of the lake")?;
        ensure!(matches!(cause, LakeError::OtherCatalog), "{cause:?}");
    }
    live(&mut world.sink("rest")?).await?;
    world.require_whole("rest").await?;
    world.require_whole("own").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_dropped_makes_the_lake_begin_anew() -> Result<()> {
    let world = RestWorld::create().await?;
    live(&mut world.sink("sheaf")?).await?;
    let database = world.world.dir.path().join("catalogue.db");
    let dropped = Command::new(PYTHON)
        .args(["-c", "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(\"delete from iceberg_tables where table_name = 'entities'\"); c.commit()"])
        .arg(&database)
        .status()?;
    ensure!(dropped.success(), "it is dropped");
    let mut sink = world.sink("sheaf")?;
    assert_eq!(sink.held().await?, Held::Nothing);
    live(&mut sink).await?;
    world.require_whole("sheaf").await
}
