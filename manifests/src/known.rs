//! Fields that KServe and Kubernetes have and that have no effect here yet. A manifest may hold them: each gets a warning with
//! its name, never silence; the few that would change what is served beyond recognition are faults.

/// How a known field without effect is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// The service runs without it.
    Warning,
    /// The service would not be what was meant.
    Fault,
}

/// A group of fields below one parent that share a reason.
pub(crate) struct Group {
    /// Path of the parent without indices; empty is the document.
    pub(crate) parent: &'static str,
    pub(crate) fields: &'static [&'static str],
    pub(crate) severity: Severity,
    /// The sentence of the message, from what is the matter to the remedy.
    pub(crate) message: &'static str,
}

const NOT_YET: &str = "a field of KServe that Pilotlight does not support yet: it has no effect";

/// Every field of KServe's `v1beta1` and of the Kubernetes types within it that is not in `v1beta1`'s types here.
pub(crate) const GROUPS: &[Group] = &[
    Group {
        parent: "",
        fields: &["status"],
        severity: Severity::Warning,
        message: "written by the controller: it has no effect in a manifest",
    },
    Group {
        parent: "metadata",
        fields: &[
            "creationTimestamp",
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "generation",
            "managedFields",
            "ownerReferences",
            "resourceVersion",
            "selfLink",
            "uid",
        ],
        severity: Severity::Warning,
        message: "written by Kubernetes: it has no effect in a manifest",
    },
    Group {
        parent: "metadata",
        fields: &["finalizers"],
        severity: Severity::Warning,
        message: "a field of Kubernetes that Pilotlight does not support yet: it has no effect",
    },
    Group {
        parent: "metadata",
        fields: &["generateName"],
        severity: Severity::Fault,
        message: "names are not made up here: give `metadata.name`",
    },
    Group {
        parent: "spec",
        fields: &["canary", "explainer", "transformer"],
        severity: Severity::Warning,
        message: "a component of KServe that Pilotlight does not support yet: requests go to the predictor alone",
    },
    Group {
        parent: "spec.predictor",
        fields: &[
            "huggingface",
            "lightgbm",
            "paddle",
            "pmml",
            "pytorch",
            "sklearn",
            "tensorflow",
            "triton",
            "xgboost",
        ],
        severity: Severity::Fault,
        message: "this model format is not supported, only ONNX is: export the model to ONNX and give `model` with \
                  `modelFormat: {name: onnx}`",
    },
    Group {
        parent: "spec.predictor",
        fields: &["containers"],
        severity: Severity::Fault,
        message: "custom containers are not supported yet: give a `model`",
    },
    Group {
        parent: "spec.predictor",
        fields: &["storageUris"],
        severity: Severity::Fault,
        message: "several storage locations are not supported yet: give one `model.storageUri`",
    },
    Group {
        parent: "spec.predictor",
        fields: &[
            "autoScaling",
            "canaryTrafficPercent",
            "deploymentStrategy",
            "labels",
            "logger",
            "name",
            "scaleMetricType",
            "storageContainerName",
            "workerSpec",
        ],
        severity: Severity::Warning,
        message: NOT_YET,
    },
    Group {
        parent: "spec.predictor",
        fields: POD_FIELDS,
        severity: Severity::Warning,
        message: POD_MESSAGE,
    },
    Group {
        parent: "spec.predictor.model",
        fields: &["confidential", "runtime", "runtimeVersion"],
        severity: Severity::Warning,
        message: NOT_YET,
    },
    Group {
        parent: "spec.predictor.model",
        fields: &["storage"],
        severity: Severity::Fault,
        message: "storage by secret is not supported yet: give `storageUri`",
    },
    Group {
        parent: "spec.predictor.model",
        fields: &["name"],
        severity: Severity::Fault,
        message: "KServe rejects a container name here: the model's name is `metadata.name`; remove the field",
    },
    Group {
        parent: "spec.predictor.model",
        fields: CONTAINER_FIELDS,
        severity: Severity::Warning,
        message: NOT_YET,
    },
    Group {
        parent: "spec.predictor.onnx",
        fields: &["runtimeVersion"],
        severity: Severity::Warning,
        message: NOT_YET,
    },
    Group {
        parent: "spec.predictor.onnx",
        fields: &["storage"],
        severity: Severity::Fault,
        message: "storage by secret is not supported yet: give `storageUri`",
    },
    Group {
        parent: "spec.predictor.onnx",
        fields: &["name"],
        severity: Severity::Fault,
        message: "KServe rejects a container name here: the model's name is `metadata.name`; remove the field",
    },
    Group {
        parent: "spec.predictor.onnx",
        fields: CONTAINER_FIELDS,
        severity: Severity::Warning,
        message: NOT_YET,
    },
    Group {
        parent: "spec.predictor.model.env[]",
        fields: &["valueFrom"],
        severity: Severity::Warning,
        message: NOT_YET,
    },
    Group {
        parent: "spec.predictor.onnx.env[]",
        fields: &["valueFrom"],
        severity: Severity::Warning,
        message: NOT_YET,
    },
    Group {
        parent: "spec.predictor.model.resources",
        fields: &["claims"],
        severity: Severity::Warning,
        message: NOT_YET,
    },
    Group {
        parent: "spec.predictor.onnx.resources",
        fields: &["claims"],
        severity: Severity::Warning,
        message: NOT_YET,
    },
    Group {
        parent: "spec.predictor.batcher",
        fields: &["timeout"],
        severity: Severity::Warning,
        message: "KServe has this field and never reads it, and neither does Pilotlight: the deadline of a request is \
                  `spec.predictor.timeout`",
    },
];

const POD_MESSAGE: &str = "a field of the pod, and Pilotlight runs local processes so far: it has no effect";

/// Kubernetes' `PodSpec`, which KServe takes inline in a component.
pub(crate) const POD_FIELDS: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "hostname",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];

/// Kubernetes' `Container`, which KServe takes inline in a model.
pub(crate) const CONTAINER_FIELDS: &[&str] = &[
    "command",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "restartPolicy",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];

/// The group that `field` below `parent` (a path without indices) belongs to.
pub(crate) fn find(parent: &str, field: &str) -> Option<&'static Group> {
    GROUPS
        .iter()
        .find(|group| group.parent == parent && group.fields.contains(&field))
}

/// The known names below `parent`, for suggestions.
pub(crate) fn names(parent: &str) -> impl Iterator<Item = &'static str> {
    GROUPS
        .iter()
        .filter(move |group| group.parent == parent)
        .flat_map(|group| group.fields.iter().copied())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::schema;

    #[test]
    fn a_field_is_either_supported_or_known_and_in_one_group() {
        let supported: HashSet<String> = schema::fields().into_iter().map(|(path, _)| path).collect();
        let mut seen = HashSet::new();
        for group in GROUPS {
            assert!(
                group.parent.is_empty() || supported.contains(group.parent.trim_end_matches("[]")),
                "{}",
                group.parent
            );
            for field in group.fields {
                let path = crate::path::child(group.parent, field);
                assert!(!supported.contains(&path), "{path} is supported");
                assert!(seen.insert(path.clone()), "{path} is listed twice");
            }
        }
    }
}
