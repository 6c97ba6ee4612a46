//! Names as they stand in a question: with quotes where they need them. Pure.

use super::super::lexer::{Token, lex};

/// Words that are no names without quotes.
#[rustfmt::skip]
const RESERVED: &[&str] = &[
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "authorization", "binary", "both", "case", "cast",
    "check", "collate", "collation", "column", "concurrently", "constraint", "create", "cross", "current_catalog", "current_date",
    "current_role", "current_schema", "current_time", "current_timestamp", "current_user", "default", "deferrable", "desc", "distinct",
    "do", "else", "end", "except", "false", "fetch", "for", "foreign", "freeze", "from", "full", "grant", "group", "having", "ilike",
    "in", "initially", "inner", "intersect", "into", "is", "isnull", "join", "lateral", "leading", "left", "like", "limit", "localtime",
    "localtimestamp", "natural", "not", "notnull", "null", "offset", "on", "only", "or", "order", "outer", "overlaps", "placing",
    "primary", "references", "returning", "right", "select", "session_user", "similar", "some", "symmetric", "table", "tablesample",
    "then", "to", "trailing", "true", "union", "unique", "user", "using", "variadic", "verbose", "when", "where", "window", "with",
];

/// As `quote_ident` gives it: what clients put into a question as it is.
pub(super) fn quoted(name: &str) -> String {
    let mut letters = name.chars();
    let begins = letters
        .next()
        .is_some_and(|l| l.is_ascii_lowercase() || l == '_');
    let is_plain = letters.all(|l| l.is_ascii_lowercase() || l.is_ascii_digit() || l == '_');
    match begins && is_plain && !RESERVED.contains(&name) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

/// The two parts of a name with a schema, as `parse_ident` gives them; absent for any other.
pub(super) fn parts(text: &str) -> Option<[String; 2]> {
    let lexemes = lex(text);
    match lexemes.as_slice() {
        [schema, dot, name] if dot.token.is_sign('.') => {
            let of = |token: &Token| token.as_name().map(str::to_owned);
            Some([of(&schema.token)?, of(&name.token)?])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_quotes_where_it_needs_them_and_loses_them_again() {
        for (name, wanted) in [
            ("facts", "facts"),
            ("_a1", "_a1"),
            ("Jet engine", "\"Jet engine\""),
            ("1st", "\"1st\""),
            ("order", "\"order\""),
            ("a\"b", "\"a\"\"b\""),
            ("", "\"\""),
        ] {
            assert_eq!(quoted(name), wanted);
        }
        let both = |schema: &str, name: &str| Some([schema.to_owned(), name.to_owned()]);
        assert_eq!(parts("current.plane"), both("current", "plane"));
        assert_eq!(parts("current.\"Jet \"\"x\""), both("current", "Jet \"x"));
        for text in ["facts", "a.b.c", "a.", ".", ""] {
            assert_eq!(parts(text), None, "{text}");
        }
    }
}
