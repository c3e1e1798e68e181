//! One backend: its endpoints with what each holds, its waiting room, its counts and the state of its waking.
//!
//! A plain state machine. It hands out places (`Pick`), takes them back (`release`) and says after each step which
//! waiting requests got one (`Grant`). `E` is whatever the caller knows an endpoint by, `W` a waiting request; neither
//! is looked into. Held by two rules that the tests below drive with random events:
//!
//! * no endpoint holds more than its allowance, and none that is not pickable gets a new request;
//! * while a request waits no endpoint has room, so nobody waits beside a free place and nobody overtakes.

use std::{collections::BTreeMap, time::Duration};

use super::{
    pick::{self, Load},
    ramp::Ramp,
    waking::{Answer, Waking},
};
use crate::{BackendCounts, Endpoint, EndpointId, EndpointState, Probe, WakeError};

/// A place on an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pick<E> {
    /// Key of the endpoint in this state; unique over its life.
    pub(crate) key: u64,
    /// The caller's handle of the endpoint.
    pub(crate) endpoint: E,
}

/// A waiting request that got a place.
#[derive(Debug)]
pub(crate) struct Grant<E, W> {
    pub(crate) waiter: W,
    pub(crate) pick: Pick<E>,
}

/// How a place is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answered: the allowance grows.
    Answered,
    /// Given up by the client, or it says nothing about the endpoint's capacity.
    Neutral,
    /// Refused because the endpoint's queue is full: the allowance is cut.
    Refused,
}

/// The waiting room has no place or no room for the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many requests wait as may.
    Requests,
    /// The bodies of waiting requests take as many bytes as may.
    Bytes,
}

/// Why a request can't wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoWait {
    /// There is no place.
    Full(Full),
    /// The wake that it set off has failed already.
    WakeFailed(WakeError),
}

/// Bounds of the waiting room, from the route's policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) requests: usize,
    pub(crate) bytes: usize,
}

/// What the activator itself has seen of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Never ready so far; being probed.
    Starting,
    /// Seen or declared ready.
    Ready,
    /// Was ready, then failed under a request; being probed again.
    Suspended,
}

#[derive(Debug)]
struct Slot<E> {
    key: u64,
    spec: Endpoint,
    endpoint: E,
    health: Health,
    sealed: bool,
    /// No longer declared; it stays while it holds requests.
    gone: bool,
    /// It refused a request while it held no other of ours: nothing that ends here can tell when to try again, so a
    /// timer does.
    paused: bool,
    /// Refusals in a row, for the length of the pause.
    refusals: u32,
    in_flight: u32,
    ramp: Ramp,
}

impl<E> Slot<E> {
    fn declared_usable(&self) -> bool {
        !self.sealed && !self.gone && self.spec.state != EndpointState::Draining
    }

    /// Counts as a replica that will serve, so nothing needs to be woken.
    fn live(&self) -> bool {
        self.declared_usable() && self.health != Health::Suspended
    }

    fn ready(&self) -> bool {
        self.declared_usable() && self.health == Health::Ready
    }

    fn load(&self) -> Load {
        Load {
            in_flight: self.in_flight,
            room: self.ready() && !self.paused && self.spec.capacity != Some(0) && self.in_flight < self.ramp.limit(),
        }
    }
}

/// Numbers of endpoints by state, for metrics and `last_wake` displays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointCounts {
    pub(crate) starting: usize,
    pub(crate) ready: usize,
    pub(crate) suspended: usize,
    pub(crate) sealed: usize,
}

/// What to do after the waker answered.
#[derive(Debug)]
pub(crate) enum AfterWake<W> {
    /// The backend lost its endpoints in between: call again, as begun at this epoch.
    Again(u64),
    /// Look again after a while whether an endpoint showed up.
    Recheck,
    /// It failed; these requests are to be told.
    Failed(Vec<W>),
}

/// Endpoints that came and went with a new list.
#[derive(Debug)]
pub(crate) struct Changes<E> {
    /// Newly declared ones that have to be probed.
    pub(crate) probe: Vec<Pick<E>>,
    /// Ones that are no longer declared.
    pub(crate) gone: Vec<E>,
}

/// The state of one backend.
#[derive(Debug)]
pub(crate) struct BackendState<E, W> {
    slots: Vec<Slot<E>>,
    waiters: BTreeMap<u64, W>,
    held_bytes: usize,
    open: u64,
    pending: u64,
    arrivals: u64,
    integral: f64,
    integral_at: Duration,
    waking: Waking,
    next_key: u64,
    random: u64,
}

