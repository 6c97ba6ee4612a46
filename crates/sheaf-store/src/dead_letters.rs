//! Dead letters: changes that a sink of the change stream could not take. Kept and offered again as `sheaf_cdc`; shown to
//! administrators as `sheaf_app`, through functions.

mod shown;

use sheaf_model::{ChangePosition, LetterId, TenantId, Timestamp};
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement, first_row};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use crate::changes::{SlotReader, stream_position_in};

pub use shown::{
    FoundLetter, LetterAction, LetterFilter, LetterLook, ListedLetter, ask_for_letters,
    discard_letters, find_letter, list_letter_actions, list_letters, look_at_letters,
};

/// A change that is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLetter {
    /// Whether it is of a snapshot; else it is of the stream.
    pub is_of_snapshot: bool,
    /// Its position.
    pub position: ChangePosition,
    /// The number of its transaction, without the count of cycles; 0 in a snapshot.
    pub xid: u32,
    /// When its transaction was committed.
    pub committed_at: Timestamp,
    /// Whose row it is; absent where that could not be read.
    pub tenant: Option<TenantId>,
    /// Why it could not be taken, as a code.
    pub reason: &'static str,
    /// The same for people.
    pub detail: String,
    /// The row.
    pub payload: String,
    /// Whether all of the row is in that.
    pub is_whole: bool,
}

/// What waits for a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WaitingLetters {
    /// How many letters there are.
    pub waiting: u64,
    /// How many of them are to be offered again.
    pub asked: u64,
    /// How many bytes they are.
    pub payload_bytes: u64,
}

/// How much waits for a sink.
pub async fn count_waiting_letters(
    cdc: &Pool,
    slot: &str,
    sink: &str,
) -> Result<WaitingLetters, PgError> {
    const STEP: &str = "counting the dead letters of a sink";
    let sql = include_str!("../sql/dead_letters/count_waiting.sql");
    let client = cdc.get().await?;
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&slot, Type::TEXT), (&sink, Type::TEXT)];
    let statement = Statement::new(STEP, sql, params);
    let rows = sheaf_pg::run_alone(&client, &statement).await?;
    let row = first_row(&rows, STEP)?;
    let number = |column| row.get::<_, i64>(column).cast_unsigned();
    Ok(WaitingLetters {
        waiting: number("waiting"),
        asked: number("asked"),
        payload_bytes: number("payload_bytes"),
    })
}

/// Keeps letters, each once. False where somebody else has become the slot's reader.
pub async fn keep_letters(
    cdc: &Pool,
    reader: &SlotReader,
    sink: &str,
    letters: &[NewLetter],
    now: Timestamp,
) -> Result<bool, PgError> {
    let now = PgTime(now);
    let each = |of: fn(&NewLetter) -> i64| letters.iter().map(of).collect::<Vec<i64>>();
    let ids: Vec<Uuid> = letters.iter().map(|_| LetterId::new().0).collect();
    let origins: Vec<&str> = letters
        .iter()
        .map(|letter| origin(letter.is_of_snapshot))
        .collect();
    let timelines = each(|letter| i64::from(letter.position.timeline));
    let commits: Vec<String> = letters
        .iter()
        .map(|letter| letter.position.commit_lsn.to_string())
        .collect();
    let ordinals = each(|letter| letter.position.ordinal.cast_signed());
    let xids = each(|letter| i64::from(letter.xid));
    let times: Vec<PgTime> = letters
        .iter()
        .map(|letter| PgTime(letter.committed_at))
        .collect();
    let tenants: Vec<Option<i64>> = letters
        .iter()
        .map(|letter| letter.tenant.map(|tenant| tenant.0))
        .collect();
    let reasons: Vec<&str> = letters.iter().map(|letter| letter.reason).collect();
    let details: Vec<&str> = letters
        .iter()
        .map(|letter| letter.detail.as_str())
        .collect();
    let payloads: Vec<&str> = letters
        .iter()
        .map(|letter| letter.payload.as_str())
        .collect();
    let are_whole: Vec<bool> = letters.iter().map(|letter| letter.is_whole).collect();
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&reader.slot, Type::TEXT),
        (&sink, Type::TEXT),
        (&reader.reader, Type::INT8),
        (&now, Type::TIMESTAMPTZ),
        (&ids, Type::UUID_ARRAY),
        (&origins, Type::TEXT_ARRAY),
        (&timelines, Type::INT8_ARRAY),
        (&commits, Type::TEXT_ARRAY),
        (&ordinals, Type::INT8_ARRAY),
        (&xids, Type::INT8_ARRAY),
        (&times, Type::TIMESTAMPTZ_ARRAY),
        (&tenants, Type::INT8_ARRAY),
        (&reasons, Type::TEXT_ARRAY),
        (&details, Type::TEXT_ARRAY),
        (&payloads, Type::TEXT_ARRAY),
        (&are_whole, Type::BOOL_ARRAY),
    ];
    let sql = include_str!("../sql/dead_letters/keep_letters.sql");
    let rows = write(cdc, Statement::new("keeping dead letters", sql, params)).await?;
    Ok(!rows.is_empty())
}

