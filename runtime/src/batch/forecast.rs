//! When a request that comes now would be answered, were nothing else to come.

use std::hash::Hash;

use tokio::time::Instant;

use super::fill::{Load, Terms, fill};
use super::queue::{Arrival, Priority, Queue};

/// One group, as far as it is left.
struct Group<'t, K> {
    key: Option<&'t K>,
    loads: Vec<(Priority, Load)>,
    terms: Terms<'t>,
}

/// When `arrival` under `key` would be answered: the batches that stand before it, formed by the rules of [`super::decide`] (an
/// idle device takes at once), run one after the other from `free` on, which is when the device is done with what it runs now.
/// Groups whose cost is not known count as free of charge. `None` where the cost of `key` itself is not known.
///
/// Where every run takes the time that its cost says, requests of one priority and one key that are admitted only where this is
/// not past their deadline are all answered in time, whatever comes after them.
pub fn forecast<'t, K: Eq + Hash + Clone, J>(
    queue: &'t Queue<K, J>,
    now: Instant,
    free: Instant,
    key: &K,
    arrival: &Arrival,
    terms: impl Fn(&K) -> Terms<'t>,
) -> Option<Instant> {
    let own = terms(key);
    own.cost?;
    let mut groups: Vec<Group<'t, K>> = queue
        .groups()
        .map(|(key, waiting)| Group {
            key: Some(key),
            loads: waiting.iter().map(|w| (w.ticket.priority(), Load::from(w))).collect(),
            terms: terms(key),
        })
        .collect();
    let at = groups
        .iter()
        .position(|group| group.key == Some(key))
        .unwrap_or_else(|| {
            groups.push(Group {
                key: None,
                loads: Vec::new(),
                terms: own,
            });
            groups.len() - 1
        });
    let load = Load {
        rows: arrival.rows.max(1),
        work: arrival.work,
        deadline: arrival.deadline,
    };
    let place = groups[at]
        .loads
        .partition_point(|(priority, _)| *priority <= arrival.priority);
    groups[at].loads.insert(place, (arrival.priority, load));
    Some(run_through(groups, at, place, now.max(free)))
}

/// Runs batch after batch until the request at `place` of group `at` is done.
fn run_through<K>(mut groups: Vec<Group<'_, K>>, at: usize, mut place: usize, mut time: Instant) -> Instant {
    while let Some(next) = most_urgent(&groups) {
        let group = &mut groups[next];
        let batch = fill(group.loads.iter().map(|(_, load)| *load), &group.terms, time);
        if let Some(cost) = group.terms.cost {
            time += cost.time(batch.work);
        }
        if next == at && place < batch.count {
            break;
        }
        if next == at {
            place -= batch.count;
        }
        group.loads.drain(..batch.count);
    }
    time
}

/// The group that goes next.
fn most_urgent<K>(groups: &[Group<'_, K>]) -> Option<usize> {
    let urgency = |group: &Group<'_, K>| {
        let head = group.loads.first()?.0;
        let earliest = group.loads.iter().map(|(_, load)| load.deadline).min()?;
        Some((head, earliest))
    };
    let candidates = groups
        .iter()
        .enumerate()
        .filter_map(|(at, group)| Some((urgency(group)?, at)));
    candidates.min().map(|(_, at)| at)
}
