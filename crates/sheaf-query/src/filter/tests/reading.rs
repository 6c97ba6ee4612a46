//! The two forms say the same, and what is not served is refused by name and place.

use proptest::prelude::*;

use super::generate::{exprs, json_of};
use crate::filter::{FilterError, parse_json, parse_text};

/// The filter in its one spelling.
fn respelled(text: &str) -> String {
    match parse_text(text) {
        Ok(expr) => expr.to_text(),
        Err(error) => panic!("{text}: {error} at {}", error.offset()),
    }
}

fn refusal(result: Result<crate::filter::Expr, FilterError>, filter: &str) -> (usize, String) {
    let error = result.expect_err(filter);
    assert_eq!(error.code(), "invalid_filter", "{filter}");
    (error.offset(), error.to_string())
}

proptest! {
    #[test]
    fn a_filter_written_as_text_reads_back_the_same(expr in exprs()) {
        let text = expr.to_text();
        prop_assert_eq!(parse_text(&text)?, expr, "{}", text);
    }

    #[test]
    fn text_and_json_of_one_filter_read_the_same(expr in exprs()) {
        let json = json_of(&expr);
        let read = parse_json(&json)?;
        prop_assert_eq!(&read, &expr, "{}", json);
        prop_assert_eq!(read, parse_text(&expr.to_text())?);
    }

    #[test]
    fn no_text_makes_the_parsers_panic_or_point_outside(
        text in "(a|b1|'|\"|\\(|\\)|,|=|<|>|-|5|\\.|1e|AND |OR |NOT |IN|LIKE|IS|NULL|BETWEEN |CASEI|T_AFTER|DATE| |\\PC|\\[|\\{|\"op\":|\"args\":|:){0,40}",
    ) {
        for result in [parse_text(&text), parse_json(&text)] {
            if let Err(error) = result {
                prop_assert!(error.offset() <= text.len());
                prop_assert!(text.is_char_boundary(error.offset()), "{} in {text:?}", error.offset());
            }
        }
    }
}

#[test]
fn every_served_form_is_read() {
    let table = [
        ("seats >= 100", "seats >= 100"),
        ("100<=seats", "seats >= 100"),
        ("5 = a", "a = 5"),
        ("a<>-5", "a <> -5"),
        ("a = +.5e1", "a = 5"),
        ("a = 007.50", "a = 7.50"),
        ("a = 5.", "a = 5"),
        ("a = 9007199254740993", "a = 9007199254740993"),
        ("a=1 and b=2 or not c=3", "a = 1 AND b = 2 OR NOT c = 3"),
        ("a=1 AND (b=2 OR c=3)", "a = 1 AND (b = 2 OR c = 3)"),
        ("((a=1))", "a = 1"),
        ("(a=1 AND b=2) AND c=3", "(a = 1 AND b = 2) AND c = 3"),
        ("NOT (a=1 OR b=2)", "NOT (a = 1 OR b = 2)"),
        ("NOT NOT a = 1", "NOT NOT a = 1"),
        (
            "a NOT BETWEEN 1 AND 2 AND b = 3",
            "a NOT BETWEEN 1 AND 2 AND b = 3",
        ),
        ("NOT a IN (1, 2)", "a NOT IN (1,2)"),
        ("a in ('it''s', 'b' )", "a IN ('it''s','b')"),
        ("name LIKE 'N14%'", "name LIKE 'N14%'"),
        ("name NOT LIKE '\\%'", "name NOT LIKE '\\%'"),
        (
            "casei(name) like CaseI('n_')",
            "CASEI(name) LIKE CASEI('n_')",
        ),
        ("CASEI('x')=CASEI(name)", "CASEI(name) = CASEI('x')"),
        (
            "CASEI(name) IN (CASEI('x'),casei('Y'))",
            "CASEI(name) IN (CASEI('x'),CASEI('Y'))",
        ),
        ("a IS NULL", "a IS NULL"),
        ("a is not null", "a IS NOT NULL"),
        ("ok = TRUE OR ok=false", "ok = TRUE OR ok = FALSE"),
        ("\"a b\" = 1", "\"a b\" = 1"),
        ("\"and\" = 1", "\"and\" = 1"),
        ("\"seats\" = 1", "seats = 1"),
        ("\"say \"\"x\"\"\" = 1", "\"say \"\"x\"\"\" = 1"),
        (
            "date = DATE('2013-01-01')",
            "date = TIMESTAMP('2013-01-01T00:00:00Z')",
        ),
        (
            "t < TIMESTAMP('2013-01-01T05:30:00+05:30')",
            "t < TIMESTAMP('2013-01-01T00:00:00Z')",
        ),
        (
            "T_BEFORE(t, DATE('2013-01-01'))",
            "t < TIMESTAMP('2013-01-01T00:00:00Z')",
        ),
        (
            "t_before(DATE('2013-01-01'), t)",
            "t > TIMESTAMP('2013-01-01T00:00:00Z')",
        ),
        (
            "T_AFTER(t,TIMESTAMP('2013-01-01T00:00:00Z'))",
            "t > TIMESTAMP('2013-01-01T00:00:00Z')",
        ),
        (
            "T_DURING(t, INTERVAL('2013-01-01','..'))",
            "T_DURING(t, INTERVAL('2013-01-01T00:00:00Z','..'))",
        ),
        (
            "A_CONTAINS(tags, ('a',1,TRUE))",
            "A_CONTAINS(tags, ('a',1,TRUE))",
        ),
        ("a_overlaps(tags,())", "A_OVERLAPS(tags, ())"),
        ("größe.x:y_1 = 1", "größe.x:y_1 = 1"),
        ("\t\r\na\n=\n1 ", "a = 1"),
    ];
    for (text, spelling) in table {
        assert_eq!(respelled(text), spelling, "{text}");
    }
}

