//! The server that is asked, as any client asks it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::answers::Answer;
use super::filled::Filled;
use crate::bench::connection::Connection;

const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) struct Asked(Connection);

impl Asked {
    pub(super) async fn open(filled: &Filled) -> Result<Asked> {
        let mut asked = Asked(filled.tenant.connect().await?);
        let begun = Instant::now();
        // How old the lake is, a server knows once it has looked at the log a few times.
        loop {
            match asked.ask("SELECT count(*) FROM tenants").await {
                Ok(_) => return Ok(asked),
                Err(error) if begun.elapsed() > READY_WITHIN => return Err(error),
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Seconds until the last byte of the answer was there, and the answer.
    pub(super) async fn ask(&mut self, query: &str) -> Result<(f64, Answer)> {
        let body = json!({ "query": query }).to_string();
        let begun = Instant::now();
        let answer = self
            .0
            .call(
                Method::POST,
                "/v1/sql",
                "application/json",
                Bytes::from(body),
            )
            .await
            .with_context(|| format!("asking: {query}"))?;
        let seconds = begun.elapsed().as_secs_f64();
        let answer: Value = serde_json::from_slice(&answer)?;
        ensure!(
            answer["truncated"] == false,
            "the answer was cut off: {query}"
        );
        Ok((seconds, Answer::read(&answer["rows"])?))
    }

    /// Seconds until the last byte of all pages of a history was there, and how many items they have. All of it has to be the lake's.
    pub(super) async fn history(&mut self, path: &str) -> Result<(f64, u64)> {
        let begun = Instant::now();
        let (mut count, mut page) = (0, path.to_owned());
        loop {
            let answer = self
                .0
                .answer(Method::GET, &page, "application/json", Bytes::new())
                .await
                .with_context(|| format!("asking for {page}"))?;
            let source = answer.headers().get("X-Data-Source").cloned();
            let body: Value = serde_json::from_slice(answer.body())?;
            let is_from_lake = source.is_some_and(|source| source == "lake");
            ensure!(is_from_lake, "{page} is not answered by the lake: {body}");
            let items = body["items"].as_array().context("a page without items")?;
            count += u64::try_from(items.len())?;
            match body["next_cursor"].as_str() {
                Some(next) => page = format!("{path}&cursor={next}"),
                None => return Ok((begun.elapsed().as_secs_f64(), count)),
            }
        }
    }
}
