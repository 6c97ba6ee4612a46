//! `sheaf import`: a file as a sequence of batches that are the same at every run, each sent under a key of its own
//! until it is answered, so that a run may be killed anywhere and the next one goes on.
//!
//! The server decides what a value is worth; what is decided here is only how a file's text becomes JSON.

mod api;
mod columnar;
mod delimited;
mod ndjson;
mod plan;
mod progress;
mod row;
mod table;
mod window;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::http_client::HttpClient;
use api::{Api, IngestAnswer};
use plan::Plan;
pub(crate) use plan::Roles;
pub(crate) use progress::Totals;
use progress::{Progress, ProgressFile, RejectedList, RunId, fingerprint};
use row::{Position, Refused, Rows};

/// A body is in memory here and on the server; the server's limit is 64 MiB by default. A batch ends with the row
/// that reaches this.
const BODY_BYTES: usize = 8 << 20;

/// What to import and where to.
pub(crate) struct ImportOptions {
    pub(crate) file: PathBuf,
    pub(crate) format: Format,
    /// Absent for NDJSON whose lines are whole events.
    pub(crate) roles: Option<Roles>,
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) batch_rows: usize,
    pub(crate) rejected: PathBuf,
    pub(crate) state_dir: PathBuf,
}

/// How the file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// Comma-separated, with a header line.
    Csv,
    /// One JSON object a line.
    Ndjson,
    /// Apache Parquet.
    Parquet,
}

/// Who is told how it goes.
pub(crate) trait Watcher {
    /// The file is read this far, of so much.
    fn advanced(&self, done: u64, whole: u64, totals: &Totals);
    /// Something that a person may want to know.
    fn note(&self, text: &str);
}

/// Imports what has not been imported yet. The totals are those of all runs together.
pub(crate) async fn run(options: ImportOptions, watcher: &dyn Watcher) -> Result<Totals> {
    let content = fingerprint(&options.file)?;
    let progress_file = ProgressFile::open(&options.state_dir, &import_id(&options, &content)?)?;
    let client = HttpClient::new(&options.url, &options.key)?;
    let mut api = Api::new(client, watcher);
    let (mut progress, mut list) = resume(&options, &progress_file, &mut api, watcher).await?;
    let mut rows = open(&options, &progress)?;
    loop {
        let batch = Batch::collect(rows.as_mut(), progress.batch_rows)?;
        if batch.rows == 0 {
            break;
        }
        batch.send(&mut api, &mut progress, &mut list).await?;
        progress.batches += 1;
        progress.position = rows.position();
        progress_file.write(&progress)?;
        let (done, whole) = rows.progress();
        watcher.advanced(done, whole, &progress.totals);
    }
    progress_file.remove()?;
    if progress.totals.refusals > 0 {
        let refusals = progress.totals.refusals;
        watcher.note(&format!(
            "{refusals} refused, listed in {}",
            list.path().display()
        ));
    }
    Ok(progress.totals)
}

