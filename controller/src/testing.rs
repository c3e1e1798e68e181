//! Services, a platform and a proxy for tests.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use parking_lot::Mutex;
use pilotlight_activator::{
    BackendCounts, BackendId, Endpoint, EndpointId, EndpointState, Protocol, ReporterId, Route, Snapshot, WakeError,
};
use pilotlight_manifests::{Activation, Batching, Scaling, Service, Source, Storage};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{
    platform::{Exit, ExitCause, LogLine, Platform, PlatformEvent, Replica, Workload},
    traffic::{Traffic, TrafficEvent},
    workload::probe,
};

/// Scaling with all defaults, to zero.
pub(crate) fn scaling() -> Scaling {
    Scaling {
        min_replicas: 0,
        max_replicas: None,
        target: 100.0,
        target_utilization: 0.7,
        stable_window: Duration::from_mins(1),
        panic_window: 0.1,
        panic_threshold: 2.0,
        max_scale_up_rate: 1000.0,
        max_scale_down_rate: 2.0,
        scale_down_delay: Duration::ZERO,
        scale_to_zero_retention: Duration::ZERO,
        activation_scale: 1,
        initial_scale: 0,
        standby: None,
    }
}

/// A service in the namespace `default` with all defaults, that scales to zero.
pub(crate) fn service(name: &str) -> Service {
    Service {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        source: Source {
            file: PathBuf::from(format!("{name}.yaml")),
            line: 1,
        },
        object: serde_json::json!({ "metadata": { "name": name } }),
        storage: Storage::Local(PathBuf::from(format!("/models/{name}.onnx"))),
        args: Vec::new(),
        env: BTreeMap::new(),
        scaling: scaling(),
        container_concurrency: None,
        timeout: Duration::from_secs(5),
        devices: pilotlight_manifests::Devices::default(),
        batching: Batching {
            max_batch_size: NonZeroU32::new(32).unwrap(),
            max_latency: Duration::ZERO,
            queue_size: 1000,
            ready_queue_limit: 100,
            ..Batching::default()
        },
        activation: Activation {
            max_waiting: 10_000,
            max_waiting_bytes: 64 << 20,
            wait_timeout: Duration::from_mins(5),
            replay_limit: 4 << 20,
            pure: true,
        },
        cluster: pilotlight_manifests::Cluster::default(),
    }
}

/// A platform that does what it is told and shows it.
#[derive(Default)]
pub(crate) struct MockPlatform {
    state: Mutex<PlatformState>,
    changed: Notify,
    next: AtomicU64,
}

#[derive(Default)]
struct PlatformState {
    workloads: BTreeMap<BackendId, Workload>,
    replicas: BTreeMap<BackendId, Vec<Replica>>,
    dirty: BTreeMap<BackendId, Vec<Exit>>,
    /// Backends whose replicas die with this message as soon as they are started.
    broken: HashMap<BackendId, String>,
    starts: Vec<(BackendId, Instant)>,
    ended: Vec<EndpointId>,
}

impl MockPlatform {
    /// The replicas that exist and aren't ending.
    pub(crate) fn running(&self, id: &BackendId) -> Vec<Replica> {
        let state = self.state.lock();
        let all = state.replicas.get(id).cloned().unwrap_or_default();
        all.into_iter()
            .filter(|replica| replica.endpoint.state != EndpointState::Draining)
            .collect()
    }

    /// When replicas of a backend were started.
    pub(crate) fn starts(&self, id: &BackendId) -> Vec<Instant> {
        self.state
            .lock()
            .starts
            .iter()
            .filter(|(started, _)| started == id)
            .map(|(_, at)| *at)
            .collect()
    }

    /// Replicas of this backend die at their start from now on, or no longer.
    pub(crate) fn break_starts(&self, id: &BackendId, message: Option<&str>) {
        let mut state = self.state.lock();
        match message {
            Some(message) => state.broken.insert(id.clone(), message.to_owned()),
            None => state.broken.remove(id),
        };
    }

    /// Replicas that the platform was told to end, in order.
    pub(crate) fn ended(&self) -> Vec<EndpointId> {
        self.state.lock().ended.clone()
    }

    /// A replica dies by itself.
    pub(crate) fn kill(&self, id: &BackendId, endpoint: &EndpointId) {
        self.exit(
            id,
            endpoint,
            ExitCause::Died {
                message: "killed by signal 9".to_owned(),
                by_signal: true,
            },
        );
    }

