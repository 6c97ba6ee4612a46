//! What a sink cannot take: kept before anything after it is, and offered again when somebody asks.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use sheaf_model::{ChangePosition, LetterId, Timestamp};
use sheaf_store::changes::SnapshotStep;
use sheaf_store::dead_letters::{
    AskedLetter, NewLetter, RefusedLetter, WaitingLetters, count_waiting_letters,
    discard_earlier_letters, keep_letters, list_asked_letters, list_letter_positions,
    refuse_replayed, settle_replayed,
};
use tokio::time::Instant;

use super::{Lane, LaneError, Track, within};
use crate::change::{Batch, Change, Origin};
use crate::letter::{
    Letter, LetterReason, PAYLOAD_BYTES_MAX, Refusal, Unreadable, payload_of, read_payload,
    tenant_of,
};
use crate::sink::Missed;

/// Letters of a sink that may wait. A sink that refuses more is to be mended, and not its changes; all of them are offered again within
/// minutes.
const WAITING_MAX: u64 = 10_000;
/// Bytes that they may be.
const WAITING_BYTES_MAX: u64 = 1 << 30;
/// Places of letters that are remembered of what may be sent again: all that can wait, and as many that were settled meanwhile.
const LISTED_MAX: i64 = 20_000;
/// Letters that are offered before the stream goes on.
const OFFERED_MAX: usize = 1_000;
/// How long that may take, but for the last of them.
const OFFER_MAX: Duration = Duration::from_secs(10);

/// A letter that is to be kept, and its reason.
pub(super) type Kept = (LetterReason, NewLetter);

/// A row as a letter of its sink.
fn kept(row: Unreadable, origin: Origin) -> Kept {
    let letter = NewLetter {
        is_of_snapshot: origin == Origin::Snapshot,
        position: row.position,
        xid: row.xid,
        committed_at: row.committed_at,
        tenant: row.tenant,
        reason: row.reason.as_str(),
        detail: row.detail,
        payload: row.payload.text,
        is_whole: row.payload.is_whole,
    };
    (row.reason, letter)
}

/// The changes of a batch that its sink has refused.
pub(super) fn of_refused(batch: &Batch, refusals: Vec<Refusal>) -> Vec<Kept> {
    let changes: HashMap<ChangePosition, &Change> = batch
        .changes
        .iter()
        .map(|change| (change.position, change))
        .collect();
    let letters = refusals.into_iter().filter_map(|refusal| {
        // One that it was not given is no letter.
        let change = changes.get(&refusal.position)?;
        let row = Unreadable {
            position: change.position,
            xid: change.xid,
            committed_at: change.committed_at,
            tenant: tenant_of(change),
            reason: refusal.reason,
            detail: refusal.detail,
            payload: payload_of(change),
        };
        Some(kept(row, batch.origin))
    });
    letters.collect()
}

impl Lane {
    /// Lets go of what waits for the sink, which begins anew: what there still is of it comes again.
    pub(super) async fn begin_letters(&mut self, base: ChangePosition) -> Result<(), LaneError> {
        let (slot, sink) = (&self.reader.slot, self.sink.name());
        let now = Timestamp::now();
        let letters = discard_earlier_letters(&self.cdc, slot, sink, base, now).await?;
        if letters > 0 {
            tracing::warn!(
                sink,
                letters,
                "dead letters of a sink that begins anew are discarded, as what they are about is no part of it any more"
            );
        }
        Ok(())
    }

