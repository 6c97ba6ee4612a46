//! Waiting for a condition, never for time.

use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(10);

/// Asks `holds` until it says yes.
///
/// # Panics
/// With the claim, if it does not hold within the time.
pub async fn wait_until(claim: &str, within: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {within:?}: {claim}");
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_returns_once_the_condition_holds() {
        let mut asked = 0;
        wait_until("asked thrice", Duration::from_secs(10), async || {
            asked += 1;
            asked == 3
        })
        .await;
        assert_eq!(asked, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "pigs fly")]
    async fn it_panics_with_the_claim() {
        wait_until("pigs fly", Duration::from_millis(20), async || false).await;
    }
}
