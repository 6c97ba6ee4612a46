//! Refused events against a real PostgreSQL: stored once their cause is mended, whatever comes in between, and once.

mod world;

use anyhow::Result;
use bytes::Bytes;
use sheaf_ingest::{
    Ack, BodyFormat, IngestAnswer, IngestRequest, OnError, REPLAYED_MAX, ReplayAnswer,
    ReplayRequest, decode::Precision,
};
use sheaf_model::{AttributeType, RefusalCode, RejectionId, Timestamp};
use sheaf_store::ledger::Outcome;
use sheaf_store::rejections::{RejectionFilter, ReplaySelection, list_rejections};
use sheaf_testkit::Injected;

use world::World;

/// A tenant that refuses attributes that nobody has declared, with `dest` declared.
async fn strict() -> Result<World> {
    let world = World::create(false).await?;
    world.declare("dest", AttributeType::Text).await?;
    Ok(world)
}

async fn replay(
    world: &World,
    selection: ReplaySelection,
    after: Option<RejectionId>,
) -> Result<ReplayAnswer> {
    let request = ReplayRequest {
        selection,
        after,
        ack: Ack::Durable,
        received_at: Timestamp::now(),
    };
    Ok(world.writer.replay(&world.scope, request).await?)
}

/// Instants, rows and values of the history, then rows by status.
async fn state(world: &World) -> Result<String> {
    world.text(
        "SELECT concat_ws(' ', (SELECT count(DISTINCT (entity_id, observed_at)) FROM sheaf.entity_events),
             (SELECT count(*) FROM sheaf.entity_events),
             (SELECT count(*) FROM sheaf.entity_events, jsonb_object_keys(attrs)),
             (SELECT string_agg(status || '=' || n, ' ' ORDER BY status)
              FROM (SELECT status, count(*) AS n FROM sheaf.rejections GROUP BY status) s))",
    )
    .await
}

async fn values(world: &World, external_id: &str) -> Result<String> {
    world.text(&format!(
        "SELECT coalesce(string_agg(attribute || '=' || coalesce(value_text, value_int::text), ' ' ORDER BY attribute), '')
         FROM sheaf.entity_values_ts WHERE external_id = '{external_id}'"
    ))
    .await
}

fn of(answer: &IngestAnswer) -> ReplaySelection {
    ReplaySelection::Batch(answer.batch)
}

fn counts(answer: &ReplayAnswer) -> [i64; 6] {
    let counts = answer.ingest.counts;
    [
        answer.ingest.events,
        counts.accepted,
        counts.duplicates,
        counts.merged,
        counts.corrected,
        counts.refused,
    ]
}

const WHOLE: &str =
    r#"{"type":"plane","id":"N1","observed_at":"2013-01-01T10:00:00Z","attributes":{"gate":"B7"}}"#;
const PARTIAL: &str = r#"{"type":"plane","id":"N2","observed_at":"2013-01-01T10:00:00Z","attributes":{"dest":"IAH","gate":"B8"}}"#;
const UNTIMED_WHOLE: &str = r#"{"type":"plane","id":"N3","attributes":{"gate":"B9"}}"#;
const UNTIMED_PARTIAL: &str =
    r#"{"type":"plane","id":"N4","attributes":{"dest":"JFK","gate":"C1"}}"#;

