//! Histories of many entities at once, against those of one after the other.

use anyhow::Result;
use sheaf_model::Op;
use sheaf_model::{Timestamp, Value};
use sheaf_query::filter::parse_text;
use sheaf_query::{
    Aggregate, AggregateValue, BucketQuery, Bucketing, Fill, HistoriesQuery, HistoryItem,
    HistoryQuery, ReadError, SeriesEntry, SeriesItem,
};

use crate::fills;
use crate::history::random_history;
use crate::world::{Dice, Tenant, World, options, second};

const NAMES: [&str; 3] = ["hot_float", "cold_int", "hot_decimal"];

async fn world() -> Result<(World, Tenant, Vec<String>)> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    let mut dice = Dice(31);
    for number in 0..30 {
        random_history(
            &mut tenant,
            &format!("e{number:02}"),
            5 + number * 2,
            &mut dice,
        );
        // Above all deletes, so that the entity is there.
        let id = format!("e{number:02}");
        let value = i64::try_from(number % 3)?;
        let cells = [("cold_int", Some(Value::Int(value)))];
        tenant.write(("thing", &id), second(90_000), Op::Patch, &cells);
    }
    world.save(&tenant).await?;
    // Of another tenant with the same names.
    let mut other = world.tenant("other").await?;
    random_history(&mut other, "e00", 50, &mut dice);
    world.save(&other).await?;
    let ids = (0..30).filter(|number| number % 3 > 0);
    let ids = ids.map(|number| format!("e{number:02}")).collect();
    Ok((world, tenant, ids))
}

fn asked(
    bucketing: Option<Bucketing>,
    (from, to): (Timestamp, Option<Timestamp>),
) -> HistoriesQuery {
    HistoriesQuery {
        entity_type: Some("thing".to_owned()),
        filter: Some(parse_text("cold_int >= 1").unwrap()),
        attributes: NAMES.map(str::to_owned).to_vec(),
        from,
        to,
        bucketing,
        is_one_series: false,
        is_by_type: false,
        limit: 1_000,
        cursor: None,
    }
}

async fn paged(world: &World, tenant: &Tenant, query: &HistoriesQuery) -> Result<Vec<SeriesItem>> {
    let mut query = query.clone();
    let mut items = Vec::new();
    loop {
        let read = world
            .reader
            .histories(&tenant.scope, &query, &options())
            .await?;
        assert!(read.value.items.len() <= usize::try_from(query.limit)?);
        items.extend(read.value.items);
        let Some(cursor) = read.value.next_cursor else {
            return Ok(items);
        };
        query.cursor = Some(cursor);
    }
}

async fn instants(
    world: &World,
    tenant: &Tenant,
    id: &str,
    query: &HistoriesQuery,
) -> Result<Vec<HistoryItem>> {
    let mut query = HistoryQuery {
        attributes: Some(query.attributes.clone()),
        from: Some(query.from),
        to: query.to,
        descending: false,
        limit: 1_000,
        cursor: None,
        corrections: false,
    };
    let mut items = Vec::new();
    loop {
        let read = world
            .reader
            .history(&tenant.scope, "thing", id, &query, &options())
            .await?;
        let page = read.value.expect("the entity is there").page;
        items.extend(page.items);
        let Some(cursor) = page.next_cursor else {
            return Ok(items);
        };
        query.cursor = Some(cursor);
    }
}

