//! Triton's HTTP tests, as far as they speak of the protocol: the inputs and what they expect of them, sent to our own models.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use pilotlight_engine::{Data, DataType, Dim, Tensor};

use crate::testing::{Bench, Inline, Mock, config, info, n, signature};

/// Triton's `simple`: two vectors of 16 in, their sum and difference out. Here of one size of batch.
async fn simple() -> Bench {
    let tensor = |name| info(name, DataType::I32, vec![n(), Dim::Fixed(2)]);
    let signature = signature(
        vec![tensor("INPUT0"), tensor("INPUT1")],
        vec![tensor("OUTPUT0"), tensor("OUTPUT1")],
    );
    let model = Mock::new(signature, |inputs| {
        let [Data::I32(a), Data::I32(b)] = [inputs[0].data(), inputs[1].data()] else {
            unreachable!("declared INT32")
        };
        let both = |of: fn(i32, i32) -> i32| {
            let data = a.iter().zip(b).map(|(a, b)| of(*a, *b)).collect();
            Tensor::new(inputs[0].shape().to_vec(), Data::I32(data)).expect("of the same shape")
        };
        Ok(vec![both(|a, b| a + b), both(|a, b| a - b)])
    });
    Bench::new(config(), Inline, &[("simple", model)]).await
}

async fn identity(datatype: DataType, shape: Vec<Dim>) -> Bench {
    let tensor = |name| info(name, datatype, shape.clone());
    let model = Mock::new(signature(vec![tensor("INPUT0")], vec![tensor("OUTPUT0")]), Ok);
    Bench::new(config(), Inline, &[("identity", model)]).await
}

