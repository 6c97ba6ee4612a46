//! A server for one test.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::Value;
use sheaf_cdc::journal::{self, Journal};
use sheaf_cdc::stream::{ChangeStream, StreamOptions};
use sheaf_ingest::{Admission, Rates, Staging, StagingOptions, Writer};
use sheaf_lake::analytics::{LakeReader, ReaderOptions};
use sheaf_lake::{LakeOptions, LakeSink};
use sheaf_model::{Limits, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_query::Reader;
use sheaf_server::{
    AppState, Bounds, ChangeFeed, Check, CheckStatus, LakeArchive, PgWireBounds, ReadinessCheck,
};
use sheaf_store::catalogue::Catalogues;
use sheaf_store::keys::{ApiKey, insert_admin_key};
use sheaf_store::settings::Settings;
use sheaf_testkit::{HttpClient, HttpResponse, ScratchDir, TestDatabase, wait_until};
use tokio::sync::{Notify, watch};

/// A server with a database of its own; it ends with this value.
pub(crate) struct TestServer {
    pub(crate) database: Arc<TestDatabase>,
    pub(crate) anonymous: HttpClient,
    pub(crate) admin: HttpClient,
    pub(crate) authority: String,
    /// Where PostgreSQL's protocol is served.
    pub(crate) pgwire: SocketAddr,
    pub(crate) admin_key: String,
    /// What reads the lake, where there is one.
    pub(crate) lake: Option<LakeReader>,
    pub(crate) wake_upkeep: Arc<Notify>,
    stop: Option<watch::Sender<bool>>,
    following: Option<Following>,
    /// The flushers go on while it lives.
    _flushing: watch::Sender<bool>,
}

/// What a server has beside what every one has.
#[derive(Default)]
struct Parts {
    admission: Option<Admission>,
    staging: Option<StagingOptions>,
    following: Option<Following>,
    lake: Option<LakeReader>,
    pgwire: PgWireBounds,
}

/// A change stream into a journal.
struct Following {
    feed: ChangeFeed,
    /// What reads the lake that is fed too, where one is.
    lake: Option<LakeReader>,
    stop: watch::Sender<bool>,
    _dir: ScratchDir,
}

impl Following {
    async fn start(
        database: &TestDatabase,
        kept: journal::Bounds,
        has_lake: bool,
    ) -> Result<Following> {
        // As in a database that was migrated itself: a copy of a template has not its rights.
        let name = database.name();
        let grant = format!("GRANT CREATE ON DATABASE {name} TO sheaf_owner");
        database.superuser().await?.batch_execute(&grant).await?;
        let dir = ScratchDir::new("journal")?;
        let config = database.config("sheaf_cdc");
        let pool = Pool::new(&config, 4, &Tls::none());
        let app = Pool::new(&database.config("sheaf_app"), 1, &Tls::none());
        let settings = Settings::read(&app).await?;
        let journal_dir = dir.path().join("journal");
        let (sink, journal) = Journal::new("journal", &journal_dir, kept, settings.system_id);
        let mut options = StreamOptions::new(format!("slot_{name}"));
        let mut sinks: Vec<Box<dyn sheaf_cdc::sink::Sink>> = vec![Box::new(sink)];
        let mut lake = None;
        if has_lake {
            // Nobody beats here, and a token that was waited for covers the log's end.
            options.idle_confirm_every = std::time::Duration::from_secs(1);
            let written = LakeOptions::in_folder(dir.path().join("lake"));
            let read = ReaderOptions::of(&written, options.slot.clone());
            sinks.push(Box::new(LakeSink::new(&pool, written)?));
            let app = Pool::new(&database.config("sheaf_app"), 4, &Tls::none());
            let reader = LakeReader::new(&app, Arc::new(settings), read)?;
            tokio::spawn(reader.clone().watch());
            lake = Some(reader);
        }
        let (stream, status) = ChangeStream::new(pool, config, Tls::none(), options, sinks);
        let (stop, stopped) = watch::channel(false);
        let feed = ChangeFeed {
            journal,
            sink: "journal",
            status,
            stop: stopped.clone(),
        };
        tokio::spawn(stream.run(stopped));
        let follows = async || feed.journal.kept().is_some() && feed.status.borrow().is_following;
        wait_until(
            "changes are followed",
            std::time::Duration::from_secs(120),
            follows,
        )
        .await;
        Ok(Following {
            feed,
            lake,
            stop,
            _dir: dir,
        })
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(true);
        }
    }
}

impl TestServer {
    pub(crate) async fn start() -> Result<TestServer> {
        TestServer::start_with(Bounds::default(), Limits::DEFAULT).await
    }

    pub(crate) async fn start_with(bounds: Bounds, limits: Limits) -> Result<TestServer> {
        TestServer::start_on(Arc::new(TestDatabase::create().await?), bounds, limits).await
    }

