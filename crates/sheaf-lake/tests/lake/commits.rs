//! What a commit holds, and who may commit.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use iceberg::spec::{FormatVersion, ManifestList};
use sheaf_cdc::change::{Catalogue, ChangedRow};
use sheaf_cdc::column::ColumnValue;
use sheaf_cdc::letter::LetterReason;
use sheaf_cdc::sink::{Held, Sink, SinkError};
use sheaf_lake::{LakeError, remove_orphans};
use sheaf_model::{Op, TenantId};
use sheaf_pg::{Disposition, PgError};
use sheaf_testkit::Injected;

use crate::world::{World, attribute, catalogue_row, entity, event, position, transaction};

const NOON: &str = "2024-02-29T12:00:00Z";

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_found_with_its_typed_values_and_nothing_is_lost() -> Result<()> {
    let world = World::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let long = format!("0.{}1", "0".repeat(20));
    let whole = r#"{"1":9223372036854775807,"2":12.25,"3":-12.50,"4":"a text","5":true,"6":"2024-02-29T12:00:00.000001Z","7":{"a":null}}"#;
    let rows = vec![
        entity(5),
        entity(6),
        event(5, NOON, 0, Op::Patch, whole),
        // A merge adds facts; a correction and a removal are rows of their own.
        event(5, NOON, 1, Op::Correct, r#"{"1":2}"#),
        event(5, NOON, 2, Op::Patch, r#"{"2":null}"#),
        event(6, NOON, 0, Op::Replace, r#"{"4":"only this"}"#),
        event(6, "2024-03-01T00:00:00Z", 0, Op::Delete, "{}"),
        event(6, "0001-01-01T00:00:00Z", 0, Op::Patch, "{}"),
        event(
            6,
            "9999-12-31T23:59:59.999999Z",
            0,
            Op::Patch,
            &format!(r#"{{"3":{long}}}"#),
        ),
    ];
    sink.apply(&transaction(20, rows)).await?;
    let progress = sink.flush().await?;
    assert_eq!(progress.stream, Some(position(20, 9)));
    let noon = "1709208000000000";
    let wanted: BTreeSet<String> = [
        format!("1 5 3 {noon} 0 patch false value_decimal=-12500000000000 value_text=-12.50"),
        format!("1 5 4 {noon} 0 patch false value_text=a text"),
        format!("1 5 5 {noon} 0 patch false value_bool=true"),
        format!("1 5 6 {noon} 0 patch false value_time=1709208000000001"),
        format!(r#"1 5 7 {noon} 0 patch false value_json={{"a":null}}"#),
        format!("1 5 1 {noon} 1 correct false value_int=2"),
        format!("1 5 2 {noon} 2 patch true"),
        format!("1 6 - {noon} 0 replace false"),
        format!("1 6 4 {noon} 0 replace false value_text=only this"),
        "1 6 - 1709251200000000 0 delete false".to_owned(),
        "1 6 - -62135596800000000 0 patch false".to_owned(),
        format!("1 6 3 253402300799999999 0 patch false value_text={long}"),
    ]
    .into();
    let facts = world.facts("sheaf").await?;
    assert_eq!(facts.len(), wanted.len());
    assert_eq!(BTreeSet::from_iter(facts), wanted);
    let replaced = [
        format!("1 5 1 {noon} 0 patch false value_int=9223372036854775807"),
        format!("1 5 2 {noon} 0 patch false value_float=12.25"),
    ];
    assert_eq!(world.replaced("sheaf").await?, replaced);
    let mut rows = world.rows("sheaf", "facts").await?;
    rows.extend(world.rows("sheaf", "facts_corrected").await?);
    for row in rows {
        let number = &row["entity_id"];
        assert_eq!(row["entity_type"], "thing");
        assert_eq!(row["external_id"], format!("id {number}"));
        assert_eq!(row["batch_id"], "00000000-0000-0000-0000-000000000009");
        assert_eq!(row["ingested_at"], "1714521600000000");
        if let Some(kind) = row.get("type") {
            assert_eq!(row["attribute"], format!("an {kind}"));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_in_the_order_of_its_table() -> Result<()> {
    let world = World::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let mut rows = Vec::new();
    for number in (1..=40).rev() {
        let time = format!("2024-02-29T12:00:{:02}Z", number % 7);
        rows.push(event(
            number % 5,
            &time,
            0,
            Op::Patch,
            &format!(r#"{{"1":{number},"2":1.5}}"#),
        ));
    }
    sink.apply(&transaction(20, rows)).await?;
    sink.flush().await?;
    let rows = world.rows("sheaf", "facts").await?;
    let key = |row: &crate::world::Row| {
        ["tenant_id", "attribute_id", "entity_id", "observed_at"]
            .map(|name| row[name].parse::<i64>().expect("a number"))
    };
    let keys: Vec<_> = rows.iter().map(key).collect();
    assert_eq!(keys.len(), 80);
    assert!(keys.is_sorted(), "{keys:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_holds_each_row_as_of_its_latest_change() -> Result<()> {
    let world = World::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let schema = ColumnValue::Json(r#"{"minimum":1}"#.to_owned());
    let rows = vec![
        attribute(101, true, "m", schema.clone()),
        attribute(102, true, "s", ColumnValue::Null),
        entity(5),
    ];
    sink.apply(&transaction(20, rows)).await?;
    sink.flush().await?;
    // One commit before it, one in the same.
    let rows = vec![
        attribute(101, false, "km", ColumnValue::Unchanged),
        attribute(103, true, "kg", schema),
        attribute(103, false, "g", ColumnValue::Unchanged),
        entity(6),
    ];
    sink.apply(&transaction(30, rows)).await?;
    sink.flush().await?;
    let rows = world.rows("sheaf", "attributes").await?;
    let found: BTreeSet<_> = rows
        .iter()
        .map(|row| {
            let schema = row.get("schema").map(String::as_str);
            (row["attribute_id"].as_str(), row["unit"].as_str(), schema)
        })
        .collect();
    let minimum = Some(r#"{"minimum":1}"#);
    let wanted = [
        ("101", "km", minimum),
        ("102", "s", None),
        ("103", "g", minimum),
    ];
    assert_eq!(rows.len(), 3);
    assert_eq!(found, wanted.into());
    let mut names = Vec::new();
    for row in world.rows("sheaf", "entities").await? {
        names.push(row["external_id"].clone());
    }
    names.sort();
    assert_eq!(names, ["id 5", "id 6"]);
    // A value that did not change and is nowhere is no null.
    let rows = vec![attribute(104, false, "m", ColumnValue::Unchanged)];
    sink.apply(&transaction(40, rows)).await?;
    let refused = sink.flush().await.expect_err("nothing to complete it with");
    let refused = cause(&refused).context("an error of the lake")?;
    assert!(matches!(refused, LakeError::Row { position: at, .. } if *at == position(40, 1)));
    Ok(())
}

/// Names are of a tenant: what another calls a number is not what this one does.
#[tokio::test(flavor = "multi_thread")]
async fn an_attribute_of_another_tenant_is_unknown() -> Result<()> {
    let world = World::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let own = event(5, NOON, 0, Op::Patch, r#"{"1":1}"#);
    let mut foreign = own.clone();
    if let ChangedRow::Event(event) = &mut foreign {
        event.tenant = TenantId(2);
    }
    sink.apply(&transaction(20, vec![own, foreign])).await?;
    let refused = sink.take_refused();
    let refused: Vec<_> = refused
        .iter()
        .map(|refusal| (refusal.position.ordinal, refusal.reason))
        .collect();
    assert_eq!(refused, [(2, LetterReason::UnknownAttribute)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_entity_replaces_the_file_that_has_it_and_no_other() -> Result<()> {
    let world = World::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    for (lsn, numbers) in [(20, [1, 9]), (30, [5, 6]), (40, [2, 8])] {
        let rows = numbers.map(entity).to_vec();
        sink.apply(&transaction(lsn, rows)).await?;
        sink.flush().await?;
    }
    let data = world.folder("sheaf").join("entities/data");
    let written = || -> Result<usize> { Ok(std::fs::read_dir(&data)?.count()) };
    assert_eq!(written()?, 3);
    let mut changed = entity(5);
    if let ChangedRow::Catalogue(row) = &mut changed {
        row.is_new = false;
        row.values[3] = ColumnValue::Text("renamed".to_owned());
    }
    // The bounds of all three files have it, and one has it; a new one is beside.
    sink.apply(&transaction(50, vec![changed, entity(7)]))
        .await?;
    sink.flush().await?;
    assert_eq!(written()?, 5, "what it was with, and the new rows");
    assert_eq!(world.files("sheaf", "entities").await?, 4);
    let rows = world.rows("sheaf", "entities").await?;
    let found: BTreeSet<_> = rows.iter().map(|row| row["external_id"].as_str()).collect();
    let wanted = ["id 1", "id 2", "id 6", "id 7", "id 8", "id 9", "renamed"];
    assert_eq!((rows.len(), found), (7, wanted.into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_read_is_refused_alone_and_nothing_after_it_is_held_before()
-> Result<()> {
    let world = World::create().await?;
    let mut options = world.options("sheaf");
    // Else everything would be committed at once.
    options.pending_bytes_max = 1;
    let mut sink = sheaf_lake::LakeSink::new(&world.cdc(), options)?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let key = ColumnValue::Text("no number".to_owned());
    let rows = vec![
        event(5, NOON, 0, Op::Patch, r#"{"1":1}"#),
        event(6, NOON, 0, Op::Patch, r#"{"8":1}"#),
        event(7, NOON, 0, Op::Patch, r#"{"1":"x"}"#),
        event(8, NOON, 0, Op::Patch, "[]"),
        catalogue_row(Catalogue::Tenants, true, &[("tenant_id", key)]),
        event(9, NOON, 0, Op::Patch, r#"{"1":2}"#),
    ];
    let progress = sink.apply(&transaction(20, rows)).await?;
    assert_eq!(progress.stream, Some(position(20, 1)));
    let refused = sink.take_refused();
    let refused: Vec<_> = refused
        .iter()
        .map(|refusal| (refusal.position.ordinal, refusal.reason))
        .collect();
    let wanted = [
        (2, LetterReason::UnknownAttribute),
        (3, LetterReason::InvalidValue),
        (4, LetterReason::InvalidValue),
        (5, LetterReason::InvalidRow),
    ];
    assert_eq!(refused, wanted);
    assert_eq!(sink.take_refused(), []);
    assert_eq!(world.facts("sheaf").await?.len(), 1);
    assert_eq!(sink.flush().await?.stream, Some(position(20, 6)));
    let entities: Vec<String> = world
        .rows("sheaf", "facts")
        .await?
        .iter()
        .map(|row| row["entity_id"].clone())
        .collect();
    assert_eq!(
        BTreeSet::from_iter(entities),
        ["5", "9"].map(str::to_owned).into()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_the_later_one_commits_nothing_and_finds_what_the_first_did() -> Result<()> {
    let world = World::create().await?;
    let injected = Injected::new("second writer");
    let mut first = world.sink("sheaf")?;
    first.held().await?;
    first.begin(position(10, 0)).await?;
    let mut second = world.sink("sheaf")?;
    second.held().await?;
    let batches = [20, 30].map(|lsn| {
        transaction(
            lsn,
            vec![event(
                i64::try_from(lsn).expect("small"),
                NOON,
                0,
                Op::Patch,
                r#"{"1":1}"#,
            )],
        )
    });
    for batch in &batches {
        first.apply(batch).await?;
        second.apply(batch).await?;
    }
    let (one, other) = tokio::join!(first.flush(), second.flush());
    injected.count();
    let (lost, loser) = match (one, other) {
        (Ok(_), Err(lost)) => (lost, &mut second),
        (Err(lost), Ok(_)) => (lost, &mut first),
        (one, other) => panic!("{one:?} and {other:?}"),
    };
    require_conflict(&lost)?;
    let Held::Until(held) = loser.held().await? else {
        panic!("it has begun");
    };
    assert_eq!(held.stream, Some(position(30, 1)));
    for batch in &batches {
        loser.apply(batch).await?;
    }
    let more = transaction(40, vec![event(40, NOON, 0, Op::Patch, r#"{"1":1}"#)]);
    loser.apply(&more).await?;
    loser.flush().await?;
    assert_eq!(world.facts("sheaf").await?.len(), 3);
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_else_changed_is_not_overwritten() -> Result<()> {
    let world = World::create().await?;
    let injected = Injected::new("foreign commit");
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let batch = transaction(
        20,
        vec![entity(5), event(5, NOON, 0, Op::Patch, r#"{"1":1}"#)],
    );
    sink.apply(&batch).await?;
    sink.flush().await?;
    let before = world.standing("sheaf").await?;
    let client = world.database.superuser().await?;
    let move_to = |to: &str| {
        format!(
            "UPDATE sheaf.iceberg_tables SET metadata_location = '{to}' WHERE table_name = 'facts'"
        )
    };
    let theirs = world.location("sheaf", "attributes").await?;
    client.batch_execute(&move_to(&theirs)).await?;
    injected.count();
    let more = transaction(
        30,
        vec![entity(6), event(6, NOON, 0, Op::Patch, r#"{"1":1}"#)],
    );
    sink.apply(&more).await?;
    require_conflict(&sink.flush().await.expect_err("facts is not what it was"))?;
    // Neither the position nor the other tables have moved.
    client
        .batch_execute(&move_to(before.location("facts").context("facts")?))
        .await?;
    assert_eq!(world.standing("sheaf").await?, before);
    sink.held().await?;
    sink.apply(&more).await?;
    sink.flush().await?;
    assert_eq!(world.facts("sheaf").await?.len(), 2);
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commits_leave_few_manifests_and_snapshots_and_every_fact() -> Result<()> {
    let world = World::create().await?;
    let mut options = world.options("sheaf");
    options.retention.snapshots_age = Duration::ZERO;
    options.retention.snapshots_min = 3;
    let mut sink = sheaf_lake::LakeSink::new(&world.cdc(), options)?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    for number in 1..=70u64 {
        let entity = i64::try_from(number)?;
        let row = event(entity, NOON, 0, Op::Patch, r#"{"1":1}"#);
        sink.apply(&transaction(100 + number, vec![row])).await?;
        sink.flush().await?;
    }
    assert_eq!(world.facts("sheaf").await?.len(), 70);
    let description = world.location("sheaf", "facts").await?;
    let path = description.strip_prefix("file://").context("a file")?;
    let description: serde_json::Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let snapshots = description["snapshots"].as_array().context("an array")?;
    assert!(snapshots.len() <= 4, "{} snapshots", snapshots.len());
    let current = &description["current-snapshot-id"];
    let newest = snapshots
        .iter()
        .find(|snapshot| snapshot["snapshot-id"] == *current);
    let newest = newest.context("the newest")?;
    let list = newest["manifest-list"].as_str().context("a text")?;
    let list = std::fs::read(list.strip_prefix("file://").context("a file")?)?;
    let list = ManifestList::parse_with_version(&list, FormatVersion::V2)?;
    let (count, files) = (list.entries().len(), list.entries().iter());
    assert!(count < 32, "{count} manifests");
    let files = files.map(|manifest| {
        manifest.added_files_count.unwrap_or(0) + manifest.existing_files_count.unwrap_or(0)
    });
    assert_eq!(files.sum::<u32>(), 70);
    assert_eq!(newest["summary"]["total-records"], "70");
    assert_eq!(newest["summary"]["sheaf.position"], "1:0/AA:1");
    // What was read back, a sink that is opened anew goes on from.
    let mut again = world.sink("sheaf")?;
    again.held().await?;
    let row = event(71, NOON, 0, Op::Patch, r#"{"1":1}"#);
    again.apply(&transaction(1000, vec![row])).await?;
    again.flush().await?;
    assert_eq!(world.facts("sheaf").await?.len(), 71);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_no_table_needs_are_removed_when_they_are_old_and_no_others() -> Result<()> {
    let world = World::create().await?;
    let mut options = world.options("sheaf");
    options.retention.snapshots_age = Duration::ZERO;
    options.retention.snapshots_min = 1;
    let mut sink = sheaf_lake::LakeSink::new(&world.cdc(), options.clone())?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    for number in 1..=5u64 {
        let attribute = attribute(101, number == 1, &format!("{number} m"), ColumnValue::Null);
        let row = event(i64::try_from(number)?, NOON, 0, Op::Patch, r#"{"1":1}"#);
        sink.apply(&transaction(100 + number, vec![attribute, row]))
            .await?;
        sink.flush().await?;
    }
    // As a crash leaves them.
    for cut in ["facts/data/cut.parquet", "entities/metadata/cut.avro"] {
        let path = world.folder("sheaf").join(cut);
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::write(path, "half a file")?;
    }
    let (facts, attributes) = (
        world.facts("sheaf").await?,
        world.rows("sheaf", "attributes").await?,
    );
    let now = SystemTime::now();
    let at = |hours: u64| now + Duration::from_secs(hours * 3600);
    let remove = async |now| remove_orphans(&world.cdc(), &options, Duration::ZERO, now).await;
    let early = remove(at(0)).await?;
    assert_eq!(early.removed, 0, "an hour at least");
    let late = remove(at(2)).await?;
    // Of attributes four files of rows, and of both tables what four states consisted of.
    assert!(late.removed >= 2 + 4 + 2 * 4 && late.young == 0, "{late:?}");
    assert_eq!(late.removed, early.young);
    assert_eq!(remove(at(3)).await?.removed, 0);
    assert_eq!(world.facts("sheaf").await?, facts);
    assert_eq!(world.rows("sheaf", "attributes").await?, attributes);
    assert_eq!((facts.len(), attributes.len()), (5, 1));
    let row = event(6, NOON, 0, Op::Patch, r#"{"1":1}"#);
    sink.apply(&transaction(1000, vec![row])).await?;
    sink.flush().await?;
    assert_eq!(world.facts("sheaf").await?.len(), 6);
    Ok(())
}

fn cause(error: &SinkError) -> Option<&LakeError> {
    error.source()?.downcast_ref()
}

fn require_conflict(error: &SinkError) -> Result<()> {
    let cause = cause(error).context("an error of the lake")?;
    match cause {
        LakeError::Postgres(error @ PgError::Statement { .. }) => {
            assert_eq!(error.disposition(), Disposition::Retry);
            Ok(())
        }
        other => anyhow::bail!("another error: {other:?}"),
    }
}
