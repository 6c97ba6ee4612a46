//! PostgreSQL selects with a compiled filter exactly the entities for which the filter evaluates to true.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sheaf_model::{
    AttributeId, AttributeType, Decimal, EntityId, JsonText, TenantId, Timestamp, Value,
};
use sheaf_store::catalogue::Temperature;
use sheaf_store::value_index::IndexColumns;
use sheaf_testkit::TestDatabase;
use tokio_postgres::Client;

use super::generate::at;
use crate::filter::{
    ArrayRelation, Comparison, Condition, Expr, Located, Node, Parameter, Parameters, Property,
    Reserved, Scalar, TypedExpr, cast_of, compile,
};

const TENANT: i64 = 1;
/// Another, whose entities and attributes have the same numbers, so that a relation without its tenant would show.
const OTHER_TENANT: i64 = 2;
const ENTITIES: u32 = 300;
/// With whether there is a value index, which may be there while values still move.
const TEMPERATURES: [(&str, Temperature, bool); 6] = [
    ("hot", Temperature::Hot, false),
    ("indexed", Temperature::Hot, true),
    ("cold", Temperature::Cold, false),
    ("warming", Temperature::Warming, false),
    ("arriving", Temperature::Warming, true),
    ("cooling", Temperature::Cooling, false),
];

/// Small domains, so that conditions hold for some entities and not for others, with the cases that go wrong.
const NUMBERS: [&str; 10] = [
    "-1",
    "0",
    "0.1",
    "0.10",
    "2",
    "3.5",
    "1e20",
    "9007199254740992",
    "9007199254740993",
    "5e-324",
];
const TEXTS: [&str; 17] = [
    "",
    "a",
    "A",
    "b",
    "ab",
    "aB%",
    "a_b",
    "a\\b",
    "Straße",
    "STRASSE",
    "ΟΔΟΣ",
    "οδος",
    "é",
    "'\"",
    // One that a value index just holds, and two that are longer and differ behind it.
    "éééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé",
    "ééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééa",
    "ééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééb",
];
const PATTERNS: [&str; 13] = [
    "", "%", "_", "a%", "A_", "%b", "a\\%", "%\\%", "a\\_b", "a\\\\b", "stra%", "%ς", "a%b",
];
const MICROS: [i64; 5] = [
    -62_135_596_800_000_000,
    -1,
    0,
    1_356_998_400_000_000,
    1_356_998_400_000_001,
];
const JSONS: [&str; 8] = [
    "[]",
    "[\"a\",1]",
    "[\"a\",\"b\",true]",
    "[[\"a\"],1.0]",
    "{\"a\":1}",
    "\"a\"",
    "[null,false]",
    "1",
];

/// One attribute of each type and temperature: `hot_int`, numbered by its place.
fn attributes() -> Vec<(String, Property)> {
    let mut attributes = Vec::new();
    for (prefix, temperature, is_indexed) in TEMPERATURES {
        for kind in AttributeType::ALL {
            let id = i64::try_from(attributes.len()).expect("few attributes") + 1;
            let property = Property::Attribute {
                id: AttributeId(id),
                kind,
                temperature,
                is_indexed: is_indexed && cast_of(kind).is_some(),
            };
            attributes.push((format!("{prefix}_{kind}"), property));
        }
    }
    attributes
}

fn lookup(name: &str) -> Option<Property> {
    if let Some(reserved) = Reserved::named(name) {
        return Some(Property::Reserved(reserved));
    }
    let (_, property) = attributes().into_iter().find(|(known, _)| known == name)?;
    Some(property)
}

/// What the evaluator sees of an entity: its values by attribute number, and its own properties.
struct Entity {
    values: BTreeMap<i64, Value>,
    entity_type: Value,
    external_id: Value,
    observed_at: Value,
    updated_at: Value,
}

