use std::time::Duration;

use pilotlight_activator::{WakeError, WakeReason};
use proptest::prelude::*;

use super::*;
use crate::backoff::{BackoffPolicy, Weight};

const READY: Phase = Phase::Ready;
const STARTING: Phase = Phase::Starting;
const SEALED: Phase = Phase::Sealed {
    ready: true,
    drained: false,
};
const DRAINED: Phase = Phase::Sealed {
    ready: true,
    drained: true,
};

/// Replicas named by their place, older first.
fn replicas(states: &[(&str, Phase)], epoch: Instant) -> Vec<Observed> {
    let replica = |(number, (revision, phase)): (usize, &(&str, Phase))| Observed {
        id: id(number),
        revision: Revision::new(revision),
        phase: *phase,
        started: epoch + Duration::from_secs(number as u64),
    };
    states.iter().enumerate().map(replica).collect()
}

fn id(number: usize) -> EndpointId {
    EndpointId::new(number.to_string())
}

fn planned(states: &[(&str, Phase)], desired: u32) -> Vec<Action> {
    let now = Instant::now();
    plan(
        &replicas(states, now),
        desired,
        &Revision::new("new"),
        &Backoff::default(),
        now,
    )
}

fn failed(times: u32, now: Instant) -> Backoff {
    let mut backoff = Backoff::default();
    for _ in 0..times {
        let error = WakeError {
            reason: WakeReason::LoadFailed,
            message: "x".into(),
        };
        backoff.failed(&BackoffPolicy::default(), now, error, Weight::Exit);
    }
    backoff
}

#[test]
fn what_is_missing_is_started_at_once() {
    assert_eq!(planned(&[], 2), [Action::Start(2)]);
    assert_eq!(planned(&[("new", STARTING)], 2), [Action::Start(1)]);
    assert_eq!(planned(&[("new", STARTING), ("new", READY)], 2), []);
    assert_eq!(planned(&[("new", Phase::Ending)], 1), [Action::Start(1)]);
}

#[test]
fn a_new_revision_is_ready_before_the_old_one_drains() {
    assert_eq!(planned(&[("old", READY), ("old", READY)], 2), [Action::Start(2)]);
    assert_eq!(
        planned(&[("old", READY), ("old", READY), ("new", STARTING), ("new", READY)], 2),
        [Action::Seal(id(1))]
    );
    let both = [("old", READY), ("old", SEALED), ("new", READY), ("new", READY)];
    assert_eq!(planned(&both, 2), [Action::Seal(id(0))]);
}

#[test]
fn starting_and_younger_ones_go_first() {
    let states = [("new", READY), ("new", READY), ("new", STARTING)];
    assert_eq!(planned(&states, 2), [Action::Seal(id(2))]);
    assert_eq!(planned(&states, 1), [Action::Seal(id(2)), Action::Seal(id(1))]);
}

#[test]
fn a_sealed_one_is_ended_only_when_it_is_drained() {
    assert_eq!(planned(&[("new", SEALED)], 0), []);
    assert_eq!(planned(&[("new", DRAINED)], 0), [Action::Stop(id(0))]);
}

#[test]
fn a_sealed_one_is_taken_back_before_another_is_started() {
    assert_eq!(planned(&[("new", SEALED)], 1), [Action::Unseal(id(0))]);
    assert_eq!(
        planned(&[("new", DRAINED)], 2),
        [Action::Unseal(id(0)), Action::Start(1)]
    );
}

