//! Changes that are posted: each is received, whatever the receiver does, and nobody is called who may not be.

mod receiver;
mod world;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sheaf_cdc::change::{Batch, Origin};
use sheaf_cdc::conformance::{self, Place, change};
use sheaf_cdc::http::{
    Addresses, Headers, HttpOptions, HttpSink, Resolve, SystemResolver, Target, Trust,
};
use sheaf_cdc::letter::{Letter, LetterReason};
use sheaf_cdc::sink::{Sink, SinkError};
use sheaf_cdc::status::SinkState;
use sheaf_model::{ChangePosition, LetterId, Lsn};
use sheaf_testkit::{Injected, wait_until};

use receiver::{Manner, Receiver};
use world::{WITHIN, World, event};

const LOOPBACK: &str = "127.0.0.0/8";

fn options(url: &str, allowed: &[&str]) -> Result<HttpOptions> {
    let allowed = allowed.iter().map(|text| text.parse());
    Ok(HttpOptions {
        target: Target::parse(url)?,
        headers: Headers::parse("Authorization: Bearer s3cret")?,
        allowed: allowed.collect::<Result<_, _>>()?,
        trust: Trust::public(),
        deadline: Duration::from_secs(20),
        resolver: Arc::new(SystemResolver),
    })
}

fn sink_to(receiver: &Receiver) -> Result<HttpSink> {
    let url = format!("http://{}/changes", receiver.address());
    Ok(HttpSink::new("http", options(&url, &[LOOPBACK])?))
}

/// What went wrong, with its causes, as a log shows it.
fn told(error: &SinkError) -> String {
    sheaf_pg::chain(error)
}

fn at(commit_lsn: u64) -> ChangePosition {
    ChangePosition::before(1, Lsn(commit_lsn))
}

fn batch(commit_lsn: u64, changes: u64) -> Batch {
    Batch {
        origin: Origin::Stream,
        changes: (1..=changes)
            .map(|ordinal| change(1, commit_lsn, ordinal))
            .collect(),
        is_end: true,
    }
}

impl Place for Receiver {
    fn open(&self) -> Box<dyn Sink> {
        Box::new(sink_to(self).expect("a sink"))
    }

    fn found(&self) -> Pin<Box<dyn Future<Output = Vec<ChangePosition>> + '_>> {
        Box::pin(async { self.positions() })
    }

    fn keeps_order(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_receiver_that_knows_positions_holds_each_change_once() -> Result<()> {
    let receiver = Receiver::start("127.0.0.1:0").await?;
    conformance::check(&receiver).await?;
    Ok(())
}

#[tokio::test]
async fn requests_have_their_headers_a_bounded_size_and_one_connection() -> Result<()> {
    let receiver = Receiver::start("127.0.0.1:0").await?;
    let mut sink = sink_to(&receiver)?;
    sink.begin(at(100)).await?;
    let large = batch(200, 5_000);
    sink.apply(&large).await?;
    assert_eq!(receiver.positions().len(), 5_000);
    let requests = receiver.requests();
    assert!(requests.len() > 3, "{} requests", requests.len());
    for request in &requests {
        assert_eq!(request.path, "/changes");
        assert_eq!(request.header("content-type"), "application/x-ndjson");
        assert_eq!(request.header("authorization"), "Bearer s3cret");
        assert_eq!(request.header("host"), receiver.address().to_string());
        assert_eq!(request.header("idempotency-key").len(), 64);
        assert!(request.bytes <= 512 << 10, "{} bytes", request.bytes);
    }
    let last = requests.last().context("a request")?;
    assert_eq!(last.header("x-change-position"), "1:0/C8:5000");
    let mut keys: Vec<&str> = requests
        .iter()
        .map(|request| request.header("idempotency-key"))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), requests.len(), "a key for each body");
    assert_eq!(receiver.connections(), 1);
    Ok(())
}

