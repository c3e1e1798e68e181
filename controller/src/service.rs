//! One service: what is declared, what is applied, its replicas, and the transitions between them.
//!
//! All methods are synchronous and take the time as an argument. They call the platform and the proxy, neither of which
//! waits, and leave what has to be awaited (drains) in the [`Context`].

mod lifecycle;
mod revisions;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{AbortHandle, BoxFuture, abortable},
};
use pilotlight_activator::{BackendId, EndpointId, WakeError, WakeReason};
use pilotlight_manifests::Service;
use tokio::{sync::broadcast, time::Instant};

use crate::{
    autoscaler::{Autoscaler, Decision, Load},
    backoff::Backoff,
    change::{Change, What, Why},
    config::Config,
    fetching::Fetching,
    metrics::Metrics,
    platform::{Platform, Replica, Revision, Workload},
    replicas::{Action, Observed, Phase, plan},
    reports::Reading,
    status::Problem,
    traffic::Traffic,
    workload,
};

/// What resolves when a sealed replica is drained: whose it was, and whether it took too long.
pub(crate) type Drain = BoxFuture<'static, Option<(BackendId, EndpointId)>>;

/// What the transitions act upon.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) epoch: Instant,
    pub(crate) config: &'a Config,
    pub(crate) platform: &'a dyn Platform,
    pub(crate) traffic: &'a dyn Traffic,
    pub(crate) metrics: &'a Metrics,
    pub(crate) changes: &'a broadcast::Sender<Arc<Change>>,
    pub(crate) drains: &'a mut Vec<Drain>,
}

impl Context<'_> {
    /// Time on the autoscaler's clock.
    fn time(&self) -> Duration {
        self.now - self.epoch
    }

    /// Tells whoever watches; nobody watching is fine.
    pub(crate) fn tell(&self, service: &Arc<str>, what: What) {
        let _ = self.changes.send(Arc::new(Change {
            service: Some(service.clone()),
            what,
        }));
    }
}

/// One replica and where it is in its life.
#[derive(Debug)]
pub(crate) struct ReplicaState {
    pub(crate) replica: Replica,
    pub(crate) phase: Phase,
    ready: bool,
    /// Since when the proxy can't reach it, where it was ready before.
    silent: Option<Instant>,
    drain: Option<AbortHandle>,
}

/// A service that is declared, or that was and still has replicas.
#[derive(Debug)]
pub(crate) struct ServiceState {
    pub(crate) service: Arc<Service>,
    pub(crate) key: Arc<str>,
    pub(crate) backend: BackendId,
    pub(crate) removed: bool,
    pub(crate) applied: Option<Workload>,
    /// Waits for its check while the applied one serves.
    candidate: Option<Workload>,
    /// The outcome of what was declared last isn't known yet: its model is being read or checked.
    pub(crate) examining: bool,
    /// How far the model's download is, while there may be one.
    pub(crate) fetching: Option<Arc<Fetching>>,
    /// Whether the newest revision's model was checked.
    pub(crate) checked: bool,
    /// What keeps the newest revision from serving.
    pub(crate) problem: Option<Problem>,
    pub(crate) autoscaler: Autoscaler,
    pub(crate) replicas: BTreeMap<EndpointId, ReplicaState>,
    pub(crate) backoff: Backoff,
    pub(crate) reading: Option<Reading>,
    pub(crate) wait_until: Option<Instant>,
    recorded: u64,
    rolling: bool,
}

impl ServiceState {
    pub(crate) fn new(ctx: &Context<'_>, service: Arc<Service>) -> Self {
        let key: Arc<str> = service.key().into();
        ctx.tell(&key, What::Added);
        Self {
            backend: workload::backend(&service),
            autoscaler: Autoscaler::new(service.scaling.clone(), ctx.time(), 0),
            service,
            key,
            removed: false,
            applied: None,
            candidate: None,
            examining: true,
            fetching: None,
            checked: false,
            problem: None,
            replicas: BTreeMap::new(),
            backoff: Backoff::default(),
            reading: None,
            wait_until: None,
            recorded: ctx.time().as_secs(),
            rolling: false,
        }
    }

