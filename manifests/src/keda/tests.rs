use std::time::Duration;

use serde_json::json;

use super::*;

fn route(spec: Value) -> Result<Object<InterceptorRouteSpec>, Vec<Problem>> {
    read(json!({ "metadata": { "name": "app", "namespace": "shop" }, "spec": spec }))
}

fn http(spec: Value) -> Result<Object<HttpScaledObjectSpec>, Vec<Problem>> {
    read(json!({ "metadata": { "name": "app", "namespace": "shop" }, "spec": spec }))
}

fn fields<T>(result: Result<T, Vec<Problem>>) -> Vec<String> {
    result
        .err()
        .unwrap_or_default()
        .into_iter()
        .map(|problem| problem.field)
        .collect()
}

fn minimal() -> Value {
    json!({ "target": { "service": "app", "port": 80 }, "scalingMetric": { "concurrency": { "targetValue": 5 } } })
}

/// Add-on e2e `TestInvalidInterceptorRouteRejected`.
#[test]
fn add_on_invalid_interceptor_routes_are_refused() {
    let mut no_metric = minimal();
    no_metric["scalingMetric"] = json!({});
    assert_eq!(fields(route(no_metric)), ["spec.scalingMetric"]);
    let mut both_ports = minimal();
    both_ports["target"]["portName"] = json!("http");
    assert_eq!(fields(route(both_ports)), ["spec.target"]);
    let mut no_port = minimal();
    no_port["target"] = json!({ "service": "app" });
    assert_eq!(fields(route(no_port)), ["spec.target"]);
}

#[test]
fn a_field_of_the_wrong_type_is_named() {
    let mut spec = minimal();
    spec["timeouts"] = json!({ "readiness": "soon" });
    let problems = route(spec).unwrap_err();
    assert_eq!(problems[0].field, "spec.timeouts.readiness");
    assert!(problems[0].message.contains("`soon`"), "{}", problems[0]);
}

#[test]
fn every_rule_between_fields_of_an_interceptor_route_is_told_at_once() {
    let spec = json!({
        "target": { "service": "", "port": 70000 },
        "scalingMetric": { "requestRate": { "targetValue": 0, "window": "1s", "granularity": "500ms" } },
        "rules": [{ "paths": [{ "value": "" }], "headers": [{ "name": "" }] }],
        "coldStart": {},
        "staticRoutes": [{ "rules": [], "response": { "statusCode": 42, "body": "x", "bodyFromConfigMap": { "name": "" } } }],
    });
    assert_eq!(
        fields(route(spec)),
        [
            "spec.target.service",
            "spec.target.port",
            "spec.scalingMetric.requestRate.targetValue",
            "spec.scalingMetric.requestRate.granularity",
            "spec.rules[0].paths[0].value",
            "spec.rules[0].headers[0].name",
            "spec.coldStart",
            "spec.staticRoutes[0].rules",
            "spec.staticRoutes[0].response.statusCode",
            "spec.staticRoutes[0].response",
            "spec.staticRoutes[0].response.bodyFromConfigMap.name",
        ]
    );
}

#[test]
fn defaults_of_an_interceptor_route_are_the_add_ons() {
    let mut spec = minimal();
    spec["scalingMetric"] = json!({ "requestRate": { "targetValue": 2 } });
    spec["staticRoutes"] = json!([{ "rules": [{}], "response": {} }]);
    let spec = route(spec).unwrap().spec;
    let rate = spec.scaling_metric.request_rate.unwrap();
    assert_eq!(
        (rate.window.0, rate.granularity.0),
        (Duration::from_mins(1), Duration::from_secs(1))
    );
    assert_eq!(spec.static_routes[0].response_mode, ResponseMode::WhenUnavailable);
    assert!(spec.rules.is_empty());
}

/// Add-on unit test `TestTableHTTPSOTimeoutConversion`, and the rules of its conversion.
#[test]
fn add_on_an_http_scaled_object_becomes_an_interceptor_route() {
    let object = http(json!({
        "hosts": ["a.example.com"],
        "pathPrefixes": ["/x"],
        "headers": [{ "name": "X-A" }],
        "scaleTargetRef": { "name": "app", "service": "app", "portName": "http" },
        "timeouts": { "conditionWait": "7s", "responseHeader": "0s" },
        "coldStartTimeoutFailoverRef": { "service": "other", "port": 81 },
    }));
    let route = object.unwrap().spec.route();
    assert_eq!(route.rules[0].hosts, ["a.example.com"]);
    assert_eq!(route.rules[0].paths[0].value, "/x");
    assert_eq!(route.rules[0].headers[0].name, "X-A");
    // The failover's 30 s by default win over conditionWait; 0 s is "not given".
    assert_eq!(route.timeouts.readiness, Some(GoDuration(Duration::from_secs(30))));
    assert_eq!(route.timeouts.response_header, None);
    assert_eq!(
        route
            .cold_start
            .as_ref()
            .unwrap()
            .fallback
            .as_ref()
            .unwrap()
            .service
            .name,
        "other"
    );
    assert!(route.problems().is_empty() && route.scaling_metric.concurrency.is_some());
}