#[tokio::test]
async fn what_was_not_answered_by_a_success_is_posted_again_with_the_same_key() -> Result<()> {
    let failed = Injected::new("failure of a receiver");
    for manner in [
        Manner::Answer(500),
        Manner::Answer(404),
        Manner::Answer(429),
        Manner::TakeAndAnswer(503),
        Manner::TakeAndCut,
        Manner::TakeAndHang,
        Manner::Hang,
    ] {
        let receiver = Receiver::start("127.0.0.1:0").await?;
        let url = format!("http://{}/", receiver.address());
        let mut sink = HttpSink::new(
            "http",
            HttpOptions {
                deadline: Duration::from_millis(500),
                ..options(&url, &[LOOPBACK])?
            },
        );
        sink.begin(at(100)).await?;
        sink.apply(&batch(200, 3)).await?;
        // A connection that was used before is tried once more.
        receiver.behave([manner, manner]);
        let outcome = sink.apply(&batch(300, 3)).await;
        let error = told(
            &outcome
                .err()
                .with_context(|| format!("{manner:?} is a success"))?,
        );
        failed.count();
        ensure!(!error.contains("s3cret"), "{error}");
        receiver.behave([]);
        // As a lane goes on: from what was stored, which is less than was taken.
        assert_eq!(sink.held().await?, sheaf_cdc::sink::Held::Untracked);
        let mut stored = sheaf_cdc::change::Progress::begun(at(100));
        stored.stream = Some(batch(200, 2).changes[1].position);
        sink.resume(stored);
        sink.apply(&batch(200, 3)).await?;
        let held = sink.apply(&batch(300, 3)).await?;
        assert_eq!(held.stream, Some(batch(300, 3).changes[2].position));
        let wanted = [batch(200, 3), batch(300, 3)].concat_positions();
        assert_eq!(receiver.positions(), wanted, "{manner:?}");
        let requests = receiver.requests();
        let of_last: Vec<_> = requests
            .iter()
            .filter(|request| request.header("x-change-position") == "1:0/12C:3")
            .collect();
        assert!(of_last.len() >= 2, "{manner:?}: {of_last:?}");
        let key = of_last[0].header("idempotency-key");
        assert!(
            of_last
                .iter()
                .all(|request| request.header("idempotency-key") == key),
            "{manner:?}: {of_last:?}"
        );
        // What was answered by a success is not posted again, although less was stored.
        let of_first = requests.len() - of_last.len();
        assert_eq!(of_first, 2, "{manner:?}: {requests:?}");
    }
    failed.require();
    Ok(())
}

trait Positions {
    fn concat_positions(&self) -> Vec<ChangePosition>;
}

impl<const N: usize> Positions for [Batch; N] {
    fn concat_positions(&self) -> Vec<ChangePosition> {
        let changes = self.iter().flat_map(|batch| &batch.changes);
        changes.map(|change| change.position).collect()
    }
}

#[tokio::test]
async fn nobody_is_called_whom_the_settings_do_not_allow() -> Result<()> {
    let receiver = Receiver::start("0.0.0.0:0").await?;
    let port = receiver.address().port();
    let refused = Injected::new("url that leads where nobody may be called");
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "localhost",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::]",
        "169.254.169.254",
        "[64:ff9b::7f00:1]",
    ] {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{host}:{port}/");
            let mut sink = HttpSink::new("http", options(&url, &["10.0.0.0/8"])?);
            let error = sink.begin(at(100)).await.err().context(url.clone())?;
            let error = told(&error);
            let is_refused = error.contains("is called only where the settings allow it")
                // Some forms are no address to this machine's resolver, which is as good.
                || error.contains("looking up");
            assert!(is_refused, "{url}: {error}");
            refused.count();
        }
    }
    assert_eq!(receiver.connections(), 0);
    // The same address, allowed, is called: the refusals were not for want of anybody who answers.
    let url = format!("http://[::ffff:127.0.0.1]:{port}/");
    HttpSink::new("http", options(&url, &["127.0.0.1"])?)
        .begin(at(100))
        .await?;
    assert_eq!(receiver.connections(), 1);
    refused.require();
    Ok(())
}

#[tokio::test]
async fn where_a_redirect_leads_is_not_looked_at() -> Result<()> {
    let (receiver, elsewhere) = (
        Receiver::start("127.0.0.1:0").await?,
        Receiver::start("127.0.0.1:0").await?,
    );
    let redirected = Injected::new("redirect");
    for status in [301, 302, 303, 307, 308] {
        let mut sink = sink_to(&receiver)?;
        receiver.behave([Manner::Redirect(status, elsewhere.address())]);
        let error = told(&sink.begin(at(100)).await.err().context("a redirect")?);
        assert!(error.contains("redirects are not followed"), "{error}");
        redirected.count();
    }
    assert_eq!(elsewhere.connections(), 0);
    redirected.require();
    Ok(())
}

