//! What every part of the controller in a cluster holds: the client, what is known, and the writes.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ObjectReference};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
    core::{ApiResource, GroupVersionKind},
    runtime::{
        events::{Event, EventType, Recorder, Reporter},
        reflector::{ObjectRef, Store},
    },
};
use parking_lot::Mutex;
use pilotlight_manifests::{Scaling, kubernetes::Workload, v1alpha1::ServingRuntime, v1beta1};
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    activators::Activators,
    config::ClusterConfig,
    counts::Counts,
    facts::{Key, World},
    metrics::Metrics,
    objects::Absent,
    pace::Pace,
    scaler::Reach,
    standby::Wishes,
    status::{Transition, said},
};

/// Requests for a reconciliation that nobody has taken yet; more wait.
const QUEUE: usize = 4096;

/// A workload whose replicas may be ours to decide.
#[derive(Clone, Debug)]
pub(crate) struct Managed {
    pub(crate) scaling: Arc<Scaling>,
    /// `None`: somebody else decides.
    pub(crate) reach: Option<Reach>,
}

/// Held by every part, in one `Arc`.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) config: ClusterConfig,
    pub(crate) world: Mutex<World>,
    pub(crate) services: Store<DynamicObject>,
    /// By namespace, the empty one being the cluster's.
    pub(crate) runtimes: Mutex<HashMap<Key, Arc<ServingRuntime>>>,
    /// Digest of the slices as last written or seen, by their namespace and name.
    pub(crate) slices: Mutex<HashMap<Key, String>>,
    /// Child objects that were seen to be deleted, so that what was applied is applied again.
    pub(crate) missing: Mutex<BTreeSet<Key>>,
    pub(crate) managed: Mutex<HashMap<Workload, Managed>>,
    /// Started pods without a model.
    pub(crate) standby: Wishes,
    pub(crate) counts: Arc<Counts>,
    pub(crate) activators: Activators,
    pub(crate) metrics: Metrics,
    pub(crate) pace: Pace,
    recorder: Recorder,
    queue: mpsc::Sender<ObjectRef<DynamicObject>>,
    leading: AtomicBool,
    /// Digests of each service without its status, and of its status as it was last seen or written.
    digests: Mutex<HashMap<Key, (u64, u64)>>,
    /// Tries that failed, by service.
    failures: Mutex<HashMap<Key, u32>>,
    /// Pods that were deleted out of a crash loop lately, by service.
    pub(crate) replaced: Mutex<HashMap<Key, Instant>>,
    /// Canaries that go, and since when nobody is routed to them.
    pub(crate) hidden: Mutex<HashMap<Workload, Instant>>,
    /// Whether each watch has seen everything once.
    pub(crate) synced: watch::Sender<u32>,
}

/// The kind that is reconciled.
pub(crate) fn inference_services() -> ApiResource {
    resource(v1beta1::API_VERSION, v1beta1::KIND)
}

/// The resource of a kind that we write or watch.
pub(crate) fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    // Kinds that are met here all have the regular plural, of which this has the rules.
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

impl Context {
    /// The context, and the end of the queue that the reconciler takes from.
    pub(crate) fn new(
        client: Client,
        config: ClusterConfig,
        services: Store<DynamicObject>,
        counts: Arc<Counts>,
        metrics: Metrics,
    ) -> (Arc<Self>, mpsc::Receiver<ObjectRef<DynamicObject>>) {
        let (queue, requests) = mpsc::channel(QUEUE);
        let reporter = Reporter {
            controller: pilotlight_manifests::kubernetes::CONTROLLER.to_owned(),
            instance: Some(config.identity.clone()),
        };
        let context = Self {
            recorder: Recorder::new(client.clone(), reporter),
            activators: Activators::new(config.activator_timeout),
            pace: Pace::new(config.writes_per_second, config.write_burst),
            client,
            config,
            world: Mutex::default(),
            services,
            runtimes: Mutex::default(),
            slices: Mutex::default(),
            missing: Mutex::default(),
            managed: Mutex::default(),
            standby: Wishes::default(),
            counts,
            metrics,
            queue,
            leading: AtomicBool::new(false),
            digests: Mutex::default(),
            failures: Mutex::default(),
            replaced: Mutex::default(),
            hidden: Mutex::default(),
            synced: watch::Sender::new(0),
        };
        (Arc::new(context), requests)
    }

    /// From now on requests for reconciliations are kept.
    pub(crate) fn lead(&self) {
        self.leading.store(true, Ordering::Release);
        self.metrics.leader.set(1);
    }

