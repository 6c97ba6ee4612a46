//! A lake whose tables are in an Iceberg REST catalogue (decision 0026).
//!
//! A commit is a request for each table that it changes, the facts first: that of the facts is the commit, and what follows is
//! done by whoever finds it undone. Then PostgreSQL names what came of it, and that is what readers read. Nothing that a request
//! may have made known is deleted here.

mod client;
mod intent;
mod relation;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use sheaf_cdc::change::Progress;
use sheaf_store::lake::{CorrectionsChange, LakePosition, LakeStanding, read_lake};

pub use client::RestFault;
pub(crate) use intent::Mark;

use crate::error::LakeError;
use crate::lake::{Lake, OpenLake};
use crate::observer::CommitStep;
use crate::schema::LakeTable;
use crate::table::{Advance, TableState, Written};
use client::{AnsweredTable, Came, Client, failed};
use intent::{Asked, Intent};
use relation::{Judged, is_whole, judge, named_mark};

/// How long is waited before a request is sent again of which it is not known what it came to, or whose table somebody else changes
/// just now. Whoever is still not answered then is told, and the lake is opened again.
const AGAIN_AFTER: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// Who says what the tables of a lake are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LakeCatalog {
    /// The database that the lake is of.
    #[default]
    Postgres,
    /// An Iceberg REST catalogue.
    Rest(RestOptions),
}

/// An Iceberg REST catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestOptions {
    /// Its address, up to what `/v1` follows.
    pub uri: String,
    /// Which of its warehouses, where it has several.
    pub warehouse: Option<String>,
    /// The namespace of the tables; the parts of one in another have dots between them.
    pub namespace: String,
    /// As whom it is asked.
    pub access: RestAccess,
}

/// As whom a catalogue is asked.
#[derive(Clone, PartialEq, Eq)]
pub enum RestAccess {
    /// As anybody.
    Open,
    /// As whoever has this token.
    Token(String),
    /// As a client that is given a token for its secret (OAuth 2, client credentials).
    Client {
        /// Its name.
        id: String,
        /// Its secret.
        secret: String,
        /// What it asks to be allowed.
        scope: String,
        /// Where tokens are given, where that is not the catalogue itself.
        token_uri: Option<String>,
    },
}

impl fmt::Debug for RestAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RestAccess::Open => "Open",
            RestAccess::Token(_) => "Token",
            RestAccess::Client { .. } => "Client",
        })
    }
}

/// Who says what a table is.
#[derive(Debug, Clone)]
pub(crate) enum Catalog {
    /// The row that names its description, in the transaction that moves the position (decision 0015).
    Postgres,
    /// Somebody who is asked by the REST protocol. PostgreSQL names what came of it.
    Rest(Arc<RestCatalog>),
}

impl Catalog {
    pub(crate) fn new(catalog: &LakeCatalog) -> Result<Catalog, LakeError> {
        Ok(match catalog {
            LakeCatalog::Postgres => Catalog::Postgres,
            LakeCatalog::Rest(options) => Catalog::Rest(Arc::new(RestCatalog::new(options)?)),
        })
    }

    /// Who is asked for the next commit, and the mark that it has; absent where PostgreSQL alone says what a table is.
    pub(crate) fn next(&self, open: &OpenLake) -> Result<Option<(&RestCatalog, Mark)>, LakeError> {
        match self {
            Catalog::Postgres => Ok(None),
            Catalog::Rest(rest) => {
                let mark = Mark::after(Mark::of(open.table(LakeTable::Facts)?)?);
                Ok(Some((rest, mark)))
            }
        }
    }
}

/// What became of what a commit asks of a table.
enum Placed {
    /// It is there.
    Done(Box<TableState>),
    /// What it was to replace is not there any more.
    Gone,
}

/// An Iceberg REST catalogue.
#[derive(Debug)]
pub(crate) struct RestCatalog {
    client: Client,
    namespace: Vec<String>,
}

impl RestCatalog {
    fn new(options: &RestOptions) -> Result<RestCatalog, LakeError> {
        let namespace = options.namespace.split('.').map(str::to_owned).collect();
        let client = Client::new(options).map_err(failed("reading its settings"))?;
        Ok(RestCatalog { client, namespace })
    }

