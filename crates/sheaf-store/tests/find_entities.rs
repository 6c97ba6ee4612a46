//! `sheaf.find_entities_by_attributes`, as people in psql call it: what it finds, what it refuses, and whose it finds.

mod world;

use anyhow::{Context, Result};
use sheaf_model::{AttributeType, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{Description, NewAttribute, Temperature, declare_attribute};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use world::World;

/// One attribute of each type and each place of values, `int_hot` and so on, and five planes.
async fn filled(world: &World, name: &str) -> Result<TenantScope> {
    let scope = world.tenant(name).await?;
    for kind in AttributeType::ALL {
        for temperature in [
            Temperature::Hot,
            Temperature::Cold,
            Temperature::Warming,
            Temperature::Cooling,
        ] {
            let attribute = NewAttribute {
                name: format!("{kind}_{}", temperature.as_str()),
                kind,
                temperature,
            };
            let (description, now) = (Description::default(), Timestamp::now());
            declare_attribute(&world.app, &scope, &attribute, &description, now).await?;
        }
    }
    let client = world.database.superuser().await?;
    let tenant = scope.tenant().0;
    let rows = [
        (
            1,
            r#"{"int":100,"float":1.5,"decimal":12.50,"text":"a","bool":true,"time":"2024-01-01T00:00:00.000000Z","json":{"k":[1]}}"#,
            "1 hour",
        ),
        (
            2,
            r#"{"int":200,"float":-2.5,"decimal":99999999999999999999.99,"text":"B","bool":false,"time":"2024-06-01T00:00:00.000000Z","json":[1,"x"]}"#,
            "2 days",
        ),
        (
            3,
            r#"{"int":9007199254740993,"float":1e300,"text":"it's","bool":true}"#,
            "1 hour",
        ),
        (4, "{}", "1 hour"),
    ];
    for (number, values, age) in rows {
        client
            .execute(
                "WITH named AS (
                    INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)
                    VALUES ($1, 'plane', 'N' || $2::int, now()) RETURNING entity_id
                ), cells AS (
                    SELECT a.attribute_id, j.value, a.temperature IN ('hot', 'cooling') AS is_hot
                    FROM sheaf.attributes a JOIN jsonb_each($3::text::jsonb) j ON j.key = a.type WHERE a.tenant_id = $1
                )
                INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at, hot_attrs, cold_attrs, present, times)
                SELECT $1, entity_id, 1, now() - $4::text::interval, false, now(),
                    coalesce((SELECT jsonb_object_agg(attribute_id, value) FROM cells WHERE is_hot), '{}'),
                    coalesce((SELECT jsonb_object_agg(attribute_id, value) FROM cells WHERE NOT is_hot), '{}'),
                    coalesce((SELECT array_agg(attribute_id ORDER BY attribute_id) FROM cells), '{}'), '{}'
                FROM named",
                &[&tenant, &number, &values, &age],
            )
            .await
            .context("insert a plane")?;
    }
    client
        .execute(
            "UPDATE sheaf.entity_jsonb SET deleted = true WHERE tenant_id = $1 AND present = '{}'",
            &[&tenant],
        )
        .await?;
    Ok(scope)
}

