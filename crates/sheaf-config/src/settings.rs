//! The validated settings, and every default with the argument for it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::archive::Archive;
use crate::cache::{Cache, Redis};
use crate::changes::Changes;
use crate::database_url::{DatabaseUrl, HostPort};
use crate::error::{ConfigError, ValueFault};
use crate::lake::Lake;
use crate::pgwire::PgWire;
use crate::reader::{Reader, Shown};
use crate::secret::Secret;
use crate::staging::Staging;
use crate::streams::Streams;

/// The loopback address: a server that answers other machines is a decision.
const LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7070);
/// 64 MiB decompressed holds some 100,000 events of ten values. A body is held in memory as a whole: larger makes a
/// few clients able to fill it, smaller makes bulk loads pay more round trips.
const BODY_BYTES_MAX: i64 = 64 << 20;
const BODY_BYTES_LEAST: i64 = 1 << 10;
const BODY_BYTES_MOST: i64 = 1 << 30;
/// Point reads take below a millisecond, so that 16 connections serve some 10,000 a second; PostgreSQL's default
/// limit of 100 connections must hold several servers. Fewer queue sooner, more only move the queue into PostgreSQL.
const APP_CONNECTIONS: i64 = 16;
/// Filters may take long and use a core each: half of the point readers, so that they cannot occupy them all.
const SEARCH_CONNECTIONS: i64 = 8;
/// Writes are grouped, one transaction a lane: more connections than lanes are never used.
const WRITER_CONNECTIONS: i64 = 4;
/// PostgreSQL itself degrades beyond some hundreds.
const CONNECTIONS_MAX: i64 = 1000;

/// The most that a rate can say; more than any server stores is no limit.
const PER_SECOND_MAX: i64 = 1_000_000_000_000;
/// Each holds its body in memory until it is stored, and a tenant is fastest with a few at once. Fewer refuse clients
/// that connect from many places; more let one tenant wait in front of all others.
const REQUESTS_CONCURRENT: i64 = 128;
const REQUESTS_CONCURRENT_MAX: i64 = 100_000;

/// How long the ledger remembers a request: agents that keep what they could not send retry for days, over a long weekend
/// and what follows. A request takes some 400 bytes with its parts, so that a hundred a second are 24 GB in a week. Longer
/// costs that much more; past it, events with times are still found to be there, and only those without are stored again.
const IDEMPOTENCY_HORIZON: &str = "1w";
const IDEMPOTENCY_HORIZON_LEAST: &str = "1h";
const IDEMPOTENCY_HORIZON_MOST: &str = "365d";

/// The indexes of the newest partition are what every write touches; documents, the history that is read and everything
/// else need the rest. More makes fewer and wider partitions that push the rest out, less makes more partitions, each a
/// cost to every read.
const PARTITION_MEMORY_PERCENT: i64 = 25;
const PARTITION_MEMORY_PERCENT_MAX: i64 = 90;

/// Names of replicas are in headers and in the labels of metrics.
const REPLICA_NAME_BYTES_MAX: usize = 40;

/// Everything that a server is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The HTTP side.
    pub server: Server,
    /// The database.
    pub database: Database,
    /// The replicas that reads may be answered by, by name.
    pub replicas: BTreeMap<String, DatabaseUrl>,
    /// What each tenant may send.
    pub limits: Limits,
    /// What tenants with limits of their own may send, by name as it was written.
    pub tenants: BTreeMap<String, Limits>,
    /// The ledger of write requests.
    pub ingest: Ingest,
    /// The staged mode.
    pub staging: Staging,
    /// The partitions of the history.
    pub partitions: Partitions,
    /// Streams.
    pub streams: Streams,
    /// The cache.
    pub cache: Cache,
    /// The Redis that servers share, if there is one.
    pub redis: Option<Redis>,
    /// The change stream.
    pub changes: Changes,
    /// The lake, if there is one.
    pub lake: Option<Lake>,
    /// When history is left to the lake.
    pub archive: Archive,
    /// What is served by PostgreSQL's protocol.
    pub pgwire: PgWire,
    /// The log.
    pub log: Log,
}

