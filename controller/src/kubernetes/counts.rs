//! What all activators together count, for whoever in this process scales by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use parking_lot::Mutex;
use pilotlight_activator::{BackendId, ReporterId, Snapshot};
use tokio::{sync::watch, time::Instant};

use crate::reports::{Reading, Reports};

/// The sum over the activators.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    /// What is known; of an activator that is silent its last counts.
    pub reading: Reading,
    /// Whether every activator that may hold requests has answered lately and knows the backend. Where not, nothing may be
    /// scaled down by it.
    pub complete: bool,
}

/// The counts of all activators. Cheap to read; it holds the last two snapshots of each activator.
#[derive(Debug)]
pub struct Counts {
    inner: Mutex<Inner>,
    rounds: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    reports: Reports,
    /// Whose counts are expected: the reporter that last answered at each address.
    addresses: BTreeMap<SocketAddr, Expected>,
    unknown_limit: Duration,
}

/// An activator that is expected to answer.
#[derive(Debug)]
struct Expected {
    reporter: Option<ReporterId>,
    heard: Instant,
}

impl Counts {
    /// Counts older than `stale_after` are incomplete; an activator that did not answer for `unknown_limit` no longer is
    /// waited for.
    pub fn new(stale_after: Duration, unknown_limit: Duration) -> Self {
        Self {
            inner: Mutex::new(Inner {
                reports: Reports::new(stale_after),
                addresses: BTreeMap::new(),
                unknown_limit,
            }),
            rounds: watch::Sender::new(0),
        }
    }

    /// The sum of one backend now.
    pub fn sum(&self, backend: &BackendId) -> Sum {
        let (reading, complete) = self.inner.lock().reports.partial(backend, Instant::now());
        Sum { reading, complete }
    }

    /// The reading of one backend where it is complete.
    pub fn read(&self, backend: &BackendId) -> Option<Reading> {
        let sum = self.sum(backend);
        sum.complete.then_some(sum.reading)
    }

    /// Rises with every round of snapshots.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.rounds.subscribe()
    }

    /// Says at which addresses activators are. A new one is unknown until it answers.
    pub(crate) fn expect(&self, addresses: &BTreeSet<SocketAddr>, now: Instant) {
        let mut inner = self.inner.lock();
        inner.addresses.retain(|address, _| addresses.contains(address));
        for address in addresses {
            inner.addresses.entry(*address).or_insert(Expected {
                reporter: None,
                heard: now,
            });
        }
        inner.update(now);
    }

    /// `holding` and those of `all` that are expected already: one that answered once may still hold requests though its Service
    /// no longer leads to it.
    pub(crate) fn with_known(
        &self,
        mut holding: BTreeSet<SocketAddr>,
        all: &BTreeSet<SocketAddr>,
    ) -> BTreeSet<SocketAddr> {
        let inner = self.inner.lock();
        holding.extend(all.iter().filter(|address| inner.addresses.contains_key(address)));
        holding
    }

    /// Takes what the activator at this address said.
    pub(crate) fn accept(&self, address: SocketAddr, snapshot: Snapshot, now: Instant) {
        let mut inner = self.inner.lock();
        let Some(expected) = inner.addresses.get_mut(&address) else {
            return;
        };
        expected.heard = now;
        if expected.reporter.as_ref() != Some(&snapshot.reporter) {
            expected.reporter = Some(snapshot.reporter.clone());
            inner.update(now);
        }
        inner.reports.accept(snapshot, now);
    }

    /// A round of snapshots is over.
    pub(crate) fn finish_round(&self, now: Instant) {
        self.inner.lock().update(now);
        self.rounds.send_modify(|round| *round += 1);
    }
}

impl Inner {
    /// Tells the reports whom to wait for. A stranger under its address stands for one that never answered, and keeps every
    /// sum incomplete until it does or the limit has passed.
    fn update(&mut self, now: Instant) {
        let limit = self.unknown_limit;
        let waited_for = self
            .addresses
            .iter()
            .filter(|(_, expected)| now.saturating_duration_since(expected.heard) < limit)
            .map(|(address, expected)| {
                expected
                    .reporter
                    .clone()
                    .unwrap_or_else(|| ReporterId::new(format!("unknown at {address}")))
            });
        let waited_for: Vec<_> = waited_for.collect();
        self.reports.expect(waited_for);
    }
}

#[cfg(test)]
mod tests {
    use pilotlight_activator::BackendCounts;

    use super::*;

    fn snapshot(reporter: &str, in_flight: u64) -> Snapshot {
        let counts = BackendCounts {
            in_flight,
            ..BackendCounts::default()
        };
        Snapshot {
            reporter: ReporterId::new(reporter),
            sequence: 1,
            time: Duration::from_secs(1),
            backends: BTreeMap::from([(BackendId::new("ns/a"), counts)]),
        }
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 9090))
    }

    fn counts() -> Counts {
        let counts = Counts::new(Duration::from_secs(5), Duration::from_mins(5));
        counts.expect(&[address(1), address(2)].into(), Instant::now());
        counts
    }

    #[tokio::test(start_paused = true)]
    async fn counts_are_complete_once_every_activator_has_answered() {
        let (counts, id) = (counts(), BackendId::new("ns/a"));
        assert_eq!(counts.read(&id), None);
        counts.accept(address(1), snapshot("one", 2), Instant::now());
        assert_eq!(counts.read(&id), None);
        assert_eq!(counts.sum(&id).reading.in_flight, 2);
        counts.accept(address(2), snapshot("two", 3), Instant::now());
        assert_eq!(counts.read(&id).unwrap().in_flight, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_restarted_activator_begins_anew() {
        let (counts, id) = (counts(), BackendId::new("ns/a"));
        counts.accept(address(1), snapshot("one", 2), Instant::now());
        counts.accept(address(2), snapshot("two", 0), Instant::now());
        counts.accept(address(1), snapshot("one again", 1), Instant::now());
        assert_eq!(counts.read(&id).unwrap().in_flight, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_activator_is_waited_for_and_not_for_ever() {
        let (counts, id) = (counts(), BackendId::new("ns/a"));
        counts.accept(address(1), snapshot("one", 2), Instant::now());
        counts.accept(address(2), snapshot("two", 3), Instant::now());
        tokio::time::advance(Duration::from_secs(10)).await;
        counts.finish_round(Instant::now());
        assert_eq!(
            counts.sum(&id),
            Sum {
                reading: Reading {
                    in_flight: 5,
                    ..counts.sum(&id).reading
                },
                complete: false
            }
        );
        tokio::time::advance(Duration::from_mins(5)).await;
        counts.accept(
            address(1),
            Snapshot {
                sequence: 9,
                ..snapshot("one", 2)
            },
            Instant::now(),
        );
        counts.finish_round(Instant::now());
        assert_eq!(counts.read(&id).unwrap().in_flight, 2);
    }
}
