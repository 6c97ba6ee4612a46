//! The part of an answer's promise that a lane's commit does not keep: what is to be replicated waits for a standby.
//!
//! A lane commits on the primary alone. The wait comes after all of a request is committed, and for one that was found
//! in the ledger or brought nothing new just the same: a repetition is not acknowledged more cheaply than the first.

use std::time::Duration;

use sheaf_model::Position;
use sheaf_pg::Fence;
use tokio::time::Instant;

use crate::request::{Ack, WriteError};

/// How long a request waits for a standby. Half of what a request may take altogether: a standby in another place
/// confirms in a fraction of a second, one that restarts in a few seconds.
const STANDBY_WAIT_MAX: Duration = Duration::from_secs(10);

/// Refuses before anything is written what cannot be promised now.
pub(crate) async fn require(fence: &Fence, ack: Ack) -> Result<(), WriteError> {
    match ack {
        Ack::Durable | Ack::Staged => Ok(()),
        Ack::Replicated if fence.has_standby().await? => Ok(()),
        Ack::Replicated => Err(WriteError::NoStandby),
    }
}

/// Returns once what was committed up to this position is as safe as the answer says. It holds nothing that others wait
/// for, and neither may its caller.
pub(crate) async fn keep(fence: &Fence, ack: Ack, committed: Position) -> Result<(), WriteError> {
    match ack {
        Ack::Durable | Ack::Staged => Ok(()),
        Ack::Replicated => {
            let deadline = Instant::now() + STANDBY_WAIT_MAX;
            fence.wait(committed, deadline).await?;
            Ok(())
        }
    }
}
