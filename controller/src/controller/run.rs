//! The loop: one task that owns every service and waits for whatever happens next.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use pilotlight_activator::{BackendId, EndpointId};
use pilotlight_manifests::{Service, Storage};
use pilotlight_storage::Fetcher;
use tokio::{
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::{
    change::{Change, What},
    check::{Check, Verdict},
    fetching::{Fetching, Look},
    model::{self, Model, ModelError, Models},
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
        number: u64,
        result: Result<Model, ModelError>,
    },
    Checked {
        key: Arc<str>,
        revision: Revision,
        took: Duration,
        verdict: Verdict,
    },
}

/// A model that is being read or fetched.
struct Resolving {
    number: u64,
    /// It changed meanwhile.
    again: bool,
    /// Where it is fetched from.
    remote: Option<String>,
    job: AbortHandle,
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
    /// Services whose model is being read or fetched.
    resolving: HashMap<Arc<str>, Resolving>,
    /// Numbers what is being resolved, so that the end of one that was given up is not taken for another's.
    resolutions: u64,
    /// When services with a remote model are looked at again.
    looks: HashMap<Arc<str>, Look>,
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
            resolutions: 0,
            looks: HashMap::new(),
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
        let due: Vec<_> = self
            .looks
            .iter()
            .filter(|(_, look)| look.at <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            // The look's end says when the next one is.
            if let Some(look) = self.looks.get_mut(&key) {
                look.at = now + self.shared.config.remote_interval.max(Duration::from_secs(1));
            }
            self.resolve(&key);
        }
        if self.publish_at.is_some_and(|at| at <= now) {
            self.publish();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.services
            .values()
            .filter_map(|state| state.wait_until)
            .chain(self.looks.values().map(|look| look.at))
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
            self.looks.remove(&key);
            self.give_up(&key);
            self.with(&key, ServiceState::remove);
        }
        for (key, service) in &declared.services {
            // Each look at a remote model asks its store: not for a change elsewhere.
            let known = self.services.get(key);
            if is_remote(service) && known.is_some_and(|known| !known.removed && *known.service == **service) {
                continue;
            }
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
        let Some(state) = self.services.get(key) else { return };
        let service = state.service.clone();
        let remote = match &service.storage {
            Storage::Remote(uri) => Some(uri.clone()),
            _ => None,
        };
        if let Some(under_way) = self.resolving.get_mut(key) {
            if under_way.remote == remote {
                under_way.again = true;
                return;
            }
            // It may take for ever, and isn't what is wanted any more.
            self.give_up(key);
        }
        self.resolutions += 1;
        let number = self.resolutions;
        let job = match (&remote, self.shared.config.fetcher.clone()) {
            (Some(uri), Some(fetcher)) => self.fetch(key, number, uri, fetcher),
            _ => self.read(key, number, service),
        };
        let under_way = Resolving {
            number,
            again: false,
            remote,
            job,
        };
        self.resolving.insert(key.clone(), under_way);
    }

    fn read(&mut self, key: &Arc<str>, number: u64, service: Arc<Service>) -> AbortHandle {
        let (key, models, readers) = (key.clone(), self.models.clone(), self.readers.clone());
        self.jobs.spawn(async move {
            // The semaphore is never closed.
            let _turn = readers.acquire_owned().await;
            let path = std::path::PathBuf::from(service.name.clone());
            let read = tokio::task::spawn_blocking(move || models.resolve(&service.storage)).await;
            let result = read.unwrap_or_else(|error| Err(ModelError::Unreadable(path, error.to_string())));
            Done::Resolved { key, number, result }
        })
    }

    fn fetch(&mut self, key: &Arc<str>, number: u64, uri: &str, fetcher: Fetcher) -> AbortHandle {
        let (key, uri, fetching) = (key.clone(), uri.to_owned(), Arc::new(Fetching::default()));
        if let Some(state) = self.services.get_mut(&key) {
            state.fetching = Some(fetching.clone());
        }
        self.jobs.spawn(async move {
            let result = model::fetch(&fetcher, &uri, fetching.watch()).await;
            Done::Resolved { key, number, result }
        })
    }

    /// Ends a resolution without its result.
    fn give_up(&mut self, key: &Arc<str>) {
        if let Some(under_way) = self.resolving.remove(key) {
            under_way.job.abort();
        }
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Resolved { key, number, result }) => self.resolved(key, number, result),
            Ok(Done::Checked {
                key,
                revision,
                took,
                verdict,
            }) => {
                self.shared.metrics.checks.observe(took.as_secs_f64());
                self.with(&key, |state, ctx| state.verdict(ctx, &revision, verdict));
            }
            // A fetch that nobody wants any more.
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!(%error, "a job of the controller ended"),
        }
    }

    fn resolved(&mut self, key: Arc<str>, number: u64, result: Result<Model, ModelError>) {
        let under_way = match self.resolving.entry(key.clone()) {
            Entry::Occupied(entry) if entry.get().number == number => entry.remove(),
            _ => return,
        };
        if under_way.again {
            return self.resolve(&key);
        }
        if under_way.remote.is_some() {
            let (before, config) = (self.looks.get(&key).copied(), &self.shared.config);
            let (interval, retry) = (config.remote_interval, config.remote_retry);
            let look = Look::after(before, result.is_ok(), Instant::now(), interval, retry);
            self.looks.insert(key.clone(), look);
        } else {
            self.looks.remove(&key);
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

fn is_remote(service: &Service) -> bool {
    matches!(service.storage, Storage::Remote(_))
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    // Late ones are left out: the integrals make up for them.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}
