//! What a question about catalogues asks for: its columns, what it reads, and which names it means. Pure.

use super::super::lexer::Token;
use super::item::{Item, read_item};
use super::pattern::{Pattern, patterns};
use super::subject::is_of_nothing;

/// Selections in each other: each is read again for the one around it.
const DEPTH_MAX: usize = 8;

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

/// Something that rows come from.
struct Relation<'a> {
    source: Source<'a>,
    alias: Option<&'a str>,
    /// It only adds to rows that are there.
    is_outer: bool,
}

enum Source<'a> {
    /// A catalogue.
    Named(&'a str),
    /// A selection in parentheses, or one that was named before.
    Selected(&'a [Token]),
}

/// Selections that were named before: `WITH name AS (..)`.
type Before<'a> = [(&'a str, &'a [Token])];

/// Reads a selection; absent where it is none that is known here.
pub(super) fn read_selection(tokens: &[Token]) -> Option<Selection> {
    let mut before = Vec::new();
    let mut rest = tokens;
    while let [with, name, a, after @ ..] = rest
        && (with.is_word("with") || (with.is_sign(',') && !before.is_empty()))
    {
        let inner = inside(after).filter(|_| a.is_word("as"))?;
        before.push((name.as_name()?, inner));
        rest = &after[inner.len() + 2..];
    }
    read(rest, &before, DEPTH_MAX)
}

/// Whether it is one of rows that there are none of. Its own conditions are not read, nor what is selected in it.
pub(super) fn is_selection_of_nothing(tokens: &[Token]) -> bool {
    let Some(place) = place_at_top(tokens, |token| token.is_word("from")) else {
        return false;
    };
    let relations = relations(&tokens[place + 1..], &[]).unwrap_or_default();
    relations.iter().any(|relation| {
        !relation.is_outer && matches!(relation.source, Source::Named(name) if is_of_nothing(name))
    })
}

fn read<'a>(tokens: &'a [Token], before: &Before<'a>, depth: usize) -> Option<Selection> {
    let depth = depth.checked_sub(1)?;
    if let Some(inner) = inside(tokens) {
        return read(inner, before, depth);
    }
    let rest = tokens.strip_prefix_word("select")?;
    let rest = rest.strip_prefix_word("all").unwrap_or(rest);
    let distinct = rest.strip_prefix_word("distinct");
    let rest = distinct.unwrap_or(rest);
    let at_from = place_at_top(rest, |token| token.is_word("from"))?;
    let (items, from) = (&rest[..at_from], &rest[at_from + 1..]);
    let is_end = |token: &Token| {
        [
            "where", "group", "order", "limit", "union", "offset", "having",
        ]
        .iter()
        .any(|word| token.is_word(word))
    };
    let end = place_at_top(from, is_end).unwrap_or(from.len());
    let (from, conditions) = from.split_at(end);
    let relations = relations(from, before)?;
    let ending = place_at_top(conditions, |token| token.is_word("union"));
    let conditions = &conditions[..ending.unwrap_or(conditions.len())];
    if place_at_top(conditions, |token| token.is_word("group")).is_some() {
        return None;
    }
    let order = place_at_top(conditions, |token| {
        ["order", "limit", "offset"]
            .iter()
            .any(|word| token.is_word(word))
    });
    let (conditions, order) = conditions.split_at(order.unwrap_or(conditions.len()));
    let limit = order.windows(2).rev().find_map(|two| match two {
        [word, Token::Number(digits)] if word.is_word("limit") => digits.parse().ok(),
        _ => None,
    });
    let items = split_at_commas(items).into_iter().map(read_item);
    let mut selection = Selection {
        items: items.collect(),
        is_distinct: distinct.is_some(),
        joined: Vec::new(),
        // Conditions of joins are about what is joined.
        patterns: patterns(conditions),
        limit,
    };
    selection.read_from(&relations, before, depth)?;
    Some(selection)
}

impl Selection {
    /// Takes in where its rows come from.
    fn read_from<'a>(
        &mut self,
        relations: &[Relation<'a>],
        before: &Before<'a>,
        depth: usize,
    ) -> Option<()> {
        let mut is_first = true;
        for relation in relations.iter().filter(|relation| !relation.is_outer) {
            match relation.source {
                Source::Named(name) => self.joined.push(name.to_owned()),
                Source::Selected(inner) => {
                    let inner = read(inner, before, depth)?;
                    match is_first {
                        true => self.rename(inner)?,
                        // It only takes rows away.
                        false => self.joined.extend(inner.joined),
                    }
                }
            }
            is_first = false;
        }
        let joined = &self.joined;
        let outer = relations.iter().filter(|relation| relation.is_outer);
        let absent = outer.filter_map(|relation| match relation.source {
            // The schema of a table is outer with some clients, and always there.
            Source::Named(name)
                if !is_of_nothing(name) && joined.iter().all(|other| other != name) =>
            {
                None
            }
            Source::Named(_) | Source::Selected(_) => relation.alias,
        });
        let absent: Vec<&str> = absent.collect();
        for item in &mut self.items {
            if let Item::Named {
                of: Some(of),
                heading,
                ..
            } = item
                && absent.contains(&of.as_str())
            {
                *item = Item::Null {
                    heading: std::mem::take(heading),
                };
            }
        }
        Some(())
    }

