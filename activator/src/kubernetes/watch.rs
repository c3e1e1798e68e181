//! Watches of the API server as one stream of changes. Each watch resumes where it was, lists anew where it can't, and is
//! tried again with a growing pause for as long as it takes: what was known stays known meanwhile.

use std::{fmt::Debug, time::Duration};

use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Event as ClusterEvent, Pod},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject},
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Error, watcher},
    },
};
use pilotlight_manifests::{
    failure::{TROUBLES, Trouble},
    kubernetes::{ACTIVATOR, LABEL_INFERENCE_SERVICE, LABEL_SERVICE_NAME, LABEL_STANDBY},
    v1beta1,
};
use serde::de::DeserializeOwned;

use super::{
    config::ClusterConfig,
    deployment::DeploymentView,
    index::{Key, Kind, Object},
    pod::PodView,
    standby::StandbyPod,
};
use crate::random;

/// A watch ends after so long and goes on where it was: an API server that vanished without a word is noticed.
pub(crate) const WATCH_SECONDS: u32 = 60;
/// First pause after a failure; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(100);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a watch tells.
#[derive(Debug)]
pub(crate) enum Event {
    /// A list of all objects begins.
    Begin,
    /// One of the list.
    Listed(Key, Object),
    /// The list is complete: what was not on it is gone.
    Complete,
    /// An object came, changed or went.
    Changed(Key, Object),
    /// It failed and is tried again. The kind itself is not known to the API server where `absent`.
    Failed {
        /// The definition of the kind is not installed.
        absent: bool,
        /// What was said.
        error: String,
    },
}

/// Which watch tells it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub(crate) kind: Kind,
    /// `None`: all namespaces.
    pub(crate) namespace: Option<String>,
}

/// One stream of the cluster's changes.
pub(crate) type Changes = BoxStream<'static, (Source, Event)>;

/// All watches that the activator needs: which they are, and what they tell.
pub(crate) fn all(client: &Client, config: &ClusterConfig) -> (Vec<Source>, Changes) {
    let namespaces: Vec<Option<String>> = if config.watch_namespaces.is_empty() {
        vec![None]
    } else {
        config.watch_namespaces.iter().cloned().map(Some).collect()
    };
    let mut sources = Vec::new();
    let mut streams = Vec::new();
    let mut add = |kind: Kind, namespace: Option<&String>, events: BoxStream<'static, Event>| {
        let source = Source {
            kind,
            namespace: namespace.cloned(),
        };
        sources.push(source.clone());
        streams.push(events.map(move |event| (source.clone(), event)).boxed());
    };
    for namespace in &namespaces {
        let namespace = namespace.as_ref();
        add(Kind::Service, namespace, services(client, namespace));
        add(Kind::Deployment, namespace, deployments(client, namespace));
        add(Kind::Pod, namespace, pods(client, namespace));
        add(Kind::Trouble, namespace, troubles(client, namespace));
        add(Kind::Standby, namespace, standby(client, namespace));
    }
    add(Kind::Slice, Some(&config.namespace), slices(client, &config.namespace));
    (sources, stream::select_all(streams).boxed())
}

fn services(client: &Client, namespace: Option<&String>) -> BoxStream<'static, Event> {
    let resource = inference_services();
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    events(api, settings(), |object, gone| {
        // An object of this type always is valid JSON.
        let value = || {
            let mut value = serde_json::to_value(object).unwrap_or_default();
            if let Some(map) = value.as_object_mut() {
                // Objects of a list come without.
                map.insert("apiVersion".to_owned(), v1beta1::API_VERSION.into());
                map.insert("kind".to_owned(), v1beta1::KIND.into());
            }
            Box::new(value)
        };
        Object::Service((!gone).then(value))
    })
}

/// The kind `InferenceService`.
fn inference_services() -> ApiResource {
    let (group, version) = v1beta1::API_VERSION.split_once('/').unwrap_or_default();
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: v1beta1::API_VERSION.to_owned(),
        kind: v1beta1::KIND.to_owned(),
        plural: "inferenceservices".to_owned(),
    }
}

