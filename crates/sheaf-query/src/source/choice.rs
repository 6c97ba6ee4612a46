//! Which sources one read asks, one after the other until one can answer it; and what it needs beside its data where the
//! primary, which has that, is away.
//!
//! A catalogue and a key come from the primary. While it is away a replica has them as well as the data: held to the same
//! lag and token, and never without a bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sheaf_model::{Duration as Span, KeyId, Timestamp};
use sheaf_pg::{Disposition, PgError};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{Catalogue, Catalogues, catalogue_on, read_catalogue};
use sheaf_store::keys::{StoredKey, fetch_key, find_key, found_key};

use super::asked::Source;
use super::decision::{Decision, Need, Refusal};
use super::registry::{Replica, Sources};
use crate::consistency::{ConsistencyLevel, ReadOptions};
use crate::error::ReadError;

/// How long a read waits for a replica to reach its token before the primary is asked: many times what one that keeps up
/// needs, and less than a person notices.
const TOKEN_WAIT_MAX: Duration = Duration::from_millis(300);
/// How long a catalogue that was checked on the primary is believed while that is away, before a replica is asked for it.
/// Longer hides names that were made a moment before; shorter reads large catalogues more often. Whatever is read with one
/// compares its version.
const CATALOGUE_BELIEVED: Duration = Duration::from_secs(10);
/// How old the replica may be that says whether a key is good while the primary is away. With the ten seconds that a server
/// believes a key, one that was revoked is refused within thirty wherever it is used: also where the primary goes on, and
/// is cut off from this server and the replicas.
const KEY_LAG_MAX_MICROS: i64 = 20_000_000;

/// The sources of one read.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    sources: &'a Arc<Sources>,
    pub(crate) options: ReadOptions,
    /// Replicas that this read has failed at.
    excluded: Vec<Arc<Replica>>,
    /// Until when replicas may be waited for.
    waits_until: Instant,
}

impl<'a> Choice<'a> {
    pub(crate) fn new(sources: &'a Arc<Sources>, options: ReadOptions) -> Choice<'a> {
        Choice {
            sources,
            options,
            excluded: Vec::new(),
            waits_until: Instant::now() + TOKEN_WAIT_MAX,
        }
    }

    /// The source to read from.
    pub(crate) async fn source(&mut self) -> Result<Source, ReadError> {
        loop {
            let now = Instant::now();
            let need = Need {
                level: self.options.level,
                lag_max: self.options.lag_max(),
                token: self.options.token,
                may_wait: now < self.waits_until,
            };
            let (decision, replicas) = self.sources.decide(&need, &self.excluded, now);
            match decision {
                Decision::Replica(place) => {
                    if let Some(source) = self.seat(&replicas[place]) {
                        return Ok(source);
                    }
                }
                Decision::WaitAt(place) => {
                    if let Some(source) = self.wait_at(&replicas[place]).await {
                        return Ok(source);
                    }
                }
                Decision::Wait => self.sources.next_look(self.waits_until).await,
                Decision::Primary { in_place } => {
                    return Source::primary(self.sources, in_place, &self.options).await;
                }
                Decision::Refuse(refusal) => return Err(refused(refusal, None)),
            }
        }
    }

    /// A place at the replica; one that it does not give is not asked for again.
    fn seat(&mut self, replica: &Arc<Replica>) -> Option<Source> {
        let source = Source::replica(self.sources, replica, &self.options);
        if source.is_none() {
            self.exclude(Arc::clone(replica));
        }
        source
    }

    async fn wait_at(&mut self, replica: &Arc<Replica>) -> Option<Source> {
        let token = self
            .options
            .token
            .expect("invariant: a token is waited for");
        match replica.reaches(token.lsn, self.waits_until).await {
            Some(Ok(true)) => return self.seat(replica),
            Some(Ok(false)) => {}
            // The looks show it as well.
            None => {
                self.sources.next_look(self.waits_until).await;
                return None;
            }
            Some(Err(error)) => tracing::debug!(%error, "a replica was not waited for"),
        }
        self.exclude(Arc::clone(replica));
        None
    }

    /// Asks this replica no more.
    pub(crate) fn exclude(&mut self, replica: Arc<Replica>) {
        self.excluded.push(replica);
    }

    /// The catalogue as the primary has it; where that is away and replicas may answer the read, as one of these has it or
    /// as it was remembered a moment ago.
    pub(crate) async fn current_catalogue(
        &mut self,
        catalogues: &Catalogues,
        scope: &TenantScope,
    ) -> Result<Arc<Catalogue>, ReadError> {
        // Before anything else, so that it is said whoever is away.
        let token = self.sources.check_token(self.options.token);
        token.map_err(|refusal| refused(refusal, None))?;
        let away = match self.of_primary(catalogues.current(scope)).await? {
            Ok(catalogue) => return Ok(catalogue),
            Err(away) => away,
        };
        match catalogues.recent(scope.tenant(), CATALOGUE_BELIEVED) {
            Some(catalogue) => Ok(catalogue),
            None => Box::pin(self.replicas_catalogue(catalogues, scope, None, away)).await,
        }
    }

    /// The same, read anew. A replica whose answer did not fit the one before has one that does.
    pub(crate) async fn new_catalogue(
        &mut self,
        catalogues: &Catalogues,
        scope: &TenantScope,
        replica: Option<&Arc<Replica>>,
    ) -> Result<Arc<Catalogue>, ReadError> {
        match self.of_primary(catalogues.refresh(scope)).await? {
            Ok(catalogue) => Ok(catalogue),
            Err(away) => Box::pin(self.replicas_catalogue(catalogues, scope, replica, away)).await,
        }
    }

    async fn replicas_catalogue(
        &mut self,
        catalogues: &Catalogues,
        scope: &TenantScope,
        replica: Option<&Arc<Replica>>,
        away: Away,
    ) -> Result<Arc<Catalogue>, ReadError> {
        let mut first = replica.and_then(|replica| self.seat(replica));
        loop {
            let source = match first.take() {
                Some(source) => source,
                None => self.source().await?,
            };
            let Some(replica) = source.as_replica().map(Arc::clone) else {
                let asked = match away {
                    Away::Unavailable(error) => Err(error),
                    Away::Lost => catalogues.refresh(scope).await,
                };
                return asked.map_err(|error| {
                    if error.disposition() == Disposition::Unavailable {
                        self.unavailable(error)
                    } else {
                        error.into()
                    }
                });
            };
            let tenant = scope.tenant();
            match source.run(scope, read_catalogue(&tenant).into()).await {
                Ok(rows) => {
                    let lineage = source.lineage();
                    let lineage = lineage.expect("invariant: an answer was read from the source");
                    let catalogue = Arc::new(catalogue_on(lineage, &rows)?);
                    catalogues.remember_of_replica(Arc::clone(&catalogue));
                    return Ok(catalogue);
                }
                Err(error) => {
                    tracing::debug!(%error, "a replica did not give a catalogue");
                    self.exclude(replica);
                }
            }
        }
    }

    /// What the primary answers, or how it is away, where replicas may answer instead.
    async fn of_primary<T>(
        &self,
        answer: impl Future<Output = Result<T, PgError>>,
    ) -> Result<Result<T, Away>, ReadError> {
        if !self.asks_replicas() {
            return Ok(Ok(answer.await?));
        }
        Ok(self.sources.ask_primary(answer).await?)
    }

    fn asks_replicas(&self) -> bool {
        let ReadOptions { level, token, .. } = self.options;
        level.may_be_behind(token.is_some()) && !self.sources.replicas().is_empty()
    }

    /// The primary is away. Where a replica might have answered, what its answer lacks is what is said.
    pub(crate) fn unavailable(&self, error: PgError) -> ReadError {
        match self.options.level {
            _ if !self.asks_replicas() => ReadError::Postgres(error),
            ConsistencyLevel::Strong | ConsistencyLevel::Session => {
                refused(Refusal::TokenNotReached, Some(error))
            }
            ConsistencyLevel::Eventual | ConsistencyLevel::Analytics => {
                refused(Refusal::LagExceeded, Some(error))
            }
        }
    }
}

/// How the primary is away.
enum Away {
    /// It was asked, and this is what came of it.
    Unavailable(PgError),
    /// It does not answer the watch. Where no replica answers either, it is asked all the same: it may be slow only.
    Lost,
}

impl Sources {
    async fn ask_primary<T>(
        &self,
        answer: impl Future<Output = Result<T, PgError>>,
    ) -> Result<Result<T, Away>, PgError> {
        match self.unless_primary_lost(answer).await {
            None => Ok(Err(Away::Lost)),
            Some(Ok(answer)) => Ok(Ok(answer)),
            Some(Err(error)) if error.disposition() == Disposition::Unavailable => {
                Ok(Err(Away::Unavailable(error)))
            }
            Some(Err(error)) => Err(error),
        }
    }

