//! The settings of the lake: where its files are, and what questions over it may take.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{ConfigError, ValueFault};
use crate::queries::Queries;
use crate::reader::Reader;
use crate::settings::{Password, filled, read_password, read_span};

const S3: &str = "s3://";
/// What services with the interface of S3 that have no regions take.
const REGION: &str = "us-east-1";
/// What the tables are in in the database's own catalogue too.
const NAMESPACE: &str = "lake";
/// What the protocol names for those that ask for nothing in particular.
const SCOPE: &str = "catalog";
/// What is lost is told within the hour. What has not changed is not read for it, so that less costs little and more saves little.
const RECONCILE_EVERY: &str = "1h";
const RECONCILE_EVERY_BOUNDS: (&str, &str) = ("1m", "30d");

/// The lake. It is fed from the change stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lake {
    /// Where its files are.
    pub location: LakeLocation,
    /// Of a bucket: the region.
    pub region: String,
    /// Of a bucket: where it is asked for, where that is not the region's own place.
    pub endpoint: Option<String>,
    /// Of a bucket: the number of the key. Without one it is opened as the machine is known there.
    pub access_key_id: Option<String>,
    /// Of a bucket: the key's secret, or where it is.
    pub secret_access_key: Option<Password>,
    /// Who says what its tables are, where that is not the database.
    pub catalog: Option<RestCatalog>,
    /// What questions over it may take.
    pub queries: Queries,
    /// How often it is compared with PostgreSQL.
    pub reconcile_every: Duration,
}

/// Where the lake's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LakeLocation {
    /// A folder.
    Folder(PathBuf),
    /// A bucket of S3 or of something with its interface.
    Bucket {
        /// Its name.
        name: String,
        /// What the names of all files begin with; may be empty.
        prefix: String,
    },
}

/// An Iceberg REST catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestCatalog {
    /// Its address, up to what `/v1` follows.
    pub uri: String,
    /// Which of its warehouses.
    pub warehouse: Option<String>,
    /// The namespace of the tables.
    pub namespace: String,
    /// A token, or where it is.
    pub token: Option<Password>,
    /// The name of a client that is given tokens.
    pub client_id: Option<String>,
    /// Its secret, or where it is.
    pub client_secret: Option<Password>,
    /// What the client asks to be allowed.
    pub scope: String,
    /// Where tokens are given, where that is not the catalogue itself.
    pub token_uri: Option<String>,
}

impl RestCatalog {
    /// Absent where there is no address.
    fn read(reader: &mut Reader) -> Result<Option<RestCatalog>, ConfigError> {
        let uri = reader.optional("lake.catalog.uri", web_address)?;
        let warehouse = reader.optional("lake.catalog.warehouse", filled)?;
        let namespace = reader.value("lake.catalog.namespace", NAMESPACE.to_owned(), filled)?;
        let token = read_password(reader, "lake.catalog.token")?;
        let client_id = reader.optional("lake.catalog.client_id", filled)?;
        let client_secret = read_password(reader, "lake.catalog.client_secret")?;
        let scope = reader.value("lake.catalog.scope", SCOPE.to_owned(), filled)?;
        let token_uri = reader.optional("lake.catalog.token_uri", web_address)?;
        Ok(uri.map(|uri| RestCatalog {
            uri,
            warehouse,
            namespace,
            token,
            client_id,
            client_secret,
            scope,
            token_uri,
        }))
    }
}

fn web_address(text: &str) -> Result<String, ValueFault> {
    let text = filled(text)?;
    let host = ["https://", "http://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    match host {
        Some(host) if !host.is_empty() && !host.starts_with('/') => Ok(text),
        Some(_) | None => Err(ValueFault::Catalog),
    }
}

impl Lake {
    /// A lake in a folder.
    pub fn in_folder(folder: PathBuf) -> Lake {
        Lake {
            location: LakeLocation::Folder(folder),
            region: REGION.to_owned(),
            endpoint: None,
            access_key_id: None,
            secret_access_key: None,
            catalog: None,
            queries: Queries::standard(),
            reconcile_every: Duration::from_secs(3_600),
        }
    }

    /// Absent where there is no location.
    pub(crate) fn read(reader: &mut Reader) -> Result<Option<Lake>, ConfigError> {
        let text = reader.optional("lake.location", location_text)?;
        let region = reader.value("lake.region", REGION.to_owned(), filled)?;
        let endpoint = reader.optional("lake.endpoint", filled)?;
        let access_key_id = reader.optional("lake.access_key_id", filled)?;
        let secret_access_key = read_password(reader, "lake.secret_access_key")?;
        let catalog = RestCatalog::read(reader)?;
        let queries = Queries::read(reader)?;
        let reconcile_every = read_span(
            reader,
            "lake.reconcile_every",
            RECONCILE_EVERY,
            RECONCILE_EVERY_BOUNDS,
        )?;
        Ok(text.map(|text| Lake {
            location: location(&text),
            region,
            endpoint,
            access_key_id,
            secret_access_key,
            catalog,
            queries,
            reconcile_every,
        }))
    }
}

fn location_text(text: &str) -> Result<String, ValueFault> {
    let text = filled(text)?;
    match text.strip_prefix(S3) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => Err(ValueFault::Location),
        Some(_) => Ok(text),
        None if text.contains("://") => Err(ValueFault::Location),
        None => Ok(text),
    }
}

fn location(text: &str) -> LakeLocation {
    let Some(rest) = text.strip_prefix(S3) else {
        return LakeLocation::Folder(PathBuf::from(text));
    };
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    LakeLocation::Bucket {
        name: name.to_owned(),
        prefix: prefix.trim_end_matches('/').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalogue_has_an_address_of_the_web() {
        for text in ["https://c", "http://c:8181/catalog"] {
            assert_eq!(web_address(text).expect(text), text);
        }
        for text in ["", "c:8181", "https://", "https:///v1", "thrift://c"] {
            assert!(web_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_location_is_a_folder_or_a_bucket_with_a_prefix() {
        let bucket = |name: &str, prefix: &str| LakeLocation::Bucket {
            name: name.to_owned(),
            prefix: prefix.to_owned(),
        };
        for (text, expected) in [
            (
                "/var/lake",
                LakeLocation::Folder(PathBuf::from("/var/lake")),
            ),
            ("lake", LakeLocation::Folder(PathBuf::from("lake"))),
            ("s3://b", bucket("b", "")),
            ("s3://b/", bucket("b", "")),
            ("s3://b/a/c/", bucket("b", "a/c")),
        ] {
            let text = location_text(text).expect(text);
            assert_eq!(location(&text), expected, "{text}");
        }
        for text in ["", "s3://", "s3:///a", "gs://b", "file:///var/lake"] {
            assert!(location_text(text).is_err(), "{text}");
        }
    }
}
