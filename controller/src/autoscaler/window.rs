//! One-second buckets of concurrency, averaged as Knative's linear windows are.

use std::{collections::VecDeque, time::Duration};

/// Averages are rounded to this many parts, so that sums of floats compare equal however they came about.
const PARTS: f64 = 1e6;

/// Recorded seconds, oldest first, as many as two windows hold (the second tells whether the first is a partial one).
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    seconds: VecDeque<(u64, f64)>,
    window: u64,
}

impl Buckets {
    /// Keeps what averages over up to `window` need.
    pub(super) fn new(window: Duration) -> Self {
        Self {
            seconds: VecDeque::new(),
            window: window.as_secs().max(1),
        }
    }

    /// Changes how much is kept.
    pub(super) fn set_window(&mut self, window: Duration) {
        self.window = window.as_secs().max(1);
        self.forget();
    }

    /// Whether nothing was ever recorded.
    pub(super) fn is_empty(&self) -> bool {
        self.seconds.is_empty()
    }

    /// Adds to the bucket of `time`.
    pub(super) fn record(&mut self, time: Duration, value: f64) {
        let second = time.as_secs();
        let at = self.seconds.partition_point(|&(other, _)| other < second);
        match self.seconds.get_mut(at) {
            Some((found, sum)) if *found == second => *sum += value,
            _ => self.seconds.insert(at, (second, value)),
        }
        self.forget();
    }

    /// Drops what no average can reach.
    fn forget(&mut self) {
        let Some(&(newest, _)) = self.seconds.back() else {
            return;
        };
        while self
            .seconds
            .front()
            .is_some_and(|&(second, _)| second + 2 * self.window <= newest)
        {
            self.seconds.pop_front();
        }
    }

    /// The sum of the valid buckets over their number: those since the first write, at most the window; gaps between
    /// them count as zero, the silence after the last write shortens the window instead.
    pub(super) fn average(&self, now: Duration, window: Duration) -> f64 {
        let (now, window) = (now.as_secs(), window.as_secs().max(1));
        let Some(&(last, _)) = self.seconds.back() else {
            return 0.0;
        };
        let silence = now.saturating_sub(last);
        if silence >= window {
            return 0.0;
        }
        let start = self
            .seconds
            .partition_point(|&(second, _)| second + window <= now.max(last));
        let Some(&(oldest, _)) = self.seconds.get(start) else {
            return 0.0;
        };
        let sum: f64 = self.seconds.range(start..).map(|&(_, value)| value).sum();
        // A write less than a window before the oldest valid bucket means that the window was full before.
        let whole = start.checked_sub(1).and_then(|before| self.seconds.get(before));
        let full = whole.is_some_and(|&(before, _)| oldest - before < window);
        let buckets = if full { window - silence } else { last - oldest + 1 };
        (sum / buckets as f64 * PARTS).round() / PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(values: &[(u64, f64)]) -> Buckets {
        let mut buckets = Buckets::new(Duration::from_secs(10));
        for &(second, value) in values {
            buckets.record(Duration::from_secs(second), value);
        }
        buckets
    }

    fn average(buckets: &Buckets, now: u64, window: u64) -> f64 {
        buckets.average(Duration::from_secs(now), Duration::from_secs(window))
    }

    #[test]
    fn a_partial_window_averages_over_what_exists() {
        let buckets = buckets(&[(3, 4.0), (4, 2.0)]);
        assert_eq!(average(&buckets, 4, 10), 3.0);
    }

    #[test]
    fn a_full_window_forgets_older_seconds() {
        let all: Vec<_> = (0..30).map(|second| (second, second as f64)).collect();
        assert_eq!(average(&buckets(&all), 29, 10), 24.5);
    }

    #[test]
    fn sources_of_one_second_add_up() {
        assert_eq!(average(&buckets(&[(3, 4.0), (3, 2.0)]), 3, 10), 6.0);
    }

    #[test]
    fn a_gap_between_writes_counts_as_zero() {
        assert_eq!(average(&buckets(&[(0, 3.0), (2, 3.0)]), 2, 10), 2.0);
    }

    #[test]
    fn silence_after_the_last_write_shortens_the_window() {
        let all: Vec<_> = (0..20).map(|second| (second, 1.0)).collect();
        assert_eq!(average(&buckets(&all), 24, 10), 1.0);
    }

    #[test]
    fn silence_of_a_whole_window_is_zero_and_starts_again() {
        let mut buckets = buckets(&[(0, 8.0), (1, 8.0)]);
        assert_eq!(average(&buckets, 11, 10), 0.0);
        buckets.record(Duration::from_secs(20), 2.0);
        assert_eq!(average(&buckets, 20, 10), 2.0);
    }

    #[test]
    fn the_memory_is_bounded_by_two_windows() {
        let all: Vec<_> = (0..1000).map(|second| (second, 1.0)).collect();
        assert!(buckets(&all).seconds.len() <= 20);
    }
}
