//! All that the API server says, put together: from objects as they come and go to routes, endpoints and targets. Plain state
//! without IO and clock: objects and the time come in, what has to be told to the activator is asked for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use k8s_openapi::{api::discovery::v1::EndpointSlice, jiff::Timestamp};
use kube::core::ApiResource;
use pilotlight_manifests::{
    failure::{PodFailure, Trouble},
    kubernetes::Workload,
};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    assign::Assignment,
    deployment::DeploymentView,
    peers::Peers,
    pod::PodView,
    scale::Known,
    service::{self, Declared, Domains, Version},
    shares::{self, Rank},
    standby::StandbyPod,
    target::Target,
};
use crate::{BackendId, Endpoint, EndpointId, EndpointState, Probe, Route, WakeError, WakeReason, services};

/// Pods that Events are remembered of.
const MAX_TROUBLES: usize = 256;

/// An object's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Service,
    Deployment,
    Pod,
    Standby,
    Slice,
    /// Events, of which only what stands against pods in the making is taken.
    Trouble,
}

/// An object as it is now; `None` where it is gone or of no concern.
#[derive(Debug)]
pub(crate) enum Object {
    Service(Option<Box<Value>>),
    Deployment(Option<Box<DeploymentView>>),
    Pod(Option<Box<PodView>>),
    /// Of no backend yet: not the index's, but that of [`StandbyPods`](super::standby::StandbyPods).
    Standby(Option<Box<StandbyPod>>),
    Slice(Option<Box<EndpointSlice>>),
    Trouble(Option<Box<Trouble>>),
}

/// What a change concerns.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Touched {
    /// The routes.
    pub(crate) routes: bool,
    /// Endpoints, target or outlook of these backends.
    pub(crate) backends: BTreeSet<BackendId>,
}

impl Touched {
    fn backend(workload: &Workload) -> Self {
        Self {
            routes: false,
            backends: BTreeSet::from([backend(workload)]),
        }
    }

    /// Both.
    pub(crate) fn merge(&mut self, other: Self) {
        self.routes |= other.routes;
        self.backends.extend(other.backends);
    }
}

/// What can be expected of a backend's replicas.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outlook {
    /// One serves, one is on its way, or none is wanted.
    Hopeful,
    /// None can serve as it is.
    Failing(WakeError),
    /// None can serve as it is; but so short a while that it may pass. Look again after this time.
    Unsure(Duration),
}

struct Service {
    version: Version,
    declared: Declared,
}

struct Pod {
    view: PodView,
    /// When it was first seen.
    seen: Instant,
    /// Since when it can't serve.
    failing: Option<Instant>,
}

struct Deployment {
    view: DeploymentView,
    failing: Option<Instant>,
}

/// The state.
pub(crate) struct Index {
    domains: Domains,
    /// This activator's name among its peers.
    own: String,
    /// How long a failure has to last before it is told.
    grace: Duration,
    services: BTreeMap<Key, Service>,
    deployments: HashMap<Key, Deployment>,
    pods: HashMap<Key, Pod>,
    /// What Events say against pods, by uid, the latest [`MAX_TROUBLES`]: an Event may come before its pod is known.
    troubles: VecDeque<Trouble>,
    /// The Deployment of each backend.
    deployment_of: BTreeMap<BackendId, Key>,
    /// The pods of each backend, oldest first: all activators number them alike, and a new one changes nothing for others.
    pods_of: HashMap<BackendId, BTreeMap<(Timestamp, String), Key>>,
    peers: Peers,
    rank: Rank,
}

fn backend(workload: &Workload) -> BackendId {
    BackendId::new(workload.backend())
}

impl Index {
    pub(crate) fn new(domains: Domains, own: String, grace: Duration) -> Self {
        Self {
            domains,
            own,
            grace,
            services: BTreeMap::new(),
            deployments: HashMap::new(),
            pods: HashMap::new(),
            troubles: VecDeque::new(),
            deployment_of: BTreeMap::new(),
            pods_of: HashMap::new(),
            peers: Peers::default(),
            rank: Rank::ALONE,
        }
    }

