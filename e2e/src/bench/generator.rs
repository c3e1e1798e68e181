//! A closed-loop load generator: each connection sends the next request when it has read the last answer.
//!
//! It writes prepared bytes and reads no more of an answer than its length and status, because it shares the processors with
//! what it measures: a full HTTP client would show mostly itself.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};

/// A prepared HTTP/1.1 request.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: Arc<[u8]>,
}

impl Request {
    /// `POST path` with a JSON body for the virtual host `host`.
    pub fn post(host: &str, path: &str, body: &str) -> Self {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Self {
            bytes: [head.as_bytes(), body.as_bytes()].concat().into(),
        }
    }

    /// `POST path` with a body of bytes and these further headers.
    pub fn bytes(host: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let headers = headers
            .iter()
            .map(|(name, value)| [name, ": ", value, "\r\n"].concat())
            .collect::<Vec<_>>()
            .concat();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        Self {
            bytes: [head.as_bytes(), body].concat().into(),
        }
    }

    /// `GET path` for the virtual host `host`.
    pub fn get(host: &str, path: &str) -> Self {
        Self {
            bytes: format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")
                .into_bytes()
                .into(),
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

/// One who asks and waits for each answer: a connection, or a share of one.
pub trait Client: Send + 'static {
    /// One request and its whole answer. Panics where that is no success.
    fn exchange(&mut self) -> impl Future<Output = ()> + Send;
}

/// Sends `request` to `address` over `connections` connections for `length`. Panics on an answer other than 200 and on a
/// connection that breaks: a bench with errors measures nothing.
pub async fn run(address: SocketAddr, request: &Request, connections: usize, length: Duration) -> Round {
    ask(connect(address, request, connections).await, length).await
}

/// Sends `request` at random times, `rate` of them in a second on the whole, over at most `connections` connections for `length`.
/// A request's time begins when it is due, so that one that finds no connection free counts its wait too. Panics as [`run`].
pub async fn run_at(address: SocketAddr, request: &Request, rate: f64, connections: usize, length: Duration) -> Round {
    ask_at(connect(address, request, connections).await, rate, length).await
}

/// Each client sends its next request when it has read the last answer, for `length`.
pub async fn ask<C: Client>(clients: Vec<C>, length: Duration) -> Round {
    let start = Instant::now();
    let end = start + length;
    let mut set = JoinSet::new();
    for client in clients {
        set.spawn(without_pause(client, end));
    }
    gather(set, start).await
}

/// [`run_at`] with these clients.
pub async fn ask_at<C: Client>(clients: Vec<C>, rate: f64, length: Duration) -> Round {
    let start = Instant::now();
    let share = rate / clients.len() as f64;
    let mut set = JoinSet::new();
    for (seed, client) in clients.into_iter().enumerate() {
        set.spawn(when_due(client, start, length, Poisson::new(seed as u64 + 1, share)));
    }
    gather(set, start).await
}

async fn gather(mut set: JoinSet<Vec<f64>>, start: Instant) -> Round {
    let mut latencies = Vec::new();
    while let Some(result) = set.join_next().await {
        latencies.extend(result.expect("a connection of the bench failed"));
    }
    Round {
        rate: latencies.len() as f64 / start.elapsed().as_secs_f64(),
        latencies,
    }
}

async fn without_pause(mut client: impl Client, end: Instant) -> Vec<f64> {
    let mut latencies = Vec::with_capacity(1 << 14);
    let mut now = Instant::now();
    while now < end {
        client.exchange().await;
        let done = Instant::now();
        latencies.push((done - now).as_secs_f64());
        now = done;
    }
    latencies
}

async fn when_due(mut client: impl Client, start: Instant, length: Duration, mut due: Poisson) -> Vec<f64> {
    let mut latencies = Vec::new();
    loop {
        let at = Duration::from_secs_f64(due.next());
        if at >= length {
            return latencies;
        }
        tokio::time::sleep_until(start + at).await;
        client.exchange().await;
        latencies.push(start.elapsed().saturating_sub(at).as_secs_f64());
    }
}

/// The times of a Poisson process; many of them together are one of the rates' sum.
struct Poisson {
    state: u64,
    rate: f64,
    at: f64,
}

impl Poisson {
    fn new(seed: u64, rate: f64) -> Self {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { state, rate, at: 0.0 }
    }

    /// Seconds from the start to the next one.
    fn next(&mut self) -> f64 {
        // xorshift64: even enough for a bench.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let uniform = ((self.state >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        self.at -= uniform.ln() / self.rate;
        self.at
    }
}

/// A connection of HTTP/1.1.
struct Connection {
    stream: TcpStream,
    request: Request,
    buffer: Vec<u8>,
}

async fn connect(address: SocketAddr, request: &Request, connections: usize) -> Vec<Connection> {
    let mut all = Vec::with_capacity(connections);
    for _ in 0..connections {
        let stream = TcpStream::connect(address)
            .await
            .unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_nodelay(true).expect("a TCP socket");
        all.push(Connection {
            stream,
            request: request.clone(),
            buffer: Vec::with_capacity(1 << 14),
        });
    }
    all
}

impl Client for Connection {
    async fn exchange(&mut self) {
        let Self {
            stream,
            request,
            buffer,
        } = self;
        stream
            .write_all(&request.bytes)
            .await
            .expect("the connection stays open");
        buffer.clear();
        while !is_whole(buffer) {
            let read = stream.read_buf(buffer).await.expect("the connection stays open");
            assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(buffer));
        }
    }
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

    #[test]
    fn a_poisson_process_has_its_rate_and_no_rhythm() {
        let mut due = Poisson::new(3, 100.0);
        let times: Vec<f64> = (0..10_000).map(|_| due.next()).collect();
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((0.0095..0.0105).contains(&mean), "{mean}");
        assert!(
            (0.9..1.1).contains(&(variance.sqrt() / mean)),
            "exponential gaps deviate by their mean"
        );
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
