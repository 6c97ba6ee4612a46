//! The rows of a Parquet file as events. Values have types of their own there; nothing is inferred.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context, Result, bail};
use parquet::basic::{LogicalType, TimeUnit};
use parquet::data_type::Decimal;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::serialized_reader::ReadOptionsBuilder;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row as Record};
use sheaf_model::Timestamp;

use super::plan::Roles;
use super::row::{EventText, Position, Refused, Row, Rows, quoted};

pub(crate) struct Columnar {
    rows: RowIter<'static>,
    roles: Roles,
    /// What the 64-bit integers of each column count, by the column's place.
    units: Vec<Option<TimeUnit>>,
    /// The number of the next row, from 0, and how many there are.
    next: u64,
    row_count: u64,
}

/// Why a value is not sent.
type Refusal = (&'static str, String);

impl Columnar {
    pub(crate) fn open(path: &Path, roles: Roles, position: Position) -> Result<Columnar> {
        let file = || File::open(path).context("opening the file");
        let (whole, for_all) = (file()?, ReadOptionsBuilder::new().build());
        let whole = guarded(|| SerializedFileReader::new_with_options(whole, for_all))??;
        let metadata = whole.metadata();
        let units = units(&roles, metadata)?;
        let lengths: Result<Vec<u64>, _> = metadata
            .row_groups()
            .iter()
            .map(|group| u64::try_from(group.num_rows()))
            .collect();
        let lengths = lengths.context("the file has a group of negative length")?;
        // Whole groups are left out unread, then rows are read and dropped.
        let (mut groups, mut next) = (0, 0);
        for length in &lengths {
            if next + length > position.offset {
                break;
            }
            groups += 1;
            next += length;
        }
        let from_there = ReadOptionsBuilder::new()
            .with_predicate(Box::new(move |_, group| group >= groups))
            .build();
        let rest = file()?;
        let rest = guarded(|| SerializedFileReader::new_with_options(rest, from_there))??;
        let mut columnar = Columnar {
            rows: guarded(|| rest.into_iter())?,
            roles,
            units,
            next,
            row_count: lengths.iter().sum(),
        };
        while columnar.next < position.offset && columnar.next_record()?.is_some() {}
        Ok(columnar)
    }

    fn next_record(&mut self) -> Result<Option<Record>> {
        let Some(record) = guarded(|| self.rows.next())? else {
            return Ok(None);
        };
        self.next += 1;
        let record = record.with_context(|| format!("reading row {}", self.next))?;
        Ok(Some(record))
    }

    fn row(&self, record: &Record) -> Row {
        let line = self.next;
        let (mut id, mut time) = (None, None);
        let (mut attributes, mut refusals) = (Vec::new(), Vec::new());
        for ((name, field), unit) in record.get_column_iter().zip(&self.units) {
            if self.roles.skip.contains(name) || self.is_null(field) {
                continue;
            }
            let is_id = *name == self.roles.id;
            let is_time = self.roles.time.as_ref() == Some(name);
            match token(field, *unit) {
                Ok(token) if is_id => id = Some(plain(&token)),
                Ok(token) if is_time => time = Some(plain(&token)),
                Ok(token) => attributes.push((name, token)),
                Err((code, reason)) => refusals.push(Refused {
                    line,
                    field: Some(name.clone()),
                    code: code.to_owned(),
                    reason,
                }),
            }
        }
        let observed_at = match self.roles.observed_at(time.as_deref()) {
            Ok(observed_at) => observed_at,
            Err((code, reason)) => return Row::refused(line, code, reason),
        };
        let mut event = EventText::new(&self.roles.kind, id.as_deref(), observed_at);
        for (name, token) in attributes {
            event.push(name, &token);
        }
        Row {
            line,
            event: Some(event.finish()),
            refusals,
        }
    }

    fn is_null(&self, field: &Field) -> bool {
        match field {
            Field::Null => true,
            Field::Str(text) => self.roles.null.contains(text),
            _ => false,
        }
    }
}

impl Rows for Columnar {
    fn next_row(&mut self) -> Result<Option<Row>> {
        let record = self.next_record()?;
        Ok(record.map(|record| self.row(&record)))
    }

    fn position(&self) -> Position {
        Position {
            offset: self.next,
            line: self.next + 1,
        }
    }

    fn progress(&self) -> (u64, u64) {
        (self.next, self.row_count)
    }
}

/// Checks that the columns are there that a person named, and finds those that count time.
fn units(roles: &Roles, metadata: &ParquetMetaData) -> Result<Vec<Option<TimeUnit>>> {
    let schema = metadata.file_metadata().schema_descr();
    let fields = schema.root_schema().get_fields();
    let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
    let wanted = [Some(&roles.id), roles.time.as_ref()];
    for name in wanted.into_iter().flatten().chain(&roles.skip) {
        if !names.contains(&name.as_str()) {
            bail!("the file has no column {name:?}; its columns are {names:?}");
        }
    }
    let unit = |logical: Option<&LogicalType>| match logical {
        Some(LogicalType::Timestamp { unit, .. }) => Some(*unit),
        _ => None,
    };
    let units = fields
        .iter()
        .map(|field| unit(field.get_basic_info().logical_type_ref()));
    Ok(units.collect())
}

/// The decoder panics at some of the types it does not know, and may at damage that it does not expect.
fn guarded<T>(read: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| {
        anyhow::anyhow!("the file is damaged or has a column type that cannot be read")
    })
}

