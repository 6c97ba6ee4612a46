//! Tenants: created, listed and changed by administrators.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use sheaf_model::{Duration, Name, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::keys::{ApiKey, KeyScope, insert_key};
use sheaf_store::tenants::{
    Tenant, TenantPolicy, create_tenant, fetch_tenant, list_tenants, update_tenant,
};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::attributes::definition::{retention_after, span_text};
use crate::attributes::{CHANGE_ATTEMPTS_MAX, overtaken};
use crate::body::{SMALL_BYTES_MAX, read_json};
use crate::freshness::{NO_TENANT, read_fresh, read_headers, read_options};
use crate::keys::NewKeyBody;
use crate::members::{Change, Members};
use crate::openapi::named_with;
use crate::page::{PageBody, PagedList};
use crate::params::{Params, Segments};
use crate::problem::{Code, Problem};
use crate::state::AppState;

/// A tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TenantBody {
    /// Its name, unique.
    name: String,
    /// `create` or `refuse` attributes that the catalogue lacks.
    unknown_attributes: &'static str,
    /// Facts observed before this are refused.
    #[schema(value_type = String, format = DateTime)]
    observed_at_min: Timestamp,
    /// Facts observed further ahead of the clock are refused.
    observed_at_ahead_max: String,
    /// How long history is kept; null is for ever.
    retention: Option<String>,
    /// By measurement, the tags that make the entity's id.
    #[schema(value_type = BTreeMap<String, IdTags>)]
    line_protocol: Box<RawValue>,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Only in the answer to its creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<NewKeyBody>,
}

/// The tags that make the id of a measurement's entities.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IdTags {
    /// In the order in which they stand in the id.
    id_tags: Vec<String>,
}

/// What a tenant is created with, or changed to; all but the name may be left out.
#[derive(Debug, Clone, ToSchema)]
pub(crate) struct TenantPolicyBody {
    /// `create` or `refuse`.
    #[schema(value_type = Option<String>)]
    unknown_attributes: Change<bool>,
    /// A time.
    #[schema(value_type = Option<String>)]
    observed_at_min: Change<Timestamp>,
    /// A duration such as `1d`.
    #[schema(value_type = Option<String>)]
    observed_at_ahead_max: Change<Duration>,
    /// A duration, or null for ever.
    #[schema(value_type = Option<String>)]
    retention: Change<Duration>,
    /// By measurement, the tags that make the entity's id.
    #[schema(value_type = Option<BTreeMap<String, IdTags>>)]
    line_protocol: Change<String>,
}

/// A tenant that is to be.
#[derive(Debug)]
pub(crate) struct NewTenantBody {
    name: Name,
    policy: TenantPolicyBody,
}

impl PartialSchema for NewTenantBody {
    fn schema() -> RefOr<Schema> {
        named_with::<TenantPolicyBody>(ObjectBuilder::new())
    }
}

impl ToSchema for NewTenantBody {}

impl TenantPolicyBody {
    fn take(members: &mut Members<'_>) -> Result<TenantPolicyBody, Problem> {
        let creates = |text: &str| match text {
            "create" => Some(true),
            "refuse" => Some(false),
            _ => None,
        };
        Ok(TenantPolicyBody {
            unknown_attributes: members.take_as(
                "unknown_attributes",
                "create or refuse",
                creates,
            )?,
            observed_at_min: members.take_time("observed_at_min")?,
            observed_at_ahead_max: members.take_duration("observed_at_ahead_max")?,
            retention: members.take_duration("retention")?,
            line_protocol: match members.take_raw("line_protocol") {
                None => Change::Keep,
                Some("null") => Change::Clear,
                Some(raw) => Change::Set(id_rules(raw)?),
            },
        })
    }

