//! An `InferenceService` as the API server holds it: the same fields and rules as in a file, and beside them the pod around the
//! runtime, which a cluster heeds and a single machine can't.
//!
//! What only a cluster understands is taken out of the object first and kept as it is written; the rest goes through the same
//! parser as a file, so that both homes mean the same by the same manifest.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value, json};

use crate::{
    AutoscalerClass, Cluster, Fault, Parsed, Storage, canary,
    known::{CONTAINER_FIELDS, POD_FIELDS},
    kubernetes::{ANNOTATION_AUTOSCALER_CLASS, LABEL_INFERENCE_SERVICE},
    v1alpha1::ServingRuntime,
};

/// Keys of the predictor that stand for a model of the format that they name.
const FORMAT_KEYS: [&str; 10] = [
    "huggingface",
    "lightgbm",
    "onnx",
    "paddle",
    "pmml",
    "pytorch",
    "sklearn",
    "tensorflow",
    "triton",
    "xgboost",
];
/// Keys of the predictor that hold back nothing of what is meant, as the cluster's autoscalers and routers read them.
const PASSED_BY: [&str; 3] = ["autoScaling", "scaleMetricType", "canaryTrafficPercent"];
/// What stands for a storage of which only the cluster knows while the parser looks at the rest.
const STAND_IN: &str = "/";

/// Reads an object of the API server: one service, or the faults that keep it from being one. Warnings hinder nothing. Never
/// panics, whatever the object; `Service::source` names no file.
pub fn parse_object(object: &Value) -> Parsed {
    let mut faults = Vec::new();
    let canaries = canary::canaries(object, parse_one, &mut faults);
    let mut parsed = parse_one(object);
    if let Some(stable) = parsed.services.first() {
        canary::check(stable, &canaries, &mut faults);
    }
    parsed.faults.append(&mut faults);
    if !parsed.faults.is_empty() {
        parsed.services.clear();
    }
    for service in &mut parsed.services {
        service.cluster.canaries.clone_from(&canaries);
    }
    parsed
}

/// Reads a `ServingRuntime` or `ClusterServingRuntime` of the API server; the error says what is wrong with it.
pub fn parse_runtime(object: &Value) -> Result<ServingRuntime, String> {
    serde_json::from_value(object.clone()).map_err(|error| error.to_string())
}

fn parse_one(object: &Value) -> Parsed {
    let mut taken = Taken::default();
    let document = taken.document(object);
    let mut parsed = crate::parse(&document.to_string(), Path::new(""));
    parsed.faults.append(&mut taken.faults);
    for service in &mut parsed.services {
        service.object = object.clone();
        service.cluster = std::mem::take(&mut taken.cluster);
        service.devices.gpus = service
            .cluster
            .container
            .get("resources")
            .map_or(0, crate::devices::gpus);
        if let Some(storage) = taken.storage.take() {
            service.storage = storage;
        }
    }
    parsed
}

/// A fault of an object that is no file's.
pub(crate) fn fault(field: &str, message: impl Into<String>) -> Fault {
    Fault {
        file: std::path::PathBuf::new(),
        line: 1,
        field: field.to_owned(),
        message: message.into(),
    }
}

/// What is taken out of the object before the parser looks at it.
#[derive(Default)]
struct Taken {
    cluster: Cluster,
    storage: Option<Storage>,
    faults: Vec<Fault>,
}

impl Taken {
    /// The object without what only a cluster understands.
    fn document(&mut self, object: &Value) -> Value {
        let mut document = Map::new();
        for key in ["apiVersion", "kind"] {
            document.extend(object.get(key).map(|value| (key.to_owned(), value.clone())));
        }
        let mut metadata = Map::new();
        for key in ["name", "namespace", "labels", "annotations"] {
            metadata.extend(
                object
                    .pointer(&format!("/metadata/{key}"))
                    .map(|value| (key.to_owned(), value.clone())),
            );
        }
        self.class(metadata.get_mut("annotations"));
        self.cluster.labels = strings(metadata.get("labels"));
        document.insert("metadata".to_owned(), metadata.into());
        if let Some(spec) = object.get("spec") {
            let mut spec = spec.clone();
            if let Some(spec) = spec.as_object_mut() {
                spec.remove("canary");
                if let Some(predictor) = spec.get_mut("predictor").and_then(Value::as_object_mut) {
                    self.predictor(predictor);
                }
            }
            document.insert("spec".to_owned(), spec);
        }
        document.into()
    }

