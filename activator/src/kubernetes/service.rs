//! What matters of an InferenceService: its route, and what its endpoints may hold.

use std::collections::BTreeMap;

use pilotlight_manifests::{Activation, Service, kubernetes::cluster_hosts, parse_object};
use serde_json::Value;

use crate::{BackendId, Route, WeightedBackend, services};

/// The names under which services are reached.
#[derive(Clone, Debug)]
pub(crate) struct Domains {
    /// Outside the cluster: `{name}.{namespace}.{domain}`.
    pub(crate) domain: String,
    /// Inside: `{name}-predictor.{namespace}.svc.{cluster_domain}`.
    pub(crate) cluster_domain: String,
}

/// What decides whether an object has to be read again; its status does not.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Version {
    uid: Option<String>,
    generation: Option<i64>,
    annotations: BTreeMap<String, String>,
}

impl Version {
    pub(crate) fn of(object: &Value) -> Self {
        let meta = object.get("metadata");
        let get = |key: &str| meta.and_then(|meta| meta.get(key));
        let annotations = get("annotations").and_then(Value::as_object).into_iter().flatten();
        Self {
            uid: get("uid").and_then(Value::as_str).map(str::to_owned),
            generation: get("generation").and_then(Value::as_i64),
            annotations: annotations
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
        }
    }
}

/// An InferenceService as the activator needs it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Declared {
    /// To its stable workload.
    pub(crate) route: Route,
    /// The share of each canary in percent, by name, once its Deployment exists.
    pub(crate) canaries: BTreeMap<String, u32>,
    pub(crate) capacity: Option<u32>,
    pub(crate) max_batch_size: u32,
    pub(crate) activation_scale: i32,
    /// It was stopped by its user.
    pub(crate) stopped: bool,
    /// Why what is declared now can't be had; what was before goes on.
    pub(crate) fault: Option<String>,
}

/// Reads an object of the API server. What is faulty changes nothing: `before` goes on, or a route by name alone, to
/// whatever Deployment there is.
pub(crate) fn read(object: &Value, before: Option<&Declared>, domains: &Domains) -> Option<Declared> {
    let name = object.pointer("/metadata/name")?.as_str()?;
    let namespace = object.pointer("/metadata/namespace")?.as_str()?;
    let mut parsed = parse_object(object);
    if let Some(service) = parsed.services.pop() {
        return Some(declared(&service, domains));
    }
    let fault = parsed.faults.first().map_or_else(
        || "it is no InferenceService of a version that is known".to_owned(),
        |fault| format!("{}: {}", fault.field, fault.message),
    );
    let before = before.cloned().unwrap_or_else(|| by_name(namespace, name, domains));
    Some(Declared {
        fault: Some(fault),
        ..before
    })
}

fn declared(service: &Service, domains: &Domains) -> Declared {
    let mut declared = Declared {
        route: services::route(service, &domains.domain),
        canaries: canaries(service),
        capacity: service.container_concurrency.map(std::num::NonZeroU32::get),
        max_batch_size: service.batching.max_batch_size.get(),
        activation_scale: service.scaling.activation_scale.clamp(1, i32::MAX as u32) as i32,
        stopped: service.scaling.max_replicas == Some(0),
        fault: None,
    };
    let inside = cluster_hosts(&service.namespace, &service.name, &domains.cluster_domain);
    declared.route.predicate.hosts.extend(inside);
    declared
}

fn by_name(namespace: &str, name: &str, domains: &Domains) -> Declared {
    let outside = [
        format!("{name}.{namespace}.{}", domains.domain),
        format!("{name}-{namespace}.{}", domains.domain),
    ];
    let hosts = outside
        .into_iter()
        .chain(cluster_hosts(namespace, name, &domains.cluster_domain));
    Declared {
        route: services::route_of(namespace, name, &Activation::default(), hosts),
        canaries: BTreeMap::new(),
        capacity: None,
        max_batch_size: pilotlight_manifests::Batching::default().max_batch_size.get(),
        activation_scale: 1,
        stopped: false,
        fault: None,
    }
}