fn origin(is_of_snapshot: bool) -> &'static str {
    if is_of_snapshot { "snapshot" } else { "stream" }
}

/// The positions of a sink's letters after this one, in order: what the stream shows there again is a letter already.
pub async fn list_letter_positions(
    cdc: &Pool,
    slot: &str,
    sink: &str,
    after: Option<ChangePosition>,
    letters_max: i64,
) -> Result<Vec<ChangePosition>, PgError> {
    const STEP: &str = "listing the places of the dead letters of a sink";
    let timeline = after.map_or(0, |after| i64::from(after.timeline));
    let commit_lsn = after.map_or_else(|| "0/0".to_owned(), |after| after.commit_lsn.to_string());
    let ordinal = after.map_or(0, |after| after.ordinal.cast_signed());
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&slot, Type::TEXT),
        (&sink, Type::TEXT),
        (&timeline, Type::INT8),
        (&commit_lsn, Type::TEXT),
        (&ordinal, Type::INT8),
        (&letters_max, Type::INT8),
    ];
    let sql = include_str!("../sql/dead_letters/list_positions.sql");
    let client = cdc.get().await?;
    let rows = sheaf_pg::run_alone(&client, &Statement::new(STEP, sql, params)).await?;
    rows.iter().map(|row| position_in(row, STEP)).collect()
}

/// A letter that is to be offered to its sink again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedLetter {
    /// Its number.
    pub id: LetterId,
    /// Whether it is of a snapshot; else it is of the stream.
    pub is_of_snapshot: bool,
    /// Its position.
    pub position: ChangePosition,
    /// The number of its transaction.
    pub xid: u32,
    /// When its transaction was committed.
    pub committed_at: Timestamp,
    /// The row.
    pub payload: String,
    /// Whether all of the row is in that.
    pub is_whole: bool,
}

/// The letters of a sink that are to be offered to it again, oldest first: at most so many, and of at most so many bytes or one.
pub async fn list_asked_letters(
    cdc: &Pool,
    slot: &str,
    sink: &str,
    letters_max: i64,
    payload_bytes_max: i64,
) -> Result<Vec<AskedLetter>, PgError> {
    const STEP: &str = "listing the dead letters that are to be offered again";
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&slot, Type::TEXT),
        (&sink, Type::TEXT),
        (&letters_max, Type::INT8),
        (&payload_bytes_max, Type::INT8),
    ];
    let sql = include_str!("../sql/dead_letters/list_asked.sql");
    let client = cdc.get().await?;
    let rows = sheaf_pg::run_alone(&client, &Statement::new(STEP, sql, params)).await?;
    let asked = rows.iter().map(|row| {
        Ok(AskedLetter {
            id: LetterId(row.get("letter_id")),
            is_of_snapshot: row.get::<_, &str>("origin") == origin(true),
            position: position_in(row, STEP)?,
            xid: u32::try_from(row.get::<_, i64>("xid"))
                .map_err(|_| PgError::unreadable(STEP, "xid"))?,
            committed_at: row.get::<_, PgTime>("committed_at").0,
            payload: row.get("payload"),
            is_whole: row.get("is_whole"),
        })
    });
    asked.collect()
}