    /// Of what is selected from a selection, what that is of.
    fn rename(&mut self, inner: Selection) -> Option<()> {
        let found = |name: &str| {
            let mut items = inner.items.iter();
            items.find(|item| item.heading().eq_ignore_ascii_case(name))
        };
        let has_all = inner.items.contains(&Item::All);
        let mut items = Vec::new();
        for item in std::mem::take(&mut self.items) {
            match &item {
                Item::All => items.extend(inner.items.iter().cloned()),
                _ if item.is_all_of_one() => items.extend(inner.items.iter().cloned()),
                Item::Named { name, heading, .. } => match found(name) {
                    Some(of) => items.push(of.clone().headed(heading)),
                    None if has_all => items.push(item),
                    None => return None,
                },
                _ => items.push(item),
            }
        }
        for (name, _) in &mut self.patterns {
            if let Some(Item::Named { name: of, .. }) = found(name) {
                of.clone_into(name);
            }
        }
        self.items = items;
        self.is_distinct |= inner.is_distinct;
        self.limit = match (self.limit, inner.limit) {
            (Some(own), Some(of)) => Some(own.min(of)),
            (own, of) => own.or(of),
        };
        self.patterns.extend(inner.patterns);
        self.joined.extend(inner.joined);
        Some(())
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
pub(super) fn inside(tokens: &[Token]) -> Option<&[Token]> {
    let (open, rest) = tokens.split_first()?;
    let mut depth = 0usize;
    for (place, token) in rest.iter().enumerate().filter(|_| open.is_sign('(')) {
        match token {
            Token::Sign('(') => depth += 1,
            Token::Sign(')') if depth == 0 => return rest.get(..place),
            Token::Sign(')') => depth -= 1,
            _ => {}
        }
    }
    None
}

pub(super) fn split_at_commas(tokens: &[Token]) -> Vec<&[Token]> {
    let mut parts = Vec::new();
    let mut rest = tokens;
    while let Some(place) = place_at_top(rest, |token| token.is_sign(',')) {
        parts.push(&rest[..place]);
        rest = &rest[place + 1..];
    }
    parts.push(rest);
    parts
}

/// What stands behind FROM. Absent where a part of it is nothing that is known here.
fn relations<'a>(tokens: &'a [Token], before: &Before<'a>) -> Option<Vec<Relation<'a>>> {
    let mut relations = Vec::new();
    let mut rest = tokens;
    let mut is_outer = false;
    loop {
        let next = place_at_top(rest, |token| token.is_sign(',') || token.is_word("join"));
        let part = &rest[..next.unwrap_or(rest.len())];
        let relation = relation(part, before)?;
        relations.push(Relation {
            is_outer,
            ..relation
        });
        let Some(next) = next else {
            return Some(relations);
        };
        is_outer = match part {
            [.., last] if last.is_word("left") => true,
            [.., left, outer] => left.is_word("left") && outer.is_word("outer"),
            _ => false,
        };
        rest = &rest[next + 1..];
    }
}

fn relation<'a>(part: &'a [Token], before: &Before<'a>) -> Option<Relation<'a>> {
    let (source, rest) = match inside(part) {
        Some(inner) => (Source::Selected(inner), &part[inner.len() + 2..]),
        None => {
            let mut at = 0;
            while part.get(at + 1).is_some_and(|token| token.is_sign('.')) {
                at += 2;
            }
            let name = part.get(at)?.as_name()?;
            let rest = &part[at + 1..];
            // Of a function.
            let rest = inside(rest).map_or(rest, |inner| &rest[inner.len() + 2..]);
            let known = before.iter().find(|(known, _)| at == 0 && *known == name);
            match known {
                Some((_, inner)) => (Source::Selected(inner), rest),
                None => (Source::Named(name), rest),
            }
        }
    };
    let rest = rest.strip_prefix_word("as").unwrap_or(rest);
    let alias = rest.first().and_then(Token::as_name);
    Some(Relation {
        alias: alias.filter(|alias| {
            ![
                "on", "using", "left", "right", "inner", "cross", "full", "natural",
            ]
            .contains(alias)
        }),
        source,
        is_outer: false,
    })
}
