//! Following changes: what comes, in which order, from where on, and how it ends.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sheaf_cdc::journal;
use sheaf_model::Limits;
use sheaf_server::{Bounds, SubscriptionBounds};
use sheaf_testkit::{HttpClient, Injected, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::{JSON, TestServer, expect, problem, send};

const WITHIN: Duration = Duration::from_secs(60);
const KEPT: journal::Bounds = journal::Bounds {
    bytes_max: 64 << 20,
    segment_bytes: 16 << 20,
};

/// A client that follows.
struct Follower {
    stream: TcpStream,
    head: String,
    rest: String,
    /// The id of the last event.
    id: Option<String>,
}

/// What comes to a client.
#[derive(Debug, Clone, PartialEq)]
enum Came {
    Change { id: String, data: Value },
    Comment(String),
    Bye { code: String, resume: String },
    End,
}

impl Follower {
    /// Follows with this key; headers are lines. HTTP/1.0, whose bodies have no frames.
    async fn begin(server: &TestServer, key: &str, query: &str, headers: &str) -> Result<Follower> {
        Follower::with_room(server, key, query, headers, 1 << 20).await
    }

    async fn with_room(
        server: &TestServer,
        key: &str,
        query: &str,
        headers: &str,
        bytes: u32,
    ) -> Result<Follower> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(bytes)?;
        let mut stream = socket.connect(server.authority.parse()?).await?;
        let head = format!(
            "GET /v1/changes?{query} HTTP/1.0\r\nAuthorization: Bearer {key}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut follower = Follower {
            stream,
            head: String::new(),
            rest: String::new(),
            id: None,
        };
        while !follower.rest.contains("\r\n\r\n") {
            ensure!(follower.receive().await?, "no head: {}", follower.rest);
        }
        let (head, rest) = follower.rest.split_once("\r\n\r\n").context("a head")?;
        (follower.head, follower.rest) = (head.to_owned(), rest.to_owned());
        ensure!(
            follower.head.starts_with("HTTP/1.0 200"),
            "{}",
            follower.head
        );
        Ok(follower)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers
            .find(|(given, _)| *given == name)
            .map(|(_, value)| value)
    }

    async fn receive(&mut self) -> Result<bool> {
        let mut bytes = vec![0; 64 << 10];
        let read = timeout(WITHIN, self.stream.read(&mut bytes)).await;
        let read = read.context("something comes in time")??;
        self.rest += str::from_utf8(&bytes[..read])?;
        Ok(read > 0)
    }

    async fn next(&mut self) -> Result<Came> {
        while !self.rest.contains("\n\n") {
            if !self.receive().await? {
                ensure!(self.rest.is_empty(), "cut off: {:?}", self.rest);
                return Ok(Came::End);
            }
        }
        let (block, rest) = self.rest.split_once("\n\n").context("a block")?;
        let (block, rest) = (block.to_owned(), rest.to_owned());
        self.rest = rest;
        if let Some(comment) = block.strip_prefix(": ") {
            return Ok(Came::Comment(comment.to_owned()));
        }
        if let Some(data) = block.strip_prefix("event: bye\ndata: ") {
            let data: Value = serde_json::from_str(data)?;
            let text = |name: &str| data[name].as_str().map(str::to_owned);
            return Ok(Came::Bye {
                code: text("code").context("a code")?,
                resume: text("resume").context("a token")?,
            });
        }
        let lines: Vec<&str> = block.lines().collect();
        let [id, "event: change", data] = lines[..] else {
            anyhow::bail!("{block:?}");
        };
        let id = id.strip_prefix("id: ").context("an id")?.to_owned();
        self.id = Some(id.clone());
        let data = data.strip_prefix("data: ").context("data")?;
        let data = serde_json::from_str(data)?;
        Ok(Came::Change { id, data })
    }

    /// The next changes, and nothing else.
    async fn changes(&mut self, count: usize) -> Result<Vec<(String, Value)>> {
        let mut changes = Vec::new();
        while changes.len() < count {
            match self.next().await? {
                Came::Change { id, data } => changes.push((id, data)),
                other => anyhow::bail!("{other:?} after {} changes", changes.len()),
            }
        }
        Ok(changes)
    }

    /// The ids of the entities of the next changes.
    async fn entities(&mut self, count: usize) -> Result<Vec<String>> {
        let name = |(_, data): &(String, Value)| data["id"].as_str().unwrap_or("none").to_owned();
        Ok(self.changes(count).await?.iter().map(name).collect())
    }
}