    /// This activator's place among its peers.
    pub(crate) fn rank(&self) -> Rank {
        self.rank
    }

    // --- what comes in --------------------------------------------------------------------------------------------

    /// Takes an object as it is at `now`.
    pub(crate) fn set(&mut self, key: &Key, object: Object, now: Instant) -> Touched {
        match object {
            Object::Service(object) => self.set_service(key, object.as_deref()),
            Object::Deployment(view) => self.set_deployment(key, view.map(|view| *view), now),
            Object::Pod(view) => self.set_pod(key, view.map(|view| *view), now),
            Object::Standby(_) => Touched::default(),
            Object::Slice(slice) => {
                self.peers.set(&key.name, slice.as_deref());
                self.rank_again()
            }
            Object::Trouble(trouble) => {
                trouble.map_or_else(Touched::default, |trouble| self.set_trouble(*trouble, now))
            }
        }
    }

    /// A list of all objects of a kind (in a namespace, or in all) is complete: those that are not on it are gone.
    pub(crate) fn keep(&mut self, kind: Kind, namespace: Option<&str>, listed: &HashSet<Key>, now: Instant) -> Touched {
        let scope = |key: &&Key| namespace.is_none_or(|namespace| key.namespace == namespace) && !listed.contains(*key);
        let gone: Vec<Key> = match kind {
            Kind::Service => self.services.keys().filter(scope).cloned().collect(),
            Kind::Deployment => self.deployments.keys().filter(scope).cloned().collect(),
            Kind::Pod => self.pods.keys().filter(scope).cloned().collect(),
            Kind::Standby => return Touched::default(),
            Kind::Slice => {
                self.peers.keep(&listed.iter().map(|key| key.name.clone()).collect());
                return self.rank_again();
            }
            // They expire; what they said goes with the pod.
            Kind::Trouble => return Touched::default(),
        };
        let mut touched = Touched::default();
        for key in gone {
            let object = match kind {
                Kind::Service => Object::Service(None),
                Kind::Deployment => Object::Deployment(None),
                Kind::Pod | Kind::Standby | Kind::Slice | Kind::Trouble => Object::Pod(None),
            };
            touched.merge(self.set(&key, object, now));
        }
        touched
    }

    fn set_service(&mut self, key: &Key, object: Option<&Value>) -> Touched {
        let stable = Workload::stable(&key.namespace, &key.name);
        let mut touched = Touched::backend(&stable);
        let canaries = self.canary_deployments(&stable).map(|(backend, _)| backend.clone());
        touched.backends.extend(canaries);
        touched.routes = true;
        let Some(object) = object else {
            return match self.services.remove(key) {
                Some(_) => touched,
                None => Touched::default(),
            };
        };
        let version = Version::of(object);
        let before = self.services.get(key);
        if before.is_some_and(|before| before.version == version) {
            return Touched::default();
        }
        let before = before.map(|service| &service.declared);
        let Some(declared) = service::read(object, before, &self.domains) else {
            return Touched::default();
        };
        touched.routes =
            before.is_none_or(|before| before.route != declared.route || before.canaries != declared.canaries);
        self.services.insert(key.clone(), Service { version, declared });
        touched
    }

    fn set_deployment(&mut self, key: &Key, view: Option<DeploymentView>, now: Instant) -> Touched {
        let mut touched = Touched::default();
        let before = self.deployments.remove(key);
        if let Some(before) = &before {
            let id = backend(&before.view.workload);
            if self.deployment_of.get(&id) == Some(key) {
                self.deployment_of.remove(&id);
            }
            touched.backends.insert(id);
        }
        let canary =
            |view: Option<&DeploymentView>| view.filter(|view| view.workload.is_canary()).map(|view| view.percent);
        touched.routes = canary(before.as_ref().map(|before| &before.view)) != canary(view.as_ref());
        let Some(view) = view else { return touched };
        let id = backend(&view.workload);
        touched.backends.insert(id.clone());
        self.deployment_of.insert(id, key.clone());
        let since = before.and_then(|before| before.failing).unwrap_or(now);
        let failing = view.failure.is_some().then_some(since);
        self.deployments.insert(key.clone(), Deployment { view, failing });
        touched
    }