impl Entity {
    fn value(&self, property: &Property) -> Option<&Value> {
        match property {
            Property::Attribute { id, .. } => self.values.get(&id.0),
            Property::Reserved(Reserved::EntityType) => Some(&self.entity_type),
            Property::Reserved(Reserved::ExternalId) => Some(&self.external_id),
            Property::Reserved(Reserved::ObservedAt) => Some(&self.observed_at),
            Property::Reserved(Reserved::UpdatedAt) => Some(&self.updated_at),
        }
    }
}

fn time(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).expect("within the range")
}

fn values_of(kind: AttributeType) -> Vec<Value> {
    let decimals = || {
        NUMBERS
            .iter()
            .map(|text| text.parse::<Decimal>().expect("a number"))
    };
    match kind {
        AttributeType::Int => [
            -1,
            0,
            2,
            9_007_199_254_740_992,
            9_007_199_254_740_993,
            i64::MAX,
        ]
        .map(Value::Int)
        .to_vec(),
        AttributeType::Float => [
            -1.0,
            0.0,
            0.1,
            2.0,
            3.5,
            1e20,
            9_007_199_254_740_992.0,
            5e-324,
        ]
        .map(Value::Float)
        .to_vec(),
        AttributeType::Decimal => decimals().map(Value::Decimal).collect(),
        AttributeType::Text => TEXTS.map(|text| Value::Text(text.to_owned())).to_vec(),
        AttributeType::Bool => [true, false].map(Value::Bool).to_vec(),
        AttributeType::Time => MICROS.map(|micros| Value::Time(time(micros))).to_vec(),
        AttributeType::Json => JSONS
            .iter()
            .map(|json| Value::Json(JsonText::parse(json, 32).expect("JSON")))
            .collect(),
    }
}

/// Numbers at random from a fixed start: every run has the same entities.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits fit a usize") % end
    }
}

async fn insert(client: &Client, tenant: i64, number: u32, dice: &mut Dice) -> Result<Entity> {
    let (mut hot, mut cold) = (Vec::new(), Vec::new());
    let mut index = IndexColumns::default();
    let mut values = BTreeMap::new();
    for (_, property) in attributes() {
        let Property::Attribute {
            id,
            kind,
            temperature,
            is_indexed,
        } = property
        else {
            continue;
        };
        let domain = values_of(kind);
        let value = domain[dice.below(domain.len())].clone();
        // Absent; where it belongs; still where it was; or in both, the one it moves to being right.
        let chance = dice.below(4);
        if chance == 0 {
            continue;
        }
        let mut json = format!("\"{id}\":");
        value.write_stored(&mut json);
        let stale = format!(
            "\"{id}\":{}",
            if kind == AttributeType::Text {
                "\"stale\""
            } else {
                "0"
            }
        );
        let (home, away) = match temperature {
            Temperature::Hot | Temperature::Warming => (&mut hot, &mut cold),
            Temperature::Cold | Temperature::Cooling => (&mut cold, &mut hot),
        };
        let is_moving = matches!(temperature, Temperature::Warming | Temperature::Cooling);
        if is_moving && chance == 1 {
            away.push(json);
        } else {
            home.push(json);
            if is_moving && chance == 2 {
                away.push(stale);
            }
        }
        if is_indexed {
            let entity = EntityId(i64::from(number));
            index.push(TenantId(tenant), id, kind, entity, Some(&value));
        }
        values.insert(id.0, value);
    }
    let present: Vec<i64> = values.keys().copied().collect();
    let entity_type = TEXTS[1 + dice.below(4)];
    let external_id = format!("{number}{}", TEXTS[dice.below(TEXTS.len())]);
    let observed_at = time(MICROS[1 + dice.below(4)]);
    let updated_at = time(MICROS[1 + dice.below(4)]);
    let document = |members: Vec<String>| format!("{{{}}}", members.join(","));
    client
        .execute(
            "WITH named AS (
                INSERT INTO sheaf.entities (tenant_id, entity_id, entity_type, external_id, created_at)
                VALUES ($1, $2, $3, $4, now()))
            INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at,
                hot_attrs, cold_attrs, present, times)
            VALUES ($1, $2, 1, $5::text::timestamptz, false, $6::text::timestamptz,
                $7::text::jsonb, $8::text::jsonb, $9, '{}')",
            &[
                &tenant,
                &i64::from(number),
                &entity_type,
                &external_id,
                &observed_at.to_sortable(),
                &updated_at.to_sortable(),
                &document(hot),
                &document(cold),
                &present,
            ],
        )
        .await
        .context("insert an entity")?;
    index.put(client).await?;
    Ok(Entity {
        values,
        entity_type: Value::Text(entity_type.to_owned()),
        external_id: Value::Text(external_id),
        observed_at: Value::Time(observed_at),
        updated_at: Value::Time(updated_at),
    })
}

