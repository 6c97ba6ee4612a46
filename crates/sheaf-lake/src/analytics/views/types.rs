//! Which attributes the entities of each type have. Only the facts say, so they are read for it; a file never changes, and so each is
//! read once.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use datafusion::common::DataFusionError;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, col};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::super::error::QueryError;
use super::super::files::KnownFile;
use super::Views;

/// What is remembered of all tenants: names of files, and attributes of types.
const KNOWN_MAX: u64 = 1_000_000;
/// Files that are read at once: what they say is kept also where the question's time ends before the last of them was read.
const FILES_AT_ONCE: usize = 64;
/// Attributes of all types together.
const PAIRS_MAX: usize = 100_000;

/// Attributes by type of entity.
pub(super) type OfTypes = BTreeMap<Arc<str>, BTreeSet<i64>>;

/// What the files of a tenant say.
#[derive(Debug, Clone, Default)]
struct Known {
    files: HashSet<String>,
    /// An attribute stays that all values have been corrected away of: a column without values.
    types: OfTypes,
}

impl Known {
    fn pairs(&self) -> usize {
        self.types.values().map(BTreeSet::len).sum()
    }
}

#[derive(Debug, Clone)]
struct BySize;

impl Weighter<i64, Arc<Known>> for BySize {
    fn weight(&self, _: &i64, known: &Arc<Known>) -> u64 {
        u64::try_from(known.files.len() + known.pairs()).unwrap_or(u64::MAX) + 1
    }
}

/// What is remembered of the types of each tenant.
#[derive(Debug)]
pub(crate) struct KnownTypes(Cache<i64, Arc<Known>, BySize>);

impl KnownTypes {
    pub(crate) fn new() -> KnownTypes {
        KnownTypes(Cache::with_weighter(1_024, KNOWN_MAX, BySize))
    }

    /// The attributes of each type of the tenant whose views are made.
    pub(super) async fn attributes(&self, views: &Views<'_>) -> Result<OfTypes, QueryError> {
        let tenant = views.facts.tenant();
        let files = views.facts.files().await;
        let files = files
            .map_err(|error| QueryError::of_running(DataFusionError::External(Box::new(error))))?;
        let known = self.0.get(&tenant).unwrap_or_default();
        let is_new = |file: &&Arc<KnownFile>| !known.files.contains(&file.location);
        let new: Vec<Arc<KnownFile>> = files.iter().filter(is_new).cloned().collect();
        if new.is_empty() {
            return Ok(known.types.clone());
        }
        let mut known = Known::clone(&known);
        let there: HashSet<&str> = files.iter().map(|file| &*file.location).collect();
        known.files.retain(|file| there.contains(&**file));
        for some in new.chunks(FILES_AT_ONCE) {
            read(views, some, &mut known.types).await?;
            known
                .files
                .extend(some.iter().map(|file| file.location.clone()));
            if known.pairs() > PAIRS_MAX {
                return Err(QueryError::refused(
                    "there are too many attributes of too many types: name the columns",
                ));
            }
            self.0.insert(tenant, Arc::new(known.clone()));
        }
        Ok(known.types)
    }
}

async fn read(
    views: &Views<'_>,
    files: &[Arc<KnownFile>],
    types: &mut OfTypes,
) -> Result<(), QueryError> {
    let table = Arc::new(views.facts.of_files(files.to_vec()));
    let scan = LogicalPlanBuilder::scan("facts", provider_as_source(table), None);
    let plan = scan.and_then(|scan| {
        let columns = ["entity_type", "attribute_id"];
        scan.filter(col("entity_type").is_not_null())?
            .aggregate(columns.map(col), Vec::<Expr>::new())?
            .build()
    });
    views
        .each(plan, |batch| {
            let names = batch.column(0).as_string_view();
            let ids = batch.column(1).as_primitive::<Int64Type>();
            for place in 0..batch.num_rows() {
                let name = names.value(place);
                if !types.contains_key(name) {
                    types.insert(name.into(), BTreeSet::new());
                }
                if let (Some(of_type), true) = (types.get_mut(name), ids.is_valid(place)) {
                    of_type.insert(ids.value(place));
                }
            }
        })
        .await
}
