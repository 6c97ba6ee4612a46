//! A subscription under way.
//!
//! It has little in memory: a piece of the journal at most, read when the client has taken what was before. A client that takes
//! nothing for too long is told to go on from where it was, once it takes something again, and its connection is ended where
//! it does not.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use serde::Serialize;
use sheaf_cdc::journal::{JournalEvent, JournalFault, JournalReader, Piece};
use sheaf_model::{Lineage, Lsn};
use sheaf_query::{
    ChangeFilter, ChangedEvent, KnownNames, LeftOut, NamedChange, NamingError, SeriesEntry, Unnamed,
};
use sheaf_store::TenantScope;
use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::ChangeFeed;
use super::places::Place;
use crate::auth::{TENANT, is_still_admitted};
use crate::freshness::token_text;
use crate::history::SeriesItemBody;
use crate::problem::chain;
use crate::state::Shared;

/// The counter of subscriptions by how they ended: `slow_reader`, `shutdown`, `revoked`, `abandoned` by the client, or `failed`.
pub const SUBSCRIPTIONS_TOTAL: &str = "sheaf_subscriptions_total";
/// The gauge of subscriptions.
pub const SUBSCRIPTIONS_RUNNING: &str = "sheaf_subscriptions_running";
/// The counter of events that a subscription passed over because nobody can be told them, by reason: `unreadable` attributes, or
/// an entity that is `unnamed`.
pub const SUBSCRIPTION_EVENTS_LEFT_OUT_TOTAL: &str = "sheaf_subscription_events_left_out_total";

/// How often a comment is sent, so that neither side and nobody in between takes the connection for dead.
const COMMENT_EVERY: Duration = Duration::from_secs(15);
/// Comments that are sent while this server does not follow the change stream before it is left to another.
const UNFOLLOWED_MAX: u32 = 4;
/// The first pause before names that are not visible yet are asked for again, each longer than the one before up to a longest; and
/// the pause before a database that fails is.
const NOT_VISIBLE_PAUSE: Duration = Duration::from_millis(100);
const NOT_VISIBLE_PAUSE_MAX: Duration = Duration::from_secs(5);
const FAILED_PAUSE: Duration = Duration::from_secs(1);
/// Bytes that are sent at once, about: a slow client is noticed between two of them.
const CHUNK_BYTES: usize = 32 << 10;

/// A subscription.
pub(super) struct Subscription {
    shared: Shared,
    feed: ChangeFeed,
    scope: TenantScope,
    filter: Arc<ChangeFilter>,
    lineage: Lineage,
    /// Absent only while it reads.
    reader: Option<JournalReader>,
    known: KnownNames,
    /// What was read and not named yet.
    unnamed: Option<Waiting>,
    /// What is sent next, each with where to go on after it; the last first.
    ready: Vec<(Bytes, Lsn)>,
    /// Where to go on after what was sent.
    sent: Lsn,
    /// When the client was last given something.
    sent_at: Option<Instant>,
    comment_at: Instant,
    unfollowed: u32,
    /// What it was admitted by.
    credentials: HeaderMap,
    ending: Ending,
    place: Place,
}

/// A piece that waits to be named.
struct Waiting {
    piece: Piece,
    again_at: Instant,
    /// Since when a name of it has been missing, and the pause after which it is asked for then.
    missing: Option<(Instant, Duration)>,
}

impl Waiting {
    fn new(piece: Piece) -> Waiting {
        Waiting {
            piece,
            again_at: Instant::now(),
            missing: None,
        }
    }

    fn after(mut self, pause: Duration) -> Waiting {
        self.again_at = Instant::now() + pause;
        self
    }

    /// A name of it is missing once more.
    fn for_a_name(mut self) -> Waiting {
        let (since, pause) = self.missing.unwrap_or((Instant::now(), NOT_VISIBLE_PAUSE));
        self.missing = Some((since, (2 * pause).min(NOT_VISIBLE_PAUSE_MAX)));
        self.after(pause)
    }

    /// What becomes of events without a name, where one is waited for no longer than this.
    fn unnamed(&self, within: Duration) -> Unnamed {
        match self.missing {
            Some((since, _)) if since.elapsed() >= within => Unnamed::LeftOut,
            Some(_) | None => Unnamed::Awaited,
        }
    }
}

