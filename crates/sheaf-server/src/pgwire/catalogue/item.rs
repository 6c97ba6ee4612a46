//! One column of a selection. Pure.

use super::super::lexer::Token;
use super::selection::inside;

/// Functions of many rows: what they give is computed, which nothing here does.
const OF_MANY: [&str; 9] = [
    "count",
    "max",
    "min",
    "sum",
    "avg",
    "string_agg",
    "array_agg",
    "json_agg",
    ALL,
];
/// What stands for all columns of something.
const ALL: &str = "*";
/// What a tenant may do with what it sees.
const PRIVILEGES: [&str; 3] = ["select", "usage", "connect"];

/// One column of a selection, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    All,
    Text {
        text: String,
        heading: String,
    },
    Int {
        number: i64,
        heading: String,
    },
    Bool {
        is_true: bool,
        heading: String,
    },
    Null {
        heading: String,
    },
    /// A column of a catalogue.
    Named {
        /// What stands before its name.
        of: Option<String>,
        name: String,
        heading: String,
        /// Whether it is given as it stands in a question.
        is_quoted: bool,
    },
    /// Something that is computed, and the functions in it, outermost first.
    Other {
        calls: Vec<String>,
        heading: String,
    },
}

impl Item {
    pub(super) fn heading(&self) -> String {
        match self {
            Item::All => ALL.to_owned(),
            Item::Text { heading, .. }
            | Item::Int { heading, .. }
            | Item::Bool { heading, .. }
            | Item::Null { heading }
            | Item::Named { heading, .. }
            | Item::Other { heading, .. } => heading.clone(),
        }
    }

    /// The same under another heading.
    pub(super) fn headed(mut self, new: &str) -> Item {
        match &mut self {
            Item::All => {}
            Item::Text { heading, .. }
            | Item::Int { heading, .. }
            | Item::Bool { heading, .. }
            | Item::Null { heading }
            | Item::Named { heading, .. }
            | Item::Other { heading, .. } => new.clone_into(heading),
        }
        self
    }

    /// The column of a catalogue with this name.
    pub(super) fn named(name: &str) -> Item {
        Item::Named {
            of: None,
            name: name.to_owned(),
            heading: name.to_owned(),
            is_quoted: false,
        }
    }

    /// Whether it is of many rows, or of columns that nobody names.
    pub(super) fn is_computed(&self) -> bool {
        matches!(self, Item::Other { calls, .. } if calls.iter().any(|call| OF_MANY.contains(&call.as_str())))
    }

    /// Whether it stands for all columns of one thing, `a.*`.
    pub(super) fn is_all_of_one(&self) -> bool {
        matches!(self, Item::Other { calls, .. } if *calls == [ALL])
    }
}

pub(super) fn read_item(tokens: &[Token]) -> Item {
    let (tokens, alias) = match tokens {
        [expr @ .., a, name] if a.is_word("as") && name.as_name().is_some() => {
            (expr, name.as_name().map(str::to_owned))
        }
        // A name behind something that is whole without it.
        [expr @ .., name]
            if expr
                .last()
                .is_some_and(|last| last.as_name().is_some() || last.is_sign(')'))
                && name.as_name().is_some()
                && !name.is_word("end") =>
        {
            (expr, name.as_name().map(str::to_owned))
        }
        tokens => (tokens, None),
    };
    let (tokens, is_quoted) = without_wrapping(tokens);
    let nameless = || alias.clone().unwrap_or_else(|| "?column?".to_owned());
    match tokens {
        [star] if star.is_sign('*') => Item::All,
        [Token::Text(text)] => Item::Text {
            text: text.clone(),
            heading: nameless(),
        },
        [Token::Number(digits)] => match digits.parse() {
            Ok(number) => Item::Int {
                number,
                heading: nameless(),
            },
            Err(_) => Item::Null {
                heading: nameless(),
            },
        },
        [word] if word.is_word("null") => Item::Null {
            heading: nameless(),
        },
        [word] if word.is_word("true") || word.is_word("false") => Item::Bool {
            is_true: word.is_word("true"),
            heading: alias.unwrap_or_else(|| "bool".to_owned()),
        },
        [before @ .., last] if is_a_name(tokens) => {
            let name = last.as_name().unwrap_or_default().to_owned();
            let of = before.iter().rev().nth(1).and_then(Token::as_name);
            Item::Named {
                of: of.map(str::to_owned),
                heading: alias.unwrap_or_else(|| name.clone()),
                name,
                is_quoted,
            }
        }
        tokens => computed(tokens, alias),
    }
}

fn computed(tokens: &[Token], alias: Option<String>) -> Item {
    let calls = tokens.windows(2).filter_map(|two| match two {
        [Token::Word(name), open] if open.is_sign('(') => Some(name.clone()),
        _ => None,
    });
    let mut calls: Vec<String> = calls.collect();
    if tokens.last().is_some_and(|last| last.is_sign('*')) {
        calls.push(ALL.to_owned());
    }
    let first = calls.first().cloned();
    let first = match tokens.first() {
        Some(word) if word.is_word("case") => Some("case".to_owned()),
        _ => first,
    };
    let heading = alias.or(first).unwrap_or_else(|| "?column?".to_owned());
    match is_allowed(tokens) {
        Some(is_true) => Item::Bool { is_true, heading },
        None => Item::Other { calls, heading },
    }
}

/// What `has_table_privilege(..)` and its like come to: of several, one is enough.
fn is_allowed(tokens: &[Token]) -> Option<bool> {
    let (name, rest) = without_schema(tokens).split_first()?;
    let name = name.as_name()?;
    let is_asked = name.starts_with("has_") && name.ends_with("_privilege");
    let inner = inside(rest).filter(|inner| is_asked && inner.len() + 2 == rest.len())?;
    let wanted = inner.iter().rev().find_map(|token| match token {
        Token::Text(text) => Some(text.to_ascii_lowercase()),
        _ => None,
    })?;
    let mut wanted = wanted.split(',').map(str::trim);
    Some(wanted.any(|wanted| PRIVILEGES.contains(&wanted)))
}

/// `a`, `a.b` and so on.
fn is_a_name(tokens: &[Token]) -> bool {
    let is_right = |(place, token): (usize, &Token)| match place % 2 {
        0 => token.as_name().is_some(),
        _ => token.is_sign('.'),
    };
    tokens.len() % 2 == 1 && tokens.iter().enumerate().all(is_right)
}

fn without_schema(tokens: &[Token]) -> &[Token] {
    match tokens {
        [schema, dot, rest @ ..] if schema.is_word("pg_catalog") && dot.is_sign('.') => rest,
        tokens => tokens,
    }
}

/// Without casts behind it, parentheses around it, and functions that give a name as it is; and whether one of these gives it
/// quotes.
fn without_wrapping(mut tokens: &[Token]) -> (&[Token], bool) {
    let mut is_quoted = false;
    loop {
        if let Some(place) = tokens.iter().rposition(|token| token.is_sign(':'))
            && place > 0
            && tokens[place - 1].is_sign(':')
            && is_a_name(&tokens[place + 1..])
        {
            tokens = &tokens[..place - 1];
            continue;
        }
        let (called, quotes) = match without_schema(tokens) {
            [name, rest @ ..] if name.is_word("quote_ident") => (rest, true),
            _ => (tokens, false),
        };
        match inside(called).filter(|inner| inner.len() + 2 == called.len()) {
            Some(inner) => {
                tokens = inner;
                is_quoted |= quotes;
            }
            None => return (tokens, is_quoted),
        }
    }
}