/// A sink has taken these.
pub async fn settle_replayed(cdc: &Pool, ids: &[LetterId], now: Timestamp) -> Result<(), PgError> {
    let (ids, now): (Vec<Uuid>, _) = (ids.iter().map(|id| id.0).collect(), PgTime(now));
    let sql = include_str!("../sql/dead_letters/settle_replayed.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> =
        vec![(&ids, Type::UUID_ARRAY), (&now, Type::TIMESTAMPTZ)];
    write(cdc, Statement::new("settling dead letters", sql, params)).await?;
    Ok(())
}

/// A letter that its sink could still not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedLetter {
    /// Its number.
    pub id: LetterId,
    /// Why, as a code.
    pub reason: &'static str,
    /// The same for people.
    pub detail: String,
}

/// A sink could still not take these.
pub async fn refuse_replayed(
    cdc: &Pool,
    letters: &[RefusedLetter],
    now: Timestamp,
) -> Result<(), PgError> {
    let ids: Vec<Uuid> = letters.iter().map(|letter| letter.id.0).collect();
    let reasons: Vec<&str> = letters.iter().map(|letter| letter.reason).collect();
    let details: Vec<&str> = letters
        .iter()
        .map(|letter| letter.detail.as_str())
        .collect();
    let now = PgTime(now);
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&ids, Type::UUID_ARRAY),
        (&reasons, Type::TEXT_ARRAY),
        (&details, Type::TEXT_ARRAY),
        (&now, Type::TIMESTAMPTZ),
    ];
    let sql = include_str!("../sql/dead_letters/refuse_replayed.sql");
    let step = "opening dead letters that were refused again";
    write(cdc, Statement::new(step, sql, params)).await?;
    Ok(())
}

/// Lets go of what waits for a sink that begins anew with a snapshot from this position on. Gives back how many there were.
pub async fn discard_earlier_letters(
    cdc: &Pool,
    slot: &str,
    sink: &str,
    base: ChangePosition,
    now: Timestamp,
) -> Result<u64, PgError> {
    let (timeline, lsn) = (i64::from(base.timeline), base.commit_lsn.to_string());
    let now = PgTime(now);
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&slot, Type::TEXT),
        (&sink, Type::TEXT),
        (&timeline, Type::INT8),
        (&lsn, Type::TEXT),
        (&now, Type::TIMESTAMPTZ),
    ];
    let sql = include_str!("../sql/dead_letters/discard_earlier.sql");
    let step = "letting go of the dead letters of a sink that begins anew";
    let rows = write(cdc, Statement::new(step, sql, params)).await?;
    let discarded = rows.first().map_or(0, |row| row.get::<_, i64>("discarded"));
    Ok(discarded.cast_unsigned())
}

/// Forgets the rows of some letters that were settled before this moment, of whatever sink. Gives back how many.
pub async fn empty_settled_letters(cdc: &Pool, before: Timestamp) -> Result<usize, PgError> {
    let before = PgTime(before);
    let sql = include_str!("../sql/dead_letters/empty_settled.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&before, Type::TIMESTAMPTZ)];
    let step = "forgetting the rows of dead letters that are settled";
    Ok(write(cdc, Statement::new(step, sql, params)).await?.len())
}

/// Letters that wait, of one sink and for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenLetters {
    /// The sink.
    pub sink: String,
    /// The reason.
    pub reason: String,
    /// How many.
    pub waiting: i64,
}

/// What waits, the most first. As `sheaf_upkeep`.
pub async fn count_open_letters(upkeep: &Client) -> Result<Vec<OpenLetters>, PgError> {
    let sql = include_str!("../sql/dead_letters/count_open.sql");
    let statement = Statement::new("counting dead letters", sql, vec![]);
    let rows = sheaf_pg::run_alone(upkeep, &statement).await?;
    let counted = rows.iter().map(|row| OpenLetters {
        sink: row.get("sink_name"),
        reason: row.get("reason"),
        waiting: row.get("waiting"),
    });
    Ok(counted.collect())
}

async fn write(cdc: &Pool, statement: Statement<'_>) -> Result<Vec<Row>, PgError> {
    let client = cdc.get().await?;
    let mut rows = sheaf_pg::run(&client, Access::Write, None, &[statement]).await?;
    Ok(rows.pop().unwrap_or_default())
}

fn position_in(row: &Row, step: &'static str) -> Result<ChangePosition, PgError> {
    stream_position_in(row, step)?.ok_or_else(|| PgError::unreadable(step, "commit_lsn"))
}
