//! SQL over the lake: one SELECT, answered as JSON, CSV or an Arrow stream.

use std::sync::Arc;
use std::time::Duration as Span;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::try_unfold;
use serde::Serialize;
use serde_json::value::RawValue;
use sheaf_export::{Cell, Column, ColumnKind, ExportError, File, Format};
use sheaf_lake::analytics::{
    Answer, Cover, LakeReader, LakeSnapshot, Param, QueryError, Question, ShownFrom,
};
use sheaf_model::{AttributeType, Duration, Timestamp, string_text};
use sheaf_query::{ConsistencyLevel, DataSource, Freshness, Lag, ReadError, ReadOptions, Shown};
use sheaf_store::TenantScope;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::body::{SMALL_BYTES_MAX, read_json};
use crate::freshness::{read_headers, token_of};
use crate::members::{Change, Members};
use crate::params::Params;
use crate::problem::{Code, Problem, chain};
use crate::state::AppState;
use crate::stream::{Form, StreamPermit, Streams, form_of};

/// Rows of a JSON answer. More is for programs that take a stream.
const ROWS_MAX: usize = 50_000;
/// Bytes of a JSON answer. It is made in memory.
const BYTES_MAX: usize = 16 << 20;
/// How long a token is waited for. The lake is some seconds behind, and an idle one is moved on every ten.
const TOKEN_MAX: Span = Span::from_secs(15);

/// A question over the lake.
#[derive(Debug, ToSchema)]
pub(crate) struct SqlBody {
    /// One SELECT over the tables facts, facts_corrected, entities, attributes and tenants.
    #[schema(rename = "query", value_type = String)]
    question: Question,
    /// The values for $1, $2 and so on.
    #[schema(rename = "params", value_type = Option<Vec<Object>>)]
    _params: (),
    /// How far behind the lake may be, such as 30s; 5m where nothing is said.
    #[schema(value_type = Option<String>)]
    max_lag: Option<Duration>,
}

impl SqlBody {
    fn read(body: &[u8]) -> Result<SqlBody, Problem> {
        let mut members = Members::read(body)?;
        let query = members.require("query")?;
        let params: Option<Vec<&RawValue>> = members.take("params")?;
        let params = params.unwrap_or_default();
        let params = params.iter().map(|raw| param(raw.get()));
        let max_lag = match members.take_duration("max_lag")? {
            Change::Keep | Change::Clear => None,
            Change::Set(span) => Some(span),
        };
        let question = Question {
            query,
            params: params.collect::<Result<_, _>>()?,
            shown: ShownFrom::default(),
        };
        members.finish()?;
        Ok(SqlBody {
            question,
            _params: (),
            max_lag,
        })
    }
}

fn param(raw: &str) -> Result<Param, Problem> {
    let refused = || Problem::invalid("params", "expected texts, numbers, truth values or null");
    Ok(match raw {
        "null" => Param::Null,
        "true" => Param::Bool(true),
        "false" => Param::Bool(false),
        raw if raw.starts_with('"') => {
            Param::Text(string_text(raw).map_err(|_| refused())?.into_owned())
        }
        raw if raw.starts_with(['[', '{']) => return Err(refused()),
        number => Param::Number(number.to_owned()),
    })
}

/// The answer.
#[derive(Debug, ToSchema)]
#[allow(
    dead_code,
    reason = "it is written row by row, and this says in which form"
)]
pub(crate) struct SqlAnswer {
    /// The columns.
    columns: Vec<SqlColumn>,
    /// The rows, each with a value for every column.
    #[schema(value_type = Vec<Vec<Object>>)]
    rows: (),
    /// How many rows there are.
    row_count: u64,
    /// Whether there are more than an answer in JSON has: take a stream, or ask for less.
    truncated: bool,
}

/// A column of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SqlColumn {
    /// Its name.
    name: String,
    /// What its values are, as attributes have types. An int beyond 64 bits is a string.
    #[serde(rename = "type")]
    kind: &'static str,
}

/// Ask a question in SQL over the lake.
#[utoipa::path(post, path = "/v1/sql", tag = "analytics", request_body = SqlBody,
    params(("consistency" = Option<String>, Query, description = "analytics"),
        ("X-Consistency-Token" = Option<String>, Header, description = "What the answer has to hold at least: the token of an earlier answer")),
    responses((status = 200, description = "The rows; in CSV or an Arrow stream where Accept asks for one", content(
        (SqlAnswer = "application/json"), (String = "text/csv"), (Vec<u8> = "application/vnd.apache.arrow.stream")))))]
