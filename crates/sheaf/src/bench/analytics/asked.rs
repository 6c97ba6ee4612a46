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
}
