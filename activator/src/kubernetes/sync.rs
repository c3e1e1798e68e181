//! Takes the cluster's changes and tells the activator what follows from them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ApiResource;
use pilotlight_manifests::kubernetes::Workload;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    assign::Assigner,
    config::ClusterConfig,
    index::{Index, Key, Kind, Object, Outlook, Touched},
    routes::Routes,
    seals::Seals,
    service::Domains,
    standby::StandbyPods,
    target::Targets,
    watch::{Changes, Event, Source},
};
use crate::{Activator, BackendId, Event as Happened, WakeError};

/// Changes that are taken together.
const BATCH: usize = 1_024;

/// Putting the routes together takes at most one part in so many of the time.
const ROUTES_DUTY: u32 = 10;

/// The name under which the services' routes are handed in.
pub(crate) const SERVICES: &str = "services";

/// The state between the watches and the activator.
pub(crate) struct Sync {
    index: Index,
    activator: Activator,
    targets: Arc<Targets>,
    seals: Arc<Seals>,
    routes: Arc<Routes>,
    standby: Arc<StandbyPods>,
    assigner: Arc<Assigner>,
    deployments: ApiResource,
    /// Watches whose first list is not complete.
    missing: HashSet<Source>,
    /// Lists that are under way.
    listing: HashMap<Source, HashSet<Key>>,
    /// What the activator was told of.
    failing: HashMap<BackendId, WakeError>,
    /// When to look at a backend again whose failure may pass.
    unsure: BTreeMap<BackendId, Instant>,
    /// Routes changed and were not handed in yet.
    routes_changed: bool,
    /// They are not handed in before.
    routes_from: Instant,
}

impl Sync {
    pub(crate) fn new(
        config: &ClusterConfig,
        activator: Activator,
        targets: Arc<Targets>,
        seals: Arc<Seals>,
        routes: Arc<Routes>,
        (standby, assigner): (Arc<StandbyPods>, Arc<Assigner>),
        sources: Vec<Source>,
    ) -> Self {
        let domains = Domains {
            domain: config.domain.clone(),
            cluster_domain: config.cluster_domain.clone(),
        };
        Self {
            index: Index::new(domains, config.own_name.clone(), config.failure_grace),
            activator,
            targets,
            seals,
            routes,
            standby,
            assigner,
            deployments: ApiResource::erase::<Deployment>(&()),
            missing: sources.into_iter().collect(),
            listing: HashMap::new(),
            failing: HashMap::new(),
            unsure: BTreeMap::new(),
            routes_changed: false,
            routes_from: Instant::now(),
        }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, changes: Changes, stop: CancellationToken) {
        let mut changes = changes.ready_chunks(BATCH);
        let mut happened = self.activator.events();
        loop {
            let again = self.unsure.values().min().copied();
            let touched = tokio::select! {
                () = stop.cancelled() => return,
                Some(batch) = changes.next() => self.take(batch),
                event = happened.recv() => self.heard(event, &mut happened),
                () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => self.due(),
                () = tokio::time::sleep_until(self.routes_from), if self.routes_changed => Touched::default(),
            };
            self.tell(touched);
        }
    }

    /// Takes changes into the index.
    fn take(&mut self, batch: Vec<(Source, Event)>) -> Touched {
        let now = Instant::now();
        let mut touched = Touched::default();
        for (source, event) in batch {
            match event {
                Event::Begin => {
                    self.listing.insert(source, HashSet::new());
                }
                Event::Listed(key, object) => {
                    touched.merge(self.set(&key, object, now));
                    self.listing.entry(source).or_default().insert(key);
                }
                Event::Complete => {
                    let listed = self.listing.remove(&source).unwrap_or_default();
                    let namespace = source.namespace.as_deref();
                    if source.kind == Kind::Standby {
                        self.standby.keep(namespace, &listed);
                    }
                    touched.merge(self.index.keep(source.kind, namespace, &listed, now));
                    self.complete(&source, &mut touched);
                }
                Event::Changed(key, object) => touched.merge(self.set(&key, object, now)),
                Event::Failed { absent, error } => {
                    tracing::warn!(kind = ?source.kind, error, "a watch failed; what was known stays, and it is tried again");
                    // Without its definition there are no services, which is as good as an empty list.
                    // Events only add to what is known: without the right to read them all else goes on.
                    if (absent && source.kind == Kind::Service) || source.kind == Kind::Trouble {
                        self.complete(&source, &mut touched);
                    }
                }
            }
        }
        touched
    }

