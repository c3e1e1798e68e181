//! The KEDA HTTP add-on's routes: `InterceptorRoute` and `HTTPScaledObject` for any HTTP application.
//!
//! Watches bring the objects; `convert` makes routes of them, `endpoints` reads their Services' EndpointSlices, `wakes` says
//! what a wake scales where no KEDA operator runs (`operator`). Where one runs a wake does nothing: the operator scales, and
//! learns of the request from the controller's external scaler. An `InterceptorRoute` stands over an `HTTPScaledObject` of the
//! same name.
//!
//! It writes nothing but, through the waker, a `scale`; the objects' status is the controller's.

mod convert;
mod endpoints;
pub mod operator;
mod state;
mod wakes;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject},
    runtime::{WatchStreamExt, watcher},
};
use pilotlight_manifests::keda::{
    GoDuration, HttpScaledObjectSpec, InterceptorRouteSpec, RESPONSE_BODY_LABEL, ScaleTargetRef, ScaledObjectSpec, Spec,
};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::state::{Change, State};
use super::{
    Context, Target,
    watch::{Pauses, is_absent},
};

/// Name of these routes among the sources. It comes after that of InferenceServices, which keep a name that both have.
const SOURCE: &str = "web-applications";
/// From the first change of a burst to what follows from it.
const SETTLE: Duration = Duration::from_millis(10);
/// Between two looks at whether a KEDA operator runs.
const OPERATOR_PERIOD: Duration = Duration::from_secs(10);

/// Settings, with the add-on's names and defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KedaConfig {
    /// `KEDA_HTTP_WATCH_NAMESPACE`. Default all.
    pub namespace: Option<String>,
    /// `KEDA_HTTP_READINESS_TIMEOUT`; 0 is none. Default 0.
    pub readiness_timeout: Duration,
    /// `KEDA_HTTP_REQUEST_TIMEOUT`; 0 is none. Default 0.
    pub request_timeout: Duration,
    /// `KEDA_HTTP_RESPONSE_HEADER_TIMEOUT`; 0 is none. Default 0, and 300 s by [`Self::from_variables`].
    pub response_header_timeout: Duration,
    /// `KEDA_HTTP_COLD_START_MAX_PENDING_REQUESTS`; 0 is the activator's own bound. Default 0.
    pub max_pending: usize,
}

/// A variable whose value is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value}: expected {expected}")]
pub struct VariableError {
    name: &'static str,
    value: String,
    expected: &'static str,
}

impl KedaConfig {
    /// Reads the add-on's variables. `KEDA_CONDITION_WAIT_TIMEOUT` and `KEDA_RESPONSE_HEADER_TIMEOUT`, its deprecated ones,
    /// win where they are above 0, as there.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, VariableError> {
        let duration = |name: &'static str, default: Duration| match get(name).filter(|value| !value.is_empty()) {
            None => Ok(default),
            Some(value) => GoDuration::parse(&value)
                .map(|duration| duration.0)
                .ok_or(VariableError {
                    name,
                    value,
                    expected: "a duration such as `500ms` or `1m30s`",
                }),
        };
        let either = |old: &'static str, name: &'static str, default: Duration| {
            let old = duration(old, Duration::ZERO)?;
            if old.is_zero() {
                duration(name, default)
            } else {
                Ok(old)
            }
        };
        let pending = "KEDA_HTTP_COLD_START_MAX_PENDING_REQUESTS";
        let max_pending = get(pending).filter(|value| !value.is_empty()).map_or(Ok(0), |value| {
            value.parse().map_err(|_| VariableError {
                name: pending,
                value,
                expected: "a number of requests",
            })
        });
        Ok(Self {
            namespace: get("KEDA_HTTP_WATCH_NAMESPACE").filter(|value| !value.is_empty()),
            readiness_timeout: either(
                "KEDA_CONDITION_WAIT_TIMEOUT",
                "KEDA_HTTP_READINESS_TIMEOUT",
                Duration::ZERO,
            )?,
            request_timeout: duration("KEDA_HTTP_REQUEST_TIMEOUT", Duration::ZERO)?,
            response_header_timeout: either(
                "KEDA_RESPONSE_HEADER_TIMEOUT",
                "KEDA_HTTP_RESPONSE_HEADER_TIMEOUT",
                Duration::from_mins(5),
            )?,
            max_pending: max_pending?,
        })
    }
}

