//! Histories whose past is in an archive: an archive that is a list of rows, beside a database that has them still, or no more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use sheaf_model::{BatchId, EntityId, Lsn, Op, Position, StoredRow, Timestamp, Value};
use sheaf_pg::PgTime;
use sheaf_query::cursor::seen_in;
use sheaf_query::{
    Archive, ArchiveFuture, ArchiveStanding, Archived, ConsistencyLevel, DataSource, HistoryItem,
    HistoryQuery, Keyframe, ReadOptions, Reader, SourcePools,
};
use sheaf_store::TenantScope;
use sheaf_store::events::HistoryRow;
use sheaf_store::history::{EventsAsked, EventsRead};

use crate::history::everything;
use crate::world::{Tenant, World, now, options, second};

/// Events of an instant, mostly.
const EVENTS: i64 = 24;

/// An archive of one entity.
#[derive(Debug, Clone)]
struct Listed {
    entity: EntityId,
    rows: Vec<StoredRow>,
    position: Position,
    /// What it was to cover each time.
    tokens: Arc<Mutex<Vec<Option<Position>>>>,
}

impl Archive for Listed {
    fn look(&self, token: Option<Position>, _: Duration) -> ArchiveFuture<'_, Arc<dyn Archived>> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.push(token);
        let state = Arc::new(self.clone()) as Arc<dyn Archived>;
        Box::pin(async move { Ok(state) })
    }
}

impl Archived for Listed {
    fn standing(&self) -> ArchiveStanding {
        ArchiveStanding {
            position: self.position,
            complete_until: Some(now()),
            lag: Some(Duration::ZERO),
            covers_token: true,
        }
    }

    /// Two instants at a time, at most.
    fn events<'a>(
        &'a self,
        _: &'a TenantScope,
        asked: EventsAsked,
    ) -> ArchiveFuture<'a, EventsRead> {
        let is_asked =
            |row: &&StoredRow| asked.from <= row.observed_at && row.observed_at < asked.to;
        let mut rows: Vec<StoredRow> = self.rows.iter().filter(is_asked).cloned().collect();
        if asked.newest_first {
            rows.reverse();
        }
        let mut times: Vec<Timestamp> = rows.iter().map(|row| row.observed_at).collect();
        times.dedup();
        let reached = match asked.newest_first {
            _ if times.len() <= 2 => None,
            true => Some(times[1]),
            false => Some(times[2]),
        };
        let is_there = |row: &StoredRow| times.iter().take(2).any(|time| *time == row.observed_at);
        rows.retain(is_there);
        let events = rows.into_iter().map(|row| {
            let ingested_at = row.observed_at;
            let batch = BatchId(Default::default());
            let event = HistoryRow {
                row,
                batch,
                ingested_at,
            };
            (self.entity, event)
        });
        let events = events.collect();
        Box::pin(async move { Ok(EventsRead { events, reached }) })
    }

    fn keyframe<'a>(
        &'a self,
        _: &'a TenantScope,
        _: EntityId,
        _: Timestamp,
    ) -> ArchiveFuture<'a, Option<Keyframe>> {
        Box::pin(async { Ok(None) })
    }
}

/// A tenant with an entity, and an archive that has all of its events.
async fn world() -> Result<(World, Tenant, Listed)> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    for number in 0..EVENTS {
        // Every third instant is corrected.
        for value in 0..=i64::from(number % 3 == 0) {
            let cells = [("cold_int", Some(Value::Int(100 * value + number)))];
            tenant.write(("thing", "a"), second(number * 60), Op::Patch, &cells);
        }
    }
    world.save(&tenant).await?;
    let found = world
        .superuser
        .query_one("SELECT entity_id FROM sheaf.entities", &[])
        .await?;
    let (query, options) = (everything(), options());
    let read = world
        .reader
        .history(&tenant.scope, "thing", "a", &query, &options);
    let position = read.await?.freshness.position;
    let archive = Listed {
        entity: EntityId(found.get(0)),
        rows: tenant.entity("thing", "a").rows.values().cloned().collect(),
        position: Position {
            lsn: Lsn(16),
            ..position
        },
        tokens: Arc::default(),
    };
    Ok((world, tenant, archive))
}

/// All pages, and where the last one came from.
async fn paged(
    reader: &Reader,
    tenant: &Tenant,
    query: &HistoryQuery,
    options: &ReadOptions,
) -> Result<(Vec<HistoryItem>, DataSource)> {
    let (mut query, mut items) = (query.clone(), Vec::new());
    loop {
        let read = reader.history(&tenant.scope, "thing", "a", &query, options);
        let read = read.await?;
        let page = read.value.context("the entity")?.page;
        items.extend(page.items);
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => return Ok((items, read.freshness.source)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_the_same_wherever_the_boundary_is_and_whichever_side_has_its_rows()
-> Result<()> {
    let (world, tenant, archive) = world().await?;
    let plain = paged(&world.reader, &tenant, &everything(), &options()).await?;
    assert_eq!(plain.0.len(), usize::try_from(EVENTS)?);
    let reader = world.reader.clone().with_archive(Arc::new(archive));
    // On an instant, between two, at the first and after the last one.
    for boundary in [0, 60, 390, 720, 60 * EVENTS] {
        let boundary = PgTime(second(boundary));
        let moved = "UPDATE sheaf.history_boundaries SET archived_before = $1, closed_before = $1";
        world.superuser.execute(moved, &[&boundary]).await?;
        for is_gone in [false, true] {
            if is_gone {
                let gone = "DELETE FROM sheaf.entity_events WHERE observed_at < $1";
                world.superuser.execute(gone, &[&boundary]).await?;
            }
            for (descending, limit) in [
                (false, 1_000),
                (true, 1_000),
                (false, 3),
                (true, 3),
                (true, 1),
            ] {
                let query = HistoryQuery {
                    descending,
                    limit,
                    ..everything()
                };
                let (mut found, _) = paged(&reader, &tenant, &query, &options()).await?;
                if descending {
                    found.reverse();
                }
                assert_eq!(
                    found, plain.0,
                    "{boundary:?}, gone: {is_gone}, descending: {descending}, {limit}"
                );
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_after_one_of_the_archive_waits_for_no_more_than_that_had() -> Result<()> {
    let (world, tenant, archive) = world().await?;
    let reader = world.reader.clone().with_archive(Arc::new(archive.clone()));
    // Where there is a replica, cursors keep what was seen; nobody watches it, so that it is not asked.
    let pools = SourcePools {
        app: world.app.clone(),
        search: world.app.clone(),
    };
    reader.sources().add_replica("west", pools);
    let mut options = options();
    options.level = ConsistencyLevel::Analytics;
    let query = HistoryQuery {
        limit: 7,
        ..everything()
    };
    let first = reader.history(&tenant.scope, "thing", "a", &query, &options);
    let first = first.await?;
    assert_eq!(first.freshness.source, DataSource::Lake);
    let cursor = first.value.context("the entity")?.page.next_cursor;
    let cursor = cursor.context("there is more")?;
    let of = tenant.scope.tenant();
    let seen = seen_in(&cursor, of, &world.settings.signing_key);
    assert_eq!(seen, Some(archive.position));
    let (items, source) = paged(&reader, &tenant, &query, &options).await?;
    assert_eq!(
        (items.len(), source),
        (usize::try_from(EVENTS)?, DataSource::Lake)
    );
    let tokens = archive
        .tokens
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let most = tokens.iter().flatten().map(|token| token.lsn).max();
    assert_eq!(most, Some(archive.position.lsn), "{tokens:?}");
    Ok(())
}