/// Posts to the model `identity`, or to `simple`.
async fn post(bench: &Bench, model: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, http::HeaderMap, Bytes) {
    let mut request = http::Request::post(format!("/v2/models/{model}/infer"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
    let (head, body) = bench.app.handle(request).await.into_parts();
    (
        head.status.as_u16(),
        head.headers,
        body.collect().await.unwrap().to_bytes(),
    )
}

const LEN: &str = "inference-header-content-length";
const RAW: &[(&str, &str)] = &[("content-type", "application/octet-stream"), (LEN, "0")];

#[tokio::test]
async fn triton_test_raw_binary() {
    let bench = identity(DataType::F32, vec![n(), Dim::Fixed(8)]).await;
    let body: Vec<u8> = (0..8u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    let (status, headers, answer) = post(&bench, "identity", RAW, &body).await;
    assert_eq!(status, 200);
    let len: usize = headers[LEN].to_str().unwrap().parse().unwrap();
    assert_eq!(answer[len..], body);
}

#[tokio::test]
async fn triton_test_raw_binary_longer_than_one_row() {
    let bench = identity(DataType::F32, vec![Dim::Fixed(1), Dim::Fixed(8)]).await;
    let (status, _, answer) = post(&bench, "identity", RAW, &[0; 64]).await;
    assert_eq!(status, 400);
    assert!(String::from_utf8_lossy(&answer).contains("INPUT0"), "{answer:?}");
}

#[tokio::test]
async fn a_raw_body_that_is_no_number_of_rows_says_what_a_row_takes() {
    let bench = identity(DataType::F32, vec![n(), Dim::Fixed(4)]).await;
    for len in [15, 17, 33] {
        let (status, _, answer) = post(&bench, "identity", RAW, &vec![0; len]).await;
        let said = String::from_utf8_lossy(&answer);
        assert_eq!(status, 400);
        assert!(
            said.contains(&format!("it has {len} bytes")) && said.contains("a multiple of 16"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn triton_test_byte() {
    let bench = identity(DataType::Bytes, vec![n(), Dim::Fixed(1)]).await;
    let (status, headers, answer) = post(&bench, "identity", RAW, b"hello").await;
    assert_eq!(status, 200);
    let len: usize = headers[LEN].to_str().unwrap().parse().unwrap();
    assert_eq!(answer[len..], *b"\x05\0\0\0hello");
}

#[tokio::test]
async fn triton_test_byte_of_a_model_that_takes_more_than_one_element() {
    let bench = identity(DataType::Bytes, vec![n(), Dim::Fixed(16)]).await;
    let (status, ..) = post(&bench, "identity", RAW, b"hello").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn triton_test_multi_variable_dimensions() {
    let bench = identity(DataType::F32, vec![n(), Dim::Unknown, Dim::Unknown]).await;
    let (status, _, answer) = post(&bench, "identity", RAW, &[0; 32]).await;
    assert_eq!(status, 400);
    assert!(String::from_utf8_lossy(&answer).contains("more than one free dimension"));
}

#[tokio::test]
async fn triton_test_multi_inputs_of_a_raw_body() {
    let (status, _, answer) = post(&simple().await, "simple", RAW, &[0; 16]).await;
    assert_eq!(status, 400);
    assert!(String::from_utf8_lossy(&answer).contains("2 inputs"));
}

fn sums(parameters: &str) -> String {
    format!(
        r#"{{"inputs":[{{"name":"INPUT0","shape":[1,2],"datatype":"INT32","data":[[7,8]]}},{{"name":"INPUT1","shape":[1,2],"datatype":"INT32","data":[[1,2]]}}]{parameters}}}"#
    )
}

#[tokio::test]
async fn triton_test_content_encodings() {
    use crate::faces::Coding;
    let bench = simple().await;
    let padding = " ".repeat(2000);
    let body = sums(&padding);
    for coding in [Coding::Gzip, Coding::Deflate] {
        let packed = coding.pack(body.as_bytes()).unwrap();
        let (status, _, answer) = post(&bench, "simple", &[("content-encoding", coding.as_str())], &packed).await;
        assert_eq!(status, 200);
        assert!(String::from_utf8_lossy(&answer).contains(r#""data":[8,10]"#));
        // Packed bodies that are not: plain, of the other coding, cut off.
        for wrong in [body.as_bytes(), &packed[..packed.len() - 1], &packed[1..], b""] {
            let (status, ..) = post(&bench, "simple", &[("content-encoding", coding.as_str())], wrong).await;
            assert_eq!(status, 400, "{}", coding.as_str());
        }
    }
}

#[tokio::test]
async fn triton_test_header_length_out_of_bounds() {
    let bench = simple().await;
    let body = sums("");
    let past = (body.len() + 1).to_string();
    for wrong in [&*past, "-1", "100000000000000000000", "", "1x"] {
        let (status, ..) = post(&bench, "simple", &[(LEN, wrong)], body.as_bytes()).await;
        assert_eq!(status, 400, "{wrong:?}");
    }
    let (status, ..) = post(&bench, "simple", &[(LEN, &body.len().to_string())], body.as_bytes()).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn triton_test_negative_and_overflowing_dimensions() {
    let bench = simple().await;
    for shape in [
        "[-1,2]",
        "[1,-2]",
        "[4611686018427387904,4]",
        "[18446744073709551616,2]",
        "[1.5,2]",
        "[[1,2]]",
        "1",
    ] {
        let body = sums("").replacen("[1,2]", shape, 1);
        let (status, _, answer) = post(&bench, "simple", &[], body.as_bytes()).await;
        assert_eq!(status, 400, "{shape}: {answer:?}");
    }
}

#[tokio::test]
async fn triton_test_binary_sizes_that_do_not_add_up() {
    let bench = identity(DataType::F32, vec![n(), Dim::Fixed(2)]).await;
    for size in ["7", "9", "1000", "-8", "18446744073709551615", "\"8\""] {
        let json = format!(
            r#"{{"inputs":[{{"name":"INPUT0","shape":[1,2],"datatype":"FP32","parameters":{{"binary_data_size":{size}}}}}]}}"#
        );
        let body = [json.as_bytes(), &[0; 8]].concat();
        let (status, ..) = post(&bench, "identity", &[(LEN, &json.len().to_string())], &body).await;
        assert_eq!(status, 400, "{size}");
    }
}

#[tokio::test]
async fn triton_test_json_nested_too_deep() {
    let bench = simple().await;
    for body in [
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
        sums(&format!(",\"x\":{}", "[".repeat(100_000))),
    ] {
        let (status, ..) = post(&bench, "simple", &[], body.as_bytes()).await;
        assert_eq!(status, 400);
    }
}

#[tokio::test]
async fn triton_test_json_recursion_depth_limit() {
    for (datatype, value) in [(DataType::I64, "123"), (DataType::Bytes, "\"hello\"")] {
        let bench = identity(datatype, vec![n(), Dim::Fixed(1)]).await;
        for (depth, expected) in [(120, 400), (50, 200)] {
            let data = format!("{}{value}{}", "[".repeat(depth), "]".repeat(depth));
            let json =
                format!(r#"{{"inputs":[{{"name":"INPUT0","datatype":"{datatype}","shape":[1,1],"data":{data}}}]}}"#);
            let (status, _, answer) = post(&bench, "identity", &[], json.as_bytes()).await;
            assert_eq!(status, expected, "{datatype} {depth} deep: {answer:?}");
        }
    }
}

#[tokio::test]
async fn triton_test_duplicate_outputs_and_inputs() {
    let bench = simple().await;
    let (status, ..) = post(
        &bench,
        "simple",
        &[],
        sums(r#","outputs":[{"name":"OUTPUT0"},{"name":"OUTPUT0"}]"#).as_bytes(),
    )
    .await;
    assert_eq!(status, 400);
    let twice = sums("").replace("INPUT1", "INPUT0");
    assert_eq!(post(&bench, "simple", &[], twice.as_bytes()).await.0, 400);
}

#[tokio::test]
async fn triton_test_classification() {
    let bench = simple().await;
    let outputs = r#","outputs":[{"name":"OUTPUT0","parameters":{"classification":1}},{"name":"OUTPUT1","parameters":{"classification":5}}]"#;
    let (status, _, answer) = post(&bench, "simple", &[], sums(outputs).as_bytes()).await;
    assert_eq!(status, 200);
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(
        answer["outputs"],
        serde_json::json!([
            {"name": "OUTPUT0", "shape": [1, 1], "datatype": "BYTES", "data": ["10.000000:1"]},
            {"name": "OUTPUT1", "shape": [1, 2], "datatype": "BYTES", "data": ["6.000000:0", "6.000000:1"]},
        ])
    );
    let bytes = identity(DataType::Bytes, vec![n()]).await;
    let body = r#"{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"BYTES","data":["a"]}],"outputs":[{"name":"OUTPUT0","parameters":{"classification":1}}]}"#;
    assert_eq!(
        post(&bytes, "identity", &[], body.as_bytes()).await.0,
        400,
        "no numbers"
    );
}

#[tokio::test]
async fn triton_test_versions() {
    let bench = simple().await;
    for (path, status) in [("versions/1", 200), ("versions/2", 404), ("versions/x", 404)] {
        assert_eq!(
            bench.get(&format!("/v2/models/simple/{path}")).await.status,
            status,
            "{path}"
        );
        assert_eq!(
            bench.get(&format!("/v2/models/simple/{path}/ready")).await.status,
            status,
            "{path}"
        );
        assert_eq!(
            bench.get(&format!("/v2/models/simple/{path}/config")).await.status,
            status,
            "{path}"
        );
        let seen = bench.post(&format!("/v2/models/simple/{path}/infer"), &sums("")).await;
        assert_eq!(seen.status, status, "{path}");
    }
}

#[tokio::test]
async fn triton_test_metrics_of_successes_and_failures() {
    let bench = simple().await;
    assert_eq!(post(&bench, "simple", &[], sums("").as_bytes()).await.0, 200);
    assert_eq!(post(&bench, "simple", &[], b"{}").await.0, 400);
    bench.assert_metric("nv_inference_request_success{model=\"simple\",version=\"1\"} 1");
    bench.assert_metric("nv_inference_request_failure{model=\"simple\",reason=\"OTHER\",version=\"1\"} 1");
    bench.assert_metric("nv_inference_pending_request_count{model=\"simple\",version=\"1\"} 0");
}
