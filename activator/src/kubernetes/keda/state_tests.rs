use serde_json::{Value, json};

use super::*;

fn object(name: &str, spec: Value) -> DynamicObject {
    let object = json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": spec });
    serde_json::from_value(object).unwrap()
}

fn route(name: &str, service: &str) -> DynamicObject {
    object(
        name,
        json!({
            "target": { "service": service, "port": 80 },
            "scalingMetric": { "concurrency": { "targetValue": 5 } },
            "rules": [{ "hosts": [format!("{name}.com")] }],
        }),
    )
}

fn scaled(route: &str) -> DynamicObject {
    let trigger = json!({ "type": "external-push", "metadata": { "interceptorRoute": route } });
    object(
        "so",
        json!({ "scaleTargetRef": { "name": "web" }, "triggers": [trigger] }),
    )
}

fn service(name: &str) -> Service {
    serde_json::from_value(
        json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": { "ports": [{ "port": 80 }] } }),
    )
    .unwrap()
}

fn slice(service: &str, address: &str) -> EndpointSlice {
    let meta = json!({ "name": format!("{service}-1"), "namespace": "shop", "labels": { "kubernetes.io/service-name": service } });
    serde_json::from_value(json!({
        "metadata": meta, "addressType": "IPv4", "ports": [{ "name": "", "port": 8080 }],
        "endpoints": [{ "addresses": [address] }],
    }))
    .unwrap()
}

/// With one route to Service `app`, listed whole.
fn state() -> State {
    let mut state = State::new(KedaConfig::default());
    for change in [
        Change::Route(Event::Begin),
        Change::Route(Event::Listed(route("app", "app"))),
        Change::Route(Event::Complete),
        Change::HttpScaledObject(Event::Absent),
        Change::ScaledObject(Event::Begin),
        Change::ScaledObject(Event::Listed(scaled("app"))),
        Change::ScaledObject(Event::Complete),
        Change::Service(Event::Begin),
        Change::Service(Event::Listed(service("app"))),
        Change::Service(Event::Complete),
        Change::ConfigMap(Event::Complete),
        Change::Slice(Event::Begin),
        Change::Slice(Event::Listed(slice("app", "10.0.0.1"))),
        Change::Slice(Event::Complete),
    ] {
        state.take(change);
    }
    state
}

fn addresses(state: &mut State) -> Vec<(String, Vec<String>)> {
    let endpoints = state.endpoints(Instant::now());
    let text = |endpoint: &Endpoint| endpoint.address.to_string();
    endpoints
        .into_iter()
        .map(|(backend, endpoints)| (backend.to_string(), endpoints.iter().map(text).collect()))
        .collect()
}

#[tokio::test]
async fn nothing_follows_until_every_kind_was_listed() {
    let mut partial = State::new(KedaConfig::default());
    partial.take(Change::Route(Event::Complete));
    assert!(!partial.is_complete());
    let mut state = state();
    assert!(state.is_complete() && state.plan_again());
    assert_eq!(
        addresses(&mut state),
        [("shop/app@http".to_owned(), vec!["10.0.0.1:8080".to_owned()])]
    );
    assert!(!state.plan_again() && addresses(&mut state).is_empty());
}

#[tokio::test]
async fn a_slice_moves_the_backends_of_its_service_only_and_others_are_no_news() {
    let mut state = state();
    state.plan_again();
    addresses(&mut state);
    assert!(!state.take(Change::Slice(Event::Changed(slice("other", "10.0.0.9")))));
    assert!(
        !state.take(Change::Slice(Event::Changed(slice("app", "10.0.0.1")))),
        "nothing changed"
    );
    assert!(state.take(Change::Slice(Event::Changed(slice("app", "10.0.0.2")))));
    assert_eq!(
        addresses(&mut state),
        [("shop/app@http".to_owned(), vec!["10.0.0.2:8080".to_owned()])]
    );
    assert!(state.take(Change::Slice(Event::Gone(slice("app", "10.0.0.2")))));
    assert_eq!(addresses(&mut state), [("shop/app@http".to_owned(), vec![])]);
}