    /// One that admits within these rates, with room for so many bytes of bodies.
    pub(crate) async fn start_admitting(rates: Rates, body_bytes_max: usize) -> Result<TestServer> {
        let database = Arc::new(TestDatabase::create().await?);
        let limits = Limits::DEFAULT;
        let parts = Parts {
            admission: Some(Admission::new(rates, body_bytes_max)),
            ..Parts::default()
        };
        TestServer::start_within(database, Bounds::default(), limits, parts).await
    }

    /// One that stages.
    pub(crate) async fn start_staging(options: StagingOptions) -> Result<TestServer> {
        let database = Arc::new(TestDatabase::create().await?);
        let parts = Parts {
            staging: Some(options),
            ..Parts::default()
        };
        TestServer::start_within(database, Bounds::default(), Limits::DEFAULT, parts).await
    }

    /// One that follows changes, of which it keeps so many.
    pub(crate) async fn start_following(
        bounds: Bounds,
        limits: Limits,
        kept: journal::Bounds,
    ) -> Result<TestServer> {
        let database = Arc::new(TestDatabase::create().await?);
        let parts = Parts {
            following: Some(Following::start(&database, kept, false).await?),
            ..Parts::default()
        };
        TestServer::start_within(database, bounds, limits, parts).await
    }

    /// One with a lake that is fed.
    pub(crate) async fn start_asking() -> Result<TestServer> {
        TestServer::start_asking_within(PgWireBounds::default()).await
    }

    /// The same, with these bounds on PostgreSQL's protocol.
    pub(crate) async fn start_asking_within(pgwire: PgWireBounds) -> Result<TestServer> {
        let database = Arc::new(TestDatabase::create().await?);
        let following = Following::start(&database, journal::Bounds::of(1 << 20), true).await?;
        let parts = Parts {
            lake: following.lake.clone(),
            following: Some(following),
            pgwire,
            ..Parts::default()
        };
        TestServer::start_within(database, Bounds::default(), Limits::DEFAULT, parts).await
    }

    /// One with a lake that was filled by hand.
    pub(crate) async fn start_reading(
        database: Arc<TestDatabase>,
        lake: LakeReader,
    ) -> Result<TestServer> {
        let parts = Parts {
            lake: Some(lake),
            ..Parts::default()
        };
        TestServer::start_within(database, Bounds::default(), Limits::DEFAULT, parts).await
    }

    /// Changes are not followed any more, and who follows them here is told that the server stops.
    pub(crate) fn stop_following(&mut self) {
        if let Some(following) = &self.following {
            following.stop.send_replace(true);
        }
    }

    /// A further server on a database, as another process would be one.
    pub(crate) async fn start_on(
        database: Arc<TestDatabase>,
        bounds: Bounds,
        limits: Limits,
    ) -> Result<TestServer> {
        TestServer::start_within(database, bounds, limits, Parts::default()).await
    }

