//! Attempts to see, touch or take more than a question may. Each is asked of a lake that two tenants share and of one that the
//! asking tenant has alone: whatever differs would come from the other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sheaf_lake::analytics::{LakeReader, LakeSnapshot, Param, QueryBounds, QueryError};

use crate::world::{OWN, SECRET, SECRET_INT, World, ask, text_of};

const ATTEMPTS: &str = include_str!("escapes.txt");
/// Rows of an answer that are compared; one that has more is larger than anything that a tenant has here.
const ROWS_MAX: usize = 20_000;
/// No attempt may take longer, also on a slow machine: what would is stopped by its bound.
const LONGEST: Duration = Duration::from_secs(60);

/// What must come of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Refused,
    Own,
    Bounded,
}

/// What came of one, so that two can be compared.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Answered {
        header: String,
        rows: Vec<String>,
        is_cut: bool,
    },
    Refused(String),
    Bounded,
}

async fn outcome(reader: &LakeReader, snapshot: &LakeSnapshot, query: &str) -> Outcome {
    let refused = |error: QueryError| match error {
        QueryError::Limit { .. } => Outcome::Bounded,
        error => Outcome::Refused(sheaf_pg::chain(&error)),
    };
    let params: &[Param] = &[];
    let mut answer = match ask(reader, snapshot, OWN, query, params).await {
        Ok(answer) => answer,
        Err(error) => return refused(error),
    };
    let header = format!("{:?}", answer.columns);
    let mut found: Vec<String> = Vec::new();
    let is_cut = loop {
        match answer.next().await {
            Ok(Some(rows)) => {
                let rows = rows.iter();
                found
                    .extend(rows.map(|row| row.iter().map(text_of).collect::<Vec<_>>().join("\t")));
            }
            Ok(None) => break false,
            Err(error) => return refused(error),
        }
        if found.len() > ROWS_MAX {
            break true;
        }
    };
    found.sort();
    // Of an answer that was cut off it is up to chance which rows came.
    let rows = if is_cut { Vec::new() } else { found };
    Outcome::Answered {
        header,
        rows,
        is_cut,
    }
}

fn attempts() -> Result<Vec<(Wanted, String)>> {
    let mut attempts = Vec::new();
    for line in ATTEMPTS.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (wanted, text) = line.split_once('|').context("a bar")?;
        let wanted = match wanted.trim() {
            "refused" => Wanted::Refused,
            "own" => Wanted::Own,
            "bounded" => Wanted::Bounded,
            other => bail!("{other:?}"),
        };
        attempts.push((wanted, text.trim().to_owned()));
    }
    Ok(attempts)
}

/// Texts that are too large to stand in a file.
fn large() -> Vec<(Wanted, String)> {
    let many = |text: &str, count: usize| text.repeat(count);
    let chain = |what: &str, count: usize| format!("SELECT 1{}", many(what, count));
    let named = |count: usize, of: &dyn Fn(usize) -> String| {
        let names: Vec<String> = (1..=count)
            .map(|n| format!("c{n} AS ({})", of(n)))
            .collect();
        format!(
            "WITH c0 AS (SELECT value_int AS x FROM facts), {} SELECT count(*) FROM c{count} WHERE x > 0",
            names.join(", ")
        )
    };
    let doubled = |n: usize| format!("SELECT x + x AS x FROM c{}", n - 1);
    let joined = |n: usize| format!("SELECT a.x FROM c{0} a CROSS JOIN c{0} b", n - 1);
    let texts = |n: usize| format!("SELECT concat(x, x) AS x FROM c{}", n - 1);
    let piped = |n: usize| {
        format!(
            "SELECT CAST(x AS text) || CAST(x AS text) AS x FROM c{}",
            n - 1
        )
    };
    let inner = |open: &str, close: &str, count: usize| {
        format!("{}1{}", many(open, count), many(close, count))
    };
    let mut large = vec![
        ("a megabyte", format!("SELECT '{}'", many("x", 1 << 20))),
        (
            "a megabyte of spaces",
            format!("SELECT{}1", many(" ", 1 << 20)),
        ),
        (
            "a megabyte of comments",
            format!("SELECT 1 {}", many("/**/", 1 << 18)),
        ),
        ("a megabyte of quotes", many("\"", 1 << 20)),
        ("many statements", many("SELECT 1;", 3_000)),
        ("many commas", format!("SELECT {}1", many("1,", 16_000))),
        (
            "nested comments",
            format!("SELECT 1 {}{}", many("/*", 8_000), many("*/", 8_000)),
        ),
    ];
    for count in [60, 600, 6_000] {
        large.push(("parentheses", format!("SELECT {}", inner("(", ")", count))));
        large.push((
            "queries",
            format!("SELECT {}", inner("(SELECT ", ")", count)),
        ));
        large.push(("calls", format!("SELECT {}", inner("abs(", ")", count))));
        large.push(("nots", format!("SELECT {} true", many("NOT ", count))));
        large.push(("minuses", format!("SELECT {} 1", many("- ", count))));
        large.push((
            "cases",
            format!("SELECT {}", inner("CASE WHEN true THEN ", " END", count)),
        ));
        large.push((
            "casts",
            format!("SELECT {}", inner("CAST(", " AS int)", count)),
        ));
        large.push((
            "froms",
            format!(
                "SELECT * FROM {}facts{}",
                many("(", count),
                many(")", count)
            ),
        ));
        large.push((
            "froms of queries",
            format!(
                "SELECT * FROM {}facts{}",
                many("(SELECT * FROM ", count),
                many(") x", count)
            ),
        ));
        large.push(("arrays", format!("SELECT {}", inner("[", "]", count))));
    }
    for count in [700, 7_000] {
        large.push((
            "types",
            format!(
                "SELECT CAST(1 AS {}int{})",
                many("ARRAY<", count),
                many(">", count)
            ),
        ));
        large.push(("sums", chain(" + 1", count)));
        large.push(("ands", format!("SELECT true{}", many(" AND true", count))));
        large.push(("likes", format!("SELECT 'x'{}", many(" LIKE 'x'", count))));
        large.push(("unions", chain(" UNION ALL SELECT 1", count)));
        large.push(("short casts", chain("::int", count)));
        large.push(("tests", chain(" IS NULL", count)));
        large.push(("dots", format!("SELECT a{}", many(".a", count))));
        large.push(("indexes", format!("SELECT a{}", many("[1]", count))));
        large.push((
            "zones",
            format!("SELECT now(){}", many(" AT TIME ZONE 'UTC'", count)),
        ));
    }
    large.push((
        "cross joins",
        format!("SELECT 1 FROM facts{}", many(", facts", 100)),
    ));
    large.push((
        "joins",
        format!(
            "SELECT 1 FROM facts{}",
            many(" JOIN facts USING (seq)", 100)
        ),
    ));
    large.push(("named queries that double", named(40, &joined)));
    large.push(("columns that double", named(40, &doubled)));
    large.push(("columns that double a little", named(14, &doubled)));
    large.push(("texts that double", named(30, &texts)));
    large.push(("texts that double by a sign", named(20, &piped)));
    large
        .into_iter()
        .map(|(_, text)| (Wanted::Refused, text))
        .collect()
}

