//! The loop: one task that owns every service and waits for whatever happens next.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use pilotlight_activator::{BackendId, EndpointId};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::{
    change::{Change, What},
    check::{Check, Verdict},
    model::{Model, ModelError, Models},
    platform::{PlatformEvent, Revision},
    reports::Reports,
    service::{Context, Drain, ServiceState, unknown},
    source::Declared,
    status::{StatusSet, status},
    traffic::TrafficEvent,
    wake::{Wake, Wakes},
    workload,
};

/// Model files being read at once.
const READERS: usize = 2;

/// Statuses are published at most this often, however much happens.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(10);

/// Something that took time and is done.
enum Done {
    Resolved {
        key: Arc<str>,
        result: Result<Model, ModelError>,
    },
    Checked {
        key: Arc<str>,
        revision: Revision,
        took: Duration,
        verdict: Verdict,
    },
}

/// The state of the loop.
pub(super) struct Run {
    shared: Shared,
    checker: Option<Arc<dyn Check>>,
    declared: watch::Receiver<Arc<Declared>>,
    told: Arc<Declared>,
    services: BTreeMap<Arc<str>, ServiceState>,
    models: Arc<Models>,
    readers: Arc<Semaphore>,
    /// Services whose model is being read; true where it changed meanwhile.
    resolving: HashMap<Arc<str>, bool>,
    jobs: JoinSet<Done>,
    drains: FuturesUnordered<Drain>,
    reports: Reports,
    epoch: Instant,
    published: Instant,
    publish_at: Option<Instant>,
}

impl Run {
    pub(super) fn new(
        shared: Shared,
        checker: Option<Arc<dyn Check>>,
        declared: watch::Receiver<Arc<Declared>>,
    ) -> Self {
        let now = Instant::now();
        let mut reports = Reports::new(shared.config.stale_after);
        let first = shared.traffic.snapshot();
        reports.expect([first.reporter.clone()]);
        reports.accept(first, now);
        Self {
            shared,
            checker,
            declared,
            told: Arc::default(),
            services: BTreeMap::new(),
            models: Arc::default(),
            readers: Arc::new(Semaphore::new(READERS)),
            resolving: HashMap::new(),
            jobs: JoinSet::new(),
            drains: FuturesUnordered::new(),
            reports,
            epoch: now,
            published: now,
            publish_at: None,
        }
    }

    pub(super) async fn until(&mut self, shutdown: CancellationToken, mut wakes: Wakes) {
        let mut events = self.shared.traffic.events();
        let platform = self.shared.platform.clone();
        let mut snapshots = ticks(self.shared.config.snapshot_interval);
        let mut decisions = ticks(self.shared.config.decision_interval);
        self.take_declared();
        loop {
            let deadline = self.deadline();
            tokio::select! {
                // Traffic before the platform: a replica's death must not be seen before its readiness.
                biased;
                () = shutdown.cancelled() => return,
                Some(event) = events.next() => self.traffic_event(event),
                pending = wakes.next() => self.wake(pending),
                event = platform.next_event() => self.platform_event(event),
                Some(drained) = self.drains.next() => self.drained(drained),
                Some(done) = self.jobs.join_next() => self.done(done),
                Ok(()) = self.declared.changed() => self.take_declared(),
                _ = snapshots.tick() => self.snapshot(),
                _ = decisions.tick() => self.decide(),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => self.due(),
            }
        }
    }

