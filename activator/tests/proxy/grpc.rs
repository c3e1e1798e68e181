//! gRPC calls, as a client and a runtime without any gRPC library see them.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pilotlight_activator::{Config, Event, Purity, RoutePolicy, WakeError, WakeReason};
use tokio::{net::TcpStream, sync::mpsc, task::JoinHandle};

use crate::support::*;

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
const HOST: &str = "iris.ns.example.com";

// --- messages -------------------------------------------------------------------------------------------------------

fn framed(message: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(message);
    body.freeze()
}

fn string(field: u8, value: &str) -> Vec<u8> {
    [&[field << 3 | 2, value.len() as u8], value.as_bytes()].concat()
}

/// A request that names a model in field 1.
fn named(model: &str) -> Bytes {
    framed(&[string(1, model), string(3, "an id")].concat())
}

// --- the client -----------------------------------------------------------------------------------------------------

#[derive(Debug)]
struct Outcome {
    head: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl Outcome {
    /// What the status is made of: the trailers, or the head where there is nothing else.
    fn last(&self) -> &HeaderMap {
        self.trailers.as_ref().unwrap_or(&self.head)
    }

    fn text(&self, name: &str) -> &str {
        self.last().get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn status(&self) -> &str {
        self.text("grpc-status")
    }

    fn failure(&self) -> (&str, &str) {
        (self.status(), self.text("x-pilotlight-reason"))
    }
}

async fn connect(address: SocketAddr) -> SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

fn request(host: &str, path: &str, body: Body) -> Request<Body> {
    Request::post(format!("http://{host}{path}"))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

pub async fn open(stage: &Stage, host: &str, path: &str, body: Body) -> Response<Incoming> {
    let mut sender = connect(stage.address).await;
    sender.send_request(request(host, path, body)).await.unwrap()
}

async fn finish(response: Response<Incoming>) -> Outcome {
    assert_eq!(response.status(), 200);
    assert!(
        response.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/grpc")
    );
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    Outcome {
        head: parts.headers,
        trailers: body.trailers().cloned(),
        body: body.to_bytes(),
    }
}

async fn call_at(stage: &Stage, host: &str, path: &str, body: impl Into<Bytes>) -> Outcome {
    let exchange = async { finish(open(stage, host, path, full(body)).await).await };
    tokio::time::timeout(Duration::from_secs(10), exchange).await.unwrap()
}

async fn call(stage: &Stage, path: &str, body: impl Into<Bytes>) -> Outcome {
    call_at(stage, "localhost", path, body).await
}

/// A call in a task of its own.
fn spawn(stage: &Stage, path: &'static str, body: Bytes) -> JoinHandle<Outcome> {
    let address = stage.address;
    tokio::spawn(async move {
        let request = request("localhost", path, full(body));
        let response = connect(address).await.send_request(request).await.unwrap();
        finish(response).await
    })
}

// --- the runtime ----------------------------------------------------------------------------------------------------

/// Frames as they come over a channel. When that ends the body does, or `dies`, which resets its stream.
fn frames(mut receiver: mpsc::Receiver<Frame<Bytes>>, dies: bool) -> Body {
    let stream = futures_util::stream::poll_fn(move |cx| {
        let next = receiver.poll_recv(cx);
        assert!(!dies || !matches!(next, Poll::Ready(None)), "the runtime dies here");
        next.map(|frame| frame.map(Ok::<_, Infallible>))
    });
    BodyExt::boxed(StreamBody::new(stream))
}

fn trailers(pairs: &[(&'static str, &'static str)]) -> Frame<Bytes> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.insert(*name, value.parse().unwrap());
    }
    Frame::trailers(headers)
}

fn grpc(body: Body) -> Reply {
    let response = Response::builder().header("content-type", "application/grpc");
    Reply::Answer(response.body(body).unwrap())
}

/// Answers at once with these frames.
fn with(given: Vec<Frame<Bytes>>) -> Reply {
    let stream = futures_util::stream::iter(given.into_iter().map(Ok));
    grpc(BodyExt::boxed(StreamBody::new(stream)))
}

/// A head with a status and nothing else.
fn only_head(pairs: &[(&str, &str)]) -> Reply {
    let mut response = Response::builder().header("content-type", "application/grpc");
    for (name, value) in pairs {
        response = response.header(*name, *value);
    }
    Reply::Answer(response.body(full("")).unwrap())
}

/// Sends the request back, and in the trailers how it came.
fn grpc_echo() -> Handler {
    handler(|request| async move {
        let http2 = request.version() == Version::HTTP_2;
        let te = request.headers().get("te").is_some_and(|te| te == "trailers");
        let Ok(body) = request.into_body().collect().await else {
            return Reply::Reset;
        };
        let came = if http2 && te { "properly" } else { "wrongly" };
        let end = trailers(&[("grpc-status", "0"), ("came", came)]);
        with(vec![Frame::data(body.to_bytes()), end])
    })
}

/// The first `n` requests are treated by `bad`, later ones are echoed.
fn first(n: usize, bad: impl Fn() -> Reply + Send + Sync + 'static) -> Handler {
    let seen = AtomicUsize::new(0);
    let (echo, bad) = (grpc_echo(), Arc::new(bad));
    handler(move |request| {
        let is_bad = seen.fetch_add(1, Ordering::SeqCst) < n;
        let (echo, bad) = (Arc::clone(&echo), Arc::clone(&bad));
        async move { if is_bad { bad() } else { echo(request).await } }
    })
}

// --- routes ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_message_names_the_model_and_the_answer_keeps_its_trailers() {
    // The endpoint is declared with HTTP/1.1.
    let (stage, _runtime) = Stage::awake(RoutePolicy::default(), grpc_echo()).await;
    let both = vec![
        route("iris", RoutePolicy::default()),
        route("other", RoutePolicy::default()),
    ];
    stage.activator.set_routes(both).unwrap();
    for method in [
        "ModelInfer",
        "ModelMetadata",
        "ModelConfig",
        "ModelStatistics",
        "ModelStreamInfer",
    ] {
        let path = format!("/inference.GRPCInferenceService/{method}");
        let answer = call(&stage, &path, named("iris")).await;
        assert_eq!((answer.status(), answer.text("came")), ("0", "properly"), "{method}");
        assert_eq!(answer.body, named("iris"));
        assert_eq!(answer.head["x-keda-http-cold-start"], "false");
    }
    stage
        .until("all is counted off", |stage| stage.counts() == (0, 0))
        .await;
}

