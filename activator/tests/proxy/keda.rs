//! Routes of the KEDA HTTP add-on through the proxy: its cold start, static routes, timeouts and `/queue`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use pilotlight_activator::{
    BackendId, ColdStart, Config, Endpoint, EndpointState, Predicate, Probe, Purity, Route, RouteId, RoutePolicy, Rule,
    WeightedBackend,
    cold_start::{StaticBody, StaticResponse, StaticRoute},
};
use tokio::time::sleep;

use crate::support::{Answer, Body, Reply, Runtime, Stage, answer, echo, endpoint, full, handler};

const HOST: &str = "app.example.com";

fn rule(path: &str) -> Rule {
    Rule {
        hosts: vec![HOST.to_owned()],
        path_prefixes: vec![path.to_owned()],
        headers: Vec::new(),
    }
}

fn text(status: u16, body: &'static str) -> StaticResponse {
    StaticResponse {
        status: StatusCode::from_u16(status).unwrap(),
        headers: [(http::header::CONTENT_TYPE, "application/json".parse().unwrap())]
            .into_iter()
            .collect(),
        body: StaticBody::Text(Bytes::from_static(body.as_bytes())),
    }
}

fn app() -> BackendId {
    BackendId::new("shop/app@http")
}

fn fallback() -> BackendId {
    BackendId::new("shop/app@fallback")
}