async fn populate(database: &TestDatabase) -> Result<Vec<Entity>> {
    let client = database.superuser().await?;
    client
        .execute(
            "INSERT INTO sheaf.tenants (tenant_id, name, created_at) OVERRIDING SYSTEM VALUE
            VALUES ($1, 'demo', now()), ($2, 'other', now())",
            &[&TENANT, &OTHER_TENANT],
        )
        .await?;
    let mut dice = Dice(1);
    let mut entities = Vec::new();
    for number in 0..ENTITIES {
        entities.push(insert(&client, TENANT, number, &mut dice).await?);
        insert(&client, OTHER_TENANT, number, &mut dice).await?;
    }
    client.batch_execute("ANALYZE").await?;
    Ok(entities)
}

/// The numbers of the entities that the compiled filter selects, in order.
async fn selected(client: &Client, typed: &TypedExpr) -> Result<Vec<usize>> {
    let mut parameters = Parameters::default();
    let tenant = parameters.push(Parameter::Int8(TENANT));
    let condition = compile(typed, &tenant, &mut parameters);
    let sql = format!(
        "SELECT e.entity_id FROM sheaf.entities e
        JOIN sheaf.entity_jsonb d ON d.tenant_id = e.tenant_id AND d.entity_id = e.entity_id
        WHERE e.tenant_id = {tenant} AND {condition} ORDER BY e.entity_id"
    );
    let rows = client
        .query_typed(&sql, &parameters.typed())
        .await
        .with_context(|| sql)?;
    rows.iter()
        .map(|row| Ok(usize::try_from(row.try_get::<_, i64>(0)?)?))
        .collect()
}

fn filters() -> impl Strategy<Value = Expr> {
    let properties: Vec<(String, AttributeType)> = attributes()
        .into_iter()
        .map(|(name, property)| (name, property.kind()))
        .chain([
            ("entity_type".to_owned(), AttributeType::Text),
            ("external_id".to_owned(), AttributeType::Text),
            ("observed_at".to_owned(), AttributeType::Time),
            ("updated_at".to_owned(), AttributeType::Time),
        ])
        .collect();
    proptest::sample::select(properties)
        .prop_flat_map(|(name, kind)| conditions(name, kind))
        .prop_map(|condition| at(Node::Condition(condition)))
        .prop_recursive(3, 12, 3, |inner| {
            let terms = proptest::collection::vec(inner.clone(), 2..4);
            prop_oneof![
                terms.clone().prop_map(|terms| at(Node::And(terms))),
                terms.prop_map(|terms| at(Node::Or(terms))),
                inner.prop_map(|inner| at(Node::Not(Box::new(inner)))),
            ]
        })
}

fn conditions(name: String, kind: AttributeType) -> BoxedStrategy<Condition> {
    let property = at(name);
    let null = Just(Condition::IsNull {
        property: property.clone(),
    });
    if kind == AttributeType::Json {
        return prop_oneof![1 => null, 4 => arrays(property)].boxed();
    }
    let comparisons: &'static [Comparison] = if kind == AttributeType::Bool {
        &[Comparison::Equal, Comparison::NotEqual]
    } else {
        &Comparison::ALL
    };
    let one = property.clone();
    let compare = (proptest::sample::select(comparisons), literals(kind)).prop_map(
        move |(comparison, value)| Condition::Compare {
            property: one.clone(),
            folded: false,
            comparison,
            value,
        },
    );
    let one = property.clone();
    let list =
        proptest::collection::vec(literals(kind), 1..4).prop_map(move |values| Condition::In {
            property: one.clone(),
            folded: false,
            values,
        });
    let common = prop_oneof![1 => null, 3 => compare, 2 => list];
    match kind {
        AttributeType::Bool => common.boxed(),
        AttributeType::Text => {
            prop_oneof![common, between(property.clone(), kind), texts(property)].boxed()
        }
        AttributeType::Time => {
            prop_oneof![common, between(property.clone(), kind), during(property)].boxed()
        }
        _ => prop_oneof![2 => common, 1 => between(property, kind)].boxed(),
    }
}