    /// What was not said stays as it was; null is the default.
    fn apply(self, before: TenantPolicy) -> TenantPolicy {
        let default = TenantPolicy::default();
        let creates = self
            .unknown_attributes
            .apply(Some(before.creates_unknown_attributes));
        let ahead = match self.observed_at_ahead_max {
            Change::Keep => before.observed_at_ahead_max_micros,
            Change::Clear => default.observed_at_ahead_max_micros,
            Change::Set(span) => span.as_micros(),
        };
        TenantPolicy {
            creates_unknown_attributes: creates.unwrap_or(default.creates_unknown_attributes),
            observed_at_min: self
                .observed_at_min
                .apply(Some(before.observed_at_min))
                .unwrap_or(default.observed_at_min),
            observed_at_ahead_max_micros: ahead,
            retention_micros: retention_after(self.retention, before.retention_micros),
            line_protocol: self
                .line_protocol
                .apply(Some(before.line_protocol))
                .unwrap_or(default.line_protocol),
        }
    }
}

/// Checks `{"cpu":{"id_tags":["host","cpu"]}}` and writes it with its names in normal form.
fn id_rules(raw: &str) -> Result<String, Problem> {
    let invalid = |detail: String| Problem::invalid("line_protocol", detail);
    let mut rules = BTreeMap::new();
    for (measurement, rule) in Members::read(raw.as_bytes())?.take_all() {
        let measurement = Name::parse(&measurement).map_err(|fault| invalid(fault.to_string()))?;
        let mut rule = Members::read(rule.get().as_bytes())?;
        let tags: Vec<String> = rule.require("id_tags")?;
        rule.finish()?;
        let names = tags
            .iter()
            .map(|tag| Name::parse(tag).map(Name::into_string));
        let id_tags = names
            .collect::<Result<Vec<_>, _>>()
            .map_err(|fault| invalid(fault.to_string()))?;
        if id_tags.is_empty() {
            return Err(invalid("id_tags names at least one tag".to_owned()));
        }
        rules.insert(measurement.into_string(), IdTags { id_tags });
    }
    Ok(serde_json::to_string(&rules).expect("names are JSON"))
}

fn body_of(name: String, policy: &TenantPolicy, created_at: Timestamp) -> TenantBody {
    TenantBody {
        name,
        unknown_attributes: if policy.creates_unknown_attributes {
            "create"
        } else {
            "refuse"
        },
        observed_at_min: policy.observed_at_min,
        observed_at_ahead_max: span_text(policy.observed_at_ahead_max_micros),
        retention: policy.retention_micros.map(span_text),
        line_protocol: RawValue::from_string(policy.line_protocol.clone()).unwrap_or_default(),
        created_at,
        key: None,
    }
}

/// Create a tenant, and a key that may read and write it. The key is shown this once.
#[utoipa::path(post, path = "/v1/tenants", tag = "tenants", request_body = NewTenantBody,
    responses((status = 201, description = "Created", body = TenantBody)))]
pub(crate) async fn create(
    State(state): State<Arc<AppState>>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    params.finish()?;
    let body = read_json(&headers, body, SMALL_BYTES_MAX).await?;
    let mut members = Members::read(&body)?;
    let name: String = members.require("name")?;
    let name = Name::parse(&name).map_err(|fault| Problem::invalid("name", fault.to_string()))?;
    let new = NewTenantBody {
        name,
        policy: TenantPolicyBody::take(&mut members)?,
    };
    members.finish()?;
    let (now, policy) = (Timestamp::now(), new.policy.apply(TenantPolicy::default()));
    let tenant = create_tenant(&state.app, &new.name, &policy, now)
        .await?
        .ok_or_else(|| Problem::new(Code::TenantExists, "a tenant with this name exists"))?;
    let (key, scopes) = (ApiKey::generate(), vec![KeyScope::Read, KeyScope::Write]);
    insert_key(
        &state.app,
        &TenantScope::authenticated(tenant),
        &key,
        &scopes,
        now,
        None,
    )
    .await?;
    let mut answer = body_of(new.name.into_string(), &policy, now);
    answer.key = Some(NewKeyBody::of(&key, &scopes, now, None));
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// List tenants in order of name.
#[utoipa::path(get, path = "/v1/tenants", tag = "tenants",
    params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "A page", body = PageBody<TenantBody>)))]
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    mut params: Params,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let options = read_options(&mut params, &headers, NO_TENANT, &state)?;
    let list = PagedList::take(&mut params, &state, NO_TENANT, "tenants", &[])?;
    params.finish()?;
    let rows_max = i32::try_from(list.limit + 1).expect("a page is small");
    let after = list.after.clone().unwrap_or_default();
    let (tenants, freshness) =
        read_fresh(&state, &options, list_tenants(&state.app, &after, rows_max)).await?;
    let bodies = tenants
        .into_iter()
        .map(|tenant| body_of(tenant.name, &tenant.policy, tenant.created_at))
        .collect();
    let headers = read_headers(&freshness, NO_TENANT, &state);
    Ok(
        list.respond(&state, &uri, headers, bodies, |tenant: &TenantBody| {
            tenant.name.clone()
        }),
    )
}

