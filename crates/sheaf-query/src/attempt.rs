//! One attempt after another at a read: under a remembered catalogue, and again under a fresh one where the remembered one
//! proved old; at one source, and again at another where that one failed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sheaf_pg::{Disposition, PgError};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;

use crate::answer::Read;
use crate::consistency::{ConsistencyLevel, ReadOptions};
use crate::cursor::seen_in;
use crate::error::ReadError;
use crate::reader::Reader;
use crate::source::{Decision, Need, Refusal, Replica, Source};

/// How often a read is tried under another catalogue. Each further time needs another change of the catalogue within a
/// millisecond or so. Other sources are tried once each.
const ATTEMPTS_MAX: u32 = 4;
/// How long a read waits for a replica to reach its token before the primary is asked: many times what one that keeps up
/// needs, and less than a person notices.
const TOKEN_WAIT_MAX: Duration = Duration::from_millis(300);

/// One attempt after another at a read.
pub(crate) struct Attempt<'a> {
    reader: &'a Reader,
    scope: &'a TenantScope,
    options: ReadOptions,
    catalogue: Arc<Catalogue>,
    count: u32,
    /// Replicas that this read has failed at.
    excluded: Vec<Arc<Replica>>,
    /// Until when replicas may be waited for.
    waits_until: Instant,
}

