//! The file as it is written: which sections and keys there are, and of which kind. Nothing else is judged here.
//!
//! The table is walked by hand, because the errors of a derived reader quote the value and do not name the key.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, Place, ValueFault};
use crate::reader::Given;

/// What a key holds.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Number,
    /// Several texts, which are read as one with commas between them.
    Texts,
}

const SECTIONS: [&str; 16] = [
    "server",
    "database",
    "replicas",
    "limits",
    "tenants",
    "ingest",
    "staging",
    "partitions",
    "streams",
    "cache",
    "redis",
    "changes",
    "lake",
    "archive",
    "pgwire",
    "log",
];
/// Has a section a tenant's name, and in it one section, with keys as the section of this name has.
const TENANTS: &str = "tenants";
/// Has a section a replica's name, with keys as they are listed for the section without it.
const REPLICAS: &str = "replicas";
const LIMITS: &str = "limits";
/// Has a section a sink's name in `http`, beside keys of its own.
const CHANGES: &str = "changes";
const HTTP: &str = "http";
const CHANGES_HTTP: &str = "changes.http";
/// Has one section, beside keys of its own.
const LAKE: &str = "lake";
const CATALOG: &str = "catalog";
const LAKE_CATALOG: &str = "lake.catalog";

const KEYS: [(&str, Kind); 84] = [
    ("server.listen", Kind::Text),
    ("server.admin_listen", Kind::Text),
    ("server.body_bytes_max", Kind::Number),
    ("database.url", Kind::Text),
    ("database.ca_file", Kind::Text),
    ("database.app_password", Kind::Text),
    ("database.app_password_file", Kind::Text),
    ("database.search_password", Kind::Text),
    ("database.search_password_file", Kind::Text),
    ("database.writer_password", Kind::Text),
    ("database.writer_password_file", Kind::Text),
    ("database.upkeep_password", Kind::Text),
    ("database.upkeep_password_file", Kind::Text),
    ("database.cdc_password", Kind::Text),
    ("database.cdc_password_file", Kind::Text),
    ("database.app_connections", Kind::Number),
    ("database.search_connections", Kind::Number),
    ("database.writer_connections", Kind::Number),
    ("replicas.url", Kind::Text),
    ("limits.values_per_second", Kind::Number),
    ("limits.bytes_per_second", Kind::Number),
    ("limits.requests_concurrent", Kind::Number),
    ("ingest.idempotency_horizon", Kind::Text),
    ("staging.age_max", Kind::Text),
    ("staging.policy", Kind::Text),
    ("staging.flushers", Kind::Number),
    ("staging.flush_every", Kind::Text),
    ("partitions.memory_percent", Kind::Number),
    ("streams.of_tenant_max", Kind::Number),
    ("streams.running_max", Kind::Number),
    ("streams.reading_max", Kind::Number),
    ("streams.page_deadline", Kind::Text),
    ("cache.bytes_max", Kind::Number),
    ("cache.age_max", Kind::Text),
    ("redis.url", Kind::Text),
    ("redis.user", Kind::Text),
    ("redis.password_file", Kind::Text),
    ("redis.ca_file", Kind::Text),
    ("redis.deadline", Kind::Text),
    ("changes.file", Kind::Text),
    ("changes.journal", Kind::Text),
    ("changes.journal_bytes_max", Kind::Number),
    ("changes.subscriptions_of_tenant_max", Kind::Number),
    ("changes.subscriptions_max", Kind::Number),
    ("changes.taken_within", Kind::Text),
    ("changes.slot", Kind::Text),
    ("changes.http.url", Kind::Text),
    ("changes.http.headers", Kind::Text),
    ("changes.http.headers_file", Kind::Text),
    ("changes.http.allow", Kind::Texts),
    ("changes.http.ca_file", Kind::Text),
    ("changes.http.deadline", Kind::Text),
    ("lake.location", Kind::Text),
    ("lake.region", Kind::Text),
    ("lake.endpoint", Kind::Text),
    ("lake.access_key_id", Kind::Text),
    ("lake.secret_access_key", Kind::Text),
    ("lake.secret_access_key_file", Kind::Text),
    ("lake.catalog.uri", Kind::Text),
    ("lake.catalog.warehouse", Kind::Text),
    ("lake.catalog.namespace", Kind::Text),
    ("lake.catalog.token", Kind::Text),
    ("lake.catalog.token_file", Kind::Text),
    ("lake.catalog.client_id", Kind::Text),
    ("lake.catalog.client_secret", Kind::Text),
    ("lake.catalog.client_secret_file", Kind::Text),
    ("lake.catalog.scope", Kind::Text),
    ("lake.catalog.token_uri", Kind::Text),
    ("lake.query_bytes_max", Kind::Number),
    ("lake.tenant_bytes_max", Kind::Number),
    ("lake.queries_bytes_max", Kind::Number),
    ("lake.query_rows_max", Kind::Number),
    ("lake.query_deadline", Kind::Text),
    ("lake.reconcile_every", Kind::Text),
    ("archive.after", Kind::Text),
    ("pgwire.listen", Kind::Text),
    ("pgwire.certificate_file", Kind::Text),
    ("pgwire.key_file", Kind::Text),
    ("pgwire.cleartext", Kind::Text),
    ("pgwire.connections_max", Kind::Number),
    ("pgwire.connections_of_tenant_max", Kind::Number),
    ("pgwire.idle_max", Kind::Text),
    ("log.level", Kind::Text),
    ("log.format", Kind::Text),
];

