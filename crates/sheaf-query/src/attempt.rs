//! One attempt after another at a read: under a remembered catalogue, and again under a fresh one where the remembered one
//! proved old; at one source, and again at another where that one failed.

use std::sync::Arc;

use sheaf_pg::Disposition;
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;

use crate::answer::Read;
use crate::archive::{ArchiveError, TOKEN_WAIT_MAX};
use crate::consistency::{ConsistencyLevel, ReadOptions};
use crate::cursor::seen_in;
use crate::error::ReadError;
use crate::reader::Reader;
use crate::source::{Choice, Replica, Shelf, Source, Whole};

/// How often a read is tried under another catalogue. Each further time needs another change of the catalogue within a
/// millisecond or so. Other sources are tried once each.
const ATTEMPTS_MAX: u32 = 4;

/// One attempt after another at a read.
pub(crate) struct Attempt<'a> {
    reader: &'a Reader,
    scope: &'a TenantScope,
    choice: Choice<'a>,
    catalogue: Arc<Catalogue>,
    count: u32,
    /// What all of a history is read from, where that is the archive.
    whole: Option<Whole>,
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
        let signing_key = &reader.settings.signing_key;
        let seen = cursor.and_then(|text| seen_in(text, scope.tenant(), signing_key));
        let token = match seen {
            Some(seen) => sources.later(options, seen),
            None => options.token,
        };
        let mut choice = Choice::new(sources, ReadOptions { token, ..*options });
        Ok(Attempt {
            reader,
            scope,
            catalogue: choice.current_catalogue(&reader.catalogues, scope).await?,
            choice,
            count: 1,
            whole: None,
        })
    }

    /// The same for a history: at level `analytics` the archive answers where it is fresh enough, and sources where it is not.
    pub(crate) async fn of_history(
        reader: &'a Reader,
        scope: &'a TenantScope,
        options: &ReadOptions,
        cursor: Option<&str>,
    ) -> Result<Attempt<'a>, ReadError> {
        let mut attempt = Attempt::resumed(reader, scope, options, cursor).await?;
        attempt.look_at_archive().await;
        Ok(attempt)
    }

    async fn look_at_archive(&mut self) {
        self.whole = None;
        let options = self.choice.options;
        let archive = match options.level {
            ConsistencyLevel::Analytics => self.reader.archive.as_ref(),
            ConsistencyLevel::Strong | ConsistencyLevel::Session | ConsistencyLevel::Eventual => {
                None
            }
        };
        let Some(archive) = archive else {
            return;
        };
        match archive.look(options.token, TOKEN_WAIT_MAX).await {
            Ok(state) => {
                let freshness = state.standing().freshness(&options);
                self.whole = freshness.map(|freshness| Whole { state, freshness });
            }
            Err(error) => {
                let cause = sheaf_pg::chain(&error);
                tracing::debug!(cause, "the archive was not looked at");
            }
        }
    }

    /// The catalogue to read under.
    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The source to read from.
    pub(crate) async fn source(&mut self) -> Result<Source, ReadError> {
        let source = self.choice.source().await?;
        let shelf = Shelf::new(self.reader.archive.clone(), self.whole.clone());
        Ok(source.beside(shelf))
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
            Next::Source => replica.into_iter().for_each(|it| self.choice.exclude(it)),
            Next::Catalogue => self.refresh(error, replica).await?,
            Next::State => {
                self.count += 1;
                self.look_at_archive().await;
            }
            Next::WithoutArchive => {
                let cause = sheaf_pg::chain(&error);
                tracing::warn!(cause, "a history was not read from the archive");
                self.whole = None;
            }
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
            ReadError::Archive(ArchiveError::Superseded { .. }) if self.count < ATTEMPTS_MAX => {
                Next::State
            }
            ReadError::Archive(_) if self.whole.is_some() => Next::WithoutArchive,
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
        self.catalogue = self
            .choice
            .new_catalogue(&self.reader.catalogues, self.scope, replica.as_ref())
            .await?;
        let is_same = self
            .catalogue
            .is_version(before.lineage(), before.version());
        if is_same && error.code() == "unknown_attribute" {
            return Err(error);
        }
        if let Some(replica) = replica.filter(|_| is_same) {
            self.choice.exclude(replica);
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
                self.choice.unavailable(error)
            }
            error => error,
        }
    }
}

/// What follows a failed attempt.
enum Next {
    /// Another source.
    Source,
    /// The catalogue as it is now.
    Catalogue,
    /// The archive as it is now.
    State,
    /// The sources, as the archive cannot be read.
    WithoutArchive,
    /// Nothing: the error is the outcome.
    Nothing,
}
