//! Whatever is past a limit is refused at once, on a small stack.

use std::time::{Duration, Instant};

use sheaf_model::{AttributeId, AttributeType};
use sheaf_store::catalogue::Temperature;

use crate::filter::{
    DEPTH_MAX, Expr, FilterError, JSON_BYTES_MAX, LIST_LENGTH_MAX, NODES_MAX, Parameters, Property,
    TEXT_BYTES_MAX, TypedExpr, compile, parse_json, parse_text,
};

/// Runs on the stack that worker threads have, so that a recursion without bound would end the test process.
fn on_a_worker_stack(claim: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .stack_size(2 * 1024 * 1024)
        .spawn(claim)
        .expect("a thread")
        .join()
        .expect("the claim holds");
}

fn assert_too_complex(result: Result<Expr, FilterError>, what: &str) {
    let error = result.expect_err(what);
    assert_eq!(error.code(), "filter_too_complex", "{what}: {error}");
}

fn joined(piece: &str, between: &str, count: usize) -> String {
    vec![piece; count].join(between)
}

#[test]
fn hostile_filters_are_refused_quickly_and_without_deep_recursion() {
    on_a_worker_stack(|| {
        let started = Instant::now();
        let (text_max, json_max) = (TEXT_BYTES_MAX, JSON_BYTES_MAX);
        assert_too_complex(parse_text(&"(".repeat(40_000)), "40 KB of parentheses");
        assert_too_complex(parse_text(&"(".repeat(text_max)), "parentheses");
        assert_too_complex(parse_text(&"NOT ".repeat(text_max / 4)), "NOTs");
        assert_too_complex(parse_text(&joined("a=1", " AND ", 10_000)), "10,000 terms");
        assert_too_complex(parse_text(&joined("a=1", " OR ", 1_500)), "1,500 terms");
        let list = format!("a IN ({})", joined("1", ",", 1_000_000));
        assert_too_complex(parse_text(&list), "a list of a million");
        let list = format!("a IN ({})", joined("1", ",", 5_000));
        assert_too_complex(parse_text(&list), "a list of 5,000");
        let list = format!("A_OVERLAPS(a,({}))", joined("1", ",", 5_000));
        assert_too_complex(parse_text(&list), "an array of 5,000");

        let not = r#"{"op":"not","args":["#;
        assert_too_complex(parse_json(&not.repeat(10_000)), "JSON 10,000 deep");
        let deep = not.repeat(1_000) + &"]}".repeat(1_000);
        assert_too_complex(parse_json(&deep), "JSON 1,000 deep");
        let null = r#"{"op":"isNull","args":[{"property":"a"}]}"#;
        let wide = format!(r#"{{"op":"or","args":[{}]}}"#, joined(null, ",", 1_000));
        assert_too_complex(parse_json(&wide), "1,000 terms in JSON");
        let list = joined("1", ",", 5_000);
        let list = format!(r#"{{"op":"in","args":[{{"property":"a"}},[{list}]]}}"#);
        assert_too_complex(parse_json(&list), "5,000 elements in JSON");
        for filler in ["[", "{\"a\":", "\"", "1"] {
            let text = filler.repeat(json_max / filler.len());
            assert!(parse_json(&text).is_err(), "{filler}");
        }
        let elapsed = started.elapsed();
        assert!(elapsed < Duration::from_secs(5), "took {elapsed:?}");
    });
}

#[test]
fn filters_at_the_limits_are_read_and_one_more_is_refused() {
    on_a_worker_stack(|| {
        let nested = |depth: usize| format!("{}a = 1{}", "(".repeat(depth), ")".repeat(depth));
        assert!(parse_text(&nested(DEPTH_MAX)).is_ok());
        assert_too_complex(parse_text(&nested(DEPTH_MAX + 1)), "one level more");

        // The AND itself is a node.
        let terms = |count: usize| joined("a=1", " AND ", count);
        assert!(parse_text(&terms(NODES_MAX - 1)).is_ok());
        assert_too_complex(parse_text(&terms(NODES_MAX)), "one node more");

        let list = |count: usize| format!("a IN ({})", joined("1", ",", count));
        assert!(parse_text(&list(LIST_LENGTH_MAX)).is_ok());
        assert_too_complex(parse_text(&list(LIST_LENGTH_MAX + 1)), "one element more");

        let uuid = "\"0190f3c4-7d1e-7000-8000-000000000000\"";
        let uuids = joined(uuid, ",", LIST_LENGTH_MAX);
        let json = format!(r#"{{"op":"in","args":[{{"property":"a"}},[{uuids}]]}}"#);
        assert!(parse_json(&json).is_ok(), "1,000 UUIDs fit the JSON form");

        let not = r#"{"op":"not","args":["#;
        let null = r#"{"op":"isNull","args":[{"property":"a"}]}"#;
        let nested = |depth: usize| not.repeat(depth) + null + &"]}".repeat(depth);
        let deepest = parse_json(&nested(DEPTH_MAX)).expect("at the limit");
        assert!(
            parse_text(&deepest.to_text()).is_ok(),
            "what JSON may nest, text may"
        );
        assert_too_complex(parse_json(&nested(DEPTH_MAX + 1)), "one level more in JSON");
    });
}

#[test]
fn an_error_past_a_limit_tells_where_the_limit_is_passed() {
    let error = parse_text(&"(".repeat(100)).expect_err("too deep");
    assert_eq!(error.offset(), DEPTH_MAX);
    let long = " ".repeat(TEXT_BYTES_MAX) + "a = 1";
    assert_eq!(
        parse_text(&long).expect_err("too long").offset(),
        TEXT_BYTES_MAX
    );
}

/// `n1`, `n2`, .. are attributes of their own with value indexes of ints; `t` has one of texts.
fn indexed(name: &str) -> Option<Property> {
    let (kind, id) = match name.strip_prefix('n') {
        Some(id) => (AttributeType::Int, id.parse().ok()?),
        None => (AttributeType::Text, 1_000),
    };
    Some(Property::Attribute {
        id: AttributeId(id),
        kind,
        temperature: Temperature::Hot,
        is_indexed: true,
    })
}

#[test]
fn what_a_filter_becomes_grows_with_its_conditions_and_not_with_their_product() {
    let ranges = |ids: std::ops::Range<usize>, between: &str| {
        let terms: Vec<String> = ids.map(|id| format!("n{id} > 1")).collect();
        terms.join(between)
    };
    let like = |between: &str| joined("t LIKE 'a%b'", between, 127);
    let beside = |alternatives: usize, others: usize| {
        let all = ranges(alternatives..alternatives + others, " AND ");
        format!("({}) AND {all}", ranges(0..alternatives, " OR "))
    };
    let nested: Vec<String> = (0..18).map(|_| format!("({})", beside(6, 5))).collect();
    for (filter, conditions) in [
        (beside(6, 5), 11),
        (beside(20, 6), 26),
        (beside(100, 6), 106),
        (beside(127, 126), 253),
        (format!("({}) AND {}", like(" OR "), like(" AND ")), 254),
        (nested.join(" OR "), 18 * 11),
    ] {
        let typed = parse_text(&filter).and_then(|expr| TypedExpr::resolve(&expr, &indexed));
        let typed = typed.expect("within the limits");
        let mut parameters = Parameters::default();
        let sql = compile(&typed, "$1", &mut parameters);
        // As many questions of indexes as conditions, and up to 32 more for eleven of them.
        let questions = sql.matches("sheaf.entity_index_").count();
        assert!(questions <= conditions * 4, "{questions}: {sql:.200}");
        let sent = parameters.as_slice().len();
        assert!(sent <= conditions * 12, "{sent} for {conditions}");
    }
}
