//! Histories of more entities than are found at once, and of one series that has gaps and many events at an instant.

use anyhow::Result;
use sheaf_model::{Op, Timestamp, Value};
use sheaf_query::filter::parse_text;
use sheaf_query::{
    Aggregate, AggregateValue, Bucketing, Fill, HistoriesQuery, ReadOptions, SeriesEntry,
    SeriesItem, Upcoming,
};

use crate::world::{Tenant, World, options, second};

const ENTITIES: i64 = 2_600;
/// Of one batch; the reader says the same.
const BATCH: usize = 1_000;

/// Entities of two types in turn, each with an event at the same instant, one at a second of its own, and a few of them
/// with one twenty years later.
async fn many() -> Result<(World, Tenant)> {
    let world = World::new().await?;
    let tenant = world.tenant("acme").await?;
    let (number, id) = (tenant.scope.tenant(), tenant.id("cold_int"));
    world
        .superuser
        .batch_execute(&format!(
            "INSERT INTO sheaf.entities (tenant_id, entity_id, entity_type, external_id, created_at)
             SELECT {number}, 100000 + n, CASE n % 2 WHEN 0 THEN 'even' ELSE 'odd' END, to_char(n / 2, 'FM0000'), now()
             FROM generate_series(1, {ENTITIES}) n;
             INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at, hot_attrs, cold_attrs,
                 present, times)
             SELECT tenant_id, entity_id, 1, now(), false, now(), '{{}}', jsonb_build_object('{id}', entity_id - 100000),
                 ARRAY[{id}::bigint], '{{}}'
             FROM sheaf.entities;
             SELECT sheaf.ensure_event_partition(t)
             FROM unnest(ARRAY['2013-01-01Z', '2033-01-01Z']::timestamptz[]) t;
             INSERT INTO sheaf.entity_events (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
             SELECT {number}, e.entity_id, o.at, 0, 'p', gen_random_uuid(), now(),
                 jsonb_build_object('{id}', e.entity_id - 100000)
             FROM sheaf.entities e CROSS JOIN LATERAL (VALUES
                 (timestamptz '2013-01-01Z'),
                 (timestamptz '2013-01-01Z' + (e.entity_id - 100000) * interval '1 second'),
                 (CASE WHEN e.entity_id % 500 = 0 THEN timestamptz '2033-01-01Z' END)) o (at)
             WHERE o.at IS NOT NULL"
        ))
        .await?;
    Ok((world, tenant))
}

fn asked(filter: &str) -> HistoriesQuery {
    HistoriesQuery {
        entity_type: None,
        filter: Some(parse_text(filter).expect(filter)),
        attributes: vec!["cold_int".to_owned()],
        from: second(0),
        to: None,
        bucketing: None,
        is_one_series: false,
        is_by_type: false,
        limit: 1_000,
        cursor: None,
    }
}

/// All pages: each for itself, or with what is upcoming kept.
async fn paged(
    world: &World,
    tenant: &Tenant,
    query: &HistoriesQuery,
    is_kept: bool,
) -> Result<Vec<SeriesItem>> {
    let (mut query, mut upcoming) = (query.clone(), Upcoming::default());
    let mut items = Vec::new();
    loop {
        if !is_kept {
            upcoming = Upcoming::default();
        }
        let read = world
            .reader
            .histories_on(&tenant.scope, &query, &options(), &mut upcoming)
            .await?;
        items.extend(read.value.items);
        let Some(cursor) = read.value.next_cursor else {
            return Ok(items);
        };
        query.cursor = Some(cursor);
    }
}

/// The values of items, each with its instant.
fn values(items: &[SeriesItem]) -> Vec<(Timestamp, i64)> {
    let value = |item: &SeriesItem| match &item.entry {
        SeriesEntry::Instant(instant) => match instant.attributes[0].1 {
            Some(Value::Int(number)) => (instant.observed_at, number),
            ref other => panic!("{other:?} is no int"),
        },
        SeriesEntry::Bucket(bucket) => panic!("{bucket:?} where none was asked for"),
    };
    items.iter().map(value).collect()
}

