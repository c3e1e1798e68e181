//! The pod template: containers, the model's volume, and what runtime and user add.

use std::collections::BTreeMap;

use pilotlight_manifests::{
    Service, Storage,
    kubernetes::{
        ANNOTATION_MODEL, COMPONENT_PREDICTOR, LABEL_APP, LABEL_BACKEND, LABEL_COMPONENT, LABEL_INFERENCE_SERVICE,
        Workload,
    },
};
use serde_json::{Map, Value, json};

use super::{
    Settings,
    container::{self, CACHE_VOLUME, MODEL_VOLUME},
};
use crate::kubernetes::runtimes::{NoRuntime, Runtime};

/// Fields whose lists are extended and not replaced, an element of the same name (or other key) excepted.
const EXTENDED: &[(&str, &str)] = &[
    ("containers", "name"),
    ("env", "name"),
    ("envFrom", ""),
    ("imagePullSecrets", "name"),
    ("initContainers", "name"),
    ("tolerations", ""),
    ("volumeMounts", "mountPath"),
    ("volumes", "name"),
];

/// The unprivileged user of distroless images.
const USER: u32 = 65_532;

/// The pod template of a workload.
pub(super) fn template(
    service: &Service,
    runtime: &Runtime,
    settings: &Settings,
    workload: &Workload,
) -> Result<Value, NoRuntime> {
    let mut spec = json!({
        "terminationGracePeriodSeconds": container::grace_seconds(service, settings),
        // Variables for every Service of the namespace cost seconds where there are many.
        "enableServiceLinks": false,
    });
    if *runtime == Runtime::Own {
        merge(
            &mut spec,
            &json!({
                "automountServiceAccountToken": false,
                "securityContext": {
                    "runAsNonRoot": true,
                    "runAsUser": USER,
                    "fsGroup": USER,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "volumes": [{ "name": CACHE_VOLUME, "emptyDir": {} }],
            }),
        );
    }
    let (mut labels, mut annotations) = (BTreeMap::new(), BTreeMap::new());
    if let Runtime::Serving { runtime, .. } = runtime {
        let mut pod = runtime.spec.pod.clone();
        for key in NOT_OF_PODS {
            pod.remove(*key);
        }
        merge(&mut spec, &pod.into());
        labels.extend(runtime.spec.labels.clone());
        annotations.extend(runtime.spec.annotations.clone());
    }
    let mut pod = service.cluster.pod.clone();
    pod.remove("containers");
    merge(&mut spec, &pod.into());
    if let Some(volume) = model_volume(&service.storage) {
        merge(&mut spec, &json!({ "volumes": [volume] }));
    }
    spec["containers"] = container::containers(service, runtime, settings)?.into();
    labels.extend(service.cluster.labels.clone());
    annotations.extend(service.cluster.annotations.clone());
    labels.extend(
        [
            (LABEL_APP, workload.app()),
            (LABEL_COMPONENT, COMPONENT_PREDICTOR.to_owned()),
            (LABEL_INFERENCE_SERVICE, workload.name.clone()),
            (LABEL_BACKEND, workload.label()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    if *runtime == Runtime::Own && container::is_generic(service) {
        annotations.insert(ANNOTATION_MODEL.to_owned(), container::model(service)?);
    }
    let mut metadata = json!({ "labels": labels });
    if !annotations.is_empty() {
        metadata["annotations"] = json!(annotations);
    }
    Ok(json!({ "metadata": metadata, "spec": spec }))
}

/// Fields of a ServingRuntime that are KServe's own and no pod's.
const NOT_OF_PODS: &[&str] = &[
    "builtInAdapter",
    "grpcDataEndpoint",
    "grpcEndpoint",
    "httpDataEndpoint",
    "replicas",
    "storageHelper",
    "workerSpec",
];

fn model_volume(storage: &Storage) -> Option<Value> {
    match storage {
        Storage::Claim { claim, .. } => Some(json!({
            "name": MODEL_VOLUME,
            "persistentVolumeClaim": { "claimName": claim, "readOnly": true },
        })),
        Storage::Image(reference) => Some(json!({
            "name": MODEL_VOLUME,
            "image": { "reference": reference, "pullPolicy": "IfNotPresent" },
        })),
        _ => None,
    }
}

/// Puts `over` over `base`: mappings within each other, lists of named things by their names, everything else replaced.
pub(super) fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge_field(base, key, value);
            }
        }
        (base, over) => base.clone_from(over),
    }
}

fn merge_field(base: &mut Map<String, Value>, key: &str, value: &Value) {
    let rule = EXTENDED.iter().find(|(name, _)| *name == key);
    match (base.get_mut(key), value, rule) {
        (Some(Value::Array(items)), Value::Array(more), Some((_, by))) => {
            for item in more {
                let same = |other: &&mut Value| !by.is_empty() && !item[*by].is_null() && other[*by] == item[*by];
                match items.iter_mut().find(same) {
                    Some(found) => found.clone_from(item),
                    None => items.push(item.clone()),
                }
            }
        }
        (Some(inner @ Value::Object(_)), Value::Object(_), _) => merge(inner, value),
        _ => {
            base.insert(key.to_owned(), value.clone());
        }
    }
}
