//! The lake as the archive that histories are read from.

use std::sync::Arc;
use std::time::Duration;

use sheaf_lake::analytics::{Cover, LakeReader, LakeSnapshot, QueryError};
use sheaf_model::{EntityId, Position, Timestamp};
use sheaf_query::{Archive, ArchiveError, ArchiveFuture, ArchiveStanding, Archived, Keyframe};
use sheaf_store::TenantScope;
use sheaf_store::history::{EventsAsked, EventsRead};

/// The lake as an archive.
#[derive(Debug, Clone)]
pub struct LakeArchive(pub LakeReader);

/// A state of it.
#[derive(Debug)]
struct State {
    reader: LakeReader,
    snapshot: LakeSnapshot,
}

impl Archive for LakeArchive {
    fn look(
        &self,
        token: Option<Position>,
        at_most: Duration,
    ) -> ArchiveFuture<'_, Arc<dyn Archived>> {
        Box::pin(async move {
            let snapshot = self.0.wait(token, at_most).await.map_err(fault)?;
            let reader = self.0.clone();
            Ok(Arc::new(State { reader, snapshot }) as Arc<dyn Archived>)
        })
    }
}

impl Archived for State {
    fn standing(&self) -> ArchiveStanding {
        let snapshot = &self.snapshot;
        ArchiveStanding {
            position: snapshot.position,
            complete_until: snapshot.complete_until,
            lag: snapshot.lag,
            covers_token: snapshot.cover == Cover::Covered,
        }
    }

    fn events<'a>(
        &'a self,
        scope: &'a TenantScope,
        asked: EventsAsked,
    ) -> ArchiveFuture<'a, EventsRead> {
        Box::pin(async move {
            let events = self.reader.events(scope, &self.snapshot, asked).await;
            events.map_err(fault)
        })
    }

    fn keyframe<'a>(
        &'a self,
        scope: &'a TenantScope,
        entity: EntityId,
        until: Timestamp,
    ) -> ArchiveFuture<'a, Option<Keyframe>> {
        Box::pin(async move {
            let found = self
                .reader
                .keyframe(scope, &self.snapshot, entity, until)
                .await;
            let found = found.map_err(fault)?;
            Ok(found.map(|(at, document)| Keyframe { at, document }))
        })
    }
}

fn fault(error: QueryError) -> ArchiveError {
    match error {
        QueryError::Limit { .. } => ArchiveError::Limit {
            source: Box::new(error),
        },
        QueryError::Superseded { .. } => ArchiveError::Superseded {
            source: Box::new(error),
        },
        QueryError::Damaged { .. } => ArchiveError::Damaged {
            source: Box::new(error),
        },
        error => ArchiveError::Unavailable {
            source: Box::new(error),
        },
    }
}
