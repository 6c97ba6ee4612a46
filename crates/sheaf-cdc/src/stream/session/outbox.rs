//! The batch that waits for lanes to have room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::lanes::LaneHandle;
use crate::change::Part;
use crate::status::Counted;

/// A batch that some lanes have not been given yet.
pub(super) struct Outbox {
    pub(super) batch: Arc<Counted<Part>>,
    pub(super) left: VecDeque<usize>,
    /// Since when the first of them has been waited for.
    pub(super) since: Instant,
}

/// Gives the batch that waits to the next lane that lacks it, once that has room. Gives back the lane that has had none for so long
/// that it goes without, as others have some.
pub(super) async fn give_next(
    outbox: &mut Option<Outbox>,
    lanes: &[LaneHandle],
    room_max: Duration,
) -> Option<usize> {
    let waiting = outbox.as_mut()?;
    let mut without_room = None;
    if let Some(place) = waiting.left.front().copied()
        && lanes[place].is_fed()
        && let Some(batches) = &lanes[place].batches
    {
        // A lane that has ended takes no more, which is found where it is joined. Dropped before it is done, nothing was sent.
        let sent = batches.send(Arc::clone(&waiting.batch));
        if timeout_at(waiting.since + room_max, sent).await.is_err() {
            waiting.since = Instant::now();
            let has_room = |lane: &LaneHandle| {
                let batches = lane.batches.as_ref();
                lane.is_fed() && batches.is_some_and(|batches| batches.capacity() > 0)
            };
            if !lanes.iter().any(has_room) {
                return None;
            }
            without_room = Some(place);
        }
    }
    waiting.left.pop_front();
    waiting.since = Instant::now();
    if waiting.left.is_empty() {
        *outbox = None;
    }
    without_room
}
