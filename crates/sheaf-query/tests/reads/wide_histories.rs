//! Histories whose values are wide, and small where they are stored: pages are bounded by what they hold.

use anyhow::Result;
use sheaf_model::Value;
use sheaf_query::{HistoriesQuery, HistoryItem, HistoryQuery, SeriesEntry};

use crate::history::everything;
use crate::world::{Tenant, World, options, second};

const ENTITIES: usize = 3;
const EVENTS: usize = 30;
const VALUE_BYTES: usize = 1_000_000;
/// What a page ends after, and a step beyond it.
const PAGE_BYTES_MAX: usize = (16 + 4 + 1) << 20;

/// Events of a megabyte each, of which little is stored: they are one character again and again.
async fn wide() -> Result<(World, Tenant)> {
    let world = World::new().await?;
    let tenant = world.tenant("acme").await?;
    let (number, id) = (tenant.scope.tenant(), tenant.id("cold_text"));
    world
        .superuser
        .batch_execute(&format!(
            "INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)
             SELECT {number}, 'thing', 'e' || n, now() FROM generate_series(1, {ENTITIES}) n;
             INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at, hot_attrs, cold_attrs,
                 present, times)
             SELECT tenant_id, entity_id, 1, now(), false, now(), '{{}}', '{{}}', '{{}}', '{{}}' FROM sheaf.entities;
             SELECT sheaf.ensure_event_partition('2013-01-01Z');
             INSERT INTO sheaf.entity_events (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
             SELECT {number}, entity_id, timestamptz '2013-01-01Z' + n * interval '1 second', 0, 'p', gen_random_uuid(), now(),
                 jsonb_build_object('{id}', repeat('x', {VALUE_BYTES}))
             FROM sheaf.entities, generate_series(1, {EVENTS}) n"
        ))
        .await?;
    let stored = "SELECT sum(pg_column_size(attrs)) FROM sheaf.entity_events";
    let stored: i64 = world.superuser.query_one(stored, &[]).await?.get(0);
    assert!(stored < 1 << 20, "{stored} bytes are stored");
    Ok((world, tenant))
}

/// The bytes of a page, none of which may be missing.
fn bytes_of<'a>(items: impl Iterator<Item = &'a HistoryItem>) -> usize {
    let values = items.map(|item| match &item.attributes[0].1 {
        Some(Value::Text(text)) => text.len(),
        other => panic!("{other:?} is no text"),
    });
    values
        .inspect(|bytes| assert_eq!(*bytes, VALUE_BYTES))
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_an_entity_ends_where_it_holds_enough() -> Result<()> {
    let (world, tenant) = wide().await?;
    for (descending, corrections) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut query = HistoryQuery {
            descending,
            corrections,
            ..everything()
        };
        let (mut times, mut pages) = (Vec::new(), 0);
        loop {
            let read = world
                .reader
                .history(&tenant.scope, "thing", "e1", &query, &options())
                .await?;
            let page = read.value.expect("the entity is there").page;
            let bytes = bytes_of(page.items.iter());
            assert!(bytes <= PAGE_BYTES_MAX, "{bytes} bytes on a page");
            times.extend(page.items.iter().map(|item| item.observed_at));
            pages += 1;
            query.cursor = page.next_cursor;
            if query.cursor.is_none() {
                break;
            }
        }
        if descending {
            times.reverse();
        }
        let all = (1..=EVENTS).map(|n| second(i64::try_from(n).expect("small")));
        assert!(times.into_iter().eq(all), "each event once and in order");
        assert!(pages > 1, "{pages} pages");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_many_entities_ends_where_it_holds_enough() -> Result<()> {
    let (world, tenant) = wide().await?;
    for is_one_series in [false, true] {
        let mut query = HistoriesQuery {
            entity_type: Some("thing".to_owned()),
            filter: None,
            attributes: vec!["cold_text".to_owned()],
            from: second(0),
            to: None,
            bucketing: None,
            is_one_series,
            is_by_type: false,
            limit: 1_000,
            cursor: None,
        };
        let (mut count, mut pages) = (0, 0);
        loop {
            let read = world
                .reader
                .histories(&tenant.scope, &query, &options())
                .await?;
            let items = read.value.items;
            let bytes = bytes_of(items.iter().map(|item| match &item.entry {
                SeriesEntry::Instant(instant) => instant,
                SeriesEntry::Bucket(_) => panic!("a bucket where none was asked for"),
            }));
            assert!(bytes <= PAGE_BYTES_MAX, "{bytes} bytes on a page");
            count += items.len();
            pages += 1;
            query.cursor = read.value.next_cursor;
            if query.cursor.is_none() {
                break;
            }
        }
        assert_eq!(count, ENTITIES * EVENTS, "each event once");
        assert!(pages > 2, "{pages} pages");
    }
    Ok(())
}
