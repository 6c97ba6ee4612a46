//! The `timestamptz` type on the wire: microseconds since 2000, which is what an instant of ours is but for the epoch.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use postgres_types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use sheaf_model::Timestamp;

/// 2000-01-01T00:00:00Z in microseconds since 1970.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// An instant as PostgreSQL sends and takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PgTime(pub Timestamp);

impl PgTime {
    /// The eight bytes of the wire, as a number.
    pub fn wire_micros(self) -> i64 {
        self.0.as_micros() - EPOCH_MICROS
    }
}

impl<'a> FromSql<'a> for PgTime {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let wire = i64::from_be_bytes(raw.try_into()?);
        // `infinity` and years past 9999 are not instants of ours; nothing of ours writes them.
        let micros = wire
            .checked_add(EPOCH_MICROS)
            .ok_or("an instant out of range")?;
        Ok(PgTime(Timestamp::from_micros(micros)?))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}

impl ToSql for PgTime {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(self.wire_micros());
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}
