//! What a question about catalogues asks for: its columns, what it reads, and which names it means. Pure.

use super::super::lexer::Token;

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

/// A selection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) items: Vec<Item>,
    pub(super) is_distinct: bool,
    /// What its rows have to be in, without their schemas.
    pub(super) joined: Vec<String>,
    /// Columns of catalogues, and what they have to be like.
    pub(super) patterns: Vec<(String, Pattern)>,
    pub(super) limit: Option<usize>,
}

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
        name: String,
        heading: String,
    },
    /// Something that is computed, and the functions in it, outermost first.
    Other {
        calls: Vec<String>,
        heading: String,
    },
}

/// What a name has to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pattern {
    /// One of these.
    OneOf(Vec<String>),
    /// As `LIKE` has it.
    Like(String),
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

    /// The column of a catalogue with this name.
    pub(super) fn named(name: &str) -> Item {
        Item::Named {
            name: name.to_owned(),
            heading: name.to_owned(),
        }
    }

    /// Whether it is of many rows, or of columns that nobody names.
    pub(super) fn is_computed(&self) -> bool {
        matches!(self, Item::Other { calls, .. } if calls.iter().any(|call| OF_MANY.contains(&call.as_str())))
    }
}

impl Pattern {
    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::OneOf(names) => names.iter().any(|name| name == text),
            Pattern::Like(pattern) => like(pattern.as_bytes(), text.as_bytes()),
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

/// Reads a selection; absent where it is none that is known here.
pub(super) fn read_selection(tokens: &[Token]) -> Option<Selection> {
    let mut tokens = tokens;
    let mut outer = Vec::new();
    // What is selected from a selection is that, as far as it is all of it.
    loop {
        let rest = tokens.strip_prefix_word("select")?;
        let rest = rest.strip_prefix_word("all").unwrap_or(rest);
        let from = place_at_top(rest, |token| token.is_word("from"))?;
        let (items, from) = (&rest[..from], &rest[from + 1..]);
        let is_all = matches!(items, [star] if star.is_sign('*'));
        if is_all && from.first().is_some_and(|token| token.is_sign('(')) {
            let inner = inside(from)?;
            outer.extend(patterns(&from[inner.len() + 2..]));
            tokens = inner;
            continue;
        }
        let mut selection = read_plain(items, from)?;
        selection.patterns.extend(outer);
        return Some(selection);
    }
}

trait Words {
    fn strip_prefix_word(&self, word: &str) -> Option<&Self>;
}

impl Words for [Token] {
    fn strip_prefix_word(&self, word: &str) -> Option<&[Token]> {
        let (first, rest) = self.split_first()?;
        first.is_word(word).then_some(rest)
    }
}

fn read_plain(items: &[Token], from: &[Token]) -> Option<Selection> {
    let distinct = items.strip_prefix_word("distinct");
    let items = split_at_commas(distinct.unwrap_or(items));
    let items: Vec<Item> = items.iter().map(|item| read_item(item)).collect();
    let is_end = |token: &Token| {
        [
            "where", "group", "order", "limit", "union", "offset", "having",
        ]
        .iter()
        .any(|word| token.is_word(word))
    };
    let end = place_at_top(from, is_end).unwrap_or(from.len());
    let (relations, conditions) = from.split_at(end);
    if conditions.iter().any(|token| token.is_word("group")) {
        return None;
    }
    let ending = conditions.iter().position(|token| token.is_word("union"));
    let conditions = &conditions[..ending.unwrap_or(conditions.len())];
    let limit = conditions.windows(2).rev().find_map(|two| match two {
        [word, Token::Number(digits)] if word.is_word("limit") => digits.parse().ok(),
        _ => None,
    });
    Some(Selection {
        items,
        is_distinct: distinct.is_some(),
        joined: joined(relations),
        // Conditions of joins are about what is joined.
        patterns: patterns(conditions),
        limit,
    })
}

/// The first place outside of parentheses where something is.
fn place_at_top(tokens: &[Token], is_it: impl Fn(&Token) -> bool) -> Option<usize> {
    let mut depth = 0usize;
    for (place, token) in tokens.iter().enumerate() {
        match token {
            Token::Sign('(') => depth += 1,
            Token::Sign(')') => depth = depth.checked_sub(1)?,
            token if depth == 0 && is_it(token) => return Some(place),
            _ => {}
        }
    }
    None
}

/// What is in the parentheses that these begin with.
fn inside(tokens: &[Token]) -> Option<&[Token]> {
    let rest = tokens.get(1..)?;
    let mut depth = 0usize;
    for (place, token) in rest.iter().enumerate() {
        match token {
            Token::Sign('(') => depth += 1,
            Token::Sign(')') if depth == 0 => return rest.get(..place),
            Token::Sign(')') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn split_at_commas(tokens: &[Token]) -> Vec<&[Token]> {
    let mut parts = Vec::new();
    let mut rest = tokens;
    while let Some(place) = place_at_top(rest, |token| token.is_sign(',')) {
        parts.push(&rest[..place]);
        rest = &rest[place + 1..];
    }
    parts.push(rest);
    parts
}

fn read_item(tokens: &[Token]) -> Item {
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
    let tokens = without_wrapping(tokens);
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
        [.., last] if is_a_name(tokens) => {
            let name = last.as_name().unwrap_or_default().to_owned();
            Item::Named {
                heading: alias.unwrap_or_else(|| name.clone()),
                name,
            }
        }
        tokens => {
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
            Item::Other {
                heading: alias.or(first).unwrap_or_else(|| "?column?".to_owned()),
                calls,
            }
        }
    }
}

/// `a`, `a.b` and so on.
fn is_a_name(tokens: &[Token]) -> bool {
    let is_right = |(place, token): (usize, &Token)| match place % 2 {
        0 => token.as_name().is_some(),
        _ => token.is_sign('.'),
    };
    tokens.len() % 2 == 1 && tokens.iter().enumerate().all(is_right)
}

/// Without casts behind it, parentheses around it, and functions that give a name as it is.
fn without_wrapping(mut tokens: &[Token]) -> &[Token] {
    loop {
        if let Some(place) = tokens.iter().rposition(|token| token.is_sign(':'))
            && place > 0
            && tokens[place - 1].is_sign(':')
            && is_a_name(&tokens[place + 1..])
        {
            tokens = &tokens[..place - 1];
            continue;
        }
        let stripped = match tokens {
            [schema, dot, rest @ ..] if schema.is_word("pg_catalog") && dot.is_sign('.') => rest,
            tokens => tokens,
        };
        let called = stripped.strip_prefix_word("quote_ident").unwrap_or(tokens);
        let is_wrapped = called.first().is_some_and(|token| token.is_sign('('));
        match inside(called).filter(|inner| is_wrapped && inner.len() + 2 == called.len()) {
            Some(inner) => tokens = inner,
            None => return tokens,
        }
    }
}

/// The catalogues that rows have to be in: not those of outer joins, which only add to them.
fn joined(tokens: &[Token]) -> Vec<String> {
    let mut joined = Vec::new();
    let mut rest = tokens;
    let mut is_outer = false;
    loop {
        let next = place_at_top(rest, |token| token.is_sign(',') || token.is_word("join"));
        let part = &rest[..next.unwrap_or(rest.len())];
        let end = place_at_top(part, |token| {
            [
                "on", "using", "left", "right", "inner", "cross", "full", "as",
            ]
            .iter()
            .any(|word| token.is_word(word))
        });
        let named = &part[..end.unwrap_or(part.len())];
        let mut name = named.first();
        let mut at = 0;
        while named.get(at + 1).is_some_and(|token| token.is_sign('.')) {
            at += 2;
            name = named.get(at);
        }
        if !is_outer {
            // What is no name is none that is known.
            let name = name.and_then(Token::as_name).unwrap_or_default();
            joined.push(name.to_owned());
        }
        let Some(next) = next else {
            return joined;
        };
        is_outer = part.iter().any(|token| token.is_word("left"));
        rest = &rest[next + 1..];
    }
}

/// Columns of catalogues that are compared with texts: `=`, `IN`, `LIKE`, and the pattern of a whole name that psql sends.
fn patterns(tokens: &[Token]) -> Vec<(String, Pattern)> {
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
        let text = |token: &Token| match token {
            Token::Text(text) | Token::Number(text) => Some(text.clone()),
            _ => None,
        };
        let pattern = match rest {
            [equals, value, ..] if equals.is_sign('=') => {
                let value = match value {
                    any if any.is_word("any") => None,
                    value => text(value),
                };
                value.map(|value| Pattern::OneOf(vec![value]))
            }
            [like, value, ..] if like.is_word("like") => text(value).map(Pattern::Like),
            [within, open, ..] if within.is_word("in") && open.is_sign('(') => {
                let values = inside(&rest[1..]).map(split_at_commas).unwrap_or_default();
                let values: Option<Vec<String>> = values
                    .iter()
                    .map(|value| match value {
                        [value, ..] => text(value),
                        [] => None,
                    })
                    .collect();
                values.map(Pattern::OneOf)
            }
            _ => whole_name(rest).map(|name| Pattern::OneOf(vec![name])),
        };
        patterns.extend(pattern.map(|pattern| (name.to_owned(), pattern)));
    }
    patterns
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