impl<'a> Attempt<'a> {
    pub(crate) async fn first(
        reader: &'a Reader,
        scope: &'a TenantScope,
        options: &ReadOptions,
    ) -> Result<Attempt<'a>, ReadError> {
        Attempt::resumed(reader, scope, options, None).await
    }

    /// The same for a page that a cursor asks for: what it reads is no older than the page before.
    pub(crate) async fn resumed(
        reader: &'a Reader,
        scope: &'a TenantScope,
        options: &ReadOptions,
        cursor: Option<&str>,
    ) -> Result<Attempt<'a>, ReadError> {
        let sources = &reader.sources;
        if let Some(token) = options.token
            && token.system_id == reader.settings.system_id
        {
            sources.saw_timeline(token.timeline)?;
        }
        let signing_key = &reader.settings.signing_key;
        let seen = cursor.and_then(|text| seen_in(text, scope.tenant(), signing_key));
        let token = match seen {
            Some(seen) => sources.later(options, seen),
            None => options.token,
        };
        Ok(Attempt {
            reader,
            scope,
            options: ReadOptions { token, ..*options },
            catalogue: reader.catalogues.current(scope).await?,
            count: 1,
            excluded: Vec::new(),
            waits_until: Instant::now() + TOKEN_WAIT_MAX,
        })
    }

    /// The catalogue to read under.
    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The source to read from.
    pub(crate) async fn source(&mut self) -> Result<Source, ReadError> {
        let sources = &self.reader.sources;
        loop {
            let now = Instant::now();
            let need = Need {
                level: self.options.level,
                lag_max: self.options.lag_max(),
                token: self.options.token,
                may_wait: now < self.waits_until,
            };
            let (decision, replicas) = sources.decide(&need, &self.excluded, now);
            match decision {
                Decision::Replica(place) => {
                    let replica = &replicas[place];
                    match Source::replica(sources, replica, &self.options) {
                        Some(source) => return Ok(source),
                        None => self.excluded.push(Arc::clone(replica)),
                    }
                }
                Decision::Wait => sources.next_look(self.waits_until).await,
                Decision::Primary { in_place } => {
                    return Source::primary(sources, in_place, &self.options).await;
                }
                Decision::Refuse(refusal) => return Err(refused(refusal, None)),
            }
        }
    }

    /// The answer with its freshness, or nothing where the read has to be tried again. A name that a remembered catalogue
    /// lacks may have been created since, by another server; and what one source cannot answer another one may.
    pub(crate) async fn judge<T>(
        &mut self,
        source: Source,
        result: Result<T, ReadError>,
    ) -> Result<Option<Read<T>>, ReadError> {
        let is_other_lineage = source
            .lineage()
            .is_some_and(|lineage| self.catalogue.lineage() != Some(lineage));
        let replica = source.as_replica().map(Arc::clone);
        let error = match result {
            // Its numbers may be of other attributes.
            Ok(_) | Err(_) if is_other_lineage => ReadError::CatalogueChanged,
            Ok(value) => {
                let freshness = source.into_freshness();
                let freshness = freshness.expect("invariant: an answer was read from the source");
                return Ok(Some(Read { value, freshness }));
            }
            Err(error) => error,
        };
        drop(source);
        match self.next_of(&error, replica.is_some()) {
            Next::Source => self.excluded.extend(replica),
            Next::Catalogue => self.refresh(error, replica).await?,
            Next::Nothing => return Err(self.last(error)),
        }
        Ok(None)
    }

    fn next_of(&self, error: &ReadError, is_replica: bool) -> Next {
        match error {
            ReadError::CatalogueChanged | ReadError::MissingAttribute(_) => {
                if self.count < ATTEMPTS_MAX {
                    Next::Catalogue
                } else {
                    Next::Nothing
                }
            }
            ReadError::Unfit { .. } => Next::Source,
            ReadError::Postgres(_) if is_replica => Next::Source,
            error if self.count == 1 && error.code() == "unknown_attribute" => Next::Catalogue,
            _ => Next::Nothing,
        }
    }

    /// Reads the catalogue again. Where it is the same, it was the replica that is older, and another source is asked.
    async fn refresh(
        &mut self,
        error: ReadError,
        replica: Option<Arc<Replica>>,
    ) -> Result<(), ReadError> {
        self.count += 1;
        let before = Arc::clone(&self.catalogue);
        self.catalogue = self.reader.catalogues.refresh(self.scope).await?;
        if self
            .catalogue
            .is_version(before.lineage(), before.version())
        {
            self.excluded.extend(replica);
        }
        match error {
            // An attribute is committed before anything names it and is never removed, so that this catalogue, which is
            // newer than what was read, would have it.
            ReadError::MissingAttribute(id) if self.catalogue.by_id(id).is_none() => Err(error),
            _ => Ok(()),
        }
    }

    /// The error that a client gets.
    fn last(&self, error: ReadError) -> ReadError {
        match error {
            // Another one each time: each was there when the catalogue was read again.
            ReadError::MissingAttribute(_) => ReadError::CatalogueChanged,
            ReadError::Postgres(error) if error.disposition() == Disposition::Unavailable => {
                self.unavailable(error)
            }
            error => error,
        }
    }

    /// The primary is away. Where a replica might have answered, what its answer lacks is what is said.
    fn unavailable(&self, error: PgError) -> ReadError {
        let has_replicas = !self.reader.sources.replicas().is_empty();
        match (self.options.level, self.options.token) {
            (ConsistencyLevel::Session, Some(_)) if has_replicas => {
                refused(Refusal::TokenNotReached, Some(error))
            }
            (ConsistencyLevel::Eventual | ConsistencyLevel::Analytics, _) if has_replicas => {
                refused(Refusal::LagExceeded, Some(error))
            }
            (_, _) => ReadError::Postgres(error),
        }
    }
}

/// What follows a failed attempt.
enum Next {
    /// Another source.
    Source,
    /// The catalogue as it is now.
    Catalogue,
    /// Nothing: the error is the outcome.
    Nothing,
}

fn refused(refusal: Refusal, source: Option<PgError>) -> ReadError {
    match refusal {
        Refusal::InvalidToken => ReadError::InvalidToken,
        Refusal::StaleTimeline => ReadError::StaleTimeline,
        Refusal::TokenNotReached => ReadError::TokenNotReached { source },
        Refusal::LagExceeded => ReadError::LagExceeded { source },
    }
}