    /// Asks for a reconciliation; waits while the queue is full. One who doesn't lead asks for nothing.
    pub(crate) async fn enqueue(&self, (namespace, name): &Key) {
        if !self.leading.load(Ordering::Acquire) {
            return;
        }
        let reference = ObjectRef::new_with(name, inference_services()).within(namespace);
        // A closed queue is a process that ends.
        let _ = self.queue.send(reference).await;
    }

    /// Asks for a reconciliation of every service.
    pub(crate) async fn enqueue_all(&self) {
        for service in self.services.state() {
            if let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name) {
                self.enqueue(&(namespace.clone(), name.clone())).await;
            }
        }
    }

    /// Whether a service is another than it was when it was last seen or its status last written: our own writes come by the watch
    /// too, and are nothing to look at.
    pub(crate) fn is_news(&self, service: &DynamicObject) -> bool {
        let metadata = &service.metadata;
        let key = (
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        );
        let mut hasher = DefaultHasher::new();
        (
            &metadata.uid,
            metadata.generation,
            &metadata.labels,
            &metadata.annotations,
        )
            .hash(&mut hasher);
        metadata.deletion_timestamp.is_some().hash(&mut hasher);
        let now = (hasher.finish(), status_digest(&unpacked_value(&service.data["status"])));
        self.digests.lock().insert(key, now) != Some(now)
    }

    /// Remembers the status that was just written.
    pub(crate) fn wrote_status(&self, key: &Key, status: &Value) {
        if let Some((_, known)) = self.digests.lock().get_mut(key) {
            *known = status_digest(status);
        }
    }

    /// Whether `considered` holds for every service that there is.
    pub(crate) fn all_considered(&self, considered: impl Fn(&Key) -> bool) -> bool {
        self.services.state().iter().all(|service| {
            let metadata = &service.metadata;
            considered(&(
                metadata.namespace.clone().unwrap_or_default(),
                metadata.name.clone().unwrap_or_default(),
            ))
        })
    }

    /// Services that anything is kept of.
    pub(crate) fn known_services(&self) -> BTreeSet<Key> {
        let managed = self.managed.lock();
        managed
            .keys()
            .map(|workload| (workload.namespace.clone(), workload.name.clone()))
            .collect()
    }

    /// How long to wait after one more failure.
    pub(crate) fn failed(&self, key: &Key) -> Duration {
        let mut failures = self.failures.lock();
        let tries = failures.entry(key.clone()).or_default();
        *tries = tries.saturating_add(1);
        let (first, last) = self.config.retry;
        first.saturating_mul(1 << (*tries - 1).min(16)).min(last)
    }

    /// A reconciliation worked.
    pub(crate) fn succeeded(&self, key: &Key) {
        self.failures.lock().remove(key);
    }

    /// Forgets a service that is gone.
    pub(crate) fn forget(&self, (namespace, name): &Key) {
        let key = (namespace.clone(), name.clone());
        self.digests.lock().remove(&key);
        self.failures.lock().remove(&key);
        self.replaced.lock().remove(&key);
        let gone = Workload::stable(namespace, name);
        self.hidden.lock().retain(|workload, _| !workload.is_beside(&gone));
        self.managed.lock().retain(|workload, _| !workload.is_beside(&gone));
        self.standby.forget(&key);
    }

    /// An API of any kind in a namespace.
    pub(crate) fn api(&self, namespace: &str, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, resource)
    }

    /// Applies an object under a field manager; what that manager applied before and does not now goes.
    pub(crate) async fn apply(&self, object: &Value, manager: &str) -> kube::Result<DynamicObject> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let kind = text("/kind");
        let api = self.api(text("/metadata/namespace"), &resource(text("/apiVersion"), kind));
        self.pace.take().await;
        let parameters = PatchParams::apply(manager).force();
        let outcome = api
            .patch(text("/metadata/name"), &parameters, &Patch::Apply(object))
            .await;
        self.metrics.wrote(kind, outcome.as_ref().map(|_| ()));
        outcome
    }

    /// Takes a Deployment that was just made in before the watch shows it, so that the first status is the right one.
    pub(crate) fn take_in(&self, made: DynamicObject) {
        let made = serde_json::to_value(made).and_then(serde_json::from_value::<Deployment>);
        let Ok(made) = made else { return };
        self.world.lock().add_deployment(&made);
    }

    /// Deletes an object that must not be there; one that isn't there is fine.
    pub(crate) async fn remove(&self, namespace: &str, absent: &Absent) -> kube::Result<()> {
        let api = self.api(namespace, &resource(absent.api_version, absent.kind));
        self.pace.take().await;
        match api.delete(&absent.name, &DeleteParams::background()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes this one pod and none that has taken its name since.
    pub(crate) async fn delete_pod(&self, (namespace, name): &Key, uid: &str) -> kube::Result<()> {
        let api: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(self.client.clone(), namespace);
        let parameters = DeleteParams::default().preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        match api.delete(name, &parameters).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Tells what happened to a service. An Event that can't be written is logged and lost.
    pub(crate) async fn tell(&self, about: &ObjectReference, what: &Transition) {
        let event = Event {
            type_: if what.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: what.reason.clone(),
            note: Some(what.note.chars().take(1000).collect()),
            action: what.reason.clone(),
            secondary: None,
        };
        self.pace.take().await;
        if let Err(error) = self.recorder.publish(&event, about).await {
            tracing::debug!(%error, reason = what.reason, "an event was not written");
        }
    }

    /// Where the activators' admin sides are: those that may hold requests, and those that begin.
    pub(crate) fn activator_addresses(&self) -> (BTreeSet<SocketAddr>, BTreeSet<SocketAddr>) {
        let port = self.config.activator_admin_port;
        let world = self.world.lock();
        let (mut holding, mut all) = (BTreeSet::new(), BTreeSet::new());
        for endpoint in world.activators() {
            let Ok(address) = endpoint.address.parse::<IpAddr>() else {
                continue;
            };
            let address = SocketAddr::new(address, port);
            all.insert(address);
            if endpoint.ready || endpoint.serving || endpoint.terminating {
                holding.insert(address);
            }
        }
        (holding, all)
    }
}

/// Fields of a service that are kept as text: as trees they take ten times the memory, and thousands are kept.
const PACKED: [&str; 2] = ["spec", "status"];

/// Makes a service small, to be kept.
pub(crate) fn pack(service: &mut DynamicObject) {
    for key in PACKED {
        if let Some(value) = service.data.get_mut(key) {
            *value = Value::String(value.to_string());
        }
    }
}

/// A service that was kept, as it was.
pub(crate) fn unpacked(service: &DynamicObject) -> DynamicObject {
    let mut service = service.clone();
    for key in PACKED {
        if let Some(value) = service.data.get_mut(key) {
            *value = unpacked_value(value);
        }
    }
    service
}

fn unpacked_value(value: &Value) -> Value {
    let text = value.as_str();
    // What was written from a tree is read as one.
    text.map_or_else(|| value.clone(), |text| serde_json::from_str(text).unwrap_or_default())
}

fn status_digest(status: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    said(status).hash(&mut hasher);
    hasher.finish()
}

/// The reference of an object for Events.
pub(crate) fn reference(object: &DynamicObject) -> ObjectReference {
    ObjectReference {
        api_version: Some(v1beta1::API_VERSION.to_owned()),
        kind: Some(v1beta1::KIND.to_owned()),
        name: object.metadata.name.clone(),
        namespace: object.metadata.namespace.clone(),
        uid: object.metadata.uid.clone(),
        resource_version: object.metadata.resource_version.clone(),
        field_path: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_was_kept_is_what_it_was() {
        let object = serde_json::json!({
            "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": { "name": "iris" },
            "spec": { "predictor": { "minReplicas": 0 } }, "status": { "conditions": [{ "type": "Ready" }] },
        });
        let service: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        let mut kept = service.clone();
        pack(&mut kept);
        assert!(kept.data["spec"].is_string());
        assert_eq!(serde_json::to_value(unpacked(&kept)).unwrap(), object);
        assert_eq!(
            unpacked(&service).data,
            service.data,
            "one that was not packed stays as it is"
        );
    }

    #[test]
    fn every_kind_that_is_written_has_its_plural() {
        for (version, kind, plural) in [
            ("serving.kserve.io/v1beta1", "InferenceService", "inferenceservices"),
            ("serving.kserve.io/v1alpha1", "ServingRuntime", "servingruntimes"),
            (
                "serving.kserve.io/v1alpha1",
                "ClusterServingRuntime",
                "clusterservingruntimes",
            ),
            ("apps/v1", "Deployment", "deployments"),
            ("v1", "Service", "services"),
            ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
        ] {
            assert_eq!(resource(version, kind).plural, plural);
        }
    }
}