#[test]
fn to_zero_everything_is_sealed_whatever_its_revision() {
    let states = [("old", READY), ("new", STARTING)];
    assert_eq!(planned(&states, 0), [Action::Seal(id(1)), Action::Seal(id(0))]);
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_one_at_a_time_is_tried_after_the_pause() {
    let now = Instant::now();
    let (backoff, revision) = (failed(1, now), Revision::new("new"));
    let until = now + Duration::from_millis(100);
    assert_eq!(plan(&[], 3, &revision, &backoff, now), [Action::Wait(until)]);
    assert_eq!(plan(&[], 3, &revision, &backoff, until), [Action::Start(1)]);
    let one = replicas(&[("new", STARTING)], now);
    assert_eq!(plan(&one, 3, &revision, &backoff, until), []);
}

/// A world that does what it is told, to see where plans lead.
#[derive(Debug)]
struct World {
    replicas: Vec<Observed>,
    next: usize,
    now: Instant,
}

impl World {
    fn act(&mut self, action: Action) {
        let revision = Revision::new("new");
        match action {
            Action::Start(count) => {
                for _ in 0..count {
                    let (id, started) = (id(self.next), self.now);
                    self.next += 1;
                    self.replicas.push(Observed {
                        id,
                        revision: revision.clone(),
                        phase: STARTING,
                        started,
                    });
                }
            }
            Action::Seal(id) => self.set(&id, |phase| Phase::Sealed {
                ready: phase == READY,
                drained: false,
            }),
            Action::Unseal(id) => self.set(&id, |_| READY),
            Action::Stop(id) => self.replicas.retain(|replica| replica.id != id),
            Action::Wait(_) => {}
        }
    }

    fn set(&mut self, id: &EndpointId, phase: impl Fn(Phase) -> Phase) {
        let replica = self
            .replicas
            .iter_mut()
            .find(|replica| replica.id == *id)
            .expect("planned for a replica that exists");
        replica.phase = phase(replica.phase);
    }

    /// One replica, chosen by a number, gets on with its life.
    fn advance(&mut self, which: usize) {
        let count = self.replicas.len();
        let Some(replica) = self.replicas.get_mut(which % count.max(1)) else {
            return;
        };
        replica.phase = match replica.phase {
            Phase::Starting => READY,
            Phase::Sealed { ready, .. } => Phase::Sealed { ready, drained: true },
            other => other,
        };
    }

    fn ready(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.phase == READY).count()
    }
}

fn phases() -> impl Strategy<Value = Phase> {
    let sealed = (any::<bool>(), any::<bool>()).prop_map(|(ready, drained)| Phase::Sealed { ready, drained });
    prop_oneof![Just(STARTING), Just(READY), Just(Phase::Ending), sealed]
}

fn worlds() -> impl Strategy<Value = World> {
    proptest::collection::vec((prop_oneof!["new", "old", "older"], phases()), 0..12).prop_map(|states| {
        let (now, next) = (Instant::now(), states.len());
        let states: Vec<_> = states
            .iter()
            .map(|(revision, phase)| (revision.as_str(), *phase))
            .collect();
        World {
            replicas: replicas(&states, now),
            next,
            now,
        }
    })
}

proptest! {
    #[test]
    fn carrying_the_plan_out_leads_to_what_is_wished_and_ends(mut world in worlds(), desired in 0_u32..6, seed in any::<u64>()) {
        // Ending ones are gone at some time; here at once.
        world.replicas.retain(|replica| replica.phase != Phase::Ending);
        let (revision, backoff) = (Revision::new("new"), Backoff::default());
        for step in 0..200_usize {
            let actions = plan(&world.replicas, desired, &revision, &backoff, world.now);
            for action in actions {
                world.act(action);
            }
            world.advance(step.wrapping_mul(7).wrapping_add(seed as usize));
            world.advance(step);
        }
        prop_assert_eq!(plan(&world.replicas, desired, &revision, &backoff, world.now), []);
        prop_assert_eq!(world.replicas.len(), desired as usize);
        prop_assert!(world.replicas.iter().all(|replica| replica.revision == revision && replica.phase == READY));
    }

    #[test]
    fn a_roll_over_never_serves_with_fewer_than_it_had_or_should_have(mut world in worlds(), desired in 0_u32..6) {
        let (revision, backoff) = (Revision::new("new"), Backoff::default());
        for step in 0..100 {
            let had = world.ready();
            let actions = plan(&world.replicas, desired, &revision, &backoff, world.now);
            for action in actions {
                world.act(action);
            }
            prop_assert!(world.ready() >= had.min(desired as usize));
            world.advance(step);
        }
    }

    #[test]
    fn no_plan_says_two_things_of_one_replica_or_starts_past_the_wish(world in worlds(), desired in 0_u32..6, failures in 0_u32..3) {
        let backoff = failed(failures, world.now);
        let later = world.now + Duration::from_secs(1);
        let actions = plan(&world.replicas, desired, &Revision::new("new"), &backoff, later);
        let mut named: Vec<_> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Seal(id) | Action::Unseal(id) | Action::Stop(id) => Some(id.clone()),
                Action::Start(_) | Action::Wait(_) => None,
            })
            .collect();
        let all = named.len();
        named.sort();
        named.dedup();
        prop_assert_eq!(named.len(), all);
        let started: u32 = actions.iter().map(|action| if let Action::Start(count) = action { *count } else { 0 }).sum();
        prop_assert!(started <= desired);
        prop_assert!(failures == 0 || started <= 1);
    }
}