async fn found(
    client: &Client,
    tenant: i64,
    filters: &str,
    rest: &str,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let sql = format!(
        "SELECT external_id FROM sheaf.find_entities_by_attributes({tenant}, $1::text::jsonb{rest})"
    );
    let rows = client.query(&sql, &[&filters]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[tokio::test]
async fn filters_find_what_they_say_wherever_the_values_lie() -> Result<()> {
    let world = World::create().await?;
    let tenant = filled(&world, "acme").await?.tenant().0;
    let client = world.database.superuser().await?;
    for place in ["hot", "cold", "warming", "cooling"] {
        for (name, wanted, planes) in [
            (
                "int",
                r#"{">=":100,"<":9007199254740993}"#,
                &["N1", "N2"][..],
            ),
            ("int", "9007199254740993", &["N3"]),
            ("int", "9007199254740992", &[]),
            ("int", "null", &[]),
            ("decimal", "null", &["N3"]),
            ("decimal", r#"{"<>":null}"#, &["N1", "N2"]),
            ("decimal", r#""12.5""#, &["N1"]),
            ("decimal", r#"{">":99999999999999999999.98}"#, &["N2"]),
            ("float", r#"{"<=":1.5}"#, &["N1", "N2"]),
            ("text", r#""a""#, &["N1"]),
            ("text", r#""it's""#, &["N3"]),
            ("text", r#"{"<>":"a"}"#, &["N2", "N3"]),
            ("text", r#"{"<":"a"}"#, &["N2"]),
            ("bool", "true", &["N1", "N3"]),
            ("bool", r#"{"<>":true}"#, &["N2"]),
            (
                "time",
                r#"{">=":"2024-01-01T01:00:00+01:00","<":"2024-06-01"}"#,
                &["N1"],
            ),
            ("time", r#""2024-06-01T02:00:00+02:00""#, &["N2"]),
            ("json", r#"{"=":{"k":[1.0]}}"#, &["N1"]),
            ("json", r#"[1,"x"]"#, &["N2"]),
        ] {
            let filters = format!(r#"{{"{name}_{place}":{wanted}}}"#);
            assert_eq!(
                found(&client, tenant, &filters, "").await?,
                planes,
                "{filters}"
            );
        }
    }
    let both = r#"{"int_hot":{">=":100},"bool_cold":true}"#;
    assert_eq!(found(&client, tenant, both, "").await?, ["N1", "N3"]);
    assert_eq!(found(&client, tenant, "{}", "").await?, ["N1", "N2", "N3"]);
    assert_eq!(
        found(&client, tenant, "{}", ", limit_max => 2").await?,
        ["N1", "N2"]
    );
    assert_eq!(
        found(&client, tenant, "{}", ", interval '1 day'").await?,
        ["N1", "N3"]
    );
    let sql = "SELECT entity_type, attributes::text FROM sheaf.find_entities_by_attributes($1, '{\"text_hot\":\"B\"}')";
    let row = client.query_one(sql, &[&tenant]).await?;
    let attributes: serde_json::Value = serde_json::from_str(row.get(1))?;
    assert_eq!(row.get::<_, &str>(0), "plane");
    assert_eq!(
        attributes.as_object().map(serde_json::Map::len),
        Some(28),
        "{attributes}"
    );
    assert_eq!(attributes["json_cooling"], serde_json::json!([1, "x"]));
    Ok(())
}

#[tokio::test]
async fn what_means_nothing_is_refused_and_no_filter_becomes_a_statement() -> Result<()> {
    let world = World::create().await?;
    let tenant = filled(&world, "acme").await?.tenant().0;
    let client = world.database.superuser().await?;
    for (filters, rest, code) in [
        (r#"{"seatz":1}"#, "", SqlState::UNDEFINED_OBJECT),
        (r#"{"x') OR true --":1}"#, "", SqlState::UNDEFINED_OBJECT),
        (
            r#"{"int_hot":{"= 1 OR 1 =":1}}"#,
            "",
            SqlState::INVALID_PARAMETER_VALUE,
        ),
        (
            r#"{"int_hot":{"<":null}}"#,
            "",
            SqlState::INVALID_PARAMETER_VALUE,
        ),
        (r#"{"int_hot":"1"}"#, "", SqlState::DATATYPE_MISMATCH),
        (r#"{"text_hot":1}"#, "", SqlState::DATATYPE_MISMATCH),
        (r#"{"bool_hot":"true"}"#, "", SqlState::DATATYPE_MISMATCH),
        (r#"{"json_hot":{"<":1}}"#, "", SqlState::DATATYPE_MISMATCH),
        (
            r#"{"decimal_hot":"many"}"#,
            "",
            SqlState::INVALID_TEXT_REPRESENTATION,
        ),
        ("[]", "", SqlState::INVALID_PARAMETER_VALUE),
        ("{}", ", limit_max => 0", SqlState::INVALID_PARAMETER_VALUE),
        (
            "{}",
            ", limit_max => 10001",
            SqlState::INVALID_PARAMETER_VALUE,
        ),
    ] {
        let refused = found(&client, tenant, filters, rest).await;
        let error = refused
            .err()
            .with_context(|| format!("{filters}{rest} was served"))?;
        assert_eq!(error.code(), Some(&code), "{filters}{rest}: {error:?}");
    }
    for text in [
        "' OR true --",
        "') OR (true",
        "\\",
        "$1",
        "%s",
        "a'; DROP TABLE sheaf.entities; --",
    ] {
        for operator in ["=", ">"] {
            let filters = serde_json::json!({"text_cold": {operator: text}}).to_string();
            let planes = found(&client, tenant, &filters, "").await?;
            let meant: Vec<&str> = [("N1", "a"), ("N2", "B"), ("N3", "it's")]
                .into_iter()
                .filter(|(_, value)| operator == ">" && *value > text)
                .map(|(plane, _)| plane)
                .collect();
            assert_eq!(planes, meant, "{filters}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_callers_policies_decide_what_is_found() -> Result<()> {
    let world = World::create().await?;
    let (acme, zenith) = (
        filled(&world, "acme").await?,
        filled(&world, "zenith").await?,
    );
    let app = world.database.client("sheaf_app").await?;
    let as_acme = format!(
        "BEGIN; SELECT set_config('sheaf.tenant_id', '{}', true)",
        acme.tenant()
    );
    app.batch_execute(&as_acme).await?;
    let own = found(&app, acme.tenant().0, r#"{"int_hot":100}"#, "").await?;
    assert_eq!(own, ["N1"]);
    for filters in ["{}", r#"{"int_hot":100}"#] {
        app.batch_execute("SAVEPOINT before").await?;
        let refused = found(&app, zenith.tenant().0, filters, "").await;
        let error = refused
            .err()
            .context("another tenant's planes were found")?;
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
        app.batch_execute("ROLLBACK TO before").await?;
    }
    app.batch_execute("COMMIT").await?;
    // Without a tenant there is nothing, as everywhere.
    assert_eq!(
        found(&app, acme.tenant().0, "{}", "").await?,
        Vec::<String>::new()
    );
    for role in ["sheaf_search", "sheaf_writer"] {
        let client = world.database.client(role).await?;
        let refused = found(&client, acme.tenant().0, "{}", "").await;
        let code = refused.err().and_then(|error| error.code().cloned());
        assert_eq!(code, Some(SqlState::INSUFFICIENT_PRIVILEGE), "{role}");
    }
    Ok(())
}

#[tokio::test]
async fn equality_on_a_hot_attribute_is_found_by_the_index_where_no_policy_is_in_the_way()
-> Result<()> {
    let world = World::create().await?;
    let tenant = filled(&world, "acme").await?.tenant().0;
    let client = world.database.superuser().await?;
    client
        .batch_execute(&format!(
            "INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)
             SELECT {tenant}, 'thing', 't' || n, now() FROM generate_series(1, 20000) n;
             INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at, hot_attrs, cold_attrs, present, times)
             SELECT {tenant}, e.entity_id, 1, now(), false, now(), jsonb_build_object(a.attribute_id, e.entity_id), '{{}}', ARRAY[a.attribute_id], '{{}}'
             FROM sheaf.entities e, sheaf.attributes a
             WHERE e.tenant_id = {tenant} AND e.entity_type = 'thing' AND a.tenant_id = {tenant} AND a.name = 'int_hot';
             ANALYZE sheaf.entities, sheaf.entity_jsonb"
        ))
        .await?;
    // What the plan was is asked by how much was read: a scan of 20,000 documents is some hundreds of pages.
    let sql = format!(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT TEXT) SELECT * FROM sheaf.find_entities_by_attributes({tenant}, '{{\"int_hot\":100}}')"
    );
    client.query(&sql, &[]).await?;
    let rows = client.query(&sql, &[]).await?;
    let text: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let buffers = text
        .iter()
        .find_map(|line| line.split("shared hit=").nth(1))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok())
        .context("buffers in the plan")?;
    assert!(buffers < 300, "{buffers} pages were read: {text:?}");
    Ok(())
}
