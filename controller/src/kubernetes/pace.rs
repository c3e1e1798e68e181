//! A bound on writes to the API server: a token bucket that everybody who is not in a hurry waits for.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// So many writes a second, and after a pause so many at once. Waiters go in the order in which they came; their number is
/// bounded by the reconciliations that run.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    burst: Duration,
    /// When the bucket would be full if it were emptied no more.
    next: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self {
            interval,
            burst: interval * burst.max(1),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Resolves when one write may be made. Dropping the future leaves its turn unused.
    pub(crate) async fn take(&self) {
        let at = {
            let (mut next, now) = (self.next.lock(), Instant::now());
            *next = (*next).max(now) + self.interval;
            (*next).checked_sub(self.burst).unwrap_or(now)
        };
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_the_rest_goes_at_the_rate() {
        let (pace, start) = (Pace::new(10, 5), Instant::now());
        for _ in 0..5 {
            pace.take().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..10 {
            pace.take().await;
        }
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }
}