fn deployments(client: &Client, namespace: Option<&String>) -> BoxStream<'static, Event> {
    let api: Api<Deployment> = scoped(client, namespace);
    events(api, settings().labels(LABEL_INFERENCE_SERVICE), |object, gone| {
        Object::Deployment((!gone).then(|| DeploymentView::of(object)).flatten().map(Box::new))
    })
}

fn pods(client: &Client, namespace: Option<&String>) -> BoxStream<'static, Event> {
    let api: Api<Pod> = scoped(client, namespace);
    events(api, settings().labels(LABEL_INFERENCE_SERVICE), |object, gone| {
        Object::Pod((!gone).then(|| PodView::of(object)).flatten().map(Box::new))
    })
}

fn troubles(client: &Client, namespace: Option<&String>) -> BoxStream<'static, Event> {
    let api: Api<ClusterEvent> = scoped(client, namespace);
    events(api, settings().fields(TROUBLES), |object, gone| {
        Object::Trouble((!gone).then(|| Trouble::of(object)).flatten().map(Box::new))
    })
}

fn standby(client: &Client, namespace: Option<&String>) -> BoxStream<'static, Event> {
    let api: Api<Pod> = scoped(client, namespace);
    events(api, settings().labels(LABEL_STANDBY), |object, gone| {
        Object::Standby((!gone).then(|| StandbyPod::of(object)).flatten().map(Box::new))
    })
}

fn slices(client: &Client, namespace: &str) -> BoxStream<'static, Event> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let selector = format!("{LABEL_SERVICE_NAME}={ACTIVATOR}");
    events(api, settings().labels(&selector), |object, gone| {
        Object::Slice((!gone).then(|| Box::new(object.clone())))
    })
}

fn scoped<K>(client: &Client, namespace: Option<&String>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn settings() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

fn events<K>(
    api: Api<K>,
    config: watcher::Config,
    object: impl Fn(&K, bool) -> Object + Send + 'static,
) -> BoxStream<'static, Event>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    translate(watcher(api, config).backoff(Pauses::default()), object).boxed()
}

fn translate<K: ResourceExt>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    object: impl Fn(&K, bool) -> Object,
) -> impl Stream<Item = Event> {
    events.map(move |event| match event {
        Ok(watcher::Event::Init) => Event::Begin,
        Ok(watcher::Event::InitApply(it)) => Event::Listed(key(&it), object(&it, false)),
        Ok(watcher::Event::InitDone) => Event::Complete,
        Ok(watcher::Event::Apply(it)) => Event::Changed(key(&it), object(&it, false)),
        Ok(watcher::Event::Delete(it)) => Event::Changed(key(&it), object(&it, true)),
        Err(error) => Event::Failed {
            absent: is_absent(&error),
            error: error.to_string(),
        },
    })
}

fn key(object: &impl ResourceExt) -> Key {
    Key {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

/// A list of a kind whose definition is not installed is answered 404.
pub(crate) fn is_absent(error: &Error) -> bool {
    matches!(error, Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

/// Pauses between tries: doubling, half of each at random.
#[derive(Default)]
pub(crate) struct Pauses {
    tried: u32,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = PAUSE.saturating_mul(1 << self.tried.min(16)).min(PAUSE_MAX);
        self.tried += 1;
        Some(pause / 2 + pause / 2 * ((random::next() % 1000) as u32) / 1000)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.tried = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_begin_anew_after_a_success() {
        let mut pauses = Pauses::default();
        let grown: Vec<Duration> = pauses.by_ref().take(20).collect();
        assert!(grown[0] <= PAUSE && grown[19] <= PAUSE_MAX && grown[19] >= PAUSE_MAX / 2);
        pauses.reset();
        assert!(pauses.next().unwrap() <= PAUSE);
    }
}