    /// The manifest changed. What it means for the processes follows when the model is resolved.
    pub(crate) fn redeclare(&mut self, ctx: &mut Context<'_>, service: Arc<Service>) {
        if service.scaling != self.service.scaling {
            let before = self.autoscaler.desired();
            self.autoscaler.set_policy(service.scaling.clone());
            self.tell_scaled(ctx, before, Why::Declared);
        }
        let back = std::mem::take(&mut self.removed);
        self.examining |= back || *service != *self.service;
        if back {
            ctx.tell(&self.key, What::Added);
        } else if *service != *self.service {
            ctx.tell(&self.key, What::Changed(None));
        }
        self.service = service;
        self.reconcile(ctx);
    }

    /// It is no longer declared: everything drains, and who waits is told.
    pub(crate) fn remove(&mut self, ctx: &mut Context<'_>) {
        if std::mem::replace(&mut self.removed, true) {
            return;
        }
        ctx.tell(&self.key, What::Removed);
        self.candidate = None;
        ctx.traffic.wake_failed(&self.backend, unknown(&self.key));
        self.reconcile(ctx);
    }

    /// The server shuts down: everything drains.
    pub(crate) fn stop(&mut self, ctx: &mut Context<'_>) {
        self.removed = true;
        self.candidate = None;
        self.reconcile(ctx);
    }

    /// Whether nothing of a removed service is left.
    pub(crate) fn is_gone(&self) -> bool {
        self.removed && self.replicas.is_empty()
    }

    /// A request found no replica.
    pub(crate) fn wake(&mut self, ctx: &mut Context<'_>) -> Result<(), WakeError> {
        if self.removed {
            return Err(unknown(&self.key));
        }
        if self.service.scaling.max_replicas == Some(0) {
            let message = format!("{} is stopped by its manifest", self.key).into();
            return Err(WakeError {
                reason: WakeReason::Disabled,
                message,
            });
        }
        if !self.serving() {
            if let Some(problem) = self.blocking_problem() {
                return Err(problem.wake_error());
            }
            if let (Some(error), Some(_)) = (self.backoff.error(), self.backoff.blocked(ctx.now)) {
                return Err(error.clone());
            }
        }
        let before = self.autoscaler.desired();
        self.autoscaler.wake(ctx.time());
        self.tell_scaled(ctx, before, Why::Wake);
        self.reconcile(ctx);
        Ok(())
    }

    /// Takes the counts of the last second in. Seconds without a snapshot are filled with the average over them.
    pub(crate) fn record(&mut self, ctx: &Context<'_>, reading: Option<Reading>) {
        let (now, second) = (ctx.time(), ctx.time().as_secs());
        self.reading = reading;
        let Some(reading) = reading else { return };
        let window = self.service.scaling.stable_window.as_secs();
        let from = (self.recorded + 1).max(second.saturating_sub(window));
        for missed in from..=second {
            self.autoscaler.record(Duration::from_secs(missed), reading.concurrency);
        }
        self.recorded = self.recorded.max(second);
        if reading.arrivals > 0 || reading.outstanding() > 0 {
            self.autoscaler.touch(now);
        }
    }

    /// The tick: decides and acts on it.
    pub(crate) fn decide(&mut self, ctx: &mut Context<'_>) -> Decision {
        let before = self.autoscaler.desired();
        let load = self
            .reading
            .map_or(Load::Unknown, |reading| Load::Outstanding(reading.outstanding()));
        let decision = self.autoscaler.decide(ctx.time(), self.ready_replicas(), load);
        self.count_decision(ctx, load, before, decision);
        self.tell_scaled(ctx, before, Why::Load);
        self.end_overdue(ctx);
        self.reconcile(ctx);
        decision
    }

    fn count_decision(&self, ctx: &Context<'_>, load: Load, before: u32, decision: Decision) {
        let result = match decision.desired.cmp(&before) {
            _ if load == Load::Unknown => "unknown",
            std::cmp::Ordering::Greater => "up",
            std::cmp::Ordering::Less => "down",
            std::cmp::Ordering::Equal => "keep",
        };
        let (metrics, key) = (ctx.metrics, &*self.key);
        metrics.decisions.with_label_values(&[key, result]).inc();
        metrics
            .concurrency
            .with_label_values(&[key, "stable"])
            .set(decision.stable);
        metrics
            .concurrency
            .with_label_values(&[key, "panic"])
            .set(decision.panic);
        metrics
            .panic
            .with_label_values(&[key])
            .set(i64::from(decision.panicking));
    }

