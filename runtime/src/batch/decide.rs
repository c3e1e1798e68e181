//! The decision.

use std::collections::VecDeque;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use super::queue::{Queue, Ticket, Waiting};

/// What the device does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Nothing.
    Idle,
    /// It runs a batch.
    Busy,
}

/// What holds for the requests of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Most rows in a batch, at least 1; a single request with more runs alone. 1 for a model that can't be batched.
    pub max_rows: usize,
    /// How old the oldest request of a batch may get while the batch fills up. Zero: an idle device takes what waits at once.
    pub max_latency: Duration,
    /// Requests of the same model that are being received and could still join.
    pub open: usize,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<K> {
    /// Run the `count` oldest requests of `key` now.
    Take {
        /// The group.
        key: K,
        /// How many of its requests, at least 1.
        count: usize,
    },
    /// Nothing is due before this time, unless something changes: a request comes, goes or is closed.
    WaitUntil(Instant),
    /// Nothing to do until something changes.
    Idle,
}

/// Decides what an idle device runs.
///
/// A group is due when its batch is full, its oldest request is `max_latency` old, or no request is open that could join. Of
/// the groups that are due, the one with the earliest deadline among its requests goes first: deadlines are fixed at arrival,
/// so no group waits for ever behind a busier one. Expired requests must have been taken out before.
pub fn decide<K: Eq + Hash + Clone, J>(
    queue: &Queue<K, J>,
    now: Instant,
    device: Device,
    terms: impl Fn(&K) -> Terms,
) -> Decision<K> {
    if device == Device::Busy {
        return Decision::Idle;
    }
    let mut first: Option<(Urgency, &K, usize)> = None;
    let mut wake: Option<Instant> = None;
    for (key, group) in queue.groups() {
        let terms = terms(key);
        let batch = fill(group, terms.max_rows);
        if let Some(later) = due(group, batch, terms, now) {
            wake = Some(wake.map_or(later, |wake| wake.min(later)));
            continue;
        }
        let urgency = urgency(group);
        if first.is_none_or(|(least, ..)| urgency < least) {
            first = Some((urgency, key, batch.count));
        }
    }
    match (first, wake) {
        (Some((_, key, count)), _) => Decision::Take {
            key: key.clone(),
            count,
        },
        (None, Some(wake)) => Decision::WaitUntil(wake),
        (None, None) => Decision::Idle,
    }
}

/// The batch at the head of a group.
#[derive(Clone, Copy)]
struct Batch {
    count: usize,
    full: bool,
}

/// The longest head of the group within `max_rows`; its first request always.
fn fill<J>(group: &VecDeque<Waiting<J>>, max_rows: usize) -> Batch {
    let mut rows = 0usize;
    let mut count = 0;
    for waiting in group {
        rows = rows.saturating_add(waiting.rows);
        if rows > max_rows && count > 0 {
            return Batch { count, full: true };
        }
        count += 1;
        if rows >= max_rows {
            return Batch { count, full: true };
        }
    }
    Batch { count, full: false }
}

/// `None` where the batch should run now, else when it should at the latest.
fn due<J>(group: &VecDeque<Waiting<J>>, batch: Batch, terms: Terms, now: Instant) -> Option<Instant> {
    if batch.full || terms.open == 0 || terms.max_latency.is_zero() {
        return None;
    }
    let oldest = group.iter().map(|w| w.arrived).min()?;
    Some(oldest + terms.max_latency).filter(|&due| due > now)
}

/// Smaller goes first.
type Urgency = (Option<Instant>, Option<Ticket>);

fn urgency<J>(group: &VecDeque<Waiting<J>>) -> Urgency {
    (group.iter().map(|w| w.deadline).min(), group.front().map(|w| w.ticket))
}
