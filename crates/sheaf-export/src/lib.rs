//! Rows of typed values as files that other programs read: CSV, and Arrow's IPC stream.
//!
//! Pure and piece by piece: rows go in, bytes come out, and nothing is kept between two calls but what the format
//! itself asks for. What the columns are is decided by whoever begins; where the rows come from is not known here.

use sheaf_model::{AttributeType, Value};

mod arrow;
mod csv;

use arrow::ArrowFile;
use csv::CsvFile;

/// What a file is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180, with a header line; safe to open in a spreadsheet.
    Csv,
    /// Arrow's IPC stream, with typed columns.
    Arrow,
}

/// A column of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub name: String,
    /// What its cells hold.
    pub kind: ColumnKind,
}

impl Column {
    /// A column of values of an attribute's type.
    pub fn of(name: impl Into<String>, kind: AttributeType) -> Column {
        Column {
            name: name.into(),
            kind: ColumnKind::Of(kind),
        }
    }
}

/// What the cells of a column hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// Values of a type.
    Of(AttributeType),
    /// Whole numbers of up to 38 digits: sums of many of 64 bits.
    WideInt,
}

/// One cell of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Nothing.
    Absent,
    /// A value.
    Value(Value),
    /// A number by its digits, where no value can hold it.
    Digits(String),
}

impl Cell {
    /// A cell that holds a text.
    pub fn text(text: impl Into<String>) -> Cell {
        Cell::Value(Value::Text(text.into()))
    }
}

/// Rows that do not fit the file that they were given to.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A cell of another type than its column, or a row of another length than the header.
    #[error("a row does not fit the columns at {column:?}")]
    Misfit {
        /// The heading of the column.
        column: String,
    },
    /// Arrow's writer refused.
    #[error("writing an Arrow stream")]
    Arrow(#[from] arrow_schema::ArrowError),
}

/// A file that is being written.
pub struct File {
    columns: Vec<Column>,
    form: Form,
}

enum Form {
    Csv(CsvFile),
    Arrow(Box<ArrowFile>),
}

impl File {
    /// Begins a file with its heading.
    pub fn begin(format: Format, columns: Vec<Column>) -> Result<File, ExportError> {
        let form = match format {
            Format::Csv => Form::Csv(CsvFile::begin(&columns)),
            Format::Arrow => Form::Arrow(Box::new(ArrowFile::begin(&columns)?)),
        };
        Ok(File { columns, form })
    }

    /// Writes rows, each with a cell for every column.
    pub fn write(&mut self, rows: &[Vec<Cell>]) -> Result<(), ExportError> {
        if rows.iter().any(|row| row.len() != self.columns.len()) {
            return Err(misfit("the end of the row"));
        }
        match &mut self.form {
            Form::Csv(file) => file.write(rows),
            Form::Arrow(file) => file.write(&self.columns, rows)?,
        }
        Ok(())
    }

    /// Writes what ends the file. A file without it was cut off.
    pub fn finish(&mut self) -> Result<(), ExportError> {
        match &mut self.form {
            Form::Csv(_) => Ok(()),
            Form::Arrow(file) => file.finish(),
        }
    }

    /// The bytes since they were last taken.
    pub fn take(&mut self) -> Vec<u8> {
        match &mut self.form {
            Form::Csv(file) => file.take(),
            Form::Arrow(file) => file.take(),
        }
    }
}

fn misfit(column: &str) -> ExportError {
    ExportError::Misfit {
        column: column.to_owned(),
    }
}