/// The name of this import: the same for the same content, read in the same way, for the same holder of a key.
fn import_id(options: &ImportOptions, content: &[u8; 32]) -> Result<String> {
    let told = serde_json::to_vec(&(&options.url, &options.key, options.format, &options.roles))?;
    let digest: [u8; 32] = Sha256::new()
        .chain_update(content)
        .chain_update(told)
        .finalize()
        .into();
    Ok(hex(&digest[..16]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What an earlier run left, if the server still knows of it; else a beginning. To begin again is always right, only
/// slower: under the run's id each batch that is the same finds the answer of its first time.
async fn resume(
    options: &ImportOptions,
    progress_file: &ProgressFile,
    api: &mut Api<'_>,
    watcher: &dyn Watcher,
) -> Result<(Progress, RejectedList)> {
    let rejected = options.rejected.clone();
    let mut run_id = None;
    if let Some(progress) = progress_file.read()? {
        let known = match &progress.last_batch_id {
            Some(batch_id) => api.has_batch(batch_id).await?,
            None => true,
        };
        if known && let Some(list) = RejectedList::open(rejected.clone(), progress.rejected_bytes)?
        {
            watcher.note(&format!("going on at line {}", progress.position.line));
            return Ok((progress, list));
        }
        watcher.note("an earlier run cannot be continued; starting again");
        run_id = Some(progress.run_id);
    }
    let plan = match (options.format, &options.roles) {
        (Format::Csv, Some(roles)) => {
            let catalogue = api.catalogue().await?;
            Some(Plan::make(&options.file, roles, &catalogue)?)
        }
        (Format::Csv, None) => bail!("a CSV file needs --type and --id"),
        (Format::Ndjson | Format::Parquet, _) => None,
    };
    let beginning = Position { offset: 0, line: 1 };
    let progress = Progress {
        run_id: run_id.unwrap_or_else(RunId::random),
        batch_rows: options.batch_rows,
        position: plan.as_ref().map_or(beginning, |plan| plan.first),
        plan,
        batches: 0,
        last_batch_id: None,
        rejected_bytes: 0,
        totals: Totals::default(),
    };
    let list = RejectedList::open(rejected, 0)?.context("an empty list can always be opened")?;
    progress_file.write(&progress)?;
    Ok((progress, list))
}

fn open(options: &ImportOptions, progress: &Progress) -> Result<Box<dyn Rows>> {
    let (path, position) = (options.file.as_path(), progress.position);
    Ok(
        match (options.format, options.roles.clone(), progress.plan.clone()) {
            (Format::Csv, Some(roles), Some(plan)) => {
                Box::new(table::Table::open(path, roles, plan, position)?)
            }
            (Format::Ndjson, roles, _) => Box::new(ndjson::Ndjson::open(path, roles, position)?),
            (Format::Parquet, Some(roles), _) => {
                Box::new(columnar::Columnar::open(path, roles, position)?)
            }
            (Format::Csv | Format::Parquet, _, _) => bail!("this format needs --type and --id"),
        },
    )
}

/// The rows of one request.
#[derive(Default)]
struct Batch {
    rows: usize,
    body: Vec<u8>,
    /// The line of each event of the body.
    lines: Vec<u64>,
    refusals: Vec<Refused>,
    /// Rows without an event.
    unsent: u64,
}

impl Batch {
    fn collect(rows: &mut dyn Rows, rows_max: usize) -> Result<Batch> {
        let mut batch = Batch::default();
        while batch.rows < rows_max && batch.body.len() < BODY_BYTES {
            let Some(row) = rows.next_row()? else { break };
            batch.rows += 1;
            match row.event {
                Some(event) => {
                    batch.lines.push(row.line);
                    batch.body.extend_from_slice(event.as_bytes());
                    batch.body.push(b'\n');
                }
                None => batch.unsent += 1,
            }
            batch.refusals.extend(row.refusals);
        }
        Ok(batch)
    }

    /// Sends the events, and writes the refusals down before the progress that says so.
    async fn send(
        self,
        api: &mut Api<'_>,
        progress: &mut Progress,
        list: &mut RejectedList,
    ) -> Result<()> {
        let mut refusals = self.refusals;
        let totals = &mut progress.totals;
        if !self.lines.is_empty() {
            let key = idempotency_key(&progress.run_id, progress.batches, &self.body);
            let mut answer = api.ingest(key, self.body).await?;
            totals.add(&answer);
            for rejected in api.rejected(&mut answer).await? {
                refusals.push(rejected.at(&self.lines)?);
            }
            progress.last_batch_id = Some(answer.batch_id);
        }
        refusals.sort_by_key(|refusal| refusal.line);
        totals.events += self.unsent;
        totals.refused += self.unsent;
        totals.refusals += refusals.len() as u64;
        progress.rejected_bytes = list.append(&refusals)?;
        Ok(())
    }
}

/// The key of a batch follows from what is sent, so that it can never be one of another body, and from the run: a
/// completed import that is run again is to store what is missing, and not to hear its first answers again.
fn idempotency_key(run_id: &RunId, batch: u64, body: &[u8]) -> String {
    let digest: [u8; 32] = Sha256::new()
        .chain_update(run_id.as_bytes())
        .chain_update(batch.to_be_bytes())
        .chain_update(body)
        .finalize()
        .into();
    format!("import-{}", hex(&digest[..20]))
}

impl Totals {
    fn add(&mut self, answer: &IngestAnswer) {
        self.events += answer.events;
        self.values += answer.values;
        self.accepted += answer.accepted;
        self.duplicates += answer.duplicates;
        self.merged += answer.merged;
        self.corrected += answer.corrected;
        self.refused += answer.refused;
    }
}

/// The format that a file's name says.
pub(crate) fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "csv" => Some(Format::Csv),
        "ndjson" | "jsonl" => Some(Format::Ndjson),
        "parquet" => Some(Format::Parquet),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_its_key_for_one_run_one_place_and_one_body() {
        let (run, other) = (RunId::random(), RunId::random());
        let key = idempotency_key(&run, 3, b"body");
        assert_eq!(key, idempotency_key(&run, 3, b"body"));
        for another in [
            idempotency_key(&other, 3, b"body"),
            idempotency_key(&run, 4, b"body"),
            idempotency_key(&run, 3, b"bodx"),
        ] {
            assert_ne!(key, another);
        }
    }
}