    /// The key with this public half, before its tenant is known: as the primary has it, and while that is away as a replica
    /// has it that is at most twenty seconds behind.
    ///
    /// # Errors
    /// Also where the primary is away and no replica has the key: it may be newer than what they have.
    pub async fn fetch_key(self: &Arc<Self>, id: &KeyId) -> Result<Option<StoredKey>, PgError> {
        let away = match self.ask_primary(fetch_key(&self.primary.app, id)).await? {
            Ok(key) => return Ok(key),
            Err(away) => away,
        };
        let lag_max = Span::from_micros(KEY_LAG_MAX_MICROS);
        let options = ReadOptions {
            level: ConsistencyLevel::Eventual,
            max_lag: Some(lag_max.expect("invariant: twenty seconds are a span")),
            token: None,
            now: Timestamp::now(),
        };
        let mut choice = Choice::new(self, options);
        let mut is_unknown = false;
        let key_id = id.as_str();
        loop {
            let source = choice.source().await.ok();
            let of_replica = source.and_then(|source| {
                let replica = Arc::clone(source.as_replica()?);
                Some((source, replica))
            });
            let Some((source, replica)) = of_replica else {
                return match away {
                    Away::Unavailable(error) => Err(error),
                    Away::Lost if is_unknown => Err(PgError::NotPrimary {
                        step: "looking an api key up",
                        why: "that does not answer, and no replica has the key",
                    }),
                    Away::Lost => fetch_key(&self.primary.app, id).await,
                };
            };
            match source.look_up(vec![find_key(&key_id)]).await {
                Ok(rows) => match found_key(&rows[0])? {
                    Some(key) => return Ok(Some(key)),
                    None => is_unknown = true,
                },
                Err(error) => {
                    tracing::debug!(%error, "a replica did not tell whether a key is good");
                }
            }
            choice.exclude(replica);
        }
    }
}

fn refused(refusal: Refusal, source: Option<PgError>) -> ReadError {
    match refusal {
        Refusal::InvalidToken => ReadError::InvalidToken,
        Refusal::StaleTimeline => ReadError::StaleTimeline,
        Refusal::TokenNotReached => ReadError::TokenNotReached { source },
        Refusal::LagExceeded => ReadError::LagExceeded { source },
    }
}
