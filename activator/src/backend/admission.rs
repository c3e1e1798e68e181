//! The guards of a request: [`Arrival`] for its counts, [`Place`] in the waiting room, [`Permit`] on an endpoint. Each
//! gives back on drop what it stands for.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{Backend, Replica, Waiter};
use crate::{
    RouteId, RoutePolicy,
    core::state::{Bounds, Full, NoWait, Outcome, Pick},
    error::{Code, Failure},
    phases::Woken,
};

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
    pub(super) waited: Duration,
}

impl Arrival {
    pub(super) fn new(backend: Arc<Backend>, ticket: u64, at: Instant) -> Self {
        Self {
            backend,
            ticket,
            at,
            pending: true,
            reserved: 0,
            cold: false,
            waited: Duration::ZERO,
        }
    }

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
            if let Some(pick) = state.acquire() {
                state.forwarded(std::mem::take(&mut self.reserved));
                self.pending = false;
                drop(state);
                return Ok(Permit::new(&self.backend, pick, None));
            }
            let (reply, waiting) = oneshot::channel();
            let route = route.clone();
            let waiter = Waiter { route, reply };
            let cold = state
                .wait(self.ticket, bounds(policy), waiter)
                .map_err(|why| cannot_wait(why, policy))?;
            self.cold |= cold;
            waiting
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

pub(super) struct Held {
    pub(super) key: u64,
    pub(super) replica: Arc<Replica>,
}

/// A place on an endpoint.
pub(crate) struct Permit {
    backend: Arc<Backend>,
    pub(super) held: Option<Held>,
    /// Set on the first place after a cold wake.
    pub(crate) woken: Option<Woken>,
}

impl Permit {
    pub(super) fn new(backend: &Arc<Backend>, pick: Pick<Arc<Replica>>, woken: Option<Woken>) -> Self {
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