struct World {
    server: TestServer,
    acme: HttpClient,
    key: String,
    other: HttpClient,
    other_key: String,
}

async fn world(subscriptions: SubscriptionBounds, kept: journal::Bounds) -> Result<World> {
    let bounds = Bounds {
        subscriptions,
        ..Bounds::default()
    };
    let server = TestServer::start_following(bounds, Limits::DEFAULT, kept).await?;
    let mut keys = Vec::new();
    for name in ["acme", "other"] {
        server.tenant(name).await?;
        let key = server.key(name, r#"{"scopes":["read","write"]}"#).await?;
        keys.push(key["key"].as_str().context("a key")?.to_owned());
    }
    let [key, other_key] = <[String; 2]>::try_from(keys).expect("two");
    Ok(World {
        acme: server.anonymous.with_key(&key),
        other: server.anonymous.with_key(&other_key),
        server,
        key,
        other_key,
    })
}

/// Sends events of one request, each of an entity of its own, and gives back its token.
async fn ingest(client: &HttpClient, names: &[String], attributes: &Value) -> Result<String> {
    let event = |name: &String| {
        json!({"type": "plane", "id": name, "observed_at": "2013-01-01T10:00:00Z", "attributes": attributes})
            .to_string()
    };
    let body: Vec<String> = names.iter().map(event).collect();
    let answer = client
        .post(
            "/v1/ingest",
            "application/x-ndjson",
            body.join("\n").as_bytes(),
        )
        .await?;
    let answer = expect(&answer, 200)?;
    ensure!(answer["accepted"] == names.len(), "{answer}");
    Ok(answer["token"].as_str().context("a token")?.to_owned())
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_comes_as_it_was_stored_in_the_order_of_commits() -> Result<()> {
    let world = world(SubscriptionBounds::default(), KEPT).await?;
    let mut follower = Follower::begin(&world.server, &world.key, "", "").await?;
    ensure!(follower.header("content-type") == Some("text/event-stream"));
    ensure!(follower.header("cache-control") == Some("no-store"));
    ensure!(
        follower.header("x-data-source") == Some("journal"),
        "{}",
        follower.head
    );
    ensure!(
        follower.header("x-data-lag-seconds").is_some()
            && follower.header("x-request-id").is_some()
    );
    let path = "/v1/entities/plane/N1";
    let begins = json!({"attributes": {"speed": 1}, "observed_at": "2013-01-01T09:00:00Z"});
    expect(
        &send(&world.acme, "PATCH", path, &begins.to_string()).await?,
        201,
    )?;
    let bodies = [
        (
            "PATCH",
            json!({"attributes": {"seats": 149, "speed": null, "model": "é"}, "observed_at": "2013-01-01T10:00:00Z"}),
            200,
        ),
        (
            "PUT",
            json!({"attributes": {"seats": 150}, "observed_at": "2013-01-01T11:00:00Z"}),
            200,
        ),
        // Late: what it says is history, and an event all the same.
        (
            "PATCH",
            json!({"attributes": {"seats": 1}, "observed_at": "2012-01-01T11:00:00Z"}),
            200,
        ),
    ];
    for (method, body, status) in bodies {
        expect(
            &send(&world.acme, method, path, &body.to_string()).await?,
            status,
        )?;
    }
    let gone = format!("{path}?observed_at=2013-01-01T12:00:00Z");
    ensure!(world.acme.request("DELETE", &gone, &[], b"").await?.status == 204);
    let changes = follower.changes(5).await?;
    let wanted = [
        json!({"attributes": {"speed": 1.0}, "observed_at": "2013-01-01T09:00:00Z"}),
        json!({"attributes": {"model": "é", "seats": 149.0, "speed": null}, "observed_at": "2013-01-01T10:00:00Z"}),
        json!({"attributes": {"seats": 150.0}, "observed_at": "2013-01-01T11:00:00Z", "replaced": true}),
        json!({"attributes": {"seats": 1.0}, "observed_at": "2012-01-01T11:00:00Z"}),
        json!({"attributes": {}, "observed_at": "2013-01-01T12:00:00Z", "deleted": true}),
    ];
    for ((_, found), mut wanted) in changes.into_iter().zip(wanted) {
        let mut found = found;
        let ingested_at = found["ingested_at"].take();
        ensure!(
            ingested_at.as_str().is_some_and(|time| time.ends_with('Z')),
            "{ingested_at}"
        );
        found
            .as_object_mut()
            .context("an object")?
            .remove("ingested_at");
        (wanted["type"], wanted["id"]) = ("plane".into(), "N1".into());
        ensure!(
            as_numbers(&found) == as_numbers(&wanted),
            "{found} and not {wanted}"
        );
    }
    Ok(())
}

/// With each number as a float: whether it has a point is not what is asked here.
fn as_numbers(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), as_numbers(value)))
            .collect(),
        other => other.clone(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_gets_its_own_events_and_of_these_what_it_asked_for() -> Result<()> {
    let world = world(SubscriptionBounds::default(), KEPT).await?;
    ingest(
        &world.acme,
        &names("first", 1),
        &json!({"seats": 1, "model": "x"}),
    )
    .await?;
    let begin = async |key: &str, query: &str| Follower::begin(&world.server, key, query, "").await;
    let mut all = begin(&world.key, "").await?;
    let mut wide = begin(&world.key, "filter=seats%20%3E%3D%20100").await?;
    let mut json_form = begin(
        &world.key,
        "filter-lang=cql2-json&filter=%7B%22op%22%3A%22%3D%22%2C%22args%22%3A%5B%7B%22property%22%3A%22model%22%7D%2C%22a%22%5D%7D",
    )
    .await?;
    let mut ships = begin(&world.key, "type=ship").await?;
    let mut others = begin(&world.other_key, "").await?;
    ingest(
        &world.other,
        &names("secret", 3),
        &json!({"seats": 500, "model": "a"}),
    )
    .await?;
    ingest(
        &world.acme,
        &names("small", 1),
        &json!({"seats": 99, "model": "a"}),
    )
    .await?;
    ingest(&world.acme, &names("silent", 1), &json!({"model": "b"})).await?;
    ingest(&world.acme, &names("big", 1), &json!({"seats": 100})).await?;
    let ship = json!([{"type": "ship", "id": "s", "attributes": {"seats": 5}}]).to_string();
    expect(
        &world.acme.post("/v1/ingest", JSON, ship.as_bytes()).await?,
        200,
    )?;
    ensure!(all.entities(4).await? == ["small0", "silent0", "big0", "s"]);
    ensure!(wide.entities(1).await? == ["big0"]);
    ensure!(json_form.entities(1).await? == ["small0"]);
    ensure!(ships.entities(1).await? == ["s"]);
    let mut secrets = others.entities(3).await?;
    secrets.sort();
    ensure!(secrets == names("secret", 3), "{secrets:?}");
    ensure!(all.rest.is_empty() && wide.rest.is_empty() && others.rest.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_told_is_left_out_and_what_follows_it_comes() -> Result<()> {
    let bounds = SubscriptionBounds {
        visible_within: Duration::from_millis(500),
        ..SubscriptionBounds::default()
    };
    let world = world(bounds, KEPT).await?;
    let poison = Injected::new("event that nobody can be told");
    let begins = ingest(&world.acme, &names("first", 1), &json!({"seats": 1})).await?;
    let since = format!("since={begins}");
    let mut all = Follower::begin(&world.server, &world.key, &since, "").await?;
    let filter = format!("{since}&filter=seats%20%3E%200");
    let mut some = Follower::begin(&world.server, &world.key, &filter, "").await?;
    let by_hand = world.server.database.superuser().await?;
    let has_seats = "(SELECT attribute_id::text FROM sheaf.attributes WHERE name = 'seats')";
    let insert = |entity: &str, attrs: &str| {
        format!(
            "INSERT INTO sheaf.entity_events (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
             SELECT tenant_id, {entity}, '2013-01-01T10:00:00Z', (SELECT count(*) FROM sheaf.entity_events), 'p',
                 gen_random_uuid(), now(), {attrs}
             FROM sheaf.entities"
        )
    };
    for (place, (entity, attrs)) in [
        ("entity_id", r#"'{"999999": 1}'"#),
        ("entity_id", r#"'{"999999": null}'"#),
        ("entity_id", r#"'{"seats": 1}'"#),
        ("entity_id", r#"'{"1": 1, "01": 1}'"#),
        (
            "entity_id",
            &format!("jsonb_build_object({has_seats}, 'many')"),
        ),
        ("entity_id + 1000000", "'{}'"),
        ("entity_id + 1000000", r#"'{"999999": 1}'"#),
    ]
    .into_iter()
    .enumerate()
    {
        let inserted = by_hand.execute(&insert(entity, attrs), &[]).await?;
        (0..inserted).for_each(|_| poison.count());
        let next = names(&format!("after{place}-"), 1);
        // On the same entity as well: it is not the entity that is left out.
        let token = ingest(&world.acme, &next, &json!({"seats": 2})).await?;
        ensure!(!token.is_empty());
        ensure!(
            all.entities(1).await? == next,
            "after {entity} with {attrs}"
        );
        ensure!(
            some.entities(1).await? == next,
            "after {entity} with {attrs}"
        );
    }
    let shown = world.server.admin.get("/metrics").await?.text();
    for reason in ["unreadable", "unnamed"] {
        let name = format!("sheaf_subscription_events_left_out_total{{reason=\"{reason}\"}}");
        let counted = shown.lines().find_map(|line| line.strip_prefix(&name));
        let counted: f64 = counted.context(reason)?.trim().parse()?;
        ensure!(counted > 0.0, "{reason}: {counted}");
    }
    poison.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_goes_on_after_any_token_and_misses_nothing() -> Result<()> {
    let world = world(SubscriptionBounds::default(), KEPT).await?;
    let mut tokens = Vec::new();
    // Of a few transactions each, between those of somebody else.
    for round in 0..4 {
        let names = names(&format!("r{round}-"), 3);
        tokens.push(ingest(&world.acme, &names, &json!({"seats": round})).await?);
        ingest(&world.other, &names, &json!({"seats": round})).await?;
    }
    let since = |token: &str| format!("since={token}");
    let mut follower = Follower::begin(&world.server, &world.key, &since(&tokens[0]), "").await?;
    ensure!(follower.header("x-consistency-token") == Some(tokens[0].as_str()));
    let changes = follower.changes(9).await?;
    let name = |(_, data): &(String, Value)| data["id"].as_str().unwrap_or("none").to_owned();
    let order: Vec<String> = changes.iter().map(name).collect();
    for (round, part) in order.chunks(3).enumerate() {
        let mut part = part.to_vec();
        part.sort();
        ensure!(part == names(&format!("r{}-", round + 1), 3), "{order:?}");
    }
    // After each event: what came before may come again, of the same transaction; what comes after does, in the same order.
    let resumed = Injected::new("subscription that was left after an event");
    for (place, (id, _)) in changes[..8].iter().enumerate() {
        let header = format!("Last-Event-ID: {id}\r\n");
        let query = since(&tokens[3]);
        let mut follower = Follower::begin(&world.server, &world.key, &query, &header).await?;
        let mut found = follower.entities(8 - place).await?;
        while found.last() != order.last() {
            found.extend(follower.entities(1).await?);
        }
        ensure!(
            order.ends_with(&found),
            "{found:?} after {place} of {order:?}"
        );
        ensure!(
            found.len() < 8 - place + 3,
            "no more than a transaction again: {found:?}"
        );
        resumed.count();
    }
    // The id of an event is a token like any other: a read that honours it sees the event, whose request was answered before.
    let (last, _) = &changes[8];
    let path = format!("/v1/entities/plane/{}", order[8]);
    let headers = [("x-consistency-token", last.as_str())];
    expect(&world.acme.request("GET", &path, &headers, b"").await?, 200)?;
    // After the last one, as after the token of its request, comes what follows.
    let mut after_event = Follower::begin(&world.server, &world.key, &since(last), "").await?;
    let query = since(&tokens[3]);
    let mut after_request = Follower::begin(&world.server, &world.key, &query, "").await?;
    ingest(&world.acme, &names("new", 1), &json!({"seats": 1})).await?;
    ensure!(after_event.entities(1).await? == ["new0"]);
    ensure!(after_request.entities(1).await? == ["new0"]);
    resumed.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_followed_is_refused_with_its_code() -> Result<()> {
    let bounds = SubscriptionBounds {
        of_tenant_max: 2,
        running_max: 3,
        ..SubscriptionBounds::default()
    };
    let kept = journal::Bounds {
        bytes_max: 200_000,
        segment_bytes: 50_000,
    };
    let world = world(bounds, kept).await?;
    let first = ingest(&world.acme, &names("a", 1), &json!({"seats": 1})).await?;
    let foreign = ingest(&world.other, &names("a", 1), &json!({"seats": 1})).await?;
    let ask = async |query: &str, headers: &[(&str, &str)]| {
        let path = format!("/v1/changes?{query}");
        world.acme.request("GET", &path, headers, b"").await
    };
    let other_end = if first.ends_with('A') { 'Q' } else { 'A' };
    let forged = format!("{}{other_end}", &first[..first.len() - 1]);
    for (query, headers, status, code) in [
        (format!("since={foreign}"), &[][..], 400, "foreign_token"),
        (format!("since={forged}"), &[], 400, "invalid_token"),
        ("since=".to_owned(), &[], 400, "invalid_token"),
        (
            format!("since={first}"),
            &[("last-event-id", "nonsense")],
            400,
            "invalid_token",
        ),
        (
            String::new(),
            &[("last-event-id", foreign.as_str())],
            400,
            "foreign_token",
        ),
        ("filter=seatz%3D1".to_owned(), &[], 400, "unknown_attribute"),
        ("filter=seats%3D".to_owned(), &[], 400, "invalid_filter"),
        ("filter=seats%3D'x'".to_owned(), &[], 400, "invalid_filter"),
        ("limit=1".to_owned(), &[], 400, "unknown_parameter"),
        (
            "consistency=strong".to_owned(),
            &[],
            400,
            "unknown_parameter",
        ),
        (
            String::new(),
            &[("accept", "application/json")],
            406,
            "not_acceptable",
        ),
    ] {
        let answer = ask(&query, headers).await?;
        ensure!(
            problem(&answer, status)? == code,
            "{query}: {}",
            answer.text()
        );
    }
    // So much that the oldest is not kept.
    let filler = "x".repeat(20_000);
    let is_expired = async || {
        let name = names(&format!("f{}-", uuid()), 5);
        let sent = ingest(&world.acme, &name, &json!({"filler": filler})).await;
        sent.expect("it is stored");
        let since = format!("since={first}");
        let answer = timeout(Duration::from_millis(500), ask(&since, &[])).await;
        let Ok(answer) = answer else { return false };
        problem(&answer.expect("an answer"), 410).is_ok_and(|code| code == "token_expired")
    };
    wait_until("the token has expired", WITHIN, is_expired).await;
    let _one = Follower::begin(&world.server, &world.key, "", "").await?;
    let _two = Follower::begin(&world.server, &world.key, "", "").await?;
    let refused = ask("", &[]).await?;
    ensure!(
        problem(&refused, 429)? == "rate_limited" && refused.header("retry-after") == Some("5")
    );
    let three = Follower::begin(&world.server, &world.other_key, "", "").await?;
    let refused = world.other.get("/v1/changes").await?;
    ensure!(problem(&refused, 503)? == "overloaded" && refused.header("retry-after") == Some("5"));
    // A place goes back when its client has left.
    drop(three);
    let has_room = async || {
        Follower::begin(&world.server, &world.other_key, "", "")
            .await
            .is_ok()
    };
    wait_until("there is room again", WITHIN, has_room).await;
    let plain = TestServer::start().await?;
    let acme = plain.tenant("acme").await?;
    let refused = acme.get("/v1/changes").await?;
    ensure!(
        problem(&refused, 503)? == "changes_unavailable" && refused.header("retry-after").is_some()
    );
    Ok(())
}

/// Another one each time.
fn uuid() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_told_where_to_go_on_and_has_everything_then() -> Result<()>
{
    let bounds = SubscriptionBounds {
        taken_within: Duration::from_millis(300),
        ..SubscriptionBounds::default()
    };
    let world = world(bounds, KEPT).await?;
    let stalled = Injected::new("client that takes nothing");
    let begins = ingest(&world.acme, &names("first", 1), &json!({"seats": 1})).await?;
    let since = format!("since={begins}");
    // Little room on its side, so that what is sent waits.
    let mut slow = Follower::with_room(&world.server, &world.key, &since, "", 4_096).await?;
    let filler = "x".repeat(30_000);
    for round in 0..20 {
        let names = names(&format!("r{round}-"), 20);
        ingest(&world.acme, &names, &json!({"filler": filler})).await?;
    }
    // Another one gets everything meanwhile.
    let mut quick = Follower::begin(&world.server, &world.key, &since, "").await?;
    let wanted = quick.entities(400).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stalled.count();
    let mut got = Vec::new();
    let resume = loop {
        match slow.next().await? {
            Came::Change { data, .. } => got.push(data["id"].as_str().context("an id")?.to_owned()),
            Came::Bye { code, resume } => {
                ensure!(code == "slow_reader", "{code}");
                break resume;
            }
            Came::Comment(_) => {}
            Came::End => anyhow::bail!("no farewell after {} changes", got.len()),
        }
    };
    ensure!(slow.next().await? == Came::End, "it ends");
    ensure!(
        got.len() < wanted.len() && wanted.starts_with(&got),
        "{} changes",
        got.len()
    );
    let mut again =
        Follower::begin(&world.server, &world.key, &format!("since={resume}"), "").await?;
    let rest = wanted.len() - got.len();
    let first = again.entities(1).await?;
    let place = wanted
        .iter()
        .position(|name| *name == first[0])
        .context("one of them")?;
    ensure!(place <= got.len(), "{place} after {} changes", got.len());
    let left = again.entities(rest - 1 + got.len() - place).await?;
    ensure!(left.last() == wanted.last());
    stalled.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_events_are_not_kept_any_more_is_told_and_its_token_has_expired()
-> Result<()> {
    let kept = journal::Bounds {
        bytes_max: 400_000,
        segment_bytes: 100_000,
    };
    let bounds = SubscriptionBounds {
        taken_within: Duration::from_secs(3600),
        ..SubscriptionBounds::default()
    };
    let world = world(bounds, kept).await?;
    let outrun = Injected::new("client that fell out of what is kept");
    let begins = ingest(&world.acme, &names("first", 1), &json!({"seats": 1})).await?;
    let since = format!("since={begins}");
    let mut slow = Follower::with_room(&world.server, &world.key, &since, "", 4_096).await?;
    let filler = "x".repeat(50_000);
    for round in 0..80 {
        ingest(
            &world.acme,
            &names(&format!("r{round}-"), 5),
            &json!({"filler": filler}),
        )
        .await?;
    }
    outrun.count();
    let resume = loop {
        match slow.next().await? {
            Came::Bye { code, resume } => {
                ensure!(code == "slow_reader", "{code}");
                break resume;
            }
            Came::Change { .. } | Came::Comment(_) => {}
            Came::End => anyhow::bail!("no farewell"),
        }
    };
    let refused = world
        .acme
        .get(&format!("/v1/changes?since={resume}"))
        .await?;
    ensure!(problem(&refused, 410)? == "token_expired");
    outrun.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_says_so_to_everybody_with_the_token_to_go_on_from() -> Result<()> {
    let mut world = world(SubscriptionBounds::default(), KEPT).await?;
    let mut busy = Follower::begin(&world.server, &world.key, "", "").await?;
    let mut idle = Follower::begin(&world.server, &world.other_key, "", "").await?;
    let last = ingest(&world.acme, &names("a", 2), &json!({"seats": 1})).await?;
    ensure!(busy.entities(2).await? == ["a0", "a1"]);
    let begins = idle
        .header("x-consistency-token")
        .context("a token")?
        .to_owned();
    world.server.stop_following();
    let bye = |came: Came| match came {
        Came::Bye { code, resume } if code == "shutdown" => Ok(resume),
        other => Err(anyhow::anyhow!("{other:?}")),
    };
    let resume = bye(busy.next().await?)?;
    ensure!(resume.starts_with("t1.") && !last.is_empty());
    let idle_resume = bye(idle.next().await?)?;
    ensure!(idle_resume.starts_with("t1.") && !begins.is_empty());
    ensure!(busy.next().await? == Came::End && idle.next().await? == Came::End);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comment_comes_every_fifteen_seconds_and_a_revoked_key_ends_the_subscription()
-> Result<()> {
    let world = world(SubscriptionBounds::default(), KEPT).await?;
    let made = world.server.key("acme", r#"{"scopes":["read"]}"#).await?;
    let (id, key) = (
        made["id"].as_str().context("an id")?,
        made["key"].as_str().context("a key")?,
    );
    let mut follower = Follower::begin(&world.server, key, "type=nothing", "").await?;
    let begun = tokio::time::Instant::now();
    // Nothing of this is sent; but who goes on after the comment need not look at it again.
    let passed = ingest(&world.acme, &names("a", 1), &json!({"seats": 1})).await?;
    let Came::Comment(token) = follower.next().await? else {
        anyhow::bail!("a comment comes");
    };
    ensure!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    let mut again =
        Follower::begin(&world.server, &world.key, &format!("since={token}"), "").await?;
    ingest(&world.acme, &names("b", 1), &json!({"seats": 1})).await?;
    ensure!(
        again.entities(1).await? == ["b0"],
        "nothing before {passed}"
    );
    let path = format!("/v1/tenants/acme/keys/{id}");
    ensure!(
        world
            .server
            .admin
            .request("DELETE", &path, &[], b"")
            .await?
            .status
            == 204
    );
    ensure!(
        follower.next().await? == Came::End,
        "it ends without a word"
    );
    Ok(())
}
