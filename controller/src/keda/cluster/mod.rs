//! KEDA's side of a controller in a cluster.
//!
//! Every controller follows the routes and the activators and serves the external scaler ([`Keda::serve`]). The one that leads
//! writes the status of the add-on's objects and, where no KEDA operator runs, scales what they and `ScaledObject`s name
//! ([`Keda::lead`]).

mod auth;
mod clock;
mod events;
#[cfg(test)]
mod fake;
mod objects;
mod original;
mod scale;
mod seal;
mod status;
mod triggers;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointSlice};
use kube::{Api, Client, api::DynamicObject, runtime::watcher};
use pilotlight_activator::kubernetes::keda::operator;
use pilotlight_manifests::{
    keda::{HttpScaledObjectSpec, InterceptorRouteSpec, ScaledObjectSpec},
    kubernetes::{ACTIVATOR, ADMIN_PORT, LABEL_SERVICE_NAME, SYSTEM_NAMESPACE},
    parse_object, v1beta1,
};
use prometheus::Registry;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{
    events::{Change, changes},
    objects::{Known, Subject},
    seal::Sealer,
    worker::{Tools, Worker},
};
use super::{
    pinger::{self, Activators},
    scaler::Directory,
    state::{Config, Scaler},
};
use crate::kubernetes::activators as asking;

/// From the first change of a burst to what follows from it.
const SETTLE: Duration = Duration::from_millis(50);
/// Between two looks at whether a KEDA operator runs.
const OPERATOR_PERIOD: Duration = Duration::from_secs(10);

/// Settings, with the add-on's variables where they mean the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Where the external scaler listens. `KEDA_HTTP_SCALER_PORT` sets the port. Default `0.0.0.0:9091`.
    pub address: SocketAddr,
    /// Namespace of the activators. Default `pilotlight-system`.
    pub namespace: String,
    /// Service of the activators. Default `pilotlight-activator`.
    pub activators: String,
    /// Port of their admin side. Default 9090.
    pub admin_port: u16,
    /// The only namespace whose objects are looked at; `None` is all. `KEDA_HTTP_OPERATOR_WATCH_NAMESPACE`.
    pub watched: Option<String>,
    /// `host:port` under which KEDA reaches the external scaler, for the `ScaledObject`s that are made of `HTTPScaledObject`s.
    /// `KEDA_HTTP_OPERATOR_EXTERNAL_SCALER_SERVICE`, `_PORT` and `KEDA_HTTP_OPERATOR_NAMESPACE`. Default
    /// `keda-add-ons-http-external-scaler.keda:9090`.
    pub scaler_address: String,
    /// Where the secrets of `ClusterTriggerAuthentication`s are. `KEDA_CLUSTER_OBJECT_NAMESPACE`. Default `keda`.
    pub secrets_namespace: String,
    /// Of the external scaler.
    pub scaler: Config,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([0, 0, 0, 0], 9091)),
            namespace: SYSTEM_NAMESPACE.to_owned(),
            activators: ACTIVATOR.to_owned(),
            admin_port: ADMIN_PORT,
            watched: None,
            scaler_address: "keda-add-ons-http-external-scaler.keda:9090".to_owned(),
            secrets_namespace: "keda".to_owned(),
            scaler: Config::default(),
        }
    }
}

/// KEDA's side of a controller. Clones share everything.
#[derive(Clone)]
pub struct Keda {
    client: Client,
    http: reqwest::Client,
    asking: asking::Activators,
    config: Arc<ClusterConfig>,
    scaler: Arc<Scaler>,
    /// Activators that may hold requests.
    holding: watch::Sender<Arc<BTreeSet<SocketAddr>>>,
}

