//! Histories from PostgreSQL, from the lake, and from both: the same bytes wherever they are read.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sheaf_model::Timestamp;
use sheaf_testkit::{HttpClient, HttpResponse};

use crate::support::{JSON, TestServer, expect, problem};

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

const KINDS: [(&str, &str); 8] = [
    ("whole", "int"),
    ("real", "float"),
    ("money", "decimal"),
    ("word", "text"),
    ("page", "text"),
    ("truth", "bool"),
    ("moment", "time"),
    ("shape", "json"),
];
const HOURS: u64 = 240;
const FIRST_DAY: &str = "2013-01-01T00:00:00Z";

fn hour(number: u64) -> String {
    format!("2013-01-{:02}T{:02}:00:00Z", number / 24 + 1, number % 24)
}

fn value(numbers: &mut Numbers, name: &str) -> Value {
    if numbers.below(9) == 0 {
        return Value::Null;
    }
    let number = i64::try_from(numbers.below(2_000)).expect("small") - 1_000;
    match name {
        "whole" if number % 50 == 0 => json!(i64::MAX - number.abs()),
        "whole" => json!(number),
        "real" if number % 40 == 0 => json!(1e300),
        "real" => json!(f64::from(i32::try_from(number).expect("small")) / 7.0),
        "money" => match number.rem_euclid(4) {
            0 => json!(format!("{number}.50")),
            1 => json!(format!("{number}.000000000000000001")),
            2 => json!(format!("{number}")),
            _ => json!(format!("{number}.25")),
        },
        "word" => json!(format!("word {}\n\"é\"", number % 7)),
        "page" => json!(format!("{number} ").repeat(1_800)),
        "truth" => json!(number % 2 == 0),
        "moment" => json!(format!(
            "2020-02-{:02}T10:00:00.5Z",
            number.rem_euclid(28) + 1
        )),
        _ => json!({"a": [number, null, {"b": "ü"}], "c": number % 3 == 0}),
    }
}

/// Sends events about three entities: many for the same instants, so that they merge and correct; replaces and deletes among them.
async fn write(client: &HttpClient, numbers: &mut Numbers, rounds: u64) -> Result<String> {
    let mut token = String::new();
    for _ in 0..rounds {
        let mut events = Vec::new();
        for _ in 0..40 {
            let mut attributes = serde_json::Map::new();
            for _ in 0..numbers.below(4) {
                let place = usize::try_from(numbers.below(8)).expect("small");
                let (name, _) = KINDS[place];
                if name != "page" || numbers.below(6) == 0 {
                    attributes.insert(name.to_owned(), value(numbers, name));
                }
            }
            events.push(json!({
                "type": "thing",
                "id": format!("N{}", numbers.below(3)),
                "observed_at": hour(numbers.below(HOURS)),
                "attributes": attributes,
            }));
        }
        let body = Value::Array(events).to_string();
        let stored = client.post("/v1/ingest", JSON, body.as_bytes()).await?;
        token = token_of(&stored)?;
        let path = format!("/v1/entities/thing/N{}", numbers.below(3));
        let at = hour(numbers.below(HOURS));
        let edited = match numbers.below(3) {
            0 => {
                let path = format!("{path}?observed_at={at}");
                client.request("DELETE", &path, &[], b"").await?
            }
            _ => {
                let body = json!({"attributes": {"whole": value(numbers, "whole"), "word": "replaced"}, "observed_at": at});
                let headers = [("content-type", JSON)];
                let body = body.to_string();
                client
                    .request("PUT", &path, &headers, body.as_bytes())
                    .await?
            }
        };
        ensure!(edited.status < 300 || edited.status == 404, "{edited:?}");
        if edited.status < 300 {
            token = token_of(&edited)?;
        }
    }
    Ok(token)
}

fn token_of(answer: &HttpResponse) -> Result<String> {
    let token = answer.header("x-consistency-token");
    Ok(token
        .with_context(|| format!("a token: {answer:?}"))?
        .to_owned())
}

