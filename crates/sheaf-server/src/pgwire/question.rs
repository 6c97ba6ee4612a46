//! A question of a connection: asked of the lake as `POST /v1/sql` does, and given up where its client cancels it, goes, or has said
//! how long it may take.

use std::time::Duration;

use sheaf_export::{Cell, Column};
use sheaf_lake::analytics::{Answer, Description, LakeReader, Param, Question};
use sheaf_model::{AttributeType, Timestamp};
use sheaf_query::{ConsistencyLevel, Freshness, ReadOptions};
use sheaf_store::TenantScope;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::catalogue::{self, World};
use super::fault::{Fault, QUERY_CANCELED, Severity};
use super::line::{Line, LineError};
use super::variables::Variables;
use super::{PgWire, QUESTIONS_TOTAL};
use crate::auth::admit_named;
use crate::freshness::position_of;
use crate::problem::{Code, Problem};
use crate::sql::{fresh, shown_from};
use crate::stream::StreamPermit;

/// How long a question waits while its tenant, or the server, has as many running as there may be: dashboards ask many at once.
const TURN_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks whether there is room.
const TURN_EVERY: Duration = Duration::from_millis(50);

/// Why a statement is given up.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The client is told.
    Fault(Fault),
    /// There is no client any more.
    Line(LineError),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Trouble {
        Trouble::Fault(fault)
    }
}

impl From<LineError> for Trouble {
    fn from(error: LineError) -> Trouble {
        Trouble::Line(error)
    }
}

/// Who asks, and how.
pub(super) struct Asker {
    pub(super) pgwire: PgWire,
    pub(super) scope: TenantScope,
    pub(super) user: String,
    pub(super) key: String,
    pub(super) variables: Variables,
    /// When the key was looked up last.
    pub(super) looked_at: Instant,
}

/// A question that is being answered.
pub(super) struct Asked {
    pub(super) columns: Vec<Column>,
    pub(super) freshness: Freshness,
    answer: Answer,
    rows: std::vec::IntoIter<Vec<Cell>>,
    is_at_end: bool,
    _permit: StreamPermit,
}

impl Asked {
    /// The next row; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Cell>>, Fault> {
        loop {
            if let Some(row) = self.rows.next() {
                return Ok(Some(row));
            }
            if self.is_at_end {
                return Ok(None);
            }
            match self.answer.next().await? {
                Some(rows) => self.rows = rows.into_iter(),
                None => self.is_at_end = true,
            }
        }
    }
}

impl Asker {
    /// Asks the lake.
    pub(super) async fn ask(&self, query: String, params: Vec<Param>) -> Result<Asked, Fault> {
        let (lake, permit) = self.admitted().await?;
        let token = self.variables.token();
        let token =
            token.map(|text| position_of(text, self.scope.tenant(), &self.pgwire.shared.state));
        let options = ReadOptions {
            level: ConsistencyLevel::Analytics,
            max_lag: self.variables.max_lag(),
            ..ReadOptions::new(token.transpose()?, Timestamp::now())
        };
        let (snapshot, freshness) = fresh(lake, &options).await?;
        let question = Question {
            query,
            params,
            shown: shown_from(&self.pgwire.shared.state, &self.scope).await?,
        };
        let answer = lake.ask(&self.scope, &snapshot, question).await?;
        Ok(Asked {
            columns: answer.columns.clone(),
            freshness,
            answer,
            rows: Vec::new().into_iter(),
            is_at_end: false,
            _permit: permit,
        })
    }

    /// What a question would give.
    pub(super) async fn describe(&self, query: String) -> Result<Description, Fault> {
        let (lake, _permit) = self.admitted().await?;
        let snapshot = lake.look(None).await?;
        Ok(lake.describe(&self.scope, &snapshot, query).await?)
    }

