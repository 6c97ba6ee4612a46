//! Dead letters: changes that a sink of the change stream could not take. Administrators see them, have them offered to their sink
//! again, and let go of them; which key did what is kept with each letter.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use sheaf_model::{LetterId, Timestamp};
use sheaf_store::dead_letters::{
    FoundLetter, LetterAction, LetterFilter, LetterLook, ListedLetter, ask_for_letters,
    discard_letters, find_letter, list_letter_actions, list_letters, look_at_letters,
};
use tokio::time::{Instant, sleep};
use utoipa::ToSchema;

use crate::auth::AdminKey;
use crate::body::{SMALL_BYTES_MAX, read_json};
use crate::freshness::{NO_TENANT, read_fresh, read_headers, read_options};
use crate::members::Members;
use crate::page::{PageBody, PagedList};
use crate::params::{Params, Segments};
use crate::problem::Problem;
use crate::state::AppState;

/// Letters that one request may be about.
const DECIDED_MAX: usize = 1_000;
/// What is shown of what was done with a letter: the last of it.
const ACTIONS_MAX: i32 = 100;
/// How long an answer waits for the sinks. They look each second; one that is away does not hold the answer up for longer.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Between two looks at whether the sinks have answered.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A change that a sink could not take.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LetterBody {
    #[schema(value_type = String)]
    id: LetterId,
    /// The sink that lacks it.
    sink: String,
    /// Timeline, commit and place in its transaction.
    position: String,
    /// Why the sink could not take it, as a code.
    reason: String,
    /// The same for people.
    detail: String,
    #[schema(value_type = String, format = DateTime)]
    received_at: Timestamp,
    /// `open`, `replay_asked`, `replayed` or `discarded`.
    status: String,
}

impl LetterBody {
    fn of(letter: ListedLetter) -> LetterBody {
        LetterBody {
            id: letter.id,
            sink: letter.sink,
            position: letter.position.to_string(),
            reason: letter.reason,
            detail: letter.detail,
            received_at: letter.received_at,
            status: letter.status,
        }
    }
}

/// A change that a sink could not take, with all that is kept of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WholeLetterBody {
    #[serde(flatten)]
    letter: LetterBody,
    /// The tenant whose row it is; null where that could not be read.
    tenant: Option<String>,
    /// When the row was committed.
    #[schema(value_type = String, format = DateTime)]
    committed_at: Timestamp,
    /// Whether all of the row is in the payload.
    is_whole: bool,
    /// The row: its table, and its columns with their kinds.
    #[schema(value_type = Object)]
    payload: Box<RawValue>,
    /// What was done with it, in order.
    actions: Vec<ActionBody>,
}

/// Something that was done with a letter.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ActionBody {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// `ask_replay` or `discard`, by an administrator; `replay` or `refuse`, by its sink.
    action: String,
    /// The id of the administrator's key; null for what a server did by itself.
    key_id: Option<String>,
    /// What the sink said, or why.
    detail: Option<String>,
}

impl ActionBody {
    fn of(action: LetterAction) -> ActionBody {
        ActionBody {
            at: action.acted_at,
            action: action.action,
            key_id: action.key,
            detail: action.detail,
        }
    }
}

/// Which letters are meant.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "documents a body that is read member by member")]
pub(crate) struct LettersBody {
    /// These, at most 1000.
    ids: Vec<String>,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct DecisionBody {
    /// How many letters their sinks have taken.
    replayed: usize,
    /// How many were let go.
    discarded: usize,
    /// Of which it cannot be said.
    failed: Vec<FailedBody>,
}

/// A letter that is not what was wanted.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FailedBody {
    id: String,
    /// `not_found`, `replayed` or `discarded` before, `replay_asked` while no sink has answered, or why its sink cannot take it.
    reason: String,
    /// The same for people.
    detail: String,
}

/// List the changes that sinks could not take, newest first.
#[utoipa::path(get, path = "/v1/dead-letters", tag = "changes",
    params(("sink" = Option<String>, Query), ("reason" = Option<String>, Query),
        ("status" = Option<String>, Query, description = "open, replay_asked, replayed or discarded"),
        ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "A page", body = PageBody<LetterBody>)))]
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    mut params: Params,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let options = read_options(&mut params, &headers, NO_TENANT, &state)?;
    let known_status = |text: &str| {
        matches!(text, "open" | "replay_asked" | "replayed" | "discarded").then(|| text.to_owned())
    };
    let statuses = "open, replay_asked, replayed or discarded";
    let mut filter = LetterFilter {
        sink: params.take("sink")?,
        reason: params.take("reason")?,
        status: params.take_as("status", statuses, known_status)?,
        before: None,
    };
    let parts = [&filter.sink, &filter.reason, &filter.status].map(Option::as_deref);
    let list = PagedList::take(&mut params, &state, NO_TENANT, "dead-letters", &parts)?;
    params.finish()?;
    filter.before = list.after.as_deref().and_then(|id| id.parse().ok());
    let letters_max = i32::try_from(list.limit + 1).expect("a page is small");
    let letters = list_letters(&state.app, &filter, letters_max);
    let (letters, freshness) = read_fresh(&state, &options, letters).await?;
    let bodies = letters.into_iter().map(LetterBody::of).collect();
    let headers = read_headers(&freshness, NO_TENANT, &state);
    let key = |letter: &LetterBody| letter.id.to_string();
    Ok(list.respond(&state, &uri, headers, bodies, key))
}

