//! The container that serves the model: our own runtime's, a ServingRuntime's, or the user's.

use pilotlight_manifests::{
    Service, Storage,
    kubernetes::{ANNOTATION_MODEL, CONTAINER, DATA_PORT, MODEL_PATH, PORT_NAME},
};
use serde_json::{Map, Value, json};

use super::{Settings, pod::merge};
use crate::{
    flags,
    kubernetes::runtimes::{NoRuntime, Runtime, reason},
};

/// Resource names of GPUs end in this.
const GPU_SUFFIX: &str = "/gpu";
/// Where our own runtime keeps what it fetches.
pub(super) const CACHE_PATH: &str = "/var/cache/pilotlight";
/// Name of the cache's volume.
pub(super) const CACHE_VOLUME: &str = "pilotlight-cache";
/// Name of the model's volume.
pub(super) const MODEL_VOLUME: &str = "kserve-model";
/// What is above the deadline of a request in the pod's time to end.
const GRACE_MARGIN_SECONDS: u64 = 5;

/// Seconds that the pod may take to end: what is in flight may take its whole deadline, after the delay in which nobody
/// knows yet.
pub(super) fn grace_seconds(service: &Service, settings: &Settings) -> u64 {
    service.timeout.as_secs() + settings.drain_delay.as_secs() + GRACE_MARGIN_SECONDS
}

/// All containers of the pod, the serving one first.
pub(super) fn containers(service: &Service, runtime: &Runtime, settings: &Settings) -> Result<Vec<Value>, NoRuntime> {
    match runtime {
        Runtime::Own => Ok(vec![own(service, settings)?]),
        Runtime::Serving { runtime, .. } => serving(service, &runtime.spec.containers),
        Runtime::Custom => {
            let given = service.cluster.pod.get("containers").and_then(Value::as_array);
            Ok(custom(service, given.map(Vec::as_slice).unwrap_or_default()))
        }
    }
}

fn own(service: &Service, settings: &Settings) -> Result<Value, NoRuntime> {
    let given = &service.cluster.container;
    // A pod that may get any model has to say that it is ready without one.
    let ready = if is_generic(service) {
        "/v2/health/ready".to_owned()
    } else {
        format!("/v2/models/{}/ready", service.name)
    };
    let mut container = json!({
        "name": CONTAINER,
        "image": image(service, settings),
        "args": arguments(service, settings)?,
        "ports": [{ "name": PORT_NAME, "containerPort": DATA_PORT, "protocol": "TCP" }],
        "readinessProbe": {
            "httpGet": { "path": ready, "port": PORT_NAME },
            "periodSeconds": 1,
            "timeoutSeconds": 1,
            "failureThreshold": 3,
        },
        "livenessProbe": {
            "httpGet": { "path": "/v2/health/live", "port": PORT_NAME },
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "resources": { "requests": { "cpu": "100m", "memory": "128Mi" } },
        // The last line that is logged says why a model could not be loaded.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
        },
        "volumeMounts": [{ "name": CACHE_VOLUME, "mountPath": CACHE_PATH }],
    });
    for key in ["readinessProbe", "livenessProbe", "ports", "resources"] {
        if given.contains_key(key) {
            container.as_object_mut().map(|object| object.remove(key));
        }
    }
    if is_generic(service) {
        let field = |path: String| json!({ "fieldRef": { "fieldPath": path } });
        let model = field(format!("metadata.annotations['{ANNOTATION_MODEL}']"));
        let variables = json!([
            { "name": "ASSIGNED_MODEL", "valueFrom": model },
            { "name": "STANDBY_KEY", "valueFrom": field("metadata.uid".to_owned()) },
        ]);
        merge(&mut container, &json!({ "env": variables }));
    }
    if let Some(limit) = service.container_concurrency {
        // Variables that a runtime does not know do no harm, unlike flags.
        merge(
            &mut container,
            &json!({ "env": [{ "name": "CONTAINER_CONCURRENCY", "value": limit.to_string() }] }),
        );
    }
    if service.devices.gpus > 0 {
        // The root file system is read-only, and the driver keeps what it makes of kernels.
        let cache = format!("{CACHE_PATH}/nv");
        merge(
            &mut container,
            &json!({ "env": [{ "name": "CUDA_CACHE_PATH", "value": cache }] }),
        );
    }
    merge(&mut container, &given.clone().into());
    mount_model(&mut container, &service.storage);
    Ok(container)
}

