//! Over real sockets on loopback: the protocols of the connection, clients that leave, the graceful end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pilotlight_engine::DataType;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::executor::Executor;
use crate::scheduler::Device;
use crate::server::serve;
use crate::testing::{Bench, Manual, Mock, config};

struct Server {
    bench: Bench,
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn server(device: impl Device) -> Server {
    let bench = Bench::new(config(), device, &[("m", Mock::echo(DataType::I64, 1))]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve(
        listener,
        Arc::clone(&bench.app),
        8,
        stop.clone(),
        Duration::from_secs(10),
    ));
    Server {
        bench,
        address,
        stop,
        task,
    }
}

const REQUEST: &[u8] =
    b"POST /v1/models/m:predict HTTP/1.1\r\nhost: m\r\ncontent-length: 19\r\n\r\n{\"instances\":[[5]]}";

/// Waits for a state that real sockets bring about.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

async fn read_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"[[5]]}") {
        let n = stream.read_buf(&mut answer).await.unwrap();
        assert!(
            n > 0,
            "the connection ended early: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn http1_connections_are_kept_for_many_requests_through_the_executor_thread() {
    let server = server(Executor::spawn(false).unwrap()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..20 {
        stream.write_all(REQUEST).await.unwrap();
        assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
    }
}

#[tokio::test]
async fn h2c_is_spoken_on_the_same_port() {
    let server = server(Executor::spawn(false).unwrap()).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let uri = format!("http://{}/v1/models/m:predict", server.address);
    let request = http::Request::post(uri)
        .body(Full::new(Bytes::from_static(b"{\"instances\":[[5]]}")))
        .unwrap();
    let reply = sender.send_request(request).await.unwrap();
    assert_eq!((reply.status().as_u16(), reply.version()), (200, http::Version::HTTP_2));
    assert_eq!(
        reply.into_body().collect().await.unwrap().to_bytes(),
        "{\"predictions\":[[5]]}"
    );
}

#[tokio::test]
async fn a_client_that_closes_its_connection_leaves_the_queue() {
    let device = Manual::default();
    let server = server(device.clone()).await;
    device.hold();
    let mut staying = TcpStream::connect(server.address).await.unwrap();
    staying.write_all(REQUEST).await.unwrap();
    until("the first one runs", || device.running() == Some(1)).await;
    let mut leaving = TcpStream::connect(server.address).await.unwrap();
    leaving.write_all(REQUEST).await.unwrap();
    until("the second one waits", || server.bench.scheduler.waiting() == 1).await;
    drop(leaving);
    until("the second one is gone", || server.bench.scheduler.waiting() == 0).await;
    device.finish();
    assert_eq!(device.running(), None);
    read_answer(&mut staying).await;
    server
        .bench
        .assert_metric("ml_requests_dropped_total{reason=\"cancelled\"} 1");
}

#[tokio::test]
async fn the_end_waits_for_requests_in_flight() {
    let device = Manual::default();
    let server = server(device.clone()).await;
    device.hold();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    until("the request runs", || device.running() == Some(1)).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    server.stop.cancel();
    // An idle connection is closed at once, the busy one after its answer.
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert!(!server.task.is_finished());
    device.finish();
    read_answer(&mut stream).await;
    tokio::time::timeout(Duration::from_secs(10), server.task)
        .await
        .unwrap()
        .unwrap();
    assert!(
        TcpStream::connect(server.address).await.is_err(),
        "nothing listens any more"
    );
}

#[tokio::test]
async fn connections_past_the_bound_wait_their_turn() {
    let server = server(Executor::spawn(false).unwrap()).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        read_answer(&mut stream).await;
        held.push(stream);
    }
    let mut ninth = TcpStream::connect(server.address).await.unwrap();
    ninth.write_all(REQUEST).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), ninth.read_u8()).await;
    assert!(early.is_err(), "answered past the bound");
    held.pop();
    read_answer(&mut ninth).await;
}
