//! The text form of CQL2: `seats >= 100 AND manufacturer IN ('BOEING','AIRBUS')`.
//!
//! NOT binds closer than AND, AND closer than OR. Keywords in any case; a name that is a keyword or holds other
//! characters is written in double quotes.

use super::ast::{ArrayRelation, Condition, Expr, Located, Node, Scalar};
use super::budget::Budget;
use super::operand::{self, Operand, OperandValue, TemporalFunction};
use super::token::{Token, Tokens};
use super::{FilterError, TEXT_BYTES_MAX, quoted};

/// Reads a filter in text form.
pub fn parse_text(text: &str) -> Result<Expr, FilterError> {
    Budget::length(text.len(), TEXT_BYTES_MAX)?;
    let mut tokens = Tokens::new(text);
    let next = tokens.read()?;
    let mut parser = Parser {
        tokens,
        next,
        budget: Budget::default(),
    };
    let expr = parser.alternatives()?;
    match parser.next.value {
        Token::End => Ok(expr),
        _ => Err(unexpected(&parser.next, "AND, OR or the end")),
    }
}

/// Words that cannot name a property without quotes.
const KEYWORDS: [&str; 11] = [
    "AND", "OR", "NOT", "BETWEEN", "IN", "LIKE", "IS", "NULL", "TRUE", "FALSE", "DIV",
];

pub(super) fn is_keyword(word: &str) -> bool {
    KEYWORDS
        .iter()
        .any(|keyword| keyword.eq_ignore_ascii_case(word))
}

struct Parser<'a> {
    tokens: Tokens<'a>,
    /// Read and not yet used.
    next: Located<Token<'a>>,
    budget: Budget,
}

impl<'a> Parser<'a> {
    fn alternatives(&mut self) -> Result<Expr, FilterError> {
        let offset = self.next.offset;
        let first = self.conjunction()?;
        if !self.is_at("OR") {
            return Ok(first);
        }
        self.budget.node(offset)?;
        let mut terms = vec![first];
        while self.take("OR")? {
            terms.push(self.conjunction()?);
        }
        Ok(Located {
            offset,
            value: Node::Or(terms),
        })
    }

    fn conjunction(&mut self) -> Result<Expr, FilterError> {
        let offset = self.next.offset;
        let first = self.factor()?;
        if !self.is_at("AND") {
            return Ok(first);
        }
        self.budget.node(offset)?;
        let mut terms = vec![first];
        while self.take("AND")? {
            terms.push(self.factor()?);
        }
        Ok(Located {
            offset,
            value: Node::And(terms),
        })
    }

    fn factor(&mut self) -> Result<Expr, FilterError> {
        let offset = self.next.offset;
        if self.take("NOT")? {
            self.budget.enter(offset)?;
            let inner = self.factor()?;
            self.budget.leave();
            return self.negation(offset, inner);
        }
        if self.next.value == Token::Open {
            self.budget.enter(offset)?;
            self.advance()?;
            let inner = self.alternatives()?;
            self.expect(&Token::Close, "AND, OR or )")?;
            self.budget.leave();
            return Ok(inner);
        }
        self.condition()
    }

    fn negation(&mut self, offset: usize, inner: Expr) -> Result<Expr, FilterError> {
        self.budget.node(offset)?;
        Ok(Located {
            offset,
            value: Node::Not(Box::new(inner)),
        })
    }

    fn condition(&mut self) -> Result<Expr, FilterError> {
        let offset = self.next.offset;
        self.budget.node(offset)?;
        let first = self.advance()?;
        if let Token::Word(word) = first.value
            && self.next.value == Token::Open
        {
            if let Some(function) = TemporalFunction::named(word) {
                let value = Node::Condition(self.temporal(function)?);
                return Ok(Located { offset, value });
            }
            if let Some(relation) = ArrayRelation::named(word) {
                let value = Node::Condition(self.array(relation)?);
                return Ok(Located { offset, value });
            }
        }
        let subject = self.operand(first)?;
        let (condition, negated) = self.test(subject)?;
        let condition = Located {
            offset,
            value: Node::Condition(condition),
        };
        if negated {
            return self.negation(offset, condition);
        }
        Ok(condition)
    }

