//! The shapes of SQL that filters become.

use sheaf_model::{AttributeId, AttributeType};
use sheaf_store::catalogue::Temperature;

use crate::filter::{Parameter, Parameters, Property, Reserved, TypedExpr, compile, parse_text};

/// Names such as `hot_int`: attribute 7 of that type and temperature.
fn lookup(name: &str) -> Option<Property> {
    if let Some(reserved) = Reserved::named(name) {
        return Some(Property::Reserved(reserved));
    }
    let (prefix, kind) = name.split_once('_')?;
    let temperature = match prefix {
        "hot" | "indexed" => Temperature::Hot,
        "cold" => Temperature::Cold,
        "warming" => Temperature::Warming,
        "cooling" => Temperature::Cooling,
        _ => return None,
    };
    Some(Property::Attribute {
        id: AttributeId(7),
        kind: AttributeType::parse(kind)?,
        temperature,
        is_indexed: prefix == "indexed",
    })
}

fn compiled(filter: &str) -> (String, Parameters) {
    let expr = parse_text(filter).expect(filter);
    let typed = TypedExpr::resolve(&expr, &lookup).expect(filter);
    let mut parameters = Parameters::default();
    let sql = compile(&typed, "$tenant", &mut parameters);
    (sql, parameters)
}

fn texts(values: &[&str]) -> Parameter {
    Parameter::TextArray(values.iter().map(|value| (*value).to_owned()).collect())
}

