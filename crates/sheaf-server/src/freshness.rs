//! How fresh an answer is, in headers; and what a request asks of it.

use std::future::Future;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use sheaf_model::{Position, TenantId, Timestamp};
use sheaf_pg::{Access, PgError};
use sheaf_query::{ConsistencyLevel, Freshness, ReadOptions, token};
use sheaf_store::snapshot::{Snapshot, read_snapshot, snapshot_of};

use crate::params::Params;
use crate::problem::{Code, Problem};
use crate::state::AppState;

const TOKEN: HeaderName = HeaderName::from_static("x-consistency-token");

/// What administrators read belongs to no tenant; no tenant has this number.
pub(crate) const NO_TENANT: TenantId = TenantId(0);

/// Takes the read options out of a request.
pub(crate) fn read_options(
    params: &mut Params,
    headers: &HeaderMap,
    tenant: TenantId,
    state: &AppState,
) -> Result<ReadOptions, Problem> {
    let position = token_of(headers, tenant, state)?;
    let mut options = ReadOptions::new(position, Timestamp::now());
    let level = params.take_as(
        "consistency",
        "strong, session, eventual or analytics",
        ConsistencyLevel::parse,
    )?;
    options.max_lag =
        params.take_as("max_lag", "a duration such as 3s", |text| text.parse().ok())?;
    options.level = match level {
        Some(level) => level,
        // Who says how old an answer may be has not asked for the newest.
        None if options.max_lag.is_some() && options.token.is_none() => ConsistencyLevel::Eventual,
        None => options.level,
    };
    Ok(options)
}

/// The position of the token that a request carries.
pub(crate) fn token_of(
    headers: &HeaderMap,
    tenant: TenantId,
    state: &AppState,
) -> Result<Option<Position>, Problem> {
    let Some(sent) = headers.get(TOKEN) else {
        return Ok(None);
    };
    let text = sent.to_str().map_err(|_| {
        Problem::new(
            Code::InvalidToken,
            "the consistency token is not one of ours",
        )
    })?;
    position_of(text, tenant, state).map(Some)
}

/// The position that a tenant's token names.
pub(crate) fn position_of(
    text: &str,
    tenant: TenantId,
    state: &AppState,
) -> Result<Position, Problem> {
    let decoded = token::decode(text, tenant, &state.settings.signing_key);
    decoded.map_err(|fault| Problem::new(Code::of_name(fault.code()), fault.to_string()))
}

/// Adds a header whose value is a name, a number or a time.
pub(crate) fn put(headers: &mut HeaderMap, name: &'static str, value: String) {
    let value = HeaderValue::try_from(value).expect("names, numbers and times are header values");
    headers.insert(HeaderName::from_static(name), value);
}

/// The headers of every read.
pub(crate) fn read_headers(freshness: &Freshness, tenant: TenantId, state: &AppState) -> HeaderMap {
    let mut headers = token_header(freshness.position, tenant, state);
    let mut put = |name, value| put(&mut headers, name, value);
    put("x-data-source", freshness.source.to_string());
    put("x-data-lag-seconds", freshness.lag.to_string());
    put("x-data-timestamp", freshness.data_timestamp.to_string());
    put("x-consistency-level", freshness.level.as_str().to_owned());
    put("x-cache-hit", freshness.cache_hit.to_string());
    headers
}

/// The token of a position, as text.
pub(crate) fn token_text(position: Position, tenant: TenantId, state: &AppState) -> String {
    token::encode(position, tenant, &state.settings.signing_key)
}

/// The header of every write.
pub(crate) fn token_header(position: Position, tenant: TenantId, state: &AppState) -> HeaderMap {
    let token = token_text(position, tenant, state);
    // For those of a read as well.
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(
        TOKEN,
        HeaderValue::try_from(token).expect("base64url is a header value"),
    );
    headers
}

/// Reads something that has a transaction of its own. How complete it is, is asked before it; what a token has to
/// cover, after it.
pub(crate) async fn read_fresh<T>(
    state: &AppState,
    options: &ReadOptions,
    read: impl Future<Output = Result<T, PgError>>,
) -> Result<(T, Freshness), Problem> {
    let before = snapshot(state).await?;
    let value = read.await?;
    let after = snapshot(state).await?;
    let snapshot = Snapshot {
        position: after.position,
        complete_until: before.complete_until,
    };
    let sources = state.reader.sources();
    Ok((value, sources.of_primary(&snapshot, options)?))
}

/// Where the write history stands: after everything that was acknowledged before this is asked.
pub(crate) async fn current_position(state: &AppState) -> Result<Position, Problem> {
    Ok(snapshot(state).await?.position)
}

async fn snapshot(state: &AppState) -> Result<Snapshot, PgError> {
    let client = state.app.get().await?;
    let rows = sheaf_pg::run(&client, Access::Read, None, &[read_snapshot()]).await?;
    snapshot_of(&rows[0], &state.settings)
}