/// Follows the add-on's objects until `stop`. Kinds that are not installed are as if there were no object of them, and are
/// looked for again.
pub fn run(context: Context, config: KedaConfig, stop: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
    // At once: the activator is not ready without these routes.
    context.routes.announce(SOURCE);
    follow(context, config, stop)
}

async fn follow(context: Context, config: KedaConfig, stop: CancellationToken) {
    let changes = changes(&context.client, &config);
    let mut changes = Box::pin(changes.ready_chunks(256).take_until(stop.cancelled_owned()));
    let mut state = State::new(config);
    // Whether a workload has a plural of its own is asked once.
    let mut resources = Resources::new(context.client.clone());
    while let Some(chunk) = changes.next().await {
        let mut news = false;
        for change in chunk {
            news |= state.take(change);
        }
        if !news || !state.is_complete() {
            continue;
        }
        tokio::time::sleep(SETTLE).await;
        bring(&context, &mut state, &mut resources).await;
    }
}

/// Tells the activator what follows from the state. Endpoints go first: a request may wait for them.
async fn bring(context: &Context, state: &mut State, resources: &mut Resources) {
    if state.plan_again() {
        context.routes.set(SOURCE, state.plan().routes.clone());
        for (route, fault) in &state.plan().faults {
            tracing::warn!(route, fault, "a route was left out");
        }
    }
    for (backend, endpoints) in state.endpoints(Instant::now()) {
        let uids = endpoints.iter().map(|endpoint| {
            let uid = endpoints::uid(&endpoint.id).to_owned();
            (uid, endpoint.id.clone())
        });
        let uids = uids.collect();
        context.seals.publish(&backend, uids, endpoints);
    }
    for (backend, wakes) in state.wakes() {
        let target = match wakes {
            Some(wakes) => resources.find(&wakes.workload).await.map(|resource| {
                let mut target = Target::new(resource, state::namespace_of(&backend), &wakes.workload.name);
                target.activation_scale = wakes.replicas;
                target
            }),
            None => None,
        };
        context.targets.set_unscaled(&backend, target.is_none());
        context.targets.set(&backend, target);
    }
    for backend in state.gone() {
        context.seals.publish(&backend, Vec::new(), Vec::new());
        context.targets.set_unscaled(&backend, false);
        context.targets.set(&backend, None);
    }
}

/// The API resources of kinds, asked for once each.
struct Resources {
    client: Client,
    known: HashMap<(String, String), ApiResource>,
}

impl Resources {
    fn new(client: Client) -> Self {
        Self {
            client,
            known: HashMap::new(),
        }
    }

    /// `None` for a kind that the API server does not know; logged, and asked for again at the next change.
    async fn find(&mut self, workload: &ScaleTargetRef) -> Option<ApiResource> {
        let key = (workload.api_version().to_owned(), workload.kind().to_owned());
        if let Some(known) = self.known.get(&key) {
            return Some(known.clone());
        }
        match resource(&self.client, &key.0, &key.1).await {
            Ok(resource) => {
                self.known.insert(key, resource.clone());
                Some(resource)
            }
            Err(error) => {
                tracing::warn!(api_version = key.0, kind = key.1, %error, "a scale target's kind is not known");
                None
            }
        }
    }
}

/// The resource of a kind.
///
/// # Errors
/// Where the API server does not know it or does not answer.
pub async fn resource(client: &Client, api_version: &str, kind: &str) -> kube::Result<ApiResource> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = kube::api::GroupVersionKind::gvk(group, version, kind);
    Ok(kube::discovery::pinned_kind(client, &kind).await?.0)
}

