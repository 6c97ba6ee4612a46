//! Requests of the Iceberg REST protocol, one at a time, and what their answers mean. What is asked of a table is not decided here.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;
use url::Url;

use iceberg::spec::TableMetadata;

use super::{RestAccess, RestOptions};
use crate::error::{Cause, LakeError};

/// A request takes so long at most. A catalogue that reads and writes a description in a store far away takes a second or two.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// An answer has so many bytes at most: a description names 300 states, and is below one.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What is repeated of an error's text.
const MESSAGE_CHARS: usize = 500;
/// A token is asked for anew so long before its end.
const TOKEN_MARGIN: Duration = Duration::from_secs(60);
/// What parts of a namespace are joined by in a path.
const PARTS: &str = "\u{1f}";

/// What a catalogue answered instead of what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RestFault {
    /// Nothing, or not in time.
    #[error("there was no answer")]
    Unanswered(#[source] Cause),
    /// An error.
    #[error("it answered {status}: {message}")]
    Answered {
        /// The status.
        status: u16,
        /// What it says of it.
        message: String,
    },
    /// Something that cannot be read.
    #[error("its answer cannot be read")]
    Unreadable(#[source] Cause),
    /// The settings have no address of a catalogue.
    #[error("the address cannot be used")]
    Address(#[source] Cause),
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// To nothing: there is no such thing.
    Missing,
    /// To nothing: what it requires is not so.
    Conflict,
    /// To nothing: it was refused.
    Refused,
    /// To what it asked for, or to nothing.
    Unknown,
}

impl RestFault {
    pub(super) fn came(&self) -> Came {
        match self {
            RestFault::Unanswered(_) | RestFault::Unreadable(_) => Came::Unknown,
            RestFault::Address(_) => Came::Refused,
            RestFault::Answered { status, .. } => match status {
                404 => Came::Missing,
                409 => Came::Conflict,
                408 | 425 | 429 | 500..=599 => Came::Unknown,
                _ => Came::Refused,
            },
        }
    }
}

/// A table as the catalogue answers it.
#[derive(Debug, Deserialize)]
pub(super) struct AnsweredTable {
    #[serde(rename = "metadata-location")]
    pub(super) location: String,
    pub(super) metadata: TableMetadata,
}

/// What the catalogue says of itself, of which only this is used.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    defaults: Prefix,
    #[serde(default)]
    overrides: Prefix,
}

#[derive(Debug, Default, Deserialize)]
struct Prefix {
    prefix: Option<String>,
}

#[derive(Debug, Deserialize)]
struct GivenToken {
    access_token: String,
    expires_in: Option<u64>,
}

/// A token, and when it ends, where that is known.
#[derive(Debug, Clone)]
struct Token {
    text: String,
    until: Option<Instant>,
}

/// Asks one catalogue.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    warehouse: Option<String>,
    namespace: Vec<String>,
    access: RestAccess,
    prefix: OnceCell<Option<String>>,
    token: Mutex<Option<Token>>,
}

type Asked<T> = Result<T, RestFault>;

impl Client {
    pub(super) fn new(options: &RestOptions) -> Asked<Client> {
        let address = |cause: Cause| RestFault::Address(cause);
        let base = Url::parse(options.uri.trim_end_matches('/'));
        let base = base.map_err(|error| address(error.into()))?;
        if base.cannot_be_a_base() || !matches!(base.scheme(), "http" | "https") {
            return Err(address("neither http nor https".into()));
        }
        let http = reqwest::Client::builder()
            .timeout(REQUEST_MAX)
            // A redirected request would take the token elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| address(error.into()))?;
        Ok(Client {
            http,
            base,
            warehouse: options.warehouse.clone(),
            namespace: options.namespace.split('.').map(str::to_owned).collect(),
            access: options.access.clone(),
            prefix: OnceCell::new(),
            token: Mutex::new(None),
        })
    }