/// What is asked, as a path or as the body of a query over several histories.
fn questions() -> Vec<(String, Option<Value>)> {
    let mut questions = Vec::new();
    for id in ["N0", "N1"] {
        let path = format!("/v1/entities/thing/{id}/history?");
        for what in [
            "",
            "&corrections=true",
            "&attribute=real,whole",
            "&attribute=page,shape&corrections=true",
        ] {
            for range in ["", "&from=2013-01-03T05:00:00Z&to=2013-01-07T19:30:00Z"] {
                for page in [
                    "&limit=1000",
                    "&order=desc&limit=7",
                    "&limit=23",
                    "&order=desc&limit=1000",
                ] {
                    questions.push((format!("{path}{what}{range}{page}"), None));
                }
            }
        }
        for (what, fills) in [
            (
                "&attribute=whole,real,money&agg=avg,min,max,sum,count,first,last",
                &["none", "null", "previous", "linear"][..],
            ),
            (
                "&attribute=word,truth,moment,shape&agg=count,first,last",
                &["none", "null", "previous"],
            ),
            ("", &["none", "null"]),
        ] {
            for fill in fills {
                for bucket in ["1h", "7h", "1w"] {
                    for rest in [
                        "",
                        "&from=2013-01-02T05:30:00Z&to=2013-01-09T00:10:00Z",
                        "&order=desc&limit=25",
                        "&limit=40",
                    ] {
                        questions.push((
                            format!("{path}{what}&fill={fill}&bucket={bucket}{rest}"),
                            None,
                        ));
                    }
                }
            }
        }
    }
    for group in ["entity", "all"] {
        for limit in [9, 1_000] {
            let plain = json!({"type": "thing", "attribute": ["real", "word"], "from": FIRST_DAY, "group": group, "limit": limit});
            questions.push(("/v1/history/query".to_owned(), Some(plain.clone())));
            for (fill, to) in [
                ("none", None),
                ("null", Some("2013-01-06T00:00:00Z")),
                ("previous", Some("2013-01-06T00:00:00Z")),
            ] {
                let mut asked = plain.clone();
                asked["attribute"] = json!(["real", "money"]);
                asked["from"] = json!("2013-01-02T07:00:00Z");
                asked["bucket"] = json!("5h");
                asked["agg"] = json!(["avg", "sum", "min", "max", "count", "first", "last"]);
                asked["fill"] = json!(fill);
                asked["to"] = json!(to);
                questions.push(("/v1/history/query".to_owned(), Some(asked)));
            }
        }
    }
    for id in ["N0", "N1", "N2"] {
        for at in (0..HOURS).step_by(17) {
            let path = format!("/v1/entities/thing/{id}?as_of={}", hour(at));
            questions.push((format!("{path}&times=true"), None));
            questions.push((format!("{path}&select=real,word"), None));
        }
    }
    questions
}

/// All pages of an answer but for what their cursors are, and what the answers say of where they are from.
async fn pages(
    client: &HttpClient,
    (path, body): &(String, Option<Value>),
    level: &str,
    token: &str,
) -> Result<(Vec<String>, Vec<String>)> {
    let (mut all, mut sources) = (Vec::new(), Vec::new());
    let mut cursor: Option<String> = None;
    let headers = [("x-consistency-token", token), ("content-type", JSON)];
    loop {
        let join = if path.contains('?') { '&' } else { '?' };
        let mut path = format!("{path}{join}consistency={level}");
        let answer = match body {
            None => {
                if let Some(cursor) = &cursor {
                    path.push_str(&format!("&cursor={cursor}"));
                }
                client.request("GET", &path, &headers, b"").await?
            }
            Some(body) => {
                let mut body = body.clone();
                body["cursor"] = json!(cursor);
                let body = body.to_string();
                client
                    .request("POST", &path, &headers, body.as_bytes())
                    .await?
            }
        };
        ensure!(matches!(answer.status, 200 | 404), "{path}: {answer:?}");
        let source = answer.header("x-data-source").unwrap_or_default();
        sources.push(source.to_owned());
        let mut page = answer.json()?;
        // The same each time but for what says which request it was.
        if answer.status == 404 {
            page = json!(404);
        }
        // What was read of the document says when that changed last, and not when what is selected did.
        if path.contains("select=")
            && let Some(page) = page.as_object_mut()
        {
            page.remove("updated_at");
        }
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if page.get("next_cursor").is_some() {
            page["next_cursor"] = json!(cursor.is_some());
        }
        all.push(page.to_string());
        if cursor.is_none() || all.len() > 400 {
            return Ok((all, sources));
        }
    }
}