pub(crate) async fn query(
    State(state): State<Arc<AppState>>,
    State(streams): State<Arc<Streams>>,
    Caller(scope): Caller,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let form = form_of(&headers)?;
    if form == Form::Ndjson {
        return Err(Problem::new(
            Code::NotAcceptable,
            "the answer is application/json, text/csv or application/vnd.apache.arrow.stream",
        ));
    }
    let is_known = |text: &str| (text == ConsistencyLevel::Analytics.as_str()).then_some(());
    params.take_as("consistency", "analytics", is_known)?;
    params.finish()?;
    let token = token_of(&headers, scope.tenant(), &state)?;
    let body = read_json(&headers, body, SMALL_BYTES_MAX).await?;
    let asked = SqlBody::read(&body)?;
    let lake = state.lake.as_ref();
    let lake = lake.ok_or_else(|| Problem::new(Code::NotFound, "this server has no lake"))?;
    let permit = streams.open(scope.tenant())?;
    let options = ReadOptions {
        level: ConsistencyLevel::Analytics,
        max_lag: asked.max_lag,
        ..ReadOptions::new(token, Timestamp::now())
    };
    let (snapshot, freshness) = fresh(lake, &options).await?;
    let headers = read_headers(&freshness, scope.tenant(), &state);
    let question = Question {
        shown: shown_from(&state, &scope).await?,
        ..asked.question
    };
    let answer = lake.ask(&scope, &snapshot, question).await?;
    match form.file() {
        None => Ok((headers, json(answer).await?).into_response()),
        Some(format) => stream((form, format), answer, permit, headers).await,
    }
}

/// From when on a question is shown history.
pub(crate) async fn shown_from(
    state: &AppState,
    scope: &TenantScope,
) -> Result<ShownFrom, Problem> {
    let catalogue = state.catalogues.refresh(scope).await?;
    let shown = Shown::new(&catalogue, Timestamp::now());
    Ok(ShownFrom {
        of_tenant: shown.of_tenant(),
        own: shown.own().clone(),
    })
}

/// A state of the lake that is as fresh as was asked for.
pub(crate) async fn fresh(
    lake: &LakeReader,
    options: &ReadOptions,
) -> Result<(LakeSnapshot, Freshness), Problem> {
    let snapshot = lake.wait(options.token, TOKEN_MAX).await?;
    match snapshot.cover {
        Cover::Covered => {}
        Cover::Behind => return Err(ReadError::TokenNotReached { source: None }.into()),
        Cover::Stale => return Err(ReadError::StaleTimeline.into()),
        Cover::Foreign => return Err(ReadError::InvalidToken.into()),
    }
    let exceeded = || Problem::from(ReadError::LagExceeded { source: None });
    let lag = snapshot.lag.ok_or_else(exceeded)?;
    let data_timestamp = snapshot.complete_until.ok_or_else(exceeded)?;
    if options.lag_max().is_some_and(|max| lag > max) {
        return Err(exceeded());
    }
    let freshness = Freshness {
        source: DataSource::Lake,
        lag: Lag::Measured(lag),
        data_timestamp,
        level: options.level,
        cache_hit: false,
        position: snapshot.position,
    };
    Ok((snapshot, freshness))
}

/// The whole answer, as far as one may be.
async fn json(mut answer: Answer) -> Result<Response, Problem> {
    let columns: Vec<SqlColumn> = answer.columns.iter().map(SqlColumn::of).collect();
    let columns = serde_json::to_string(&columns).map_err(Problem::internal)?;
    let mut out = format!("{{\"columns\":{columns},\"rows\":[");
    let (mut count, mut is_cut) = (0, false);
    'rows: while let Some(rows) = answer.next().await? {
        for row in &rows {
            if count == ROWS_MAX || out.len() > BYTES_MAX {
                is_cut = true;
                break 'rows;
            }
            if count > 0 {
                out.push(',');
            }
            write_row(row, &mut out).map_err(Problem::internal)?;
            count += 1;
        }
    }
    out.push_str(&format!("],\"row_count\":{count},\"truncated\":{is_cut}}}"));
    let kind = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, kind)], out).into_response())
}

fn write_row(row: &[Cell], out: &mut String) -> Result<(), serde_json::Error> {
    out.push('[');
    for (place, cell) in row.iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        match cell {
            Cell::Absent => out.push_str("null"),
            Cell::Value(value) => out.push_str(&serde_json::to_string(value)?),
            // No number of 64 bits, which is what programs read numbers as.
            Cell::Digits(digits) => out.push_str(&serde_json::to_string(digits)?),
        }
    }
    out.push(']');
    Ok(())
}

impl SqlColumn {
    fn of(column: &Column) -> SqlColumn {
        let kind = match column.kind {
            ColumnKind::Of(kind) => kind,
            ColumnKind::WideInt => AttributeType::Int,
        };
        SqlColumn {
            name: column.name.clone(),
            kind: kind.as_str(),
        }
    }
}

/// An answer on its way to a client.
struct Sending {
    answer: Answer,
    file: File,
    is_at_end: bool,
    _permit: StreamPermit,
}

