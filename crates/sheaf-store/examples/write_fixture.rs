//! Writes `migrations/fixtures/vNNNN.sql`: a database at one version of the schema with rows in it, as a dump.
//!
//! `cargo run -p sheaf-store --example write_fixture -- 2` when version 2 is new. The fixture of a released version is
//! never written again: it is what a user's database looks like.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sheaf_store::migrate;
use sheaf_testkit::TestDatabase;
use tokio_postgres::config::Host;

#[tokio::main]
async fn main() -> Result<()> {
    let version = std::env::args()
        .nth(1)
        .context("usage: write_fixture VERSION")?;
    let version: i32 = version.parse().context("a version is a number")?;
    ensure!(
        (1..=migrate::newest_version()).contains(&version),
        "there is no version {version}"
    );
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations/fixtures");
    let database = TestDatabase::create_empty().await?;
    let mut client = database.superuser().await?;
    migrate::up_to(&mut client, Some(version)).await?;
    let rows = std::fs::read_to_string(fixtures.join("rows.sql"))?;
    client
        .batch_execute(&rows)
        .await
        .context("inserting the rows")?;
    // The one thing that differs from run to run.
    client
        .batch_execute("UPDATE sheaf.schema_version SET applied_on = '2024-01-01T00:00:00Z'")
        .await?;
    let name = format!("v{version:04}.sql");
    std::fs::write(fixtures.join(&name), dump(&database)?)?;
    #[expect(clippy::print_stdout, reason = "whoever runs it wants to know")]
    {
        println!("wrote migrations/fixtures/{name}");
    }
    Ok(())
}

/// The whole database as plain SQL that needs no psql.
fn dump(database: &TestDatabase) -> Result<String> {
    let config = database.superuser_config();
    let Some(Host::Unix(socket_dir)) = config.get_hosts().first() else {
        anyhow::bail!("the cluster of tests listens on a socket");
    };
    let port = config.get_ports().first().context("a port")?;
    let output = Command::new("pg_dump")
        .args([
            "--inserts",
            "--column-inserts",
            "--schema",
            "sheaf",
            "--host",
        ])
        .arg(socket_dir)
        .args(["--port", &port.to_string(), "--username"])
        .arg(config.get_user().context("a user")?)
        .arg(database.name())
        .output()
        .context("running pg_dump")?;
    ensure!(
        output.status.success(),
        "pg_dump: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    let mut lines = Vec::new();
    // Bodies of functions stay as they are, empty lines too: a migrated database has them.
    let mut body_end: Option<String> = None;
    for line in text.lines() {
        if let Some(end) = &body_end {
            lines.push(line);
            if line.contains(end) {
                body_end = None;
            }
        } else if !(line.is_empty() || line.starts_with("--") || line.starts_with('\\')) {
            lines.push(line);
            body_end = begun_body(line);
        }
    }
    Ok(lines.join("\n") + "\n")
}

/// What ends the body of a function that begins in this line and does not end in it.
fn begun_body(line: &str) -> Option<String> {
    let (_, rest) = line.split_once(" AS $")?;
    let (tag, rest) = rest.split_once('$')?;
    let end = format!("${tag}$");
    (!rest.contains(&end)).then_some(end)
}
