//! Which form of an answer the client prefers.

use axum::http::{HeaderMap, header};
use sheaf_export::Format;

use crate::problem::{Code, Problem};

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// JSON, a page.
    Page,
    /// One JSON object a line.
    Ndjson,
    /// Comma separated values.
    Csv,
    /// Arrow's IPC stream.
    Arrow,
}

impl Form {
    const ALL: [Form; 4] = [Form::Page, Form::Ndjson, Form::Csv, Form::Arrow];

    /// What the answer calls itself.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Form::Page => "application/json",
            Form::Ndjson => "application/x-ndjson",
            Form::Csv => "text/csv; charset=utf-8; header=present",
            Form::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    /// The file that it is; absent where it is JSON.
    pub(crate) fn file(self) -> Option<Format> {
        match self {
            Form::Page | Form::Ndjson => None,
            Form::Csv => Some(Format::Csv),
            Form::Arrow => Some(Format::Arrow),
        }
    }

    fn of_range(range: &str) -> Option<Form> {
        if matches!(range, "*/*" | "application/*") {
            return Some(Form::Page);
        }
        if range == "text/*" {
            return Some(Form::Csv);
        }
        Form::ALL.into_iter().find(|form| {
            let own = form.media_type().split(';').next().unwrap_or_default();
            own.eq_ignore_ascii_case(range)
        })
    }
}

/// The form that `Accept` prefers: the greatest weight, then the first; a page where it says nothing.
pub(crate) fn form_of(headers: &HeaderMap) -> Result<Form, Problem> {
    let ranges = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty());
    let (mut best, mut says_nothing): (Option<(Form, u32)>, bool) = (None, true);
    for range in ranges {
        says_nothing = false;
        let mut parts = range.split(';').map(str::trim);
        let form = Form::of_range(parts.next().unwrap_or_default());
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        let weight = weight.map_or(1_000, thousandths);
        if let Some(form) = form
            && weight > best.map_or(0, |(_, weight)| weight)
        {
            best = Some((form, weight));
        }
    }
    match best {
        Some((form, _)) => Ok(form),
        None if says_nothing => Ok(Form::Page),
        None => Err(Problem::new(
            Code::NotAcceptable,
            "the answer is application/json, application/x-ndjson, text/csv or application/vnd.apache.arrow.stream",
        )),
    }
}

/// A weight such as `0.75`; what is none weighs nothing.
fn thousandths(weight: &str) -> u32 {
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    match (whole.parse::<u32>(), digits.parse::<u32>()) {
        (Ok(whole), Ok(fraction)) => (whole.min(1) * 1_000 + fraction).min(1_000),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_what_accept_prefers() {
        for (value, expected) in [
            ("*/*", Some(Form::Page)),
            ("text/html, application/json;q=0.9", Some(Form::Page)),
            ("text/csv", Some(Form::Csv)),
            ("Text/CSV", Some(Form::Csv)),
            ("application/x-ndjson", Some(Form::Ndjson)),
            (
                "application/vnd.apache.arrow.stream, */*;q=0.1",
                Some(Form::Arrow),
            ),
            (
                "*/*;q=0.1, application/vnd.apache.arrow.stream",
                Some(Form::Arrow),
            ),
            ("text/csv;q=0, application/json;q=0.001", Some(Form::Page)),
            ("text/csv;q=0", None),
            ("text/html", None),
            ("", Some(Form::Page)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, value.parse().expect("a header value"));
            assert_eq!(form_of(&headers).ok(), expected, "{value}");
        }
        assert_eq!(form_of(&HeaderMap::new()).ok(), Some(Form::Page));
    }
}