    /// What is said of the operand, and whether a NOT inside denies it.
    fn test(&mut self, subject: Operand) -> Result<(Condition, bool), FilterError> {
        if let Token::Compare(comparison) = self.next.value {
            self.advance()?;
            let other = self.read_operand()?;
            return Ok((operand::compare(subject, comparison, other)?, false));
        }
        if self.take("IS")? {
            let negated = self.take("NOT")?;
            self.expect_keyword("NULL")?;
            return Ok((operand::is_null(subject)?, negated));
        }
        let negated = self.take("NOT")?;
        let condition = if self.take("BETWEEN")? {
            let low = self.read_operand()?;
            self.expect_keyword("AND")?;
            let high = self.read_operand()?;
            operand::between(subject, low, high)?
        } else if self.take("IN")? {
            let elements = self.list()?;
            operand::in_list(subject, elements)?
        } else if self.take("LIKE")? {
            let pattern = self.read_operand()?;
            operand::like(subject, pattern)?
        } else {
            let wanted = if negated {
                "BETWEEN, IN or LIKE"
            } else {
                "a comparison, BETWEEN, IN, LIKE or IS NULL"
            };
            return Err(unexpected(&self.next, wanted));
        };
        Ok((condition, negated))
    }

    fn temporal(&mut self, function: TemporalFunction) -> Result<Condition, FilterError> {
        self.expect(&Token::Open, "(")?;
        let left = self.read_operand()?;
        self.expect(&Token::Comma, "a comma")?;
        let right = self.read_operand()?;
        self.expect(&Token::Close, ")")?;
        operand::temporal(function, left, right)
    }

    fn array(&mut self, relation: ArrayRelation) -> Result<Condition, FilterError> {
        self.expect(&Token::Open, "(")?;
        let subject = self.read_operand()?;
        self.expect(&Token::Comma, "a comma")?;
        let elements = self.list()?;
        self.expect(&Token::Close, ")")?;
        operand::array(relation, subject, elements)
    }

    fn list(&mut self) -> Result<Vec<Operand>, FilterError> {
        self.expect(&Token::Open, "a list in parentheses")?;
        let mut elements = Vec::new();
        if self.next.value != Token::Close {
            loop {
                Budget::list(elements.len() + 1, self.next.offset)?;
                elements.push(self.read_operand()?);
                if self.next.value != Token::Comma {
                    break;
                }
                self.advance()?;
            }
        }
        self.expect(&Token::Close, "a comma or )")?;
        Ok(elements)
    }

    fn read_operand(&mut self) -> Result<Operand, FilterError> {
        let first = self.advance()?;
        self.operand(first)
    }

    fn operand(&mut self, first: Located<Token<'a>>) -> Result<Operand, FilterError> {
        let offset = first.offset;
        match first.value {
            Token::Word(word) if self.next.value == Token::Open => self.call(offset, word),
            Token::Word(_) | Token::Quoted(_) | Token::Text(_) => name_or_text(first),
            Token::Number(digits) => number(offset, "", digits),
            Token::Arithmetic(sign @ ('+' | '-')) => {
                let sign = if sign == '-' { "-" } else { "" };
                let token = self.advance()?;
                match token.value {
                    Token::Number(digits) => number(offset, sign, digits),
                    _ => Err(unexpected(&token, "a number")),
                }
            }
            Token::Compare(_)
            | Token::Arithmetic(_)
            | Token::Open
            | Token::Close
            | Token::Comma
            | Token::End => Err(unexpected(&first, "a property or a literal")),
        }
    }

    /// A word before an opening parenthesis.
    fn call(&mut self, offset: usize, word: &str) -> Result<Operand, FilterError> {
        let is = |name: &str| name.eq_ignore_ascii_case(word);
        if is("CASEI") {
            self.advance()?;
            let inner = self.advance()?;
            if self.next.value == Token::Open {
                let detail = "CASEI takes a property or a text";
                return Err(FilterError::invalid(inner.offset, detail));
            }
            let inner = name_or_text(inner)?.into_folded()?;
            self.expect(&Token::Close, ")")?;
            return Ok(inner);
        }
        if is("TIMESTAMP") || is("DATE") {
            self.advance()?;
            let text = self.text()?;
            self.expect(&Token::Close, ")")?;
            let value = if is("DATE") {
                operand::date(text.offset, &text.value)?
            } else {
                operand::timestamp(text.offset, &text.value)?
            };
            return Ok(Operand::literal(offset, Scalar::Time(value)));
        }
        if is("INTERVAL") {
            self.advance()?;
            let from = self.text()?;
            self.expect(&Token::Comma, "a comma")?;
            let to = self.text()?;
            self.expect(&Token::Close, ")")?;
            return Ok(Operand {
                offset,
                folded: false,
                value: OperandValue::Interval {
                    from: operand::interval_end(from.offset, &from.value)?,
                    to: operand::interval_end(to.offset, &to.value)?,
                },
            });
        }
        if is_keyword(word) {
            let detail = format!("unexpected {word}, expected a property or a literal");
            return Err(FilterError::invalid(offset, detail));
        }
        let detail = format!("function {} is not supported", quoted(word));
        Err(FilterError::invalid(offset, detail))
    }