/// What each entity reported, in order of time.
fn of_entity(number: i64) -> Vec<(Timestamp, i64)> {
    let mut times = vec![second(0), second(number)];
    if (number + 100_000) % 500 == 0 {
        times.push(Timestamp::parse("2033-01-01T00:00:00Z").expect("a time").0);
    }
    times.into_iter().map(|time| (time, number)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn entities_beyond_a_batch_come_once_and_in_order_on_every_way() -> Result<()> {
    let (world, tenant) = many().await?;
    let by_id = |number: &i64| (number / 2, number % 2);
    let by_type = |number: &i64| (number % 2, number / 2);
    for (entity_type, is_by_type) in [
        (None, false),
        (None, true),
        (Some("odd"), false),
        (Some("odd"), true),
    ] {
        let query = HistoriesQuery {
            entity_type: entity_type.map(str::to_owned),
            is_by_type,
            ..asked("cold_int > 0")
        };
        let mut expected: Vec<i64> = (1..=ENTITIES)
            .filter(|number| entity_type.is_none() || number % 2 == 1)
            .collect();
        if is_by_type {
            expected.sort_by_key(by_type);
        } else {
            expected.sort_by_key(by_id);
        }
        let expected: Vec<_> = expected.into_iter().flat_map(of_entity).collect();
        for (limit, is_kept) in [(1_000, true), (1_000, false), (333, true), (333, false)] {
            let query = HistoriesQuery {
                limit,
                ..query.clone()
            };
            let found = paged(&world, &tenant, &query, is_kept).await?;
            let found = values(&found);
            assert!(
                found == expected,
                "{} of {} by type: {is_by_type}, {limit} a page, kept: {is_kept}",
                found.len(),
                expected.len()
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_found_once_by_whoever_keeps_it_from_page_to_page() -> Result<()> {
    let (world, tenant) = many().await?;
    let query = HistoriesQuery {
        entity_type: Some("odd".to_owned()),
        to: Some(second(1)),
        limit: 100,
        ..asked("cold_int > 0")
    };
    let mut upcoming = Upcoming::default();
    let first = world
        .reader
        .histories_on(&tenant.scope, &query, &options(), &mut upcoming)
        .await?;
    let mut query = HistoriesQuery {
        cursor: first.value.next_cursor,
        ..query
    };
    let mut met = first.value.items.len();
    // Nothing passes any more: whoever looks again finds nothing.
    world
        .superuser
        .batch_execute("UPDATE sheaf.entity_jsonb SET deleted = true")
        .await?;
    let again = world
        .reader
        .histories(&tenant.scope, &query, &options())
        .await?;
    assert_eq!((met, again.value.items.len()), (100, 0));
    while query.cursor.is_some() {
        let next = world
            .reader
            .histories_on(&tenant.scope, &query, &options(), &mut upcoming)
            .await?;
        met += next.value.items.len();
        query.cursor = next.value.next_cursor;
    }
    assert_eq!(met, BATCH, "the batch that was found, and no other");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_series_passes_gaps_of_years_and_instants_of_thousands() -> Result<()> {
    let (world, tenant) = many().await?;
    let mut expected: Vec<_> = (1..=ENTITIES).flat_map(of_entity).collect();
    // At one instant by number, which is that of the entity here.
    expected.sort_unstable();
    assert!(
        expected
            .iter()
            .filter(|(time, _)| *time == second(0))
            .count()
            > BATCH
    );
    for (from, limit, is_kept) in [
        (second(0), 1_000, true),
        (second(0), 997, false),
        (Timestamp::MIN, 1_000, true),
        (second(10), 300, true),
    ] {
        let query = HistoriesQuery {
            is_one_series: true,
            from,
            limit,
            ..asked("cold_int > 0")
        };
        let found = values(&paged(&world, &tenant, &query, is_kept).await?);
        let expected = expected.iter().filter(|(time, _)| *time >= from);
        assert!(
            found.iter().eq(expected),
            "{} items from {from}, {limit} a page",
            found.len()
        );
    }
    // Counts of buckets on pages of their own add up to the same.
    for fill in [Fill::None, Fill::Null] {
        let bucketing = Bucketing {
            width: "1m".parse()?,
            aggregates: Some(vec![Aggregate::Count]),
            fill,
        };
        let query = HistoriesQuery {
            is_one_series: true,
            bucketing: Some(bucketing),
            to: Some(second(3_000)),
            limit: 7,
            ..asked("cold_int > 0")
        };
        let found = paged(&world, &tenant, &query, false).await?;
        let mut counted = Vec::new();
        for item in found {
            let SeriesEntry::Bucket(bucket) = item.entry else {
                panic!("an instant where buckets were asked for");
            };
            let count = bucket.attributes[0].1[0].1.clone();
            counted.push((bucket.from, count));
        }
        let minutes = 0..if fill == Fill::Null { 50 } else { 44 };
        let meant: Vec<_> = minutes
            .map(|minute| {
                let (from, to) = (second(minute * 60), second(minute * 60 + 60));
                let within = expected.iter().filter(|(at, _)| (from..to).contains(at));
                let count = i64::try_from(within.count()).expect("some thousands");
                (from, AggregateValue::Value(Value::Int(count)))
            })
            .collect();
        assert_eq!(counted, meant, "{fill:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_is_older_than_history_is_shown_holds_nothing() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    for seconds in [0, 100, 2_000] {
        let value = Some(Value::Int(seconds));
        let cells = [("cold_int", value)];
        tenant.write(("even", "a"), second(seconds), Op::Patch, &cells);
    }
    world.save(&tenant).await?;
    world
        .superuser
        .batch_execute(
            "UPDATE sheaf.tenants SET retention_micros = 1000000000, catalogue_version = catalogue_version + 1",
        )
        .await?;
    // Shown from a thousand seconds on.
    let options = ReadOptions::new(None, second(2_000));
    for (to, found) in [(200, 0), (1_000, 0), (3_000, 1)] {
        for is_one_series in [false, true] {
            for fill in [None, Some(Fill::None), Some(Fill::Previous)] {
                let query = HistoriesQuery {
                    to: Some(second(to)),
                    bucketing: fill.map(|fill| Bucketing {
                        width: "1000s".parse().expect("a span"),
                        aggregates: Some(vec![Aggregate::Count]),
                        fill,
                    }),
                    is_one_series,
                    ..asked("cold_int > 0")
                };
                let read = world.reader.histories(&tenant.scope, &query, &options);
                let items = read.await?.value.items;
                let has_value = |item: &&SeriesItem| match &item.entry {
                    SeriesEntry::Instant(_) => true,
                    SeriesEntry::Bucket(bucket) => {
                        let zero = AggregateValue::Value(Value::Int(0));
                        bucket.attributes[0].1[0].1 != zero
                    }
                };
                let holding = items.iter().filter(has_value).count();
                assert_eq!(
                    holding, found,
                    "to {to}, {is_one_series}, {fill:?}: {items:?}"
                );
            }
        }
    }
    Ok(())
}
