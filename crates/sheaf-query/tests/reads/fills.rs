//! What stands for buckets without values, against the same worked out from the buckets that have some.

use std::collections::BTreeMap;

use anyhow::Result;
use sheaf_model::{Cell, StoredRow, Timestamp, Value, fold_instant};
use sheaf_query::{Aggregate, AggregateValue, BucketItem, BucketQuery, Fill, ReadError};

use crate::history::random_history;
use crate::world::{Dice, Tenant, World, options, second};

type Values = Vec<(Aggregate, AggregateValue)>;

pub(crate) async fn paged(
    world: &World,
    tenant: &Tenant,
    id: &str,
    query: &BucketQuery,
) -> Result<Vec<BucketItem>> {
    let mut query = query.clone();
    let mut items = Vec::new();
    loop {
        let read = world
            .reader
            .history_buckets(&tenant.scope, "thing", id, &query, &options())
            .await?;
        let page = read.value.expect("the entity is there").page;
        items.extend(page.items);
        let Some(cursor) = page.next_cursor else {
            return Ok(items);
        };
        query.cursor = Some(cursor);
    }
}

/// The last value of an attribute before an instant.
fn last_before(tenant: &Tenant, id: &str, name: &str, before: Timestamp) -> Option<Value> {
    let mut instants: BTreeMap<Timestamp, Vec<&StoredRow>> = BTreeMap::new();
    for row in tenant.entity("thing", id).rows.values() {
        if row.observed_at < before {
            instants.entry(row.observed_at).or_default().push(row);
        }
    }
    instants.into_values().rev().find_map(|rows| {
        let cells = fold_instant(rows).cells;
        cells.into_iter().find_map(|(id, cell)| match cell {
            Cell::Value(value) if tenant.name(id) == name => Some(value),
            Cell::Value(_) | Cell::Removed => None,
        })
    })
}

fn double(value: &AggregateValue) -> f64 {
    let text = serde_json::to_string(value).unwrap();
    text.trim_matches('"').parse().unwrap()
}