/// Add-on e2e `TestRouteUpdate` and `TestRouteDeletion`, the part before the wire.
#[tokio::test]
async fn add_on_an_updated_route_leads_elsewhere_and_a_deleted_one_is_gone() {
    let mut state = state();
    state.plan_again();
    assert!(state.take(Change::Route(Event::Changed(route("app", "new")))));
    assert!(state.plan_again());
    assert_eq!(state.plan().backends[0].target.service, "new");
    assert!(state.gone().is_empty());
    assert!(state.take(Change::Route(Event::Gone(route("app", "new")))));
    state.plan_again();
    assert!(state.plan().routes.is_empty());
    assert_eq!(state.gone(), [convert::backend("shop", "app")]);
}

#[test]
fn wakes_are_ours_only_where_no_keda_operator_runs() {
    let mut state = state();
    state.plan_again();
    let first = |state: &mut State| state.wakes().into_iter().map(|(_, wakes)| wakes).next().unwrap();
    assert_eq!(first(&mut state), None, "not known yet");
    assert!(state.take(Change::Operator(false)));
    assert_eq!(first(&mut state).unwrap().workload.name, "web");
    assert!(!state.take(Change::Operator(false)));
    assert!(state.take(Change::Operator(true)));
    assert_eq!(first(&mut state), None);
}

/// Fact 1.4: an InterceptorRoute stands over an HTTPScaledObject of the same name.
#[test]
fn add_on_an_interceptor_route_stands_over_an_http_scaled_object_of_its_name() {
    let mut state = state();
    let http = |name: &str| {
        let target = json!({ "name": "old", "service": "old", "port": 80 });
        object(
            name,
            json!({ "scaleTargetRef": target, "hosts": [format!("{name}.org")] }),
        )
    };
    state.take(Change::HttpScaledObject(Event::Changed(http("app"))));
    state.take(Change::HttpScaledObject(Event::Changed(http("own"))));
    state.take(Change::Operator(false));
    state.plan_again();
    let services: Vec<&str> = state
        .plan()
        .backends
        .iter()
        .map(|leads| leads.target.service.as_str())
        .collect();
    assert_eq!(
        services,
        ["old", "app"],
        "own, whose name comes last, and the route app"
    );
    let wakes = state.wakes();
    let names: Vec<&str> = wakes
        .iter()
        .map(|(_, wakes)| wakes.as_ref().unwrap().workload.name.as_str())
        .collect();
    assert_eq!(names, ["old", "web"]);
}

#[test]
fn an_object_with_problems_is_as_if_it_were_not_there() {
    let mut state = state();
    state.plan_again();
    let mut bad = route("app", "app");
    bad.data["spec"]["scalingMetric"] = json!({});
    assert!(state.take(Change::Route(Event::Changed(bad))));
    state.plan_again();
    assert!(state.plan().routes.is_empty());
}

/// Fact 2.4: a route whose port can't be resolved is a 500. A name needs its Service, a number only waits for it.
#[tokio::test]
async fn add_on_a_port_that_cannot_be_found_is_said_of_its_route_until_it_is_there() {
    let mut state = state();
    let target = |target: Value| {
        let mut route = route("app", "app");
        route.data["spec"]["target"] = target;
        Change::Route(Event::Changed(route))
    };
    let unresolved = |state: &mut State| {
        state.plan_again();
        state.plan().routes[0].policy.unresolved.clone()
    };
    assert_eq!(unresolved(&mut state), None);
    state.take(target(json!({ "service": "app", "portName": "web" })));
    assert_eq!(
        unresolved(&mut state).as_deref(),
        Some("the Service \"app\" has no port named \"web\"")
    );
    let mut named = service("app");
    named.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].name = Some("web".to_owned());
    assert!(state.take(Change::Service(Event::Changed(named))));
    assert_eq!(unresolved(&mut state), None);
    for (target_of, is) in [
        (json!({ "service": "app", "port": 81 }), true),
        (json!({ "service": "later", "port": 81 }), false),
        (json!({ "service": "later", "portName": "web" }), true),
    ] {
        state.take(target(target_of));
        assert_eq!(unresolved(&mut state).is_some(), is);
    }
}
