//! Literals have their attributes' types, and absent attributes leave conditions unknown.

use std::collections::BTreeMap;

use sheaf_model::{AttributeId, AttributeType, JsonText, Timestamp, Value};
use sheaf_store::catalogue::Temperature;

use crate::filter::{FilterError, Property, Reserved, TypedExpr, parse_text};

/// One attribute of each type, named by it.
fn lookup(name: &str) -> Option<Property> {
    if let Some(reserved) = Reserved::named(name) {
        return Some(Property::Reserved(reserved));
    }
    let name = if name == "\u{e9}" { "int" } else { name };
    let kind = AttributeType::parse(name)?;
    let place = AttributeType::ALL
        .iter()
        .position(|other| *other == kind)
        .expect("every type is in the list");
    Some(Property::Attribute {
        id: AttributeId(i64::try_from(place).expect("a small number")),
        kind,
        temperature: Temperature::Hot,
        is_indexed: false,
    })
}

fn typed(filter: &str) -> Result<TypedExpr, FilterError> {
    TypedExpr::resolve(&parse_text(filter)?, &lookup)
}

fn passes(filter: &str, values: &BTreeMap<&str, Value>) -> Option<bool> {
    let value_of = |property: &Property| {
        let name = match property {
            Property::Attribute { kind, .. } => kind.as_str(),
            Property::Reserved(Reserved::EntityType) => "entity_type",
            Property::Reserved(Reserved::ExternalId) => "external_id",
            Property::Reserved(Reserved::ObservedAt) => "observed_at",
            Property::Reserved(Reserved::UpdatedAt) => "updated_at",
        };
        values.get(name)
    };
    typed(filter).expect(filter).evaluate(&value_of)
}

#[test]
fn an_unknown_attribute_is_named_where_it_stands() {
    let error = typed("int = 1 AND seatz >= 100").expect_err("unknown");
    assert_eq!(error.code(), "unknown_attribute");
    assert_eq!(error.offset(), 12);
    assert_eq!(error.to_string(), "unknown attribute \"seatz\"");
}

#[test]
fn a_name_is_found_in_whatever_normal_form_it_is_written() {
    assert!(typed("e\u{301} = 1").is_ok());
    assert!(typed("\"e\u{301}\" = 1").is_ok());
}

#[test]
fn a_literal_of_another_type_is_refused_where_it_stands() {
    let table = [
        ("int = 'x'", 6, "int is int, got a text"),
        (
            "float IN (1, TRUE)",
            13,
            "float is float, got a truth value",
        ),
        (
            "decimal > DATE('2013-01-01')",
            10,
            "decimal is decimal, got a time",
        ),
        ("text = 5", 7, "text is text, got a number"),
        ("text BETWEEN 'a' AND 5", 21, "text is text, got a number"),
        ("bool = 'true'", 7, "bool is bool, got a text"),
        (
            "bool < TRUE",
            7,
            "truth values have no order; = <> and IN are supported",
        ),
        (
            "time = '2013-01-01T00:00:00Z'",
            7,
            "time is time, got a text",
        ),
        ("observed_at > 5", 14, "observed_at is time, got a number"),
        ("external_id = 5", 14, "external_id is text, got a number"),
        (
            "json = 'x'",
            0,
            "json is json: IS NULL, A_CONTAINS and A_OVERLAPS are supported",
        ),
        (
            "int LIKE '1%'",
            0,
            "LIKE needs a property of type text, int is int",
        ),
        (
            "CASEI(int) = CASEI('x')",
            6,
            "CASEI needs a property of type text, int is int",
        ),
        (
            "T_DURING(text, INTERVAL('..','..'))",
            9,
            "T_DURING needs a property of type time, text is text",
        ),
        (
            "A_CONTAINS(text, ('a'))",
            11,
            "A_CONTAINS needs a property of type json, text is text",
        ),
        (
            "A_CONTAINS(json, (DATE('2013-01-01')))",
            18,
            "an element of a json array is a number, a text or a truth value",
        ),
    ];
    for (filter, offset, detail) in table {
        let error = typed(filter).expect_err(filter);
        assert_eq!(error.code(), "invalid_filter", "{filter}");
        assert_eq!(
            (error.offset(), error.to_string().as_str()),
            (offset, detail),
            "{filter}"
        );
    }
}