    fn set_pod(&mut self, key: &Key, view: Option<PodView>, now: Instant) -> Touched {
        let mut touched = Touched::default();
        let before = self.pods.remove(key);
        if let Some(before) = &before {
            let id = backend(&before.view.workload);
            if let Some(pods) = self.pods_of.get_mut(&id) {
                pods.remove(&(before.view.created, before.view.uid.clone()));
                if pods.is_empty() {
                    self.pods_of.remove(&id);
                }
            }
            touched.backends.insert(id);
        }
        let Some(mut view) = view else { return touched };
        if let (None, Some(since)) = (&view.failure, view.in_the_making) {
            let trouble = self.troubles.iter().find(|trouble| trouble.uid == view.uid);
            view.failure = trouble.and_then(|trouble| trouble.failure(since)).cloned();
        }
        let id = backend(&view.workload);
        let pods = self.pods_of.entry(id.clone()).or_default();
        pods.insert((view.created, view.uid.clone()), key.clone());
        touched.backends.insert(id);
        let before = before.filter(|before| before.view.uid == view.uid);
        let kind = |failure: &Option<PodFailure>| failure.as_ref().map(|failure| failure.kind);
        let since = before
            .as_ref()
            .filter(|before| kind(&before.view.failure) == kind(&view.failure))
            .and_then(|before| before.failing)
            .unwrap_or(now);
        let pod = Pod {
            seen: before.map_or(now, |before| before.seen),
            failing: view.failure.is_some().then_some(since),
            view,
        };
        self.pods.insert(key.clone(), pod);
        touched
    }

    fn set_trouble(&mut self, trouble: Trouble, now: Instant) -> Touched {
        let key = Key {
            namespace: trouble.namespace.clone(),
            name: trouble.pod.clone(),
        };
        self.troubles.retain(|known| known.uid != trouble.uid);
        self.troubles.push_back(trouble);
        if self.troubles.len() > MAX_TROUBLES {
            self.troubles.pop_front();
        }
        let view = self.pods.get(&key).map(|pod| pod.view.clone());
        view.map_or_else(Touched::default, |view| self.set_pod(&key, Some(view), now))
    }

    /// With other peers the shares of all are other ones.
    fn rank_again(&mut self) -> Touched {
        let rank = self.peers.rank(&self.own);
        if rank == self.rank {
            return Touched::default();
        }
        self.rank = rank;
        Touched {
            routes: false,
            backends: self.pods_of.keys().cloned().collect(),
        }
    }

    // --- what is to be told ---------------------------------------------------------------------------------------

    /// Every backend that there is anything to tell of.
    pub(crate) fn backends(&self) -> BTreeSet<BackendId> {
        let services = self
            .services
            .keys()
            .map(|key| BackendId::new(format!("{}/{}", key.namespace, key.name)));
        services
            .chain(self.deployment_of.keys().cloned())
            .chain(self.pods_of.keys().cloned())
            .collect()
    }

    /// The routes of all services, by name.
    pub(crate) fn routes(&self) -> Vec<Route> {
        let mut bare: HashMap<&str, usize> = HashMap::new();
        for key in self.services.keys() {
            *bare.entry(&key.name).or_default() += 1;
        }
        let route = |(key, service): (&Key, &Service)| {
            let route = &service.declared.route;
            let workload = Workload::stable(&key.namespace, &key.name);
            let mut route = service::with_canaries(route, &self.canaries(&workload, &service.declared));
            // What a client of the same namespace may say, where it can mean only one.
            if bare.get(key.name.as_str()) == Some(&1) {
                route.predicate.hosts.push(workload.deployment());
            }
            route
        };
        self.services.iter().map(route).collect()
    }

    /// The canaries of a stable workload whose Deployments are there, with their shares.
    fn canaries(&self, stable: &Workload, declared: &Declared) -> Vec<(BackendId, u32)> {
        let with_share = self.canary_deployments(stable).filter_map(|(backend, deployment)| {
            let view = &deployment.view;
            let declared = view
                .workload
                .canary
                .as_ref()
                .and_then(|name| declared.canaries.get(name));
            Some((backend.clone(), view.percent.or(declared.copied())?))
        });
        with_share.collect()
    }

