//! The query string and the path: decoded once, taken by name, and nothing left over in silence.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use sheaf_model::Timestamp;
use sheaf_query::filter::{Expr, parse_json, parse_text};

use crate::problem::{Code, Problem};

/// The query parameters of a request that were not taken yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Params, Problem> {
        Params::parse(parts.uri.query().unwrap_or_default())
    }
}

impl Params {
    /// Reads a query string, or a form: both have the same encoding.
    pub(crate) fn parse(encoded: &str) -> Result<Params, Problem> {
        let pairs = encoded
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((decoded(name)?, decoded(value)?))
            });
        pairs.collect::<Result<Vec<_>, Problem>>().map(Params)
    }

    /// Takes `filter`, in the language that `filter-lang` names.
    pub(crate) fn take_filter(&mut self) -> Result<Option<Expr>, Problem> {
        let is_json = self.take_as("filter-lang", "cql2-text or cql2-json", |text| match text {
            "cql2-text" => Some(false),
            "cql2-json" => Some(true),
            _ => None,
        })?;
        Ok(match self.take("filter")? {
            None => None,
            Some(text) if is_json.unwrap_or(false) => Some(parse_json(&text)?),
            Some(text) => Some(parse_text(&text)?),
        })
    }

    /// Takes a parameter. Twice is an error: which one counts is not for us to guess.
    pub(crate) fn take(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let Some(place) = self.0.iter().position(|(given, _)| given == name) else {
            return Ok(None);
        };
        let (_, value) = self.0.remove(place);
        if self.0.iter().any(|(given, _)| given == name) {
            return Err(Problem::invalid(name, "stands twice"));
        }
        Ok(Some(value))
    }

    /// Takes a parameter and reads its value; `expected` says in an error what it must be.
    pub(crate) fn take_as<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.take(name)? else {
            return Ok(None);
        };
        read(&text)
            .map(Some)
            .ok_or_else(|| Problem::invalid(name, format!("expected {expected}")))
    }

    /// Takes a time.
    pub(crate) fn take_time(&mut self, name: &str) -> Result<Option<Timestamp>, Problem> {
        self.take_as(name, "a time in RFC 3339 form", |text| {
            Timestamp::parse(text).ok().map(|(time, _)| time)
        })
    }

    /// Takes a truth value.
    pub(crate) fn take_bool(&mut self, name: &str) -> Result<bool, Problem> {
        Ok(self
            .take_as(name, "true or false", |text| text.parse().ok())?
            .unwrap_or(false))
    }

    /// Takes a list of names.
    pub(crate) fn take_names(&mut self, name: &str) -> Result<Option<Vec<String>>, Problem> {
        let Some(text) = self.take(name)? else {
            return Ok(None);
        };
        names(&text)
            .map(Some)
            .map_err(|detail| Problem::invalid(name, detail))
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::parameter(
                Code::UnknownParameter,
                &shortened(name),
                "the route has no such parameter",
            )),
        }
    }
}

fn decoded(text: &str) -> Result<String, Problem> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    match decoded {
        Ok(text) if !text.contains('\0') => Ok(text.into_owned()),
        Ok(_) | Err(_) => Err(Problem::new(
            Code::InvalidParameter,
            "the query is not UTF-8 without NUL",
        )),
    }
}

/// A name as an error quotes it.
pub(crate) fn shortened(name: &str) -> String {
    name[..name.floor_char_boundary(64)].to_owned()
}

/// A comma list of names. One with a comma, a quote or spaces around it is quoted: `"a,b"`, with `""` for a quote.
pub(crate) fn names(text: &str) -> Result<Vec<String>, &'static str> {
    let mut names = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = first_name(rest)?;
        names.push(name);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None if after.is_empty() => return Ok(names),
            None => return Err("expected a comma between names"),
        }
    }
}

/// The same with `-` before names that are to come greatest first.
pub(crate) fn sort_keys(text: &str) -> Result<Vec<(String, bool)>, &'static str> {
    let mut keys = Vec::new();
    let mut rest = text;
    loop {
        let (key, after) = first_sort_key(rest)?;
        keys.push(key);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None if after.is_empty() => return Ok(keys),
            None => return Err("expected a comma between keys"),
        }
    }
}

fn first_sort_key(text: &str) -> Result<((String, bool), &str), &'static str> {
    let text = text.trim_start();
    let (descending, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (name, after) = first_name(text)?;
    Ok(((name, descending), after))
}

/// The first name of a list and what follows it.
fn first_name(text: &str) -> Result<(String, &str), &'static str> {
    first_name_before(text, &[','])
}

/// The first name, which ends before one of these letters unless it is quoted, and what follows it.
pub(crate) fn first_name_before<'a>(
    text: &'a str,
    ends: &[char],
) -> Result<(String, &'a str), &'static str> {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(ends).unwrap_or(text.len());
        let name = text[..end].trim_end();
        return if name.is_empty() {
            Err("a name is empty")
        } else {
            Ok((name.to_owned(), &text[end..]))
        };
    };
    let mut name = String::new();
    let mut rest = quoted;
    loop {
        let end = rest.find('"').ok_or("a quote is never closed")?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                name.push('"');
                rest = after;
            }
            None => return Ok((name, rest.trim_start())),
        }
    }
}

/// The segments of the path, each percent-decoded once.
pub(crate) struct Segments<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Segments<T>, Problem> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(segments)| Segments(segments))
            .map_err(|_| Problem::new(Code::InvalidParameter, "the path is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_took_is_refused_and_twice_is_an_error() {
        let mut params = Params::parse("limit=2&sorted=x&a=1&a=2").expect("a query");
        assert_eq!(params.take("limit").expect("once").as_deref(), Some("2"));
        assert_eq!(params.take("absent").expect("absent"), None);
        assert_eq!(
            params.take("a").expect_err("twice").code,
            Code::InvalidParameter
        );
        let problem = params.finish().expect_err("left over");
        assert_eq!(
            (problem.code, problem.errors[0].parameter.as_str()),
            (Code::UnknownParameter, "sorted")
        );
    }

    #[test]
    fn a_query_is_decoded_once() {
        let mut params = Params::parse("filter=a%20%3E%3D+1&id=a%252Fb&x=10%").expect("a query");
        assert_eq!(
            params.take("filter").expect("once").as_deref(),
            Some("a >= 1")
        );
        assert_eq!(params.take("id").expect("once").as_deref(), Some("a%2Fb"));
        assert_eq!(params.take("x").expect("once").as_deref(), Some("10%"));
        assert!(Params::parse("a=%ff").is_err() && Params::parse("a=%00").is_err());
    }

    #[test]
    fn a_list_of_names_keeps_what_is_quoted() {
        assert_eq!(names("a, b"), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(
            names("\"a,b\",\"c\"\"d\""),
            Ok(vec!["a,b".to_owned(), "c\"d".to_owned()])
        );
        for text in ["", "a,", ",a", "\"a", "\"a\"b"] {
            assert!(names(text).is_err(), "{text:?} was taken for a list");
        }
        let keys = sort_keys("-seats,external_id,-\"a b\"").expect("keys");
        assert_eq!(
            keys,
            [
                ("seats".to_owned(), true),
                ("external_id".to_owned(), false),
                ("a b".to_owned(), true)
            ]
        );
    }
}
