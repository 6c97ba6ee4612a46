//! Reading under a remembered catalogue, and again under a fresh one where the remembered one proved old.

use std::sync::Arc;

use sheaf_model::Position;
use sheaf_pg::PgError;
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{Catalogue, Catalogues};

use crate::error::ReadError;

/// How often a read is tried. Each further time needs another change of the catalogue within a millisecond or so.
const ATTEMPTS_MAX: u32 = 4;

/// Fails where what was read is of another lineage than the catalogue: its numbers may be of other attributes.
pub(crate) fn check_lineage(catalogue: &Catalogue, read: Position) -> Result<(), ReadError> {
    if catalogue.lineage() == Some(read.lineage()) {
        Ok(())
    } else {
        Err(ReadError::CatalogueChanged)
    }
}

/// One attempt after another at a read.
pub(crate) struct Attempt<'a> {
    catalogues: &'a Catalogues,
    scope: &'a TenantScope,
    catalogue: Arc<Catalogue>,
    count: u32,
}

impl<'a> Attempt<'a> {
    pub(crate) async fn first(
        catalogues: &'a Catalogues,
        scope: &'a TenantScope,
    ) -> Result<Attempt<'a>, PgError> {
        Ok(Attempt {
            catalogues,
            scope,
            catalogue: catalogues.current(scope).await?,
            count: 1,
        })
    }

    /// The catalogue to read under.
    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The result, or nothing where the read has to be tried again. A name that a remembered catalogue lacks may have
    /// been created since, by another server.
    pub(crate) async fn judge<T>(
        &mut self,
        result: Result<T, ReadError>,
    ) -> Result<Option<T>, ReadError> {
        let error = match result {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => error,
        };
        let is_old = match &error {
            ReadError::CatalogueChanged | ReadError::MissingAttribute(_) => {
                self.count < ATTEMPTS_MAX
            }
            error => self.count == 1 && error.code() == "unknown_attribute",
        };
        if !is_old {
            return Err(match error {
                // Another one each time: each was there when the catalogue was read again.
                ReadError::MissingAttribute(_) => ReadError::CatalogueChanged,
                error => error,
            });
        }
        self.count += 1;
        self.catalogue = self.catalogues.refresh(self.scope).await?;
        match error {
            // An attribute is committed before anything names it and is never removed, so that this catalogue, which is
            // newer than what was read, would have it.
            ReadError::MissingAttribute(id) if self.catalogue.by_id(id).is_none() => Err(error),
            _ => Ok(None),
        }
    }
}