#[tokio::test]
async fn what_was_refused_is_stored_once_its_cause_is_mended_and_twice_changes_nothing()
-> Result<()> {
    let world = strict().await?;
    let sent = [WHOLE, PARTIAL, UNTIMED_WHOLE, UNTIMED_PARTIAL];
    let answer = world.ingest(BodyFormat::Ndjson, &sent).await?;
    assert_eq!((answer.counts.accepted, answer.counts.refused), (2, 2));
    assert_eq!(state(&world).await?, "2 2 2 open=4");

    let too_early = replay(&world, of(&answer), None).await?;
    assert_eq!(counts(&too_early), [4, 0, 0, 0, 0, 4]);
    assert_eq!(too_early.ingest.outcome, Outcome::AllRefused);
    assert_eq!(too_early.open.len(), 4);
    assert_eq!(state(&world).await?, "2 2 2 open=4");

    world.declare("gate", AttributeType::Text).await?;
    let mended = replay(&world, of(&answer), None).await?;
    assert_eq!(counts(&mended), [4, 2, 0, 2, 0, 0]);
    assert_eq!((mended.ingest.rejected.len(), mended.last), (0, None));
    assert_eq!(state(&world).await?, "4 6 6 replayed=4");
    assert_eq!(values(&world, "N4").await?, "dest=JFK gate=C1");
    let times = world
        .text("SELECT (min(e.observed_at) = min(r.received_at) + interval '2 microseconds')::text
               FROM sheaf.entity_events e JOIN sheaf.entities n USING (tenant_id, entity_id), sheaf.rejections r WHERE n.external_id = 'N3'")
        .await?;
    assert_eq!(times, "true", "the time follows from the refusal");

    for _ in 0..2 {
        let again = replay(&world, of(&answer), None).await?;
        assert_eq!(counts(&again), [0; 6]);
        assert_eq!(again.ingest.outcome, Outcome::Stored);
    }
    assert_eq!(state(&world).await?, "4 6 6 replayed=4");
    Ok(())
}

#[tokio::test]
async fn a_replay_whose_marks_were_lost_and_two_at_once_store_nothing_twice() -> Result<()> {
    let lost = Injected::new("marks of a replay lost");
    let world = strict().await?;
    let sent = [WHOLE, PARTIAL, UNTIMED_WHOLE, UNTIMED_PARTIAL];
    let answer = world.ingest(BodyFormat::Ndjson, &sent).await?;
    world.declare("gate", AttributeType::Text).await?;
    let (one, other) = tokio::try_join!(
        replay(&world, of(&answer), None),
        replay(&world, of(&answer), None)
    )?;
    let stored =
        |answer: &ReplayAnswer| answer.ingest.counts.accepted + answer.ingest.counts.merged;
    assert_eq!(stored(&one) + stored(&other), 4, "{one:?} {other:?}");
    assert_eq!(state(&world).await?, "4 6 6 replayed=4");
    let client = world.database.superuser().await?;
    for _ in 0..3 {
        client
            .batch_execute("UPDATE sheaf.rejections SET status = 'open'")
            .await?;
        lost.count();
        let again = replay(&world, of(&answer), None).await?;
        assert_eq!(counts(&again), [4, 0, 4, 0, 0, 0]);
        assert_eq!(state(&world).await?, "4 6 6 replayed=4");
    }
    // As after a crash between the two: not even where the rest is has been noted.
    client
        .batch_execute(
            "UPDATE sheaf.rejections SET status = 'open', observed_at = NULL,
                 external_id = CASE WHEN event_index IN (1, 3) THEN external_id END",
        )
        .await?;
    lost.count();
    assert_eq!(
        counts(&replay(&world, of(&answer), None).await?),
        [4, 0, 4, 0, 0, 0]
    );
    assert_eq!(state(&world).await?, "4 6 6 replayed=4");
    lost.require();
    Ok(())
}

#[tokio::test]
async fn what_was_corrected_since_is_not_brought_back_with_what_was_refused() -> Result<()> {
    let world = strict().await?;
    let answer = world.ingest(BodyFormat::Ndjson, &[PARTIAL]).await?;
    let corrected = r#"{"type":"plane","id":"N2","observed_at":"2013-01-01T10:00:00Z","attributes":{"dest":"SFO"}}"#;
    world.ingest(BodyFormat::Ndjson, &[corrected]).await?;
    world.declare("gate", AttributeType::Text).await?;
    let mended = replay(&world, of(&answer), None).await?;
    assert_eq!(counts(&mended), [1, 0, 0, 1, 0, 0]);
    assert_eq!(values(&world, "N2").await?, "dest=SFO gate=B8");
    Ok(())
}

#[tokio::test]
async fn what_is_still_bad_stays_open_and_the_rest_of_its_event_is_stored() -> Result<()> {
    let world = strict().await?;
    let event = r#"{"type":"plane","id":"N1","observed_at":"2013-01-01T10:00:00Z","attributes":{"gate":"B7","crew":5}}"#;
    let answer = world.ingest(BodyFormat::Ndjson, &[event]).await?;
    assert_eq!(state(&world).await?, "0 0 0 open=2");
    world.declare("gate", AttributeType::Text).await?;
    let half = replay(&world, of(&answer), None).await?;
    assert_eq!(counts(&half), [1, 1, 0, 0, 0, 0]);
    assert_eq!(half.ingest.rejected[0].field.as_deref(), Some("crew"));
    assert_eq!(state(&world).await?, "1 1 1 open=1 replayed=1");
    let filter = RejectionFilter {
        status: Some("open".to_owned()),
        ..RejectionFilter::default()
    };
    let page = list_rejections(&world.app, &world.scope, &filter, 10).await?;
    assert_eq!(half.open, [page.rejections[0].id]);
    // Meanwhile the stored half is corrected; the other half does not undo that.
    let corrected = event.replace("B7", "B1").replace(",\"crew\":5", "");
    world.ingest(BodyFormat::Ndjson, &[&corrected]).await?;
    world.declare("crew", AttributeType::Int).await?;
    let ids = ReplaySelection::Ids(half.open);
    assert_eq!(
        counts(&replay(&world, ids, None).await?),
        [1, 0, 0, 1, 0, 0]
    );
    assert_eq!(values(&world, "N1").await?, "crew=5 gate=B1");
    assert_eq!(state(&world).await?, "1 3 3 replayed=2");
    Ok(())
}

#[tokio::test]
async fn a_line_is_read_as_it_came_and_a_conflict_with_what_is_stored_stays_open() -> Result<()> {
    let world = strict().await?;
    for (name, kind) in [
        ("host", AttributeType::Text),
        ("region", AttributeType::Text),
    ] {
        world.declare(name, kind).await?;
    }
    let format = BodyFormat::LineProtocol {
        precision: Precision::Seconds,
        id_tags: Some(vec!["host".to_owned()]),
    };
    let lines = [
        "cpu,host=a,region=eu n=1i 1357020000",
        "cpu,host=a,region=us n=2i 1357020000",
        "cpu,host=b,region=us n=3i 1357020000",
    ];
    let answer = world.ingest(format, &lines).await?;
    assert_eq!((answer.counts.refused, answer.rejected.len()), (3, 3));
    world.declare("n", AttributeType::Int).await?;
    let mended = replay(&world, of(&answer), None).await?;
    assert_eq!(counts(&mended), [3, 2, 0, 0, 0, 1]);
    let rejected = &mended.ingest.rejected[0];
    assert_eq!(
        (rejected.event_index, rejected.code.as_str()),
        (1, "series_conflict")
    );
    assert_eq!(values(&world, "a").await?, "host=a n=1 region=eu");
    let at = "SELECT string_agg(DISTINCT to_char(observed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), ' ') FROM sheaf.entity_events";
    assert_eq!(world.text(at).await?, "2013-01-01 06:00");
    assert_eq!(state(&world).await?, "2 2 6 open=1 replayed=2");
    // In the table it is what it was: whoever lists it sees why it was refused first.
    let filter = RejectionFilter {
        status: Some("open".to_owned()),
        ..RejectionFilter::default()
    };
    let page = list_rejections(&world.app, &world.scope, &filter, 10).await?;
    assert_eq!(page.rejections[0].listed.code, "unknown_attribute");
    Ok(())
}

#[tokio::test]
async fn a_replay_is_bounded_and_goes_on_after_what_it_took() -> Result<()> {
    let world = strict().await?;
    let lines: Vec<String> = (0..REPLAYED_MAX + 5)
        .map(|n| WHOLE.replace("N1", &format!("N{n}")))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    world.ingest(BodyFormat::Ndjson, &lines).await?;
    let code = ReplaySelection::Code(RefusalCode::UnknownAttribute);
    // Nothing is mended: the next call must not begin with the same again.
    let first = replay(&world, code.clone(), None).await?;
    assert_eq!(counts(&first), [1_000, 0, 0, 0, 0, 1_000]);
    assert_eq!((first.ingest.rejected.len(), first.open.len()), (100, 100));
    world.declare("gate", AttributeType::Text).await?;
    let rest = replay(&world, code.clone(), first.last).await?;
    assert_eq!(counts(&rest), [5, 5, 0, 0, 0, 0]);
    assert_eq!(rest.last, None);
    let first = replay(&world, code, None).await?;
    assert_eq!(counts(&first), [1_000, 1_000, 0, 0, 0, 0]);
    assert_eq!(first.last, None, "no open one is left");
    assert_eq!(state(&world).await?, "1005 1005 1005 replayed=1005");
    Ok(())
}

#[tokio::test]
async fn of_a_request_that_was_all_or_nothing_the_bad_events_are_stored_whole() -> Result<()> {
    let world = strict().await?;
    let request = IngestRequest {
        body: Bytes::from_static(PARTIAL.as_bytes()),
        format: BodyFormat::Ndjson,
        ack: Ack::Durable,
        on_error: OnError::Reject,
        idempotency_key: None,
        received_at: Timestamp::now(),
    };
    let answer = world.writer.ingest(&world.scope, request).await?;
    assert_eq!(answer.outcome, Outcome::BatchRefused);
    world.declare("gate", AttributeType::Text).await?;
    let mended = replay(&world, of(&answer), None).await?;
    assert_eq!(counts(&mended), [1, 1, 0, 0, 0, 0]);
    assert_eq!(values(&world, "N2").await?, "dest=IAH gate=B8");
    Ok(())
}
