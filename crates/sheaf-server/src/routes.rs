//! Every route with the key that it needs. A route cannot be added without saying which: the guard is part of adding it.

use std::sync::Arc;

use axum::middleware::from_fn_with_state;
use axum::{Extension, Router};
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::SecurityRequirement;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use crate::auth::{KeyClass, KeyRing, guard};
use crate::changes::{self, Places};
use crate::docs::{self, Document};
use crate::observe::observe;
use crate::openapi;
use crate::pgwire::{PgWire, PgWireBounds};
use crate::problem::Problem;
use crate::state::{AppState, Shared};
use crate::stream::Streams;
use crate::{
    attributes, batches, dead_letters, edits, entities, histories, history, influx, ingest, keys,
    rejections, service, sql, tenants,
};

/// The whole interface.
pub fn router(state: AppState) -> Router {
    router_of(shared(state))
}

/// The same, and beside it what is served to clients of PostgreSQL: keys, and how many questions there may be, are looked after
/// together.
pub fn router_and_pgwire(state: AppState, bounds: PgWireBounds) -> (Router, PgWire) {
    let shared = shared(state);
    let pgwire = PgWire::new(shared.clone(), bounds);
    (router_of(shared), pgwire)
}

fn shared(state: AppState) -> Shared {
    Shared {
        keys: Arc::new(KeyRing::new(&state.bounds)),
        streams: Arc::new(Streams::new(state.bounds.streams)),
        subscriptions: Arc::new(Places::new(state.bounds.subscriptions)),
        state: Arc::new(state),
    }
}

fn router_of(shared: Shared) -> Router {
    let (router, document) = declared(&shared).split_for_parts();
    router
        .fallback(async || Problem::not_found())
        .layer(Extension(Document(Arc::new(openapi::complete(document)))))
        .layer(from_fn_with_state(shared.state.bounds, observe))
        .with_state(shared)
}

fn declared(shared: &Shared) -> OpenApiRouter<Shared> {
    let routes = Routes {
        shared: shared.clone(),
        router: OpenApiRouter::with_openapi(OpenApi::default()),
    };
    routes
        .add(KeyClass::Open, routes!(service::healthz))
        .add(KeyClass::Open, routes!(service::readyz))
        .add(KeyClass::Admin, routes!(service::metrics))
        .add(KeyClass::Open, routes!(docs::page))
        .add(KeyClass::Open, routes!(docs::asset))
        .add(KeyClass::Open, routes!(docs::error))
        .add(KeyClass::Open, routes!(docs::openapi))
        .add(KeyClass::Admin, routes!(tenants::create, tenants::list))
        .add(KeyClass::Admin, routes!(tenants::change))
        .add(KeyClass::Admin, routes!(keys::create, keys::list))
        .add(KeyClass::Admin, routes!(keys::revoke))
        .add(KeyClass::Write, routes!(attributes::declare))
        .add(KeyClass::Read, routes!(attributes::list))
        .add(KeyClass::Read, routes!(attributes::show))
        .add(KeyClass::Write, routes!(attributes::describe))
        .add(KeyClass::Read, routes!(entities::list))
        .add(KeyClass::Read, routes!(entities::search))
        .add(KeyClass::Read, routes!(entities::show))
        .add(
            KeyClass::Write,
            routes!(edits::patch, edits::replace, edits::delete),
        )
        .add(KeyClass::Read, routes!(history::show))
        .add(KeyClass::Read, routes!(histories::query))
        .add(KeyClass::Read, routes!(sql::query))
        .add(KeyClass::Read, routes!(changes::follow))
        .add(KeyClass::Write, routes!(ingest::ingest))
        .add(KeyClass::Read, routes!(batches::batch))
        .add(KeyClass::Read, routes!(rejections::list))
        .add(KeyClass::Write, routes!(rejections::replay))
        .add(KeyClass::Admin, routes!(dead_letters::list))
        .add(KeyClass::Admin, routes!(dead_letters::show))
        .add(KeyClass::Admin, routes!(dead_letters::replay))
        .add(KeyClass::Admin, routes!(dead_letters::discard))
        .add(KeyClass::Open, routes!(influx::ping))
        .add(KeyClass::Write, routes!(influx::query, influx::query_form))
        .add(KeyClass::Write, routes!(influx::write_v1))
        .add(KeyClass::Write, routes!(influx::write_v2))
        .router
}

struct Routes {
    shared: Shared,
    router: OpenApiRouter<Shared>,
}

impl Routes {
    fn add(
        mut self,
        class: KeyClass,
        (schemas, mut paths, methods): UtoipaMethodRouter<Shared>,
    ) -> Routes {
        for item in paths.paths.values_mut() {
            for operation in operations(item) {
                operation.security = Some(security(class));
            }
        }
        let methods = methods.route_layer(from_fn_with_state((class, self.shared.clone()), guard));
        self.router = self.router.routes((schemas, paths, methods));
        self
    }
}

/// Which key the operation needs, as the document says it.
fn security(class: KeyClass) -> Vec<SecurityRequirement> {
    match class {
        KeyClass::Open => Vec::new(),
        KeyClass::Read => vec![SecurityRequirement::new(openapi::KEY, ["read"])],
        KeyClass::Write => vec![SecurityRequirement::new(openapi::KEY, ["write"])],
        KeyClass::Admin => vec![SecurityRequirement::new(openapi::KEY, ["admin"])],
    }
}

/// The operations of a path.
pub(crate) fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.patch,
    ]
    .into_iter()
    .flatten()
}
