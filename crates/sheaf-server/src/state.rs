//! What every handler may use. The executable builds it; nothing here is read from the environment.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRef;
use futures::future::BoxFuture;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use sheaf_ingest::{Admission, Writer};
use sheaf_lake::analytics::LakeReader;
use sheaf_model::Limits;
use sheaf_pg::Pool;
use sheaf_query::Reader;
use sheaf_store::catalogue::Catalogues;
use sheaf_store::settings::Settings;
use tokio::sync::Notify;

use crate::auth::KeyRing;
use crate::changes::{ChangeFeed, Places};
use crate::stream::Streams;
use crate::{influx, ingest};

/// What the routes need.
#[derive(Clone)]
pub struct AppState {
    /// Connections as `sheaf_app`.
    pub app: Pool,
    /// The constants of the database.
    pub settings: Arc<Settings>,
    /// The remembered catalogues, shared with the writer and the reader.
    pub catalogues: Arc<Catalogues>,
    /// Who may write now.
    pub admission: Admission,
    /// The write path.
    pub writer: Writer,
    /// The read path.
    pub reader: Reader,
    /// The lake; absent where this server has none.
    pub lake: Option<LakeReader>,
    /// The changes, where this server follows them and keeps them for others.
    pub changes: Option<ChangeFeed>,
    /// Told when the background has something to do that was not there before.
    pub wake_upkeep: Arc<Notify>,
    /// What `/metrics` prints.
    pub metrics: PrometheusHandle,
    /// What `/readyz` asks, in this order.
    pub readiness: Vec<ReadinessCheck>,
    /// How much of anything a tenant may send at once.
    pub limits: Limits,
    /// How long and how often anybody may ask.
    pub bounds: Bounds,
}

/// Bounds on requests that do not depend on the tenant.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// From the request's head to the end of the handler.
    pub deadline: Duration,
    /// The same for requests with bodies of events, whose upload takes part of it. Longer lets a slow client hold
    /// memory longer; shorter cuts off large bodies on slow lines.
    pub events_deadline: Duration,
    /// How much of a body must come, or its end, within how long. Less lets a slow client hold a connection and memory
    /// for longer; more cuts off devices on slow lines.
    pub body_pace: BodyPace,
    /// How long a verified key is believed without asking again. Longer delays revocations; shorter asks more often.
    pub key_believed: Duration,
    /// How many streams there may be, and how long their pages may take.
    pub streams: StreamBounds,
    /// How many subscriptions to changes there may be, and how slow their clients.
    pub subscriptions: SubscriptionBounds,
    /// Failed attempts with a key, for each address and minute. Fewer lock out offices behind one address sooner; more
    /// let a guesser cause more look-ups.
    pub failed_attempts_max: u32,
}

/// How fast a body must come: so many bytes, again and again, within so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyPace {
    /// Bytes as they are sent.
    pub bytes_min: usize,
    /// From the first wait for the body, and from each time that the bytes have come.
    pub within: Duration,
}

/// Bounds on streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamBounds {
    /// Streams that a tenant may have running at once. Each holds a page in memory; more let one tenant take more of the
    /// database's time from the others.
    pub of_tenant_max: usize,
    /// Streams of all tenants at once.
    pub running_max: usize,
    /// Pages that streams read at the same time, at least 1; those of one tenant are at most half of them, rounded up.
    /// Half of the connections for filters that a server has by default: whoever asks for one page never waits behind
    /// exports alone. More make exports faster and everything else slower.
    pub reading_max: usize,
    /// How long a page may take once it is its turn. Longer lets a slow one keep others waiting for longer; shorter cuts off
    /// streams of filters that are slow.
    pub page_deadline: Duration,
}

/// Bounds on subscriptions to changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriptionBounds {
    /// Subscriptions that a tenant may have at once. Each reads the journal as it is written.
    pub of_tenant_max: usize,
    /// Subscriptions of all tenants at once. Each holds a connection and some hundred kilobytes.
    pub running_max: usize,
    /// How long a client may take nothing of what waits for it. Longer lets one that has stopped hold its place; shorter cuts
    /// off those whose line is away for a moment.
    pub taken_within: Duration,
    /// How long the name of an event's entity may take to be seen, after the event. A commit that waits for a standby is seen late:
    /// shorter may leave out what it wrote, and longer holds up a subscription for an event whose entity has no name.
    pub visible_within: Duration,
}

impl Default for SubscriptionBounds {
    fn default() -> SubscriptionBounds {
        SubscriptionBounds {
            of_tenant_max: 16,
            running_max: 256,
            taken_within: Duration::from_secs(30),
            visible_within: Duration::from_secs(60),
        }
    }
}

impl Default for StreamBounds {
    fn default() -> StreamBounds {
        StreamBounds {
            of_tenant_max: 4,
            running_max: 16,
            reading_max: 4,
            page_deadline: Duration::from_secs(30),
        }
    }
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            deadline: Duration::from_secs(30),
            events_deadline: Duration::from_secs(120),
            body_pace: BodyPace {
                bytes_min: 10 * 1024,
                within: Duration::from_secs(10),
            },
            key_believed: Duration::from_secs(10),
            streams: StreamBounds::default(),
            subscriptions: SubscriptionBounds::default(),
            failed_attempts_max: 100,
        }
    }
}

impl Bounds {
    /// The deadline of the requests of a route.
    pub(crate) fn deadline_of(&self, route: &str) -> Duration {
        match route {
            ingest::PATH | influx::V1_PATH | influx::V2_PATH => self.events_deadline,
            _ => self.deadline,
        }
    }
}

/// One thing that must work before requests are sent here.
pub type ReadinessCheck = Arc<dyn Fn() -> BoxFuture<'static, Check> + Send + Sync>;

/// What a readiness check found.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Check {
    /// What was asked.
    pub name: String,
    /// How it is.
    pub status: CheckStatus,
    /// Why, for people.
    pub detail: String,
}

/// How a thing that was checked is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Working, and somebody should look.
    Warn,
    /// Not working: send no requests here.
    Fail,
}

/// The state with what the server remembers beside it.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) state: Arc<AppState>,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) subscriptions: Arc<Places>,
}

impl FromRef<Shared> for Arc<AppState> {
    fn from_ref(shared: &Shared) -> Arc<AppState> {
        Arc::clone(&shared.state)
    }
}

impl FromRef<Shared> for Arc<KeyRing> {
    fn from_ref(shared: &Shared) -> Arc<KeyRing> {
        Arc::clone(&shared.keys)
    }
}

impl FromRef<Shared> for Arc<Streams> {
    fn from_ref(shared: &Shared) -> Arc<Streams> {
        Arc::clone(&shared.streams)
    }
}
