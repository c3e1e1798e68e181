//! What matters of a Deployment: how many replicas it is to have, what a wake asks for, and what stands against it.

use k8s_openapi::api::apps::v1::Deployment;
use pilotlight_manifests::{
    failure::{PodFailure, deployment_failure},
    kubernetes::{
        ANNOTATION_ACTIVATION_SCALE, ANNOTATION_CONTAINER_CONCURRENCY, ANNOTATION_STOPPED, ANNOTATION_TRAFFIC_PERCENT,
        LABEL_BACKEND, Workload,
    },
};

use super::{pod::workload_of, standby::Parking};

/// A Deployment of a workload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeploymentView {
    pub(crate) name: String,
    pub(crate) workload: Workload,
    pub(crate) resource_version: Option<String>,
    /// `spec.replicas`, whose absence means 1.
    pub(crate) replicas: i32,
    /// The controller of this platform keeps it.
    pub(crate) managed: bool,
    /// What a wake asks for, where it says so.
    pub(crate) activation_scale: Option<i32>,
    /// Requests in flight on one replica at most, where it is managed.
    pub(crate) capacity: Option<u32>,
    /// Why it must not be woken.
    pub(crate) stopped: Option<String>,
    /// Share of a canary.
    pub(crate) percent: Option<u32>,
    /// What it says of standby pods.
    pub(crate) standby: Option<Parking>,
    /// Why its pods can't be created.
    pub(crate) failure: Option<PodFailure>,
}

impl DeploymentView {
    /// What matters of `deployment`; `None` for one that is no workload's.
    pub(crate) fn of(deployment: &Deployment) -> Option<Self> {
        let meta = &deployment.metadata;
        let namespace = meta.namespace.as_deref()?;
        let labels = meta.labels.as_ref()?;
        let workload = workload_of(namespace, labels)?;
        let annotation = |key: &str| meta.annotations.as_ref().and_then(|all| all.get(key));
        let number = |key: &str| annotation(key).and_then(|text| text.parse::<u32>().ok());
        Some(Self {
            name: meta.name.clone()?,
            workload,
            resource_version: meta.resource_version.clone(),
            replicas: deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            managed: labels.contains_key(LABEL_BACKEND),
            activation_scale: number(ANNOTATION_ACTIVATION_SCALE).map(|scale| scale.clamp(1, i32::MAX as u32) as i32),
            capacity: number(ANNOTATION_CONTAINER_CONCURRENCY).filter(|capacity| *capacity > 0),
            stopped: annotation(ANNOTATION_STOPPED).cloned(),
            percent: number(ANNOTATION_TRAFFIC_PERCENT).map(|percent| percent.min(100)),
            standby: Parking::of(deployment),
            failure: deployment_failure(deployment),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn annotations_say_what_a_wake_asks_for() {
        let deployment = serde_json::from_value(json!({
            "metadata": {
                "name": "iris-predictor-canary", "namespace": "shop", "resourceVersion": "7",
                "labels": { "pilotlight.dev/backend": "iris.canary" },
                "annotations": {
                    "pilotlight.dev/activation-scale": "3", "pilotlight.dev/container-concurrency": "2",
                    "pilotlight.dev/traffic-percent": "10",
                },
            },
            "spec": { "replicas": 0, "selector": {}, "template": {} },
        }))
        .unwrap();
        let view = DeploymentView::of(&deployment).unwrap();
        assert_eq!(view.workload, Workload::canary("shop", "iris", "canary"));
        assert_eq!((view.replicas, view.activation_scale), (0, Some(3)));
        assert_eq!((view.capacity, view.percent), (Some(2), Some(10)));
        assert!(view.managed);
    }

    #[test]
    fn a_deployment_of_kserve_is_a_workload_too_and_any_other_is_none() {
        let mut deployment: Deployment = serde_json::from_value(json!({
            "metadata": { "name": "iris-predictor", "namespace": "shop",
                "labels": { "serving.kserve.io/inferenceservice": "iris" } },
        }))
        .unwrap();
        let view = DeploymentView::of(&deployment).unwrap();
        assert_eq!((view.managed, view.replicas, view.activation_scale), (false, 1, None));
        deployment.metadata.labels = None;
        assert_eq!(DeploymentView::of(&deployment), None);
    }
}
