//! A question on its way: read, planned, computed, and told batch by batch, within its time.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;
use sheaf_export::Column;
use sheaf_model::TenantId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::counted::Counted;
use super::error::{Bound, QueryError};
use super::headings::Headings;
use super::scan::{Source, Tally};
use super::slices::{bytes_of, slices};
use super::stop::Stop;
use super::tenant_table::TenantTable;
use super::views::{Mentions, ShownTable, Views};
use super::{
    Piece, Question, Shared, ShownFrom, cells, headings, inlining, params, session, statement,
};
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
    /// From when on history is shown.
    pub(super) shown: ShownFrom,
}

type Told = oneshot::Sender<Result<Vec<Column>, QueryError>>;
type Rows = mpsc::Sender<Result<Option<Piece>, QueryError>>;

impl Asking {
    /// Plans and computes it. Tells the columns first, then the rows.
    pub(super) async fn run(self, question: Question, told: Told, sender: Rows) {
        let until = Instant::now() + self.time_max;
        self.stop.set(Some(until));
        let mut counted = Counted::begin(Arc::clone(&self.tally));
        let budget = self.shared.budgets.open(self.tenant) as Arc<dyn MemoryPool>;
        let planned = match timeout_at(until, self.plan(question, Arc::clone(&budget))).await {
            Ok(planned) => planned,
            Err(_) => Err(QueryError::limit(Bound::Time)),
        };
        let (mut stream, headings) = match planned {
            Ok(planned) => planned,
            Err(error) => {
                counted.ended(Err(&error));
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
                    if sending.send(Ok(None)).await {
                        counted.ended(Ok(()));
                    }
                    return;
                }
                Ok(Err(error)) => {
                    let error = QueryError::of_running(error);
                    counted.ended(Err(&error));
                    sending.send(Err(error)).await;
                    return;
                }
                Err(_) => {
                    let error = QueryError::limit(Bound::Time);
                    counted.ended(Err(&error));
                    sending.send(Err(error)).await;
                    return;
                }
            };
            for slice in slices(batch) {
                let piece = piece(&slice, &budget);
                let is_last = piece.is_err();
                if let Err(error) = &piece {
                    counted.ended(Err(error));
                }
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
        let (state, plan, headings) = self.read(&question.query, budget).await?;
        let plan = params::bind(plan, &question.params)?;
        inlining::check(&plan)?;
        let plan = state.create_physical_plan(&plan).await;
        let plan = plan.map_err(QueryError::of_planning)?;
        let rows = execute_stream(plan, state.task_ctx());
        Ok((rows.map_err(QueryError::of_running)?, headings))
    }

    /// Reads a text: the session that is made for it, its plan, and what its columns are called.
    pub(super) async fn read(
        &self,
        query: &str,
        budget: Arc<dyn MemoryPool>,
    ) -> Result<(SessionState, LogicalPlan, Headings), QueryError> {
        let statement = statement::parse(query)?;
        let headings = Headings::of(&statement);
        let mentions = Mentions::of(&statement, statement::words(query)?);
        let state = self.session(budget)?;
        self.views(&state).add(&mentions).await?;
        let statement = datafusion::sql::parser::Statement::Statement(Box::new(statement));
        let plan = state.statement_to_plan(statement).await;
        Ok((state, plan.map_err(QueryError::of_planning)?, headings))
    }

    /// The tables that the tenant's questions can name, views among them.
    pub(super) async fn shown(self) -> Result<Vec<ShownTable>, QueryError> {
        let until = Instant::now() + self.time_max;
        self.stop.set(Some(until));
        let state = self.session(self.shared.budgets.open(self.tenant))?;
        match timeout_at(until, self.views(&state).shown()).await {
            Ok(shown) => shown,
            Err(_) => Err(QueryError::limit(Bound::Time)),
        }
    }

    /// Where the files are that may hold the tenant's facts.
    pub(super) async fn data_files(&self) -> Result<Vec<String>, QueryError> {
        let files = self.table(LakeTable::Facts).files().await;
        let files = files
            .map_err(|error| QueryError::of_running(DataFusionError::External(Box::new(error))))?;
        Ok(files.iter().map(|file| file.location.clone()).collect())
    }

    fn tables(&self) -> Vec<(&'static str, Arc<dyn TableProvider>)> {
        let tables = LakeTable::ALL.into_iter().map(|table| {
            let provider = self.table(table).showing(&self.shown);
            let provider = Arc::new(provider) as Arc<dyn TableProvider>;
            (table.name(), provider)
        });
        tables.collect()
    }

    fn session(&self, budget: Arc<dyn MemoryPool>) -> Result<SessionState, QueryError> {
        let (readers, stop) = (self.shared.threads.count(), Arc::clone(&self.stop));
        let state = session::session(self.tables(), budget, readers, stop);
        state.map_err(QueryError::of_planning)
    }

    fn views<'a>(&'a self, state: &'a SessionState) -> Views<'a> {
        Views {
            state,
            facts: self.table(LakeTable::Facts),
            history: self.table(LakeTable::Facts).showing(&self.shown),
            entities: self.table(LakeTable::Entities),
            attributes: self.table(LakeTable::Attributes),
            known: &self.shared.types,
        }
    }

    fn table(&self, table: LakeTable) -> TenantTable {
        let known = self.tables.iter().find(|(name, _)| name == table.name());
        let source = Source {
            table,
            tenant: self.tenant.0,
            warehouse: self.shared.warehouse.clone(),
            ends: Arc::clone(&self.shared.ends),
            tally: Arc::clone(&self.tally),
            rows_max: self.shared.options.bounds.rows_max,
        };
        let description = known.map(|(_, description)| description.clone());
        TenantTable::new(source, description, Arc::clone(&self.shared.book))
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
