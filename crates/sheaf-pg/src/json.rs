//! The `jsonb` type as text in and out: no value is built on the way, so that no digit is lost.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use postgres_types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// The version byte that PostgreSQL puts before a jsonb value on the wire.
const JSONB_VERSION: u8 = 1;

/// A jsonb value that was read, as its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonbRead<'a>(pub &'a str);

impl<'a> FromSql<'a> for JsonbRead<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        match raw.split_first() {
            Some((&JSONB_VERSION, text)) => Ok(JsonbRead(std::str::from_utf8(text)?)),
            Some(_) | None => Err("a jsonb value of an unknown version".into()),
        }
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSONB
    }
}

/// A JSON text to be written as jsonb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonbWrite<T>(pub T);

impl<T: AsRef<str> + std::fmt::Debug> ToSql for JsonbWrite<T> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_u8(JSONB_VERSION);
        out.put_slice(self.0.as_ref().as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSONB
    }

    to_sql_checked!();
}
