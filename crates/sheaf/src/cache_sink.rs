//! The cache as a sink of the change stream: every entity that was written by anybody is announced.
//!
//! Lanes announce what they commit. What nobody announces is what psql and flushes write, and what a server that died had
//! committed; all of it is in the change stream. A change can be there before anybody sees it: its commit is in the log and
//! still waits, for a standby or its turn. A read that comes in between is remembered as what the entity is, so that whoever
//! had been told by then would be told too early. So it is asked what is visible, and announced at a position of after that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sheaf_cache::Cache;
use sheaf_cdc::change::{Batch, Catalogue, Change, ChangedRow, Origin, Progress};
use sheaf_cdc::letter::Unreadable;
use sheaf_cdc::sink::{Held, Missed, Sink, SinkError, SinkFuture};
use sheaf_cdc::snapshot::Seen;
use sheaf_model::{ChangePosition, EntityId, TenantId, WrittenEntity};
use sheaf_pg::Pool;
use sheaf_store::changes::read_visible;
use sheaf_store::settings::Settings;
use tokio::time::sleep;

/// Its name among the sinks.
pub(crate) const NAME: &str = "cache";
/// Commits become visible within microseconds, but for those that wait for a standby. Those are looked at again when more
/// comes, or nothing does for a moment.
const LOOKS_MAX: usize = 5;
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// What waits to be visible takes 56 bytes each. A standby that is gone for as long lets the slot hold the rest.
const WAITING_MAX: usize = 200_000;

/// An entity that was written by a transaction that may not be visible yet; none where it cannot be told which.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    position: ChangePosition,
    xid: u32,
    written: Option<WrittenEntity>,
}

/// The sink. What it was given is done with once it was announced, so that it keeps track of nothing.
pub(crate) struct CacheSink {
    cache: Cache,
    cdc: Pool,
    settings: Arc<Settings>,
    progress: Option<Progress>,
    /// The last change that it was given.
    given: Option<ChangePosition>,
    waiting: Vec<Waiting>,
}

impl CacheSink {
    /// Announces to this cache, and through it to those of other servers.
    pub(crate) fn new(cache: Cache, cdc: Pool, settings: Arc<Settings>) -> CacheSink {
        CacheSink {
            cache,
            cdc,
            settings,
            progress: None,
            given: None,
            waiting: Vec::new(),
        }
    }

    fn go_on(&mut self, from: Progress) {
        self.progress = Some(from);
        self.given = from.stream;
        // What cannot be told does not come again.
        self.waiting.retain(|each| each.written.is_none());
    }

    async fn take(&mut self, batch: &Batch) -> Result<Progress, SinkError> {
        if batch.origin == Origin::Stream {
            let written = batch.changes.iter().filter_map(written);
            self.waiting.extend(written);
            self.given = batch.last();
        }
        for _ in 1..LOOKS_MAX {
            let progress = self.announce().await?;
            if self.waiting.is_empty() {
                return Ok(progress);
            }
            sleep(LOOK_EVERY).await;
        }
        if self.waiting.len() > WAITING_MAX {
            return Err(fault("too many commits wait to be seen".into()));
        }
        self.announce().await
    }

    /// Announces what is visible now. What it was given counts as held once all of it is.
    async fn announce(&mut self) -> Result<Progress, SinkError> {
        let mut progress = self
            .progress
            .ok_or_else(|| fault("the sink was not told where it goes on".into()))?;
        if !self.waiting.is_empty() {
            let looked = read_visible(&self.cdc, &self.settings).await;
            let (visible, position) = looked.map_err(|error| fault(Box::new(error)))?;
            let seen =
                Seen::read(&visible, position.lsn).map_err(|error| fault(Box::new(error)))?;
            let is_seen = |each: &Waiting| seen.sees(each.position, each.xid);
            let (seen, waiting) = self
                .waiting
                .iter()
                .partition::<Vec<Waiting>, _>(|each| is_seen(each));
            self.waiting = waiting;
            if seen.iter().any(|each| each.written.is_none()) {
                self.cache.lose();
            }
            let announced = each_once(&seen);
            if !announced.is_empty() {
                self.cache.committed(position, &announced);
            }
        }
        if self.waiting.is_empty()
            && let Some(given) = self.given
        {
            progress.advance(Origin::Stream, given);
            self.progress = Some(progress);
        }
        Ok(progress)
    }
}

fn fault(source: Box<dyn std::error::Error + Send + Sync>) -> SinkError {
    SinkError {
        sink: NAME.to_owned(),
        step: "announcing changes to the cache",
        source,
    }
}