#[tokio::test]
async fn the_host_leads_to_the_model_whatever_the_message_is() {
    let (stage, _runtime) = Stage::awake(RoutePolicy::default(), grpc_echo()).await;
    let compressed = Bytes::from_static(b"\x01\0\0\0\x03abc");
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    for (path, body) in [
        (INFER, compressed.clone()),
        (INFER, framed(b"")),
        (INFER, named("iris")),
        (STREAM, compressed),
        (reflection, framed(b"")),
    ] {
        let answer = call_at(&stage, HOST, path, body.clone()).await;
        assert_eq!((answer.status(), &answer.body), ("0", &body), "{path}");
    }
    let answer = call_at(&stage, HOST, INFER, named("other")).await;
    assert_eq!(answer.failure(), ("5", "route-disagreement"));
}

#[tokio::test]
async fn what_leads_nowhere_is_a_status_that_says_why() {
    let stage = Stage::new(RoutePolicy::default()).await;
    let mut far = vec![string(9, &"x".repeat(100)); 1000].concat();
    far.extend(string(1, "iris"));
    for (path, body, failure, words) in [
        (INFER, named("cats"), ("5", "unknown-model"), "known models: iris"),
        (INFER, framed(b""), ("5", "unknown-route"), "names no model"),
        (
            INFER,
            Bytes::from_static(b"\x01\0\0\0\x03abc"),
            ("5", "unknown-route"),
            "no compression",
        ),
        (INFER, framed(&far), ("5", "unknown-route"), "first 65536 bytes"),
        (INFER, framed(b"\xff\xff"), ("3", "bad-request"), "malformed"),
        (INFER, Bytes::from_static(b"\0\0"), ("3", "bad-request"), "ends before"),
        ("/a.B/C", framed(b""), ("12", "unknown-method"), "/a.B/C"),
    ] {
        let answer = call(&stage, path, body).await;
        assert_eq!(answer.failure(), failure, "{words}");
        assert!(answer.text("grpc-message").contains(words), "{answer:?}");
        assert!(answer.trailers.is_none() && answer.body.is_empty());
    }
    assert_eq!((stage.wakes(), stage.counts()), (0, (0, 0)));
    assert_eq!(stage.metric("activator_dropped_requests_total", "unknown-model"), 1.0);
}

