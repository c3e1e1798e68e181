//! Which route takes a request, and what a request looks like on the other side.

use std::fmt::Write;

use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use pilotlight_activator::{BackendId, Config, RouteError, RoutePolicy, WeightedBackend};

use crate::support::*;

/// Answers with the request's line and headers, one a line.
fn mirror() -> Handler {
    handler(|request| async move {
        let mut text = format!("{} {}\n", request.method(), request.uri());
        for (name, value) in request.headers() {
            writeln!(text, "{name}: {}", value.to_str().unwrap()).unwrap();
        }
        answer(text)
    })
}

#[tokio::test]
async fn host_path_and_name_lead_to_the_model_and_the_prefix_is_taken_off() {
    let (stage, _runtime) = Stage::awake(RoutePolicy::default(), mirror()).await;
    for (host, path, seen) in [
        (
            "iris.ns.example.com",
            "/v1/models/iris:predict?a=b",
            "/v1/models/iris:predict?a=b",
        ),
        ("IRIS.ns.example.com:8080", "/predict", "/predict"),
        (
            "localhost",
            "/serving/ns/iris/v2/models/iris/infer",
            "/v2/models/iris/infer",
        ),
        ("localhost", "/serving/ns/iris/predict?x", "/predict?x"),
        ("localhost", "/v2/models/iris/infer", "/v2/models/iris/infer"),
    ] {
        let mut request = stage.request(Method::POST, path, "{}");
        request
            .headers_mut()
            .insert(header::HOST, HeaderValue::from_static(host));
        let answer = stage.send(request).await.unwrap().unwrap();
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert_eq!(text.lines().next().unwrap(), format!("POST {seen}"), "{host} {path}");
        assert!(text.contains(&format!("host: {host}\n")), "{text}");
    }
}

#[tokio::test]
async fn the_replica_sees_who_asked_and_a_trace_and_no_headers_of_the_connection() {
    let (stage, _runtime) = Stage::awake(RoutePolicy::default(), mirror()).await;
    let mut request = stage.request(Method::POST, "/v1/models/iris:predict", "{}");
    for (name, value) in [
        ("connection", "x-private"),
        ("x-private", "1"),
        ("x-forwarded-for", "10.1.2.3"),
        ("keep-alive", "timeout=5"),
        ("x-kept", "1"),
    ] {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let answer = stage.send(request).await.unwrap().unwrap();
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    for line in [
        "x-forwarded-for: 10.1.2.3, 127.0.0.1\n".to_owned(),
        "x-forwarded-proto: http\n".to_owned(),
        format!("x-forwarded-host: {}\n", stage.address),
        "x-kept: 1\n".to_owned(),
        "traceparent: 00-".to_owned(),
        "content-length: 2\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line:?} in {text}");
    }
    assert!(!text.contains("x-private") && !text.contains("keep-alive"), "{text}");
}

#[tokio::test]
async fn an_unknown_route_is_a_404_with_a_reason() {
    let stage = Stage::new(RoutePolicy::default()).await;
    let answer = stage.get("/v1/models/cats:predict").await;
    assert_eq!(
        (answer.status, answer.reason()),
        (StatusCode::NOT_FOUND, "unknown-model")
    );
    assert!(answer.json()["error"].as_str().unwrap().contains("iris"));
    let answer = stage.get("/nothing").await;
    assert_eq!(
        (answer.status, answer.reason()),
        (StatusCode::NOT_FOUND, "unknown-route")
    );
    assert_eq!(stage.metric("activator_dropped_requests_total", "unknown-route"), 1.0);
}

#[tokio::test]
async fn a_faulty_table_changes_nothing() {
    let stage = Stage::new(RoutePolicy::default()).await;
    let twice = vec![
        route("other", RoutePolicy::default()),
        route("other", RoutePolicy::default()),
    ];
    assert!(matches!(
        stage.activator.set_routes(twice),
        Err(RouteError::Duplicate(_))
    ));
    assert_eq!(
        stage.get("/v1/models").await.json(),
        serde_json::json!({"models": ["iris"]})
    );
}