/// The entity that a change wrote. Whoever found nothing under a name has to look again once the name has a number: from then
/// on the entity has a fence of its own, also before its first event.
fn written(change: &Change) -> Option<Waiting> {
    let written = match &change.row {
        ChangedRow::Event(event) => WrittenEntity {
            tenant: event.tenant,
            entity: event.entity,
            is_first: false,
        },
        ChangedRow::Catalogue(row) => match row.catalogue {
            Catalogue::Entities => WrittenEntity {
                tenant: TenantId(row.number("tenant_id")?),
                entity: EntityId(row.number("entity_id")?),
                is_first: true,
            },
            Catalogue::Tenants | Catalogue::Attributes | Catalogue::Keyframes => return None,
        },
    };
    Some(Waiting {
        position: change.position,
        xid: change.xid,
        written: Some(written),
    })
}

fn each_once(seen: &[Waiting]) -> Vec<WrittenEntity> {
    let mut firsts: BTreeMap<(TenantId, EntityId), bool> = BTreeMap::new();
    for written in seen.iter().filter_map(|each| each.written) {
        *firsts.entry((written.tenant, written.entity)).or_default() |= written.is_first;
    }
    firsts
        .into_iter()
        .map(|((tenant, entity), is_first)| WrittenEntity {
            tenant,
            entity,
            is_first,
        })
        .collect()
}

impl Sink for CacheSink {
    fn name(&self) -> &str {
        NAME
    }

    fn needs_snapshot(&self) -> bool {
        false
    }

    fn held(&mut self) -> SinkFuture<'_, Held> {
        Box::pin(async { Ok(Held::Untracked) })
    }

    fn resume(&mut self, from: Progress) {
        self.go_on(from);
    }

    /// What was written until here is known to nobody.
    fn begin(&mut self, base: ChangePosition) -> SinkFuture<'_, ()> {
        self.cache.lose();
        self.go_on(Progress::begun(base));
        Box::pin(async { Ok(()) })
    }

    fn apply<'a>(&'a mut self, batch: &'a Batch) -> SinkFuture<'a, Progress> {
        Box::pin(self.take(batch))
    }

    /// Nobody can tell which entity it is of. Once it may have been seen, everything that is remembered is behind.
    fn missed(&mut self, row: &Unreadable) -> Missed {
        self.waiting.push(Waiting {
            position: row.position,
            xid: row.xid,
            written: None,
        });
        Missed::Nothing
    }

    fn flush(&mut self) -> SinkFuture<'_, Progress> {
        Box::pin(self.announce())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use sheaf_cdc::letter::{LetterReason, Payload};
    use sheaf_model::{Lsn, Timestamp};
    use sheaf_pg::Tls;
    use sheaf_testkit::TestDatabase;

    use super::*;

    #[tokio::test]
    async fn a_row_that_cannot_be_read_makes_everything_forgotten_once_it_may_be_seen() -> Result<()>
    {
        let database = TestDatabase::create().await?;
        let writer = database.superuser().await?;
        writer.batch_execute("BEGIN").await?;
        let sql = "SELECT pg_current_xact_id()::text::bigint";
        let xid: i64 = writer.query_one(sql, &[]).await?.get(0);
        let cdc = Pool::new(&database.config("sheaf_cdc"), 2, &Tls::none());
        let app = Pool::new(&database.config("sheaf_app"), 2, &Tls::none());
        let settings = Arc::new(Settings::read(&app).await?);
        let options = sheaf_cache::Options {
            bytes_max: 1 << 16,
            age_max: Duration::from_secs(3_600),
            sample_every: u64::MAX,
        };
        let known = sheaf_cache::Database {
            system_id: 1,
            signing_key: [7; 32],
        };
        let cache = Cache::local(options, &known);
        let mut sink = CacheSink::new(cache.clone(), cdc, settings);
        let from = Progress::begun(ChangePosition::before(1, Lsn(1)));
        sink.resume(from);
        let row = Unreadable {
            position: ChangePosition::before(1, Lsn(2)),
            xid: u32::try_from(xid)?,
            committed_at: Timestamp::MIN,
            tenant: None,
            reason: LetterReason::Unreadable,
            detail: String::new(),
            payload: Payload {
                text: "{}".to_owned(),
                is_whole: true,
            },
        };
        assert_eq!(sink.missed(&row), Missed::Nothing);
        sink.flush().await?;
        assert!(
            !cache.awaits_primary(),
            "who looks now sees what was before"
        );
        // As after an error: it does not come again.
        sink.resume(from);
        writer.batch_execute("COMMIT").await?;
        sink.flush().await?;
        assert!(cache.awaits_primary());
        Ok(())
    }
}
