//! `serving.kserve.io/v1alpha1`: `ServingRuntime` and `ClusterServingRuntime`, KServe's names, and the part of them that has an
//! effect here. What is not named is the pod's and passed on as it is written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `apiVersion` of the documents.
pub const API_VERSION: &str = "serving.kserve.io/v1alpha1";

/// A way to serve models of some formats, of a namespace or of the whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServingRuntime {
    /// Name, namespace and the like.
    #[serde(default)]
    #[schemars(skip)]
    pub metadata: Metadata,
    /// What it serves and with which pod.
    #[schemars(required)]
    #[serde(default)]
    pub spec: Spec,
}

/// The metadata that choosing among runtimes needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its namespace; empty for the whole cluster's.
    #[serde(default)]
    pub namespace: String,
    /// When it was made, RFC 3339, so that the text orders as the time does.
    #[serde(default)]
    pub creation_timestamp: Option<String>,
}

/// What a runtime serves and with which pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// The formats that it serves.
    #[serde(default)]
    pub supported_model_formats: Vec<ModelFormat>,
    /// Whether one pod serves several models, in KServe's ModelMesh; such a runtime is never chosen.
    #[serde(default)]
    pub multi_model: Option<bool>,
    /// Whether it is not to be used.
    #[serde(default)]
    pub disabled: Option<bool>,
    /// The protocols that it speaks: `v1`, `v2`, `grpc-v1`, `grpc-v2`. None given: any.
    #[serde(default)]
    pub protocol_versions: Vec<String>,
    /// The pod's containers; the one called `kserve-container` serves the model.
    #[schemars(with = "Vec<BTreeMap<String, String>>", required, length(min = 1))]
    #[serde(default)]
    pub containers: Vec<Value>,
    /// Labels for the pods.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations for the pods.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Everything else: fields of Kubernetes' `PodSpec`.
    #[serde(flatten)]
    #[schemars(skip)]
    pub pod: Map<String, Value>,
}

/// A format that a runtime serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelFormat {
    /// Its name, as in `modelFormat.name`.
    #[schemars(required)]
    #[serde(default)]
    pub name: String,
    /// Its version, compared as text. None given: any.
    #[serde(default)]
    pub version: Option<String>,
    /// Whether the runtime may be chosen for this format without being named.
    #[serde(default)]
    pub auto_select: Option<bool>,
    /// Among runtimes that serve a format the highest is chosen. None given is the lowest.
    #[schemars(range(min = 1, max = 100_000))]
    #[serde(default)]
    pub priority: Option<i64>,
}
