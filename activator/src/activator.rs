//! The activator as its users hold it: the control surface, and what it keeps behind it.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::{BuildHasher, RandomState},
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    BackendId, Config, Endpoint, EndpointId, Event, Route, RouteId, Snapshot, WakeError, WakePhases, Waker,
    arrivals::Arrivals,
    backend::{Backend, Replica, Shared},
    core::{
        state::Pick,
        table::{RouteError, Table},
    },
    error::{Code, Failure},
    metrics::{Metrics, RouteStats},
    server,
};

/// A route with what it leads to.
pub(crate) struct RouteEntry {
    pub(crate) route: Route,
    /// In the order of `route.backends`.
    pub(crate) backends: Vec<Arc<Backend>>,
    /// What answers where the backends can't.
    pub(crate) fallback: Option<Arc<Backend>>,
    pub(crate) stats: Arc<RouteStats>,
}

impl RouteEntry {
    /// Every backend that it may lead to.
    fn all_backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.iter().chain(&self.fallback)
    }
}

/// The routes as requests see them; replaced as a whole.
#[derive(Default)]
pub(crate) struct LiveTable {
    pub(crate) table: Table,
    pub(crate) entries: Vec<Arc<RouteEntry>>,
}

/// What the control surface changes; requests never take this lock.
#[derive(Default)]
struct Control {
    backends: HashMap<BackendId, Arc<Backend>>,
    stats: HashMap<RouteId, Arc<RouteStats>>,
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) live: ArcSwap<LiveTable>,
    control: Mutex<Control>,
    sequence: AtomicU64,
    has_routes: AtomicBool,
    pub(crate) draining: CancellationToken,
    pub(crate) arrivals: Arrivals,
    seed: RandomState,
}

/// The proxy. A cheap handle: clones share everything.
///
/// All control calls return at once and may be made from any thread; none waits for IO.
#[derive(Clone)]
pub struct Activator {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for Activator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Activator")
            .field("config", &self.inner.shared.config)
            .finish_non_exhaustive()
    }
}

impl Activator {
    /// An activator without routes, which answers every request 404. Has to be called within a Tokio runtime; its
    /// tasks run there.
    pub fn new(config: Config, waker: Arc<dyn Waker>) -> Self {
        let (events, _) = broadcast::channel(config.event_buffer.max(1));
        let sweep = config.pool_idle_timeout / 2;
        let shared = Arc::new(Shared {
            config,
            waker,
            metrics: Metrics::new(),
            events,
            runtime: tokio::runtime::Handle::current(),
            epoch: Instant::now(),
        });
        let inner = Arc::new(Inner {
            shared,
            live: ArcSwap::default(),
            control: Mutex::default(),
            sequence: AtomicU64::new(0),
            has_routes: AtomicBool::new(false),
            draining: CancellationToken::new(),
            arrivals: Arrivals::default(),
            seed: RandomState::new(),
        });
        tokio::spawn(sweep_pools(Arc::downgrade(&inner), sweep));
        Self { inner }
    }

    /// Replaces the whole table of routes at once: a request sees either the old one or the new one. Counts of routes
    /// and backends that stay go on. Waiting requests of a removed route are answered 404 `route-removed`; ones in
    /// flight are finished.
    ///
    /// # Errors
    /// A faulty table changes nothing.
    pub fn set_routes(&self, routes: Vec<Route>) -> Result<(), RouteError> {
        let table = Table::compile(&routes)?;
        let mut control = self.inner.control.lock();
        let entries: Vec<Arc<RouteEntry>> = routes
            .into_iter()
            .map(|route| Arc::new(self.entry(&mut control, route)))
            .collect();
        let known: HashSet<RouteId> = entries.iter().map(|entry| entry.route.id.clone()).collect();
        let used = entries.iter().flat_map(|entry| entry.all_backends());
        let used: HashSet<BackendId> = used.map(|backend| backend.id.clone()).collect();
        self.inner.live.store(Arc::new(LiveTable { table, entries }));
        self.inner.has_routes.store(true, Ordering::Release);

        let removed = Failure::new(Code::RouteRemoved, "the route was removed while the request waited");
        for backend in control.backends.values() {
            backend.dismiss(|route| !known.contains(route), &removed);
        }
        control
            .backends
            .retain(|id, backend| used.contains(id) || !backend.is_unused());
        let metrics = &self.inner.shared.metrics;
        control.stats.retain(|id, stats| {
            let stays = known.contains(id);
            if !stays {
                stats.series.remove(metrics, id.as_str());
            }
            stays
        });
        Ok(())
    }

