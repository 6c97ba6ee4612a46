//! What a prepared statement takes and gives, which clients are told before there are values.

use std::mem::size_of;

use sheaf_export::{Column, ColumnKind};
use sheaf_model::AttributeType;

use super::super::catalogue;
use super::super::command::Command;
use super::super::fault::{FEATURE_NOT_SUPPORTED, Fault, PROGRAM_LIMIT};
use super::super::lexer::{Token, lex};
use super::super::question::{Trouble, text_column, watched};
use super::super::value::{TEXT, oid_of};
use super::own::constant_column;
use super::prepared::{BYTES_MAX, too_many_statements};
use super::{Session, check_columns, kinds_of};

/// Parameters of a question about catalogues.
const PARAMS_MAX: usize = 512;

/// What a statement takes and gives.
#[derive(Clone)]
pub(super) struct Described {
    pub(super) params: Vec<u32>,
    /// None where it gives no rows.
    pub(super) columns: Option<Vec<Column>>,
}

impl Described {
    pub(super) fn bytes(&self) -> usize {
        let columns = self.columns.iter().flatten();
        let columns = columns.map(|column| size_of::<Column>() + column.name.len());
        columns.sum::<usize>() + size_of::<u32>() * self.params.len()
    }
}

impl Session {
    /// Sees to it that it is known what a statement takes and gives.
    pub(super) async fn described(&mut self, name: &str) -> Result<(), Trouble> {
        let prepared = self.prepared(name)?;
        if prepared.described.is_some() {
            return Ok(());
        }
        let described = match prepared.command.clone() {
            Command::Ask(text) => {
                let until = self.until();
                let describing = self.asker.describe(text);
                let cancelled = &mut self.place.cancelled;
                let found = watched(&mut self.line, cancelled, until, describing).await?;
                check_columns(&found.columns)?;
                let params = found.params.into_iter();
                Described {
                    params: params.map(|kind| kind.map_or(TEXT, oid_of)).collect(),
                    columns: Some(found.columns),
                }
            }
            Command::Catalogue(text) => {
                let places = lex(&text)
                    .into_iter()
                    .filter_map(|lexeme| match lexeme.token {
                        Token::Param(number) => Some(number),
                        _ => None,
                    });
                let count = places.max().unwrap_or(0);
                if count > PARAMS_MAX {
                    let message = "a statement has too many parameters";
                    return Err(Fault::error(PROGRAM_LIMIT, message).into());
                }
                let inquiry = catalogue::read(&text, &[])?;
                Described {
                    params: vec![TEXT; count],
                    columns: Some(inquiry.columns().to_vec()),
                }
            }
            Command::Constants(constants) => Described {
                params: Vec::new(),
                columns: Some(constants.iter().map(constant_column).collect()),
            },
            Command::Show(Some(name)) => Described {
                params: Vec::new(),
                columns: Some(vec![text_column(&name)]),
            },
            Command::Show(None) => Described {
                params: Vec::new(),
                columns: Some(["name", "setting"].map(text_column).to_vec()),
            },
            _ => Described {
                params: Vec::new(),
                columns: None,
            },
        };
        let own = described.bytes();
        if self.statements_bytes() + own > BYTES_MAX {
            return Err(too_many_statements().into());
        }
        if let Some(prepared) = self.statements.get_mut(name) {
            prepared.bytes += own;
            prepared.described = Some(described);
        }
        Ok(())
    }
}

/// The types that rows are written in: those that the client was told. A text can be told of anything.
pub(super) fn told_kinds(
    told: Option<&[Column]>,
    columns: &[Column],
) -> Result<Vec<ColumnKind>, Fault> {
    let Some(told) = told else {
        return Ok(kinds_of(columns));
    };
    let fits = |(told, own): (&Column, &Column)| {
        told.kind == ColumnKind::Of(AttributeType::Text) || oid_of(told.kind) == oid_of(own.kind)
    };
    match told.len() == columns.len() && told.iter().zip(columns).all(fits) {
        true => Ok(kinds_of(told)),
        false => {
            let message = "with these values the columns have other types than the statement was said to give";
            Err(Fault::error(FEATURE_NOT_SUPPORTED, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_many_columns_is_counted_however_short_the_statement_was() {
        let column = Column::of("an_attribute_with_a_name_of_its_own", AttributeType::Text);
        let described = Described {
            params: vec![TEXT; 10],
            columns: Some(vec![column; 1_003]),
        };
        assert!(described.bytes() > 1_003 * 60, "{}", described.bytes());
    }

    #[test]
    fn rows_are_written_in_the_types_that_were_told_or_not_at_all() {
        use AttributeType::{Float, Int, Text};
        let columns = |kinds: &[AttributeType]| -> Vec<Column> {
            kinds.iter().map(|kind| Column::of("x", *kind)).collect()
        };
        for (told, own, fits) in [
            (&[Int][..], &[Int][..], true),
            (&[Text], &[Int], true),
            (&[Int], &[Float], false),
            (&[Int], &[Text], false),
            (&[Int, Int], &[Int], false),
        ] {
            let kinds = told_kinds(Some(&columns(told)), &columns(own));
            assert_eq!(kinds.is_ok(), fits, "{told:?} {own:?}");
        }
        let kinds = told_kinds(None, &columns(&[Int])).expect("its own");
        assert_eq!(kinds, [ColumnKind::Of(Int)]);
    }
}
