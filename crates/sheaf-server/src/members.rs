//! A JSON object in a body: its members taken by name, and nothing left over in silence.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use sheaf_model::{Duration, Timestamp, object_members};

use crate::params::shortened;
use crate::problem::{Code, Problem};

/// The members of an object that were not taken yet.
#[derive(Debug)]
pub(crate) struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// What a body says of something that has a value already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change<T> {
    /// Nothing.
    Keep,
    /// It has no value any more.
    Clear,
    /// It has this value.
    Set(T),
}

impl<T> Change<T> {
    /// The value after the change.
    pub(crate) fn apply(self, before: Option<T>) -> Option<T> {
        match self {
            Change::Keep => before,
            Change::Clear => None,
            Change::Set(value) => Some(value),
        }
    }
}

impl<'a> Members<'a> {
    /// Reads an object.
    pub(crate) fn read(body: &'a [u8]) -> Result<Members<'a>, Problem> {
        let text = std::str::from_utf8(body)
            .map_err(|_| Problem::new(Code::MalformedJson, "not UTF-8"))?;
        let members = object_members(text).map_err(|fault| {
            Problem::new(
                Code::MalformedJson,
                format!("expected a JSON object: {fault}"),
            )
        })?;
        Members::distinct(members)
    }

    fn distinct(members: Vec<(Cow<'a, str>, &'a RawValue)>) -> Result<Members<'a>, Problem> {
        let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_ref()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Problem::parameter(
                Code::MalformedJson,
                &shortened(pair[0]),
                "the member stands twice",
            )),
            None => Ok(Members(members)),
        }
    }

    /// Takes the first member that is left, with its name, as it was written.
    pub(crate) fn take_first(&mut self) -> Option<(Cow<'a, str>, &'a str)> {
        if self.0.is_empty() {
            return None;
        }
        let (name, raw) = self.0.remove(0);
        Some((name, raw.get()))
    }

    /// Takes a member as it was written.
    pub(crate) fn take_raw(&mut self, name: &str) -> Option<&'a str> {
        let place = self.0.iter().position(|(given, _)| given == name)?;
        Some(self.0.remove(place).1.get())
    }

    /// Takes a member that a body need not have; null is the same as absent.
    pub(crate) fn take<T: Deserialize<'a>>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        match self.take_change(name)? {
            Change::Keep | Change::Clear => Ok(None),
            Change::Set(value) => Ok(Some(value)),
        }
    }

    /// Takes a member that a body need not have; null and absent differ.
    pub(crate) fn take_change<T: Deserialize<'a>>(
        &mut self,
        name: &str,
    ) -> Result<Change<T>, Problem> {
        match self.take_raw(name) {
            None => Ok(Change::Keep),
            Some("null") => Ok(Change::Clear),
            Some(raw) => serde_json::from_str(raw).map(Change::Set).map_err(|fault| {
                let text = fault.to_string();
                let detail = text
                    .rsplit_once(" at line ")
                    .map_or(text.as_str(), |(detail, _)| detail);
                Problem::invalid(name, &detail[..detail.floor_char_boundary(200)])
            }),
        }
    }

    /// Takes a member that a body must have.
    pub(crate) fn require<T: Deserialize<'a>>(&mut self, name: &str) -> Result<T, Problem> {
        self.take(name)?
            .ok_or_else(|| Problem::invalid(name, "is required"))
    }

    /// Takes a text and reads it; `expected` says in an error what it must be.
    pub(crate) fn take_as<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Change<T>, Problem> {
        match self.take_change::<Cow<'_, str>>(name)? {
            Change::Keep => Ok(Change::Keep),
            Change::Clear => Ok(Change::Clear),
            Change::Set(text) => {
                let value = read(&text)
                    .ok_or_else(|| Problem::invalid(name, format!("expected {expected}")))?;
                Ok(Change::Set(value))
            }
        }
    }

    /// Takes a duration: a text such as `1d`, or a number of seconds.
    pub(crate) fn take_duration(&mut self, name: &str) -> Result<Change<Duration>, Problem> {
        let Some(raw) = self.take_raw(name) else {
            return Ok(Change::Keep);
        };
        if raw == "null" {
            return Ok(Change::Clear);
        }
        let text = serde_json::from_str::<Cow<'_, str>>(raw).unwrap_or(Cow::Borrowed(raw));
        let read: Result<Duration, _> = text.parse();
        read.map(Change::Set)
            .map_err(|fault| Problem::invalid(name, fault.to_string()))
    }

    /// Takes a time in RFC 3339 form.
    pub(crate) fn take_time(&mut self, name: &str) -> Result<Change<Timestamp>, Problem> {
        self.take_as(name, "a time in RFC 3339 form", |text| {
            Timestamp::parse(text).ok().map(|(time, _)| time)
        })
    }

    /// Takes everything that is left, for objects whose names are the client's.
    pub(crate) fn take_all(self) -> Vec<(Cow<'a, str>, &'a RawValue)> {
        self.0
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::parameter(
                Code::UnknownParameter,
                &shortened(name),
                "the body has no such member",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_taken_by_name_and_the_rest_is_refused() {
        let mut members =
            Members::read(br#"{"name":"a","unit":null,"pii":"x","typo":1}"#).expect("an object");
        assert_eq!(members.require::<String>("name").expect("a text"), "a");
        assert_eq!(
            members.take_change::<String>("unit").expect("null"),
            Change::Clear
        );
        assert_eq!(
            members.take_change::<String>("pin").expect("absent"),
            Change::Keep
        );
        let problem = members
            .take::<bool>("pii")
            .expect_err("a text is no truth value");
        assert_eq!(problem.errors[0].parameter, "pii");
        assert_eq!(
            members.finish().expect_err("left over").code,
            Code::UnknownParameter
        );
    }

    #[test]
    fn what_is_no_object_or_has_a_member_twice_is_malformed() {
        for body in [
            &b""[..],
            b"[]",
            b"{",
            b"{\"a\":1,\"a\":2}",
            b"\"x\"",
            b"\xff",
        ] {
            assert_eq!(
                Members::read(body).expect_err("malformed").code,
                Code::MalformedJson
            );
        }
    }
}