/// The values of a file.
#[derive(Default)]
pub(crate) struct Raw {
    /// By section and key.
    values: BTreeMap<String, Given>,
    /// The tenants that have a section.
    pub(crate) tenants: BTreeSet<String>,
    /// The replicas that have a section, and where it begins.
    pub(crate) replicas: BTreeMap<String, Place>,
    /// The sinks that are a URL and have a section, and where it begins.
    pub(crate) http_sinks: BTreeMap<String, Place>,
}

/// The key of a replica's setting.
pub(crate) fn replica_key(replica: &str, key: &str) -> String {
    format!("{REPLICAS}.{replica}.{key}")
}

/// The key of a tenant's own setting.
pub(crate) fn tenant_key(tenant: &str, key: &str) -> String {
    format!("{TENANTS}.{tenant}.{key}")
}

impl Raw {
    pub(crate) fn read(file: &str, text: &str) -> Result<Raw, ConfigError> {
        let place = |offset| Place::in_file(file, text, offset);
        let table = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            ConfigError::Syntax {
                place: place(offset),
                key: nearest_key(text, offset),
                message: error.message().to_owned(),
            }
        })?;
        let mut raw = Raw::default();
        for (section, content) in table.into_inner() {
            let at = section.span().start;
            let section = section.into_inner();
            if !SECTIONS.contains(&section.as_ref()) {
                return Err(ConfigError::UnknownKey {
                    place: place(at),
                    key: section.into_owned(),
                });
            }
            let content = table_of(&section, content, place(at))?;
            if section == TENANTS {
                raw.read_tenants(content, place)?;
            } else if section == REPLICAS {
                raw.replicas = raw.read_named(REPLICAS, content, place)?;
            } else if section == CHANGES {
                let is_named = |(name, _): &(Spanned<_>, _)| *name.get_ref() == HTTP;
                let (named, keys): (DeTable<'_>, DeTable<'_>) =
                    content.into_iter().partition(is_named);
                raw.read_keys(CHANGES, &format!("{CHANGES}."), keys, place)?;
                for (name, content) in named {
                    let content = table_of(CHANGES_HTTP, content, place(name.span().start))?;
                    raw.http_sinks = raw.read_named(CHANGES_HTTP, content, place)?;
                }
            } else if section == LAKE {
                let is_catalog = |(name, _): &(Spanned<_>, _)| *name.get_ref() == CATALOG;
                let (catalog, keys): (DeTable<'_>, DeTable<'_>) =
                    content.into_iter().partition(is_catalog);
                raw.read_keys(LAKE, &format!("{LAKE}."), keys, place)?;
                for (name, content) in catalog {
                    let content = table_of(LAKE_CATALOG, content, place(name.span().start))?;
                    raw.read_keys(LAKE_CATALOG, &format!("{LAKE_CATALOG}."), content, place)?;
                }
            } else {
                raw.read_keys(&section, &format!("{section}."), content, place)?;
            }
        }
        Ok(raw)
    }

    /// Reads the keys that a section has, and keeps each under this prefix.
    fn read_keys(
        &mut self,
        section: &str,
        prefix: &str,
        content: DeTable<'_>,
        place: impl Fn(usize) -> Place,
    ) -> Result<(), ConfigError> {
        for (name, value) in content {
            let known = format!("{section}.{}", name.get_ref());
            let key = format!("{prefix}{}", name.get_ref());
            let Some((_, kind)) = KEYS.iter().find(|(each, _)| *each == known) else {
                let place = place(name.span().start);
                return Err(ConfigError::UnknownKey { place, key });
            };
            let place = place(value.span().start);
            match text_of(*kind, value.into_inner()) {
                Ok(text) => self.values.insert(key, Given { text, place }),
                Err(fault) => return Err(ConfigError::Value { place, key, fault }),
            };
        }
        Ok(())
    }

    /// Reads `[tenants.<name>.limits]`.
    fn read_tenants(
        &mut self,
        content: DeTable<'_>,
        place: impl Fn(usize) -> Place,
    ) -> Result<(), ConfigError> {
        for (name, content) in content {
            let at = name.span().start;
            let tenant = name.into_inner().into_owned();
            let prefix = tenant_key(&tenant, "");
            let of_tenant = prefix.trim_end_matches('.');
            for (section, content) in table_of(of_tenant, content, place(at))? {
                let at = section.span().start;
                let key = format!("{prefix}{}", section.get_ref());
                if section.get_ref() != LIMITS {
                    let place = place(at);
                    return Err(ConfigError::UnknownKey { place, key });
                }
                let content = table_of(&key, content, place(at))?;
                self.read_keys(LIMITS, &format!("{key}."), content, &place)?;
            }
            self.tenants.insert(tenant);
        }
        Ok(())
    }

    /// Reads a section that has a section a name, `[replicas.<name>]`. Gives back where each begins.
    fn read_named(
        &mut self,
        section: &str,
        content: DeTable<'_>,
        place: impl Fn(usize) -> Place,
    ) -> Result<BTreeMap<String, Place>, ConfigError> {
        let mut named = BTreeMap::new();
        for (name, content) in content {
            let at = place(name.span().start);
            let name = name.into_inner().into_owned();
            let prefix = format!("{section}.{name}.");
            let content = table_of(prefix.trim_end_matches('.'), content, at.clone())?;
            self.read_keys(section, &prefix, content, &place)?;
            named.insert(name, at);
        }
        Ok(named)
    }

    pub(crate) fn take(&mut self, key: &str) -> Option<Given> {
        self.values.remove(key)
    }
}