/// The HTTP side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where the interface is served.
    pub listen: SocketAddr,
    /// Where `/metrics` is served without a key, if anywhere.
    pub admin_listen: Option<SocketAddr>,
    /// The longest body of a request, decompressed.
    pub body_bytes_max: usize,
}

/// The database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Where it is.
    pub url: DatabaseUrl,
    /// The certificates to trust. With them every connection is encrypted and verified, without them none is.
    pub ca_file: Option<PathBuf>,
    /// The passwords of our roles; absent where the server asks for none.
    pub passwords: Roles<Option<Password>>,
    /// The password of `sheaf_cdc`, whom only the change stream needs.
    pub cdc_password: Option<Password>,
    /// The connections of the app role.
    pub app_connections: usize,
    /// The connections of the search role.
    pub search_connections: usize,
    /// The connections of the writer role.
    pub writer_connections: usize,
}

/// One of something for each role that logs in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles<T> {
    /// `sheaf_app`.
    pub app: T,
    /// `sheaf_search`.
    pub search: T,
    /// `sheaf_writer`.
    pub writer: T,
    /// `sheaf_upkeep`.
    pub upkeep: T,
}

/// A password or another secret, or where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// The secret.
    Text(Secret),
    /// A file that holds it, with or without a line end. The caller reads it.
    File(PathBuf),
}

/// What a tenant may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Values of stored events a second; absent: without limit.
    pub values_per_second: Option<usize>,
    /// Decompressed bytes of bodies a second; absent: without limit.
    pub bytes_per_second: Option<usize>,
    /// Requests at the same time that write.
    pub requests_concurrent: usize,
}

/// The ledger of write requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ingest {
    /// How long a request is remembered.
    pub idempotency_horizon: Duration,
}

/// The partitions of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partitions {
    /// The share of PostgreSQL's shared memory that the indexes of the newest one may take, in percent.
    pub memory_percent: usize,
}

/// The log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The least severe messages that are written.
    pub level: LogLevel,
    /// Their form.
    pub format: LogFormat,
}

/// Severities of messages, most severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Someone must look.
    Error,
    /// Someone should know.
    Warn,
    /// What happened.
    Info,
    /// How it happened.
    Debug,
    /// Every step.
    Trace,
}

/// Forms of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl Settings {
    /// Reads a file, given as its name and text, under the environment's variables; those that do not begin with
    /// `SHEAF_` are not looked at. Gives back the settings, and each with its origin.
    pub fn load(
        file: Option<(&str, &str)>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Settings, Vec<Shown>), ConfigError> {
        let mut reader = Reader::new(file, variables)?;
        let limits = read_limits(&mut reader)?;
        let settings = Settings {
            server: Server {
                listen: reader.value("server.listen", LISTEN, address)?,
                admin_listen: reader.optional("server.admin_listen", address)?,
                body_bytes_max: reader.value(
                    "server.body_bytes_max",
                    count(BODY_BYTES_MAX),
                    |text| between(text, BODY_BYTES_LEAST, BODY_BYTES_MOST),
                )?,
            },
            database: read_database(&mut reader)?,
            replicas: read_replicas(&mut reader)?,
            limits,
            tenants: read_tenants(&mut reader, limits)?,
            ingest: Ingest {
                idempotency_horizon: read_span(
                    &mut reader,
                    "ingest.idempotency_horizon",
                    IDEMPOTENCY_HORIZON,
                    (IDEMPOTENCY_HORIZON_LEAST, IDEMPOTENCY_HORIZON_MOST),
                )?,
            },
            staging: Staging::read(&mut reader)?,
            partitions: Partitions {
                memory_percent: reader.value(
                    "partitions.memory_percent",
                    count(PARTITION_MEMORY_PERCENT),
                    |text| between(text, 1, PARTITION_MEMORY_PERCENT_MAX),
                )?,
            },
            streams: Streams::read(&mut reader)?,
            cache: Cache::read(&mut reader)?,
            redis: Redis::read(&mut reader)?,
            changes: Changes::read(&mut reader)?,
            lake: Lake::read(&mut reader)?,
            archive: Archive::read(&mut reader)?,
            pgwire: PgWire::read(&mut reader)?,
            log: Log {
                level: reader.value("log.level", LogLevel::Info, level)?,
                format: reader.value("log.format", LogFormat::Text, format)?,
            },
        };
        Ok((settings, reader.finish()?))
    }
}