/// Show one of them, with its row and what was done with it.
#[utoipa::path(get, path = "/v1/dead-letters/{id}", tag = "changes", params(("id" = String, Path)),
    responses((status = 200, description = "The letter", body = WholeLetterBody)))]
pub(crate) async fn show(
    State(state): State<Arc<AppState>>,
    Segments(id): Segments<String>,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let options = read_options(&mut params, &headers, NO_TENANT, &state)?;
    params.finish()?;
    let id: LetterId = id.parse().map_err(|_| Problem::not_found())?;
    let found = async {
        let letter = find_letter(&state.app, id).await?;
        let actions = list_letter_actions(&state.app, id, ACTIONS_MAX).await?;
        Ok(letter.map(|letter| (letter, actions)))
    };
    let (found, freshness) = read_fresh(&state, &options, found).await?;
    let (letter, actions) = found.ok_or_else(Problem::not_found)?;
    let FoundLetter {
        listed,
        tenant,
        committed_at,
        is_whole,
        payload,
    } = letter;
    let body = WholeLetterBody {
        letter: LetterBody::of(listed),
        tenant,
        committed_at,
        is_whole,
        payload: RawValue::from_string(payload).map_err(Problem::internal)?,
        actions: actions.into_iter().map(ActionBody::of).collect(),
    };
    let headers = read_headers(&freshness, NO_TENANT, &state);
    Ok((headers, Json(body)).into_response())
}

/// Offer open letters to their sinks again.
///
/// The answer waits for the sinks for ten seconds; what they have not answered by then stays asked for. Twice changes nothing, and
/// what is newer stays.
#[utoipa::path(post, path = "/v1/dead-letters/replay", tag = "changes", request_body = LettersBody,
    responses((status = 200, description = "Offered", body = DecisionBody)))]
