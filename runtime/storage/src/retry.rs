//! Whether and when another try follows a failed one: exponential backoff, a decision.

use std::time::Duration;

/// How often and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Tries in all that may fail one after the other; progress in between starts the count anew.
    pub(crate) tries: u32,
    /// The pause after the first failure; doubles with each.
    pub(crate) first: Duration,
    /// The longest pause.
    pub(crate) longest: Duration,
}

impl Policy {
    /// The pause after `failed` failures in a row (at least 1); `None` where it is to be given up. `jitter` in [0, 1)
    /// spreads clients that failed together: the pause is between half and all of its length.
    pub(crate) fn pause(&self, failed: u32, jitter: f64) -> Option<Duration> {
        if failed >= self.tries {
            return None;
        }
        let doubled = self.first.saturating_mul(1 << failed.saturating_sub(1).min(20));
        Some(doubled.min(self.longest).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0))
    }
}

/// A number in [0, 1) that differs from call to call and from process to process; good enough to spread clients.
pub(crate) fn jitter() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    (RandomState::new().hash_one(0) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy {
        tries: 5,
        first: Duration::from_millis(200),
        longest: Duration::from_secs(1),
    };

    #[test]
    fn pauses_double_up_to_the_longest_and_end_with_the_tries() {
        let pauses: Vec<_> = (1..=5).map(|failed| POLICY.pause(failed, 1.0)).collect();
        let expected = [200, 400, 800, 1000].map(|ms| Some(Duration::from_millis(ms)));
        assert_eq!(pauses[..4], expected);
        assert_eq!(pauses[4], None);
    }

    proptest! {
        #[test]
        fn no_pause_is_longer_than_the_longest_or_shorter_than_half_the_first(
            failed in 1u32..100, tries in 1u32..100, jitter in 0.0f64..1.0,
        ) {
            let policy = Policy { tries, ..POLICY };
            let pause = policy.pause(failed, jitter);
            prop_assert_eq!(pause.is_none(), failed >= tries);
            prop_assert!(pause.is_none_or(|pause| pause <= policy.longest && pause >= policy.first / 2));
        }
    }
}
