//! A session: messages in, one after the other, each answered before the next is looked at.

use std::collections::HashMap;

use sheaf_lake::analytics::Param;
use sheaf_query::Freshness;
use tokio::sync::watch;
use tokio::time::Instant;

use super::command::{self, Command};
use super::fault::{
    ADMIN_SHUTDOWN, FAILED_TRANSACTION, Fault, IDLE_TIMEOUT, PROGRAM_LIMIT, PROTOCOL_VIOLATION,
    Severity,
};
use super::lexer;
use super::line::{Incoming, Line, LineError, MESSAGE_BYTES_MAX};
use super::login::Admitted;
use super::message::{Forms, Message, read_message};
use super::parts::MessageFault;
use super::places::Place;
use super::question::{Asker, Trouble, count, watched};
use super::reply::Standing;
use super::{PgWire, stop_of};

mod described;
mod own;
mod prepared;
mod rows;

use own::reported;
use prepared::{Portal, Prepared};
use rows::{Rows, asked, check_columns, kinds_of, listed};

/// Statements of one message. Each is a question of its own, and answered before the next.
const STATEMENTS_MAX: usize = 64;

/// A connection that is logged in, and what it has set and prepared.
struct Session {
    line: Line,
    place: Place,
    asker: Asker,
    standing: Standing,
    statements: HashMap<String, Prepared>,
    portals: HashMap<String, Portal>,
    /// How fresh the last answer was.
    last: Option<Freshness>,
    /// A message of a series has failed: what follows is left out up to the end of the series.
    is_skipping: bool,
    /// Settings as the client was told of them last.
    told: Vec<String>,
}

/// What a statement came to.
enum Ran {
    /// There was none.
    Empty,
    /// No rows, and this tag.
    Done(&'static str),
    /// Rows.
    Rows(Box<Rows>),
}

/// Whether a session goes on.
enum Next {
    Goes,
    Ends,
}

/// Serves a session to its end.
pub(super) async fn run(pgwire: PgWire, admitted: Admitted, mut stopped: watch::Receiver<bool>) {
    let (idle_max, rows_wait_max) = (pgwire.bounds.idle_max, pgwire.bounds.rows_wait_max);
    let Admitted {
        line,
        scope,
        user,
        key,
        place,
        variables,
    } = admitted;
    let mut session = Session {
        told: reported(&variables),
        line,
        place,
        asker: Asker {
            pgwire,
            scope,
            user,
            key,
            variables,
            looked_at: Instant::now(),
        },
        standing: Standing::Idle,
        statements: HashMap::new(),
        portals: HashMap::new(),
        last: None,
        is_skipping: false,
    };
    loop {
        // Rows that wait for their client hold a place among the questions that may run.
        let is_waited_for = session.has_running();
        let until = Instant::now()
            + if is_waited_for {
                idle_max.min(rows_wait_max)
            } else {
                idle_max
            };
        let incoming = tokio::select! {
            biased;
            () = stop_of(&mut stopped) => {
                session.end(Fault::fatal(ADMIN_SHUTDOWN, "the server is shutting down")).await;
                return;
            }
            incoming = session.line.next(MESSAGE_BYTES_MAX, until) => incoming,
        };
        let went = match incoming {
            Ok(Incoming::Message(b'X', _)) => return,
            Ok(incoming) => session.take(incoming).await,
            Err(LineError::Ended | LineError::Slow | LineError::Io(_)) => return,
            Err(LineError::Idle) if is_waited_for => {
                session.forget_running();
                Ok(Next::Goes)
            }
            Err(LineError::Idle) => {
                let fault = Fault::fatal(IDLE_TIMEOUT, "the connection said nothing for too long");
                session.end(fault).await;
                return;
            }
            Err(LineError::Length) => {
                let fault = Fault::fatal(PROTOCOL_VIOLATION, "a message has an impossible length");
                session.end(fault).await;
                return;
            }
        };
        match went {
            Ok(Next::Goes) => {}
            Ok(Next::Ends) | Err(_) => return,
        }
    }
}

impl Session {
    async fn end(&mut self, fault: Fault) {
        self.line.out.fault(&fault);
        self.line.close().await;
    }

