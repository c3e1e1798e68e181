//! The batch at the head of a group.

use std::time::Duration;

use tokio::time::Instant;

use super::cost::Cost;
use super::queue::Waiting;

/// What holds for the requests of one key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms<'t> {
    /// Most rows in a batch, at least 1; a single request with more runs alone. 1 for a model that can't be batched.
    pub max_rows: usize,
    /// How old the oldest request of a batch may get while the batch fills up. Zero: an idle device takes what waits at once.
    pub max_latency: Duration,
    /// Requests of the same model that are being received and could still join.
    pub open: usize,
    /// Sizes that the model runs best at. A batch that reaches one is due, and takes the largest one it reaches.
    pub preferred: &'t [usize],
    /// What a run costs, where it is known and deadlines are to be kept by it: a batch stops growing where one more request would
    /// make another one late.
    pub cost: Option<Cost>,
}

/// What is looked at of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) rows: usize,
    pub(super) work: u64,
    pub(super) deadline: Instant,
}

impl<J> From<&Waiting<J>> for Load {
    fn from(waiting: &Waiting<J>) -> Self {
        Self {
            rows: waiting.rows,
            work: waiting.work,
            deadline: waiting.deadline,
        }
    }
}

/// A batch that could run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// How many requests from the head of the group.
    pub(super) count: usize,
    /// Their work.
    pub(super) work: u64,
    /// Waiting for more would not make it better.
    pub(super) full: bool,
    /// By when it has to start for its requests to be in time, where that is known.
    pub(super) latest: Option<Instant>,
}

/// The longest head of the group that the terms allow; its first request always.
pub(super) fn fill(group: impl Iterator<Item = Load>, terms: &Terms<'_>, now: Instant) -> Batch {
    let mut batch = Batch {
        count: 0,
        work: 0,
        full: false,
        latest: None,
    };
    let mut rows = 0usize;
    // The earliest deadline of those that can still be met.
    let mut earliest: Option<Instant> = None;
    let mut preferred: Option<Batch> = None;
    for load in group {
        let first = batch.count == 0;
        let (next_rows, next_work) = (rows.saturating_add(load.rows), batch.work.saturating_add(load.work));
        let mut next_earliest = earliest;
        if terms
            .cost
            .is_some_and(|cost| now + cost.time(load.work) <= load.deadline)
        {
            next_earliest = Some(earliest.map_or(load.deadline, |e| e.min(load.deadline)));
        }
        let late = |cost: Cost| next_earliest.is_some_and(|earliest| now + cost.time(next_work) > earliest);
        if !first && (next_rows > terms.max_rows || terms.cost.is_some_and(late)) {
            batch.full = true;
            break;
        }
        (rows, earliest) = (next_rows, next_earliest);
        batch.count += 1;
        batch.work = next_work;
        batch.latest = match (terms.cost, earliest) {
            (Some(cost), Some(earliest)) => earliest.checked_sub(cost.time(batch.work)),
            _ => None,
        };
        if terms.preferred.contains(&rows) {
            preferred = Some(Batch { full: true, ..batch });
        }
        if rows >= terms.max_rows {
            batch.full = true;
            break;
        }
    }
    preferred.unwrap_or(batch)
}
