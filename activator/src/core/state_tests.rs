use std::collections::BTreeMap;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::{Protocol, WakeReason};

type TestState = BackendState<u32, u64>;

const BOUNDS: Bounds = Bounds {
    requests: 20,
    bytes: 1000,
};

fn endpoint(id: u32, state: EndpointState, capacity: Option<u32>, initial: u32) -> Endpoint {
    Endpoint {
        id: EndpointId::new(id.to_string()),
        address: ([127, 0, 0, 1], 1).into(),
        protocol: Protocol::H1,
        server_name: None,
        capacity,
        initial_capacity: initial,
        probe: http::uri::PathAndQuery::from_static("/").into(),
        state,
        started: Instant::now(),
    }
}

fn number(endpoint: &Endpoint) -> u32 {
    endpoint.id.as_str().parse().unwrap()
}

fn failure() -> WakeError {
    WakeError {
        reason: WakeReason::LoadFailed,
        message: "no".into(),
    }
}

/// Ready endpoints with this capacity each.
fn ready(capacities: &[u32]) -> TestState {
    let mut state = TestState::new(1);
    let list = (0..)
        .zip(capacities)
        .map(|(id, &capacity)| endpoint(id, EndpointState::Ready, Some(capacity), capacity))
        .collect();
    state.set_endpoints(list, number);
    state
}

#[derive(Clone, Debug)]
enum Step {
    Arrive { bytes: usize },
    Leave(usize),
    End(usize, Outcome),
    Endpoints(Vec<(u32, EndpointState, Option<u32>, u32)>),
    MarkReady(usize),
    Suspend(usize),
    Seal(u32),
    Unseal(u32),
    Resume(usize),
    WakeFailed,
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![Just(Outcome::Answered), Just(Outcome::Neutral), Just(Outcome::Refused)];
    let declared = prop_oneof![
        Just(EndpointState::Starting),
        Just(EndpointState::Ready),
        Just(EndpointState::Draining)
    ];
    let spec = (0u32..6, declared, proptest::option::of(0u32..4), 1u32..4);
    prop_oneof![
        8 => (0usize..200).prop_map(|bytes| Step::Arrive { bytes }),
        2 => any::<prop::sample::Index>().prop_map(|i| Step::Leave(i.index(64))),
        6 => (0usize..64, outcome).prop_map(|(i, o)| Step::End(i, o)),
        2 => proptest::collection::vec(spec, 0..6).prop_map(Step::Endpoints),
        3 => (0usize..8).prop_map(Step::MarkReady),
        1 => (0usize..8).prop_map(Step::Suspend),
        1 => (0u32..6).prop_map(Step::Seal),
        1 => (0u32..6).prop_map(Step::Unseal),
        2 => (0usize..8).prop_map(Step::Resume),
        1 => Just(Step::WakeFailed),
    ]
}

/// Drives a state as the adapters do and keeps its own books beside it.
struct Model {
    state: TestState,
    /// Requests with a place: ticket and the key of their endpoint.
    placed: Vec<(u64, u64)>,
    /// Waiting requests with their bytes.
    waiting: BTreeMap<u64, usize>,
}

impl Model {
    fn new() -> Self {
        Self {
            state: TestState::new(7),
            placed: Vec::new(),
            waiting: BTreeMap::new(),
        }
    }

    fn key(&self, index: usize) -> Option<u64> {
        let slots = &self.state.slots;
        (!slots.is_empty()).then(|| slots[index % slots.len()].key)
    }

    fn place(&mut self, ticket: u64, pick: &Pick<u32>, bytes: usize) {
        let slot = self.state.slots.iter().find(|slot| slot.key == pick.key).unwrap();
        assert!(
            slot.ready() && !slot.paused,
            "picked one that may not be picked: {slot:?}"
        );
        assert!(slot.in_flight <= slot.ramp.limit(), "past its allowance: {slot:?}");
        assert!(
            slot.in_flight <= slot.spec.capacity.unwrap_or(u32::MAX),
            "past its capacity: {slot:?}"
        );
        self.state.forwarded(bytes);
        self.placed.push((ticket, pick.key));
    }

    fn grant(&mut self) {
        for grant in self.state.grant() {
            let (ticket, bytes) = self.waiting.pop_first().unwrap();
            assert_eq!(grant.waiter, ticket, "places go to who waits longest");
            self.place(ticket, &grant.pick, bytes);
        }
    }

    fn gone(&mut self, tickets: Vec<u64>) {
        for ticket in tickets {
            let bytes = self.waiting.remove(&ticket).unwrap();
            self.state.depart(Duration::ZERO, true, bytes);
        }
    }