pub(crate) async fn replay(
    State(state): State<Arc<AppState>>,
    AdminKey(key): AdminKey,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<DecisionBody>, Problem> {
    params.finish()?;
    let ids = letter_ids(&read_json(&headers, body, SMALL_BYTES_MAX).await?)?;
    let until = Instant::now() + WAIT_MAX;
    let before = look_at_letters(&state.app, &ids).await?;
    ask_for_letters(&state.app, &ids, &key, Timestamp::now()).await?;
    loop {
        let looks = look_at_letters(&state.app, &ids).await?;
        let is_waiting = looks.iter().any(|look| look.status == "replay_asked");
        if !is_waiting || Instant::now() >= until {
            return Ok(Json(replay_of(&ids, &before, looks)));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Let go of letters: their sinks will lack these changes.
#[utoipa::path(post, path = "/v1/dead-letters/discard", tag = "changes", request_body = LettersBody,
    responses((status = 200, description = "Let go", body = DecisionBody)))]
pub(crate) async fn discard(
    State(state): State<Arc<AppState>>,
    AdminKey(key): AdminKey,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<DecisionBody>, Problem> {
    params.finish()?;
    let ids = letter_ids(&read_json(&headers, body, SMALL_BYTES_MAX).await?)?;
    let discarded = discard_letters(&state.app, &ids, &key, Timestamp::now()).await?;
    let looks = look_at_letters(&state.app, &ids).await?;
    Ok(Json(discard_of(&ids, discarded.len(), looks)))
}

/// What a replay came to: `before` is how the letters were when it was asked for, `after` how they are.
fn replay_of(ids: &[LetterId], before: &[LetterLook], after: Vec<LetterLook>) -> DecisionBody {
    let was_replayed: HashSet<LetterId> = before
        .iter()
        .filter(|look| look.status == "replayed")
        .map(|look| look.id)
        .collect();
    decision(ids, after, |look| match look.status.as_str() {
        "replayed" if was_replayed.contains(&look.id) => Outcome::Nothing,
        "replayed" => Outcome::Replayed,
        "replay_asked" => Outcome::Failed(
            "replay_asked".to_owned(),
            "its sink has not been reached yet; it stays asked for".to_owned(),
        ),
        "discarded" => Outcome::Failed("discarded".to_owned(), "it was discarded".to_owned()),
        _ => Outcome::Failed(look.reason, look.detail),
    })
}

/// What letting go came to, of so many letters.
fn discard_of(ids: &[LetterId], discarded: usize, after: Vec<LetterLook>) -> DecisionBody {
    let mut decision = decision(ids, after, |look| match look.status.as_str() {
        "discarded" => Outcome::Nothing,
        status => Outcome::Failed(status.to_owned(), format!("it is {status}")),
    });
    decision.discarded = discarded;
    decision
}

enum Outcome {
    Replayed,
    Nothing,
    Failed(String, String),
}

fn decision(
    ids: &[LetterId],
    after: Vec<LetterLook>,
    outcome: impl Fn(LetterLook) -> Outcome,
) -> DecisionBody {
    let mut after: HashMap<LetterId, LetterLook> =
        after.into_iter().map(|look| (look.id, look)).collect();
    let mut decision = DecisionBody {
        replayed: 0,
        discarded: 0,
        failed: Vec::new(),
    };
    for id in ids {
        let outcome = match after.remove(id) {
            Some(look) => outcome(look),
            None => {
                let detail = "there is no such letter".to_owned();
                Outcome::Failed("not_found".to_owned(), detail)
            }
        };
        match outcome {
            Outcome::Replayed => decision.replayed += 1,
            Outcome::Nothing => {}
            Outcome::Failed(reason, detail) => decision.failed.push(FailedBody {
                id: id.to_string(),
                reason,
                detail,
            }),
        }
    }
    decision
}

/// Reads which letters are meant, each once.
fn letter_ids(body: &[u8]) -> Result<Vec<LetterId>, Problem> {
    let mut members = Members::read(body)?;
    let texts: Vec<String> = members.require("ids")?;
    members.finish()?;
    if !(1..=DECIDED_MAX).contains(&texts.len()) {
        return Err(Problem::invalid("ids", "expected 1 to 1000 ids"));
    }
    let ids = texts.iter().map(|text| text.parse().ok());
    let mut ids: Vec<LetterId> = ids
        .collect::<Option<_>>()
        .ok_or_else(|| Problem::invalid("ids", "expected ids of dead letters"))?;
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(id: LetterId, status: &str) -> LetterLook {
        LetterLook {
            id,
            status: status.to_owned(),
            reason: "unknown_attribute".to_owned(),
            detail: "attribute 7".to_owned(),
        }
    }

    #[test]
    fn an_answer_says_of_each_letter_what_it_came_to_once() {
        let ids: Vec<LetterId> = (0..6).map(|_| LetterId::new()).collect();
        let states = ["replayed", "open", "replay_asked", "discarded", "replayed"];
        let looks: Vec<LetterLook> = ids.iter().zip(states).map(|(id, s)| look(*id, s)).collect();
        let before = [look(ids[4], "replayed"), look(ids[0], "open")];
        let answer = replay_of(&ids, &before, looks.clone());
        assert_eq!((answer.replayed, answer.discarded), (1, 0));
        let failed: Vec<(String, &str)> = answer
            .failed
            .iter()
            .map(|failed| (failed.id.clone(), failed.reason.as_str()))
            .collect();
        let expected = [
            (ids[1].to_string(), "unknown_attribute"),
            (ids[2].to_string(), "replay_asked"),
            (ids[3].to_string(), "discarded"),
            (ids[5].to_string(), "not_found"),
        ];
        assert_eq!(failed, expected);
        let answer = discard_of(
            &ids,
            1,
            vec![look(ids[0], "discarded"), look(ids[4], "replayed")],
        );
        let reasons: Vec<&str> = answer.failed.iter().map(|f| f.reason.as_str()).collect();
        assert_eq!((answer.replayed, answer.discarded), (0, 1));
        assert_eq!(
            reasons,
            [
                "not_found",
                "not_found",
                "not_found",
                "replayed",
                "not_found"
            ]
        );
    }

    #[test]
    fn letters_are_named_by_their_ids_and_nothing_else() {
        let id = LetterId::new();
        let twice = format!(r#"{{"ids":["{id}","{id}"]}}"#);
        assert_eq!(letter_ids(twice.as_bytes()).ok(), Some(vec![id]));
        let many = format!(
            r#"{{"ids":["{}"]}}"#,
            vec![id.to_string(); 1001].join("\",\"")
        );
        for body in [
            "",
            "{}",
            r#"{"ids":[]}"#,
            r#"{"ids":["r_1"]}"#,
            r#"{"ids":5}"#,
            &many,
        ] {
            assert!(letter_ids(body.as_bytes()).is_err(), "{body}");
        }
        let more = format!(r#"{{"ids":["{id}"],"sink":"file"}}"#);
        assert!(letter_ids(more.as_bytes()).is_err());
    }
}
