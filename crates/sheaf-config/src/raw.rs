//! The file as it is written: which sections and keys there are, and of which TOML type. Nothing is judged here.

use serde::Deserialize;
use toml::Spanned;

use crate::secret::Secret;

type Text = Option<Spanned<String>>;
type Number = Option<Spanned<i64>>;
type SecretText = Option<Spanned<Secret>>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raw {
    #[serde(default)]
    pub(crate) server: RawServer,
    #[serde(default)]
    pub(crate) database: RawDatabase,
    #[serde(default)]
    pub(crate) log: RawLog,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawServer {
    pub(crate) listen: Text,
    pub(crate) admin_listen: Text,
    pub(crate) body_bytes_max: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawDatabase {
    pub(crate) url: Text,
    pub(crate) ca_file: Text,
    pub(crate) app_password: SecretText,
    pub(crate) app_password_file: Text,
    pub(crate) search_password: SecretText,
    pub(crate) search_password_file: Text,
    pub(crate) writer_password: SecretText,
    pub(crate) writer_password_file: Text,
    pub(crate) upkeep_password: SecretText,
    pub(crate) upkeep_password_file: Text,
    pub(crate) app_connections: Number,
    pub(crate) search_connections: Number,
    pub(crate) writer_connections: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLog {
    pub(crate) level: Text,
    pub(crate) format: Text,
}
