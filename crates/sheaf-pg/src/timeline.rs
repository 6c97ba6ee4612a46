//! The newest timeline of a cluster that is known of, and connections past the hosts that a promotion has left behind.
//!
//! Where an address names several hosts, the first that takes writes is connected to. After a promotion that may be the old
//! primary, which is back and does not know it: so each host is asked for its timeline once one was seen. The same address
//! may lead to another server later, so that nothing which leads to one that was left behind is kept.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sheaf_model::Lineage;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config};

use crate::error::PgError;

/// The timeline that a server writes on; none where it is a standby.
const WRITTEN_TIMELINE: &str = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END AS timeline";

/// How long it may take until a connection that was just found to be good is noted as made: one step of a task.
const NOTED_WITHIN: Duration = Duration::from_millis(100);

/// The newest timeline that a server of the cluster has shown. A primary that is still on an earlier one was left behind by
/// a promotion: what is written there is lost, and what is read there is old, so that neither is done.
#[derive(Debug, Default)]
pub struct NewestTimeline {
    timeline: AtomicU32,
    /// When it was last found that a primary may be left behind.
    moved_at: Mutex<Option<Instant>>,
}

impl NewestTimeline {
    /// A server that was asked has shown one. The first is a move as well: nobody knows where connections lead that were
    /// made before it.
    pub fn saw(&self, timeline: u32) {
        if self.timeline.fetch_max(timeline, Ordering::Relaxed) < timeline {
            *self.moved_at() = Some(Instant::now());
        }
    }

    /// A connection to a primary that was left behind is lent, as there was no other: once, and none that was made so far
    /// is kept.
    pub(crate) fn lent_left_behind(&self) {
        *self.moved_at() = Some(Instant::now());
    }

    /// The newest; absent where none was seen.
    pub fn get(&self) -> Option<u32> {
        // Timelines count from 1.
        Some(self.timeline.load(Ordering::Relaxed)).filter(|timeline| *timeline > 0)
    }

    /// Fails where the lineage of a server that was asked is earlier than the newest, which it else is.
    pub fn require(&self, lineage: Lineage) -> Result<(), PgError> {
        self.saw(lineage.timeline);
        if Some(lineage.timeline) < self.get() {
            return Err(PgError::NotPrimary {
                step: "reading the lineage of a transaction",
                why: "a promotion has left it behind",
            });
        }
        Ok(())
    }

    /// Whether a connection that was made then may lead to a primary that was left behind since.
    pub(crate) fn has_moved_since(&self, made_at: Instant) -> bool {
        let moved_at = *self.moved_at();
        moved_at.is_some_and(|moved_at| made_at <= moved_at + NOTED_WITHIN)
    }

    fn moved_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.moved_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same with each of its hosts alone, in their order.
pub(crate) fn each_host(config: &Config) -> Vec<Config> {
    let hosts = config.get_hosts();
    if hosts.len() < 2 {
        return vec![config.clone()];
    }
    let port_of = |place: usize| {
        let ports = config.get_ports();
        ports.get(place).or_else(|| ports.first()).copied()
    };
    let alone = hosts.iter().enumerate().map(|(place, host)| {
        let mut alone = Config::new();
        match host {
            Host::Tcp(name) => alone.host(name),
            Host::Unix(path) => alone.host_path(path),
        };
        if let Some(port) = port_of(place) {
            alone.port(port);
        }
        copy_all_but_hosts(config, &mut alone);
        alone
    });
    alone.collect()
}

/// What we set on connections, and whatever else can be said of one.
fn copy_all_but_hosts(from: &Config, to: &mut Config) {
    if let Some(user) = from.get_user() {
        to.user(user);
    }
    if let Some(password) = from.get_password() {
        to.password(password);
    }
    if let Some(dbname) = from.get_dbname() {
        to.dbname(dbname);
    }
    if let Some(options) = from.get_options() {
        to.options(options);
    }
    if let Some(name) = from.get_application_name() {
        to.application_name(name);
    }
    if let Some(limit) = from.get_connect_timeout() {
        to.connect_timeout(*limit);
    }
    if let Some(limit) = from.get_tcp_user_timeout() {
        to.tcp_user_timeout(*limit);
    }
    if let Some(interval) = from.get_keepalives_interval() {
        to.keepalives_interval(interval);
    }
    if let Some(retries) = from.get_keepalives_retries() {
        to.keepalives_retries(retries);
    }
    to.keepalives(from.get_keepalives())
        .keepalives_idle(from.get_keepalives_idle())
        .ssl_mode(from.get_ssl_mode())
        .ssl_negotiation(from.get_ssl_negotiation())
        .channel_binding(from.get_channel_binding())
        .target_session_attrs(from.get_target_session_attrs());
}

/// Whether a promotion has left behind the server that a connection leads to.
pub(crate) async fn is_left_behind(
    client: &Client,
    newest: &NewestTimeline,
) -> Result<bool, tokio_postgres::Error> {
    if newest.get().is_none() {
        return Ok(false);
    }
    let rows = client.query_typed(WRITTEN_TIMELINE, &[]).await?;
    let timeline: Option<&str> = rows.first().and_then(|row| row.get("timeline"));
    let timeline = timeline.and_then(|timeline| u32::from_str_radix(timeline, 16).ok());
    // The newest of now: it may have moved since the connection was begun.
    Ok(timeline.is_some() && timeline < newest.get())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lineage_is_taken_until_a_newer_one_was_seen() {
        let newest = NewestTimeline::default();
        let on = |timeline| Lineage {
            system_id: 7,
            timeline,
        };
        assert_eq!(newest.get(), None);
        assert!(newest.require(on(2)).is_ok());
        assert!(newest.require(on(1)).is_err());
        newest.saw(1);
        assert_eq!(newest.get(), Some(2));
        assert!(newest.require(on(2)).is_ok());
        newest.saw(3);
        assert!(newest.require(on(2)).is_err());
        assert!(newest.require(on(3)).is_ok());
    }

    #[test]
    fn each_newer_timeline_makes_the_connections_of_before_old_also_the_first() {
        let newest = NewestTimeline::default();
        let later = || Instant::now() + Duration::from_secs(1);
        let made_at = Instant::now();
        assert!(!newest.has_moved_since(made_at));
        newest.saw(2);
        assert!(newest.has_moved_since(made_at));
        let made_at = later();
        newest.saw(2);
        newest.saw(1);
        assert!(!newest.has_moved_since(made_at));
        newest.saw(3);
        assert!(newest.has_moved_since(Instant::now()), "not noted yet");
        assert!(!newest.has_moved_since(later()));
    }

    #[test]
    fn each_host_alone_is_reached_as_all_of_them_are() {
        let mut config = Config::new();
        config.host("one").port(1).host("/two").port(2);
        config.user("sheaf_app").password("secret").dbname("sheaf");
        config.application_name("sheaf");
        config.target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
        config.connect_timeout(Duration::from_secs(5));
        let alone = each_host(&config);
        let mut one = Config::new();
        one.host("one").port(1);
        let mut two = Config::new();
        two.host("/two").port(2);
        for config in [&mut one, &mut two] {
            config.user("sheaf_app").password("secret").dbname("sheaf");
            config.application_name("sheaf");
            config.target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
            config.connect_timeout(Duration::from_secs(5));
        }
        assert_eq!(alone, [one, two]);
    }
}
