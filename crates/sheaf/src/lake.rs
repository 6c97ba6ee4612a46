//! The lake of a server: from settings to what writes it and what answers questions over it.

use std::sync::Arc;

use anyhow::{Context, Result};
use sheaf_config::{Lake, LakeLocation, Password};
use sheaf_lake::analytics::{LakeReader, QueryBounds, ReaderOptions};
use sheaf_lake::reconcile::{ReconcileOptions, Reconciler};
use sheaf_lake::{Bucket, LakeArchive, LakeOptions, LakeSink, Location};
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
    Ok(LakeOptions::at(location(lake)?))
}

fn location(lake: &Lake) -> Result<Location> {
    let (name, prefix) = match &lake.location {
        LakeLocation::Folder(folder) => return Ok(Location::Folder(folder.clone())),
        LakeLocation::Bucket { name, prefix } => (name.clone(), prefix.clone()),
    };
    let secret = match &lake.secret_access_key {
        Some(Password::Text(secret)) => Some(secret.reveal().to_owned()),
        Some(Password::File(path)) => Some(private_file::read(path)?.trim_end().to_owned()),
        None => None,
    };
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
