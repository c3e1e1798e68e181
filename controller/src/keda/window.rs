//! The rate of arrivals over a sliding window, as the add-on's scaler takes it (a port of Knative's buckets).
//!
//! Its unit is requests per bucket, not per second: with a granularity of 5 s the value is five times the rate.

use std::time::Duration;

/// Digits after the point of an average.
const PRECISION: f64 = 1_000.0;

/// A ring of buckets. Time is the time since an epoch of the caller's.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    length: Duration,
    granularity: Duration,
    buckets: Vec<f64>,
    /// Numbers of the buckets of the first write and of the last.
    written: Option<(u64, u64)>,
}

impl Window {
    /// Most buckets of a window; a longer one gets wider buckets, which the add-on does not do: there a single request
    /// among more buckets rounds to zero.
    pub const MOST_BUCKETS: u128 = 1_000;

    /// An empty window of `window / granularity` buckets, rounded up. A granularity below 1 s is taken for 1 s.
    pub fn new(window: Duration, granularity: Duration) -> Self {
        let granularity = granularity.max(Duration::from_secs(1));
        let buckets = window
            .as_nanos()
            .div_ceil(granularity.as_nanos())
            .clamp(1, Self::MOST_BUCKETS);
        Self {
            length: window,
            granularity,
            buckets: vec![0.0; buckets as usize],
            written: None,
        }
    }

    /// Whether it is the window of these settings.
    pub fn is_of(&self, window: Duration, granularity: Duration) -> bool {
        self.length == window && self.granularity == granularity.max(Duration::from_secs(1))
    }

    /// Adds arrivals at `now`. Ones from before the window are dropped.
    pub fn record(&mut self, now: Duration, arrivals: u64) {
        let index = self.index(now);
        let length = self.count();
        let (first, last) = match self.written {
            Some((_, last)) if index.saturating_sub(last) >= length => {
                self.buckets.fill(0.0);
                (index, index)
            }
            Some((first, last)) if index > last => {
                for skipped in last + 1..=index {
                    *self.bucket(skipped) = 0.0;
                }
                (first, index)
            }
            Some((_, last)) if last - index >= length => return,
            Some((first, last)) => (first.min(index), last),
            None => (index, index),
        };
        self.written = Some((first, last));
        *self.bucket(index) += arrivals as f64;
    }

    /// Arrivals per bucket over the window that ends at `now`; over the time since the first write where that is less.
    pub fn average(&self, now: Duration) -> f64 {
        let (Some((first, last)), length) = (self.written, self.count()) else {
            return 0.0;
        };
        let now = self.index(now).max(last);
        let begin = (now + 1).saturating_sub(length);
        let total: f64 = (begin.max(first)..=last)
            .map(|index| self.buckets[(index % length) as usize])
            .sum();
        let elapsed = (now - first + 1).min(length);
        (total / elapsed as f64 * PRECISION).round() / PRECISION
    }

    fn index(&self, at: Duration) -> u64 {
        (at.as_nanos() / self.granularity.as_nanos()) as u64
    }

    fn count(&self) -> u64 {
        self.buckets.len() as u64
    }

    fn bucket(&mut self, index: u64) -> &mut f64 {
        let at = (index % self.count()) as usize;
        &mut self.buckets[at]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Add-on unit test `TestRequestsSuddenStop`: 17 values of a window of 5 s.
    #[test]
    fn add_on_requests_sudden_stop() {
        let arrivals = [1, 2, 3, 4, 5, 0, 0, 8, 9, 10, 11, 12, 0, 0, 0, 0, 0];
        let expected = [
            1.0, 1.5, 2.0, 2.5, 3.0, 2.8, 2.4, 3.4, 4.4, 5.4, 7.6, 10.0, 8.4, 6.6, 4.6, 2.4, 0.0,
        ];
        for zeros_are_recorded in [true, false] {
            let mut window = Window::new(seconds(5), seconds(1));
            for (second, (&arrived, expected)) in (100..).zip(arrivals.iter().zip(expected)) {
                if arrived > 0 || zeros_are_recorded {
                    window.record(seconds(second), arrived);
                }
                assert_eq!(window.average(seconds(second)), expected, "at {second}");
            }
        }
    }

    /// Add-on unit tests of holes and descending records.
    #[test]
    fn add_on_holes_are_zeros_and_late_records_count() {
        let mut window = Window::new(seconds(5), seconds(1));
        window.record(seconds(10), 5);
        window.record(seconds(13), 5);
        assert_eq!(window.average(seconds(13)), 2.5);
        window.record(seconds(11), 2);
        assert_eq!(window.average(seconds(13)), 3.0);
        window.record(seconds(3), 99);
        assert_eq!(window.average(seconds(13)), 3.0);
        assert_eq!(window.average(seconds(30)), 0.0);
        window.record(seconds(40), 3);
        assert_eq!(window.average(seconds(40)), 3.0);
    }

    #[test]
    fn a_wider_bucket_gives_arrivals_per_bucket() {
        let mut window = Window::new(seconds(60), seconds(5));
        for second in 0..60 {
            window.record(seconds(second), 2);
        }
        assert_eq!(window.average(seconds(59)), 10.0);
    }

    #[test]
    fn a_granularity_below_a_second_divides_by_no_zero() {
        let mut window = Window::new(seconds(2), Duration::from_millis(1));
        window.record(seconds(1), 4);
        assert_eq!(window.average(seconds(1)), 4.0);
        assert!(window.is_of(seconds(2), Duration::from_millis(7)));
    }

    proptest! {
        #[test]
        fn the_average_is_never_more_than_the_busiest_second(arrivals in proptest::collection::vec(0u64..50, 1..40), length in 1u64..12) {
            let mut window = Window::new(seconds(length), seconds(1));
            for (second, &arrived) in arrivals.iter().enumerate() {
                window.record(seconds(second as u64), arrived);
                let average = window.average(seconds(second as u64));
                prop_assert!(average >= 0.0 && average <= *arrivals.iter().max().unwrap() as f64);
            }
        }
    }
}
