//! One backend at run time: its state under a lock that is held for a few instructions at a time, and the guards that
//! give back what a request took.
//!
//! * [`Arrival`]: a request counts from [`Backend::arrive`] until it is dropped.
//! * [`Permit`]: a place on an endpoint; dropped, it goes to whoever waits longest. One that was sent to a request that
//!   just left comes back the same way, so no place is ever lost.
//! * `Place`: a place in the waiting room, left when the waiting future is dropped.

mod admission;

use std::{collections::VecDeque, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, broadcast, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::admission::{Arrival, Permit};
use crate::{
    BackendCounts, BackendId, Config, Endpoint, EndpointId, Event, Probe, Protocol, RouteId, WakeError, WakePhases,
    WakeReason, Waker,
    core::state::{AfterWake, BackendState, EndpointCounts, Grant, Outcome, Pick},
    error::Failure,
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
    pub(crate) probe: Probe,
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

    /// Endpoints that are ready.
    pub(crate) fn ready(&self) -> Vec<EndpointId> {
        let ready = self.ready_replicas().into_iter();
        ready.map(|replica| replica.id.clone()).collect()
    }

    /// Those themselves.
    pub(crate) fn ready_replicas(&self) -> Vec<Arc<Replica>> {
        self.state.lock().ready_endpoints()
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
        Arrival::new(Arc::clone(self), ticket, at)
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

#[cfg(test)]
mod tests;