    /// The Deployments of the canaries of a stable workload.
    fn canary_deployments(&self, stable: &Workload) -> impl Iterator<Item = (&BackendId, &Deployment)> {
        let own = backend(stable);
        let prefix = format!("{own}@");
        // Other services whose names go on behind this one's are between it and its canaries.
        let from = self.deployment_of.range(BackendId::new(&prefix)..);
        let canaries = from.take_while(move |(backend, _)| backend.as_str().starts_with(&prefix));
        canaries.filter_map(|(backend, key)| Some((backend, self.deployments.get(key)?)))
    }

    fn deployment(&self, backend: &BackendId) -> Option<&Deployment> {
        self.deployments.get(self.deployment_of.get(backend)?)
    }

    fn service(&self, workload: &Workload) -> Option<&Declared> {
        let key = Key {
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
        };
        self.services.get(&key).map(|service| &service.declared)
    }

    fn pods(&self, backend: &BackendId) -> impl Iterator<Item = &Pod> {
        let keys = self.pods_of.get(backend).into_iter().flat_map(BTreeMap::values);
        keys.filter_map(|key| self.pods.get(key))
    }

    /// The endpoints of a backend. `ready` says of which the activator knows that they serve.
    pub(crate) fn endpoints(&self, backend: &BackendId, ready: impl Fn(&EndpointId) -> bool) -> Vec<Endpoint> {
        let Some(workload) = Workload::from_backend(backend.as_str()) else {
            return Vec::new();
        };
        let declared = self.service(&workload);
        let capacity = match self.deployment(backend).map(|deployment| &deployment.view) {
            Some(view) if view.managed => view.capacity,
            _ => declared.and_then(|declared| declared.capacity),
        };
        let batch = declared.map_or_else(
            || pilotlight_manifests::Batching::default().max_batch_size.get(),
            |declared| declared.max_batch_size,
        );
        let mut endpoints: Vec<Endpoint> = self.pods(backend).filter_map(|pod| endpoint(pod, &ready)).collect();
        let shares = capacity.map(|capacity| self.shares(capacity, &endpoints, &ready));
        for (at, endpoint) in endpoints.iter_mut().enumerate() {
            endpoint.capacity = shares.as_ref().map(|shares| shares[at]);
            endpoint.initial_capacity = services::initial_capacity(endpoint.capacity, batch);
        }
        endpoints
    }

    /// This activator's share of each endpoint. Only those that serve are dealt; one that does not yet gets what it would
    /// get beside them.
    fn shares(&self, capacity: u32, endpoints: &[Endpoint], ready: impl Fn(&EndpointId) -> bool) -> Vec<u32> {
        let serves = |endpoint: &Endpoint| endpoint.state != EndpointState::Draining && ready(&endpoint.id);
        let serving = endpoints.iter().filter(|endpoint| serves(endpoint)).count();
        let dealt = shares::shares(capacity, serving, self.rank);
        let with_one_more = shares::shares(capacity, serving + 1, self.rank);
        let mut before = 0;
        let share = |endpoint: &Endpoint| {
            if serves(endpoint) {
                before += 1;
                dealt[before - 1]
            } else {
                with_one_more[before]
            }
        };
        endpoints.iter().map(share).collect()
    }

    /// What a wake of a backend scales; `None` for one that nobody declares.
    pub(crate) fn target(&self, backend: &BackendId, resource: &ApiResource, now: Instant) -> Option<Target> {
        let workload = Workload::from_backend(backend.as_str())?;
        let declared = self.service(&workload);
        let deployment = self.deployment(backend).map(|deployment| &deployment.view);
        if declared.is_none() && deployment.is_none() {
            return None;
        }
        let name = deployment.map_or_else(|| workload.deployment(), |view| view.name.clone());
        let mut target = Target::new(resource.clone(), &workload.namespace, name);
        target.activation_scale = deployment
            .and_then(|view| view.activation_scale)
            .or(declared.map(|declared| declared.activation_scale))
            .unwrap_or(1);
        target.stopped = deployment.and_then(|view| view.stopped.clone()).or_else(|| {
            declared
                .is_some_and(|declared| declared.stopped)
                .then(|| "the service is stopped".to_owned())
        });
        target.fault = declared.and_then(|declared| declared.fault.clone());
        target.known = deployment.and_then(|view| {
            Some(Known {
                version: view.resource_version.clone()?,
                replicas: view.replicas,
            })
        });
        target.standby = deployment.and_then(|view| view.standby.clone());
        target.held = self.pods(backend).any(|pod| pod.view.counts());
        if let Outlook::Failing(error) = self.outlook(backend, |_| false, now) {
            target.failure = Some(error);
        }
        Some(target)
    }

