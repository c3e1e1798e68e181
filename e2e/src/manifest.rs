//! Builds manifests as a user would write them.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

/// An `InferenceService`, built up and then written with [`Manifest::yaml`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Manifest {
    name: String,
    namespace: Option<String>,
    annotations: BTreeMap<String, String>,
    /// Fields of `spec.predictor`, each a line of YAML.
    predictor: Vec<String>,
    storage: String,
    /// Fields of the model, each a line of YAML.
    of_model: Vec<String>,
    /// `canary[]` of the spec, each entry lines of YAML.
    canaries: Vec<String>,
}

impl Manifest {
    /// A service `name` of the model file `model` that scales to zero after the shortest window that Knative allows, 6 s.
    pub fn new(name: &str, model: impl AsRef<Path>) -> Self {
        let manifest = Self {
            name: name.to_owned(),
            namespace: None,
            annotations: BTreeMap::new(),
            predictor: Vec::new(),
            storage: model.as_ref().display().to_string(),
            of_model: Vec::new(),
            canaries: Vec::new(),
        };
        manifest.annotation("autoscaling.knative.dev/window", "6s").min(0)
    }

    /// The name of the service.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts it into another namespace than the default one.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Sets an annotation, given with its whole key.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets `minReplicas`.
    pub fn min(self, replicas: u32) -> Self {
        self.field("minReplicas", &replicas.to_string())
    }

    /// Sets `maxReplicas`.
    pub fn max(self, replicas: u32) -> Self {
        self.field("maxReplicas", &replicas.to_string())
    }

    /// Sets `containerConcurrency`.
    pub fn concurrency(self, requests: u32) -> Self {
        self.field("containerConcurrency", &requests.to_string())
    }

    /// Sets what the model's pods request, in Kubernetes' quantities.
    pub fn requests(self, cpu: &str, memory: &str) -> Self {
        self.model_field(
            "resources",
            &format!("{{ requests: {{ cpu: {cpu}, memory: {memory} }} }}"),
        )
    }

    /// Sets a field of the model to a YAML value; the last value given for a key counts.
    pub fn model_field(mut self, key: &str, value: &str) -> Self {
        self.of_model.retain(|line| !line.starts_with(&format!("{key}:")));
        self.of_model.push(format!("{key}: {value}"));
        self
    }

    /// Adds an entry of `canary[]`: another model file with a name and a share of the requests.
    pub fn canary(mut self, name: &str, percent: u32, model: &str) -> Self {
        let mut lines = vec![
            format!("- trafficPercent: {percent}"),
            "  predictor:".to_owned(),
            format!("    name: {name}"),
            "    model:".to_owned(),
            "      modelFormat: { name: onnx }".to_owned(),
            format!("      storageUri: {model}"),
        ];
        lines.extend(self.of_model.iter().map(|line| format!("      {line}")));
        self.canaries.extend(lines);
        self
    }

    /// Sets `timeout`, in seconds.
    pub fn timeout(self, seconds: u32) -> Self {
        self.field("timeout", &seconds.to_string())
    }

    /// Sets `batcher`: rows and milliseconds.
    pub fn batcher(self, max_batch_size: u32, max_latency: u32) -> Self {
        let value = format!("{{ maxBatchSize: {max_batch_size}, maxLatency: {max_latency} }}");
        self.field("batcher", &value)
    }

    /// Sets a field of `spec.predictor` to a YAML value; the last value given for a key counts.
    pub fn field(mut self, key: &str, value: &str) -> Self {
        self.predictor.retain(|line| !line.starts_with(&format!("{key}:")));
        self.predictor.push(format!("{key}: {value}"));
        self
    }

    /// Another model file for the same service.
    pub fn model(mut self, model: impl AsRef<Path>) -> Self {
        self.storage = model.as_ref().display().to_string();
        self
    }

    /// The document. Ends with a line break, so that documents joined with `---` lines make a file.
    pub fn yaml(&self) -> String {
        let mut text = String::from("apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n");
        let _ = writeln!(text, "  name: {}", self.name);
        if let Some(namespace) = &self.namespace {
            let _ = writeln!(text, "  namespace: {namespace}");
        }
        text.push_str("  annotations:\n");
        for (key, value) in &self.annotations {
            let _ = writeln!(text, "    {key}: \"{value}\"");
        }
        text.push_str("spec:\n  predictor:\n");
        for line in &self.predictor {
            let _ = writeln!(text, "    {line}");
        }
        let _ = write!(
            text,
            "    model:\n      modelFormat:\n        name: onnx\n      storageUri: {}\n",
            self.storage
        );
        for line in &self.of_model {
            let _ = writeln!(text, "      {line}");
        }
        if !self.canaries.is_empty() {
            text.push_str("  canary:\n");
        }
        for line in &self.canaries {
            let _ = writeln!(text, "    {line}");
        }
        text
    }
}