// --- waiting --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_cold_call_waits_and_wakes() {
    let stage = Stage::new(RoutePolicy::default()).await;
    let answer = spawn(&stage, INFER, named("iris"));
    stage
        .until("it waits and wakes", |stage| {
            stage.counts() == (0, 1) && stage.wakes() == 1
        })
        .await;
    let runtime = Runtime::start(grpc_echo()).await;
    stage.set(&[&runtime]);
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), answer.body.clone()), ("0", named("iris")));
    assert_eq!(answer.head["x-keda-http-cold-start"], "true");
}

#[tokio::test]
async fn a_crowd_that_waited_shares_one_connection() {
    let stage = Stage::new(RoutePolicy::default()).await;
    let crowd: Vec<_> = (0..50).map(|_| spawn(&stage, INFER, named("iris"))).collect();
    stage.until("all wait", |stage| stage.counts() == (0, 50)).await;
    let runtime = Runtime::start(grpc_echo()).await;
    stage.set(&[&runtime]);
    for answer in crowd {
        assert_eq!(answer.await.unwrap().status(), "0");
    }
    // And one of the probes.
    assert_eq!(runtime.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_wake_that_fails_is_unavailable_and_a_full_room_too() {
    let fails = Box::new(|_| -> futures_util::future::BoxFuture<'static, _> {
        Box::pin(async {
            Err(WakeError {
                reason: WakeReason::LoadFailed,
                message: "the file is broken".into(),
            })
        })
    });
    let stage = Stage::with_waker(RoutePolicy::default(), Config::default(), fails).await;
    let answer = call(&stage, INFER, named("iris")).await;
    assert_eq!(answer.failure(), ("14", "load-failed"));
    assert_eq!(answer.text("grpc-message"), "the file is broken");
    let ready = "/inference.GRPCInferenceService/ModelReady";
    let answer = call(&stage, ready, named("iris")).await;
    assert_eq!((answer.status(), answer.body.clone()), ("0", framed(b"")));

    let policy = RoutePolicy {
        max_waiting: 0,
        ..RoutePolicy::default()
    };
    let stage = Stage::new(policy).await;
    let answer = call(&stage, INFER, named("iris")).await;
    assert_eq!(answer.failure(), ("14", "waiting-room-full"));
    let policy = RoutePolicy {
        wait_timeout: Duration::from_millis(20),
        ..RoutePolicy::default()
    };
    let stage = Stage::new(policy).await;
    let answer = call(&stage, INFER, named("iris")).await;
    assert_eq!(answer.failure(), ("4", "wait-timeout"));
}

// --- replicas that fail ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn inference_is_replayed_when_its_stream_is_reset() {
    let (stage, runtime) = Stage::awake(RoutePolicy::default(), first(2, || Reply::Reset)).await;
    let answer = call(&stage, INFER, named("iris")).await;
    assert_eq!((answer.status(), answer.body.clone()), ("0", named("iris")));
    assert_eq!(runtime.requests(), 3);
    assert_eq!(stage.metric("activator_replays_total", "reset"), 2.0);
}

#[tokio::test]
async fn inference_is_replayed_when_its_replica_is_killed() {
    let (stage, silent) = Stage::awake(RoutePolicy::default(), handler(|_| std::future::pending())).await;
    let answer = spawn(&stage, INFER, named("iris"));
    stage.until("it is in flight", |_| silent.requests() == 1).await;
    silent.kill().await;
    stage.until("it waits again", |stage| stage.counts() == (0, 1)).await;
    let alive = Runtime::start(grpc_echo()).await;
    stage.set(&[&alive]);
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), answer.body.clone()), ("0", named("iris")));
}

/// A head and one message, then the stream is reset.
fn cut() -> Reply {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        sender.send(Frame::data(framed(b"half"))).await.ok();
        // The message is written while nothing follows.
        tokio::time::sleep(Duration::from_millis(5)).await;
    });
    grpc(frames(receiver, true))
}

