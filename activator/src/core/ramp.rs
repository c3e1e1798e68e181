//! How many requests an endpoint may hold at once.
//!
//! A fresh replica gets a small allowance, so that the backlog of a cold wake does not land on it in one piece. Each
//! success adds one, which doubles the allowance with every round of answers. An endpoint that says its queue is full
//! is cut to what it holds; from there the allowance grows by one a round, since the limit is now known to be near.

/// The allowance of one endpoint. Always between 1 and its hard limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ramp {
    limit: u32,
    hard: u32,
    /// Below it the allowance doubles with each round, above it grows by one a round.
    threshold: u32,
    /// Successes above the threshold since the last step.
    credit: u32,
}

impl Ramp {
    /// Starts at `initial`, never past `capacity` (`None`: no hard limit). Both count as at least 1.
    pub(crate) fn new(initial: u32, capacity: Option<u32>) -> Self {
        let hard = capacity.unwrap_or(u32::MAX).max(1);
        Self {
            limit: initial.clamp(1, hard),
            hard,
            threshold: hard,
            credit: 0,
        }
    }

    /// The hard limit has changed. What it has learnt of the endpoint stays, within the new limit; one that was held by the
    /// old limit starts to grow towards the new one from at least `initial`.
    pub(crate) fn bound(&mut self, initial: u32, capacity: Option<u32>) {
        let hard = capacity.unwrap_or(u32::MAX).max(1);
        if self.threshold >= self.hard {
            self.threshold = hard;
            self.limit = self.limit.max(initial);
        }
        self.hard = hard;
        self.limit = self.limit.clamp(1, hard);
        self.threshold = self.threshold.min(hard);
    }

    /// Requests it may hold now.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// A request was answered.
    pub(crate) fn succeeded(&mut self) {
        if self.limit >= self.hard {
            return;
        }
        if self.limit < self.threshold {
            self.limit += 1;
            return;
        }
        self.credit += 1;
        if self.credit >= self.limit {
            self.credit = 0;
            self.limit += 1;
        }
    }

    /// It refused a request because its queue is full, and holds `in_flight` others of ours.
    pub(crate) fn cut(&mut self, in_flight: u32) {
        self.limit = in_flight.clamp(1, self.limit);
        self.threshold = self.limit;
        self.credit = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_allowance_stays_between_one_and_the_hard_limit(
            initial in 0u32..200,
            capacity in proptest::option::of(0u32..300),
            events in proptest::collection::vec(proptest::option::of(0u32..400), 0..400),
        ) {
            let mut ramp = Ramp::new(initial, capacity);
            let hard = capacity.unwrap_or(u32::MAX).max(1);
            for event in events {
                let before = ramp.limit();
                match event {
                    None => ramp.succeeded(),
                    Some(in_flight) => {
                        ramp.cut(in_flight);
                        prop_assert!(ramp.limit() <= before);
                    }
                }
                prop_assert!((1..=hard).contains(&ramp.limit()));
                prop_assert!(ramp.limit() <= before + 1);
            }
        }
    }

    #[test]
    fn one_round_of_successes_doubles_a_fresh_allowance() {
        let mut ramp = Ramp::new(64, None);
        for _ in 0..64 {
            ramp.succeeded();
        }
        assert_eq!(ramp.limit(), 128);
    }

    proptest! {
        #[test]
        fn a_changed_hard_limit_holds_at_once(
            before in proptest::option::of(0u32..300),
            after in proptest::option::of(0u32..300),
            initial in 0u32..100,
            cut in proptest::option::of(0u32..300),
        ) {
            let mut ramp = Ramp::new(initial, before);
            if let Some(in_flight) = cut {
                ramp.cut(in_flight);
            }
            let limit = ramp.limit();
            ramp.bound(initial, after);
            prop_assert!((1..=after.unwrap_or(u32::MAX).max(1)).contains(&ramp.limit()));
            let was_cut = limit < before.unwrap_or(u32::MAX).max(1) && cut.is_some();
            prop_assert!(!was_cut || ramp.limit() <= limit, "a cut endpoint grew by a changed limit");
        }
    }

    #[test]
    fn after_a_cut_one_round_adds_one() {
        let mut ramp = Ramp::new(64, None);
        ramp.cut(10);
        assert_eq!(ramp.limit(), 10);
        for _ in 0..10 {
            ramp.succeeded();
        }
        assert_eq!(ramp.limit(), 11);
    }
}
