//! What is known of the add-on's objects, and what follows from it. Synchronous: changes in, differences out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use bytes::Bytes;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Service},
    discovery::v1::EndpointSlice,
};
use kube::{ResourceExt, api::DynamicObject};
use pilotlight_manifests::{
    keda::{self, HttpScaledObjectSpec, InterceptorRouteSpec, Object, ScaledObjectSpec, Spec, TargetRef},
    kubernetes::LABEL_SERVICE_NAME,
};
use tokio::time::Instant;

use super::{
    KedaConfig,
    convert::{self, Declared, Files, Plan},
    endpoints,
    wakes::{self, Wakes},
};
use crate::{BackendId, Endpoint};

/// What a watch tells.
#[derive(Debug)]
pub(crate) enum Event<K> {
    /// A list of all begins.
    Begin,
    /// One of the list.
    Listed(K),
    /// The list is complete: what was not on it is gone.
    Complete,
    /// It came or changed.
    Changed(K),
    /// It went.
    Gone(K),
    /// The kind is not installed: there is none.
    Absent,
}

/// Who tells it. One at a time is on its way, so its size does not matter.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub(crate) enum Change {
    Route(Event<DynamicObject>),
    HttpScaledObject(Event<DynamicObject>),
    ScaledObject(Event<DynamicObject>),
    Service(Event<Service>),
    Slice(Event<EndpointSlice>),
    ConfigMap(Event<ConfigMap>),
    /// Whether a KEDA operator runs.
    Operator(bool),
}

/// `namespace/name`.
type Key = String;

/// The objects of one kind, as what matters of them.
#[derive(Debug)]
struct Kept<T> {
    known: BTreeMap<Key, T>,
    /// The list that is under way.
    listing: Option<BTreeSet<Key>>,
    complete: bool,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            listing: None,
            complete: false,
        }
    }
}

impl<T: PartialEq> Kept<T> {
    /// Takes a change; the keys whose value is another than before. `read` gives `None` for what is not to be kept.
    fn take<K: ResourceExt>(&mut self, event: Event<K>, read: impl FnOnce(&K) -> Option<T>) -> Vec<Key> {
        match event {
            Event::Begin => {
                self.listing = Some(BTreeSet::new());
                Vec::new()
            }
            Event::Listed(object) => {
                if let Some(listing) = &mut self.listing {
                    listing.insert(key(&object));
                }
                self.set(key(&object), read(&object))
            }
            Event::Changed(object) => self.set(key(&object), read(&object)),
            Event::Gone(object) => self.set(key(&object), None),
            Event::Complete => {
                self.complete = true;
                let listed = self.listing.take().unwrap_or_default();
                self.keep_only(&listed)
            }
            Event::Absent => {
                self.complete = true;
                self.keep_only(&BTreeSet::new())
            }
        }
    }

    fn set(&mut self, key: Key, value: Option<T>) -> Vec<Key> {
        let before = match value {
            Some(value) if self.known.get(&key) == Some(&value) => return Vec::new(),
            Some(value) => {
                self.known.insert(key.clone(), value);
                true
            }
            None => self.known.remove(&key).is_some(),
        };
        if before { vec![key] } else { Vec::new() }
    }

    fn keep_only(&mut self, listed: &BTreeSet<Key>) -> Vec<Key> {
        let gone: Vec<Key> = self
            .known
            .keys()
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        for key in &gone {
            self.known.remove(key);
        }
        gone
    }
}

