//! How fast and how many at once calls go to the API server: 10,000 sleeping services that are asked for in one second must
//! not take it down.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

/// A bucket of tokens that fills at a constant rate.
#[derive(Debug)]
struct Bucket {
    /// Seconds per token.
    every: f64,
    /// Tokens at most.
    burst: f64,
    /// Tokens at `at`; below 0 some have been promised already.
    tokens: f64,
    at: Duration,
}

impl Bucket {
    fn new(rate: f64, burst: u32) -> Self {
        let burst = f64::from(burst.max(1));
        Self {
            every: 1.0 / rate.max(f64::MIN_POSITIVE),
            burst,
            tokens: burst,
            at: Duration::ZERO,
        }
    }

    /// Takes a token; the caller may use it after so long.
    fn take(&mut self, now: Duration) -> Duration {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed / self.every).min(self.burst) - 1.0;
        Duration::try_from_secs_f64((-self.tokens * self.every).max(0.0)).unwrap_or(Duration::MAX)
    }
}

/// Bounds calls in number and rate. Fair: in the order of asking.
#[derive(Debug)]
pub(crate) struct Limiter {
    places: Semaphore,
    bucket: Mutex<Bucket>,
    epoch: Instant,
}

impl Limiter {
    /// At most `at_once` calls side by side, and `rate` a second once `burst` of them were made.
    pub(crate) fn new(at_once: usize, rate: f64, burst: u32) -> Self {
        Self {
            places: Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS)),
            bucket: Mutex::new(Bucket::new(rate, burst)),
            epoch: Instant::now(),
        }
    }

    /// The right to make one call, until it is dropped. Cancelled while it waits it has used up its token.
    pub(crate) async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed, so there is always one in the end.
        let place = self.places.acquire().await.ok();
        let pause = self.bucket.lock().take(self.epoch.elapsed());
        tokio::time::sleep(pause).await;
        place
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn in_any_time_no_more_than_the_burst_and_the_rate_are_let_through(
            gaps in proptest::collection::vec(0u64..50, 1..200),
            rate in 1u32..100,
            burst in 1u32..50,
        ) {
            let mut bucket = Bucket::new(f64::from(rate), burst);
            let mut now = Duration::ZERO;
            let mut used: Vec<Duration> = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                used.push(now + bucket.take(now));
            }
            used.sort_unstable();
            for (first, start) in used.iter().enumerate() {
                for (last, end) in used.iter().enumerate().skip(first) {
                    let most = f64::from(burst) + end.saturating_sub(*start).as_secs_f64() * f64::from(rate) + 1.001;
                    prop_assert!((last - first + 1) as f64 <= most);
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn past_the_burst_calls_go_at_the_rate() {
        let limiter = Limiter::new(100, 10.0, 5);
        let began = Instant::now();
        for _ in 0..5 {
            limiter.enter().await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        for _ in 0..10 {
            limiter.enter().await;
        }
        assert!(
            (began.elapsed().as_secs_f64() - 1.0).abs() < 0.02,
            "{:?}",
            began.elapsed()
        );
    }
}
