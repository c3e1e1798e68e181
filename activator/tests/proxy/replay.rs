//! Endpoints that die, refuse and go silent under requests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use pilotlight_activator::{Event, Purity, RoutePolicy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};

use crate::support::*;

/// The first `n` requests of all runtimes that share this are treated by `bad`, later ones are echoed.
fn first(n: usize, bad: impl Fn() -> Reply + Send + Sync + 'static) -> Handler {
    let seen = AtomicUsize::new(0);
    let echo = echo();
    let bad = Arc::new(bad);
    handler(move |request| {
        let is_bad = seen.fetch_add(1, Ordering::SeqCst) < n;
        let (echo, bad) = (Arc::clone(&echo), Arc::clone(&bad));
        async move { if is_bad { bad() } else { echo(request).await } }
    })
}

/// A head and half a body, then the connection breaks.
fn cut() -> Reply {
    let frames = futures_util::stream::iter([Ok(http_body::Frame::data(Bytes::from_static(b"{\"half\":"))), Err(())]);
    let body = StreamBody::new(futures_util::StreamExt::then(frames, |frame| async move {
        if let Ok(frame) = frame {
            return Ok(frame);
        }
        // While it is pending the first half is written.
        tokio::time::sleep(Duration::from_millis(5)).await;
        // Ends the connection's task, which resets it.
        panic!("the runtime dies here")
    }));
    Reply::Answer(
        Response::builder()
            .header("content-type", "application/json")
            .body(body.boxed_unsync_to_box())
            .unwrap(),
    )
}

trait ToBox {
    fn boxed_unsync_to_box(self) -> Body;
}

impl<S> ToBox for StreamBody<S>
where
    StreamBody<S>: http_body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + Sync + 'static,
{
    fn boxed_unsync_to_box(self) -> Body {
        self.boxed()
    }
}

#[tokio::test]
async fn a_reset_before_the_answer_is_replayed() {
    let (stage, runtime) = Stage::awake(RoutePolicy::default(), first(2, || Reply::Reset)).await;
    let mut events = stage.activator.events();
    let answer = stage.infer("x").await.unwrap().unwrap();
    assert_eq!(
        (answer.status, &answer.body[..], runtime.requests()),
        (StatusCode::OK, &b"x"[..], 3)
    );
    assert_eq!(stage.metric("activator_replays_total", "reset"), 2.0);
    assert!(matches!(events.recv().await.unwrap(), Event::EndpointFailed { .. }));
    assert!(matches!(events.recv().await.unwrap(), Event::EndpointReady { .. }));
}

#[tokio::test]
async fn an_answer_cut_in_its_middle_is_replayed_and_nothing_of_it_shown() {
    let (stage, runtime) = Stage::awake(RoutePolicy::default(), first(1, cut)).await;
    let answer = stage.infer("whole").await.unwrap().unwrap();
    assert_eq!(
        (answer.status, &answer.body[..], runtime.requests()),
        (StatusCode::OK, &b"whole"[..], 2)
    );
    assert_eq!(stage.metric("activator_replays_total", "answer-cut"), 1.0);
}

#[tokio::test]
async fn replicas_that_keep_dying_are_a_502_after_as_many_tries_as_allowed() {
    let (stage, runtime) = Stage::awake(RoutePolicy::default(), first(usize::MAX, || Reply::Reset)).await;
    let answer = stage.infer("x").await.unwrap().unwrap();
    assert_eq!(
        (answer.status, answer.reason()),
        (StatusCode::BAD_GATEWAY, "replicas-failed")
    );
    assert_eq!(runtime.requests(), 5);
}

#[tokio::test]
async fn what_may_have_effects_is_not_sent_twice() {
    let (stage, runtime) = Stage::awake(RoutePolicy::default(), first(1, || Reply::Reset)).await;
    let request = stage.request(Method::POST, "/serving/ns/iris/v2/repository/models/iris/load", "x");
    let answer = stage.send(request).await.unwrap().unwrap();
    assert_eq!(
        (answer.status, answer.reason()),
        (StatusCode::BAD_GATEWAY, "replica-failed")
    );
    assert_eq!(runtime.requests(), 1);
}

#[tokio::test]
async fn a_refused_connection_sends_even_an_opaque_request_elsewhere() {
    let policy = RoutePolicy {
        purity: Purity::Opaque,
        ..RoutePolicy::default()
    };
    let (stage, dead) = Stage::awake(policy, echo()).await;
    let address = dead.address;
    dead.kill().await;
    // Declared ready, so that the request finds out itself.
    let mut gone = endpoint(address);
    gone.state = pilotlight_activator::EndpointState::Ready;
    stage.activator.set_endpoints(&backend(), vec![gone.clone()]);
    let request = stage.send(stage.request(Method::POST, "/serving/ns/iris/any", "x"));
    stage
        .until("nothing live is left, so it wakes", |stage| stage.wakes() == 1)
        .await;
    let alive = Runtime::start(echo()).await;
    stage
        .activator
        .set_endpoints(&backend(), vec![gone, endpoint(alive.address)]);
    assert_eq!(request.await.unwrap().unwrap().body, "x");
}