fn key(object: &impl ResourceExt) -> Key {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// The namespace of a backend's objects.
pub(crate) fn namespace_of(backend: &BackendId) -> &str {
    backend.as_str().split('/').next().unwrap_or_default()
}

/// What is known, and what of it is new.
#[derive(Debug)]
pub(crate) struct State {
    config: KedaConfig,
    routes: Kept<Object<InterceptorRouteSpec>>,
    http_scaled_objects: Kept<Object<HttpScaledObjectSpec>>,
    scaled_objects: Kept<Object<ScaledObjectSpec>>,
    services: Kept<Service>,
    slices: Kept<EndpointSlice>,
    config_maps: Kept<Arc<BTreeMap<String, Bytes>>>,
    operator: Option<bool>,
    plan: Plan,
    /// Routes or ConfigMaps changed.
    planless: bool,
    /// Services whose endpoints may be others.
    moved: BTreeSet<Key>,
    /// What wakes scale may be another.
    rescaled: bool,
    gone: Vec<BackendId>,
}

impl State {
    pub(crate) fn new(config: KedaConfig) -> Self {
        Self {
            config,
            routes: Kept::default(),
            http_scaled_objects: Kept::default(),
            scaled_objects: Kept::default(),
            services: Kept::default(),
            slices: Kept::default(),
            config_maps: Kept::default(),
            operator: None,
            plan: Plan::default(),
            planless: true,
            moved: BTreeSet::new(),
            rescaled: true,
            gone: Vec::new(),
        }
    }

    /// Takes a change; whether something follows from it.
    pub(crate) fn take(&mut self, change: Change) -> bool {
        let ends_a_list = self.is_complete();
        let news = match change {
            Change::Route(event) => self.planless_if(|state| state.routes.take(event, good)),
            Change::HttpScaledObject(event) => self.planless_if(|state| state.http_scaled_objects.take(event, good)),
            Change::ConfigMap(event) => self.planless_if(|state| state.config_maps.take(event, |map| Some(files(map)))),
            Change::ScaledObject(event) => {
                let news = !self.scaled_objects.take(event, good).is_empty();
                self.rescaled |= news;
                news
            }
            Change::Service(event) => {
                let changed = self.services.take(event, |service| Some(bare(service)));
                let leads_there = |leads| changed.contains(&service_key(leads));
                // Its ports may be others, or there at last.
                self.planless |= self.plan.backends.iter().any(leads_there);
                let news = !changed.is_empty();
                self.moved.extend(changed);
                news
            }
            Change::Slice(event) => self.take_slice(event),
            Change::Operator(runs) => {
                let news = self.operator.replace(runs) != Some(runs);
                self.rescaled |= news;
                news
            }
        };
        news || ends_a_list != self.is_complete()
    }

    fn planless_if(&mut self, take: impl FnOnce(&mut Self) -> Vec<Key>) -> bool {
        let news = !take(self).is_empty();
        self.planless |= news;
        news
    }

    fn take_slice(&mut self, event: Event<EndpointSlice>) -> bool {
        let service = match &event {
            Event::Listed(slice) | Event::Changed(slice) | Event::Gone(slice) => service_of(slice),
            _ => None,
        };
        let before: Vec<Key> = match &event {
            Event::Complete | Event::Absent => self.slices.known.values().filter_map(service_of).collect(),
            _ => Vec::new(),
        };
        let changed = self.slices.take(event, |slice| Some(slice_bare(slice)));
        if changed.is_empty() {
            return false;
        }
        let planned = |key: &Key| self.plan.backends.iter().any(|leads| *key == service_key(leads));
        // Slices of Services that no route leads to are no news.
        let moved: Vec<Key> = service.into_iter().chain(before).filter(planned).collect();
        let news = !moved.is_empty();
        self.moved.extend(moved);
        news
    }

    /// Every kind was listed once: what follows from a part could take routes away that are there.
    pub(crate) fn is_complete(&self) -> bool {
        self.routes.complete
            && self.http_scaled_objects.complete
            && self.scaled_objects.complete
            && self.services.complete
            && self.slices.complete
            && self.config_maps.complete
    }

    /// Plans again where that is due; whether it was.
    pub(crate) fn plan_again(&mut self) -> bool {
        if !mem::take(&mut self.planless) {
            return false;
        }
        let files: Files = self.config_maps.known.clone();
        let mut plan = convert::plan(self.declared(), &files, &self.config);
        self.resolve(&mut plan);
        let before = mem::replace(&mut self.plan, plan);
        let now: BTreeSet<&BackendId> = self.plan.backends.iter().map(|leads| &leads.backend).collect();
        let gone = before.backends.iter().filter(|leads| !now.contains(&leads.backend));
        self.gone.extend(gone.map(|leads| leads.backend.clone()));
        self.moved.extend(self.plan.backends.iter().map(service_key));
        self.rescaled = true;
        true
    }

    /// Marks the routes whose port can't be found. As with the add-on a number is good until its Service is there, a name is not.
    fn resolve(&self, plan: &mut Plan) {
        let leads: HashMap<&BackendId, &convert::Leads> =
            plan.backends.iter().map(|leads| (&leads.backend, leads)).collect();
        for route in &mut plan.routes {
            let backend = route.backends.first().map(|weighted| &weighted.backend);
            let Some(leads) = backend.and_then(|backend| leads.get(backend)) else {
                continue;
            };
            let service = self.services.known.get(&service_key(leads));
            let port = service.and_then(|service| endpoints::port(service, &leads.target));
            if port.is_none() && (service.is_some() || leads.target.port_name.is_some()) {
                route.policy.unresolved = Some(unresolved(&leads.target).into());
            }
        }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    fn declared(&self) -> Vec<Declared> {
        let declared = |meta: &keda::Meta, spec: InterceptorRouteSpec| Declared {
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            created: meta.creation_timestamp.clone(),
            spec,
        };
        let routes = self.routes.known.values();
        let routes = routes.map(|object| declared(&object.metadata, object.spec.clone()));
        let https = self.http_scaled_objects.known.iter();
        let https = https
            .filter(|(key, _)| !self.routes.known.contains_key(*key))
            .map(|(_, object)| declared(&object.metadata, object.spec.route()));
        routes.chain(https).collect()
    }

    /// The endpoints of every backend whose Service changed.
    pub(crate) fn endpoints(&mut self, now: Instant) -> Vec<(BackendId, Vec<Endpoint>)> {
        let moved = mem::take(&mut self.moved);
        let mut slices: HashMap<Key, Vec<&EndpointSlice>> = HashMap::new();
        for slice in self.slices.known.values() {
            if let Some(service) = service_of(slice).filter(|service| moved.contains(service)) {
                slices.entry(service).or_default().push(slice);
            }
        }
        let backends = self.plan.backends.iter();
        let backends = backends.filter(|leads| moved.contains(&service_key(leads)));
        let of = |leads: &convert::Leads| {
            let key = service_key(leads);
            let service = self.services.known.get(&key)?;
            let port = endpoints::port(service, &leads.target)?;
            let slices = slices.get(&key).into_iter().flatten().copied();
            // As the add-on names a Service in TLS.
            let server_name = format!("{}.{}", leads.target.service, leads.namespace).into();
            Some(endpoints::endpoints(port, slices, &server_name, now))
        };
        backends
            .map(|leads| (leads.backend.clone(), of(leads).unwrap_or_default()))
            .collect()
    }

    /// What a wake of each backend scales, where that may be another than before; `None` where nothing.
    pub(crate) fn wakes(&mut self) -> Vec<(BackendId, Option<Wakes>)> {
        if !mem::take(&mut self.rescaled) {
            return Vec::new();
        }
        let ours = self.operator == Some(false);
        let mut named: HashMap<(Key, &'static str), Option<Wakes>> = HashMap::new();
        for object in self.scaled_objects.known.values() {
            if let Some((kind, name)) = wakes::named(&object.spec) {
                let route = format!("{}/{name}", object.metadata.namespace);
                named.insert((route, kind), wakes::of_scaled_object(object));
            }
        }
        let wakes = |backend: &BackendId| {
            let route = backend.as_str().strip_suffix("@http").filter(|_| ours)?;
            let by = |kind| named.get(&(route.to_owned(), kind)).cloned();
            if self.routes.known.contains_key(route) {
                return by("interceptorRoute")?;
            }
            let own = || wakes::of_http_scaled_object(self.http_scaled_objects.known.get(route)?);
            by("httpScaledObject").unwrap_or_else(own)
        };
        let backends = self.plan.backends.iter().map(|leads| &leads.backend);
        backends.map(|backend| (backend.clone(), wakes(backend))).collect()
    }

    /// Backends that no route leads to any more.
    pub(crate) fn gone(&mut self) -> Vec<BackendId> {
        mem::take(&mut self.gone)
    }
}

/// An object without problems that is not being deleted (its finalizers may keep it for a while); one with problems is as if it were not there, and its condition
/// says why.
fn good<S: Spec>(object: &DynamicObject) -> Option<Object<S>> {
    if object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let value = serde_json::to_value(object).ok()?;
    let mut read = keda::read::<S>(value).ok()?;
    // What changes without the spec, such as the writes of a controller, is no news.
    read.metadata.labels.clear();
    Some(read)
}

/// What matters of a Service.
fn bare(service: &Service) -> Service {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.clone());
    Service {
        spec: Some(k8s_openapi::api::core::v1::ServiceSpec {
            ports,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What matters of an EndpointSlice.
fn slice_bare(slice: &EndpointSlice) -> EndpointSlice {
    let mut bare = slice.clone();
    bare.metadata.resource_version = None;
    bare.metadata.managed_fields = None;
    bare.metadata.generation = None;
    bare.metadata.annotations = None;
    bare
}

fn files(map: &ConfigMap) -> Arc<BTreeMap<String, Bytes>> {
    let text = map.data.iter().flatten();
    let text = text.map(|(key, value)| (key.clone(), Bytes::from(value.clone())));
    let binary = map.binary_data.iter().flatten();
    let binary = binary.map(|(key, value)| (key.clone(), Bytes::from(value.0.clone())));
    Arc::new(text.chain(binary).collect())
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.labels().get(LABEL_SERVICE_NAME)?;
    Some(format!("{}/{name}", slice.namespace().unwrap_or_default()))
}

fn unresolved(target: &TargetRef) -> String {
    let port = match (&target.port_name, target.port) {
        (Some(name), _) => format!("named {name:?}"),
        (None, number) => number.unwrap_or_default().to_string(),
    };
    format!("the Service {:?} has no port {port}", target.service)
}

fn service_key(leads: &convert::Leads) -> Key {
    format!("{}/{}", leads.namespace, leads.target.service)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
