//! One backend at run time: its state under a lock that is held for a few instructions at a time, and the guards that
//! give back what a request took.
//!
//! * [`Arrival`]: a request counts from [`Backend::arrive`] until it is dropped.
//! * [`Permit`]: a place on an endpoint; dropped, it goes to whoever waits longest. One that was sent to a request that
//!   just left comes back the same way, so no place is ever lost.
//! * [`Place`]: a place in the waiting room, left when the waiting future is dropped.

use std::{collections::VecDeque, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, broadcast, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    BackendCounts, BackendId, Config, Endpoint, EndpointId, Event, Protocol, RouteId, RoutePolicy, WakeError,
    WakePhases, WakeReason, Waker,
    core::state::{AfterWake, BackendState, Bounds, EndpointCounts, Full, Grant, NoWait, Outcome, Pick},
    error::{Code, Failure},
    metrics::Metrics,
    phases::Woken,
    pool::{Pool, PoolLimits},
    probe,
};

/// What all backends of an activator share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) waker: Arc<dyn Waker>,
    pub(crate) metrics: Metrics,
    pub(crate) events: broadcast::Sender<Event>,
    /// Guards are dropped anywhere, so tasks are spawned through the handle.
    pub(crate) runtime: tokio::runtime::Handle,
    /// Zero of this reporter's clock.
    pub(crate) epoch: Instant,
}

impl Shared {
    pub(crate) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    pub(crate) fn pool_limits(&self) -> PoolLimits {
        PoolLimits {
            max_idle: self.config.pool_max_idle,
            idle_timeout: self.config.pool_idle_timeout,
            connect_timeout: self.config.connect_timeout,
        }
    }
}

/// One endpoint at run time.
pub(crate) struct Replica {
    pub(crate) id: EndpointId,
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) probe: PathAndQuery,
    pub(crate) started: Instant,
    pub(crate) pool: Pool,
    /// Told at each release, for [`crate::Sealed::drained`].
    pub(crate) released: Notify,
    /// Set when it is no longer declared; ends its probing.
    pub(crate) retired: CancellationToken,
}

impl Replica {
    fn new(endpoint: &Endpoint) -> Arc<Self> {
        Arc::new(Self {
            id: endpoint.id.clone(),
            address: endpoint.address,
            protocol: endpoint.protocol,
            probe: endpoint.probe.clone(),
            started: endpoint.started,
            pool: Pool::default(),
            released: Notify::new(),
            retired: CancellationToken::new(),
        })
    }

    fn retire(&self) {
        self.retired.cancel();
        self.pool.clear();
    }
}

type Reply = oneshot::Sender<Result<Permit, Failure>>;

pub(crate) struct Waiter {
    route: RouteId,
    reply: Reply,
}

type State = BackendState<Arc<Replica>, Waiter>;
type Grants = Vec<Grant<Arc<Replica>, Waiter>>;

/// One backend.
pub(crate) struct Backend {
    pub(crate) id: BackendId,
    pub(crate) shared: Arc<Shared>,
    state: Mutex<State>,
    last_wake: Mutex<Option<WakePhases>>,
}

/// Whether a backend can answer, as health calls tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// An endpoint is ready.
    Ready,
    /// None is, but the next request wakes it.
    Asleep,
    /// The last wake failed.
    Failed(WakeError),
}