    /// The lake as it was last committed. A commit that is half done is done, tables that are missing are made, and what
    /// somebody else committed is gone on from.
    pub(crate) async fn open(
        &self,
        lake: &Lake,
        standing: &LakeStanding,
        timeline: u32,
    ) -> Result<OpenLake, LakeError> {
        self.client.require_namespace().await?;
        let mut tables = Vec::new();
        for table in LakeTable::ALL {
            tables.push(match self.load(lake, table).await? {
                Some(state) => state,
                None => self.create(lake, table).await?,
            });
        }
        let position = standing.position;
        match judge(lake, standing, &tables, timeline).await? {
            Judged::Same => {}
            Judged::Unfinished(intent) => {
                tracing::info!(commit = %intent.mark, "doing the rest of a commit of the lake");
                return match self.place_all(lake, &intent, &mut tables).await? {
                    Some(table) => Ok(OpenLake {
                        position,
                        tables,
                        lost: vec![table],
                    }),
                    None => name_all(lake, standing, tables, &intent).await,
                };
            }
            Judged::Lost(lost) => {
                return Ok(OpenLake {
                    position,
                    tables,
                    lost,
                });
            }
        }
        let is_named = |state: &TableState| location_of(standing, state.table) == state.location;
        if tables.iter().all(is_named) {
            return Ok(OpenLake {
                position,
                tables,
                lost: Vec::new(),
            });
        }
        let from = |table| location_of(standing, table);
        let corrections = CorrectionsChange::default();
        lake.name_tables(from, tables, position, &corrections).await
    }

    /// Commits, from exactly this state.
    pub(crate) async fn commit(
        &self,
        lake: &Lake,
        open: &OpenLake,
        (mark, advances): (Mark, Vec<Advance>),
        (position, corrections): (LakePosition, CorrectionsChange),
        mut written: Written,
    ) -> Result<OpenLake, LakeError> {
        let facts = open.table(LakeTable::Facts)?;
        let mut asked = Vec::new();
        for advance in advances {
            asked.push(Asked::new(open.table(advance.table)?, advance, &mark));
        }
        asked.sort_by_key(|asked| asked.table != LakeTable::Facts.name());
        let intent = Intent {
            mark,
            before: if open.lost.is_empty() {
                Mark::of(facts)?
            } else {
                named_mark(lake, facts).await?
            },
            position,
            corrections,
            tables: asked,
        };
        let file = mark.file(facts);
        let bytes = intent.bytes();
        let bytes = bytes.map_err(LakeError::file("describing the commit", &file))?;
        lake.warehouse.write(&file, Bytes::from(bytes)).await?;
        written.0.push(file);
        lake.warehouse.settle(written.0).await?;
        lake.observed.passed(CommitStep::Settled);
        let mut tables = open.tables.clone();
        if let Some(gone) = self.place_all(lake, &intent, &mut tables).await? {
            // The commit is made. Whoever opens the lake finds that it cannot be done.
            let table = gone.name();
            return Err(LakeError::Overtaken { table });
        }
        let standing = read_lake(&lake.cdc, &lake.name).await?;
        match standing {
            Some(standing) if standing.position.number == position.number => {
                name_all(lake, &standing, tables, &intent).await
            }
            // Whoever opens the lake does the rest, or has done it.
            Some(_) | None => Err(LakeError::Overtaken { table: "facts" }),
        }
    }

    /// Has every table changed as the commit asks. Gives back the one of which that cannot be.
    async fn place_all(
        &self,
        lake: &Lake,
        intent: &Intent,
        tables: &mut [TableState],
    ) -> Result<Option<LakeTable>, LakeError> {
        for asked in &intent.tables {
            let table = tables
                .iter_mut()
                .find(|state| state.table.name() == asked.table);
            let state = table.ok_or_else(|| {
                let unknown = format!("table {} is none of ours", asked.table);
                LakeError::file("reading the commit of", &intent.mark.to_string())(unknown)
            })?;
            match self.place(lake, intent, asked, state.clone()).await? {
                Placed::Done(placed) => *state = *placed,
                Placed::Gone => return Ok(Some(state.table)),
            }
            lake.observed.passed(CommitStep::Table);
        }
        Ok(None)
    }

    /// Has one table changed as a commit asks, where it is not yet. Where that is not known it is looked for before it is asked again.
    async fn place(
        &self,
        lake: &Lake,
        intent: &Intent,
        asked: &Asked,
        mut state: TableState,
    ) -> Result<Placed, LakeError> {
        let table = state.table;
        let overtaken = || LakeError::Overtaken {
            table: table.name(),
        };
        let mut asked = asked.clone();
        let mut waits = AGAIN_AFTER.iter();
        loop {
            let mark = Mark::of(&state)?;
            if mark.is_some_and(|mark| mark.number >= intent.mark.number) {
                return match table {
                    LakeTable::Facts if mark != Some(intent.mark) => Err(overtaken()),
                    _ => Ok(Placed::Done(Box::new(state))),
                };
            }
            if !asked.is_from(&state) {
                // What the facts are decides of two writers.
                if table == LakeTable::Facts {
                    return Err(overtaken());
                }
                asked = match self.write_again(lake, intent, &asked, &state).await {
                    Err(LakeError::Gone { .. }) => return Ok(Placed::Gone),
                    written => written?,
                };
            }
            let body = asked.body(&self.namespace);
            match self.client.change(table.name(), &body).await {
                Ok(answered) => {
                    state = state_of(lake, table, answered).await?;
                    if Mark::of(&state)? != Some(intent.mark) {
                        let source = RestFault::Unreadable("the table has not its property".into());
                        return Err(failed(CHANGING)(source));
                    }
                }
                Err(fault) => {
                    let is_known = matches!(fault.came(), Came::Missing | Came::Refused);
                    let wait = waits.next().filter(|_| !is_known);
                    let Some(wait) = wait else {
                        return Err(failed(CHANGING)(fault));
                    };
                    let cause = sheaf_pg::chain(&fault);
                    let table_name = table.name();
                    tracing::warn!(
                        table = table_name,
                        cause,
                        "a table of the lake is looked at again"
                    );
                    tokio::time::sleep(*wait).await;
                    state = self.load(lake, table).await?.ok_or_else(overtaken)?;
                }
            }
        }
    }

