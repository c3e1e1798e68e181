//! Which runtime serves a service: our own for ONNX, a ServingRuntime where one is named or selects itself, by KServe's rules.

use std::{cmp::Ordering, sync::Arc};

use pilotlight_manifests::{Service, Storage, v1alpha1::ServingRuntime};

/// The name under which our own runtime may be asked for.
pub(crate) const OWN: &str = "pilotlight";

/// What runs the model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Runtime {
    /// Pilotlight's own.
    Own,
    /// One of the user's, and whether it is the whole cluster's.
    Serving {
        runtime: Arc<ServingRuntime>,
        cluster: bool,
    },
    /// The containers that the service gives itself.
    Custom,
}

/// Why no runtime serves a service; KServe's reasons.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct NoRuntime {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// KServe's `lastFailureInfo.reason`s of specs.
pub(crate) mod reason {
    pub(crate) const INVALID_SPEC: &str = "InvalidPredictorSpec";
    pub(crate) const DISABLED: &str = "RuntimeDisabled";
    pub(crate) const UNSUPPORTED: &str = "NoSupportingRuntime";
    pub(crate) const UNKNOWN: &str = "RuntimeNotRecognized";
}

/// The runtime of a service among those of its namespace and of the cluster.
pub(crate) fn select(
    service: &Service,
    namespace: &[Arc<ServingRuntime>],
    cluster: &[Arc<ServingRuntime>],
) -> Result<Runtime, NoRuntime> {
    if service.storage == Storage::Container && service.cluster.format.is_empty() {
        return Ok(Runtime::Custom);
    }
    match service.cluster.runtime.as_deref() {
        Some(OWN) | None if service.cluster.format == "onnx" => Ok(Runtime::Own),
        Some(OWN) => Err(unsupported(service)),
        Some(name) => named(service, name, namespace, cluster),
        None => automatic(service, namespace, false)
            .or_else(|| automatic(service, cluster, true))
            .ok_or_else(|| unsupported(service)),
    }
}

fn named(
    service: &Service,
    name: &str,
    namespace: &[Arc<ServingRuntime>],
    cluster: &[Arc<ServingRuntime>],
) -> Result<Runtime, NoRuntime> {
    let find = |list: &[Arc<ServingRuntime>]| list.iter().find(|runtime| runtime.metadata.name == name).cloned();
    let found = find(namespace).map(|runtime| (runtime, false));
    let Some((runtime, cluster)) = found.or_else(|| find(cluster).map(|runtime| (runtime, true))) else {
        return Err(NoRuntime {
            reason: reason::UNKNOWN,
            message: format!("Waiting for runtime {name} to become available"),
        });
    };
    if runtime.spec.disabled == Some(true) {
        return Err(NoRuntime {
            reason: reason::DISABLED,
            message: format!("the runtime {name} is disabled"),
        });
    }
    if !speaks(service, &runtime) || !serves(service, &runtime, false) {
        return Err(NoRuntime {
            reason: reason::UNSUPPORTED,
            message: format!(
                "the runtime {name} does not support the format {} with this version and protocol",
                service.cluster.format
            ),
        });
    }
    Ok(Runtime::Serving { runtime, cluster })
}

fn automatic(service: &Service, list: &[Arc<ServingRuntime>], cluster: bool) -> Option<Runtime> {
    let usable = list.iter().filter(|runtime| {
        let spec = &runtime.spec;
        spec.disabled != Some(true)
            && spec.multi_model != Some(true)
            && !spec.pod.contains_key("workerSpec")
            && speaks(service, runtime)
            && serves(service, runtime, true)
    });
    let best = usable.min_by(|left, right| order(service, left, right))?;
    Some(Runtime::Serving {
        runtime: best.clone(),
        cluster,
    })
}

/// Highest priority first, then the lowest protocol, the newest, the name.
fn order(service: &Service, left: &ServingRuntime, right: &ServingRuntime) -> Ordering {
    let priority = |runtime: &ServingRuntime| {
        let formats = &runtime.spec.supported_model_formats;
        formats
            .iter()
            .find(|format| format.name.eq_ignore_ascii_case(&service.cluster.format))
            .and_then(|format| format.priority)
    };
    let created = |runtime: &ServingRuntime| runtime.metadata.creation_timestamp.clone();
    priority(right)
        .cmp(&priority(left))
        .then_with(|| lowest_protocol(left).cmp(&lowest_protocol(right)))
        .then_with(|| created(right).cmp(&created(left)))
        .then_with(|| left.metadata.name.cmp(&right.metadata.name))
}