fn ranges() -> [(Timestamp, Option<Timestamp>); 3] {
    [
        (second(0), None),
        (second(600), Some(second(3_000))),
        (second(200_000), None),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_values_are_those_of_each_entity_in_order_of_id() -> Result<()> {
    let (world, tenant, ids) = world().await?;
    let mut compared = 0;
    for range in ranges() {
        let query = asked(None, range);
        let mut expected = Vec::new();
        for id in &ids {
            for item in instants(&world, &tenant, id, &query).await? {
                expected.push(SeriesItem {
                    entity: Some(("thing".to_owned(), id.clone())),
                    entry: SeriesEntry::Instant(item),
                });
            }
        }
        for limit in [1_000, 7, 1] {
            if limit == 1 && expected.len() > 300 {
                continue;
            }
            let found = paged(
                &world,
                &tenant,
                &HistoriesQuery {
                    limit,
                    ..query.clone()
                },
            )
            .await?;
            assert_eq!(found, expected, "{limit} a page");
        }
        compared += expected.len();
    }
    assert!(compared > 200, "{compared} instants were compared");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_those_of_each_entity_with_every_fill() -> Result<()> {
    let (world, tenant, ids) = world().await?;
    let mut compared = 0;
    for (from, to) in ranges() {
        for fill in [Fill::None, Fill::Null, Fill::Previous, Fill::Linear] {
            // An open end is that of the whole history where there is one entity, and of its attributes where there are many.
            let to = to.or((fill != Fill::None).then(|| from.saturating_add_micros(5_000_000_000)));
            let bucketing = Bucketing {
                width: "7m".parse()?,
                aggregates: Some(vec![Aggregate::Avg, Aggregate::Max, Aggregate::Count]),
                fill,
            };
            let query = asked(Some(bucketing.clone()), (from, to));
            let mut expected = Vec::new();
            for id in &ids {
                let one = BucketQuery {
                    attributes: Some(query.attributes.clone()),
                    from: Some(from),
                    to,
                    descending: false,
                    limit: 1_000,
                    cursor: None,
                    bucket: bucketing.width,
                    aggregates: bucketing.aggregates.clone(),
                    fill,
                };
                for item in fills::paged(&world, &tenant, id, &one).await? {
                    expected.push(SeriesItem {
                        entity: Some(("thing".to_owned(), id.clone())),
                        entry: SeriesEntry::Bucket(item),
                    });
                }
            }
            for limit in [1_000, 11] {
                let found = paged(
                    &world,
                    &tenant,
                    &HistoriesQuery {
                        limit,
                        ..query.clone()
                    },
                )
                .await?;
                assert_eq!(found, expected, "{fill:?} from {from}, {limit} a page");
            }
            compared += expected.len();
        }
    }
    assert!(compared > 500, "{compared} buckets were compared");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_series_is_all_entities_together() -> Result<()> {
    let (world, tenant, ids) = world().await?;
    let range = (second(0), Some(second(4_000)));
    let each = asked(None, range);
    let mut all: Vec<HistoryItem> = Vec::new();
    for id in &ids {
        all.extend(instants(&world, &tenant, id, &each).await?);
    }
    all.sort_by_key(|item| item.observed_at);
    for limit in [1_000, 5] {
        let query = HistoriesQuery {
            is_one_series: true,
            limit,
            ..each.clone()
        };
        let found = paged(&world, &tenant, &query).await?;
        let mut items: Vec<HistoryItem> = Vec::new();
        for item in found {
            assert_eq!(item.entity, None);
            let SeriesEntry::Instant(instant) = item.entry else {
                panic!("a bucket where none was asked for");
            };
            items.push(instant);
        }
        assert!(
            items
                .windows(2)
                .all(|pair| pair[0].observed_at <= pair[1].observed_at)
        );
        // At one instant entities come by number, which is not the order of their ids.
        let sorted = |items: &[HistoryItem]| {
            let mut texts: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
            texts.sort();
            texts
        };
        assert_eq!(sorted(&items), sorted(&all));
    }
    let bucketing = Bucketing {
        width: "10m".parse()?,
        aggregates: Some(vec![Aggregate::Count, Aggregate::Max]),
        fill: Fill::Null,
    };
    let query = HistoriesQuery {
        is_one_series: true,
        limit: 2,
        ..asked(Some(bucketing), range)
    };
    let found = paged(&world, &tenant, &query).await?;
    assert_eq!(found.len(), 7, "4,000 seconds in buckets of ten minutes");
    for item in found {
        let SeriesEntry::Bucket(bucket) = item.entry else {
            panic!("an instant where buckets were asked for");
        };
        for (name, aggregates) in bucket.attributes {
            let values: Vec<&Value> = all
                .iter()
                .filter(|item| item.observed_at >= bucket.from && item.observed_at < bucket.to)
                .filter(|item| item.observed_at < range.1.unwrap())
                .flat_map(|item| &item.attributes)
                .filter(|(known, _)| *known == name)
                .filter_map(|(_, value)| value.as_ref())
                .collect();
            let count = AggregateValue::Value(Value::Int(i64::try_from(values.len())?));
            assert_eq!(aggregates[0].1, count, "{name} from {}", bucket.from);
            assert_eq!(values.is_empty(), aggregates[1].1 == AggregateValue::Null);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_not_be_bounded_is_refused_and_a_cursor_fits_its_query_alone() -> Result<()> {
    let (world, tenant, _) = world().await?;
    let narrow = Bucketing {
        width: "1ms".parse()?,
        aggregates: None,
        fill: Fill::Null,
    };
    let query = asked(Some(narrow), (second(0), Some(second(4_000))));
    let refused = world
        .reader
        .histories(&tenant.scope, &query, &options())
        .await;
    assert_eq!(refused.expect_err("too many").code(), "query_limit");
    let query = HistoriesQuery {
        attributes: Vec::new(),
        ..asked(None, (second(0), None))
    };
    let refused = world
        .reader
        .histories(&tenant.scope, &query, &options())
        .await;
    assert_eq!(
        refused.expect_err("nothing named").code(),
        "invalid_parameter"
    );
    let query = HistoriesQuery {
        limit: 3,
        ..asked(None, (second(0), None))
    };
    let read = world
        .reader
        .histories(&tenant.scope, &query, &options())
        .await?;
    let cursor = read.value.next_cursor.expect("more");
    let other = world.tenant("third").await?;
    for (scope, query) in [
        (&other.scope, query.clone()),
        (
            &tenant.scope,
            HistoriesQuery {
                is_one_series: true,
                ..query.clone()
            },
        ),
        (
            &tenant.scope,
            HistoriesQuery {
                from: second(1),
                ..query.clone()
            },
        ),
        (
            &tenant.scope,
            HistoriesQuery {
                filter: None,
                ..query.clone()
            },
        ),
    ] {
        let query = HistoriesQuery {
            cursor: Some(cursor.clone()),
            ..query
        };
        let refused = world.reader.histories(scope, &query, &options()).await;
        assert!(
            matches!(refused, Err(ReadError::InvalidCursor)),
            "{query:?}"
        );
    }
    Ok(())
}