    /// What a commit asks of a table that somebody else has changed meanwhile: the same change of what is there now.
    async fn write_again(
        &self,
        lake: &Lake,
        intent: &Intent,
        asked: &Asked,
        state: &TableState,
    ) -> Result<Asked, LakeError> {
        let (warehouse, observed) = (&lake.warehouse, &lake.observed);
        let snapshot = asked.snapshot().ok_or(LakeError::NotAsked)?;
        let change = state.change_of(warehouse, snapshot, asked.clears).await?;
        let base = intent.position.base.ok_or(LakeError::NotAsked)?;
        let mut context = lake.context(&Progress {
            base,
            snapshot: intent.position.snapshot,
            stream: intent.position.stream,
        });
        context.marked(&intent.mark);
        let mut written = Written::default();
        let advance = state.advance(warehouse, change, &context, observed, &mut written);
        let advance = advance.await?;
        warehouse.settle(written.0).await?;
        Ok(Asked::new(state, advance, &intent.mark))
    }

    /// The tables as the catalogue has them, if no commit is half done.
    pub(crate) async fn whole(
        &self,
        lake: &Lake,
        standing: &LakeStanding,
    ) -> Result<Option<Vec<TableState>>, LakeError> {
        let mut tables = Vec::new();
        for table in LakeTable::ALL {
            match self.load(lake, table).await? {
                Some(state) => tables.push(state),
                None => return Ok(None),
            }
        }
        Ok(is_whole(lake, standing, &tables).await?.then_some(tables))
    }

    /// A table as the catalogue has it.
    async fn load(&self, lake: &Lake, table: LakeTable) -> Result<Option<TableState>, LakeError> {
        match self.client.load(table.name()).await? {
            Some(answered) => Ok(Some(state_of(lake, table, answered).await?)),
            None => Ok(None),
        }
    }

    async fn create(&self, lake: &Lake, table: LakeTable) -> Result<TableState, LakeError> {
        let wanted = TableState::new(table, &lake.warehouse)?.metadata;
        let mut properties = wanted.properties().clone();
        properties.insert("format-version".to_owned(), "2".to_owned());
        let body = json!({
            "name": table.name(),
            "location": wanted.location(),
            "schema": wanted.current_schema(),
            "partition-spec": wanted.default_partition_spec(),
            "write-order": wanted.default_sort_order(),
            "stage-create": false,
            "properties": properties,
        });
        let state = match self.client.create(&body).await {
            Ok(answered) => state_of(lake, table, answered).await?,
            // Somebody else was faster, or it was made and nobody said so.
            Err(fault) => match self.load(lake, table).await? {
                Some(state) => state,
                None => return Err(failed("making a table")(fault)),
            },
        };
        // Files are written by the numbers of columns.
        let made = &state.metadata;
        let is_same = made.current_schema().as_struct() == wanted.current_schema().as_struct()
            && made.default_partition_spec().fields() == wanted.default_partition_spec().fields()
            && made.default_sort_order().fields == wanted.default_sort_order().fields;
        if !is_same {
            let other = "the catalogue has other columns, parts or order than it was asked for";
            return Err(failed("making a table")(RestFault::Unreadable(
                other.into(),
            )));
        }
        Ok(state)
    }
}

const CHANGING: &str = "changing a table";

async fn state_of(
    lake: &Lake,
    table: LakeTable,
    answered: AnsweredTable,
) -> Result<TableState, LakeError> {
    let AnsweredTable { location, metadata } = answered;
    let state = TableState::described(table, &lake.warehouse, &location, metadata).await?;
    state.require_own(&lake.warehouse)?;
    Ok(state)
}

fn location_of(standing: &LakeStanding, table: LakeTable) -> Option<String> {
    standing.location(table.name()).map(str::to_owned)
}

/// The transaction that names what a commit came to.
async fn name_all(
    lake: &Lake,
    standing: &LakeStanding,
    tables: Vec<TableState>,
    intent: &Intent,
) -> Result<OpenLake, LakeError> {
    let position = LakePosition {
        number: standing.position.number,
        ..intent.position
    };
    let from = |table| location_of(standing, table);
    lake.name_tables(from, tables, position, &intent.corrections)
        .await
}