fn between(property: Located<String>, kind: AttributeType) -> impl Strategy<Value = Condition> {
    (literals(kind), literals(kind)).prop_map(move |(low, high)| Condition::Between {
        property: property.clone(),
        low,
        high,
    })
}

fn during(property: Located<String>) -> impl Strategy<Value = Condition> {
    let ends = || {
        proptest::option::of(
            proptest::sample::select(&MICROS[..]).prop_map(|micros| at(time(micros))),
        )
    };
    (ends(), ends()).prop_map(move |(from, to)| Condition::During {
        property: property.clone(),
        from,
        to,
    })
}

fn texts(property: Located<String>) -> impl Strategy<Value = Condition> {
    let one = property.clone();
    let like = (any::<bool>(), proptest::sample::select(&PATTERNS[..])).prop_map(
        move |(folded, pattern)| Condition::Like {
            property: one.clone(),
            folded,
            pattern: at(pattern.to_owned()),
        },
    );
    let folded =
        proptest::collection::vec(literals(AttributeType::Text), 1..3).prop_map(move |values| {
            Condition::In {
                property: property.clone(),
                folded: true,
                values,
            }
        });
    prop_oneof![like, folded]
}

fn arrays(property: Located<String>) -> impl Strategy<Value = Condition> {
    let element = prop_oneof![
        proptest::sample::select(&["a", "b", "1"][..])
            .prop_map(|text| Scalar::Text(text.to_owned())),
        proptest::sample::select(&["1", "1.0", "2"][..])
            .prop_map(|text| Scalar::Number(text.parse().expect("a number"))),
        any::<bool>().prop_map(Scalar::Bool),
    ];
    let relations =
        proptest::sample::select(&[ArrayRelation::Contains, ArrayRelation::Overlaps][..]);
    (
        relations,
        proptest::collection::vec(element.prop_map(at), 0..3),
    )
        .prop_map(move |(relation, values)| Condition::Array {
            property: property.clone(),
            relation,
            values,
        })
}

fn literals(kind: AttributeType) -> BoxedStrategy<Located<Scalar>> {
    match kind {
        AttributeType::Int | AttributeType::Float | AttributeType::Decimal => {
            proptest::sample::select(&NUMBERS[..])
                .prop_map(|text| at(Scalar::Number(text.parse().expect("a number"))))
                .boxed()
        }
        AttributeType::Text | AttributeType::Json => proptest::sample::select(&TEXTS[..])
            .prop_map(|text| at(Scalar::Text(text.to_owned())))
            .boxed(),
        AttributeType::Bool => any::<bool>()
            .prop_map(|truth| at(Scalar::Bool(truth)))
            .boxed(),
        AttributeType::Time => proptest::sample::select(&MICROS[..])
            .prop_map(|micros| at(Scalar::Time(time(micros))))
            .boxed(),
    }
}