/// Change a tenant's policies. What is not named stays.
#[utoipa::path(patch, path = "/v1/tenants/{name}", tag = "tenants", request_body = TenantPolicyBody,
    params(("name" = String, Path)),
    responses((status = 200, description = "The whole tenant", body = TenantBody)))]
pub(crate) async fn change(
    State(state): State<Arc<AppState>>,
    Segments(name): Segments<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    params.finish()?;
    let body = read_json(&headers, body, SMALL_BYTES_MAX).await?;
    let mut members = Members::read(&body)?;
    let change = TenantPolicyBody::take(&mut members)?;
    members.finish()?;
    let tenant = apply_change(&state, &name, &change).await?;
    // This server honours the change at once, the others within a second.
    state
        .catalogues
        .refresh(&TenantScope::authenticated(tenant.tenant))
        .await?;
    Ok(Json(body_of(tenant.name, &tenant.policy, tenant.created_at)).into_response())
}

/// The tenant with its policies changed. What others change at the same time is kept: the change is made only to what it
/// was worked out from.
async fn apply_change(
    state: &AppState,
    name: &str,
    change: &TenantPolicyBody,
) -> Result<Tenant, Problem> {
    for _ in 0..CHANGE_ATTEMPTS_MAX {
        let mut tenant = require_tenant(state, name).await?;
        let seen = tenant.catalogue_version;
        tenant.policy = change.clone().apply(tenant.policy);
        if update_tenant(&state.app, tenant.tenant, &tenant.policy, seen).await? {
            return Ok(tenant);
        }
    }
    Err(overtaken())
}

/// The tenant of a path.
pub(crate) async fn require_tenant(state: &AppState, name: &str) -> Result<Tenant, Problem> {
    let name = Name::parse(name).map_err(|_| Problem::not_found())?;
    fetch_tenant(&state.app, name.as_str())
        .await?
        .ok_or_else(Problem::not_found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_for_ids_are_checked_and_normalised() {
        let rules = id_rules("{\"cpu\":{\"id_tags\":[\"host\",\"cafe\u{301}\"]}}").expect("rules");
        assert_eq!(rules, "{\"cpu\":{\"id_tags\":[\"host\",\"caf\u{e9}\"]}}");
        for raw in [
            "[]",
            "3",
            r#"{"cpu":[]}"#,
            r#"{"cpu":{}}"#,
            r#"{"cpu":{"id_tags":[]}}"#,
            r#"{"cpu":{"id_tags":["a"],"x":1}}"#,
        ] {
            assert!(id_rules(raw).is_err(), "{raw} was taken for rules");
        }
    }

    #[test]
    fn a_policy_keeps_what_is_not_named_and_null_is_the_default() {
        let mut members = Members::read(br#"{"retention":"2w","observed_at_ahead_max":null}"#)
            .expect("an object");
        let change = TenantPolicyBody::take(&mut members).expect("a policy");
        let before = TenantPolicy {
            creates_unknown_attributes: false,
            observed_at_ahead_max_micros: 1,
            ..TenantPolicy::default()
        };
        let after = change.apply(before);
        assert!(!after.creates_unknown_attributes);
        assert_eq!(after.observed_at_ahead_max_micros, 86_400_000_000);
        assert_eq!(after.retention_micros, Some(14 * 86_400_000_000));
    }
}
