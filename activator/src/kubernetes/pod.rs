//! What matters of a pod: whose it is, where it listens, how it is asked, and what stands against it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use http::uri::PathAndQuery;
use k8s_openapi::{
    api::core::v1::{Container, ContainerPort, Pod, PodStatus, Probe as PodProbe},
    apimachinery::pkg::util::intstr::IntOrString,
    jiff::Timestamp,
};
use pilotlight_manifests::{
    failure::{PodFailure, in_the_making, pod_failure},
    kubernetes::{
        ANNOTATION_CLAIMED_AT, ANNOTATION_MODEL, COMPONENT_PREDICTOR, CONTAINER, DATA_PORT, LABEL_BACKEND,
        LABEL_COMPONENT, LABEL_INFERENCE_SERVICE, Workload,
    },
};

use super::assign::Assignment;
use crate::{EndpointId, Probe, Protocol};

/// A pod of a workload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodView {
    pub(crate) uid: String,
    pub(crate) name: String,
    pub(crate) workload: Workload,
    /// Known once its sandbox is there.
    pub(crate) ip: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    /// How to find out that it is ready; `Declared` follows the kubelet.
    pub(crate) probe: Probe,
    /// The kubelet says so.
    pub(crate) ready: bool,
    /// How often its container was started again.
    pub(crate) restarts: i32,
    /// It was deleted and has its grace period.
    pub(crate) terminating: bool,
    /// It ended and will not come back.
    pub(crate) over: bool,
    pub(crate) created: Timestamp,
    /// It was a standby pod: the model that its runtime is to be told, `{name}={path or URI}`.
    pub(crate) claimed_for: Option<String>,
    pub(crate) failure: Option<PodFailure>,
    /// Since when its containers are being made; only its Events say then what it lacks.
    pub(crate) in_the_making: Option<Timestamp>,
}

impl PodView {
    /// What matters of `pod`; `None` for one that is no workload's.
    pub(crate) fn of(pod: &Pod) -> Option<Self> {
        let meta = &pod.metadata;
        let workload = workload(pod)?;
        let spec = pod.spec.as_ref()?;
        let container = spec
            .containers
            .iter()
            .find(|container| container.name == CONTAINER)
            .or(spec.containers.first())?;
        let default = PodStatus::default();
        let status = pod.status.as_ref().unwrap_or(&default);
        let started = status.container_statuses.iter().flatten();
        let port = serving_port(container);
        let annotation = |key: &str| meta.annotations.as_ref()?.get(key);
        let model = annotation(ANNOTATION_MODEL);
        Some(Self {
            uid: meta.uid.clone()?,
            name: meta.name.clone().unwrap_or_default(),
            workload,
            ip: status.pod_ip.as_deref().and_then(|ip| ip.parse().ok()),
            port: port.map_or(DATA_PORT, |port| port.container_port as u16),
            protocol: protocol(port),
            probe: match model {
                // The pod itself says nothing of its model.
                Some(model) => model_probe(model),
                None => probe(container, port),
            },
            ready: condition(status, "Ready"),
            restarts: started
                .filter(|status| status.name == container.name)
                .map(|status| status.restart_count)
                .sum(),
            terminating: meta.deletion_timestamp.is_some(),
            over: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            created: meta.creation_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0),
            claimed_for: annotation(ANNOTATION_CLAIMED_AT).and(model).cloned(),
            failure: pod_failure(pod),
            in_the_making: in_the_making(pod),
        })
    }

    /// Where it listens, once that is known.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.ip.map(|ip| SocketAddr::new(ip, self.port))
    }

    /// Its endpoint: a container that was started again is another one.
    pub(crate) fn endpoint(&self) -> EndpointId {
        match self.restarts {
            0 => EndpointId::new(&self.uid),
            n => EndpointId::new(format!("{}.{n}", self.uid)),
        }
    }

    /// What its runtime is to be told.
    pub(crate) fn assignment(&self) -> Option<Assignment> {
        let address = self.address().filter(|_| self.counts())?;
        Assignment::of(&self.uid, self.restarts, address, self.claimed_for.as_deref())
    }

    /// It may serve, now or later.
    pub(crate) fn counts(&self) -> bool {
        !self.over && !self.terminating
    }
}

