use pilotlight_manifests::keda::{HttpScaledObjectSpec, Spec, read};
use serde_json::{Value, json};

use super::*;

fn declared(name: &str, created: &str, spec: Value) -> Declared {
    let object = json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": spec });
    let spec = read::<InterceptorRouteSpec>(object).unwrap().spec;
    Declared {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        created: created.to_owned(),
        spec,
    }
}

fn spec(more: Value) -> Value {
    let mut spec = json!({
        "target": { "service": "app", "port": 80 },
        "scalingMetric": { "concurrency": { "targetValue": 5 } },
        "rules": [{ "hosts": ["a.com"] }],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

fn policy_of(more: Value, config: &KedaConfig) -> RoutePolicy {
    let plan = plan(vec![declared("app", "", spec(more))], &Files::new(), config);
    plan.routes.into_iter().next().unwrap().policy
}

#[test]
fn a_route_is_counted_under_its_name_and_leads_to_a_backend_of_its_own() {
    let plan = plan(
        vec![declared("app", "", spec(json!({})))],
        &Files::new(),
        &KedaConfig::default(),
    );
    let route = &plan.routes[0];
    assert_eq!(route.id.as_str(), "shop/app");
    assert_eq!(route.backends[0].backend.as_str(), "shop/app@http");
    assert_eq!(route.predicate.rules.as_ref().unwrap()[0].hosts, ["a.com"]);
    assert_eq!(plan.backends[0].target.service, "app");
}

#[test]
fn generic_workloads_are_never_replayed() {
    assert_eq!(policy_of(json!({}), &KedaConfig::default()).purity, Purity::Opaque);
}

/// Fact: without rules an InterceptorRoute never matches, and is listed all the same.
#[test]
fn add_on_a_route_without_rules_is_known_and_takes_nothing() {
    let without = declared("app", "", spec(json!({ "rules": [] })));
    let plan = plan(vec![without], &Files::new(), &KedaConfig::default());
    assert_eq!(plan.routes[0].predicate.rules, Some(Vec::new()));
    crate::core::table::Table::compile(&plan.routes).unwrap();
}

/// Add-on unit test `TestRememberOldestWins`, and the order of namespaces and names.
#[test]
fn add_on_older_routes_come_first_then_later_names() {
    let list = [("a", "2026-01-02"), ("b", "2026-01-01"), ("c", "2026-01-02")];
    let list = list.map(|(name, created)| declared(name, created, spec(json!({}))));
    let plan = plan(list.into(), &Files::new(), &KedaConfig::default());
    let order: Vec<&str> = plan.routes.iter().map(|route| route.id.as_str()).collect();
    assert_eq!(order, ["shop/b", "shop/c", "shop/a"]);
}

/// Fact 2.3 and `TestEndpointResolver_*`: per-route 0 s disables the global limit, a fallback has 30 s where there is none.
#[test]
fn add_on_limits_of_a_route_stand_over_the_global_ones() {
    let seconds = Duration::from_secs;
    let global = KedaConfig {
        readiness_timeout: seconds(7),
        request_timeout: seconds(8),
        response_header_timeout: seconds(9),
        ..KedaConfig::default()
    };
    let inherited = policy_of(json!({}), &global);
    assert_eq!(
        (inherited.wait_timeout, inherited.response_timeout),
        (seconds(7), seconds(9))
    );
    assert_eq!(inherited.request_timeout, Some(seconds(8)));
    let off = json!({ "timeouts": { "readiness": "0s", "request": "0s", "responseHeader": "0s" } });
    let off = policy_of(off, &global);
    assert_eq!(
        (off.wait_timeout, off.response_timeout, off.request_timeout),
        (UNLIMITED, UNLIMITED, None)
    );
    let own = policy_of(
        json!({ "timeouts": { "readiness": "1ms", "request": "500ms" } }),
        &global,
    );
    assert_eq!(
        (own.wait_timeout, own.request_timeout),
        (Duration::from_millis(1), Some(Duration::from_millis(500)))
    );
    let fallback = json!({ "coldStart": { "fallback": { "service": { "name": "other", "port": 80 } } } });
    assert_eq!(policy_of(fallback, &KedaConfig::default()).wait_timeout, seconds(30));
    assert_eq!(policy_of(json!({}), &KedaConfig::default()).wait_timeout, UNLIMITED);
}

#[test]
fn pending_requests_are_bounded_by_the_route_then_by_the_variable() {
    let global = KedaConfig {
        max_pending: 3,
        ..KedaConfig::default()
    };
    assert_eq!(policy_of(json!({}), &global).max_waiting, 3);
    assert_eq!(
        policy_of(json!({ "coldStart": { "maxPendingRequests": 9 } }), &global).max_waiting,
        9
    );
    let own = policy_of(json!({}), &KedaConfig::default());
    assert_eq!(own.max_waiting, RoutePolicy::default().max_waiting);
}

#[test]
fn the_fallback_is_a_backend_of_its_own() {
    let fallback = json!({ "coldStart": { "fallback": { "service": { "name": "other", "portName": "http" } } } });
    let plan = plan(
        vec![declared("app", "", spec(fallback))],
        &Files::new(),
        &KedaConfig::default(),
    );
    let leads: Vec<(&str, &str)> = plan
        .backends
        .iter()
        .map(|leads| (leads.backend.as_str(), leads.target.service.as_str()))
        .collect();
    assert_eq!(leads, [("shop/app@http", "app"), ("shop/app@fallback", "other")]);
    let cold_start = plan.routes[0].policy.cold_start.as_ref().unwrap();
    assert_eq!(cold_start.fallback.as_ref().unwrap().as_str(), "shop/app@fallback");
}

#[test]
fn add_on_bodies_come_from_the_text_the_key_or_the_path() {
    let files = Files::from([(
        "shop/pages".to_owned(),
        Arc::new(BTreeMap::from([("wait.html".to_owned(), Bytes::from_static(b"soon"))])),
    )]);
    let body = |response: Value| {
        let more = json!({ "coldStart": { "placeholder": { "response": response } } });
        let plan = plan(vec![declared("app", "", spec(more))], &files, &KedaConfig::default());
        let cold_start = plan.routes[0].policy.cold_start.clone().unwrap();
        cold_start.placeholder.clone().unwrap()
    };
    let text = body(json!({ "body": "hello", "headers": { "X-A": "1" } }));
    assert_eq!(
        (text.status, text.body),
        (StatusCode::SERVICE_UNAVAILABLE, StaticBody::Text("hello".into()))
    );
    assert_eq!(text.headers["x-a"], "1");
    let from = |source: Value| body(json!({ "bodyFromConfigMap": source })).body;
    let file = StaticBody::File("wait.html".to_owned(), Bytes::from_static(b"soon"));
    assert_eq!(from(json!({ "name": "pages", "key": "wait.html" })), file);
    assert!(matches!(from(json!({ "name": "pages" })), StaticBody::Files(_)));
    assert_eq!(from(json!({ "name": "pages", "key": "none" })), StaticBody::Missing);
    assert_eq!(from(json!({ "name": "none" })), StaticBody::Missing);
}

#[test]
fn overflow_to_the_placeholder_needs_an_explicit_limit() {
    let page = json!({ "response": { "body": "soon" } });
    let overflow = |more: Value| {
        let mut cold = json!({ "placeholder": page, "overflow": "Placeholder" });
        cold.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let policy = policy_of(json!({ "coldStart": cold }), &KedaConfig::default());
        policy.cold_start.unwrap().placeholder_for_overflow
    };
    assert!(overflow(json!({ "maxPendingRequests": 2 })));
    assert!(!overflow(json!({})));
}

#[test]
fn a_route_with_a_header_that_is_none_is_left_out_and_named() {
    let bad = spec(json!({ "rules": [{ "headers": [{ "name": "not a header" }] }] }));
    let list = vec![declared("bad", "", bad), declared("good", "", spec(json!({})))];
    let plan = plan(list, &Files::new(), &KedaConfig::default());
    assert_eq!(plan.routes.len(), 1);
    assert_eq!(plan.faults[0].0, "shop/bad");
}

#[test]
fn an_http_scaled_object_without_hosts_takes_everything() {
    let object = json!({ "spec": { "scaleTargetRef": { "name": "app", "service": "app", "port": 80 } } });
    let spec = read::<HttpScaledObjectSpec>(object).unwrap().spec;
    let route = Declared {
        namespace: "shop".to_owned(),
        name: "all".to_owned(),
        created: String::new(),
        spec: spec.route(),
    };
    assert!(route.spec.problems().is_empty());
    let plan = plan(vec![route], &Files::new(), &KedaConfig::default());
    assert_eq!(plan.routes[0].predicate.rules, Some(vec![Rule::default()]));
}