    fn predictor(&mut self, predictor: &mut Map<String, Value>) {
        self.class(predictor.get_mut("annotations"));
        // The workload's name stays ours: KServe's field adds to it.
        for key in PASSED_BY.iter().chain(&["name"]) {
            predictor.remove(*key);
        }
        self.cluster.strategy = predictor.remove("deploymentStrategy").unwrap_or_default();
        self.cluster.labels.extend(strings(predictor.remove("labels").as_ref()));
        self.cluster.labels.remove(LABEL_INFERENCE_SERVICE);
        self.cluster.annotations = strings(predictor.get("annotations"));
        self.cluster.pod = take(predictor, POD_FIELDS);
        if !self.cluster.autoscaler_class.is_own() {
            // Read by whoever scales then.
            predictor.remove("scaleMetric");
            predictor.remove("scaleTarget");
        }
        if let Some(containers) = predictor.remove("containers") {
            self.custom(predictor, containers);
            return;
        }
        if !predictor.contains_key("model")
            && let Some(key) = FORMAT_KEYS.iter().find(|key| predictor.contains_key(**key))
            && let Some(Value::Object(mut model)) = predictor.remove(*key)
        {
            model.insert("modelFormat".to_owned(), json!({ "name": key }));
            if *key == "onnx" && !model.contains_key("protocolVersion") {
                model.insert("protocolVersion".to_owned(), "v2".into());
            }
            predictor.insert("model".to_owned(), model.into());
        }
        if let Some(model) = predictor.get_mut("model").and_then(Value::as_object_mut) {
            self.model(model);
        }
    }

    /// Custom containers bring their model with them.
    fn custom(&mut self, predictor: &mut Map<String, Value>, containers: Value) {
        let given = containers.as_array().is_some_and(|list| !list.is_empty());
        if !given || predictor.contains_key("model") {
            self.faults.push(fault(
                "spec.predictor.containers",
                "expected a list with at least one container, and no `model` beside it",
            ));
        }
        self.cluster.pod.insert("containers".to_owned(), containers);
        self.storage = Some(Storage::Container);
        predictor.insert(
            "model".to_owned(),
            json!({ "modelFormat": { "name": "onnx" }, "storageUri": STAND_IN }),
        );
    }

    fn model(&mut self, model: &mut Map<String, Value>) {
        self.cluster.runtime = text(model.remove("runtime").as_ref());
        self.cluster.protocol = text(model.remove("protocolVersion").as_ref());
        self.cluster.container = take(model, CONTAINER_FIELDS);
        if let Some(resources) = model.remove("resources") {
            self.cluster.container.insert("resources".to_owned(), resources);
        }
        self.environment(model);
        if let Some(format) = model.get_mut("modelFormat").and_then(Value::as_object_mut) {
            self.cluster.format = text(format.get("name")).unwrap_or_default().to_ascii_lowercase();
            self.cluster.format_version = text(format.remove("version").as_ref());
            if format.get("name").is_some_and(Value::is_string) {
                format.insert("name".to_owned(), "onnx".into());
            }
        }
        self.storage(model);
    }

    /// The list goes to the pod as it is; the parser sees plain variables, whose values decide options of the runtime.
    fn environment(&mut self, model: &mut Map<String, Value>) {
        let Some(Value::Array(list)) = model.get_mut("env") else {
            return;
        };
        self.cluster.container.insert("env".to_owned(), list.clone().into());
        list.retain(|variable| variable.get("valueFrom").is_none());
    }

