//! What was there before the stream, read once, in short transactions, by a sink that may be stopped at any time.
//!
//! Events and names of entities are only ever added, so that what a snapshot sees can be read whenever: a row is of it if the
//! snapshot sees the transaction that wrote it. What it does not see the stream shows, and the stream leaves out what it sees.
//! Tenants and attributes change and are few: they are read as they are, and what the stream shows of them later is newer or
//! comes to the same.

use postgres_types::{FromSql, Type};
use sheaf_model::{ChangePosition, Lsn};
use sheaf_pg::{PgError, Pool, chain};
use sheaf_store::changes::{
    SnapshotPlace, SnapshotStep, StoredSink, list_ranges, read_snapshot_rows,
};
use tokio_postgres::Row as PgRow;

use crate::change::{Batch, Change, EVENTS, LATE, Origin, Part};
use crate::letter::{LetterReason, Unreadable, payload_of_row};
use crate::pgoutput::{Tuple, Value};
use crate::table::{Row, RowFault, Table};

/// Events that are read at once take so many bytes at most where they are stored, or are one.
const BYTES_MAX: i64 = 4 << 20;

/// Why a snapshot cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// PostgreSQL failed.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// A partition that it reads was taken out of the history.
    #[error("a partition was detached while the snapshot read it")]
    Detached,
    /// A table that lacks what is needed.
    #[error("a table as the snapshot reads it")]
    Table(#[source] RowFault),
}

/// Which transactions a snapshot sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    oldest: u64,
    next: u64,
    running: Vec<u64>,
    until: Lsn,
}

/// A text that PostgreSQL did not write as a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot such as 10:20:10,14")]
pub struct SeenFault;

impl Seen {
    /// Reads what PostgreSQL wrote; it sees nothing that committed at or after the position.
    pub fn read(snapshot: &str, until: Lsn) -> Result<Seen, SeenFault> {
        let mut parts = snapshot.split(':');
        let mut part = || parts.next().ok_or(SeenFault);
        let (oldest, next, running) = (part()?, part()?, part()?);
        let number = |text: &str| text.parse().map_err(|_| SeenFault);
        let running = running.split(',').filter(|text| !text.is_empty());
        Ok(Seen {
            oldest: number(oldest)?,
            next: number(next)?,
            running: running.map(number).collect::<Result<_, _>>()?,
            until,
        })
    }

    /// Whether it sees a transaction of the stream, of whose number that has only the lower half. The higher one follows from the
    /// position: transactions that commit before the snapshot was taken began less than half a cycle before it.
    pub fn sees(&self, position: ChangePosition, xid: u32) -> bool {
        if position.commit_lsn >= self.until {
            return false;
        }
        let next = u32::try_from(self.next & 0xFFFF_FFFF).expect("the lower half");
        let distance = i64::from(xid.wrapping_sub(next).cast_signed());
        let number = self.next.saturating_add_signed(distance);
        number < self.oldest || (number < self.next && !self.running.contains(&number))
    }
}

/// A snapshot that is being read.
#[derive(Debug)]
pub struct SnapshotReader {
    cdc: Pool,
    stored: StoredSink,
    place: SnapshotPlace,
    rows_max: i64,
    row_bytes_max: usize,
}

impl SnapshotReader {
    /// Reads on from a place: so many rows at once, none with more bytes than that.
    pub fn new(
        cdc: Pool,
        stored: StoredSink,
        place: SnapshotPlace,
        rows_max: i64,
        row_bytes_max: usize,
    ) -> SnapshotReader {
        SnapshotReader {
            cdc,
            stored,
            place,
            rows_max,
            row_bytes_max,
        }
    }

    /// Where it has come to.
    pub fn place(&self) -> &SnapshotPlace {
        &self.place
    }

    /// Reads the next rows. None where a table or partition has no more: the place is then in the next.
    pub async fn next(&mut self) -> Result<Option<Part>, SnapshotError> {
        let rows = read_snapshot_rows(
            &self.cdc,
            &self.stored,
            &self.place,
            self.rows_max,
            BYTES_MAX,
        )
        .await?;
        let mut place = self.place.clone();
        let mut changes = Vec::with_capacity(rows.len());
        let mut unreadable = Vec::new();
        let mut table = None;
        for row in &rows {
            place.ordinal += 1;
            let table = match &mut table {
                Some(table) => table,
                none => {
                    let read = table_of(place.step, row).map_err(SnapshotError::Table)?;
                    none.insert(read)
                }
            };
            match self.change(table, row, place.ordinal) {
                Ok(change) => changes.push(change),
                Err(row) => unreadable.push(*row),
            }
        }
        match rows.last() {
            Some(row) => pass(&mut place, row),
            None => self.leave(&mut place).await?,
        }
        self.place = place;
        let part = Part {
            batch: Batch {
                origin: Origin::Snapshot,
                changes,
                is_end: false,
            },
            unreadable,
        };
        Ok(part.last().is_some().then_some(part))
    }

