//! How several activators share the concurrency of replicas, without a word between them.
//!
//! Each endpoint takes at most `capacity` requests at once. All places of all endpoints, one endpoint after the other, are
//! dealt to the activators in turn, so an activator has at most one place more than another, on each endpoint and in all.
//! Where there are fewer places than activators those left over take the place of another too (the sum is past the
//! capacity then): an activator without any place could never serve. The runtime refuses the excess with a marked 503, and
//! the activator tries again.

/// An activator's place among those that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rank {
    /// From 0, below `of`.
    pub(crate) index: u32,
    /// Activators in all, at least 1.
    pub(crate) of: u32,
}

impl Rank {
    /// The only one.
    pub(crate) const ALONE: Self = Self { index: 0, of: 1 };
}

/// This activator's share of each of `endpoints` endpoints that take `capacity` requests each. All activators have to
/// number the endpoints alike. The sum over all activators is `capacity` for each endpoint, except where there are more
/// activators than places in all.
pub(crate) fn shares(capacity: u32, endpoints: usize, rank: Rank) -> Vec<u32> {
    let of = u64::from(rank.of.max(1));
    let index = u64::from(rank.index) % of;
    let capacity = u64::from(capacity.max(1));
    let places = capacity * endpoints as u64;
    if index >= places {
        return left_over(index, endpoints);
    }
    (0..endpoints as u64)
        .map(|endpoint| {
            let first = endpoint * capacity;
            // Places p of [first, first + capacity) with p % of == index.
            (dealt(first + capacity, index, of) - dealt(first, index, of)) as u32
        })
        .collect()
}

/// How many of the places below `end` go to the activator of this index.
fn dealt(end: u64, index: u64, of: u64) -> u64 {
    (end + of - 1 - index) / of
}

/// One that got nothing takes a place beside another.
fn left_over(index: u64, endpoints: usize) -> Vec<u32> {
    let mut shares = vec![0; endpoints];
    if let Some(count) = std::num::NonZeroU64::new(endpoints as u64) {
        shares[(index % count) as usize] = 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(capacity: u32, endpoints: usize, of: u32) -> Vec<Vec<u32>> {
        (0..of)
            .map(|index| shares(capacity, endpoints, Rank { index, of }))
            .collect()
    }

    proptest! {
        #[test]
        fn the_shares_of_all_activators_are_the_capacity_of_each_endpoint(
            capacity in 1u32..40,
            endpoints in 1usize..20,
            of in 1u32..12,
        ) {
            let all = all(capacity, endpoints, of);
            let excess = u64::from(of).saturating_sub(u64::from(capacity) * endpoints as u64);
            let mut past = 0;
            for endpoint in 0..endpoints {
                let sum: u32 = all.iter().map(|shares| shares[endpoint]).sum();
                prop_assert!(sum >= capacity, "places of endpoint {endpoint} that nobody may use");
                past += u64::from(sum - capacity);
            }
            prop_assert_eq!(past, excess, "past the capacity only by the activators that have no place else");
        }

        #[test]
        fn every_activator_can_serve_and_none_has_more_than_one_place_more(
            capacity in 1u32..40,
            endpoints in 1usize..20,
            of in 1u32..12,
        ) {
            let all = all(capacity, endpoints, of);
            let sums: Vec<u32> = all.iter().map(|shares| shares.iter().sum()).collect();
            let (least, most) = (sums.iter().min().unwrap(), sums.iter().max().unwrap());
            prop_assert!(*least >= 1);
            prop_assert!(most - least <= 1, "{sums:?}");
            for endpoint in 0..endpoints {
                let of_it: Vec<u32> = all.iter().map(|shares| shares[endpoint]).collect();
                if u64::from(of) <= u64::from(capacity) * endpoints as u64 {
                    prop_assert!(of_it.iter().max().unwrap() - of_it.iter().min().unwrap() <= 1);
                }
            }
        }

        #[test]
        fn a_new_endpoint_behind_the_others_changes_none_of_their_shares(
            capacity in 1u32..40,
            endpoints in 1usize..20,
            index in 0u32..12,
            more in 1u32..12,
        ) {
            let rank = Rank { index, of: index + more };
            let before = shares(capacity, endpoints, rank);
            let after = shares(capacity, endpoints + 1, rank);
            if u64::from(index) < u64::from(capacity) * endpoints as u64 {
                prop_assert_eq!(&after[..endpoints], &before[..]);
            }
        }
    }

    #[test]
    fn alone_it_has_all() {
        assert_eq!(shares(4, 3, Rank::ALONE), [4, 4, 4]);
    }

    #[test]
    fn with_one_place_each_two_activators_take_turns() {
        let of = 2;
        assert_eq!(shares(1, 4, Rank { index: 0, of }), [1, 0, 1, 0]);
        assert_eq!(shares(1, 4, Rank { index: 1, of }), [0, 1, 0, 1]);
        assert_eq!(shares(1, 1, Rank { index: 1, of }), [1], "beside the other one");
    }
}
