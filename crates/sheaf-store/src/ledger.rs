//! The ledger of write requests: opened by the first, found by every retry; their parts; and the buckets' locks and last
//! writers.

mod earlier;

use std::collections::{HashMap, HashSet};

use futures::join;
use sheaf_model::{BatchId, Lineage, TenantId, Timestamp};
use sheaf_pg::{PgError, PgTime, Pool, Unfinished};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use crate::lineage::fetch_lineage;
use crate::rejections::{NewRejection, insert_rejections};
use crate::scope::TenantScope;

pub(crate) use earlier::counts_of;
pub use earlier::{EarlierRequest, LedgerRecord, fetch_batch, fetch_request};

/// What became of a request as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Stored, at least in part, or nothing new but nothing wrong.
    Stored,
    /// Nothing stored: every event was bad.
    AllRefused,
    /// Nothing stored: one value was bad, and the request asked for all or nothing.
    BatchRefused,
}

impl Outcome {
    const ALL: [Outcome; 3] = [Outcome::Stored, Outcome::AllRefused, Outcome::BatchRefused];

    fn as_str(self) -> &'static str {
        match self {
            Outcome::Stored => "stored",
            Outcome::AllRefused => "all_refused",
            Outcome::BatchRefused => "batch_refused",
        }
    }

    /// What became of a request whose parts came to `counts`: it was recorded before its events met what is stored, where
    /// all that were left may have been refused.
    pub fn settled(self, events: i64, counts: &Counts) -> Outcome {
        let stored = counts.accepted + counts.duplicates + counts.merged + counts.corrected;
        match self {
            Outcome::Stored if events > 0 && stored == 0 => Outcome::AllRefused,
            Outcome::Stored | Outcome::AllRefused | Outcome::BatchRefused => self,
        }
    }

    fn parse(text: &str) -> Option<Outcome> {
        let known = Outcome::ALL
            .into_iter()
            .find(|known| known.as_str() == text);
        known.or((text == STORED_IN_PARTS).then_some(Outcome::Stored))
    }
}

/// The outcome of a request that is stored once parts in transactions of their own have written its buckets: a server that
/// does not know of parts must not take it for one that is stored.
const STORED_IN_PARTS: &str = "stored_in_parts";

/// A request as the ledger first sees it.
#[derive(Debug, Clone)]
pub struct LedgerEntry {
    /// Whose it is.
    pub tenant: TenantId,
    /// What finds it again.
    pub request_key: String,
    /// Its number.
    pub batch: BatchId,
    /// The hash of what was asked; empty where no retry can name the request.
    pub request_hash: Vec<u8>,
    /// What became of it.
    pub outcome: Outcome,
    /// What the answer promises.
    pub ack: &'static str,
    /// How many events it held.
    pub events: i32,
    /// How many of them were refused before anything was written.
    pub refused: i32,
    /// When it arrived.
    pub received_at: Timestamp,
    /// The buckets of its events, ascending: it is stored when parts have written all of them.
    pub buckets: Vec<i32>,
    /// The lineage that the numbers of its entities, and so its buckets, were learned on: on another nothing is opened or
    /// staged with them. Absent where it names no entity, and where they were learned from a standby, which is no lineage.
    pub lineage: Option<Lineage>,
}

/// What opening a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It has its place.
    Opened,
    /// The place was taken before, in the ledger or by one that is staged.
    Taken,
    /// Its buckets mean nothing on the lineage that would be written.
    OtherLineage,
}

impl LedgerEntry {
    /// A request that no retry can name, all of whose events are to be stored in no bucket yet.
    pub fn new(
        tenant: TenantId,
        batch: BatchId,
        ack: &'static str,
        events: usize,
        received_at: Timestamp,
    ) -> LedgerEntry {
        LedgerEntry {
            tenant,
            request_key: batch.to_string(),
            batch,
            request_hash: Vec::new(),
            outcome: Outcome::Stored,
            ack,
            events: i32::try_from(events).unwrap_or(i32::MAX),
            refused: 0,
            received_at,
            buckets: Vec::new(),
            lineage: None,
        }
    }