/// The workload that a pod belongs to: by our label, or as a predictor that KServe made.
fn workload(pod: &Pod) -> Option<Workload> {
    let namespace = pod.metadata.namespace.as_deref()?;
    workload_of(namespace, pod.metadata.labels.as_ref()?)
}

/// The workload that labels of an object in this namespace name. Transformers and explainers of KServe are none.
pub(crate) fn workload_of(namespace: &str, labels: &BTreeMap<String, String>) -> Option<Workload> {
    if let Some(label) = labels.get(LABEL_BACKEND) {
        return Workload::from_label(namespace, label);
    }
    let name = labels.get(LABEL_INFERENCE_SERVICE)?;
    let other = labels
        .get(LABEL_COMPONENT)
        .is_some_and(|component| component != COMPONENT_PREDICTOR);
    (!other).then(|| Workload::stable(namespace, name))
}

/// The port that requests go to: the first one.
fn serving_port(container: &Container) -> Option<&ContainerPort> {
    container.ports.iter().flatten().next()
}

/// A port that is named for it speaks HTTP/2 only, unless it is a runtime of ours, which speaks both.
fn protocol(port: Option<&ContainerPort>) -> Protocol {
    let grpc = port
        .and_then(|port| port.name.as_deref())
        .is_some_and(|name| name.contains("grpc"));
    if grpc { Protocol::H2c } else { Protocol::H1 }
}

/// The readiness of the model `{name}={path or URI}`.
fn model_probe(model: &str) -> Probe {
    let name = model.split('=').next().unwrap_or_default();
    PathAndQuery::try_from(format!("/v2/models/{name}/ready")).map_or(Probe::Declared, Probe::Http)
}

/// The container's readiness probe, asked by the activator itself: sooner than the kubelet, which has a period of a second at
/// least. What the activator can't ask the same way is left to the kubelet.
fn probe(container: &Container, port: Option<&ContainerPort>) -> Probe {
    let Some(declared) = &container.readiness_probe else {
        return Probe::Declared;
    };
    let serving = port.map_or(i32::from(DATA_PORT), |port| port.container_port);
    let same_port = |asked: &IntOrString| match asked {
        IntOrString::Int(number) => *number == serving,
        IntOrString::String(name) => port.and_then(|port| port.name.as_ref()) == Some(name),
    };
    match declared {
        // A successful start is the sum of several probes then.
        PodProbe {
            success_threshold: Some(2..),
            ..
        } => Probe::Declared,
        PodProbe {
            http_get: Some(get), ..
        } if same_port(&get.port)
            && get.http_headers.iter().flatten().next().is_none()
            && get.scheme.as_deref().is_none_or(|scheme| scheme == "HTTP") =>
        {
            let path = get.path.as_deref().unwrap_or("/");
            PathAndQuery::try_from(path).map_or(Probe::Declared, Probe::Http)
        }
        PodProbe {
            tcp_socket: Some(tcp), ..
        } if same_port(&tcp.port) => Probe::Tcp,
        _ => Probe::Declared,
    }
}

