//! Counts of several activators summed into what the autoscaler reads.
//!
//! Each reporter's snapshots carry an integral of concurrency, so two of them give the exact average between them however
//! many were lost. A reporter that is expected but missing or stale makes every sum unknown: unknown isn't zero.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use pilotlight_activator::{BackendCounts, BackendId, ReporterId, Snapshot};
use tokio::time::Instant;

/// What all reporters together say of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Requests being answered.
    pub in_flight: u64,
    /// Requests held for lack of a replica.
    pub waiting: u64,
    /// Requests that arrived since the reporters' former snapshots.
    pub arrivals: u64,
    /// Average concurrency (in flight and waiting) between the reporters' last two snapshots.
    pub concurrency: f64,
}

impl Reading {
    /// In flight and waiting together.
    pub fn outstanding(&self) -> u64 {
        self.in_flight + self.waiting
    }

    fn add(&mut self, part: Self) {
        self.in_flight += part.in_flight;
        self.waiting += part.waiting;
        self.arrivals += part.arrivals;
        self.concurrency += part.concurrency;
    }
}

/// The reporters' latest two snapshots. Its size is bounded by the reporters that are expected.
#[derive(Debug)]
pub struct Reports {
    expected: BTreeSet<ReporterId>,
    latest: BTreeMap<ReporterId, Report>,
    stale_after: Duration,
}

#[derive(Debug)]
struct Report {
    received: Instant,
    snapshot: Snapshot,
    before: Option<Snapshot>,
}

impl Reports {
    /// Expects nobody yet: every reading is unknown until [`Self::expect`] was called.
    pub fn new(stale_after: Duration) -> Self {
        Self {
            expected: BTreeSet::new(),
            latest: BTreeMap::new(),
            stale_after,
        }
    }

    /// Says whose reports make a reading whole. Snapshots of others are forgotten and no longer taken.
    pub fn expect(&mut self, reporters: impl IntoIterator<Item = ReporterId>) {
        self.expected = reporters.into_iter().collect();
        self.latest.retain(|reporter, _| self.expected.contains(reporter));
    }

    /// Takes a snapshot that arrived at `now`; answers false, and takes nothing, from a reporter that isn't expected or
    /// for a snapshot that is not newer than the last.
    pub fn accept(&mut self, snapshot: Snapshot, now: Instant) -> bool {
        if !self.expected.contains(&snapshot.reporter) {
            return false;
        }
        let before = match self.latest.remove(&snapshot.reporter) {
            Some(last) if snapshot.sequence <= last.snapshot.sequence => {
                self.latest.insert(snapshot.reporter.clone(), last);
                return false;
            }
            last => last.map(|last| last.snapshot),
        };
        self.latest.insert(
            snapshot.reporter.clone(),
            Report {
                received: now,
                snapshot,
                before,
            },
        );
        true
    }

    /// The sum over what is known, however old, and whether it is whole: nobody expected is missing, stale or silent about the
    /// backend.
    pub fn partial(&self, backend: &BackendId, now: Instant) -> (Reading, bool) {
        let mut sum = Reading::default();
        let mut whole = !self.expected.is_empty();
        for reporter in &self.expected {
            let report = self.latest.get(reporter);
            whole &= report.is_some_and(|report| now.saturating_duration_since(report.received) <= self.stale_after);
            match report.and_then(|report| report.read(backend)) {
                Some(part) => sum.add(part),
                None => whole = false,
            }
        }
        (sum, whole)
    }

    /// The sum over all expected reporters, or `None` where one is missing, stale or doesn't list the backend.
    pub fn read(&self, backend: &BackendId, now: Instant) -> Option<Reading> {
        let (sum, whole) = self.partial(backend, now);
        whole.then_some(sum)
    }
}

