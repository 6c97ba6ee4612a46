//! The lake in a bucket, with a stand-in for S3.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sheaf_cdc::sink::{Held, Sink};
use sheaf_lake::{Bucket, LakeOptions, LakeSink, Location, remove_orphans};
use sheaf_model::Op;
use sheaf_testkit::HttpClient;

use crate::readers::PYTHON;
use crate::world::{World, entity, event, position, transaction};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lake/bucket.py");

/// Ends with its input, which ends with us.
pub(crate) struct StandIn {
    process: Child,
    endpoint: String,
}

impl StandIn {
    pub(crate) fn start() -> Result<StandIn> {
        let mut process = Command::new(PYTHON)
            .args([SCRIPT, "serve"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{PYTHON}: scripts/bootstrap.sh --test installs it"))?;
        let output = process.stdout.take().context("its output")?;
        let mut port = String::new();
        BufReader::new(output).read_line(&mut port)?;
        let endpoint = format!("http://127.0.0.1:{}", port.trim());
        Ok(StandIn { process, endpoint })
    }

    /// Where a lake of its own is in it.
    pub(crate) fn location(&self, prefix: &str) -> Location {
        Location::Bucket(Bucket {
            name: "lake".to_owned(),
            prefix: prefix.to_owned(),
            region: "eu-central-1".to_owned(),
            endpoint: Some(self.endpoint.clone()),
            keys: Some(("id".to_owned(), "secret".to_owned())),
        })
    }

    /// Orders what is done with the next requests; what was ordered before is forgotten.
    pub(crate) async fn order(&self, faults: &Value) -> Result<()> {
        let client = HttpClient::new(&self.endpoint)?;
        let body = faults.to_string();
        let taken = client.post("/-/faults", "application/json", body.as_bytes());
        ensure!(taken.await?.status == 200, "{faults}");
        Ok(())
    }

    /// How often each fault was done.
    pub(crate) async fn injected(&self) -> Result<Value> {
        HttpClient::new(&self.endpoint)?
            .get("/-/faults")
            .await?
            .json()
    }

    pub(crate) fn read(&self, location: &str) -> Result<Value> {
        let output = Command::new(PYTHON)
            .args([SCRIPT, "read", &self.endpoint, location])
            .output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{errors}");
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_in_a_bucket_is_written_read_gone_on_with_and_cleaned_up() -> Result<()> {
    let world = World::create().await?;
    let stand_in = StandIn::start()?;
    let location = stand_in.location("of/sheaf");
    assert!(!format!("{location:?}").contains("secret"));
    let mut options = LakeOptions {
        location,
        ..world.options("sheaf")
    };
    options.retention.snapshots_age = Duration::ZERO;
    options.retention.snapshots_min = 1;
    let noon = "2024-02-29T12:00:00Z";
    let mut sink = LakeSink::new(&world.cdc(), options.clone())?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let rows = vec![entity(5), event(5, noon, 0, Op::Patch, r#"{"1":30}"#)];
    sink.apply(&transaction(20, rows)).await?;
    sink.flush().await?;
    let mut other = options.clone();
    other.name.catalog = "other".to_owned();
    let refused = LakeSink::new(&world.cdc(), other)?.held().await;
    let refused = sheaf_pg::chain(&refused.expect_err("it is another lake's"));
    assert!(refused.contains("of another lake"), "{refused}");
    let mut again = LakeSink::new(&world.cdc(), options.clone())?;
    let Held::Until(held) = again.held().await? else {
        anyhow::bail!("it has begun");
    };
    assert_eq!(held.stream, Some(position(20, 2)));
    for number in 1..=3u64 {
        let entity = i64::try_from(5 + number)?;
        let rows = vec![event(entity, noon, 0, Op::Patch, r#"{"1":4}"#)];
        again.apply(&transaction(20 + number, rows)).await?;
        again.flush().await?;
    }
    let facts = world.location("sheaf", "facts").await?;
    assert!(
        facts.starts_with("s3://lake/of/sheaf/facts/metadata/"),
        "{facts}"
    );
    assert_eq!(stand_in.read(&facts)?, json!({"rows": 4, "int": 42}));
    let late = SystemTime::now() + Duration::from_secs(7200);
    let orphans = remove_orphans(&world.cdc(), &options, Duration::ZERO, late).await?;
    // The lists of the two states that are not kept; every manifest is still one of the newest.
    assert_eq!(orphans.removed, 2);
    assert_eq!(stand_in.read(&facts)?, json!({"rows": 4, "int": 42}));
    // A correction reads files and writes them anew.
    let rows = vec![event(5, noon, 1, Op::Correct, r#"{"1":10}"#)];
    again.apply(&transaction(30, rows)).await?;
    again.flush().await?;
    again.tidy().await?;
    let facts = world.location("sheaf", "facts").await?;
    assert_eq!(stand_in.read(&facts)?, json!({"rows": 4, "int": 22}));
    Ok(())
}
