//! Where changes go.

use std::future::Future;
use std::pin::Pin;

use sheaf_model::ChangePosition;

use crate::change::{Batch, Progress};
use crate::letter::{Letter, LetterReason, Refusal, Unreadable};

/// Why a sink could not do what was asked. What it holds after that, it says when it is asked again.
#[derive(Debug, thiserror::Error)]
#[error("sink {sink}: {step}")]
pub struct SinkError {
    /// The sink.
    pub sink: String,
    /// What was being attempted.
    pub step: &'static str,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What a sink's functions give back.
pub type SinkFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, SinkError>> + Send + 'a>>;

/// What a sink knows of what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It does not keep track: what was stored of it counts, and what it took after that it gets again.
    Untracked,
    /// Nothing that it could tell.
    Nothing,
    /// Everything up to there, durably.
    Until(Progress),
}

/// What becomes of a row that a sink cannot be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// It is a letter of the sink: a hole in what that holds until somebody decides.
    Letter,
    /// Nothing: the sink lacks nothing by it that could ever be given to it.
    Nothing,
}

/// Somewhere that changes go to, each once as a result.
///
/// Changes of each origin come in the order of their positions, and between the two origins there is no order. What a sink
/// holds durably it says with each answer; what it was sent after that, it is sent again after a restart. So whatever it
/// does must be recognised by position: a change at or before what it holds changes nothing. `conformance` checks it.
///
/// A future of these functions may be dropped before it ends. Then [`Sink::held`] is asked before anything else.
pub trait Sink: Send {
    /// Its name: that of its row in `change_sinks`, and of its metrics.
    fn name(&self) -> &str;

    /// Whether it begins with what was there before. One that does not gets what is committed from where it begins.
    fn needs_snapshot(&self) -> bool {
        true
    }

    /// What it holds. Asked before the first batch, and again after each error.
    fn held(&mut self) -> SinkFuture<'_, Held>;

    /// It goes on from here, as was decided from what it holds or, where it does not keep track, from what was stored of it.
    fn resume(&mut self, _from: Progress) {}

    /// Everything comes anew, beginning with a snapshot where it needs one: what it held before is no part of it.
    fn begin(&mut self, base: ChangePosition) -> SinkFuture<'_, ()>;

    /// Takes a batch. Gives back how far it holds durably now, which may be less than the batch.
    fn apply<'a>(&'a mut self, batch: &'a Batch) -> SinkFuture<'a, Progress>;

    /// Whether it takes more of the stream for now. One that does not is asked to go on with what it has, as where nothing follows, until it
    /// does; a snapshot that goes on is given on all the same. For longer than a moment, the log holds what it has no room for.
    fn has_room(&self) -> bool {
        true
    }

    /// Which changes of the batch that it was given last it cannot take, and why; each is said once. Asked after each
    /// [`Sink::apply`]. They count as taken, but nothing is made durable from the first of them on before the sink is called
    /// again: until then they are nowhere else.
    fn take_refused(&mut self) -> Vec<Refusal> {
        Vec::new()
    }

    /// A row came that cannot be read. Its place counts as taken.
    fn missed(&mut self, _row: &Unreadable) -> Missed {
        Missed::Letter
    }

    /// Takes changes again that it could not take, or could not be given, when it was their turn, and makes them durable. How far it
    /// holds what it was sent stays as it is. What it has taken it recognises when it is offered again, as after a crash, and a
    /// later row of a catalogue stays. Gives back those that it still cannot take.
    fn replay<'a>(&'a mut self, letters: &'a [Letter]) -> SinkFuture<'a, Vec<Refusal>> {
        let refusals = letters.iter().map(|letter| Refusal {
            position: letter.change.position,
            reason: LetterReason::OutOfOrder,
            detail: "the sink takes changes in their order alone".to_owned(),
        });
        let refusals: Vec<Refusal> = refusals.collect();
        Box::pin(async move { Ok(refusals) })
    }

    /// How many letters it is offered at once: what it does in one go, well within the time that it may take.
    fn letters_max(&self) -> usize {
        200
    }

    /// Makes everything durable that it was given.
    fn flush(&mut self) -> SinkFuture<'_, Progress>;

    /// Does what is due. Asked each moment in which nothing follows; a sink that gathers what it is given may go on with that,
    /// but makes it durable after some of them.
    fn idle(&mut self) -> SinkFuture<'_, Progress> {
        self.flush()
    }

    /// Its snapshot has come to its end: what it is given from here on follows what it was given. Said after each
    /// [`Sink::held`] anew, and never before the last row of the snapshot.
    fn follow(&mut self) {}

    /// Nobody feeds it for now, and another process may feed its own: it lets go of what only one can have open. Said when a
    /// stream is not followed any more; then [`Sink::held`] is asked before anything else.
    fn leave(&mut self) -> SinkFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