impl Backend {
    pub(crate) fn new(id: BackendId, shared: Arc<Shared>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            id,
            shared,
            state: Mutex::new(State::new(seed)),
            last_wake: Mutex::new(None),
        })
    }

    // --- what others see ----------------------------------------------------------------------------------------

    pub(crate) fn counts(&self) -> BackendCounts {
        self.state.lock().counts(self.shared.now())
    }

    pub(crate) fn endpoint_counts(&self) -> EndpointCounts {
        self.state.lock().endpoint_counts()
    }

    /// It has no endpoints and no requests.
    pub(crate) fn is_unused(&self) -> bool {
        self.state.lock().is_unused()
    }

    pub(crate) fn readiness(&self) -> Readiness {
        let state = self.state.lock();
        match state.failure() {
            _ if state.any_ready() => Readiness::Ready,
            Some(error) => Readiness::Failed(error.clone()),
            None => Readiness::Asleep,
        }
    }

    pub(crate) fn last_wake(&self) -> Option<WakePhases> {
        *self.last_wake.lock()
    }

    pub(crate) fn in_flight(&self, key: u64) -> u32 {
        self.state.lock().in_flight(key)
    }

    pub(crate) fn sweep(&self, limits: PoolLimits) {
        let replicas = self.state.lock().endpoints();
        for replica in replicas {
            replica.pool.sweep(limits);
        }
    }

    // --- requests -----------------------------------------------------------------------------------------------

    /// A request arrived: it counts from now on, and a sleeping backend is woken.
    pub(crate) fn arrive(self: &Arc<Self>, at: Instant) -> Arrival {
        let (ticket, epoch) = {
            let mut state = self.state.lock();
            let ticket = state.arrive(at.saturating_duration_since(self.shared.epoch));
            (ticket, state.begin_wake())
        };
        self.call_waker(epoch);
        Arrival {
            backend: Arc::clone(self),
            ticket,
            at,
            pending: true,
            reserved: 0,
            cold: false,
            waited: Duration::ZERO,
        }
    }

    fn release(self: &Arc<Self>, key: u64, replica: &Replica, outcome: Outcome) {
        let (grants, paused) = {
            let mut state = self.state.lock();
            let paused = state.release(key, outcome);
            (state.grant(), paused)
        };
        replica.released.notify_waiters();
        if let Some(refusals) = paused {
            self.resume_later(key, refusals);
        }
        self.deliver(grants, None);
    }

    /// Hands places to the requests that got them. One that has left meanwhile gives its place to the next; a loop and
    /// not the guard's drop does that here, so that a crowd leaving at once makes no deep recursion.
    fn deliver(self: &Arc<Self>, grants: Grants, mut woken: Option<Woken>) {
        let mut left = VecDeque::from(grants);
        while let Some(grant) = left.pop_front() {
            let permit = Permit::new(self, grant.pick, woken.take());
            if let Err(Ok(mut permit)) = grant.waiter.reply.send(Ok(permit)) {
                woken = permit.woken.take();
                if let Some(held) = permit.held.take() {
                    let mut state = self.state.lock();
                    state.release(held.key, Outcome::Neutral);
                    left.extend(state.grant());
                    drop(state);
                    held.replica.released.notify_waiters();
                }
            }
        }
    }

    fn resume_later(self: &Arc<Self>, key: u64, refusals: u32) {
        let config = &self.shared.config;
        let pause = config
            .refusal_pause
            .saturating_mul(1 << refusals.saturating_sub(1).min(16))
            .min(config.refusal_pause_max);
        let backend = Arc::clone(self);
        self.shared.runtime.spawn(async move {
            tokio::time::sleep(pause).await;
            let grants = {
                let mut state = backend.state.lock();
                state.resume(key);
                state.grant()
            };
            backend.deliver(grants, None);
        });
    }

    /// The first request after a cold wake got its first byte.
    pub(crate) fn wake_finished(&self, phases: WakePhases) {
        *self.last_wake.lock() = Some(phases);
        self.shared.metrics.wake_finished(&phases);
        let backend = self.id.clone();
        self.shared.events.send(Event::WakeFinished { backend, phases }).ok();
    }

    // --- endpoints ----------------------------------------------------------------------------------------------

    /// Takes the whole list of endpoints.
    pub(crate) fn set_endpoints(self: &Arc<Self>, list: Vec<Endpoint>) {
        let (changes, grants, epoch) = {
            let mut state = self.state.lock();
            let changes = state.set_endpoints(list, Replica::new);
            (changes, state.grant(), state.begin_wake())
        };
        for replica in changes.gone {
            replica.retire();
        }
        for pick in changes.probe {
            self.probe(pick, true);
        }
        self.deliver(grants, None);
        self.call_waker(epoch);
    }

    fn probe(self: &Arc<Self>, pick: Pick<Arc<Replica>>, fresh: bool) {
        self.shared.runtime.spawn(probe::run(Arc::clone(self), pick, fresh));
    }

    /// An endpoint answered its probe.
    pub(crate) fn mark_ready(self: &Arc<Self>, pick: &Pick<Arc<Replica>>, woken: Option<Woken>) {
        let (first, grants) = {
            let mut state = self.state.lock();
            (state.mark_ready(pick.key), state.grant())
        };
        tracing::info!(backend = %self.id, endpoint = %pick.endpoint.id, "endpoint is ready");
        let event = Event::EndpointReady {
            backend: self.id.clone(),
            endpoint: pick.endpoint.id.clone(),
        };
        self.shared.events.send(event).ok();
        self.deliver(grants, woken.filter(|_| first));
    }

    fn suspend(self: &Arc<Self>, key: u64, replica: &Arc<Replica>, error: &str) {
        let (news, epoch) = {
            let mut state = self.state.lock();
            (state.suspend(key), state.begin_wake())
        };
        if news {
            tracing::warn!(backend = %self.id, endpoint = %replica.id, error, "endpoint failed under a request");
            replica.pool.clear();
            let event = Event::EndpointFailed {
                backend: self.id.clone(),
                endpoint: replica.id.clone(),
                error: error.to_owned(),
            };
            self.shared.events.send(event).ok();
            let pick = Pick {
                key,
                endpoint: Arc::clone(replica),
            };
            self.probe(pick, false);
        }
        self.call_waker(epoch);
    }

    pub(crate) fn seal(self: &Arc<Self>, id: &EndpointId) -> Option<Pick<Arc<Replica>>> {
        let (pick, epoch) = {
            let mut state = self.state.lock();
            (state.seal(id), state.begin_wake())
        };
        self.call_waker(epoch);
        pick
    }

    pub(crate) fn unseal(self: &Arc<Self>, id: &EndpointId) -> bool {
        let (known, grants) = {
            let mut state = self.state.lock();
            (state.unseal(id), state.grant())
        };
        self.deliver(grants, None);
        known
    }

    /// Answers every waiting request for which `which` holds with a failure.
    pub(crate) fn dismiss(&self, which: impl Fn(&RouteId) -> bool, failure: &Failure) {
        let waiters = self.state.lock().dismiss(|waiter| which(&waiter.route));
        tell(waiters, failure);
    }

    // --- waking -------------------------------------------------------------------------------------------------

    pub(crate) fn wake_failed(&self, error: &WakeError) {
        let waiters = self.state.lock().wake_failed(error.clone());
        tell(waiters, &Failure::from(error));
    }

    pub(crate) fn wake_recovered(&self) {
        self.state.lock().wake_recovered();
    }

    fn kick(self: &Arc<Self>) {
        let epoch = self.state.lock().begin_wake();
        self.call_waker(epoch);
    }

    /// Calls the waker if `epoch` says that a call begins.
    fn call_waker(self: &Arc<Self>, epoch: Option<u64>) {
        if let Some(epoch) = epoch {
            self.shared.runtime.spawn(Arc::clone(self).wake(epoch));
        }
    }

    async fn wake(self: Arc<Self>, mut epoch: u64) {
        loop {
            let result = self.ask_waker().await;
            self.shared.metrics.wake_answered(&result);
            let after = self.state.lock().wake_answered(epoch, result.clone());
            match (after, result) {
                (AfterWake::Again(now), _) => epoch = now,
                (AfterWake::Failed(waiters), Err(error)) => {
                    tracing::warn!(backend = %self.id, reason = error.reason.code(), error = %error, "wake failed");
                    return tell(waiters, &Failure::from(&error));
                }
                _ => {
                    tokio::time::sleep(self.shared.config.wake_repeat).await;
                    self.state.lock().wake_recheck();
                    return self.kick();
                }
            }
        }
    }

    /// A waker that panics must not leave its backend waiting for an answer for ever.
    async fn ask_waker(&self) -> Result<(), WakeError> {
        let call = async { self.shared.waker.wake(&self.id).await };
        AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|_| {
            Err(WakeError {
                reason: WakeReason::PlatformError,
                message: Arc::from("the platform failed while starting a replica"),
            })
        })
    }
}