#[test]
fn the_target_of_an_http_scaled_object_is_rate_then_concurrency_then_the_deprecated_one_then_100() {
    let target = |more: Value| {
        let mut spec = json!({ "scaleTargetRef": { "service": "app", "port": 80 } });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let metric = http(spec).unwrap().spec.metric();
        (
            metric.request_rate.map(|rate| rate.target_value),
            metric.concurrency.map(|metric| metric.target_value),
        )
    };
    assert_eq!(target(json!({})), (None, Some(100)));
    assert_eq!(target(json!({ "targetPendingRequests": 7 })), (None, Some(7)));
    let concurrency = json!({ "scalingMetric": { "concurrency": {} }, "targetPendingRequests": 7 });
    assert_eq!(target(concurrency), (None, Some(100)));
    assert_eq!(
        target(json!({ "scalingMetric": { "requestRate": { "targetValue": 3 } } })),
        (Some(3), None)
    );
}

#[test]
fn an_http_scaled_object_with_two_metrics_is_refused() {
    let spec = json!({
        "scaleTargetRef": { "service": "app", "port": 80 },
        "scalingMetric": { "concurrency": {}, "requestRate": {} },
    });
    assert_eq!(fields(http(spec)), ["spec.scalingMetric"]);
}

#[test]
fn status_texts_of_an_http_scaled_object_are_the_add_ons() {
    let target =
        json!({ "name": "app", "kind": "Deployment", "apiVersion": "apps/v1", "service": "web", "portName": "http" });
    let spec = http(json!({ "scaleTargetRef": target })).unwrap().spec;
    assert_eq!(spec.target_workload(), "apps/v1/Deployment/app");
    assert_eq!(spec.target_service(), "web:0");
}

#[test]
fn a_scaled_object_is_read_with_kedas_defaults_and_its_faults_are_named() {
    let good = read::<ScaledObjectSpec>(json!({ "spec": {
        "scaleTargetRef": { "name": "app" },
        "triggers": [{ "type": "external-push", "metadata": { "interceptorRoute": "app" } }],
        "futureField": 1,
    } }));
    let spec = good.unwrap().spec;
    assert_eq!((spec.min(), spec.max()), (0, 100));
    assert_eq!(
        (spec.scale_target_ref.api_version(), spec.scale_target_ref.kind()),
        ("apps/v1", "Deployment")
    );
    let bad = read::<ScaledObjectSpec>(json!({ "spec": {
        "scaleTargetRef": { "name": "" }, "minReplicaCount": 5, "maxReplicaCount": 2, "idleReplicaCount": 5, "triggers": [],
        "advanced": { "horizontalPodAutoscalerConfig": { "behavior": { "scaleDown": {
            "stabilizationWindowSeconds": -1, "policies": [{ "type": "Pods", "value": 0, "periodSeconds": 0 }] } } } },
    } }));
    let behavior = "spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown";
    assert_eq!(
        fields(bad),
        [
            "spec.scaleTargetRef.name".to_owned(),
            "spec.minReplicaCount".to_owned(),
            "spec.idleReplicaCount".to_owned(),
            "spec.triggers".to_owned(),
            format!("{behavior}.stabilizationWindowSeconds"),
            format!("{behavior}.policies[0].value"),
            format!("{behavior}.policies[0].periodSeconds"),
        ]
    );
}

#[test]
fn fields_of_a_scaled_object_that_need_keda_are_named() {
    let spec = json!({
        "scaleTargetRef": { "name": "app", "envSourceContainerName": "main" },
        "advanced": { "horizontalPodAutoscalerConfig": { "name": "mine" }, "scalingModifiers": { "formula": "a" } },
        "triggers": [{ "type": "cron" }, { "type": "prometheus", "useCachedMetrics": true }],
    });
    let spec = read::<ScaledObjectSpec>(json!({ "spec": spec })).unwrap().spec;
    assert_eq!(
        spec.unheeded(),
        [
            "scaleTargetRef.envSourceContainerName",
            "advanced.horizontalPodAutoscalerConfig.name",
            "triggers[1].useCachedMetrics"
        ]
    );
    assert!(spec.has_formula());
}
