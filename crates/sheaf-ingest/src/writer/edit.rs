//! Edits: PATCH, PUT and DELETE of one entity. One bad value refuses all of an edit.

use std::sync::Arc;

use sheaf_model::{BatchId, EntityId, Event, Name, Op, Refusal, RefusalCode, Tags};
use sheaf_pg::PgError;
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::ledger::LedgerEntry;
use sheaf_store::rejections::Reading;

use super::Inner;
use super::answer::count_events;
use super::preparation::TYPING_RUNS_MAX;
use crate::decode;
use crate::lane::{Part, PartKind, PartOutcome, Request};
use crate::plan::GroupEvent;
use crate::request::{EditAnswer, EditFault, EditRequest, Precondition, WriteError};
use crate::typing::{time_refusal, type_cells};

impl Inner {
    pub(super) async fn edit(
        &self,
        scope: &TenantScope,
        request: EditRequest,
    ) -> Result<EditAnswer, WriteError> {
        let mut runs = 0;
        loop {
            let ended = self.edit_once(scope, &request).await;
            if !self.begins_anew(scope, &ended, &mut runs).await? {
                return ended;
            }
        }
    }

    async fn edit_once(
        &self,
        scope: &TenantScope,
        request: &EditRequest,
    ) -> Result<EditAnswer, WriteError> {
        let (entity_type, external_id) = edit_names(request)?;
        let (event, catalogue) = self.edit_event(scope, request).await?;
        let lineage = catalogue.lineage();
        let name = (entity_type.as_str(), external_id.as_str());
        let entity: EntityId = if request.op == Op::Delete {
            self.names
                .fetch(scope, lineage, name)
                .await?
                .ok_or(WriteError::NotFound)?
        } else if let Some(Precondition::Version(_)) = request.precondition {
            // What must have a version must be there; asking does not create it.
            self.names
                .fetch(scope, lineage, name)
                .await?
                .ok_or(WriteError::Precondition)?
        } else {
            self.names
                .require(scope, lineage, &[name], request.received_at)
                .await?[0]
        };
        let batch = BatchId::new();
        let buckets = vec![self.settings.bucket(scope.tenant(), entity)];
        let now = request.received_at;
        let mut entry = LedgerEntry::new(scope.tenant(), batch, request.ack.as_str(), 1, now);
        entry.buckets.clone_from(&buckets);
        let job = Request {
            scope: scope.clone(),
            catalogue,
            entry,
            sources: Vec::new(),
            reading: Reading::Json,
            now: request.received_at,
        };
        let part = Part {
            request: Arc::new(job),
            events: Arc::new(vec![GroupEvent {
                index: 0,
                tenant: scope.tenant(),
                entity,
                event,
            }]),
            buckets,
            rejections: Vec::new(),
            opens: true,
            is_doubtful: false,
            may_be_stored: false,
            kind: PartKind::Edit {
                precondition: request.precondition,
                must_exist: request.op == Op::Delete,
            },
            prepared: None,
        };
        let (stored, position) = match self.lanes.commit(part).await? {
            PartOutcome::Stored(stored, position) => (*stored, position),
            PartOutcome::AlreadyThere(Some(stored), position) => (stored, position),
            PartOutcome::AlreadyThere(None, _) => {
                return Err(PgError::unreadable("storing an edit", "a new batch id").into());
            }
            PartOutcome::RefusedByPlan(refused) => {
                let faults = refused.into_iter().map(|rejection| EditFault {
                    parameter: "observed_at".to_owned(),
                    code: rejection.code,
                    reason: rejection.reason,
                });
                return Err(WriteError::Edit(faults.collect()));
            }
        };
        count_events(&stored.counts);
        let document = stored
            .document
            .ok_or_else(|| PgError::unreadable("answering an edit", "its document"))?;
        Ok(EditAnswer {
            created: document.created,
            entity_type: entity_type.into_string(),
            external_id,
            version: document.version,
            observed_at: document.observed_at,
            superseded: document.superseded,
            position,
        })
    }

    /// The typed event of an edit. One bad value refuses all of it.
    async fn edit_event(
        &self,
        scope: &TenantScope,
        request: &EditRequest,
    ) -> Result<(Event, Arc<Catalogue>), WriteError> {
        let mut catalogue = self.catalogues.current(scope).await?;
        for _ in 0..TYPING_RUNS_MAX {
            let edit = match request.op {
                Op::Delete => decode::Edit {
                    observed_at: request.observed_at,
                    time_cut: false,
                    cells: Vec::new(),
                    refusals: Vec::new(),
                },
                Op::Patch | Op::Replace | Op::Correct => decode::edit(&request.body, &self.limits)?,
            };
            let mut faults: Vec<EditFault> = edit
                .refusals
                .into_iter()
                .map(|(field, refusal)| edit_fault(field.as_deref().unwrap_or_default(), refusal))
                .collect();
            let too_early_or_late = edit
                .observed_at
                .and_then(|time| time_refusal(time, &catalogue, request.received_at));
            faults.extend(too_early_or_late.map(|refusal| EditFault {
                parameter: "observed_at".to_owned(),
                code: refusal.code,
                reason: refusal.reason,
            }));
            let (attrs, missing, refused) =
                type_cells(edit.cells, &self.rules(&catalogue, request.received_at));
            faults.extend(
                refused
                    .into_iter()
                    .map(|(name, refusal)| edit_fault(&name, refusal)),
            );
            if !faults.is_empty() {
                return Err(WriteError::Edit(faults));
            }
            if missing.is_empty() {
                let event = Event {
                    observed_at: edit.observed_at,
                    op: request.op,
                    attrs,
                    tags: Tags::None,
                };
                return Ok((event, catalogue));
            }
            catalogue = self.create(scope, &missing, request.received_at).await?;
        }
        Err(WriteError::Overloaded)
    }
}

fn edit_fault(name: &str, refusal: Refusal) -> EditFault {
    let parameter = if name.is_empty() {
        "attributes".to_owned()
    } else {
        format!("attributes.{name}")
    };
    EditFault {
        parameter,
        code: refusal.code,
        reason: refusal.reason,
    }
}

fn edit_names(request: &EditRequest) -> Result<(Name, String), WriteError> {
    let fault = |parameter: &str, reason: String| {
        WriteError::Edit(vec![EditFault {
            parameter: parameter.to_owned(),
            code: RefusalCode::InvalidName,
            reason,
        }])
    };
    let entity_type =
        Name::parse(&request.entity_type).map_err(|error| fault("type", error.to_string()))?;
    let external_id = decode::external_id(request.external_id.as_str().into())
        .map_err(|refusal| fault("id", refusal.reason))?;
    Ok((entity_type, external_id))
}
