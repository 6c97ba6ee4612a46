//! API keys: what opens a tenant, or everything. A key is shown once; only its hash is kept.
//!
//! A key reads `shf_<env>_<id>_<secret>_<check>`: a prefix for scanners, the id for the look-up, 160 random bits, and a
//! checksum that turns typing errors and guesses away before the database is asked.

use sha2::{Digest, Sha256};
use sheaf_model::{KeyId, TenantId, Timestamp};
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement};
use subtle::ConstantTimeEq;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::lineage::{read_current, write_current};
use crate::scope::TenantScope;

/// What a key may do within its tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyScope {
    /// Read entities, history and the catalogue.
    Read,
    /// Write events, entities and the catalogue.
    Write,
}

impl KeyScope {
    /// The scope's name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            KeyScope::Read => "read",
            KeyScope::Write => "write",
        }
    }

    /// The scope with this name.
    pub fn parse(text: &str) -> Option<KeyScope> {
        [KeyScope::Read, KeyScope::Write]
            .into_iter()
            .find(|scope| scope.as_str() == text)
    }
}

/// A whole key, secret included. It prints only where it is asked for.
#[derive(Clone)]
pub struct ApiKey {
    text: String,
    id: KeyId,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKey({})", self.id)
    }
}

const PREFIX: &str = "shf";
const ENVIRONMENT: &str = "live";
const SECRET_CHARS: usize = 32;
const CHECK_CHARS: usize = 8;

impl ApiKey {
    /// A new key.
    pub fn generate() -> ApiKey {
        let id = KeyId::from_bits(rand::random());
        // 32 letters of a 32-letter alphabet: 160 bits.
        let secret = sheaf_model::crockford(rand::random())[..26].to_lowercase()
            + &sheaf_model::crockford(rand::random())[20..].to_lowercase();
        let digits = id.as_str().trim_start_matches("k_");
        let body = format!("{PREFIX}_{ENVIRONMENT}_{digits}_{secret}");
        let text = format!("{body}_{}", check(&body));
        ApiKey { text, id }
    }

    /// Reads a key as it was sent. Absent where the form or the checksum is wrong, which costs no look-up.
    pub fn parse(text: &str) -> Option<ApiKey> {
        if text.len() > 128 {
            return None;
        }
        let (body, sent_check) = text.rsplit_once('_')?;
        let parts: Vec<&str> = body.split('_').collect();
        let [prefix, _environment, digits, secret] = parts.as_slice() else {
            return None;
        };
        let well_formed =
            *prefix == PREFIX && secret.len() == SECRET_CHARS && sent_check == check(body).as_str();
        let id = format!("k_{digits}").parse().ok()?;
        well_formed.then(|| ApiKey {
            text: text.to_owned(),
            id,
        })
    }

    /// The public half.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The whole key, to be shown once.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// What is stored of it. The secret is random, so that a fast hash is enough.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.text.as_bytes()).into()
    }
}

/// The first eight hexadecimal digits of the hash of what stands before them.
fn check(body: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(body.as_bytes()).into();
    let mut text: String = digest
        .iter()
        .take(CHECK_CHARS / 2)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    text.truncate(CHECK_CHARS);
    text
}

/// Whom a stored key belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOwner {
    /// An administrator.
    Admin,
    /// A tenant, with what the key may do.
    Tenant {
        /// Its number.
        tenant: TenantId,
        /// Its name.
        name: String,
        /// What the key may do.
        scopes: Vec<KeyScope>,
    },
}

/// A key as it is stored.
#[derive(Debug, Clone)]
pub struct StoredKey {
    /// Whose it is.
    pub owner: KeyOwner,
    hash: [u8; 32],
    expires_at: Option<Timestamp>,
    revoked: bool,
}

impl StoredKey {
    /// Whether the key that was sent is this one and still good. Compares in constant time.
    pub fn admits(&self, key: &ApiKey, now: Timestamp) -> bool {
        let is_same: bool = self.hash.ct_eq(&key.hash()).into();
        is_same && !self.revoked && self.expires_at.is_none_or(|end| now < end)
    }
}

/// A key as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// The public half.
    pub id: KeyId,
    /// What it may do.
    pub scopes: Vec<KeyScope>,
    /// When it was created.
    pub created_at: Timestamp,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// The stored key with this public half, before its tenant is known.
///
/// # Errors
/// [`PgError::NotPrimary`] also where a promotion has left the server behind: keys may have been revoked since.
pub async fn fetch_key(app: &Pool, id: &KeyId) -> Result<Option<StoredKey>, PgError> {
    found_key(&read_current(app, find_key(&id.as_str())).await?)
}

const FINDING: &str = "looking an api key up";

/// The statement that finds a key by its public half.
pub fn find_key<'a>(key_id: &'a &'a str) -> Statement<'a> {
    let sql = include_str!("../sql/keys/find_key.sql");
    Statement::new(FINDING, sql, vec![(key_id, Type::TEXT)])
}

/// The key in the rows of [`find_key`].
pub fn found_key(rows: &[Row]) -> Result<Option<StoredKey>, PgError> {
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let owner = match row.get::<_, Option<i64>>("tenant_id") {
        None => KeyOwner::Admin,
        Some(tenant) => KeyOwner::Tenant {
            tenant: TenantId(tenant),
            name: row.get("tenant_name"),
            scopes: scopes_of(row),
        },
    };
    let hash: &[u8] = row.get("key_hash");
    Ok(Some(StoredKey {
        owner,
        hash: hash
            .try_into()
            .map_err(|_| PgError::unreadable(FINDING, "key_hash"))?,
        expires_at: row
            .get::<_, Option<PgTime>>("expires_at")
            .map(|time| time.0),
        revoked: row.get::<_, Option<PgTime>>("revoked_at").is_some(),
    }))
}

