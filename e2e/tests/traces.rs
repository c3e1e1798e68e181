//! One trace of a request through activator and runtime, and the metrics of both, as an OpenTelemetry collector receives them.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use pilotlight_e2e::{LIMIT, Manifest, Settings, Up, client, places, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Takes OTLP over HTTP and keeps the bodies.
struct Collector {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let bodies: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let kept = bodies.clone();
        // Threads of their own, which end with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                std::thread::spawn(move || while take(&stream, &kept).is_some() {});
            }
        });
        Self { address, bodies }
    }

    /// Whether one export holds all of these.
    fn has(&self, parts: &[&[u8]]) -> bool {
        let bodies = self.bodies.lock().expect("nobody panicked");
        let holds = |body: &[u8], part: &[u8]| body.windows(part.len()).any(|window| window == part);
        bodies.iter().any(|body| parts.iter().all(|part| holds(body, part)))
    }
}

/// One request: its body is kept, and answered with nothing, which is an empty answer of the protocol.
fn take(mut stream: &TcpStream, kept: &Mutex<Vec<Vec<u8>>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    assert!(
        head.starts_with("post /v1/traces") || head.starts_with("post /v1/metrics"),
        "{head}"
    );
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    let mut body = vec![0; length.trim().parse().ok()?];
    stream.read_exact(&mut body).ok()?;
    kept.lock().expect("nobody panicked").push(body);
    let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(answer).ok()
}

/// The platform with a model and a collector's variables.
async fn exporting<const N: usize>(variables: [(&str, String); N]) -> Up {
    let env = variables.map(|(name, value)| (name.to_owned(), value));
    Up::start(Settings {
        manifests: vec![Manifest::new("iris", places::example("iris.onnx"))],
        env: env
            .into_iter()
            .chain([("NO_PROXY".to_owned(), "127.0.0.1".to_owned())])
            .collect(),
        ..Settings::default()
    })
    .await
}

#[tokio::test]
async fn metrics_of_the_platform_and_of_its_runtimes_reach_a_collector() {
    let collector = Collector::start();
    let up = exporting([
        (
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            format!("http://{}/v1/metrics", collector.address),
        ),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200".to_owned()),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test".to_owned()),
    ])
    .await;
    let reply = client::post_with(&up.predict_url("iris"), &[], &client::flowers_v1()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    until("the platform's metrics are exported", LIMIT, async || {
        collector.has(&[
            b"deployment.environment",
            b"pilotlight",
            b"activator_endpoints",
            b"pilotlight_controller_replicas",
            b"default/iris",
        ])
    })
    .await;
    until("the runtime's metrics are exported", LIMIT, async || {
        collector.has(&[
            b"pilotlight-runtime",
            b"ml_requests_total",
            b"nv_inference_count",
            b"iris",
        ])
    })
    .await;
}

#[tokio::test]
async fn a_request_from_zero_is_one_trace_through_activator_and_runtime() {
    let collector = Collector::start();
    let up = exporting([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.address)),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
    ])
    .await;
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let headers = [("traceparent", traceparent.as_str())];
    let reply = client::post_with(&up.predict_url("iris"), &headers, &client::flowers_v1()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let trace: Vec<u8> = (0..16)
        .map(|index| u8::from_str_radix(&TRACE[2 * index..2 * index + 2], 16).expect("hexadecimal"))
        .collect();
    until("the activator's spans are exported", LIMIT, async || {
        collector.has(&[&trace, b"activator", b"wait", b"wake", b"forward", b"default/iris"])
    })
    .await;
    until("the runtime's spans are exported", LIMIT, async || {
        collector.has(&[&trace, b"pilotlight-runtime", b"queue", b"batch", b"compute"])
    })
    .await;
}