async fn answers(
    client: &HttpClient,
    level: &str,
    token: &str,
) -> Result<(Vec<Vec<String>>, BTreeMap<String, usize>)> {
    let (mut all, mut sources) = (Vec::new(), BTreeMap::new());
    for question in questions() {
        let (found, from) = pages(client, &question, level, token).await?;
        all.push(found);
        for source in from {
            *sources.entry(source).or_default() += 1;
        }
    }
    Ok((all, sources))
}

fn require_same(wanted: &[Vec<String>], found: &[Vec<String>], when: &str) -> Result<()> {
    for ((wanted, found), (path, body)) in wanted.iter().zip(found).zip(questions()) {
        for (page, (wanted, found)) in wanted.iter().zip(found).enumerate() {
            ensure!(
                wanted == found,
                "{when}: page {page} of {path} {body:?}:\n{wanted}\nis\n{found}"
            );
        }
        ensure!(
            wanted.len() == found.len(),
            "{when}: pages of {path} {body:?}"
        );
    }
    Ok(())
}

async fn declare(client: &HttpClient) -> Result<()> {
    for (name, kind) in KINDS {
        let body = json!({"name": name, "type": kind}).to_string();
        expect(
            &client.post("/v1/attributes", JSON, body.as_bytes()).await?,
            201,
        )?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_the_same_from_postgresql_and_from_the_lake() -> Result<()> {
    let server = TestServer::start_asking().await?;
    let (own, other) = (server.tenant("acme").await?, server.tenant("globex").await?);
    declare(&own).await?;
    declare(&other).await?;
    let mut numbers = Numbers(0x5eed_0001);
    write(&other, &mut numbers, 2).await?;
    let token = write(&own, &mut numbers, 8).await?;
    let (wanted, sources) = answers(&own, "strong", &token).await?;
    assert_eq!(sources.keys().collect::<Vec<_>>(), ["primary"]);
    let (found, sources) = answers(&own, "analytics", &token).await?;
    require_same(&wanted, &found, "from the lake")?;
    let of = |source: &str| sources.get(source).copied().unwrap_or_default();
    assert!(of("lake") > 100 && of("primary,lake") > 10, "{sources:?}");
    // An entity that is not there: nothing was read of the lake.
    assert_eq!(of("primary"), 0, "{sources:?}");
    let missing = own
        .get("/v1/entities/thing/X/history?consistency=analytics")
        .await?;
    assert_eq!(problem(&missing, 404)?, "not_found");
    Ok(())
}

async fn execute(server: &TestServer, sql: &str) -> Result<()> {
    let client = server.database.superuser().await?;
    Ok(client.batch_execute(sql).await?)
}

/// What does not say when it arrived.
fn timeless(pages: &[Vec<String>]) -> Result<Vec<Vec<String>>> {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(members) => {
                for name in ["ingested_at", "updated_at"] {
                    members.remove(name);
                }
                members.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let pages = pages.iter().zip(questions());
    // Rows are others where what was archived is not looked up.
    let pages = pages.filter(|(_, (path, _))| !path.contains("corrections"));
    let stripped = pages.map(|(pages, _)| {
        let pages = pages.iter().map(|page| {
            let mut page = serde_json::from_str(page)?;
            strip(&mut page);
            Ok(page.to_string())
        });
        pages.collect::<Result<Vec<_>>>()
    });
    stripped.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_late_is_in_the_history_as_if_nothing_had_been_archived() -> Result<()> {
    let archived = TestServer::start_asking().await?;
    let whole = TestServer::start().await?;
    let mut tokens = Vec::new();
    let mut clients = Vec::new();
    for server in [&archived, &whole] {
        let client = server.tenant("acme").await?;
        declare(&client).await?;
        tokens.push(write(&client, &mut Numbers(0x5eed_0003), 4).await?);
        clients.push(client);
    }
    let covered = [("x-consistency-token", tokens[0].as_str())];
    let path = "/v1/entities/thing/N0/history?consistency=analytics&limit=1";
    let covered = clients[0].request("GET", path, &covered, b"").await?;
    assert_eq!(covered.header("x-data-source"), Some("lake"));
    // A part is archived and gone, a part is closed, and a part goes on.
    execute(
        &archived,
        "UPDATE sheaf.history_boundaries SET archived_before = '2013-01-04T13:00:00Z', closed_before = '2013-01-07T00:00:00Z';
         DELETE FROM sheaf.entity_events WHERE observed_at < '2013-01-04T13:00:00Z'",
    )
    .await?;
    for (client, token) in clients.iter().zip(&mut tokens) {
        *token = write(client, &mut Numbers(0x5eed_0004), 4).await?;
    }
    let late = archived.database.superuser().await?;
    let late = late
        .query_one("SELECT count(*) FROM sheaf.entity_events_late", &[])
        .await?;
    assert!(late.get::<_, i64>(0) > 50, "{late:?}");
    let (wanted, _) = answers(&clients[1], "strong", &tokens[1]).await?;
    let wanted = timeless(&wanted)?;
    for level in ["strong", "analytics"] {
        let (found, _) = answers(&clients[0], level, &tokens[0]).await?;
        let found = timeless(&found)?;
        let asked = questions()
            .into_iter()
            .filter(|(path, _)| !path.contains("corrections"));
        for ((wanted, found), question) in wanted.iter().zip(&found).zip(asked) {
            ensure!(
                wanted == found,
                "{level}: {question:?}: {wanted:?}\nis\n{found:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_cannot_be_read_is_refused_and_what_is_here_is_not() -> Result<()> {
    let server = TestServer::start().await?;
    let own = server.tenant("acme").await?;
    declare(&own).await?;
    write(&own, &mut Numbers(0x5eed_0005), 1).await?;
    execute(
        &server,
        "UPDATE sheaf.history_boundaries SET archived_before = '2013-01-05T00:00:00Z', closed_before = '2013-01-05T00:00:00Z'",
    )
    .await?;
    let of = "/v1/entities/thing/N0";
    for path in [
        "/history",
        "/history?order=desc&limit=1000",
        "/history?bucket=1d",
        "?as_of=2013-01-04T00:00:00Z",
    ] {
        let refused = own.get(&format!("{of}{path}")).await?;
        assert_eq!(problem(&refused, 503)?, "archive_unavailable", "{path}");
        assert!(refused.header("retry-after").is_some(), "{path}");
    }
    for path in [
        "",
        "/history?from=2013-01-05T00:00:00Z",
        "/history?order=desc&limit=1",
        "/history?bucket=1d&from=2013-01-05T00:00:00Z",
    ] {
        let answer = own.get(&format!("{of}{path}")).await?;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.header("x-data-source"), Some("primary"), "{path}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_hides_old_history_at_once_and_nothing_that_is_current() -> Result<()> {
    let server = TestServer::start_asking().await?;
    let (own, other) = (server.tenant("acme").await?, server.tenant("globex").await?);
    let now = Timestamp::now();
    let ago = |days: i64| {
        now.saturating_add_micros(-days * 86_400_000_000)
            .to_string()
    };
    let mut tokens = Vec::new();
    for client in [&own, &other] {
        let events = json!([
            {"type": "thing", "id": "A", "observed_at": ago(40), "attributes": {"old": 1, "x": 1}},
            {"type": "thing", "id": "A", "observed_at": ago(20), "attributes": {"x": 2}},
            {"type": "thing", "id": "A", "observed_at": ago(1), "attributes": {"x": 3}},
        ]);
        let stored = client
            .post("/v1/ingest", JSON, events.to_string().as_bytes())
            .await?;
        tokens.push(token_of(&stored)?);
    }
    let policy = json!({"retention": "30d"}).to_string();
    let headers = [("content-type", JSON)];
    let set = server
        .admin
        .request("PATCH", "/v1/tenants/acme", &headers, policy.as_bytes())
        .await?;
    expect(&set, 200)?;
    for ((client, token), left) in [&own, &other].into_iter().zip(&tokens).zip([2, 3]) {
        let headers = [
            ("x-consistency-token", token.as_str()),
            ("content-type", JSON),
        ];
        for level in ["strong", "analytics"] {
            let items = async |path: &str, body: Option<Value>| -> Result<usize> {
                let method = if body.is_some() { "POST" } else { "GET" };
                let body = body.map(|body| body.to_string()).unwrap_or_default();
                let path = format!("{path}consistency={level}");
                let answer = client
                    .request(method, &path, &headers, body.as_bytes())
                    .await?;
                let answer = expect(&answer, 200)?;
                Ok(answer["items"].as_array().context("items")?.len())
            };
            let of = "/v1/entities/thing/A/history?";
            for path in [
                of.to_owned(),
                format!("{of}order=desc&"),
                format!("{of}bucket=1h&attribute=x&"),
                format!("{of}from={}&", ago(300)),
            ] {
                assert_eq!(items(&path, None).await?, left, "{level} {path}");
            }
            for group in ["entity", "all"] {
                let asked = json!({"attribute": ["x"], "from": ago(300), "group": group});
                assert_eq!(
                    items("/v1/history/query?", Some(asked)).await?,
                    left,
                    "{level} {group}"
                );
            }
            // What stands before the range is as old as it is.
            let previous = format!(
                "{of}bucket=1d&attribute=old&fill=previous&from={}&to={}&consistency={level}",
                ago(3),
                ago(2)
            );
            let found = expect(&client.request("GET", &previous, &headers, b"").await?, 200)?;
            let shown = &found["items"][0]["attributes"]["old"]["avg"];
            assert_eq!(
                *shown,
                if left == 3 { json!(1.0) } else { Value::Null },
                "{level} {found}"
            );
        }
        let current = expect(&client.get("/v1/entities/thing/A").await?, 200)?;
        assert_eq!(current["attributes"], json!({"old": 1.0, "x": 3.0}));
        let path = format!("/v1/entities/thing/A?as_of={}", ago(2));
        let then = expect(&client.get(&path).await?, 200)?;
        assert_eq!(then["attributes"], json!({"old": 1.0, "x": 2.0}));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_the_same_on_both_sides_of_a_boundary_wherever_that_is() -> Result<()> {
    let server = TestServer::start_asking().await?;
    let own = server.tenant("acme").await?;
    declare(&own).await?;
    let mut numbers = Numbers(0x5eed_0002);
    let token = write(&own, &mut numbers, 8).await?;
    let (wanted, _) = answers(&own, "strong", &token).await?;
    // The lake has all of it.
    let covered = own
        .request(
            "GET",
            "/v1/entities/thing/N0/history?consistency=analytics&limit=1",
            &[("x-consistency-token", token.as_str())],
            b"",
        )
        .await?;
    assert_eq!(covered.header("x-data-source"), Some("lake"));
    for (boundary, forgotten) in [
        ("2013-01-04T13:00:00Z", None),
        ("2013-01-04T13:00:00Z", Some("2013-01-03T02:00:00Z")),
        ("2013-01-04T13:00:00Z", Some("2013-01-04T13:00:00Z")),
        ("2013-01-08T00:00:00Z", Some("2013-01-08T00:00:00Z")),
        ("2014-01-01T00:00:00Z", Some("2014-01-01T00:00:00Z")),
    ] {
        let mut sql = format!(
            "UPDATE sheaf.history_boundaries SET closed_before = '{boundary}', archived_before = '{boundary}';"
        );
        if let Some(before) = forgotten {
            sql.push_str(&format!(
                "DELETE FROM sheaf.entity_events WHERE observed_at < '{before}';"
            ));
        }
        execute(&server, &sql).await?;
        let (found, sources) = answers(&own, "strong", &token).await?;
        require_same(
            &wanted,
            &found,
            &format!("{boundary}, {forgotten:?} forgotten"),
        )?;
        assert!(sources.contains_key("primary,lake"), "{sources:?}");
    }
    Ok(())
}
