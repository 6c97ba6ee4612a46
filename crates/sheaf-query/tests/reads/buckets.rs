//! History in buckets, against the same computed one value at a time.

use std::collections::BTreeMap;

use anyhow::Result;
use sheaf_model::{
    AttributeType, Cell, Decimal, Duration, Op, StoredRow, Timestamp, Value, fold_instant,
};
use sheaf_query::{Aggregate, AggregateValue, BucketItem, BucketQuery, Fill};

use crate::history::random_history;
use crate::world::{Dice, Tenant, World, at, options, second};

const DAY: i64 = 86_400_000_000;

fn hourly(aggregates: &[Aggregate]) -> BucketQuery {
    BucketQuery {
        attributes: None,
        from: None,
        to: None,
        descending: false,
        limit: 1_000,
        cursor: None,
        bucket: "1h".parse().expect("a duration"),
        aggregates: Some(aggregates.to_vec()),
        fill: Fill::None,
    }
}

/// A value as i128, for exact sums of ints.
fn whole(value: &Value) -> i128 {
    match value {
        Value::Int(number) => i128::from(*number),
        other => panic!("{other:?} is no int"),
    }
}

fn double(value: &Value) -> f64 {
    match value {
        Value::Int(number) => *number as f64,
        Value::Float(number) => *number,
        Value::Decimal(number) => number.to_string().parse().expect("a number"),
        other => panic!("{other:?} is no number"),
    }
}

fn exact(value: &Value) -> Decimal {
    match value {
        Value::Decimal(number) => number.clone(),
        other => panic!("{other:?} is no decimal"),
    }
}

/// The values of each attribute in each bucket, in order of time.
fn values(
    tenant: &Tenant,
    id: &str,
    query: &BucketQuery,
) -> BTreeMap<Timestamp, BTreeMap<String, Vec<Value>>> {
    let mut instants: BTreeMap<Timestamp, Vec<&StoredRow>> = BTreeMap::new();
    for row in tenant.entity("thing", id).rows.values() {
        if query.from.is_none_or(|from| row.observed_at >= from)
            && query.to.is_none_or(|to| row.observed_at < to)
        {
            instants.entry(row.observed_at).or_default().push(row);
        }
    }
    let width = query.bucket.as_micros();
    let offset = if width % (7 * DAY) == 0 { 4 * DAY } else { 0 };
    let mut buckets: BTreeMap<Timestamp, BTreeMap<String, Vec<Value>>> = BTreeMap::new();
    for (time, rows) in instants {
        let start = (time.as_micros() - offset).div_euclid(width) * width + offset;
        for (id, cell) in fold_instant(rows).cells {
            let Cell::Value(value) = cell else { continue };
            let bucket = buckets
                .entry(Timestamp::from_micros(start).unwrap())
                .or_default();
            bucket.entry(tenant.name(id)).or_default().push(value);
        }
    }
    buckets
}

fn check(aggregate: Aggregate, got: &AggregateValue, values: &[Value]) {
    let kind = values[0].kind();
    let value = || match got {
        AggregateValue::Value(value) => value,
        other => panic!("{aggregate:?} of {values:?} is {other:?}"),
    };
    let close = |expected: f64| {
        let got = double(value());
        assert!(
            (got - expected).abs() <= 1e-12 * expected.abs().max(1e-300),
            "{aggregate:?} of {values:?} is {got}, not {expected}"
        );
    };
    match (aggregate, kind) {
        (Aggregate::Count, _) => {
            assert_eq!(value(), &Value::Int(i64::try_from(values.len()).unwrap()))
        }
        (Aggregate::First, _) => assert_eq!(Some(value()), values.first()),
        (Aggregate::Last, _) => assert_eq!(Some(value()), values.last()),
        (Aggregate::Min, AttributeType::Int) => {
            assert_eq!(whole(value()), values.iter().map(whole).min().unwrap())
        }
        (Aggregate::Max, AttributeType::Int) => {
            assert_eq!(whole(value()), values.iter().map(whole).max().unwrap())
        }
        (Aggregate::Min, AttributeType::Decimal) => {
            assert_eq!(exact(value()), values.iter().map(exact).min().unwrap())
        }
        (Aggregate::Max, AttributeType::Decimal) => {
            assert_eq!(exact(value()), values.iter().map(exact).max().unwrap())
        }
        (Aggregate::Min, _) => assert_eq!(
            double(value()),
            values.iter().map(double).fold(f64::INFINITY, f64::min)
        ),
        (Aggregate::Max, _) => assert_eq!(
            double(value()),
            values.iter().map(double).fold(f64::NEG_INFINITY, f64::max)
        ),
        (Aggregate::Sum, AttributeType::Int) => {
            let sum: i128 = values.iter().map(whole).sum();
            let expected = i64::try_from(sum).map_or_else(
                |_| AggregateValue::Digits(sum.to_string()),
                |sum| AggregateValue::Value(Value::Int(sum)),
            );
            assert_eq!(got, &expected);
        }
        (Aggregate::Sum, _) => close(values.iter().map(double).sum()),
        (Aggregate::Avg, AttributeType::Int) => {
            let sum: i128 = values.iter().map(whole).sum();
            close(sum as f64 / values.len() as f64);
        }
        (Aggregate::Avg, _) => close(values.iter().map(double).sum::<f64>() / values.len() as f64),
    }
    let expected_kind = match (aggregate, kind) {
        (Aggregate::Count, _) => AttributeType::Int,
        (Aggregate::Avg, AttributeType::Decimal) => AttributeType::Decimal,
        (Aggregate::Avg, _) => AttributeType::Float,
        (_, kind) => kind,
    };
    if let AggregateValue::Value(value) = got {
        assert_eq!(value.kind(), expected_kind, "{aggregate:?}");
    }
}

