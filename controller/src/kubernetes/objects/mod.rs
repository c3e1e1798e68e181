//! What is applied for a service: a pure function of the service, its runtime and the platform's settings.

mod container;
mod network;
mod pod;

use pilotlight_manifests::{
    Service,
    kubernetes::{
        ANNOTATION_ACTIVATION_SCALE, ANNOTATION_CONTAINER_CONCURRENCY, ANNOTATION_PROBE_PATH, ANNOTATION_STOPPED,
        ANNOTATION_TRAFFIC_PERCENT, COMPONENT_PREDICTOR, LABEL_APP, LABEL_BACKEND, LABEL_COMPONENT,
        LABEL_INFERENCE_SERVICE, LABEL_MANAGED_BY, LABEL_REVISION, MANAGED_BY, Workload, predictor,
    },
};
use pilotlight_storage::sha256;
use serde_json::{Map, Value, json};

pub(crate) use self::network::{Endpoint, endpoint_slice, slice_digest, slice_name, value_digest};
use crate::kubernetes::runtimes::{NoRuntime, Runtime};

/// Annotation on a Deployment: the digest of everything that was applied with it, so that nothing is written twice.
pub(crate) const ANNOTATION_APPLIED: &str = "pilotlight.dev/applied";
/// Annotation on a Deployment: set when its replicas were handed over to the autoscaler's field manager.
pub(crate) const ANNOTATION_SCALED_BY: &str = "pilotlight.dev/scaled-by";
/// Digits of a revision.
const REVISION_DIGITS: usize = 12;

/// What the platform adds of its own.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) image: String,
    pub(crate) gpu_image: Option<String>,
    pub(crate) drain_delay: std::time::Duration,
}

/// The object that owns all of it; garbage collection follows it.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
}

/// A Deployment without its replicas, which belong to the autoscaler.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeploymentPlan {
    pub(crate) workload: Workload,
    pub(crate) revision: String,
    /// Replicas where it is created.
    pub(crate) initial: u32,
    pub(crate) object: Value,
}

/// An object that must not be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Absent {
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) name: String,
}

/// Everything about a service but its Deployments.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Surroundings {
    pub(crate) present: Vec<Value>,
    pub(crate) absent: Vec<Absent>,
}

/// The Deployment of one revision of a service. `percent` is a canary's share.
pub(crate) fn deployment(
    service: &Service,
    runtime: &Runtime,
    settings: &Settings,
    owner: &Owner,
    percent: Option<u8>,
) -> Result<DeploymentPlan, NoRuntime> {
    let workload = Workload {
        namespace: owner.namespace.clone(),
        name: owner.name.clone(),
        canary: percent.is_some(),
    };
    let mut template = pod::template(service, runtime, settings, &workload)?;
    let revision = digest(&template, REVISION_DIGITS);
    template["metadata"]["labels"][LABEL_REVISION] = revision.as_str().into();
    let mut annotations = Map::new();
    annotations.insert(LABEL_REVISION.to_owned(), revision.as_str().into());
    let scale = service.scaling.activation_scale.max(1);
    annotations.insert(ANNOTATION_ACTIVATION_SCALE.to_owned(), scale.to_string().into());
    if let Some(limit) = service.container_concurrency {
        annotations.insert(ANNOTATION_CONTAINER_CONCURRENCY.to_owned(), limit.to_string().into());
    }
    if let Some(path) = container::probe_path(service, runtime, &template) {
        annotations.insert(ANNOTATION_PROBE_PATH.to_owned(), path.into());
    }
    if service.scaling.max_replicas == Some(0) {
        annotations.insert(
            ANNOTATION_STOPPED.to_owned(),
            "stopped by serving.kserve.io/stop".into(),
        );
    }
    if let Some(percent) = percent {
        annotations.insert(ANNOTATION_TRAFFIC_PERCENT.to_owned(), percent.to_string().into());
    }
    let mut labels = labels(&owner.name);
    labels.insert(LABEL_APP.to_owned(), workload.app().into());
    labels.insert(LABEL_BACKEND.to_owned(), workload.label().into());
    let object = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(&workload.deployment(), owner, labels, annotations),
        "spec": {
            "selector": { "matchLabels": { LABEL_APP: workload.app() } },
            "strategy": strategy(&service.cluster.strategy),
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": 600,
            "template": template,
        },
    });
    Ok(DeploymentPlan {
        initial: service.scaling.initial_scale,
        workload,
        revision,
        object,
    })
}

/// A roll-over never serves with fewer than it had, unless the user has a strategy of their own.
fn strategy(given: &Value) -> Value {
    if given.is_null() {
        return json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": "25%" } });
    }
    given.clone()
}

/// The Services and the PodDisruptionBudget.
pub(crate) fn surroundings(service: &Service, owner: &Owner) -> Surroundings {
    let stable = Workload::stable(&owner.namespace, &owner.name);
    let mut present = network::services(owner);
    let mut absent = Vec::new();
    if service.scaling.min_replicas >= 2 {
        let labels = labels(&owner.name);
        present.push(json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(&predictor(&owner.name), owner, labels, Map::new()),
            "spec": { "maxUnavailable": 1, "selector": { "matchLabels": { LABEL_APP: stable.app() } } },
        }));
    } else {
        absent.push(Absent {
            api_version: "policy/v1",
            kind: "PodDisruptionBudget",
            name: predictor(&owner.name),
        });
    }
    Surroundings { present, absent }
}

/// Labels that every object of a service has.
fn labels(name: &str) -> Map<String, Value> {
    Map::from_iter([
        (LABEL_MANAGED_BY.to_owned(), Value::from(MANAGED_BY)),
        (LABEL_INFERENCE_SERVICE.to_owned(), Value::from(name)),
        (LABEL_COMPONENT.to_owned(), Value::from(COMPONENT_PREDICTOR)),
    ])
}

fn metadata(name: &str, owner: &Owner, labels: Map<String, Value>, annotations: Map<String, Value>) -> Value {
    let mut metadata = json!({
        "name": name,
        "namespace": owner.namespace,
        "labels": labels,
        "ownerReferences": [{
            "apiVersion": pilotlight_manifests::v1beta1::API_VERSION,
            "kind": pilotlight_manifests::v1beta1::KIND,
            "name": owner.name,
            "uid": owner.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        }],
    });
    if !annotations.is_empty() {
        metadata["annotations"] = annotations.into();
    }
    metadata
}

/// The first digits of the SHA-256 of a value's JSON, whose keys are in order.
pub(crate) fn digest(value: &Value, digits: usize) -> String {
    // Reading from memory can't fail, and an empty digest would only cost a roll-over.
    let whole = sha256(value.to_string().as_bytes());
    whole.chars().take(digits).collect()
}

#[cfg(test)]
mod tests;
