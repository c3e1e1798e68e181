//! The growing pause between starts of replicas that never become ready, and the reason that waiting requests are given.

use std::time::Duration;

use pilotlight_activator::WakeError;
use tokio::time::Instant;

/// How the pause grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// The pause after the first failure. Default 100 ms.
    pub initial: Duration,
    /// The longest pause; each failure doubles it up to here. Default 30 s.
    pub most: Duration,
    /// Failures in a row after which waiting requests are told. Default 2. Ends by a signal, which may come from outside,
    /// weigh less: five of them are as much as two ends by itself.
    pub tell_after: u32,
}

/// How much a failure says about the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// It was ended by a signal: somebody's, or the system's for lack of memory.
    Signal,
    /// It ended by itself.
    Exit,
    /// Trying again can't help the requests that wait now: the platform has no room, or it took long.
    Certain,
}

impl Weight {
    fn points(self, tell_after: u32) -> u32 {
        match self {
            Self::Signal => 2,
            Self::Exit => POINTS_OF_EXIT,
            Self::Certain => tell_after.saturating_mul(POINTS_OF_EXIT),
        }
    }
}

/// Points towards telling of an end by itself.
const POINTS_OF_EXIT: u32 = 5;

impl Default for BackoffPolicy {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(100),
            most: Duration::from_secs(30),
            tell_after: 2,
        }
    }
}

/// Failures in a row of replicas that never became ready.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
    points: u32,
    until: Option<Instant>,
    error: Option<WakeError>,
}

impl Backoff {
    /// One more that never became ready.
    pub fn failed(&mut self, policy: &BackoffPolicy, now: Instant, error: WakeError, weight: Weight) {
        self.failures = self.failures.saturating_add(1);
        let pause = policy
            .initial
            .saturating_mul(1 << (self.failures - 1).min(20))
            .min(policy.most);
        self.until = Some(now + pause);
        self.points = self.points.saturating_add(weight.points(policy.tell_after));
        let tell = self.points >= policy.tell_after.saturating_mul(POINTS_OF_EXIT);
        self.error = tell.then_some(error);
    }

    /// A replica became ready, or a new revision starts afresh.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Until when nothing is started, where that is later than `now`.
    pub fn blocked(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|&until| until > now)
    }

    /// What requests are told, once there were enough failures.
    pub fn error(&self) -> Option<&WakeError> {
        self.error.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use pilotlight_activator::WakeReason;

    use super::*;

    fn error(message: &str) -> WakeError {
        WakeError {
            reason: WakeReason::LoadFailed,
            message: message.into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_doubles_up_to_the_limit_and_starts_again_after_a_ready_one() {
        let (policy, mut backoff, now) = (BackoffPolicy::default(), Backoff::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..12 {
            backoff.failed(&policy, now, error("x"), Weight::Exit);
            pauses.push((backoff.blocked(now).unwrap() - now).as_millis());
        }
        assert_eq!(
            pauses,
            [
                100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000
            ]
        );
        backoff.reset();
        assert_eq!(backoff.blocked(now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_are_told_after_two_failures_or_at_once_where_it_is_certain() {
        let (policy, mut backoff, now) = (BackoffPolicy::default(), Backoff::default(), Instant::now());
        backoff.failed(&policy, now, error("first"), Weight::Exit);
        assert_eq!(backoff.error(), None);
        backoff.failed(&policy, now, error("second"), Weight::Exit);
        assert_eq!(backoff.error(), Some(&error("second")));
        let mut backoff = Backoff::default();
        backoff.failed(&policy, now, error("full"), Weight::Certain);
        assert_eq!(backoff.error(), Some(&error("full")));
    }

    #[tokio::test(start_paused = true)]
    async fn ends_by_signals_from_outside_are_tried_again_longer() {
        let (policy, mut backoff, now) = (BackoffPolicy::default(), Backoff::default(), Instant::now());
        for kill in 1..=5 {
            backoff.failed(&policy, now, error("killed"), Weight::Signal);
            assert_eq!(backoff.error().is_some(), kill == 5);
        }
    }
}
