//! Requests that arrive together are run together, and each still gets its own answer.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use pilotlight_e2e::{
    Manifest, Up,
    client::{self, FLOWERS, Reply},
    metrics, places, processes,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

fn runtime_address(up: &Up) -> SocketAddr {
    let runtimes = up.runtimes();
    assert_eq!(runtimes.len(), 1, "one replica");
    processes::listens_on(runtimes[0].pid).expect("it is ready")
}

/// Runs of the model in its only runtime so far, and the rows in them.
async fn batches(up: &Up) -> (f64, f64) {
    let text = client::get(&format!("http://{}/metrics", runtime_address(up)))
        .await
        .text();
    (
        metrics::sum(&text, "ml_batch_size_count", &[]),
        metrics::sum(&text, "ml_batch_size_sum", &[]),
    )
}

async fn ask_all(url: &str, bodies: &[Value]) -> Vec<Reply> {
    join_all(bodies.iter().map(|body| client::post(url, body))).await
}

/// A request to the only runtime whose body never comes: as long as it is open, there is somebody to wait for.
async fn hesitate(up: &Up) -> TcpStream {
    let mut stream = TcpStream::connect(runtime_address(up)).await.expect("it is ready");
    let head = "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n";
    stream
        .write_all(head.as_bytes())
        .await
        .expect("the connection stays open");
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream
}

fn features(n: usize) -> Value {
    json!({ "features": FLOWERS[n % 2], "request_id": format!("r{n}") })
}

async fn iris_32_50() -> (Up, String) {
    let up = Up::with([Manifest::new("iris", places::example("iris.onnx"))
        .max(1)
        .batcher(32, 50)])
    .await;
    let url = up.url("/serving/default/iris/predict");
    client::post(&url, &features(0)).await;
    (up, url)
}

#[tokio::test]
async fn with_32_rows_and_50_ms_a_request_waits_for_others_and_no_longer() {
    let (up, url) = iris_32_50().await;

    // No other request is open, so there is nobody to wait for.
    let lone = client::post(&url, &features(0)).await.json();
    assert_eq!(lone["batch_size"], 1, "{lone}");
    assert!(lone["latency_ms"].as_f64() < Some(45.0), "{lone}");

    let _other = hesitate(&up).await;
    let patient = client::post(&url, &features(0)).await.json();
    assert_eq!(patient["batch_size"], 1, "{patient}");
    let waited = patient["latency_ms"].as_f64().expect("a number");
    assert!((50.0..1000.0).contains(&waited), "{patient}");
}

#[tokio::test]
async fn with_32_rows_and_50_ms_neighbours_share_runs_and_each_gets_its_own_answer() {
    let (up, url) = iris_32_50().await;
    let _other = hesitate(&up).await;

    let before = batches(&up).await;
    let bodies: Vec<Value> = (0..128).map(features).collect();
    let replies = ask_all(&url, &bodies).await;
    let after = batches(&up).await;

    let mut largest = 0;
    for (n, reply) in replies.iter().enumerate() {
        let answer = reply.json();
        assert_eq!((reply.status, &answer["prediction"]), (200, &json!(1)), "{answer}");
        let (expected, found) = (
            [0.80155, 0.78881][n % 2],
            answer["confidence"].as_f64().unwrap_or_default(),
        );
        assert!(
            (found - expected).abs() < 1e-3,
            "request {n} got another's answer: {answer}"
        );
        largest = largest.max(answer["batch_size"].as_u64().unwrap_or_default());
    }
    assert_eq!(after.1 - before.1, 128.0, "every row was run once");
    let runs = after.0 - before.0;
    assert!(runs <= 16.0, "{runs} runs for 128 requests");
    assert!((8..=32).contains(&largest), "the largest batch has {largest} rows");
}

#[tokio::test]
async fn without_a_latency_a_busy_model_gathers_what_comes_meanwhile() {
    let manifest = Manifest::new("slow", places::fixture("slow.onnx")).max(1).timeout(60);
    let up = Up::with([manifest]).await;
    let url = up.predict_url("slow");
    client::post(&url, &client::slow_v1(0.0)).await;

    let before = batches(&up).await;
    let bodies: Vec<Value> = (0..24).map(|n| client::slow_v1(f64::from(n))).collect();
    let replies = ask_all(&url, &bodies).await;
    let after = batches(&up).await;
    for (n, reply) in replies.into_iter().enumerate() {
        assert_eq!(reply.json(), json!({ "predictions": [[n as f64]] }));
    }
    assert_eq!(after.1 - before.1, 24.0);
    assert!(after.0 - before.0 <= 8.0, "{} runs for 24 requests", after.0 - before.0);
}

#[tokio::test]
async fn requests_that_fit_no_batch_are_run_all_the_same() {
    let up = Up::with([Manifest::new("iris", places::example("iris.onnx"))
        .max(1)
        .batcher(32, 50)])
    .await;
    let good = client::flowers_v2();
    let wrong_shape =
        json!({ "inputs": [{ "name": "input", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3] }] });
    let wrong_type =
        json!({ "inputs": [{ "name": "input", "shape": [1, 4], "datatype": "BYTES", "data": ["a", "b", "c", "d"] }] });
    let bodies = [good.clone(), wrong_shape, good.clone(), wrong_type, good];
    let statuses: Vec<u16> = ask_all(&up.infer_url("iris"), &bodies)
        .await
        .iter()
        .map(|reply| reply.status)
        .collect();
    assert_eq!(statuses, [200, 400, 200, 400, 200]);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(up.runtimes().len(), 1, "the runtime is well");
}
