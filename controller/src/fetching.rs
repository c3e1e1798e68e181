//! Models on their way from remote storage: how far they are, and when they are looked at again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use pilotlight_storage::{Progress, Watch};
use tokio::time::Instant;

/// How far a download is; written by the download, read by whoever shows it.
#[derive(Debug, Default)]
pub(crate) struct Fetching {
    done: AtomicU64,
    total: AtomicU64,
}

impl Fetching {
    /// What the download tells.
    pub(crate) fn watch(self: &Arc<Self>) -> Watch {
        let fetching = self.clone();
        Arc::new(move |progress: Progress| {
            fetching.done.store(progress.done, Ordering::Relaxed);
            fetching.total.store(progress.total.unwrap_or(0), Ordering::Relaxed);
        })
    }

    /// For a status; `None` while nothing came, which is as long as the store is only asked what it has.
    pub(crate) fn words(&self) -> Option<String> {
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        match (done, total) {
            (0, _) => None,
            (done, 0) => Some(format!("the model is being fetched: {done} bytes")),
            (done, total) => Some(format!(
                "the model is being fetched: {} % of {total} bytes",
                done.saturating_mul(100) / total
            )),
        }
    }
}

/// When a remote model is looked at next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) at: Instant,
    /// Fetches that failed in a row.
    failed: u32,
}

impl Look {
    /// After a look at `now`: a good one is followed by the next after `interval`, failures by ever longer pauses, from
    /// `retry` to `interval`.
    pub(crate) fn after(before: Option<Self>, ok: bool, now: Instant, interval: Duration, retry: Duration) -> Self {
        let failed = if ok {
            0
        } else {
            before.map_or(0, |look| look.failed).saturating_add(1)
        };
        let pause = match failed {
            0 => interval,
            failed => retry.saturating_mul(1 << (failed - 1).min(20)).min(interval),
        };
        Self {
            at: now + pause,
            failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_looked_at_sooner_and_ever_later() {
        let now = Instant::now();
        let (interval, retry) = (Duration::from_mins(5), Duration::from_secs(5));
        let mut look = None;
        let pauses: Vec<u64> = [false, false, false, false, false, false, false, false, true, false]
            .into_iter()
            .map(|ok| {
                let next = Look::after(look, ok, now, interval, retry);
                look = Some(next);
                (next.at - now).as_secs()
            })
            .collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300, 5]);
    }

    #[test]
    fn progress_is_told_once_something_came() {
        let fetching = Arc::new(Fetching::default());
        assert_eq!(fetching.words(), None);
        let watch = fetching.watch();
        watch(Progress { done: 5, total: None });
        assert_eq!(fetching.words().as_deref(), Some("the model is being fetched: 5 bytes"));
        watch(Progress {
            done: 5,
            total: Some(20),
        });
        assert_eq!(
            fetching.words().as_deref(),
            Some("the model is being fetched: 25 % of 20 bytes")
        );
    }
}
