//! What is kept of an object, read from it.

use std::collections::{BTreeMap, VecDeque};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod, discovery::v1::EndpointSlice};
use pilotlight_manifests::{
    failure::{PodFailure, Trouble, deployment_failure, in_the_making, pod_failure},
    kubernetes::{
        ANNOTATION_ARMED, ANNOTATION_CLAIMED_AT, ANNOTATION_CLAIMING, ANNOTATION_PARKED, ANNOTATION_TRAFFIC_PERCENT,
        ANNOTATION_WOKEN_AT, COMPONENT_PREDICTOR, LABEL_BACKEND, LABEL_COMPONENT, LABEL_INFERENCE_SERVICE,
        LABEL_MANAGED_BY, LABEL_REVISION, MANAGED_BY, Workload,
    },
};

use super::{DeploymentFacts, PodFacts};
use crate::kubernetes::objects::{ANNOTATION_APPLIED, ANNOTATION_SCALED_BY, Endpoint};

/// Whose a Deployment or pod is: by our label, or KServe's.
pub(super) fn workload(namespace: &str, labels: &BTreeMap<String, String>) -> Option<Workload> {
    if let Some(label) = labels.get(LABEL_BACKEND) {
        return Workload::from_label(namespace, label);
    }
    let of_predictor = labels
        .get(LABEL_COMPONENT)
        .is_some_and(|component| component == COMPONENT_PREDICTOR);
    let service = labels.get(LABEL_INFERENCE_SERVICE).filter(|_| of_predictor)?;
    Some(Workload::stable(namespace, service))
}

pub(super) fn deployment_facts(deployment: &Deployment) -> DeploymentFacts {
    let metadata = &deployment.metadata;
    let annotation = |key: &str| metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
    let spec = deployment.spec.as_ref();
    let status = deployment.status.clone().unwrap_or_default();
    // A Deployment that was not asked for a number has one.
    let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0);
    let all = |count: Option<i32>| count.unwrap_or(0) == replicas;
    DeploymentFacts {
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        replicas: replicas as u32,
        revision: annotation(LABEL_REVISION).unwrap_or_default(),
        applied: annotation(ANNOTATION_APPLIED),
        handed_over: annotation(ANNOTATION_SCALED_BY).is_some(),
        woken_at: annotation(ANNOTATION_WOKEN_AT),
        percent: annotation(ANNOTATION_TRAFFIC_PERCENT).and_then(|percent| percent.parse().ok()),
        ours: metadata
            .labels
            .as_ref()
            .is_some_and(|all| all.get(LABEL_MANAGED_BY).is_some_and(|by| by == MANAGED_BY)),
        rolled_out: status.observed_generation >= metadata.generation
            && all(status.updated_replicas)
            && all(status.replicas)
            && all(status.ready_replicas),
        settled: status.observed_generation >= metadata.generation && status.replicas.unwrap_or(0) == 0,
        parked: annotation(ANNOTATION_PARKED),
        armed: annotation(ANNOTATION_ARMED),
        claiming: annotation(ANNOTATION_CLAIMING),
        failure: deployment_failure(deployment),
        deleting: metadata.deletion_timestamp.is_some(),
    }
}

pub(super) fn pod_facts(pod: &Pod, name: String) -> Option<PodFacts> {
    let metadata = &pod.metadata;
    let status = pod.status.as_ref();
    let conditions = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten();
    let ready = conditions
        .clone()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let containers = status
        .and_then(|status| status.container_statuses.as_ref())
        .into_iter()
        .flatten();
    let backing_off = containers.into_iter().any(|container| {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"))
    });
    Some(PodFacts {
        name,
        uid: metadata.uid.clone()?,
        revision: metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(LABEL_REVISION))
            .cloned()
            .unwrap_or_default(),
        ready,
        terminating: metadata.deletion_timestamp.is_some(),
        failure: pod_failure(pod),
        in_the_making: in_the_making(pod),
        backing_off,
        served: ready,
        claimed_at: metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(ANNOTATION_CLAIMED_AT))
            .cloned(),
        owned: metadata
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.controller == Some(true)),
        created: metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0.to_string())
            .unwrap_or_default(),
    })
}

/// What Events say against a pod in the making.
pub(super) fn troubled(troubles: &VecDeque<Trouble>, pod: &PodFacts) -> Option<PodFailure> {
    let trouble = troubles.iter().find(|trouble| trouble.uid == pod.uid)?;
    trouble.failure(pod.in_the_making?).cloned()
}

pub(super) fn activators(slice: &EndpointSlice) -> Vec<Endpoint> {
    let endpoints = slice.endpoints.iter().flat_map(|endpoint| {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // Absent is to be read as true for the first, and as the first for the second.
        let ready = conditions.ready.unwrap_or(true);
        endpoint.addresses.iter().map(move |address| Endpoint {
            address: address.clone(),
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
            node: endpoint.node_name.clone(),
            zone: endpoint.zone.clone(),
        })
    });
    let mut endpoints: Vec<Endpoint> = endpoints.collect();
    endpoints.sort();
    endpoints
}
