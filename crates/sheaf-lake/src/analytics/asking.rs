//! A question on its way: read, planned, computed, and told batch by batch, within its time.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;
use sheaf_export::Column;
use sheaf_model::TenantId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{Bound, QueryError};
use super::headings::Headings;
use super::scan::{Source, Tally};
use super::slices::{bytes_of, slices};
use super::stop::Stop;
use super::tenant_table::TenantTable;
use super::{Piece, Question, Shared, cells, headings, inlining, params, session, statement};
use crate::schema::LakeTable;

/// A question on its way.
pub(super) struct Asking {
    pub(super) shared: Arc<Shared>,
    pub(super) tenant: TenantId,
    /// The lake's tables, and where the description of each is.
    pub(super) tables: Vec<(String, String)>,
    pub(super) tally: Arc<Tally>,
    /// How long it may be computed.
    pub(super) time_max: Duration,
    pub(super) stop: Arc<Stop>,
}

type Told = oneshot::Sender<Result<Vec<Column>, QueryError>>;
type Rows = mpsc::Sender<Result<Option<Piece>, QueryError>>;

impl Asking {
    /// Plans and computes it. Tells the columns first, then the rows.
    pub(super) async fn run(self, question: Question, told: Told, sender: Rows) {
        let until = Instant::now() + self.time_max;
        self.stop.set(Some(until));
        let budget = self.shared.budgets.open(self.tenant) as Arc<dyn MemoryPool>;
        let planned = match timeout_at(until, self.plan(question, Arc::clone(&budget))).await {
            Ok(planned) => planned,
            Err(_) => Err(QueryError::limit(Bound::Time)),
        };
        let (mut stream, headings) = match planned {
            Ok(planned) => planned,
            Err(error) => {
                let _ = told.send(Err(error));
                return;
            }
        };
        let mut columns = cells::columns_of(&stream.schema());
        headings::name(&mut columns, &headings);
        if told.send(Ok(columns)).is_err() {
            return;
        }
        let bounds = self.shared.options.bounds;
        let mut sending = Sending {
            sender,
            stop: Arc::clone(&self.stop),
            until,
            client_max: bounds.client_max,
            clients_left: bounds.clients_max,
        };
        loop {
            let batch = match timeout_at(sending.until, stream.try_next()).await {
                Ok(Ok(Some(batch))) => batch,
                Ok(Ok(None)) => {
                    sending.send(Ok(None)).await;
                    return;
                }
                Ok(Err(error)) => {
                    sending.send(Err(QueryError::of_running(error))).await;
                    return;
                }
                Err(_) => {
                    sending.send(Err(QueryError::limit(Bound::Time))).await;
                    return;
                }
            };
            for slice in slices(batch) {
                let piece = piece(&slice, &budget);
                let is_last = piece.is_err();
                if !sending.send(piece.map(Some)).await || is_last {
                    return;
                }
            }
        }
    }

    async fn plan(
        &self,
        question: Question,
        budget: Arc<dyn MemoryPool>,
    ) -> Result<(SendableRecordBatchStream, Headings), QueryError> {
        let statement = statement::parse(&question.query)?;
        let headings = Headings::of(&statement);
        let (readers, stop) = (self.shared.threads.count(), Arc::clone(&self.stop));
        let state = session::session(self.tables(), budget, readers, stop);
        let state = state.map_err(QueryError::of_planning)?;
        let statement = datafusion::sql::parser::Statement::Statement(Box::new(statement));
        let plan = state.statement_to_plan(statement).await;
        let plan = plan.map_err(QueryError::of_planning)?;
        let plan = params::bind(plan, &question.params)?;
        inlining::check(&plan)?;
        let plan = state.create_physical_plan(&plan).await;
        let plan = plan.map_err(QueryError::of_planning)?;
        let rows = execute_stream(plan, state.task_ctx());
        Ok((rows.map_err(QueryError::of_running)?, headings))
    }

    fn tables(&self) -> Vec<(&'static str, Arc<dyn TableProvider>)> {
        let tables = LakeTable::ALL.into_iter().map(|table| {
            let known = self.tables.iter().find(|(name, _)| name == table.name());
            let source = Source {
                table,
                tenant: self.tenant.0,
                warehouse: self.shared.warehouse.clone(),
                ends: Arc::clone(&self.shared.ends),
                tally: Arc::clone(&self.tally),
                rows_max: self.shared.options.bounds.rows_max,
            };
            let provider = TenantTable::new(
                source,
                known.map(|(_, description)| description.clone()),
                Arc::clone(&self.shared.book),
            );
            (table.name(), Arc::new(provider) as Arc<dyn TableProvider>)
        });
        tables.collect()
    }
}

/// A part of a batch as rows, counted.
fn piece(slice: &RecordBatch, budget: &Arc<dyn MemoryPool>) -> Result<Piece, QueryError> {
    let memory = MemoryConsumer::new("rows of an answer").register(budget);
    memory
        .try_grow(bytes_of(slice))
        .map_err(QueryError::of_running)?;
    let rows = cells::rows_of(slice).ok_or_else(|| QueryError::Computation {
        detail: "a value is none that an answer can hold".to_owned(),
    })?;
    Ok(Piece { rows, memory })
}

/// Where rows go.
struct Sending {
    sender: Rows,
    stop: Arc<Stop>,
    /// Until when the question is computed: what a client takes is added.
    until: Instant,
    client_max: Duration,
    /// How long a client may still be waited for.
    clients_left: Duration,
}

impl Sending {
    /// Whether it was taken in time.
    async fn send(&mut self, what: Result<Option<Piece>, QueryError>) -> bool {
        let since = Instant::now();
        self.stop.set(None);
        let at_most = self.client_max.min(self.clients_left);
        let sent = timeout(at_most, self.sender.send(what)).await;
        let waited = since.elapsed();
        self.clients_left = self.clients_left.saturating_sub(waited);
        self.until += waited;
        self.stop.set(Some(self.until));
        matches!(sent, Ok(Ok(())))
    }
}