    /// Whether it was numbered on another lineage than this one. Buckets of no known lineage are of another.
    pub(crate) fn is_of_other(&self, lineage: Option<Lineage>) -> bool {
        let is_numbered = self.lineage.is_some() || !self.buckets.is_empty();
        is_numbered && self.lineage != lineage
    }

    /// Whether a retry can name it.
    pub fn has_key(&self) -> bool {
        !self.request_hash.is_empty()
    }
}

/// What one part of a request came to.
#[derive(Debug, Clone)]
pub struct LedgerPart<'a> {
    /// The request.
    pub entry: &'a LedgerEntry,
    /// The buckets that the part has written, ascending.
    pub buckets: &'a [i32],
    /// What its events came to.
    pub counts: Counts,
}

/// What one part of a request, or all of them together, came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Values in stored events, duplicates included.
    pub values: i64,
    /// Events that were new.
    pub accepted: i64,
    /// Events that brought nothing new.
    pub duplicates: i64,
    /// Events that added attributes to a stored instant.
    pub merged: i64,
    /// Events that changed a stored value.
    pub corrected: i64,
    /// Events that could not be stored beside what was there.
    pub refused: i64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.values += other.values;
        self.accepted += other.accepted;
        self.duplicates += other.duplicates;
        self.merged += other.merged;
        self.corrected += other.corrected;
        self.refused += other.refused;
    }
}

/// Takes the locks of these buckets, given in ascending order, until the transaction ends.
pub async fn lock_buckets(client: &Client, buckets: &[i32]) -> Result<(), PgError> {
    client
        .query_typed(
            include_str!("../sql/ledger/lock_buckets.sql"),
            &[(&buckets, Type::INT4_ARRAY)],
        )
        .await
        .map_err(PgError::statement("locking buckets"))
        .map(drop)
}

/// Takes the places of requests, each with all of its parts in this transaction. Gives back those that were free: one that
/// is missing was taken before, and is a retry.
pub async fn open_requests(
    client: &Client,
    entries: &[&LedgerEntry],
) -> Result<HashSet<(TenantId, String)>, PgError> {
    let outcomes: Vec<&str> = column(entries, |entry| entry.outcome.as_str());
    open(client, entries, &outcomes).await
}

async fn open(
    client: &Client,
    entries: &[&LedgerEntry],
    outcomes: &[&str],
) -> Result<HashSet<(TenantId, String)>, PgError> {
    if entries.is_empty() {
        return Ok(HashSet::new());
    }
    let tenants: Vec<i64> = entries.iter().map(|entry| entry.tenant.0).collect();
    let keys: Vec<&str> = column(entries, |entry| entry.request_key.as_str());
    let batches: Vec<Uuid> = column(entries, |entry| entry.batch.0);
    let hashes: Vec<&[u8]> = column(entries, |entry| entry.request_hash.as_slice());
    let acks: Vec<&str> = column(entries, |entry| entry.ack);
    let events: Vec<i32> = column(entries, |entry| entry.events);
    let refused: Vec<i32> = column(entries, |entry| entry.refused);
    let received: Vec<PgTime> = column(entries, |entry| PgTime(entry.received_at));
    let buckets: Vec<String> = column(entries, |entry| array(&entry.buckets));
    let rows = client
        .query_typed(
            include_str!("../sql/ledger/open_requests.sql"),
            &[
                (&tenants, Type::INT8_ARRAY),
                (&keys, Type::TEXT_ARRAY),
                (&batches, Type::UUID_ARRAY),
                (&hashes, Type::BYTEA_ARRAY),
                (&outcomes, Type::TEXT_ARRAY),
                (&acks, Type::TEXT_ARRAY),
                (&events, Type::INT4_ARRAY),
                (&refused, Type::INT4_ARRAY),
                (&received, Type::TIMESTAMPTZ_ARRAY),
                (&buckets, Type::TEXT_ARRAY),
            ],
        )
        .await
        .map_err(PgError::statement("opening requests in the ledger"))?;
    Ok(rows.iter().map(key_of).collect())
}

