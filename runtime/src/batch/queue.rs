//! What waits for the device.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use tokio::time::Instant;

/// How important a request is: 1 is the highest, larger numbers are lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub u32);

/// A place in the queue: by priority, and within one in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    priority: Priority,
    number: u64,
}

impl Ticket {
    /// The priority of whoever stands there.
    pub fn priority(self) -> Priority {
        self.priority
    }
}

/// What is known of a request that comes.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Its size along the batch dimension; a request of none counts as one, so that every batch has a bounded number of requests.
    pub rows: usize,
    /// Its part of a run's cost, in elements of its inputs.
    pub work: u64,
    /// Its priority.
    pub priority: Priority,
    /// When it arrived in the runtime.
    pub arrived: Instant,
    /// When its answer is of no use any more.
    pub deadline: Instant,
}

/// One request that waits.
#[derive(Debug)]
pub struct Waiting<J> {
    /// Its place.
    pub ticket: Ticket,
    /// Its rows, at least 1.
    pub rows: usize,
    /// Its part of a run's cost.
    pub work: u64,
    /// When it arrived in the runtime.
    pub arrived: Instant,
    /// When its answer is of no use any more.
    pub deadline: Instant,
    /// What the caller wants back.
    pub job: J,
}

/// Requests in groups by key. Requests of one key may run in one batch (same model, same shape but for the rows, same types)
/// and leave by priority, and within one in the order in which they came.
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

    /// Adds a request behind those of its key and priority. The bound on the number is the caller's to keep.
    pub fn push(&mut self, key: K, arrival: Arrival, job: J) -> Ticket {
        let ticket = Ticket {
            priority: arrival.priority,
            number: self.next,
        };
        self.next += 1;
        self.len += 1;
        let group = self.groups.entry(key).or_default();
        // At the end, unless someone of a lower priority waits.
        let at = group.partition_point(|w| w.ticket < ticket);
        let waiting = Waiting {
            ticket,
            rows: arrival.rows.max(1),
            work: arrival.work,
            arrived: arrival.arrived,
            deadline: arrival.deadline,
            job,
        };
        group.insert(at, waiting);
        ticket
    }

    /// Takes a request out whose client left. `None` where it has already been taken.
    pub fn remove(&mut self, key: &K, ticket: Ticket) -> Option<J> {
        let group = self.groups.get_mut(key)?;
        // A group is sorted by ticket.
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
        self.take_where(|_, waiting| waiting.deadline <= now)
    }

    /// Takes out every request that this holds for, in no order.
    pub fn take_where(&mut self, mut of: impl FnMut(&K, &Waiting<J>) -> bool) -> Vec<J> {
        let mut taken = Vec::new();
        self.groups.retain(|key, group| {
            if group.iter().any(|w| of(key, w)) {
                let (out, rest) = std::mem::take(group)
                    .into_iter()
                    .partition::<VecDeque<_>, _>(|w| of(key, w));
                taken.extend(out.into_iter().map(|w| w.job));
                *group = rest;
            }
            !group.is_empty()
        });
        self.len -= taken.len();
        taken
    }

    /// Takes the `count` first requests of `key`, fewer where fewer wait.
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
