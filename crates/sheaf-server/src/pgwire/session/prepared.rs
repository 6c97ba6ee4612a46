//! Prepared statements and portals: a text now, its values later, and its rows a few at a time.

use std::mem::size_of;

use sheaf_export::Column;
use sheaf_lake::analytics::Param;

use super::super::command::{self, Command};
use super::super::fault::{
    Fault, PROGRAM_LIMIT, PROTOCOL_VIOLATION, QUERY_CANCELED, SYNTAX_OR_ACCESS, UNKNOWN_PORTAL,
    UNKNOWN_STATEMENT,
};
use super::super::lexer;
use super::super::message::{Forms, Target};
use super::super::param::read_param;
use super::super::question::Trouble;
use super::super::value::TEXT;
use super::described::{Described, told_kinds};
use super::{Ran, Rows, Session};

/// Statements and portals that a connection may have.
const STATEMENTS_MAX: usize = 512;
const PORTALS_MAX: usize = 32;
/// Bytes of statements, their texts and what is known of their columns, together, and of portals with their values.
pub(super) const BYTES_MAX: usize = 1 << 20;

/// A prepared statement.
pub(super) struct Prepared {
    pub(super) command: Command,
    pub(super) bytes: usize,
    /// As the client has said them; 0 where it has not.
    types: Vec<u32>,
    pub(super) described: Option<Described>,
}

impl Prepared {
    /// What the client has said a parameter to be.
    fn said(&self, place: usize) -> Option<u32> {
        self.types.get(place).copied().filter(|oid| *oid != 0)
    }
}

/// A statement with its values.
pub(super) struct Portal {
    command: Command,
    params: Vec<Param>,
    bytes: usize,
    wanted: Forms,
    /// The columns that the client was told of the statement.
    told: Option<Vec<Column>>,
    state: State,
}

enum State {
    /// Nothing was asked yet.
    Bound,
    /// Rows are left.
    Running(Box<Rows>),
    /// None are.
    Done,
    /// Some were, and nobody took them.
    Forgotten,
}

impl Session {
    pub(super) fn parse(&mut self, name: String, text: &str, types: Vec<u32>) -> Result<(), Fault> {
        let statements = lexer::statements(text);
        let text = match statements.as_slice() {
            [] => "",
            [one] => one,
            _ => {
                let message = "cannot insert multiple commands into a prepared statement";
                return Err(Fault::error(SYNTAX_OR_ACCESS, message));
            }
        };
        // The one without a name is replaced.
        if name.is_empty() {
            self.statements.remove("");
        } else if self.statements.contains_key(&name) {
            let message = "a prepared statement of this name is there";
            return Err(Fault::error("42P05", message));
        }
        let own = text.len() + name.len() + size_of::<u32>() * types.len();
        if self.statements.len() >= STATEMENTS_MAX || self.statements_bytes() + own > BYTES_MAX {
            return Err(too_many_statements());
        }
        let prepared = Prepared {
            command: command::read(text),
            bytes: own,
            types,
            described: None,
        };
        self.statements.insert(name, prepared);
        self.line.out.parsed();
        Ok(())
    }

    pub(super) async fn bind(
        &mut self,
        (portal, statement): (String, String),
        (forms, values): (&Forms, &[Option<Vec<u8>>]),
        wanted: Forms,
    ) -> Result<(), Trouble> {
        let prepared = self.prepared(&statement)?;
        let is_unsaid = values
            .iter()
            .enumerate()
            .any(|(place, value)| value.is_some() && prepared.said(place).is_none());
        if is_unsaid {
            self.described(&statement).await?;
        }
        let prepared = self.prepared(&statement)?;
        let described = prepared.described.as_ref();
        let expected = |place: usize| described.and_then(|all| all.params.get(place).copied());
        if !forms.fit(values.len()) {
            let message = "a message has another number of forms than of values";
            return Err(Fault::fatal(PROTOCOL_VIOLATION, message).into());
        }
        let params = values.iter().enumerate().map(|(place, value)| {
            let oid = prepared
                .said(place)
                .or_else(|| expected(place))
                .unwrap_or(0);
            read_param(place + 1, oid, forms.of(place), value.as_deref())
        });
        let params = params.collect::<Result<Vec<Param>, Fault>>()?;
        // As they are kept: a number of few bytes can have many digits.
        let values = params.iter().map(bytes_of).sum::<usize>();
        let bytes = values + prepared.bytes + portal.len() + wanted.count();
        let bound = Portal {
            command: prepared.command.clone(),
            params,
            bytes,
            wanted,
            told: described.and_then(|described| described.columns.clone()),
            state: State::Bound,
        };
        if portal.is_empty() {
            self.portals.remove("");
        } else if self.portals.contains_key(&portal) {
            return Err(Fault::error("42P03", "a portal of this name is there").into());
        }
        let all = bytes
            + self
                .portals
                .values()
                .map(|known| known.bytes)
                .sum::<usize>();
        if self.portals.len() >= PORTALS_MAX || all > BYTES_MAX {
            let message = "the connection has as many portals as it may have";
            return Err(Fault::error(PROGRAM_LIMIT, message).into());
        }
        self.portals.insert(portal, bound);
        self.line.out.bound();
        Ok(())
    }