#[test]
fn what_is_not_served_is_named_where_it_stands() {
    let table = [
        (
            "",
            0,
            "unexpected the end, expected a property or a literal",
        ),
        (
            "seats",
            5,
            "unexpected the end, expected a comparison, BETWEEN, IN, LIKE or IS NULL",
        ),
        ("a = b", 4, "comparing two properties is not supported"),
        (
            "a BETWEEN 1 AND b",
            16,
            "comparing two properties is not supported",
        ),
        (
            "a IN (1, b)",
            9,
            "comparing two properties is not supported",
        ),
        ("1 = 2", 0, "a comparison needs a property on one side"),
        ("5 IS NULL", 0, "IS NULL needs a property here"),
        ("5 IN (1)", 0, "IN needs a property here"),
        (
            "x = 1 AND foo(a) = 2",
            10,
            "function \"foo\" is not supported",
        ),
        (
            "S_INTERSECTS(geo, POINT(1 2))",
            0,
            "function \"S_INTERSECTS\" is not supported",
        ),
        (
            "T_EQUALS(t, DATE('2013-01-01'))",
            0,
            "function \"T_EQUALS\" is not supported",
        ),
        (
            "ACCENTI(a) = ACCENTI('x')",
            0,
            "function \"ACCENTI\" is not supported",
        ),
        ("a = 5 - 3", 6, "arithmetic (-) is not supported"),
        ("a -3 > 5", 2, "arithmetic (-) is not supported"),
        ("a DIV 2 = 1", 2, "arithmetic (DIV) is not supported"),
        ("a * 2 = 1", 2, "arithmetic (*) is not supported"),
        (
            "TRUE",
            4,
            "unexpected the end, expected a comparison, BETWEEN, IN, LIKE or IS NULL",
        ),
        (
            "a = NULL",
            4,
            "unexpected \"NULL\", expected a property or a literal",
        ),
        (
            "a == 1",
            3,
            "unexpected =, expected a property or a literal",
        ),
        ("a != 1", 2, "unexpected character '!'"),
        (
            "a = 1 b",
            6,
            "unexpected \"b\", expected AND, OR or the end",
        ),
        ("(a = 1", 6, "unexpected the end, expected AND, OR or )"),
        ("a IN ()", 0, "the list of IN is empty"),
        (
            "a IN (1,)",
            8,
            "unexpected ), expected a property or a literal",
        ),
        (
            "a IN 1",
            5,
            "unexpected the number \"1\", expected a list in parentheses",
        ),
        ("a = 'x", 4, "the closing ' is missing"),
        ("\"a = 1", 0, "the closing \" is missing"),
        ("a = 1x", 4, "malformed number"),
        ("a = 1e", 4, "malformed number"),
        (
            "a = 1e9999",
            4,
            "a number of more than 1000 digits when written out",
        ),
        ("a = 'x\0y'", 6, "a filter holds no NUL character"),
        ("CASEI(a) = 'x'", 11, "CASEI has to stand on both sides"),
        ("a = CASEI('x')", 10, "CASEI has to stand on both sides"),
        (
            "CASEI(a) < CASEI('x')",
            6,
            "CASEI is supported with = <> IN and LIKE only",
        ),
        (
            "CASEI(CASEI(a)) = CASEI('x')",
            6,
            "CASEI takes a property or a text",
        ),
        (
            "CASEI(a) = CASEI(5)",
            17,
            "unexpected the number \"5\", expected a property or a literal",
        ),
        ("CASEI(a) IS NULL", 6, "IS NULL does not take CASEI"),
        ("a LIKE 5", 7, "the pattern of LIKE is a text, not a number"),
        (
            "a LIKE 'x\\'",
            7,
            "the pattern of LIKE ends in a backslash that escapes nothing",
        ),
        (
            "t = TIMESTAMP('yesterday')",
            14,
            "TIMESTAMP: not a time in RFC 3339 form",
        ),
        (
            "t = DATE('2013-02-30')",
            9,
            "DATE takes a day such as 2013-01-31",
        ),
        (
            "t = INTERVAL('..','..')",
            4,
            "INTERVAL is supported in T_DURING only",
        ),
        (
            "T_BEFORE(t, INTERVAL('..','..'))",
            12,
            "T_BEFORE takes a property and a TIMESTAMP or DATE",
        ),
        (
            "T_DURING(t, DATE('2013-01-01'))",
            12,
            "T_DURING takes a property and an INTERVAL",
        ),
        (
            "A_CONTAINS(('a'), tags)",
            11,
            "unexpected (, expected a property or a literal",
        ),
    ];
    for (text, offset, detail) in table {
        assert_eq!(
            refusal(parse_text(text), text),
            (offset, detail.to_owned()),
            "{text}"
        );
    }
}

