//! Which names a question about catalogues means. Pure.

use super::super::command::SCHEMA;
use super::super::lexer::Token;
use super::identifier::parts;
use super::selection::{inside, is_selection_of_nothing, split_at_commas};

/// What a name has to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pattern {
    /// One of these.
    OneOf(Vec<String>),
    /// As `LIKE` has it.
    Like(String),
}

impl Pattern {
    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::OneOf(names) => names.iter().any(|name| name == text),
            Pattern::Like(pattern) => like(pattern.as_bytes(), text.as_bytes()),
        }
    }

    /// How much there is to look at for each letter that is compared with it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Pattern::OneOf(_) => 0,
            Pattern::Like(pattern) => pattern.len(),
        }
    }
}

/// Bounded: names are short, and each `%` is tried at each place once.
fn like(pattern: &[u8], text: &[u8]) -> bool {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    let mut letters = pattern.iter();
    while let Some(letter) = letters.next() {
        let mut next = vec![false; text.len() + 1];
        let any = *letter == b'%';
        let (wanted, is_any_one) = match letter {
            b'\\' => (letters.next().copied().unwrap_or(b'\\'), false),
            b'_' => (0, true),
            letter => (*letter, false),
        };
        let mut is_open = false;
        for place in 0..=text.len() {
            is_open |= any && reached[place];
            next[place] |= is_open;
            if !any && reached[place] && place < text.len() && (is_any_one || text[place] == wanted)
            {
                next[place + 1] = true;
            }
        }
        reached = next;
    }
    reached[text.len()]
}

/// Columns of catalogues that are compared with texts: `=`, `IN`, `LIKE`, and the pattern of a whole name that psql sends.
pub(super) fn patterns(tokens: &[Token]) -> Vec<(String, Pattern)> {
    let mut patterns = Vec::new();
    for (place, token) in tokens.iter().enumerate() {
        let Some(name) = token.as_name() else {
            continue;
        };
        let mut rest = &tokens[place + 1..];
        while let [close, after @ ..] = rest
            && close.is_sign(')')
        {
            rest = after;
        }
        let pattern = match rest {
            [equals, rest @ ..] if equals.is_sign('=') => {
                equal(rest).map(|value| Pattern::OneOf(vec![value]))
            }
            [like, value, ..] if like.is_word("like") => text(value).map(Pattern::Like),
            [within, rest @ ..] if within.is_word("in") => inside(rest).and_then(one_of),
            _ => whole_name(rest).map(|name| Pattern::OneOf(vec![name])),
        };
        patterns.extend(pattern.map(|pattern| (name.to_owned(), pattern)));
    }
    patterns
}

fn text(token: &Token) -> Option<String> {
    match token {
        Token::Text(text) | Token::Number(text) => Some(text.clone()),
        _ => None,
    }
}

/// A text, or a part of one that is a name of two: `(parse_ident('a.b'))[1]`. Of a name of one part clients ask for no part.
fn equal(tokens: &[Token]) -> Option<String> {
    match tokens {
        [
            open,
            call,
            _,
            Token::Text(name),
            _,
            close,
            bracket,
            Token::Number(place),
            ..,
        ] if open.is_sign('(')
            && call.is_word("parse_ident")
            && close.is_sign(')')
            && bracket.is_sign('[') =>
        {
            let place = place.parse::<usize>().ok()?.checked_sub(1)?;
            parts(name)?.into_iter().nth(place)
        }
        tokens => text(tokens.first()?),
    }
}

/// What stands in the parentheses behind `IN`.
fn one_of(inner: &[Token]) -> Option<Pattern> {
    if inner.first()?.is_word("select") {
        // The schemas whose tables are named without them.
        let is_path = |token: &Token| matches!(token, Token::Text(text) if text == "search_path");
        if inner.iter().any(is_path) {
            return Some(Pattern::OneOf(vec![SCHEMA.to_owned()]));
        }
        return is_selection_of_nothing(inner).then(|| Pattern::OneOf(Vec::new()));
    }
    let values = split_at_commas(inner);
    let values = values.iter().map(|value| text(value.first()?));
    values.collect::<Option<Vec<String>>>().map(Pattern::OneOf)
}

/// The name in `OPERATOR(pg_catalog.~) '^(name)$'`, or `~ '^(name)$'`.
fn whole_name(tokens: &[Token]) -> Option<String> {
    let tilde = tokens.iter().take(6).position(|token| token.is_sign('~'))?;
    let is_operator = tilde == 0 || tokens[0].is_word("operator");
    let value = tokens[tilde + 1..]
        .iter()
        .find(|token| !token.is_sign(')'))?;
    let Token::Text(pattern) = value else {
        return None;
    };
    let name = pattern.strip_prefix("^(")?.strip_suffix(")$")?;
    let is_plain = name.chars().all(|l| l.is_alphanumeric() || l == '_');
    (is_operator && is_plain).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_as_like_does() {
        for (pattern, text, wanted) in [
            ("facts", "facts", true),
            ("facts", "fact", false),
            ("%", "", true),
            ("f%s", "facts", true),
            ("f%s", "factsx", false),
            ("f____", "facts", true),
            (r"facts\_corrected", "facts_corrected", true),
            (r"facts\_corrected", "factsxcorrected", false),
            ("%%%%a", "bbba", true),
        ] {
            let matches = Pattern::Like(pattern.to_owned()).matches(text);
            assert_eq!(matches, wanted, "{pattern} {text}");
        }
    }
}
