//! One service: what is declared, what is applied, its replicas, and the transitions between them.
//!
//! All methods are synchronous and take the time as an argument. They call the platform and the proxy, neither of which
//! waits, and leave what has to be awaited (drains) in the [`Context`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::{AbortHandle, BoxFuture, abortable}};
use pilotlight_activator::{BackendId, EndpointId, EndpointState, WakeError, WakeReason};
use pilotlight_manifests::Service;
use tokio::{sync::broadcast, time::Instant};

use crate::{
    autoscaler::{Autoscaler, Decision, Load},
    backoff::Backoff,
    change::{Change, What, Why},
    check::Verdict,
    config::Config,
    metrics::Metrics,
    model::{Model, ModelError},
    platform::{Exit, ExitCause, Platform, PlatformEvent, Replica, Revision, Workload},
    replicas::{Action, Observed, Phase, plan},
    reports::Reading,
    status::{Problem, reason},
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
        let _ = self.changes.send(Arc::new(Change { service: Some(service.clone()), what }));
    }
}

/// One replica and where it is in its life.
#[derive(Debug)]
pub(crate) struct ReplicaState {
    pub(crate) replica: Replica,
    pub(crate) phase: Phase,
    ready: bool,
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
        if back {
            ctx.tell(&key_of(self), What::Added);
        } else if *service != *self.service {
            ctx.tell(&key_of(self), What::Changed(None));
        }
        self.service = service;
        self.reconcile(ctx);
    }

    /// It is no longer declared: everything drains, and who waits is told.
    pub(crate) fn remove(&mut self, ctx: &mut Context<'_>) {
        if std::mem::replace(&mut self.removed, true) {
            return;
        }
        ctx.tell(&key_of(self), What::Removed);
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

    /// The model's file was found, or not. Answers whether the newest revision needs a check.
    pub(crate) fn resolved(&mut self, ctx: &mut Context<'_>, model: Result<Model, ModelError>) -> bool {
        let model = match model {
            Ok(model) => model,
            Err(error) => {
                self.candidate = None;
                self.checked = false;
                self.set_problem(ctx, Problem::model_missing(&error));
                return false;
            }
        };
        let workload = workload::workload(&self.service, &model);
        let applied = self.applied.as_ref();
        if applied.is_some_and(|applied| applied.revision == workload.revision) {
            self.candidate = None;
            if applied != Some(&workload) {
                self.apply(ctx, workload);
            }
            if self.problem.as_ref().is_some_and(|problem| problem.reason != reason::MODEL_INVALID) {
                // The file is back, or the failed revision was given up.
                self.clear_problem(ctx);
                self.reconcile(ctx);
            }
            return !self.checked;
        }
        if self.candidate.as_ref().is_some_and(|candidate| candidate.revision == workload.revision) {
            return false;
        }
        self.clear_problem(ctx);
        self.checked = false;
        if self.serving() {
            self.candidate = Some(workload);
        } else {
            self.adopt(ctx, workload);
        }
        true
    }

    /// The newest revision, which a check is about.
    pub(crate) fn newest(&self) -> Option<&Workload> {
        self.candidate.as_ref().or(self.applied.as_ref())
    }

    /// A check of a revision's model ended.
    pub(crate) fn verdict(&mut self, ctx: &mut Context<'_>, revision: &Revision, verdict: Verdict) {
        if self.newest().is_none_or(|newest| newest.revision != *revision) {
            return;
        }
        self.checked = verdict.is_ok();
        match verdict {
            Ok(took) => {
                ctx.tell(&key_of(self), What::ModelOk(took));
                self.clear_problem(ctx);
                if let Some(candidate) = self.candidate.take() {
                    self.adopt(ctx, candidate);
                }
            }
            Err(error) => {
                let stays = self.candidate.take().and(self.applied.as_ref()).map(|applied| applied.revision.clone());
                if stays.is_none() && self.ready_replicas() > 0 {
                    // It serves, whatever the check met (its limits, most likely).
                    self.checked = true;
                    return;
                }
                self.set_problem(ctx, Problem::model_invalid(&error, stays.as_ref()));
            }
        }
        self.reconcile(ctx);
    }

    /// From now on this revision is the wanted one; replicas of a former one drain as its own become ready.
    fn adopt(&mut self, ctx: &mut Context<'_>, workload: Workload) {
        if self.applied.is_some() {
            ctx.tell(&key_of(self), What::Changed(Some(workload.revision.clone())));
        }
        self.rolling = !self.replicas.is_empty();
        self.backoff.reset();
        self.apply(ctx, workload);
        self.reconcile(ctx);
    }

    fn apply(&mut self, ctx: &Context<'_>, workload: Workload) {
        ctx.platform.apply(workload.clone());
        self.applied = Some(workload);
    }

    /// The newest revision can't serve. Requests that wait are told, unless a former revision serves them.
    fn set_problem(&mut self, ctx: &Context<'_>, problem: Problem) {
        if self.problem.as_ref() != Some(&problem) {
            ctx.tell(&key_of(self), What::ModelBroken(problem.message.clone()));
        }
        if !self.serving() {
            ctx.traffic.wake_failed(&self.backend, problem.wake_error());
        }
        self.problem = Some(problem);
    }

    fn clear_problem(&mut self, ctx: &Context<'_>) {
        if self.problem.take().is_some() {
            ctx.traffic.wake_recovered(&self.backend);
        }
    }

    /// A request found no replica.
    pub(crate) fn wake(&mut self, ctx: &mut Context<'_>) -> Result<(), WakeError> {
        if self.removed {
            return Err(unknown(&self.key));
        }
        if self.service.scaling.max_replicas == Some(0) {
            let message = format!("{} is stopped: its maxReplicas is 0", self.key).into();
            return Err(WakeError { reason: WakeReason::Disabled, message });
        }
        if !self.serving() {
            if let Some(problem) = &self.problem {
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
        let load = self.reading.map_or(Load::Unknown, |reading| Load::Outstanding(reading.outstanding()));
        let decision = self.autoscaler.decide(ctx.time(), self.ready_replicas(), load);
        self.count_decision(ctx, load, before, decision);
        self.tell_scaled(ctx, before, Why::Load);
        self.end_slow_starts(ctx);
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
        metrics.concurrency.with_label_values(&[key, "stable"]).set(decision.stable);
        metrics.concurrency.with_label_values(&[key, "panic"]).set(decision.panic);
        metrics.panic.with_label_values(&[key]).set(i64::from(decision.panicking));
    }

    /// Ends replicas that had their time to become ready.
    fn end_slow_starts(&mut self, ctx: &mut Context<'_>) {
        let limit = ctx.config.start_timeout;
        let slow = |state: &&mut ReplicaState| {
            state.phase == Phase::Starting && ctx.now >= state.replica.endpoint.started + limit
        };
        let slow: Vec<_> = self.replicas.values_mut().filter(slow).map(|state| {
            state.phase = Phase::Ending;
            state.replica.endpoint.id.clone()
        }).collect();
        for id in slow {
            ctx.platform.end(&self.backend, &id);
            let message = format!("{}: the model was not ready within {} s", self.service.name, limit.as_secs());
            self.start_failed(ctx, WakeError { reason: WakeReason::LoadFailed, message: message.into() }, true);
        }
    }

    /// The proxy saw a replica ready.
    pub(crate) fn became_ready(&mut self, ctx: &mut Context<'_>, id: &EndpointId) {
        let Some(state) = self.replicas.get_mut(id) else { return };
        if std::mem::replace(&mut state.ready, true) {
            return;
        }
        match state.phase {
            Phase::Starting => state.phase = Phase::Ready,
            Phase::Sealed { drained, .. } => state.phase = Phase::Sealed { ready: true, drained },
            Phase::Ready | Phase::Ending => {}
        }
        let took = ctx.now.saturating_duration_since(state.replica.endpoint.started);
        let newest = self.candidate.is_none()
            && self.applied.as_ref().is_some_and(|applied| applied.revision == state.replica.revision);
        ctx.tell(&key_of(self), What::Ready(id.clone(), took));
        if newest {
            self.backoff.reset();
            self.clear_problem(ctx);
            self.checked = true;
        }
        self.reconcile(ctx);
    }

    /// The platform shows its replicas and tells of those that ended.
    pub(crate) fn platform_event(&mut self, ctx: &mut Context<'_>, event: PlatformEvent) {
        for exit in event.exits {
            self.exited(ctx, exit);
        }
        let had = !self.replicas.is_empty();
        self.take_in(ctx, event.replicas);
        self.declare_endpoints(ctx);
        self.reconcile(ctx);
        if had && self.replicas.is_empty() && self.autoscaler.desired() == 0 {
            ctx.tell(&key_of(self), What::Asleep);
        }
        self.tell_rolled_over(ctx);
    }

    /// Replaces the list and keeps what is known of each.
    fn take_in(&mut self, ctx: &Context<'_>, replicas: Vec<Replica>) {
        let mut before = std::mem::take(&mut self.replicas);
        for replica in replicas {
            let id = replica.endpoint.id.clone();
            let ending = replica.endpoint.state == EndpointState::Draining;
            let declared_ready = replica.endpoint.state == EndpointState::Ready;
            let mut state = before.remove(&id).unwrap_or_else(|| {
                ctx.metrics.starts.with_label_values(&[&*self.key]).inc();
                let phase = if declared_ready { Phase::Ready } else { Phase::Starting };
                ReplicaState { replica: replica.clone(), phase, ready: declared_ready, drain: None }
            });
            state.replica = replica;
            if ending {
                state.phase = Phase::Ending;
            }
            self.replicas.insert(id, state);
        }
        for gone in before.into_values() {
            gone.drain.inspect(AbortHandle::abort);
        }
    }

    fn declare_endpoints(&self, ctx: &Context<'_>) {
        let endpoints = self.replicas.values().map(|state| state.replica.endpoint.clone()).collect();
        ctx.traffic.set_endpoints(&self.backend, endpoints);
    }

    fn exited(&mut self, ctx: &mut Context<'_>, exit: Exit) {
        let state = self.replicas.get(&exit.endpoint);
        let was_ready = state.is_some_and(|state| state.ready);
        let ours = state.is_some_and(|state| state.phase == Phase::Ending);
        let took = state.map_or(Duration::ZERO, |state| ctx.now - state.replica.endpoint.started);
        let wanted = self.applied.as_ref().is_some_and(|applied| applied.revision == exit.revision);
        let reason = match &exit.cause {
            ExitCause::Ended => "ended",
            ExitCause::Died(_) if was_ready => "died",
            ExitCause::Died(_) => "never-ready",
            ExitCause::Refused { .. } => "refused",
        };
        ctx.metrics.exits.with_label_values(&[&*self.key, reason]).inc();
        match exit.cause {
            ExitCause::Ended => {}
            ExitCause::Died(cause) => {
                ctx.tell(&key_of(self), What::Died(exit.endpoint, cause.clone()));
                // One that had been ready is restarted at once by the next plan; one of a former revision isn't wanted.
                if !was_ready && !ours && wanted {
                    let message = format!("{}: the model can't be loaded: {cause}", self.service.name).into();
                    let error = WakeError { reason: WakeReason::LoadFailed, message };
                    self.start_failed(ctx, error, took > ctx.config.slow_start);
                }
            }
            ExitCause::Refused { reason, message } => {
                self.start_failed(ctx, WakeError { reason, message: message.into() }, true);
            }
        }
    }

    /// A replica never became ready. Past the first failures, requests that wait are told why.
    fn start_failed(&mut self, ctx: &Context<'_>, error: WakeError, certain: bool) {
        let told = self.backoff.error().cloned();
        self.backoff.failed(&ctx.config.backoff, ctx.now, error, certain);
        let Some(error) = self.backoff.error() else { return };
        if told.as_ref() != Some(error) {
            ctx.tell(&key_of(self), What::Failing(error.message.to_string()));
        }
        if self.ready_replicas() == 0 {
            ctx.traffic.wake_failed(&self.backend, error.clone());
        }
    }

    /// A sealed replica has nothing in flight. Before the last one goes, the proxy is asked once more whether a request
    /// came meanwhile.
    pub(crate) fn drained(&mut self, ctx: &mut Context<'_>, id: &EndpointId) {
        let Some(state) = self.replicas.get_mut(id) else { return };
        let Phase::Sealed { ready, .. } = state.phase else { return };
        state.phase = Phase::Sealed { ready, drained: true };
        if !self.removed && self.autoscaler.desired() == 0 {
            let counts = ctx.traffic.snapshot().backends.get(&self.backend).copied();
            if counts.is_some_and(|counts| counts.in_flight + counts.waiting > 0) {
                self.autoscaler.wake(ctx.time());
                self.tell_scaled(ctx, 0, Why::Wake);
            }
        }
        self.reconcile(ctx);
    }

    /// Replicas that should exist, of any revision.
    fn wish(&self) -> u32 {
        if self.removed { 0 } else { self.autoscaler.desired() }
    }

    /// Brings the replicas to what the plan says, until it says nothing more.
    pub(crate) fn reconcile(&mut self, ctx: &mut Context<'_>) {
        // Each round moves replicas forward in their life, so a few rounds do; the bound is for a plan gone wrong.
        for _ in 0..8 {
            let Some(revision) = self.applied.as_ref().map(|applied| applied.revision.clone()) else { return };
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
        // The applied revision's model is known to be broken: another process would only say so again.
        if self.problem.is_some() && self.candidate.is_none() && !self.checked {
            return;
        }
        let alike = |state: &&ReplicaState| state.replica.revision == *revision && state.phase != Phase::Ending;
        let have = self.replicas.values().filter(alike).count() as u32;
        ctx.platform.scale(&self.backend, have + more);
    }

    fn seal(&mut self, ctx: &mut Context<'_>, id: &EndpointId) {
        let Some(state) = self.replicas.get_mut(id) else { return };
        let drained = ctx.traffic.seal(&self.backend, id);
        state.phase = Phase::Sealed { ready: state.ready, drained: drained.is_none() };
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
        self.replicas.values().any(|state| state.ready && state.phase != Phase::Ending)
    }

    fn tell_scaled(&self, ctx: &Context<'_>, from: u32, why: Why) {
        let to = self.autoscaler.desired();
        if from != to {
            ctx.tell(&key_of(self), What::Scaled { from, to, why });
        }
    }

    fn tell_rolled_over(&mut self, ctx: &Context<'_>) {
        let Some(applied) = &self.applied else { return };
        if self.rolling && self.replicas.values().all(|state| state.replica.revision == applied.revision) {
            self.rolling = false;
            ctx.tell(&key_of(self), What::RolledOver(applied.revision.clone()));
        }
    }
}

/// The key by value, so that it outlives a change of the state.
fn key_of(state: &ServiceState) -> Arc<str> {
    state.key.clone()
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
    WakeError { reason: WakeReason::UnknownBackend, message: format!("{key} is not declared (any more)").into() }
}
