//! The `CustomResourceDefinition` that makes a Kubernetes API server take our manifests.

use serde_json::{Value, json};

use crate::{schema, yaml};

/// The `CustomResourceDefinition` of `inferenceservices.serving.kserve.io`, as YAML, made from the types.
///
/// Names, printer columns and the status subresource are KServe's. Fields that KServe has and we don't are kept by the API
/// server, so that the controller can say that they have no effect.
pub fn crds() -> String {
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "inferenceservices.serving.kserve.io" },
        "spec": {
            "group": "serving.kserve.io",
            "names": {
                "kind": "InferenceService",
                "listKind": "InferenceServiceList",
                "plural": "inferenceservices",
                "shortNames": ["isvc"],
                "singular": "inferenceservice",
            },
            "scope": "Namespaced",
            "versions": [{
                "name": "v1beta1",
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": columns(),
                "schema": { "openAPIV3Schema": open_api() },
            }],
        },
    });
    format!(
        "# Made by `pilotlight crds`; do not edit.\n{}",
        yaml::write(&definition)
    )
}

fn open_api() -> Value {
    let mut schema = schema::inference_service().clone();
    for path in ["/properties/spec", "/properties/spec/properties/predictor"] {
        mark_open(schema.pointer_mut(path));
    }
    for path in [
        "model",
        "model/properties/env/items",
        "model/properties/resources",
        "onnx",
        "onnx/properties/env/items",
    ] {
        mark_open(schema.pointer_mut(&format!("/properties/spec/properties/predictor/properties/{path}")));
    }
    mark_open(schema.pointer_mut("/properties/spec/properties/predictor/properties/batcher"));
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        // The API server has its own schema of metadata and allows no other here.
        properties.insert("metadata".to_owned(), json!({ "type": "object" }));
        properties.insert(
            "status".to_owned(),
            json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true }),
        );
    }
    schema
}

fn mark_open(schema: Option<&mut Value>) {
    if let Some(Value::Object(object)) = schema {
        object.insert("x-kubernetes-preserve-unknown-fields".to_owned(), true.into());
    }
}

fn columns() -> Value {
    let traffic = |name: &str, filter: &str, field: &str, kind: &str| json!({ "name": name, "type": kind, "jsonPath": format!(".status.components.predictor.traffic[?(@.{filter})].{field}") });
    json!([
        { "name": "URL", "type": "string", "jsonPath": ".status.url" },
        { "name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status" },
        traffic("Prev", "tag=='prev'", "percent", "integer"),
        traffic("Latest", "latestRevision==true", "percent", "integer"),
        traffic("PrevRolledoutRevision", "tag=='prev'", "revisionName", "string"),
        traffic("LatestReadyRevision", "latestRevision==true", "revisionName", "string"),
        { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
    ])
}
