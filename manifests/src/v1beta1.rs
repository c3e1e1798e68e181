//! `serving.kserve.io/v1beta1 InferenceService`: KServe's names, and the part of them that has an effect here.
//!
//! The doc comments, bounds and patterns below are the one source of the JSON schema, so of the checks with line and field, of
//! the CRD and of the reference in `manifests/README.md`. A field that KServe has and that is missing here is in
//! `known.rs`. Everything is optional in the types, so that a document with faults can still be looked through for
//! more of them; what a document must have is `required` in the schema.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `apiVersion` of the documents.
pub const API_VERSION: &str = "serving.kserve.io/v1beta1";
/// `kind` of the documents.
pub const KIND: &str = "InferenceService";

/// A model to serve.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InferenceService {
    /// `serving.kserve.io/v1beta1`.
    #[schemars(required)]
    pub api_version: Option<String>,
    /// `InferenceService`.
    #[schemars(required)]
    pub kind: Option<String>,
    /// Its name and annotations.
    #[schemars(required)]
    pub metadata: Option<Metadata>,
    /// What to serve and how.
    #[schemars(required)]
    pub spec: Option<Spec>,
}

/// Kubernetes' object metadata, the part that a user writes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name of the service and of its model in every protocol: `a-z`, `0-9` and `-`, beginning with a letter, at most 53
    /// characters, and at most 62 together with the namespace.
    #[schemars(required)]
    pub name: Option<String>,
    /// Namespace: a DNS label. Default `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Free labels; they select and show, and change nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Options of the table of annotations, and free ones of other domains.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What to serve and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// The component that answers.
    #[schemars(required)]
    pub predictor: Option<Predictor>,
}

/// The component that answers: a model, and how it scales and batches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Predictor {
    /// The model. Required, unless it is given as `onnx`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// The old form of `model` with `modelFormat: {name: onnx}`; as KServe does, it is read as that, with `protocolVersion: v2`
    /// where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub onnx: Option<OnnxModel>,
    /// Replicas that stay while there is no traffic. Default 1; 0 scales to zero.
    #[schemars(range(min = 0, max = 100_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i64>,
    /// Replicas at most. Default 0: unlimited.
    #[schemars(range(min = 0, max = 100_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i64>,
    /// Requests in flight that one replica is meant for; 70 % of it is aimed at. Default `containerConcurrency`, or 100. Goes
    /// before the annotation `autoscaling.knative.dev/target`.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_target: Option<i64>,
    /// What is scaled on. Default and only one so far: `concurrency`. Goes before the annotation
    /// `autoscaling.knative.dev/metric`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_metric: Option<ScaleMetric>,
    /// Requests in flight on one replica at most; more wait in the activator. Default 0: unlimited.
    #[schemars(range(min = 0, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_concurrency: Option<i64>,
    /// Seconds that the runtime has for a request, from its arrival there; past it the client gets a 504. Default 5.
    #[schemars(range(min = 1, max = 86_400))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    /// How requests are batched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batcher: Option<Batcher>,
    /// Like `metadata.annotations`, and before them where both have one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The model's file and the process that runs it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// The model's format.
    #[schemars(required)]
    pub model_format: Option<ModelFormat>,
    /// Where the model is: a path, relative to the manifest's file, or a URI such as `s3://BUCKET/KEY`. Schemes: `file`, `s3`,
    /// `gs`, `https`, `http`, `az`, `abfs`, and in Kubernetes `pvc://CLAIM/PATH`. An `.onnx` file, or a directory (or an
    /// archive: tar, tar.gz, zip) that holds exactly one. After `#sha256=` a checksum of what is fetched.
    #[schemars(required)]
    pub storage_uri: Option<String>,
    /// The protocol that clients are told of; V1 and V2 are answered whatever it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<ProtocolVersion>,
    /// More arguments for the runtime, after those that follow from the manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment of the runtime.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Requests and limits. `nvidia.com/gpu` chooses CUDA; the others are checked, not enforced on local processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

/// The model under its old key: as `model`, the format being the key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnnxModel {
    /// As `model.storageUri`.
    #[schemars(required)]
    pub storage_uri: Option<String>,
    /// As `model.protocolVersion`, default `v2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<ProtocolVersion>,
    /// As `model.args`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// As `model.env`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// As `model.resources`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

impl From<OnnxModel> for Model {
    fn from(old: OnnxModel) -> Self {
        Self {
            model_format: Some(ModelFormat {
                name: Some("onnx".to_owned()),
                version: None,
            }),
            storage_uri: old.storage_uri,
            protocol_version: old.protocol_version.or(Some(ProtocolVersion::V2)),
            args: old.args,
            env: old.env,
            resources: old.resources,
        }
    }
}

/// A model's format.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelFormat {
    /// `onnx`.
    #[schemars(required)]
    pub name: Option<String>,
    /// Version of the format, free text: an ONNX file says its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// An inference protocol, KServe's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProtocolVersion {
    #[serde(rename = "v1")]
    #[allow(missing_docs)]
    V1,
    #[serde(rename = "v2")]
    #[allow(missing_docs)]
    V2,
    #[serde(rename = "grpc-v1")]
    #[allow(missing_docs)]
    GrpcV1,
    #[serde(rename = "grpc-v2")]
    #[allow(missing_docs)]
    GrpcV2,
}

/// A metric to scale on, KServe's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ScaleMetric {
    Concurrency,
    Rps,
    Cpu,
    Memory,
}

/// One variable of the runtime's environment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Name: letters, digits and `_`, not beginning with a digit.
    #[schemars(required, regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: Option<String>,
    /// Value. Default: the empty string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Kubernetes' resource requirements.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What a replica may use at most, by resource: `cpu`, `memory`, ...
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Quantity>,
    /// What a replica is sure to get, by resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Quantity>,
}

/// A Kubernetes quantity as written: a number, or a string like `500m` or `2Gi`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Quantity(pub Value);

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true, "anyOf": [{ "type": "integer" }, { "type": "string" }] })
    }
}

/// How requests are batched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Batcher {
    /// Rows in one batch at most. Default 32.
    #[schemars(range(min = 1, max = 65_536))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_size: Option<i64>,
    /// Milliseconds that a request may wait for company. Default 0: an idle device takes what waits at once. (KServe's default
    /// is 5000, which delays every lone request by 5 s.)
    #[schemars(range(min = 0, max = 60_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_latency: Option<i64>,
}
