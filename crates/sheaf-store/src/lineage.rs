//! Which lineage a transaction reads and writes: what numbers that are remembered must have been learned on.

use std::sync::atomic::{AtomicU32, Ordering};

use sheaf_model::Lineage;
use sheaf_pg::{PgError, Statement};
use tokio_postgres::{Client, Row};

const STEP: &str = "reading the lineage of a transaction";

/// Reads the lineage of a transaction, anywhere in it.
pub fn read_lineage<'a>() -> Statement<'a> {
    Statement::new(
        STEP,
        include_str!("../sql/settings/read_lineage.sql"),
        vec![],
    )
}

/// The lineage in a row that has its columns; none on a standby.
pub fn lineage_of(row: &Row) -> Result<Option<Lineage>, PgError> {
    let Some(timeline) = row.get::<_, Option<&str>>("timeline") else {
        return Ok(None);
    };
    let timeline = u32::from_str_radix(timeline, 16);
    Ok(Some(Lineage {
        system_id: row.get::<_, i64>("system_id").cast_unsigned(),
        timeline: timeline.map_err(|_| PgError::unreadable(STEP, "timeline"))?,
    }))
}

/// The lineage of the transaction that is open on this connection; none on a standby.
pub async fn fetch_lineage(client: &Client) -> Result<Option<Lineage>, PgError> {
    let statement = read_lineage();
    let rows = client
        .query_typed(statement.sql, &statement.params)
        .await
        .map_err(PgError::statement(STEP))?;
    let row = rows
        .first()
        .ok_or_else(|| PgError::unreadable(STEP, "no row"))?;
    lineage_of(row)
}

/// The newest timeline that a server of the cluster was seen to write on. A primary that is still on an earlier one was
/// left behind by a promotion: what is written there is lost, and what is read there is old, so that neither is done.
#[derive(Debug, Default)]
pub struct NewestTimeline(AtomicU32);

impl NewestTimeline {
    /// One was seen.
    pub fn saw(&self, timeline: u32) {
        self.0.fetch_max(timeline, Ordering::Relaxed);
    }

    /// The newest; absent where none was seen.
    pub fn get(&self) -> Option<u32> {
        // Timelines count from 1.
        Some(self.0.load(Ordering::Relaxed)).filter(|timeline| *timeline > 0)
    }

    /// Fails where a lineage is earlier than the newest, which it else is.
    pub fn require(&self, lineage: Lineage) -> Result<(), PgError> {
        let newest = self.0.fetch_max(lineage.timeline, Ordering::Relaxed);
        if lineage.timeline < newest {
            return Err(PgError::NotPrimary {
                step: STEP,
                why: "a promotion has left it behind",
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lineage_is_taken_until_a_newer_one_was_seen() {
        let newest = NewestTimeline::default();
        let on = |timeline| Lineage {
            system_id: 7,
            timeline,
        };
        assert_eq!(newest.get(), None);
        assert!(newest.require(on(2)).is_ok());
        assert!(newest.require(on(1)).is_err());
        newest.saw(1);
        assert_eq!(newest.get(), Some(2));
        assert!(newest.require(on(2)).is_ok());
        newest.saw(3);
        assert!(newest.require(on(2)).is_err());
        assert!(newest.require(on(3)).is_ok());
    }
}
