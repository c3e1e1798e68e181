//! A closed-loop load generator: each connection sends the next request when it has read the last answer.
//!
//! It writes prepared bytes and reads no more of an answer than its length and status, because it shares the processors with
//! what it measures: a full HTTP client would show mostly itself.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};

/// A prepared HTTP/1.1 request.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// `POST path` with a JSON body for the virtual host `host`.
    pub fn post(host: &str, path: &str, body: &str) -> Self {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Self {
            bytes: [head.as_bytes(), body.as_bytes()].concat(),
        }
    }

    /// `GET path` for the virtual host `host`.
    pub fn get(host: &str, path: &str) -> Self {
        Self {
            bytes: format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes(),
        }
    }
}

/// What a round measured.
#[derive(Clone, Debug)]
pub struct Round {
    /// Answers in a second.
    pub rate: f64,
    /// Seconds that each answer took.
    pub latencies: Vec<f64>,
}

/// Sends `request` to `address` over `connections` connections for `length`. Panics on an answer other than 200 and on a
/// connection that breaks: a bench with errors measures nothing.
pub async fn run(address: SocketAddr, request: &Request, connections: usize, length: Duration) -> Round {
    let start = Instant::now();
    let mut set = JoinSet::new();
    for _ in 0..connections {
        set.spawn(connection(address, request.bytes.clone(), start + length));
    }
    let mut latencies = Vec::new();
    while let Some(result) = set.join_next().await {
        latencies.extend(result.expect("a connection of the bench failed"));
    }
    Round {
        rate: latencies.len() as f64 / start.elapsed().as_secs_f64(),
        latencies,
    }
}

async fn connection(address: SocketAddr, request: Vec<u8>, end: Instant) -> Vec<f64> {
    let mut stream = TcpStream::connect(address)
        .await
        .unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_nodelay(true).expect("a TCP socket");
    let mut latencies = Vec::with_capacity(1 << 14);
    let mut buffer = Vec::with_capacity(1 << 14);
    let mut now = Instant::now();
    while now < end {
        stream.write_all(&request).await.expect("the connection stays open");
        buffer.clear();
        while !is_whole(&buffer) {
            let read = stream.read_buf(&mut buffer).await.expect("the connection stays open");
            assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&buffer));
        }
        let done = Instant::now();
        latencies.push((done - now).as_secs_f64());
        now = done;
    }
    latencies
}

/// Whether `bytes` hold one whole answer with status 200. Panics on another status.
fn is_whole(bytes: &[u8]) -> bool {
    const HEAD_END: &[u8] = b"\r\n\r\n";
    let Some(head_end) = bytes.windows(4).position(|window| window == HEAD_END) else {
        return false;
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{}", String::from_utf8_lossy(bytes));
    match head.lines().find_map(|line| line.strip_prefix("content-length:")) {
        Some(length) => {
            let length: usize = length.trim().parse().expect("a length is a number");
            bytes.len() >= head_end + HEAD_END.len() + length
        }
        // Otherwise it is chunked, and the last chunk is empty.
        None => bytes.ends_with(b"0\r\n\r\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_last_byte_is_there() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd";
        for end in 0..answer.len() {
            assert!(!is_whole(&answer[..end]), "{end}");
        }
        assert!(is_whole(answer));
        assert!(is_whole(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
        ));
    }

    #[tokio::test]
    async fn every_connection_asks_until_the_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 256];
                    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        stream.write_all(answer).await.unwrap();
                    }
                });
            }
        });
        let round = run(address, &Request::get("here", "/"), 4, Duration::from_millis(50)).await;
        assert!(round.latencies.len() >= 4 && round.rate > 0.0, "{round:?}");
        server.abort();
    }

    #[test]
    #[should_panic(expected = "503")]
    fn an_error_ends_the_bench() {
        is_whole(b"HTTP/1.1 503 Service Unavailable\r\n\r\n");
    }
}
