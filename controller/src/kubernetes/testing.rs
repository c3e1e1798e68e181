//! Services and runtimes for tests, made by the parser as the API server's objects are.

use std::sync::Arc;

use pilotlight_manifests::{Service, parse_object, v1alpha1::ServingRuntime};
use serde_json::{Value, json};

/// The service `iris` of the namespace `shop` with this predictor.
pub(crate) fn service(predictor: Value) -> Service {
    let parsed = parse_object(&json!({
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": { "name": "iris", "namespace": "shop" },
        "spec": { "predictor": predictor },
    }));
    assert_eq!(parsed.faults, []);
    parsed.services.into_iter().next().expect("one service")
}

/// An ONNX service from a claim, with these keys of the predictor beside the model.
pub(crate) fn onnx(more: Value) -> Service {
    let mut predictor =
        json!({ "model": { "modelFormat": { "name": "onnx" }, "storageUri": "pvc://models/iris.onnx" } });
    let more = more.as_object().expect("an object").clone();
    predictor.as_object_mut().expect("an object").extend(more);
    service(predictor)
}

/// A runtime with these formats and one container.
pub(crate) fn runtime(name: &str, formats: Value) -> Arc<ServingRuntime> {
    let runtime = json!({
        "metadata": { "name": name },
        "spec": {
            "supportedModelFormats": formats,
            "containers": [{
                "name": "kserve-container",
                "image": "server:1",
                "args": ["--model_name={{.Name}}", "--http_port=8080"],
                "env": [{ "name": "A", "value": "runtime" }],
                "resources": { "requests": { "cpu": "1" } },
            }],
        },
    });
    Arc::new(serde_json::from_value(runtime).expect("a runtime"))
}