    pub(super) async fn describe(&mut self, target: &Target) -> Result<(), Trouble> {
        match target {
            Target::Statement(name) => {
                self.described(name).await?;
                let prepared = self.prepared(name)?;
                let described = prepared.described.clone();
                let described = described.ok_or_else(unknown_statement)?;
                let count = described.params.len().max(prepared.types.len());
                let types = (0..count).map(|place| {
                    let said = prepared.said(place);
                    let expected = described.params.get(place).copied();
                    said.or(expected).unwrap_or(TEXT)
                });
                let types: Vec<u32> = types.collect();
                self.line.out.parameters(&types);
                match described.columns {
                    Some(columns) => self.columns(&columns, &Forms::text()),
                    None => self.line.out.no_rows(),
                }
            }
            Target::Portal(name) => {
                let portal = self.portals.get(name).ok_or_else(unknown_portal)?;
                if !gives_rows(&portal.command) {
                    self.line.out.no_rows();
                    return Ok(());
                }
                self.start(name).await?;
                let portal = self.portals.get(name).ok_or_else(unknown_portal)?;
                let wanted = portal.wanted.clone();
                let columns = match (&portal.told, &portal.state) {
                    (Some(told), _) => Some(told.clone()),
                    (None, State::Running(rows)) => Some(rows.columns.clone()),
                    (None, State::Bound | State::Done | State::Forgotten) => None,
                };
                match columns {
                    Some(columns) => self.columns(&columns, &wanted),
                    None => self.line.out.no_rows(),
                }
            }
        }
        Ok(())
    }

    pub(super) async fn execute(&mut self, name: &str, rows_max: u32) -> Result<(), Trouble> {
        let portal = self.portals.get(name).ok_or_else(unknown_portal)?;
        if !gives_rows(&portal.command) {
            let command = portal.command.clone();
            match self.run(&command, Vec::new()).await? {
                Ran::Empty => self.line.out.empty(),
                Ran::Done(tag) => self.line.out.done(tag),
                Ran::Rows(_) => {}
            }
            return Ok(());
        }
        // Also where it was begun before that.
        self.check_standing(&portal.command)?;
        self.start(name).await?;
        let portal = self.portals.get_mut(name).ok_or_else(unknown_portal)?;
        if let State::Forgotten = portal.state {
            return Err(Fault::error(QUERY_CANCELED, "its rows were not taken in time").into());
        }
        let State::Running(mut rows) = std::mem::replace(&mut portal.state, State::Done) else {
            // All of them were sent before.
            self.line.out.done(&format!("{} 0", "SELECT"));
            return Ok(());
        };
        let kinds = told_kinds(portal.told.as_deref(), &rows.columns)?;
        let wanted = portal.wanted.clone();
        let has_more = self.deliver(&mut rows, (&kinds, &wanted), rows_max).await?;
        if has_more && let Some(portal) = self.portals.get_mut(name) {
            portal.state = State::Running(rows);
        }
        Ok(())
    }

    pub(super) fn close(&mut self, target: &Target) {
        match target {
            Target::Statement(name) => drop(self.statements.remove(name)),
            Target::Portal(name) => drop(self.portals.remove(name)),
        }
        self.line.out.closed();
    }

    pub(super) fn statements_bytes(&self) -> usize {
        self.statements.values().map(|known| known.bytes).sum()
    }

    /// Whether rows wait for their client.
    pub(super) fn has_running(&self) -> bool {
        let mut portals = self.portals.values();
        portals.any(|portal| matches!(portal.state, State::Running(_)))
    }

    /// Lets go of rows that wait for their client.
    pub(super) fn forget_running(&mut self) {
        for portal in self.portals.values_mut() {
            if let State::Running(_) = portal.state {
                portal.state = State::Forgotten;
            }
        }
    }

    /// Asks what a portal is for, where that was not done yet.
    async fn start(&mut self, name: &str) -> Result<(), Trouble> {
        let portal = self.portals.get_mut(name).ok_or_else(unknown_portal)?;
        if !matches!(portal.state, State::Bound) {
            return Ok(());
        }
        // One that fails is not asked again.
        portal.state = State::Done;
        let (command, params) = (portal.command.clone(), portal.params.clone());
        let ran = self.run(&command, params).await?;
        let portal = self.portals.get_mut(name).ok_or_else(unknown_portal)?;
        if let Ran::Rows(rows) = ran {
            portal.state = State::Running(rows);
        }
        Ok(())
    }

    pub(super) fn prepared(&self, name: &str) -> Result<&Prepared, Fault> {
        self.statements.get(name).ok_or_else(unknown_statement)
    }
}

pub(super) fn unknown_statement() -> Fault {
    Fault::error(UNKNOWN_STATEMENT, "there is no such prepared statement")
}

pub(super) fn too_many_statements() -> Fault {
    let message = "the connection has as many prepared statements as it may have";
    Fault::error(PROGRAM_LIMIT, message)
}

/// What a value takes in memory.
fn bytes_of(param: &Param) -> usize {
    let text = match param {
        Param::Null | Param::Bool(_) => 0,
        Param::Number(text) | Param::Text(text) => text.len(),
    };
    size_of::<Param>() + text
}

fn unknown_portal() -> Fault {
    Fault::error(UNKNOWN_PORTAL, "there is no such portal")
}

fn gives_rows(command: &Command) -> bool {
    matches!(
        command,
        Command::Ask(_) | Command::Catalogue(_) | Command::Constants(_) | Command::Show(_)
    )
}