    fn exit(&self, id: &BackendId, endpoint: &EndpointId, cause: ExitCause) {
        let mut state = self.state.lock();
        let replicas = state.replicas.entry(id.clone()).or_default();
        let Some(at) = replicas.iter().position(|replica| replica.endpoint.id == *endpoint) else {
            return;
        };
        let replica = replicas.remove(at);
        let exit = Exit {
            endpoint: endpoint.clone(),
            revision: replica.revision,
            cause,
        };
        state.dirty.entry(id.clone()).or_default().push(exit);
        self.changed.notify_one();
    }

    fn start(&self, state: &mut PlatformState, workload: &Workload) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = EndpointId::new(format!("{}-{number}", workload.id));
        state.starts.push((workload.id.clone(), Instant::now()));
        if let Some(message) = state.broken.get(&workload.id).cloned() {
            let exit = Exit {
                endpoint: id,
                revision: workload.revision.clone(),
                cause: ExitCause::Died {
                    message,
                    by_signal: false,
                },
            };
            state.dirty.entry(workload.id.clone()).or_default().push(exit);
            return;
        }
        let endpoint = Endpoint {
            id,
            address: ([127, 0, 0, 1], 9).into(),
            protocol: Protocol::H1,
            server_name: None,
            capacity: workload.capacity,
            initial_capacity: workload.initial_capacity,
            probe: probe(&workload.runtime.model).unwrap(),
            state: EndpointState::Starting,
            started: Instant::now(),
        };
        let replica = Replica {
            endpoint,
            revision: workload.revision.clone(),
        };
        state.replicas.entry(workload.id.clone()).or_default().push(replica);
        state.dirty.entry(workload.id.clone()).or_default();
    }
}

impl Platform for MockPlatform {
    fn apply(&self, workload: Workload) {
        self.state.lock().workloads.insert(workload.id.clone(), workload);
    }

    fn scale(&self, id: &BackendId, n: u32) {
        let mut state = self.state.lock();
        let Some(workload) = state.workloads.get(id).cloned() else {
            return;
        };
        let alike = |replica: &&Replica| {
            replica.revision == workload.revision && replica.endpoint.state != EndpointState::Draining
        };
        let have = state.replicas.get(id).map_or(0, |all| all.iter().filter(alike).count()) as u32;
        for _ in have..n {
            self.start(&mut state, &workload);
        }
        self.changed.notify_one();
    }

    fn end(&self, id: &BackendId, replica: &EndpointId) {
        self.state.lock().ended.push(replica.clone());
        self.exit(id, replica, ExitCause::Ended);
    }

    fn remove(&self, id: &BackendId) {
        self.state.lock().workloads.remove(id);
    }

    fn next_event(&self) -> BoxFuture<'_, PlatformEvent> {
        async move {
            loop {
                {
                    let mut state = self.state.lock();
                    if let Some((backend, exits)) = state.dirty.pop_first() {
                        let replicas = state.replicas.get(&backend).cloned().unwrap_or_default();
                        return PlatformEvent {
                            backend,
                            replicas,
                            exits,
                        };
                    }
                }
                self.changed.notified().await;
            }
        }
        .boxed()
    }

    fn logs(&self, _: &BackendId, _: usize, _: bool) -> BoxStream<'static, LogLine> {
        futures_util::stream::empty().boxed()
    }

    fn shutdown(&self, _: Duration) -> BoxFuture<'_, ()> {
        self.state.lock().replicas.clear();
        async {}.boxed()
    }
}

/// A proxy with counts that a test sets.
pub(crate) struct MockTraffic {
    state: Mutex<TrafficState>,
    events: mpsc::UnboundedSender<TrafficEvent>,
    receiver: Mutex<Option<mpsc::UnboundedReceiver<TrafficEvent>>>,
    started: Instant,
}

#[derive(Default)]
struct TrafficState {
    routes: Vec<Route>,
    endpoints: BTreeMap<BackendId, Vec<Endpoint>>,
    counts: BTreeMap<BackendId, (BackendCounts, Option<Instant>)>,
    sealed: BTreeMap<EndpointId, Vec<oneshot::Sender<()>>>,
    busy: BTreeMap<EndpointId, bool>,
    failed: Vec<(BackendId, WakeError)>,
    unsealed: Vec<EndpointId>,
    sequence: u64,
    silent: bool,
}

impl MockTraffic {
    pub(crate) fn new() -> Self {
        let (events, receiver) = mpsc::unbounded_channel();
        Self {
            state: Mutex::default(),
            events,
            receiver: Mutex::new(Some(receiver)),
            started: Instant::now(),
        }
    }

