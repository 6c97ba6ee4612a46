//! A server of the release before and one of today on one database: its statements fit the newest schema, what both write
//! is there once, and each finds the keys of the other.

mod earlier;
mod world;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sheaf_ingest::{WriteError, Writer};
use sheaf_store::TenantScope;
use sheaf_store::invariants::{check, check_documents};
use sheaf_store::ledger::Counts;
use sheaf_store::migrate::up_to;
use sheaf_testkit::{Injected, TestDatabase};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use earlier::{ENTITIES, Found, Released, Said, tenant};
use world::World;

const RELEASED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/released");

fn sql_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(sql_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "sql") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The types of a statement's parameters, and the names and types of its columns.
async fn shape(client: &Client, sql: &str) -> Result<(Vec<String>, Vec<(String, String)>)> {
    let prepared = client.prepare(sql).await?;
    let name = |kind: &Type| kind.name().to_owned();
    let columns = prepared.columns().iter();
    Ok((
        prepared.params().iter().map(name).collect(),
        columns
            .map(|column| (column.name().to_owned(), name(column.type_())))
            .collect(),
    ))
}

#[tokio::test]
async fn every_statement_of_the_release_means_the_same_to_the_schema_of_today() -> Result<()> {
    let release = std::fs::read_to_string(Path::new(RELEASED).join("RELEASE"))?;
    let version: i32 = release
        .lines()
        .nth(1)
        .context("the version of the schema")?
        .parse()?;
    let then = TestDatabase::create_empty().await?;
    up_to(&mut then.superuser().await?, Some(version)).await?;
    let then = then.superuser().await?;
    let today = TestDatabase::create().await?;
    let today = today.superuser().await?;
    let files = sql_files(Path::new(RELEASED))?;
    assert!(files.len() > 60, "{} statements", files.len());
    for file in &files {
        let sql = std::fs::read_to_string(file)?;
        let name = file.display();
        let meant = shape(&then, &sql)
            .await
            .with_context(|| format!("{name} then"))?;
        let means = shape(&today, &sql)
            .await
            .with_context(|| format!("{name} today"))?;
        assert_eq!(means, meant, "{name}");
    }
    Ok(())
}

/// Nothing is lost or there twice: as many rows as the answers say, documents that are their fold, and a ledger that knows.
async fn assert_whole(world: &World, answered: i64) -> Result<()> {
    let rows = world
        .count("SELECT count(*) FROM sheaf.entity_events")
        .await?;
    assert_eq!(rows, answered, "rows, and what the answers say");
    let upkeep = world.database.client("sheaf_upkeep").await?;
    let documents = check_documents(&upkeep, i64::MAX).await?;
    assert_eq!(usize::try_from(documents.documents)?, ENTITIES);
    assert_eq!(documents.violations, []);
    assert_eq!(check(&upkeep).await?, []);
    Ok(())
}

fn rows_of(counts: &Counts) -> i64 {
    counts.accepted + counts.merged + counts.corrected
}

