//! Waiting for what other processes do. They cannot be waited on, so these poll, always with a deadline.

use std::time::Duration;

use tokio::time::Instant;

/// How long a test waits for something that has to happen but whose speed it does not judge.
pub const LIMIT: Duration = Duration::from_mins(1);

const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `condition` holds and returns how long that took. Panics, naming `what`, when it does not hold within `limit`.
pub async fn until(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    eventually(what, limit, async || condition().await.then_some(())).await;
    start.elapsed()
}

/// Waits until `probe` finds something and returns it. Panics, naming `what`, when it finds nothing within `limit`.
pub async fn eventually<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
