//! A session: made for one question of one tenant, with that tenant's tables and the allowed functions, and nothing else. It
//! has no files, no other catalogues, no settings that anybody could change, and no disk to spill to.

use std::sync::Arc;

use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider, TableProvider,
};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use object_store::ObjectStore;
use url::Url;

use super::functions;
use super::scan::BATCH_ROWS;
use super::stop::Stop;
use super::tame::Tame;

/// The names under which tables are found. A question says neither.
pub(crate) const CATALOG: &str = "sheaf";
pub(crate) const SCHEMA: &str = "lake";

/// There are no stores: files are read by the tables alone.
#[derive(Debug)]
struct NoStores;

impl ObjectStoreRegistry for NoStores {
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, _: &Url) -> Result<Arc<dyn ObjectStore>> {
        Err(DataFusionError::Plan(
            "there are no files to read".to_owned(),
        ))
    }
}

/// Makes a session.
pub(crate) fn session(
    tables: Vec<(&'static str, Arc<dyn TableProvider>)>,
    budget: Arc<dyn MemoryPool>,
    readers: usize,
    stop: Arc<Stop>,
) -> Result<SessionState> {
    let config = SessionConfig::new()
        .with_target_partitions(readers)
        .with_batch_size(BATCH_ROWS)
        .with_information_schema(false)
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(false);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(budget)
        .with_object_store_registry(Arc::new(NoStores))
        .with_disk_manager_builder(
            DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
        )
        .build_arc()?;
    let schema = MemorySchemaProvider::new();
    for (name, table) in tables {
        schema.register_table(name.to_owned(), table)?;
    }
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(SCHEMA, Arc::new(schema))?;
    let catalogs = MemoryCatalogProviderList::new();
    datafusion::catalog::CatalogProviderList::register_catalog(
        &catalogs,
        CATALOG.to_owned(),
        Arc::new(catalog),
    );
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_catalog_list(Arc::new(catalogs))
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(functions::scalar())
        .with_aggregate_functions(functions::aggregate())
        .with_window_functions(functions::window())
        .with_physical_optimizer_rule(Arc::new(Tame { stop }))
        .build();
    // What `now()` is.
    state.mark_start_execution();
    Ok(state)
}