    /// Replicas that should exist, of any revision.
    fn wish(&self) -> u32 {
        if self.removed { 0 } else { self.autoscaler.desired() }
    }

    /// Brings the replicas to what the plan says, until it says nothing more.
    pub(crate) fn reconcile(&mut self, ctx: &mut Context<'_>) {
        // Each round moves replicas forward in their life, so a few rounds do; the bound is for a plan gone wrong.
        for _ in 0..8 {
            let Some(revision) = self.applied.as_ref().map(|applied| applied.revision.clone()) else {
                return;
            };
            let observed: Vec<_> = self.replicas.values().map(observe).collect();
            self.wait_until = None;
            let mut again = false;
            for action in plan(&observed, self.wish(), &revision, &self.backoff, ctx.now) {
                again |= self.act(ctx, &revision, action);
            }
            if !again {
                return;
            }
        }
    }

    /// Carries one action out; answers whether the plan may say more now.
    fn act(&mut self, ctx: &mut Context<'_>, revision: &Revision, action: Action) -> bool {
        match action {
            Action::Wait(until) => self.wait_until = Some(until),
            Action::Start(more) => self.start(ctx, revision, more),
            Action::Seal(id) => {
                self.seal(ctx, &id);
                return true;
            }
            Action::Unseal(id) => {
                if let Some(state) = self.replicas.get_mut(&id) {
                    state.drain.take().inspect(AbortHandle::abort);
                    state.phase = Phase::Ready;
                    ctx.traffic.unseal(&self.backend, &id);
                }
            }
            Action::Stop(id) => {
                if let Some(state) = self.replicas.get_mut(&id) {
                    state.phase = Phase::Ending;
                    ctx.platform.end(&self.backend, &id);
                }
            }
        }
        false
    }

    fn start(&self, ctx: &Context<'_>, revision: &Revision, more: u32) {
        // Its model is known to be broken: another process would only say so again.
        if self.blocking_problem().is_some() {
            return;
        }
        let alike = |state: &&ReplicaState| state.replica.revision == *revision && state.phase != Phase::Ending;
        let have = self.replicas.values().filter(alike).count() as u32;
        ctx.platform.scale(&self.backend, have + more);
    }

    fn seal(&mut self, ctx: &mut Context<'_>, id: &EndpointId) {
        let Some(state) = self.replicas.get_mut(id) else { return };
        let drained = ctx.traffic.seal(&self.backend, id);
        state.phase = Phase::Sealed {
            ready: state.ready,
            drained: drained.is_none(),
        };
        let Some(drained) = drained else { return };
        let limited = tokio::time::timeout(ctx.config.drain_limit, drained);
        let (drain, handle) = abortable(limited);
        state.drain = Some(handle);
        let who = (self.backend.clone(), id.clone());
        // Past the limit it ends all the same: the platform's own time to finish follows.
        ctx.drains.push(drain.map(|outcome| outcome.ok().map(|_| who)).boxed());
    }

    /// Ready replicas that take requests: the most of any one revision, so that a roll-over doesn't look like twice as many.
    pub(crate) fn ready_replicas(&self) -> u32 {
        let mut by_revision: BTreeMap<&Revision, u32> = BTreeMap::new();
        for state in self.replicas.values().filter(|state| state.phase == Phase::Ready) {
            *by_revision.entry(&state.replica.revision).or_default() += 1;
        }
        by_revision.into_values().max().unwrap_or(0)
    }

    /// Some replica serves or can be taken back.
    pub(crate) fn serving(&self) -> bool {
        self.replicas
            .values()
            .any(|state| state.ready && state.phase != Phase::Ending)
    }

    fn tell_scaled(&self, ctx: &Context<'_>, from: u32, why: Why) {
        let to = self.autoscaler.desired();
        if from != to {
            ctx.tell(&self.key, What::Scaled { from, to, why });
        }
    }
}

fn observe(state: &ReplicaState) -> Observed {
    Observed {
        id: state.replica.endpoint.id.clone(),
        revision: state.replica.revision.clone(),
        phase: state.phase,
        started: state.replica.endpoint.started,
    }
}

/// Nobody declares this backend.
pub(crate) fn unknown(key: &str) -> WakeError {
    WakeError {
        reason: WakeReason::UnknownBackend,
        message: format!("{key} is not declared (any more)").into(),
    }
}
