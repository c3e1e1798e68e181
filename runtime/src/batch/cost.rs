//! What a run costs, learned from the runs there were.
//!
//! The time of a run is taken to be linear in its work, the number of input elements: `time = base + per_unit * work`. Both are
//! fitted by least squares in which a run counts 0.97 of the one after it, so that the fit follows a device that gets slower or
//! faster within some 30 runs (the model that BentoML's dispatcher fits over its last 50 batches, with a fading window in place
//! of a fixed one). What the fit leaves unexplained gives the margin: two standard deviations.

use std::time::Duration;

/// How much a run counts beside the one after it.
const FADING: f64 = 0.97;

/// Runs that are not looked at: the first one warms up caches and compiles.
const SKIPPED: u32 = 1;

/// Runs looked at before there is a cost.
const LEAST: u32 = 4;

/// Margin in standard deviations.
const DEVIATIONS: f64 = 2.0;

/// Learns the cost of a model's runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Learner {
    runs: u32,
    /// Faded sums of 1, work, time, work², work·time and time²; seconds.
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
}

impl Learner {
    /// A run of this much work took this long.
    pub fn observe(&mut self, work: u64, time: Duration) {
        self.runs = self.runs.saturating_add(1);
        if self.runs <= SKIPPED {
            return;
        }
        let (x, y) = (work.max(1) as f64, time.as_secs_f64());
        let fade = |sum: &mut f64, add: f64| *sum = *sum * FADING + add;
        fade(&mut self.n, 1.0);
        fade(&mut self.x, x);
        fade(&mut self.y, y);
        fade(&mut self.xx, x * x);
        fade(&mut self.xy, x * y);
        fade(&mut self.yy, y * y);
    }

    /// What is known by now; `None` before the fifth run.
    pub fn cost(&self) -> Option<Cost> {
        if self.runs < SKIPPED + LEAST {
            return None;
        }
        let (mean_x, mean_y) = (self.x / self.n, self.y / self.n);
        let spread = self.xx / self.n - mean_x * mean_x;
        // All runs were of about one size, so the slope is not known: a smaller run costs the same, a larger one in proportion.
        if spread <= 1e-6 * mean_x * mean_x {
            let deviation = (self.yy / self.n - mean_y * mean_y).max(0.0).sqrt();
            return Some(Cost {
                base: 0.0,
                per_unit: mean_y / mean_x,
                floor: mean_y,
                margin: DEVIATIONS * deviation,
            });
        }
        let slope = (self.xy / self.n - mean_x * mean_y) / spread;
        let (base, per_unit) = match (slope, mean_y - slope * mean_x) {
            (slope, _) if slope <= 0.0 => (mean_y, 0.0),
            (_, base) if base < 0.0 => (0.0, self.xy / self.xx),
            (slope, base) => (base, slope),
        };
        Some(Cost {
            base,
            per_unit,
            floor: 0.0,
            margin: DEVIATIONS * (self.unexplained(base, per_unit) / self.n).max(0.0).sqrt(),
        })
    }

    /// The faded sum of `(time - base - per_unit * work)²`.
    fn unexplained(&self, base: f64, per_unit: f64) -> f64 {
        self.yy - 2.0 * per_unit * self.xy - 2.0 * base * self.y
            + per_unit * per_unit * self.xx
            + 2.0 * base * per_unit * self.x
            + base * base * self.n
    }
}

/// The cost of a run as a function of its work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    base: f64,
    per_unit: f64,
    floor: f64,
    margin: f64,
}

impl Cost {
    /// A cost that is known rather than learned.
    pub fn new(base: Duration, per_unit: Duration) -> Self {
        Self {
            base: base.as_secs_f64(),
            per_unit: per_unit.as_secs_f64(),
            floor: 0.0,
            margin: 0.0,
        }
    }

    /// How long a run of this much work takes, its margin included.
    pub fn time(&self, work: u64) -> Duration {
        let mean = self.base + self.per_unit * work.max(1) as f64;
        // A day is beyond every deadline, and keeps the sum with any instant in range.
        Duration::from_secs_f64((mean.max(self.floor) + self.margin).clamp(0.0, 86_400.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn learn(runs: impl IntoIterator<Item = (u64, f64)>) -> Learner {
        let mut learner = Learner::default();
        for (work, ms) in runs {
            learner.observe(work, Duration::from_secs_f64(ms / 1000.0));
        }
        learner
    }

    fn ms(cost: Cost, work: u64) -> f64 {
        cost.time(work).as_secs_f64() * 1000.0
    }

    #[test]
    fn nothing_is_known_before_the_fifth_run_and_the_first_counts_for_nothing() {
        let runs = [(1, 5000.0), (1, 2.0), (2, 3.0), (3, 4.0), (4, 5.0)];
        assert_eq!(learn(runs[..4].iter().copied()).cost(), None);
        let cost = learn(runs).cost().unwrap();
        assert!((ms(cost, 10) - 11.0).abs() < 0.01, "{cost:?}");
    }

    #[test]
    fn runs_of_one_size_say_nothing_of_smaller_ones_and_bound_larger_ones() {
        let cost = learn([(8, 4.0); 9]).cost().unwrap();
        assert!((ms(cost, 1) - 4.0).abs() < 0.01);
        assert!((ms(cost, 16) - 8.0).abs() < 0.01);
    }

    #[test]
    fn noise_widens_the_margin() {
        let steady = learn((1..40).map(|i| (i % 7 + 1, 1.0 + (i % 7 + 1) as f64)));
        let noisy = learn((1..40).map(|i| (i % 7 + 1, 1.0 + (i % 7 + 1) as f64 + if i % 2 == 0 { 2.0 } else { 0.0 })));
        let (steady, noisy) = (steady.cost().unwrap(), noisy.cost().unwrap());
        assert!(ms(steady, 4) < 5.1);
        assert!(ms(noisy, 4) > 7.0, "mean 6, deviation 1: {}", ms(noisy, 4));
    }

    #[test]
    fn a_device_that_gets_slower_is_followed() {
        let before = (0..100).map(|i| (i % 8 + 1, (i % 8 + 1) as f64));
        let after = (0..150).map(|i| (i % 8 + 1, 3.0 * (i % 8 + 1) as f64));
        let cost = learn(before.chain(after)).cost().unwrap();
        assert!((23.0..30.0).contains(&ms(cost, 8)), "{}", ms(cost, 8));
    }

    proptest! {
        #[test]
        fn a_linear_device_is_learned(base in 0.0f64..50.0, per_unit in 0.0f64..5.0, works in prop::collection::vec(1u64..1000, 6..60)) {
            let time = |work: u64| base + per_unit * work as f64;
            let cost = learn(works.iter().map(|&w| (w, time(w)))).cost().unwrap();
            for &work in &works[1..] {
                let (found, expected) = (ms(cost, work), time(work));
                prop_assert!(found >= expected * 0.99 - 0.1, "{found} for {expected}");
            }
        }

        #[test]
        fn no_runs_break_it(runs in prop::collection::vec((any::<u64>(), 0u64..u64::MAX / 2), 0..40), work in any::<u64>()) {
            let mut learner = Learner::default();
            for (work, ns) in runs {
                learner.observe(work, Duration::from_nanos(ns));
            }
            if let Some(cost) = learner.cost() {
                prop_assert!(cost.time(work) <= Duration::from_hours(24));
            }
        }
    }
}