#[tokio::test]
async fn killing_runtimes_under_load_loses_nothing() {
    let slow = || {
        handler(|request| async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            let body = request.into_body().collect().await;
            body.map_or(Reply::Reset, |body| answer(body.to_bytes()))
        })
    };
    let stage = Arc::new(Stage::new(RoutePolicy::default()).await);
    let mut runtimes = vec![Runtime::start(slow()).await, Runtime::start(slow()).await];
    let mut endpoints: Vec<_> = runtimes.iter().map(|runtime| endpoint(runtime.address)).collect();
    stage.activator.set_endpoints(&backend(), endpoints.clone());
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let stage = Arc::clone(&stage);
            tokio::spawn(async move {
                for i in 0..60 {
                    let body = format!("{client}-{i}");
                    let answer = stage.infer(body.clone()).await.unwrap().unwrap();
                    assert_eq!((answer.status, answer.body), (StatusCode::OK, Bytes::from(body)));
                }
            })
        })
        .collect();
    let mut kills = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        tokio::time::sleep(Duration::from_millis(25)).await;
        let fresh = Runtime::start(slow()).await;
        endpoints.push(endpoint(fresh.address));
        runtimes.push(fresh);
        runtimes.remove(0).kill().await;
        // The platform notices after the requests did.
        tokio::time::sleep(Duration::from_millis(5)).await;
        endpoints.remove(0);
        stage.activator.set_endpoints(&backend(), endpoints.clone());
        kills += 1;
    }
    for client in clients {
        client.await.unwrap();
    }
    assert!(kills > 2);
    stage.until("all are over", |stage| stage.counts() == (0, 0)).await;
}

#[tokio::test]
async fn a_full_queue_sends_the_request_elsewhere_or_makes_it_wait() {
    let (stage, runtime) = Stage::awake(RoutePolicy::default(), first(4, refuse)).await;
    let answer = stage.infer("x").await.unwrap().unwrap();
    assert_eq!(
        (answer.status, &answer.body[..], runtime.requests()),
        (StatusCode::OK, &b"x"[..], 5)
    );

    let (stage, full) = Stage::awake(RoutePolicy::default(), first(usize::MAX, refuse)).await;
    let free = Runtime::start(echo()).await;
    stage.set(&[&full, &free]);
    for _ in 0..20 {
        assert_eq!(stage.infer("x").await.unwrap().unwrap().status, StatusCode::OK);
    }
    assert_eq!(free.requests(), 20);
}

#[tokio::test]
async fn a_full_queue_reaches_the_client_when_the_waiting_room_is_full_too() {
    let policy = RoutePolicy {
        max_waiting: 0,
        ..RoutePolicy::default()
    };
    let (stage, _runtime) = Stage::awake(policy, first(usize::MAX, refuse)).await;
    let answer = stage.infer("x").await.unwrap().unwrap();
    assert_eq!(
        (answer.status, answer.reason()),
        (StatusCode::SERVICE_UNAVAILABLE, "waiting-room-full")
    );
}

#[tokio::test]
async fn a_silent_replica_is_a_504() {
    let policy = RoutePolicy {
        response_timeout: Duration::from_millis(30),
        ..RoutePolicy::default()
    };
    let silent = handler(|_| std::future::pending());
    let (stage, runtime) = Stage::awake(policy, silent).await;
    let answer = stage.infer("x").await.unwrap().unwrap();
    assert_eq!(
        (answer.status, answer.reason(), runtime.requests()),
        (StatusCode::GATEWAY_TIMEOUT, "response-timeout", 1)
    );
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_off_the_replica() {
    let left = Arc::new(Notify::new());
    let (started, dropped) = (Arc::new(Notify::new()), Arc::clone(&left));
    let begun = Arc::clone(&started);
    struct OnDrop(Arc<Notify>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (stage, _runtime) = Stage::awake(
        RoutePolicy::default(),
        handler(move |_| {
            let guard = OnDrop(Arc::clone(&dropped));
            begun.notify_one();
            async move {
                let _guard = guard;
                std::future::pending().await
            }
        }),
    )
    .await;
    let request = stage.infer("x");
    started.notified().await;
    request.abort();
    left.notified().await;
    stage.until("it is forgotten", |stage| stage.counts() == (0, 0)).await;
}

/// A server that closes each connection after its answer, without saying so: the next request finds it closed.
#[tokio::test]
async fn a_kept_connection_that_was_closed_is_not_used_again() {
    let stage = Stage::new(RoutePolicy::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await
                .unwrap();
        }
    });
    stage.activator.set_endpoints(&backend(), vec![endpoint(address)]);
    for _ in 0..10 {
        assert_eq!(stage.get("/v2/models/iris").await.body, "ok");
    }
}
