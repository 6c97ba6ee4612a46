//! Work that keeps a thread busy, where that hinders nobody.

use tokio::task::JoinError;

use crate::error::LakeError;

/// Runs it on a thread for such work. It goes on to its end when nobody waits for it any more.
pub(crate) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LakeError> + Send + 'static,
) -> Result<T, LakeError> {
    outcome_of(tokio::task::spawn_blocking(work).await)
}

/// What a task came to. Its panic is that of whoever waited for it.
pub(crate) fn outcome_of<T>(
    ended: Result<Result<T, LakeError>, JoinError>,
) -> Result<T, LakeError> {
    match ended {
        Ok(outcome) => outcome,
        Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
        Err(_) => Err(LakeError::Ending),
    }
}