    fn change(&self, table: &Table, row: &PgRow, ordinal: u64) -> Result<Change, Box<Unreadable>> {
        let values = (0..row.len()).map(|column| match row.get::<_, Option<Raw<'_>>>(column) {
            Some(raw) => Value::Binary(raw.0),
            None => Value::Null,
        });
        let row = Tuple {
            values: values.collect(),
        };
        let position = ChangePosition {
            ordinal,
            ..self.stored.base
        };
        let fault = match table.read(&row, true, self.row_bytes_max) {
            Ok(Row::Change(row)) => {
                return Ok(Change {
                    position,
                    xid: 0,
                    committed_at: self.stored.taken_at,
                    row,
                });
            }
            // Only tables that are for sinks are read here.
            Ok(Row::Beat(_) | Row::Other) => RowFault::Length {
                table: table.name().to_owned(),
                values: 0,
                columns: row.values.len(),
            },
            Err(fault) => fault,
        };
        let (payload, tenant) = payload_of_row(table, &row.values, true);
        Err(Box::new(Unreadable {
            position,
            xid: 0,
            committed_at: self.stored.taken_at,
            tenant,
            reason: LetterReason::of_row(&fault),
            detail: chain(&fault),
            payload,
        }))
    }

    /// On to what follows a table or partition that was read to its end.
    async fn leave(&self, place: &mut SnapshotPlace) -> Result<(), SnapshotError> {
        let next = match place.step {
            SnapshotStep::Tenants => SnapshotStep::Attributes,
            SnapshotStep::Attributes => SnapshotStep::Entities,
            SnapshotStep::Entities => SnapshotStep::Events,
            SnapshotStep::Events => {
                // A partition that is gone has no rows, which looks like its end.
                if let Some(range) = self.stored.ranges.get(place.range)
                    && !list_ranges(&self.cdc).await?.contains(range)
                {
                    return Err(SnapshotError::Detached);
                }
                if place.range + 1 < self.stored.ranges.len() {
                    *place =
                        SnapshotPlace::before(SnapshotStep::Events, place.range + 1, place.ordinal);
                    return Ok(());
                }
                SnapshotStep::Late
            }
            // After the others: what they correct is there.
            SnapshotStep::Late => SnapshotStep::Keyframes,
            SnapshotStep::Keyframes => SnapshotStep::Done,
            SnapshotStep::Done => return Ok(()),
        };
        *place = SnapshotPlace::before(next, 0, place.ordinal);
        Ok(())
    }
}

fn table_of(step: SnapshotStep, row: &PgRow) -> Result<Table, RowFault> {
    let name = match step {
        SnapshotStep::Tenants => "tenants",
        SnapshotStep::Attributes => "attributes",
        SnapshotStep::Entities => "entities",
        SnapshotStep::Events | SnapshotStep::Done => EVENTS,
        SnapshotStep::Late => LATE,
        SnapshotStep::Keyframes => "entity_keyframes",
    };
    let columns = row.columns().iter();
    let columns = columns.map(|column| (column.name().to_owned(), column.type_().oid()));
    Table::new(name.to_owned(), columns.collect())
}

/// The place of a row, by the key of its table.
fn pass(place: &mut SnapshotPlace, row: &PgRow) {
    place.tenant = row.get("tenant_id");
    match place.step {
        SnapshotStep::Tenants | SnapshotStep::Done => {}
        SnapshotStep::Attributes => place.number = row.get("attribute_id"),
        SnapshotStep::Entities => place.number = row.get("entity_id"),
        SnapshotStep::Keyframes => {
            place.number = row.get("entity_id");
            place.time = Some(row.get::<_, sheaf_pg::PgTime>("at").0);
        }
        SnapshotStep::Events | SnapshotStep::Late => {
            place.number = row.get("entity_id");
            place.time = Some(row.get::<_, sheaf_pg::PgTime>("observed_at").0);
            place.seq = row.get("seq");
        }
    }
}

/// A value as it was sent.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_seen_as_the_snapshot_says_and_only_before_its_end() {
        let cycle = 3u64 << 32;
        let text = format!(
            "{}:{}:{},{}",
            cycle + 100,
            cycle + 110,
            cycle + 100,
            cycle + 105
        );
        let seen = Seen::read(&text, Lsn(1000)).expect("a snapshot");
        let at = |commit_lsn| ChangePosition::before(1, Lsn(commit_lsn));
        for (xid, wanted) in [
            (99, true),
            (100, false),
            (101, true),
            (105, false),
            (109, true),
            (110, false),
            (5000, false),
            // Of the cycle before.
            (u32::MAX, true),
            (u32::MAX - 1000, true),
        ] {
            assert_eq!(seen.sees(at(999), xid), wanted, "{xid}");
            assert!(!seen.sees(at(1000), xid), "{xid} after its end");
        }
    }

    #[test]
    fn transactions_on_both_sides_of_a_new_cycle_are_told_apart() {
        let cycle = 1u64 << 32;
        let at = ChangePosition::before(1, Lsn(10));
        let after = format!("{}:{}:{}", cycle - 5, cycle + 3, cycle - 5);
        let before = format!("{}:{}:", cycle - 5, cycle - 2);
        for (text, xid, wanted) in [
            (&after, u32::MAX - 10, true),
            (&after, u32::MAX - 4, false),
            (&after, u32::MAX, true),
            (&after, 0, true),
            (&after, 2, true),
            (&after, 3, false),
            (&before, u32::MAX - 2, true),
            (&before, u32::MAX, false),
            (&before, 1, false),
        ] {
            let seen = Seen::read(text, Lsn(1000)).expect("a snapshot");
            assert_eq!(seen.sees(at, xid), wanted, "{xid} in {text}");
        }
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        for text in ["", "1", "1:2", "a:2:", "1:2:x"] {
            assert_eq!(Seen::read(text, Lsn(1)), Err(SeenFault), "{text}");
        }
        assert!(Seen::read("1:2:", Lsn(1)).is_ok());
    }
}
