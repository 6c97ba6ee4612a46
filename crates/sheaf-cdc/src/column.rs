//! Values of columns, out of the binary form of the types that our tables have.
//!
//! One reading for rows of the stream and rows of a snapshot, so that both give the same row. A type that is not known here is
//! kept as its bytes: a column that a later version adds must not stop this one.

use std::fmt::Write;

use sheaf_model::Timestamp;
use uuid::Uuid;

/// 2000-01-01T00:00:00Z in microseconds since 1970.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum ColumnValue {
    /// None.
    Null,
    /// A long value that an update left as it was and that was not sent: whoever keeps the row keeps it.
    Unchanged,
    /// `boolean`.
    Bool(bool),
    /// `smallint`, `integer`, `bigint`.
    Int(i64),
    /// `double precision`.
    Float(f64),
    /// `text`, `name`, `character varying`, and `"char"` as its one letter.
    Text(String),
    /// `jsonb`, as its text.
    Json(String),
    /// `timestamptz`.
    Time(Timestamp),
    /// `uuid`.
    Uuid(Uuid),
    /// A type that is not known here, as its bytes.
    Other {
        /// The number of the type.
        type_oid: u32,
        /// What PostgreSQL sent.
        bytes: Vec<u8>,
    },
}

impl ColumnValue {
    /// How many bytes it takes beside itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            ColumnValue::Text(text) | ColumnValue::Json(text) => text.len(),
            ColumnValue::Other { bytes, .. } => bytes.len(),
            ColumnValue::Null
            | ColumnValue::Unchanged
            | ColumnValue::Bool(_)
            | ColumnValue::Int(_)
            | ColumnValue::Float(_)
            | ColumnValue::Time(_)
            | ColumnValue::Uuid(_) => 0,
        }
    }
}

/// Bytes that are no value of their type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes are no value of type {type_oid}: {why}")]
pub struct ColumnFault {
    /// The number of the type.
    pub type_oid: u32,
    /// How many bytes there were.
    pub length: usize,
    /// What is wrong with them.
    pub why: &'static str,
}

/// Reads a value that is there.
pub fn read_binary(type_oid: u32, bytes: &[u8]) -> Result<ColumnValue, ColumnFault> {
    let fault = |why| ColumnFault {
        type_oid,
        length: bytes.len(),
        why,
    };
    let text = |bytes: &[u8]| {
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| fault("not UTF-8"))
    };
    Ok(match type_oid {
        16 => match array(bytes).map_err(fault)? {
            [0] => ColumnValue::Bool(false),
            [1] => ColumnValue::Bool(true),
            _ => return Err(fault("neither true nor false")),
        },
        18 => ColumnValue::Text(text(&array::<1>(bytes).map_err(fault)?)?),
        20 => ColumnValue::Int(i64::from_be_bytes(array(bytes).map_err(fault)?)),
        21 => ColumnValue::Int(i16::from_be_bytes(array(bytes).map_err(fault)?).into()),
        23 => ColumnValue::Int(i32::from_be_bytes(array(bytes).map_err(fault)?).into()),
        701 => ColumnValue::Float(f64::from_be_bytes(array(bytes).map_err(fault)?)),
        19 | 25 | 1043 => ColumnValue::Text(text(bytes)?),
        1184 => {
            let wire = i64::from_be_bytes(array(bytes).map_err(fault)?);
            let time = wire
                .checked_add(EPOCH_MICROS)
                .and_then(|micros| Timestamp::from_micros(micros).ok());
            ColumnValue::Time(time.ok_or_else(|| fault("outside the years 1 to 9999"))?)
        }
        2950 => ColumnValue::Uuid(Uuid::from_bytes(array(bytes).map_err(fault)?)),
        3802 => match bytes.split_first() {
            Some((1, json)) => ColumnValue::Json(text(json)?),
            Some(_) | None => return Err(fault("a version of jsonb that is not known")),
        },
        _ => ColumnValue::Other {
            type_oid,
            bytes: bytes.to_vec(),
        },
    })
}

/// Bytes as their digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], &'static str> {
    bytes.try_into().map_err(|_| "another length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_our_types_are_read_and_others_kept() {
        let noon = Timestamp::parse("2024-02-29T12:00:00Z").expect("a time").0;
        let wire = noon.as_micros() - EPOCH_MICROS;
        let json = [&[1][..], br#"{"a":1}"#].concat();
        for (type_oid, bytes, value) in [
            (16, vec![1], ColumnValue::Bool(true)),
            (18, vec![b'p'], ColumnValue::Text("p".to_owned())),
            (20, (-5i64).to_be_bytes().to_vec(), ColumnValue::Int(-5)),
            (21, 7i16.to_be_bytes().to_vec(), ColumnValue::Int(7)),
            (23, 7i32.to_be_bytes().to_vec(), ColumnValue::Int(7)),
            (701, 1.5f64.to_be_bytes().to_vec(), ColumnValue::Float(1.5)),
            (25, b"seats".to_vec(), ColumnValue::Text("seats".to_owned())),
            (1184, wire.to_be_bytes().to_vec(), ColumnValue::Time(noon)),
            (
                2950,
                vec![7; 16],
                ColumnValue::Uuid(Uuid::from_bytes([7; 16])),
            ),
            (3802, json, ColumnValue::Json(r#"{"a":1}"#.to_owned())),
            (
                600,
                vec![1, 2],
                ColumnValue::Other {
                    type_oid: 600,
                    bytes: vec![1, 2],
                },
            ),
        ] {
            assert_eq!(read_binary(type_oid, &bytes), Ok(value), "{type_oid}");
        }
    }

    #[test]
    fn bytes_that_are_no_value_of_their_type_are_an_error() {
        for (type_oid, bytes) in [
            (16, &[2][..]),
            (16, &[]),
            (18, &[]),
            (20, &[0; 4]),
            (21, &[0; 4]),
            (25, &[0xff]),
            (1184, &[0x7f; 8]),
            (2950, &[0; 15]),
            (3802, &[]),
            (3802, &[2, b'1']),
        ] {
            assert!(
                read_binary(type_oid, bytes).is_err(),
                "{type_oid} {bytes:?}"
            );
        }
    }
}
