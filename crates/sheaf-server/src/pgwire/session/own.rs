//! What is the session's own: its settings, its transactions, and the values that it knows of itself.

use sheaf_export::{Cell, Column};
use sheaf_model::Value;
use sheaf_query::Freshness;

use super::super::catalogue;
use super::super::command::{self, Command, Constant, What};
use super::super::fault::{Fault, UNKNOWN_SETTING};
use super::super::question::text_column;
use super::super::reply::Standing;
use super::super::variables::{
    DATA_LAG, DATA_TIMESTAMP, DATA_TOKEN, REPORTED, SERVER_VERSION, TOKEN, Variables,
};
use super::{Ran, Session, listed, prepared};
use crate::freshness::{position_of, token_text};

impl Session {
    /// Runs what is the session's own.
    pub(super) fn own(&mut self, command: &Command) -> Result<Ran, Fault> {
        let is_open = self.standing != Standing::Idle;
        let tag = match command {
            Command::Empty | Command::Ask(_) | Command::Catalogue(_) => return Ok(Ran::Empty),
            Command::Begin => {
                if !is_open {
                    self.asker.variables.begin_transaction();
                }
                self.standing = Standing::Open;
                "BEGIN"
            }
            Command::Commit | Command::Rollback => {
                let is_kept = *command == Command::Commit && self.standing != Standing::Failed;
                self.standing = Standing::Idle;
                self.portals.clear();
                self.asker.variables.end_transaction(is_kept);
                if is_kept { "COMMIT" } else { "ROLLBACK" }
            }
            Command::Savepoint | Command::Release | Command::RollbackTo if !is_open => {
                let message = "savepoints are of transactions, and there is none";
                return Err(Fault::error("25P01", message));
            }
            Command::Savepoint => "SAVEPOINT",
            Command::Release => "RELEASE",
            Command::RollbackTo => {
                self.standing = Standing::Open;
                "ROLLBACK"
            }
            Command::Set {
                name,
                value,
                is_local,
            } => {
                match value {
                    Some(value) => self.set(name, value, *is_local)?,
                    None => self.asker.variables.reset(name)?,
                }
                "SET"
            }
            Command::Reset(name) => {
                match name {
                    Some(name) => self.asker.variables.reset(name)?,
                    None => self.asker.variables.reset_all(),
                }
                "RESET"
            }
            Command::Discard => {
                self.asker.variables.reset_all();
                self.statements.clear();
                self.portals.clear();
                "DISCARD ALL"
            }
            Command::Deallocate(name) => {
                match name {
                    Some(name) => {
                        let known = self.statements.remove(name);
                        known.ok_or_else(prepared::unknown_statement)?;
                    }
                    None => self.statements.clear(),
                }
                "DEALLOCATE"
            }
            Command::Nothing(tag) => tag,
            Command::Show(Some(name)) => {
                let value = Cell::text(self.shown(name)?);
                let shown = (vec![text_column(name)], vec![vec![value]]);
                return Ok(listed(shown, "SHOW", None));
            }
            Command::Show(None) => {
                let columns = ["name", "setting"].map(text_column).to_vec();
                let all = self.asker.variables.all().into_iter();
                let rows = all.map(|(name, value)| vec![Cell::text(name), Cell::text(value)]);
                return Ok(listed((columns, rows.collect()), "SHOW", None));
            }
            Command::Constants(constants) => {
                let columns = constants.iter().map(constant_column).collect();
                let row: Result<Vec<Cell>, Fault> = constants
                    .iter()
                    .map(|constant| self.constant(constant))
                    .collect();
                return Ok(listed((columns, vec![row?]), "SELECT", None));
            }
        };
        Ok(Ran::Done(tag))
    }