#[tokio::test]
async fn an_answer_without_its_end_is_replayed_and_nothing_of_it_shown() {
    let (stage, runtime) = Stage::awake(RoutePolicy::default(), first(1, cut)).await;
    let answer = call(&stage, INFER, named("iris")).await;
    assert_eq!((answer.status(), answer.body.clone()), ("0", named("iris")));
    assert_eq!(runtime.requests(), 2);
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_a_status() {
    let (stage, runtime) = Stage::awake(RoutePolicy::default(), first(1, cut)).await;
    let answer = call(&stage, STREAM, named("iris")).await;
    assert_eq!(answer.failure(), ("14", "replica-failed"));
    assert_eq!((answer.body.clone(), runtime.requests()), (framed(b"half"), 1));
    stage.until("it is counted off", |stage| stage.counts() == (0, 0)).await;
}

#[tokio::test]
async fn what_is_not_pure_is_not_sent_twice() {
    for (path, body) in [
        (STREAM, named("iris")),
        (
            "/inference.GRPCInferenceService/RepositoryModelLoad",
            framed(&[string(1, "repository"), string(2, "iris")].concat()),
        ),
    ] {
        let (stage, runtime) = Stage::awake(RoutePolicy::default(), first(9, || Reply::Reset)).await;
        let answer = call(&stage, path, body).await;
        assert_eq!(answer.failure(), ("14", "replica-failed"), "{path}");
        assert_eq!(runtime.requests(), 1);
    }
}

#[tokio::test]
async fn a_call_that_kills_every_replica_is_not_to_be_tried_again() {
    let (stage, runtime) = Stage::awake(RoutePolicy::default(), first(9, || Reply::Reset)).await;
    let answer = call(&stage, INFER, named("iris")).await;
    assert_eq!(answer.failure(), ("13", "replicas-failed"));
    assert_eq!(runtime.requests(), 5);
}

#[tokio::test]
async fn a_full_queue_sends_the_call_on_whether_head_or_trailers_say_it() {
    const FULL: &[(&str, &str)] = &[("grpc-status", "14"), ("x-pilotlight-reason", "queue-full")];
    let bad: [fn() -> Reply; 2] = [|| only_head(FULL), || with(vec![trailers(FULL)])];
    for bad in bad {
        let (stage, runtime) = Stage::awake(RoutePolicy::default(), first(2, bad)).await;
        let answer = call(&stage, INFER, named("iris")).await;
        assert_eq!((answer.status(), answer.body.clone()), ("0", named("iris")));
        assert_eq!(runtime.requests(), 3);
        assert_eq!(stage.metric("activator_replays_total", "queue-full"), 2.0);
    }
}

#[tokio::test]
async fn a_replicas_own_status_passes_as_it_is() {
    let own = || only_head(&[("grpc-status", "3"), ("grpc-message", "no such input")]);
    let (stage, runtime) = Stage::awake(RoutePolicy::default(), first(9, own)).await;
    for path in [INFER, STREAM] {
        let answer = call(&stage, path, named("iris")).await;
        assert_eq!((answer.status(), answer.text("grpc-message")), ("3", "no such input"));
        assert!(answer.trailers.is_none(), "{path}");
    }
    assert_eq!(runtime.requests(), 2);
}

// --- streams --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn streams_pass_in_both_directions_as_they_come() {
    let back = handler(|request| async move {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                sender.send(frame).await.unwrap();
            }
            sender.send(trailers(&[("grpc-status", "0")])).await.unwrap();
        });
        grpc(frames(receiver, false))
    });
    for host in ["localhost", HOST] {
        let (stage, _runtime) = Stage::awake(RoutePolicy::default(), Arc::clone(&back)).await;
        let (sender, receiver) = mpsc::channel(1);
        let talk = async {
            sender.send(Frame::data(named("iris"))).await.unwrap();
            let mut body = open(&stage, host, STREAM, frames(receiver, false)).await.into_body();
            for number in 0..3u8 {
                let expected = if number == 0 { named("iris") } else { framed(&[number]) };
                if number > 0 {
                    sender.send(Frame::data(expected.clone())).await.unwrap();
                }
                let echoed = body.frame().await.unwrap().unwrap().into_data().unwrap();
                assert_eq!(echoed, expected, "before the next one is sent");
            }
            assert_eq!(stage.counts(), (1, 0));
            drop(sender);
            body.collect().await.unwrap().trailers().unwrap()["grpc-status"].clone()
        };
        let status = tokio::time::timeout(Duration::from_secs(10), talk).await.unwrap();
        assert_eq!(status, "0");

        // A client that goes away takes the call with it.
        let (sender, receiver) = mpsc::channel(1);
        sender.send(Frame::data(named("iris"))).await.unwrap();
        let gone = open(&stage, host, STREAM, frames(receiver, false)).await;
        assert_eq!(stage.counts(), (1, 0));
        drop((gone, sender));
        stage.until("it is counted off", |stage| stage.counts() == (0, 0)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_cancels_does_not_discredit_the_replica() {
    let (stage, runtime) = Stage::awake(
        RoutePolicy::default(),
        handler(|request| async move {
            let body = request.into_body().collect().await;
            body.map_or(Reply::Reset, |_| answer(""))
        }),
    )
    .await;
    let mut events = stage.activator.events();
    for number in 1..=100 {
        let (sender, receiver) = mpsc::channel(1);
        sender.send(Frame::data(named("iris"))).await.unwrap();
        let mut client = connect(stage.address).await;
        let asking = client.send_request(request("localhost", STREAM, frames(receiver, false)));
        let asking = tokio::spawn(asking);
        stage
            .until("the replica has it", |_| runtime.requests() == number)
            .await;
        // Resets the stream while its body is still being sent.
        asking.abort();
        stage.until("it is counted off", |stage| stage.counts() == (0, 0)).await;
        drop(sender);
    }
    let news: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
    assert!(
        !news.iter().any(|event| matches!(event, Event::EndpointFailed { .. })),
        "{news:?}"
    );
}

#[tokio::test]
async fn an_answer_beyond_the_replay_limit_streams_and_keeps_its_trailers() {
    let policy = RoutePolicy {
        replay_limit: 1000,
        ..RoutePolicy::default()
    };
    let (stage, _runtime) = Stage::awake(policy, grpc_echo()).await;
    let large = framed(&[string(1, "iris"), vec![b'\x08'; 200_000]].concat());
    let answer = call(&stage, INFER, large.clone()).await;
    assert_eq!((answer.status(), answer.body.clone()), ("0", large));
}

#[tokio::test]
async fn a_route_of_unknown_purity_gets_every_call_of_its_host() {
    let policy = RoutePolicy {
        purity: Purity::Opaque,
        ..RoutePolicy::default()
    };
    let (stage, runtime) = Stage::awake(policy, grpc_echo()).await;
    let path = "/inference.GRPCInferenceService/ServerLive";
    let answer = call_at(&stage, HOST, path, framed(b"")).await;
    assert_eq!((answer.status(), runtime.requests()), ("0", 1));
}

// --- what the activator answers itself ------------------------------------------------------------------------------

#[tokio::test]
async fn calls_about_the_server_and_health_are_answered_without_waking() {
    let stage = Stage::new(RoutePolicy::default()).await;
    let index = [string(1, "iris"), string(2, "1"), string(3, "READY")].concat();
    let version = env!("CARGO_PKG_VERSION");
    let metadata = [
        string(1, "pilotlight"),
        string(2, version),
        string(3, "binary_tensor_data"),
        string(3, "model_configuration"),
        string(3, "parameters"),
        string(3, "statistics"),
    ];
    let one = framed(b"\x08\x01");
    for (path, asked, answered) in [
        ("inference.GRPCInferenceService/ServerLive", framed(b""), one.clone()),
        ("inference.GRPCInferenceService/ServerReady", framed(b""), one.clone()),
        (
            "inference.GRPCInferenceService/ServerMetadata",
            framed(b""),
            framed(&metadata.concat()),
        ),
        (
            "inference.GRPCInferenceService/RepositoryIndex",
            framed(b""),
            framed(&[&[0x0a, index.len() as u8], &index[..]].concat()),
        ),
        ("inference.GRPCInferenceService/ModelReady", named("iris"), one.clone()),
        ("grpc.health.v1.Health/Check", framed(b""), one.clone()),
        ("grpc.health.v1.Health/Check", framed(&string(1, "iris")), one.clone()),
        (
            "grpc.health.v1.Health/Check",
            framed(&string(1, "inference.GRPCInferenceService")),
            one,
        ),
    ] {
        let answer = call(&stage, &format!("/{path}"), asked).await;
        assert_eq!((answer.status(), answer.body.clone()), ("0", answered), "{path}");
        assert!(answer.trailers.is_some());
    }
    for (path, status) in [
        ("grpc.health.v1.Health/Check", "5"),
        ("inference.GRPCInferenceService/ModelReady", "5"),
        ("grpc.health.v1.Health/Watch", "12"),
    ] {
        let answer = call(&stage, &format!("/{path}"), framed(&string(1, "cats"))).await;
        assert_eq!(answer.status(), status, "{path}");
    }
    assert_eq!((stage.wakes(), stage.counts()), (0, (0, 0)));
}
