//! What a statement is: a question for the lake, one about the session or its catalogue, or one that only clients of PostgreSQL
//! need. Pure.
//!
//! Only what is known here is answered here, and nothing of it holds a tenant's data. All else is a question, and goes to the lake's
//! reader as it is: that decides what it is, not this.

use sheaf_model::AttributeType;

use super::lexer::{Lexeme, Token, lex_whole};

/// The schema that clients are told tables are in. A question does not name it.
pub(super) const SCHEMA: &str = "public";

/// Values of the session that one statement may ask for.
const CONSTANTS_MAX: usize = 64;

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// There is none.
    Empty,
    Begin,
    Commit,
    Rollback,
    /// A name for a place in a transaction. As nothing is written there is nothing to go back to.
    Savepoint,
    Release,
    RollbackTo,
    /// A setting; without a value it goes back.
    Set {
        name: String,
        value: Option<String>,
        is_local: bool,
    },
    /// One setting goes back, or all.
    Reset(Option<String>),
    /// What one setting is, or all.
    Show(Option<String>),
    /// Everything of the session goes back.
    Discard,
    /// One prepared statement is forgotten, or all.
    Deallocate(Option<String>),
    /// Nothing, which is answered with this tag.
    Nothing(&'static str),
    /// Values that are the session's own.
    Constants(Vec<Constant>),
    /// About tables and columns.
    Catalogue(String),
    /// For the lake.
    Ask(String),
}

/// A value of the session's own, and the name of its column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Constant {
    pub(super) name: String,
    pub(super) what: What,
    /// It is read as a whole number, and divided by this.
    pub(super) divided_by: Option<i64>,
}

/// Which value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Version,
    Schema,
    Database,
    User,
    Process,
    InRecovery,
    /// What a setting is; none where there is no such setting and that was asked for.
    Setting {
        name: String,
        may_be_missing: bool,
    },
    /// A setting, which is set.
    Set {
        name: String,
        value: String,
        is_local: bool,
    },
    /// None at all.
    Nothing,
    Int(i64),
    Text(String),
}

impl Constant {
    /// What its values are.
    pub(super) fn kind(&self) -> AttributeType {
        match &self.what {
            _ if self.divided_by.is_some() => AttributeType::Int,
            What::Process | What::Int(_) => AttributeType::Int,
            What::InRecovery => AttributeType::Bool,
            What::Version
            | What::Schema
            | What::Database
            | What::User
            | What::Setting { .. }
            | What::Set { .. }
            | What::Nothing
            | What::Text(_) => AttributeType::Text,
        }
    }
}

/// Reads one statement.
pub(super) fn read(text: &str) -> Command {
    let (lexemes, is_whole) = lex_whole(text);
    if !is_whole {
        return Command::Ask(text.to_owned());
    }
    let tokens: Vec<&Token> = lexemes.iter().map(|lexeme| &lexeme.token).collect();
    let Some(first) = tokens.first() else {
        return Command::Empty;
    };
    let known = match first {
        Token::Word(word) => of_word(word, &tokens[1..]),
        _ => None,
    };
    if let Some(known) = known {
        return known;
    }
    if is_about_catalogue(&tokens) {
        return Command::Catalogue(text.to_owned());
    }
    Command::Ask(unqualified(text, &lexemes))
}

