//! Changes that had no place in the lake when it was their turn, and are offered again.
//!
//! An event takes its place among those of its instant, which may be there already: it waits like a correction, and is applied like
//! one, with a look at what is there. A row of a catalogue is merged with what is there by its position.

use sheaf_cdc::change::{Catalogue, ChangedRow, EventRow};
use sheaf_cdc::column::ColumnValue;
use sheaf_cdc::letter::{Letter, Refusal};
use sheaf_store::lake::{CorrectionKey, LakeCorrection};

use super::LakeSink;
use super::intake::{refusal_of, stored_row};
use crate::error::LakeError;
use crate::pending::Pending;
use crate::rewrite::Prepared;
use crate::rows::RowFault;

impl LakeSink {
    /// Takes letters, and commits them with everything that waits. Gives back those that still have no place.
    pub(super) async fn take_letters(
        &mut self,
        letters: &[Letter],
    ) -> Result<Vec<Refusal>, LakeError> {
        let mut filling = self.open.take().ok_or(LakeError::NotAsked)?;
        let mut refused = Vec::new();
        let mut prepared = Prepared::default();
        for letter in letters {
            let position = letter.change.position;
            let taken = match &letter.change.row {
                ChangedRow::Event(event) => {
                    // To see whether it can be read: it is read again when it is applied.
                    let read = self.put_event(&mut Pending::default(), event).await?;
                    let read = read.map_err(|source| LakeError::Event { position, source });
                    read.map(|()| prepared.noted.push(correction(event)))
                }
                ChangedRow::Catalogue(row) if row.catalogue == Catalogue::Keyframes => {
                    let read = self.put_keyframe(&mut filling.pending, row).await?;
                    read.map_err(|source| LakeError::Event { position, source })
                }
                ChangedRow::Catalogue(row) => {
                    let lacks_a_value = row.values.contains(&ColumnValue::Unchanged);
                    let read = if lacks_a_value {
                        let source = RowFault::Unchanged("of a letter");
                        Err(LakeError::Row { position, source })
                    } else {
                        stored_row(row, position)
                    };
                    read.map(|mut stored| {
                        self.learn(row);
                        // A later one may be there.
                        stored.is_new = false;
                        filling.pending.push_row(row.catalogue, stored);
                    })
                }
            };
            refused.extend(refusal_of(taken)?);
        }
        // What was made beside stays for the next commit.
        if refused.len() < letters.len() {
            filling = self.commit_with(filling, prepared).await?;
        }
        self.open = Some(filling);
        Ok(refused)
    }
}

fn correction(event: &EventRow) -> LakeCorrection {
    LakeCorrection {
        key: CorrectionKey {
            observed_at: event.observed_at,
            tenant: event.tenant,
            entity: event.entity,
            seq: event.seq,
        },
        op: event.op,
        batch: event.batch,
        ingested_at: event.ingested_at,
        attrs: event.attrs.clone(),
    }
}