impl Report {
    fn read(&self, backend: &BackendId) -> Option<Reading> {
        let counts = *self.snapshot.backends.get(backend)?;
        let before = self.before.as_ref();
        let was = before
            .and_then(|before| before.backends.get(backend))
            .copied()
            .unwrap_or_default();
        let elapsed = before.map_or(Duration::ZERO, |before| self.snapshot.time.saturating_sub(before.time));
        Some(Reading {
            in_flight: counts.in_flight,
            waiting: counts.waiting,
            arrivals: counts.arrivals.saturating_sub(was.arrivals),
            concurrency: average(counts, was, elapsed),
        })
    }
}

/// The integral's difference over the time; without a former snapshot, what is outstanding now.
fn average(now: BackendCounts, was: BackendCounts, elapsed: Duration) -> f64 {
    if elapsed.is_zero() {
        return (now.in_flight + now.waiting) as f64;
    }
    ((now.concurrency_seconds - was.concurrency_seconds) / elapsed.as_secs_f64()).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(reporter: &str, sequence: u64, seconds: u64, counts: Option<BackendCounts>) -> Snapshot {
        let backends = counts
            .map(|counts| (BackendId::new("ns/a"), counts))
            .into_iter()
            .collect();
        Snapshot {
            reporter: ReporterId::new(reporter),
            sequence,
            time: Duration::from_secs(seconds),
            backends,
        }
    }

    fn counts(in_flight: u64, concurrency_seconds: f64) -> Option<BackendCounts> {
        Some(BackendCounts {
            in_flight,
            waiting: 1,
            arrivals: in_flight,
            concurrency_seconds,
        })
    }

    fn reports(reporters: &[&str]) -> Reports {
        let mut reports = Reports::new(Duration::from_secs(5));
        reports.expect(reporters.iter().map(ReporterId::new));
        reports
    }

    #[tokio::test(start_paused = true)]
    async fn the_difference_of_the_integrals_is_the_average_over_all_reporters() {
        let (mut reports, now, id) = (reports(&["x", "y"]), Instant::now(), BackendId::new("ns/a"));
        for (reporter, sequence, at, in_flight, integral) in [
            ("x", 1, 0, 0, 1.0),
            ("y", 1, 3, 0, 0.0),
            ("x", 4, 4, 2, 9.0),
            ("y", 2, 4, 3, 5.0),
        ] {
            assert!(reports.accept(snapshot(reporter, sequence, at, counts(in_flight, integral)), now));
        }
        let reading = reports.read(&id, now).unwrap();
        assert_eq!(
            reading,
            Reading {
                in_flight: 5,
                waiting: 2,
                arrivals: 5,
                concurrency: 7.0
            }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_or_stale_reporter_is_unknown() {
        let (mut reports, now, id) = (reports(&["x", "y"]), Instant::now(), BackendId::new("ns/a"));
        reports.accept(snapshot("x", 1, 0, counts(0, 0.0)), now);
        assert_eq!(reports.read(&id, now), None);
        reports.accept(snapshot("y", 1, 0, counts(0, 0.0)), now);
        assert!(reports.read(&id, now).is_some());
        assert_eq!(reports.read(&id, now + Duration::from_secs(6)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reporter_that_does_not_list_the_backend_makes_it_unknown() {
        let (mut reports, now) = (reports(&["x"]), Instant::now());
        reports.accept(snapshot("x", 1, 0, None), now);
        assert_eq!(reports.read(&BackendId::new("ns/a"), now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_snapshot_that_arrives_late_is_ignored() {
        let (mut reports, now) = (reports(&["x"]), Instant::now());
        assert!(reports.accept(snapshot("x", 7, 7, counts(3, 3.0)), now));
        assert!(!reports.accept(snapshot("x", 6, 6, counts(9, 2.0)), now));
        assert!(!reports.accept(snapshot("stranger", 1, 1, counts(9, 2.0)), now));
        assert_eq!(reports.read(&BackendId::new("ns/a"), now).unwrap().in_flight, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_expected_is_unknown() {
        assert_eq!(reports(&[]).read(&BackendId::new("ns/a"), Instant::now()), None);
    }
}