/// Takes a request's place in a transaction of its own.
pub async fn open_request(
    writer: &Pool,
    scope: &TenantScope,
    entry: &LedgerEntry,
    rejections: &[NewRejection],
) -> Result<Opening, PgError> {
    // Who asks for this may be gone before it ends.
    let client = Unfinished::new(writer.get().await?);
    // Waited for: a part that runs again after a crash must find its request, or a retry would open another one.
    let begin = "BEGIN; SET LOCAL lock_timeout = '15s'; SET LOCAL statement_timeout = '120s'; \
                 SET LOCAL synchronous_commit = local";
    let entries = [entry];
    let outcomes = [if entry.buckets.is_empty() {
        entry.outcome.as_str()
    } else {
        STORED_IN_PARTS
    }];
    let (begun, lineage, is_free) = join!(
        client.batch_execute(begin),
        fetch_lineage(&client),
        has_free_key(&client, entry)
    );
    begun.map_err(PgError::statement("beginning to open a request"))?;
    if entry.is_of_other(lineage?) {
        return Ok(Opening::OtherLineage);
    }
    let is_new = is_free? && !open(&client, &entries, &outcomes).await?.is_empty();
    if is_new {
        let (batch, received_at) = (entry.batch, entry.received_at);
        insert_rejections(&client, scope, batch, received_at, rejections).await?;
    }
    let committed = client.batch_execute("COMMIT").await;
    committed.map_err(PgError::statement("committing a request's place"))?;
    client.rest();
    Ok(if is_new {
        Opening::Opened
    } else {
        Opening::Taken
    })
}

/// Whether no request with this key is staged, and none will be before the transaction ends.
async fn has_free_key(client: &Client, entry: &LedgerEntry) -> Result<bool, PgError> {
    if !entry.has_key() {
        return Ok(true);
    }
    let sql = include_str!("../sql/staging/find_staged_request.sql");
    let params: [(&(dyn ToSql + Sync), Type); 2] = [
        (&entry.tenant.0, Type::INT8),
        (&entry.request_key, Type::TEXT),
    ];
    let (locked, staged) = join!(lock_key(client, entry), client.query_typed(sql, &params));
    locked?;
    let staged = staged.map_err(PgError::statement("looking for a key among what is staged"))?;
    Ok(staged.is_empty())
}

/// Waits until nobody else stages or opens a request with this key, and keeps them from it until the transaction ends. A
/// key that is staged and one that is in the ledger are rows of two tables, which no constraint holds together.
pub(crate) async fn lock_key(client: &Client, entry: &LedgerEntry) -> Result<(), PgError> {
    client
        .query_typed(
            include_str!("../sql/ledger/lock_request_key.sql"),
            &[
                (&entry.tenant.0, Type::INT8),
                (&entry.request_key, Type::TEXT),
            ],
        )
        .await
        .map_err(PgError::statement("locking a request's key"))
        .map(drop)
}

/// Buckets of requests that have been written, in the transaction that holds the buckets' locks.
pub async fn find_parts(
    client: &Client,
    entries: &[&LedgerEntry],
) -> Result<HashMap<(TenantId, String), HashSet<i32>>, PgError> {
    let mut written: HashMap<(TenantId, String), HashSet<i32>> = HashMap::new();
    if entries.is_empty() {
        return Ok(written);
    }
    let tenants: Vec<i64> = column(entries, |entry| entry.tenant.0);
    let keys: Vec<&str> = column(entries, |entry| entry.request_key.as_str());
    let rows = client
        .query_typed(
            include_str!("../sql/ledger/find_parts.sql"),
            &[(&tenants, Type::INT8_ARRAY), (&keys, Type::TEXT_ARRAY)],
        )
        .await
        .map_err(PgError::statement("finding parts of requests"))?;
    for row in &rows {
        let buckets: Vec<i32> = row.get("buckets");
        written.entry(key_of(row)).or_default().extend(buckets);
    }
    Ok(written)
}

