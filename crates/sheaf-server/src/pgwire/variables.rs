//! The settings of a session: those that clients of PostgreSQL set and show, and ours. Pure.
//!
//! A setting that would change what answers mean and that is not served is refused; one that concerns only what there is none of
//! here, such as locks, is kept and has no effect.

use std::collections::BTreeMap;
use std::time::Duration as Span;

use sheaf_model::Duration;

use super::fault::{Fault, INVALID_PARAMETER, UNKNOWN_SETTING};

/// What clients take the server for: its catalogues are asked as this version has them.
pub(super) const SERVER_VERSION: &str = "15.0";
const SERVER_VERSION_NUM: &str = "150000";
/// How long a value may be.
const VALUE_BYTES_MAX: usize = 1_024;

pub(super) const MAX_LAG: &str = "sheaf.max_lag";
pub(super) const TOKEN: &str = "sheaf.consistency_token";
/// What `SHOW` says of the last answer.
pub(super) const DATA_LAG: &str = "sheaf.data_lag_seconds";
pub(super) const DATA_TIMESTAMP: &str = "sheaf.data_timestamp";
pub(super) const DATA_TOKEN: &str = "sheaf.data_token";
const STATEMENT_TIMEOUT: &str = "statement_timeout";
const APPLICATION_NAME: &str = "application_name";

/// How a setting may be set.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// To anything.
    Free,
    /// To nothing but what it is.
    Fixed,
    /// To what it is, or one of these that mean the same here.
    OneOf(&'static [&'static str]),
    /// To a number of milliseconds, or a time with its unit.
    Time,
    /// To how old an answer may be.
    Lag,
}

#[rustfmt::skip]
const KNOWN: &[(&str, &str, Kind)] = &[
    (APPLICATION_NAME, "", Kind::Free),
    ("bytea_output", "hex", Kind::Free),
    ("client_encoding", "UTF8", Kind::OneOf(&["utf8", "utf-8", "unicode"])),
    ("client_min_messages", "notice", Kind::Free),
    ("datestyle", "ISO, MDY", Kind::OneOf(&["iso", "iso,mdy", "iso,dmy", "iso,ymd", "mdy", "dmy", "ymd"])),
    ("default_transaction_isolation", "serializable", Kind::Free),
    ("default_transaction_read_only", "on", Kind::OneOf(&["on", "true", "1"])),
    ("extra_float_digits", "1", Kind::Free),
    ("idle_in_transaction_session_timeout", "0", Kind::Free),
    ("in_hot_standby", "off", Kind::Fixed),
    ("integer_datetimes", "on", Kind::Fixed),
    ("intervalstyle", "postgres", Kind::OneOf(&["iso_8601"])),
    ("is_superuser", "off", Kind::Fixed),
    ("lock_timeout", "0", Kind::Free),
    ("max_identifier_length", "255", Kind::Fixed),
    ("max_index_keys", "32", Kind::Fixed),
    ("search_path", "public", Kind::Free),
    ("server_encoding", "UTF8", Kind::Fixed),
    ("server_version", SERVER_VERSION, Kind::Fixed),
    ("server_version_num", SERVER_VERSION_NUM, Kind::Fixed),
    ("standard_conforming_strings", "on", Kind::OneOf(&["true"])),
    (STATEMENT_TIMEOUT, "0", Kind::Time),
    ("timezone", "UTC", Kind::Free),
    ("transaction_isolation", "serializable", Kind::Free),
    ("transaction_read_only", "on", Kind::OneOf(&["on", "true", "1"])),
    (MAX_LAG, "5m", Kind::Lag),
    (TOKEN, "", Kind::Free),
];

/// Those that clients are told of as they log in and as they change, as PostgreSQL calls them there.
#[rustfmt::skip]
pub(super) const REPORTED: &[&str] = &[
    "application_name", "client_encoding", "DateStyle", "default_transaction_read_only", "in_hot_standby", "integer_datetimes",
    "IntervalStyle", "is_superuser", "server_encoding", "server_version", "standard_conforming_strings", "TimeZone",
];

/// The settings of a session.
#[derive(Debug, Default)]
pub(super) struct Variables {
    /// As they were when the session began, where that was not as for all.
    begun: BTreeMap<&'static str, String>,
    set: BTreeMap<&'static str, String>,
    /// Until the end of the transaction.
    local: BTreeMap<&'static str, String>,
    /// As they were set when the transaction began, which they go back to where it is rolled back.
    before: Option<BTreeMap<&'static str, String>>,
}

