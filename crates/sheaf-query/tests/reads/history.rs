//! History, instant by instant and row by row.

use std::collections::BTreeMap;

use anyhow::Result;
use sheaf_model::{AttributeType, Cell, Duration, Op, StoredRow, Timestamp, Value, fold_instant};
use sheaf_query::{HistoryItem, HistoryQuery, ReadOptions};

use crate::world::{Dice, Tenant, World, names, now, options, second};

pub(crate) fn everything() -> HistoryQuery {
    HistoryQuery {
        attributes: None,
        from: None,
        to: None,
        descending: false,
        limit: 1_000,
        cursor: None,
        corrections: false,
    }
}

/// A history with replaces, deletes, removals, and instants that were reported again and again.
pub(crate) fn random_history(tenant: &mut Tenant, id: &str, events: usize, dice: &mut Dice) {
    for _ in 0..events {
        let time = second(i64::try_from(dice.below(events)).unwrap() * 60);
        let op = match dice.below(40) {
            0 => Op::Delete,
            1 => Op::Replace,
            _ => Op::Patch,
        };
        let mut cells = BTreeMap::new();
        while op != Op::Delete && dice.below(3) > 0 {
            let kind = AttributeType::ALL[dice.below(7)];
            let name = names(kind)[dice.below(2)].clone();
            cells.insert(name, (dice.below(5) > 0).then(|| dice.value(kind)));
        }
        let cells: Vec<(&str, Option<Value>)> = cells
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        tenant.write(("thing", id), time, op, &cells);
    }
}

/// What the rows say, in the plainest way.
fn meant(tenant: &Tenant, id: &str, query: &HistoryQuery) -> Vec<HistoryItem> {
    let rows: Vec<&StoredRow> = tenant
        .entity("thing", id)
        .rows
        .values()
        .filter(|row| query.from.is_none_or(|from| row.observed_at >= from))
        .filter(|row| query.to.is_none_or(|to| row.observed_at < to))
        .collect();
    let mut groups: BTreeMap<(Timestamp, i16), Vec<&StoredRow>> = BTreeMap::new();
    for row in rows {
        let seq = if query.corrections { row.seq } else { 0 };
        groups.entry((row.observed_at, seq)).or_default().push(row);
    }
    let mut items = Vec::new();
    for ((observed_at, _), rows) in groups {
        let instant = fold_instant(rows.iter().copied());
        let mut attributes: Vec<(String, Option<Value>)> = instant
            .cells
            .iter()
            .map(|(id, cell)| match cell {
                Cell::Value(value) => (tenant.name(*id), Some(value.clone())),
                Cell::Removed => (tenant.name(*id), None),
            })
            .filter(|(name, _)| {
                query
                    .attributes
                    .as_ref()
                    .is_none_or(|list| list.contains(name))
            })
            .collect();
        attributes.sort_by(|one, two| one.0.cmp(&two.0));
        if query.attributes.is_some() && attributes.is_empty() && !instant.replaced {
            continue;
        }
        items.push(HistoryItem {
            observed_at,
            ingested_at: observed_at,
            replaced: instant.replaced && !instant.deleted,
            deleted: instant.deleted,
            attributes,
            row: None,
        });
    }
    if query.descending {
        items.reverse();
    }
    items
}

