//! The attempts to see, touch or take more than a question may, through both doors: `POST /v1/sql` and PostgreSQL's protocol. Each is
//! asked of a lake that two tenants share and of one that the asking tenant has alone: what is answered has to be the same to the
//! letter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sheaf_lake::analytics::QueryBounds;
use sheaf_model::Timestamp;
use sheaf_pg::{Pool, Tls};
use sheaf_store::TenantScope;
use sheaf_store::keys::{ApiKey, KeyScope, insert_key};
use sheaf_testkit::HttpClient;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::attempts::{Wanted, attempts};
use crate::pgwire::connect;
use crate::support::{JSON, TestServer};
use crate::world::{OWN, SECRET, SECRET_INT, World};

/// No attempt may take longer, also on a slow machine: what would is stopped by its bound.
const LONGEST: Duration = Duration::from_secs(60);
/// Answers of more rows are not compared row by row.
const ROWS_MAX: usize = 20_000;

/// What clients of PostgreSQL need an answer to, and the lake's reader refuses. The answer is the connection's own and about no row,
/// but where a table is named with the schema that clients are told it is in.
const OF_CONNECTIONS: [&str; 13] = [
    "",
    "-- nothing",
    "/* nothing */",
    "SELECT * FROM public.facts",
    "SELECT version()",
    "RESET ALL",
    "SHOW ALL",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "DEALLOCATE ALL",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM information_schema.columns",
];

/// What came of one, so that two can be compared.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Answered(Vec<String>),
    Refused(String),
    Bounded,
}

/// Two servers on one database, over a lake of both tenants and over one of the asking tenant alone.
struct Doors {
    world: World,
    shared: TestServer,
    alone: TestServer,
    key: String,
}

impl Doors {
    async fn open() -> Result<Doors> {
        let world = World::create().await?;
        world.shared().await?;
        world.fill("alone", &[OWN]).await?;
        feed(&world).await?;
        let bounds = QueryBounds {
            query_bytes_max: 64 << 20,
            time_max: Duration::from_secs(4),
            ..QueryBounds::default()
        };
        let shared = world.bounded("sheaf", bounds).await?;
        let alone = world.bounded("alone", bounds).await?;
        let key = ApiKey::generate();
        let app = Pool::new(&world.database.config("sheaf_app"), 1, &Tls::none());
        let scope = TenantScope::system(OWN, "a test makes a key");
        insert_key(
            &app,
            &scope,
            &key,
            &[KeyScope::Read],
            Timestamp::now(),
            None,
        )
        .await?;
        let database = Arc::clone(&world.database);
        Ok(Doors {
            shared: TestServer::start_reading(Arc::clone(&database), shared).await?,
            alone: TestServer::start_reading(database, alone).await?,
            world,
            key: key.reveal().to_owned(),
        })
    }
}

async fn by_http(client: &HttpClient, text: &str) -> Result<Outcome> {
    let body = json!({ "query": text }).to_string();
    let headers = [("content-type", JSON), ("accept", JSON)];
    let answer = client
        .request("POST", "/v1/sql", &headers, body.as_bytes())
        .await?;
    let mut said = answer.json()?;
    if answer.status == 200 {
        let mut rows: Vec<String> = said["rows"]
            .as_array()
            .context("rows")?
            .iter()
            .map(ToString::to_string)
            .collect();
        rows.sort();
        if said["truncated"] == true || rows.len() > ROWS_MAX {
            rows = Vec::new();
        }
        rows.push(said["columns"].to_string());
        return Ok(Outcome::Answered(rows));
    }
    if said["code"] == "query_limit" {
        return Ok(Outcome::Bounded);
    }
    ensure!(answer.status < 500, "{text}: {said}");
    // Which request it was differs.
    said["request_id"] = json!(null);
    Ok(Outcome::Refused(said.to_string()))
}

async fn by_pgwire(client: &Client, text: &str) -> Result<Outcome> {
    let answer = match client.simple_query(text).await {
        Ok(answer) => answer,
        Err(error) => {
            let error = error
                .as_db_error()
                .with_context(|| format!("{text}: {error}"))?;
            if error.detail() == Some("code: query_limit") {
                return Ok(Outcome::Bounded);
            }
            return Ok(Outcome::Refused(format!("{} {error}", error.code().code())));
        }
    };
    let lines = answer.iter().map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let values = (0..row.len()).map(|place| row.get(place).unwrap_or("-"));
            values.collect::<Vec<_>>().join("\t")
        }
        SimpleQueryMessage::RowDescription(columns) => {
            let names = columns.iter().map(|column| column.name());
            names.collect::<Vec<_>>().join("\t")
        }
        SimpleQueryMessage::CommandComplete(count) => format!("{count} rows"),
        _ => String::new(),
    });
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    if lines.len() > ROWS_MAX {
        lines.clear();
    }
    Ok(Outcome::Answered(lines))
}

