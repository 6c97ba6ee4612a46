//! From a key to what a request may do. Every route says which key it needs; a request that has none gets no further,
//! and its body is not read.
//!
//! A verified key is remembered for ten seconds, so that a revocation reaches every server within that time; within thirty
//! where a server does not reach the primary and asks its replicas; a key that these do not have is not known to be wrong, and
//! counts as no failure. A key of the wrong form or checksum costs no look-up, and neither does a key that was never good from
//! an address that has failed too often: guessing cannot be turned into load on the database, and locks out no key that was in
//! use here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use quick_cache::sync::Cache;
use sheaf_model::{KeyId, Name, TenantId, Timestamp};
use sheaf_pg::{PgError, Pool};
use sheaf_query::Sources;
use sheaf_store::TenantScope;
use sheaf_store::keys::{ApiKey, KeyOwner, KeyScope, StoredKey};
use sheaf_store::tenants::fetch_tenant;

use crate::problem::{Code, Problem};
use crate::state::{Bounds, Shared};

/// Which tenant an administrator means.
pub(crate) const TENANT: HeaderName = HeaderName::from_static("x-tenant");

/// Which key a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyClass {
    /// None.
    Open,
    /// One that may read its tenant, or an administrator's with `X-Tenant`.
    Read,
    /// One that may write its tenant, or an administrator's with `X-Tenant`.
    Write,
    /// An administrator's.
    Admin,
}

/// The address of the client's end of the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// The tenant that the key of this request opens.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) TenantScope);

/// That tenant's name.
#[derive(Debug, Clone)]
pub(crate) struct TenantName(pub(crate) String);

/// Whether the key is an administrator's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByAdmin(pub(crate) bool);

