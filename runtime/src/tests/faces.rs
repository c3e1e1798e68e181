//! What goes over the wire, word for word.

use std::time::Duration;

use pilotlight_engine::{Data, DataType, Dim, RunError, Tensor};

use crate::app::Stage;
use crate::testing::{Bench, Inline, Manual, Mock, call, config, info, n, signature};

async fn iris() -> Bench {
    Bench::new(config(), Inline, &[("iris", Mock::classifier(None))]).await
}

#[tokio::test]
async fn v1_answers_a_classifier_by_its_labels() {
    let bench = iris().await;
    let seen = bench
        .post("/v1/models/iris:predict", r#"{"instances":[[1,2],[2,1],[0,9]]}"#)
        .await;
    assert_eq!((seen.status, seen.body.as_str()), (200, r#"{"predictions":[1,0,1]}"#));
    assert_eq!(seen.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn v1_faults_are_400_and_name_the_instance() {
    let bench = iris().await;
    let seen = bench
        .post("/v1/models/iris:predict", r#"{"instances":[[1,2],[2,"x"]]}"#)
        .await;
    assert_eq!((seen.status, seen.code()), (400, "invalid-request"));
    assert!(seen.body.contains("instances[1][1]"), "{}", seen.body);
    bench.assert_metric("ml_requests_total{status=\"client_error\"} 1");
}

#[tokio::test]
async fn v1_lists_models_and_their_readiness() {
    let bench = iris().await;
    assert_eq!(bench.get("/v1/models").await.body, r#"{"models":["iris"]}"#);
    let seen = bench.get("/v1/models/iris").await;
    assert_eq!(
        (seen.status, seen.body.as_str()),
        (200, r#"{"name":"iris","ready":true}"#)
    );
    let seen = bench.get("/v1/models/rose").await;
    assert_eq!((seen.status, seen.code()), (404, "model-not-found"));
}

#[tokio::test]
async fn v2_infers_with_id_and_requested_outputs() {
    let bench = iris().await;
    let body = r#"{"id":"42","inputs":[{"name":"X","shape":[2,2],"datatype":"FP32","data":[1,2,2,1]}]}"#;
    let seen = bench.post("/v2/models/iris/infer", body).await;
    let expected = r#"{"model_name":"iris","model_version":"1","id":"42","outputs":[{"name":"label","shape":[2],"datatype":"INT64","data":[1,0]},{"name":"probabilities","shape":[2,2],"datatype":"FP32","data":[0.25,0.75,0.75,0.25]}]}"#;
    assert_eq!((seen.status, seen.body.as_str()), (200, expected));
    let body = r#"{"inputs":[{"name":"X","shape":[1,2],"datatype":"FP32","data":[[1,2]]}],"outputs":[{"name":"probabilities"}]}"#;
    let seen = bench.post("/v2/models/iris/versions/1/infer", body).await;
    let expected = r#"{"model_name":"iris","model_version":"1","outputs":[{"name":"probabilities","shape":[1,2],"datatype":"FP32","data":[0.25,0.75]}]}"#;
    assert_eq!((seen.status, seen.body.as_str()), (200, expected));
}

#[tokio::test]
async fn v2_tells_of_server_models_and_metadata() {
    let bench = iris().await;
    let server = format!(
        r#"{{"extensions":["binary_tensor_data","classification","model_configuration","model_repository","parameters","schedule_policy","statistics"],"name":"pilotlight","version":"{}"}}"#,
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(bench.get("/v2").await.body, server);
    assert_eq!(bench.get("/v2/health/live").await.body, r#"{"live":true}"#);
    assert_eq!(bench.get("/v2/health/ready").await.body, r#"{"ready":true}"#);
    assert_eq!(bench.get("/v2/models").await.body, r#"{"models":["iris"]}"#);
    assert_eq!(
        bench.get("/v2/models/iris").await.body,
        r#"{"inputs":[{"datatype":"FP32","name":"X","shape":[-1,2]}],"name":"iris","outputs":[{"datatype":"INT64","name":"label","shape":[-1]},{"datatype":"FP32","name":"probabilities","shape":[-1,2]}],"platform":"burn_onnx","versions":["1"]}"#
    );
    assert_eq!(
        bench.post("/v2/repository/index", "").await.body,
        r#"[{"name":"iris","reason":"","state":"READY","version":"1"}]"#
    );
}

#[tokio::test]
async fn tritons_configuration_and_statistics() {
    let bench = iris().await;
    let seen = bench.get("/v2/models/iris/config").await;
    let config: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(config["max_batch_size"], 32);
    assert_eq!(
        config["input"],
        serde_json::json!([{"name": "X", "data_type": "TYPE_FP32", "dims": [2]}])
    );
    assert_eq!(config["output"][0]["dims"], serde_json::json!([]));
    let body = r#"{"instances":[[1,2],[2,1],[0,9]]}"#;
    assert_eq!(bench.post("/v1/models/iris:predict", body).await.status, 200);
    for path in [
        "/v2/models/stats",
        "/v2/models/iris/stats",
        "/v2/models/iris/versions/1/stats",
    ] {
        let stats: serde_json::Value = serde_json::from_str(&bench.get(path).await.body).unwrap();
        let stats = &stats["model_stats"][0];
        assert_eq!(
            (&stats["inference_count"], &stats["execution_count"]),
            (&3.into(), &1.into())
        );
        assert_eq!(stats["inference_stats"]["success"]["count"], 1);
        assert_eq!(stats["inference_stats"]["compute_infer"]["count"], 1);
        assert_eq!(stats["batch_stats"][0]["batch_size"], 3);
    }
    assert_eq!(bench.get("/v2/models/rose/stats").await.code(), "model-not-found");
}

#[tokio::test]
async fn model_readiness_tells_how_the_model_came_up() {
    let bench = iris().await;
    let seen = bench.get("/v2/models/iris/ready").await;
    assert_eq!(
        (seen.status, seen.body.as_str()),
        (200, r#"{"name":"iris","ready":true}"#)
    );
    let header = seen.header("x-pilotlight-startup").unwrap();
    let (load, age) = header
        .strip_prefix("load=")
        .and_then(|h| h.split_once(", ready-age="))
        .unwrap();
    assert!(load.parse::<u64>().unwrap() > 0);
    assert!(age.parse::<u64>().is_ok());
}

#[tokio::test]
async fn predict_answers_label_confidence_latency_and_batch_size() {
    let bench = iris().await;
    let seen = bench.post("/predict", r#"{"features":[1,2],"request_id":"r-1"}"#).await;
    assert_eq!(seen.status, 200);
    assert_eq!(seen.header("x-request-id"), Some("r-1"));
    let body: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
    let keys: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["batch_size", "confidence", "latency_ms", "prediction"]);
    assert_eq!(
        (&body["prediction"], &body["confidence"], &body["batch_size"]),
        (&1.into(), &0.75.into(), &1.into())
    );
    assert!(body["latency_ms"].as_f64().unwrap() >= 0.0);
}

#[tokio::test]
async fn predict_needs_one_model() {
    let two = Bench::new(
        config(),
        Inline,
        &[("a", Mock::classifier(None)), ("b", Mock::classifier(None))],
    )
    .await;
    let seen = two.post("/predict", r#"{"features":[1,2]}"#).await;
    assert_eq!((seen.status, seen.code()), (400, "invalid-request"));
    let none = Bench::new(config(), Inline, &[]).await;
    let seen = none.post("/predict", r#"{"features":[1,2]}"#).await;
    assert_eq!((seen.status, seen.code()), (404, "model-not-found"));
}

#[tokio::test]
async fn health_and_ready_and_metrics() {
    let bench = iris().await;
    assert_eq!(bench.get("/").await.body, r#"{"status":"alive"}"#);
    assert_eq!(bench.get("/health").await.body, r#"{"status":"ok"}"#);
    assert_eq!(bench.get("/ready").await.body, r#"{"status":"ready"}"#);
    let seen = bench.get("/metrics").await;
    assert_eq!(seen.header("content-type"), Some("text/plain; version=0.0.4"));
    assert!(seen.body.contains("# TYPE ml_request_latency_seconds histogram"));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_typed() {
    let bench = iris().await;
    let seen = bench.get("/nope").await;
    assert_eq!((seen.status, seen.code()), (404, "unknown-path"));
    let seen = bench.post("/health", "").await;
    assert_eq!(
        (seen.status, seen.code(), seen.header("allow")),
        (405, "method-not-allowed", Some("GET, HEAD"))
    );
    let seen = bench.post("/v1/models/iris:explain", "{}").await;
    assert_eq!((seen.status, seen.code()), (501, "unsupported"));
    let seen = call(&bench.app, "PUT", "/v2/models/iris/infer", "{}").await;
    assert_eq!((seen.status, seen.header("allow")), (405, Some("POST")));
}

#[tokio::test]
async fn long_bodies_are_413_with_a_remedy() {
    let bench = iris().await;
    let seen = bench.post("/v1/models/iris:predict", &" ".repeat((1 << 20) + 1)).await;
    assert_eq!((seen.status, seen.code()), (413, "body-too-large"));
    assert!(seen.body.contains("--max-body-bytes"));
}

#[tokio::test]
async fn a_starting_or_draining_process_is_not_ready_but_still_answers() {
    let bench = iris().await;
    bench.app.enter(Stage::Starting);
    assert_eq!(bench.get("/ready").await.code(), "not-ready");
    assert_eq!(
        bench.get("/v2/models/iris/ready").await.status,
        200,
        "the model itself is ready"
    );
    bench.app.enter(Stage::Draining);
    for path in ["/ready", "/v2/health/ready", "/v2/models/iris/ready", "/v1/models/iris"] {
        assert_eq!(bench.get(path).await.status, 503, "{path}");
    }
    assert_eq!(bench.get("/health").await.status, 200);
    assert_eq!(
        bench
            .post("/v1/models/iris:predict", r#"{"instances":[[1,2]]}"#)
            .await
            .status,
        200
    );
}

#[tokio::test(start_paused = true)]
async fn ready_turns_off_while_too_many_wait_and_model_readiness_does_not() {
    let device = Manual::default();
    let config = crate::config::Config {
        ready_queue_limit: 1,
        ..config()
    };
    let bench = Bench::new(config, device.clone(), &[("iris", Mock::classifier(None))]).await;
    device.hold();
    let mut tasks = Vec::new();
    for expected in [200, 200, 503] {
        tasks.push(bench.start("/v1/models/iris:predict", r#"{"instances":[[1,2]]}"#).await);
        let seen = bench.get("/ready").await;
        assert_eq!(seen.status, expected, "{}", seen.body);
    }
    assert_eq!(bench.get("/v2/models/iris/ready").await.status, 200);
    assert_eq!(bench.get("/v2/health/ready").await.status, 200);
    device.finish();
    assert_eq!(bench.get("/ready").await.status, 200);
    device.finish();
    for task in tasks {
        assert_eq!(task.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn errors_of_the_model_are_told_apart() {
    let x = info("x", DataType::F32, vec![n(), Dim::Fixed(1)]);
    let model = Mock::new(signature(vec![x.clone()], vec![x]), |inputs| {
        let Data::F32(v) = inputs[0].data() else {
            unreachable!("declared FP32")
        };
        match v[0] as i64 {
            1 => Err(RunError::Input {
                name: "x".into(),
                reason: "too large".into(),
            }),
            2 => Err(RunError::Node {
                node: "add".into(),
                op: "Add".into(),
                reason: "shapes".into(),
            }),
            3 => panic!("ouch"),
            4 => Ok(vec![]),
            _ => Ok(inputs),
        }
    });
    let bench = Bench::new(config(), Inline, &[("m", model)]).await;
    for (value, status, code, part) in [
        (1, 400, "invalid-request", "too large"),
        (2, 500, "execution-failed", "Add"),
        (3, 500, "execution-failed", "ouch"),
        (4, 500, "execution-failed", "0 outputs"),
    ] {
        let seen = bench
            .post("/v1/models/m:predict", &format!(r#"{{"instances":[[{value}]]}}"#))
            .await;
        assert_eq!((seen.status, seen.code()), (status, code));
        assert!(seen.body.contains(part), "{}", seen.body);
    }
    assert_eq!(
        bench
            .post("/v1/models/m:predict", r#"{"instances":[[0]]}"#)
            .await
            .status,
        200
    );
    bench.assert_metric("ml_requests_total{status=\"error\"} 3");
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_ends_at_the_deadline() {
    let bench = iris().await;
    let (_tx, body) =
        tokio::sync::mpsc::channel::<Result<hyper::body::Frame<bytes::Bytes>, std::convert::Infallible>>(1);
    let body = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
    let request = http::Request::post("/v1/models/iris:predict").body(body).unwrap();
    let start = tokio::time::Instant::now();
    let reply = bench.app.handle(request).await;
    assert_eq!(reply.status(), 504);
    assert_eq!(start.elapsed().as_secs(), Duration::from_secs(5).as_secs());
}

#[tokio::test]
async fn phases_are_counted_once_a_request() {
    let bench = iris().await;
    for _ in 0..3 {
        bench.post("/v1/models/iris:predict", r#"{"instances":[[1,2]]}"#).await;
    }
    for phase in ["queue", "input", "compute", "output"] {
        bench.assert_metric(&format!("ml_request_phase_seconds_count{{phase=\"{phase}\"}} 3"));
    }
    bench.assert_metric("ml_requests_total{status=\"success\"} 3");
    bench.assert_metric("ml_request_latency_seconds_count 3");
    // The warm-up is a run as well.
    bench.assert_metric("ml_batch_size_count 4");
}

#[tokio::test]
async fn tensors_of_any_rank_pass_through_v2() {
    let x = info("x", DataType::I64, vec![]);
    let model = Mock::new(signature(vec![x.clone()], vec![x]), Ok);
    let bench = Bench::new(config(), Inline, &[("scalar", model)]).await;
    let body = r#"{"inputs":[{"name":"x","shape":[],"datatype":"INT64","data":[7]}]}"#;
    let seen = bench.post("/v2/models/scalar/infer", body).await;
    assert!(
        seen.body.contains(r#""shape":[],"datatype":"INT64","data":[7]"#),
        "{}",
        seen.body
    );
    let echoed = Tensor::new(vec![], Data::I64(vec![7])).unwrap();
    assert_eq!(echoed.shape().len(), 0);
}
