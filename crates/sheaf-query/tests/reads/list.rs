//! Lists: filter, order, pages, counts.

use std::cmp::Ordering;

use anyhow::Result;
use sheaf_model::{AttributeType, Decimal, Document, Duration, Op, Value};
use sheaf_query::filter::parse_text;
use sheaf_query::{Count, CountKind, CountMode, EntityAnswer, ListQuery, ReadOptions, SortKey};

use crate::world::{Dice, Tenant, World, names, now, options, second};

pub(crate) fn all_of(entity_type: Option<&str>) -> ListQuery {
    ListQuery {
        entity_type: entity_type.map(str::to_owned),
        filter: None,
        sort: Vec::new(),
        select: None,
        limit: 1_000,
        cursor: None,
        count: CountMode::None,
        facets: Vec::new(),
    }
}

fn key(name: &str, descending: bool) -> SortKey {
    SortKey {
        name: name.to_owned(),
        descending,
    }
}

/// Entities of two types whose ids meet, some deleted, some without any event.
pub(crate) fn random_entities(tenant: &mut Tenant, count: usize, dice: &mut Dice) {
    for number in 0..count {
        let entity_type = ["plane", "airport"][dice.below(2)];
        let id = format!("{}{}", ["N", "n", "é", "Z"][dice.below(4)], number / 2);
        let name = (entity_type, id.as_str());
        for kind in AttributeType::ALL {
            for name_of in names(kind) {
                if dice.below(3) > 0 {
                    let value = Some(dice.value(kind));
                    let time = second(i64::try_from(dice.below(5)).unwrap());
                    tenant.write(name, time, Op::Patch, &[(&name_of, value)]);
                }
            }
        }
        match dice.below(12) {
            0 => tenant.write(name, second(9), Op::Delete, &[]),
            1 => tenant.write(name, second(9), Op::Replace, &[]),
            _ => {}
        }
    }
}

/// Entities that are there, in an order that is computed one comparison at a time.
fn meant(tenant: &Tenant, query: &ListQuery) -> Vec<(String, String)> {
    let mut found: Vec<(&String, &String, &Document)> = tenant
        .entities
        .iter()
        .filter(|(_, entity)| entity.document.exists())
        .map(|((entity_type, id), entity)| (entity_type, id, &entity.document))
        .filter(|(entity_type, _, _)| {
            query
                .entity_type
                .as_ref()
                .is_none_or(|wanted| wanted == *entity_type)
        })
        .collect();
    found.sort_by(|one, two| {
        let mut order = Ordering::Equal;
        for key in &query.sort {
            let by_key = match key.name.as_str() {
                "entity_type" => directed(one.0.cmp(two.0), key.descending),
                "external_id" => directed(one.1.cmp(two.1), key.descending),
                "observed_at" | "updated_at" => {
                    directed(one.2.newest.cmp(&two.2.newest), key.descending)
                }
                name => {
                    let value = |document: &Document| {
                        let values = tenant.values(document);
                        values
                            .into_iter()
                            .find(|(known, _)| known == name)
                            .map(|(_, value)| value)
                    };
                    match (value(one.2), value(two.2)) {
                        (None, None) => Ordering::Equal,
                        (None, Some(_)) => Ordering::Greater,
                        (Some(_), None) => Ordering::Less,
                        (Some(one), Some(two)) => directed(compare(&one, &two), key.descending),
                    }
                }
            };
            order = order.then(by_key);
        }
        order.then(one.1.cmp(two.1)).then(one.0.cmp(two.0))
    });
    found
        .into_iter()
        .map(|(entity_type, id, _)| (entity_type.clone(), id.clone()))
        .collect()
}

fn directed(order: Ordering, descending: bool) -> Ordering {
    if descending { order.reverse() } else { order }
}

fn compare(one: &Value, two: &Value) -> Ordering {
    match (one, two) {
        (Value::Int(one), Value::Int(two)) => one.cmp(two),
        (Value::Float(one), Value::Float(two)) => one.total_cmp(two),
        (Value::Decimal(one), Value::Decimal(two)) => Decimal::cmp(one, two),
        (Value::Text(one), Value::Text(two)) => one.cmp(two),
        (Value::Bool(one), Value::Bool(two)) => one.cmp(two),
        (Value::Time(one), Value::Time(two)) => one.cmp(two),
        (one, two) => panic!("{one:?} and {two:?} have no order"),
    }
}

fn named(items: &[EntityAnswer]) -> Vec<(String, String)> {
    items
        .iter()
        .map(|item| (item.entity_type.clone(), item.external_id.clone()))
        .collect()
}