/// Why it can't begin.
#[derive(Debug, thiserror::Error)]
pub enum KedaError {
    /// A metric's name is taken.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// No client of HTTP can be made.
    #[error("no client of HTTP: {0}")]
    Http(#[from] reqwest::Error),
}

impl Keda {
    /// Nothing happens before [`Self::serve`]. A TLS provider has to be installed in the process.
    pub fn new(client: Client, config: ClusterConfig, registry: &Registry) -> Result<Self, KedaError> {
        let scaler = Scaler::new(config.scaler.clone(), registry)?;
        Ok(Self {
            client,
            // Activators are in the cluster, whatever proxy the environment names.
            http: reqwest::Client::builder().no_proxy().build()?,
            asking: asking::Activators::new(seal::ASKING),
            config: Arc::new(config),
            scaler: Arc::new(scaler),
            holding: watch::Sender::default(),
        })
    }

    /// Follows routes and activators and serves the external scaler until `end`.
    ///
    /// # Errors
    /// Where its address can't be had.
    pub async fn serve(&self, end: CancellationToken) -> io::Result<()> {
        let listener = TcpListener::bind(self.config.address).await?;
        let (activators, listed) = watch::channel(Arc::new(Activators::new()));
        let pinging = pinger::run(Arc::clone(&self.scaler), self.http.clone(), listed, end.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(pinging);
        tasks.spawn(self.clone().follow_activators(activators));
        tasks.spawn(self.clone().follow_routes());
        let served = super::serve(Arc::clone(&self.scaler), listener, end).await;
        tasks.shutdown().await;
        served
    }

    /// The ready activators, as EndpointSlices have them: one that says nothing is ready.
    async fn follow_activators(self, activators: watch::Sender<Arc<Activators>>) {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.config.namespace);
        let selector = format!("{LABEL_SERVICE_NAME}={}", self.config.activators);
        let mut slices: BTreeMap<String, EndpointSlice> = BTreeMap::new();
        let mut changes = changes(api, watcher::Config::default().labels(&selector));
        while let Some(change) = changes.next().await {
            match change {
                Change::Is(key, slice) => drop(slices.insert(key, slice)),
                Change::Gone(key) => drop(slices.remove(&key)),
                Change::Listed(kept) => slices.retain(|key, _| kept.contains(key)),
            }
            activators.send_replace(Arc::new(ready(slices.values(), self.config.admin_port)));
            let holding = holding(slices.values(), self.config.admin_port);
            self.holding.send_replace(Arc::new(holding));
        }
    }