/// Answers otherwise each time that it is asked.
struct Rebinding {
    answers: Vec<Vec<IpAddr>>,
    asked: Arc<AtomicUsize>,
}

impl Resolve for Rebinding {
    fn resolve<'a>(&'a self, _host: &'a str) -> Addresses<'a> {
        let place = self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers[place.min(self.answers.len() - 1)].clone();
        Box::pin(async move { Ok(answer) })
    }
}

#[tokio::test]
async fn the_address_that_was_judged_is_the_one_that_is_called() -> Result<()> {
    let receiver = Receiver::start("127.0.0.1:0").await?;
    let port = receiver.address().port();
    let inside = Receiver::start(&format!("127.0.0.2:{port}")).await?;
    let asked = Arc::<AtomicUsize>::default();
    let (good, bad): (IpAddr, IpAddr) = ("127.0.0.1".parse()?, "127.0.0.2".parse()?);
    let resolver = Rebinding {
        answers: vec![vec![good], vec![bad], vec![bad, good], vec![]],
        asked: Arc::clone(&asked),
    };
    let url = format!("http://receiver.example:{port}/");
    let mut sink = HttpSink::new(
        "http",
        HttpOptions {
            resolver: Arc::new(resolver),
            ..options(&url, &["127.0.0.1"])?
        },
    );
    sink.begin(at(100)).await?;
    sink.apply(&batch(200, 1)).await?;
    // One answer for all of a connection: nothing asks a second time between the judgement and the call.
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(
        receiver.requests()[0].header("host"),
        format!("receiver.example:{port}")
    );
    receiver.behave([Manner::TakeAndCut]);
    // The next connection has a new answer, which is judged.
    let error = told(&sink.apply(&batch(300, 1)).await.err().context("refused")?);
    assert!(error.contains("127.0.0.2 is this machine"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    // Of several, those are tried that may be.
    sink.apply(&batch(300, 1)).await?;
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    receiver.behave([Manner::TakeAndCut]);
    let error = told(&sink.apply(&batch(400, 1)).await.err().context("nowhere")?);
    assert!(error.contains("looking up receiver.example"), "{error}");
    assert_eq!(inside.connections(), 0);
    Ok(())
}

#[tokio::test]
async fn an_answer_without_end_costs_neither_memory_nor_time() -> Result<()> {
    let receiver = Receiver::start("127.0.0.1:0").await?;
    let mut sink = sink_to(&receiver)?;
    receiver.behave([Manner::TakeAndPour, Manner::TakeAndTrickle]);
    // What the receiver said is heard, and its connection is not used again.
    sink.begin(at(100)).await?;
    sink.apply(&batch(200, 2)).await?;
    sink.apply(&batch(300, 2)).await?;
    assert_eq!(receiver.connections(), 3);
    let poured = receiver.poured();
    assert!(poured < 32 << 20, "{poured} bytes were taken");
    Ok(())
}

#[tokio::test]
async fn a_success_counts_however_long_its_rest_takes() -> Result<()> {
    let receiver = Receiver::start("127.0.0.1:0").await?;
    let url = format!("http://{}/changes", receiver.address());
    let options = HttpOptions {
        // Shorter than the rest of an answer is waited for.
        deadline: Duration::from_millis(500),
        ..options(&url, &[LOOPBACK])?
    };
    let mut sink = HttpSink::new("http", options);
    // The machine may be slow now and then; the rest never comes.
    for _ in 0..20 {
        receiver.behave([Manner::TakeAndTrickle]);
        match sink.begin(at(100)).await {
            Ok(()) => return Ok(()),
            Err(error) => ensure!(told(&error).contains("no answer within"), "{error:?}"),
        }
    }
    anyhow::bail!("a success with a slow rest is a failure")
}

#[tokio::test]
async fn an_encrypted_receiver_is_called_by_its_name_and_certificate() -> Result<()> {
    let (receiver, certificate) = Receiver::start_encrypted("localhost").await?;
    let url = format!("https://localhost:{}/", receiver.address().port());
    let with = |trust| -> Result<HttpSink> {
        let options = options(&url, &[LOOPBACK, "::1"])?;
        Ok(HttpSink::new("http", HttpOptions { trust, ..options }))
    };
    with(Trust::only(&certificate)?)?.begin(at(100)).await?;
    assert_eq!(receiver.requests().len(), 1);
    let error = with(Trust::public())?.begin(at(100)).await;
    let error = told(&error.err().context("a certificate of nobody known")?);
    assert!(
        error.contains("encrypting the connection to localhost"),
        "{error}"
    );
    let url = format!("https://127.0.0.1:{}/", receiver.address().port());
    let options = HttpOptions {
        trust: Trust::only(&certificate)?,
        ..options(&url, &[LOOPBACK])?
    };
    let error = HttpSink::new("http", options).begin(at(100)).await;
    told(&error.err().context("a certificate of another name")?);
    assert_eq!(receiver.requests().len(), 1);
    Trust::only(b"no certificate").err().context("none")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_arrives_at_a_receiver_that_fails_again_and_again() -> Result<()> {
    let world = World::create().await?;
    let receiver = Receiver::start("127.0.0.1:0").await?;
    let before: Vec<String> = (0..60).map(|n| event(n, n, n)).collect();
    world.ingest(&before).await?;
    let failed = Injected::new("failure of a receiver under a stream");
    receiver.behave([Manner::TakeAndAnswer(503), Manner::Answer(500)]);
    let sinks: Vec<Box<dyn Sink>> = vec![Box::new(sink_to(&receiver)?)];
    let mut running = world.stream(world.options(), sinks);
    running
        .wait_for("it streams", |status| {
            status.sinks[0].state == SinkState::Streaming
        })
        .await;
    for (round, manner) in [
        Manner::TakeAndCut,
        Manner::Answer(500),
        Manner::TakeAndAnswer(502),
        Manner::Answer(403),
    ]
    .into_iter()
    .enumerate()
    {
        let before = running.status.borrow().sinks[0].failures;
        receiver.behave([manner, manner, manner]);
        let lines: Vec<String> = (0..30)
            .map(|n| event(n, 100 * (round + 1) + n, n))
            .collect();
        world.ingest(&lines).await?;
        running
            .wait_for("it failed", |status| status.sinks[0].failures > before)
            .await;
        failed.count();
    }
    receiver.behave([]);
    let stored = world::events(&world.database.superuser().await?).await?;
    wait_until("every event has arrived", WITHIN, async || {
        receiver.of_table("entity_events").len() >= stored.len()
    })
    .await;
    assert_eq!(receiver.of_table("entity_events").len(), stored.len());
    assert_eq!(receiver.of_table("entities").len(), 60);
    // Names come before what is observed of them, and events in the order of their positions.
    let positions = receiver.stream_positions();
    assert!(positions.is_sorted(), "{positions:?}");
    world.wait_confirmed().await?;
    running.stop().await?;
    failed.require();
    Ok(())
}

#[tokio::test]
async fn a_letter_is_posted_with_its_own_position_and_holds_no_more() -> Result<()> {
    let receiver = Receiver::start("127.0.0.1:0").await?;
    let mut sink = sink_to(&receiver)?;
    sink.begin(at(100)).await?;
    sink.apply(&batch(300, 2)).await?;
    let held = sink.flush().await?;
    let late = [1, 2].map(|ordinal| Letter {
        id: LetterId::new(),
        origin: Origin::Stream,
        change: change(1, 200, ordinal),
    });
    assert_eq!(sink.replay(&late).await?, []);
    let requests = receiver.requests();
    let last: Vec<&str> = requests[requests.len() - 2..]
        .iter()
        .map(|request| request.header("x-change-position"))
        .collect();
    assert_eq!(last, ["1:0/C8:1", "1:0/C8:2"]);
    assert_eq!(sink.flush().await?, held);
    Ok(())
}

#[tokio::test]
async fn a_change_that_the_receiver_refuses_alone_is_refused_and_the_others_are_taken() -> Result<()>
{
    let refused = Injected::new("change that the receiver refuses");
    let receiver = Receiver::start("127.0.0.1:0").await?;
    let mut sink = sink_to(&receiver)?;
    sink.begin(at(100)).await?;
    let changes = batch(200, 9);
    let places: Vec<_> = changes
        .changes
        .iter()
        .map(|change| change.position)
        .collect();
    receiver.refuse(places[4], 422);
    receiver.refuse(places[8], 413);
    for round in 0..2 {
        let held = sink.apply(&changes).await?;
        refused.count();
        // No further before what was refused is kept: with it the process may die.
        assert_eq!(held.stream, Some(places[3]));
        if round == 0 {
            // As after an error of keeping it.
            sink.resume(held);
        }
    }
    let refusals = sink.take_refused();
    let told: Vec<_> = refusals
        .iter()
        .map(|refusal| (refusal.position, refusal.reason, refusal.detail.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (
                places[4],
                LetterReason::Refused,
                "the answer is 422 Unprocessable Entity"
            ),
            (
                places[8],
                LetterReason::Refused,
                "the answer is 413 Payload Too Large"
            ),
        ]
    );
    assert!(sink.take_refused().is_empty(), "each is said once");
    assert_eq!(sink.flush().await?.stream, Some(places[8]));
    let mut taken = places.clone();
    taken.retain(|place| *place != places[4] && *place != places[8]);
    assert_eq!(receiver.positions(), taken);
    refused.require();
    Ok(())
}

#[tokio::test]
async fn a_letter_is_refused_by_an_answer_about_it_and_kept_by_one_about_us() -> Result<()> {
    let receiver = Receiver::start("127.0.0.1:0").await?;
    let mut sink = sink_to(&receiver)?;
    sink.begin(at(100)).await?;
    let letter = [Letter {
        id: LetterId::new(),
        origin: Origin::Stream,
        change: change(1, 200, 1),
    }];
    for status in [400, 404, 409, 410, 413, 415, 422] {
        receiver.refuse(letter[0].change.position, status);
        let refused = sink.replay(&letter).await?;
        assert_eq!(refused.len(), 1, "{status}");
        assert_eq!(refused[0].reason, LetterReason::Refused);
    }
    for status in [401, 403, 408, 429, 500, 503] {
        receiver.refuse(letter[0].change.position, status);
        sink.replay(&letter).await.err().context(status)?;
    }
    receiver.refuse_nothing();
    assert_eq!(sink.replay(&letter).await?, []);
    assert_eq!(receiver.positions(), [letter[0].change.position]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_that_were_answered_before_an_error_are_not_posted_again() -> Result<()> {
    let failed = Injected::new("failure of a receiver among letters");
    let world = World::create().await?;
    let receiver = Receiver::start("127.0.0.1:0").await?;
    world.ingest(&[event(1, 1, 1)]).await?;
    let sinks: Vec<Box<dyn Sink>> = vec![Box::new(sink_to(&receiver)?)];
    let mut running = world.stream(world.options(), sinks);
    running
        .wait_for("it streams", |status| {
            status.sinks[0].state == SinkState::Streaming
        })
        .await;
    // Refused one by one.
    receiver.behave([Manner::Answer(422); 7]);
    let lines: Vec<String> = (0..4).map(|n| event(1, 10 + 3 * n, n)).collect();
    world.ingest(&lines).await?;
    let count =
        "SELECT count(*)::text FROM sheaf.dead_letters WHERE reason = 'refused' AND status = ";
    let are = async |status: &str, wanted: usize| {
        let found = world.text(&format!("{count}'{status}'")).await;
        found.is_ok_and(|found| found == wanted.to_string())
    };
    wait_until("all are letters", WITHIN, async || are("open", 4).await).await;
    let before = receiver.requests().len();
    assert_eq!(running.status.borrow().sinks[0].failures, 0);
    // The first is answered, the second fails once.
    receiver.behave([Manner::TakeAndAnswer(200), Manner::Answer(503)]);
    world
        .execute("UPDATE sheaf.dead_letters SET status = 'replay_asked'")
        .await?;
    wait_until("all are taken", WITHIN, async || are("replayed", 4).await).await;
    failed.count();
    assert_eq!(receiver.requests().len(), before + 5);
    assert_eq!(receiver.of_table("entity_events").len(), 5);
    running.stop().await?;
    failed.require();
    Ok(())
}
