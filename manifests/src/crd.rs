//! The `CustomResourceDefinition`s that make a Kubernetes API server take our manifests, made from the types.

use serde_json::{Value, json};

use crate::{schema, v1alpha1, yaml};

/// Canaries of one service at most. Their names and shares are compared with one another by the API server.
const MAX_CANARIES: u32 = 16;

/// How a definition is made.
type Make = fn() -> Value;

/// The definitions and the files under `manifests/crds/` that hold them.
pub const CRD_FILES: &[(&str, Make)] = &[
    ("inferenceservices.yaml", inference_services),
    ("servingruntimes.yaml", serving_runtimes),
    ("clusterservingruntimes.yaml", cluster_serving_runtimes),
];

/// Every `CustomResourceDefinition`, as YAML documents.
///
/// Names, printer columns and the status subresource are KServe's. Fields that KServe has and we don't are kept by the API
/// server, so that the pod's are passed on and of the others the controller can say that they have no effect.
pub fn crds() -> String {
    let documents: Vec<String> = CRD_FILES.iter().map(|(_, make)| document(&make())).collect();
    documents.join("---\n")
}

/// One definition as the text of its file.
pub fn document(definition: &Value) -> String {
    format!("# Made by `pilotlight crds`; do not edit.\n{}", yaml::write(definition))
}

/// What the definitions differ in.
struct Resource {
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    scope: &'static str,
    version: &'static str,
    columns: Value,
    schema: Value,
    with_status: bool,
}

fn definition(resource: Resource) -> Value {
    let singular = resource.kind.to_ascii_lowercase();
    let mut names = json!({
        "kind": resource.kind,
        "listKind": format!("{}List", resource.kind),
        "plural": resource.plural,
        "singular": singular,
    });
    if !resource.short.is_empty() {
        names["shortNames"] = json!(resource.short);
    }
    let mut version = json!({
        "name": resource.version,
        "served": true,
        "storage": true,
        "additionalPrinterColumns": resource.columns,
        "schema": { "openAPIV3Schema": resource.schema },
    });
    if resource.with_status {
        version["subresources"] = json!({ "status": {} });
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{}.{}", resource.plural, crate::kubernetes::GROUP) },
        "spec": {
            "group": crate::kubernetes::GROUP,
            "names": names,
            "scope": resource.scope,
            "versions": [version],
        },
    })
}

fn inference_services() -> Value {
    definition(Resource {
        kind: "InferenceService",
        plural: "inferenceservices",
        short: &["isvc"],
        scope: "Namespaced",
        version: "v1beta1",
        columns: columns(),
        schema: open_api(),
        with_status: true,
    })
}

fn serving_runtimes() -> Value {
    definition(Resource {
        kind: "ServingRuntime",
        plural: "servingruntimes",
        short: &[],
        scope: "Namespaced",
        version: "v1alpha1",
        columns: runtime_columns(),
        schema: runtime_schema(),
        with_status: false,
    })
}

fn cluster_serving_runtimes() -> Value {
    definition(Resource {
        kind: "ClusterServingRuntime",
        plural: "clusterservingruntimes",
        short: &[],
        scope: "Cluster",
        version: "v1alpha1",
        columns: runtime_columns(),
        schema: runtime_schema(),
        with_status: false,
    })
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
        "onnx/properties/resources",
        "batcher",
    ] {
        mark_open(schema.pointer_mut(&format!("/properties/spec/properties/predictor/properties/{path}")));
    }
    for key in ["model", "onnx"] {
        // A runtime of the user's may bring the model with it; for ours the controller says that it is missing.
        let model = schema.pointer_mut(&format!(
            "/properties/spec/properties/predictor/properties/{key}/required"
        ));
        if let Some(required) = model.and_then(Value::as_array_mut) {
            required.retain(|name| name != "storageUri");
        }
    }
    for key in ["model", "onnx"] {
        let path = format!("/properties/spec/properties/predictor/properties/{key}");
        let model = schema.pointer_mut(&path).and_then(Value::as_object_mut);
        if let Some(model) = model.filter(|model| model.get("required") == Some(&json!([]))) {
            model.remove("required");
        }
    }
    add_cluster_fields(&mut schema);
    add_rules(&mut schema);
    add_metadata(&mut schema);
    schema["properties"]["status"] = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    schema
}

