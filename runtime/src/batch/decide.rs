//! The decision.

use std::collections::VecDeque;
use std::hash::Hash;

use tokio::time::Instant;

use super::fill::{Batch, Load, Terms, fill};
use super::queue::{Priority, Queue, Ticket, Waiting};

/// What the device does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Nothing.
    Idle,
    /// It runs a batch and has a place for the next one, which can get ready meanwhile.
    Ahead,
    /// It runs a batch.
    Busy,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<K> {
    /// Run the `count` first requests of `key` now.
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

/// Decides what a device with a free place runs.
///
/// A group is due when its batch is full or of a preferred size, its oldest request is `max_latency` old, no request is open that
/// could join, or waiting longer would make it late. Of the groups that are due, the one with the highest priority at its head
/// goes first, and among those the one with the earliest deadline among its requests: deadlines are fixed at arrival, so no group
/// waits for ever behind a busier one of its priority. Expired requests must have been taken out before.
///
/// A place ahead is for full batches only: one that could grow until the device is idle is better off growing.
pub fn decide<'t, K: Eq + Hash + Clone, J>(
    queue: &Queue<K, J>,
    now: Instant,
    device: Device,
    terms: impl Fn(&K) -> Terms<'t>,
) -> Decision<K> {
    if device == Device::Busy {
        return Decision::Idle;
    }
    let mut first: Option<(Urgency, &K, usize)> = None;
    let mut wake: Option<Instant> = None;
    for (key, group) in queue.groups() {
        let terms = terms(key);
        let batch = fill(group.iter().map(Load::from), &terms, now);
        if device == Device::Ahead && !batch.full {
            continue;
        }
        if let Some(later) = due(group, batch, &terms, now) {
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

/// `None` where the batch should run now, else when it should at the latest.
fn due<J>(group: &VecDeque<Waiting<J>>, batch: Batch, terms: &Terms<'_>, now: Instant) -> Option<Instant> {
    if batch.full || terms.open == 0 || terms.max_latency.is_zero() {
        return None;
    }
    let oldest = group.iter().map(|w| w.arrived).min()?;
    let due = oldest + terms.max_latency;
    Some(batch.latest.map_or(due, |latest| latest.min(due))).filter(|&due| due > now)
}

/// Smaller goes first.
pub(super) type Urgency = (Option<Priority>, Option<Instant>, Option<Ticket>);

fn urgency<J>(group: &VecDeque<Waiting<J>>) -> Urgency {
    let head = group.front().map(|w| w.ticket);
    let earliest = group.iter().map(|w| w.deadline).min();
    (head.map(Ticket::priority), earliest, head)
}