fn canaries(service: &Service) -> BTreeMap<String, u32> {
    let canaries = service.cluster.canaries.iter();
    canaries
        .map(|canary| (canary.name.clone(), u32::from(canary.percent)))
        .collect()
}

/// The route with the shares of its canaries. Those that take everything leave the stable workload in the route with 0; of
/// shares past the whole, which two states of a service give for a moment, the later ones are cut.
pub(crate) fn with_canaries(route: &Route, canaries: &[(BackendId, u32)]) -> Route {
    let mut route = route.clone();
    let mut left = services::WHOLE;
    let mut beside = Vec::new();
    for (backend, percent) in canaries {
        let weight = left.min(*percent);
        left -= weight;
        beside.push(WeightedBackend {
            backend: backend.clone(),
            weight,
        });
    }
    for stable in &mut route.backends {
        stable.weight = left;
    }
    route.backends.extend(beside);
    route
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn domains() -> Domains {
        Domains {
            domain: "example.com".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
        }
    }

    pub(crate) fn object(predictor: &Value) -> Value {
        json!({
            "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
            "metadata": { "name": "iris", "namespace": "shop", "uid": "1", "generation": 1 },
            "spec": { "predictor": predictor },
        })
    }

    fn good() -> Value {
        json!({
            "minReplicas": 0, "containerConcurrency": 3,
            "model": { "modelFormat": { "name": "onnx" }, "storageUri": "pvc://models/iris.onnx" },
        })
    }

    #[test]
    fn a_service_is_reached_by_every_name_inside_and_outside_the_cluster() {
        let declared = read(&object(&good()), None, &domains()).unwrap();
        assert_eq!(
            declared.route.predicate.hosts,
            [
                "iris.shop.example.com",
                "iris-shop.example.com",
                "iris-predictor.shop.svc.cluster.local",
                "iris-predictor.shop.svc",
                "iris-predictor.shop",
            ]
        );
        assert_eq!(declared.route.predicate.path_prefixes, ["/serving/shop/iris"]);
        assert_eq!((declared.capacity, declared.fault), (Some(3), None));
    }

    #[test]
    fn a_fault_changes_nothing_and_is_told() {
        let good = read(&object(&good()), None, &domains()).unwrap();
        let bad = object(&json!({ "minReplicas": -1 }));
        let after = read(&bad, Some(&good), &domains()).unwrap();
        assert_eq!((&after.route, after.capacity), (&good.route, good.capacity));
        assert!(after.fault.unwrap().starts_with("spec.predictor"));
        let never = read(&bad, None, &domains()).unwrap();
        assert_eq!(
            never.route.predicate, good.route.predicate,
            "reached by name all the same"
        );
    }

    #[test]
    fn what_only_changes_the_status_is_not_read_again() {
        let mut object = object(&good());
        let before = Version::of(&object);
        object["status"] = json!({ "url": "x" });
        object["metadata"]["resourceVersion"] = "2".into();
        assert_eq!(Version::of(&object), before);
        object["metadata"]["generation"] = 2.into();
        assert_ne!(Version::of(&object), before);
    }

    #[test]
    fn canaries_get_their_shares_and_the_stable_workload_the_rest() {
        let declared = read(&object(&good()), None, &domains()).unwrap();
        let canary = |name: &str, percent: u32| (BackendId::new(format!("shop/iris@{name}")), percent);
        for (one, other, weights) in [(0, 10, [90, 0, 10]), (30, 70, [0, 30, 70]), (100, 20, [0, 100, 0])] {
            let route = with_canaries(&declared.route, &[canary("a", one), canary("b", other)]);
            let found: Vec<(&str, u32)> = route
                .backends
                .iter()
                .map(|weighted| (weighted.backend.as_str(), weighted.weight))
                .collect();
            let names = ["shop/iris", "shop/iris@a", "shop/iris@b"];
            assert_eq!(found, names.into_iter().zip(weights).collect::<Vec<_>>());
        }
    }
}
