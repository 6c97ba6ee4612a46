//! The text of a question: one SELECT over named tables, small enough that planning it is no work to speak of.
//!
//! The grammar is the parser's without the extensions of any product. What is refused here is refused before anything is
//! looked up: what may be called and read is decided by what the session holds, not by this.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, ObjectName, Query, SetExpr, Statement, TableFactor, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::error::QueryError;
use super::views::type_of;

/// A text that a question names may stand in every row of a batch: so many times this is made at once.
pub(crate) const TEXT_BYTES_MAX: usize = 32 * 1024;
/// How deep expressions and queries may be in each other.
const DEPTH_MAX: usize = 50;
/// Words and signs but values, commas and parentheses. A chain of operators is a tree as deep as it is long, and each step of
/// planning goes down all of it.
const TOKENS_MAX: usize = 3_000;
/// Operators and keywords that make such a tree deeper.
const LINKS_MAX: usize = 600;
/// Tables of a question, counted once for each place where a named query that reads them is used: each of these is planned.
const RELATIONS_MAX: u64 = 64;
/// What a view of current values counts for: it reads its table twice, and groups what it read three times.
const VIEW_RELATIONS: u64 = 4;

/// Ways in which a SELECT groups: a cube is as many as there are sets of its columns, and each is computed beside the others.
const GROUPINGS_MAX: u64 = 256;
/// Times that the parser begins to read an expression, for each word and sign. It tries several readings of some words, and each again
/// for what is inside of each: of fifty that are in each other and end in an error it would try more than anybody could wait for.
const ATTEMPTS_A_TOKEN_MAX: usize = 4;

/// SQL as the standard has it, with double quotes for names.
#[derive(Debug)]
struct Plain {
    attempts_left: AtomicUsize,
}

impl Dialect for Plain {
    fn is_delimited_identifier_start(&self, letter: char) -> bool {
        letter == '"'
    }

    fn is_identifier_start(&self, letter: char) -> bool {
        letter.is_alphabetic() || letter == '_'
    }

    fn is_identifier_part(&self, letter: char) -> bool {
        letter.is_alphanumeric() || letter == '_'
    }

    fn parse_prefix(&self, _: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
        let fewer = |left: usize| left.checked_sub(1);
        let left = &self.attempts_left;
        match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer) {
            Ok(_) => None,
            // Of this error it tries no other reading.
            Err(_) => Some(Err(ParserError::RecursionLimitExceeded)),
        }
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_group_by_expr(&self) -> bool {
        true
    }
}

/// Reads a question.
pub(crate) fn parse(text: &str) -> Result<Statement, QueryError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(QueryError::refused(format!(
            "the query is longer than {TEXT_BYTES_MAX} bytes"
        )));
    }
    let fault = |error: &dyn std::fmt::Display| QueryError::refused(error.to_string());
    let mut plain = Plain {
        attempts_left: AtomicUsize::new(0),
    };
    let tokens = Tokenizer::new(&plain, text).tokenize_with_location();
    let tokens = tokens.map_err(|error| fault(&error))?;
    bound(&tokens)?;
    *plain.attempts_left.get_mut() = ATTEMPTS_A_TOKEN_MAX * tokens.len();
    let mut parser = Parser::new(&plain)
        .with_recursion_limit(DEPTH_MAX)
        .with_tokens_with_locations(tokens);
    let mut statements = parser.parse_statements().map_err(|error| fault(&error))?;
    let (Some(statement), true) = (statements.pop(), statements.is_empty()) else {
        return Err(QueryError::refused("expected one SELECT"));
    };
    if !matches!(statement, Statement::Query(_)) {
        return Err(QueryError::refused("expected a SELECT"));
    }
    let mut check = Check::default();
    match statement.visit(&mut check) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(statement),
    }
}

/// A word of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    /// As a name would be understood.
    pub(crate) text: String,
    pub(crate) is_quoted: bool,
}

/// The words of a question that was read.
pub(crate) fn words(text: &str) -> Result<Vec<Word>, QueryError> {
    let plain = Plain {
        attempts_left: AtomicUsize::new(0),
    };
    let tokens = Tokenizer::new(&plain, text).tokenize();
    let tokens = tokens.map_err(|error| QueryError::refused(error.to_string()))?;
    let words = tokens.into_iter().filter_map(|token| match token {
        Token::Word(word) => {
            let is_quoted = word.quote_style.is_some();
            let text = match is_quoted {
                true => word.value,
                false => word.value.to_lowercase(),
            };
            Some(Word { text, is_quoted })
        }
        _ => None,
    });
    Ok(words.collect())
}

fn bound(tokens: &[TokenWithSpan]) -> Result<(), QueryError> {
    let (mut count, mut links) = (0, 0);
    for token in tokens {
        match &token.token {
            Token::Whitespace(_) | Token::Comma | Token::LParen | Token::RParen | Token::EOF => {}
            Token::Number(..) | Token::SingleQuotedString(_) | Token::Placeholder(_) => {}
            Token::Word(word) => {
                count += 1;
                let is_link = word.quote_style.is_none()
                    && LINKS
                        .iter()
                        .any(|link| word.value.eq_ignore_ascii_case(link));
                links += usize::from(is_link);
            }
            _ => {
                count += 1;
                links += 1;
            }
        }
    }
    if count > TOKENS_MAX || links > LINKS_MAX {
        return Err(QueryError::refused("the query has too many parts"));
    }
    Ok(())
}

