//! KServe's server tests, as far as they speak of the protocol: the inputs and what they expect of them, sent to our own models.

use std::sync::Arc;

use bytes::Bytes;
use half::f16;
use http_body_util::{BodyExt as _, Full};
use pilotlight_engine::{Data, DataType, Dim, Tensor};

use crate::config::{Config, ModelControl};
use crate::models::Origin;
use crate::testing::{Bench, Inline, Mock, call, config, info, n, signature};

/// Two rows of four numbers, and what they are in single precision once they went through half precision.
const ROWS: [f32; 8] = [6.8, 2.8, 4.8, 1.4, 6.0, 3.4, 4.5, 1.6];
const HALVED: [f32; 8] = [
    6.800_781_3,
    2.800_781_3,
    4.800_781_3,
    1.400_390_6,
    6.0,
    3.400_390_6,
    4.5,
    1.599_609_4,
];

/// Numbers of half precision and texts in; the texts and the numbers in single precision out.
fn fp16_input_model() -> Arc<Mock> {
    let four = || vec![n(), Dim::Fixed(4)];
    let inputs = vec![
        info("fp16_input", DataType::F16, four()),
        info("str_input", DataType::Bytes, four()),
    ];
    let outputs = vec![
        info("str_output", DataType::Bytes, four()),
        info("fp32_output", DataType::F32, four()),
    ];
    Mock::new(signature(inputs, outputs), |mut inputs| {
        let Data::F16(halves) = inputs[0].data() else {
            unreachable!("declared FP16")
        };
        let singles = halves.iter().map(|half| half.to_f32()).collect();
        let numbers = Tensor::new(inputs[0].shape().to_vec(), Data::F32(singles)).expect("as many");
        Ok(vec![inputs.remove(1), numbers])
    })
}

/// Numbers in; the same in half and in single precision out.
fn fp16_output_model() -> Arc<Mock> {
    let four = || vec![n(), Dim::Fixed(4)];
    let outputs = vec![
        info("fp16_output", DataType::F16, four()),
        info("fp32_output", DataType::F32, four()),
    ];
    let signature = signature(vec![info("fp32_input", DataType::F32, four())], outputs);
    Mock::new(signature, |inputs| {
        let Data::F32(singles) = inputs[0].data() else {
            unreachable!("declared FP32")
        };
        let halves = singles.iter().map(|single| f16::from_f32(*single)).collect();
        let halves = Tensor::new(inputs[0].shape().to_vec(), Data::F16(halves)).expect("as many");
        Ok(vec![halves, inputs[0].clone()])
    })
}

fn half_bytes() -> Vec<u8> {
    ROWS.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()
}

