//! The change stream of a server: from settings to a stream that is followed, and what is told of it.
//!
//! Every server that is configured for it tries; one follows the slot, and the others take over when it ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result};
use sheaf_cache::Cache;
use sheaf_cdc::file::FileSink;
use sheaf_cdc::journal::{Bounds, Journal};
use sheaf_cdc::letter::LetterCounts;
use sheaf_cdc::sink::Sink;
use sheaf_cdc::status::StreamStatus;
use sheaf_cdc::stream::{ChangeStream, StreamOptions};
use sheaf_config::{Changes, Lake, Settings};
use sheaf_model::Timestamp;
use sheaf_pg::{NewestTimeline, Pool, Tls, check_role};
use sheaf_server::ChangeFeed;
use sheaf_store as store;
use tokio::sync::watch;
use tokio_postgres::Config;

use crate::cache_sink::{self, CacheSink};
use crate::connect::{Access, CDC, OWNER};
use crate::http_sinks;
use crate::lake;
use crate::reconciling;
use crate::serving::StopSignal;

/// Connections beside those of sinks: one that prepares and measures, one that stores positions.
const CONNECTIONS_BESIDE: usize = 2;
/// The names of the sinks.
const FILE: &str = "file";
const JOURNAL: &str = "journal";

const LAG_SECONDS: &str = "sheaf_cdc_lag_seconds";
const CHANGES_TOTAL: &str = "sheaf_cdc_changes_total";
const FAILURES_TOTAL: &str = "sheaf_cdc_failures_total";
const FOLLOWING: &str = "sheaf_cdc_following";
const LETTERS_TOTAL: &str = "sheaf_dead_letters_total";
const LETTERS_WAITING: &str = "sheaf_dead_letters_waiting";
const RETAINED_BYTES: &str = "sheaf_wal_retained_bytes";

/// What to follow, and where to.
pub(crate) struct Following {
    config: Config,
    tls: Tls,
    changes: Changes,
    lake: Option<Lake>,
}

/// A task of the background.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A stream that is about to be followed.
pub(crate) struct Followed {
    /// What follows it and tells how that goes.
    pub(crate) tasks: Vec<Task>,
    /// What those who follow changes over HTTP are served from.
    pub(crate) feed: Option<ChangeFeed>,
}

impl Following {
    /// What the settings ask for, if they do.
    pub(crate) fn of(access: &Access, settings: &Settings) -> Option<Following> {
        is_taken(settings).then(|| Following {
            config: access.cdc.clone(),
            tls: access.tls.clone(),
            changes: settings.changes.clone(),
            lake: settings.lake.clone(),
        })
    }
}

/// Whether something takes the changes, so that they are followed. A cache alone is none: it is right without.
pub(crate) fn is_taken(settings: &Settings) -> bool {
    !sink_names(&settings.changes, settings.lake.as_ref(), false).is_empty()
}

/// The names of the sinks that are fed where the changes are followed.
pub(crate) fn sink_names(changes: &Changes, lake: Option<&Lake>, has_cache: bool) -> Vec<String> {
    let of_file = changes.file.iter().map(|_| FILE.to_owned());
    let of_http = changes.http.keys().map(|name| http_sinks::name(name));
    let of_journal = changes.journal.dir.iter().map(|_| JOURNAL.to_owned());
    let of_lake = lake.iter().map(|_| lake::NAME.to_owned());
    let of_cache = has_cache.then(|| cache_sink::NAME.to_owned());
    let names = of_file.chain(of_http).chain(of_journal).chain(of_lake);
    names.chain(of_cache).collect()
}