    /// What triggers can name.
    async fn follow_routes(self) {
        let mut routes = Known::<InterceptorRouteSpec>::default();
        let mut https = Known::<HttpScaledObjectSpec>::default();
        let mut services: HashMap<String, f64> = HashMap::new();
        let watched = self.config.watched.as_deref();
        let mut changes = stream::select_all([
            changes(
                objects::api::<InterceptorRouteSpec>(&self.client, watched),
                watcher::Config::default(),
            )
            .map(Source::Route)
            .boxed(),
            changes(
                objects::api::<HttpScaledObjectSpec>(&self.client, watched),
                watcher::Config::default(),
            )
            .map(Source::Http)
            .boxed(),
            changes(
                objects::inference_services(&self.client, watched),
                watcher::Config::default(),
            )
            .map(Source::Service)
            .boxed(),
        ])
        .ready_chunks(256);
        let mut listed = [false; 3];
        while let Some(chunk) = changes.next().await {
            for change in chunk {
                match change {
                    Source::Route(change) => listed[0] |= routes.take(change).is_list,
                    Source::Http(change) => listed[1] |= https.take(change).is_list,
                    Source::Service(change) => listed[2] |= take_service(&mut services, change),
                }
            }
            // Half a list would make routes unknown that are there.
            if listed == [true; 3] {
                self.scaler.set_directory(Directory {
                    interceptor_routes: routes
                        .good()
                        .map(|object| (object.metadata.key(), object.spec.scaling_metric))
                        .collect(),
                    http_scaled_objects: https
                        .good()
                        .map(|object| (object.metadata.key(), object.spec.metric()))
                        .collect(),
                    inference_services: services.clone(),
                });
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Writes status and scales where no KEDA operator runs, until it is dropped.
    pub async fn lead(self) {
        let mut tasks = JoinSet::new();
        let (operator, runs) = watch::channel(None);
        tasks.spawn(watch_operator(self.client.clone(), operator));
        self.reconcile(runs).await;
    }

    async fn reconcile(self, mut operator: watch::Receiver<Option<bool>>) {
        let watched = self.config.watched.as_deref();
        let mut routes = Known::<InterceptorRouteSpec>::default();
        let mut https = Known::<HttpScaledObjectSpec>::default();
        let mut scaled = Known::<ScaledObjectSpec>::default();
        let mut workers: HashMap<Subject, Worker> = HashMap::new();
        let mut leaving = original::Leaving::default();
        let config = watcher::Config::default;
        let mut changes = stream::select_all([
            changes(objects::api::<InterceptorRouteSpec>(&self.client, watched), config())
                .map(Owned::Route)
                .boxed(),
            changes(objects::api::<HttpScaledObjectSpec>(&self.client, watched), config())
                .map(Owned::Http)
                .boxed(),
            changes(objects::api::<ScaledObjectSpec>(&self.client, watched), config())
                .map(Owned::Scaled)
                .boxed(),
        ])
        .ready_chunks(256);
        let mut listed = [false; 3];
        loop {
            let mut found = Vec::new();
            let chunk = tokio::select! {
                chunk = changes.next() => chunk,
                changed = operator.changed() => changed.is_ok().then(|| {
                    // It is given what there is already.
                    found = https.keys();
                    Vec::new()
                }),
            };
            let Some(chunk) = chunk else { return };
            for change in chunk {
                match change {
                    Owned::Route(change) => {
                        let taken = routes.take(change);
                        listed[0] |= taken.is_list;
                        for key in taken.keys {
                            status::of_route(&self.client, &routes, &key).await;
                        }
                    }
                    Owned::Http(change) => {
                        let taken = https.take(change);
                        listed[1] |= taken.is_list;
                        for key in &taken.keys {
                            status::of_http_scaled_object(&self.client, &https, key).await;
                        }
                        found.extend(taken.keys);
                    }
                    Owned::Scaled(change) => {
                        let taken = scaled.take(change);
                        listed[2] |= taken.is_list;
                        if *operator.borrow() == Some(false) {
                            for key in taken.keys {
                                status::of_scaled_object(&self.client, &scaled, &key).await;
                            }
                        }
                    }
                }
            }
            if *operator.borrow() == Some(true) {
                for key in found {
                    objects::hand_to_keda(&self.client, &https, &key, &self.config.scaler_address).await;
                }
            }
            if listed == [true; 3] {
                let keda = *operator.borrow();
                let ours = keda == Some(false);
                let wanted = if ours {
                    objects::subjects(&scaled, &https)
                } else {
                    HashMap::new()
                };
                self.staff(&mut workers, wanted);
                if let Some(keda) = keda {
                    leaving.see(&self.client, &scaled, &https, keda);
                }
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    fn tools(&self) -> Tools {
        Tools {
            client: self.client.clone(),
            http: self.http.clone(),
            scaler: Arc::clone(&self.scaler),
            sealer: Sealer::new(self.asking.clone(), self.holding.subscribe()),
            secrets: self.config.secrets_namespace.as_str().into(),
        }
    }

    /// One worker for each object that is to be scaled by us.
    fn staff(&self, workers: &mut HashMap<Subject, Worker>, wanted: HashMap<Subject, objects::Scalable>) {
        workers.retain(|subject, _| wanted.contains_key(subject));
        for (subject, scalable) in wanted {
            if let Some(worker) = workers.get(&subject) {
                worker.set(scalable);
                continue;
            }
            let worker = Worker::start(self.tools(), subject.clone(), scalable);
            workers.insert(subject, worker);
        }
    }
}

enum Source {
    Route(Change<DynamicObject>),
    Http(Change<DynamicObject>),
    Service(Change<DynamicObject>),
}

enum Owned {
    Route(Change<DynamicObject>),
    Http(Change<DynamicObject>),
    Scaled(Change<DynamicObject>),
}

fn take_service(services: &mut HashMap<String, f64>, change: Change<DynamicObject>) -> bool {
    match change {
        Change::Is(key, object) => match target_of(&object) {
            Some(target) => drop(services.insert(key, target)),
            None => drop(services.remove(&key)),
        },
        Change::Gone(key) => drop(services.remove(&key)),
        Change::Listed(kept) => {
            services.retain(|key, _| kept.contains(key));
            return true;
        }
    }
    false
}

/// Its target of concurrency; `None` for one that is not valid.
fn target_of(object: &DynamicObject) -> Option<f64> {
    let mut value = serde_json::to_value(object).ok()?;
    let map = value.as_object_mut()?;
    // Objects of a list come without.
    map.insert("apiVersion".to_owned(), v1beta1::API_VERSION.into());
    map.insert("kind".to_owned(), v1beta1::KIND.into());
    let service = parse_object(&value).services.pop()?;
    Some(service.scaling.target)
}

/// The admin addresses of activators that may hold requests, ending ones included. One that is not up yet holds none.
fn holding<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, port: u16) -> BTreeSet<SocketAddr> {
    let endpoints = slices.flat_map(|slice| &slice.endpoints);
    let holding = endpoints.filter(|endpoint| {
        let is = |state: fn(&EndpointConditions) -> Option<bool>| endpoint.conditions.as_ref().and_then(state);
        is(|of| of.ready).unwrap_or(true) || is(|of| of.serving) == Some(true) || is(|of| of.terminating) == Some(true)
    });
    let addresses = holding.flat_map(|endpoint| &endpoint.addresses);
    addresses
        .filter_map(|text| Some(SocketAddr::new(text.parse().ok()?, port)))
        .collect()
}

fn ready<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, port: u16) -> Activators {
    let endpoints = slices.flat_map(|slice| &slice.endpoints);
    let ready = endpoints.filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    let addresses = ready.flat_map(|endpoint| &endpoint.addresses);
    addresses
        .filter_map(|text| Some((text.clone(), SocketAddr::new(text.parse().ok()?, port))))
        .collect()
}

/// Tells whether a KEDA operator runs; `None` until that could be told.
async fn watch_operator(client: Client, operator: watch::Sender<Option<bool>>) {
    let mut ticks = tokio::time::interval(OPERATOR_PERIOD);
    loop {
        ticks.tick().await;
        match operator::look(&client).await {
            Ok(seen) => {
                let runs = Some(seen.runs());
                let news = operator.send_if_modified(|known| std::mem::replace(known, runs) != runs);
                if news {
                    tracing::info!(keda = seen.runs(), "who scales by ScaledObjects");
                }
            }
            Err(error) => tracing::warn!(%error, "can't tell whether a KEDA operator runs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn activators_that_are_ready_or_do_not_say_are_asked_on_the_one_port() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "endpoints": [
                { "addresses": ["10.0.0.1"], "conditions": { "ready": true } },
                { "addresses": ["10.0.0.2"] },
                { "addresses": ["10.0.0.3"], "conditions": { "ready": false } },
            ],
        }))
        .unwrap();
        let ready = ready([slice].iter(), 9090);
        let addresses: Vec<String> = ready.values().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.1:9090", "10.0.0.2:9090"]);
    }

    #[test]
    fn an_activator_that_ends_may_hold_requests_and_one_that_is_not_up_yet_holds_none() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "endpoints": [
                { "addresses": ["10.0.0.1"] },
                { "addresses": ["10.0.0.2"], "conditions": { "ready": false, "serving": false, "terminating": true } },
                { "addresses": ["10.0.0.3"], "conditions": { "ready": false, "serving": false, "terminating": false } },
            ],
        }))
        .unwrap();
        let holding: Vec<String> = holding([slice].iter(), 9090).iter().map(ToString::to_string).collect();
        assert_eq!(holding, ["10.0.0.1:9090", "10.0.0.2:9090"]);
    }
}