    /// Runs a transition of one service, if it is there, and takes up what it left to be awaited.
    fn with<T>(&mut self, key: &str, act: impl FnOnce(&mut ServiceState, &mut Context<'_>) -> T) -> Option<T> {
        let mut drains = Vec::new();
        let mut ctx = context(&self.shared, self.epoch, &mut drains);
        let result = self.services.get_mut(key).map(|state| act(state, &mut ctx));
        self.drains.extend(drains);
        self.dirty();
        self.bury(key);
        result
    }

    /// Runs a transition of every service.
    fn with_all(&mut self, mut act: impl FnMut(&mut ServiceState, &mut Context<'_>)) {
        let mut drains = Vec::new();
        let mut ctx = context(&self.shared, self.epoch, &mut drains);
        self.services.values_mut().for_each(|state| act(state, &mut ctx));
        self.drains.extend(drains);
        self.dirty();
    }

    /// Forgets a removed service without replicas.
    fn bury(&mut self, key: &str) {
        if self.services.get(key).is_none_or(|state| !state.is_gone()) {
            return;
        }
        if let Some(state) = self.services.remove(key) {
            self.shared.platform.remove(&state.backend);
            self.shared.metrics.forget(key);
        }
    }

    fn traffic_event(&mut self, event: TrafficEvent) {
        match event {
            TrafficEvent::Ready(backend, endpoint) => {
                self.with(backend.as_str(), |state, ctx| state.became_ready(ctx, &endpoint));
            }
            TrafficEvent::Woken(..) => self.dirty(),
            TrafficEvent::Failed(backend, endpoint) => {
                self.with(backend.as_str(), |state, ctx| state.became_silent(ctx, &endpoint));
            }
            TrafficEvent::Lagged(lost) => {
                tracing::warn!(lost, "events of the proxy were lost");
                let traffic = self.shared.traffic.clone();
                self.with_all(|state, ctx| {
                    for ready in traffic.ready(&state.backend) {
                        state.became_ready(ctx, &ready);
                    }
                });
            }
        }
    }

    fn wake(&mut self, wakes: Vec<Wake>) {
        for wake in wakes {
            let backend = wake.backend.clone();
            let result = self.with(backend.as_str(), |state, ctx| {
                let result = state.wake(ctx);
                let code = result.as_ref().map_or_else(|error| error.reason.code(), |()| "ok");
                ctx.metrics.wakes.with_label_values(&[&*state.key, code]).inc();
                result
            });
            wake.answer(result.unwrap_or_else(|| Err(unknown(backend.as_str()))));
        }
    }

    fn platform_event(&mut self, event: PlatformEvent) {
        let key = event.backend.clone();
        self.with(key.as_str(), |state, ctx| state.platform_event(ctx, event));
    }

    fn drained(&mut self, drained: Option<(BackendId, EndpointId)>) {
        // `None` was taken back meanwhile.
        if let Some((backend, endpoint)) = drained {
            self.with(backend.as_str(), |state, ctx| state.drained(ctx, &endpoint));
        }
    }

    fn snapshot(&mut self) {
        let now = Instant::now();
        self.reports.accept(self.shared.traffic.snapshot(), now);
        let readings: Vec<_> = self
            .services
            .values()
            .map(|state| self.reports.read(&state.backend, now))
            .collect();
        let mut readings = readings.into_iter();
        self.with_all(|state, ctx| state.record(ctx, readings.next().flatten()));
    }

    fn decide(&mut self) {
        self.with_all(|state, ctx| {
            if !state.removed {
                state.decide(ctx);
            }
        });
    }

    /// Whatever has its time now.
    fn due(&mut self) {
        let now = Instant::now();
        if self
            .services
            .values()
            .any(|state| state.wait_until.is_some_and(|until| until <= now))
        {
            self.with_all(|state, ctx| {
                if state.wait_until.is_some_and(|until| until <= now) {
                    state.reconcile(ctx);
                }
            });
        }
        if self.publish_at.is_some_and(|at| at <= now) {
            self.publish();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.services
            .values()
            .filter_map(|state| state.wait_until)
            .chain(self.publish_at)
            .min()
    }

    /// New, changed and removed services; the routes; the models.
    fn take_declared(&mut self) {
        let declared = self.declared.borrow_and_update().clone();
        self.tell_faults(&declared);
        let gone: Vec<_> = self
            .services
            .keys()
            .filter(|key| !declared.services.contains_key(*key))
            .cloned()
            .collect();
        self.route(&declared);
        for key in gone {
            self.with(&key, ServiceState::remove);
        }
        for (key, service) in &declared.services {
            if self.services.contains_key(key) {
                self.with(key, |state, ctx| state.redeclare(ctx, service.clone()));
            } else {
                let mut drains = Vec::new();
                let ctx = context(&self.shared, self.epoch, &mut drains);
                let state = ServiceState::new(&ctx, service.clone());
                self.services.insert(key.clone(), state);
            }
            self.resolve(key);
        }
        let storages: Vec<_> = declared.services.values().map(|service| &service.storage).collect();
        self.models.retain(&storages);
        self.told = declared;
        self.dirty();
    }

    fn tell_faults(&self, declared: &Declared) {
        let tell = |what| {
            // Nobody watching is fine.
            let _ = self.shared.changes.send(Arc::new(Change { service: None, what }));
        };
        let new = declared.faults.iter().filter(|fault| !self.told.faults.contains(fault));
        new.for_each(|fault| tell(What::Fault(fault.clone())));
        let new = declared
            .warnings
            .iter()
            .filter(|fault| !self.told.warnings.contains(fault));
        new.for_each(|fault| tell(What::Warning(fault.clone())));
        let new = declared
            .unreadable
            .iter()
            .filter(|found| !self.told.unreadable.contains(found));
        new.for_each(|(path, error)| tell(What::Unreadable(path.clone(), error.clone())));
    }

    fn route(&self, declared: &Declared) {
        let routes = workload::routes(declared, &self.shared.config.domain);
        if let Err(error) = self.shared.traffic.set_routes(routes) {
            tracing::error!(%error, "the routes were refused");
            let _ = self.shared.changes.send(Arc::new(Change {
                service: None,
                what: What::RoutesRefused(error),
            }));
        }
    }

    /// Reads the model of a service, once more where it is being read already.
    fn resolve(&mut self, key: &Arc<str>) {
        if let Some(again) = self.resolving.get_mut(key) {
            *again = true;
            return;
        }
        let Some(state) = self.services.get(key) else { return };
        self.resolving.insert(key.clone(), false);
        let (key, service) = (key.clone(), state.service.clone());
        let (models, readers) = (self.models.clone(), self.readers.clone());
        self.jobs.spawn(async move {
            // The semaphore is never closed.
            let _turn = readers.acquire_owned().await;
            let path = std::path::PathBuf::from(service.name.clone());
            let read = tokio::task::spawn_blocking(move || models.resolve(&service.storage)).await;
            let result = read.unwrap_or_else(|error| Err(ModelError::Unreadable(path, error.to_string())));
            Done::Resolved { key, result }
        });
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Resolved { key, result }) => self.resolved(key, result),
            Ok(Done::Checked {
                key,
                revision,
                took,
                verdict,
            }) => {
                self.shared.metrics.checks.observe(took.as_secs_f64());
                self.with(&key, |state, ctx| state.verdict(ctx, &revision, verdict));
            }
            Err(error) => tracing::error!(%error, "a job of the controller ended"),
        }
    }

    fn resolved(&mut self, key: Arc<str>, result: Result<Model, ModelError>) {
        if self.resolving.remove(&key) == Some(true) {
            return self.resolve(&key);
        }
        let model = result.clone().ok();
        let check = self
            .with(&key, |state, ctx| !state.removed && state.resolved(ctx, result))
            .unwrap_or(false);
        if let (true, Some(model)) = (check, model) {
            self.check(key, model);
        }
    }

    fn check(&mut self, key: Arc<str>, model: Model) {
        let newest = self.services.get(&key).and_then(ServiceState::newest);
        let Some(revision) = newest.map(|newest| newest.revision.clone()) else {
            return;
        };
        let checker = self.checker.clone();
        self.jobs.spawn(async move {
            let started = Instant::now();
            let verdict = match checker {
                Some(checker) => checker.check(&model.path, &model.digest).await,
                None => Ok(Duration::ZERO),
            };
            Done::Checked {
                key,
                revision,
                took: started.elapsed(),
                verdict,
            }
        });
    }

    /// Something that is shown changed.
    fn dirty(&mut self) {
        let soonest = (self.published + PUBLISH_INTERVAL).max(Instant::now());
        self.publish_at.get_or_insert(soonest);
    }

    fn publish(&mut self) {
        self.publish_at = None;
        self.published = Instant::now();
        let traffic = &self.shared.traffic;
        let live = self.services.iter().filter(|(_, state)| !state.removed);
        let services = live
            .map(|(key, state)| {
                (
                    key.clone(),
                    status(state, &self.shared.config, traffic.last_wake(&state.backend)),
                )
            })
            .collect();
        let set = StatusSet {
            generation: self.told.generation,
            services,
        };
        for (key, status) in &set.services {
            let replicas = [
                ("desired", status.replicas.desired),
                ("ready", status.replicas.ready),
                ("starting", status.replicas.starting),
                ("draining", status.replicas.draining),
            ];
            for (state, count) in replicas {
                self.shared
                    .metrics
                    .replicas
                    .with_label_values(&[&**key, state])
                    .set(i64::from(count));
            }
        }
        self.shared.status.send_if_modified(|current| {
            let changed = **current != set;
            if changed {
                *current = Arc::new(set);
            }
            changed
        });
    }

    /// Drains everything within its time, then ends what is left.
    pub(super) async fn stop(mut self) {
        self.jobs.abort_all();
        self.with_all(ServiceState::stop);
        let limit = Instant::now() + self.shared.config.shutdown_drain;
        while let Ok(Some(drained)) = timeout_at(limit, self.drains.next()).await {
            self.drained(drained);
        }
        self.shared.platform.shutdown(self.shared.config.shutdown_limit).await;
    }
}

fn context<'a>(shared: &'a Shared, epoch: Instant, drains: &'a mut Vec<Drain>) -> Context<'a> {
    Context {
        now: Instant::now(),
        epoch,
        config: &shared.config,
        platform: &*shared.platform,
        traffic: &*shared.traffic,
        metrics: &shared.metrics,
        changes: &shared.changes,
        drains,
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    // Late ones are left out: the integrals make up for them.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}