/// A span of time within bounds that are written like it.
pub(crate) fn read_span(
    reader: &mut Reader,
    key: &str,
    default: &str,
    (min, max): (&'static str, &'static str),
) -> Result<Duration, ConfigError> {
    let span = |text: &str| -> sheaf_model::Duration {
        text.parse()
            .expect("invariant: defaults and bounds are spans")
    };
    let span = reader.value(key, span(default), |text| {
        let given: sheaf_model::Duration = text.parse()?;
        if (span(min)..=span(max)).contains(&given) {
            Ok(given)
        } else {
            Err(ValueFault::Span { min, max })
        }
    })?;
    let micros = u64::try_from(span.as_micros()).expect("invariant: spans are above zero");
    Ok(Duration::from_micros(micros))
}

fn read_limits(reader: &mut Reader) -> Result<Limits, ConfigError> {
    Ok(Limits {
        values_per_second: reader.optional("limits.values_per_second", rate)?,
        bytes_per_second: reader.optional("limits.bytes_per_second", rate)?,
        requests_concurrent: reader.value(
            "limits.requests_concurrent",
            count(REQUESTS_CONCURRENT),
            requests,
        )?,
    })
}

/// What a tenant's own section does not say is as for all.
fn read_tenants(
    reader: &mut Reader,
    limits: Limits,
) -> Result<BTreeMap<String, Limits>, ConfigError> {
    let mut tenants = BTreeMap::new();
    for tenant in reader.tenants() {
        let values = reader.of_tenant(&tenant, "limits.values_per_second", rate)?;
        let bytes = reader.of_tenant(&tenant, "limits.bytes_per_second", rate)?;
        let concurrent = reader.of_tenant(&tenant, "limits.requests_concurrent", requests)?;
        let own = Limits {
            values_per_second: values.or(limits.values_per_second),
            bytes_per_second: bytes.or(limits.bytes_per_second),
            requests_concurrent: concurrent.unwrap_or(limits.requests_concurrent),
        };
        tenants.insert(tenant, own);
    }
    Ok(tenants)
}

fn rate(text: &str) -> Result<usize, ValueFault> {
    between(text, 1, PER_SECOND_MAX)
}

fn requests(text: &str) -> Result<usize, ValueFault> {
    between(text, 1, REQUESTS_CONCURRENT_MAX)
}

fn read_database(reader: &mut Reader) -> Result<Database, ConfigError> {
    let default_url = DatabaseUrl {
        hosts: vec![HostPort {
            host: "localhost".to_owned(),
            port: 5432,
        }],
        name: "sheaf".to_owned(),
    };
    let mut password = |role: &str| read_password(reader, &format!("database.{role}_password"));
    let passwords = Roles {
        app: password("app")?,
        search: password("search")?,
        writer: password("writer")?,
        upkeep: password("upkeep")?,
    };
    let cdc_password = password("cdc")?;
    let mut connections = |key: &str, default| {
        reader.value(key, count(default), |text| {
            between(text, 1, CONNECTIONS_MAX)
        })
    };
    Ok(Database {
        app_connections: connections("database.app_connections", APP_CONNECTIONS)?,
        search_connections: connections("database.search_connections", SEARCH_CONNECTIONS)?,
        writer_connections: connections("database.writer_connections", WRITER_CONNECTIONS)?,
        url: reader.value("database.url", default_url, |text| {
            Ok(DatabaseUrl::parse(text)?)
        })?,
        ca_file: reader
            .optional("database.ca_file", filled)?
            .map(PathBuf::from),
        passwords,
        cdc_password,
    })
}

