//! What is read for a question, and what it may take.

use std::time::{Duration, Instant};

use anyhow::Result;
use sheaf_lake::analytics::{Bound, LakeReader, Param, QueryBounds, QueryError};

use crate::world::{OWN, World, ask, rows, scanned};

#[tokio::test(flavor = "multi_thread")]
async fn files_and_groups_that_cannot_hold_an_answer_are_not_read() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let reader = world.reader("sheaf").await?;
    let all = scanned(&reader, "SELECT max(value_int) FROM facts").await?;
    // Four days, three commits that begin and end within a day.
    assert_eq!((all.files, all.groups), (6, 6), "{all:?}");
    assert_eq!(all.readers, 2, "as many as there are threads");
    for (query, files, groups) in [
        (
            "SELECT max(value_int) FROM facts WHERE observed_at >= '2013-01-04T00:00:00Z'",
            1,
            1,
        ),
        (
            "SELECT max(value_int) FROM facts WHERE observed_at < '2013-01-01T10:00:00Z'",
            1,
            1,
        ),
        (
            "SELECT max(value_int) FROM facts WHERE observed_at BETWEEN '2013-01-02T21:00:00Z' AND '2013-01-03T01:00:00Z'",
            2,
            2,
        ),
        (
            "SELECT max(value_int) FROM facts WHERE attribute = 'nothing of the kind'",
            0,
            0,
        ),
        (
            "SELECT max(value_int) FROM facts WHERE attribute_id > 1000",
            0,
            0,
        ),
        ("SELECT max(value_int) FROM facts WHERE entity_id = 7", 0, 0),
        (
            "SELECT max(value_int) FROM facts WHERE external_id IN ('zulu 1', 'zulu 2')",
            0,
            0,
        ),
        (
            "SELECT max(value_int) FROM facts WHERE value_int > 1000000",
            0,
            0,
        ),
        ("SELECT count(*) FROM facts WHERE tenant_id = 0", 0, 0),
        ("SELECT count(*) FROM tenants", 1, 1),
    ] {
        let found = scanned(&reader, query).await?;
        assert_eq!(
            (found.files, found.groups),
            (files, groups),
            "{query}: {found:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_of_other_files_cost_nothing() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let reader = world.reader("sheaf").await?;
    let snapshot = reader.look(None).await?;
    // Of the same bucket as nobody, and of nobody's bounds.
    let mut answer = ask(
        &reader,
        &snapshot,
        sheaf_model::TenantId(1_000_000),
        "SELECT count(*) FROM facts",
        &[],
    )
    .await?;
    while answer.next().await?.is_some() {}
    assert_eq!(answer.scanned().files, 0);
    Ok(())
}

const CROSSED: &str =
    "SELECT count(*) FROM facts a, facts b, facts c WHERE a.seq + b.seq + c.seq > 5";

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_takes_too_much_is_stopped_and_gives_everything_back() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let sorted =
        "SELECT a.* FROM facts a, facts b ORDER BY a.observed_at, b.observed_at, a.external_id";
    let small = QueryBounds {
        query_bytes_max: 4 << 20,
        time_max: Duration::from_secs(120),
        request_max: Duration::from_secs(120),
        ..QueryBounds::default()
    };
    let short = QueryBounds {
        time_max: Duration::from_millis(500),
        ..QueryBounds::default()
    };
    let few = QueryBounds {
        rows_max: 100,
        ..QueryBounds::default()
    };
    for (bounds, query, wanted) in [
        (small, sorted, Bound::Memory),
        (short, CROSSED, Bound::Time),
        (few, "SELECT max(value_int) FROM facts", Bound::Rows),
    ] {
        let reader = world.bounded("sheaf", bounds).await?;
        let refused = rows(&reader, OWN, query, &[]).await.expect_err(query);
        let is_bound = matches!(refused, QueryError::Limit { what } if what == wanted);
        assert!(is_bound, "{query}: {refused:?}");
        all_given_back(&reader).await?;
        // What is bounded is one question, and not the next.
        let (_, found) = rows(&reader, OWN, "SELECT count(*) FROM tenants", &[]).await?;
        assert_eq!(found, [["1"]]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_a_bound_for_all_its_questions() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let bounds = QueryBounds {
        tenant_bytes_max: 0,
        ..QueryBounds::default()
    };
    let reader = world.bounded("sheaf", bounds).await?;
    let grouped = "SELECT external_id, count(*) FROM facts GROUP BY 1 ORDER BY 2";
    let refused = rows(&reader, OWN, grouped, &[])
        .await
        .expect_err("no memory");
    assert!(
        matches!(
            refused,
            QueryError::Limit {
                what: Bound::Memory
            }
        ),
        "{refused:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_takes_any_more_is_not_computed_any_more() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let bounds = QueryBounds {
        time_max: Duration::from_secs(600),
        request_max: Duration::from_secs(600),
        ..QueryBounds::default()
    };
    let reader = world.bounded("sheaf", bounds).await?;
    let snapshot = reader.look(None).await?;
    let answer = ask(&reader, &snapshot, OWN, CROSSED, &[]).await?;
    until(|| reader.taken_bytes() > 0).await?;
    drop(answer);
    all_given_back(&reader).await
}

/// Pairs that its last join tries and throws away, one after the other.
const NOTHING: &str = "SELECT count(*) FROM facts a JOIN facts b ON a.tenant_id = b.tenant_id
    JOIN facts c ON a.tenant_id = c.tenant_id AND a.seq + b.seq + c.seq > 1000000";

fn is_limit<T>(found: &Result<T, QueryError>, wanted: Bound) -> bool {
    matches!(found, Err(QueryError::Limit { what }) if *what == wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_gives_nothing_is_stopped_as_any_other() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let short = QueryBounds {
        time_max: Duration::from_millis(500),
        ..QueryBounds::default()
    };
    for query in [
        NOTHING,
        "SELECT count(*) FROM (SELECT a.seq FROM facts a, facts b) a JOIN facts c ON a.seq > c.seq + 1000000",
        "SELECT count(*) FROM (SELECT a.tenant_id FROM facts a, facts b) a
            WHERE a.tenant_id IN (SELECT c.tenant_id FROM facts c, facts d WHERE c.seq = d.seq)",
    ] {
        let reader = world.bounded("sheaf", short).await?;
        let since = Instant::now();
        let found = rows(&reader, OWN, query, &[]).await;
        assert!(is_limit(&found, Bound::Time), "{query}: {found:?}");
        all_given_back(&reader).await?;
        assert!(since.elapsed() < Duration::from_secs(20), "{query}");
    }
    let long = QueryBounds {
        time_max: Duration::from_secs(600),
        request_max: Duration::from_secs(600),
        ..QueryBounds::default()
    };
    let reader = world.bounded("sheaf", long).await?;
    let snapshot = reader.look(None).await?;
    let answer = ask(&reader, &snapshot, OWN, NOTHING, &[]).await?;
    until(|| reader.taken_bytes() > 0).await?;
    drop(answer);
    let since = Instant::now();
    all_given_back(&reader).await?;
    assert!(since.elapsed() < Duration::from_secs(20));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_a_question_do_not_stand_in_every_row_where_they_are_long() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let reader = world.reader("sheaf").await?;
    let text = |bytes: usize| vec![Param::Text("x".repeat(bytes))];
    let many: Vec<String> = (1..=100).map(|n| format!("$1 AS a{n}")).collect();
    let many = format!("SELECT {} FROM facts", many.join(", "));
    let again: Vec<String> = (1..=100).map(|n| format!("s AS a{n}")).collect();
    let again = format!(
        "SELECT {} FROM (SELECT $1 AS s, seq FROM facts)",
        again.join(", ")
    );
    let long = 30_000;
    for (query, bytes, is_refused) in [
        (many.as_str(), long, true),
        (&again, long, true),
        (&many, 10, false),
        (&again, 10, false),
        ("SELECT concat(value_text, $1) FROM facts", long, true),
        ("SELECT concat(value_text, $1) FROM facts", 100, false),
        (
            "SELECT length(concat(value_text, $1)) FROM facts",
            long,
            true,
        ),
        (
            "SELECT seq FROM facts WHERE value_text || $1 = 'x'",
            long,
            true,
        ),
        (
            "SELECT seq FROM facts ORDER BY concat(value_text, $1)",
            long,
            true,
        ),
        (
            "SELECT CASE WHEN seq > 0 THEN $1 ELSE '' END FROM facts",
            long,
            true,
        ),
        ("SELECT s FROM (SELECT $1 AS s) a, facts", long, true),
        ("SELECT (SELECT $1) FROM facts", long, true),
        ("SELECT seq FROM facts WHERE value_text = $1", long, false),
        (
            "SELECT seq FROM facts WHERE value_text IN ($1, 'y')",
            long,
            false,
        ),
        (
            "SELECT count(*) FILTER (WHERE value_text > $1) FROM facts",
            long,
            false,
        ),
    ] {
        let found = rows(&reader, OWN, query, &text(bytes)).await;
        match is_refused {
            true => assert!(is_limit(&found, Bound::Memory), "{query}: {found:?}"),
            false => assert!(found.is_ok(), "{query}: {found:?}"),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_window_waits_with_are_counted() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let small = QueryBounds {
        query_bytes_max: 1 << 20,
        time_max: Duration::from_secs(600),
        request_max: Duration::from_secs(600),
        ..QueryBounds::default()
    };
    let reader = world.bounded("sheaf", small).await?;
    for over in [
        "sum(a.value_int) OVER (ROWS BETWEEN CURRENT ROW AND 1000000000 FOLLOWING)",
        "lead(a.value_text, 1000000000) OVER ()",
    ] {
        let query = format!("SELECT max(x) FROM (SELECT {over} AS x FROM facts a, facts b)");
        let found = rows(&reader, OWN, &query, &[]).await;
        assert!(is_limit(&found, Bound::Memory), "{query}: {found:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_counted_for_all_tables_of_a_question_together() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    // Every event has four facts.
    let rows_max = u64::try_from(world.events.len() * 6)?;
    let bounds = QueryBounds {
        rows_max,
        ..QueryBounds::default()
    };
    let reader = world.bounded("sheaf", bounds).await?;
    let once = rows(&reader, OWN, "SELECT max(seq) FROM facts", &[]).await;
    assert!(once.is_ok(), "{once:?}");
    let twice = "SELECT max(a.seq + b.seq) FROM facts a, facts b";
    let twice = rows(&reader, OWN, twice, &[]).await;
    assert!(is_limit(&twice, Bound::Rows), "{twice:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_always_slow_is_left_and_told_that_rows_are_missing() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let bounds = QueryBounds {
        client_max: Duration::from_secs(600),
        clients_max: Duration::from_millis(200),
        time_max: Duration::from_secs(600),
        request_max: Duration::from_secs(600),
        ..QueryBounds::default()
    };
    let reader = world.bounded("sheaf", bounds).await?;
    let snapshot = reader.look(None).await?;
    let all = "SELECT a.seq FROM facts a, facts b";
    let mut answer = ask(&reader, &snapshot, OWN, all, &[]).await?;
    let end = loop {
        match answer.next().await {
            Ok(Some(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            end => break end,
        }
    };
    assert!(is_limit(&end, Bound::Time), "{end:?}");
    drop(answer);
    all_given_back(&reader).await
}

/// Everything that questions took of memory goes back when they end.
async fn all_given_back(reader: &LakeReader) -> Result<()> {
    until(|| reader.taken_bytes() == 0).await
}

async fn until(is_so: impl Fn() -> bool) -> Result<()> {
    let since = Instant::now();
    while !is_so() {
        anyhow::ensure!(since.elapsed() < Duration::from_secs(60), "it never is so");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
