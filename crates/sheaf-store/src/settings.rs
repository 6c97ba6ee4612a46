//! What every server on one database agrees on, and where the write history stands.

use sheaf_model::{EntityId, Lsn, Position, TenantId, Timestamp};
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement, first_row};
use tokio_postgres::Row;

/// The database's constants, read once at start.
#[derive(Clone)]
pub struct Settings {
    /// Into how many buckets entities are hashed.
    pub bucket_count: i32,
    /// The secret behind tokens and cursors.
    pub signing_key: [u8; 32],
    /// Which cluster this is.
    pub system_id: u64,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Settings {{ bucket_count: {}, system_id: {} }}",
            self.bucket_count, self.system_id
        )
    }
}

impl Settings {
    /// Reads them.
    pub async fn read(pool: &Pool) -> Result<Settings, PgError> {
        const STEP: &str = "reading the settings of the database";
        let client = pool.get().await?;
        let statement = Statement::new(
            STEP,
            include_str!("../sql/settings/read_settings.sql"),
            vec![],
        );
        let rows = sheaf_pg::run(&client, Access::Read, None, &[statement]).await?;
        let row = first_row(&rows[0], STEP)?;
        let key: &[u8] = row.get("signing_key");
        Ok(Settings {
            bucket_count: row.get("bucket_count"),
            signing_key: key
                .try_into()
                .map_err(|_| PgError::unreadable(STEP, "signing_key"))?,
            system_id: row.get::<_, i64>("system_id").cast_unsigned(),
        })
    }

    /// The bucket of an entity. Never changed: it decides which lock guards the entity, on every server.
    pub fn bucket(&self, tenant: TenantId, entity: EntityId) -> i32 {
        // SplitMix64 over both numbers: neighbours land far apart, and every server computes the same.
        let mut mixed =
            tenant.0.cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ entity.0.cast_unsigned();
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        let bucket = mixed % u64::from(self.bucket_count.unsigned_abs());
        i32::try_from(bucket).expect("less than bucket_count, which is an i32")
    }

    /// The position in a row of `read_position.sql`, and the database's clock when it was read.
    pub fn position(&self, row: &Row) -> Result<(Position, Timestamp), PgError> {
        const STEP: &str = "reading the position of the write history";
        let lsn: String = row.get("lsn");
        let timeline: String = row.get("timeline");
        let position = Position {
            system_id: self.system_id,
            timeline: u32::from_str_radix(&timeline, 16)
                .map_err(|_| PgError::unreadable(STEP, timeline))?,
            lsn: lsn
                .parse::<Lsn>()
                .map_err(|_| PgError::unreadable(STEP, lsn))?,
        };
        Ok((position, row.get::<_, PgTime>("read_at").0))
    }
}

/// Reads how far the write history has come.
pub fn read_position<'a>() -> Statement<'a> {
    const SQL: &str = include_str!("../sql/settings/read_position.sql");
    Statement::new("reading the position of the write history", SQL, vec![])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_of_an_entity_never_changes() {
        let settings = Settings {
            bucket_count: 64,
            signing_key: [0; 32],
            system_id: 1,
        };
        let buckets: Vec<i32> = (1..=8)
            .map(|entity| settings.bucket(TenantId(1), EntityId(entity)))
            .collect();
        assert_eq!(buckets, BUCKETS_OF_THE_FIRST_EIGHT);
    }

    /// Written down when the function was made: a change would let two servers of different versions write one entity.
    const BUCKETS_OF_THE_FIRST_EIGHT: [i32; 8] = [32, 14, 1, 58, 34, 33, 29, 54];
}