/// What every bucket should hold, from those that hold something.
fn meant(
    fill: Fill,
    starts: &[Timestamp],
    known: &BTreeMap<Timestamp, Values>,
    before: Option<Value>,
) -> Vec<Vec<Option<f64>>> {
    let mut last: Option<Vec<f64>> = before.map(|value| {
        let value = double(&AggregateValue::Value(value));
        vec![value, value]
    });
    let mut all = Vec::new();
    for start in starts {
        let own = known.get(start).map(|values| {
            values
                .iter()
                .map(|(_, value)| double(value))
                .collect::<Vec<_>>()
        });
        let filled = match (own, fill) {
            (Some(own), _) => {
                last = Some(own.clone());
                Some(own)
            }
            (None, Fill::Previous) => last.clone(),
            (None, Fill::Linear) => {
                let left = known.range(..*start).next_back();
                let right = known.range(*start..).next();
                left.zip(right).map(|((left_at, left), (right_at, right))| {
                    let share = (start.as_micros() - left_at.as_micros()) as f64
                        / (right_at.as_micros() - left_at.as_micros()) as f64;
                    let pairs = left.iter().zip(right);
                    pairs
                        .map(|((_, left), (_, right))| {
                            double(left) * (1.0 - share) + double(right) * share
                        })
                        .collect()
                })
            }
            (None, Fill::None | Fill::Null) => None,
        };
        all.push(match filled {
            Some(values) => values.into_iter().map(Some).collect(),
            None => vec![None; 2],
        });
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_bucket_holds_what_its_neighbours_say_whatever_page_it_is_on() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    random_history(&mut tenant, "one", 300, &mut Dice(21));
    world.save(&tenant).await?;
    let (mut filled, mut taken_from_before) = (0, 0);
    for name in ["hot_float", "cold_int", "hot_decimal"] {
        for (from, to) in [(None, None), (Some(second(3_661)), Some(second(15_000)))] {
            for (bucket, fill) in [
                ("5m", Fill::Previous),
                ("5m", Fill::Linear),
                ("7s", Fill::Previous),
            ] {
                if bucket == "7s" && from.is_none() {
                    continue;
                }
                let query = BucketQuery {
                    attributes: Some(vec![name.to_owned()]),
                    from,
                    to,
                    descending: false,
                    limit: 1_000,
                    cursor: None,
                    bucket: bucket.parse()?,
                    aggregates: Some(vec![Aggregate::Min, Aggregate::Last]),
                    fill: Fill::None,
                };
                let known: BTreeMap<Timestamp, Values> = paged(&world, &tenant, "one", &query)
                    .await?
                    .into_iter()
                    .map(|item| (item.from, item.attributes[0].1.clone()))
                    .collect();
                let query = BucketQuery { fill, ..query };
                let whole = paged(&world, &tenant, "one", &query).await?;
                let starts: Vec<Timestamp> = whole.iter().map(|item| item.from).collect();
                assert!(starts.len() > known.len(), "there are gaps");
                let before = match (fill, from) {
                    (Fill::Previous, Some(from)) => last_before(&tenant, "one", name, from),
                    _ => None,
                };
                let expected = meant(fill, &starts, &known, before.clone());
                for (item, expected) in whole.iter().zip(expected) {
                    let got = item.attributes[0].1.iter().map(|(_, value)| match value {
                        AggregateValue::Null => None,
                        value => Some(double(value)),
                    });
                    for (got, expected) in got.zip(expected) {
                        let is_close = match (got, expected) {
                            (Some(got), Some(expected)) => {
                                (got - expected).abs() <= 1e-9 * expected.abs().max(1e-6)
                            }
                            (got, expected) => got == expected,
                        };
                        assert!(
                            is_close,
                            "{fill:?} of {name} at {}: {got:?}, not {expected:?}",
                            item.from
                        );
                    }
                    if !known.contains_key(&item.from) {
                        filled += 1;
                        if known.keys().all(|start| *start > item.from) && before.is_some() {
                            taken_from_before += 1;
                        }
                    }
                }
                for limit in [3, 100] {
                    for descending in [false, true] {
                        if limit == 3 && bucket == "7s" {
                            continue;
                        }
                        let mut items = paged(
                            &world,
                            &tenant,
                            "one",
                            &BucketQuery {
                                limit,
                                descending,
                                ..query.clone()
                            },
                        )
                        .await?;
                        if descending {
                            items.reverse();
                        }
                        assert_eq!(items, whole, "{limit} a page, {descending}");
                    }
                }
            }
        }
    }
    assert!(filled > 200, "{filled} buckets were filled");
    assert!(
        taken_from_before > 0,
        "a value before the range was taken over"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_filled_is_refused() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    random_history(&mut tenant, "one", 20, &mut Dice(2));
    world.save(&tenant).await?;
    let query = |names: Option<&[&str]>, fill| BucketQuery {
        attributes: names.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
        from: None,
        to: None,
        descending: false,
        limit: 10,
        cursor: None,
        bucket: "1h".parse().unwrap(),
        aggregates: Some(vec![Aggregate::Last]),
        fill,
    };
    for (names, fill, is_served) in [
        (Some(&["hot_int", "cold_decimal"][..]), Fill::Linear, true),
        (Some(&["hot_text"][..]), Fill::Linear, false),
        (Some(&["hot_time"][..]), Fill::Linear, false),
        (Some(&["hot_text"][..]), Fill::Previous, true),
        (None, Fill::Previous, false),
        (None, Fill::Linear, false),
        (None, Fill::Null, true),
    ] {
        let read = world
            .reader
            .history_buckets(
                &tenant.scope,
                "thing",
                "one",
                &query(names, fill),
                &options(),
            )
            .await;
        match read {
            Ok(_) => assert!(is_served, "{names:?} {fill:?}"),
            Err(error) => {
                assert!(!is_served, "{names:?} {fill:?}: {error}");
                assert!(matches!(
                    error,
                    ReadError::InvalidParameter {
                        parameter: "fill",
                        ..
                    }
                ));
            }
        }
    }
    Ok(())
}