impl Variables {
    /// Takes a setting that the client sends as it logs in, so that it is also what it goes back to.
    pub(super) fn begin(&mut self, name: &str, value: &str) -> Result<(), Fault> {
        let (name, _, kind) = known(name)?;
        if let Some(value) = checked(name, kind, value)? {
            self.begun.insert(name, value);
        }
        Ok(())
    }

    /// Sets one.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), Fault> {
        let (name, _, kind) = known(name)?;
        if let Some(value) = checked(name, kind, value)? {
            self.local.remove(name);
            self.set.insert(name, value);
        }
        Ok(())
    }

    /// Sets one until the transaction ends.
    pub(super) fn set_local(&mut self, name: &str, value: &str) -> Result<(), Fault> {
        let (name, _, kind) = known(name)?;
        if let Some(value) = checked(name, kind, value)? {
            self.local.insert(name, value);
        }
        Ok(())
    }

    /// Forgets what was set until now.
    pub(super) fn end_local(&mut self) {
        self.local.clear();
    }

    /// Remembers what is set, for the end of the transaction that begins.
    pub(super) fn begin_transaction(&mut self) {
        self.before = Some(self.set.clone());
    }

    /// Ends a transaction: what was set in it stays, or never was.
    pub(super) fn end_transaction(&mut self, is_kept: bool) {
        self.end_local();
        if let (Some(before), false) = (self.before.take(), is_kept) {
            self.set = before;
        }
    }

    /// Sets one back to what it was when the session began.
    pub(super) fn reset(&mut self, name: &str) -> Result<(), Fault> {
        let (name, ..) = known(name)?;
        self.local.remove(name);
        self.set.remove(name);
        Ok(())
    }

    /// The same of all.
    pub(super) fn reset_all(&mut self) {
        self.local.clear();
        self.set.clear();
    }

    /// What was said of one, last.
    fn given(&self, name: &str) -> Option<&String> {
        let said = [&self.local, &self.set, &self.begun];
        said.into_iter().find_map(|said| said.get(name))
    }

    /// What one is.
    pub(super) fn show(&self, name: &str) -> Result<&str, Fault> {
        let (name, default, _) = known(name)?;
        // Answers are in UTC whatever is set.
        let is_fixed = matches!(name, "timezone");
        let given = self.given(name).filter(|_| !is_fixed);
        Ok(given.map_or(default, String::as_str))
    }

    /// What all are.
    pub(super) fn all(&self) -> Vec<(&'static str, String)> {
        let names = KNOWN.iter().map(|(name, ..)| *name);
        names
            .map(|name| (name, self.show(name).unwrap_or_default().to_owned()))
            .collect()
    }

    /// How long a question may take, where that is less than the server's bound.
    pub(super) fn statement_timeout(&self) -> Option<Span> {
        let text = self.show(STATEMENT_TIMEOUT).ok()?;
        millis(text).filter(|span| !span.is_zero())
    }

    /// How old an answer may be, where that was said.
    pub(super) fn max_lag(&self) -> Option<Duration> {
        self.given(MAX_LAG).and_then(|text| text.parse().ok())
    }

    /// The token that answers have to cover, where there is one.
    pub(super) fn token(&self) -> Option<&str> {
        self.show(TOKEN).ok().filter(|token| !token.is_empty())
    }
}

/// The setting with this name, whose case does not count.
fn known(name: &str) -> Result<(&'static str, &'static str, Kind), Fault> {
    let is_it = |(known, ..): &&(&str, &str, Kind)| known.eq_ignore_ascii_case(name);
    KNOWN.iter().find(is_it).copied().ok_or_else(|| {
        let name: String = name.chars().take(64).collect();
        let message = format!("unrecognized configuration parameter {name:?}");
        Fault::error(UNKNOWN_SETTING, message)
    })
}

