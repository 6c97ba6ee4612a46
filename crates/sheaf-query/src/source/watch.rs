//! The watch: looks at every source again and again, so that whatever is decided is decided on what was seen a moment ago.
//!
//! Each source has a connection of its own for it, so that a look neither waits for reads nor takes their connections. While
//! a read waits for a replica to reach its token, looks follow each other as fast as they are answered: one of these serves
//! all that wait, and what they wait for is all that the read's own polling would find.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sheaf_pg::{PgError, Pool};
use sheaf_store::heartbeat::{Look, look};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use super::registry::{Replica, Sources};
use crate::consistency::{DataSource, Lag};

/// Between two looks. What is decided on is so old at most; each look is one small statement.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two looks at a primary without replicas, whose state decides nothing.
const LOOK_ALONE_EVERY: Duration = Duration::from_millis(500);
/// Between two looks while somebody waits for a replica to get on.
const HURRY_EVERY: Duration = Duration::from_millis(1);
/// How many looks follow each other at once where somebody begins to wait: a replica that keeps up has got on within them,
/// and no pause is as short.
const LOOKS_AT_ONCE: u32 = 8;
/// Between two attempts at a source that did not answer.
const RETRY_EVERY: Duration = Duration::from_millis(250);
/// A source that takes longer for a look is not there.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Whether a source answers and is what it is taken for.
pub const SOURCE_UP: &str = "sheaf_source_up";
/// How far a source is behind; not a number where that is unknown.
pub const SOURCE_LAG_SECONDS: &str = "sheaf_source_lag_seconds";
/// Whether the breaker of a source is in this state: 1, else 0.
pub const SOURCE_BREAKER: &str = "sheaf_source_breaker";

impl Sources {
    /// Watches every source until told to stop.
    pub async fn watch(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut watching = JoinSet::new();
        watching.spawn(watch_primary(Arc::clone(&self)));
        loop {
            for replica in self.replicas().iter() {
                if !replica.is_watched.swap(true, Ordering::Relaxed) {
                    watching.spawn(watch_replica(Arc::clone(&self), Arc::clone(replica)));
                }
            }
            tokio::select! {
                () = self.replicas_changed.notified() => {}
                // Those of replicas that were taken out.
                Some(_) = watching.join_next() => {}
                _ = stop.wait_for(|stopped| *stopped) => break,
            }
        }
        watching.shutdown().await;
    }

    /// Looks at every source once; nothing for those that answered, else why not.
    pub async fn look_once(&self) -> Vec<(DataSource, Option<PgError>)> {
        let primary = self.look_at_primary(&mut None).await;
        let mut looks = vec![(DataSource::Primary, primary.err())];
        for replica in self.replicas().iter() {
            let looked = self.look_at_replica(replica, &mut None).await;
            looks.push((DataSource::Replica(Arc::clone(&replica.name)), looked.err()));
        }
        looks
    }

    async fn look_at_primary(&self, client: &mut Option<Client>) -> Result<(), PgError> {
        let (look, asked_at) = look_through(client, &self.primary.app).await?;
        // The next connection may lead to another host.
        if !self.saw_primary(look, asked_at) {
            *client = None;
        }
        Ok(())
    }

    async fn look_at_replica(
        &self,
        replica: &Replica,
        client: &mut Option<Client>,
    ) -> Result<(), PgError> {
        let (look, asked_at) = look_through(client, &replica.pools.app).await?;
        self.saw_replica(replica, look, asked_at);
        Ok(())
    }

    /// Tells the metrics how the sources are.
    fn tell(&self) {
        for status in self.status() {
            let source = status.source.to_string();
            let up = f64::from(u8::from(status.is_up));
            metrics::gauge!(SOURCE_UP, "source" => source.clone()).set(up);
            let lag = match status.lag {
                Lag::Measured(lag) => lag.as_secs_f64(),
                Lag::Unknown => f64::NAN,
            };
            metrics::gauge!(SOURCE_LAG_SECONDS, "source" => source.clone()).set(lag);
            for state in ["closed", "half-open", "open"] {
                let is_it = f64::from(u8::from(state == status.breaker));
                metrics::gauge!(SOURCE_BREAKER, "source" => source.clone(), "state" => state)
                    .set(is_it);
            }
        }
    }
}

async fn watch_primary(sources: Arc<Sources>) {
    let mut client = None;
    let mut answered = Answered::new(DataSource::Primary);
    loop {
        let looked = sources.look_at_primary(&mut client).await;
        let is_well = answered.is_well(&looked);
        sources.tell();
        let pause = match (is_well, sources.replicas().is_empty()) {
            (false, _) => RETRY_EVERY,
            (true, true) => LOOK_ALONE_EVERY,
            (true, false) => LOOK_EVERY,
        };
        sleep(pause).await;
    }
}

async fn watch_replica(sources: Arc<Sources>, replica: Arc<Replica>) {
    let source = DataSource::Replica(Arc::clone(&replica.name));
    let mut client = None;
    let mut answered = Answered::new(source.clone());
    let mut hurried = 0;
    while !replica.is_removed.load(Ordering::Relaxed) {
        // Registered before it is asked whether anybody waits, so that nobody begins to wait unseen.
        let hurry = sources.hurry.notified();
        tokio::pin!(hurry);
        hurry.as_mut().enable();
        let looked = sources.look_at_replica(&replica, &mut client).await;
        if !answered.is_well(&looked) {
            sleep(RETRY_EVERY).await;
        } else if !sources.is_waited_for() {
            hurried = 0;
            let _ = timeout(LOOK_EVERY, hurry).await;
        } else if hurried < LOOKS_AT_ONCE {
            hurried += 1;
        } else {
            sleep(HURRY_EVERY).await;
        }
    }
    let source = source.to_string();
    metrics::gauge!(SOURCE_UP, "source" => source.clone()).set(0.0);
    metrics::gauge!(SOURCE_LAG_SECONDS, "source" => source).set(f64::NAN);
}

/// Looks over a connection that is kept while it answers; and when it asked. Of several hosts that are connected to each
/// has as long as a look.
async fn look_through(
    client: &mut Option<Client>,
    pool: &Pool,
) -> Result<(Look, Instant), PgError> {
    let kept = match client.take() {
        Some(kept) if !kept.is_closed() => kept,
        Some(_) | None => pool.connect_apart(LOOK_MAX).await?,
    };
    let asked_at = Instant::now();
    let looked = timeout(LOOK_MAX, look(&kept)).await;
    let look = looked.map_err(|_| PgError::Connect {
        role: pool.role().to_owned(),
        source: "no answer in time".into(),
    })??;
    *client = Some(kept);
    Ok((look, asked_at))
}

/// Says once that a source does not answer, and once that it does again.
struct Answered {
    source: DataSource,
    was_well: bool,
}

impl Answered {
    fn new(source: DataSource) -> Answered {
        Answered {
            source,
            was_well: true,
        }
    }

    fn is_well(&mut self, looked: &Result<(), PgError>) -> bool {
        let source = &self.source;
        match looked {
            Ok(()) if !self.was_well => tracing::info!(%source, "a source answers again"),
            Err(error) if self.was_well => {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                tracing::warn!(%source, %error, cause, "a source does not answer");
            }
            Ok(()) | Err(_) => {}
        }
        self.was_well = looked.is_ok();
        self.was_well
    }
}
