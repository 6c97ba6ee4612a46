//! The settings of the change stream: where changes go, and by which slot they come.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sheaf_model::Network;

use crate::error::{ConfigError, ValueFault};
use crate::journal::ChangesJournal;
use crate::reader::Reader;
use crate::settings::{Password, filled, read_password, read_span};

/// PostgreSQL cuts names that are longer.
const SLOT_BYTES_MAX: usize = 63;
/// Names of sinks are in the labels of metrics.
const SINK_NAME_BYTES_MAX: usize = 40;
/// What a receiver that stores half a megabyte takes is far less. A sink has a minute for a batch, of which the longest deadline
/// leaves a little.
const DEADLINE: &str = "10s";
const DEADLINE_LEAST: &str = "100ms";
const DEADLINE_MOST: &str = "50s";

/// The change stream, which is followed where something takes its changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The file that each change is added to.
    pub file: Option<PathBuf>,
    /// The URLs that changes are posted to, by name.
    pub http: BTreeMap<String, ChangesHttp>,
    /// What is kept for those who follow changes over HTTP.
    pub journal: ChangesJournal,
    /// The replication slot.
    pub slot: String,
}

/// A URL that changes are posted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesHttp {
    /// `https://host/path`.
    pub url: String,
    /// Headers besides, one a line, or where they are. The caller reads a file.
    pub headers: Option<Password>,
    /// Networks that may be called although they are not of the public network, and without encryption.
    pub allow: Vec<Network>,
    /// The certificates to trust in place of the public ones.
    pub ca_file: Option<PathBuf>,
    /// How long a request may take.
    pub deadline: Duration,
}

impl Changes {
    /// A slot's name is unique in its cluster: with two databases that are followed, one has another.
    pub const SLOT: &str = "sheaf_changes";

    pub(crate) fn read(reader: &mut Reader) -> Result<Changes, ConfigError> {
        let file = reader.optional("changes.file", filled)?;
        Ok(Changes {
            file: file.map(PathBuf::from),
            http: read_http(reader)?,
            journal: ChangesJournal::read(reader)?,
            slot: reader.value("changes.slot", Changes::SLOT.to_owned(), slot)?,
        })
    }
}

fn read_http(reader: &mut Reader) -> Result<BTreeMap<String, ChangesHttp>, ConfigError> {
    let mut sinks = BTreeMap::new();
    for (name, place) in reader.http_sinks() {
        let fault = |key: &str, fault| ConfigError::Value {
            place: place.clone(),
            key: format!("changes.http.{name}{key}"),
            fault,
        };
        if name.is_empty() || name.len() > SINK_NAME_BYTES_MAX || !is_plain(&name) {
            return Err(fault("", ValueFault::SinkName));
        }
        let key = |key: &str| format!("changes.http.{name}.{key}");
        let url = reader.optional(&key("url"), http_url)?;
        let url = url.ok_or_else(|| fault(".url", ValueFault::Missing))?;
        let headers = read_password(reader, &key("headers"))?;
        let allow = reader.optional(&key("allow"), networks)?;
        let allow = allow.map_or(Vec::new(), |networks| networks.0);
        let ca_file = reader.optional(&key("ca_file"), filled)?;
        let bounds = (DEADLINE_LEAST, DEADLINE_MOST);
        let deadline = read_span(reader, &key("deadline"), DEADLINE, bounds)?;
        if url.starts_with(PLAIN) && allow.is_empty() {
            return Err(fault(".url", HttpUrlFault::Unencrypted.into()));
        }
        let sink = ChangesHttp {
            url,
            headers,
            allow,
            ca_file: ca_file.map(PathBuf::from),
            deadline,
        };
        sinks.insert(name, sink);
    }
    Ok(sinks)
}

/// What is wrong with the URL of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HttpUrlFault {
    /// Another scheme or none.
    #[error("it does not begin with https:// or http://")]
    Scheme,
    /// It names a user, perhaps with a password.
    #[error("it holds a user or a password; they go to headers_file")]
    UserInfo,
    /// It has parameters.
    #[error("it has parameters after a question mark; secrets go to headers_file")]
    Parameters,
    /// No host.
    #[error("the host is missing")]
    Host,
    /// Nothing could be called so.
    #[error("http:// is not encrypted, and only networks of allow are called so")]
    Unencrypted,
}

const ENCRYPTED: &str = "https://";
const PLAIN: &str = "http://";

fn http_url(text: &str) -> Result<String, ValueFault> {
    let rest = text
        .strip_prefix(ENCRYPTED)
        .or_else(|| text.strip_prefix(PLAIN))
        .ok_or(HttpUrlFault::Scheme)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(HttpUrlFault::UserInfo.into());
    }
    if rest.contains(['?', '#']) {
        return Err(HttpUrlFault::Parameters.into());
    }
    if authority.is_empty() || authority.starts_with(':') {
        return Err(HttpUrlFault::Host.into());
    }
    Ok(text.to_owned())
}

/// Networks as they are shown.
struct Networks(Vec<Network>);

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks: Vec<String> = self.0.iter().map(Network::to_string).collect();
        f.write_str(&networks.join(","))
    }
}

fn networks(text: &str) -> Result<Networks, ValueFault> {
    let texts = text.split(',').map(str::trim);
    let texts = texts.filter(|text| !text.is_empty());
    let networks: Result<Vec<Network>, _> = texts.map(str::parse).collect();
    Ok(Networks(networks?))
}

fn is_plain(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    text.bytes().all(is_plain)
}

fn slot(text: &str) -> Result<String, ValueFault> {
    if text.is_empty() || text.len() > SLOT_BYTES_MAX || !is_plain(text) {
        return Err(ValueFault::Slot);
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_a_name_that_postgresql_takes() {
        for (text, is_taken) in [
            ("sheaf_changes", true),
            ("a9_", true),
            ("", false),
            ("Sheaf", false),
            ("a-b", false),
            (&"a".repeat(63), true),
            (&"a".repeat(64), false),
        ] {
            assert_eq!(slot(text).is_ok(), is_taken, "{text}");
        }
    }

    #[test]
    fn the_url_of_a_sink_is_a_place_and_no_secret() {
        for text in ["https://h", "https://h:8443/a/b", "http://[::1]:80/in"] {
            assert_eq!(http_url(text).expect(text), text);
        }
        for (text, fault) in [
            ("", HttpUrlFault::Scheme),
            ("h/a", HttpUrlFault::Scheme),
            ("ftp://h", HttpUrlFault::Scheme),
            ("https://u:p@h/", HttpUrlFault::UserInfo),
            ("https://h/?key=x", HttpUrlFault::Parameters),
            ("https://h?key=x@y", HttpUrlFault::Parameters),
            ("https:///a", HttpUrlFault::Host),
            ("https://:443", HttpUrlFault::Host),
        ] {
            let found = http_url(text).expect_err(text).to_string();
            assert_eq!(found, fault.to_string(), "{text}");
        }
    }
}