#[test]
fn json_that_is_no_filter_is_refused_where_it_stands() {
    let table = [
        ("", 0, "not valid JSON"),
        (r#"{"op":"and""#, 11, "not valid JSON"),
        (
            "true",
            0,
            "expected a condition: an object with op and args",
        ),
        (
            r#"{"property":"a"}"#,
            0,
            "expected a condition: an object with op and args",
        ),
        (
            r#"{"op":"=","args":[{"property":"a"},1],"x":2}"#,
            0,
            "unknown member \"x\"",
        ),
        (
            r#"{"op":"=","args":[{"property":"a","timestamp":"x"},1]}"#,
            18,
            "expected an object with op and args, or with exactly one of property, timestamp, date and interval",
        ),
        (
            r#"{"op":"=","op":"<","args":[]}"#,
            0,
            "expected an object with op and args, or with exactly one of property, timestamp, date and interval",
        ),
        (
            r#"{"op":"and","args":[{"op":"isNull","args":[{"property":"a"}]}]}"#,
            0,
            "and takes two or more args",
        ),
        (
            r#"{"op":"=","args":[{"property":"a"}]}"#,
            0,
            "= takes 2 args, got 1",
        ),
        (
            r#"{"op":"=","args":{"property":"a"}}"#,
            17,
            "expected an array",
        ),
        (r#"{"op":7,"args":[]}"#, 6, "expected a string"),
        (
            r#"{"op":"like","args":[{"property":"a"},null]}"#,
            38,
            "expected a property or a literal",
        ),
        (
            r#"{"op":"s_intersects","args":[{"property":"a"},{"property":"b"}]}"#,
            0,
            "operator \"s_intersects\" is not supported",
        ),
        (
            r#"{"op":"T_BEFORE","args":[{"property":"a"},{"date":"2013-01-01"}]}"#,
            0,
            "operator \"T_BEFORE\" is not supported",
        ),
        (
            r#"{"op":"=","args":[{"op":"+","args":[{"property":"a"},1]},2]}"#,
            18,
            "function \"+\" is not supported",
        ),
        (
            r#"{"op":"=","args":[{"property":"a"},"\ud800"]}"#,
            35,
            "a string holds \\u0000 or a lone surrogate",
        ),
        (
            r#"{"op":"=","args":[{"property":"a"},"\u0000"]}"#,
            35,
            "a string holds \\u0000 or a lone surrogate",
        ),
        (
            r#"{"op":"=","args":[{"property":"a"},{"date":"2013-02-30"}]}"#,
            43,
            "DATE takes a day such as 2013-01-31",
        ),
        (
            r#"{"op":"in","args":[{"property":"a"},[[1]]]}"#,
            37,
            "expected a property or a literal",
        ),
        (
            r#"{"op":"=","args":[{"op":"casei","args":[{"op":"casei","args":["x"]}]},1]}"#,
            40,
            "CASEI takes a property or a text",
        ),
    ];
    for (json, offset, detail) in table {
        assert_eq!(
            refusal(parse_json(json), json),
            (offset, detail.to_owned()),
            "{json}"
        );
    }
}

#[test]
fn numbers_keep_their_digits_in_json() {
    let json = r#"{"op":"=","args":[{"property":"a"},12345678901234567890.12345678901234567890]}"#;
    let expr = parse_json(json).expect("a filter");
    assert_eq!(
        expr.to_text(),
        "a = 12345678901234567890.12345678901234567890"
    );
}

#[test]
fn an_error_quotes_a_bounded_piece_of_the_filter() {
    let name = "ä".repeat(5_000);
    let error = parse_text(&format!("{name}(1)")).expect_err("a function");
    assert!(error.to_string().len() < 120, "{error}");
}
