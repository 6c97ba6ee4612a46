//! What questions find is what is computed from the events by hand.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use sheaf_export::ColumnKind;
use sheaf_lake::analytics::{Param, QueryError};
use sheaf_model::AttributeType;

use crate::world::{Known, OWN, World, rows};

/// Of the tenant that asks.
fn own(world: &World) -> Vec<&Known> {
    let events = world.events.iter();
    events.filter(|event| event.tenant == OWN).collect()
}

fn sorted(mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    rows.sort();
    rows
}

/// A query, its parameters, and the rows that it has to give.
type Case = (&'static str, Vec<Param>, Vec<Vec<String>>);

fn texts<const N: usize>(row: [&dyn ToString; N]) -> Vec<String> {
    row.iter().map(|cell| cell.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_that_the_events_give() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let reader = world.reader("sheaf").await?;
    let own = own(&world);
    let mut per_text: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    let mut per_day: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    let mut per_entity: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
    for event in &own {
        let of_text = per_text.entry(&event.text).or_default();
        of_text.0 += 1;
        let day = event.at.to_string()[..10].to_owned();
        let of_day = per_day.entry(day).or_default();
        of_day.0 += 1;
        of_day.1 += event.int;
        per_entity
            .entry(event.entity)
            .or_default()
            .insert(event.int);
    }
    let ints = || own.iter().map(|event| event.int);
    let late = "2013-01-03T04:00:00Z";
    let from = sheaf_model::Timestamp::parse(late)?.0;
    let since = own.iter().filter(|event| event.at >= from);
    let above = own
        .iter()
        .filter(|event| event.int >= 100 && event.entity != 3);
    let mut newest: Vec<&&Known> = own.iter().collect();
    newest.sort_by_key(|event| std::cmp::Reverse(event.at));
    let table: Vec<Case> = vec![
        ("SELECT count(*) FROM facts", vec![], vec![texts([&(own.len() * 4)])]),
        (
            "SELECT attribute, type, count(*) FROM facts GROUP BY 1, 2",
            vec![],
            [("an bool", "bool"), ("an float", "float"), ("an int", "int"), ("an text", "text")]
                .iter()
                .map(|(name, kind)| texts([name, kind, &own.len()]))
                .collect(),
        ),
        (
            "SELECT sum(value_int), min(value_int), max(value_int), count(value_int) FROM facts WHERE attribute = 'an int'",
            vec![],
            vec![texts([
                &ints().sum::<i64>(),
                &ints().min().unwrap_or_default(),
                &ints().max().unwrap_or_default(),
                &own.len(),
            ])],
        ),
        (
            "SELECT value_text, count(*) FROM facts WHERE attribute = 'an text' GROUP BY value_text",
            vec![],
            per_text.iter().map(|(text, (count, _))| texts([text, count])).collect(),
        ),
        (
            "SELECT CAST(date_trunc('day', observed_at) AS date), count(*), sum(value_int) FROM facts WHERE attribute = 'an int' GROUP BY 1",
            vec![],
            per_day.iter().map(|(day, (count, sum))| texts([day, count, sum])).collect(),
        ),
        (
            "SELECT count(*) FROM facts WHERE observed_at >= $1 AND attribute = $2",
            vec![Param::Text(late.to_owned()), Param::Text("an bool".to_owned())],
            vec![texts([&since.clone().count()])],
        ),
        (
            "SELECT count(*) FROM facts WHERE observed_at >= '2013-01-03T04:00:00Z' AND value_bool",
            vec![],
            vec![texts([&since.filter(|event| event.truth).count()])],
        ),
        (
            "SELECT count(*) FROM facts WHERE value_int >= $1 AND entity_id <> $2",
            vec![Param::Number("100".to_owned()), Param::Number("3".to_owned())],
            vec![texts([&above.count()])],
        ),
        (
            "SELECT e.external_id, count(DISTINCT f.value_int) FROM facts f JOIN entities e ON e.entity_id = f.entity_id
             WHERE f.attribute = 'an int' GROUP BY 1",
            vec![],
            per_entity
                .iter()
                .map(|(entity, ints)| texts([&format!("acme {entity}"), &ints.len()]))
                .collect(),
        ),
        (
            "SELECT external_id, value_int FROM facts WHERE attribute = 'an int' ORDER BY observed_at DESC LIMIT 5",
            vec![],
            newest[..5]
                .iter()
                .map(|event| texts([&format!("acme {}", event.entity), &event.int]))
                .collect(),
        ),
        (
            "SELECT DISTINCT batch_id FROM facts WHERE batch_id = 'b_00000000000000000000000001'",
            vec![],
            vec![texts([&"b_00000000000000000000000001"])],
        ),
        (
            "WITH last AS (SELECT external_id, value_float, row_number() OVER (PARTITION BY entity_id ORDER BY observed_at DESC) AS place
                FROM facts WHERE attribute = 'an float')
             SELECT external_id, value_float FROM last WHERE place = 1",
            vec![],
            newest[..6]
                .iter()
                .map(|event| texts([&format!("acme {}", event.entity), &format!("{:?}", event.float)]))
                .collect(),
        ),
        ("SELECT name FROM tenants", vec![], vec![texts([&"acme"])]),
        (
            "SELECT count(*), count(DISTINCT unit) FROM attributes",
            vec![],
            vec![texts([&7, &1])],
        ),
        ("SELECT count(*) FROM facts_corrected", vec![], vec![texts([&0])]),
        ("SELECT count(*) FROM facts WHERE attribute = 'no such'", vec![], vec![texts([&0])]),
    ];
    for (query, params, wanted) in table {
        let (_, found) = rows(&reader, OWN, query, &params).await?;
        assert_eq!(sorted(found), sorted(wanted), "{query}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_mean_the_same_whether_bounds_decide_them_or_not() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    world.fill("alone", &[OWN]).await?;
    for catalog in ["sheaf", "alone"] {
        let reader = world.reader(catalog).await?;
        for condition in [
            "value_int > -100000",
            "value_int >= -50 AND value_int <= 10000",
            "NOT value_int < -100000",
            "value_int IS NOT NULL",
            "value_int IS NULL",
            "value_int <> 5",
            "value_int = 5 OR value_int <> 5",
            "observed_at >= '2013-01-01'",
            "observed_at >= '2013-01-01' AND observed_at < '2014-01-01'",
            "observed_at > '2013-01-02T00:00:00Z'",
            "observed_at BETWEEN '2013-01-02' AND '2013-01-03'",
            "attribute = 'an int'",
            "attribute <> 'nothing'",
            "attribute >= 'a' AND observed_at < '2020-01-01' AND value_float >= 0",
            "entity_id > 0 OR value_int > 0",
            "tenant_id = 1",
            "entity_type = 'thing' AND removed = false",
            "value_bool = true OR attribute = 'an text'",
        ] {
            let query = format!(
                "SELECT (SELECT count(*) FROM facts WHERE {condition}), count(*) FILTER (WHERE {condition}) FROM facts"
            );
            let (_, found) = rows(&reader, OWN, &query, &[]).await?;
            assert_eq!(found[0][0], found[0][1], "{condition}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_have_the_names_of_the_interface_and_our_types() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let reader = world.reader("sheaf").await?;
    let (columns, found) = rows(
        &reader,
        OWN,
        "SELECT * FROM facts WHERE attribute = 'an int' ORDER BY observed_at LIMIT 1",
        &[],
    )
    .await?;
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(
        names.join(", "),
        "tenant_id, entity_id, entity_type, external_id, attribute_id, attribute, type, observed_at, seq, op, batch_id, \
         ingested_at, value_int, value_float, value_decimal, value_text, value_bool, value_time, value_json, removed"
    );
    use AttributeType::{Bool, Decimal, Float, Int, Json, Text, Time};
    let kinds: Vec<_> = columns.iter().map(|column| column.kind).collect();
    let wanted = [
        Int, Int, Text, Text, Int, Text, Text, Time, Int, Text, Text, Time, Int, Float, Decimal,
        Text, Bool, Time, Json, Bool,
    ];
    assert_eq!(kinds, wanted.map(ColumnKind::Of));
    assert_eq!(
        found[0].join(" "),
        "1 1 thing acme 1 1 an int int 2013-01-01T00:00:00.000001Z 0 patch b_00000000000000000000000001 \
         2024-05-01T00:00:00Z -37 - - - - - - false"
    );
    let (columns, found) = rows(
        &reader,
        OWN,
        "SELECT sum(9223372036854775807) AS s, avg(value_int) AS a, count(*) AS c, CAST(1.5 AS decimal(5,2)) AS d FROM facts",
        &[],
    )
    .await?;
    let kinds: Vec<_> = columns.iter().map(|column| column.kind).collect();
    use ColumnKind::{Of, WideInt};
    assert_eq!(kinds, [WideInt, Of(Float), Of(Int), Of(Decimal)]);
    let count: i128 = found[0][2].parse()?;
    assert_eq!(found[0][0], (count * i128::from(i64::MAX)).to_string());
    assert_eq!(found[0][3], "1.5");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_values_of_the_type_of_their_place() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let reader = world.reader("sheaf").await?;
    let text = |text: &str| Param::Text(text.to_owned());
    let number = |text: &str| Param::Number(text.to_owned());
    let injected = "' OR 1 = 1 --";
    for (query, params, wanted) in [
        (
            "SELECT count(*) FROM facts WHERE value_text = $1",
            vec![text(injected)],
            "0",
        ),
        ("SELECT $1", vec![text(injected)], injected),
        (
            "SELECT $1",
            vec![number("9007199254740993")],
            "9007199254740993",
        ),
        (
            "SELECT $1 + 1",
            vec![number("9223372036854775806")],
            "9223372036854775807",
        ),
        (
            "SELECT $1",
            vec![number("92233720368547758070")],
            "92233720368547758070",
        ),
        (
            "SELECT count(*) FROM facts WHERE observed_at < $1",
            vec![text("2013-01-01")],
            "0",
        ),
        (
            "SELECT count(*) FROM facts WHERE value_int = $1",
            vec![Param::Null],
            "0",
        ),
        (
            "SELECT count(*) FROM facts WHERE seq = $1",
            vec![number("1")],
            "0",
        ),
        ("SELECT $2 - $1", vec![number("1"), number("3")], "2"),
    ] {
        let (_, found) = rows(&reader, OWN, query, &params).await?;
        assert_eq!(found, [[wanted]], "{query}");
    }
    for (query, params, place) in [
        ("SELECT $1", vec![], 1),
        ("SELECT $1", vec![number("1"), number("2")], 2),
        (
            "SELECT count(*) FROM facts WHERE observed_at < $1",
            vec![text("soon")],
            1,
        ),
        (
            "SELECT count(*) FROM facts WHERE value_int = $1",
            vec![text("x")],
            1,
        ),
        ("SELECT $1", vec![number("1e999")], 1),
    ] {
        let refused = rows(&reader, OWN, query, &params).await.expect_err(query);
        let is_named = matches!(refused, QueryError::Parameter { number, .. } if number == place);
        assert!(is_named, "{query}: {refused:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_write_is_served() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let reader = world.reader("sheaf").await?;
    let mut faults = Vec::new();
    for query in [
        "SELECT date_bin(INTERVAL '1 hour', observed_at), attribute, avg(value_float) FROM facts GROUP BY 1, 2 ORDER BY 1 DESC, 2 NULLS LAST LIMIT 3 OFFSET 1",
        "SELECT EXTRACT(year FROM observed_at), EXTRACT(dow FROM observed_at), count(*) FROM facts GROUP BY 1, 2",
        "SELECT attribute, count(*) FILTER (WHERE value_int > 3) AS n FROM facts GROUP BY attribute HAVING count(*) > 1",
        "SELECT percentile_cont(0.9) WITHIN GROUP (ORDER BY value_float) FROM facts",
        "SELECT approx_percentile_cont(value_float, 0.5), median(value_float), stddev(value_float) FROM facts",
        "SELECT approx_distinct(external_id), count(DISTINCT entity_id) FROM facts",
        "SELECT entity_type, attribute, count(*) FROM facts GROUP BY ROLLUP (entity_type, attribute)",
        "SELECT entity_type, attribute, count(*) FROM facts GROUP BY GROUPING SETS ((entity_type), (attribute), ())",
        "SELECT DISTINCT ON (entity_id) entity_id, value_int FROM facts WHERE attribute = 'an int' ORDER BY entity_id, observed_at DESC",
        "SELECT observed_at::date AS day, external_id || '/' || attribute, upper(left(attribute, 3)) FROM facts LIMIT 2",
        "SELECT avg(value_float) OVER (PARTITION BY entity_id ORDER BY observed_at ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) FROM facts WHERE attribute = 'an float'",
        "SELECT lag(value_int, 1, 0) OVER (ORDER BY observed_at), sum(value_int) OVER (ORDER BY observed_at) FROM facts WHERE attribute = 'an int' LIMIT 5",
        "SELECT CASE WHEN value_int > 0 THEN 'up' WHEN value_int = 0 THEN 'flat' ELSE 'down' END AS way, count(*) FROM facts GROUP BY 1",
        "SELECT e.external_id, a.unit, f.value_int FROM facts f JOIN entities e USING (entity_id) LEFT JOIN attributes a ON a.attribute_id = f.attribute_id LIMIT 3",
        "SELECT * FROM facts WHERE entity_id IN (SELECT entity_id FROM entities WHERE external_id LIKE 'acme %' AND external_id NOT LIKE '%9') LIMIT 1",
        "SELECT * FROM entities e WHERE EXISTS (SELECT 1 FROM facts f WHERE f.entity_id = e.entity_id AND f.value_int > 100)",
        "SELECT * FROM facts WHERE observed_at BETWEEN TIMESTAMP '2013-01-01 00:00:00' AND now() - INTERVAL '1 day' LIMIT 1",
        "SELECT * FROM facts WHERE observed_at >= '2013-01-02' AND observed_at < DATE '2013-01-03' LIMIT 1",
        "SELECT max(value_int) - min(value_int), round(avg(value_float)::numeric, 2), coalesce(max(value_text), '') FROM facts",
        "WITH daily AS (SELECT date_trunc('day', observed_at) AS day, sum(value_int) AS s FROM facts GROUP BY 1) SELECT day, s, s - lag(s) OVER (ORDER BY day) FROM daily",
        "SELECT attribute, corr(seq, value_int), bool_or(value_bool), string_agg(DISTINCT op, ',') FROM facts GROUP BY attribute",
        "SELECT value_text FROM facts WHERE value_text ILIKE 'WORD%' AND value_text ~ '^word [0-2]$' AND regexp_like(value_text, '1') LIMIT 1",
        "SELECT 1 UNION ALL SELECT 2 UNION ALL (SELECT 3 ORDER BY 1 LIMIT 1) ORDER BY 1",
        "VALUES (1, 'a'), (2, 'b')",
        "SELECT \"attribute\" FROM facts AS \"f\" WHERE \"f\".\"seq\" = 0 LIMIT 1",
    ] {
        match rows(&reader, OWN, query, &[]).await {
            Ok((_, rows)) if !rows.is_empty() => {}
            other => faults.push(format!("{query}: {other:?}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}
