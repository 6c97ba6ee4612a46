//! What cells become.

use std::collections::HashMap;

use sheaf_model::AttributeType;

use super::*;

const HEADER: &str = "id,at,i,f,d,b,t,j,n,u,w,skip";

fn roles() -> Roles {
    Roles {
        kind: "plane".to_owned(),
        id: "id".to_owned(),
        time: Some("at".to_owned()),
        observed_at: None,
        null: vec!["NA".to_owned()],
        skip: vec!["skip".to_owned()],
    }
}

fn rows(name: &str, lines: &[&str]) -> Vec<Row> {
    let file = format!("sheaf-table-{}-{name}.csv", std::process::id());
    let path = std::env::temp_dir().join(file);
    std::fs::write(&path, format!("{HEADER}\n{}\n", lines.join("\n"))).expect("temp dir");
    let declared = [
        ("i", AttributeType::Int),
        ("f", AttributeType::Float),
        ("d", AttributeType::Decimal),
        ("b", AttributeType::Bool),
        ("t", AttributeType::Text),
        ("j", AttributeType::Json),
    ];
    let catalogue: HashMap<_, _> = declared
        .into_iter()
        .map(|(name, kind)| (name.to_owned(), kind))
        .collect();
    let plan = Plan::make(&path, &roles(), &catalogue).expect("a plan");
    let first = plan.first;
    let mut table = Table::open(&path, roles(), plan, first).expect("opens");
    let mut rows = Vec::new();
    while let Some(row) = table.next_row().expect("reads") {
        rows.push(row);
    }
    std::fs::remove_file(&path).expect("was there");
    rows
}

fn events(name: &str, lines: &[&str]) -> Vec<String> {
    let rows = rows(name, lines).into_iter();
    rows.map(|row| row.event.expect("an event")).collect()
}

#[test]
fn declared_columns_follow_the_catalogue_and_keep_their_digits() {
    let events = events(
        "declared",
        &["1,T,9007199254740993,1e-7,12.50,TRUE,007,\"{\"\"a\"\":[1,\n2]}\",,,,x"],
    );
    let expected = "{\"type\":\"plane\",\"id\":\"1\",\"observed_at\":\"T\",\"attributes\":{\"i\":9007199254740993,\
        \"f\":1e-7,\"d\":\"12.50\",\"b\":true,\"t\":\"007\",\"j\":{\"a\":[1, 2]}}}";
    assert_eq!(events, [expected]);
}

#[test]
fn an_undeclared_column_is_what_all_its_cells_are() {
    let events = events(
        "undeclared",
        &[
            "1,T,,,,,,,1,True,1,x",
            "2,T,,,,,,,NA,false,,x",
            "3,T,,,,,,,-2.5,,01,x",
        ],
    );
    let attributes: Vec<&str> = events
        .iter()
        .map(|event| event.split_once("\"attributes\":").expect("has them").1)
        .collect();
    assert_eq!(
        attributes,
        [
            "{\"n\":1,\"u\":true,\"w\":\"1\"}}",
            "{\"u\":false}}",
            "{\"n\":-2.5,\"w\":\"01\"}}"
        ]
    );
}

#[test]
fn a_value_of_another_kind_is_left_for_the_server_to_refuse() {
    let events = events("mismatch", &["1,T,+1,1.,x,yes,,,,,,"]);
    assert!(
        events[0].ends_with("{\"i\":\"+1\",\"f\":\"1.\",\"d\":\"x\",\"b\":\"yes\"}}"),
        "{}",
        events[0]
    );
}

#[test]
fn bad_rows_are_refused_with_their_line_and_the_others_stay() {
    let rows = rows(
        "bad",
        &[
            "1,T,1,,,,,,,,,x",
            "too,short",
            "2,,1,,,,,,,,,x",
            "3,T,1,,,,,{,,,,x",
            ",T,1,,,,,,,,,x",
        ],
    );
    let refusals: Vec<(u64, Option<&str>, &str)> = rows
        .iter()
        .flat_map(|row| &row.refusals)
        .map(|refused| {
            (
                refused.line,
                refused.field.as_deref(),
                refused.code.as_str(),
            )
        })
        .collect();
    assert_eq!(
        refusals,
        [
            (3, None, "malformed_line"),
            (4, None, "time_out_of_range"),
            (5, Some("j"), "malformed_json"),
        ]
    );
    let sent: Vec<u64> = rows
        .iter()
        .filter(|row| row.event.is_some())
        .map(|row| row.line)
        .collect();
    assert_eq!(sent, [2, 5, 6]);
    let without_id = rows[4].event.as_deref().expect("sent");
    assert!(
        without_id.starts_with("{\"type\":\"plane\",\"observed_at\""),
        "{without_id}"
    );
}

#[test]
fn a_header_that_cannot_be_used_is_an_error() {
    for (name, header, why) in [
        ("twice", "id,at,id", "twice"),
        ("no-id", "key,at", "no column \"id\""),
        ("no-time", "id,v", "no column \"at\""),
        ("empty", "", "empty"),
        ("open", "id,\"at", "reading the header"),
    ] {
        let file = format!("sheaf-header-{}-{name}.csv", std::process::id());
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, header).expect("temp dir");
        let roles = Roles {
            skip: Vec::new(),
            ..roles()
        };
        let error = Plan::make(&path, &roles, &HashMap::new()).expect_err(name);
        std::fs::remove_file(&path).expect("was there");
        assert!(error.to_string().contains(why), "{name}: {error}");
    }
    let wide = vec!["c"; 1_000_000].join(",");
    let path = std::env::temp_dir().join(format!("sheaf-header-{}-wide.csv", std::process::id()));
    std::fs::write(&path, wide).expect("temp dir");
    let error = Plan::make(&path, &roles(), &HashMap::new()).expect_err("too wide");
    std::fs::remove_file(&path).expect("was there");
    assert!(error.to_string().contains("1000000 columns"), "{error}");
}
