//! What administrators see of dead letters and decide about them. As `sheaf_app`, which has functions for it and sees nothing of the
//! table: whoever calls these has made sure that it is an administrator who asks.

use sheaf_model::{ChangePosition, KeyId, LetterId, Timestamp};
use sheaf_pg::{PgError, PgTime, Pool, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::position_in;
use crate::lineage::{read_current, write_current};

/// Which letters a page holds; what is absent leaves all through.
#[derive(Debug, Clone, Default)]
pub struct LetterFilter {
    /// Of one sink.
    pub sink: Option<String>,
    /// With one reason.
    pub reason: Option<String>,
    /// With one status.
    pub status: Option<String>,
    /// Older than this one: where a page goes on.
    pub before: Option<LetterId>,
}

/// A letter without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedLetter {
    /// Its number.
    pub id: LetterId,
    /// The sink that lacks it.
    pub sink: String,
    /// Where it is in the stream or the snapshot.
    pub position: ChangePosition,
    /// Why the sink could not take it, as a code.
    pub reason: String,
    /// The same for people.
    pub detail: String,
    /// When it was kept.
    pub received_at: Timestamp,
    /// open, `replay_asked`, replayed or discarded.
    pub status: String,
}

fn listed_of(row: &Row, step: &'static str) -> Result<ListedLetter, PgError> {
    Ok(ListedLetter {
        id: LetterId(row.get("letter_id")),
        sink: row.get("sink_name"),
        position: position_in(row, step)?,
        reason: row.get("reason"),
        detail: row.get("detail"),
        received_at: row.get::<_, PgTime>("received_at").0,
        status: row.get("status"),
    })
}

/// A page of letters, newest first.
pub async fn list_letters(
    app: &Pool,
    filter: &LetterFilter,
    letters_max: i32,
) -> Result<Vec<ListedLetter>, PgError> {
    const STEP: &str = "listing dead letters";
    let before = filter.before.map(|id| id.0);
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&filter.sink, Type::TEXT),
        (&filter.reason, Type::TEXT),
        (&filter.status, Type::TEXT),
        (&before, Type::UUID),
        (&letters_max, Type::INT4),
    ];
    let sql = include_str!("../../sql/dead_letters/list_letters.sql");
    let rows = read_current(app, Statement::new(STEP, sql, params)).await?;
    rows.iter().map(|row| listed_of(row, STEP)).collect()
}

/// A letter with its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLetter {
    /// What lists show of it.
    pub listed: ListedLetter,
    /// The name of the tenant whose row it is; absent where that is not known.
    pub tenant: Option<String>,
    /// When its transaction was committed.
    pub committed_at: Timestamp,
    /// Whether all of the row is in the payload.
    pub is_whole: bool,
    /// The row, as JSON.
    pub payload: String,
}

/// One letter. None where there is none of this number.
pub async fn find_letter(app: &Pool, id: LetterId) -> Result<Option<FoundLetter>, PgError> {
    const STEP: &str = "reading a dead letter";
    let sql = include_str!("../../sql/dead_letters/find_letter.sql");
    let statement = Statement::new(STEP, sql, vec![(&id.0, Type::UUID)]);
    let rows = read_current(app, statement).await?;
    let found = rows.first().map(|row| {
        Ok(FoundLetter {
            listed: listed_of(row, STEP)?,
            tenant: row.get("tenant"),
            committed_at: row.get::<_, PgTime>("committed_at").0,
            is_whole: row.get("is_whole"),
            payload: row.get("payload"),
        })
    });
    found.transpose()
}

/// Something that was done with a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterAction {
    /// When.
    pub acted_at: Timestamp,
    /// What: `ask_replay`, replay, refuse or discard.
    pub action: String,
    /// The key of the administrator; absent for what a server did by itself.
    pub key: Option<String>,
    /// What the sink said, or why.
    pub detail: Option<String>,
}

/// What was last done with a letter, in order.
pub async fn list_letter_actions(
    app: &Pool,
    id: LetterId,
    actions_max: i32,
) -> Result<Vec<LetterAction>, PgError> {
    let sql = include_str!("../../sql/dead_letters/list_actions.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> =
        vec![(&id.0, Type::UUID), (&actions_max, Type::INT4)];
    let statement = Statement::new("listing what was done with a dead letter", sql, params);
    let rows = read_current(app, statement).await?;
    let actions = rows.iter().map(|row| LetterAction {
        acted_at: row.get::<_, PgTime>("acted_at").0,
        action: row.get("action"),
        key: row.get("key_id"),
        detail: row.get("detail"),
    });
    Ok(actions.collect())
}

/// How a letter is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterLook {
    /// Its number.
    pub id: LetterId,
    /// open, `replay_asked`, replayed or discarded.
    pub status: String,
    /// Why its sink could not take it when it was last offered, as a code.
    pub reason: String,
    /// The same for people.
    pub detail: String,
}

/// How letters are. Numbers that do not exist are left out.
pub async fn look_at_letters(app: &Pool, ids: &[LetterId]) -> Result<Vec<LetterLook>, PgError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let sql = include_str!("../../sql/dead_letters/look_at_letters.sql");
    let statement = Statement::new(
        "looking at dead letters",
        sql,
        vec![(&ids, Type::UUID_ARRAY)],
    );
    let rows = read_current(app, statement).await?;
    let looks = rows.iter().map(|row| LetterLook {
        id: LetterId(row.get("letter_id")),
        status: row.get("status"),
        reason: row.get("reason"),
        detail: row.get("detail"),
    });
    Ok(looks.collect())
}

/// Asks that letters are offered to their sinks again. Gives back those that were open.
pub async fn ask_for_letters(
    app: &Pool,
    ids: &[LetterId],
    by: &KeyId,
    now: Timestamp,
) -> Result<Vec<LetterId>, PgError> {
    let sql = include_str!("../../sql/dead_letters/ask_for_letters.sql");
    decide(app, "asking for dead letters", sql, ids, by, now).await
}

/// Lets go of letters. Gives back those that were not settled.
pub async fn discard_letters(
    app: &Pool,
    ids: &[LetterId],
    by: &KeyId,
    now: Timestamp,
) -> Result<Vec<LetterId>, PgError> {
    let sql = include_str!("../../sql/dead_letters/discard_letters.sql");
    decide(app, "discarding dead letters", sql, ids, by, now).await
}

async fn decide(
    app: &Pool,
    step: &'static str,
    sql: &str,
    ids: &[LetterId],
    by: &KeyId,
    now: Timestamp,
) -> Result<Vec<LetterId>, PgError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let (by, now) = (by.as_str(), PgTime(now));
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&ids, Type::UUID_ARRAY),
        (&by, Type::TEXT),
        (&now, Type::TIMESTAMPTZ),
    ];
    let rows = write_current(app, None, Statement::new(step, sql, params)).await?;
    let letters = rows.iter().map(|row| LetterId(row.get("letter_id")));
    Ok(letters.collect())
}