fn condition(status: &PodStatus, kind: &str) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| condition.type_ == kind && condition.status == "True")
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A pod as the controller makes it.
    pub(crate) fn pod(name: &str, changes: Value) -> Pod {
        let mut pod = json!({
            "metadata": {
                "name": name, "namespace": "shop", "uid": format!("uid-{name}"),
                "creationTimestamp": "2026-11-23T15:00:00Z",
                "labels": { "serving.kserve.io/inferenceservice": "iris", "component": "predictor", "pilotlight.dev/backend": "iris" },
            },
            "spec": { "containers": [{
                "name": "kserve-container",
                "ports": [{ "containerPort": 8080, "name": "h2c" }],
                "readinessProbe": { "httpGet": { "path": "/v2/models/iris/ready", "port": 8080 } },
            }] },
            "status": { "phase": "Running", "podIP": "10.0.0.7" },
        });
        merge(&mut pod, changes);
        serde_json::from_value(pod).unwrap()
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    fn view(changes: Value) -> PodView {
        PodView::of(&pod("a", changes)).unwrap()
    }

    #[test]
    fn a_pod_of_ours_is_probed_where_the_kubelet_would() {
        let view = view(json!({}));
        assert_eq!(view.workload, Workload::stable("shop", "iris"));
        assert_eq!(view.address(), Some("10.0.0.7:8080".parse().unwrap()));
        assert_eq!(view.probe, Probe::Http("/v2/models/iris/ready".parse().unwrap()));
        assert_eq!((view.protocol, view.counts()), (Protocol::H1, true));
    }

    #[test]
    fn a_container_that_was_started_again_is_another_endpoint() {
        let first = view(json!({}));
        let again = view(json!({ "status": { "containerStatuses": [{
            "name": "kserve-container", "image": "", "imageID": "", "ready": true, "restartCount": 2,
        }] } }));
        assert_eq!(
            (first.endpoint().as_str(), again.endpoint().as_str()),
            ("uid-a", "uid-a.2")
        );
    }

    #[test]
    fn a_pod_that_is_deleted_or_over_counts_no_more() {
        assert!(!view(json!({ "metadata": { "deletionTimestamp": "2026-11-23T15:00:00Z" } })).counts());
        assert!(!view(json!({ "status": { "phase": "Failed" } })).counts());
    }

    #[test]
    fn a_claimed_pod_is_asked_for_its_model_and_told_it() {
        let model = json!({ "pilotlight.dev/model": "iris=/mnt/models/iris.onnx" });
        let made = view(json!({ "metadata": { "annotations": model } }));
        assert_eq!(made.probe, Probe::Http("/v2/models/iris/ready".parse().unwrap()));
        assert_eq!(made.assignment(), None, "its container was started with its model");
        let mut claimed = view(json!({ "metadata": { "annotations": {
            "pilotlight.dev/model": "iris=/mnt/models/iris.onnx",
            "pilotlight.dev/standby-claimed-at": "2026-11-23T15:00:00Z",
        } } }));
        let model = Some("iris=/mnt/models/iris.onnx");
        let expected = Assignment::of("uid-a", 0, claimed.address().unwrap(), model);
        assert_eq!(claimed.assignment(), expected);
        claimed.restarts = 1;
        let again = Assignment::of("uid-a", 1, claimed.address().unwrap(), model);
        assert_eq!(
            claimed.assignment(),
            again,
            "its container may have been started without it"
        );
    }

    #[test]
    fn what_the_activator_cannot_ask_is_left_to_the_kubelet() {
        let with = |probe: Value| {
            view(json!({ "spec": { "containers": [{
            "name": "kserve-container", "ports": [{ "containerPort": 9000, "name": "http" }], "readinessProbe": probe,
        }] } }))
            .probe
        };
        assert_eq!(with(Value::Null), Probe::Declared);
        assert_eq!(with(json!({ "exec": { "command": ["x"] } })), Probe::Declared);
        assert_eq!(with(json!({ "tcpSocket": { "port": 9000 } })), Probe::Tcp);
        assert_eq!(
            with(json!({ "tcpSocket": { "port": 9001 } })),
            Probe::Declared,
            "another port"
        );
        assert_eq!(
            with(json!({ "httpGet": { "port": "http" } })),
            Probe::Http("/".parse().unwrap())
        );
        assert_eq!(
            with(json!({ "httpGet": { "port": 9000, "scheme": "HTTPS" } })),
            Probe::Declared
        );
    }

    #[test]
    fn predictors_of_kserve_are_found_by_its_label() {
        let mut pod = pod("a", json!({}));
        pod.metadata.labels.as_mut().unwrap().remove("pilotlight.dev/backend");
        assert_eq!(PodView::of(&pod).unwrap().workload, Workload::stable("shop", "iris"));
        pod.metadata.labels = None;
        assert_eq!(PodView::of(&pod), None);
    }
}