/// The items of every page, one page after another.
async fn paged(
    world: &World,
    tenant: &Tenant,
    id: &str,
    query: &HistoryQuery,
) -> Result<(Vec<HistoryItem>, usize)> {
    let mut query = query.clone();
    let (mut items, mut pages) = (Vec::new(), 0);
    loop {
        let read = world
            .reader
            .history(&tenant.scope, "thing", id, &query, &options())
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
async fn pages_of_any_size_are_the_whole_history_and_nothing_twice() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    random_history(&mut tenant, "one", 400, &mut Dice(3));
    world.save(&tenant).await?;
    let count = tenant.entity("thing", "one").rows.len();
    assert!(count > 300, "{count} rows");
    let some = Some(vec!["hot_int".to_owned(), "cold_json".to_owned()]);
    let ranges = [(None, None), (Some(second(3_000)), Some(second(12_060)))];
    let mut cut = 0;
    for attributes in [None, some] {
        for (from, to) in ranges {
            for (descending, corrections) in
                [(false, false), (true, false), (false, true), (true, true)]
            {
                let mut query = HistoryQuery {
                    attributes: attributes.clone(),
                    from,
                    to,
                    descending,
                    corrections,
                    ..everything()
                };
                let expected = meant(&tenant, "one", &query);
                assert!(expected.len() > 20);
                for limit in [1, 7, 100, 1_000] {
                    query.limit = limit;
                    let (mut items, pages) = paged(&world, &tenant, "one", &query).await?;
                    for item in &mut items {
                        assert_eq!(item.row.is_some(), corrections);
                        item.row = None;
                    }
                    assert_eq!(items, expected, "{query:?}");
                    cut += usize::from(pages > 1);
                }
            }
        }
    }
    assert!(cut > 16, "{cut} reads took several pages");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_of_a_thousand_rows_is_one_item() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    for step in 0..1_000 {
        let value = Some(Value::Int(step));
        tenant.write(
            ("thing", "one"),
            second(5),
            Op::Patch,
            &[("hot_int", value)],
        );
    }
    for time in [0, 9] {
        tenant.write(
            ("thing", "one"),
            second(time),
            Op::Patch,
            &[("hot_int", Some(Value::Int(0)))],
        );
    }
    world.save(&tenant).await?;
    assert_eq!(tenant.entity("thing", "one").rows.len(), 1_002);
    for descending in [false, true] {
        let query = HistoryQuery {
            descending,
            limit: 1,
            ..everything()
        };
        let (items, pages) = paged(&world, &tenant, "one", &query).await?;
        assert_eq!((items.len(), pages), (3, 3));
        assert_eq!(
            items[1].attributes,
            [("hot_int".to_owned(), Some(Value::Int(999)))]
        );
        let rows = HistoryQuery {
            corrections: true,
            limit: 333,
            ..query
        };
        let (items, _) = paged(&world, &tenant, "one", &rows).await?;
        let mut seqs: Vec<i16> = items[1..1_001]
            .iter()
            .filter_map(|item| item.row.map(|row| row.seq))
            .collect();
        if descending {
            seqs.reverse();
        }
        assert_eq!(seqs, (0..1_000).collect::<Vec<i16>>());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_entity_has_its_history_and_one_that_never_was_has_none() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    tenant.write(
        ("thing", "gone"),
        second(0),
        Op::Patch,
        &[("hot_int", Some(Value::Int(1)))],
    );
    tenant.write(("thing", "gone"), second(1), Op::Delete, &[]);
    world.save(&tenant).await?;
    let reader = &world.reader;
    let read = reader
        .history(&tenant.scope, "thing", "gone", &everything(), &options())
        .await?;
    let items = read.value.expect("it has a history").page.items;
    assert_eq!(
        (items.len(), items[1].deleted, items[1].replaced),
        (2, true, false)
    );
    let read = reader
        .history(&tenant.scope, "thing", "never", &everything(), &options())
        .await?;
    assert_eq!(read.value, None);
    // Events that were observed later than the range hide nothing.
    let before = HistoryQuery {
        to: Some(second(1)),
        ..everything()
    };
    let read = reader
        .history(&tenant.scope, "thing", "gone", &before, &options())
        .await?;
    assert_eq!(read.value.map(|answer| answer.page.items.len()), Some(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_is_judged_by_its_last_row_whatever_attributes_are_asked_for() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    let one = Some(Value::Int(1));
    tenant.write(
        ("thing", "one"),
        second(0),
        Op::Patch,
        &[("hot_int", one.clone())],
    );
    tenant.write(("thing", "one"), second(1), Op::Delete, &[]);
    tenant.write(("thing", "one"), second(1), Op::Patch, &[("cold_int", one)]);
    world.save(&tenant).await?;
    for descending in [false, true] {
        let attributes = Some(vec!["hot_int".to_owned()]);
        let query = HistoryQuery {
            attributes,
            descending,
            ..everything()
        };
        let (items, _) = paged(&world, &tenant, "one", &query).await?;
        let back = items
            .iter()
            .find(|item| item.observed_at == second(1))
            .expect("it was deleted and came back");
        assert_eq!(
            (back.deleted, back.replaced, back.attributes.len()),
            (false, true, 0)
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_good_for_its_tenant_and_query_within_the_hour_alone() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    let mut other = world.tenant("other").await?;
    for time in 0..5 {
        tenant.write(("thing", "one"), second(time), Op::Patch, &[]);
        tenant.write(("thing", "two"), second(time), Op::Patch, &[]);
        other.write(("thing", "one"), second(time), Op::Patch, &[]);
    }
    world.save(&tenant).await?;
    world.save(&other).await?;
    let first = HistoryQuery {
        limit: 2,
        ..everything()
    };
    let read = world
        .reader
        .history(&tenant.scope, "thing", "one", &first, &options())
        .await?;
    let cursor = read
        .value
        .expect("it is there")
        .page
        .next_cursor
        .expect("three are left");
    let next = HistoryQuery {
        cursor: Some(cursor.clone()),
        ..first
    };
    let code = async |scope, id: &str, query: HistoryQuery, options: ReadOptions| {
        world
            .reader
            .history(scope, "thing", id, &query, &options)
            .await
            .err()
            .map(|error| error.code())
    };
    let hour: Duration = "1h".parse()?;
    let late = now().saturating_add_micros(hour.as_micros() + 1);
    let in_time = now().saturating_add_micros(hour.as_micros());
    assert_eq!(
        code(
            &tenant.scope,
            "one",
            next.clone(),
            ReadOptions::new(None, in_time)
        )
        .await,
        None
    );
    // A page of another size may follow.
    assert_eq!(
        code(
            &tenant.scope,
            "one",
            HistoryQuery {
                limit: 3,
                ..next.clone()
            },
            options()
        )
        .await,
        None
    );
    let refused = Some("invalid_cursor");
    assert_eq!(
        code(
            &tenant.scope,
            "one",
            next.clone(),
            ReadOptions::new(None, late)
        )
        .await,
        refused
    );
    assert_eq!(
        code(&other.scope, "one", next.clone(), options()).await,
        refused
    );
    assert_eq!(
        code(&tenant.scope, "two", next.clone(), options()).await,
        refused
    );
    for changed in [
        HistoryQuery {
            descending: true,
            ..next.clone()
        },
        HistoryQuery {
            corrections: true,
            ..next.clone()
        },
        HistoryQuery {
            from: Some(second(0)),
            ..next.clone()
        },
        HistoryQuery {
            attributes: Some(vec!["hot_int".to_owned()]),
            ..next.clone()
        },
        HistoryQuery {
            cursor: Some(format!("{cursor}A")),
            ..next.clone()
        },
        HistoryQuery {
            cursor: Some(cursor.replace("c1.", "t1.")),
            ..next.clone()
        },
        HistoryQuery {
            cursor: Some(String::new()),
            ..next.clone()
        },
        HistoryQuery {
            cursor: Some("c1.".repeat(10_000)),
            ..next.clone()
        },
    ] {
        assert_eq!(
            code(&tenant.scope, "one", changed.clone(), options()).await,
            refused,
            "{changed:?}"
        );
    }
    for limit in [0, 1_001] {
        let query = HistoryQuery {
            limit,
            ..everything()
        };
        assert_eq!(
            code(&tenant.scope, "one", query, options()).await,
            Some("invalid_parameter")
        );
    }
    Ok(())
}
