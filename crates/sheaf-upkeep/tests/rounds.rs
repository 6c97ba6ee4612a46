//! Upkeep against a real PostgreSQL: what a round promises is so afterwards, and a second round finds nothing to do.

use std::time::Duration;

use anyhow::{Context, Result};
use sheaf_model::{AttributeType, EntityId, Name, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{
    Catalogues, Description, NewAttribute, Pin, Temperature, ValueIndex, declare_attribute,
    describe_attribute,
};
use sheaf_store::documents::{MoveStep, list_moving, step_move};
use sheaf_store::settings::Settings;
use sheaf_store::tenants::{TenantPolicy, create_tenant};
use sheaf_store::value_index::{IndexStep, list_moving_indexes, step_index};
use sheaf_testkit::{TestDatabase, wait_until};

#[tokio::test]
async fn a_changed_pin_moves_every_value_and_no_document_changes_its_version() -> Result<()> {
    let database = TestDatabase::create().await?;
    let pool = |role: &str| Pool::new(&database.config(role), 2, &Tls::none());
    let (app, upkeep) = (pool("sheaf_app"), pool("sheaf_upkeep"));
    let settings = Settings::read(&app).await?;
    let now = Timestamp::now();
    let tenant = create_tenant(&app, &Name::parse("acme")?, &TenantPolicy::default(), now).await?;
    let scope = TenantScope::authenticated(tenant.context("a new name")?);
    let speed = NewAttribute {
        name: "speed".into(),
        kind: AttributeType::Float,
        temperature: Temperature::Cold,
    };
    declare_attribute(&app, &scope, &speed, &Description::default(), now).await?;
    let catalogues = Catalogues::new(app.clone());
    let attribute = catalogues
        .refresh(&scope)
        .await?
        .by_name("speed")
        .context("it was declared")?
        .id;
    let client = database.superuser().await?;
    client
        .batch_execute(&format!(
            "INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)
             SELECT {t}, 'plane', 'N' || n, now() FROM generate_series(1, 1200) n;
             INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at, hot_attrs,
                 cold_attrs, present, times)
             SELECT tenant_id, entity_id, 7, now(), false, now(), '{{}}', '{{\"{attribute}\": 1.5}}',
                 ARRAY[{attribute}::bigint], '{{}}' FROM sheaf.entities",
            t = scope.tenant()
        ))
        .await?;
    for (pin, moving, settled, part, index, indexed) in [
        (
            Pin::Hot,
            Temperature::Warming,
            Temperature::Hot,
            "hot_attrs",
            ValueIndex::Filled,
            1200,
        ),
        (
            Pin::Cold,
            Temperature::Cooling,
            Temperature::Cold,
            "cold_attrs",
            ValueIndex::None,
            0,
        ),
    ] {
        let description = Description {
            pin: Some(pin),
            ..Description::default()
        };
        let before = catalogues.refresh(&scope).await?;
        let known = before.by_id(attribute).context("it is there")?;
        let moves_to = known.value_index.after(known.kind, Some(pin));
        let seen = before.version();
        assert!(
            describe_attribute(
                &app,
                &scope,
                attribute,
                &description,
                moving,
                moves_to,
                seen
            )
            .await?
        );
        assert_eq!(
            sheaf_upkeep::move_values(&upkeep, settings.bucket_count).await?,
            1
        );
        let held = format!(
            "SELECT count(*) FILTER (WHERE {part} = '{{\"{attribute}\": 1.5}}' AND version = 7) FROM sheaf.entity_jsonb"
        );
        assert_eq!(
            client.query_one(&held, &[]).await?.get::<_, i64>(0),
            1200,
            "values in {part}"
        );
        assert_eq!(
            sheaf_upkeep::move_indexes(&upkeep, settings.bucket_count).await?,
            1
        );
        let rows = "SELECT count(*) FILTER (WHERE value = 1.5) FROM sheaf.entity_index_float";
        assert_eq!(
            client.query_one(rows, &[]).await?.get::<_, i64>(0),
            indexed,
            "rows of the value index"
        );
        let after = catalogues.refresh(&scope).await?;
        let known = after.by_id(attribute).context("it is there")?;
        assert_eq!((known.temperature, known.value_index), (settled, index));
    }
    assert_eq!(
        sheaf_upkeep::move_indexes(&upkeep, settings.bucket_count).await?,
        0
    );
    assert_eq!(
        sheaf_upkeep::move_values(&upkeep, settings.bucket_count).await?,
        0
    );
    Ok(())
}

