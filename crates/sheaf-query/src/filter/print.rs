//! A filter written back as text: what it means, in one spelling, for cursors and explanations.

use std::fmt::Write as _;

use sheaf_model::Timestamp;

use super::ast::{Condition, Expr, Located, Node, Scalar};
use super::text::is_keyword;
use super::token::is_plain_word;

impl Located<Node> {
    /// The text form, with no more parentheses than the filter needs. Reading it gives this filter again.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        write_expr(self, &mut out);
        out
    }
}

fn write_expr(expr: &Expr, out: &mut String) {
    match &expr.value {
        Node::And(terms) => write_terms(terms, " AND ", out),
        Node::Or(terms) => write_terms(terms, " OR ", out),
        Node::Not(inner) => write_negation(inner, out),
        Node::Condition(condition) => write_condition(condition, "", out),
    }
}

fn write_terms(terms: &[Expr], between: &str, out: &mut String) {
    for (place, term) in terms.iter().enumerate() {
        if place > 0 {
            out.push_str(between);
        }
        // An AND inside an OR binds closer by itself.
        let stands_alone = match &term.value {
            Node::And(_) => between == " OR ",
            Node::Or(_) => false,
            Node::Not(_) | Node::Condition(_) => true,
        };
        write_enclosed(term, stands_alone, out);
    }
}

fn write_negation(inner: &Expr, out: &mut String) {
    if let Node::Condition(condition) = &inner.value
        && has_form_with_not(condition)
    {
        return write_condition(condition, "NOT ", out);
    }
    out.push_str("NOT ");
    let stands_alone = matches!(inner.value, Node::Not(_) | Node::Condition(_));
    write_enclosed(inner, stands_alone, out);
}

fn has_form_with_not(condition: &Condition) -> bool {
    match condition {
        Condition::Between { .. }
        | Condition::In { .. }
        | Condition::Like { .. }
        | Condition::IsNull { .. } => true,
        Condition::Compare { .. } | Condition::During { .. } | Condition::Array { .. } => false,
    }
}

fn write_enclosed(expr: &Expr, stands_alone: bool, out: &mut String) {
    if stands_alone {
        return write_expr(expr, out);
    }
    out.push('(');
    write_expr(expr, out);
    out.push(')');
}

/// One condition; `not` goes where the forms with a NOT of their own have it.
fn write_condition(condition: &Condition, not: &str, out: &mut String) {
    match condition {
        Condition::Compare {
            property,
            folded,
            comparison,
            value,
        } => {
            write_folded(*folded, out, |out| write_name(&property.value, out));
            push(out, format_args!(" {} ", comparison.as_str()));
            write_folded(*folded, out, |out| write_scalar(&value.value, out));
        }
        Condition::Between {
            property,
            low,
            high,
        } => {
            write_name(&property.value, out);
            push(out, format_args!(" {not}BETWEEN "));
            write_scalar(&low.value, out);
            out.push_str(" AND ");
            write_scalar(&high.value, out);
        }
        Condition::In {
            property,
            folded,
            values,
        } => {
            write_folded(*folded, out, |out| write_name(&property.value, out));
            push(out, format_args!(" {not}IN "));
            write_list(values, *folded, out);
        }
        Condition::Like {
            property,
            folded,
            pattern,
        } => {
            write_folded(*folded, out, |out| write_name(&property.value, out));
            push(out, format_args!(" {not}LIKE "));
            write_folded(*folded, out, |out| write_quoted(&pattern.value, '\'', out));
        }
        Condition::IsNull { property } => {
            write_name(&property.value, out);
            push(out, format_args!(" IS {not}NULL"));
        }
        Condition::During { property, from, to } => {
            out.push_str("T_DURING(");
            write_name(&property.value, out);
            let end = |end: &Option<Located<Timestamp>>| match end {
                Some(time) => time.value.to_string(),
                None => "..".to_owned(),
            };
            push(
                out,
                format_args!(", INTERVAL('{}','{}'))", end(from), end(to)),
            );
        }
        Condition::Array {
            property,
            relation,
            values,
        } => {
            push(out, format_args!("{}(", relation.as_str()));
            write_name(&property.value, out);
            out.push_str(", ");
            write_list(values, false, out);
            out.push(')');
        }
    }
}

fn write_list(values: &[Located<Scalar>], folded: bool, out: &mut String) {
    out.push('(');
    for (place, value) in values.iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        write_folded(folded, out, |out| write_scalar(&value.value, out));
    }
    out.push(')');
}

fn write_folded(folded: bool, out: &mut String, write: impl FnOnce(&mut String)) {
    if !folded {
        return write(out);
    }
    out.push_str("CASEI(");
    write(out);
    out.push(')');
}

fn write_name(name: &str, out: &mut String) {
    if is_plain_word(name) && !is_keyword(name) {
        out.push_str(name);
    } else {
        write_quoted(name, '"', out);
    }
}

fn write_scalar(value: &Scalar, out: &mut String) {
    match value {
        Scalar::Number(number) => push(out, format_args!("{number}")),
        Scalar::Text(text) => write_quoted(text, '\'', out),
        Scalar::Bool(true) => out.push_str("TRUE"),
        Scalar::Bool(false) => out.push_str("FALSE"),
        Scalar::Time(time) => push(out, format_args!("TIMESTAMP('{time}')")),
    }
}

fn write_quoted(text: &str, mark: char, out: &mut String) {
    out.push(mark);
    for letter in text.chars() {
        if letter == mark {
            out.push(mark);
        }
        out.push(letter);
    }
    out.push(mark);
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("writing to a string does not fail");
}