/// How a subscription ended, as its counter names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It has not, unless the client leaves.
    Abandoned,
    SlowReader,
    Shutdown,
    Revoked,
    Failed,
}

impl Ending {
    fn as_str(self) -> &'static str {
        match self {
            Ending::Abandoned => "abandoned",
            Ending::SlowReader => "slow_reader",
            Ending::Shutdown => "shutdown",
            Ending::Revoked => "revoked",
            Ending::Failed => "failed",
        }
    }
}

/// A subscription that cannot go on. The log has been told.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("reading the journal of changes")]
    Journal(#[from] JournalFault),
    #[error("naming changes")]
    Naming(#[from] NamingError),
    #[error("reading the journal of changes was cut off")]
    Reader(#[from] JoinError),
    #[error("writing a change")]
    Line(#[from] serde_json::Error),
}

/// What comes next.
enum Next {
    /// Something may be ready now.
    Look,
    /// A comment.
    Comment,
    /// The end.
    End(Ending),
}

impl Subscription {
    pub(super) fn new(
        shared: Shared,
        feed: ChangeFeed,
        scope: TenantScope,
        (filter, lineage): (ChangeFilter, Lineage),
        reader: JournalReader,
        headers: &HeaderMap,
        place: Place,
    ) -> Subscription {
        let mut credentials = HeaderMap::new();
        for name in [header::AUTHORIZATION, TENANT] {
            if let Some(value) = headers.get(&name) {
                credentials.insert(name, value.clone());
            }
        }
        Subscription {
            shared,
            feed,
            scope,
            filter: Arc::new(filter),
            lineage,
            sent: reader.through(),
            reader: Some(reader),
            known: KnownNames::default(),
            unnamed: None,
            ready: Vec::new(),
            sent_at: None,
            comment_at: Instant::now() + COMMENT_EVERY,
            unfollowed: 0,
            credentials,
            ending: Ending::Abandoned,
            place,
        }
    }

    /// The next bytes. Asked for when there is room for them: all of the waiting for a client is before.
    pub(super) async fn advance(mut self) -> Result<Option<(Bytes, Subscription)>, Broken> {
        let bytes = match self.next().await {
            Ok(bytes) => bytes,
            Err(broken) => {
                self.ending = Ending::Failed;
                let (tenant, cause) = (self.scope.tenant(), chain(&broken));
                tracing::warn!(%tenant, cause, "a subscription to changes was cut off");
                return Err(broken);
            }
        };
        self.sent_at = Some(Instant::now());
        Ok(bytes.map(|bytes| (bytes, self)))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.ending != Ending::Abandoned {
            return Ok(None);
        }
        let taken_within = self.shared.state.bounds.subscriptions.taken_within;
        if self
            .sent_at
            .is_some_and(|sent_at| sent_at.elapsed() > taken_within)
        {
            return self.end(Ending::SlowReader).map(Some);
        }
        loop {
            if let Some((bytes, next)) = self.ready.pop() {
                self.sent = next;
                return Ok(Some(bytes));
            }
            match self.step().await? {
                Next::Look => {}
                Next::Comment => return Ok(Some(self.comment())),
                Next::End(Ending::Revoked) => {
                    self.ending = Ending::Revoked;
                    return Ok(None);
                }
                Next::End(ending) => return self.end(ending).map(Some),
            }
        }
    }

    /// Does one thing: reads, names what was read, or waits.
    async fn step(&mut self) -> Result<Next, Broken> {
        if *self.feed.stop.borrow() {
            return Ok(Next::End(Ending::Shutdown));
        }
        if Instant::now() >= self.comment_at {
            return Ok(self.look_around().await);
        }
        if let Some(waiting) = self.unnamed.take() {
            if Instant::now() >= waiting.again_at {
                return self.name(waiting).await;
            }
            self.unnamed = Some(waiting);
        } else if !self.reader_mut().is_at_end() {
            return self.read().await;
        }
        let again_at = self.unnamed.as_ref().map(|waiting| waiting.again_at);
        let comment_at = self.comment_at;
        let stop = &mut self.feed.stop;
        let reader = self.reader.as_mut().expect(READING);
        tokio::select! {
            biased;
            () = told_to_stop(stop) => Ok(Next::End(Ending::Shutdown)),
            () = sleep_until(again_at.unwrap_or(comment_at).min(comment_at)) => Ok(Next::Look),
            waited = reader.wait(), if again_at.is_none() => Ok(match waited {
                Ok(()) => Next::Look,
                // Whoever wrote it has ended.
                Err(_) => Next::End(Ending::Shutdown),
            }),
        }
    }

    /// From time to time: whether the client may still be here, and whether this is the server to follow.
    async fn look_around(&mut self) -> Next {
        self.comment_at = Instant::now() + COMMENT_EVERY;
        if !is_still_admitted(&self.shared, &self.credentials, &self.scope).await {
            return Next::End(Ending::Revoked);
        }
        let is_following = self.feed.status.borrow().is_following;
        self.unfollowed = if is_following { 0 } else { self.unfollowed + 1 };
        if self.unfollowed >= UNFOLLOWED_MAX {
            return Next::End(Ending::Shutdown);
        }
        Next::Comment
    }

    async fn read(&mut self) -> Result<Next, Broken> {
        let mut reader = self.reader.take().expect(READING);
        let read = spawn_blocking(move || {
            let piece = reader.read();
            (reader, piece)
        });
        let (reader, piece) = read.await?;
        self.reader = Some(reader);
        match piece {
            Ok(piece) if piece.events.is_empty() => Ok(Next::Look),
            Ok(piece) => {
                self.unnamed = Some(Waiting::new(piece));
                Ok(Next::Look)
            }
            Err(JournalFault::Left) => Ok(Next::End(Ending::SlowReader)),
            Err(fault) => Err(fault.into()),
        }
    }

    async fn name(&mut self, waiting: Waiting) -> Result<Next, Broken> {
        let events: Vec<ChangedEvent<'_>> = waiting.piece.events.iter().map(event_of).collect();
        let (reader, known) = (&self.shared.state.reader, &mut self.known);
        let unnamed = waiting.unnamed(self.shared.state.bounds.subscriptions.visible_within);
        let read = reader.read_changes(&self.scope, self.lineage, known, &events, unnamed);
        let again = match read.await {
            Ok(read) => {
                let turn = self.place.turn().await;
                let (filter, known) = (Arc::clone(&self.filter), std::mem::take(&mut self.known));
                let piece = waiting.piece;
                let named = spawn_blocking(move || {
                    let events: Vec<_> = piece.events.iter().map(event_of).collect();
                    let named = filter.name(&events, read, &known);
                    drop(turn);
                    (piece, known, named)
                });
                let (piece, known, named) = named.await?;
                self.known = known;
                let (named, left_out) = named?;
                self.tell(left_out);
                self.make_ready(&piece, named)?;
                return Ok(Next::Look);
            }
            Err(NamingError::OtherLineage) => return Ok(Next::End(Ending::Shutdown)),
            Err(NamingError::NotVisible) => waiting.for_a_name(),
            Err(NamingError::Read(error)) if error.passes_by_itself() => {
                let cause = chain(&error);
                tracing::debug!(cause, "changes cannot be named now");
                waiting.after(FAILED_PAUSE)
            }
            Err(error) => return Err(error.into()),
        };
        self.unnamed = Some(again);
        Ok(Next::Look)
    }

    /// Counts what is left out of a piece, and says so in the log.
    fn tell(&self, left_out: LeftOut) {
        let LeftOut {
            unreadable,
            unnamed,
            first,
        } = left_out;
        let Some(first) = first else { return };
        for (reason, count) in [("unreadable", unreadable), ("unnamed", unnamed)] {
            metrics::counter!(SUBSCRIPTION_EVENTS_LEFT_OUT_TOTAL, "reason" => reason)
                .increment(count);
        }
        let tenant = self.scope.tenant();
        tracing::warn!(
            %tenant,
            unreadable,
            unnamed,
            first_entity = first.0,
            "events that cannot be told are left out of a subscription to changes"
        );
    }

    /// Writes what is wanted of a piece.
    fn make_ready(&mut self, piece: &Piece, named: Vec<Option<NamedChange>>) -> Result<(), Broken> {
        let wanted = piece.events.iter().zip(named);
        let wanted: Vec<(Lsn, NamedChange)> = wanted
            .filter_map(|(event, named)| Some((event.commit_lsn, named?)))
            .collect();
        let commits: Vec<Lsn> = wanted.iter().map(|(commit_lsn, _)| *commit_lsn).collect();
        let mut chunk = Vec::new();
        let mut chunks = Vec::new();
        let count = wanted.len();
        let places = where_to_go_on(&commits, piece.through);
        for (place, ((_, change), next)) in wanted.into_iter().zip(places).enumerate() {
            let id = self.token(next);
            let entity = Some((change.entity_type, change.external_id));
            let body = SeriesItemBody::of(entity, SeriesEntry::Instant(change.item));
            chunk.extend_from_slice(format!("id: {id}\nevent: change\ndata: ").as_bytes());
            serde_json::to_writer(&mut chunk, &body)?;
            chunk.extend_from_slice(b"\n\n");
            if chunk.len() >= CHUNK_BYTES || place + 1 == count {
                chunks.push((Bytes::from(std::mem::take(&mut chunk)), next));
            }
        }
        chunks.reverse();
        self.ready = chunks;
        Ok(())
    }

    /// Where to go on: nothing before is missing.
    fn resume(&self) -> Lsn {
        match &self.reader {
            Some(reader) if self.ready.is_empty() && self.unnamed.is_none() => reader.through(),
            Some(_) | None => self.sent,
        }
    }

    fn token(&self, next: Lsn) -> String {
        token_text(
            self.lineage.at(next),
            self.scope.tenant(),
            &self.shared.state,
        )
    }

    fn comment(&self) -> Bytes {
        Bytes::from(format!(": {}\n\n", self.token(self.resume())))
    }

    fn end(&mut self, ending: Ending) -> Result<Bytes, Broken> {
        self.ending = ending;
        let bye = Bye {
            code: ending.as_str(),
            resume: self.token(self.resume()),
        };
        let bye = serde_json::to_string(&bye)?;
        Ok(Bytes::from(format!("event: bye\ndata: {bye}\n\n")))
    }

    fn reader_mut(&mut self) -> &mut JournalReader {
        self.reader.as_mut().expect(READING)
    }
}

const READING: &str = "invariant: it is given back after each read";

impl Drop for Subscription {
    fn drop(&mut self) {
        let result = self.ending.as_str();
        metrics::counter!(SUBSCRIPTIONS_TOTAL, "result" => result).increment(1);
    }
}

/// The last thing that is said.
#[derive(Serialize)]
struct Bye {
    code: &'static str,
    resume: String,
}

fn event_of(event: &JournalEvent) -> ChangedEvent<'_> {
    ChangedEvent {
        entity: event.entity,
        observed_at: event.observed_at,
        ingested_at: event.ingested_at,
        op: event.op,
        attrs: &event.attrs,
    }
}

/// Returns once the server is told to stop, or nobody is left to tell it.
async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Where to go on after each of some events of which these are the commits, when everything that was committed before a position
/// was read: after its transaction where it is the last of that, else before it.
fn where_to_go_on(commits: &[Lsn], through: Lsn) -> Vec<Lsn> {
    let mut places = Vec::with_capacity(commits.len());
    for (place, commit_lsn) in commits.iter().enumerate() {
        let is_last = commits.get(place + 1) != Some(commit_lsn);
        let is_over = is_last && *commit_lsn < through;
        places.push(Lsn(commit_lsn.0 + u64::from(is_over)));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_on_after_an_event_misses_none_and_gets_whole_transactions_again() {
        for (commits, through, wanted) in [
            (&[][..], 9, &[][..]),
            (&[5], 6, &[6]),
            // More of it may come.
            (&[5], 5, &[5]),
            (&[5, 5, 5], 6, &[5, 5, 6]),
            (&[5, 5, 7, 9, 9], 9, &[5, 6, 8, 9, 9]),
            (&[5, 5, 7, 9, 9], 10, &[5, 6, 8, 9, 10]),
        ] {
            let commits: Vec<Lsn> = commits.iter().copied().map(Lsn).collect();
            let wanted: Vec<Lsn> = wanted.iter().copied().map(Lsn).collect();
            assert_eq!(
                where_to_go_on(&commits, Lsn(through)),
                wanted,
                "{commits:?}"
            );
        }
    }
}
