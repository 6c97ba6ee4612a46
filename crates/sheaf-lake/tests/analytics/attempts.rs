//! Attempts to see, touch or take more than a question may: those that stand in a file, and texts that are too large to.

use anyhow::{Context, Result, bail};

const ATTEMPTS: &str = include_str!("escapes.txt");

/// What must come of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Refused,
    Own,
    Bounded,
}

/// All of them, with what must come of each. `{other}` stands for the number of the other tenant.
pub(crate) fn attempts() -> Result<Vec<(Wanted, String)>> {
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
    attempts.extend(large());
    attempts.extend(largest());
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
    let pattern = format!("SELECT regexp_like('x', '{}')", inner("(", ")", 300));
    large
        .into_iter()
        .map(|(_, text)| (Wanted::Refused, text))
        .chain([(Wanted::Bounded, pattern)])
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