fn lowest_protocol(runtime: &ServingRuntime) -> usize {
    const ORDER: [&str; 4] = ["v1", "v2", "grpc-v1", "grpc-v2"];
    let rank = |protocol: &String| ORDER.iter().position(|known| known == protocol).unwrap_or(ORDER.len());
    runtime.spec.protocol_versions.iter().map(rank).min().unwrap_or(0)
}

/// A runtime that names no protocols speaks any; a service that names none takes V1, as in KServe, or what there is.
fn speaks(service: &Service, runtime: &ServingRuntime) -> bool {
    let protocols = &runtime.spec.protocol_versions;
    match &service.cluster.protocol {
        Some(protocol) => protocols.is_empty() || protocols.contains(protocol),
        None => true,
    }
}

/// Whether the format is among its formats, the version as text; `automatic`: only those that select themselves.
fn serves(service: &Service, runtime: &ServingRuntime, automatic: bool) -> bool {
    let version = &service.cluster.format_version;
    runtime.spec.supported_model_formats.iter().any(|format| {
        format.name.eq_ignore_ascii_case(&service.cluster.format)
            && (!automatic || format.auto_select == Some(true))
            && (version.is_none() || format.version == *version)
    })
}

fn unsupported(service: &Service) -> NoRuntime {
    NoRuntime {
        reason: reason::UNSUPPORTED,
        message: format!(
            "No runtime found to support specified framework/version: {}; Pilotlight's own serves onnx",
            service.cluster.format
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kubernetes::testing::{runtime, service};

    fn sklearn(model: Value) -> Service {
        let mut all = json!({ "modelFormat": { "name": "sklearn" }, "storageUri": "pvc://m/x" });
        all.as_object_mut().unwrap().extend(model.as_object().unwrap().clone());
        service(json!({ "model": all }))
    }

    fn name(chosen: Result<Runtime, NoRuntime>) -> String {
        match chosen {
            Ok(Runtime::Serving { runtime, .. }) => runtime.metadata.name.clone(),
            Ok(other) => format!("{other:?}"),
            Err(error) => error.reason.to_owned(),
        }
    }

    #[test]
    fn onnx_is_our_own_unless_another_runtime_is_named() {
        let onnx = json!({ "modelFormat": { "name": "onnx" }, "storageUri": "pvc://m/x" });
        let triton = runtime("triton", json!([{ "name": "onnx", "autoSelect": true }]));
        let ours = service(json!({ "model": onnx }));
        assert_eq!(select(&ours, &[], std::slice::from_ref(&triton)), Ok(Runtime::Own));
        let mut named = onnx.clone();
        named["runtime"] = "triton".into();
        assert_eq!(
            name(select(&service(json!({ "model": named })), &[], &[triton])),
            "triton"
        );
    }

    #[test]
    fn the_namespace_goes_before_the_cluster_and_priority_before_age() {
        let auto = |name: &str, priority: i64| {
            runtime(
                name,
                json!([{ "name": "sklearn", "autoSelect": true, "priority": priority }]),
            )
        };
        let chosen = select(
            &sklearn(json!({})),
            &[auto("low", 1), auto("high", 2)],
            &[auto("cluster", 9)],
        );
        assert_eq!(name(chosen), "high");
        assert_eq!(name(select(&sklearn(json!({})), &[], &[auto("cluster", 1)])), "cluster");
    }

    #[test]
    fn what_serves_nothing_says_why() {
        assert_eq!(name(select(&sklearn(json!({})), &[], &[])), reason::UNSUPPORTED);
        let named = sklearn(json!({ "runtime": "gone" }));
        assert_eq!(name(select(&named, &[], &[])), reason::UNKNOWN);
        let by_hand = runtime("gone", json!([{ "name": "sklearn", "version": "1" }]));
        assert_eq!(name(select(&named, std::slice::from_ref(&by_hand), &[])), "gone");
        assert_eq!(name(select(&sklearn(json!({})), &[by_hand], &[])), reason::UNSUPPORTED);
    }
}