    /// Requests in flight and waiting from now on.
    pub(crate) fn load(&self, id: &BackendId, in_flight: u64, waiting: u64) {
        let mut state = self.state.lock();
        let entry = state.counts.entry(id.clone()).or_default();
        settle(entry);
        entry.0.arrivals += in_flight + waiting;
        entry.0.in_flight = in_flight;
        entry.0.waiting = waiting;
    }

    /// Snapshots list no backend from now on: a reporter that knows nothing.
    pub(crate) fn silence(&self, silent: bool) {
        self.state.lock().silent = silent;
    }

    /// The endpoint has requests in flight, or none any more.
    pub(crate) fn busy(&self, endpoint: &EndpointId, busy: bool) {
        let mut state = self.state.lock();
        state.busy.insert(endpoint.clone(), busy);
        if !busy {
            for waiting in state.sealed.get_mut(endpoint).map(std::mem::take).unwrap_or_default() {
                let _ = waiting.send(());
            }
        }
    }

    pub(crate) fn tell_ready(&self, id: &BackendId, endpoint: &EndpointId) {
        let _ = self.events.send(TrafficEvent::Ready(id.clone(), endpoint.clone()));
    }

    pub(crate) fn tell_failed(&self, id: &BackendId, endpoint: &EndpointId) {
        let _ = self.events.send(TrafficEvent::Failed(id.clone(), endpoint.clone()));
    }

    pub(crate) fn sealed(&self) -> Vec<EndpointId> {
        self.state.lock().sealed.keys().cloned().collect()
    }

    pub(crate) fn unsealed(&self) -> Vec<EndpointId> {
        self.state.lock().unsealed.clone()
    }

    pub(crate) fn failed(&self) -> Vec<(BackendId, WakeError)> {
        self.state.lock().failed.clone()
    }

    pub(crate) fn routes(&self) -> Vec<Route> {
        self.state.lock().routes.clone()
    }

    pub(crate) fn endpoints(&self, id: &BackendId) -> Vec<Endpoint> {
        self.state.lock().endpoints.get(id).cloned().unwrap_or_default()
    }
}

/// Brings the integral up to now.
fn settle((counts, since): &mut (BackendCounts, Option<Instant>)) {
    let now = Instant::now();
    let elapsed = since.map_or(Duration::ZERO, |since| now - since);
    counts.concurrency_seconds += elapsed.as_secs_f64() * (counts.in_flight + counts.waiting) as f64;
    *since = Some(now);
}

impl Traffic for MockTraffic {
    fn set_routes(&self, routes: Vec<Route>) -> Result<(), String> {
        let mut state = self.state.lock();
        for backend in routes.iter().flat_map(|route| &route.backends) {
            state.counts.entry(backend.backend.clone()).or_default();
        }
        state.routes = routes;
        Ok(())
    }

    fn set_endpoints(&self, backend: &BackendId, endpoints: Vec<Endpoint>) {
        self.state.lock().endpoints.insert(backend.clone(), endpoints);
    }

    fn wake_failed(&self, backend: &BackendId, error: WakeError) {
        self.state.lock().failed.push((backend.clone(), error));
    }

    fn seal(&self, _: &BackendId, endpoint: &EndpointId) -> Option<BoxFuture<'static, ()>> {
        let mut state = self.state.lock();
        let (sender, receiver) = oneshot::channel();
        let busy = state.busy.get(endpoint).copied().unwrap_or(false);
        let waiting = state.sealed.entry(endpoint.clone()).or_default();
        if busy {
            waiting.push(sender);
        } else {
            let _ = sender.send(());
        }
        Some(receiver.map(|_| ()).boxed())
    }

    fn unseal(&self, _: &BackendId, endpoint: &EndpointId) {
        let mut state = self.state.lock();
        state.sealed.remove(endpoint);
        state.unsealed.push(endpoint.clone());
    }

    fn snapshot(&self) -> Snapshot {
        let mut state = self.state.lock();
        state.sequence += 1;
        state.counts.values_mut().for_each(settle);
        let listed = if state.silent {
            BTreeMap::new()
        } else {
            state.counts.clone()
        };
        Snapshot {
            reporter: ReporterId::new("mock"),
            sequence: state.sequence,
            time: Instant::now() - self.started,
            backends: listed.into_iter().map(|(id, (counts, _))| (id, counts)).collect(),
        }
    }

    fn wake_recovered(&self, _: &BackendId) {}

    fn last_wake(&self, _: &BackendId) -> Option<Duration> {
        None
    }

    fn events(&self) -> BoxStream<'static, TrafficEvent> {
        UnboundedReceiverStream::new(self.receiver.lock().take().unwrap()).boxed()
    }
}
