//! The one connection of the fences, and one fence on it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sheaf_model::{Lsn, Position};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Config, SimpleQueryMessage, SimpleQueryRow};

use super::proof::{Seen, Verdict, judge};
use super::{FenceError, STANDBY_NAMES};
use crate::error::PgError;
use crate::pool::Pool;

/// How long the server has to take a request to cancel.
const CANCEL_MAX: Duration = Duration::from_secs(1);

const STEP: &str = "waiting for a synchronous standby";

/// The connection of the fences.
pub(super) struct Line {
    config: Config,
    writer: Pool,
    session: Option<Session>,
}

/// A connection that is made.
struct Session {
    client: Client,
    made_at: Instant,
    /// The last thing that the server said beside its answers.
    heard: Arc<Mutex<Option<String>>>,
}

impl Line {
    /// Connects as the connections of this pool do.
    pub(super) fn new(writer: &Pool) -> Line {
        let mut config = writer.config().clone();
        config.application_name("sheaf fence");
        // A wait for a primary that is gone must end: after 25 s, as nothing is sent meanwhile.
        config
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3);
        Line {
            config,
            writer: writer.clone(),
            session: None,
        }
    }

    /// Passes one fence. Settings that change beneath it make it run again.
    pub(super) async fn pass(&mut self) -> Result<Position, FenceError> {
        loop {
            self.ensure_session().await?;
            let session = self.session.as_ref().expect("it was just ensured");
            let seen = match session.pass_once().await {
                Ok(seen) => seen,
                Err(error) => {
                    let heard = session.take_heard();
                    // The transaction is in an unknown state.
                    self.session = None;
                    return Err(match heard {
                        Some(warning) => FenceError::Cancelled { warning },
                        None => error.into(),
                    });
                }
            };
            match judge(&seen) {
                Verdict::Replicated => return Ok(seen.position),
                Verdict::NoStandby => return Err(FenceError::NoStandby),
                Verdict::Cancelled(warning) => return Err(FenceError::Cancelled { warning }),
                Verdict::Again(after) => sleep(after).await,
            }
        }
    }

    async fn ensure_session(&mut self) -> Result<(), PgError> {
        let newest = self.writer.newest_timeline();
        let is_good = |session: &Session| {
            !session.client.is_closed() && !newest.has_moved_since(session.made_at)
        };
        if self.session.as_ref().is_some_and(is_good) {
            return Ok(());
        }
        let made_at = Instant::now();
        let heard = Arc::new(Mutex::new(None));
        let hears = Arc::clone(&heard);
        let client = self
            .writer
            .connect_hearing(&self.config, move |notice| {
                *hears.lock().unwrap_or_else(PoisonError::into_inner) = Some(notice.to_string());
            })
            .await?;
        let session = Session {
            client,
            made_at,
            heard,
        };
        // What the server says on connecting comes before this answer, and belongs to no fence.
        session.query("").await?;
        self.session = Some(session);
        Ok(())
    }

    /// Ends a fence that is still waiting. Its backend would outlive us.
    pub(super) async fn cancel(self) {
        let Some(session) = self.session else { return };
        let cancel = session.client.cancel_token();
        match timeout(
            CANCEL_MAX,
            cancel.cancel_query(self.writer.tls().connector()),
        )
        .await
        {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a wait for a standby could not be cancelled"),
            Err(_) => tracing::warn!("a wait for a standby could not be cancelled in time"),
        }
    }
}

impl Session {
    async fn pass_once(&self) -> Result<Seen, PgError> {
        // Warnings are asked for, as a role or a database may have silenced them. One message: settings are read anew
        // between messages only, so all of it runs under the settings that its SELECT sees.
        let fence = format!(
            "BEGIN; SET LOCAL synchronous_commit = on; SET LOCAL client_min_messages = warning;
             SELECT {STANDBY_NAMES} AS standby_names,
                 pg_current_wal_insert_lsn() AS lsn,
                 substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS timeline,
                 (SELECT system_identifier FROM pg_control_system()) AS system_id,
                 (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS began_at_us,
                 (extract(epoch FROM pg_conf_load_time()) * 1000000)::bigint AS settings_us;
             SELECT pg_logical_emit_message(true, 'sheaf.fence', ''::text); COMMIT"
        );
        let after =
            "SELECT (extract(epoch FROM pg_conf_load_time()) * 1000000)::bigint AS settings_us";
        self.take_heard();
        // Both leave at once, in this order.
        let (before, after) = tokio::join!(self.query(&fence), self.query(after));
        let (before, after) = (before?, after?);
        let warning = self.take_heard();
        let before = first_row(&before)?;
        let (timeline, lsn) = (text(before, "timeline")?, text(before, "lsn")?);
        Ok(Seen {
            standby_names: text(before, "standby_names")?.to_owned(),
            position: Position {
                system_id: number(before, "system_id")?.cast_unsigned(),
                timeline: u32::from_str_radix(timeline, 16)
                    .map_err(|_| PgError::unreadable(STEP, timeline))?,
                lsn: lsn
                    .parse::<Lsn>()
                    .map_err(|_| PgError::unreadable(STEP, lsn))?,
            },
            began_at_us: number(before, "began_at_us")?,
            settings_of_us: number(before, "settings_us")?,
            settings_after_us: number(first_row(&after)?, "settings_us")?,
            warning,
        })
    }

    async fn query(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, PgError> {
        self.client
            .simple_query(sql)
            .await
            .map_err(PgError::statement(STEP))
    }

    fn take_heard(&self) -> Option<String> {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

fn first_row(messages: &[SimpleQueryMessage]) -> Result<&SimpleQueryRow, PgError> {
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.ok_or_else(|| PgError::unreadable(STEP, "no row"))
}

fn text<'a>(row: &'a SimpleQueryRow, column: &'static str) -> Result<&'a str, PgError> {
    row.get(column)
        .ok_or_else(|| PgError::unreadable(STEP, column))
}

fn number(row: &SimpleQueryRow, column: &'static str) -> Result<i64, PgError> {
    text(row, column)?
        .parse()
        .map_err(|_| PgError::unreadable(STEP, column))
}
