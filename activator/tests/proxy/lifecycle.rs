//! Taking endpoints away, and ending.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use pilotlight_activator::{Config, EndpointId, RoutePolicy};
use tokio::sync::Notify;

use crate::support::*;

/// Answers when told to.
fn gated() -> (Handler, Arc<Notify>) {
    let gate = Arc::new(Notify::new());
    let told = Arc::clone(&gate);
    let handler = handler(move |_| {
        let gate = Arc::clone(&told);
        async move {
            gate.notified().await;
            answer("done")
        }
    });
    (handler, gate)
}

#[tokio::test]
async fn a_sealed_endpoint_finishes_what_it_has_and_what_comes_after_wakes() {
    let (handler, gate) = gated();
    let stage = Stage::new(RoutePolicy::default()).await;
    let runtime = Runtime::start(handler).await;
    let old = endpoint(runtime.address);
    stage.activator.set_endpoints(&backend(), vec![old.clone()]);
    let first = stage.infer("1");
    stage.until("it is in flight", |stage| stage.counts() == (1, 0)).await;

    let wakes = stage.wakes();
    let sealed = stage.activator.seal(&backend(), &old.id).unwrap();
    assert_eq!((sealed.endpoint(), sealed.in_flight()), (&old.id, 1));
    let second = stage.infer("2");
    stage
        .until("the second wakes", |stage| {
            stage.wakes() == wakes + 1 && stage.counts() == (1, 1)
        })
        .await;
    assert!(
        tokio::time::timeout(Duration::from_millis(20), sealed.drained())
            .await
            .is_err()
    );

    gate.notify_one();
    assert_eq!(first.await.unwrap().unwrap().body, "done");
    sealed.drained().await;
    assert!(!second.is_finished());
    let fresh = Runtime::start(echo()).await;
    stage.activator.set_endpoints(&backend(), vec![endpoint(fresh.address)]);
    assert_eq!(second.await.unwrap().unwrap().body, "2");
}

#[tokio::test]
async fn a_seal_taken_back_gives_the_endpoint_to_who_waits() {
    let stage = Stage::new(RoutePolicy::default()).await;
    let runtime = Runtime::start(echo()).await;
    let only = endpoint(runtime.address);
    stage.activator.set_endpoints(&backend(), vec![only.clone()]);
    stage
        .until("it is ready", |stage| {
            stage.metric("activator_endpoints", "ready") >= 1.0
        })
        .await;
    let sealed = stage.activator.seal(&backend(), &only.id).unwrap();
    sealed.drained().await;
    let request = stage.infer("x");
    stage.until("it waits", |stage| stage.counts() == (0, 1)).await;
    assert!(stage.activator.unseal(&backend(), &only.id));
    assert_eq!(request.await.unwrap().unwrap().status, StatusCode::OK);
    assert!(stage.activator.seal(&backend(), &EndpointId::new("nobody")).is_none());
}

/// Arrivals race with seals: every request is answered, none by an endpoint that was drained before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_reaches_an_endpoint_after_it_was_drained() {
    let stage = Arc::new(Stage::new(RoutePolicy::default()).await);
    let mut runtime = Runtime::start(echo()).await;
    let mut current = endpoint(runtime.address);
    stage.activator.set_endpoints(&backend(), vec![current.clone()]);
    let client = {
        let stage = Arc::clone(&stage);
        tokio::spawn(async move {
            for i in 0..200 {
                assert_eq!(
                    stage.infer(format!("{i}")).await.unwrap().unwrap().status,
                    StatusCode::OK
                );
            }
        })
    };
    while !client.is_finished() {
        let next = Runtime::start(echo()).await;
        let fresh = endpoint(next.address);
        stage
            .activator
            .set_endpoints(&backend(), vec![current.clone(), fresh.clone()]);
        tokio::time::sleep(Duration::from_millis(5)).await;
        let sealed = stage.activator.seal(&backend(), &current.id).unwrap();
        sealed.drained().await;
        let served = runtime.requests();
        tokio::time::sleep(Duration::from_millis(3)).await;
        assert_eq!(runtime.requests(), served);
        stage.activator.set_endpoints(&backend(), vec![fresh.clone()]);
        runtime.kill().await;
        (runtime, current) = (next, fresh);
    }
    client.await.unwrap();
    assert_eq!(stage.metric("activator_replays_total", ""), 0.0);
}

#[tokio::test]
async fn at_most_the_declared_number_is_in_flight_on_an_endpoint() {
    let (handler, gate) = gated();
    let stage = Stage::new(RoutePolicy::default()).await;
    let runtime = Runtime::start(handler).await;
    let mut narrow = endpoint(runtime.address);
    narrow.capacity = Some(2);
    stage.activator.set_endpoints(&backend(), vec![narrow]);
    let requests: Vec<_> = (0..5).map(|_| stage.infer("x")).collect();
    stage
        .until("two are in flight", |stage| {
            stage.counts() == (2, 3) && runtime.requests() == 2
        })
        .await;
    for request in requests {
        gate.notify_one();
        gate.notify_one();
        request.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn ending_lets_open_requests_finish_and_takes_no_new_connections() {
    let (handler, gate) = gated();
    let (mut stage, _runtime) = Stage::awake(RoutePolicy::default(), handler).await;
    let request = stage.infer("x");
    stage.until("it is in flight", |stage| stage.counts() == (1, 0)).await;
    stage.shutdown.cancel();
    while stage.admin("/readyz").await.0 == StatusCode::OK {
        tokio::task::yield_now().await;
    }
    assert!(tokio::net::TcpStream::connect(stage.address).await.is_err());
    gate.notify_one();
    assert_eq!(request.await.unwrap().unwrap().body, "done");
    stage.served.take().unwrap().await.unwrap().unwrap();
}

#[tokio::test]
async fn who_still_waits_at_the_end_of_the_drain_time_is_told() {
    let config = Config {
        drain_timeout: Duration::from_millis(50),
        ..Config::default()
    };
    let wake = Box::new(|_| -> futures_util::future::BoxFuture<'static, _> { Box::pin(async { Ok(()) }) });
    let mut stage = Stage::with_waker(RoutePolicy::default(), config, wake).await;
    let request = stage.infer("x");
    stage.until("it waits", |stage| stage.counts() == (0, 1)).await;
    stage.shutdown.cancel();
    assert_eq!(request.await.unwrap().unwrap().reason(), "shutting-down");
    stage.served.take().unwrap().await.unwrap().unwrap();
}
