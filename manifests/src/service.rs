//! The rules that span fields, and the [`Service`] that follows from a document that keeps them.

use std::{num::NonZeroU32, path::Path, time::Duration};

use serde_json::Value;

use crate::{
    Batching, Devices, Fault, GPU_RESOURCE, Service, Source, annotations,
    annotations::Settings,
    devices::DEFAULT_PRECISION,
    report::Report,
    storage,
    tree::Node,
    v1beta1::{EnvVar, InferenceService, Metadata, Model, Predictor, ProtocolVersion, Resources, ScaleMetric},
};

/// KServe's workloads are called `{name}-predictor`, and that is a label of 63 characters.
const MAX_NAME: usize = 53;
/// A DNS label.
const MAX_LABEL: usize = 63;
const PREDICTOR: [&str; 2] = ["spec", "predictor"];

/// The service that `checked` (the document's good parts) makes; `None` where the document has faults, from before or found
/// here.
pub(crate) fn build(root: &Node, checked: Value, file: &Path, report: &mut Report<'_>) -> Option<Service> {
    let document: InferenceService = match serde_json::from_value(checked) {
        Ok(document) => document,
        Err(error) => {
            report.fault(root.line_of(&[]), "", error.to_string());
            return None;
        }
    };
    let metadata = document.metadata.unwrap_or_default();
    let predictor = document.spec.unwrap_or_default().predictor;
    let namespace = check_names(&metadata, root, report);
    let settings = read_settings(root, report);
    let mut rules = Rules { root, report };
    let predictor = predictor?;
    let model = rules.model(&predictor);
    let storage = model.as_ref().and_then(|(key, model)| rules.storage(key, model, file));
    let mut settings = rules.scaling(&predictor, settings);
    if let Some(batcher) = &predictor.batcher {
        let batching = &mut settings.batching;
        batching.max_batch_size = positive(batcher.max_batch_size).unwrap_or(batching.max_batch_size);
        batching.max_latency = batcher
            .max_latency
            .map_or(batching.max_latency, |ms| Duration::from_millis(ms as u64));
    }
    rules.batching(&settings.batching);
    if !report.faults.is_empty() {
        return None;
    }
    let (_, model) = model?;
    let Settings {
        scaling,
        batching,
        activation,
        precision,
        ..
    } = settings;
    Some(Service {
        name: metadata.name?,
        namespace,
        source: Source {
            file: file.to_owned(),
            line: root.line_of(&[]),
        },
        object: root.to_json(),
        storage: storage?,
        devices: Devices {
            gpus: crate::devices::gpus(&serde_json::to_value(&model.resources).unwrap_or_default()),
            precision: precision.unwrap_or(DEFAULT_PRECISION),
        },
        args: model.args,
        env: model
            .env
            .into_iter()
            .filter_map(|EnvVar { name, value }| Some((name?, value.unwrap_or_default())))
            .collect(),
        scaling,
        container_concurrency: positive(predictor.container_concurrency),
        timeout: predictor
            .timeout
            .map_or(DEFAULT_TIMEOUT, |seconds| Duration::from_secs(seconds as u64)),
        batching,
        activation,
        cluster: crate::Cluster::default(),
    })
}

/// Whether resources ask for anything but GPUs, which a local replica is given.
fn is_unenforced(resources: &Resources) -> bool {
    let mut all = resources.limits.keys().chain(resources.requests.keys());
    all.any(|name| name != GPU_RESOURCE)
}

/// The runtime's deadline for a request where the manifest has none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The schema has bounded these: what is left is 0 or fits.
fn positive(value: Option<i64>) -> Option<NonZeroU32> {
    value.and_then(|value| NonZeroU32::new(value as u32))
}

fn read_settings(root: &Node, report: &mut Report<'_>) -> Settings {
    let mut settings = Settings::default();
    for path in [&["metadata", "annotations"][..], &["spec", "predictor", "annotations"]] {
        let node = path
            .iter()
            .try_fold(root, |node, key| node.get(key).map(|entry| &entry.value));
        if let Some(node) = node {
            annotations::read(node, &path.join("."), &mut settings, report);
        }
    }
    settings
}

/// Checks both names and gives the namespace.
fn check_names(metadata: &Metadata, root: &Node, report: &mut Report<'_>) -> String {
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    let line = root.line_of(&["metadata", "namespace"]);
    if !is_label(namespace) {
        let message = format!(
            "found {}: a namespace is 1 to {MAX_LABEL} characters of `a-z`, `0-9` and `-`, with a letter or digit at each end",
            Fault::quote(namespace)
        );
        report.fault(line, "metadata.namespace", message);
    }
    let Some(name) = &metadata.name else {
        return namespace.to_owned();
    };
    let line = root.line_of(&["metadata", "name"]);
    if !is_label(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        let hint = suggested_name(name).map_or(String::new(), |name| format!("; `{name}` would do"));
        let message = format!(
            "found {}: a name is `a-z`, `0-9` and `-`, beginning with a letter and ending with a letter or digit{hint}",
            Fault::quote(name)
        );
        report.fault(line, "metadata.name", message);
    } else if name.len() > MAX_NAME {
        let message = format!(
            "found {} characters, allowed are {MAX_NAME}: `-predictor` is added to it",
            name.len()
        );
        report.fault(line, "metadata.name", message);
    } else if name.len() + 1 + namespace.len() > MAX_LABEL {
        let message = format!(
            "found {} characters in `{name}-{namespace}`, allowed are {MAX_LABEL}: it is a label of the service's host name",
            name.len() + 1 + namespace.len()
        );
        report.fault(line, "metadata.name", message);
    }
    namespace.to_owned()
}

