//! Events of entities, made again of their facts: exactly those that were written, in either order and in pieces of any size, and no
//! other tenant's.

use anyhow::Result;
use sheaf_lake::analytics::{LakeReader, LakeSnapshot};
use sheaf_model::{AttributeId, AttributeType, Attrs, Cell, EntityId, TenantId, Timestamp, Value};
use sheaf_store::TenantScope;
use sheaf_store::events::HistoryRow;
use sheaf_store::history::EventsAsked;

use crate::world::{OWN, World, attribute_number};

/// All events, read piece by piece.
async fn read(
    reader: &LakeReader,
    snapshot: &LakeSnapshot,
    tenant: TenantId,
    asked: &EventsAsked,
) -> Result<Vec<(EntityId, HistoryRow)>> {
    let scope = TenantScope::system(tenant, "a test reads");
    let mut asked = asked.clone();
    let mut all = Vec::new();
    loop {
        let read = reader.events(&scope, snapshot, asked.clone()).await?;
        let is_enough = read.reached.is_none() || read.events.len() >= asked.enough;
        assert!(is_enough, "{} of {}", read.events.len(), asked.enough);
        all.extend(read.events);
        match (read.reached, asked.newest_first) {
            (None, _) => return Ok(all),
            (Some(reached), false) => asked.from = reached,
            (Some(reached), true) => asked.to = reached,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entity_has_the_events_that_were_written_and_no_other_tenants() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let reader = world.reader("sheaf").await?;
    let snapshot = reader.look(None).await?;
    let bounds = [
        (Timestamp::MIN, Timestamp::MAX),
        (
            Timestamp::parse("2013-01-02T03:00:00Z")?.0,
            Timestamp::parse("2013-01-03T17:00:00Z")?.0,
        ),
    ];
    for tenant in [OWN, world.other] {
        for entities in [vec![3], vec![1, 4, 6], vec![77]] {
            for attributes in [
                None,
                Some(vec![(1, AttributeType::Int), (4, AttributeType::Text)]),
            ] {
                for (from, to) in bounds {
                    let number = |place| AttributeId(attribute_number(tenant, place));
                    let is_asked = |id: AttributeId| {
                        let mut wanted = attributes.iter().flatten();
                        attributes.is_none() || wanted.any(|(place, _)| number(*place) == id)
                    };
                    let mut wanted: Vec<(Timestamp, EntityId, Attrs)> = world
                        .events
                        .iter()
                        .filter(|event| event.tenant == tenant && entities.contains(&event.entity))
                        .filter(|event| from <= event.at && event.at < to)
                        .map(|event| {
                            let cells = [
                                (number(1), Value::Int(event.int)),
                                (number(2), Value::Float(event.float)),
                                (number(4), Value::Text(event.text.clone())),
                                (number(5), Value::Bool(event.truth)),
                            ];
                            let cells = cells.into_iter().filter(|(id, _)| is_asked(*id));
                            let cells = cells.map(|(id, value)| (id, Cell::Value(value)));
                            let attrs = Attrs::from_distinct(cells.collect());
                            (event.at, EntityId(event.entity), attrs)
                        })
                        .collect();
                    wanted.sort_by_key(|(at, entity, _)| (*at, *entity));
                    for (newest_first, enough) in [
                        (false, 1),
                        (true, 1),
                        (false, 20),
                        (true, 20),
                        (false, usize::MAX),
                    ] {
                        let asked = EventsAsked {
                            entities: entities.iter().copied().map(EntityId).collect(),
                            attributes: attributes.as_ref().map(|wanted| {
                                let wanted = wanted.iter();
                                wanted
                                    .map(|(place, kind)| (number(*place), *kind))
                                    .collect()
                            }),
                            from,
                            to,
                            newest_first,
                            enough,
                            with_requests: false,
                        };
                        let mut found: Vec<_> = read(&reader, &snapshot, tenant, &asked)
                            .await?
                            .into_iter()
                            .map(|(entity, event)| (event.row.observed_at, entity, event.row.attrs))
                            .collect();
                        if newest_first {
                            found.reverse();
                        }
                        assert_eq!(found, wanted, "{asked:?}");
                    }
                }
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_of_an_event_is_told_where_it_matters_and_else_none_is() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let reader = world.reader("sheaf").await?;
    let snapshot = reader.look(None).await?;
    // Each after the other, so that neither is answered with what is remembered of the other.
    for with_requests in [false, true, false] {
        let asked = EventsAsked {
            entities: vec![EntityId(3)],
            attributes: Some(vec![(AttributeId(1), AttributeType::Int)]),
            from: Timestamp::MIN,
            to: Timestamp::MAX,
            newest_first: false,
            enough: usize::MAX,
            with_requests,
        };
        let found = read(&reader, &snapshot, OWN, &asked).await?;
        assert_eq!(found.len(), 48);
        let request = if with_requests { 1 } else { 0 };
        for (_, event) in found {
            assert_eq!(event.batch.0.as_u128(), request);
        }
    }
    Ok(())
}