/// Fields that only a cluster heeds, so that the types of the files don't have them.
fn add_cluster_fields(schema: &mut Value) {
    let predictor = &mut schema["properties"]["spec"]["properties"]["predictor"]["properties"];
    predictor["canaryTrafficPercent"] = json!({
        "description": "Share of the requests, in percent, that the predictor as it stands now gets; the revision that ran \
                        before keeps the rest. Absent or 100: all of them.",
        "type": "integer",
        "minimum": 0,
        "maximum": 100,
    });
    predictor["model"]["properties"]["runtime"] = json!({
        "description": "A ServingRuntime of the namespace, or a ClusterServingRuntime. Default: Pilotlight's own for ONNX, and \
                        for other formats the one that selects itself.",
        "type": "string",
    });
    schema["properties"]["spec"]["properties"]["canary"] = json!({
        "description": "Other predictors beside the first, each with a share of the requests. The first one gets the rest.",
        "type": "array",
        "maxItems": MAX_CANARIES,
        "items": {
            "type": "object",
            "required": ["predictor", "trafficPercent"],
            "properties": {
                "predictor": {
                    "description": "As `spec.predictor`, with a `name`. Bounds and targets of scaling are those of the first one.",
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": { "type": "string", "minLength": 1, "maxLength": 53 },
                    },
                    "x-kubernetes-preserve-unknown-fields": true,
                },
                "trafficPercent": {
                    "description": "Its share of the requests in percent; 0 is reached by no request.",
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 100,
                },
            },
        },
        "x-kubernetes-validations": [
            {
                "rule": "self.map(one, one.trafficPercent).sum() <= 100",
                "message": "the shares of all canaries are 100 % at most",
            },
            {
                "rule": "self.all(one, self.exists_one(other, other.predictor.name == one.predictor.name))",
                "message": "every canary has a name of its own",
            },
        ],
    });
}

/// What has to hold between fields, so that the API server says it at once.
fn add_rules(schema: &mut Value) {
    schema["x-kubernetes-validations"] = json!([
        {
            "rule": "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "message": "a name is a-z, 0-9 and -, beginning with a letter and ending with a letter or digit",
        },
        {
            "rule": "size(self.metadata.name) <= 53",
            "message": "a name has at most 53 characters: -predictor is added to it",
        },
    ]);
    schema["properties"]["spec"]["properties"]["predictor"]["x-kubernetes-validations"] = json!([
        {
            "rule": "!has(self.minReplicas) || !has(self.maxReplicas) || self.maxReplicas == 0 || self.minReplicas <= self.maxReplicas",
            "message": "'MinReplicas' cannot be greater than MaxReplicas",
        },
        {
            "rule": "!has(self.model) || !has(self.onnx)",
            "message": "onnx is the old form of model: keep one of the two",
        },
    ]);
}

/// The API server has its own schema of metadata and allows no other here but of the name, which rules may look at.
fn add_metadata(schema: &mut Value) {
    schema["properties"]["metadata"] =
        json!({ "type": "object", "properties": { "name": { "type": "string", "maxLength": 253 } } });
}

fn runtime_schema() -> Value {
    let mut schema = schema::structural::<v1alpha1::ServingRuntime>();
    for (name, text) in [
        ("apiVersion", "`serving.kserve.io/v1alpha1`."),
        ("kind", "`ServingRuntime` or `ClusterServingRuntime`."),
    ] {
        schema["properties"][name] = json!({ "description": text, "type": "string" });
    }
    add_metadata(&mut schema);
    mark_open(schema.pointer_mut("/properties/spec"));
    let containers = &mut schema["properties"]["spec"]["properties"]["containers"];
    containers["items"] = json!({ "type": "object" });
    mark_open(containers.get_mut("items"));
    schema
}

fn runtime_columns() -> Value {
    json!([
        { "name": "Disabled", "type": "boolean", "jsonPath": ".spec.disabled" },
        { "name": "ModelType", "type": "string", "jsonPath": ".spec.supportedModelFormats[*].name" },
        { "name": "Containers", "type": "string", "jsonPath": ".spec.containers[*].name" },
        { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
    ])
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
