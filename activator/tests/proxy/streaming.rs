//! Bodies that do not fit, other protocols.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use pilotlight_activator::{EndpointState, Protocol, Purity, RoutePolicy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::*;

const PIECE: usize = 64 << 10;
const PIECES: usize = 256;

fn pieces() -> Body {
    let piece = Bytes::from(vec![7u8; PIECE]);
    let frames = futures_util::stream::iter(std::iter::repeat_n(piece, PIECES)).map(|piece| Ok(Frame::data(piece)));
    BodyExt::boxed(StreamBody::new(frames))
}

/// Passes each piece back as it comes.
fn stream_back() -> Handler {
    handler(|request| async move {
        let frames = request
            .into_body()
            .into_data_stream()
            .map(|piece| Ok(Frame::data(piece.unwrap_or_default())));
        Reply::Answer(Response::new(BodyExt::boxed(SyncStream(StreamBody::new(frames)))))
    })
}

/// hyper's incoming bodies are `Sync`, but the compiler can't see it through the combinators.
struct SyncStream<B>(B);

impl<B: http_body::Body + Unpin> http_body::Body for SyncStream<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }
}

#[tokio::test]
async fn a_body_beyond_the_replay_limit_streams_both_ways() {
    let (stage, _runtime) = Stage::awake(RoutePolicy::default(), stream_back()).await;
    let mut request = stage.request(Method::POST, "/v1/models/iris:predict", "");
    *request.body_mut() = pieces();
    let answer = stage.send(request).await.unwrap().unwrap();
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, PIECE * PIECES));
    assert!(answer.body.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn an_event_stream_is_passed_on_as_it_comes() {
    let (stage, _runtime) = Stage::awake(
        RoutePolicy::default(),
        handler(|_| async {
            let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"data: 1\n\n")))]);
            let body = StreamBody::new(first.chain(futures_util::stream::pending()));
            Reply::Answer(
                Response::builder()
                    .header("content-type", "text/event-stream")
                    .body(BodyExt::boxed(body))
                    .unwrap(),
            )
        }),
    )
    .await;
    let request = stage.request(Method::POST, "/v2/models/iris/generate_stream", "{}");
    let mut response = stage.client.request(request).await.unwrap();
    let frame = response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "data: 1\n\n");
    assert_eq!(stage.counts(), (1, 0));
    drop(response);
    stage
        .until("the client's leaving ends it", |stage| stage.counts() == (0, 0))
        .await;
}

#[tokio::test]
async fn http2_is_spoken_on_the_same_port_and_to_endpoints_that_say_so() {
    let stage = Stage::new(RoutePolicy::default()).await;
    let runtime = Runtime::start(handler(|request| async move {
        answer(format!(
            "{:?} {}",
            request.version(),
            request.headers().contains_key("x-forwarded-for")
        ))
    }))
    .await;
    let mut spoken = endpoint(runtime.address);
    spoken.protocol = Protocol::H2c;
    stage.activator.set_endpoints(&backend(), vec![spoken]);
    let client: Client<_, Body> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    for _ in 0..3 {
        let response = client
            .request(stage.request(Method::POST, "/v1/models/iris:predict", "x"))
            .await
            .unwrap();
        assert_eq!(
            (response.version(), response.status()),
            (http::Version::HTTP_2, StatusCode::OK)
        );
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "HTTP/2.0 true"
        );
    }
}

#[tokio::test]
async fn http2_requests_reach_http1_endpoints_with_their_host() {
    let (stage, _runtime) = Stage::awake(
        RoutePolicy::default(),
        handler(|request| async move { answer(request.headers()["host"].as_bytes().to_vec()) }),
    )
    .await;
    let client: Client<_, Body> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let response = client
        .request(stage.request(Method::POST, "/v1/models/iris:predict", "x"))
        .await
        .unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        stage.address.to_string()
    );
}

#[tokio::test]
async fn a_websocket_is_passed_through_and_counts_for_its_whole_life() {
    let policy = RoutePolicy {
        purity: Purity::Opaque,
        ..RoutePolicy::default()
    };
    let stage = Stage::new(policy).await;
    let runtime = Runtime::start(handler(|mut request| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
            let mut word = [0; 4];
            io.read_exact(&mut word).await.unwrap();
            io.write_all(&word).await.unwrap();
        });
        let response = Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "echo");
        Reply::Answer(response.body(full("")).unwrap())
    }))
    .await;
    let mut ready = endpoint(runtime.address);
    ready.state = EndpointState::Ready;
    stage.activator.set_endpoints(&backend(), vec![ready]);

    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    let head = "GET /serving/ns/iris/chat HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.unwrap());
    }
    assert!(read.starts_with(b"HTTP/1.1 101"));
    stage.until("it counts", |stage| stage.counts() == (1, 0)).await;
    stream.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"ping");
    drop(stream);
    stage.until("it is over", |stage| stage.counts() == (0, 0)).await;
}

#[tokio::test]
async fn a_request_without_keep_alive_and_a_head_request_are_answered() {
    let (stage, _runtime) = Stage::awake(RoutePolicy::default(), echo()).await;
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    let head = "POST /v1/models/iris:predict HTTP/1.0\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    assert!(text.ends_with("\r\n\r\nhi"), "{text}");

    let mut request: Request<Body> = stage.request(Method::HEAD, "/v2/models/iris", "");
    *request.body_mut() = full("");
    assert_eq!(stage.send(request).await.unwrap().unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_request_whose_http2_endpoint_is_killed_goes_elsewhere() {
    let stage = Stage::new(RoutePolicy::default()).await;
    let silent = Runtime::start(handler(|_| std::future::pending())).await;
    let mut spoken = endpoint(silent.address);
    spoken.protocol = Protocol::H2c;
    stage.activator.set_endpoints(&backend(), vec![spoken]);
    let request = stage.infer("x");
    stage
        .until("it is in flight", |stage| {
            stage.counts() == (1, 0) && silent.requests() == 1
        })
        .await;
    silent.kill().await;
    stage
        .until("it waits again and wakes", |stage| {
            stage.counts() == (0, 1) && stage.wakes() == 1
        })
        .await;
    let alive = Runtime::start(echo()).await;
    let mut spoken = endpoint(alive.address);
    spoken.protocol = Protocol::H2c;
    stage.activator.set_endpoints(&backend(), vec![spoken]);
    assert_eq!(request.await.unwrap().unwrap().body, "x");
}