    fn text(&mut self) -> Result<Located<String>, FilterError> {
        let token = self.advance()?;
        match token.value {
            Token::Text(value) => Ok(Located {
                offset: token.offset,
                value,
            }),
            _ => Err(unexpected(&token, "a text in single quotes")),
        }
    }

    fn advance(&mut self) -> Result<Located<Token<'a>>, FilterError> {
        let following = self.tokens.read()?;
        Ok(std::mem::replace(&mut self.next, following))
    }

    fn is_at(&self, keyword: &str) -> bool {
        matches!(self.next.value, Token::Word(word) if keyword.eq_ignore_ascii_case(word))
    }

    fn take(&mut self, keyword: &str) -> Result<bool, FilterError> {
        let found = self.is_at(keyword);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn expect_keyword(&mut self, keyword: &str) -> Result<(), FilterError> {
        if self.take(keyword)? {
            return Ok(());
        }
        Err(unexpected(&self.next, keyword))
    }

    fn expect(&mut self, token: &Token<'_>, wanted: &str) -> Result<(), FilterError> {
        if self.next.value != *token {
            return Err(unexpected(&self.next, wanted));
        }
        self.advance()?;
        Ok(())
    }
}

/// A token that is an operand by itself, without a parenthesis or a sign.
fn name_or_text(token: Located<Token<'_>>) -> Result<Operand, FilterError> {
    let offset = token.offset;
    match token.value {
        Token::Word(word) if word.eq_ignore_ascii_case("TRUE") => {
            Ok(Operand::literal(offset, Scalar::Bool(true)))
        }
        Token::Word(word) if word.eq_ignore_ascii_case("FALSE") => {
            Ok(Operand::literal(offset, Scalar::Bool(false)))
        }
        Token::Word(word) if !is_keyword(word) => Ok(Operand::property(offset, word.to_owned())),
        Token::Quoted(name) => Ok(Operand::property(offset, name)),
        Token::Text(text) => Ok(Operand::literal(offset, Scalar::Text(text))),
        _ => Err(unexpected(&token, "a property or a literal")),
    }
}

/// CQL2 writes numbers in more ways than JSON: `007`, `.5`, `5.`.
fn number(offset: usize, sign: &str, digits: &str) -> Result<Operand, FilterError> {
    let (mantissa, exponent) = digits.split_at(digits.find(['e', 'E']).unwrap_or(digits.len()));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        significant => significant,
    };
    let point = if fraction.is_empty() { "" } else { "." };
    let value = operand::number(offset, &format!("{sign}{whole}{point}{fraction}{exponent}"))?;
    Ok(Operand::literal(offset, value))
}

fn unexpected(token: &Located<Token<'_>>, wanted: &str) -> FilterError {
    let found = match &token.value {
        Token::Arithmetic(sign) => {
            let detail = format!("arithmetic ({sign}) is not supported");
            return FilterError::invalid(token.offset, detail);
        }
        Token::Word(word) if word.eq_ignore_ascii_case("DIV") => {
            return FilterError::invalid(token.offset, "arithmetic (DIV) is not supported");
        }
        Token::Word(word) => quoted(word),
        Token::Quoted(name) => format!("the name {}", quoted(name)),
        Token::Text(text) => format!("the text {}", quoted(text)),
        Token::Number(digits) => format!("the number {}", quoted(digits)),
        Token::Compare(comparison) => comparison.as_str().to_owned(),
        Token::Open => "(".to_owned(),
        Token::Close => ")".to_owned(),
        Token::Comma => "a comma".to_owned(),
        Token::End => "the end".to_owned(),
    };
    FilterError::invalid(
        token.offset,
        format!("unexpected {found}, expected {wanted}"),
    )
}