/// Replicas are reached as the same roles as the primary, with the same passwords and certificates.
fn read_replicas(reader: &mut Reader) -> Result<BTreeMap<String, DatabaseUrl>, ConfigError> {
    let mut replicas = BTreeMap::new();
    for (name, place) in reader.replicas() {
        let fault = |fault| ConfigError::Value {
            place: place.clone(),
            key: format!("replicas.{name}"),
            fault,
        };
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        if name.is_empty() || name.len() > REPLICA_NAME_BYTES_MAX || !name.bytes().all(is_plain) {
            return Err(fault(ValueFault::ReplicaName));
        }
        let url = reader.of_replica(&name, "url", |text| {
            let url = DatabaseUrl::parse(text)?;
            match url.hosts.len() {
                1 => Ok(url),
                _ => Err(ValueFault::SeveralHosts),
            }
        })?;
        let url = url.ok_or_else(|| fault(ValueFault::Missing))?;
        replicas.insert(name, url);
    }
    Ok(replicas)
}

/// Reads a secret, or which file it is in: the same key with `_file` behind it.
pub(crate) fn read_password(
    reader: &mut Reader,
    key: &str,
) -> Result<Option<Password>, ConfigError> {
    let key = key.to_owned();
    let file_key = format!("{key}_file");
    let text = reader.given(&key);
    let file = reader.given(&file_key);
    reader.show(
        &key,
        text.as_ref().map(|_| "(secret)".to_owned()),
        text.as_ref(),
    );
    reader.show(
        &file_key,
        file.as_ref().map(|file| file.text.clone()),
        file.as_ref(),
    );
    let (given, key, password) = match (text, file) {
        (None, None) => return Ok(None),
        (Some(text), Some(file)) => {
            return Err(ConfigError::PasswordTwice {
                key,
                place: text.place,
                file_place: file.place,
            });
        }
        (Some(text), None) => {
            let password = Password::Text(Secret::new(text.text.clone()));
            (text, key, password)
        }
        (None, Some(file)) => {
            let password = Password::File(PathBuf::from(&file.text));
            (file, file_key, password)
        }
    };
    if given.text.is_empty() {
        return Err(ConfigError::Value {
            place: given.place,
            key,
            fault: ValueFault::Empty,
        });
    }
    Ok(Some(password))
}

pub(crate) fn count(number: i64) -> usize {
    usize::try_from(number).expect("bounds keep counts positive and small")
}

pub(crate) fn between(text: &str, min: i64, max: i64) -> Result<usize, ValueFault> {
    let number: i64 = text.parse().map_err(ValueFault::Number)?;
    if (min..=max).contains(&number) {
        Ok(count(number))
    } else {
        Err(ValueFault::Range { min, max })
    }
}

pub(crate) fn address(text: &str) -> Result<SocketAddr, ValueFault> {
    text.parse().map_err(ValueFault::Address)
}

pub(crate) fn filled(text: &str) -> Result<String, ValueFault> {
    if text.is_empty() {
        Err(ValueFault::Empty)
    } else {
        Ok(text.to_owned())
    }
}

fn level(text: &str) -> Result<LogLevel, ValueFault> {
    match text {
        "error" => Ok(LogLevel::Error),
        "warn" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        "trace" => Ok(LogLevel::Trace),
        _ => Err(ValueFault::Word("error, warn, info, debug, trace")),
    }
}

fn format(text: &str) -> Result<LogFormat, ValueFault> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(ValueFault::Word("text, json")),
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        })
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}
