//! The words and signs of a filter in text form.

use super::FilterError;
use super::ast::{Comparison, Located};

#[derive(Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// A name or a keyword, as it was written.
    Word(&'a str),
    /// `"a name"`.
    Quoted(String),
    /// `'a text'`.
    Text(String),
    /// Digits, without a sign.
    Number(&'a str),
    Compare(Comparison),
    /// `+ - * / % ^`; the first two are signs before a number.
    Arithmetic(char),
    Open,
    Close,
    Comma,
    End,
}

pub(super) struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Tokens<'a> {
        Tokens { text, at: 0 }
    }

    /// The next token; `End` for ever at the end.
    pub(super) fn read(&mut self) -> Result<Located<Token<'a>>, FilterError> {
        let rest = self.text[self.at..].trim_start_matches([' ', '\t', '\r', '\n']);
        let offset = self.text.len() - rest.len();
        let (value, length) = match rest.chars().next() {
            None => (Token::End, 0),
            Some('(') => (Token::Open, 1),
            Some(')') => (Token::Close, 1),
            Some(',') => (Token::Comma, 1),
            Some(sign @ ('+' | '-' | '*' | '/' | '%' | '^')) => (Token::Arithmetic(sign), 1),
            Some('=' | '<' | '>') => comparison(rest),
            Some('\'') => {
                let (text, length) = delimited(rest, '\'', offset)?;
                (Token::Text(text), length)
            }
            Some('"') => {
                let (name, length) = delimited(rest, '"', offset)?;
                (Token::Quoted(name), length)
            }
            Some(letter) => {
                let second = rest[letter.len_utf8()..].chars().next();
                let is_number = letter.is_ascii_digit()
                    || (letter == '.' && second.is_some_and(|next| next.is_ascii_digit()));
                if is_number {
                    let length = number_length(rest, offset)?;
                    (Token::Number(&rest[..length]), length)
                } else if is_word_start(letter) {
                    let length = rest.find(|c| !is_word_part(c)).unwrap_or(rest.len());
                    (Token::Word(&rest[..length]), length)
                } else {
                    let detail = format!("unexpected character {letter:?}");
                    return Err(FilterError::invalid(offset, detail));
                }
            }
        };
        self.at = offset + length;
        Ok(Located { offset, value })
    }
}

fn comparison(rest: &str) -> (Token<'_>, usize) {
    let longest = Comparison::ALL
        .into_iter()
        .filter(|comparison| rest.starts_with(comparison.as_str()))
        .max_by_key(|comparison| comparison.as_str().len())
        .expect("each of = < > is a comparison by itself");
    (Token::Compare(longest), longest.as_str().len())
}

/// The content of a text or a quoted name, whose mark is doubled inside, and the bytes it took with its marks.
fn delimited(rest: &str, mark: char, offset: usize) -> Result<(String, usize), FilterError> {
    let mut content = String::new();
    let mut letters = rest.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        if letter == '\0' {
            let detail = "a filter holds no NUL character";
            return Err(FilterError::invalid(offset + at, detail));
        }
        if letter != mark {
            content.push(letter);
        } else if letters.next_if(|(_, next)| *next == mark).is_some() {
            content.push(mark);
        } else {
            return Ok((content, at + 1));
        }
    }
    Err(FilterError::invalid(
        offset,
        format!("the closing {mark} is missing"),
    ))
}

/// Bytes of `1`, `1.5`, `1.`, `.5` and these with an exponent.
fn number_length(rest: &str, offset: usize) -> Result<usize, FilterError> {
    let bytes = rest.as_bytes();
    let digits_end = |from: usize| {
        from + bytes[from..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let mut end = digits_end(0);
    if bytes.get(end) == Some(&b'.') {
        end = digits_end(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let signed = matches!(bytes.get(end + 1), Some(b'+' | b'-'));
        let exponent = end + 1 + usize::from(signed);
        let exponent_end = digits_end(exponent.min(bytes.len()));
        if exponent_end > exponent {
            end = exponent_end;
        }
    }
    if rest[end..].chars().next().is_some_and(is_word_part) {
        return Err(FilterError::invalid(offset, "malformed number"));
    }
    Ok(end)
}

fn is_word_start(letter: char) -> bool {
    matches!(letter, '_' | ':' | '.') || letter.is_alphabetic()
}

/// Combining marks continue a word, so that a name in decomposed form needs no quotes.
fn is_word_part(letter: char) -> bool {
    matches!(letter, '_' | ':' | '.' | '\u{300}'..='\u{36f}') || letter.is_alphanumeric()
}

/// Whether a name can stand without quotes; keywords are the parser's matter.
pub(super) fn is_plain_word(name: &str) -> bool {
    let mut tokens = Tokens::new(name);
    matches!(tokens.read(), Ok(Located { offset: 0, value: Token::Word(word) }) if word == name)
}