/// A DNS label of lower case.
fn is_label(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.len() <= MAX_LABEL && edge(text.chars().next()) && edge(text.chars().last()) && text.chars().all(inner)
}

/// The name nearest to a wrong one.
fn suggested_name(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    let kept: String = lower
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let kept = kept
        .trim_start_matches(|c: char| !c.is_ascii_lowercase())
        .trim_end_matches('-');
    (!kept.is_empty() && kept.len() <= MAX_NAME).then(|| kept.to_owned())
}

/// The rules within `spec.predictor`.
struct Rules<'a, 'b> {
    root: &'a Node,
    report: &'a mut Report<'b>,
}

impl Rules<'_, '_> {
    fn line(&self, path: &[&str]) -> usize {
        self.root.line_of(&[&PREDICTOR[..], path].concat())
    }

    fn fault(&mut self, path: &[&str], message: impl Into<String>) {
        let line = self.line(path);
        self.report
            .fault(line, [&PREDICTOR[..], path].concat().join("."), message);
    }

    fn warning(&mut self, path: &[&str], message: impl Into<String>) {
        let line = self.line(path);
        self.report
            .warning(line, [&PREDICTOR[..], path].concat().join("."), message);
    }

    /// The one model of the predictor, and the key that it stands under.
    fn model(&mut self, predictor: &Predictor) -> Option<(&'static str, Model)> {
        let found = match (predictor.model.clone(), predictor.onnx.clone()) {
            (Some(_), Some(_)) => {
                self.fault(
                    &["onnx"],
                    "given beside `model`: the two are one and the same, keep `model`",
                );
                return None;
            }
            (Some(model), None) => ("model", model),
            (None, Some(old)) => ("onnx", old.into()),
            (None, None) => {
                self.without_model();
                return None;
            }
        };
        let (key, model) = &found;
        if let Some(name) = model.model_format.as_ref().and_then(|format| format.name.as_deref()) {
            self.format(key, name);
        }
        if matches!(
            model.protocol_version,
            Some(ProtocolVersion::GrpcV1 | ProtocolVersion::GrpcV2)
        ) {
            self.warning(
                &[key, "protocolVersion"],
                "gRPC is not supported yet: V1 and V2 are answered over HTTP",
            );
        }
        if model.resources.as_ref().is_some_and(is_unenforced) {
            self.warning(
                &[key, "resources"],
                "checked, but not enforced yet: a replica is a local process without limits",
            );
        }
        for (index, name) in model
            .env
            .iter()
            .enumerate()
            .filter_map(|(index, env)| Some((index, env.name.as_ref()?)))
        {
            self.env_name(key, index, name);
        }
        Some(found)
    }

    /// Nothing is said where a key that stands for the model is there and has faults of its own.
    fn without_model(&mut self) {
        let predictor = self.root.get("spec").and_then(|spec| spec.value.get("predictor"));
        let stands_in = |key: &&str| predictor.is_some_and(|predictor| predictor.value.get(key).is_some());
        let keys = crate::known::GROUPS
            .iter()
            .filter(|group| group.parent == "spec.predictor" && group.severity == crate::known::Severity::Fault);
        if !keys
            .flat_map(|group| group.fields)
            .chain(&["model", "onnx"])
            .any(stands_in)
        {
            let message = "missing: expected a mapping with `modelFormat` and `storageUri`";
            let line = self.line(&[]);
            self.report.fault(line, "spec.predictor.model", message);
        }
    }

    fn format(&mut self, key: &str, name: &str) {
        if name != "onnx" {
            let message = format!(
                "found {}, supported is `onnx`: export the model to ONNX",
                Fault::quote(name)
            );
            self.fault(&[key, "modelFormat", "name"], message);
        }
    }

    fn env_name(&mut self, key: &str, index: usize, name: &str) {
        let good = !name.starts_with(|c: char| c.is_ascii_digit())
            && !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !good {
            let line = self.line(&[key, "env"]);
            let message = format!(
                "found {}: a name is letters, digits and `_`, not beginning with a digit",
                Fault::quote(name)
            );
            self.report
                .fault(line, format!("spec.predictor.{key}.env[{index}].name"), message);
        }
    }