    /// What a question about catalogues gives, and where it is made of the lake's tables the right to have it in memory.
    pub(super) async fn list(
        &self,
        text: &str,
        params: &[Param],
    ) -> Result<(Vec<Column>, Vec<Vec<Cell>>, Option<StreamPermit>), Fault> {
        let inquiry = catalogue::read(text, params)?;
        let columns = inquiry.columns().to_vec();
        let mut world = World {
            tenant: self.user.clone(),
            settings: self.variables.all(),
            tables: Vec::new(),
        };
        if !inquiry.is_of_tables() {
            return Ok((columns, inquiry.rows(&world)?, None));
        }
        let (lake, permit) = self.admitted().await?;
        let snapshot = lake.look(None).await?;
        world.tables = lake.tables(&self.scope, &snapshot).await?;
        // A tenant has thousands of columns: nobody else waits meanwhile. What is given up goes on to its end, and keeps its place.
        let listed = spawn_blocking(move || (inquiry.rows(&world), permit));
        let (rows, permit) = listed.await.map_err(Problem::internal)?;
        Ok((columns, rows?, Some(permit)))
    }

    fn lake(&self) -> Result<&LakeReader, Fault> {
        let lake = self.pgwire.shared.state.lake.as_ref();
        lake.ok_or_else(|| Problem::new(Code::NotFound, "this server has no lake").into())
    }

    /// The lake, where this may still ask it and it is its turn.
    async fn admitted(&self) -> Result<(&LakeReader, StreamPermit), Fault> {
        self.still_admitted().await?;
        let lake = self.lake()?;
        let until = Instant::now() + TURN_WITHIN;
        loop {
            match self.pgwire.shared.streams.open(self.scope.tenant()) {
                Ok(permit) => return Ok((lake, permit)),
                Err(_) if Instant::now() < until => sleep(TURN_EVERY).await,
                Err(problem) => return Err(problem.into()),
            }
        }
    }

    /// The same for a connection that asks the lake nothing: it holds a place of its tenant. Where it cannot be found out now, it stays.
    pub(super) async fn look_again(&mut self) -> Result<(), Fault> {
        let believed = self.pgwire.shared.state.bounds.key_believed;
        if self.looked_at.elapsed() < believed {
            return Ok(());
        }
        self.looked_at = Instant::now();
        match self.still_admitted().await {
            Err(fault) if fault.severity == Severity::Fatal => Err(fault),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Connections stay for longer than keys may be good: a revoked one asks nothing more, and its connection ends.
    async fn still_admitted(&self) -> Result<(), Fault> {
        // Not counted as a failure of an address: it was the right one.
        let found = admit_named(&self.pgwire.shared, &self.user, &self.key, None).await;
        match found {
            Ok(scope) if scope == self.scope => Ok(()),
            Ok(_) => Err(
                Fault::from(Problem::new(Code::Unauthorized, "the key is not valid")).and_ends(),
            ),
            Err(problem) => {
                let is_over = matches!(problem.code, Code::Unauthorized | Code::Forbidden);
                let fault = Fault::from(problem);
                Err(if is_over { fault.and_ends() } else { fault })
            }
        }
    }
}

/// What work comes to, unless it is cancelled, its time is over, or nobody waits for it.
pub(super) async fn watched<T>(
    line: &mut Line,
    cancelled: &mut watch::Receiver<u64>,
    until: Option<Instant>,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Trouble> {
    let over = async {
        match until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    let stopped = |by: &str| {
        let message = format!("canceling statement due to {by}");
        Err(Fault::error(QUERY_CANCELED, message).into())
    };
    tokio::select! {
        biased;
        done = work => Ok(done?),
        _ = cancelled.changed() => stopped("user request"),
        () = over => stopped("statement timeout"),
        error = line.gone() => Err(error.into()),
    }
}

/// Counts a question by what came of it.
pub(super) fn count(outcome: Result<(), &Trouble>) {
    let result = match outcome {
        Ok(()) => "answered",
        Err(Trouble::Line(_)) => "left",
        Err(Trouble::Fault(fault)) => match (fault.sqlstate, fault.code) {
            (QUERY_CANCELED, None) => "cancelled",
            (_, Some("query_limit")) => "limited",
            (state, _) if state.starts_with("42") || state.starts_with("22") => "refused",
            _ => "failed",
        },
    };
    metrics::counter!(QUESTIONS_TOTAL, "result" => result).increment(1);
}

/// A column of text, for what is none of the lake's.
pub(super) fn text_column(name: &str) -> Column {
    Column::of(name, AttributeType::Text)
}
