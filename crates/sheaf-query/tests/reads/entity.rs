//! One entity, now and at an instant.

use std::time::Duration;

use anyhow::Result;
use sheaf_model::{AttributeType, Lsn, Op, Position, Timestamp, Value, fold_rows};
use sheaf_query::{ConsistencyLevel, DataSource, EntityQuery, Lag, ReadOptions};
use sheaf_store::catalogue::Temperature;

use crate::world::{Dice, Tenant, World, at, names, now, options, second};

const JFK: (&str, &str) = ("airport", "JFK");

fn select(names: &[&str]) -> EntityQuery {
    EntityQuery {
        select: Some(names.iter().map(ToString::to_string).collect()),
        times: true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entity_reads_as_its_document_and_nothing_is_found_of_what_is_not_there() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    let mut other = world.tenant("other").await?;
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    let decimal = Value::Decimal("12.50".parse()?);
    tenant.write(
        JFK,
        second(0),
        Op::Patch,
        &[
            ("hot_text", text("a")),
            ("cold_decimal", Some(decimal.clone())),
        ],
    );
    tenant.write(
        JFK,
        second(9),
        Op::Patch,
        &[("cold_float", Some(Value::Float(0.1)))],
    );
    tenant.write(
        ("airport", "gone"),
        second(0),
        Op::Patch,
        &[("hot_text", text("a"))],
    );
    tenant.write(("airport", "gone"), second(1), Op::Delete, &[]);
    tenant.write(("caf\u{e9}", "\u{e9}"), second(0), Op::Patch, &[]);
    other.write(
        ("airport", "LGA"),
        second(0),
        Op::Patch,
        &[("hot_text", text("secret"))],
    );
    world.save(&tenant).await?;
    world.save(&other).await?;
    world
        .superuser
        .execute(
            "INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at) VALUES ($1, 'airport', 'never', now())",
            &[&tenant.scope.tenant().0],
        )
        .await?;
    let reader = &world.reader;

    let whole = EntityQuery {
        select: None,
        times: true,
    };
    let read = reader
        .entity(&tenant.scope, "airport", "JFK", &whole, &options())
        .await?;
    let found = read.value.expect("JFK is there");
    assert_eq!(
        found.attributes,
        tenant.values(&tenant.entity("airport", "JFK").document)
    );
    assert_eq!(found.attributes[0], ("cold_decimal".to_owned(), decimal));
    assert_eq!((found.version, found.observed_at), (Some(2), second(9)));
    let times = found.times.expect("asked for");
    assert_eq!(times[0], ("cold_decimal".to_owned(), second(0)));
    assert_eq!(times[1], ("cold_float".to_owned(), second(9)));
    let freshness = read.freshness;
    assert_eq!(
        (freshness.source, freshness.cache_hit),
        (DataSource::Primary, false)
    );
    assert_eq!(freshness.level, ConsistencyLevel::Strong);
    assert_eq!(freshness.lag, Lag::Measured(Duration::ZERO));
    assert_eq!(freshness.position.system_id, world.settings.system_id);

    let some = select(&["hot_text", "external_id", "hot_int"]);
    let read = reader
        .entity(&tenant.scope, "airport", "JFK", &some, &options())
        .await?;
    let found = read.value.expect("JFK is there");
    assert_eq!(
        found.attributes,
        [("hot_text".to_owned(), text("a").unwrap())]
    );
    assert_eq!(found.times.map(|times| times.len()), Some(1));

    let unknown = reader
        .entity(
            &tenant.scope,
            "airport",
            "JFK",
            &select(&["seatz"]),
            &options(),
        )
        .await;
    assert_eq!(
        unknown.err().map(|error| error.code()),
        Some("unknown_attribute")
    );

    for (entity_type, id) in [
        ("airport", "gone"),
        ("airport", "never"),
        ("airport", "LGA"),
        ("airport", "jfk"),
        ("plane", "JFK"),
        ("airport", "a\0b"),
        ("", ""),
    ] {
        let read = reader
            .entity(&tenant.scope, entity_type, id, &whole, &options())
            .await?;
        assert_eq!(read.value, None, "{entity_type}/{id}");
        assert_eq!(read.freshness.source, DataSource::Primary);
    }
    // Any spelling of a name finds it.
    let read = reader
        .entity(&tenant.scope, "cafe\u{301}", "e\u{301}", &whole, &options())
        .await?;
    assert_eq!(
        read.value.map(|found| found.external_id),
        Some("\u{e9}".to_owned())
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_honoured_or_refused_by_name() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    tenant.write(JFK, second(0), Op::Patch, &[]);
    world.save(&tenant).await?;
    let read = async |token: Option<Position>| {
        let options = ReadOptions::new(token, now());
        let query = EntityQuery::default();
        world
            .reader
            .entity(&tenant.scope, "airport", "JFK", &query, &options)
            .await
    };
    let position = read(None).await?.freshness.position;
    let again = read(Some(position)).await?;
    assert_eq!(again.freshness.level, ConsistencyLevel::Session);
    assert!(again.freshness.position.lsn >= position.lsn);
    let ahead = Position {
        lsn: Lsn(position.lsn.0 + (1 << 40)),
        ..position
    };
    let older = Position {
        timeline: position.timeline - 1,
        ..position
    };
    let foreign = Position {
        system_id: position.system_id ^ 1,
        ..position
    };
    for (token, code) in [
        (ahead, "token_not_reached"),
        (older, "stale_timeline"),
        (foreign, "invalid_token"),
    ] {
        assert_eq!(
            read(Some(token)).await.err().map(|error| error.code()),
            Some(code)
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attribute_that_another_server_created_is_known_at_once() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    let query = EntityQuery::default();
    // The reader remembers a catalogue that lacks it.
    world
        .reader
        .entity(&tenant.scope, "airport", "JFK", &query, &options())
        .await?;
    world
        .declare(&tenant.scope, "fresh", AttributeType::Int, Temperature::Hot)
        .await?;
    let other_server = sheaf_store::catalogue::Catalogues::new(world.app.clone());
    tenant.catalogue = other_server.refresh(&tenant.scope).await?;
    tenant.write(JFK, second(0), Op::Patch, &[("fresh", Some(Value::Int(1)))]);
    world.save(&tenant).await?;
    let named = select(&["fresh"]);
    let read = world
        .reader
        .entity(&tenant.scope, "airport", "JFK", &named, &options())
        .await?;
    assert_eq!(read.value.map(|found| found.attributes.len()), Some(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_no_catalogue_has_is_a_broken_database_and_no_reason_to_come_again()
-> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    tenant.write(JFK, second(0), Op::Patch, &[]);
    world.save(&tenant).await?;
    world
        .superuser
        .batch_execute("UPDATE sheaf.entity_jsonb SET cold_attrs = '{\"999999\":1}'")
        .await?;
    let read = world
        .reader
        .entity(
            &tenant.scope,
            "airport",
            "JFK",
            &EntityQuery::default(),
            &options(),
        )
        .await;
    assert_eq!(read.err().map(|error| error.code()), Some("internal"));
    Ok(())
}

/// A long history in which most events say the same attributes and a few say rare ones.
fn random_history(tenant: &mut Tenant, id: &str, events: i64, dice: &mut Dice) {
    for _ in 0..events {
        let time = second(i64::try_from(dice.below(usize::try_from(events).unwrap())).unwrap());
        let op = match dice.below(120) {
            0 => Op::Delete,
            1 => Op::Replace,
            _ => Op::Patch,
        };
        let mut cells = Vec::new();
        let hot = names(AttributeType::Int)[0].clone();
        let rare = names(AttributeType::ALL[dice.below(7)])[1].clone();
        let kind = tenant.catalogue.by_name(&rare).unwrap().kind;
        let rare_value = (dice.below(3) > 0).then(|| dice.value(kind));
        if op != Op::Delete && dice.below(10) > 0 {
            cells.push((hot.as_str(), Some(dice.value(AttributeType::Int))));
        }
        if op != Op::Delete && dice.below(25) == 0 {
            cells.push((rare.as_str(), rare_value));
        }
        tenant.write(("thing", id), time, op, &cells);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entity_as_of_an_instant_is_the_fold_of_what_was_observed_by_then() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    let mut dice = Dice(7);
    for (id, events) in [("short", 20), ("medium", 150), ("long", 900)] {
        random_history(&mut tenant, id, events, &mut dice);
    }
    world.save(&tenant).await?;
    let (mut found_some, mut found_none) = (0, 0);
    for (id, events) in [("short", 20), ("medium", 150), ("long", 900)] {
        for step in 0..60 {
            let time = second(step * events / 50 - 2);
            let rows = tenant.entity("thing", id).rows.values();
            let folded = fold_rows(rows.filter(|row| row.observed_at <= time));
            for query in [
                EntityQuery {
                    select: None,
                    times: true,
                },
                select(&["hot_int", "cold_text"]),
            ] {
                let read = world
                    .reader
                    .entity_as_of(&tenant.scope, "thing", id, time, &query, &options())
                    .await?;
                let wanted =
                    |name: &String| query.select.as_ref().is_none_or(|list| list.contains(name));
                let Some(answer) = read.value else {
                    assert!(!folded.exists(), "{id} at {time} is missing");
                    found_none += 1;
                    continue;
                };
                assert!(folded.exists(), "{id} at {time} is there");
                found_some += 1;
                assert_eq!(
                    (answer.version, Some(answer.observed_at)),
                    (None, folded.newest)
                );
                let mut values = tenant.values(&folded);
                values.retain(|(name, _)| wanted(name));
                assert_eq!(answer.attributes, values, "{id} at {time}");
                let mut times: Vec<(String, Timestamp)> = folded
                    .values()
                    .map(|(id, _, time)| (tenant.name(id), time))
                    .collect();
                times.retain(|(name, _)| wanted(name));
                times.sort();
                assert_eq!(answer.times, Some(times), "{id} at {time}");
            }
        }
    }
    assert!(
        found_some > 100 && found_none > 10,
        "{found_some} and {found_none}"
    );
    let read = world
        .reader
        .entity_as_of(
            &tenant.scope,
            "thing",
            "none",
            at("2030-01-01T00:00:00Z"),
            &EntityQuery::default(),
            &options(),
        )
        .await?;
    assert_eq!(read.value, None);
    Ok(())
}