    /// Makes the namespace where there is none.
    pub(super) async fn require_namespace(&self) -> Result<(), LakeError> {
        const STEP: &str = "making the namespace";
        let namespace = self.namespace.join(PARTS);
        match self
            .ask(Method::GET, &["namespaces", &namespace], None)
            .await
        {
            Err(fault) if fault.came() == Came::Missing => {}
            there => return there.map(|_| ()).map_err(failed(STEP)),
        }
        let body = json!({"namespace": self.namespace, "properties": {}});
        match self.ask(Method::POST, &["namespaces"], Some(&body)).await {
            // Somebody else was faster.
            Err(fault) if fault.came() == Came::Conflict => Ok(()),
            made => made.map(|_| ()).map_err(failed(STEP)),
        }
    }

    /// A table as it is; none where there is none.
    pub(super) async fn load(&self, table: &str) -> Result<Option<AnsweredTable>, LakeError> {
        match self.table(Method::GET, &[table], None).await {
            Err(fault) if fault.came() == Came::Missing => Ok(None),
            loaded => loaded.map(Some).map_err(failed("loading a table")),
        }
    }

    /// Makes a table.
    pub(super) async fn create(&self, body: &Value) -> Asked<AnsweredTable> {
        self.table(Method::POST, &[], Some(body)).await
    }

    /// Changes a table, if what is required of it is so.
    pub(super) async fn change(&self, table: &str, body: &Value) -> Asked<AnsweredTable> {
        self.table(Method::POST, &[table], Some(body)).await
    }

    async fn table(
        &self,
        method: Method,
        table: &[&str],
        body: Option<&Value>,
    ) -> Asked<AnsweredTable> {
        let namespace = self.namespace.join(PARTS);
        let mut path = vec!["namespaces", namespace.as_str(), "tables"];
        path.extend(table);
        let answer = self.ask(method, &path, body).await?;
        serde_json::from_slice(&answer).map_err(|error| RestFault::Unreadable(error.into()))
    }

    /// Asks for something below the prefix.
    async fn ask(&self, method: Method, path: &[&str], body: Option<&Value>) -> Asked<Vec<u8>> {
        let prefix = self.prefix.get_or_try_init(|| self.read_prefix()).await?;
        let below: Vec<&str> = prefix.as_deref().into_iter().collect();
        self.ask_with_token(method, &[&below, path].concat(), body)
            .await
    }

    async fn read_prefix(&self) -> Asked<Option<String>> {
        let answer = self.ask_with_token(Method::GET, &["config"], None).await?;
        let config: Config =
            serde_json::from_slice(&answer).map_err(|error| RestFault::Unreadable(error.into()))?;
        Ok(config.overrides.prefix.or(config.defaults.prefix))
    }

    /// A token that is not taken any more is asked for anew, once: what is refused for it came to nothing.
    async fn ask_with_token(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Value>,
    ) -> Asked<Vec<u8>> {
        let token = self.token().await?;
        let answered = self.ask_once(&method, path, body, token.as_deref()).await;
        let is_refused = |fault: &RestFault| {
            matches!(
                fault,
                RestFault::Answered {
                    status: 401 | 419,
                    ..
                }
            )
        };
        match answered {
            Err(fault) if is_refused(&fault) && self.forget_token().await => {
                let token = self.token().await?;
                self.ask_once(&method, path, body, token.as_deref()).await
            }
            answered => answered,
        }
    }

