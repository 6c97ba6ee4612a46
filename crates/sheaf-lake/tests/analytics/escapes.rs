//! Attempts to see, touch or take more than a question may. Each is asked of a lake that two tenants share and of one that the
//! asking tenant has alone: whatever differs would come from the other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use iceberg::spec::{Datum, PrimitiveLiteral, Transform};
use iceberg::transform::create_transform_function;
use sheaf_lake::analytics::{LakeReader, LakeSnapshot, Param, QueryBounds, QueryError};
use sheaf_model::TenantId;

use crate::attempts::{Wanted, attempts};
use crate::world::{OTHER, OWN, SECRET, SECRET_INT, World, ask, text_of};

/// Rows of an answer that are compared; one that has more is larger than anything that a tenant has here.
const ROWS_MAX: usize = 20_000;
/// No attempt may take longer, also on a slow machine: what would is stopped by its bound.
const LONGEST: Duration = Duration::from_secs(60);

/// What came of one, so that two can be compared.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Answered {
        header: String,
        rows: Vec<String>,
        is_cut: bool,
    },
    Refused(String),
    Bounded,
    /// Whoever asked is told that the server has failed, which it never has.
    Failed(String),
}

async fn outcome(reader: &LakeReader, snapshot: &LakeSnapshot, query: &str) -> Outcome {
    let refused = |error: QueryError| match error {
        QueryError::Limit { .. } => Outcome::Bounded,
        error @ QueryError::Internal { .. } => Outcome::Failed(sheaf_pg::chain(&error)),
        error => Outcome::Refused(sheaf_pg::chain(&error)),
    };
    let params: &[Param] = &[];
    let mut answer = match ask(reader, snapshot, OWN, query, params).await {
        Ok(answer) => answer,
        Err(error) => return refused(error),
    };
    let header = format!("{:?}", answer.columns);
    let mut found: Vec<String> = Vec::new();
    let is_cut = loop {
        match answer.next().await {
            Ok(Some(rows)) => {
                let rows = rows.iter();
                found
                    .extend(rows.map(|row| row.iter().map(text_of).collect::<Vec<_>>().join("\t")));
            }
            Ok(None) => break false,
            Err(error) => return refused(error),
        }
        if found.len() > ROWS_MAX {
            break true;
        }
    };
    found.sort();
    // Of an answer that was cut off it is up to chance which rows came.
    let rows = if is_cut { Vec::new() } else { found };
    Outcome::Answered {
        header,
        rows,
        is_cut,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_question_sees_touches_or_takes_more_than_it_may() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    world.fill("alone", &[OWN]).await?;
    let bounds = QueryBounds {
        query_bytes_max: 64 << 20,
        time_max: Duration::from_secs(4),
        ..QueryBounds::default()
    };
    let shared = world.bounded("sheaf", bounds).await?;
    let alone = world.bounded("alone", bounds).await?;
    let (in_shared, in_alone) = (shared.look(None).await?, alone.look(None).await?);
    let all = attempts()?;
    let other = world.other.to_string();
    let (mut refused, mut own, mut bounded) = (0, 0, 0);
    let mut faults = Vec::new();
    for (wanted, text) in &all {
        let text = text.replace("{other}", &other);
        let shown: String = text.chars().take(200).collect();
        let since = Instant::now();
        let found = outcome(&shared, &in_shared, &text).await;
        assert!(
            since.elapsed() < LONGEST,
            "{shown} took {:?}",
            since.elapsed()
        );
        match (wanted, &found) {
            (Wanted::Refused, Outcome::Refused(_)) => refused += 1,
            (Wanted::Own, Outcome::Answered { is_cut: false, .. }) => own += 1,
            (Wanted::Bounded, Outcome::Bounded | Outcome::Answered { .. }) => bounded += 1,
            _ => faults.push(format!("{shown} came to {found:?}")),
        }
        let said = format!("{found:?}");
        for secret in [SECRET, "globex", &SECRET_INT.to_string()] {
            assert!(
                !said.contains(secret) || text.contains(secret),
                "{shown} came to {said}"
            );
        }
        for outside in ["root:", "passwd:", world_path(&world).as_str()] {
            assert!(!said.contains(outside), "{shown} came to {said}");
        }
        // What is stopped is stopped somewhere.
        if *wanted != Wanted::Bounded {
            let without = outcome(&alone, &in_alone, &text).await;
            if found != without {
                faults.push(format!(
                    "{shown} tells of the other tenant: {found:?} but {without:?} without it"
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // The same question of the other tenant does find what was looked for.
    let control =
        "SELECT count(*) FROM facts WHERE value_text LIKE 'globex%' AND external_id LIKE 'globex%'";
    let mut answer = ask(&shared, &in_shared, world.other, control, &[]).await?;
    let control = answer.next().await?.context("a row")?;
    assert_ne!(
        text_of(&control[0][0]),
        "0",
        "the secrets are there to be found"
    );
    #[expect(clippy::print_stdout, reason = "the test harness shows it")]
    {
        println!(
            "attempts: {} ({refused} refused, {own} own rows, {bounded} bounded)",
            all.len()
        );
    }
    assert!(all.len() >= 100);
    Ok(())
}

/// Where the files are, which no answer says.
fn world_path(world: &World) -> String {
    world.folder().display().to_string()
}

/// The number of the files that a tenant's rows are in.
fn bucket(tenant: TenantId) -> Result<PrimitiveLiteral> {
    let transform = create_transform_function(&Transform::Bucket(16))?;
    let bucket = transform.transform_literal(&Datum::long(tenant.0))?;
    Ok(bucket.context("a bucket")?.literal().clone())
}

#[test]
fn the_two_tenants_have_rows_in_the_same_files() -> Result<()> {
    assert_eq!(bucket(OWN)?, bucket(OTHER)?);
    Ok(())
}
