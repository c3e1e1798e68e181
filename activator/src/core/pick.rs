//! Which endpoint takes the next request: the one with the fewest requests in flight among those with room. Past
//! [`SCAN_LIMIT`] endpoints two random ones are compared instead of all, which is nearly as even and does not grow.

/// Up to this many endpoints all are compared.
pub(crate) const SCAN_LIMIT: usize = 8;

/// What a choice needs to know of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// Requests it holds.
    pub(crate) in_flight: u32,
    /// Whether it may be given one more.
    pub(crate) room: bool,
}

/// Index of the endpoint to take, or `None` where none has room. `random` spreads ties and draws the two candidates.
pub(crate) fn pick<T>(items: &[T], load: impl Fn(&T) -> Load, random: u64) -> Option<usize> {
    let n = items.len();
    if n > SCAN_LIMIT {
        let first = (random as u32) as usize % n;
        // A step of 1..n from the first, so that the second is always another one.
        let second = (first + 1 + (random >> 32) as usize % (n - 1)) % n;
        let (a, b) = (load(&items[first]), load(&items[second]));
        match (a.room, b.room) {
            (true, true) => return Some(if b.in_flight < a.in_flight { second } else { first }),
            (true, false) => return Some(first),
            (false, true) => return Some(second),
            // Both full says nothing of the others.
            (false, false) => {}
        }
    }
    scan(items, load, random)
}

fn scan<T>(items: &[T], load: impl Fn(&T) -> Load, random: u64) -> Option<usize> {
    let n = items.len();
    if n == 0 {
        return None;
    }
    let start = random as usize % n;
    let mut best: Option<(u32, usize)> = None;
    for index in (start..n).chain(0..start) {
        let load = load(&items[index]);
        if load.room && best.is_none_or(|(in_flight, _)| load.in_flight < in_flight) {
            best = Some((load.in_flight, index));
        }
    }
    best.map(|(_, index)| index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loads(max: usize) -> impl Strategy<Value = Vec<Load>> {
        proptest::collection::vec(
            (0u32..20, any::<bool>()).prop_map(|(in_flight, room)| Load { in_flight, room }),
            0..max,
        )
    }

    proptest! {
        #[test]
        fn one_with_room_is_found_whenever_there_is_one(loads in loads(40), random in any::<u64>()) {
            let picked = pick(&loads, |l| *l, random);
            prop_assert_eq!(picked.is_some(), loads.iter().any(|l| l.room));
            if let Some(index) = picked {
                prop_assert!(loads[index].room);
            }
        }

        #[test]
        fn among_a_few_it_is_the_least_loaded(loads in loads(SCAN_LIMIT + 1), random in any::<u64>()) {
            let least = loads.iter().filter(|l| l.room).map(|l| l.in_flight).min();
            prop_assert_eq!(pick(&loads, |l| *l, random).map(|i| loads[i].in_flight), least);
        }

        #[test]
        fn among_many_it_is_never_the_most_loaded_alone(n in 9usize..40, busy in 0usize..9, random in any::<u64>()) {
            // One endpoint is worse than all others: two different candidates never make it the winner.
            let loads: Vec<Load> = (0..n).map(|i| Load { in_flight: u32::from(i == busy), room: true }).collect();
            prop_assert_ne!(pick(&loads, |l| *l, random), Some(busy));
        }
    }

    #[test]
    fn ties_are_spread() {
        let loads = [Load {
            in_flight: 0,
            room: true,
        }; 4];
        let picked: std::collections::BTreeSet<_> = (0..4).filter_map(|r| pick(&loads, |l| *l, r)).collect();
        assert_eq!(picked.len(), 4);
    }
}
