//! What is sent beside a statement, and never as part of it.

use postgres_types::{ToSql, Type};

/// A value that is sent beside the statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parameter {
    /// `bigint`
    Int8(i64),
    /// `bigint[]`
    Int8Array(Vec<i64>),
    /// `text`
    Text(String),
    /// `text[]`
    TextArray(Vec<String>),
}

/// The parameters of one statement, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(Vec<Parameter>);

impl Parameters {
    /// Adds a parameter and gives the expression that stands for it, such as `$3::text`.
    pub fn push(&mut self, parameter: Parameter) -> String {
        let kind = match parameter {
            Parameter::Int8(_) => "bigint",
            Parameter::Int8Array(_) => "bigint[]",
            Parameter::Text(_) => "text",
            Parameter::TextArray(_) => "text[]",
        };
        self.0.push(parameter);
        format!("${}::{kind}", self.0.len())
    }

    /// The parameters with their types, for a statement that is not prepared.
    pub fn typed(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.0
            .iter()
            .map(|parameter| match parameter {
                Parameter::Int8(number) => (number as &(dyn ToSql + Sync), Type::INT8),
                Parameter::Int8Array(numbers) => (numbers as _, Type::INT8_ARRAY),
                Parameter::Text(text) => (text as _, Type::TEXT),
                Parameter::TextArray(texts) => (texts as _, Type::TEXT_ARRAY),
            })
            .collect()
    }

    /// The parameters.
    pub fn as_slice(&self) -> &[Parameter] {
        &self.0
    }
}