    /// Whether the replicas that a backend has can serve. `ready` as for [`Self::endpoints`].
    pub(crate) fn outlook(&self, backend: &BackendId, ready: impl Fn(&EndpointId) -> bool, now: Instant) -> Outlook {
        let mut newest: Option<(&Pod, &PodFailure, Instant)> = None;
        for pod in self.pods(backend).filter(|pod| pod.view.counts()) {
            if pod.view.ready || ready(&pod.view.endpoint()) {
                return Outlook::Hopeful;
            }
            let (Some(failure), Some(since)) = (&pod.view.failure, pod.failing) else {
                return Outlook::Hopeful;
            };
            newest = Some((pod, failure, since));
        }
        let failing = match newest {
            Some((pod, failure, since)) => Some((format!("pod {}", pod.view.name), failure, since)),
            None => self.deployment(backend).and_then(|deployment| {
                let failure = deployment.view.failure.as_ref()?;
                let wanted = deployment.view.replicas > 0;
                wanted.then(|| {
                    Some((
                        format!("Deployment {}", deployment.view.name),
                        failure,
                        deployment.failing?,
                    ))
                })?
            }),
        };
        let Some((who, failure, since)) = failing else {
            return Outlook::Hopeful;
        };
        let lasted = now.saturating_duration_since(since);
        if lasted < self.grace {
            return Outlook::Unsure(self.grace.saturating_sub(lasted));
        }
        Outlook::Failing(wake_error(&who, failure))
    }

    /// What claimed pods of a backend are to be told.
    pub(crate) fn assignments(&self, backend: &BackendId) -> Vec<Assignment> {
        self.pods(backend).filter_map(|pod| pod.view.assignment()).collect()
    }

    /// The pod uid of each endpoint of a backend.
    pub(crate) fn uids(&self, backend: &BackendId) -> Vec<(String, EndpointId)> {
        let pods = self.pods(backend).filter(|pod| !pod.view.over);
        pods.map(|pod| (pod.view.uid.clone(), pod.view.endpoint())).collect()
    }
}

/// The endpoint of a pod, once it has an address; its capacity is set later.
fn endpoint(pod: &Pod, ready: impl Fn(&EndpointId) -> bool) -> Option<Endpoint> {
    let view = &pod.view;
    if view.over {
        return None;
    }
    let id = view.endpoint();
    // As an endpoint that starts it would count as one that will serve, and requests would wait for it without end.
    if view.failure.is_some() && !view.ready && !view.terminating && !ready(&id) {
        return None;
    }
    let state = if view.terminating {
        EndpointState::Draining
    } else if view.probe != Probe::Declared {
        EndpointState::Starting
    } else if view.ready {
        EndpointState::Ready
    } else if ready(&id) {
        // It was ready and is no more: the kubelet takes it out of service, and so do we.
        return None;
    } else {
        EndpointState::Starting
    };
    Some(Endpoint {
        id,
        address: view.address()?,
        protocol: view.protocol,
        server_name: None,
        capacity: None,
        initial_capacity: 1,
        probe: view.probe.clone(),
        state,
        started: pod.seen,
    })
}

/// A failure as waiting requests get it.
fn wake_error(who: &str, failure: &PodFailure) -> WakeError {
    WakeError {
        reason: if failure.kind.is_capacity() {
            WakeReason::NoCapacity
        } else {
            WakeReason::LoadFailed
        },
        message: format!("{who}: {}: {}", failure.kind.reason(), failure.message).into(),
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