fn entity() -> BTreeMap<&'static str, Value> {
    let time = Timestamp::parse_date("2013-01-02").expect("a day");
    let json = JsonText::parse(r#"["a", 1.0, true, null, ["b"]]"#, 32).expect("JSON");
    BTreeMap::from([
        ("int", Value::Int(9_007_199_254_740_993)),
        ("float", Value::Float(0.1)),
        (
            "decimal",
            Value::Decimal("12.50".parse().expect("a decimal")),
        ),
        ("text", Value::Text("Straße 5%".to_owned())),
        ("time", Value::Time(time)),
        ("json", Value::Json(json)),
        ("external_id", Value::Text("N14228".to_owned())),
        ("observed_at", Value::Time(time)),
    ])
}

#[test]
fn conditions_mean_what_they_say() {
    let entity = entity();
    let table = [
        ("int = 9007199254740993", true),
        ("int = 9007199254740992", false),
        ("int > 9007199254740992.5", true),
        ("int = 3.5", false),
        ("float = 0.1", true),
        ("float = 0.10", true),
        ("float < 0.1000000000000000055511151231257827", true),
        ("decimal = 12.5", true),
        ("decimal BETWEEN 12.5 AND 12.5", true),
        ("decimal NOT BETWEEN 12.5 AND 13", false),
        ("decimal BETWEEN 13 AND 12", false),
        ("text > 'Stra'", true),
        ("text = 'straße 5%'", false),
        ("CASEI(text) = CASEI('STRASSE 5%')", true),
        (
            "CASEI(text) NOT IN (CASEI('x'), CASEI('strasse 5%'))",
            false,
        ),
        ("text LIKE 'Stra_e%'", true),
        ("text LIKE 'stra%'", false),
        ("CASEI(text) LIKE CASEI('stra%')", true),
        ("text LIKE '%5\\%'", true),
        ("time = DATE('2013-01-02')", true),
        ("time < TIMESTAMP('2013-01-02T00:00:00.000001Z')", true),
        ("T_DURING(time, INTERVAL('2013-01-01','2013-01-03'))", true),
        ("T_DURING(time, INTERVAL('2013-01-02','2013-01-03'))", false),
        ("T_DURING(time, INTERVAL('..','2013-01-02'))", false),
        ("T_DURING(time, INTERVAL('..','..'))", true),
        ("A_CONTAINS(json, ('a', 1, TRUE))", true),
        ("A_CONTAINS(json, ('a', 'b'))", false),
        ("A_OVERLAPS(json, ('b', 'a'))", true),
        ("A_OVERLAPS(json, ('1', FALSE))", false),
        ("A_CONTAINS(json, ())", true),
        ("A_OVERLAPS(json, ())", false),
        ("bool IS NULL", true),
        ("int IS NULL", false),
        (
            "external_id LIKE 'N14%' AND observed_at >= DATE('2013-01-02')",
            true,
        ),
    ];
    for (filter, truth) in table {
        assert_eq!(passes(filter, &entity), Some(truth), "{filter}");
    }
}

#[test]
fn a_condition_on_an_absent_attribute_is_unknown_also_under_not() {
    let empty = BTreeMap::new();
    for condition in [
        "int = 1",
        "int <> 1",
        "int IN (1)",
        "int < 1",
        "int BETWEEN 1 AND 2",
        "text LIKE '%'",
        "CASEI(text) = CASEI('')",
        "T_DURING(time, INTERVAL('..','..'))",
        "A_CONTAINS(json, ())",
    ] {
        assert_eq!(passes(condition, &empty), None, "{condition}");
        assert_eq!(
            passes(&format!("NOT {condition}"), &empty),
            None,
            "{condition}"
        );
        assert_eq!(
            passes(&format!("{condition} OR int IS NULL"), &empty),
            Some(true)
        );
        assert_eq!(
            passes(&format!("{condition} AND int IS NOT NULL"), &empty),
            Some(false)
        );
    }
}

#[test]
fn an_object_holds_no_elements() {
    let json = Value::Json(JsonText::parse(r#"{"a":1}"#, 32).expect("JSON"));
    let entity = BTreeMap::from([("json", json)]);
    assert_eq!(passes("A_CONTAINS(json, ())", &entity), Some(false));
    assert_eq!(passes("A_OVERLAPS(json, ('a'))", &entity), Some(false));
}
