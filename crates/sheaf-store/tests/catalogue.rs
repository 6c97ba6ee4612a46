//! Bounds of the catalogue hold and no change is lost, whoever else is at work.

mod world;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use sheaf_model::{AttributeType, Timestamp};
use sheaf_store::catalogue::{
    AttributeBounds, Catalogues, Description, NewAttribute, Temperature, create_attributes,
    describe_attribute,
};
use sheaf_store::tenants::{fetch_tenant, update_tenant};

use world::World;

fn attributes(creator: usize, count: usize, temperature: Temperature) -> Vec<NewAttribute> {
    let attribute = |n| NewAttribute {
        name: format!("{}_{creator}_{n}", temperature.as_str()),
        kind: AttributeType::Text,
        temperature,
    };
    (0..count).map(attribute).collect()
}

#[tokio::test]
async fn creators_at_once_keep_the_bounds_on_hot_attributes_and_on_all() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let bounds = AttributeBounds {
        hot_max: 100,
        attributes_max: 250,
    };
    let now = Timestamp::now();
    let batches: Vec<Vec<NewAttribute>> = (0..8)
        .map(|creator| {
            let mut batch = attributes(creator, 30, Temperature::Hot);
            batch.extend(attributes(creator, 10, Temperature::Cold));
            batch
        })
        .collect();
    let create = |batch| create_attributes(&world.app, &scope, batch, bounds, now);
    try_join_all(batches.iter().map(|batch| create(batch))).await?;
    let catalogue = Catalogues::new(world.app.clone()).refresh(&scope).await?;
    assert_eq!(catalogue.attributes().len(), 250);
    assert_eq!(catalogue.hot_count(), 100);
    // What is there already takes no place, and what is there stays.
    try_join_all(batches.iter().map(|batch| create(batch))).await?;
    let again = Catalogues::new(world.app.clone()).refresh(&scope).await?;
    assert_eq!((again.attributes().len(), again.hot_count()), (250, 100));
    Ok(())
}

#[tokio::test]
async fn attributes_that_are_warming_count_as_hot() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let bounds = AttributeBounds {
        hot_max: 2,
        attributes_max: 10,
    };
    for temperature in [Temperature::Warming, Temperature::Cooling, Temperature::Hot] {
        let count = if temperature == Temperature::Hot {
            3
        } else {
            1
        };
        let batch = attributes(0, count, temperature);
        create_attributes(&world.app, &scope, &batch, bounds, Timestamp::now()).await?;
    }
    let catalogue = Catalogues::new(world.app.clone()).refresh(&scope).await?;
    assert_eq!(
        (catalogue.attributes().len(), catalogue.hot_count()),
        (5, 2)
    );
    Ok(())
}

#[tokio::test]
async fn a_change_worked_out_from_an_older_catalogue_changes_nothing() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let bounds = AttributeBounds {
        hot_max: 1,
        attributes_max: 1,
    };
    let batch = attributes(0, 1, Temperature::Hot);
    create_attributes(&world.app, &scope, &batch, bounds, Timestamp::now()).await?;
    let catalogues = Catalogues::new(world.app.clone());
    let before = catalogues.refresh(&scope).await?;
    let id = before.attributes().next().context("one")?.id;
    let describe = async |unit: &str, seen: i64| {
        let description = Description {
            unit: Some(unit.to_owned()),
            ..Description::default()
        };
        describe_attribute(&world.app, &scope, id, &description, Temperature::Hot, seen).await
    };
    assert!(describe("m", before.version()).await?);
    assert!(!describe("km", before.version()).await?);
    let tenant = fetch_tenant(&world.app, "acme").await?.context("acme")?;
    let mut policy = tenant.policy.clone();
    policy.retention_micros = Some(1);
    assert!(!update_tenant(&world.app, scope.tenant(), &policy, before.version()).await?);
    let after = catalogues.refresh(&scope).await?;
    assert_eq!(after.version(), before.version() + 1);
    let unit = &after.by_id(id).context("it is there")?.description.unit;
    assert_eq!(unit.as_deref(), Some("m"));
    assert_eq!(after.tenant.policy, tenant.policy);
    assert!(update_tenant(&world.app, scope.tenant(), &policy, after.version()).await?);
    assert!(describe("km", after.version() + 1).await?);
    Ok(())
}