async fn write_today(
    writer: &Writer,
    scope: &TenantScope,
    said: &Said,
    key: Option<&str>,
) -> Result<Counts> {
    Ok(writer.ingest(scope, said.request(key)?).await?.counts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_turns_on_the_same_entities_neither_writes_over_the_other() -> Result<()> {
    let world = World::create().await?;
    let (scope, entities) = tenant(&world).await?;
    let released = Released::of(&world, &scope, &entities).await?;
    let writer = world.writer().await?;
    let behind_the_back = Injected::new("document written behind the back of a lane");
    let mut answered = 0;
    for round in 0..30_i64 {
        // Newer facts, facts of instants that both have written, late ones, and the same again; each side has all of them.
        for (second, value) in [
            (4 * round, round),
            (4 * round, round % 2),
            (2 * round + 1, 7),
            (4 * round - 4, round),
        ] {
            let said = |offset: i64| Said {
                entities: 0..ENTITIES,
                second: 100 + second + offset,
                value,
            };
            let counts = released
                .write(&said(0), None)
                .await?
                .context("a new request")?;
            for _ in 0..rows_of(&counts) {
                behind_the_back.count();
            }
            answered += rows_of(&counts);
            let counts = write_today(&writer, &scope, &said(round % 3), None).await?;
            answered += rows_of(&counts);
        }
    }
    behind_the_back.require();
    assert_whole(&world, answered).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_once_on_the_same_entities_neither_writes_over_the_other() -> Result<()> {
    let world = World::create().await?;
    let (scope, entities) = tenant(&world).await?;
    let released = Released::of(&world, &scope, &entities).await?;
    let writer = world.writer().await?;
    let said = |at: i64| Said {
        entities: 0..ENTITIES,
        second: at / 2,
        value: at % 3,
    };
    let theirs = async {
        let mut answered = 0;
        for at in 0..60 {
            let counts = released.write(&said(at), None).await?;
            answered += rows_of(&counts.context("a new request")?);
        }
        Ok::<i64, anyhow::Error>(answered)
    };
    let ours = async {
        let mut answered = 0;
        for at in 0..60 {
            let (one, other) = (said(at), said(at + 1));
            let (one, other) = futures::try_join!(
                write_today(&writer, &scope, &one, None),
                write_today(&writer, &scope, &other, None),
            )?;
            answered += rows_of(&one) + rows_of(&other);
        }
        Ok::<i64, anyhow::Error>(answered)
    };
    let (theirs, ours) = futures::try_join!(theirs, ours)?;
    assert!(theirs > 0 && ours > 0, "{theirs} and {ours} rows");
    assert_whole(&world, theirs + ours).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_either_is_found_by_the_other() -> Result<()> {
    let world = World::create().await?;
    let (scope, entities) = tenant(&world).await?;
    let released = Released::of(&world, &scope, &entities).await?;
    let writer = world.writer().await?;
    let said = |second: i64| Said {
        entities: 0..ENTITIES,
        second,
        value: second,
    };
    let counts = released
        .write(&said(1), Some("theirs"))
        .await?
        .context("a new request")?;
    let found = released.find("theirs").await?;
    let answer = writer
        .ingest(&scope, said(1).request(Some("theirs"))?)
        .await?;
    assert!(answer.replayed);
    assert_eq!(
        (answer.batch, answer.counts, answer.events),
        (found.batch, counts, i64::try_from(ENTITIES)?)
    );
    let other = writer
        .ingest(&scope, said(2).request(Some("theirs"))?)
        .await;
    assert!(matches!(other, Err(WriteError::KeyReused)), "{other:?}");

    // Of several lanes, and of one. The release does not know that the first may lack parts: it cannot read its outcome,
    // and fails instead of taking it for stored.
    for (key, entities, outcome) in [
        ("ours", 0..ENTITIES, "stored_in_parts"),
        ("our one", 3..4, "stored"),
    ] {
        let said = Said {
            entities: entities.clone(),
            second: 5,
            value: 5,
        };
        let answer = writer.ingest(&scope, said.request(Some(key))?).await?;
        assert!(!answer.replayed);
        assert_eq!(released.write(&said, Some(key)).await?, None, "{key}");
        let expected = Found {
            batch: answer.batch,
            hash: said.hash()?,
            outcome: outcome.to_owned(),
            events: i32::try_from(entities.len())?,
            counts: answer.counts,
        };
        assert_eq!(released.find(key).await?, expected, "{key}");
    }
    assert_whole(&world, 2 * i64::try_from(ENTITIES)?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_on_both_at_once_is_written_once() -> Result<()> {
    let world = World::create().await?;
    let (scope, entities) = tenant(&world).await?;
    let released = Released::of(&world, &scope, &entities).await?;
    let writer = world.writer().await?;
    let at_once = Injected::new("key on both at once");
    for round in 0..i64::try_from(ENTITIES)? {
        let entity = usize::try_from(round)?;
        let said = Said {
            entities: entity..entity + 1,
            second: round,
            value: round,
        };
        let key = format!("k{round}");
        let (theirs, ours) = futures::join!(
            released.write(&said, Some(&key)),
            writer.ingest(&scope, said.request(Some(&key))?),
        );
        let (theirs, ours) = (theirs?, ours?);
        assert_eq!(theirs.is_some(), ours.replayed, "{key}");
        let found = released.find(&key).await?;
        assert_eq!((found.batch, found.counts), (ours.batch, ours.counts));
        assert_eq!(ours.counts.accepted, 1);
        at_once.count();
    }
    at_once.require();
    assert_whole(&world, i64::try_from(ENTITIES)?).await
}