    fn set(&mut self, key: &Key, object: Object, now: Instant) -> Touched {
        if let Object::Standby(pod) = object {
            self.standby.set(key, pod.map(|pod| *pod));
            return Touched::default();
        }
        self.index.set(key, object, now)
    }

    /// The last of the first lists brings everything to the activator at once.
    fn complete(&mut self, source: &Source, touched: &mut Touched) {
        if self.missing.remove(source) && self.missing.is_empty() {
            let rank = self.index.rank();
            tracing::info!(activators = rank.of, own = rank.index, "all of the cluster is known");
            touched.routes = true;
            touched.backends.extend(self.index.backends());
        }
    }

    /// Something happened at an endpoint: shares go by which ones serve.
    fn heard(&self, event: Result<Happened, RecvError>, happened: &mut broadcast::Receiver<Happened>) -> Touched {
        let mut touched = Touched::default();
        match event {
            Ok(Happened::EndpointReady { backend, .. } | Happened::EndpointFailed { backend, .. }) => {
                // Other sources have backends of their own, whose endpoints and targets are theirs.
                if Workload::from_backend(backend.as_str()).is_some() {
                    touched.backends.insert(backend);
                }
            }
            Ok(Happened::WakeFinished { .. }) => {}
            Err(RecvError::Lagged(_)) => {
                *happened = happened.resubscribe();
                touched.backends = self.index.backends();
            }
            // The activator holds the sender, and this holds the activator.
            Err(RecvError::Closed) => {}
        }
        touched
    }

    /// Backends whose grace is over.
    fn due(&mut self) -> Touched {
        let now = Instant::now();
        let due = self.unsure.extract_if(.., |_, at| *at <= now);
        Touched {
            routes: false,
            backends: due.map(|(backend, _)| backend).collect(),
        }
    }

    fn tell(&mut self, touched: Touched) {
        // A part of the cluster would be told as if the rest did not exist.
        if !self.missing.is_empty() {
            return;
        }
        self.tell_backends(&touched.backends);
        // After the targets: a request that takes a new route finds what it wakes.
        self.routes_changed |= touched.routes;
        self.tell_routes();
    }

    /// Hands in the routes where they changed. That is as much work as there are routes, so that where thousands come one after the
    /// other most are taken together.
    fn tell_routes(&mut self) {
        let began = Instant::now();
        if !self.routes_changed || began < self.routes_from {
            return;
        }
        self.routes.set(SERVICES, self.index.routes());
        self.routes_changed = false;
        self.routes_from = began + began.elapsed() * ROUTES_DUTY;
    }

    fn tell_backends(&mut self, backends: &BTreeSet<BackendId>) {
        let now = Instant::now();
        for backend in backends {
            let ready: HashSet<_> = self.activator.ready(backend).into_iter().collect();
            let target = self.index.target(backend, &self.deployments, now);
            self.targets.set(backend, target);
            let endpoints = self.index.endpoints(backend, |id| ready.contains(id));
            self.seals.publish(backend, self.index.uids(backend), endpoints);
            self.assigner.publish(backend, self.index.assignments(backend));
            let outlook = self.index.outlook(backend, |id| ready.contains(id), now);
            self.look(backend, outlook, now);
        }
    }

    /// Tells what is to be expected, where that is news.
    fn look(&mut self, backend: &BackendId, outlook: Outlook, now: Instant) {
        self.unsure.remove(backend);
        match outlook {
            Outlook::Failing(error) => {
                if self.failing.get(backend) != Some(&error) {
                    tracing::warn!(%backend, error = %error, "no replica can serve");
                    self.activator.wake_failed(backend, error.clone());
                    self.failing.insert(backend.clone(), error);
                }
            }
            Outlook::Hopeful => {
                if self.failing.remove(backend).is_some() {
                    self.activator.wake_recovered(backend);
                }
            }
            Outlook::Unsure(more) => {
                // A failure that was told stays told until something is better.
                let at = now + more.max(Duration::from_millis(1));
                self.unsure.insert(backend.clone(), at);
            }
        }
    }
}
