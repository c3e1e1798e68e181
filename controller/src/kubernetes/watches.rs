//! The watches: what they see becomes facts, and whoever it concerns is looked at again.

use std::{collections::HashSet, sync::Arc};

use futures_util::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{Event as ClusterEvent, Pod, Service},
        discovery::v1::EndpointSlice,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, PartialObjectMeta},
    runtime::{
        WatchStreamExt, reflector,
        reflector::store::Writer,
        watcher::{self, Event, watcher},
    },
};
use pilotlight_manifests::{
    failure::{TROUBLES, Trouble},
    kubernetes::{
        ACTIVATOR, CONTROLLER_MANAGER, LABEL_INFERENCE_SERVICE, LABEL_MANAGED_BY, LABEL_SERVICE_NAME, MANAGED_BY,
    },
    parse_runtime, v1alpha1,
};

use super::{
    context::{Context, inference_services, pack, resource},
    facts::Key,
    objects::slice_digest,
};

/// Label of an EndpointSlice: who looks after it.
const LABEL_SLICE_MANAGER: &str = "endpointslice.kubernetes.io/managed-by";

/// Watches that have to have listed everything once before anything is decided: services, Deployments, pods, activators, our
/// slices. Runtimes may have no definition in the cluster.
pub(crate) const WATCHES: u32 = 5;

/// What came of an event.
enum Seen<K> {
    /// It is there, new or changed.
    Is(K),
    /// It is gone.
    Gone(K),
    /// Everything was listed; what isn't among these is gone.
    Listed(HashSet<Key>),
}

/// A watch that begins anew whenever it fails, with growing pauses.
struct Watch<K: Resource> {
    stream: BoxStream<'static, watcher::Result<Event<K>>>,
    listed: HashSet<Key>,
    synced: Option<Arc<Context>>,
}

impl<K: ResourceExt> Watch<K> {
    fn new(
        stream: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
        context: Option<&Arc<Context>>,
    ) -> Self {
        // Managed fields are the larger part of small objects, and nobody reads them here.
        let slim = |event: Event<K>| event.modify(|object| object.managed_fields_mut().clear());
        Self {
            stream: stream.map_ok(slim).default_backoff().boxed(),
            listed: HashSet::new(),
            synced: context.cloned(),
        }
    }

    async fn next(&mut self) -> Option<Seen<K>> {
        loop {
            match self.stream.next().await? {
                Ok(Event::Init) => self.listed.clear(),
                Ok(Event::InitApply(object)) => {
                    self.listed.insert(key(&object));
                    return Some(Seen::Is(object));
                }
                Ok(Event::InitDone) => return Some(Seen::Listed(std::mem::take(&mut self.listed))),
                Ok(Event::Apply(object)) => return Some(Seen::Is(object)),
                Ok(Event::Delete(object)) => return Some(Seen::Gone(object)),
                Err(error) => tracing::warn!(%error, "a watch failed and begins anew"),
            }
        }
    }

    /// To be called once a listing was taken in: what is decided may count on it from then on.
    fn taken_in(&mut self) {
        if let Some(context) = self.synced.take() {
            context.synced.send_modify(|synced| *synced += 1);
        }
    }
}

fn key<K: ResourceExt>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Everything of a kind, in the namespace that is looked after.
fn api<K>(context: &Context) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let client = context.client.clone();
    match &context.config.watched {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    }
}

fn dynamic(client: Client, namespace: Option<&String>, kind: &ApiResource) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, kind),
        None => Api::all_with(client, kind),
    }
}

fn labelled(selector: &str) -> watcher::Config {
    watcher::Config::default().labels(selector)
}