    fn arrive(&mut self, bytes: usize) {
        let ticket = self.state.arrive(Duration::ZERO);
        if self.state.reserve(bytes, BOUNDS).is_err() {
            return self.state.depart(Duration::ZERO, true, 0);
        }
        if let Some(pick) = self.state.acquire() {
            assert!(self.waiting.is_empty(), "nobody overtakes");
            return self.place(ticket, &pick, bytes);
        }
        match self.state.wait(ticket, BOUNDS, ticket) {
            Ok(_) => {
                self.waiting.insert(ticket, bytes);
            }
            Err(_) => self.state.depart(Duration::ZERO, true, bytes),
        }
    }

    fn end(&mut self, index: usize, outcome: Outcome) {
        if self.placed.is_empty() {
            return;
        }
        let (ticket, key) = self.placed.remove(index % self.placed.len());
        if outcome == Outcome::Refused {
            // It is held again and goes on with its old place in the order.
            self.state.returned();
            self.state.release(key, outcome);
            self.grant();
            match self.state.acquire() {
                Some(pick) => self.place(ticket, &pick, 0),
                None => match self.state.wait(ticket, BOUNDS, ticket) {
                    Ok(_) => {
                        self.waiting.insert(ticket, 0);
                    }
                    Err(_) => self.state.depart(Duration::ZERO, true, 0),
                },
            }
        } else {
            self.state.release(key, outcome);
            self.state.depart(Duration::ZERO, false, 0);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Arrive { bytes } => self.arrive(bytes),
            Step::Leave(index) => {
                if let Some((&ticket, _)) = self.waiting.iter().nth(index % self.waiting.len().max(1)) {
                    self.state.leave(ticket);
                    self.gone(vec![ticket]);
                }
            }
            Step::End(index, outcome) => self.end(index, outcome),
            Step::Endpoints(mut specs) => {
                specs.sort_by_key(|spec| spec.0);
                specs.dedup_by_key(|spec| spec.0);
                let list = specs.into_iter().map(|(id, s, c, i)| endpoint(id, s, c, i)).collect();
                self.state.set_endpoints(list, number);
            }
            Step::MarkReady(index) => {
                if let Some(key) = self.key(index) {
                    self.state.mark_ready(key);
                }
            }
            Step::Suspend(index) => {
                if let Some(key) = self.key(index) {
                    self.state.suspend(key);
                }
            }
            Step::Seal(id) => {
                self.state.seal(&EndpointId::new(id.to_string()));
            }
            Step::Unseal(id) => {
                self.state.unseal(&EndpointId::new(id.to_string()));
            }
            Step::Resume(index) => {
                if let Some(key) = self.key(index) {
                    self.state.resume(key);
                }
            }
            Step::WakeFailed => {
                let dismissed = self.state.wake_failed(failure());
                self.gone(dismissed);
            }
        }
        self.grant();
        self.check();
    }

    fn check(&mut self) {
        for slot in &self.state.slots {
            let mine = self.placed.iter().filter(|(_, key)| *key == slot.key).count();
            assert_eq!(slot.in_flight as usize, mine);
        }
        assert_eq!(self.state.waiters.len(), self.waiting.len());
        let room = self.state.slots.iter().any(|slot| slot.load().room);
        assert!(!room || self.waiting.is_empty(), "a request waits beside a free place");
        assert!(self.waiting.len() <= BOUNDS.requests);
        assert_eq!(self.state.held_bytes, self.waiting.values().sum::<usize>());
        let counts = self.state.counts(Duration::ZERO);
        assert_eq!(counts.in_flight as usize, self.placed.len());
        assert_eq!(counts.waiting as usize, self.waiting.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_place_is_lost_doubled_or_past_its_limit(steps in proptest::collection::vec(step(), 1..150)) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
        }
        while !model.placed.is_empty() {
            model.step(Step::End(0, Outcome::Neutral));
        }
        let left = model.state.dismiss(|_| true);
        model.gone(left);
        model.check();
        prop_assert!(model.state.slots.iter().all(|slot| !slot.gone), "a vanished endpoint outlived its requests");
    }

    #[test]
    fn the_integral_is_the_sum_of_all_stays(stays in proptest::collection::vec((0u64..1000, 0u64..1000), 0..30)) {
        let mut events: Vec<(u64, bool)> = stays.iter().flat_map(|&(at, stay)| [(at, true), (at + stay, false)]).collect();
        events.sort_by_key(|&(at, arrives)| (at, !arrives));
        let mut state = TestState::new(1);
        for (at, arrives) in events {
            let now = Duration::from_secs(at);
            if arrives { state.arrive(now); } else { state.depart(now, true, 0); }
        }
        let counts = state.counts(Duration::from_secs(5000));
        prop_assert_eq!(counts.concurrency_seconds, stays.iter().map(|&(_, stay)| stay as f64).sum::<f64>());
        prop_assert_eq!((counts.arrivals, counts.waiting), (stays.len() as u64, 0));
    }
}