fn table_of<'a>(
    key: &str,
    content: Spanned<DeValue<'a>>,
    place: Place,
) -> Result<DeTable<'a>, ConfigError> {
    match content.into_inner() {
        DeValue::Table(table) => Ok(table),
        _ => Err(ConfigError::Value {
            place,
            key: key.to_owned(),
            fault: ValueFault::Kind("a section"),
        }),
    }
}

fn text_of(kind: Kind, value: DeValue<'_>) -> Result<String, ValueFault> {
    match (kind, value) {
        (Kind::Text, DeValue::String(text)) => Ok(text.into_owned()),
        (Kind::Number, DeValue::Integer(number)) => {
            i64::from_str_radix(number.as_str(), number.radix())
                .map(|number| number.to_string())
                .map_err(ValueFault::Number)
        }
        (Kind::Texts, DeValue::Array(texts)) => {
            let text = |value: Spanned<_>| text_of(Kind::Text, value.into_inner());
            let texts: Vec<_> = texts.into_iter().map(text).collect::<Result<_, _>>()?;
            Ok(texts.join(","))
        }
        (Kind::Text, _) => Err(ValueFault::Kind("a text in quotes")),
        (Kind::Texts, _) => Err(ValueFault::Kind("a list of texts, [\"..\", \"..\"]")),
        (Kind::Number, _) => Err(ValueFault::Kind("a whole number without quotes")),
    }
}

/// The key, else the section, that a fault of syntax belongs to: the nearest one that begins a line at or above it.
/// Only names that exist count, so that no part of a value is ever taken for one.
fn nearest_key(text: &str, offset: usize) -> Option<String> {
    let line_end = text.get(offset..)?.find('\n').map(|length| offset + length);
    let mut nearest = None;
    for line in text[..line_end.unwrap_or(text.len())].lines().rev() {
        let line = line.trim_start();
        if let Some(header) = line.strip_prefix('[') {
            let section = header.trim_start_matches('[').split(']').next()?.trim();
            return nearest
                .map(|name| format!("{section}.{name}"))
                .filter(|key| is_key(key))
                .or_else(|| SECTIONS.contains(&section).then(|| section.to_owned()));
        }
        let name = line.split('=').next()?.trim().trim_matches(['"', '\'']);
        let ends_a_key = |(key, _): &(&str, _)| key.split('.').next_back() == Some(name);
        if nearest.is_none() && (is_key(name) || KEYS.iter().any(ends_a_key)) {
            nearest = Some(name);
        }
    }
    nearest.filter(|name| is_key(name)).map(str::to_owned)
}

fn is_key(name: &str) -> bool {
    KEYS.iter().any(|(known, _)| *known == name)
}