/// InferenceServices, kept in the store, packed.
pub(crate) async fn services(context: Arc<Context>, writer: Writer<DynamicObject>) {
    let kind = inference_services();
    let api = dynamic(context.client.clone(), context.config.watched.as_ref(), &kind);
    let slim = |event: Event<DynamicObject>| {
        event.modify(|object| {
            object.managed_fields_mut().clear();
            pack(object);
        })
    };
    let stored = reflector(writer, watcher(api, watcher::Config::default()).map_ok(slim));
    let mut watch = Watch::new(stored, Some(&context));
    while let Some(seen) = watch.next().await {
        match seen {
            Seen::Is(object) => {
                if context.is_news(&object) {
                    context.enqueue(&key(&object)).await;
                }
            }
            Seen::Gone(object) => context.forget(&key(&object)),
            Seen::Listed(kept) => {
                let gone: Vec<Key> = context
                    .known_services()
                    .into_iter()
                    .filter(|key| !kept.contains(key))
                    .collect();
                for key in &gone {
                    context.forget(key);
                }
                watch.taken_in();
            }
        }
    }
}

/// Deployments of services, as facts.
pub(crate) async fn deployments(context: Arc<Context>) {
    let stream = watcher(api::<Deployment>(&context), labelled(LABEL_INFERENCE_SERVICE));
    let mut watch = Watch::new(stream, Some(&context));
    while let Some(seen) = watch.next().await {
        let concerned = match seen {
            Seen::Is(object) => context.world.lock().put_deployment(&object).into_iter().collect(),
            Seen::Gone(object) => context
                .world
                .lock()
                .drop_deployment(&key(&object))
                .into_iter()
                .collect(),
            Seen::Listed(kept) => {
                watch.taken_in();
                context.world.lock().retain_deployments(&kept)
            }
        };
        enqueue(&context, concerned).await;
    }
}

/// Pods of services, as facts.
pub(crate) async fn pods(context: Arc<Context>) {
    let stream = watcher(api::<Pod>(&context), labelled(LABEL_INFERENCE_SERVICE));
    let mut watch = Watch::new(stream, Some(&context));
    while let Some(seen) = watch.next().await {
        let concerned = match seen {
            Seen::Is(object) => context.world.lock().put_pod(&object).into_iter().collect(),
            Seen::Gone(object) => context.world.lock().drop_pod(&key(&object)).into_iter().collect(),
            Seen::Listed(kept) => {
                watch.taken_in();
                context.world.lock().retain_pods(&kept)
            }
        };
        enqueue(&context, concerned).await;
    }
}

/// Events that say what pods in the making lack. Without the right to read them all else goes on.
pub(crate) async fn troubles(context: Arc<Context>) {
    let stream = watcher(
        api::<ClusterEvent>(&context),
        watcher::Config::default().fields(TROUBLES),
    );
    let mut watch = Watch::new(stream, None);
    while let Some(seen) = watch.next().await {
        let Seen::Is(event) = seen else { continue };
        let trouble = Trouble::of(&event);
        let concerned = trouble.and_then(|trouble| context.world.lock().put_trouble(trouble));
        enqueue(&context, concerned.into_iter().collect()).await;
    }
}

async fn enqueue(context: &Context, concerned: Vec<Key>) {
    for key in concerned {
        context.enqueue(&key).await;
    }
}

/// The activators, by the slices of their Service. A change concerns every service.
pub(crate) async fn activators(context: Arc<Context>) {
    let api = Api::<EndpointSlice>::namespaced(context.client.clone(), &context.config.namespace);
    let stream = watcher(api, labelled(&format!("{LABEL_SERVICE_NAME}={ACTIVATOR}")));
    let mut watch = Watch::new(stream, Some(&context));
    while let Some(seen) = watch.next().await {
        let before = context.world.lock().reachable_activators();
        match seen {
            Seen::Is(slice) => context.world.lock().put_activators(&slice),
            Seen::Gone(slice) => context.world.lock().retain_activators(|name| name != slice.name_any()),
            Seen::Listed(kept) => {
                watch.taken_in();
                let names: HashSet<String> = kept.into_iter().map(|(_, name)| name).collect();
                context.world.lock().retain_activators(|name| names.contains(name))
            }
        };
        if before != context.world.lock().reachable_activators() {
            context.enqueue_all().await;
        }
    }
}