    /// What the parser of files does not know, and relative paths, which have no meaning here.
    fn storage(&mut self, model: &mut Map<String, Value>) {
        let field = "spec.predictor.model.storageUri";
        let uri = match model.get("storageUri") {
            Some(Value::String(uri)) => uri.clone(),
            // A runtime of the user's may need none.
            None if self.cluster.runtime.is_some() && !model.contains_key("storage") => {
                self.storage = Some(Storage::Container);
                model.insert("storageUri".to_owned(), STAND_IN.into());
                return;
            }
            _ => return,
        };
        let scheme = uri.split_once("://").map(|(scheme, _)| scheme);
        match (scheme, uri.split_once("://").map(|(_, rest)| rest)) {
            (Some("oci" | "oci+native"), Some(image)) if !image.is_empty() => {
                self.storage = Some(Storage::Image(image.to_owned()));
                model.insert("storageUri".to_owned(), STAND_IN.into());
            }
            (None, _) if !uri.trim().is_empty() => {
                let message = format!(
                    "found {}, and a path has no meaning in a cluster: give `pvc://CLAIM/PATH`, `s3://BUCKET/KEY`, \
                     `oci://IMAGE` or the like, or `file:///PATH` for a file in the container's image",
                    Fault::quote(&uri)
                );
                self.faults.push(fault(field, message));
            }
            _ => {}
        }
    }

    /// Reads the class and takes it away: the parser of files says that it has no effect.
    fn class(&mut self, annotations: Option<&mut Value>) {
        let Some(annotations) = annotations.and_then(Value::as_object_mut) else {
            return;
        };
        let class = match annotations.get(ANNOTATION_AUTOSCALER_CLASS).and_then(Value::as_str) {
            Some("hpa") => AutoscalerClass::Hpa,
            Some("keda") => AutoscalerClass::Keda,
            Some("external") => AutoscalerClass::External,
            Some("none") => AutoscalerClass::None,
            _ => return,
        };
        self.cluster.autoscaler_class = class;
        annotations.remove(ANNOTATION_AUTOSCALER_CLASS);
    }
}

fn take(object: &mut Map<String, Value>, keys: &[&str]) -> Map<String, Value> {
    keys.iter()
        .filter_map(|key| object.remove_entry(*key))
        .filter(|(_, value)| !value.is_null())
        .collect()
}

fn text(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).map(str::to_owned)
}

