//! The words of a text, so that statements can be told apart and those of the protocol's daily business be known. What a question
//! means, the lake's reader decides: nothing depends on its reading a text in the same way. Pure.

use std::ops::Range;

/// A word, name, value or sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A keyword or a plain name, in lower case.
    Word(String),
    /// A name in double quotes, without these.
    Name(String),
    /// A text in single quotes or dollars, without these.
    Text(String),
    /// A number.
    Number(String),
    /// The place of a parameter, `$1`.
    Param(usize),
    /// Anything else.
    Sign(char),
}

/// A token and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lexeme {
    pub(super) token: Token,
    pub(super) span: Range<usize>,
}

impl Token {
    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self, Token::Word(own) if own == word)
    }

    pub(super) fn is_sign(&self, sign: char) -> bool {
        matches!(self, Token::Sign(own) if *own == sign)
    }

    /// What it names, as a plain or a quoted name.
    pub(super) fn as_name(&self) -> Option<&str> {
        match self {
            Token::Word(name) | Token::Name(name) => Some(name),
            _ => None,
        }
    }
}

/// The tokens of a text. What does not end, ends with it.
pub(super) fn lex(text: &str) -> Vec<Lexeme> {
    lex_whole(text).0
}

/// The same, and whether everything in it ends: a text, a name, a comment.
pub(super) fn lex_whole(text: &str) -> (Vec<Lexeme>, bool) {
    let mut lexemes = Vec::new();
    let mut is_whole = true;
    let mut at = 0;
    while let Some(letter) = text[at..].chars().next() {
        let rest = &text[at..];
        // Without a length it goes to the end of the text, which is not its own.
        let (length, token) = match letter {
            letter if letter.is_whitespace() => (Some(letter.len_utf8()), None),
            '-' if rest.starts_with("--") => (Some(rest.find('\n').unwrap_or(rest.len())), None),
            // As the lake's reader has it: there are none in each other.
            '/' if rest.starts_with("/*") => (rest[2..].find("*/").map(|end| end + 4), None),
            '\'' => quoted(rest, '\'', Backslash::Plain, Token::Text),
            '"' => quoted(rest, '"', Backslash::Plain, Token::Name),
            'e' | 'E' if rest[1..].starts_with('\'') => {
                let (length, token) = quoted(&rest[1..], '\'', Backslash::Escapes, Token::Text);
                (length.map(|length| 1 + length), token)
            }
            '$' => dollar(rest),
            letter if letter.is_alphabetic() || letter == '_' => {
                let end = rest.find(|letter: char| {
                    !letter.is_alphanumeric() && letter != '_' && letter != '$'
                });
                let word = &rest[..end.unwrap_or(rest.len())];
                (Some(word.len()), Some(Token::Word(word.to_lowercase())))
            }
            letter if letter.is_ascii_digit() => {
                let end =
                    rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.');
                let number = &rest[..end.unwrap_or(rest.len())];
                (Some(number.len()), Some(Token::Number(number.to_owned())))
            }
            sign => (Some(sign.len_utf8()), Some(Token::Sign(sign))),
        };
        is_whole &= length.is_some();
        let length = length.unwrap_or(rest.len());
        if let Some(token) = token {
            let span = at..at + length;
            lexemes.push(Lexeme { token, span });
        }
        at += length;
    }
    (lexemes, is_whole)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Backslash {
    Plain,
    Escapes,
}

fn quoted(
    text: &str,
    quote: char,
    backslash: Backslash,
    token: impl Fn(String) -> Token,
) -> (Option<usize>, Option<Token>) {
    let mut inner = String::new();
    let mut letters = text.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        if letter == '\\' && backslash == Backslash::Escapes {
            if let Some((_, escaped)) = letters.next() {
                inner.push(escaped);
            }
        } else if letter != quote {
            inner.push(letter);
        } else if letters.next_if(|(_, next)| *next == quote).is_some() {
            inner.push(quote);
        } else {
            return (Some(at + 1), Some(token(inner)));
        }
    }
    (None, Some(token(inner)))
}