    fn entry(&self, control: &mut Control, route: Route) -> RouteEntry {
        let backends = route
            .backends
            .iter()
            .map(|weighted| self.backend(control, &weighted.backend))
            .collect();
        let fallback = route.policy.cold_start.as_ref().and_then(|cold| cold.fallback.as_ref());
        let fallback = fallback.map(|id| self.backend(control, id));
        let stats = control
            .stats
            .entry(route.id.clone())
            .or_insert_with(|| RouteStats::new(route.id.clone()));
        RouteEntry {
            backends,
            fallback,
            stats: Arc::clone(stats),
            route,
        }
    }

    fn backend(&self, control: &mut Control, id: &BackendId) -> Arc<Backend> {
        let backend = control.backends.entry(id.clone()).or_insert_with(|| {
            Backend::new(
                id.clone(),
                Arc::clone(&self.inner.shared),
                self.inner.seed.hash_one(id.as_str()),
            )
        });
        Arc::clone(backend)
    }

    fn known(&self, id: &BackendId) -> Option<Arc<Backend>> {
        self.inner.control.lock().backends.get(id).cloned()
    }

    /// Replaces the whole list of a backend's endpoints. New starting ones are probed and made ready here. Ones that
    /// are no longer listed get no new requests; what is in flight on them goes on, and is replayed if their
    /// connections break. A declared state only moves forward: `Starting` again for one found ready changes nothing.
    /// May be called before or after the route that leads there is set.
    pub fn set_endpoints(&self, backend: &BackendId, endpoints: Vec<Endpoint>) {
        let target = self.backend(&mut self.inner.control.lock(), backend);
        let empty = endpoints.is_empty();
        target.set_endpoints(endpoints);
        if empty {
            self.forget_unused(backend);
        }
    }

    /// A backend without route and endpoints is nobody's any more.
    fn forget_unused(&self, backend: &BackendId) {
        let mut control = self.inner.control.lock();
        let live = self.inner.live.load();
        if !live
            .entries
            .iter()
            .flat_map(|entry| entry.all_backends())
            .any(|used| used.id == *backend)
        {
            control.backends.remove(backend);
        }
    }

    /// Says that a backend's replicas can't be brought up. Waiting requests are answered 503 with the reason now,
    /// unless an endpoint is ready and only busy. Health calls answer 503 with it until an endpoint is ready, a wake
    /// succeeds or [`Self::wake_recovered`] is called. It does not turn later requests away by itself: each asks the
    /// waker again (one call at a time), so that the platform decides how long its reason holds.
    pub fn wake_failed(&self, backend: &BackendId, error: WakeError) {
        if let Some(backend) = self.known(backend) {
            backend.wake_failed(&error);
        }
    }

    /// Forgets what [`Self::wake_failed`] or a failed wake recorded.
    pub fn wake_recovered(&self, backend: &BackendId) {
        if let Some(backend) = self.known(backend) {
            backend.wake_recovered();
        }
    }

    /// Ends new picks of an endpoint, so that it can be taken away once drained. `None` if the endpoint is not known.
    /// Requests that arrive from now on go elsewhere, or wait and wake the backend. Sealing twice is the same as once.
    pub fn seal(&self, backend: &BackendId, endpoint: &EndpointId) -> Option<Sealed> {
        let backend = self.known(backend)?;
        let pick = backend.seal(endpoint)?;
        Some(Sealed { backend, pick })
    }

    /// Takes a seal back: the endpoint may be picked again. False if the endpoint is not known.
    pub fn unseal(&self, backend: &BackendId, endpoint: &EndpointId) -> bool {
        self.known(backend).is_some_and(|backend| backend.unseal(endpoint))
    }

    /// The counts of every backend, idle ones included.
    pub fn snapshot(&self) -> Snapshot {
        let control = self.inner.control.lock();
        Snapshot {
            reporter: self.inner.shared.config.reporter.clone(),
            sequence: self.inner.sequence.fetch_add(1, Ordering::Relaxed) + 1,
            time: self.inner.shared.now(),
            backends: control
                .backends
                .iter()
                .map(|(id, backend)| (id.clone(), backend.counts()))
                .collect(),
        }
    }

