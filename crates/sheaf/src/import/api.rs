//! What an import asks of the server, and the members of its answers that it uses.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use hyper::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sheaf_model::AttributeType;

use super::Watcher;
use super::row::Refused;
use crate::http_client::{Answer, Call, HttpClient};

/// The answer to a batch shows this many refusals, and the rest is asked for.
const REFUSALS_SHOWN: usize = 100;
const PAGE_ITEMS: usize = 1000;

/// One server, and whom to tell why it is waited for.
pub(crate) struct Api<'a> {
    client: HttpClient,
    watcher: &'a dyn Watcher,
}

/// The answer to a batch.
#[derive(Deserialize)]
pub(crate) struct IngestAnswer {
    pub(crate) batch_id: String,
    pub(crate) events: u64,
    pub(crate) values: u64,
    pub(crate) accepted: u64,
    pub(crate) duplicates: u64,
    pub(crate) merged: u64,
    pub(crate) corrected: u64,
    pub(crate) refused: u64,
    /// At most a hundred; see [`Api::rejected`].
    rejected: Vec<Rejected>,
}

/// A refused value or event of a batch.
#[derive(Deserialize)]
pub(crate) struct Rejected {
    index: usize,
    field: Option<String>,
    code: String,
    reason: String,
}

impl Rejected {
    /// The refusal at its line of the file, where these are the lines of the batch's events.
    pub(crate) fn at(self, lines: &[u64]) -> Result<Refused> {
        let line = *lines
            .get(self.index)
            .context("the server refused an event that was not sent")?;
        Ok(Refused {
            line,
            field: self.field,
            code: self.code,
            reason: self.reason,
        })
    }
}

#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
    next_cursor: Option<String>,
}

impl<'a> Api<'a> {
    pub(crate) fn new(client: HttpClient, watcher: &'a dyn Watcher) -> Api<'a> {
        Api { client, watcher }
    }

    /// Stores a batch. One of which nothing could be stored is answered like any other, with another status.
    pub(crate) async fn ingest(&mut self, key: String, body: Vec<u8>) -> Result<IngestAnswer> {
        let mut call = Call::post("/v1/ingest", "application/x-ndjson", body);
        call.headers.push(("idempotency-key", key));
        let answer = self.call(&call).await?;
        let counts = match answer.status {
            StatusCode::OK => return answer.json(),
            StatusCode::UNPROCESSABLE_ENTITY => answer.json().ok(),
            _ => None,
        };
        counts.with_context(|| format!("the server refused a batch: {}", answer.refusal()))
    }

    /// All refusals of a batch in order of event: what its answer shows, or the server's own list if that is longer.
    pub(crate) async fn rejected(&mut self, answer: &mut IngestAnswer) -> Result<Vec<Rejected>> {
        let shown = std::mem::take(&mut answer.rejected);
        if shown.len() < REFUSALS_SHOWN {
            return Ok(shown);
        }
        let of_batch = format!("batch_id={}&", answer.batch_id);
        let mut all: Vec<Rejected> = self.pages("/v1/rejections", &of_batch).await?;
        all.sort_by(|a, b| (a.index, &a.field).cmp(&(b.index, &b.field)));
        Ok(all)
    }

    /// The types of the tenant's attributes.
    pub(crate) async fn catalogue(&mut self) -> Result<HashMap<String, AttributeType>> {
        #[derive(Deserialize)]
        struct Attribute {
            name: String,
            r#type: String,
        }
        let attributes: Vec<Attribute> = self.pages("/v1/attributes", "").await?;
        let typed = attributes.into_iter().map(|attribute| {
            let kind = AttributeType::parse(&attribute.r#type);
            let kind = kind.with_context(|| format!("there is no type {:?}", attribute.r#type))?;
            Ok((attribute.name, kind))
        });
        typed.collect()
    }

    /// Whether the server has a batch that it once answered; not so if its database is another one since.
    pub(crate) async fn has_batch(&mut self, batch_id: &str) -> Result<bool> {
        let call = Call::get(format!("/v1/ingest/batches/{batch_id}"));
        let answer = self.call(&call).await?;
        match answer.status {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => bail!("the server does not tell of a batch: {}", answer.refusal()),
        }
    }

    /// All items of a list; `parameters` ends with `&` if there are any.
    async fn pages<T: DeserializeOwned>(&mut self, path: &str, parameters: &str) -> Result<Vec<T>> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let call = Call::get(format!("{path}?{parameters}limit={PAGE_ITEMS}{cursor}"));
            let answer = self.call(&call).await?;
            ensure!(
                answer.status == StatusCode::OK,
                "the server refused {path}: {}",
                answer.refusal()
            );
            let page: Page<T> = answer.json()?;
            items.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }

    async fn call(&mut self, call: &Call) -> Result<Answer> {
        self.client.call(call, |why| self.watcher.note(why)).await
    }
}