#[test]
fn each_test_becomes_its_shape() {
    let table = [
        ("hot_int = 149", "d.hot_attrs @> ANY ($1::text[]::jsonb[])"),
        (
            "hot_text IN ('a','b')",
            "d.hot_attrs @> ANY ($1::text[]::jsonb[])",
        ),
        (
            "hot_int = 149 AND cold_int = 1 AND hot_int = 150",
            "(d.hot_attrs @> ANY ($1::text[]::jsonb[]) AND (d.present @> $4::bigint[] \
             AND (d.cold_attrs -> $2::text) = ANY ($3::text[]::jsonb[])) AND d.hot_attrs @> ANY ($5::text[]::jsonb[]))",
        ),
        (
            "NOT (NOT hot_int = 149)",
            "d.hot_attrs @> ANY ($1::text[]::jsonb[])",
        ),
        (
            "hot_int <> 149",
            "(d.present @> $3::bigint[] AND NOT ((d.hot_attrs -> $1::text) = ANY ($2::text[]::jsonb[])))",
        ),
        (
            "cold_int = 149",
            "(d.present @> $3::bigint[] AND (d.cold_attrs -> $1::text) = ANY ($2::text[]::jsonb[]))",
        ),
        (
            "warming_int = 1",
            "(d.present @> $3::bigint[] AND \
             coalesce(d.hot_attrs -> $1::text, d.cold_attrs -> $1::text) = ANY ($2::text[]::jsonb[]))",
        ),
        (
            "cooling_int = 1",
            "(d.present @> $3::bigint[] AND \
             coalesce(d.cold_attrs -> $1::text, d.hot_attrs -> $1::text) = ANY ($2::text[]::jsonb[]))",
        ),
        (
            "hot_int >= 100",
            "(d.present @> $3::bigint[] AND (d.hot_attrs ->> $1::text)::numeric >= $2::text::numeric)",
        ),
        (
            "cold_float BETWEEN 1 AND 2",
            "(d.present @> $4::bigint[] AND (d.cold_attrs ->> $1::text)::numeric >= $2::text::numeric \
             AND (d.cold_attrs ->> $1::text)::numeric <= $3::text::numeric)",
        ),
        (
            "NOT hot_text < 'x'",
            "(d.present @> $3::bigint[] AND NOT ((d.hot_attrs ->> $1::text) COLLATE \"C\" < $2::text))",
        ),
        (
            "T_DURING(hot_time, INTERVAL('..','..'))",
            "(d.present @> $2::bigint[] AND TRUE)",
        ),
        (
            "hot_text LIKE 'N%'",
            "(d.present @> $3::bigint[] AND (d.hot_attrs ->> $1::text) COLLATE \"C\" LIKE $2::text)",
        ),
        (
            "CASEI(hot_text) LIKE CASEI('n%')",
            "(d.present @> $3::bigint[] AND \
             upper((d.hot_attrs ->> $1::text) COLLATE \"und-x-icu\") COLLATE \"C\" LIKE \
             upper($2::text COLLATE \"und-x-icu\") COLLATE \"C\")",
        ),
        (
            "CASEI(cold_text) = CASEI('n')",
            "(d.present @> $3::bigint[] AND \
             upper((d.cold_attrs ->> $1::text) COLLATE \"und-x-icu\") COLLATE \"C\" = ANY \
             (ARRAY(SELECT upper(list.text COLLATE \"und-x-icu\") COLLATE \"C\" FROM unnest($2::text[]) AS list (text))))",
        ),
        (
            "indexed_int BETWEEN 1 AND 2.5",
            "EXISTS (SELECT FROM sheaf.entity_index_int i WHERE i.tenant_id = $tenant AND i.attribute_id = $1::bigint \
             AND i.entity_id = d.entity_id AND i.value >= $2::text::bigint AND i.value <= $3::text::bigint)",
        ),
        (
            "indexed_time > DATE('2013-01-01') AND hot_int = 1 AND indexed_time <= DATE('2013-01-02')",
            "(d.hot_attrs @> ANY ($1::text[]::jsonb[]) AND EXISTS (SELECT FROM sheaf.entity_index_time i \
             WHERE i.tenant_id = $tenant AND i.attribute_id = $2::bigint AND i.entity_id = d.entity_id \
             AND i.value > $3::text::timestamptz AND i.value <= $4::text::timestamptz))",
        ),
        (
            "indexed_text LIKE 'N%7'",
            "(EXISTS (SELECT FROM sheaf.entity_index_text i WHERE i.tenant_id = $tenant AND i.attribute_id = $1::bigint \
             AND i.entity_id = d.entity_id AND i.value >= $2::text AND i.value < $3::text) \
             AND (d.present @> $6::bigint[] AND (d.hot_attrs ->> $4::text) COLLATE \"C\" LIKE $5::text))",
        ),
        (
            "indexed_int > 1 OR hot_int = 2 OR indexed_text < 'a' OR cold_int IS NOT NULL",
            "d.entity_id IN (\
             SELECT i.entity_id FROM sheaf.entity_index_int i WHERE i.tenant_id = $tenant AND i.attribute_id = $1::bigint \
             AND i.value > $2::text::bigint UNION ALL \
             SELECT i.entity_id FROM sheaf.entity_index_text i WHERE i.tenant_id = $tenant AND i.attribute_id = $3::bigint \
             AND i.value < $4::text UNION ALL \
             SELECT d.entity_id FROM sheaf.entity_jsonb d WHERE d.tenant_id = $tenant AND \
             (d.hot_attrs @> ANY ($5::text[]::jsonb[]) OR d.present @> $6::bigint[]))",
        ),
        (
            "indexed_int > 1 AND entity_type = 'plane' OR indexed_int < 0",
            "d.entity_id IN (\
             SELECT d.entity_id FROM sheaf.entity_jsonb d \
             JOIN sheaf.entities e ON e.tenant_id = d.tenant_id AND e.entity_id = d.entity_id \
             WHERE d.tenant_id = $tenant AND e.tenant_id = $tenant AND \
             (EXISTS (SELECT FROM sheaf.entity_index_int i WHERE i.tenant_id = $tenant AND i.attribute_id = $1::bigint \
             AND i.entity_id = d.entity_id AND i.value > $2::text::bigint) AND e.entity_type = ANY ($3::text[])) UNION ALL \
             SELECT i.entity_id FROM sheaf.entity_index_int i WHERE i.tenant_id = $tenant AND i.attribute_id = $4::bigint \
             AND i.value < $5::text::bigint)",
        ),
        (
            "indexed_int > 1 AND (indexed_text < 'a' OR hot_bool = TRUE)",
            "(d.entity_id IN (\
             SELECT d.entity_id FROM sheaf.entity_jsonb d WHERE d.tenant_id = $tenant AND \
             EXISTS (SELECT FROM sheaf.entity_index_text i WHERE i.tenant_id = $tenant AND i.attribute_id = $1::bigint \
             AND i.entity_id = d.entity_id AND i.value < $2::text) AND \
             EXISTS (SELECT FROM sheaf.entity_index_int i WHERE i.tenant_id = $tenant AND i.attribute_id = $3::bigint \
             AND i.entity_id = d.entity_id AND i.value > $4::text::bigint) UNION ALL \
             SELECT d.entity_id FROM sheaf.entity_jsonb d WHERE d.tenant_id = $tenant AND \
             d.hot_attrs @> ANY ($5::text[]::jsonb[]) AND \
             EXISTS (SELECT FROM sheaf.entity_index_int i WHERE i.tenant_id = $tenant AND i.attribute_id = $6::bigint \
             AND i.entity_id = d.entity_id AND i.value > $7::text::bigint)))",
        ),
        (
            "indexed_int > 1 OR external_id = 'a'",
            "((d.present @> $3::bigint[] AND (d.hot_attrs ->> $1::text)::numeric > $2::text::numeric) \
             OR e.external_id = ANY ($4::text[]))",
        ),
        (
            "hot_bool = TRUE AND (indexed_int > 1 OR hot_int = 2)",
            "(d.hot_attrs @> ANY ($1::text[]::jsonb[]) AND \
             ((d.present @> $4::bigint[] AND (d.hot_attrs ->> $2::text)::numeric > $3::text::numeric) \
             OR d.hot_attrs @> ANY ($5::text[]::jsonb[])))",
        ),
        (
            "NOT indexed_int < 1",
            "(d.present @> $3::bigint[] AND NOT ((d.hot_attrs ->> $1::text)::numeric < $2::text::numeric))",
        ),
        (
            "indexed_int = 1",
            "d.hot_attrs @> ANY ($1::text[]::jsonb[])",
        ),
        ("hot_int IS NULL", "NOT (d.present @> $1::bigint[])"),
        ("hot_int IS NOT NULL", "d.present @> $1::bigint[]"),
        (
            "A_OVERLAPS(hot_json, ('a',1))",
            "d.hot_attrs @> ANY ($1::text[]::jsonb[])",
        ),
        (
            "A_CONTAINS(cold_json, ('a',1))",
            "(d.present @> $3::bigint[] AND (d.cold_attrs -> $1::text) @> ANY ($2::text[]::jsonb[]))",
        ),
        (
            "external_id IN ('a','b')",
            "e.external_id = ANY ($1::text[])",
        ),
        (
            "entity_type <> 'plane'",
            "NOT (e.entity_type = ANY ($1::text[]))",
        ),
        (
            "external_id LIKE 'N%'",
            "e.external_id COLLATE \"C\" LIKE $1::text",
        ),
        (
            "observed_at > DATE('2013-01-01')",
            "d.newest > $1::text::timestamptz",
        ),
        (
            "updated_at = DATE('2013-01-01')",
            "d.updated_at = ANY ($1::text[]::timestamptz[])",
        ),
        ("observed_at IS NULL", "FALSE"),
        ("external_id IS NOT NULL", "NOT (FALSE)"),
        (
            "NOT (external_id = 'a' AND (entity_type = 'b' OR observed_at IS NULL))",
            "(NOT (e.external_id = ANY ($1::text[])) OR \
             (NOT (e.entity_type = ANY ($2::text[])) AND NOT (FALSE)))",
        ),
    ];
    for (filter, shape) in table {
        assert_eq!(compiled(filter).0, shape, "{filter}");
    }
}

