//! Times of the API server's objects on the clock of decisions.

use k8s_openapi::jiff::{Timestamp, Unit};
use tokio::time::{Duration, Instant};

/// Durations since a beginning of our own, and what they are in the world.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    began: Instant,
    world: Timestamp,
    /// Where the beginning stands on our clock, so that times before it have a place too.
    offset: Duration,
}

impl Clock {
    /// Room for what happened before this process.
    const PAST: Duration = Duration::from_hours(24 * 365 * 30);

    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            world: Timestamp::now(),
            offset: Self::PAST,
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.offset + self.began.elapsed()
    }

    pub(crate) fn read(&self, text: &str) -> Option<Duration> {
        let ago = self.world.duration_since(text.parse().ok()?);
        Duration::try_from(ago).map_or(Some(self.offset), |ago| self.offset.checked_sub(ago))
    }

    pub(crate) fn show(&self, at: Duration) -> String {
        let after = at.saturating_sub(self.offset);
        let before = self.offset.saturating_sub(at);
        let time = self.world.checked_add(after).and_then(|time| time.checked_sub(before));
        let time = time.unwrap_or(self.world);
        time.round(Unit::Second).unwrap_or(time).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_status_survive_a_restart() {
        let clock = Clock::new();
        let before = clock.now().saturating_sub(Duration::from_secs(90));
        let text = clock.show(before);
        let read = clock.read(&text).unwrap();
        // The text has whole seconds.
        assert!(read.abs_diff(before) <= Duration::from_secs(1), "{text}");
        assert!(clock.read("1970-01-01T00:00:00Z").is_none());
        assert_eq!(clock.read("nonsense"), None);
    }
}