    /// The endpoints of a backend that are ready now, for a receiver of [`Self::events`] that lost some. Sealed ones
    /// are not among them.
    pub fn ready(&self, backend: &BackendId) -> Vec<EndpointId> {
        self.known(backend).map(|backend| backend.ready()).unwrap_or_default()
    }

    /// The registry behind `/metrics`: what others register there is shown too. Gauges of the activator itself are set
    /// only by [`Self::gather`], which `/metrics` of [`Self::admin_router`] calls.
    pub fn registry(&self) -> prometheus::Registry {
        self.inner.shared.metrics.registry()
    }

    /// Every series of the registry, with the gauges set to now.
    pub fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.inner.gather()
    }

    /// Events from now on. A receiver that falls behind by more than [`Config::event_buffer`] loses the oldest and is
    /// told so.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.shared.events.subscribe()
    }

    /// The phases of a backend's last finished cold wake.
    pub fn last_wake(&self, backend: &BackendId) -> Option<WakePhases> {
        self.known(backend)?.last_wake()
    }

    /// Announces the end before it comes: `/readyz` answers 503 from now on and HTTP/1.1 clients are told to close their
    /// connections, while everything is served as before. [`Self::serve`]'s shutdown has to follow once whoever sends
    /// requests here had the time to notice.
    pub fn announce_end(&self) {
        self.inner.draining.cancel();
    }

    /// Serves `/livez`, `/readyz`, `/queue` and `/metrics`.
    pub fn admin_router(&self) -> axum::Router {
        crate::admin::router(Arc::clone(&self.inner))
    }

    /// Proxies HTTP/1.1 and HTTP/2 without TLS on one port until `shutdown`, then accepts nothing more, lets what is
    /// open finish for [`Config::drain_timeout`], answers what still waits 503 `shutting-down` and closes the rest.
    ///
    /// # Errors
    /// Only where the listener itself is unusable; failures of single connections are theirs.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        server::serve(Arc::clone(&self.inner), listener, shutdown).await
    }
}

impl Inner {
    /// Routes were set and the end was not announced.
    pub(crate) fn is_ready(&self) -> bool {
        self.has_routes.load(Ordering::Acquire) && !self.draining.is_cancelled()
    }

    /// The end was announced.
    pub(crate) fn is_ending(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Answers everything that waits with a failure.
    pub(crate) fn dismiss_all(&self, failure: &Failure) {
        for backend in self.control.lock().backends.values() {
            backend.dismiss(|_| true, failure);
        }
    }

    /// The metrics with their gauges set to now.
    pub(crate) fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        let metrics = &self.shared.metrics;
        // Also keeps two readers from clearing each other's gauges.
        let control = self.control.lock();
        metrics.clear_gauges();
        for (id, backend) in &control.backends {
            let counts = backend.counts();
            metrics.show_backend(id.as_str(), counts.in_flight, counts.waiting, backend.endpoint_counts());
        }
        for (id, stats) in &control.stats {
            metrics.show_route(id.as_str(), stats.concurrency.load(Ordering::Relaxed));
        }
        metrics.gather()
    }
}

/// Closes connections that were idle for too long, as long as the activator lives.
async fn sweep_pools(inner: Weak<Inner>, every: std::time::Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(inner) = inner.upgrade() else { return };
        let limits = inner.shared.pool_limits();
        let backends: Vec<Arc<Backend>> = inner.control.lock().backends.values().cloned().collect();
        for backend in backends {
            backend.sweep(limits);
        }
    }
}

/// An endpoint that gets no new picks. Dropping this does not take the seal back; [`Activator::unseal`] does.
pub struct Sealed {
    backend: Arc<Backend>,
    pick: Pick<Arc<Replica>>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed")
            .field("endpoint", self.endpoint())
            .field("in_flight", &self.in_flight())
            .finish()
    }
}

impl Sealed {
    /// The endpoint.
    pub fn endpoint(&self) -> &EndpointId {
        &self.pick.endpoint.id
    }

    /// Requests in flight on it now.
    pub fn in_flight(&self) -> u32 {
        self.backend.in_flight(self.pick.key)
    }

    /// Resolves when nothing is in flight on it. Cancel-safe; holds the more so for one that has vanished.
    pub async fn drained(&self) {
        loop {
            let released = self.pick.endpoint.released.notified();
            tokio::pin!(released);
            // Registered before the look, so that a release in between is not missed.
            released.as_mut().enable();
            if self.in_flight() == 0 {
                return;
            }
            released.await;
        }
    }
}
