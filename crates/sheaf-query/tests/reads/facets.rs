//! Facets, against the same counted one entity at a time.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use anyhow::Result;
use sheaf_model::{AttributeType, Decimal, Op, Value};
use sheaf_query::filter::parse_text;
use sheaf_query::{
    AggregateValue, Facet, FacetKind, FacetQuery, Interval, ListQuery, ReadError, Spread,
};

use crate::list::{all_of, random_entities};
use crate::world::{Dice, Tenant, World, names, options, second};

fn top(name: &str, values: u32) -> FacetQuery {
    FacetQuery {
        name: name.to_owned(),
        kind: FacetKind::Top(Some(values)),
    }
}

fn histogram(name: &str, width: &str) -> FacetQuery {
    FacetQuery {
        name: name.to_owned(),
        kind: FacetKind::Histogram(width.to_owned()),
    }
}

/// The text by which values are told apart in messages and, for text and times, ordered.
fn text(value: &Value) -> String {
    let mut text = String::new();
    value.write_stored(&mut text);
    match value {
        Value::Text(text) => text.clone(),
        _ => text,
    }
}

fn number(value: &Value) -> Option<Decimal> {
    match value {
        Value::Int(_) | Value::Float(_) | Value::Decimal(_) => text(value).parse().ok(),
        Value::Text(_) | Value::Bool(_) | Value::Time(_) | Value::Json(_) => None,
    }
}

/// Equal as the type says: `12.50` and `12.5` are one decimal.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Json(_), Value::Json(_)) => text(one) == text(other),
        (one, other) => number(one) == number(other) && (number(one).is_some() || one == other),
    }
}

fn meant_top(values: &[Option<Value>], values_max: usize) -> (Vec<(Value, i64)>, i64, i64) {
    let (mut groups, mut missing): (Vec<(Value, i64)>, i64) = (Vec::new(), 0);
    for value in values {
        let Some(value) = value else {
            missing += 1;
            continue;
        };
        match groups.iter_mut().find(|(known, _)| same(known, value)) {
            Some((known, count)) => {
                *count += 1;
                // Shown with the greatest scale.
                if text(value).len() > text(known).len() {
                    *known = value.clone();
                }
            }
            None => groups.push((value.clone(), 1)),
        }
    }
    groups.sort_by(|(one, ones), (other, others)| {
        let by_value = match (number(one), number(other)) {
            (Some(one), Some(other)) => one.cmp(&other),
            _ => text(one).cmp(&text(other)),
        };
        others.cmp(ones).then(by_value)
    });
    let all: i64 = groups.iter().map(|(_, count)| count).sum();
    groups.truncate(values_max);
    let shown: i64 = groups.iter().map(|(_, count)| count).sum();
    (groups, all - shown, missing)
}

/// How many values of each entity that matches: the values of one attribute, absent where it has none.
async fn values_of(
    world: &World,
    tenant: &Tenant,
    query: &ListQuery,
    name: &str,
) -> Result<Vec<Option<Value>>> {
    let read = world.reader.list(&tenant.scope, query, &options()).await?;
    let values = read.value.page.items.into_iter().map(|item| {
        let mut attributes = item.attributes.into_iter();
        attributes
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    });
    Ok(values.collect())
}

async fn facets(
    world: &World,
    tenant: &Tenant,
    query: &ListQuery,
    facets: Vec<FacetQuery>,
) -> Result<Vec<Facet>> {
    let query = ListQuery {
        limit: 1,
        facets,
        ..query.clone()
    };
    let read = world.reader.list(&tenant.scope, &query, &options()).await?;
    Ok(read.value.facets)
}

