//! Refusals are kept and listed whole, in bounded memory.

mod world;

use anyhow::{Context, Result};
use bytes::Bytes;
use sheaf_model::{BatchId, RefusalCode, RejectionId, Timestamp};
use sheaf_store::rejections::{
    NewRejection, RejectionFilter, fetch_batch_rejections, insert_rejections, list_rejections,
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
    insert_rejections(&client, &scope, batch, Timestamp::now(), &refused).await?;
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
