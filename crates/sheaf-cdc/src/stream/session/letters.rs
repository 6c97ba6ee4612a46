//! What is forgotten of letters that are settled: of all sinks at once, by whoever follows the slot.

use std::time::Duration;

use sheaf_model::Timestamp;
use sheaf_store::dead_letters::empty_settled_letters;
use tokio::time::Instant;

use super::Session;
use crate::feed::Feed;
use crate::stream::StreamError;

/// How long the row of a settled letter is kept: for whoever finds out that it should not have been.
const SETTLED_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often it is looked for rows that were kept for so long, where none was found.
const EMPTY_EVERY: Duration = Duration::from_secs(3600);

impl<F: Feed> Session<F> {
    /// Forgets some of the rows that were kept long enough, if it is time.
    pub(super) async fn empty_letters(&mut self) -> Result<(), StreamError> {
        if self.empty_letters_at > Instant::now() {
            return Ok(());
        }
        let kept = i64::try_from(SETTLED_KEPT.as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp::now().saturating_add_micros(-kept);
        if empty_settled_letters(&self.cdc, before).await? == 0 {
            self.empty_letters_at = Instant::now() + EMPTY_EVERY;
        }
        Ok(())
    }
}
