//! Changes that had no place in the lake take it when they are offered again, however late, and once.

use anyhow::Result;
use sheaf_cdc::change::{Catalogue, Change, ChangedRow, Origin};
use sheaf_cdc::column::ColumnValue;
use sheaf_cdc::letter::{Letter, LetterReason};
use sheaf_cdc::sink::Sink;
use sheaf_model::{LetterId, Op, Timestamp};
use uuid::Uuid;

use crate::world::{World, attribute, catalogue_row, event, position, transaction};

const NOON: &str = "2024-02-29T12:00:00Z";
const AT_NOON: &str = "1709208000000000";

fn letter(commit_lsn: u64, ordinal: u64, row: ChangedRow) -> Letter {
    Letter {
        id: LetterId(Uuid::from_u128(u128::from(commit_lsn * 100 + ordinal))),
        origin: Origin::Stream,
        change: Change {
            position: position(commit_lsn, ordinal),
            xid: 7,
            committed_at: Timestamp::MIN,
            row,
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_offered_late_and_twice_takes_its_place_once() -> Result<()> {
    let world = World::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    sink.follow();
    // What was refused was the first of its instant; what came after corrects it, and adds.
    let rows = vec![
        event(5, NOON, 1, Op::Correct, r#"{"1":2}"#),
        event(5, NOON, 2, Op::Patch, r#"{"3":1}"#),
    ];
    sink.apply(&transaction(30, rows)).await?;
    sink.flush().await?;
    sink.tidy().await?;
    let held = world.standing("sheaf").await?.position;
    let late = [
        letter(20, 1, event(5, NOON, 0, Op::Patch, r#"{"1":1,"2":0.5}"#)),
        letter(20, 2, event(6, NOON, 0, Op::Patch, r#"{"1":6}"#)),
    ];
    let facts = [
        format!("1 5 1 {AT_NOON} 1 correct false value_int=2"),
        format!("1 5 2 {AT_NOON} 0 patch false value_float=0.5"),
        format!("1 5 3 {AT_NOON} 2 patch false value_decimal=1000000000000"),
        format!("1 6 1 {AT_NOON} 0 patch false value_int=6"),
    ];
    let replaced = [format!("1 5 1 {AT_NOON} 0 patch false value_int=1")];
    for offered in 1..=3 {
        assert_eq!(sink.replay(&late).await?, []);
        // Twice before it is applied, once after.
        if offered > 1 {
            sink.tidy().await?;
            assert_eq!(world.facts("sheaf").await?, facts);
            assert_eq!(world.replaced("sheaf").await?, replaced);
            assert_eq!(world.waiting("sheaf").await?, 0);
        }
    }
    let after = world.standing("sheaf").await?.position;
    assert_eq!((after.stream, after.snapshot), (held.stream, held.snapshot));
    world.require_one_value("sheaf").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_offered_late_does_not_replace_a_later_one_and_one_without_place_is_refused()
-> Result<()> {
    let world = World::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let rows = vec![attribute(101, true, "km", ColumnValue::Null)];
    sink.apply(&transaction(30, rows)).await?;
    sink.flush().await?;
    let key = ColumnValue::Text("no number".to_owned());
    let late = [
        letter(20, 1, attribute(101, true, "m", ColumnValue::Null)),
        letter(20, 2, attribute(102, true, "s", ColumnValue::Null)),
        letter(20, 3, event(5, NOON, 0, Op::Patch, r#"{"77":1}"#)),
        letter(
            20,
            4,
            catalogue_row(Catalogue::Tenants, true, &[("tenant_id", key)]),
        ),
    ];
    let refused = sink.replay(&late).await?;
    let refused: Vec<_> = refused
        .iter()
        .map(|r| (r.position.ordinal, r.reason))
        .collect();
    assert_eq!(
        refused,
        [
            (3, LetterReason::UnknownAttribute),
            (4, LetterReason::InvalidRow)
        ]
    );
    let rows = world.rows("sheaf", "attributes").await?;
    let mut units: Vec<_> = rows
        .iter()
        .map(|row| (&*row["attribute_id"], &*row["unit"]))
        .collect();
    units.sort_unstable();
    assert_eq!(units, [("101", "km"), ("102", "s")]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_lacks_a_value_which_is_nowhere_fails_one_commit_and_is_refused_in_the_next()
-> Result<()> {
    let world = World::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    // Its first state was refused, as it were; this one changed something else than its long value.
    let batch = transaction(
        20,
        vec![
            attribute(101, false, "m", ColumnValue::Unchanged),
            attribute(102, true, "s", ColumnValue::Null),
        ],
    );
    sink.apply(&batch).await?;
    assert_eq!(sink.take_refused(), []);
    let failed = sink.flush().await.expect_err("there is no such value");
    assert!(sheaf_pg::chain(&failed).contains("schema"), "{failed:?}");
    sink.held().await?;
    sink.apply(&batch).await?;
    let refused = sink.take_refused();
    let refused: Vec<_> = refused.iter().map(|r| (r.position, r.reason)).collect();
    assert_eq!(refused, [(position(20, 1), LetterReason::InvalidRow)]);
    sink.flush().await?;
    let held = world.standing("sheaf").await?.position;
    assert_eq!(held.stream, Some(position(20, 2)));
    assert_eq!(world.rows("sheaf", "attributes").await?.len(), 1);
    Ok(())
}
