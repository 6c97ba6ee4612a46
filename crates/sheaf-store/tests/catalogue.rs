//! Bounds of the catalogue hold and no change is lost, whoever else is at work.

mod world;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use sheaf_model::{AttributeType, Timestamp};
use sheaf_store::catalogue::{
    AttributeBounds, Catalogues, Description, NewAttribute, Temperature, ValueIndex,
    create_attributes, describe_attribute, mark_series_tags,
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
        describe_attribute(
            &world.app,
            &scope,
            id,
            &description,
            Temperature::Hot,
            ValueIndex::None,
            seen,
        )
        .await
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

const ALL: AttributeBounds = AttributeBounds {
    hot_max: 100,
    attributes_max: 10_000,
};

#[tokio::test]
async fn versions_that_follow_each_other_share_their_attributes() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let (one, other) = (
        Catalogues::new(world.app.clone()),
        Catalogues::new(world.app.clone()),
    );
    let now = Timestamp::now();
    let first = one
        .create_attributes(&scope, &attributes(0, 200, Temperature::Cold), ALL, now)
        .await?;
    let second = one
        .create_attributes(&scope, &attributes(1, 3, Temperature::Hot), ALL, now)
        .await?;
    assert_eq!(second.version(), first.version() + 1);
    assert_eq!((second.attributes().len(), second.hot_count()), (203, 3));
    // Another server's change is read, and what it did not touch is shared all the same.
    let id = first.by_name("cold_0_7").context("created")?.id;
    let described = Description {
        unit: Some("C".to_owned()),
        retention_micros: Some(86_400_000_000),
        ..Description::default()
    };
    let seen = other.refresh(&scope).await?.version();
    assert!(
        describe_attribute(
            &world.app,
            &scope,
            id,
            &described,
            Temperature::Warming,
            ValueIndex::None,
            seen
        )
        .await?
    );
    let third = one.refresh(&scope).await?;
    let found = third.by_id(id).context("it")?;
    assert_eq!(found.description, described);
    assert_eq!((third.version(), third.is_moving()), (seen + 1, true));
    for (earlier, later, changed) in [(&first, &second, 0), (&second, &third, 1)] {
        let copied = earlier.attributes().filter(|attribute| {
            let same = later.by_id(attribute.id);
            !same.is_some_and(|same| Arc::ptr_eq(attribute, same))
        });
        assert_eq!(copied.count(), changed);
    }
    for attribute in third.attributes() {
        assert_eq!(third.by_name(&attribute.name), Some(attribute));
    }
    let recall = |version| one.recall(scope.tenant(), third.lineage(), version);
    assert_eq!(recall(seen + 1).map(|c| c.version()), Some(seen + 1));
    assert!(recall(seen).is_none());
    assert!(third.lineage().is_some() && one.recall(scope.tenant(), None, seen + 1).is_none());
    Ok(())
}

#[tokio::test]
async fn a_version_moves_only_where_something_is_new() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let (one, other) = (
        Catalogues::new(world.app.clone()),
        Catalogues::new(world.app.clone()),
    );
    let batch = attributes(0, 50, Temperature::Cold);
    let created = one
        .create_attributes(&scope, &batch, ALL, Timestamp::now())
        .await?;
    let again = other
        .create_attributes(&scope, &batch, ALL, Timestamp::now())
        .await?;
    assert_eq!(again.version(), created.version());
    let names = again.attributes().map(|attribute| attribute.name.as_str());
    let names: Vec<&str> = names.collect();
    mark_series_tags(&world.app, &scope, &names[..3]).await?;
    mark_series_tags(&world.app, &scope, &names[1..2]).await?;
    let marked = one.refresh(&scope).await?;
    assert_eq!(
        (marked.version(), marked.series_tags().len()),
        (created.version() + 1, 3)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalogue_that_two_servers_grow_is_whole_in_each_of_its_versions() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let servers = [0, 1].map(|_| Catalogues::new(world.app.clone()));
    let (started, servers, scope) = (Instant::now(), &servers, &scope);
    let grow = async |client: usize| {
        for batch in (client..200).step_by(8) {
            let batch = attributes(batch, 50, Temperature::Cold);
            let catalogue = servers[client % 2]
                .create_attributes(scope, &batch, ALL, Timestamp::now())
                .await?;
            for attribute in &batch {
                let found = catalogue.by_name(&attribute.name);
                assert!(found.is_some(), "{} is there", attribute.name);
            }
            // Every creation so far, or a part of the table: a version says which.
            let created = usize::try_from(catalogue.version() - 1)? * 50;
            assert!(catalogue.attributes().len() >= created);
        }
        anyhow::Ok(())
    };
    try_join_all((0..8).map(grow)).await?;
    let took = started.elapsed();
    let [one, other] = [servers[0].current(scope), servers[1].current(scope)];
    for catalogue in [one.await?, other.await?] {
        let read = Catalogues::new(world.app.clone()).refresh(scope).await?;
        let known = match catalogue.version() == read.version() {
            true => catalogue,
            // The last creations were the other server's.
            false => servers[0].refresh(scope).await?,
        };
        assert_eq!((known.version(), known.attributes().len()), (201, 10_000));
        assert!(read.attributes().all(|a| known.by_id(a.id) == Some(a)));
    }
    #[expect(clippy::print_stdout, reason = "the test harness shows it")]
    {
        println!("10,000 attributes in 200 creations of 8 clients of 2 servers: {took:?}");
    }
    Ok(())
}
