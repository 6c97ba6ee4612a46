//! One series of all entities: their instants by time, or buckets over all of them.

use sheaf_model::{EntityId, Timestamp};
use sheaf_store::events::{HistoryRow, history_of};
use sheaf_store::histories::{HistoriesOf, SharedPlace, SharedWalk};
use sheaf_store::snapshot::limit_time;

use super::{Attempted, ENTITIES_MAX, Filling, SeriesEntry, SeriesItem};
use crate::buckets::Series;
use crate::cursor::Keyset;
use crate::error::ReadError;
use crate::history::item_of_instant;
use crate::list::Member;
use crate::reader::STATEMENT_TIME_MAX;
use crate::selection::Selection;

/// Rows of one step of a walk.
const STEP_ROWS: usize = 250;
/// Bytes of rows, as text, after which a page ends early.
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Attempted<'_> {
    pub(super) async fn fill_shared(
        &self,
        series: Option<&Series<'_>>,
        place: Option<(Timestamp, EntityId, i16)>,
        filling: &mut Filling,
    ) -> Result<(), ReadError> {
        let members = self.next_members(None, ENTITIES_MAX + 1).await?;
        if members.len() > ENTITIES_MAX {
            return Err(ReadError::QueryLimit {
                detail: "10000 entities in one series; narrow the filter or group by entity",
                source: None,
            });
        }
        match series {
            Some(series) => {
                let items = self.shared_buckets(series, &members).await?;
                let after = place.map(|(time, _, _)| time);
                let mut items = items
                    .into_iter()
                    .filter(|item| after.is_none_or(|after| item.from > after));
                for item in items.by_ref().take(self.limit) {
                    filling.items.push(SeriesItem {
                        entity: None,
                        entry: SeriesEntry::Bucket(item),
                    });
                }
                if items.next().is_some() {
                    let last = filling.items.last().and_then(SeriesItem::bucket_start);
                    filling.next = last.map(|start| keyset(start, EntityId(0), 0));
                }
                Ok(())
            }
            None => self.fill_instants(&members, place, filling).await,
        }
    }

    async fn fill_instants(
        &self,
        members: &[Member],
        place: Option<(Timestamp, EntityId, i16)>,
        filling: &mut Filling,
    ) -> Result<(), ReadError> {
        let names = Some(self.query.attributes.as_slice());
        let selection = Selection::resolve_attributes(names, self.catalogue)?;
        let keys = selection.keys().unwrap_or_default();
        let entities = members.iter().map(|member| member.entity);
        let to = self.query.to.unwrap_or(Timestamp::MAX);
        let of = HistoriesOf::new(self.scope.tenant(), entities, (self.query.from, to));
        let (observed_at, entity, seq) = place.unwrap_or((self.query.from, EntityId(i64::MIN), -1));
        let mut place = SharedPlace {
            observed_at,
            entity,
            seq,
        };
        let rows_max = i64::try_from(STEP_ROWS).expect("a small number");
        let (mut pending, mut bytes): (Vec<(EntityId, HistoryRow)>, usize) = (Vec::new(), 0);
        loop {
            let walk = SharedWalk::from(place);
            let statements = vec![
                limit_time(&STATEMENT_TIME_MAX),
                of.walk(&walk, &keys, &rows_max),
            ];
            let rows = self.source.run(self.scope, statements).await?;
            for row in &rows[1] {
                bytes += row.raw_size_bytes();
                let entity = EntityId(row.get("entity_id"));
                let row = history_of(row, self.catalogue)?;
                let (observed_at, seq) = (row.row.observed_at, row.row.seq);
                let is_next = pending.last().is_some_and(|(pending, history)| {
                    *pending != entity || history.row.observed_at != observed_at
                });
                if is_next {
                    // Full only now: whether there is more is known by its first row.
                    let is_long = bytes > PAGE_BYTES_MAX;
                    let end = (place.observed_at, place.entity);
                    self.close(&mut pending, &selection, filling)?;
                    if filling.items.len() == self.limit || is_long {
                        filling.next = Some(keyset(end.0, end.1, i16::MAX));
                        return Ok(());
                    }
                }
                pending.push((entity, row));
                place = SharedPlace {
                    observed_at,
                    entity,
                    seq,
                };
            }
            if rows[1].len() < STEP_ROWS {
                return self.close(&mut pending, &selection, filling);
            }
        }
    }

    /// Makes an item of the rows of one instant of one entity.
    fn close(
        &self,
        pending: &mut Vec<(EntityId, HistoryRow)>,
        selection: &Selection,
        filling: &mut Filling,
    ) -> Result<(), ReadError> {
        let rows: Vec<HistoryRow> = pending.drain(..).map(|(_, row)| row).collect();
        if let Some(item) = item_of_instant(&rows, selection, self.catalogue)? {
            filling.items.push(SeriesItem {
                entity: None,
                entry: SeriesEntry::Instant(item),
            });
        }
        Ok(())
    }
}

fn keyset(time: Timestamp, entity: EntityId, seq: i16) -> Keyset {
    vec![
        Some(time.as_micros().to_string()),
        Some(entity.to_string()),
        Some(seq.to_string()),
    ]
}
