//! The highest wish of the scale-down delay: a lower one has to last that long before it counts.

use std::{collections::VecDeque, time::Duration};

/// A sliding maximum. Holds falling values only, so its length is bounded by the distinct wishes within the delay.
#[derive(Clone, Debug, Default)]
pub(super) struct MaxWindow {
    falling: VecDeque<(Duration, u32)>,
}

impl MaxWindow {
    /// Adds a wish and answers the highest one younger than `delay`, this one included. A delay of zero answers `wish`.
    pub(super) fn record(&mut self, now: Duration, wish: u32, delay: Duration) -> u32 {
        while self.falling.back().is_some_and(|&(_, value)| value <= wish) {
            self.falling.pop_back();
        }
        self.falling.push_back((now, wish));
        // The newest always counts, whatever the delay.
        while self.falling.len() > 1 && self.falling.front().is_some_and(|&(time, _)| time + delay <= now) {
            self.falling.pop_front();
        }
        self.falling.front().map_or(wish, |&(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_wish_counts_once_it_lasted_the_delay() {
        let (mut window, second) = (MaxWindow::default(), Duration::from_secs);
        assert_eq!(window.record(second(0), 5, second(10)), 5);
        assert_eq!(window.record(second(2), 1, second(10)), 5);
        assert_eq!(window.record(second(8), 3, second(10)), 5);
        assert_eq!(window.record(second(10), 1, second(10)), 3);
        assert_eq!(window.record(second(18), 1, second(10)), 1);
    }

    #[test]
    fn without_delay_the_latest_wish_counts() {
        let mut window = MaxWindow::default();
        assert_eq!(window.record(Duration::ZERO, 5, Duration::ZERO), 5);
        assert_eq!(window.record(Duration::from_secs(1), 1, Duration::ZERO), 1);
        assert_eq!(window.record(Duration::from_secs(1), 0, Duration::ZERO), 0);
    }
}
