//! DuckDB, as a process beside the benchmark: it is measured, and no part of what is shipped.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::answers::Answer;
use super::filled::Filled;

const SCRIPT: &str = include_str!("duckdb.py");
/// Where `scripts/bootstrap.sh --test` installs what tests need.
const OF_TESTS: &str = "target/venv/bin/python";

const INSTALL: &str = "it is the baseline; scripts/bootstrap.sh --test installs it, --python names a Python that has it";

pub(super) struct DuckDb {
    child: Child,
    asked: ChildStdin,
    answered: Lines<BufReader<ChildStdout>>,
}

impl DuckDb {
    /// Over these files, with as many threads as the server computes with.
    pub(super) async fn start(named: Option<&Path>, filled: &Filled) -> Result<DuckDb> {
        let python = named.unwrap_or(Path::new(OF_TESTS));
        let mut child = Command::new(python)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}, for DuckDB: {INSTALL}", python.display()))?;
        let asked = child.stdin.take().context("a pipe was asked for")?;
        let answered = child.stdout.take().context("a pipe was asked for")?;
        let mut duckdb = DuckDb {
            child,
            asked,
            answered: BufReader::new(answered).lines(),
        };
        let threads = std::thread::available_parallelism()?.get();
        let (files, tenant) = (&filled.files, filled.tenant_number());
        let begin = json!({ "files": files, "tenant": tenant, "threads": threads });
        let begun = duckdb.exchange(&begin).await;
        let begun = begun
            .with_context(|| format!("DuckDB does not run with {}: {INSTALL}", python.display()))?;
        let version = begun["version"].as_str().context("a version")?;
        crate::exit::say(&format!(
            "analytics: DuckDB {version}, {threads} threads, {} files",
            files.len()
        ))?;
        Ok(duckdb)
    }

    /// Seconds until the answer was there, and the answer.
    pub(super) async fn ask(&mut self, sql: &str) -> Result<(f64, Answer)> {
        let answer = self.exchange(&json!({ "sql": sql })).await;
        let answer = answer.with_context(|| format!("asking DuckDB: {sql}"))?;
        let seconds = answer["seconds"].as_f64().context("a time")?;
        Ok((seconds, Answer::read(&answer["rows"])?))
    }

    async fn exchange(&mut self, asked: &Value) -> Result<Value> {
        let line = format!("{asked}\n");
        self.asked.write_all(line.as_bytes()).await?;
        match self.answered.next_line().await? {
            Some(line) => Ok(serde_json::from_str(&line)?),
            None => bail!("it ended"),
        }
    }

    pub(super) async fn stop(mut self) -> Result<()> {
        drop(self.asked);
        self.child.wait().await.context("ending DuckDB")?;
        Ok(())
    }
}
