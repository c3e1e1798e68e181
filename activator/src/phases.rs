//! Where the time of a cold wake goes.

use std::time::Duration;

use tokio::time::Instant;

/// The phases of one cold wake, from the arrival of the request to the first byte of its answer. They sum to the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WakePhases {
    /// Arrival of the request until the platform began to start the endpoint. 0 if it was already starting.
    pub decision: Duration,
    /// Until the endpoint began to load its model: process start.
    pub start: Duration,
    /// Loading and warming up, as the endpoint reports it.
    pub load: Duration,
    /// From ready until the activator saw it.
    pub ready_seen: Duration,
    /// From there to the first byte of the answer.
    pub first_byte: Duration,
}

impl WakePhases {
    /// Names of the phases, in order; labels of the histogram.
    pub const NAMES: [&'static str; 5] = ["decision", "start", "load", "ready_seen", "first_byte"];

    /// The whole wake.
    pub fn total(&self) -> Duration {
        self.durations().iter().sum()
    }

    /// The phases in the order of [`Self::NAMES`].
    pub fn durations(&self) -> [Duration; 5] {
        [self.decision, self.start, self.load, self.ready_seen, self.first_byte]
    }
}

/// What an endpoint says of its own start in `x-pilotlight-startup: load=<ns>, ready-age=<ns>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Startup {
    /// Loading and warming up.
    pub(crate) load: Duration,
    /// Since it is ready.
    pub(crate) ready_age: Duration,
}

impl Startup {
    /// Reads the header; what is missing or malformed counts as 0.
    pub(crate) fn parse(text: &str) -> Self {
        let mut startup = Self::default();
        for part in text.split(',') {
            let Some((name, value)) = part.trim().split_once('=') else {
                continue;
            };
            let Ok(nanos) = value.trim().parse() else { continue };
            match name.trim() {
                "load" => startup.load = Duration::from_nanos(nanos),
                "ready-age" => startup.ready_age = Duration::from_nanos(nanos),
                _ => {}
            }
        }
        startup
    }
}

/// A wake whose first request is on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Woken {
    /// When the platform began to start the endpoint.
    pub(crate) started: Instant,
    /// When its probe was answered.
    pub(crate) seen: Instant,
    /// What it said then.
    pub(crate) startup: Startup,
}

impl Woken {
    /// The phases of a request that arrived at `arrived` and whose answer began at `first_byte`. Clocks of two
    /// processes meet here, so each boundary is held between its neighbours: the phases always sum to the whole.
    pub(crate) fn phases(&self, arrived: Instant, first_byte: Instant) -> WakePhases {
        let seen = self.seen.clamp(arrived, first_byte.max(arrived));
        let started = self.started.clamp(arrived, seen);
        let ready = back(seen, self.startup.ready_age).max(started);
        let loading = back(ready, self.startup.load).max(started);
        WakePhases {
            decision: started - arrived,
            start: loading - started,
            load: ready - loading,
            ready_seen: seen - ready,
            first_byte: first_byte.saturating_duration_since(seen),
        }
    }
}

/// `at` less `by`; `at` itself where the clock does not go back that far.
fn back(at: Instant, by: Duration) -> Instant {
    at.checked_sub(by).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn phases_sum_to_the_whole(
            arrived in 0u64..5_000,
            started in 0u64..5_000,
            seen in 0u64..5_000,
            rest in 0u64..5_000,
            load in 0u64..9_000,
            age in 0u64..9_000,
        ) {
            let zero = Instant::now();
            let at = |ms| zero + Duration::from_millis(ms);
            let first_byte = at(arrived.max(seen) + rest);
            let woken = Woken {
                started: at(started),
                seen: at(seen),
                startup: Startup { load: Duration::from_millis(load), ready_age: Duration::from_millis(age) },
            };
            prop_assert_eq!(woken.phases(at(arrived), first_byte).total(), first_byte - at(arrived));
        }
    }

    #[test]
    fn each_phase_gets_its_own_time() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let woken = Woken {
            started: at(2),
            seen: at(60),
            startup: Startup::parse("load=30000000, ready-age=5000000"),
        };
        let phases = woken.phases(at(0), at(70));
        assert_eq!(phases.durations().map(|d| d.as_millis()), [2, 23, 30, 5, 10]);
    }

    #[test]
    fn a_malformed_startup_header_counts_as_nothing() {
        assert_eq!(Startup::parse("load=abc, x, ready-age="), Startup::default());
    }
}
