//! Waking, holding, refusing.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};
use std::time::Duration;

use http::{Method, StatusCode, header};
use pilotlight_activator::{Activator, Config, Event, RoutePolicy, WakeError, WakeReason};
use tokio::net::TcpListener;

use crate::support::*;

/// A stage whose waker starts an echo runtime on each call.
async fn self_waking(policy: RoutePolicy) -> (Stage, Arc<Mutex<Vec<Runtime>>>) {
    let runtimes: Arc<Mutex<Vec<Runtime>>> = Arc::default();
    let slot: Arc<Mutex<Option<Activator>>> = Arc::default();
    let (started, activator) = (Arc::clone(&runtimes), Arc::clone(&slot));
    let wake = move |backend| {
        let (started, activator) = (Arc::clone(&started), Arc::clone(&activator));
        Box::pin(async move {
            let runtime = Runtime::start(echo()).await;
            let list = vec![endpoint(runtime.address)];
            started.lock().unwrap().push(runtime);
            activator
                .lock()
                .unwrap()
                .as_ref()
                .unwrap()
                .set_endpoints(&backend, list);
            Ok(())
        }) as futures_util::future::BoxFuture<'static, _>
    };
    let stage = Stage::with_waker(policy, Config::default(), Box::new(wake)).await;
    *slot.lock().unwrap() = Some(stage.activator.clone());
    (stage, runtimes)
}

#[tokio::test]
async fn a_request_to_a_sleeping_model_wakes_it_and_is_answered() {
    let (stage, _runtimes) = self_waking(RoutePolicy::default()).await;
    let mut events = stage.activator.events();
    let answer = stage.infer("hello").await.unwrap().unwrap();
    assert_eq!(
        (answer.status, &answer.body[..], answer.cold()),
        (StatusCode::OK, &b"hello"[..], "true")
    );
    let answer = stage.infer("again").await.unwrap().unwrap();
    assert_eq!((answer.status, answer.cold()), (StatusCode::OK, "false"));
    assert_eq!(stage.wakes(), 1);

    assert!(matches!(events.recv().await.unwrap(), Event::EndpointReady { .. }));
    let Event::WakeFinished { backend: woken, phases } = events.recv().await.unwrap() else {
        panic!("no wake")
    };
    assert_eq!(
        (woken, stage.activator.last_wake(&backend())),
        (backend(), Some(phases))
    );
    assert!(phases.load <= Duration::from_millis(1) && phases.total() > phases.load);
    assert_eq!(stage.metric("activator_wake_seconds_count", ""), 1.0);
}

#[tokio::test]
async fn a_burst_at_a_sleeping_model_is_answered_to_the_last() {
    let (stage, runtimes) = self_waking(RoutePolicy::default()).await;
    let requests: Vec<_> = (0..300).map(|i| stage.infer(format!("{i}"))).collect();
    for (i, request) in requests.into_iter().enumerate() {
        assert_eq!(request.await.unwrap().unwrap().body, format!("{i}"));
    }
    assert_eq!((stage.wakes(), runtimes.lock().unwrap().len()), (1, 1));
    stage.until("all are over", |stage| stage.counts() == (0, 0)).await;
    assert_eq!(stage.activator.snapshot().backends[&backend()].arrivals, 300);
}