#[test]
fn literals_are_sent_in_the_form_that_documents_hold() {
    let table = [
        ("hot_int = 1.50e2", r#"{"7":150}"#),
        ("hot_decimal = 12.50", r#"{"7":12.50}"#),
        ("hot_bool = TRUE", r#"{"7":true}"#),
        ("hot_text = 'say \"x\"'", r#"{"7":"say \"x\""}"#),
        (
            "hot_time = DATE('2013-01-01')",
            r#"{"7":"2013-01-01T00:00:00.000000Z"}"#,
        ),
        (
            "A_CONTAINS(hot_json, ('a',1,FALSE))",
            r#"{"7":["a",1,false]}"#,
        ),
    ];
    for (filter, document) in table {
        assert_eq!(
            compiled(filter).1.as_slice(),
            [texts(&[document])],
            "{filter}"
        );
    }
    let (_, parameters) = compiled("cold_text <> 'x'");
    let sent = [
        Parameter::Text("7".to_owned()),
        texts(&["\"x\""]),
        Parameter::Int8Array(vec![7]),
    ];
    assert_eq!(parameters.as_slice(), sent);
}

#[test]
fn nothing_that_was_sent_becomes_sql() {
    let (sql, _) = compiled(
        "hot_text = 'Robert''); DROP' OR CASEI(cold_text) LIKE CASEI('DROP%') OR external_id > 'DROP'",
    );
    assert!(!sql.contains("DROP"), "{sql}");
}
