//! Questions over the lake: five that people ask of measurements, each by the server over HTTP, by DuckDB over the same files and
//! by PostgreSQL over the same events; and a year of one value of one entity.
//!
//! The lake is filled as any other: events are sent, committed, followed. All sides give the same answers, or the case fails.

mod answers;
mod asked;
mod duckdb;
mod filled;
mod postgres;
mod questions;
mod year;

use std::time::Instant;

use anyhow::{Context, Result};

use super::Scale;
use super::report::{Better, Line, Report};
use super::world::World;
use crate::cli::BenchArgs;
use answers::require_same;
use asked::Asked;
use duckdb::DuckDb;
use filled::Filled;
use questions::{QUESTIONS, Question};

const SUITE: &str = "analytics";
const CASE: &str = "questions";
/// Of DuckDB's time: each question, and all in the geometric mean.
const OF_DUCKDB_MAX: f64 = 1.5;
const OF_DUCKDB_MEAN_MAX: f64 = 1.2;
/// PostgreSQL takes so many times as long.
const OF_POSTGRES_MAX: f64 = 1.0 / 20.0;
/// Every case of the suite, in the order in which they run.
pub(super) const CASES: [&str; 2] = [CASE, year::CASE];

pub(super) async fn run(
    world: &World,
    args: &BenchArgs,
    case: &str,
    report: &mut Report,
) -> Result<()> {
    match case {
        year::CASE => year::run(world, args.scale, report).await,
        _ => questions(world, args, report).await,
    }
}

async fn questions(world: &World, args: &BenchArgs, report: &mut Report) -> Result<()> {
    let scale = args.scale;
    let filled = Filled::month(world, scale).await?;
    let mut duckdb = DuckDb::start(args.python.as_deref(), &filled).await?;
    let mut asked = Asked::open(&filled).await?;
    // Less than a run of one: what is measured of it is how long it takes, and not how fast it begins.
    let rounds = scale.pick(1, 5, 7);
    let whole = filled.span;
    let mut ratios = vec![1.0; rounds];
    for question in &QUESTIONS {
        let (text, baseline) = (question.text(whole), question.duckdb(whole));
        // The first of each side is not counted: both have the files in memory then.
        let (_, ours) = asked.ask(&text).await?;
        let (_, theirs) = duckdb.ask(&baseline).await?;
        require_same(question, &ours, &theirs).context("DuckDB answers otherwise")?;
        let (mut seconds, mut of_duckdb) = (Vec::new(), Vec::new());
        for ratio in &mut ratios {
            let (ours, _) = asked.ask(&text).await?;
            let (theirs, _) = duckdb.ask(&baseline).await?;
            *ratio *= ours / theirs;
            seconds.push(ours);
            of_duckdb.push(theirs);
        }
        // What takes some milliseconds is HTTP and planning.
        let bar = (scale == Scale::Full).then_some(OF_DUCKDB_MAX);
        report.add(&time(question, seconds).against("duckdb", &of_duckdb, bar))?;
    }
    let count = 1.0 / QUESTIONS.len() as f64;
    let means: Vec<f64> = ratios.iter().map(|ratio| ratio.powf(count)).collect();
    let mean = Line::new(
        (SUITE, CASE),
        "geometric_mean",
        "of_duckdb",
        Better::Lower,
        means.clone(),
    );
    let bar = (scale == Scale::Full).then_some(OF_DUCKDB_MEAN_MAX);
    report.add(&mean.against("duckdb", &vec![1.0; means.len()], bar))?;
    duckdb.stop().await?;
    of_postgres(world, &filled, scale, report).await?;
    filled.stop(world).await
}

/// The same against the event table: once, as PostgreSQL takes a minute for one.
async fn of_postgres(
    world: &World,
    filled: &Filled,
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    for question in &QUESTIONS {
        let (text, baseline) = (
            question.text(filled.span),
            question.postgres(filled.span, filled),
        );
        // A connection that is idle for as long as PostgreSQL takes is closed.
        let mut asked = Asked::open(filled).await?;
        let (_, ours) = asked.ask(&text).await?;
        let (seconds, _) = asked.ask(&text).await?;
        let begun = Instant::now();
        let theirs = postgres::ask(world, &baseline).await?;
        let of_postgres = begun.elapsed().as_secs_f64();
        require_same(question, &ours, &theirs).context("PostgreSQL answers otherwise")?;
        let bar = (scale == Scale::Full).then_some(OF_POSTGRES_MAX);
        report.add(&time(question, vec![seconds]).against("postgres", &[of_postgres], bar))?;
    }
    Ok(())
}

fn time(question: &Question, seconds: Vec<f64>) -> Line {
    let milliseconds = seconds.into_iter();
    Line::new(
        (SUITE, CASE),
        question.name,
        "s",
        Better::Lower,
        milliseconds.collect(),
    )
}