    /// Answers a message.
    async fn take(&mut self, incoming: Incoming) -> Result<Next, LineError> {
        // What was cancelled before it is over.
        self.place.cancelled.mark_unchanged();
        let (kind, message) = match incoming {
            Incoming::TooLong(kind) => {
                let message = format!("a message is longer than {MESSAGE_BYTES_MAX} bytes");
                (kind, Err(Fault::error(PROGRAM_LIMIT, message)))
            }
            Incoming::Message(kind, body) => {
                let read = read_message(kind, &body);
                let violated =
                    |fault: MessageFault| Fault::fatal(PROTOCOL_VIOLATION, fault.to_string());
                (kind, read.map_err(violated))
            }
        };
        let looked = self.asker.look_again().await;
        if self.is_skipping && kind != b'S' && looked.is_ok() {
            return Ok(Next::Goes);
        }
        let answered = match (looked, message) {
            (Err(fault), _) | (Ok(()), Err(fault)) => Err(fault.into()),
            (Ok(()), Ok(message)) => self.answer(message).await,
        };
        if let Err(trouble) = answered {
            let fault = match trouble {
                Trouble::Line(error) => return Err(error),
                Trouble::Fault(fault) => fault,
            };
            if fault.severity == Severity::Fatal {
                self.end(fault).await;
                return Ok(Next::Ends);
            }
            self.fail(&fault);
            // A question by itself has no series that it ends with.
            self.is_skipping = kind != b'Q';
            if kind == b'Q' {
                self.ready();
            }
            // At once, as PostgreSQL does: who asks for answers within a series may wait for this one before it ends it.
            self.line.send().await?;
        }
        match kind {
            b'Q' | b'S' | b'H' => self.line.send().await?,
            _ => self.line.send_some().await?,
        }
        Ok(Next::Goes)
    }

    fn fail(&mut self, fault: &Fault) {
        self.line.out.fault(fault);
        if self.standing == Standing::Open {
            self.standing = Standing::Failed;
        }
    }

    /// The end of a series.
    fn ready(&mut self) {
        if self.standing == Standing::Idle {
            self.portals.clear();
            self.asker.variables.end_local();
        }
        self.report();
        self.line.out.ready(self.standing);
    }

    async fn answer(&mut self, message: Message) -> Result<(), Trouble> {
        match message {
            Message::Query(text) => self.query(&text).await,
            Message::Parse { name, text, types } => Ok(self.parse(name, &text, types)?),
            Message::Bind {
                portal,
                statement,
                forms,
                values,
                wanted,
            } => {
                self.bind((portal, statement), (&forms, &values), wanted)
                    .await
            }
            Message::Describe(target) => self.describe(&target).await,
            Message::Execute { portal, rows_max } => self.execute(&portal, rows_max).await,
            Message::Close(target) => {
                self.close(&target);
                Ok(())
            }
            Message::Sync => {
                self.is_skipping = false;
                self.ready();
                Ok(())
            }
            // It is sent after any message of this kind; the end was seen before.
            Message::Flush | Message::Terminate => Ok(()),
            // A client that copies has been told that it cannot.
            Message::Copy => Ok(()),
        }
    }

    /// Statements that run at once.
    async fn query(&mut self, text: &str) -> Result<(), Trouble> {
        let statements = lexer::statements(text);
        if statements.len() > STATEMENTS_MAX {
            let message = format!("more than {STATEMENTS_MAX} statements at once");
            return Err(Fault::error(PROGRAM_LIMIT, message).into());
        }
        if statements.is_empty() {
            self.line.out.empty();
        }
        for statement in statements {
            let command = command::read(statement);
            match self.run(&command, Vec::new()).await? {
                Ran::Empty => self.line.out.empty(),
                Ran::Done(tag) => self.line.out.done(tag),
                Ran::Rows(mut rows) => {
                    let kinds = kinds_of(&rows.columns);
                    self.columns(&rows.columns, &Forms::text());
                    self.deliver(&mut rows, (&kinds, &Forms::text()), 0).await?;
                }
            }
        }
        self.ready();
        Ok(())
    }

    /// In a transaction that has failed nothing is done but to end it.
    fn check_standing(&self, command: &Command) -> Result<(), Fault> {
        let ends = matches!(
            command,
            Command::Commit | Command::Rollback | Command::RollbackTo | Command::Empty
        );
        if self.standing == Standing::Failed && !ends {
            let message =
                "current transaction is aborted, commands ignored until end of transaction block";
            return Err(Fault::error(FAILED_TRANSACTION, message));
        }
        Ok(())
    }

    /// Runs a statement up to its first row.
    async fn run(&mut self, command: &Command, params: Vec<Param>) -> Result<Ran, Trouble> {
        self.check_standing(command)?;
        match command {
            Command::Ask(text) => self.ask(text.clone(), params).await,
            Command::Catalogue(text) => self.catalogue(text, &params).await,
            command => Ok(self.own(command)?),
        }
    }

    async fn ask(&mut self, text: String, params: Vec<Param>) -> Result<Ran, Trouble> {
        let until = self.until();
        let asking = self.asker.ask(text, params);
        let found = watched(&mut self.line, &mut self.place.cancelled, until, asking).await;
        let found = found.inspect_err(|trouble| count(Err(trouble)))?;
        check_columns(&found.columns)?;
        Ok(asked(found))
    }

    async fn catalogue(&mut self, text: &str, params: &[Param]) -> Result<Ran, Trouble> {
        let until = self.until();
        let listing = self.asker.list(text, params);
        let listing = watched(&mut self.line, &mut self.place.cancelled, until, listing).await?;
        let (columns, rows, permit) = listing;
        Ok(listed((columns, rows), "SELECT", permit))
    }
}
