use super::*;

fn object(name: &str, annotations: Value, spec: Value) -> DynamicObject {
    let meta =
        json!({ "name": name, "namespace": "shop", "annotations": annotations, "uid": "u", "labels": { "team": "a" } });
    serde_json::from_value(json!({ "metadata": meta, "spec": spec })).unwrap()
}

fn http_spec() -> Value {
    json!({
        "scaleTargetRef": { "name": "web", "kind": "StatefulSet", "apiVersion": "apps/v1", "service": "web", "port": 80 },
        "replicas": { "min": 1, "max": 7 }, "scaledownPeriod": 12,
    })
}

fn scaled_spec() -> Value {
    json!({ "scaleTargetRef": { "name": "web" }, "triggers": [{ "type": "cron" }] })
}

fn is(object: DynamicObject) -> Change<DynamicObject> {
    Change::Is(format!("shop/{}", object.metadata.name.clone().unwrap()), object)
}

/// Add-on unit test `TestCreateOrUpdateScaledObject`: the fields of the ScaledObject that its operator makes.
#[test]
fn add_on_the_scaled_object_of_an_http_scaled_object() {
    let mut https = Known::<HttpScaledObjectSpec>::default();
    https.take(is(object(
        "app",
        json!({ "autoscaling.keda.sh/paused": "true" }),
        http_spec(),
    )));
    let seen = https.get("shop/app").unwrap();
    let good = seen.object.as_ref().unwrap();
    let spec = scaled_object(&good.metadata, &good.spec, "scaler.keda:9090").unwrap();
    let handed = handed(&seen.meta, &spec);
    assert_eq!(
        handed["spec"],
        json!({
            "scaleTargetRef": { "name": "web", "kind": "StatefulSet", "apiVersion": "apps/v1" },
            "pollingInterval": 15, "cooldownPeriod": 12, "minReplicaCount": 1, "maxReplicaCount": 7,
            "advanced": { "restoreToOriginalReplicaCount": true },
            "triggers": [{
                "type": "external-push", "metricType": "AverageValue",
                "metadata": { "scalerAddress": "scaler.keda:9090", "httpScaledObject": "app" },
            }],
        })
    );
    assert_eq!(handed["metadata"]["annotations"]["autoscaling.keda.sh/paused"], "true");
    assert_eq!(handed["metadata"]["labels"]["team"], "a");
    assert_eq!(handed["metadata"]["ownerReferences"][0]["kind"], "HTTPScaledObject");
}

#[test]
fn a_scaled_object_stands_in_for_the_http_scaled_object_of_its_name_and_so_does_the_annotation() {
    let mut https = Known::<HttpScaledObjectSpec>::default();
    let mut scaled = Known::<ScaledObjectSpec>::default();
    https.take(is(object("app", json!({}), http_spec())));
    https.take(is(object("other", json!({}), http_spec())));
    let skip = json!({ "httpscaledobject.keda.sh/skip-scaledobject-creation": "true" });
    https.take(is(object("skipped", skip, http_spec())));
    scaled.take(is(object("app", json!({}), scaled_spec())));
    let mut subjects: Vec<Subject> = subjects(&scaled, &https).into_keys().collect();
    subjects.sort_by_key(|subject| format!("{subject:?}"));
    assert_eq!(
        subjects,
        [
            Subject::HttpScaledObject("shop/other".to_owned()),
            Subject::ScaledObject("shop/app".to_owned()),
        ]
    );
}

#[test]
fn an_object_with_problems_scales_nothing_and_keeps_its_metadata() {
    let mut scaled = Known::<ScaledObjectSpec>::default();
    scaled.take(is(object(
        "bad",
        json!({}),
        json!({ "scaleTargetRef": { "name": "web" }, "triggers": [] }),
    )));
    assert!(subjects(&scaled, &Known::default()).is_empty());
    let seen = scaled.get("shop/bad").unwrap();
    assert_eq!(seen.meta.name, "bad");
    assert_eq!(seen.object.as_ref().unwrap_err()[0].field, "spec.triggers");
}