fn single_bytes() -> Vec<u8> {
    ROWS.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Status, JSON, and the bytes behind it.
async fn infer(bench: &Bench, model: &str, json: &str, raw: &[u8]) -> (u16, serde_json::Value, Bytes) {
    let request = http::Request::post(format!("/v2/models/{model}/infer"))
        .header("inference-header-content-length", json.len())
        .body(Full::new(Bytes::from([json.as_bytes(), raw].concat())))
        .unwrap();
    let (head, body) = bench.app.handle(request).await.into_parts();
    let mut body = body.collect().await.unwrap().to_bytes();
    let len = head.headers.get("inference-header-content-length");
    let len = len.map_or(body.len(), |len| len.to_str().unwrap().parse().unwrap());
    let rest = body.split_off(len);
    (head.status.as_u16(), serde_json::from_slice(&body).unwrap(), rest)
}

/// A request to the model of two outputs, with this behind its inputs.
async fn outputs_of(bench: &Bench, more: &str) -> (u16, serde_json::Value, Bytes) {
    let json = format!(
        r#"{{"id":"123","inputs":[{{"name":"fp32_input","shape":[2,4],"datatype":"FP32","data":[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]}}]{more}}}"#
    );
    infer(bench, "FP16OutputModel", &json, &[]).await
}

/// The numbers of an output in JSON.
fn numbers(output: &serde_json::Value) -> Vec<f32> {
    let list = output["data"].as_array().unwrap();
    list.iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

async fn bench() -> Bench {
    let models = [
        ("TestModel", Mock::echo(DataType::F32, 4)),
        ("Half", Mock::echo(DataType::F16, 2)),
        ("FP16InputModel", fp16_input_model()),
        ("FP16OutputModel", fp16_output_model()),
    ];
    let config = Config {
        model_control: ModelControl::Explicit,
        ..config()
    };
    Bench::new(config, Inline, &models).await
}

#[tokio::test]
async fn kserve_test_liveness_v1_and_v2() {
    let bench = bench().await;
    assert_eq!(bench.get("/").await.body, r#"{"status":"alive"}"#);
    assert_eq!(bench.get("/v2/health/live").await.body, r#"{"live":true}"#);
    assert_eq!(bench.get("/v2/health/ready").await.body, r#"{"ready":true}"#);
}

#[tokio::test]
async fn kserve_test_model_list_and_readiness_v1() {
    let bench = bench().await;
    assert_eq!(
        bench.get("/v1/models").await.body,
        r#"{"models":["FP16InputModel","FP16OutputModel","Half","TestModel"]}"#
    );
    let seen = bench.get("/v1/models/TestModel").await;
    assert_eq!(
        (seen.status, &*seen.body),
        (200, r#"{"name":"TestModel","ready":true}"#)
    );
    let seen = bench.get("/v1/models/InvalidModel").await;
    assert_eq!(seen.status, 404);
    assert!(seen.body.contains("InvalidModel"), "{}", seen.body);
}

#[tokio::test]
async fn kserve_test_predict_v1() {
    let bench = bench().await;
    let body = r#"{"instances":[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]}"#;
    let seen = bench.post("/v1/models/TestModel:predict", body).await;
    assert_eq!(
        (seen.status, &*seen.body),
        (200, r#"{"predictions":[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]}"#)
    );
    assert_eq!(seen.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn kserve_test_predict_of_an_unknown_model_and_of_bad_json() {
    let bench = bench().await;
    let seen = bench
        .post("/v1/models/InvalidModel:predict", r#"{"instances":[[1,2]]}"#)
        .await;
    assert_eq!(seen.status, 404);
    for body in ["{\"instances\":[[1,2]]", "not json", "\u{feff}{}"] {
        let seen = bench.post("/v1/models/TestModel:predict", body).await;
        assert_eq!((seen.status, seen.code()), (400, "invalid-request"), "{body}");
    }
}

#[tokio::test]
async fn kserve_test_explain_is_not_implemented_by_name() {
    let bench = bench().await;
    let seen = bench
        .post("/v1/models/TestModel:explain", r#"{"instances":[[1,2]]}"#)
        .await;
    assert_eq!((seen.status, seen.code()), (501, "unsupported"));
    assert!(seen.body.contains("explain"), "{}", seen.body);
}

#[tokio::test]
async fn kserve_test_unknown_path() {
    let bench = bench().await;
    for path in ["/unknown_path", "/v1/unknown_path", "/v2/unknown_path"] {
        assert_eq!(bench.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn kserve_test_metrics() {
    let bench = bench().await;
    let body = r#"{"instances":[[6.8,2.8,4.8,1.4]]}"#;
    assert_eq!(bench.post("/v1/models/TestModel:predict", body).await.status, 200);
    let seen = bench.get("/metrics").await;
    for stage in ["preprocess", "predict", "postprocess"] {
        let line = format!("request_{stage}_seconds_count{{model_name=\"TestModel\"}} 1");
        assert!(seen.body.contains(&line), "{line}");
    }
    assert!(
        seen.body
            .contains("request_explain_seconds_count{model_name=\"TestModel\"} 0")
    );
}

#[tokio::test]
async fn kserve_test_infer_v2_with_parameters() {
    let bench = bench().await;
    let body = r#"{"id":"123","parameters":{"test-str":"dummy","test-bool":true,"test-int":100,"test-float":1.5},
        "inputs":[{"name":"x","datatype":"fp32","shape":[1,4],"parameters":{"test-str":"dummy"},"data":[[1,2,3,4]]}]}"#;
    let seen = bench.post("/v2/models/TestModel/infer", body).await;
    assert_eq!(seen.status, 200, "{}", seen.body);
    let answer: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(answer["id"], "123");
    assert_eq!(answer["outputs"][0]["data"], serde_json::json!([1.0, 2.0, 3.0, 4.0]));
}

#[tokio::test]
async fn kserve_test_an_unexpected_requested_output() {
    let bench = bench().await;
    let body = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}],"outputs":[{"name":"unexpected"}]}"#;
    let seen = bench.post("/v2/models/TestModel/infer", body).await;
    assert_eq!(seen.status, 400);
    assert!(seen.body.contains("unexpected"), "{}", seen.body);
}

#[tokio::test]
async fn kserve_test_fp16_goes_in_binary_and_not_in_json() {
    let bench = bench().await;
    let body = r#"{"inputs":[{"name":"x","datatype":"FP16","shape":[1,2],"data":[1,2]}]}"#;
    let seen = bench.post("/v2/models/Half/infer", body).await;
    assert_eq!(seen.status, 400);
    assert!(
        seen.body.contains("FP16 data via JSON is not supported"),
        "{}",
        seen.body
    );

    let json = r#"{"inputs":[{"name":"x","datatype":"FP16","shape":[1,2],"parameters":{"binary_data_size":4}}],"parameters":{"binary_data_output":true}}"#;
    let raw = [0x00, 0x3c, 0x00, 0x40];
    let request = http::Request::post("/v2/models/Half/infer")
        .header("content-type", "application/octet-stream")
        .header("inference-header-content-length", json.len())
        .body(Full::new(Bytes::from([json.as_bytes(), &raw].concat())))
        .unwrap();
    let (head, body) = bench.app.handle(request).await.into_parts();
    assert_eq!(head.status, 200);
    assert!(body.collect().await.unwrap().to_bytes().ends_with(&raw));
}

#[tokio::test]
async fn kserve_test_fp16_input_as_binary_data_beside_texts_in_json() {
    let bench = bench().await;
    let json = r#"{"id":"123","inputs":[{"name":"fp16_input","shape":[2,4],"datatype":"FP16","parameters":{"binary_data_size":16}},
        {"name":"str_input","shape":[2,4],"datatype":"BYTES","data":[["cat","dog","cat","dog"],["cat","dog","cat","dog"]]}]}"#;
    let (status, answer, rest) = infer(&bench, "FP16InputModel", json, &half_bytes()).await;
    assert_eq!((status, rest.len()), (200, 0), "{answer}");
    let outputs = &answer["outputs"];
    let texts = ["cat", "dog", "cat", "dog", "cat", "dog", "cat", "dog"];
    assert_eq!(outputs[0]["data"], serde_json::json!(texts));
    assert_eq!(numbers(&outputs[1]), HALVED);
}

#[tokio::test]
async fn kserve_test_fp16_input_not_binary_data() {
    let bench = bench().await;
    let json = r#"{"inputs":[{"name":"fp16_input","shape":[1,4],"datatype":"FP16","data":[[1,2,3,4]]},
        {"name":"str_input","shape":[1,4],"datatype":"BYTES","data":[["a","b","c","d"]]}]}"#;
    assert_eq!(bench.post("/v2/models/FP16InputModel/infer", json).await.status, 400);
}

#[tokio::test]
async fn kserve_test_fp16_output_as_binary_data() {
    let bench = bench().await;
    let more = r#","outputs":[{"name":"fp16_output","parameters":{"binary_data":true}},{"name":"fp32_output","parameters":{"binary_data":false}}]"#;
    let (status, answer, rest) = outputs_of(&bench, more).await;
    assert_eq!((status, &rest[..]), (200, &half_bytes()[..]), "{answer}");
    assert_eq!(answer["id"], "123");
    assert_eq!(answer["outputs"][0]["parameters"]["binary_data_size"], 16);
    assert_eq!(numbers(&answer["outputs"][1]), ROWS);
}

#[tokio::test]
async fn kserve_test_fp16_output_not_binary_data() {
    let bench = bench().await;
    let more = r#","outputs":[{"name":"fp16_output"},{"name":"fp32_output","parameters":{"binary_data":false}}]"#;
    let (status, answer, _) = outputs_of(&bench, more).await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("fp16_output"), "{answer}");
}

#[tokio::test]
async fn kserve_test_requested_output() {
    let bench = bench().await;
    let more = r#","outputs":[{"name":"fp32_output","parameters":{"binary_data":false}}]"#;
    let (status, answer, _) = outputs_of(&bench, more).await;
    assert_eq!((status, answer["outputs"].as_array().unwrap().len()), (200, 1));
    assert_eq!(numbers(&answer["outputs"][0]), ROWS);
}

#[tokio::test]
async fn kserve_test_all_output_as_binary_data() {
    let bench = bench().await;
    let (status, answer, rest) = outputs_of(&bench, r#","parameters":{"binary_data_output":true}"#).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["outputs"][1]["parameters"]["binary_data_size"], 32);
    assert_eq!(rest, [half_bytes(), single_bytes()].concat());
}

#[tokio::test]
async fn kserve_test_binary_data_parameter_precedence() {
    let bench = bench().await;
    let more = r#","parameters":{"binary_data_output":true},"outputs":[{"name":"fp16_output","parameters":{"binary_data":true}},{"name":"fp32_output","parameters":{"binary_data":false}}]"#;
    let (status, answer, rest) = outputs_of(&bench, more).await;
    assert_eq!((status, &rest[..]), (200, &half_bytes()[..]), "{answer}");
    assert_eq!(numbers(&answer["outputs"][1]), ROWS);
}

#[tokio::test]
async fn kserve_test_bytes_without_the_header_of_the_length() {
    let bench = bench().await;
    let request = http::Request::post("/v2/models/TestModel/infer")
        .header("content-type", "application/octet-stream")
        .body(Full::new(Bytes::from_static(&[0, 1, 2])))
        .unwrap();
    let (head, body) = bench.app.handle(request).await.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(head.status, 400);
    assert!(String::from_utf8_lossy(&body).contains("Inference-Header-Content-Length"));
}

#[tokio::test]
async fn kserve_test_load_and_unload() {
    let bench = bench().await;
    bench.app.give("TestModel", Origin::file("TestModel"));
    let seen = bench.post("/v2/repository/models/TestModel/load", "").await;
    assert_eq!((seen.status, &*seen.body), (200, r#"{"load":true,"name":"TestModel"}"#));
    let seen = bench.post("/v2/repository/models/TestModel/unload", "").await;
    assert_eq!(
        (seen.status, &*seen.body),
        (200, r#"{"name":"TestModel","unload":true}"#)
    );
    assert_eq!(bench.get("/v2/models/TestModel/ready").await.status, 404);
    assert_eq!(
        bench.post("/v2/repository/models/TestModel/unload", "").await.status,
        404
    );
}

#[tokio::test]
async fn kserve_test_a_load_that_fails_is_503_and_names_the_reason() {
    let bench = bench().await;
    bench.app.give("broken", Origin::file("nowhere"));
    let seen = bench.post("/v2/repository/models/broken/load", "").await;
    assert_eq!((seen.status, seen.code()), (503, "model-not-ready"));
    assert!(seen.body.contains("can't read nowhere"), "{}", seen.body);
    let seen = bench.post("/v2/models/broken/infer", "{}").await;
    assert_eq!(seen.status, 503, "not ready");
}

#[tokio::test]
async fn kserve_test_a_method_that_the_path_does_not_take() {
    let bench = bench().await;
    let seen = call(&bench.app, "PUT", "/v1/models/TestModel:predict", "{}").await;
    assert_eq!((seen.status, seen.header("allow")), (405, Some("POST")));
}