async fn paged(
    world: &World,
    tenant: &Tenant,
    query: &ListQuery,
) -> Result<(Vec<EntityAnswer>, usize)> {
    let mut query = query.clone();
    let (mut items, mut pages) = (Vec::new(), 0);
    loop {
        let read = world.reader.list(&tenant.scope, &query, &options()).await?;
        let page = read.value.page;
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
async fn every_order_is_total_and_its_pages_are_the_whole_list() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    random_entities(&mut tenant, 150, &mut Dice(17));
    world.save(&tenant).await?;
    let mut orders: Vec<Vec<SortKey>> = vec![Vec::new()];
    for kind in AttributeType::ALL {
        if kind == AttributeType::Json {
            continue;
        }
        let [hot, cold] = names(kind);
        for descending in [false, true] {
            orders.push(vec![key(&hot, descending)]);
            orders.push(vec![key(&cold, descending), key(&hot, !descending)]);
        }
    }
    for name in ["entity_type", "external_id", "observed_at", "updated_at"] {
        orders.push(vec![key(name, true)]);
        orders.push(vec![
            key("hot_bool", false),
            key(name, true),
            key("hot_bool", true),
        ]);
    }
    for sort in orders {
        for entity_type in [None, Some("plane")] {
            let query = ListQuery {
                sort: sort.clone(),
                ..all_of(entity_type)
            };
            let expected = meant(&tenant, &query);
            assert!(expected.len() > 40);
            let (whole, _) = paged(&world, &tenant, &query).await?;
            assert_eq!(named(&whole), expected, "{query:?}");
            let (items, pages) = paged(
                &world,
                &tenant,
                &ListQuery {
                    limit: 7,
                    ..query.clone()
                },
            )
            .await?;
            assert!(pages > 5);
            assert_eq!(items, whole, "{query:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn value_indexes_change_no_list() -> Result<()> {
    let world = World::new().await?;
    let (mut tenant, mut other) = (world.tenant("acme").await?, world.tenant("other").await?);
    random_entities(&mut tenant, 150, &mut Dice(29));
    random_entities(&mut other, 150, &mut Dice(31));
    world.save(&tenant).await?;
    world.save(&other).await?;
    world.index(&other).await?;
    let filters = [
        None,
        Some("hot_int >= 0"),
        Some("hot_int BETWEEN -5.5 AND 9007199254740993"),
        Some("hot_float < 72.25 AND hot_float > -1.5"),
        Some("hot_decimal <= 12.5"),
        Some("hot_text > 'a'"),
        Some("hot_text LIKE 'b%'"),
        Some("hot_time < TIMESTAMP('2013-01-01T00:00:10Z')"),
        Some("NOT hot_int > 0"),
        Some("hot_int > 0 OR hot_text < 'b'"),
        Some("hot_float > 0.1 OR hot_bool = TRUE OR cold_int = 7"),
        Some("hot_int >= 0 AND (hot_decimal > 0 OR hot_text LIKE 'b%')"),
        Some("hot_int > 0 AND entity_type = 'plane' OR hot_time IS NULL"),
        Some("hot_bool = TRUE AND (hot_int > 0 OR NOT hot_float > 0)"),
        Some("hot_int > 0 AND cold_int = 7"),
    ];
    let mut queries = Vec::new();
    for filter in filters {
        for kind in AttributeType::ALL {
            if kind == AttributeType::Json {
                continue;
            }
            let [hot, cold] = names(kind);
            for descending in [false, true] {
                for sort in [
                    vec![key(&hot, descending)],
                    vec![key(&hot, descending), key(&cold, !descending)],
                ] {
                    queries.push(ListQuery {
                        filter: filter.map(parse_text).transpose()?,
                        sort,
                        count: CountMode::Exact,
                        ..all_of([None, Some("plane")][queries.len() % 2])
                    });
                }
            }
        }
    }
    let mut before = Vec::new();
    for query in &queries {
        let answer = world.reader.list(&tenant.scope, query, &options()).await?;
        before.push((answer.value.page.items, answer.value.count));
    }
    world.index(&tenant).await?;
    world.superuser.batch_execute("ANALYZE").await?;
    let mut telling = 0;
    for (query, (items, count)) in queries.iter().zip(before) {
        let answer = world.reader.list(&tenant.scope, query, &options()).await?;
        assert_eq!(answer.value.page.items, items, "{query:?}");
        assert_eq!(answer.value.count, count, "{query:?}");
        let small = ListQuery {
            limit: 7,
            count: CountMode::None,
            ..query.clone()
        };
        let (paged, _) = paged(&world, &tenant, &small).await?;
        assert_eq!(paged, items, "{query:?}");
        telling += usize::from(items.len() > 20);
    }
    assert!(telling > 100, "{telling}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_finds_counts_and_pages_what_passes_it() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    random_entities(&mut tenant, 150, &mut Dice(23));
    world.save(&tenant).await?;
    let passes = |name: &str, document: &Document, test: &dyn Fn(&Value) -> bool| {
        tenant
            .values(document)
            .iter()
            .any(|(known, value)| known == name && test(value))
    };
    let is_seven = |value: &Value| *value == Value::Int(7);
    for (filter, name) in [("hot_int = 7", "hot_int"), ("cold_int = 7", "cold_int")] {
        let mut query = ListQuery {
            filter: Some(parse_text(filter)?),
            sort: vec![key("cold_text", true)],
            ..all_of(None)
        };
        let mut expected = meant(&tenant, &query);
        expected.retain(|(entity_type, id)| {
            passes(name, &tenant.entity(entity_type, id).document, &is_seven)
        });
        assert!(expected.len() > 5);
        let (items, pages) = paged(
            &world,
            &tenant,
            &ListQuery {
                limit: 3,
                ..query.clone()
            },
        )
        .await?;
        assert_eq!(named(&items), expected, "{filter}");
        assert!(pages > 1);
        for item in &items {
            let document = &tenant.entity(&item.entity_type, &item.external_id).document;
            assert_eq!(item.attributes, tenant.values(document));
            assert_eq!(
                (item.version, Some(item.observed_at)),
                (Some(document.version), document.newest)
            );
        }
        query.limit = 1;
        query.select = Some(vec![name.to_owned(), "entity_type".to_owned()]);
        for (mode, kind) in [
            (CountMode::Exact, CountKind::Exact),
            (CountMode::Estimate, CountKind::Estimate),
        ] {
            query.count = mode;
            let answer = world
                .reader
                .list(&tenant.scope, &query, &options())
                .await?
                .value;
            assert_eq!(
                answer.count,
                Some(Count {
                    kind,
                    value: i64::try_from(expected.len())?
                })
            );
            assert_eq!(
                answer.page.items[0].attributes,
                [(name.to_owned(), Value::Int(7))]
            );
        }
    }
    Ok(())
}

/// Few matches are found and then ordered; where many are, the first in the order of ids fill a page. No page may show which.
#[tokio::test(flavor = "multi_thread")]
async fn pages_in_the_order_of_ids_are_the_same_wherever_the_matches_lie() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    for number in 0..700_i64 {
        let id = format!("N{number}");
        let value = match number {
            17 | 18 | 650 => 5,
            500.. => 3,
            _ => number % 2,
        };
        for entity_type in ["plane", "airport"]
            .iter()
            .take(if number < 50 { 2 } else { 1 })
        {
            let cells = [("hot_int", Some(Value::Int(value)))];
            tenant.write((entity_type, &id), second(1), Op::Patch, &cells);
        }
        if number % 10 == 0 {
            tenant.write(("plane", &id), second(2), Op::Delete, &[]);
        }
    }
    world.save(&tenant).await?;
    for (filter, value, after, count) in [
        ("hot_int = 1", 1, "", 249),
        ("hot_int = 3", 3, "", 180),
        ("hot_int = 5", 5, "", 2),
        ("hot_int = 4", 4, "", 0),
        ("hot_int = 1 AND external_id > 'N3'", 1, "N3", 138),
    ] {
        for limit in [1, 30, 1_000] {
            let query = ListQuery {
                filter: Some(parse_text(filter)?),
                limit,
                ..all_of(Some("plane"))
            };
            let mut expected = meant(&tenant, &query);
            expected.retain(|(entity_type, id)| {
                let values = tenant.values(&tenant.entity(entity_type, id).document);
                values.contains(&("hot_int".to_owned(), Value::Int(value))) && id.as_str() > after
            });
            assert_eq!(expected.len(), count, "{filter}");
            let (items, _) = paged(&world, &tenant, &query).await?;
            assert_eq!(named(&items), expected, "{filter} by {limit}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_listed_is_refused_by_name() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    let mut other = world.tenant("other").await?;
    for number in 0..5 {
        for tenant in [&mut tenant, &mut other] {
            tenant.write(("plane", &number.to_string()), second(0), Op::Patch, &[]);
        }
    }
    let long = Some(Value::Text("x".repeat(10_000)));
    for id in ["6", "7"] {
        tenant.write(
            ("plane", id),
            second(0),
            Op::Patch,
            &[("cold_text", long.clone())],
        );
    }
    world.save(&tenant).await?;
    world.save(&other).await?;
    let code = async |query: &ListQuery| {
        world
            .reader
            .list(&tenant.scope, query, &options())
            .await
            .err()
            .map(|error| error.code())
    };
    let sorted = |name: &str| ListQuery {
        sort: vec![key(name, false)],
        ..all_of(None)
    };
    assert_eq!(code(&sorted("nothing")).await, Some("unknown_attribute"));
    assert_eq!(code(&sorted("hot_json")).await, Some("invalid_parameter"));
    assert_eq!(
        code(&ListQuery {
            sort: vec![key("hot_int", false); 9],
            ..all_of(None)
        })
        .await,
        Some("invalid_parameter")
    );
    assert_eq!(
        code(&ListQuery {
            filter: Some(parse_text("nothing = 1")?),
            ..all_of(None)
        })
        .await,
        Some("unknown_attribute")
    );
    assert_eq!(
        code(&ListQuery {
            filter: Some(parse_text("hot_int = 'a'")?),
            ..all_of(None)
        })
        .await,
        Some("invalid_filter")
    );
    assert_eq!(code(&all_of(Some(""))).await, Some("invalid_parameter"));
    assert_eq!(
        code(&ListQuery {
            limit: 0,
            ..all_of(None)
        })
        .await,
        Some("invalid_parameter")
    );
    // The value to continue from is too long for a cursor.
    assert_eq!(
        code(&ListQuery {
            limit: 1,
            ..sorted("cold_text")
        })
        .await,
        Some("query_limit")
    );

    let first = ListQuery {
        limit: 2,
        filter: Some(parse_text("external_id < '5'")?),
        ..all_of(Some("plane"))
    };
    let read = world.reader.list(&tenant.scope, &first, &options()).await?;
    let cursor = read.value.page.next_cursor.expect("three are left");
    let next = ListQuery {
        cursor: Some(cursor.clone()),
        ..first
    };
    assert_eq!(code(&next).await, None);
    let hour: Duration = "1h".parse()?;
    let late = ReadOptions::new(None, now().saturating_add_micros(hour.as_micros() + 1));
    let refused = Some("invalid_cursor");
    let expired = world.reader.list(&tenant.scope, &next, &late).await;
    assert_eq!(expired.err().map(|error| error.code()), refused);
    let foreign = world.reader.list(&other.scope, &next, &options()).await;
    assert_eq!(foreign.err().map(|error| error.code()), refused);
    for changed in [
        ListQuery {
            entity_type: None,
            ..next.clone()
        },
        ListQuery {
            filter: None,
            ..next.clone()
        },
        ListQuery {
            filter: Some(parse_text("external_id < '6'")?),
            ..next.clone()
        },
        ListQuery {
            sort: vec![key("external_id", false)],
            ..next.clone()
        },
        ListQuery {
            select: Some(vec![]),
            ..next.clone()
        },
        ListQuery {
            cursor: Some(format!("{cursor}A")),
            ..next.clone()
        },
    ] {
        assert_eq!(code(&changed).await, refused, "{changed:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_under_a_catalogue_from_before_a_move_still_finds_everything() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    for number in 0..20 {
        let value = Some(Value::Int(number % 4));
        tenant.write(
            ("plane", &number.to_string()),
            second(0),
            Op::Patch,
            &[("cold_int", value)],
        );
    }
    world.save(&tenant).await?;
    let query = ListQuery {
        filter: Some(parse_text("cold_int = 3")?),
        sort: vec![key("cold_int", true)],
        ..all_of(None)
    };
    let found = async || {
        anyhow::Ok(
            world
                .reader
                .list(&tenant.scope, &query, &options())
                .await?
                .value
                .page
                .items
                .len(),
        )
    };
    assert_eq!(found().await?, 5);
    // Another server moves the attribute to the indexed part and back while the reader remembers where it was.
    let (tenant_id, attribute) = (tenant.scope.tenant().0, tenant.id("cold_int").0);
    let moves = [
        (
            "hot_attrs = hot_attrs || cold_attrs, cold_attrs = '{}'",
            "hot",
        ),
        ("cold_attrs = hot_attrs, hot_attrs = '{}'", "cold"),
    ];
    for _ in 0..3 {
        for (moved, temperature) in moves {
            world
                .superuser
                .batch_execute(&format!(
                    "BEGIN;
                    UPDATE sheaf.entity_jsonb SET {moved} WHERE tenant_id = {tenant_id};
                    UPDATE sheaf.attributes SET temperature = '{temperature}' WHERE attribute_id = {attribute};
                    UPDATE sheaf.tenants SET catalogue_version = catalogue_version + 1 WHERE tenant_id = {tenant_id};
                    COMMIT"
                ))
                .await?;
            assert_eq!(
                found().await?,
                5,
                "after the move to the {temperature} part"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_takes_too_long_is_ended_and_says_so() -> Result<()> {
    let world = World::new().await?;
    let tenant = world.tenant("acme").await?;
    world
        .superuser
        .batch_execute("BEGIN; LOCK TABLE sheaf.entity_jsonb IN ACCESS EXCLUSIVE MODE")
        .await?;
    let error = world
        .reader
        .list(&tenant.scope, &all_of(None), &options())
        .await
        .expect_err("the table is locked");
    assert_eq!(error.code(), "query_limit");
    Ok(())
}