/// Whether that is what had to come of it.
fn is_right(wanted: Wanted, found: &Outcome) -> bool {
    match (wanted, found) {
        (Wanted::Refused, Outcome::Refused(_)) | (Wanted::Own, Outcome::Answered(_)) => true,
        (Wanted::Bounded, Outcome::Bounded | Outcome::Answered(_)) => true,
        (Wanted::Refused | Wanted::Own | Wanted::Bounded, _) => false,
    }
}

fn holds_no_secret(text: &str, said: &str, path: &str) {
    for secret in [SECRET, "globex", &SECRET_INT.to_string()] {
        assert!(
            !said.contains(secret) || text.contains(secret),
            "{text} came to {said}"
        );
    }
    for outside in ["root:", "passwd:", path] {
        assert!(
            !said.contains(outside) || text.contains(outside),
            "{text} came to {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_door_lets_a_question_see_touch_or_take_more_than_it_may() -> Result<()> {
    let doors = Doors::open().await?;
    let http = [&doors.shared, &doors.alone].map(|server| server.anonymous.with_key(&doors.key));
    let pgwire = [
        connect(doors.shared.pgwire, "acme", &doors.key, "").await?,
        connect(doors.alone.pgwire, "acme", &doors.key, "").await?,
    ];
    let path = doors.world.folder().display().to_string();
    let mut faults = Vec::new();
    let all = attempts()?;
    for (wanted, text) in &all {
        let text = text.replace("{other}", &doors.world.other.to_string());
        let shown: String = text.chars().take(200).collect();
        let since = Instant::now();
        let both = tokio::join!(by_http(&http[0], &text), by_pgwire(&pgwire[0], &text));
        let (over_http, over_pgwire) = (both.0?, both.1?);
        assert!(since.elapsed() < 2 * LONGEST, "{shown} took too long");
        for found in [&over_http, &over_pgwire] {
            holds_no_secret(&text, &format!("{found:?}"), &path);
        }
        if !is_right(*wanted, &over_http) {
            faults.push(format!("by HTTP {shown} came to {over_http:?}"));
        }
        let is_own = OF_CONNECTIONS.contains(&text.trim_end_matches(';'));
        // Several at once are answered one by one by this protocol, each as it would be by itself.
        let is_several = text.trim_end_matches([';', ' ']).contains(';');
        if !is_own && !is_several && !is_right(*wanted, &over_pgwire) {
            faults.push(format!(
                "by PostgreSQL's protocol {shown} came to {over_pgwire:?}"
            ));
        }
        // What is stopped is stopped somewhere.
        if *wanted == Wanted::Bounded {
            continue;
        }
        let alone = by_http(&http[1], &text).await?;
        if over_http != alone {
            faults.push(format!(
                "by HTTP {shown} tells of the other: {over_http:?} but {alone:?}"
            ));
        }
        let alone = by_pgwire(&pgwire[1], &text).await?;
        if over_pgwire != alone {
            faults.push(format!(
                "by PostgreSQL's protocol {shown} tells of the other: {over_pgwire:?} but {alone:?}"
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(all.len() >= 100);
    Ok(())
}

/// What the change stream keeps of the lakes: they are fed beyond everything, and so as of now.
async fn feed(world: &World) -> Result<()> {
    let client = world.database.superuser().await?;
    client
        .batch_execute(
            "INSERT INTO sheaf.change_slots (slot_name, system_id, timeline, begins_at, promised_lsn, created_at)
             VALUES ('sheaf', 1, 1, '0/1', pg_current_wal_insert_lsn() + 100000000, now());
             INSERT INTO sheaf.change_sinks (slot_name, sink_name, snapshot, snapshot_taken_at, snapshot_timeline, snapshot_base,
                snapshot_until, range_lowers, range_uppers, step, step_range, after_tenant, after_number, after_seq,
                snapshot_ordinal, stored_at)
             VALUES ('sheaf', 'lake', '1:1:', now(), 1, '0/A', '0/A', '{}', '{}', 'done', 0, 0, 0, 0, 0, now())",
        )
        .await?;
    Ok(())
}