#[test]
fn a_refusal_of_the_only_request_pauses_the_endpoint_until_resumed() {
    let mut state = ready(&[4]);
    let pick = state.acquire().unwrap();
    assert_eq!(state.release(pick.key, Outcome::Refused), Some(1));
    assert!(state.acquire().is_none());
    state.resume(pick.key);
    let pick = state.acquire().unwrap();
    assert_eq!(
        state.release(pick.key, Outcome::Refused),
        Some(2),
        "the pause grows with each refusal in a row"
    );
}

#[test]
fn a_refusal_beside_others_cuts_the_allowance_to_those() {
    let mut state = ready(&[10]);
    let picks: Vec<_> = (0..5).map(|_| state.acquire().unwrap()).collect();
    assert_eq!(state.release(picks[0].key, Outcome::Refused), None);
    assert!(state.acquire().is_none(), "4 are in flight, 4 are allowed");
    state.release(picks[1].key, Outcome::Answered);
    assert!(state.acquire().is_some());
}

#[test]
fn a_request_that_comes_back_keeps_its_place_in_the_order() {
    let mut state = ready(&[1]);
    let first = state.arrive(Duration::ZERO);
    let pick = state.acquire().unwrap();
    let second = state.arrive(Duration::ZERO);
    state.wait(second, BOUNDS, second).unwrap();
    state.suspend(pick.key);
    state.release(pick.key, Outcome::Neutral);
    state.wait(first, BOUNDS, first).unwrap();
    state.mark_ready(pick.key);
    assert_eq!(state.grant()[0].waiter, first);
}

#[test]
fn a_wake_begins_once_and_again_only_when_the_last_endpoint_is_lost() {
    let mut state = TestState::new(1);
    assert_eq!(state.begin_wake(), None, "nobody asks for it");
    state.arrive(Duration::ZERO);
    let epoch = state.begin_wake().unwrap();
    assert_eq!(state.begin_wake(), None, "one call at a time");
    assert!(matches!(state.wake_answered(epoch, Ok(())), AfterWake::Recheck));
    assert_eq!(state.begin_wake(), None, "it said yes");
    state.set_endpoints(vec![endpoint(1, EndpointState::Starting, None, 1)], number);
    assert_eq!(state.begin_wake(), None, "one is starting");
    state.seal(&EndpointId::new("1"));
    assert!(state.begin_wake().is_some(), "the only one is sealed");
}

#[test]
fn an_answer_from_before_the_loss_of_the_last_endpoint_says_nothing() {
    let mut state = TestState::new(1);
    state.arrive(Duration::ZERO);
    let epoch = state.begin_wake().unwrap();
    state.set_endpoints(vec![endpoint(1, EndpointState::Ready, None, 1)], number);
    state.seal(&EndpointId::new("1"));
    let AfterWake::Again(epoch) = state.wake_answered(epoch, Ok(())) else {
        panic!("has to be asked again")
    };
    assert!(matches!(state.wake_answered(epoch, Ok(())), AfterWake::Recheck));
}

#[test]
fn a_failed_wake_is_remembered_until_an_endpoint_is_ready() {
    let mut state = TestState::new(1);
    let ticket = state.arrive(Duration::ZERO);
    state.wait(ticket, BOUNDS, ticket).unwrap();
    assert_eq!(state.wake_failed(failure()), [ticket]);
    assert_eq!(state.failure(), Some(&failure()));
    state.set_endpoints(vec![endpoint(1, EndpointState::Ready, None, 1)], number);
    assert_eq!(state.failure(), None);
    assert!(state.wake_failed(failure()).is_empty());
    assert_eq!(state.failure(), None, "one is ready, whatever became of another");
}

#[test]
fn an_endpoint_found_ready_stays_so_when_declared_starting_again() {
    let mut state = TestState::new(1);
    let changes = state.set_endpoints(vec![endpoint(1, EndpointState::Starting, None, 1)], number);
    state.mark_ready(changes.probe[0].key);
    let changes = state.set_endpoints(vec![endpoint(1, EndpointState::Starting, None, 1)], number);
    assert!(changes.probe.is_empty());
    assert!(state.acquire().is_some());
}
