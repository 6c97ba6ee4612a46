//! The reader: pools, settings and catalogues, and how one attempt at a read becomes an answer with its freshness.

use std::sync::Arc;

use sheaf_cache::Cache;
use sheaf_model::Name;
use sheaf_pg::Pool;
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogues;
use sheaf_store::settings::Settings;

use crate::archive::Archive;
use crate::consistency::ReadOptions;
use crate::cursor::{Binding, QueryDigest};
use crate::error::ReadError;
use crate::source::{SourcePools, Sources};

/// How long a statement that can be expensive may run. Long enough for an honest scan of a million documents; short
/// enough that a few hundred hostile ones do not hold every connection for minutes.
pub(crate) const STATEMENT_TIME_MAX: &str = "10s";
/// The largest page.
const PAGE_ITEMS_MAX: u32 = 1_000;

/// Answers every read of the interface.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(crate) sources: Arc<Sources>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) catalogues: Arc<Catalogues>,
    pub(crate) cache: Option<Cache>,
    pub(crate) archive: Option<Arc<dyn Archive>>,
}

impl Reader {
    /// A reader of the primary, with a pool of `sheaf_app` and one of `sheaf_search`. Replicas are added to its
    /// [`Reader::sources`].
    pub fn new(
        app: Pool,
        search: Pool,
        settings: Arc<Settings>,
        catalogues: Arc<Catalogues>,
    ) -> Reader {
        let primary = SourcePools { app, search };
        let sources = Sources::new(primary, Arc::clone(&settings), Arc::clone(&catalogues));
        Reader {
            sources: Arc::new(sources),
            settings,
            catalogues,
            cache: None,
            archive: None,
        }
    }

    /// The same reader, which remembers answers; without this it asks a source each time.
    pub fn remembering(self, cache: Cache) -> Reader {
        Reader {
            cache: Some(cache),
            ..self
        }
    }

    /// The same reader, which reads history from this archive as well.
    pub fn with_archive(self, archive: Arc<dyn Archive>) -> Reader {
        Reader {
            archive: Some(archive),
            ..self
        }
    }

    /// Where answers come from.
    pub fn sources(&self) -> &Arc<Sources> {
        &self.sources
    }

    /// What the cursors of a query of this request are bound to.
    pub(crate) fn binding(
        &self,
        scope: &TenantScope,
        query: QueryDigest,
        options: &ReadOptions,
    ) -> Binding<'_> {
        Binding {
            tenant: scope.tenant(),
            query,
            now: options.now,
            signing_key: &self.settings.signing_key,
        }
    }
}

/// The type that a query is bound to, where it is one that entities can have.
pub(crate) fn type_filter(text: Option<&str>) -> Result<Option<Name>, ReadError> {
    let name = text.map(Name::parse).transpose();
    name.map_err(|fault| ReadError::parameter("type", fault.to_string()))
}

/// The number of items of a page, where it is one that is served.
pub(crate) fn page_limit(limit: u32) -> Result<usize, ReadError> {
    if !(1..=PAGE_ITEMS_MAX).contains(&limit) {
        return Err(ReadError::parameter(
            "limit",
            format!("1 to {PAGE_ITEMS_MAX}"),
        ));
    }
    Ok(usize::try_from(limit).expect("a thousand fits a usize"))
}