/// Stores a new key of a tenant.
pub async fn insert_key(
    app: &Pool,
    scope: &TenantScope,
    key: &ApiKey,
    scopes: &[KeyScope],
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
) -> Result<(), PgError> {
    let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    let (tenant, key_id, hash) = (scope.tenant().0, key.id.as_str(), key.hash());
    let (created_at, expires_at, hash) =
        (PgTime(created_at), expires_at.map(PgTime), hash.as_slice());
    let statement = Statement::new(
        "storing an api key",
        include_str!("../sql/keys/insert_key.sql"),
        vec![
            (&tenant, Type::INT8),
            (&key_id, Type::TEXT),
            (&hash, Type::BYTEA),
            (&names, Type::TEXT_ARRAY),
            (&created_at, Type::TIMESTAMPTZ),
            (&expires_at, Type::TIMESTAMPTZ),
        ],
    );
    write_current(app, Some(&scope.setting()), statement)
        .await
        .map(drop)
}

/// Stores a new key of an administrator. Only `sheaf_upkeep` may, so that no request can.
pub async fn insert_admin_key(
    upkeep: &Pool,
    key: &ApiKey,
    created_at: Timestamp,
) -> Result<(), PgError> {
    let client = upkeep.get().await?;
    let (key_id, hash, created_at) = (key.id.as_str(), key.hash(), PgTime(created_at));
    let hash = hash.as_slice();
    let statement = Statement::new(
        "storing an administrator's key",
        include_str!("../sql/keys/insert_admin_key.sql"),
        vec![
            (&key_id, Type::TEXT),
            (&hash, Type::BYTEA),
            (&created_at, Type::TIMESTAMPTZ),
        ],
    );
    sheaf_pg::run(&client, Access::Write, None, &[statement])
        .await
        .map(drop)
}

/// A tenant's keys, at most a thousand.
pub async fn list_keys(app: &Pool, scope: &TenantScope) -> Result<Vec<KeyRow>, PgError> {
    const STEP: &str = "listing api keys";
    let sql = include_str!("../sql/keys/list_keys.sql");
    let tenant = scope.tenant().0;
    let statement = Statement::new(STEP, sql, vec![(&tenant, Type::INT8)]);
    let rows = scope.run_one(app, Access::Read, statement).await?;
    rows.iter()
        .map(|row| {
            let id: String = row.get("key_id");
            Ok(KeyRow {
                id: id.parse().map_err(|_| PgError::unreadable(STEP, id))?,
                scopes: scopes_of(row),
                created_at: row.get::<_, PgTime>("created_at").0,
                expires_at: row
                    .get::<_, Option<PgTime>>("expires_at")
                    .map(|time| time.0),
                revoked_at: row
                    .get::<_, Option<PgTime>>("revoked_at")
                    .map(|time| time.0),
            })
        })
        .collect()
}

/// Ends a key for good. False where the tenant has no such key.
pub async fn revoke_key(
    app: &Pool,
    scope: &TenantScope,
    id: &KeyId,
    at: Timestamp,
) -> Result<bool, PgError> {
    let (tenant, key_id, at) = (scope.tenant().0, id.as_str(), PgTime(at));
    let statement = Statement::new(
        "revoking an api key",
        include_str!("../sql/keys/revoke_key.sql"),
        vec![
            (&tenant, Type::INT8),
            (&key_id, Type::TEXT),
            (&at, Type::TIMESTAMPTZ),
        ],
    );
    let rows = write_current(app, Some(&scope.setting()), statement).await?;
    Ok(!rows.is_empty())
}

/// Ends an administrator's key for good. False where there is no such key. Only `sheaf_upkeep` may, as it alone makes
/// them.
pub async fn revoke_admin_key(upkeep: &Pool, id: &KeyId, at: Timestamp) -> Result<bool, PgError> {
    let client = upkeep.get().await?;
    let (key_id, at) = (id.as_str(), PgTime(at));
    let statement = Statement::new(
        "revoking an administrator's key",
        include_str!("../sql/keys/revoke_admin_key.sql"),
        vec![(&key_id, Type::TEXT), (&at, Type::TIMESTAMPTZ)],
    );
    let rows = sheaf_pg::run(&client, Access::Write, None, &[statement]).await?;
    Ok(!rows[0].is_empty())
}

fn scopes_of(row: &Row) -> Vec<KeyScope> {
    let names: Vec<&str> = row.get("scopes");
    names.into_iter().filter_map(KeyScope::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_a_typing_error_is_turned_away() {
        let key = ApiKey::generate();
        let read = ApiKey::parse(key.reveal()).expect("a key of ours");
        assert_eq!((read.id(), read.hash()), (key.id(), key.hash()));
        for at in 0..key.reveal().len() {
            let mut typed: Vec<u8> = key.reveal().bytes().collect();
            typed[at] = if typed[at] == b'x' { b'y' } else { b'x' };
            let typed = String::from_utf8(typed).expect("still ascii");
            assert!(ApiKey::parse(&typed).is_none(), "{at} was not noticed");
        }
        assert!(ApiKey::parse("").is_none() && ApiKey::parse(&"_".repeat(200)).is_none());
    }

    #[test]
    fn a_key_does_not_print_its_secret() {
        let key = ApiKey::generate();
        assert_eq!(format!("{key:?}"), format!("ApiKey({})", key.id()));
    }
}
