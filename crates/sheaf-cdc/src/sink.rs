//! Where changes go.

use std::future::Future;
use std::pin::Pin;

use sheaf_model::ChangePosition;

use crate::change::{Batch, Progress};

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

    /// What it holds. Asked before the first batch, and again after each error.
    fn held(&mut self) -> SinkFuture<'_, Held>;

    /// It goes on from here, as was decided from what it holds or, where it does not keep track, from what was stored of it.
    fn resume(&mut self, _from: Progress) {}

    /// Everything comes anew, beginning with a snapshot: what it held before is no part of it.
    fn begin(&mut self, base: ChangePosition) -> SinkFuture<'_, ()>;

    /// Takes a batch. Gives back how far it holds durably now, which may be less than the batch.
    fn apply<'a>(&'a mut self, batch: &'a Batch) -> SinkFuture<'a, Progress>;

    /// Makes everything durable that it was given. Asked when nothing follows for a moment.
    fn flush(&mut self) -> SinkFuture<'_, Progress>;
}
