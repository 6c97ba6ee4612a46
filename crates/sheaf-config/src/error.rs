//! Why a configuration stops the start. No message quotes a value, because it might be a secret in the wrong place.

use std::fmt;

use crate::cache::RedisUrlFault;
use crate::changes::HttpUrlFault;
use crate::database_url::DatabaseUrlFault;

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the configuration file.
    File {
        /// The file's name as the caller gave it.
        file: String,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
    },
    /// In the environment.
    Variable(String),
}

impl Place {
    /// The place of a byte of a file.
    pub(crate) fn in_file(file: &str, text: &str, offset: usize) -> Place {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Place::File {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Place::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not TOML.
    #[error("{place}: {}{message}", named(key.as_deref()))]
    Syntax {
        /// Where.
        place: Place,
        /// The section, and the key if there is one, that the fault belongs to; absent where that cannot be told.
        key: Option<String>,
        /// What the parser says of it. Its own form would quote the line, and the line may hold a secret.
        message: String,
    },
    /// A section or key that looks like ours and is not: most likely a misspelt one.
    #[error("{place}: {key}: there is no such setting")]
    UnknownKey {
        /// Where.
        place: Place,
        /// The section, and the key if the section is one of ours.
        key: String,
    },
    /// A value cannot be used.
    #[error("{place}: {key} cannot be used")]
    Value {
        /// Where it was set.
        place: Place,
        /// Section and key.
        key: String,
        /// Why not.
        #[source]
        fault: ValueFault,
    },
    /// A variable that looks like ours and is not: most likely a misspelt one.
    #[error("environment variable {name}: there is no such setting")]
    UnknownVariable {
        /// Its name.
        name: String,
    },
    /// A secret and a file with the secret.
    #[error("{key} and {key}_file are both set ({place} and {file_place}); keep one")]
    PasswordTwice {
        /// The key of the secret.
        key: String,
        /// Where the secret was set.
        place: Place,
        /// Where the file was set.
        file_place: Place,
    },
}

fn named(key: Option<&str>) -> String {
    key.map(|key| format!("{key}: ")).unwrap_or_default()
}

/// Why a value cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ValueFault {
    /// Something of another kind.
    #[error("not {0}")]
    Kind(&'static str),
    /// An address to listen on.
    #[error("not an address of the form 127.0.0.1:7070 or [::1]:7070")]
    Address(#[source] std::net::AddrParseError),
    /// An address of other machines, where keys would be sent in clear.
    #[error(
        "keys would be sent in clear from other machines: a certificate, or cleartext = \"allow\", is needed"
    )]
    Cleartext,
    /// A number in text.
    #[error("not a whole number")]
    Number(#[source] std::num::ParseIntError),
    /// A number out of its bounds.
    #[error("not between {min} and {max}")]
    Range {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// A span of time in text.
    #[error(transparent)]
    Duration(#[from] sheaf_model::DurationFault),
    /// A span of time out of its bounds.
    #[error("not between {min} and {max}")]
    Span {
        /// The shortest.
        min: &'static str,
        /// The longest.
        max: &'static str,
    },
    /// One of a few words.
    #[error("not one of: {0}")]
    Word(&'static str),
    /// The address of Redis.
    #[error(transparent)]
    RedisUrl(#[from] RedisUrlFault),
    /// The place of the lake.
    #[error("not a folder and not s3://bucket/prefix")]
    Location,
    /// The address of a catalogue.
    #[error("not an address of the form https://host/path")]
    Catalog,
    /// The URL of a sink.
    #[error(transparent)]
    HttpUrl(#[from] HttpUrlFault),
    /// A network of addresses.
    #[error(transparent)]
    Network(#[from] sheaf_model::NetworkFault),
    /// A name that would not fit metrics and variables.
    #[error("a sink's name has 1 to 40 lower-case letters, digits and underscores")]
    SinkName,
    /// The name of a replication slot.
    #[error("not 1 to 63 lower-case letters, digits and underscores")]
    Slot,
    /// Nothing at all.
    #[error("empty")]
    Empty,
    /// The address of the database.
    #[error("not the address of a database")]
    DatabaseUrl(#[from] DatabaseUrlFault),
    /// Several hosts where one is meant.
    #[error("several hosts; each replica has a section of its own")]
    SeveralHosts,
    /// A name that would not fit headers and metrics.
    #[error("a replica's name has 1 to 40 lower-case letters, digits, - and _")]
    ReplicaName,
    /// A setting that cannot be left out.
    #[error("missing")]
    Missing,
}
