//! From settings to the cache, and from commits to it.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use sheaf_cache::{Cache, Database, Options, RemoteOptions};
use sheaf_config::{Redis, Settings};
use sheaf_ingest::CommitObserver;
use sheaf_model::{Position, TenantId, WrittenEntity};
use sheaf_server::{Check, CheckStatus, ReadinessCheck};
use sheaf_store as store;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::private_file;

/// One answer from memory in so many is compared with the primary: thirty comparisons a second at the most that is
/// answered, and a ratio that means something after minutes of little.
const SAMPLE_EVERY: u64 = 1_000;

/// The cache of the settings with its tasks, if they ask for one.
pub(crate) fn cache(
    settings: &Settings,
    database: &store::settings::Settings,
    stop: &watch::Receiver<bool>,
) -> Result<Option<(Cache, Vec<JoinHandle<()>>)>> {
    let options = Options {
        bytes_max: settings.cache.bytes_max,
        age_max: settings.cache.age_max,
        sample_every: SAMPLE_EVERY,
    };
    let database = Database {
        system_id: database.system_id,
        signing_key: database.signing_key,
    };
    match (&settings.redis, options.bytes_max) {
        (None, 0) => Ok(None),
        (Some(_), 0) => bail!(
            "redis.url is set and cache.bytes_max is 0: what servers share, each of them remembers, too"
        ),
        (None, _) => Ok(Some((Cache::local(options, &database), Vec::new()))),
        (Some(redis), _) => {
            let remote = remote(redis)?;
            Ok(Some(Cache::shared(options, &database, remote, stop)))
        }
    }
}

/// Reads the files that the settings name.
pub(crate) fn remote(redis: &Redis) -> Result<RemoteOptions> {
    let is_encrypted = redis.url.starts_with("rediss://");
    if redis.ca_file.is_some() && !is_encrypted {
        bail!("redis.ca_file is set and redis.url is not encrypted; it would begin with rediss://");
    }
    let password = match &redis.password_file {
        Some(path) => Some(private_file::read(path).context("reading the password of redis")?),
        None => None,
    };
    let ca = match &redis.ca_file {
        Some(path) => {
            let read = std::fs::read(path);
            Some(read.with_context(|| format!("reading certificates from {}", path.display()))?)
        }
        None => None,
    };
    let options = RemoteOptions {
        url: redis.url.clone(),
        user: redis.user.clone(),
        password,
        ca,
        deadline: redis.deadline,
    };
    options.check().context("reading the settings of redis")?;
    Ok(options)
}

/// Passes on what the lanes commit.
pub(crate) struct Commits(pub(crate) Cache);

impl CommitObserver for Commits {
    fn committed(&self, position: Position, written: &[WrittenEntity]) {
        self.0.committed(position, written);
    }

    fn named(&self, tenant: TenantId) {
        self.0.named(tenant);
    }

    fn committed_unseen(&self) {
        self.0.lose();
    }
}

/// Whether Redis is reached; a server without it serves.
pub(crate) fn readiness(cache: &Cache) -> Option<ReadinessCheck> {
    cache.reaches_redis()?;
    let cache = cache.clone();
    Some(Arc::new(move || {
        let is_reached = cache.reaches_redis() == Some(true);
        let (status, detail) = if is_reached {
            (CheckStatus::Ok, "answers")
        } else {
            (CheckStatus::Warn, "is not reached; reads go on without it")
        };
        let check = Check {
            name: "redis".to_owned(),
            status,
            detail: detail.to_owned(),
        };
        Box::pin(std::future::ready(check))
    }))
}