    fn set(&mut self, name: &str, value: &str, is_local: bool) -> Result<(), Fault> {
        if name.eq_ignore_ascii_case(TOKEN) && !value.is_empty() {
            let state = &self.asker.pgwire.shared.state;
            position_of(value, self.asker.scope.tenant(), state)?;
        }
        if name.eq_ignore_ascii_case("timezone") && !value.eq_ignore_ascii_case("utc") {
            let notice = Fault::notice("times are answered in UTC, with their offset");
            self.line.out.fault(&notice);
        }
        match is_local {
            true => self.asker.variables.set_local(name, value),
            false => self.asker.variables.set(name, value),
        }
    }

    /// Tells the client of settings that it keeps track of and that have changed, whatever has changed them.
    pub(super) fn report(&mut self) {
        let now = reported(&self.asker.variables);
        for (name, (value, told)) in REPORTED.iter().zip(now.iter().zip(&self.told)) {
            if value != told {
                self.line.out.parameter(name, value);
            }
        }
        self.told = now;
    }

    /// What a setting is, or how fresh the last answer was.
    fn shown(&self, name: &str) -> Result<String, Fault> {
        let name = name.to_ascii_lowercase();
        let last = self.last.as_ref();
        let of_last = |show: fn(&Self, &Freshness) -> String| {
            Ok(last.map(|last| show(self, last)).unwrap_or_default())
        };
        match name.as_str() {
            DATA_LAG => of_last(|_, last| last.lag.to_string()),
            DATA_TIMESTAMP => of_last(|_, last| last.data_timestamp.to_string()),
            DATA_TOKEN => of_last(|session, last| {
                let asker = &session.asker;
                token_text(
                    last.position,
                    asker.scope.tenant(),
                    &asker.pgwire.shared.state,
                )
            }),
            "session_authorization" => Ok(self.asker.user.clone()),
            name => self.asker.variables.show(name).map(str::to_owned),
        }
    }

    fn constant(&mut self, constant: &Constant) -> Result<Cell, Fault> {
        let cell = match &constant.what {
            What::Version => {
                let own = env!("CARGO_PKG_VERSION");
                Cell::text(format!(
                    "PostgreSQL {SERVER_VERSION} (sheaf {own}: read-only questions over the lake)"
                ))
            }
            What::Schema => Cell::text(command::SCHEMA),
            What::Database => Cell::text(catalogue::DATABASE),
            What::User => Cell::text(self.asker.user.clone()),
            What::Process => Cell::Value(Value::Int(i64::from(self.place.process))),
            What::InRecovery => Cell::Value(Value::Bool(false)),
            What::Setting {
                name,
                may_be_missing,
            } => match self.shown(name) {
                Ok(value) => Cell::text(value),
                Err(fault) if *may_be_missing && fault.sqlstate == UNKNOWN_SETTING => Cell::Absent,
                Err(fault) => return Err(fault),
            },
            What::Set {
                name,
                value,
                is_local,
            } => {
                self.set(name, value, *is_local)?;
                Cell::text(value.clone())
            }
            What::Nothing => Cell::text(""),
            What::Int(number) => Cell::Value(Value::Int(*number)),
            What::Text(text) => Cell::text(text.clone()),
        };
        let Some(by) = constant.divided_by else {
            return Ok(cell);
        };
        let number: Option<i64> = match &cell {
            Cell::Value(Value::Int(number)) => Some(*number),
            Cell::Value(Value::Text(text)) => text.parse().ok(),
            _ => None,
        };
        let number = number.and_then(|number| number.checked_div(by));
        number
            .map(|number| Cell::Value(Value::Int(number)))
            .ok_or_else(|| Fault::error("22P02", "a value is no whole number"))
    }
}

/// The column of a value of the session.
pub(super) fn constant_column(constant: &Constant) -> Column {
    Column::of(constant.name.as_str(), constant.kind())
}

/// The settings that clients keep track of, as they are.
pub(super) fn reported(variables: &Variables) -> Vec<String> {
    let shown = REPORTED.iter().map(|name| variables.show(name));
    shown
        .map(|value| value.unwrap_or_default().to_owned())
        .collect()
}