fn tell(waiters: Vec<Waiter>, failure: &Failure) {
    for waiter in waiters {
        // One that left needs no answer.
        waiter.reply.send(Err(failure.clone())).ok();
    }
}

fn bounds(policy: &RoutePolicy) -> Bounds {
    Bounds {
        requests: policy.max_waiting,
        bytes: policy.max_waiting_bytes,
    }
}

/// A request that counts at its backend, from its arrival until this is dropped.
pub(crate) struct Arrival {
    backend: Arc<Backend>,
    /// Place in the order of arrival, kept through failed attempts.
    ticket: u64,
    pub(crate) at: Instant,
    /// Not being forwarded.
    pending: bool,
    /// Bytes reserved in the waiting room.
    reserved: usize,
    /// It had to wait while no endpoint was ready.
    pub(crate) cold: bool,
    /// All its waits together.
    waited: Duration,
}

impl Arrival {
    pub(crate) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Reserves room for bytes of its body that are being kept. Past the bound a request that could go on at once is
    /// only told to stream (`Ok(false)`); one that would wait fails.
    pub(crate) fn reserve(&mut self, bytes: usize, policy: &RoutePolicy) -> Result<bool, Failure> {
        let mut state = self.backend.state.lock();
        match state.reserve(bytes, bounds(policy)) {
            Ok(()) => {
                self.reserved += bytes;
                Ok(true)
            }
            Err(_) if state.has_room() => Ok(false),
            Err(full) => Err(waiting_room_full(full, policy)),
        }
    }