fn filters() -> Result<Vec<ListQuery>> {
    let mut queries = vec![all_of(None), all_of(Some("plane"))];
    for filter in [
        "hot_int >= 0",
        "cold_text IN ('a', 'b', 'B') OR hot_bool = true",
        "hot_int = 3",
        "external_id LIKE 'N%' AND hot_int >= 0",
    ] {
        queries.push(ListQuery {
            filter: Some(parse_text(filter)?),
            ..all_of(None)
        });
    }
    Ok(queries)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_most_frequent_values_are_those_counted_one_by_one() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    random_entities(&mut tenant, 300, &mut Dice(3));
    world.save(&tenant).await?;
    let mut other = world.tenant("other").await?;
    random_entities(&mut other, 100, &mut Dice(4));
    world.save(&other).await?;
    let mut compared = 0;
    for query in filters()? {
        for kind in AttributeType::ALL {
            for name in names(kind) {
                let values = values_of(&world, &tenant, &query, &name).await?;
                for values_max in [1, 3, 100] {
                    let asked = vec![top(&name, values_max)];
                    let found = facets(&world, &tenant, &query, asked).await?;
                    let (groups, other, missing) = meant_top(&values, usize::try_from(values_max)?);
                    let spread = Spread::Top {
                        values: groups,
                        other,
                    };
                    assert_eq!(found.len(), 1);
                    assert_eq!(found[0].name, name);
                    // The Debug form of a decimal shows its scale, which its equality passes over.
                    assert_eq!(
                        format!("{:?}", found[0].spread),
                        format!("{spread:?}"),
                        "{query:?}"
                    );
                    assert_eq!(
                        found[0].missing,
                        if values.is_empty() { 0 } else { missing }
                    );
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 100, "{compared} facets were compared");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_facets_of_one_request_are_the_same_as_one_by_one() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    random_entities(&mut tenant, 200, &mut Dice(8));
    world.save(&tenant).await?;
    let asked = vec![
        top("hot_text", 2),
        histogram("cold_int", "7.0"),
        top("entity_type", 10),
        histogram("observed_at", "2s"),
        top("cold_decimal", 3),
        histogram("hot_time", "1m"),
        top("hot_json", 5),
        histogram("hot_decimal", "0.05"),
        top("cold_bool", 1),
        histogram("hot_float", "0.5"),
    ];
    for query in filters()? {
        let together = facets(&world, &tenant, &query, asked.clone()).await?;
        let mut apart = Vec::new();
        for facet in &asked {
            apart.extend(facets(&world, &tenant, &query, vec![facet.clone()]).await?);
        }
        assert_eq!(together.len(), asked.len());
        assert_eq!(format!("{together:?}"), format!("{apart:?}"), "{query:?}");
    }
    Ok(())
}

/// In thousandths: the decimals of these tests have at most three digits after the point.
fn thousandths(value: &Value) -> i128 {
    let digits = text(value);
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    let number: i128 = format!("{whole}{fraction:0<3}").parse().unwrap();
    number
}

fn ordered(buckets: &[(i128, i64)]) -> bool {
    buckets
        .windows(2)
        .all(|pair| pair[0].0.cmp(&pair[1].0) == Ordering::Less)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_intervals_of_a_histogram_are_exact_for_every_number() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    random_entities(&mut tenant, 300, &mut Dice(5));
    world.save(&tenant).await?;
    let mut compared = 0;
    for query in filters()? {
        for (name, width, thousandths_wide) in [
            ("hot_int", "7", 7_000),
            ("cold_int", "1000000000000", 1_000_000_000_000_000),
            ("hot_decimal", "0.05", 50),
            ("cold_decimal", "3", 3_000),
        ] {
            let values = values_of(&world, &tenant, &query, name).await?;
            let mut meant: BTreeMap<i128, i64> = BTreeMap::new();
            for value in values.iter().flatten() {
                let from = thousandths(value).div_euclid(thousandths_wide) * thousandths_wide;
                *meant.entry(from).or_default() += 1;
            }
            let found = facets(&world, &tenant, &query, vec![histogram(name, width)]).await?;
            let Spread::Histogram { interval, buckets } = &found[0].spread else {
                panic!("{found:?}");
            };
            assert!(matches!(interval, Interval::Width(shown) if text(shown) == width));
            let shown = |end: &AggregateValue| match end {
                AggregateValue::Value(value) => thousandths(value),
                AggregateValue::Digits(digits) => digits.parse::<i128>().unwrap() * 1_000,
                AggregateValue::Null => panic!("an interval without an end"),
            };
            let got: Vec<(i128, i64)> = buckets
                .iter()
                .map(|bucket| (shown(&bucket.from), bucket.count))
                .collect();
            assert!(ordered(&got), "{got:?}");
            assert_eq!(
                got,
                meant.into_iter().collect::<Vec<_>>(),
                "{name} of {query:?}"
            );
            for bucket in buckets {
                assert_eq!(shown(&bucket.to) - shown(&bucket.from), thousandths_wide);
            }
            let missing = values.iter().filter(|value| value.is_none()).count();
            assert_eq!(found[0].missing, i64::try_from(missing)?);
            compared += buckets.len();
        }
    }
    assert!(compared > 50, "{compared} intervals were compared");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_not_be_bounded_is_refused_with_the_way_out() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    for number in 0..1_002 {
        let id = format!("n{number}");
        let value = Some(Value::Int(number));
        tenant.write(("thing", &id), second(0), Op::Patch, &[("cold_int", value)]);
    }
    for number in 0..11 {
        let id = format!("long{number}");
        let value = Some(Value::Text(format!("{number}{}", "x".repeat(100_000))));
        tenant.write(
            ("thing", &id),
            second(0),
            Op::Patch,
            &[("cold_text", value)],
        );
    }
    world.save(&tenant).await?;
    let query = all_of(Some("thing"));
    for (asked, code) in [
        (vec![histogram("cold_int", "1")], "query_limit"),
        (vec![top("cold_text", 100)], "query_limit"),
        (
            vec![top("hot_int", 1), top("hot_int", 2)],
            "invalid_parameter",
        ),
        (vec![top("seatz", 1)], "unknown_attribute"),
        (vec![histogram("cold_text", "1")], "invalid_parameter"),
        (vec![top("hot_int", 101)], "invalid_parameter"),
    ] {
        let refused = facets(&world, &tenant, &query, asked.clone()).await;
        let error = refused.expect_err("refused").downcast::<ReadError>()?;
        assert_eq!(error.code(), code, "{asked:?}: {error}");
    }
    let served = facets(&world, &tenant, &query, vec![histogram("cold_int", "10")]).await?;
    assert!(matches!(&served[0].spread, Spread::Histogram { buckets, .. } if buckets.len() == 101));
    let served = facets(&world, &tenant, &query, vec![top("cold_text", 5)]).await?;
    assert!(matches!(&served[0].spread, Spread::Top { values, other: 6 } if values.len() == 5));
    Ok(())
}
