//! The lake of a server: from settings to what writes it and what answers questions over it.

use std::sync::Arc;

use anyhow::{Context, Result};
use sheaf_config::{Lake, LakeLocation, Password, RestCatalog};
use sheaf_lake::analytics::{LakeReader, QueryBounds, ReaderOptions};
use sheaf_lake::reconcile::{ReconcileOptions, Reconciler};
use sheaf_lake::{
    Bucket, LakeArchive, LakeCatalog, LakeOptions, LakeSink, Location, RestAccess, RestOptions,
};
use sheaf_pg::Pool;
use sheaf_store as store;

use crate::private_file;

/// The name of its sink.
pub(crate) const NAME: &str = LakeOptions::SINK;

/// What writes it, told of changes by the change stream.
pub(crate) fn sink(lake: &Lake, cdc: &Pool) -> Result<LakeSink> {
    LakeSink::new(cdc, options(lake)?).context("opening the lake")
}

/// What answers questions over it, which are as old as what comes by the slot.
pub(crate) fn reader(
    lake: &Lake,
    slot: &str,
    app: &Pool,
    database: &Arc<store::settings::Settings>,
) -> Result<LakeReader> {
    let queries = &lake.queries;
    let options = ReaderOptions {
        bounds: QueryBounds {
            query_bytes_max: queries.query_bytes_max,
            tenant_bytes_max: queries.tenant_bytes_max,
            all_bytes_max: queries.all_bytes_max,
            rows_max: queries.rows_max,
            time_max: queries.deadline,
            ..QueryBounds::default()
        },
        ..ReaderOptions::of(&options(lake)?, slot.to_owned())
    };
    LakeReader::new(app, Arc::clone(database), options).context("opening the lake")
}

/// What archives compare with it.
pub(crate) fn archive(
    lake: &Lake,
    slot: &str,
    upkeep: &Pool,
    database: &Arc<store::settings::Settings>,
) -> Result<LakeArchive> {
    let archive = LakeArchive::new(
        upkeep,
        Arc::clone(database),
        &options(lake)?,
        slot.to_owned(),
    );
    archive.context("opening the lake")
}

/// What compares it with PostgreSQL.
pub(crate) fn reconciler(
    lake: &Lake,
    slot: &str,
    cdc: &Pool,
    adjust: impl FnOnce(ReconcileOptions) -> ReconcileOptions,
) -> Result<Reconciler> {
    let options = ReconcileOptions::of(&options(lake)?, slot.to_owned());
    Reconciler::new(cdc, adjust(options)).context("opening the lake")
}

fn options(lake: &Lake) -> Result<LakeOptions> {
    let catalog = match &lake.catalog {
        Some(catalog) => LakeCatalog::Rest(rest(catalog)?),
        None => LakeCatalog::Postgres,
    };
    Ok(LakeOptions {
        catalog,
        ..LakeOptions::at(location(lake)?)
    })
}

fn rest(catalog: &RestCatalog) -> Result<RestOptions> {
    let token = catalog.token.as_ref().map(secret_of).transpose()?;
    let secret = catalog.client_secret.as_ref().map(secret_of).transpose()?;
    let access = match (token, &catalog.client_id, secret) {
        (None, None, None) => RestAccess::Open,
        (Some(token), None, None) => RestAccess::Token(token),
        (None, Some(id), Some(secret)) => RestAccess::Client {
            id: id.clone(),
            secret,
            scope: catalog.scope.clone(),
            token_uri: catalog.token_uri.clone(),
        },
        (None, Some(_), None) => {
            anyhow::bail!("lake.catalog.client_id has no lake.catalog.client_secret")
        }
        (None, None, Some(_)) => {
            anyhow::bail!("lake.catalog.client_secret has no lake.catalog.client_id")
        }
        (Some(_), _, _) => {
            anyhow::bail!("lake.catalog.token and a client of lake.catalog are both set; keep one")
        }
    };
    Ok(RestOptions {
        uri: catalog.uri.clone(),
        warehouse: catalog.warehouse.clone(),
        namespace: catalog.namespace.clone(),
        access,
    })
}

fn secret_of(secret: &Password) -> Result<String> {
    Ok(match secret {
        Password::Text(secret) => secret.reveal().to_owned(),
        Password::File(path) => private_file::read(path)?.trim_end().to_owned(),
    })
}

fn location(lake: &Lake) -> Result<Location> {
    let (name, prefix) = match &lake.location {
        LakeLocation::Folder(folder) => return Ok(Location::Folder(folder.clone())),
        LakeLocation::Bucket { name, prefix } => (name.clone(), prefix.clone()),
    };
    let secret = lake.secret_access_key.as_ref().map(secret_of).transpose()?;
    let keys = match (&lake.access_key_id, secret) {
        (Some(id), Some(secret)) => Some((id.clone(), secret)),
        (None, None) => None,
        (Some(_), None) => anyhow::bail!("lake.access_key_id has no lake.secret_access_key"),
        (None, Some(_)) => anyhow::bail!("lake.secret_access_key has no lake.access_key_id"),
    };
    Ok(Location::Bucket(Bucket {
        name,
        prefix,
        region: lake.region.clone(),
        endpoint: lake.endpoint.clone(),
        keys,
    }))
}