/// A value as one JSON token.
fn token(field: &Field, unit: Option<TimeUnit>) -> Result<String, Refusal> {
    let float = |number: f64| {
        let token = serde_json::Number::from_f64(number).map(|number| number.to_string());
        token.ok_or_else(|| ("out_of_range", format!("{number} is no JSON number")))
    };
    Ok(match field {
        Field::Null => "null".to_owned(),
        Field::Bool(value) => value.to_string(),
        Field::Byte(number) => number.to_string(),
        Field::Short(number) => number.to_string(),
        Field::Int(number) => number.to_string(),
        Field::Long(number) => match unit {
            None => number.to_string(),
            Some(TimeUnit::MILLIS) => time(i128::from(*number) * 1_000_000)?,
            Some(TimeUnit::MICROS) => time(i128::from(*number) * 1_000)?,
            Some(TimeUnit::NANOS) => time(i128::from(*number))?,
        },
        Field::UByte(number) => number.to_string(),
        Field::UShort(number) => number.to_string(),
        Field::UInt(number) => number.to_string(),
        Field::ULong(number) => number.to_string(),
        // Widened exactly: what is stored is the number that the file holds.
        Field::Float16(number) => float(f64::from(*number))?,
        Field::Float(number) => float(f64::from(*number))?,
        Field::Double(number) => float(*number)?,
        Field::Decimal(number) => quoted(&decimal(number)?),
        Field::Str(text) => quoted(text),
        Field::Bytes(bytes) => match bytes.as_utf8() {
            Ok(text) => quoted(text),
            Err(_) => return Err(("invalid_text", "bytes that are no UTF-8 text".to_owned())),
        },
        Field::Date(days) => time(i128::from(*days) * 86_400_000_000_000)?,
        Field::TimestampMillis(millis) => time(i128::from(*millis) * 1_000_000)?,
        Field::TimestampMicros(micros) => time(i128::from(*micros) * 1_000)?,
        Field::TimeMillis(_) | Field::TimeMicros(_) => {
            return Err(("type_mismatch", "a time of day without a date".to_owned()));
        }
        Field::Group(group) => object(group)?,
        Field::ListInternal(list) => {
            let items = list.elements().iter().map(|item| token(item, None));
            format!("[{}]", items.collect::<Result<Vec<_>, _>>()?.join(","))
        }
        Field::MapInternal(map) => {
            let entry = |(key, value): &(Field, Field)| {
                let key = quoted(&plain(&token(key, None)?));
                Ok(format!("{key}:{}", token(value, None)?))
            };
            let entries: Result<Vec<String>, Refusal> = map.entries().iter().map(entry).collect();
            format!("{{{}}}", entries?.join(","))
        }
    })
}

fn object(group: &Record) -> Result<String, Refusal> {
    let member =
        |(name, field): (&String, &Field)| Ok(format!("{}:{}", quoted(name), token(field, None)?));
    let members: Result<Vec<String>, Refusal> = group.get_column_iter().map(member).collect();
    Ok(format!("{{{}}}", members?.join(",")))
}

fn time(nanos: i128) -> Result<String, Refusal> {
    let (time, _) = Timestamp::from_nanos(nanos).map_err(|fault| {
        (
            "time_out_of_range",
            format!("a time of the file is {fault}"),
        )
    })?;
    Ok(quoted(&time.to_string()))
}

/// The digits of a decimal, whose bytes are a big-endian two's complement number.
fn decimal(number: &Decimal) -> Result<String, Refusal> {
    let bytes = number.data();
    let unreadable = || {
        (
            "out_of_range",
            "a decimal of more than 38 digits".to_owned(),
        )
    };
    if bytes.len() > 16 {
        return Err(unreadable());
    }
    let negative = bytes.first().is_some_and(|byte| *byte >= 0x80);
    let mut whole = [if negative { 0xff } else { 0 }; 16];
    whole[16 - bytes.len()..].copy_from_slice(bytes);
    let unscaled = i128::from_be_bytes(whole);
    let scale = usize::try_from(number.scale()).map_err(|_| unreadable())?;
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (units, fraction) = digits.split_at(digits.len() - scale);
    let sign = if negative { "-" } else { "" };
    let point = if scale > 0 { "." } else { "" };
    Ok(format!("{sign}{units}{point}{fraction}"))
}

/// The text of a string token, any other token as it is: ids may be numbers.
fn plain(token: &str) -> String {
    match sheaf_model::string_text(token) {
        Ok(text) => text.into_owned(),
        Err(_) => token.to_owned(),
    }
}

#[cfg(test)]
mod tests;