/// The slices that we wrote, as digests of what they say.
pub(crate) async fn slices(context: Arc<Context>) {
    let stream = watcher(
        api::<EndpointSlice>(&context),
        labelled(&format!("{LABEL_SLICE_MANAGER}={CONTROLLER_MANAGER}")),
    );
    let mut watch = Watch::new(stream, Some(&context));
    while let Some(seen) = watch.next().await {
        let (slice, there) = match seen {
            Seen::Is(slice) => (slice, true),
            Seen::Gone(slice) => (slice, false),
            Seen::Listed(kept) => {
                context.slices.lock().retain(|key, _| kept.contains(key));
                watch.taken_in();
                continue;
            }
        };
        let now = there.then(|| slice_digest(&slice));
        let before = match &now {
            Some(now) => context.slices.lock().insert(key(&slice), now.clone()),
            None => context.slices.lock().remove(&key(&slice)),
        };
        // Somebody else changed it: it is looked at again. Our own writes come by here too, and say what is known.
        let owner = slice.labels().get(LABEL_INFERENCE_SERVICE).cloned();
        if let (Some(name), true) = (owner, before.is_some() && before != now) {
            context.enqueue(&(slice.namespace().unwrap_or_default(), name)).await;
        }
    }
}

/// Services that we made: one that was deleted is made again.
pub(crate) async fn children(context: Arc<Context>) {
    // Their metadata alone: what they say is known.
    let api: Api<PartialObjectMeta<Service>> = match &context.config.watched {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    };
    let stream = watcher(api, labelled(&format!("{LABEL_MANAGED_BY}={MANAGED_BY}")));
    let mut watch = Watch::new(stream, None);
    while let Some(seen) = watch.next().await {
        let Seen::Gone(child) = seen else { continue };
        if let Some(name) = child.labels().get(LABEL_INFERENCE_SERVICE) {
            let service = (child.namespace().unwrap_or_default(), name.clone());
            context.missing.lock().insert(service.clone());
            context.enqueue(&service).await;
        }
    }
}

/// ServingRuntimes, or ClusterServingRuntimes where `cluster`. A change concerns every service.
pub(crate) async fn runtimes(context: Arc<Context>, cluster: bool) {
    let kind = resource(
        v1alpha1::API_VERSION,
        if cluster {
            "ClusterServingRuntime"
        } else {
            "ServingRuntime"
        },
    );
    let namespace = context.config.watched.as_ref().filter(|_| !cluster);
    let api = dynamic(context.client.clone(), namespace, &kind);
    let mut watch = Watch::new(watcher(api, watcher::Config::default()), None);
    while let Some(seen) = watch.next().await {
        let of_scope = |key: &Key| key.0.is_empty() == cluster;
        let changed = match seen {
            Seen::Is(object) => take_runtime(&context, &object),
            Seen::Gone(object) => context.runtimes.lock().remove(&key(&object)).is_some(),
            Seen::Listed(kept) => {
                let mut runtimes = context.runtimes.lock();
                let before = runtimes.len();
                runtimes.retain(|key, _| !of_scope(key) || kept.contains(key));
                before != runtimes.len()
            }
        };
        if changed {
            context.enqueue_all().await;
        }
    }
}

fn take_runtime(context: &Context, object: &DynamicObject) -> bool {
    let key = key(object);
    let parsed = serde_json::to_value(object)
        .map_err(|error| error.to_string())
        .and_then(|value| parse_runtime(&value));
    match parsed {
        Ok(runtime) => {
            let runtime = Arc::new(runtime);
            context
                .runtimes
                .lock()
                .insert(key, runtime.clone())
                .is_none_or(|before| before != runtime)
        }
        Err(error) => {
            tracing::warn!(%error, runtime = ?key, "a serving runtime is not understood");
            context.runtimes.lock().remove(&key).is_some()
        }
    }
}