    /// Fails early where a request would have to wait and could not: before its body is read.
    pub(crate) fn check_place(&self, policy: &RoutePolicy) -> Result<(), Failure> {
        let state = self.backend.state.lock();
        if state.has_room() || state.has_place(bounds(policy)) {
            Ok(())
        } else {
            Err(waiting_room_full(Full::Requests, policy))
        }
    }

    /// A place on an endpoint: at once, or after waiting in the order of arrival. Dropping the future leaves the
    /// waiting room.
    pub(crate) async fn acquire(&mut self, route: &RouteId, policy: &RoutePolicy) -> Result<Permit, Failure> {
        let waiting = {
            let mut state = self.backend.state.lock();
            match state.acquire() {
                Some(pick) => {
                    state.forwarded(std::mem::take(&mut self.reserved));
                    self.pending = false;
                    drop(state);
                    return Ok(Permit::new(&self.backend, pick, None));
                }
                None => {
                    let (reply, waiting) = oneshot::channel();
                    let route = route.clone();
                    let waiter = Waiter { route, reply };
                    let cold = state
                        .wait(self.ticket, bounds(policy), waiter)
                        .map_err(|why| cannot_wait(why, policy))?;
                    self.cold |= cold;
                    waiting
                }
            }
        };
        self.backend.kick();
        self.wait(waiting, policy).await
    }