    /// Tells the sink of rows that cannot be read. Gives back those that are letters of it.
    pub(super) fn missed<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a Unreadable>,
        origin: Origin,
    ) -> Vec<Kept> {
        let are_letters = rows.filter(|row| self.sink.missed(row) == Missed::Letter);
        are_letters.map(|row| kept(row.clone(), origin)).collect()
    }

    /// Where letters are of what comes after this position.
    pub(super) async fn list_letters(
        &mut self,
        after: Option<ChangePosition>,
    ) -> Result<BTreeSet<ChangePosition>, LaneError> {
        let (slot, sink) = (&self.reader.slot, self.sink.name());
        let listed = list_letter_positions(&self.cdc, slot, sink, after, LISTED_MAX).await?;
        Ok(listed.into_iter().collect())
    }

    /// Keeps letters durably, or fails: then the sink is sent again what they are about.
    pub(super) async fn keep(
        &mut self,
        track: &mut Track,
        kept: Vec<Kept>,
    ) -> Result<(), LaneError> {
        let Some((reason, first)) = kept.first() else {
            return Ok(());
        };
        let sink = self.sink.name();
        let (letters, reason) = (kept.len(), reason.as_str());
        tracing::warn!(
            sink,
            letters,
            reason,
            position = first.position.to_string(),
            detail = first.detail,
            "a sink cannot take some changes, which are kept as dead letters"
        );
        let more = u64::try_from(letters).unwrap_or(u64::MAX);
        let bytes = kept.iter().map(|(_, letter)| letter.payload.len());
        let bytes = u64::try_from(bytes.sum::<usize>()).unwrap_or(u64::MAX);
        let waiting = self.count_waiting().await?;
        let is_full = waiting.waiting.saturating_add(more) > WAITING_MAX
            || waiting.payload_bytes.saturating_add(bytes) > WAITING_BYTES_MAX;
        if is_full {
            // The sink must not be called before what it has refused is kept: room is made when it is tried again.
            return Err(LaneError::Full(waiting.waiting));
        }
        let sink = self.sink.name();
        let (reasons, letters): (Vec<_>, Vec<_>) = kept.into_iter().unzip();
        if !keep_letters(&self.cdc, &self.reader, sink, &letters, Timestamp::now()).await? {
            return Err(LaneError::Fenced);
        }
        for reason in reasons {
            track.letters.add(reason);
        }
        track.holes = Some(waiting.waiting + more);
        Ok(())
    }

    /// Counts what the sink lacks, and offers it again what somebody has asked for. Only once its snapshot is stored: until then
    /// it may be sent anew what it took out of order. A lane that is to end offers no more of them.
    pub(super) async fn look_at_letters(&mut self, track: &mut Track) -> Result<(), LaneError> {
        let mut waiting = self.count_waiting().await?;
        let is_stored = track.snapshot.place().step == SnapshotStep::Done;
        if waiting.asked > 0 && is_stored && self.sink.has_room() {
            let (until, mut left) = (Instant::now() + OFFER_MAX, OFFERED_MAX);
            while left > 0 && Instant::now() < until && !self.batches.is_closed() {
                let offered = self.replay(left).await?;
                if offered == 0 {
                    break;
                }
                left = left.saturating_sub(offered);
            }
            waiting = self.count_waiting().await?;
        }
        track.holes = Some(waiting.waiting);
        Ok(())
    }

    async fn count_waiting(&mut self) -> Result<WaitingLetters, LaneError> {
        let (slot, sink) = (&self.reader.slot, self.sink.name());
        Ok(count_waiting_letters(&self.cdc, slot, sink).await?)
    }

    /// Offers the sink some of the letters that somebody has asked for. Gives back how many, at most so many.
    async fn replay(&mut self, most: usize) -> Result<usize, LaneError> {
        let (slot, name) = (&self.reader.slot, self.sink.name().to_owned());
        let bytes_max = i64::try_from(PAYLOAD_BYTES_MAX).unwrap_or(i64::MAX);
        let letters_max = i64::try_from(self.sink.letters_max().min(most)).unwrap_or(i64::MAX);
        let asked = list_asked_letters(&self.cdc, slot, &name, letters_max, bytes_max).await?;
        let count = asked.len();
        let mut letters = Vec::with_capacity(count);
        let mut refused = Vec::new();
        for asked in asked {
            match self.read(asked) {
                Ok(letter) => letters.push(letter),
                Err(letter) => refused.push(letter),
            }
        }
        let mut taken: HashMap<ChangePosition, LetterId> = letters
            .iter()
            .map(|letter| (letter.change.position, letter.id))
            .collect();
        if !letters.is_empty() {
            let replayed = self.sink.replay(&letters);
            for refusal in within(self.options.sink_max, replayed).await? {
                if let Some(id) = taken.remove(&refusal.position) {
                    refused.push(RefusedLetter {
                        id,
                        reason: refusal.reason.as_str(),
                        detail: refusal.detail,
                    });
                }
            }
        }
        let now = Timestamp::now();
        let taken: Vec<LetterId> = taken.into_values().collect();
        if !taken.is_empty() {
            settle_replayed(&self.cdc, &taken, now).await?;
        }
        if !refused.is_empty() {
            refuse_replayed(&self.cdc, &refused, now).await?;
        }
        let (sink, taken, refused) = (name, taken.len(), refused.len());
        if count > 0 {
            tracing::info!(sink, taken, refused, "dead letters were offered again");
        }
        Ok(count)
    }

    /// A letter as a change, or why it is none yet.
    fn read(&self, asked: AskedLetter) -> Result<Letter, RefusedLetter> {
        let refused = |reason: LetterReason, detail: String| RefusedLetter {
            id: asked.id,
            reason: reason.as_str(),
            detail,
        };
        if !asked.is_whole {
            let detail = "only the beginnings of its values were kept";
            return Err(refused(LetterReason::TooLarge, detail.to_owned()));
        }
        let bytes_max = self.options.row_bytes_max;
        let row = read_payload(&asked.payload, bytes_max).map_err(|fault| {
            let detail = sheaf_pg::chain(&fault);
            refused(fault.reason(), detail)
        })?;
        let origin = match asked.is_of_snapshot {
            true => Origin::Snapshot,
            false => Origin::Stream,
        };
        Ok(Letter {
            id: asked.id,
            origin,
            change: Change {
                position: asked.position,
                xid: asked.xid,
                committed_at: asked.committed_at,
                row,
            },
        })
    }
}