#[test]
fn postgres_selects_what_the_filter_means() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let database = runtime.block_on(TestDatabase::create())?;
    let entities = runtime.block_on(populate(&database))?;
    let client = runtime.block_on(database.client("sheaf_search"))?;
    let mut runner = TestRunner::new(Config {
        cases: 2_000,
        failure_persistence: None,
        ..Config::default()
    });
    let telling = std::cell::Cell::new(0);
    runner.run(&filters(), |filter| {
        let typed = TypedExpr::resolve(&filter, &lookup)?;
        let meant: Vec<usize> = entities
            .iter()
            .enumerate()
            .filter(|(_, entity)| typed.evaluate(&|property| entity.value(property)) == Some(true))
            .map(|(number, _)| number)
            .collect();
        let found = runtime
            .block_on(selected(&client, &typed))
            .map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        prop_assert_eq!(found, meant.clone(), "{}", filter.to_text());
        if !meant.is_empty() && meant.len() < entities.len() {
            telling.set(telling.get() + 1);
        }
        Ok(())
    })?;
    ensure!(
        telling.get() > 1_000,
        "only {} filters told entities apart",
        telling.get()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_equality_and_sparse_attributes_are_found_by_index() -> Result<()> {
    let database = TestDatabase::create().await?;
    let client = database.superuser().await?;
    // Attribute 1 is hot and has 5,000 values; attribute 2 is cold, and 20 entities have it.
    client
        .batch_execute(
            "INSERT INTO sheaf.tenants (name, created_at) VALUES ('demo', now());
            INSERT INTO sheaf.entities (tenant_id, entity_id, entity_type, external_id, created_at)
            SELECT 1, n, 'plane', 'N' || n, now() FROM generate_series(1, 20000) n;
            INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at,
                hot_attrs, cold_attrs, present, times)
            SELECT 1, n, 1, now(), false, now(), jsonb_build_object('1', n % 5000),
                CASE WHEN n % 1000 = 0 THEN jsonb_build_object('2', n) ELSE '{}' END,
                CASE WHEN n % 1000 = 0 THEN ARRAY[1, 2] ELSE ARRAY[1] END, '{}'
            FROM generate_series(1, 20000) n;
            INSERT INTO sheaf.entity_index_int (tenant_id, attribute_id, entity_id, value)
            SELECT 1, 3, n, n FROM generate_series(1, 20000) n;
            ANALYZE",
        )
        .await?;
    let search = database.client("sheaf_search").await?;
    let lookup = |name: &str| {
        let (id, temperature) = match name {
            "hot" => (1, Temperature::Hot),
            "indexed" => (3, Temperature::Hot),
            _ => (2, Temperature::Cold),
        };
        Some(Property::Attribute {
            id: AttributeId(id),
            kind: AttributeType::Int,
            temperature,
            is_indexed: name == "indexed",
        })
    };
    let table = [
        ("hot = 149", "entity_jsonb_hot_attrs", 4),
        ("hot IN (149, 150)", "entity_jsonb_hot_attrs", 8),
        ("cold >= 10000", "entity_jsonb_present", 11),
        ("cold = 10000", "entity_jsonb_present", 1),
        ("cold <> 10000", "entity_jsonb_present", 19),
        ("cold IS NOT NULL", "entity_jsonb_present", 20),
        ("hot = 149 OR cold = 10000", "entity_jsonb_present", 5),
        (
            "indexed BETWEEN 100 AND 110.5",
            "entity_index_int_value",
            11,
        ),
        ("indexed < 10 AND indexed > 3", "entity_index_int_value", 6),
    ];
    for (filter, index, count) in table {
        let typed = TypedExpr::resolve(&crate::filter::parse_text(filter)?, &lookup)?;
        let mut parameters = Parameters::default();
        let condition = compile(&typed, "1::bigint", &mut parameters);
        let sql = format!(
            "SELECT d.entity_id FROM sheaf.entity_jsonb d WHERE d.tenant_id = 1::bigint AND {condition}"
        );
        let plan = explain(&search, &sql, &parameters).await?;
        ensure!(
            plan.contains(index),
            "{filter} is not answered by {index}:\n{plan}"
        );
        let rows = search.query_typed(&sql, &parameters.typed()).await?;
        ensure!(rows.len() == count, "{filter} found {}", rows.len());
    }
    Ok(())
}

async fn explain(client: &Client, sql: &str, parameters: &Parameters) -> Result<String> {
    let values: Vec<_> = parameters.typed();
    let rows = client
        .query_typed(&format!("EXPLAIN {sql}"), &values)
        .await?;
    let mut plan = String::new();
    for row in &rows {
        writeln!(plan, "{}", row.try_get::<_, &str>(0)?)?;
    }
    Ok(plan)
}