/// Prepares to follow the changes of a cluster, and tells the cache of them. A role that may more than it should ends the start.
pub(crate) async fn follow(
    following: Following,
    database: &Arc<store::settings::Settings>,
    cache: Option<&Cache>,
    newest: &Arc<NewestTimeline>,
    stop: &StopSignal,
) -> Result<Followed> {
    let Following {
        config,
        tls,
        changes,
        lake,
    } = following;
    let client = tls.connect(&config).await?;
    check_role(&client, CDC, OWNER)
        .await
        .context("checking the role that follows changes")?;
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    if let Some(file) = &changes.file {
        sinks.push(Box::new(FileSink::new(FILE, file)));
    }
    for (name, settings) in &changes.http {
        sinks.push(http_sinks::sink(name, settings)?);
    }
    let journal = changes.journal.dir.as_ref().map(|dir| {
        let bounds = Bounds::of(changes.journal.bytes_max);
        let (sink, journal) = Journal::new(JOURNAL, dir, bounds, database.system_id);
        sinks.push(Box::new(sink));
        journal
    });
    // The cache and the lake ask besides.
    let asking = usize::from(cache.is_some()) + usize::from(lake.is_some());
    let connections = CONNECTIONS_BESIDE + sinks.len() + 2 * asking;
    let pool = Pool::of_cluster(&config, connections, &tls, newest);
    if let Some(lake) = &lake {
        sinks.push(Box::new(lake::sink(lake, &pool)?));
    }
    if let Some(cache) = cache {
        let (pool, database) = (pool.clone(), Arc::clone(database));
        sinks.push(Box::new(CacheSink::new(cache.clone(), pool, database)));
    }
    debug_assert!(
        sinks.iter().map(|sink| sink.name()).eq(sink_names(
            &changes,
            lake.as_ref(),
            cache.is_some()
        )),
        "each sink is one that is told of"
    );
    let reconciling = match &lake {
        Some(lake) => {
            let pool = Pool::of_cluster(&config, reconciling::CONNECTIONS, &tls, newest);
            let reconciler = lake::reconciler(lake, &changes.slot, &pool, |options| options)?;
            let every = lake.reconcile_every;
            let task = reconciling::run(reconciler, pool, every, stop.clone());
            Some(Box::pin(task) as Task)
        }
        None => None,
    };
    let options = StreamOptions::new(changes.slot);
    let (stream, status) = ChangeStream::new(pool, config, tls, options, sinks);
    let feed = journal.map(|journal| ChangeFeed {
        journal,
        sink: JOURNAL,
        status: status.clone(),
        stop: stop.receiver(),
    });
    let stopped = stop.receiver();
    let run = async move {
        if let Err(error) = stream.run(stopped).await {
            let error = anyhow::Error::from(error);
            tracing::error!(
                error = format!("{error:#}"),
                "changes are not followed any more"
            );
        }
    };
    let mut tasks: Vec<Task> = vec![Box::pin(run), Box::pin(tell(status))];
    tasks.extend(reconciling);
    Ok(Followed { tasks, feed })
}

/// Shows each status, until there are no more.
async fn tell(mut status: watch::Receiver<StreamStatus>) {
    loop {
        show(&status.borrow_and_update());
        if status.changed().await.is_err() {
            return;
        }
    }
}

fn show(status: &StreamStatus) {
    let slot = status.slot.clone();
    metrics::gauge!(FOLLOWING, "slot" => slot.clone())
        .set(f64::from(u8::from(status.is_following)));
    // Unknown is not a number, and not zero.
    let retained = status
        .retention
        .retained_bytes
        .map_or(f64::NAN, |bytes| bytes as f64);
    metrics::gauge!(RETAINED_BYTES, "slot" => slot).set(retained);
    let letters = status.sinks.iter().map(|sink| sink.letters);
    for (reason, count) in letters.fold(LetterCounts::NONE, LetterCounts::plus).each() {
        metrics::counter!(LETTERS_TOTAL, "reason" => reason.as_str()).absolute(count);
    }
    let now = Timestamp::now();
    for sink in &status.sinks {
        let name = || sink.name.clone();
        let lag = sink
            .applied_at
            .map_or(f64::NAN, |applied_at| now.since(applied_at).as_secs_f64());
        metrics::gauge!(LAG_SECONDS, "sink" => name()).set(lag);
        metrics::counter!(CHANGES_TOTAL, "sink" => name()).absolute(sink.changes);
        metrics::counter!(FAILURES_TOTAL, "sink" => name()).absolute(sink.failures);
        let holes = sink.holes.map_or(f64::NAN, |holes| holes as f64);
        metrics::gauge!(LETTERS_WAITING, "sink" => name()).set(holes);
    }
}