/// Words that take what is before them as a part of something larger. A sign before a number and a dot in a name count too:
/// they are few in any question that people write.
const LINKS: [&str; 16] = [
    "AND",
    "OR",
    "XOR",
    "IS",
    "LIKE",
    "ILIKE",
    "SIMILAR",
    "BETWEEN",
    "IN",
    "UNION",
    "INTERSECT",
    "EXCEPT",
    "JOIN",
    "COLLATE",
    "AT",
    "DIV",
];

/// What is visited of a statement.
#[derive(Default)]
struct Check {
    /// Named queries by where their queries are, until these have been seen.
    named: HashMap<*const Query, String>,
    scopes: Vec<Scope>,
}

/// A query that is being visited.
#[derive(Default)]
struct Scope {
    /// The names that it has given, each with the tables behind it.
    names: HashMap<String, u64>,
    relations: u64,
}

impl Visitor for Check {
    type Break = QueryError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<QueryError> {
        let is_plain = query.locks.is_empty()
            && query.for_clause.is_none()
            && query.settings.is_none()
            && query.format_clause.is_none()
            && query.pipe_operators.is_empty();
        if !is_plain {
            return refuse("expected a plain SELECT");
        }
        if let Some(with) = &query.with {
            if with.recursive {
                return refuse("WITH RECURSIVE is not served");
            }
            for named in &with.cte_tables {
                let name = named.alias.name.value.to_lowercase();
                self.named.insert(std::ptr::from_ref(&*named.query), name);
            }
        }
        check_body(&query.body)?;
        self.scopes.push(Scope::default());
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<QueryError> {
        let Some(scope) = self.scopes.pop() else {
            return ControlFlow::Continue(());
        };
        let relations = scope.relations.max(1);
        if relations > RELATIONS_MAX {
            return refuse("the query reads too many tables");
        }
        let name = self.named.remove(&std::ptr::from_ref(query));
        if let Some(around) = self.scopes.last_mut() {
            match name {
                Some(name) => {
                    around.names.insert(name, relations);
                }
                None => around.relations += relations,
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<QueryError> {
        if type_of(relation).is_some() {
            if let Some(scope) = self.scopes.last_mut() {
                scope.relations += VIEW_RELATIONS;
            }
            return ControlFlow::Continue(());
        }
        let [part] = relation.0.as_slice() else {
            return refuse(format!("no table {relation}"));
        };
        let Some(part) = part.as_ident() else {
            return refuse(format!("no table {relation}"));
        };
        let name = part.value.to_lowercase();
        let scopes = self.scopes.iter().rev();
        let behind = scopes.filter_map(|scope| scope.names.get(&name)).next();
        let behind = behind.copied().unwrap_or(1);
        if let Some(scope) = self.scopes.last_mut() {
            scope.relations += behind;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<QueryError> {
        match factor {
            TableFactor::Table {
                args: None,
                with_hints,
                version: None,
                with_ordinality: false,
                partitions,
                json_path: None,
                sample: None,
                index_hints,
                ..
            } if with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty() => {
                ControlFlow::Continue(())
            }
            TableFactor::Derived { .. } | TableFactor::NestedJoin { .. } => {
                ControlFlow::Continue(())
            }
            _ => refuse("FROM takes tables and queries alone"),
        }
    }
}

/// Only what reads, all the way down the branches of a union.
fn check_body(body: &SetExpr) -> ControlFlow<QueryError> {
    let mut bodies = vec![body];
    while let Some(body) = bodies.pop() {
        match body {
            SetExpr::Select(select) => {
                let is_plain = select.into.is_none()
                    && select.lateral_views.is_empty()
                    && select.connect_by.is_empty();
                if !is_plain {
                    return refuse("expected a plain SELECT");
                }
                if let GroupByExpr::Expressions(of, _) = &select.group_by {
                    let product = of.iter().map(groupings).fold(1, u64::saturating_mul);
                    if product > GROUPINGS_MAX {
                        return refuse("the query groups in too many ways");
                    }
                }
            }
            SetExpr::SetOperation { left, right, .. } => bodies.extend([&**left, &**right]),
            // Visited by themselves.
            SetExpr::Query(_) | SetExpr::Values(_) => {}
            _ => return refuse("expected a SELECT"),
        }
    }
    ControlFlow::Continue(())
}

/// How many groupings this is. Those that stand beside each other multiply.
fn groupings(expr: &Expr) -> u64 {
    match expr {
        Expr::Cube(of) => u32::try_from(of.len())
            .ok()
            .and_then(|count| 1u64.checked_shl(count))
            .unwrap_or(u64::MAX),
        Expr::Rollup(of) => u64::try_from(of.len()).map_or(u64::MAX, |count| count + 1),
        Expr::GroupingSets(sets) => {
            let sets = sets.iter();
            let each = sets.map(|set| set.iter().map(groupings).fold(1, u64::saturating_mul));
            each.fold(0, u64::saturating_add)
        }
        _ => 1,
    }
}

fn refuse(detail: impl Into<String>) -> ControlFlow<QueryError> {
    ControlFlow::Break(QueryError::refused(detail))
}