/// Texts at the bounds that are answered: they stand for everything that is planned, and none may end the process.
fn largest() -> Vec<(Wanted, String)> {
    let many = |text: &str, count: usize| text.repeat(count);
    let list: Vec<String> = (0..4_000).map(|n| n.to_string()).collect();
    let whens: String = (0..150)
        .map(|n| format!(" WHEN value_int = {n} THEN {n}"))
        .collect();
    [
        format!("SELECT 1{}", many(" + 1", 590)),
        format!(
            "SELECT count(*) FROM facts WHERE value_int = 1{}",
            many(" OR value_int = 2", 190)
        ),
        format!(
            "SELECT count(*) FROM facts WHERE true{}",
            many(" AND seq > -1", 190)
        ),
        format!(
            "SELECT count(*) FROM facts WHERE value_int IN ({})",
            list.join(",")
        ),
        format!("SELECT count(CASE{whens} END) FROM facts"),
        format!(
            "SELECT count(*) FROM ({})",
            vec!["SELECT 1 FROM facts"; 60].join(" UNION ALL ")
        ),
        format!("SELECT {}1{}", many("abs(", 40), many(")", 40)),
        format!("SELECT {}1{}", many("(", 40), many(")", 40)),
    ]
    .into_iter()
    .map(|text| (Wanted::Own, text))
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_question_sees_touches_or_takes_more_than_it_may() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    world.fill("alone", &[OWN]).await?;
    let bounds = QueryBounds {
        query_bytes_max: 64 << 20,
        time_max: Duration::from_secs(4),
        ..QueryBounds::default()
    };
    let shared = world.bounded("sheaf", bounds).await?;
    let alone = world.bounded("alone", bounds).await?;
    let (in_shared, in_alone) = (shared.look(None).await?, alone.look(None).await?);
    let mut all = attempts()?;
    all.extend(large());
    all.extend(largest());
    let other = world.other.to_string();
    let (mut refused, mut own, mut bounded) = (0, 0, 0);
    let mut faults = Vec::new();
    for (wanted, text) in &all {
        let text = text.replace("{other}", &other);
        let shown: String = text.chars().take(200).collect();
        let since = Instant::now();
        let found = outcome(&shared, &in_shared, &text).await;
        assert!(
            since.elapsed() < LONGEST,
            "{shown} took {:?}",
            since.elapsed()
        );
        match (wanted, &found) {
            (Wanted::Refused, Outcome::Refused(_)) => refused += 1,
            (Wanted::Own, Outcome::Answered { is_cut: false, .. }) => own += 1,
            (Wanted::Bounded, Outcome::Bounded | Outcome::Answered { .. }) => bounded += 1,
            _ => faults.push(format!("{shown} came to {found:?}")),
        }
        let said = format!("{found:?}");
        for secret in [SECRET, "globex", &SECRET_INT.to_string()] {
            assert!(
                !said.contains(secret) || text.contains(secret),
                "{shown} came to {said}"
            );
        }
        for outside in ["root:", "passwd:", world_path(&world).as_str()] {
            assert!(!said.contains(outside), "{shown} came to {said}");
        }
        // What is stopped is stopped somewhere.
        if *wanted != Wanted::Bounded {
            let without = outcome(&alone, &in_alone, &text).await;
            if found != without {
                faults.push(format!(
                    "{shown} tells of the other tenant: {found:?} but {without:?} without it"
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // The same question of the other tenant does find what was looked for.
    let control =
        "SELECT count(*) FROM facts WHERE value_text LIKE 'globex%' AND external_id LIKE 'globex%'";
    let mut answer = ask(&shared, &in_shared, world.other, control, &[]).await?;
    let control = answer.next().await?.context("a row")?;
    assert_ne!(
        text_of(&control[0][0]),
        "0",
        "the secrets are there to be found"
    );
    #[expect(clippy::print_stdout, reason = "the test harness shows it")]
    {
        println!(
            "attempts: {} ({refused} refused, {own} own rows, {bounded} bounded)",
            all.len()
        );
    }
    assert!(all.len() >= 100);
    Ok(())
}

/// Where the files are, which no answer says.
fn world_path(world: &World) -> String {
    world.folder().display().to_string()
}
