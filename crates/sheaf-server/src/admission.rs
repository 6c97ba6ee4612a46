//! Requests that write are admitted tenant by tenant, after the key and before the body: who has to come again later has
//! cost no memory.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use sheaf_ingest::{Permit, ThrottleReason, Throttled};

use crate::auth::{Caller, TenantName};
use crate::problem::{Code, Problem};
use crate::state::{AppState, Shared};

/// The counter of requests that had to come again later, by reason.
pub const THROTTLED_TOTAL: &str = "sheaf_throttled_requests_total";

/// The request may write; what it holds goes back when this is dropped.
pub(crate) struct Admitted(pub(crate) Permit);

impl FromRequestParts<Shared> for Admitted {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Admitted, Problem> {
        let state: &Arc<AppState> = &shared.state;
        let Caller(scope) = Caller::from_request_parts(parts, shared).await?;
        let name = parts.extensions.get::<TenantName>();
        let name = name.expect("invariant: whoever makes a caller also names its tenant");
        let sent_bytes = parts.headers.get(CONTENT_LENGTH);
        let sent_bytes = sent_bytes.and_then(|length| length.to_str().ok()?.parse().ok());
        let admitted = state
            .admission
            .admit(scope.tenant(), &name.0, sent_bytes, Instant::now());
        admitted.map(Admitted).map_err(throttled)
    }
}

/// What a client is told that has to come again later; it is counted.
pub(crate) fn throttled(throttled: Throttled) -> Problem {
    let reason = throttled.reason;
    metrics::counter!(THROTTLED_TOTAL, "reason" => reason.as_str()).increment(1);
    let code = if reason.is_of_tenant() {
        Code::RateLimited
    } else {
        Code::Overloaded
    };
    let seconds = throttled.retry_after.as_millis().div_ceil(1_000);
    let seconds = u32::try_from(seconds).unwrap_or(u32::MAX).max(1);
    Problem::new(code, sentence(reason))
        .after_s(seconds)
        .because(throttled)
}

fn sentence(reason: ThrottleReason) -> &'static str {
    match reason {
        ThrottleReason::Values => "the tenant has sent more values than its rate allows",
        ThrottleReason::Bytes => "the tenant has sent more bytes than its rate allows",
        ThrottleReason::Requests => "the tenant has as many requests running as it may have",
        ThrottleReason::TenantMemory => "the tenant's running requests hold as much as they may",
        ThrottleReason::Memory => "the running requests hold as much as the server has room for",
        ThrottleReason::Tenants => "the server serves as many tenants as it can at once",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_a_tenants_own_doing_is_a_429_and_what_is_not_a_503_and_both_say_when() {
        use ThrottleReason::{Bytes, Memory, Requests, TenantMemory, Tenants, Values};
        for (reason, millis, code, seconds) in [
            (Values, 1, Code::RateLimited, 1),
            (Values, 1_001, Code::RateLimited, 2),
            (Bytes, 3_600_000, Code::RateLimited, 3_600),
            (Requests, 1_000, Code::RateLimited, 1),
            (TenantMemory, 0, Code::RateLimited, 1),
            (Memory, 1_000, Code::Overloaded, 1),
            (Tenants, u64::MAX, Code::Overloaded, u32::MAX),
        ] {
            let retry_after = Duration::from_millis(millis);
            let problem = throttled(Throttled {
                reason,
                retry_after,
            });
            assert_eq!(
                (problem.code, problem.retry_after_s),
                (code, Some(seconds)),
                "{reason:?}"
            );
        }
    }
}