/// All watches as one stream.
fn changes(client: &Client, config: &KedaConfig) -> impl Stream<Item = Change> + use<> {
    let namespace = config.namespace.as_deref();
    let labelled = watcher::Config::default().labels(&format!("{RESPONSE_BODY_LABEL}=true"));
    stream::select_all([
        kedas::<InterceptorRouteSpec>(client, namespace, Change::Route),
        kedas::<HttpScaledObjectSpec>(client, namespace, Change::HttpScaledObject),
        kedas::<ScaledObjectSpec>(client, namespace, Change::ScaledObject),
        watched(
            scoped::<Service>(client, namespace),
            watcher::Config::default(),
            Change::Service,
        ),
        watched(
            scoped::<EndpointSlice>(client, namespace),
            watcher::Config::default(),
            Change::Slice,
        ),
        watched(scoped::<ConfigMap>(client, namespace), labelled, Change::ConfigMap),
        operators(client.clone()).boxed(),
    ])
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn kedas<S: Spec>(
    client: &Client,
    namespace: Option<&str>,
    wrap: fn(state::Event<DynamicObject>) -> Change,
) -> BoxStream<'static, Change> {
    let resource = ApiResource {
        group: S::GROUP.to_owned(),
        version: S::VERSION.to_owned(),
        api_version: format!("{}/{}", S::GROUP, S::VERSION),
        kind: S::KIND.to_owned(),
        plural: S::PLURAL.to_owned(),
    };
    let api = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    watched(api, watcher::Config::default(), wrap)
}

fn watched<K>(api: Api<K>, config: watcher::Config, wrap: fn(state::Event<K>) -> Change) -> BoxStream<'static, Change>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let events = watcher(api, config.timeout(super::watch::WATCH_SECONDS)).backoff(Pauses::default());
    let events = events.filter_map(async |event| match event {
        Ok(watcher::Event::Init) => Some(state::Event::Begin),
        Ok(watcher::Event::InitApply(object)) => Some(state::Event::Listed(object)),
        Ok(watcher::Event::InitDone) => Some(state::Event::Complete),
        Ok(watcher::Event::Apply(object)) => Some(state::Event::Changed(object)),
        Ok(watcher::Event::Delete(object)) => Some(state::Event::Gone(object)),
        Err(error) if is_absent(&error) => Some(state::Event::Absent),
        Err(error) => {
            tracing::warn!(%error, "a watch failed and is tried again");
            None
        }
    });
    events.map(wrap).boxed()
}

/// Whether a KEDA operator runs, each time that could be told. Until it was told once nothing is woken by us.
fn operators(client: Client) -> impl Stream<Item = Change> {
    let client = Arc::new(client);
    let ticks = stream::unfold(tokio::time::interval(OPERATOR_PERIOD), |mut ticks| async {
        ticks.tick().await;
        Some(((), ticks))
    });
    let looks = ticks.then(move |()| {
        let client = Arc::clone(&client);
        async move { operator::look(&client).await }
    });
    looks.filter_map(async |seen| match seen {
        Ok(seen) => Some(Change::Operator(seen.runs())),
        Err(error) => {
            tracing::warn!(%error, "can't tell whether a KEDA operator runs");
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<KedaConfig, VariableError> {
        KedaConfig::from_variables(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn add_on_variables_have_its_names_and_defaults() {
        let none = read(&[]).unwrap();
        assert_eq!(none.response_header_timeout, Duration::from_mins(5));
        assert_eq!(
            (none.readiness_timeout, none.request_timeout, none.max_pending),
            (Duration::ZERO, Duration::ZERO, 0)
        );
        let some = read(&[
            ("KEDA_HTTP_READINESS_TIMEOUT", "1m30s"),
            ("KEDA_HTTP_RESPONSE_HEADER_TIMEOUT", "0s"),
            ("KEDA_HTTP_COLD_START_MAX_PENDING_REQUESTS", "7"),
            ("KEDA_HTTP_WATCH_NAMESPACE", ""),
        ]);
        let some = some.unwrap();
        assert_eq!(
            (some.readiness_timeout, some.response_header_timeout),
            (Duration::from_secs(90), Duration::ZERO)
        );
        assert_eq!((some.max_pending, some.namespace), (7, None));
    }

    #[test]
    fn add_on_deprecated_variables_win_where_they_are_above_zero() {
        let new = ("KEDA_HTTP_READINESS_TIMEOUT", "5s");
        for (old, seconds) in [("20s", 20), ("0s", 5)] {
            let config = read(&[("KEDA_CONDITION_WAIT_TIMEOUT", old), new]).unwrap();
            assert_eq!(config.readiness_timeout, Duration::from_secs(seconds));
        }
    }

    #[test]
    fn a_variable_that_is_no_duration_is_named() {
        let error = read(&[("KEDA_HTTP_REQUEST_TIMEOUT", "soon")]).unwrap_err();
        assert!(
            error.to_string().starts_with("KEDA_HTTP_REQUEST_TIMEOUT=soon"),
            "{error}"
        );
    }
}