/// The image: the user's, or the platform's for the device that is asked for.
fn image(service: &Service, settings: &Settings) -> String {
    let asked = |kind: &str| {
        let resources = service.cluster.container.get("resources").and_then(|all| all.get(kind));
        resources
            .and_then(Value::as_object)
            .is_some_and(|map| map.keys().any(|key| key.ends_with(GPU_SUFFIX)))
    };
    let gpu = settings
        .gpu_image
        .as_ref()
        .filter(|_| asked("limits") || asked("requests"));
    gpu.unwrap_or(&settings.image).clone()
}

/// Whether the pod names no model, so that one that was started ahead may become it.
pub(super) fn is_generic(service: &Service) -> bool {
    service.scaling.standby.is_some()
}

/// The model as our own runtime's flag takes it, `{name}={path or URI}`.
pub(super) fn model(service: &Service) -> Result<String, NoRuntime> {
    let model = match &service.storage {
        Storage::Claim { path, .. } if path.is_empty() => MODEL_PATH.to_owned(),
        Storage::Claim { path, .. } => format!("{MODEL_PATH}/{path}"),
        Storage::Image(_) => MODEL_PATH.to_owned(),
        Storage::Remote(uri) => uri.clone(),
        Storage::Local(path) => path.display().to_string(),
        _ => {
            return Err(NoRuntime {
                reason: reason::INVALID_SPEC,
                message: "spec.predictor.model.storageUri: missing: Pilotlight's own runtime needs a model".to_owned(),
            });
        }
    };
    Ok(format!("{}={model}", service.name))
}

/// The command line of our own runtime; what the manifest sets by a variable is left to the variable.
fn arguments(service: &Service, settings: &Settings) -> Result<Vec<String>, NoRuntime> {
    let model = model(service)?;
    let mut arguments = vec!["runtime".to_owned()];
    if !is_generic(service) {
        arguments.extend(["--model".to_owned(), model]);
    }
    let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    option("--http-address", format!("0.0.0.0:{DATA_PORT}"));
    for (flag, value) in flags::batching(&service.batching, |variable| service.env.contains_key(variable)) {
        option(flag, value);
    }
    for (flag, value) in flags::devices(&service.devices, &service.args) {
        option(flag, value);
    }
    option("--request-timeout-ms", service.timeout.as_millis().to_string());
    option("--drain-delay-ms", settings.drain_delay.as_millis().to_string());
    option("--drain-timeout-ms", service.timeout.as_millis().to_string());
    arguments.extend(service.args.iter().cloned());
    Ok(arguments)
}

/// A ServingRuntime's containers with the model's fields over the serving one, KServe's way: arguments one after the other,
/// variables by name, names of the service filled in.
fn serving(service: &Service, containers: &[Value]) -> Result<Vec<Value>, NoRuntime> {
    if matches!(service.storage, Storage::Remote(_)) {
        return Err(NoRuntime {
            reason: reason::INVALID_SPEC,
            message: "spec.predictor.model.storageUri: only Pilotlight's own runtime fetches models: give `pvc://CLAIM/PATH` \
                      or `oci://IMAGE`"
                .to_owned(),
        });
    }
    let mut all: Vec<Value> = containers
        .iter()
        .map(|container| filled_in(container, service))
        .collect();
    let at = all
        .iter()
        .position(|container| container["name"] == CONTAINER)
        .unwrap_or(0);
    let Some(main) = all.get_mut(at) else {
        return Err(NoRuntime {
            reason: reason::INVALID_SPEC,
            message: "the runtime has no container".to_owned(),
        });
    };
    main["name"] = CONTAINER.into();
    merge(main, &service.cluster.container.clone().into());
    if !service.args.is_empty() {
        let before = main["args"].as_array().cloned().unwrap_or_default();
        main["args"] = before
            .into_iter()
            .chain(service.args.iter().cloned().map(Value::from))
            .collect();
    }
    mount_model(main, &service.storage);
    all.swap(0, at);
    for container in &mut all {
        name_service(container, service);
    }
    ensure_probe(&mut all[0]);
    Ok(all)
}