fn of_word(word: &str, rest: &[&Token]) -> Option<Command> {
    let second = rest.first();
    let is_second = |word: &str| second.is_some_and(|token| token.is_word(word));
    let named = |rest: &[&Token]| match rest {
        [token] if token.is_word("all") => Some(None),
        rest => dotted(rest).map(Some),
    };
    match word {
        "begin" => Some(Command::Begin),
        "start" if is_second("transaction") => Some(Command::Begin),
        "commit" | "end" => Some(Command::Commit),
        "rollback" if rest.iter().any(|token| token.is_word("to")) => Some(Command::RollbackTo),
        "rollback" | "abort" => Some(Command::Rollback),
        "savepoint" => Some(Command::Savepoint),
        "release" => Some(Command::Release),
        "set" => set(rest),
        "reset" => named(rest).map(Command::Reset),
        "show" => match rest {
            [time, zone] if time.is_word("time") && zone.is_word("zone") => {
                Some(Command::Show(Some("timezone".to_owned())))
            }
            [transaction, ..] if transaction.is_word("transaction") => {
                Some(Command::Show(Some("transaction_isolation".to_owned())))
            }
            rest => named(rest).map(Command::Show),
        },
        "discard" => Some(match second {
            Some(what) if what.is_word("all") => Command::Discard,
            _ => Command::Nothing("DISCARD"),
        }),
        "deallocate" => {
            let rest = match is_second("prepare") {
                true => &rest[1..],
                false => rest,
            };
            named(rest).map(Command::Deallocate)
        }
        "close" if is_second("all") => Some(Command::Nothing("CLOSE CURSOR ALL")),
        "unlisten" => Some(Command::Nothing("UNLISTEN")),
        "select" => constants(rest).map(Command::Constants),
        _ => None,
    }
}

/// A name of several parts, `a.b`.
fn dotted(tokens: &[&Token]) -> Option<String> {
    let mut name = String::new();
    for (place, token) in tokens.iter().enumerate() {
        match (place % 2, token) {
            (0, token) => name.push_str(token.as_name()?),
            (_, token) if token.is_sign('.') => name.push('.'),
            _ => return None,
        }
    }
    (tokens.len() % 2 == 1).then_some(name)
}

fn set(rest: &[&Token]) -> Option<Command> {
    let is_local = rest.first().is_some_and(|token| token.is_word("local"));
    let is_session = rest.first().is_some_and(|token| token.is_word("session"));
    let rest = match is_local || is_session {
        true => &rest[1..],
        false => rest,
    };
    let is_word = |place: usize, word: &str| rest.get(place).is_some_and(|t| t.is_word(word));
    if is_word(0, "transaction") || (is_session && is_word(0, "characteristics")) {
        return Some(Command::Nothing("SET"));
    }
    let (name, value) = if is_word(0, "time") && is_word(1, "zone") {
        ("timezone".to_owned(), &rest[2..])
    } else if is_word(0, "names") {
        ("client_encoding".to_owned(), &rest[1..])
    } else {
        let is_equals = |token: &&Token| token.is_word("to") || token.is_sign('=');
        let at = rest.iter().position(is_equals)?;
        (dotted(&rest[..at])?, &rest[at + 1..])
    };
    let value = match value {
        [only] if only.is_word("default") => None,
        value => Some(value_of(value)?),
    };
    Some(Command::Set {
        name,
        value,
        is_local,
    })
}

/// One value, or several with commas between them.
fn value_of(tokens: &[&Token]) -> Option<String> {
    if tokens.is_empty() {
        return None;
    }
    let mut value = String::new();
    for token in tokens {
        match token {
            Token::Word(text) | Token::Name(text) | Token::Text(text) | Token::Number(text) => {
                value.push_str(text);
            }
            Token::Sign(',') => value.push_str(", "),
            Token::Sign(sign @ ('-' | '+')) => value.push(*sign),
            Token::Param(_) | Token::Sign(_) => return None,
        }
    }
    Some(value)
}

/// A list of values of the session's own, and nothing else.
fn constants(tokens: &[&Token]) -> Option<Vec<Constant>> {
    let mut constants = Vec::new();
    let mut rest = tokens;
    while constants.len() < CONSTANTS_MAX {
        let (what, name, after) = what(rest)?;
        let (divided_by, after) = division(after);
        let (name, after) = match after {
            [a, alias, after @ ..] if a.is_word("as") => (alias.as_name()?.to_owned(), after),
            [alias @ (Token::Word(_) | Token::Name(_)), after @ ..] if !alias.is_word("from") => {
                (alias.as_name()?.to_owned(), after)
            }
            after => (name, after),
        };
        constants.push(Constant {
            name,
            what,
            divided_by,
        });
        match after {
            [] => return Some(constants),
            [comma, after @ ..] if comma.is_sign(',') => rest = after,
            _ => return None,
        }
    }
    None
}