/// A stream that cannot go on: the connection is closed without its last chunk.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("computing the rows of a stream")]
    Query(#[from] QueryError),
    #[error("writing a stream")]
    Write(#[from] ExportError),
}

/// Streams the answer. What is wrong with the question shows before the answer's head is sent, and so does what stops it before
/// its first rows.
async fn stream(
    (form, format): (Form, Format),
    answer: Answer,
    permit: StreamPermit,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let file = File::begin(format, answer.columns.clone()).map_err(Problem::internal)?;
    let mut sending = Sending {
        answer,
        file,
        is_at_end: false,
        _permit: permit,
    };
    let first = match sending.next().await {
        Ok(first) => first,
        Err(Broken::Query(error)) => return Err(error.into()),
        Err(Broken::Write(error)) => return Err(Problem::internal(error)),
    };
    let pieces = try_unfold((sending, first), |(mut sending, piece)| async move {
        let Some(piece) = piece else {
            return Ok(None);
        };
        let next = sending.next().await;
        if let Err(error) = &next {
            let cause = chain(error);
            tracing::warn!(cause, "a stream of a query was cut off");
        }
        Ok::<_, Broken>(Some((Bytes::from(piece), (sending, next?))))
    });
    let mut response = (headers, Body::from_stream(pieces)).into_response();
    let kind = HeaderValue::from_static(form.media_type());
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

impl Sending {
    /// The next bytes; none after the end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        if self.is_at_end {
            return Ok(None);
        }
        match self.answer.next().await? {
            Some(rows) => self.file.write(&rows)?,
            None => {
                self.file.finish()?;
                self.is_at_end = true;
            }
        }
        Ok(Some(self.file.take()))
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Problem {
        match error {
            QueryError::Refused { detail } | QueryError::Computation { detail } => {
                Problem::invalid("query", detail)
            }
            QueryError::Parameter { number, detail } => {
                Problem::invalid("params", format!("${number}: {detail}"))
            }
            error @ QueryError::Limit { .. } => {
                let detail = error.to_string();
                let hint = "read a shorter range, fewer attributes, or group by less";
                Problem {
                    hint: Some(hint.to_owned()),
                    ..Problem::new(Code::QueryLimit, detail)
                }
            }
            error @ QueryError::Empty => Problem::new(Code::LagExceeded, error.to_string()),
            error @ QueryError::Superseded { .. } => {
                Problem::new(Code::Overloaded, error.to_string()).because(error)
            }
            QueryError::Postgres(error) => error.into(),
            error @ (QueryError::Internal { .. } | QueryError::Damaged { .. }) => {
                Problem::internal(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sheaf_model::Value;

    #[test]
    fn a_question_is_read_with_every_digit_of_its_parameters() {
        let body = br#"{"query":"SELECT $1","params":["2013-01-01",9007199254740993,1.50,true,null],"max_lag":"1m"}"#;
        let read = SqlBody::read(body).expect("a question");
        let number = |digits: &str| Param::Number(digits.to_owned());
        assert_eq!(
            read.question.params,
            [
                Param::Text("2013-01-01".to_owned()),
                number("9007199254740993"),
                number("1.50"),
                Param::Bool(true),
                Param::Null,
            ]
        );
        assert_eq!(read.max_lag, "1m".parse().ok());
        for (body, code) in [
            (&br#"{}"#[..], Code::InvalidParameter),
            (br#"{"query":1}"#, Code::InvalidParameter),
            (
                br#"{"query":"SELECT 1","params":[[1]]}"#,
                Code::InvalidParameter,
            ),
            (
                br#"{"query":"SELECT 1","params":{}}"#,
                Code::InvalidParameter,
            ),
            (
                br#"{"query":"SELECT 1","max_lag":"soon"}"#,
                Code::InvalidParameter,
            ),
            (br#"{"query":"SELECT 1","limit":1}"#, Code::UnknownParameter),
        ] {
            assert_eq!(SqlBody::read(body).expect_err("refused").code, code);
        }
    }

    #[test]
    fn who_asked_a_state_that_is_gone_is_told_to_ask_again() {
        let source = "the file is not there".into();
        let problem = Problem::from(QueryError::Superseded { source });
        assert_eq!(problem.code.status(), 503);
        assert!(problem.retry_after_s.is_some());
        assert!(problem.detail.contains("ask again"), "{}", problem.detail);
        assert!(!problem.detail.contains("file"), "{}", problem.detail);
    }

    #[test]
    fn a_row_has_numbers_where_they_fit_and_every_digit_where_not() {
        let mut out = String::new();
        let row = [
            Cell::Absent,
            Cell::Value(Value::Int(i64::MAX)),
            Cell::Value(Value::Decimal("12.50".parse().expect("a number"))),
            Cell::text("=\"é\n"),
            Cell::Digits("9223372036854775808".to_owned()),
        ];
        write_row(&row, &mut out).expect("JSON");
        assert_eq!(
            out,
            r#"[null,9223372036854775807,"12.50","=\"é\n","9223372036854775808"]"#
        );
    }
}