    async fn start_within(
        database: Arc<TestDatabase>,
        bounds: Bounds,
        limits: Limits,
        parts: Parts,
    ) -> Result<TestServer> {
        let Parts {
            admission,
            staging,
            following,
            lake,
            pgwire,
        } = parts;
        let admission = admission
            .unwrap_or_else(|| Admission::new(Rates::default(), 4 * limits.body_bytes_max));
        let pool = |role: &str| Pool::new(&database.config(role), 4, &Tls::none());
        let app = pool("sheaf_app");
        let settings = Arc::new(Settings::read(&app).await?);
        let catalogues = Arc::new(Catalogues::new(app.clone()));
        let (mut writer, _task) = Writer::start(
            app.clone(),
            pool("sheaf_writer"),
            Arc::clone(&settings),
            Arc::clone(&catalogues),
            limits,
        );
        let (flushing, stopped) = watch::channel(false);
        if let Some(options) = staging {
            let pool = pool("sheaf_writer").beside(options.flushers + 3);
            let (staging, _tasks) = Staging::start(pool, Arc::clone(&settings), options, &stopped);
            writer = writer.staging_through(staging);
        }
        let reader = Reader::new(
            app.clone(),
            pool("sheaf_search"),
            Arc::clone(&settings),
            Arc::clone(&catalogues),
        );
        let reader = match &lake {
            Some(lake) => reader.with_archive(Arc::new(LakeArchive(lake.clone()))),
            None => reader,
        };
        let key = ApiKey::generate();
        insert_admin_key(&pool("sheaf_upkeep"), &key, Timestamp::now()).await?;
        let wake_upkeep = Arc::new(Notify::new());
        let reading = lake.clone();
        let state = AppState {
            app,
            settings,
            catalogues,
            admission,
            writer,
            reader,
            lake,
            changes: following.as_ref().map(|following| following.feed.clone()),
            wake_upkeep: Arc::clone(&wake_upkeep),
            metrics: metrics(),
            readiness: vec![always_ready()],
            limits,
            bounds,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let authority = listener.local_addr()?.to_string();
        let pgwire_listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let pgwire_address = pgwire_listener.local_addr()?;
        let (router, pgwire) = sheaf_server::router_and_pgwire(state, pgwire);
        let (stop, stopped) = watch::channel(false);
        let until = async |mut stopped: watch::Receiver<bool>| {
            let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
        };
        tokio::spawn(sheaf_server::serve(
            listener,
            router,
            CONNECTIONS_MAX,
            until(stopped.clone()),
        ));
        tokio::spawn(sheaf_server::serve_pgwire(
            pgwire_listener,
            pgwire,
            until(stopped),
        ));
        let anonymous = HttpClient::new(&format!("http://{authority}"))?;
        Ok(TestServer {
            database,
            admin: anonymous.with_key(key.reveal()),
            anonymous,
            authority,
            pgwire: pgwire_address,
            admin_key: key.reveal().to_owned(),
            lake: reading,
            wake_upkeep,
            stop: Some(stop),
            following,
            _flushing: flushing,
        })
    }

    /// A new tenant's client, with a key that reads and writes.
    pub(crate) async fn tenant(&self, name: &str) -> Result<HttpClient> {
        let body = serde_json::json!({ "name": name }).to_string();
        let created = self
            .admin
            .post("/v1/tenants", JSON, body.as_bytes())
            .await?;
        let key = expect(&created, 201)?["key"]["key"]
            .as_str()
            .context("a key")?
            .to_owned();
        Ok(self.anonymous.with_key(&key))
    }

    /// A further key of a tenant.
    pub(crate) async fn key(&self, tenant: &str, body: &str) -> Result<Value> {
        let created = self
            .admin
            .post(&format!("/v1/tenants/{tenant}/keys"), JSON, body.as_bytes())
            .await?;
        expect(&created, 201)
    }
}

/// More than any test needs.
pub(crate) const CONNECTIONS_MAX: usize = 1_000;

pub(crate) const JSON: &str = "application/json";

/// One recorder for the process, as the executable has.
fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            PrometheusBuilder::new()
                .install_recorder()
                .expect("no other recorder")
        })
        .clone()
}

fn always_ready() -> ReadinessCheck {
    Arc::new(|| {
        Box::pin(async {
            Check {
                name: "primary".to_owned(),
                status: CheckStatus::Ok,
                detail: "answers".to_owned(),
            }
        })
    })
}

/// The JSON of an answer that must have this status.
pub(crate) fn expect(response: &HttpResponse, status: u16) -> Result<Value> {
    ensure!(
        response.status == status,
        "status {} and not {status}: {}",
        response.status,
        response.text()
    );
    response.json()
}

/// The code of a problem that must have this status and the form that every problem has.
pub(crate) fn problem(response: &HttpResponse, status: u16) -> Result<String> {
    let body = expect(response, status)?;
    ensure!(
        response.header("content-type") == Some("application/problem+json"),
        "{:?}",
        response.headers
    );
    let code = body["code"].as_str().context("a code")?;
    ensure!(body["type"] == format!("/docs/errors/{code}"), "{body}");
    ensure!(body["status"] == status, "{body}");
    ensure!(
        body["title"].is_string() && body["detail"].is_string(),
        "{body}"
    );
    ensure!(
        body["request_id"].as_str() == response.header("x-request-id"),
        "{body} {:?}",
        response.headers
    );
    Ok(code.to_owned())
}

/// PATCH, PUT and other methods with a JSON body.
pub(crate) async fn send(
    client: &HttpClient,
    method: &str,
    path: &str,
    body: &str,
) -> Result<HttpResponse> {
    client
        .request(method, path, &[("content-type", JSON)], body.as_bytes())
        .await
}

/// The headers that every read has.
pub(crate) fn is_fresh_read(response: &HttpResponse) -> Result<()> {
    ensure!(
        response.header("x-data-source") == Some("primary"),
        "{:?}",
        response.headers
    );
    ensure!(
        response.header("x-data-lag-seconds") == Some("0.000"),
        "{:?}",
        response.headers
    );
    ensure!(
        response.header("x-cache-hit") == Some("false"),
        "{:?}",
        response.headers
    );
    ensure!(
        response.header("x-consistency-level").is_some(),
        "{:?}",
        response.headers
    );
    let time = response.header("x-data-timestamp").context("a timestamp")?;
    ensure!(Timestamp::parse(time).is_ok(), "{time}");
    ensure!(
        response
            .header("x-consistency-token")
            .is_some_and(|token| token.starts_with("t1.")),
        "{:?}",
        response.headers
    );
    Ok(())
}
