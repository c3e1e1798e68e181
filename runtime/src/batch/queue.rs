//! What waits for the device.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use tokio::time::Instant;

/// A place in the queue. Tickets grow in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// One request that waits.
#[derive(Debug)]
pub struct Waiting<J> {
    /// Its place.
    pub ticket: Ticket,
    /// Its size along the batch dimension; a request of none counts as one, so that every batch has a bounded number of requests.
    pub rows: usize,
    /// When it arrived in the runtime.
    pub arrived: Instant,
    /// When its answer is of no use any more.
    pub deadline: Instant,
    /// What the caller wants back.
    pub job: J,
}

/// Requests in groups by key. Requests of one key may run in one batch (same model, same shape but for the rows, same types)
/// and leave in the order in which they came.
#[derive(Debug)]
pub struct Queue<K, J> {
    groups: HashMap<K, VecDeque<Waiting<J>>>,
    len: usize,
    next: u64,
}

impl<K, J> Default for Queue<K, J> {
    fn default() -> Self {
        Self {
            groups: HashMap::new(),
            len: 0,
            next: 0,
        }
    }
}

impl<K: Eq + Hash + Clone, J> Queue<K, J> {
    /// Number of requests over all groups.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a request behind those of its key. The bound on the number is the caller's to keep.
    pub fn push(&mut self, key: K, rows: usize, arrived: Instant, deadline: Instant, job: J) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.len += 1;
        self.groups.entry(key).or_default().push_back(Waiting {
            ticket,
            rows: rows.max(1),
            arrived,
            deadline,
            job,
        });
        ticket
    }

    /// Takes a request out whose client left. `None` where it has already been taken.
    pub fn remove(&mut self, key: &K, ticket: Ticket) -> Option<J> {
        let group = self.groups.get_mut(key)?;
        // A group is sorted by ticket, because it only ever grows at its end.
        let at = group.binary_search_by_key(&ticket, |w| w.ticket).ok()?;
        let waiting = group.remove(at)?;
        if group.is_empty() {
            self.groups.remove(key);
        }
        self.len -= 1;
        Some(waiting.job)
    }

    /// Takes out every request whose deadline is at or before `now`.
    pub fn expire(&mut self, now: Instant) -> Vec<J> {
        let mut expired = Vec::new();
        self.groups.retain(|_, group| {
            if group.iter().any(|w| w.deadline <= now) {
                let (late, rest) = std::mem::take(group)
                    .into_iter()
                    .partition::<VecDeque<_>, _>(|w| w.deadline <= now);
                expired.extend(late.into_iter().map(|w| w.job));
                *group = rest;
            }
            !group.is_empty()
        });
        self.len -= expired.len();
        expired
    }

    /// Takes the `count` oldest requests of `key`, fewer where fewer wait.
    pub fn take(&mut self, key: &K, count: usize) -> Vec<Waiting<J>> {
        let Some(group) = self.groups.get_mut(key) else {
            return Vec::new();
        };
        let taken: Vec<_> = group.drain(..count.min(group.len())).collect();
        if group.is_empty() {
            self.groups.remove(key);
        }
        self.len -= taken.len();
        taken
    }

    /// The groups, none of them empty, in no order.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&K, &VecDeque<Waiting<J>>)> {
        self.groups.iter()
    }
}