    async fn ask_once(
        &self,
        method: &Method,
        path: &[&str],
        body: Option<&Value>,
        token: Option<&str>,
    ) -> Asked<Vec<u8>> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // A prefix may have several.
            let parts = path.iter().flat_map(|part| part.split('/'));
            segments.pop_if_empty().push("v1").extend(parts);
        }
        if let (["config"], Some(warehouse)) = (path, &self.warehouse) {
            url.query_pairs_mut().append_pair("warehouse", warehouse);
        }
        let mut request = self.http.request(method.clone(), url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        answer_of(request).await
    }

    /// What requests are sent with. One token is asked for at a time.
    async fn token(&self) -> Asked<Option<String>> {
        let (id, secret, scope, uri) = match &self.access {
            RestAccess::Open => return Ok(None),
            RestAccess::Token(token) => return Ok(Some(token.clone())),
            RestAccess::Client {
                id,
                secret,
                scope,
                token_uri,
            } => (id, secret, scope, token_uri),
        };
        let mut known = self.token.lock().await;
        let is_good = |token: &&Token| token.until.is_none_or(|until| until > Instant::now());
        if let Some(token) = known.as_ref().filter(is_good) {
            return Ok(Some(token.text.clone()));
        }
        let own = || {
            format!(
                "{}/v1/oauth/tokens",
                self.base.as_str().trim_end_matches('/')
            )
        };
        let uri = uri.clone().unwrap_or_else(own);
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", id)
            .append_pair("client_secret", secret)
            .append_pair("scope", scope)
            .finish();
        let request = self.http.post(uri).body(form);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let given: GivenToken = serde_json::from_slice(&answer_of(request).await?)
            .map_err(|error| RestFault::Unreadable(error.into()))?;
        let lasts = given.expires_in.map(Duration::from_secs);
        let token = Token {
            text: given.access_token,
            until: lasts.map(|lasts| Instant::now() + lasts.saturating_sub(TOKEN_MARGIN)),
        };
        *known = Some(token.clone());
        Ok(Some(token.text))
    }

    /// Whether another can be had.
    async fn forget_token(&self) -> bool {
        self.token.lock().await.take().is_some()
    }
}

pub(super) fn failed(step: &'static str) -> impl FnOnce(RestFault) -> LakeError {
    move |source| LakeError::Catalog { step, source }
}

async fn answer_of(request: reqwest::RequestBuilder) -> Asked<Vec<u8>> {
    let unanswered = |error: reqwest::Error| RestFault::Unanswered(error.without_url().into());
    let mut response = request.send().await.map_err(unanswered)?;
    let status = response.status();
    let mut bytes = Vec::new();
    while let Some(more) = response.chunk().await.map_err(unanswered)? {
        if bytes.len() + more.len() > ANSWER_BYTES_MAX {
            return Err(RestFault::Unreadable("it is too long".into()));
        }
        bytes.extend_from_slice(&more);
    }
    if status.is_success() {
        return Ok(bytes);
    }
    Err(RestFault::Answered {
        status: status.as_u16(),
        message: message_of(status, &bytes),
    })
}

/// What an error says of itself, in the protocol's form or in any.
fn message_of(status: StatusCode, bytes: &[u8]) -> String {
    let said: Option<Value> = serde_json::from_slice(bytes).ok();
    let said = said
        .as_ref()
        .and_then(|said| said.pointer("/error/message")?.as_str());
    let text = said.or(status.canonical_reason()).unwrap_or_default();
    text.chars().take(MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_that_says_so_means_that_nothing_was_done() {
        for (status, wanted) in [
            (404, Came::Missing),
            (409, Came::Conflict),
            (400, Came::Refused),
            (401, Came::Refused),
            (403, Came::Refused),
            (422, Came::Refused),
            (408, Came::Unknown),
            (429, Came::Unknown),
            (500, Came::Unknown),
            (502, Came::Unknown),
            (503, Came::Unknown),
            (504, Came::Unknown),
        ] {
            let message = String::new();
            let fault = RestFault::Answered { status, message };
            assert_eq!(fault.came(), wanted, "{status}");
        }
        assert_eq!(RestFault::Unanswered("cut".into()).came(), Came::Unknown);
        assert_eq!(RestFault::Unreadable("half".into()).came(), Came::Unknown);
    }

    #[test]
    fn an_error_says_what_the_catalogue_says_of_it() {
        let status = StatusCode::CONFLICT;
        let said = br#"{"error":{"message":"branch main has changed","type":"CommitFailedException","code":409}}"#;
        assert_eq!(message_of(status, said), "branch main has changed");
        assert_eq!(message_of(status, b"<html>"), "Conflict");
    }
}
