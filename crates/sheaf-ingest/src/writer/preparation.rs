//! A body on its way to events that can be written: decoded and typed, its attributes created and its entities numbered.

use std::collections::HashMap;
use std::sync::Arc;

use sheaf_model::{Limits, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{AttributeBounds, Catalogue, NewAttribute, mark_series_tags};

use super::Inner;
use crate::decode::{self, BodyFault, Decoded, IdRules};
use crate::instruments::TIMES_CUT_TOTAL;
use crate::lane::EventSource;
use crate::plan::GroupEvent;
use crate::request::{BodyFormat, IngestRequest, OnError, WriteError};
use crate::typing::{HOT_ATTRIBUTES_MAX, Rules, Typed, TypedEvent, type_body};

/// How often a body is typed anew because other servers keep changing its catalogue.
pub(super) const TYPING_RUNS_MAX: usize = 8;
/// Bodies larger than this wait for their turn, and are decoded off the threads that serve connections.
pub(super) const DECODED_INLINE_BYTES_MAX: usize = 64 * 1024;

impl Inner {
    /// Decodes and types a body, creating the attributes that it needs, unless it is refused as a whole.
    pub(super) async fn type_request(
        &self,
        scope: &TenantScope,
        request: &IngestRequest,
    ) -> Result<(Typed, usize, Arc<Catalogue>), WriteError> {
        let mut catalogue = self.catalogues.current(scope).await?;
        for _ in 0..TYPING_RUNS_MAX {
            let (typed, count) = self.type_once(request, &catalogue)?;
            let refused_whole = request.on_error == OnError::Reject && !typed.refusals.is_empty();
            if (typed.missing.is_empty() && typed.unmarked.is_empty()) || refused_whole {
                metrics::counter!(TIMES_CUT_TOTAL).increment(typed.times_cut);
                return Ok((typed, count, catalogue));
            }
            let now = request.received_at;
            catalogue = self.amend(scope, &catalogue, &typed, now).await?;
        }
        Err(WriteError::Overloaded)
    }

    fn type_once(
        &self,
        request: &IngestRequest,
        catalogue: &Catalogue,
    ) -> Result<(Typed, usize), WriteError> {
        let work = || {
            let decoded = decode_body(request, catalogue, &self.limits)?;
            let count = decoded.count as usize;
            let rules = self.rules(catalogue, request.received_at);
            Ok((type_body(decoded, &request.body, &rules), count))
        };
        aside(request.body.len(), work)
    }

    pub(super) fn rules<'a>(&'a self, catalogue: &'a Catalogue, now: Timestamp) -> Rules<'a> {
        Rules {
            catalogue,
            schemas: &self.schemas,
            limits: &self.limits,
            now,
        }
    }

    pub(super) async fn create(
        &self,
        scope: &TenantScope,
        missing: &[NewAttribute],
        now: Timestamp,
    ) -> Result<Arc<Catalogue>, WriteError> {
        let bounds = AttributeBounds {
            hot_max: HOT_ATTRIBUTES_MAX,
            attributes_max: self.limits.tenant_attributes_max,
        };
        let created = self
            .catalogues
            .create_attributes(scope, missing, bounds, now);
        Ok(created.await?)
    }

    /// Makes the catalogue fit for events: creates the attributes that they need, and marks those that lines have as tags
    /// beside an id.
    pub(super) async fn amend(
        &self,
        scope: &TenantScope,
        catalogue: &Catalogue,
        typed: &Typed,
        now: Timestamp,
    ) -> Result<Arc<Catalogue>, WriteError> {
        if !typed.missing.is_empty() {
            return self.create(scope, &typed.missing, now).await;
        }
        let attributes = typed.unmarked.iter().filter_map(|id| catalogue.by_id(*id));
        let unmarked: Vec<&str> = attributes.map(|known| known.name.as_str()).collect();
        mark_series_tags(&self.app, scope, &unmarked).await?;
        Ok(self.catalogues.refresh(scope).await?)
    }

    /// Gives events the numbers of their entities, on the lineage of the catalogue that they were typed with.
    pub(super) async fn name_events(
        &self,
        scope: &TenantScope,
        catalogue: &Catalogue,
        typed: Vec<TypedEvent>,
        now: Timestamp,
    ) -> Result<(Vec<GroupEvent>, Vec<EventSource>), WriteError> {
        let names: Vec<(&str, &str)> = typed
            .iter()
            .map(|event| (event.entity_type.as_str(), event.external_id.as_str()))
            .collect();
        let lineage = catalogue.lineage();
        let entities = self.names.require(scope, lineage, &names, now).await?;
        let (mut events, mut sources) = (
            Vec::with_capacity(entities.len()),
            Vec::with_capacity(entities.len()),
        );
        for (typed, entity) in typed.into_iter().zip(entities) {
            events.push(GroupEvent {
                index: typed.index,
                tenant: scope.tenant(),
                entity,
                event: typed.event,
            });
            sources.push(EventSource {
                index: typed.index,
                raw: typed.raw,
                entity_type: typed.entity_type,
            });
        }
        Ok((events, sources))
    }
}

/// Does work on so many bytes; much of it off the threads that serve connections.
pub(super) fn aside<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Handle::current().runtime_flavor();
    if bytes > DECODED_INLINE_BYTES_MAX && runtime == tokio::runtime::RuntimeFlavor::MultiThread {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

fn decode_body<'a>(
    request: &'a IngestRequest,
    catalogue: &Catalogue,
    limits: &Limits,
) -> Result<Decoded<'a>, BodyFault> {
    match &request.format {
        BodyFormat::JsonArray => decode::json_array(&request.body, limits),
        BodyFormat::Ndjson => decode::ndjson(&request.body, limits),
        BodyFormat::LineProtocol { precision, id_tags } => {
            let rules = IdRules {
                all: id_tags.clone(),
                by_measurement: tenant_rules(&catalogue.tenant.policy.line_protocol),
            };
            decode::line_protocol(&request.body, *precision, &rules, limits)
        }
    }
}

/// The tenant's rules `{"cpu":{"id_tags":["host"]}}`; checked when they were stored.
pub(super) fn tenant_rules(stored: &str) -> HashMap<String, Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Rule {
        id_tags: Vec<String>,
    }
    let rules: HashMap<String, Rule> = serde_json::from_str(stored).unwrap_or_else(|error| {
        tracing::error!(%error, "a tenant's line protocol rules cannot be read; whole tag sets are ids");
        HashMap::new()
    });
    rules
        .into_iter()
        .map(|(measurement, rule)| (measurement, rule.id_tags))
        .collect()
}