/// A stage with one route of the add-on, `shop/app`, asleep.
async fn stage(cold_start: ColdStart, policy: RoutePolicy) -> Stage {
    let config = Config {
        applications: true,
        ..Config::default()
    };
    let waker = Box::new(|_| -> futures_util::future::BoxFuture<'static, _> { Box::pin(async { Ok(()) }) });
    let stage = Stage::with_waker(RoutePolicy::default(), config, waker).await;
    let route = Route {
        id: RouteId::new("shop/app"),
        predicate: Predicate {
            rules: Some(vec![rule("/")]),
            ..Predicate::default()
        },
        backends: vec![WeightedBackend {
            backend: app(),
            weight: 100,
        }],
        policy: RoutePolicy {
            purity: Purity::Opaque,
            cold_start: Some(Arc::new(cold_start)),
            ..policy
        },
    };
    stage.activator.set_routes(vec![route]).unwrap();
    stage
}

fn ready(runtime: &Runtime) -> Endpoint {
    Endpoint {
        state: EndpointState::Ready,
        probe: Probe::Declared,
        initial_capacity: u32::MAX,
        ..endpoint(runtime.address)
    }
}

fn request(stage: &Stage, path: &str) -> Request<Body> {
    let uri = format!("http://{}{path}", stage.address);
    Request::builder()
        .method(Method::GET)
        .uri(uri)
        .header("host", HOST)
        .body(full(""))
        .unwrap()
}

async fn get(stage: &Stage, path: &str) -> Answer {
    stage.send(request(stage, path)).await.unwrap().unwrap()
}

async fn queue(stage: &Stage) -> String {
    stage.admin("/queue").await.1
}

/// Add-on `TestIntegration`: HappyPath 200, NoRoutingTableEntry 404, WaitReplicas 200; and the cold-start header.
#[tokio::test]
async fn add_on_a_request_waits_for_its_first_replica_and_is_told_that_it_was_cold() {
    let stage = stage(ColdStart::default(), RoutePolicy::default()).await;
    let waiting = stage.send(request(&stage, "/x/y?z=1"));
    stage.until("it woke the backend", |stage| stage.wakes() > 0).await;
    assert_eq!(
        queue(&stage).await,
        r#"{"shop/app":{"Concurrency":1,"RequestCount":1}}"#
    );
    let runtime = Runtime::start(handler(|request| async move { answer(request.uri().to_string()) })).await;
    stage.activator.set_endpoints(&app(), vec![ready(&runtime)]);
    let cold = waiting.await.unwrap().unwrap();
    // The path goes on as it came.
    assert_eq!(
        (cold.status, cold.cold(), &cold.body[..]),
        (StatusCode::OK, "true", &b"/x/y?z=1"[..])
    );
    assert_eq!(get(&stage, "/").await.cold(), "false");
    assert_eq!(stage.get("/").await.status, StatusCode::NOT_FOUND, "another host");
    assert_eq!(
        queue(&stage).await,
        r#"{"shop/app":{"Concurrency":0,"RequestCount":2}}"#
    );
}

/// Add-on `TestIntegration` NoReplicas 504, and e2e `TestReadinessTimeout`.
#[tokio::test]
async fn add_on_without_replica_the_readiness_limit_is_a_504_without_header() {
    let policy = RoutePolicy {
        wait_timeout: Duration::from_millis(1),
        ..RoutePolicy::default()
    };
    let stage = stage(ColdStart::default(), policy).await;
    let answer = get(&stage, "/").await;
    assert_eq!((answer.status, answer.cold()), (StatusCode::GATEWAY_TIMEOUT, ""));
}

/// Add-on e2e `TestColdStartFallback` and `TestEndpointResolver_*`.
#[tokio::test]
async fn add_on_the_fallback_answers_once_the_readiness_limit_has_passed() {
    let cold_start = ColdStart {
        fallback: Some(fallback()),
        ..ColdStart::default()
    };
    let policy = RoutePolicy {
        wait_timeout: Duration::from_millis(20),
        ..RoutePolicy::default()
    };
    let stage = stage(cold_start, policy).await;
    let other = Runtime::start(handler(|_| async { answer("fallback") })).await;
    stage.activator.set_endpoints(&fallback(), vec![ready(&other)]);
    let answer = get(&stage, "/").await;
    assert_eq!(
        (answer.status, &answer.body[..], answer.cold()),
        (StatusCode::OK, &b"fallback"[..], "")
    );
    let runtime = Runtime::start(echo()).await;
    stage.activator.set_endpoints(&app(), vec![ready(&runtime)]);
    assert_eq!(get(&stage, "/").await.cold(), "false");
    assert_eq!((other.requests(), runtime.requests()), (1, 1));
}

/// Add-on e2e `TestColdStartPlaceholder`, `TestColdStartPlaceholderWithFallback` and `TestPlaceholder_*`.
#[tokio::test]
async fn add_on_the_placeholder_answers_at_once_wakes_and_beats_the_fallback() {
    let cold_start = ColdStart {
        fallback: Some(fallback()),
        placeholder: Some(text(418, r#"{"status":"starting"}"#)),
        ..ColdStart::default()
    };
    let stage = stage(cold_start, RoutePolicy::default()).await;
    let answer = get(&stage, "/").await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body[..]),
        (418, &br#"{"status":"starting"}"#[..])
    );
    assert_eq!(
        (&answer.headers["content-type"], answer.cold()),
        (&"application/json".parse::<http::HeaderValue>().unwrap(), "")
    );
    stage.until("it woke the backend", |stage| stage.wakes() > 0).await;
    assert_eq!(
        queue(&stage).await,
        r#"{"shop/app":{"Concurrency":0,"RequestCount":1}}"#
    );
    let runtime = Runtime::start(echo()).await;
    stage.activator.set_endpoints(&app(), vec![ready(&runtime)]);
    assert_eq!(get(&stage, "/").await.status, StatusCode::OK);
}

/// Add-on 0.16: a limit of pending requests with overflow `Reject` or `Placeholder`.
#[tokio::test]
async fn add_on_pending_requests_past_their_limit_are_rejected_or_get_the_placeholder() {
    for (overflow, status) in [(false, 503), (true, 418)] {
        let cold_start = ColdStart {
            placeholder: overflow.then(|| text(418, "soon")),
            placeholder_for_overflow: overflow,
            ..ColdStart::default()
        };
        let policy = RoutePolicy {
            max_waiting: 1,
            ..RoutePolicy::default()
        };
        let stage = stage(cold_start, policy).await;
        let waiting = stage.send(request(&stage, "/"));
        stage.until("one waits", |stage| stage.wakes() > 0).await;
        stage
            .until("it is in the room", |stage| {
                stage.activator.snapshot().backends[&app()].waiting == 1
            })
            .await;
        sleep(Duration::from_millis(20)).await;
        assert_eq!(get(&stage, "/").await.status.as_u16(), status);
        assert_eq!(stage.metric("interceptor_cold_start_rejections_total", "app"), 1.0);
        let runtime = Runtime::start(echo()).await;
        stage.activator.set_endpoints(&app(), vec![ready(&runtime)]);
        assert_eq!(waiting.await.unwrap().unwrap().status, StatusCode::OK);
    }
}

/// Add-on e2e `TestStaticRoute` and `TestStaticRouting*`: neither counted nor waking, and forwarded uncounted once warm.
#[tokio::test]
async fn add_on_static_routes_wake_nothing_and_keep_nothing_awake() {
    let fixed = |path: &str, when_unavailable, body| StaticRoute {
        rules: vec![rule(path)],
        response: text(200, body),
        when_unavailable,
    };
    let cold_start = ColdStart {
        static_routes: vec![
            fixed("/health", true, "asleep"),
            fixed("/robots.txt", false, "always"),
            fixed("/health", false, "late"),
        ],
        ..ColdStart::default()
    };
    let stage = stage(cold_start, RoutePolicy::default()).await;
    assert_eq!(&get(&stage, "/health/deep").await.body[..], b"asleep");
    assert_eq!(&get(&stage, "/robots.txt").await.body[..], b"always");
    assert_eq!(stage.wakes(), 0);
    let runtime = Runtime::start(handler(|_| async { answer("awake") })).await;
    stage.activator.set_endpoints(&app(), vec![ready(&runtime)]);
    let warm = get(&stage, "/health").await;
    assert_eq!((&warm.body[..], warm.cold()), (&b"awake"[..], ""));
    assert_eq!(&get(&stage, "/robots.txt").await.body[..], b"always");
    assert_eq!(
        queue(&stage).await,
        r#"{"shop/app":{"Concurrency":0,"RequestCount":0}}"#
    );
    // They are in the metrics, which come before routing.
    assert_eq!(
        stage.metric("interceptor_request_count_total", "route_name=\"app\""),
        4.0
    );
}

/// Add-on e2e `TestRequestTimeout` and `TestResponseHeaderTimeout`.
#[tokio::test]
async fn add_on_a_replica_that_is_slower_than_a_limit_is_a_504() {
    let (short, long) = (Duration::from_millis(30), Duration::from_mins(1));
    for (request_timeout, response_timeout, status) in
        [(Some(short), long, 504), (Some(long), short, 504), (None, long, 200)]
    {
        let policy = RoutePolicy {
            request_timeout,
            response_timeout,
            ..RoutePolicy::default()
        };
        let stage = stage(ColdStart::default(), policy).await;
        let slow = handler(|_| async {
            sleep(Duration::from_millis(200)).await;
            answer("late")
        });
        let runtime = Runtime::start(slow).await;
        stage.activator.set_endpoints(&app(), vec![ready(&runtime)]);
        assert_eq!(get(&stage, "/").await.status.as_u16(), status);
    }
}

/// Add-on `TestForwarderConnectionRetryAndTimeout` and fact 2.3 (the header on a 502): a connection that failed before a byte was sent is tried elsewhere, and
/// nothing else is.
#[tokio::test]
async fn add_on_only_a_failed_connection_is_tried_again() {
    let stage = stage(ColdStart::default(), RoutePolicy::default()).await;
    let gone = Runtime::start(echo()).await;
    let dead = ready(&gone);
    gone.kill().await;
    let alive = Runtime::start(echo()).await;
    stage.activator.set_endpoints(&app(), vec![dead, ready(&alive)]);
    for _ in 0..4 {
        assert_eq!(get(&stage, "/").await.status, StatusCode::OK);
    }
    let resets = Runtime::start(handler(|_| async { Reply::Reset })).await;
    let other = Runtime::start(echo()).await;
    stage.activator.set_endpoints(&app(), vec![ready(&resets)]);
    let answer = get(&stage, "/").await;
    // Its wait was over, so that it is told of it.
    assert_eq!((answer.status, answer.cold()), (StatusCode::BAD_GATEWAY, "false"));
    assert_eq!((resets.requests(), other.requests()), (1, 0));
}

/// Add-on `TestRequestCountMonotonic` and fact 2.6: every known route is listed, with any method.
#[tokio::test]
async fn add_on_queue_lists_idle_routes_and_counts_only_upwards() {
    let stage = stage(ColdStart::default(), RoutePolicy::default()).await;
    assert_eq!(
        queue(&stage).await,
        r#"{"shop/app":{"Concurrency":0,"RequestCount":0}}"#
    );
    let runtime = Runtime::start(echo()).await;
    stage.activator.set_endpoints(&app(), vec![ready(&runtime)]);
    for count in 1..4 {
        get(&stage, "/").await;
        let counts = format!(r#"{{"shop/app":{{"Concurrency":0,"RequestCount":{count}}}}}"#);
        stage
            .until("it is over", |stage| {
                stage.activator.snapshot().backends[&app()].in_flight == 0
            })
            .await;
        assert_eq!(queue(&stage).await, counts);
    }
    let active = stage.admin("/api/v1/active?since=0").await.1;
    assert_eq!(active, r#"{"sequence":3,"routes":["shop/app"]}"#);
}

/// Add-on e2e `TestRequestTimeout`: the limit is over the whole request, so an answer that has begun is cut.
#[tokio::test]
async fn add_on_an_answer_that_takes_longer_than_its_request_may_is_cut() {
    let policy = RoutePolicy {
        request_timeout: Some(Duration::from_millis(100)),
        ..RoutePolicy::default()
    };
    let stage = stage(ColdStart::default(), policy).await;
    let endless = handler(|_| async {
        let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"x")))]);
        let body = StreamBody::new(first.chain(futures_util::stream::pending()));
        Reply::Answer(http::Response::new(BodyExt::boxed(body)))
    });
    let runtime = Runtime::start(endless).await;
    stage.activator.set_endpoints(&app(), vec![ready(&runtime)]);
    let broken = stage.send(request(&stage, "/")).await.unwrap().unwrap_err();
    assert!(broken.contains("Body") || broken.contains("Incomplete"), "{broken}");
    stage
        .until("its place is free", |stage| {
            stage.activator.snapshot().backends[&app()].in_flight == 0
        })
        .await;
}