impl<S: Send + Sync> FromRequestParts<S> for ByAdmin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<ByAdmin, Problem> {
        Ok(parts
            .extensions
            .get::<ByAdmin>()
            .copied()
            .unwrap_or(ByAdmin(false)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Problem> {
        let caller = parts.extensions.get::<Caller>().cloned();
        Ok(caller.expect("routes on tenant data are declared with a class that makes a caller"))
    }
}

/// The administrator's key that the request carries, for what is written down of it.
#[derive(Debug, Clone)]
pub(crate) struct AdminKey(pub(crate) KeyId);

impl<S: Send + Sync> FromRequestParts<S> for AdminKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<AdminKey, Problem> {
        let key = sent_key(&parts.headers);
        let key = key.as_deref().and_then(ApiKey::parse);
        // The guard has let it pass, so that it is one.
        let key =
            key.ok_or_else(|| Problem::new(Code::Unauthorized, "the request carries no key"))?;
        Ok(AdminKey(key.id().clone()))
    }
}

/// Admits a request to a route of this class.
pub(crate) async fn guard(
    State((class, shared)): State<(KeyClass, Shared)>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    match admit(class, &shared, request.headers(), peer).await {
        Ok(caller) => {
            if let Some((caller, name, by_admin)) = caller {
                request.extensions_mut().insert(caller);
                request.extensions_mut().insert(name);
                request.extensions_mut().insert(by_admin);
            }
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn admit(
    class: KeyClass,
    shared: &Shared,
    headers: &HeaderMap,
    peer: Option<IpAddr>,
) -> Result<Option<(Caller, TenantName, ByAdmin)>, Problem> {
    let wanted = match class {
        KeyClass::Open => return Ok(None),
        KeyClass::Read => Some(KeyScope::Read),
        KeyClass::Write => Some(KeyScope::Write),
        KeyClass::Admin => None,
    };
    let sources = shared.state.reader.sources();
    let owner = shared.keys.verify(sources, headers, peer).await?;
    let named = named_tenant(headers)?;
    match (owner, wanted) {
        (KeyOwner::Admin, None) => Ok(None),
        (KeyOwner::Tenant { .. }, None) => Err(Problem::new(
            Code::Forbidden,
            "this needs an administrator's key",
        )),
        (KeyOwner::Admin, Some(_)) => {
            let name = named.ok_or_else(|| {
                Problem::new(
                    Code::TenantRequired,
                    "an administrator's key needs the header X-Tenant here",
                )
            })?;
            let tenant = shared.keys.tenant(&shared.state.app, &name).await?;
            let caller = Caller(TenantScope::authenticated(tenant));
            Ok(Some((
                caller,
                TenantName(name.into_string()),
                ByAdmin(true),
            )))
        }
        (
            KeyOwner::Tenant {
                tenant,
                name,
                scopes,
            },
            Some(wanted),
        ) => {
            if named.is_some_and(|named| named.as_str() != name) {
                return Err(Problem::new(
                    Code::Forbidden,
                    "the key is of another tenant than X-Tenant names",
                ));
            }
            if !scopes.contains(&wanted) {
                let detail = format!("the key lacks the scope {}", wanted.as_str());
                return Err(Problem::new(Code::Forbidden, detail));
            }
            let caller = Caller(TenantScope::authenticated(tenant));
            Ok(Some((caller, TenantName(name), ByAdmin(false))))
        }
    }
}

/// Whether a request that reads, and was admitted for this tenant, still would be: for those that stay for longer than a key may be
/// good. Where that cannot be found out now, it is.
pub(crate) async fn is_still_admitted(
    shared: &Shared,
    headers: &HeaderMap,
    scope: &TenantScope,
) -> bool {
    match admit(KeyClass::Read, shared, headers, None).await {
        Ok(admitted) => admitted.is_some_and(|(caller, ..)| caller.0 == *scope),
        Err(problem) => !matches!(problem.code, Code::Unauthorized | Code::Forbidden),
    }
}

/// What a name and a key open together for reading: the tenant of that name. Where they do not, it is not told which of them is
/// wrong, and the key alone is looked up: the name opens no work of its own, but to an administrator.
pub(crate) async fn admit_named(
    shared: &Shared,
    name: &str,
    key: &str,
    peer: Option<IpAddr>,
) -> Result<TenantScope, Problem> {
    let sources = shared.state.reader.sources();
    let owner = shared.keys.verify_key(sources, Some(key), peer).await?;
    match owner {
        KeyOwner::Tenant {
            tenant,
            name: own,
            scopes,
        } if own == name => match scopes.contains(&KeyScope::Read) {
            true => Ok(TenantScope::authenticated(tenant)),
            false => Err(Problem::new(
                Code::Forbidden,
                "the key lacks the scope read",
            )),
        },
        KeyOwner::Tenant { .. } => Err(shared.keys.failed(peer)),
        KeyOwner::Admin => {
            let Ok(name) = Name::parse(name) else {
                return Err(shared.keys.failed(peer));
            };
            match shared.keys.tenant(&shared.state.app, &name).await {
                Ok(tenant) => Ok(TenantScope::authenticated(tenant)),
                Err(problem) if problem.code == Code::NotFound => Err(shared.keys.failed(peer)),
                Err(problem) => Err(problem),
            }
        }
    }
}

fn named_tenant(headers: &HeaderMap) -> Result<Option<Name>, Problem> {
    let Some(value) = headers.get(TENANT) else {
        return Ok(None);
    };
    let text = std::str::from_utf8(value.as_bytes())
        .map_err(|_| Problem::invalid("X-Tenant", "not UTF-8"))?;
    let name =
        Name::parse(text).map_err(|fault| Problem::invalid("X-Tenant", fault.to_string()))?;
    Ok(Some(name))
}

/// The key in `Authorization: Bearer <key>`, `Token <key>` or `Basic <any user>:<key>`.
fn sent_key(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token") {
        return Some(credentials.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(credentials)
        .ok()?;
    let (_, key) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(key.to_owned())
}

const FAILURES_TOTAL: &str = "sheaf_auth_failures_total";
const KEYS_MAX: usize = 10_000;
const TENANTS_MAX: usize = 10_000;
const ADDRESSES_MAX: usize = 10_000;
const WINDOW: Duration = Duration::from_secs(60);

/// Keys that were verified lately, and addresses that failed lately. All bounded.
pub(crate) struct KeyRing {
    verified: Cache<KeyId, (Arc<StoredKey>, Instant)>,
    /// As the last look-up found them, however long ago: never believed, only worth another look-up.
    seen: Cache<KeyId, Arc<StoredKey>>,
    /// By name. A tenant keeps its number for ever.
    tenants: Cache<String, TenantId>,
    failures: Cache<IpAddr, (Instant, u32)>,
    failures_max: u32,
    believed: Duration,
}

/// Why a look-up gave no key.
enum Unverified {
    Unknown,
    Failed(PgError),
}

impl KeyRing {
    pub(crate) fn new(bounds: &Bounds) -> KeyRing {
        KeyRing {
            verified: Cache::new(KEYS_MAX),
            seen: Cache::new(KEYS_MAX),
            tenants: Cache::new(TENANTS_MAX),
            failures: Cache::new(ADDRESSES_MAX),
            failures_max: bounds.failed_attempts_max,
            believed: bounds.key_believed,
        }
    }

    /// Whose key the request carries.
    async fn verify(
        &self,
        sources: &Arc<Sources>,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<KeyOwner, Problem> {
        if !headers.contains_key(header::AUTHORIZATION) {
            return Err(Problem::new(
                Code::Unauthorized,
                "the request carries no key",
            ));
        }
        self.verify_key(sources, sent_key(headers).as_deref(), peer)
            .await
    }

    /// Whose key this is, as it was sent.
    async fn verify_key(
        &self,
        sources: &Arc<Sources>,
        sent: Option<&str>,
        peer: Option<IpAddr>,
    ) -> Result<KeyOwner, Problem> {
        let Some(key) = sent.and_then(ApiKey::parse) else {
            return Err(self.failed(peer));
        };
        let is_believed = |verified_at: Instant| verified_at.elapsed() < self.believed;
        let verified = self.verified.get(key.id());
        if !verified.is_some_and(|(_, verified_at)| is_believed(verified_at)) {
            // Only now: it keeps waiting whoever looks for a key.
            self.verified
                .remove_if(key.id(), |(_, verified_at)| !is_believed(*verified_at));
            if !self.was_good(&key)
                && let Some(problem) = self.locked_out(peer)
            {
                return Err(problem);
            }
        }
        let look_up = async {
            match sources.fetch_key(key.id()).await {
                Ok(Some(stored)) => {
                    let stored = Arc::new(stored);
                    self.seen.insert(key.id().clone(), Arc::clone(&stored));
                    Ok((stored, Instant::now()))
                }
                Ok(None) => {
                    self.seen.remove(key.id());
                    Err(Unverified::Unknown)
                }
                Err(error) => Err(Unverified::Failed(error)),
            }
        };
        // Requests with one key wait for one look-up.
        match self.verified.get_or_insert_async(key.id(), look_up).await {
            Ok((stored, _)) if stored.admits(&key, Timestamp::now()) => Ok(stored.owner.clone()),
            Ok(_) | Err(Unverified::Unknown) => Err(self.failed(peer)),
            Err(Unverified::Failed(error)) => Err(error.into()),
        }
    }

    /// Whether the key, secret and all, was good when it was last looked up. Its id alone is no secret, and opens no
    /// look-up.
    fn was_good(&self, key: &ApiKey) -> bool {
        let seen = self.seen.get(key.id());
        seen.is_some_and(|stored| stored.admits(key, Timestamp::now()))
    }

    /// Forgets a key that was revoked here, so that this server refuses it at once.
    pub(crate) fn forget(&self, id: &KeyId) {
        self.verified.remove(id);
        self.seen.remove(id);
    }

    /// The number of the tenant with this name, for an administrator.
    pub(crate) async fn tenant(&self, app: &Pool, name: &Name) -> Result<TenantId, Problem> {
        if let Some(tenant) = self.tenants.get(name.as_str()) {
            return Ok(tenant);
        }
        let tenant = fetch_tenant(app, name.as_str())
            .await?
            .ok_or_else(Problem::not_found)?
            .tenant;
        self.tenants.insert(name.as_str().to_owned(), tenant);
        Ok(tenant)
    }

    /// Counts a failed attempt. What was wrong with the key is not told.
    fn failed(&self, peer: Option<IpAddr>) -> Problem {
        if let Some(problem) = self.locked_out(peer) {
            return problem;
        }
        if let Some(peer) = peer {
            let now = Instant::now();
            let (since, count) = self
                .failures
                .get(&peer)
                .filter(|(since, _)| since.elapsed() < WINDOW)
                .unwrap_or((now, 0));
            self.failures.insert(peer, (since, count + 1));
        }
        metrics::counter!(FAILURES_TOTAL).increment(1);
        Problem::new(Code::Unauthorized, "the key is not valid")
    }

    fn locked_out(&self, peer: Option<IpAddr>) -> Option<Problem> {
        let (since, count) = self.failures.get(&peer?)?;
        let left = WINDOW.checked_sub(since.elapsed())?;
        let seconds = u32::try_from(left.as_secs())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        (count >= self.failures_max).then(|| {
            Problem::new(
                Code::RateLimited,
                "too many failed attempts from this address",
            )
            .after_s(seconds)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::AUTHORIZATION,
            value.parse().expect("a header value"),
        );
        headers
    }

    #[test]
    fn three_schemes_carry_the_same_key() {
        // "any user:shf_x" in base 64.
        for value in [
            "Bearer shf_x",
            "bearer  shf_x",
            "Token shf_x",
            "Basic YW55IHVzZXI6c2hmX3g=",
        ] {
            assert_eq!(
                sent_key(&headers(value)).as_deref(),
                Some("shf_x"),
                "{value}"
            );
        }
        for value in ["shf_x", "Digest shf_x", "Basic shf_x", "Basic c2hmX3g="] {
            assert_eq!(sent_key(&headers(value)), None, "{value}");
        }
    }

    #[test]
    fn an_address_that_fails_too_often_is_told_to_wait_and_others_are_not() {
        let ring = KeyRing::new(&Bounds {
            failed_attempts_max: 3,
            ..Bounds::default()
        });
        let (bad, good) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        for _ in 0..3 {
            assert_eq!(ring.failed(Some(bad)).code, Code::Unauthorized);
        }
        let problem = ring.failed(Some(bad));
        assert_eq!(problem.code, Code::RateLimited);
        assert!(
            problem
                .retry_after_s
                .is_some_and(|seconds| (1..=60).contains(&seconds))
        );
        assert_eq!(ring.failed(Some(good)).code, Code::Unauthorized);
    }
}