    async fn wait(
        &mut self,
        waiting: oneshot::Receiver<Result<Permit, Failure>>,
        policy: &RoutePolicy,
    ) -> Result<Permit, Failure> {
        let place = Place {
            backend: Arc::clone(&self.backend),
            ticket: self.ticket,
        };
        let began = Instant::now();
        let limit = policy.wait_timeout.saturating_sub(self.waited);
        let result = tokio::time::timeout(limit, waiting).await;
        let waited = began.elapsed();
        self.waited += waited;
        self.backend.shared.metrics.waited(waited);
        drop(place);
        match result {
            Ok(Ok(granted)) => {
                let permit = granted?;
                self.backend.state.lock().forwarded(std::mem::take(&mut self.reserved));
                self.pending = false;
                Ok(permit)
            }
            // The sender is dropped only with the backend itself.
            Ok(Err(_)) => Err(Failure::new(
                Code::RouteRemoved,
                "the backend was removed while the request waited",
            )),
            Err(_) => Err(self.wait_timeout(policy)),
        }
    }

    fn wait_timeout(&self, policy: &RoutePolicy) -> Failure {
        let why = if self.cold {
            "no replica became ready"
        } else {
            "all replicas stayed busy"
        };
        let message = format!("{why} within the waiting limit of {:?}", policy.wait_timeout);
        Failure::new(Code::WaitTimeout, message)
    }

    /// A failed attempt: the request, with `bytes` of body kept, is held again.
    pub(crate) fn hold_again(&mut self, bytes: usize, policy: &RoutePolicy) -> Result<(), Failure> {
        let mut state = self.backend.state.lock();
        if !self.pending {
            state.returned();
            self.pending = true;
        }
        state
            .reserve(bytes, bounds(policy))
            .map_err(|full| waiting_room_full(full, policy))?;
        self.reserved += bytes;
        Ok(())
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let now = self.backend.shared.now();
        self.backend.state.lock().depart(now, self.pending, self.reserved);
    }
}

fn cannot_wait(why: NoWait, policy: &RoutePolicy) -> Failure {
    match why {
        NoWait::Full(full) => waiting_room_full(full, policy),
        NoWait::WakeFailed(error) => Failure::from(&error),
    }
}

fn waiting_room_full(full: Full, policy: &RoutePolicy) -> Failure {
    let message = match full {
        Full::Requests => format!("{} requests wait already", policy.max_waiting),
        Full::Bytes => format!(
            "the bodies of waiting requests take {} bytes already",
            policy.max_waiting_bytes
        ),
    };
    Failure::new(Code::WaitingRoomFull, message)
}

/// A place in the waiting room.
struct Place {
    backend: Arc<Backend>,
    ticket: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.backend.state.lock().leave(self.ticket);
    }
}

struct Held {
    key: u64,
    replica: Arc<Replica>,
}

/// A place on an endpoint.
pub(crate) struct Permit {
    backend: Arc<Backend>,
    held: Option<Held>,
    /// Set on the first place after a cold wake.
    pub(crate) woken: Option<Woken>,
}

impl Permit {
    fn new(backend: &Arc<Backend>, pick: Pick<Arc<Replica>>, woken: Option<Woken>) -> Self {
        Self {
            backend: Arc::clone(backend),
            held: Some(Held {
                key: pick.key,
                replica: pick.endpoint,
            }),
            woken,
        }
    }

    /// The endpoint; `None` only while the guard is being taken apart.
    pub(crate) fn replica(&self) -> Option<Arc<Replica>> {
        self.held.as_ref().map(|held| Arc::clone(&held.replica))
    }

    /// Gives the place back, saying how the request went.
    pub(crate) fn release(mut self, outcome: Outcome) {
        self.give_back(outcome);
    }

    /// Gives the place back on an endpoint that failed: it gets no picks until it answers its probe again.
    pub(crate) fn fail(mut self, error: &str) {
        if let Some(held) = &self.held {
            self.backend.suspend(held.key, &held.replica, error);
        }
        self.give_back(Outcome::Neutral);
    }

    fn give_back(&mut self, outcome: Outcome) {
        if let Some(held) = self.held.take() {
            self.backend.release(held.key, &held.replica, outcome);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back(Outcome::Neutral);
    }
}

#[cfg(test)]
#[path = "backend_tests.rs"]
mod tests;