fn what<'a, 'b>(tokens: &'b [&'a Token]) -> Option<(What, String, &'b [&'a Token])> {
    let tokens = match tokens {
        [schema, dot, rest @ ..] if schema.is_word("pg_catalog") && dot.is_sign('.') => rest,
        tokens => tokens,
    };
    let (first, rest) = tokens.split_first()?;
    let word = match first {
        Token::Word(word) => word.as_str(),
        Token::Number(digits) => {
            let number = digits.parse().ok()?;
            return Some((What::Int(number), "?column?".to_owned(), rest));
        }
        Token::Text(text) => {
            return Some((What::Text(text.clone()), "?column?".to_owned(), rest));
        }
        Token::Name(_) | Token::Param(_) | Token::Sign(_) => return None,
    };
    let (arguments, rest) = match rest {
        [open, rest @ ..] if open.is_sign('(') => {
            let end = rest.iter().position(|token| token.is_sign(')'))?;
            (Some(&rest[..end]), &rest[end + 1..])
        }
        rest => (None, rest),
    };
    let text = |place: usize| match arguments?.get(place)? {
        Token::Text(text) => Some(text.clone()),
        _ => None,
    };
    let is_true = |place: usize| {
        let argument = arguments.and_then(|arguments| arguments.get(place));
        argument.is_some_and(|token| token.is_word("true"))
    };
    let what = match (word, arguments) {
        ("version", Some([])) => What::Version,
        ("current_schema", None | Some([])) => What::Schema,
        ("current_database", Some([])) | ("current_catalog", None) => What::Database,
        ("current_user" | "session_user" | "user" | "current_role", None) => What::User,
        ("pg_backend_pid", Some([])) => What::Process,
        ("pg_is_in_recovery", Some([])) => What::InRecovery,
        ("pg_advisory_unlock_all", Some([])) => What::Nothing,
        ("current_setting", Some([_] | [_, _, _])) => What::Setting {
            name: text(0)?,
            may_be_missing: is_true(2),
        },
        ("set_config", Some([_, _, _, _, _])) => What::Set {
            name: text(0)?,
            value: text(2)?,
            is_local: is_true(4),
        },
        _ => return None,
    };
    Some((what, word.to_owned(), rest))
}

/// `::int`, and `/ 100` behind it.
fn division<'a, 'b>(tokens: &'b [&'a Token]) -> (Option<i64>, &'b [&'a Token]) {
    let is_int = |kind: &Token| {
        ["int", "int4", "int8", "integer", "bigint"]
            .iter()
            .any(|int| kind.is_word(int))
    };
    match tokens {
        [one, two, kind, rest @ ..] if one.is_sign(':') && two.is_sign(':') && is_int(kind) => {
            if let [slash, Token::Number(digits), rest @ ..] = rest
                && slash.is_sign('/')
                && let Ok(by @ 1..) = digits.parse()
            {
                return (Some(by), rest);
            }
            (Some(1), rest)
        }
        tokens => (None, tokens),
    }
}

/// Whether it names what PostgreSQL keeps about itself.
fn is_about_catalogue(tokens: &[&Token]) -> bool {
    tokens.iter().any(|token| {
        let name = match token {
            Token::Word(name) | Token::Name(name) => name,
            _ => return false,
        };
        name == "information_schema" || name.starts_with("pg_")
    })
}

/// The text with the names of tables as the lake has them: without the schema that clients were told.
fn unqualified(text: &str, lexemes: &[Lexeme]) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut from = 0;
    for (place, three) in lexemes.windows(3).enumerate() {
        let [schema, dot, name] = three else { continue };
        let is_after_dot = place > 0 && lexemes[place - 1].token.is_sign('.');
        if schema.token.as_name() == Some(SCHEMA)
            && dot.token.is_sign('.')
            && name.token.as_name().is_some()
            && !is_after_dot
        {
            plain.push_str(&text[from..schema.span.start]);
            from = name.span.start;
        }
    }
    plain.push_str(&text[from..]);
    plain
}

#[cfg(test)]
mod tests;