/// The value as it is kept; none where it is what it is already.
fn checked(name: &str, kind: Kind, value: &str) -> Result<Option<String>, Fault> {
    let refused = || {
        let value: String = value.chars().take(64).collect();
        let message = format!("parameter {name:?} cannot be {value:?} here");
        Fault::error(INVALID_PARAMETER, message)
    };
    if value.len() > VALUE_BYTES_MAX {
        return Err(refused());
    }
    let is_default = KNOWN
        .iter()
        .any(|(known, default, _)| *known == name && default.eq_ignore_ascii_case(value));
    let plain: String = value
        .chars()
        .filter(|letter| !letter.is_whitespace())
        .collect();
    match kind {
        Kind::Free => Ok(Some(value.to_owned())),
        Kind::Fixed if is_default => Ok(None),
        Kind::OneOf(same)
            if is_default || same.iter().any(|same| same.eq_ignore_ascii_case(&plain)) =>
        {
            Ok(None)
        }
        Kind::Fixed | Kind::OneOf(_) => Err(refused()),
        Kind::Time => millis(value)
            .map(|_| Some(value.to_owned()))
            .ok_or_else(refused),
        Kind::Lag => {
            let span = value.parse::<Duration>();
            span.map(|_| Some(value.to_owned())).map_err(|_| refused())
        }
    }
}

/// A number of milliseconds, or a time with its unit.
fn millis(text: &str) -> Option<Span> {
    let text = text.trim();
    if let Ok(millis) = text.parse::<u64>() {
        return Some(Span::from_millis(millis));
    }
    let span: Duration = text.replace("min", "m").replace(' ', "").parse().ok()?;
    Some(Span::from_micros(u64::try_from(span.as_micros()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_transaction_has_set_stays_where_it_is_committed_alone() {
        let mut variables = Variables::default();
        variables.set("application_name", "a").expect("known");
        for (is_kept, wanted) in [(false, "a"), (true, "b")] {
            variables.begin_transaction();
            variables.set("application_name", "b").expect("known");
            variables
                .set_local("statement_timeout", "5")
                .expect("a time");
            variables.end_transaction(is_kept);
            assert_eq!(variables.show("application_name").ok(), Some(wanted));
            assert_eq!(variables.statement_timeout(), None);
        }
        // There was none: nothing goes back.
        variables.end_transaction(false);
        assert_eq!(variables.show("application_name").ok(), Some("b"));
    }

    #[test]
    fn settings_are_kept_refused_or_without_effect_and_go_back() {
        let mut variables = Variables::default();
        variables.begin("Application_Name", "a").expect("known");
        variables.begin("TimeZone", "Europe/Berlin").expect("known");
        variables.set("application_name", "b").expect("known");
        variables.set("statement_timeout", "1500").expect("a time");
        variables.set(MAX_LAG, "30s").expect("a span");
        assert_eq!(variables.show("APPLICATION_NAME").ok(), Some("b"));
        assert_eq!(variables.show("timezone").ok(), Some("UTC"));
        let timeout = variables.statement_timeout();
        assert_eq!(timeout, Some(Span::from_millis(1_500)));
        assert_eq!(variables.max_lag(), "30s".parse().ok());
        variables.set_local("application_name", "c").expect("known");
        assert_eq!(variables.show("application_name").ok(), Some("c"));
        variables.end_local();
        assert_eq!(variables.show("application_name").ok(), Some("b"));
        variables.reset_all();
        assert_eq!(variables.show("application_name").ok(), Some("a"));
        assert_eq!(
            (variables.statement_timeout(), variables.max_lag()),
            (None, None)
        );
        for (name, value, sqlstate) in [
            ("datafusion.execution.batch_size", "1", UNKNOWN_SETTING),
            ("sheaf.tenant_id", "2", UNKNOWN_SETTING),
            ("client_encoding", "LATIN1", INVALID_PARAMETER),
            ("standard_conforming_strings", "off", INVALID_PARAMETER),
            ("default_transaction_read_only", "off", INVALID_PARAMETER),
            ("server_version", "9.0", INVALID_PARAMETER),
            ("statement_timeout", "soon", INVALID_PARAMETER),
            (MAX_LAG, "soon", INVALID_PARAMETER),
        ] {
            let fault = variables.set(name, value).expect_err(name);
            assert_eq!(fault.sqlstate, sqlstate, "{name}");
        }
        for (name, value) in [
            ("client_encoding", "'utf-8'".trim_matches('\'')),
            ("DateStyle", "ISO"),
            ("extra_float_digits", "3"),
            ("statement_timeout", "5min"),
        ] {
            assert!(variables.set(name, value).is_ok(), "{name}");
        }
        let timeout = variables.statement_timeout();
        assert_eq!(timeout, Some(Span::from_secs(300)));
        for name in REPORTED {
            assert!(variables.show(name).is_ok(), "{name}");
        }
    }
}
