//! The lake in a bucket, with a stand-in for S3.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde_json::json;
use sheaf_cdc::sink::{Held, Sink};
use sheaf_lake::{Bucket, LakeOptions, LakeSink, Location, remove_orphans};
use sheaf_model::Op;

use crate::stand_in::Program;
use crate::world::{World, entity, event, position, transaction};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lake/bucket.py");

pub(crate) fn start() -> Result<Program> {
    Program::serve(SCRIPT, None)
}

/// Where a lake of its own is in it.
pub(crate) fn location(stand_in: &Program, prefix: &str) -> Location {
    Location::Bucket(Bucket {
        name: "lake".to_owned(),
        prefix: prefix.to_owned(),
        region: "eu-central-1".to_owned(),
        endpoint: Some(stand_in.endpoint.clone()),
        keys: Some(("id".to_owned(), "secret".to_owned())),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_in_a_bucket_is_written_read_gone_on_with_and_cleaned_up() -> Result<()> {
    let world = World::create().await?;
    let stand_in = start()?;
    let location = location(&stand_in, "of/sheaf");
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