fn strings(value: Option<&Value>) -> BTreeMap<String, String> {
    let entries = value.and_then(Value::as_object).into_iter().flatten();
    entries
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Canary;
    use crate::Service;

    fn object(predictor: Value) -> Value {
        json!({
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {
                "name": "iris",
                "namespace": "shop",
                "uid": "1",
                "generation": 3,
                "managedFields": [],
                "finalizers": ["x"],
                "labels": { "team": "flowers" },
            },
            "spec": { "predictor": predictor },
            "status": { "url": "x" },
        })
    }

    fn one(predictor: Value) -> Service {
        let parsed = parse_object(&object(predictor));
        assert_eq!(parsed.faults, []);
        assert_eq!(parsed.warnings, []);
        parsed.services.into_iter().next().unwrap()
    }

    fn faults(predictor: Value) -> Vec<String> {
        let parsed = parse_object(&object(predictor));
        assert!(parsed.services.is_empty());
        parsed
            .faults
            .iter()
            .map(|fault| format!("{}: {}", fault.field, fault.message))
            .collect()
    }

    fn model(more: Value) -> Value {
        let mut model = json!({ "modelFormat": { "name": "onnx" }, "storageUri": "pvc://models/iris.onnx" });
        model.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        model
    }

    #[test]
    fn the_pod_around_the_runtime_is_passed_through_as_it_is_written() {
        let tolerations = json!([{ "key": "nvidia.com/gpu", "operator": "Exists" }]);
        let env = json!([
            { "name": "MAX_BATCH_SIZE", "value": "4" },
            { "name": "TOKEN", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } },
        ]);
        let service = one(json!({
            "minReplicas": 0,
            "nodeSelector": { "gpu": "true" },
            "tolerations": tolerations,
            "serviceAccountName": "me",
            "labels": { "tier": "gold" },
            "deploymentStrategy": { "type": "Recreate" },
            "model": model(json!({ "env": env, "resources": { "limits": { "nvidia.com/gpu": 1 } }, "args": ["--device", "cpu"] })),
        }));
        assert_eq!(service.cluster.pod["tolerations"], tolerations);
        assert_eq!(service.cluster.pod["nodeSelector"]["gpu"], "true");
        assert_eq!(service.cluster.container["env"], env);
        assert_eq!(service.cluster.container["resources"]["limits"]["nvidia.com/gpu"], 1);
        assert_eq!(service.devices.gpus, 1);
        assert_eq!(service.env, [("MAX_BATCH_SIZE".to_owned(), "4".to_owned())].into());
        assert_eq!(service.args, ["--device", "cpu"]);
        assert_eq!(service.cluster.strategy["type"], "Recreate");
        assert_eq!(
            service.cluster.labels,
            [("team", "flowers"), ("tier", "gold")]
                .map(|(k, v)| (k.into(), v.into()))
                .into()
        );
        assert_eq!(
            service.storage,
            Storage::Claim {
                claim: "models".into(),
                path: "iris.onnx".into()
            }
        );
    }

    #[test]
    fn the_class_says_who_scales_and_is_no_warning() {
        for (class, expected) in [("hpa", AutoscalerClass::Hpa), ("external", AutoscalerClass::External)] {
            let mut object = object(json!({ "scaleMetric": "cpu", "scaleTarget": 80, "model": model(json!({})) }));
            object["metadata"]["annotations"] = json!({ ANNOTATION_AUTOSCALER_CLASS: class });
            let parsed = parse_object(&object);
            assert_eq!((parsed.faults, parsed.warnings), (vec![], vec![]));
            assert_eq!(parsed.services[0].cluster.autoscaler_class, expected);
        }
        assert!(
            one(json!({ "model": model(json!({})) }))
                .cluster
                .autoscaler_class
                .is_own()
        );
    }

    #[test]
    fn other_formats_and_custom_containers_are_the_cluster_s_business() {
        let sklearn = one(json!({ "sklearn": { "storageUri": "pvc://models/m" } }));
        assert_eq!(sklearn.cluster.format, "sklearn");
        let custom = one(json!({ "containers": [{ "name": "kserve-container", "image": "x" }] }));
        assert_eq!(
            (custom.cluster.format.as_str(), &custom.storage),
            ("", &Storage::Container)
        );
        assert_eq!(custom.cluster.pod["containers"][0]["image"], "x");
    }

    #[test]
    fn an_image_is_a_storage_and_a_path_of_some_machine_is_not() {
        let image = one(json!({ "model": model(json!({ "storageUri": "oci://registry.example.com/iris:1" })) }));
        assert_eq!(image.storage, Storage::Image("registry.example.com/iris:1".into()));
        let faults = faults(json!({ "model": model(json!({ "storageUri": "models/iris.onnx" })) }));
        assert!(
            faults[0].starts_with("spec.predictor.model.storageUri: found `models/iris.onnx`"),
            "{faults:?}"
        );
    }

    #[test]
    fn a_canary_is_a_share_of_the_same_predictor() {
        let shared = one(json!({ "canaryTrafficPercent": 10, "model": model(json!({})) }));
        let canary = Canary {
            name: "canary".to_owned(),
            percent: 10,
            service: None,
        };
        assert_eq!(shared.cluster.canaries, [canary]);
        let whole = one(json!({ "canaryTrafficPercent": 100, "model": model(json!({})) }));
        assert_eq!(whole.cluster.canaries, []);
        assert_eq!(
            faults(json!({ "canaryTrafficPercent": 101, "model": model(json!({})) })),
            ["spec.predictor.canaryTrafficPercent: found 101, allowed is 0 to 100"]
        );
    }

    #[test]
    fn faults_are_those_of_a_file() {
        let faults = faults(json!({ "minReplicas": 3, "maxReplicas": 2, "model": model(json!({})) }));
        assert!(
            faults[0].contains("'MinReplicas' cannot be greater than MaxReplicas"),
            "{faults:?}"
        );
    }
}
