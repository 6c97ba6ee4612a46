//! The change stream of a server: from settings to a stream that is followed, and what is told of it.
//!
//! Every server that is configured for it tries; one follows the slot, and the others take over when it ends.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use anyhow::{Context, Result};
use sheaf_cdc::file::FileSink;
use sheaf_cdc::status::StreamStatus;
use sheaf_cdc::stream::{ChangeStream, StreamOptions};
use sheaf_config::Settings;
use sheaf_model::Timestamp;
use sheaf_pg::{Pool, Tls, check_role};
use tokio::sync::watch;
use tokio_postgres::Config;

use crate::connect::{Access, CDC, OWNER};
use crate::serving::StopSignal;

/// Connections beside those of sinks: one that prepares and measures, one that stores positions.
const CONNECTIONS_BESIDE: usize = 2;
/// The name of the sink that is a file.
const FILE: &str = "file";

const LAG_SECONDS: &str = "sheaf_cdc_lag_seconds";
const CHANGES_TOTAL: &str = "sheaf_cdc_changes_total";
const FAILURES_TOTAL: &str = "sheaf_cdc_failures_total";
const FOLLOWING: &str = "sheaf_cdc_following";
const RETAINED_BYTES: &str = "sheaf_wal_retained_bytes";

/// What to follow, and where to.
pub(crate) struct Following {
    config: Config,
    tls: Tls,
    slot: String,
    file: PathBuf,
}

/// A task of the background.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Following {
    /// What the settings ask for, if they do.
    pub(crate) fn of(access: &Access, settings: &Settings) -> Option<Following> {
        let changes = settings.changes.as_ref()?;
        Some(Following {
            config: access.cdc.clone(),
            tls: access.tls.clone(),
            slot: changes.slot.clone(),
            file: changes.file.clone(),
        })
    }
}

/// The tasks that follow the changes and tell how that goes. A role that may more than it should ends the start.
pub(crate) async fn follow(following: Following, stop: &StopSignal) -> Result<Vec<Task>> {
    let Following {
        config,
        tls,
        slot,
        file,
    } = following;
    let client = tls.connect(&config).await?;
    check_role(&client, CDC, OWNER)
        .await
        .context("checking the role that follows changes")?;
    let sink = Box::new(FileSink::new(FILE, &file));
    let pool = Pool::new(&config, CONNECTIONS_BESIDE + 1, &tls);
    let options = StreamOptions::new(slot);
    let (stream, status) = ChangeStream::new(pool, config, tls, options, vec![sink]);
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
    Ok(vec![Box::pin(run), Box::pin(tell(status))])
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
    let now = Timestamp::now();
    for sink in &status.sinks {
        let name = || sink.name.clone();
        let lag = sink.applied_at.map_or(f64::NAN, |applied_at| {
            (now.as_micros() - applied_at.as_micros()).max(0) as f64 / 1e6
        });
        metrics::gauge!(LAG_SECONDS, "sink" => name()).set(lag);
        metrics::counter!(CHANGES_TOTAL, "sink" => name()).absolute(sink.changes);
        metrics::counter!(FAILURES_TOTAL, "sink" => name()).absolute(sink.failures);
    }
}