fn custom(service: &Service, given: &[Value]) -> Vec<Value> {
    let mut all = given.to_vec();
    let at = all
        .iter()
        .position(|container| container["name"] == CONTAINER)
        .unwrap_or(0);
    if let Some(main) = all.get_mut(at) {
        main["name"] = CONTAINER.into();
        ensure_probe(main);
    }
    all.swap(0, at);
    for container in &mut all {
        name_service(container, service);
    }
    all
}

/// KServe's default: a connection to the first port.
fn ensure_probe(container: &mut Value) {
    if container.get("readinessProbe").is_none_or(Value::is_null) {
        let port = port(container);
        container["readinessProbe"] =
            json!({ "tcpSocket": { "port": port }, "periodSeconds": 1, "failureThreshold": 3 });
    }
    if container.get("ports").is_none_or(Value::is_null) {
        container["ports"] = json!([{ "containerPort": DATA_PORT, "protocol": "TCP" }]);
    }
}

fn port(container: &Value) -> u64 {
    container
        .pointer("/ports/0/containerPort")
        .and_then(Value::as_u64)
        .unwrap_or(u64::from(DATA_PORT))
}

fn name_service(container: &mut Value, service: &Service) {
    let variable = json!([{ "name": "INFERENCE_SERVICE_NAME", "value": service.name }]);
    merge(container, &json!({ "env": variable }));
}

/// KServe's placeholders, in every text of the container.
fn filled_in(value: &Value, service: &Service) -> Value {
    match value {
        Value::String(text) => fill_in(text, service).into(),
        Value::Array(items) => items.iter().map(|item| filled_in(item, service)).collect(),
        Value::Object(object) => {
            let filled = object
                .iter()
                .map(|(key, value)| (key.clone(), filled_in(value, service)));
            Value::Object(filled.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

fn fill_in(text: &str, service: &Service) -> String {
    let mut text = text
        .replace("{{.Name}}", &service.name)
        .replace("{{.Namespace}}", &service.namespace);
    for (kind, map) in [("Labels", "labels"), ("Annotations", "annotations")] {
        let entries = service
            .object
            .pointer(&format!("/metadata/{map}"))
            .and_then(Value::as_object);
        for (key, value) in entries.into_iter().flatten() {
            if let Some(value) = value.as_str() {
                text = text.replace(&format!("{{{{.{kind}.{key}}}}}"), value);
            }
        }
    }
    text
}

/// Shows the model's volume to the container, where there is one.
fn mount_model(container: &mut Value, storage: &Storage) {
    let mount = match storage {
        Storage::Claim { .. } => json!({ "name": MODEL_VOLUME, "mountPath": MODEL_PATH, "readOnly": true }),
        // The images that KServe calls modelcars hold the model under /models.
        Storage::Image(_) => {
            json!({ "name": MODEL_VOLUME, "mountPath": MODEL_PATH, "subPath": "models", "readOnly": true })
        }
        _ => return,
    };
    merge(container, &json!({ "volumeMounts": [mount] }));
}

/// Where an activator asks the pod whether it is ready: `None` is the model's V2 readiness, empty is that the pod's own
/// condition has to be believed.
pub(super) fn probe_path(service: &Service, runtime: &Runtime, template: &Value) -> Option<String> {
    let own = *runtime == Runtime::Own && !service.cluster.container.contains_key("readinessProbe");
    let path = template
        .pointer("/spec/containers/0/readinessProbe/httpGet/path")
        .and_then(Value::as_str);
    (!own).then(|| path.unwrap_or_default().to_owned())
}
