//! Work that keeps a thread busy, where that hinders nobody.

use crate::error::LakeError;

/// Runs it on a thread for such work. It goes on to its end when nobody waits for it any more.
pub(crate) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LakeError> + Send + 'static,
) -> Result<T, LakeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
        Err(_) => Err(LakeError::Ending),
    }
}