/// The kernel accepts for a listener whose process does not run yet: the probe waits there instead of being repeated.
#[tokio::test]
async fn a_listener_without_process_is_probed_once_and_answers_when_it_runs() {
    let stage = Stage::new(RoutePolicy::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    stage
        .activator
        .set_endpoints(&backend(), vec![endpoint(listener.local_addr().unwrap())]);
    let request = stage.infer("x");
    stage.until("it waits", |stage| stage.counts() == (0, 1)).await;
    // Several probe intervals.
    tokio::time::sleep(Duration::from_millis(60)).await;
    let runtime = Runtime::on(listener, echo());
    assert_eq!(request.await.unwrap().unwrap().status, StatusCode::OK);
    assert_eq!(
        (stage.metric("activator_probes_total", ""), runtime.requests()),
        (1.0, 1)
    );
}

#[tokio::test]
async fn an_endpoint_that_says_not_ready_is_asked_again() {
    let stage = Stage::new(RoutePolicy::default()).await;
    let ready = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&ready);
    let runtime = Runtime::start(handler(move |request| {
        let ready = says.load(Ordering::SeqCst);
        async move {
            if request.uri().path() == "/v2/ready" && !ready {
                return Reply::Answer(http::Response::builder().status(503).body(full("loading")).unwrap());
            }
            answer("ok")
        }
    }))
    .await;
    let mut starting = endpoint(runtime.address);
    starting.probe = pilotlight_activator::Probe::Http("/v2/ready".parse().unwrap());
    stage.activator.set_endpoints(&backend(), vec![starting]);
    let request = stage.infer("x");
    stage.until("it was probed", |_| runtime.requests() > 2).await;
    assert!(!request.is_finished());
    ready.store(true, Ordering::SeqCst);
    assert_eq!(request.await.unwrap().unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn one_request_too_many_is_a_503_that_asks_to_come_back() {
    let stage = Stage::new(RoutePolicy {
        max_waiting: 2,
        ..RoutePolicy::default()
    })
    .await;
    let _waiting = [stage.infer("a"), stage.infer("b")];
    stage.until("two wait", |stage| stage.counts() == (0, 2)).await;
    let answer = stage.infer("c").await.unwrap().unwrap();
    assert_eq!(
        (answer.status, answer.reason()),
        (StatusCode::SERVICE_UNAVAILABLE, "waiting-room-full")
    );
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(answer.json()["code"], "waiting-room-full");
}

#[tokio::test]
async fn one_byte_too_many_is_a_503_and_a_large_body_waits_outside() {
    let policy = RoutePolicy {
        max_waiting_bytes: 100,
        replay_limit: 80,
        ..RoutePolicy::default()
    };
    let (stage, _runtimes) = (Stage::new(policy).await, ());
    let first = stage.infer("x".repeat(80));
    stage.until("one waits", |stage| stage.counts() == (0, 1)).await;
    assert_eq!(
        stage.infer("x".repeat(21)).await.unwrap().unwrap().reason(),
        "waiting-room-full"
    );
    // Over the replay limit: nothing of it is kept.
    let large = stage.infer("x".repeat(5000));
    stage.until("two wait", |stage| stage.counts() == (0, 2)).await;
    let runtime = Runtime::start(echo()).await;
    stage.set(&[&runtime]);
    assert_eq!(first.await.unwrap().unwrap().body.len(), 80);
    assert_eq!(large.await.unwrap().unwrap().body.len(), 5000);
}

#[tokio::test]
async fn a_wait_that_is_too_long_is_a_504() {
    let stage = Stage::new(RoutePolicy {
        wait_timeout: Duration::from_millis(30),
        ..RoutePolicy::default()
    })
    .await;
    let answer = stage.infer("x").await.unwrap().unwrap();
    assert_eq!(
        (answer.status, answer.reason()),
        (StatusCode::GATEWAY_TIMEOUT, "wait-timeout")
    );
}

#[tokio::test]
async fn a_client_that_leaves_while_waiting_is_forgotten_at_once() {
    let stage = Stage::new(RoutePolicy::default()).await;
    let request = stage.infer("x");
    stage.until("it waits", |stage| stage.counts() == (0, 1)).await;
    request.abort();
    stage.until("it is forgotten", |stage| stage.counts() == (0, 0)).await;
    assert_eq!(stage.metric("activator_dropped_requests_total", "client-left"), 1.0);
    let runtime = Runtime::start(echo()).await;
    stage.set(&[&runtime]);
    assert_eq!(stage.infer("y").await.unwrap().unwrap().status, StatusCode::OK);
    assert_eq!(runtime.requests(), 1);
}

#[tokio::test]
async fn a_failed_wake_is_told_to_who_waits_and_to_health_calls() {
    let stage = Stage::new(RoutePolicy::default()).await;
    assert_eq!(stage.get("/v2/models/iris/ready").await.status, StatusCode::OK);
    let request = stage.infer("x");
    stage.until("it waits", |stage| stage.counts() == (0, 1)).await;
    let error = WakeError {
        reason: WakeReason::LoadFailed,
        message: "operator Foo is not supported".into(),
    };
    stage.activator.wake_failed(&backend(), error);
    let answer = request.await.unwrap().unwrap();
    assert_eq!(
        (answer.status, answer.reason()),
        (StatusCode::SERVICE_UNAVAILABLE, "load-failed")
    );
    assert_eq!(answer.json()["error"], "operator Foo is not supported");

    for path in ["/v2/models/iris/ready", "/v1/models/iris", "/serving/ns/iris/ready"] {
        let answer = stage.get(path).await;
        assert_eq!(
            (answer.status, answer.reason()),
            (StatusCode::SERVICE_UNAVAILABLE, "load-failed"),
            "{path}"
        );
    }
    assert_eq!(
        stage.get("/v2/health/ready").await.status,
        StatusCode::OK,
        "one model is not the server"
    );
    let index = stage
        .send(stage.request(Method::POST, "/v2/repository/index", ""))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(index.json()[0]["state"], "UNAVAILABLE");

    let runtime = Runtime::start(echo()).await;
    stage.set(&[&runtime]);
    stage
        .until("an endpoint is ready", |stage| {
            stage.metric("activator_endpoints", "ready") >= 1.0
        })
        .await;
    assert_eq!(stage.get("/v2/models/iris/ready").await.status, StatusCode::OK);
}

#[tokio::test]
async fn calls_about_health_neither_wake_nor_count() {
    let stage = Stage::new(RoutePolicy::default()).await;
    for path in [
        "/v2/health/live",
        "/v2/health/ready",
        "/v2",
        "/v1/models",
        "/v2/models",
        "/v1/models/iris",
        "/v2/models/iris/ready",
        "/serving/ns/iris/v2/health/ready",
        "/serving/ns/iris/health",
    ] {
        assert_eq!(stage.get(path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(
        stage.get("/v1/models/iris").await.json(),
        serde_json::json!({"name": "iris", "ready": true})
    );
    assert_eq!(
        stage.get("/v1/models").await.json(),
        serde_json::json!({"models": ["iris"]})
    );
    assert_eq!(
        (stage.wakes(), stage.activator.snapshot().backends[&backend()].arrivals),
        (0, 0)
    );

    let metadata = stage.send(stage.request(Method::GET, "/v2/models/iris", ""));
    stage
        .until("metadata wakes", |stage| stage.wakes() == 1 && stage.counts() == (0, 1))
        .await;
    metadata.abort();
}

#[tokio::test]
async fn a_refused_client_with_a_large_body_gets_to_read_why() {
    let stage = Stage::new(RoutePolicy {
        max_waiting: 0,
        ..RoutePolicy::default()
    })
    .await;
    for path in ["/v1/models/iris:predict", "/v1/models/nobody:predict"] {
        let request = stage.request(Method::POST, path, vec![0; 900 << 10]);
        let answer = stage.send(request).await.unwrap().unwrap();
        assert!(["waiting-room-full", "unknown-model"].contains(&answer.reason()));
    }
}