    fn storage(&mut self, key: &str, model: &Model, file: &Path) -> Option<crate::Storage> {
        let base = file.parent().unwrap_or(Path::new(""));
        match storage::resolve(model.storage_uri.as_deref()?, base) {
            Ok(storage) => Some(storage),
            Err(message) => {
                self.fault(&[key, "storageUri"], message);
                None
            }
        }
    }

    /// The fields of the predictor over the annotations, and what has to hold between them.
    fn scaling(&mut self, predictor: &Predictor, mut settings: Settings) -> Settings {
        if let Some(metric) = predictor
            .scale_metric
            .filter(|metric| *metric != ScaleMetric::Concurrency)
        {
            let name = serde_json::to_value(metric).unwrap_or_default();
            let name = name.as_str().unwrap_or_default();
            self.fault(
                &["scaleMetric"],
                format!("`{name}` is not supported yet, allowed: `concurrency`"),
            );
        }
        let scaling = &mut settings.scaling;
        if let Some(max) = predictor.max_replicas {
            let from_field = positive(Some(max)).map(NonZeroU32::get);
            if scaling
                .max_replicas
                .is_some_and(|annotated| Some(annotated) != from_field)
            {
                self.warning(
                    &["maxReplicas"],
                    "goes before the annotation `autoscaling.knative.dev/max-scale`",
                );
            }
            scaling.max_replicas = from_field;
        }
        scaling.min_replicas = predictor.min_replicas.map_or(1, |min| min as u32);
        scaling.initial_scale = settings.initial_scale.unwrap_or(scaling.min_replicas);
        if let (Some(target), Some(annotated)) = (predictor.scale_target, settings.target)
            && target as f64 != annotated
        {
            self.warning(
                &["scaleTarget"],
                "goes before the annotation `autoscaling.knative.dev/target`",
            );
        }
        let hard = positive(predictor.container_concurrency).map(|limit| f64::from(limit.get()));
        let wished = predictor.scale_target.map(|target| target as f64).or(settings.target);
        // As in Knative: no replica is meant for more than it may take at all.
        scaling.target = match (wished, hard) {
            (Some(wished), Some(hard)) => wished.min(hard),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => scaling.target,
        };
        self.bounds(&settings);
        if settings.stopped {
            let scaling = &mut settings.scaling;
            (scaling.min_replicas, scaling.max_replicas, scaling.initial_scale) = (0, Some(0), 0);
        }
        settings
    }

    fn bounds(&mut self, settings: &Settings) {
        let scaling = &settings.scaling;
        let (min, max) = (scaling.min_replicas, scaling.max_replicas.unwrap_or(u32::MAX));
        if min > max {
            let message = format!(
                "'MinReplicas' cannot be greater than MaxReplicas: found {min} and {max}; give minReplicas of at most {max}, or a \
                 larger maxReplicas"
            );
            self.fault(&["minReplicas"], message);
            return;
        }
        let start = scaling.activation_scale;
        // 1 is the default and asks for nothing.
        if start > 1 && !(min..=max).contains(&start) {
            let to = if max == u32::MAX {
                "unlimited".to_owned()
            } else {
                max.to_string()
            };
            let message = format!("found {start}, allowed is {min} (minReplicas) to {to} (maxReplicas)");
            self.annotation_fault("autoscaling.knative.dev/activation-scale", message);
        }
        if scaling.initial_scale > max {
            let message = format!("found {}, allowed is 0 to {max} (maxReplicas)", scaling.initial_scale);
            self.annotation_fault("autoscaling.knative.dev/initial-scale", message);
        }
    }

    /// The runtime refuses these too, but only when it starts.
    fn batching(&mut self, batching: &Batching) {
        let levels = batching.priority_levels;
        if let Some(level) = batching.default_priority.filter(|level| *level > levels) {
            let message = format!("found {level}, allowed is 1 to {levels} (pilotlight.dev/priority-levels)");
            self.annotation_fault("pilotlight.dev/default-priority", message);
        }
        let most = batching.max_batch_size.get();
        if let Some(size) = batching.preferred_batch_sizes.iter().find(|size| **size > most) {
            let message = format!("found {size}, allowed is 1 to {most} (maxBatchSize of the batcher)");
            self.annotation_fault("pilotlight.dev/preferred-batch-sizes", message);
        }
    }

    /// A fault of the annotation, wherever it is given and under whichever of its names.
    fn annotation_fault(&mut self, name: &str, message: String) {
        let alias = annotations::find(name).and_then(|row| row.alias).unwrap_or(name);
        for path in [&["spec", "predictor", "annotations"][..], &["metadata", "annotations"]] {
            let node = path
                .iter()
                .try_fold(self.root, |node, key| node.get(key).map(|entry| &entry.value));
            if let Some(entry) = node.and_then(|node| node.get(name).or_else(|| node.get(alias))) {
                let field = crate::path::child(&path.join("."), &entry.key);
                self.report.fault(entry.line, field, message);
                return;
            }
        }
    }
}