/// `$1`, or a text between two tags `$tag$`.
fn dollar(text: &str) -> (Option<usize>, Option<Token>) {
    let digits = text[1..].bytes().take_while(u8::is_ascii_digit).count();
    if digits > 0 {
        let number = text[1..=digits].parse().unwrap_or(usize::MAX);
        return (Some(1 + digits), Some(Token::Param(number)));
    }
    let tag = text[1..].find('$').map(|end| &text[..end + 2]);
    let is_tag = |tag: &&str| tag.chars().all(|l| l.is_alphanumeric() || "_$".contains(l));
    let Some(tag) = tag.filter(is_tag) else {
        return (Some(1), Some(Token::Sign('$')));
    };
    let inner = &text[tag.len()..];
    let (inner, length) = match inner.find(tag) {
        Some(end) => (&inner[..end], Some(end + 2 * tag.len())),
        None => (inner, None),
    };
    (length, Some(Token::Text(inner.to_owned())))
}

/// The statements of a text: what stands between its semicolons, where that is anything. Where something in it does not end it is
/// one, which nobody can read.
pub(super) fn statements(text: &str) -> Vec<&str> {
    let (lexemes, is_whole) = lex_whole(text);
    if !is_whole {
        return vec![text];
    }
    let mut statements = Vec::new();
    let mut begin = None;
    let mut end = 0;
    for Lexeme { token, span } in lexemes {
        if token.is_sign(';') {
            statements.extend(begin.take().map(|begin: usize| &text[begin..end]));
            continue;
        }
        begin.get_or_insert(span.start);
        end = span.end;
    }
    statements.extend(begin.map(|begin| &text[begin..end]));
    statements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_semicolons_that_stand_in_nothing() {
        for (text, wanted) in [
            ("", &[][..]),
            (" ; ;; -- x", &[]),
            ("select 1", &["select 1"]),
            ("select 1;", &["select 1"]),
            (
                "select ';'';'; select \";\"",
                &["select ';'';'", "select \";\""],
            ),
            (
                "a /* ; /* ; */ b; c -- ;\n d",
                &["a /* ; /* ; */ b", "c -- ;\n d"],
            ),
            (
                "select $x$ ; $y$ ; $x$; select $$;$$, $1",
                &["select $x$ ; $y$ ; $x$", "select $$;$$, $1"],
            ),
            (
                r"select e'\';', 'a\'; select 2",
                &[r"select e'\';', 'a\'", "select 2"],
            ),
            ("select 'never ends; x", &["select 'never ends; x"]),
            ("é; /* never ends ; x", &["é; /* never ends ; x"]),
        ] {
            assert_eq!(statements(text), wanted, "{text}");
        }
    }

    #[test]
    fn words_are_in_lower_case_and_names_and_texts_are_without_their_quotes() {
        let tokens = lex("Select \"A\"\"b\".x1, 'it''s' , 12.5 $3 $").into_iter();
        let tokens: Vec<_> = tokens.map(|lexeme| lexeme.token).collect();
        let word = |word: &str| Token::Word(word.to_owned());
        assert_eq!(
            tokens,
            [
                word("select"),
                Token::Name("A\"b".to_owned()),
                Token::Sign('.'),
                word("x1"),
                Token::Sign(','),
                Token::Text("it's".to_owned()),
                Token::Sign(','),
                Token::Number("12.5".to_owned()),
                Token::Param(3),
                Token::Sign('$'),
            ]
        );
    }

    #[test]
    fn no_text_is_read_beyond_its_end() {
        let letters = [
            "'", "\"", "$", "$a", "/*", "*/", "--", "\\", "e'", "é", "1", "\n", ";",
        ];
        for first in letters {
            for second in letters {
                for third in letters {
                    let text = [first, second, third].concat();
                    let spans: Vec<_> = lex(&text).into_iter().map(|l| l.span).collect();
                    let mut end = 0;
                    for span in spans {
                        assert!(span.start >= end && span.end > span.start, "{text:?}");
                        assert!(text.get(span.clone()).is_some(), "{text:?}");
                        end = span.end;
                    }
                    let _ = statements(&text);
                }
            }
        }
    }
}