impl<E: Clone, W> BackendState<E, W> {
    /// An idle backend without endpoints. `seed` starts its sequence of random numbers.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            waiters: BTreeMap::new(),
            held_bytes: 0,
            open: 0,
            pending: 0,
            arrivals: 0,
            integral: 0.0,
            integral_at: Duration::ZERO,
            waking: Waking::default(),
            next_key: 0,
            random: seed,
        }
    }

    // --- counts -----------------------------------------------------------------------------------------------

    /// A request arrived at `now`; gives its place in the order of arrival.
    pub(crate) fn arrive(&mut self, now: Duration) -> u64 {
        self.advance(now);
        self.open += 1;
        self.pending += 1;
        self.arrivals += 1;
        self.arrivals
    }

    /// A request is over. `pending`: it was not being forwarded. `bytes`: what it still had reserved.
    pub(crate) fn depart(&mut self, now: Duration, pending: bool, bytes: usize) {
        self.advance(now);
        self.open = self.open.saturating_sub(1);
        if pending {
            self.pending = self.pending.saturating_sub(1);
        }
        self.unreserve(bytes);
    }

    /// A request goes on to an endpoint; its bytes wait no more.
    pub(crate) fn forwarded(&mut self, bytes: usize) {
        self.pending = self.pending.saturating_sub(1);
        self.unreserve(bytes);
    }

    /// A forwarded request is held again.
    pub(crate) fn returned(&mut self) {
        self.pending += 1;
    }

    /// Counts at `now`.
    pub(crate) fn counts(&mut self, now: Duration) -> BackendCounts {
        self.advance(now);
        BackendCounts {
            in_flight: self.open - self.pending.min(self.open),
            waiting: self.pending,
            arrivals: self.arrivals,
            concurrency_seconds: self.integral,
        }
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.integral_at);
        self.integral += self.open as f64 * passed.as_secs_f64();
        self.integral_at = self.integral_at.max(now);
    }

    /// Endpoints by state.
    pub(crate) fn endpoint_counts(&self) -> EndpointCounts {
        let mut counts = EndpointCounts::default();
        for slot in &self.slots {
            if !slot.declared_usable() {
                counts.sealed += 1;
                continue;
            }
            match slot.health {
                Health::Starting => counts.starting += 1,
                Health::Ready => counts.ready += 1,
                Health::Suspended => counts.suspended += 1,
            }
        }
        counts
    }

    /// Neither endpoints nor requests are left.
    pub(crate) fn is_unused(&self) -> bool {
        self.slots.is_empty() && self.open == 0
    }

    /// Whether an endpoint is ready, with or without room.
    pub(crate) fn any_ready(&self) -> bool {
        self.slots.iter().any(Slot::ready)
    }

    fn any_live(&self) -> bool {
        self.slots.iter().any(Slot::live)
    }

    // --- admission --------------------------------------------------------------------------------------------

    /// Reserves bytes of the waiting room for a body that is being kept.
    pub(crate) fn reserve(&mut self, bytes: usize, bounds: Bounds) -> Result<(), Full> {
        if self.held_bytes.saturating_add(bytes) > bounds.bytes {
            return Err(Full::Bytes);
        }
        self.held_bytes += bytes;
        Ok(())
    }

    fn unreserve(&mut self, bytes: usize) {
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
    }

    /// Whether the waiting room could take one more request.
    pub(crate) fn has_place(&self, bounds: Bounds) -> bool {
        self.waiters.len() < bounds.requests
    }

    /// Whether a request could go on at once.
    pub(crate) fn has_room(&self) -> bool {
        self.waiters.is_empty() && self.slots.iter().any(|slot| slot.load().room)
    }

    /// Takes a place, unless all are taken.
    pub(crate) fn acquire(&mut self) -> Option<Pick<E>> {
        // A free place beside waiting requests does not exist; should it ever, they come first.
        if self.waiters.is_empty() {
            self.take_place()
        } else {
            None
        }
    }

    fn take_place(&mut self) -> Option<Pick<E>> {
        let random = self.next_random();
        let index = pick::pick(&self.slots, Slot::load, random)?;
        let slot = &mut self.slots[index];
        slot.in_flight += 1;
        Some(Pick {
            key: slot.key,
            endpoint: slot.endpoint.clone(),
        })
    }

    /// Enters the waiting room. `ticket` is the request's place in the order of arrival; one that comes back after a
    /// failed attempt keeps it. Gives whether the backend is cold, without any ready endpoint.
    pub(crate) fn wait(&mut self, ticket: u64, bounds: Bounds, waiter: W) -> Result<bool, NoWait> {
        if !self.any_live()
            && let Some(error) = self.waking.failure_for(ticket)
        {
            return Err(NoWait::WakeFailed(error.clone()));
        }
        if !self.has_place(bounds) {
            return Err(NoWait::Full(Full::Requests));
        }
        self.waiters.insert(ticket, waiter);
        Ok(!self.any_ready())
    }

    /// Leaves the waiting room, if still there.
    pub(crate) fn leave(&mut self, ticket: u64) {
        self.waiters.remove(&ticket);
    }

    /// Gives a place back. A refusal that leaves the endpoint empty pauses it: the number of refusals in a row is
    /// returned and [`Self::resume`] has to follow.
    pub(crate) fn release(&mut self, key: u64, outcome: Outcome) -> Option<u32> {
        let slot = self.slots.iter_mut().find(|slot| slot.key == key)?;
        slot.in_flight = slot.in_flight.saturating_sub(1);
        let mut paused = None;
        match outcome {
            Outcome::Answered => {
                slot.refusals = 0;
                slot.ramp.succeeded();
            }
            Outcome::Neutral => {}
            Outcome::Refused => {
                slot.ramp.cut(slot.in_flight);
                if slot.in_flight == 0 && !slot.paused {
                    slot.paused = true;
                    slot.refusals = slot.refusals.saturating_add(1);
                    paused = Some(slot.refusals);
                }
            }
        }
        self.slots.retain(|slot| !slot.gone || slot.in_flight > 0);
        paused
    }

    /// Ends the pause of an endpoint.
    pub(crate) fn resume(&mut self, key: u64) {
        if let Some(slot) = self.by_key(key) {
            slot.paused = false;
        }
    }

    /// Gives free places to those who wait longest.
    pub(crate) fn grant(&mut self) -> Vec<Grant<E, W>> {
        let mut grants = Vec::new();
        while !self.waiters.is_empty() {
            let Some(pick) = self.take_place() else { break };
            if let Some((_, waiter)) = self.waiters.pop_first() {
                grants.push(Grant { waiter, pick });
            }
        }
        grants
    }

    /// Takes the waiting requests out for which `which` holds.
    pub(crate) fn dismiss(&mut self, mut which: impl FnMut(&W) -> bool) -> Vec<W> {
        self.waiters
            .extract_if(.., |_, waiter| which(waiter))
            .map(|(_, waiter)| waiter)
            .collect()
    }

    // --- endpoints --------------------------------------------------------------------------------------------

    /// Takes a new list of endpoints. `make` gives the handle of a new one.
    pub(crate) fn set_endpoints(&mut self, list: Vec<Endpoint>, mut make: impl FnMut(&Endpoint) -> E) -> Changes<E> {
        let had_live = self.any_live();
        let mut gone = Vec::new();
        for slot in &mut self.slots {
            if !slot.gone && !list.iter().any(|endpoint| endpoint.id == slot.spec.id) {
                slot.gone = true;
                gone.push(slot.endpoint.clone());
            }
        }
        let mut probe = Vec::new();
        for spec in list {
            if let Some(slot) = self.by_id(&spec.id) {
                slot.gone = false;
                if spec.state == EndpointState::Ready && slot.health == Health::Starting {
                    slot.health = Health::Ready;
                }
                slot.spec.state = slot.spec.state.max(spec.state);
                if slot.spec.capacity != spec.capacity {
                    slot.spec.capacity = spec.capacity;
                    slot.ramp.bound(spec.initial_capacity, spec.capacity);
                }
                continue;
            }
            let endpoint = make(&spec);
            let key = self.next_key;
            self.next_key += 1;
            let health = if spec.state == EndpointState::Ready {
                Health::Ready
            } else {
                Health::Starting
            };
            if spec.state == EndpointState::Starting && spec.probe != Probe::Declared {
                probe.push(Pick {
                    key,
                    endpoint: endpoint.clone(),
                });
            }
            self.slots.push(Slot {
                key,
                ramp: Ramp::new(spec.initial_capacity, spec.capacity),
                spec,
                endpoint,
                health,
                sealed: false,
                gone: false,
                paused: false,
                refusals: 0,
                in_flight: 0,
            });
        }
        self.slots.retain(|slot| !slot.gone || slot.in_flight > 0);
        self.note_ready();
        self.note_live(had_live);
        Changes { probe, gone }
    }

    /// The probe of an endpoint succeeded. Gives whether it is the backend's only ready one.
    pub(crate) fn mark_ready(&mut self, key: u64) -> bool {
        let was_ready = self.any_ready();
        if let Some(slot) = self.by_key(key) {
            slot.health = Health::Ready;
        }
        self.note_ready();
        !was_ready && self.any_ready()
    }

    /// An endpoint failed under a request: no picks until it is probed ready again. Gives whether that is news.
    pub(crate) fn suspend(&mut self, key: u64) -> bool {
        let had_live = self.any_live();
        let Some(slot) = self.by_key(key) else { return false };
        if slot.health != Health::Ready || slot.gone {
            return false;
        }
        slot.health = Health::Suspended;
        self.note_live(had_live);
        true
    }

    /// No new picks of an endpoint from now on.
    pub(crate) fn seal(&mut self, id: &EndpointId) -> Option<Pick<E>> {
        let had_live = self.any_live();
        let slot = self.by_id(id)?;
        slot.sealed = true;
        let pick = Pick {
            key: slot.key,
            endpoint: slot.endpoint.clone(),
        };
        self.note_live(had_live);
        Some(pick)
    }

    /// Takes a seal back.
    pub(crate) fn unseal(&mut self, id: &EndpointId) -> bool {
        let Some(slot) = self.by_id(id) else { return false };
        slot.sealed = false;
        self.note_ready();
        self.note_live(true);
        true
    }

    /// The handles of all endpoints.
    pub(crate) fn endpoints(&self) -> Vec<E> {
        self.slots.iter().map(|slot| slot.endpoint.clone()).collect()
    }

    /// The handles of endpoints that are ready.
    pub(crate) fn ready_endpoints(&self) -> Vec<E> {
        let ready = self.slots.iter().filter(|slot| slot.ready());
        ready.map(|slot| slot.endpoint.clone()).collect()
    }

    /// Requests that an endpoint holds; 0 for one that is unknown (any more).
    pub(crate) fn in_flight(&self, key: u64) -> u32 {
        self.slots
            .iter()
            .find(|slot| slot.key == key)
            .map_or(0, |slot| slot.in_flight)
    }

    /// Requests that an endpoint holds; `None` for one that is unknown.
    pub(crate) fn held_by(&mut self, id: &EndpointId) -> Option<u32> {
        self.by_id(id).map(|slot| slot.in_flight)
    }

    fn by_key(&mut self, key: u64) -> Option<&mut Slot<E>> {
        self.slots.iter_mut().find(|slot| slot.key == key)
    }

    fn by_id(&mut self, id: &EndpointId) -> Option<&mut Slot<E>> {
        self.slots.iter_mut().find(|slot| slot.spec.id == *id)
    }

    // --- waking -----------------------------------------------------------------------------------------------

    fn note_ready(&mut self) {
        if self.any_ready() {
            self.waking.recovered();
        }
    }

    fn note_live(&mut self, had_live: bool) {
        if self.any_live() {
            self.waking.forget_answer();
        } else if had_live {
            self.waking.lost();
        }
    }

    fn needs_waking(&self) -> bool {
        self.pending > 0 && !self.any_live()
    }

    /// Whether the waker has to be called now: requests are pending, nothing is live, nobody was asked. `Some` counts
    /// as the beginning of the call; [`Self::wake_answered`] has to follow.
    pub(crate) fn begin_wake(&mut self) -> Option<u64> {
        if self.needs_waking() { self.waking.begin() } else { None }
    }

    /// The waker answered the call begun at `epoch`.
    pub(crate) fn wake_answered(&mut self, epoch: u64, result: Result<(), WakeError>) -> AfterWake<W> {
        match self.waking.answered(epoch, self.needs_waking(), result) {
            Answer::Stale(epoch) => AfterWake::Again(epoch),
            Answer::Started => AfterWake::Recheck,
            Answer::Failed(error) => AfterWake::Failed(self.wake_failed(error)),
        }
    }

    /// Some time after the waker said yes: ask again if nothing came of it.
    pub(crate) fn wake_recheck(&mut self) {
        self.waking.forget_answer();
    }

    /// Records why the backend can't be woken. Waiting requests are dismissed, unless an endpoint is ready and only
    /// busy.
    pub(crate) fn wake_failed(&mut self, error: WakeError) -> Vec<W> {
        self.waking.forget_answer();
        if self.any_ready() {
            return Vec::new();
        }
        self.waking.failed(error, self.arrivals);
        self.dismiss(|_| true)
    }

    /// Forgets a recorded failure.
    pub(crate) fn wake_recovered(&mut self) {
        self.waking.recovered();
    }

    /// Why the last wake failed, until an endpoint is ready or a new wake succeeds.
    pub(crate) fn failure(&self) -> Option<&WakeError> {
        self.waking.failure()
    }

    fn next_random(&mut self) -> u64 {
        // SplitMix64: fast, and good enough to spread load.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
