//! The keys of a tenant: made, listed and revoked by administrators.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sheaf_model::{KeyId, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::keys::{ApiKey, KeyRow, KeyScope, insert_key, list_keys, revoke_key};
use utoipa::ToSchema;

use crate::auth::KeyRing;
use crate::body::{SMALL_BYTES_MAX, read_json};
use crate::freshness::{NO_TENANT, read_fresh, read_headers, read_options};
use crate::members::{Change, Members};
use crate::page::{PageBody, PagedList};
use crate::params::{Params, Segments};
use crate::problem::Problem;
use crate::state::AppState;
use crate::tenants::require_tenant;

/// A new key. The secret is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewKeyBody {
    /// The public half.
    id: String,
    /// The whole key.
    key: String,
    /// What it may do.
    scopes: Vec<&'static str>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// From when on it is refused; null is never.
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
}

impl NewKeyBody {
    pub(crate) fn of(
        key: &ApiKey,
        scopes: &[KeyScope],
        created_at: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> NewKeyBody {
        NewKeyBody {
            id: key.id().to_string(),
            key: key.reveal().to_owned(),
            scopes: scopes.iter().map(|scope| scope.as_str()).collect(),
            created_at,
            expires_at,
        }
    }
}

/// A key without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyBody {
    /// The public half.
    id: String,
    /// What it may do.
    scopes: Vec<&'static str>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// From when on it is refused; null is never.
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
    /// When it was revoked; null while it is good.
    #[schema(value_type = Option<String>)]
    revoked_at: Option<Timestamp>,
}

/// What a key is made with.
#[derive(Debug, ToSchema)]
pub(crate) struct KeyRequest {
    /// Some of `read` and `write`.
    #[schema(value_type = Vec<String>)]
    scopes: Vec<KeyScope>,
    /// From when on it is to be refused.
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
}

impl KeyRequest {
    fn read(body: &[u8]) -> Result<KeyRequest, Problem> {
        let mut members = Members::read(body)?;
        let names: Vec<String> = members.require("scopes")?;
        let expires_at = match members.take_time("expires_at")? {
            Change::Keep | Change::Clear => None,
            Change::Set(time) => Some(time),
        };
        members.finish()?;
        let mut scopes = Vec::new();
        for name in &names {
            let scope = KeyScope::parse(name)
                .ok_or_else(|| Problem::invalid("scopes", "expected read or write"))?;
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        if scopes.is_empty() {
            return Err(Problem::invalid("scopes", "names at least one scope"));
        }
        Ok(KeyRequest { scopes, expires_at })
    }
}

/// Make a key for a tenant.
#[utoipa::path(post, path = "/v1/tenants/{name}/keys", tag = "tenants", request_body = KeyRequest,
    params(("name" = String, Path)),
    responses((status = 201, description = "Created", body = NewKeyBody)))]
pub(crate) async fn create(
    State(state): State<Arc<AppState>>,
    Segments(name): Segments<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    params.finish()?;
    let body = read_json(&headers, body, SMALL_BYTES_MAX).await?;
    let request = KeyRequest::read(&body)?;
    let tenant = require_tenant(&state, &name).await?.tenant;
    let (key, now) = (ApiKey::generate(), Timestamp::now());
    let scope = TenantScope::authenticated(tenant);
    insert_key(
        &state.app,
        &scope,
        &key,
        &request.scopes,
        now,
        request.expires_at,
    )
    .await?;
    let answer = NewKeyBody::of(&key, &request.scopes, now, request.expires_at);
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// List a tenant's keys, without what would open anything.
#[utoipa::path(get, path = "/v1/tenants/{name}/keys", tag = "tenants",
    params(("name" = String, Path), ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "A page", body = PageBody<KeyBody>)))]
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    Segments(name): Segments<String>,
    mut params: Params,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let options = read_options(&mut params, &headers, NO_TENANT, &state)?;
    let tenant = require_tenant(&state, &name).await?.tenant;
    let list = PagedList::take(&mut params, &state, tenant, "keys", &[])?;
    params.finish()?;
    let scope = TenantScope::authenticated(tenant);
    let (rows, freshness) = read_fresh(&state, &options, list_keys(&state.app, &scope)).await?;
    let after = list.after.clone().unwrap_or_default();
    let bodies = rows
        .into_iter()
        .filter(|row| row.id.as_str() > after.as_str())
        .map(body_of)
        .collect();
    let headers = read_headers(&freshness, NO_TENANT, &state);
    Ok(
        list.respond(&state, &uri, headers, bodies, |key: &KeyBody| {
            key.id.clone()
        }),
    )
}

fn body_of(row: KeyRow) -> KeyBody {
    KeyBody {
        id: row.id.to_string(),
        scopes: row.scopes.iter().map(|scope| scope.as_str()).collect(),
        created_at: row.created_at,
        expires_at: row.expires_at,
        revoked_at: row.revoked_at,
    }
}

/// Revoke a key. This server refuses it at once, others within ten seconds.
#[utoipa::path(delete, path = "/v1/tenants/{name}/keys/{key_id}", tag = "tenants",
    params(("name" = String, Path), ("key_id" = String, Path)),
    responses((status = 204, description = "Revoked")))]
pub(crate) async fn revoke(
    State(state): State<Arc<AppState>>,
    State(keys): State<Arc<KeyRing>>,
    Segments((name, key_id)): Segments<(String, String)>,
    params: Params,
) -> Result<StatusCode, Problem> {
    params.finish()?;
    let id: KeyId = key_id.parse().map_err(|_| Problem::not_found())?;
    let tenant = require_tenant(&state, &name).await?.tenant;
    let scope = TenantScope::authenticated(tenant);
    if !revoke_key(&state.app, &scope, &id, Timestamp::now()).await? {
        return Err(Problem::not_found());
    }
    keys.forget(&id);
    Ok(StatusCode::NO_CONTENT)
}
