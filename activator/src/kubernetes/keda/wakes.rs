//! What a wake of a route scales: pure functions of the objects that name it.

use pilotlight_manifests::keda::{self, HttpScaledObjectSpec, Meta, Object, ScaleTargetRef, ScaledObjectSpec};

/// A workload to scale, and how far.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wakes {
    pub(crate) workload: ScaleTargetRef,
    pub(crate) replicas: i32,
}

/// The route that a ScaledObject is about: the metadata key of the trigger and the route's name.
pub(crate) fn named(spec: &ScaledObjectSpec) -> Option<(&'static str, &str)> {
    let triggers = spec.triggers.iter();
    let external = triggers.filter(|trigger| trigger.kind == "external-push" || trigger.kind == "external");
    external
        .flat_map(|trigger| {
            ["interceptorRoute", "httpScaledObject"]
                .into_iter()
                .filter_map(|key| Some((key, trigger.metadata.get(key)?.as_str())))
        })
        .next()
}

/// What a ScaledObject lets a wake do; `None` while it is paused.
pub(crate) fn of_scaled_object(object: &Object<ScaledObjectSpec>) -> Option<Wakes> {
    let spec = &object.spec;
    (!is_paused(&object.metadata)).then(|| Wakes {
        workload: spec.scale_target_ref.clone(),
        replicas: spec.min().max(1),
    })
}

/// The same for an HTTPScaledObject, which scales by itself unless a user's ScaledObject does.
pub(crate) fn of_http_scaled_object(object: &Object<HttpScaledObjectSpec>) -> Option<Wakes> {
    let meta = &object.metadata;
    if meta.is_marked(keda::SKIP_SCALED_OBJECT) || is_paused(meta) {
        return None;
    }
    let target = &object.spec.scale_target_ref;
    Some(Wakes {
        workload: ScaleTargetRef {
            name: target.name.clone().filter(|name| !name.is_empty())?,
            api_version: target.api_version.clone(),
            kind: target.kind.clone(),
            env_source_container_name: None,
        },
        replicas: object
            .spec
            .replicas
            .and_then(|replicas| replicas.min)
            .unwrap_or(0)
            .max(1),
    })
}

fn is_paused(meta: &Meta) -> bool {
    let annotations = &meta.annotations;
    annotations.contains_key(keda::PAUSED_REPLICAS)
        || meta.is_marked(keda::PAUSED_SCALE_OUT)
        || annotations.get(keda::PAUSED).is_some_and(|value| value != "false")
}

#[cfg(test)]
mod tests {
    use pilotlight_manifests::keda::{Spec, read};
    use serde_json::{Value, json};

    use super::*;

    fn object<S: Spec>(annotations: Value, spec: Value) -> Object<S> {
        read(json!({ "metadata": { "name": "so", "namespace": "shop", "annotations": annotations }, "spec": spec }))
            .unwrap()
    }

    fn scaled(annotations: Value, min: i32) -> Object<ScaledObjectSpec> {
        let trigger = json!({ "type": "external-push", "metadata": { "interceptorRoute": "app" } });
        object(
            annotations,
            json!({ "scaleTargetRef": { "name": "web" }, "minReplicaCount": min, "triggers": [trigger] }),
        )
    }

    #[test]
    fn a_wake_starts_the_minimum_and_one_at_least() {
        for (min, replicas) in [(0, 1), (1, 1), (3, 3)] {
            let wakes = of_scaled_object(&scaled(json!({}), min)).unwrap();
            assert_eq!((wakes.workload.name.as_str(), wakes.replicas), ("web", replicas));
        }
        assert_eq!(named(&scaled(json!({}), 0).spec), Some(("interceptorRoute", "app")));
    }

    #[test]
    fn what_is_paused_is_not_woken() {
        for annotation in ["paused", "paused-replicas", "paused-scale-out"] {
            let annotations = json!({ format!("autoscaling.keda.sh/{annotation}"): "true" });
            assert_eq!(of_scaled_object(&scaled(annotations, 0)), None, "{annotation}");
        }
        let off = json!({ "autoscaling.keda.sh/paused": "false" });
        assert!(of_scaled_object(&scaled(off, 0)).is_some());
    }

    #[test]
    fn an_http_scaled_object_wakes_its_own_workload_unless_it_is_to_make_no_scaled_object() {
        let spec =
            json!({ "scaleTargetRef": { "name": "web", "service": "web", "port": 80 }, "replicas": { "min": 2 } });
        let own: Object<HttpScaledObjectSpec> = object(json!({}), spec.clone());
        assert_eq!(of_http_scaled_object(&own).unwrap().replicas, 2);
        let skip = object(
            json!({ "httpscaledobject.keda.sh/skip-scaledobject-creation": "true" }),
            spec,
        );
        assert_eq!(of_http_scaled_object(&skip), None);
    }
}
