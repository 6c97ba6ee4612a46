//! Refusals are kept and listed whole, in bounded memory.

mod world;

use anyhow::{Context, Result};
use bytes::Bytes;
use sheaf_model::{BatchId, Lineage, RefusalCode, RejectionId, Timestamp};
use sheaf_store::lineage::fetch_lineage;
use sheaf_store::rejections::{
    NewRejection, Reading, RejectionFilter, ReplaySelection, Settled, choose_refused_events,
    fetch_batch_rejections, insert_rejections, list_rejections, settle_rejections,
};

use world::{World, begin_as};

const MIB: usize = 1024 * 1024;

fn refusal(event_index: i32, raw: &Bytes) -> NewRejection {
    NewRejection {
        event_index,
        entity_type: Some("thing".to_owned()),
        field: Some("n".to_owned()),
        code: RefusalCode::TypeMismatch,
        reason: "expected an int".to_owned(),
        raw: raw.clone(),
        reading: Reading::Json,
        rest: None,
    }
}

fn event(byte: u8, bytes: usize) -> Bytes {
    Bytes::from(vec![byte; bytes])
}

#[tokio::test]
async fn an_event_is_kept_once_and_listed_with_each_of_its_refusals_in_pages_of_bounded_bytes()
-> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let events: Vec<Bytes> = [
        (b'a', MIB),
        (b'b', 10),
        (b'c', MIB),
        (b'd', 9 * MIB),
        (b'e', 10),
    ]
    .map(|(byte, bytes)| event(byte, bytes))
    .into();
    let counts = [30, 3_000, 1, 1, 3_000];
    let mut refused = Vec::new();
    for (index, (event, count)) in events.iter().zip(counts).enumerate() {
        refused.extend(vec![refusal(i32::try_from(index)?, event); count]);
    }
    let batch = BatchId::new();
    let client = world.database.client("sheaf_writer").await?;
    begin_as(&client, &scope).await?;
    let received_at = Timestamp::now();
    insert_rejections(&client, &scope, batch, received_at, &refused).await?;
    client.batch_execute("COMMIT").await?;

    let kept: i64 = events.iter().map(|event| event.len() as i64).sum();
    let stored = "SELECT sum(octet_length(raw))::bigint FROM sheaf.rejections";
    assert_eq!(world.count(stored).await?, kept);
    assert_eq!(
        world.count("SELECT count(*) FROM sheaf.rejections").await?,
        i64::try_from(refused.len())?
    );

    let mut filter = RejectionFilter {
        batch: Some(batch),
        ..RejectionFilter::default()
    };
    let mut listed: Vec<(RejectionId, i32)> = Vec::new();
    loop {
        let page = list_rejections(&world.app, &scope, &filter, 1_000).await?;
        let bytes: usize = page.rejections.iter().map(|r| r.raw.len()).sum();
        assert!(
            page.rejections.len() <= 1_000 && (bytes <= 8 * MIB || page.rejections.len() == 1),
            "{bytes} bytes in {} refusals",
            page.rejections.len()
        );
        for rejection in &page.rejections {
            let index = rejection.listed.event_index;
            assert!(
                rejection.raw == events[usize::try_from(index)?],
                "the event of refusal {index} is whole"
            );
            listed.push((rejection.id, index));
        }
        if !page.has_more {
            break;
        }
        let last = page.rejections.last().context("a page has an item")?;
        filter.before = Some(last.id);
    }
    assert!(
        listed.is_sorted_by(|one, two| one > two),
        "newest first, each once"
    );
    assert_eq!(listed.len(), refused.len());

    let first = fetch_batch_rejections(&world.app, &scope, batch, 100).await?;
    assert_eq!((first.first.len(), first.bad_events), (100, 5));
    assert!(first.first_raw.context("the first event")? == events[0]);
    Ok(())
}

#[tokio::test]
async fn refused_events_are_chosen_oldest_first_in_bounded_bytes_and_what_is_settled_stays_so()
-> Result<()> {
    let world = World::create().await?;
    let (scope, other) = (world.tenant("acme").await?, world.tenant("other").await?);
    let sizes = [10, 5 * MIB, 5 * MIB, 9 * MIB, 10];
    let mut refused = Vec::new();
    for (index, bytes) in (0..).zip(sizes) {
        let raw = event(b'0' + index, bytes);
        refused.extend(vec![refusal(i32::from(index), &raw); 2]);
    }
    refused[0].reading = Reading::LineProtocol {
        precision: "ms".into(),
        id_tags: Some(["a,b".to_owned(), "\"c".to_owned()].into()),
    };
    refused[1].reading = refused[0].reading.clone();
    refused[1].field = None;
    let batch = BatchId::new();
    let client = world.database.client("sheaf_writer").await?;
    begin_as(&client, &scope).await?;
    insert_rejections(&client, &scope, batch, Timestamp::now(), &refused).await?;
    client.batch_execute("COMMIT").await?;

    let of = ReplaySelection::Batch(batch);
    let choose = async |after, refusals_max| {
        choose_refused_events(&world.app, &scope, &of, after, refusals_max).await
    };
    let (mut after, mut chosen) = (None, Vec::new());
    loop {
        let some = choose(after, 1_000).await?;
        chosen.push(
            some.events
                .iter()
                .map(|e| e.event_index)
                .collect::<Vec<_>>(),
        );
        if chosen.len() == 1 {
            let first = &some.events[0];
            assert_eq!(first.reading.as_ref(), Some(&refused[0].reading));
            assert_eq!((first.raw.len(), first.open.len()), (10, 2));
            let fields: Vec<Option<&str>> = first.open.iter().map(|(_, f)| f.as_deref()).collect();
            assert_eq!(fields, [Some("n"), None]);
            assert_eq!(some.events[1].reading, Some(Reading::Json));
        }
        after = some.last;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(chosen, [vec![0, 1], vec![2], vec![3], vec![4]]);
    // An event of which one refusal is chosen comes with all of them.
    let one = choose(None, 1).await?;
    assert_eq!((one.events.len(), one.events[0].open.len()), (1, 2));
    assert_eq!(one.last, Some(one.events[0].open[0].0));

    let now = Timestamp::now();
    let settled = |at: usize, is_done: bool, external_id: &str| Settled {
        id: one.events[0].open[at].0,
        is_done,
        external_id: external_id.to_owned(),
        observed_at: now,
    };
    let half = [settled(0, true, "x"), settled(1, false, "x")];
    let client = world.database.superuser().await?;
    let lineage = fetch_lineage(&client).await?.context("a primary")?;
    let lost = Lineage {
        timeline: lineage.timeline + 1,
        ..lineage
    };
    assert!(!settle_rejections(&world.app, &scope, lost, &half).await?);
    let claim = "events of another lineage settle nothing";
    assert_eq!(choose(None, 1).await?, one, "{claim}");
    assert!(settle_rejections(&world.app, &other, lineage, &half).await?);
    assert_eq!(
        choose(None, 1).await?,
        one,
        "another tenant settles nothing here"
    );
    assert!(settle_rejections(&world.app, &scope, lineage, &half).await?);
    let left = choose(None, 1).await?;
    assert_eq!(left.events[0].open, [one.events[0].open[1].clone()]);
    let rest = left.events[0].rest.clone().context("the rest is known")?;
    assert_eq!(
        (rest.external_id.as_str(), rest.observed_at),
        ("x", Some(now))
    );
    // A replay that comes later knows nothing better.
    let later = [settled(0, false, "y")];
    assert!(settle_rejections(&world.app, &scope, lineage, &later).await?);
    assert_eq!(choose(None, 1).await?, left);
    Ok(())
}