#[tokio::test]
async fn emptying_goes_on_after_the_step_before_it_and_meets_no_row_twice() -> Result<()> {
    let database = TestDatabase::create().await?;
    let pool = |role: &str| Pool::new(&database.config(role), 2, &Tls::none());
    let (app, upkeep) = (pool("sheaf_app"), pool("sheaf_upkeep"));
    let now = Timestamp::now();
    let tenant = create_tenant(&app, &Name::parse("acme")?, &TenantPolicy::default(), now).await?;
    let scope = TenantScope::authenticated(tenant.context("a new name")?);
    let client = database.superuser().await?;
    for kind in ["int", "float", "decimal", "text", "time"] {
        let speed = NewAttribute {
            name: format!("a_{kind}"),
            kind: AttributeType::parse(kind).context("a type")?,
            temperature: Temperature::Hot,
        };
        declare_attribute(&app, &scope, &speed, &Description::default(), now).await?;
    }
    client
        .batch_execute(&format!(
            "UPDATE sheaf.attributes SET value_index = 'emptying';
             INSERT INTO sheaf.entities (tenant_id, entity_id, entity_type, external_id, created_at)
             SELECT {t}, n, 'plane', 'N' || n, now() FROM generate_series(1, 25) n",
            t = scope.tenant()
        ))
        .await?;
    let moving = list_moving_indexes(&upkeep).await?;
    assert_eq!(moving.len(), 5);
    for index in &moving {
        let (table, id) = (
            format!("sheaf.entity_index_{}", index.kind),
            index.attribute,
        );
        // Against their order, so that the order of what is deleted is not that of the keys.
        client
            .batch_execute(&format!(
                "INSERT INTO {table} (tenant_id, attribute_id, entity_id, value)
                 SELECT {t}, {id}, n, {value} FROM generate_series(25, 1, -1) n",
                t = scope.tenant(),
                value = match index.kind {
                    AttributeType::Time => "now()",
                    _ => "'1'",
                }
            ))
            .await?;
        let left = async || -> Result<i64> {
            let count = format!("SELECT count(*) FROM {table}");
            Ok(client.query_one(&count, &[]).await?.get(0))
        };
        let mut after = EntityId(i64::MIN);
        for (through, rows) in [(10, 15), (20, 5)] {
            let step = step_index(&upkeep, index, after, 10).await?;
            assert_eq!(step, IndexStep::Through(EntityId(through)), "{table}");
            assert_eq!(left().await?, rows, "{table}");
            after = EntityId(through);
        }
        // What is behind a step is not looked at by the next one.
        let behind = step_index(&upkeep, index, EntityId(23), 10).await?;
        assert_eq!(behind, IndexStep::Through(EntityId(25)), "{table}");
        assert_eq!(left().await?, 3, "{table}");
        let settled = step_index(&upkeep, index, EntityId(25), 10).await?;
        assert_eq!(settled, IndexStep::Settled, "{table}");
    }
    Ok(())
}

#[tokio::test]
async fn a_mover_with_an_old_list_moves_nothing_after_the_pin_has_changed_again() -> Result<()> {
    let database = TestDatabase::create().await?;
    let pool = |role: &str| Pool::new(&database.config(role), 2, &Tls::none());
    let (app, upkeep) = (pool("sheaf_app"), pool("sheaf_upkeep"));
    let now = Timestamp::now();
    let tenant = create_tenant(&app, &Name::parse("acme")?, &TenantPolicy::default(), now).await?;
    let scope = TenantScope::authenticated(tenant.context("a new name")?);
    let speed = NewAttribute {
        name: "speed".into(),
        kind: AttributeType::Float,
        temperature: Temperature::Cold,
    };
    declare_attribute(&app, &scope, &speed, &Description::default(), now).await?;
    let client = database.superuser().await?;
    let (held, empty) = ("jsonb_build_object(attribute_id::text, 1.5)", "'{}'");
    for (way, back, part, hot, cold) in [
        (
            Temperature::Warming,
            Temperature::Cooling,
            "cold_attrs",
            empty,
            held,
        ),
        (
            Temperature::Cooling,
            Temperature::Warming,
            "hot_attrs",
            held,
            empty,
        ),
    ] {
        let turn = async |to: Temperature| {
            let sql = format!(
                "UPDATE sheaf.attributes SET temperature = '{}'",
                to.as_str()
            );
            client.batch_execute(&sql).await
        };
        client
            .batch_execute(&format!(
                "TRUNCATE sheaf.entities, sheaf.entity_jsonb CASCADE;
                 INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)
                 VALUES ({t}, 'plane', 'N1', now());
                 INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at,
                     hot_attrs, cold_attrs, present, times)
                 SELECT e.tenant_id, e.entity_id, 7, now(), false, now(), {hot}, {cold}, ARRAY[attribute_id], '{{}}'
                 FROM sheaf.entities e, sheaf.attributes",
                t = scope.tenant(),
            ))
            .await?;
        turn(way).await?;
        let old_list = list_moving(&upkeep).await?;
        turn(back).await?;
        assert_eq!(old_list.len(), 1);
        assert_eq!(
            step_move(&upkeep, &old_list[0], 500).await?,
            MoveStep::Overtaken
        );
        let held = format!("SELECT count(*) FROM sheaf.entity_jsonb WHERE {part} <> '{{}}'");
        assert_eq!(
            client.query_one(&held, &[]).await?.get::<_, i64>(0),
            1,
            "the value left {part}"
        );
        // Back on the same way: nobody has waited for the writers of the time between.
        turn(way).await?;
        assert_eq!(
            step_move(&upkeep, &old_list[0], 500).await?,
            MoveStep::Overtaken
        );
        assert_eq!(
            client.query_one(&held, &[]).await?.get::<_, i64>(0),
            1,
            "the value left {part} with the older change"
        );
        // While a change of the pin is under way, the step waits for it and then moves nothing.
        let old_list = list_moving(&upkeep).await?;
        client.batch_execute("BEGIN").await?;
        turn(back).await?;
        let step = tokio::spawn({
            let (upkeep, moving) = (upkeep.clone(), old_list[0]);
            async move { step_move(&upkeep, &moving, 500).await }
        });
        let watch = database.superuser().await?;
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND usename LIKE 'sheaf_upkeep%' AND wait_event_type = 'Lock'";
        wait_until("the step waits", Duration::from_secs(30), async || {
            let row = watch.query_one(waits, &[]).await.expect("it answers");
            row.get::<_, i64>(0) == 1
        })
        .await;
        client.batch_execute("COMMIT").await?;
        assert_eq!(step.await??, MoveStep::Overtaken);
        assert_eq!(
            client.query_one(&held, &[]).await?.get::<_, i64>(0),
            1,
            "the value left {part}"
        );
    }
    Ok(())
}