/// Fact 2.1 and 2.3: errors in the words of their status; what no route takes is in the metrics without a name and not in `/queue`.
#[tokio::test]
async fn add_on_errors_are_in_words_and_a_miss_is_measured_without_a_name() {
    let policy = RoutePolicy {
        wait_timeout: Duration::from_millis(1),
        ..RoutePolicy::default()
    };
    let stage = stage(ColdStart::default(), policy).await;
    let missed = stage.get("/").await;
    assert_eq!(
        (missed.status, &missed.body[..]),
        (StatusCode::NOT_FOUND, &b"Not Found\n"[..])
    );
    assert_eq!(missed.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(stage.metric("interceptor_request_count_total", "route_name=\"\""), 1.0);
    let late = get(&stage, "/").await;
    assert_eq!(
        (late.status, &late.body[..]),
        (StatusCode::GATEWAY_TIMEOUT, &b"Gateway Timeout\n"[..])
    );
    assert_eq!(
        queue(&stage).await,
        r#"{"shop/app":{"Concurrency":0,"RequestCount":1}}"#
    );
}

/// Fact 2.4: a route whose port can't be resolved is a 500 at once; it neither waits nor wakes.
#[tokio::test]
async fn add_on_a_port_that_cannot_be_found_is_a_500_at_once() {
    let policy = RoutePolicy {
        unresolved: Some("no such port".into()),
        ..RoutePolicy::default()
    };
    let stage = stage(ColdStart::default(), policy).await;
    let answer = get(&stage, "/").await;
    assert_eq!(
        (answer.status, &answer.body[..]),
        (StatusCode::INTERNAL_SERVER_ERROR, &b"Internal Server Error\n"[..])
    );
    assert_eq!(stage.wakes(), 0);
    assert_eq!(
        queue(&stage).await,
        r#"{"shop/app":{"Concurrency":0,"RequestCount":0}}"#
    );
}

/// Add-on `TestStaticRouting*`: a health check by gRPC wakes nothing either; its client gets the answer as it is.
#[tokio::test]
async fn add_on_static_routes_are_for_grpc_too() {
    let health = StaticRoute {
        rules: vec![rule("/grpc.health.v1.Health")],
        response: text(200, "asleep"),
        when_unavailable: true,
    };
    let cold_start = ColdStart {
        static_routes: vec![health],
        ..ColdStart::default()
    };
    let stage = stage(cold_start, RoutePolicy::default()).await;
    let answer = crate::grpc::open(&stage, HOST, "/grpc.health.v1.Health/Check", full("")).await;
    assert_eq!(&answer.into_body().collect().await.unwrap().to_bytes()[..], b"asleep");
    assert_eq!(stage.wakes(), 0);
    assert_eq!(
        queue(&stage).await,
        r#"{"shop/app":{"Concurrency":0,"RequestCount":0}}"#
    );
}