#[tokio::test]
async fn who_waits_for_a_removed_route_is_told_and_others_go_on() {
    let stage = Stage::new(RoutePolicy::default()).await;
    let both = vec![
        route("iris", RoutePolicy::default()),
        route("other", RoutePolicy::default()),
    ];
    stage.activator.set_routes(both).unwrap();
    let iris = stage.infer("x");
    let other = stage.send(stage.request(Method::POST, "/v1/models/other:predict", "x"));
    stage
        .until("both wait", |stage| {
            stage
                .activator
                .snapshot()
                .backends
                .values()
                .all(|counts| counts.waiting == 1)
        })
        .await;
    stage
        .activator
        .set_routes(vec![route("iris", RoutePolicy::default())])
        .unwrap();
    let answer = other.await.unwrap().unwrap();
    assert_eq!(
        (answer.status, answer.reason()),
        (StatusCode::NOT_FOUND, "route-removed")
    );
    assert!(!iris.is_finished());
    assert_eq!(stage.counts(), (0, 1));
}

#[tokio::test]
async fn the_admin_side_lists_idle_routes_and_counts() {
    let (stage, _runtime) = Stage::awake(RoutePolicy::default(), echo()).await;
    let both = vec![
        route("iris", RoutePolicy::default()),
        route("other", RoutePolicy::default()),
    ];
    stage.activator.set_routes(both).unwrap();
    stage.infer("x").await.unwrap().unwrap();
    stage.until("it is over", |stage| stage.counts() == (0, 0)).await;
    let (status, queue) = stage.admin("/queue").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        queue,
        r#"{"ns/iris":{"Concurrency":0,"RequestCount":1},"ns/other":{"Concurrency":0,"RequestCount":0}}"#
    );
    for path in ["/livez", "/readyz"] {
        assert_eq!(stage.admin(path).await.0, StatusCode::OK);
    }
    assert_eq!(stage.metric("activator_requests_total", "ns/iris"), 1.0);
    assert_eq!(stage.metric("interceptor_request_count_total", "POST"), 1.0);
}

#[tokio::test]
async fn an_activator_without_routes_is_not_ready() {
    let waker = FnWaker(
        |_| -> futures_util::future::BoxFuture<'static, _> { Box::pin(async { Ok(()) }) },
        std::sync::atomic::AtomicUsize::new(0),
    );
    let activator = pilotlight_activator::Activator::new(Config::default(), std::sync::Arc::new(waker));
    let request = http::Request::builder()
        .uri("/readyz")
        .body(axum::body::Body::empty())
        .unwrap();
    let response = tower::ServiceExt::oneshot(activator.admin_router(), request)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn weights_decide_which_backend_gets_a_request() {
    let stage = Stage::new(RoutePolicy::default()).await;
    let (none, all) = (Runtime::start(echo()).await, Runtime::start(echo()).await);
    let mut split = route("iris", RoutePolicy::default());
    split.backends[0].weight = 0;
    split.backends.push(WeightedBackend {
        backend: BackendId::new("ns/canary"),
        weight: 1,
    });
    stage.activator.set_routes(vec![split]).unwrap();
    stage.set(&[&none]);
    stage
        .activator
        .set_endpoints(&BackendId::new("ns/canary"), vec![endpoint(all.address)]);
    for _ in 0..10 {
        assert_eq!(stage.infer("x").await.unwrap().unwrap().status, StatusCode::OK);
    }
    assert_eq!((none.requests(), all.requests()), (0, 10));
    assert_eq!(stage.activator.ready(&BackendId::new("ns/canary")).len(), 1);
}

#[tokio::test]
async fn the_statistics_of_all_models_are_those_of_all_that_are_awake() {
    let counts = |request: Request<Incoming>| async move {
        assert_eq!(request.uri().path(), "/v2/models/stats");
        answer(r#"{"model_stats":[{"name":"iris","version":"1","inference_count":3}]}"#)
    };
    let (stage, _runtime) = Stage::awake(RoutePolicy::default(), handler(counts)).await;
    let other = Runtime::start(handler(counts)).await;
    let routes = ["iris", "digits", "asleep"].map(|name| route(name, RoutePolicy::default()));
    stage.activator.set_routes(routes.to_vec()).unwrap();
    let digits = BackendId::new("ns/digits");
    stage.activator.set_endpoints(&digits, vec![endpoint(other.address)]);
    while stage.activator.ready(&digits).is_empty() {
        tokio::task::yield_now().await;
    }
    let answer = stage.get("/v2/models/stats").await;
    let one = r#"{"inference_count":3,"name":"iris","version":"1"}"#;
    assert_eq!(
        (answer.status.as_u16(), String::from_utf8_lossy(&answer.body)),
        (200, format!("{{\"model_stats\":[{one},{one}]}}").into())
    );
    assert_eq!(stage.wakes(), 0, "nobody was woken for it");
}