/// Writes what parts came to.
pub async fn insert_parts(client: &Client, parts: &[LedgerPart<'_>]) -> Result<(), PgError> {
    if parts.is_empty() {
        return Ok(());
    }
    let tenants: Vec<i64> = column(parts, |part| part.entry.tenant.0);
    let keys: Vec<&str> = column(parts, |part| part.entry.request_key.as_str());
    let buckets: Vec<String> = column(parts, |part| array(part.buckets));
    let values: Vec<i64> = column(parts, |part| part.counts.values);
    let counted = |of: fn(&Counts) -> i64| -> Vec<i32> {
        column(parts, |part| {
            i32::try_from(of(&part.counts)).unwrap_or(i32::MAX)
        })
    };
    client
        .execute_typed(
            include_str!("../sql/ledger/insert_parts.sql"),
            &[
                (&tenants, Type::INT8_ARRAY),
                (&keys, Type::TEXT_ARRAY),
                (&buckets, Type::TEXT_ARRAY),
                (&values, Type::INT8_ARRAY),
                (&counted(|counts| counts.accepted), Type::INT4_ARRAY),
                (&counted(|counts| counts.duplicates), Type::INT4_ARRAY),
                (&counted(|counts| counts.merged), Type::INT4_ARRAY),
                (&counted(|counts| counts.corrected), Type::INT4_ARRAY),
                (&counted(|counts| counts.refused), Type::INT4_ARRAY),
            ],
        )
        .await
        .map_err(PgError::statement("writing the parts of requests"))
        .map(drop)
}

/// Who wrote documents of these buckets last; absent where nobody that remembers documents did.
pub async fn find_bucket_writers(
    client: &Client,
    buckets: &[i32],
) -> Result<HashMap<i32, Uuid>, PgError> {
    let rows = client
        .query_typed(
            include_str!("../sql/ledger/find_bucket_writers.sql"),
            &[(&buckets, Type::INT4_ARRAY)],
        )
        .await
        .map_err(PgError::statement("finding who wrote buckets last"))?;
    let writer = |row: &Row| Some((row.get("bucket"), row.get::<_, Option<Uuid>>("written_by")?));
    Ok(rows.iter().filter_map(writer).collect())
}

/// Makes a lane known as the one that wrote documents of these buckets last.
pub async fn set_bucket_writers(
    client: &Client,
    buckets: &[i32],
    written_by: Uuid,
) -> Result<(), PgError> {
    if buckets.is_empty() {
        return Ok(());
    }
    client
        .execute_typed(
            include_str!("../sql/ledger/set_bucket_writers.sql"),
            &[(&buckets, Type::INT4_ARRAY), (&written_by, Type::UUID)],
        )
        .await
        .map_err(PgError::statement("saying who wrote buckets last"))
        .map(drop)
}

fn key_of(row: &Row) -> (TenantId, String) {
    (TenantId(row.get("tenant_id")), row.get("request_key"))
}

fn column<'a, T, C>(rows: &'a [T], of: impl Fn(&'a T) -> C) -> Vec<C> {
    rows.iter().map(of).collect()
}

/// PostgreSQL's text form of an array, because there are no arrays of arrays of different lengths.
fn array(numbers: &[i32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_no_known_lineage_or_of_another_one_are_written_nowhere() {
        let lineage = |timeline| {
            Some(Lineage {
                system_id: 7,
                timeline,
            })
        };
        let table = [
            (lineage(1), vec![3], lineage(1), false),
            (lineage(1), vec![3], lineage(2), true),
            (lineage(1), vec![], lineage(2), true),
            (lineage(1), vec![3], None, true),
            (None, vec![3], lineage(1), true),
            (None, vec![], lineage(1), false),
        ];
        for (of, buckets, now, expected) in table {
            let new = LedgerEntry::new(TenantId(1), BatchId::new(), "durable", 1, Timestamp::MIN);
            let entry = LedgerEntry {
                lineage: of,
                buckets,
                ..new
            };
            assert_eq!(entry.is_of_other(now), expected, "{entry:?} on {now:?}");
        }
    }
}