async fn paged(
    world: &World,
    tenant: &Tenant,
    query: &BucketQuery,
) -> Result<(Vec<BucketItem>, usize)> {
    let mut query = query.clone();
    let (mut items, mut pages) = (Vec::new(), 0);
    loop {
        let read = world
            .reader
            .history_buckets(&tenant.scope, "thing", "one", &query, &options())
            .await?;
        let page = read.value.expect("the entity is there").page;
        assert!(page.items.len() <= usize::try_from(query.limit)?);
        items.extend(page.items);
        pages += 1;
        let Some(cursor) = page.next_cursor else {
            return Ok((items, pages));
        };
        query.cursor = Some(cursor);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_are_those_of_the_values_one_by_one() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    random_history(&mut tenant, "one", 600, &mut Dice(11));
    world.save(&tenant).await?;
    let ranges = [(None, None), (Some(second(3_661)), Some(second(20_000)))];
    let mut checked = 0;
    for (from, to) in ranges {
        for bucket in ["1m", "1h", "1d", "1w", "7h"] {
            for descending in [false, true] {
                let query = BucketQuery {
                    from,
                    to,
                    descending,
                    bucket: bucket.parse()?,
                    ..hourly(&Aggregate::ALL)
                };
                let (items, _) = paged(&world, &tenant, &query).await?;
                let mut expected: Vec<_> = values(&tenant, "one", &query).into_iter().collect();
                if descending {
                    expected.reverse();
                }
                let starts: Vec<Timestamp> = items.iter().map(|item| item.from).collect();
                assert_eq!(
                    starts,
                    expected.iter().map(|(start, _)| *start).collect::<Vec<_>>(),
                    "{query:?}"
                );
                for (item, (start, attributes)) in items.iter().zip(expected) {
                    assert_eq!(
                        item.to,
                        start.saturating_add_micros(query.bucket.as_micros())
                    );
                    let names: Vec<&String> =
                        item.attributes.iter().map(|(name, _)| name).collect();
                    assert_eq!(names, attributes.keys().collect::<Vec<_>>(), "{start}");
                    for (name, aggregates) in &item.attributes {
                        for (aggregate, got) in aggregates {
                            check(*aggregate, got, &attributes[name]);
                            checked += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(checked > 2_000, "{checked} aggregates were compared");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_buckets_are_the_whole_series() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    random_history(&mut tenant, "one", 200, &mut Dice(5));
    world.save(&tenant).await?;
    for fill in [Fill::None, Fill::Null] {
        for (from, to) in [(None, None), (Some(second(100)), Some(second(20_000)))] {
            for descending in [false, true] {
                let names = vec!["hot_float".to_owned(), "cold_int".to_owned()];
                let query = BucketQuery {
                    attributes: Some(names),
                    from,
                    to,
                    descending,
                    fill,
                    bucket: "5m".parse()?,
                    ..hourly(&[Aggregate::Avg, Aggregate::Count])
                };
                let (whole, one) = paged(&world, &tenant, &query).await?;
                assert_eq!(one, 1);
                assert!(whole.len() > 10);
                let (items, pages) = paged(
                    &world,
                    &tenant,
                    &BucketQuery {
                        limit: 3,
                        ..query.clone()
                    },
                )
                .await?;
                assert!(pages > 5);
                assert_eq!(items, whole, "{query:?}");
                if fill == Fill::Null {
                    let gaps = whole.windows(2).filter(|pair| {
                        let (one, two) = if descending {
                            (&pair[1], &pair[0])
                        } else {
                            (&pair[0], &pair[1])
                        };
                        one.to != two.from
                    });
                    assert_eq!(gaps.count(), 0);
                    let empty =
                        whole
                            .iter()
                            .flat_map(|item| &item.attributes)
                            .filter(|(_, list)| {
                                list[..]
                                    == [
                                        (Aggregate::Avg, AggregateValue::Null),
                                        (Aggregate::Count, AggregateValue::Value(Value::Int(0))),
                                    ]
                            });
                    assert!(empty.count() > 5);
                    assert!(whole.iter().all(|item| item.attributes.len() == 2));
                }
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_numbers_stay_exact_and_corrections_count_once() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    let mut write = |time, name: &str, value: Value| {
        tenant.write(
            ("thing", "one"),
            second(time),
            Op::Patch,
            &[(name, Some(value))],
        );
    };
    for time in [0, 1] {
        write(time, "hot_int", Value::Int(i64::MAX));
    }
    for (time, digits) in [(0, "0.10"), (1, "0.20"), (2, "1000000000000000000000000.3")] {
        write(time, "hot_decimal", Value::Decimal(digits.parse()?));
    }
    for (time, number) in [(0, 0.1), (1, 0.2), (2, 0.3), (2, 0.6)] {
        write(time, "cold_float", Value::Float(number));
    }
    write(3, "hot_float", Value::Float(f64::MAX));
    write(4, "hot_float", Value::Float(f64::MAX));
    write(5, "hot_text", Value::Text("x".to_owned()));
    tenant.write(
        ("thing", "one"),
        second(6),
        Op::Patch,
        &[("cold_int", None)],
    );
    world.save(&tenant).await?;
    let query = hourly(&[Aggregate::Sum, Aggregate::Avg, Aggregate::Count]);
    let (items, _) = paged(&world, &tenant, &query).await?;
    assert_eq!(items.len(), 1);
    let json: BTreeMap<&str, Vec<String>> = items[0]
        .attributes
        .iter()
        .map(|(name, list)| {
            (
                name.as_str(),
                list.iter()
                    .map(|(_, value)| serde_json::to_string(value).unwrap())
                    .collect(),
            )
        })
        .collect();
    // An attribute without a name in the query has the aggregates that its type has.
    assert_eq!(json["hot_text"], ["1"]);
    assert_eq!(
        json["hot_int"],
        ["\"18446744073709551614\"", "9.223372036854776e+18", "2"]
    );
    assert_eq!(
        json["hot_decimal"],
        [
            "\"1000000000000000000000000.60\"",
            "\"333333333333333333333333.533333333333333333333333333333\"",
            "3"
        ]
    );
    assert_eq!(json["cold_float"], ["0.9", "0.3", "3"]);
    assert_eq!(json["hot_float"], ["null", "1.7976931348623157e+308", "2"]);
    assert!(!json.contains_key("cold_int"));
    // Without a word about aggregates: the mean of numbers, the count of everything else.
    let (items, _) = paged(
        &world,
        &tenant,
        &BucketQuery {
            aggregates: None,
            ..query.clone()
        },
    )
    .await?;
    let usual: BTreeMap<&str, &str> = items[0]
        .attributes
        .iter()
        .map(|(name, list)| (name.as_str(), list[0].0.as_str()))
        .collect();
    assert_eq!((usual["hot_int"], usual["hot_text"]), ("avg", "count"));
    let code = async |query: BucketQuery| {
        world
            .reader
            .history_buckets(&tenant.scope, "thing", "one", &query, &options())
            .await
            .err()
            .map(|error| error.code())
    };
    let named = |name: &str, aggregates: &[Aggregate]| BucketQuery {
        attributes: Some(vec![name.to_owned()]),
        ..hourly(aggregates)
    };
    assert_eq!(
        code(named("hot_text", &[Aggregate::Count, Aggregate::Max])).await,
        Some("invalid_aggregate")
    );
    assert_eq!(code(named("hot_text", &[Aggregate::First])).await, None);
    assert_eq!(
        code(named("nothing", &[Aggregate::Count])).await,
        Some("unknown_attribute")
    );
    assert_eq!(
        code(BucketQuery {
            cursor: Some("c1.x".to_owned()),
            ..query
        })
        .await,
        Some("invalid_cursor")
    );
    let read = world
        .reader
        .history_buckets(
            &tenant.scope,
            "thing",
            "never",
            &named("hot_int", &[Aggregate::Avg]),
            &options(),
        )
        .await?;
    assert_eq!(read.value, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_cut_by_the_range_and_weeks_begin_on_monday() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    for day in 1..=14 {
        let time = at(&format!("2013-01-{day:02}T12:00:00Z"));
        tenant.write(
            ("thing", "one"),
            time,
            Op::Patch,
            &[("hot_int", Some(Value::Int(day)))],
        );
    }
    world.save(&tenant).await?;
    let week: Duration = "1w".parse()?;
    let query = BucketQuery {
        bucket: week,
        from: Some(at("2013-01-02T00:00:00Z")),
        to: Some(at("2013-01-14T12:00:00Z")),
        ..hourly(&[Aggregate::Sum, Aggregate::First, Aggregate::Last])
    };
    let (items, _) = paged(&world, &tenant, &query).await?;
    let seen: Vec<(String, String)> = items
        .iter()
        .map(|item| {
            let values = &item.attributes[0].1;
            (
                item.from.to_string(),
                serde_json::to_string(&values.iter().map(|(_, value)| value).collect::<Vec<_>>())
                    .unwrap(),
            )
        })
        .collect();
    let expected = [
        ("2012-12-31T00:00:00Z", "[20,2,6]"),
        ("2013-01-07T00:00:00Z", "[70,7,13]"),
    ];
    assert_eq!(
        seen,
        expected.map(|(start, values)| (start.to_owned(), values.to_owned()))
    );
    Ok(())
}
