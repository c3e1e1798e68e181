//! Which backend of a route takes a request, by weight.

/// Index drawn in proportion to the weights; `None` where all are 0. `random` is uniform over `u64`.
pub(crate) fn choose(weights: impl Iterator<Item = u32> + Clone, random: u64) -> Option<usize> {
    let total: u64 = weights.clone().map(u64::from).sum();
    if total == 0 {
        return None;
    }
    // The bias of the remainder is below 2^-32, since the total of any real table fits 32 bits.
    let mut point = random % total;
    for (index, weight) in weights.enumerate() {
        let weight = u64::from(weight);
        if point < weight {
            return Some(index);
        }
        point -= weight;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_weight_of_zero_gets_nothing_and_anything_else_something(
            weights in proptest::collection::vec(0u32..1000, 0..10),
            random in any::<u64>(),
        ) {
            match choose(weights.iter().copied(), random) {
                Some(index) => prop_assert!(weights[index] > 0),
                None => prop_assert!(weights.iter().all(|w| *w == 0)),
            }
        }

        #[test]
        fn over_all_points_each_gets_exactly_its_weight(weights in proptest::collection::vec(0u32..50, 1..6)) {
            let total: u32 = weights.iter().sum();
            let mut seen = vec![0u32; weights.len()];
            for point in 0..u64::from(total) {
                if let Some(index) = choose(weights.iter().copied(), point) {
                    seen[index] += 1;
                }
            }
            prop_assert_eq!(seen, weights);
        }
    }
}
