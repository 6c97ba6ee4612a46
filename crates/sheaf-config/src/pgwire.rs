//! The settings of what is served by PostgreSQL's protocol: where, to whom in clear, and how many connections there may be.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{ConfigError, ValueFault};
use crate::reader::Reader;
use crate::settings::{address, between, count, read_span};

/// Each takes a descriptor and some ten kilobytes, and up to a megabyte and a half of what it prepares.
const CONNECTIONS_MAX: i64 = 256;
/// A dashboard's pool and those who look by themselves.
const CONNECTIONS_OF_TENANT_MAX: i64 = 64;
const CONNECTIONS_MOST: i64 = 10_000;
/// Pools keep connections for minutes. Longer lets clients that are gone hold theirs; shorter makes pools log in again.
const IDLE_MAX: &str = "15m";
const IDLE_LEAST: &str = "10s";
const IDLE_MOST: &str = "1d";

/// What is served by PostgreSQL's protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgWire {
    /// Where it is served; absent where it is not.
    pub listen: Option<SocketAddr>,
    /// The certificate and its key, with which connections are encrypted; absent where they are not.
    pub certificate: Option<Certificate>,
    /// Whether a key is taken in clear from other machines.
    pub takes_cleartext: bool,
    /// Connections at once.
    pub connections_max: usize,
    /// Connections of one tenant at once.
    pub connections_of_tenant_max: usize,
    /// How long a connection may say nothing.
    pub idle_max: Duration,
}

/// A certificate that a server shows. The caller reads both files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The file with the certificate and those that vouch for it (PEM).
    pub certificate_file: PathBuf,
    /// The file with its key (PEM).
    pub key_file: PathBuf,
}

impl PgWire {
    pub(crate) fn read(reader: &mut Reader) -> Result<PgWire, ConfigError> {
        let takes_cleartext = reader.value("pgwire.cleartext", Cleartext::Refuse, cleartext)?;
        let takes_cleartext = takes_cleartext == Cleartext::Allow;
        let certificate = read_certificate(reader)?;
        let is_safe = certificate.is_some() || takes_cleartext;
        let listen = reader.optional("pgwire.listen", |text| {
            let listen = address(text)?;
            match is_safe || listen.ip().to_canonical().is_loopback() {
                true => Ok(listen),
                false => Err(ValueFault::Cleartext),
            }
        })?;
        let mut number = |key: &str, default| {
            reader.value(key, count(default), |text| {
                between(text, 1, CONNECTIONS_MOST)
            })
        };
        Ok(PgWire {
            listen,
            certificate,
            takes_cleartext,
            connections_max: number("pgwire.connections_max", CONNECTIONS_MAX)?,
            connections_of_tenant_max: number(
                "pgwire.connections_of_tenant_max",
                CONNECTIONS_OF_TENANT_MAX,
            )?,
            idle_max: read_span(reader, "pgwire.idle_max", IDLE_MAX, (IDLE_LEAST, IDLE_MOST))?,
        })
    }
}

fn read_certificate(reader: &mut Reader) -> Result<Option<Certificate>, ConfigError> {
    let mut path = |key: &str| {
        let given = reader.given(key);
        let shown = given.as_ref().map(|given| given.text.clone());
        reader.show(key, shown, given.as_ref());
        given
    };
    let certificate = path("pgwire.certificate_file");
    let key = path("pgwire.key_file");
    let (given, missing) = match (certificate, key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => {
            return Ok(Some(Certificate {
                certificate_file: certificate.text.into(),
                key_file: key.text.into(),
            }));
        }
        (Some(given), None) => (given, "pgwire.key_file"),
        (None, Some(given)) => (given, "pgwire.certificate_file"),
    };
    Err(ConfigError::Value {
        place: given.place,
        key: missing.to_owned(),
        fault: ValueFault::Missing,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cleartext {
    Refuse,
    Allow,
}

impl std::fmt::Display for Cleartext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Cleartext::Refuse => "refuse",
            Cleartext::Allow => "allow",
        })
    }
}

fn cleartext(text: &str) -> Result<Cleartext, ValueFault> {
    match text {
        "refuse" => Ok(Cleartext::Refuse),
        "allow" => Ok(Cleartext::Allow),
        _ => Err(ValueFault::Word("refuse, allow")),
    }
}
