//! Calls over the wire.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use pilotlight_engine::DataType;
use prost::Message;

use super::messages::{
    Contents, InferParameter, InferTensor, ModelInferRequest, ModelInferResponse, ModelRequest,
    ModelStreamInferResponse, Parameter, RequestedOutput,
};
use super::wire::encode;
use super::{handle, is_grpc};
use crate::app::Stage;
use crate::faces::Coding;
use crate::testing::{Bench, Inline, Manual, Mock, config, settle};

mod control;

/// What came back.
struct Seen {
    messages: Vec<Bytes>,
    status: u16,
    text: String,
    reason: String,
}

impl Seen {
    fn one<M: Message + Default>(&self) -> M {
        assert_eq!((self.status, self.messages.len()), (0, 1), "{}", self.text);
        M::decode(self.messages[0].clone()).unwrap()
    }
}

async fn call_with(bench: &Bench, method: &str, headers: &[(&str, &str)], body: Bytes) -> Seen {
    let mut request = Request::post(format!("/inference.GRPCInferenceService/{method}"));
    if method.contains('/') {
        request = Request::post(method);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body)).unwrap();
    let reply = handle(Arc::clone(&bench.app), request).await;
    assert_eq!(
        (reply.status().as_u16(), &reply.headers()["content-type"]),
        (200, &"application/grpc".parse().unwrap())
    );
    let headers = reply.headers().clone();
    let body = reply.into_body().collect().await.unwrap();
    let end = body.trailers().cloned().unwrap_or(headers);
    let text = |name: &str| end.get(name).map_or("", |v| v.to_str().unwrap()).to_owned();
    let mut rest = body.to_bytes();
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let prefix = rest.split_to(5);
        let len = u32::from_be_bytes(prefix[1..].try_into().unwrap());
        messages.push(rest.split_to(len as usize));
    }
    Seen {
        messages,
        status: text("grpc-status").parse().unwrap(),
        text: text("grpc-message"),
        reason: text("x-pilotlight-reason"),
    }
}

async fn call(bench: &Bench, method: &str, message: &impl Message) -> Seen {
    call_with(bench, method, &[], encode(message)).await
}

async fn echo(datatype: DataType) -> Bench {
    Bench::new(config(), Inline, &[("m", Mock::echo(datatype, 2))]).await
}

/// One row, typed.
fn typed(datatype: &str, contents: Contents) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "m".into(),
        id: "7".into(),
        inputs: vec![InferTensor {
            name: "x".into(),
            datatype: datatype.into(),
            shape: vec![1, 2],
            contents: Some(contents),
        }],
        ..ModelInferRequest::default()
    }
}

/// One row, raw.
fn raw(datatype: &str, bytes: &'static [u8]) -> ModelInferRequest {
    let mut request = typed(datatype, Contents::default());
    request.inputs[0].contents = None;
    request.raw_input_contents = vec![Bytes::from_static(bytes)];
    request
}

fn fp32(a: f32, b: f32) -> ModelInferRequest {
    let fp32_contents = vec![a, b];
    typed(
        "FP32",
        Contents {
            fp32_contents,
            ..Contents::default()
        },
    )
}

fn model(name: &str) -> ModelRequest {
    ModelRequest {
        name: name.into(),
        version: String::new(),
    }
}

#[tokio::test]
async fn every_typed_content_goes_both_ways() {
    let bytes_contents = vec![Bytes::from_static(b"a"), Bytes::from_static(&[0xff])];
    for (datatype, name, contents) in [
        (
            DataType::Bool,
            "BOOL",
            Contents {
                bool_contents: vec![true, false],
                ..Contents::default()
            },
        ),
        (
            DataType::I8,
            "INT8",
            Contents {
                int_contents: vec![-128, 127],
                ..Contents::default()
            },
        ),
        (
            DataType::I16,
            "INT16",
            Contents {
                int_contents: vec![-1, 2],
                ..Contents::default()
            },
        ),
        (
            DataType::I32,
            "INT32",
            Contents {
                int_contents: vec![-1, 2],
                ..Contents::default()
            },
        ),
        (
            DataType::I64,
            "INT64",
            Contents {
                int64_contents: vec![i64::MIN, 2],
                ..Contents::default()
            },
        ),
        (
            DataType::U8,
            "UINT8",
            Contents {
                uint_contents: vec![0, 255],
                ..Contents::default()
            },
        ),
        (
            DataType::U16,
            "UINT16",
            Contents {
                uint_contents: vec![0, 65_535],
                ..Contents::default()
            },
        ),
        (
            DataType::U32,
            "UINT32",
            Contents {
                uint_contents: vec![0, u32::MAX],
                ..Contents::default()
            },
        ),
        (
            DataType::U64,
            "UINT64",
            Contents {
                uint64_contents: vec![0, u64::MAX],
                ..Contents::default()
            },
        ),
        (
            DataType::F32,
            "FP32",
            Contents {
                fp32_contents: vec![0.5, -1.5],
                ..Contents::default()
            },
        ),
        (
            DataType::F64,
            "FP64",
            Contents {
                fp64_contents: vec![0.1, 1e300],
                ..Contents::default()
            },
        ),
        (
            DataType::Bytes,
            "BYTES",
            Contents {
                bytes_contents,
                ..Contents::default()
            },
        ),
    ] {
        let seen = call(&echo(datatype).await, "ModelInfer", &typed(name, contents.clone())).await;
        let response: ModelInferResponse = seen.one();
        let output = &response.outputs[0];
        assert_eq!(
            (&*response.model_name, &*response.model_version, &*response.id),
            ("m", "1", "7")
        );
        assert_eq!(
            (&*output.name, &*output.datatype, &output.shape[..]),
            ("y", name, &[1, 2][..])
        );
        assert_eq!(
            (output.contents.as_ref(), response.raw_output_contents.len()),
            (Some(&contents), 0)
        );
    }
}

#[tokio::test]
async fn raw_requests_are_answered_raw() {
    for (datatype, name, bytes) in [
        (DataType::F16, "FP16", &[0, 0x3c, 0, 0x40][..]),
        (DataType::BF16, "BF16", &[0x80, 0x3f, 0, 0x40]),
        (DataType::Bytes, "BYTES", &[1, 0, 0, 0, 0xff, 0, 0, 0, 0]),
    ] {
        let response: ModelInferResponse = call(&echo(datatype).await, "ModelInfer", &raw(name, bytes)).await.one();
        assert_eq!(response.raw_output_contents, [bytes]);
        assert_eq!(response.outputs[0].contents, None);
    }
}

#[tokio::test]
async fn faults_have_the_status_and_the_code_of_their_kind() {
    let bench = echo(DataType::F32).await;
    let with = |change: &dyn Fn(&mut ModelInferRequest)| {
        let mut request = fp32(1.0, 2.0);
        change(&mut request);
        request
    };
    let short = raw("FP32", &[0; 7]);
    let mut both = raw("FP32", &[0; 8]);
    both.inputs[0].contents = Some(Contents::default());
    let mut count = raw("FP32", &[0; 8]);
    count.raw_input_contents.push(Bytes::new());
    let output = |name: &str| RequestedOutput {
        name: name.into(),
        ..RequestedOutput::default()
    };
    let timeout = InferParameter {
        choice: Some(Parameter::String("1".into())),
    };
    for (request, status, reason, part) in [
        (with(&|r| r.model_name = "n".into()), 5, "model-not-found", "\"n\""),
        (
            with(&|r| r.model_version = "2".into()),
            5,
            "model-not-found",
            "version \"2\"",
        ),
        (
            with(&|r| r.inputs[0].name = "z".into()),
            3,
            "invalid-request",
            "no input \"z\"",
        ),
        (
            with(&|r| r.inputs[0].shape = vec![2, 2]),
            3,
            "invalid-request",
            "fp32_contents has 2 elements where the shape needs 4",
        ),
        (
            with(&|r| r.inputs[0].shape = vec![-1, 2]),
            3,
            "invalid-request",
            "negative dimension",
        ),
        (
            with(&|r| r.inputs[0].datatype = "FP64".into()),
            3,
            "invalid-request",
            "the model takes FP32",
        ),
        (
            with(&|r| r.inputs[0].contents = None),
            3,
            "invalid-request",
            "has 0 elements",
        ),
        (
            with(&|r| r.inputs.push(r.inputs[0].clone())),
            3,
            "invalid-request",
            "there twice",
        ),
        (with(&|r| r.inputs.clear()), 3, "invalid-request", "\"x\" is missing"),
        (
            with(&|r| r.outputs.push(output("q"))),
            3,
            "invalid-request",
            "no output \"q\"",
        ),
        (
            with(&|r| r.outputs = vec![output("y"), output("y")]),
            3,
            "invalid-request",
            "asked for twice",
        ),
        (
            with(&|r| drop(r.parameters.insert("timeout".into(), timeout.clone()))),
            3,
            "invalid-request",
            "microseconds",
        ),
        (short, 3, "invalid-request", "7 bytes"),
        (both, 3, "invalid-request", "both contents and raw"),
        (count, 3, "invalid-request", "2 entries for 1 inputs"),
    ] {
        let seen = call(&bench, "ModelInfer", &request).await;
        assert_eq!((seen.status, &*seen.reason), (status, reason), "{}", seen.text);
        assert!(seen.text.contains(part), "{} lacks {part}", seen.text);
    }
    let seen = call_with(&bench, "ModelInfer", &[], Bytes::from_static(&[0, 0, 0, 0, 1, 9])).await;
    assert_eq!(seen.status, 3);
    assert_eq!(call_with(&bench, "ModelInfer", &[], Bytes::new()).await.status, 3);
    let long = [&[0][..], &(2u32 << 20).to_be_bytes()].concat();
    let seen = call_with(&bench, "ModelInfer", &[], long.into()).await;
    assert_eq!((seen.status, &*seen.reason), (8, "body-too-large"));
    assert_eq!(call(&bench, "ModelTrain", &model("m")).await.status, 12);
    assert_eq!(call(&bench, "RepositoryModelLoad", &model("m")).await.status, 12);
    let half = echo(DataType::F16).await;
    let seen = call(&half, "ModelInfer", &typed("FP16", Contents::default())).await;
    assert!(
        seen.status == 3 && seen.text.contains("raw_input_contents"),
        "{}",
        seen.text
    );
}

#[tokio::test(start_paused = true)]
async fn full_queues_are_unavailable_and_deadlines_are_the_clients() {
    let device = Manual::default();
    let mut small = config();
    small.queue_size = 1;
    let bench = Bench::new(small, device.clone(), &[("m", Mock::echo(DataType::F32, 2))]).await;
    device.hold();
    let body = r#"{"instances":[[1,2]]}"#;
    let running = bench.start("/v1/models/m:predict", body).await;
    let start = tokio::time::Instant::now();
    let message = encode(&fp32(1.0, 2.0));
    let seen = call_with(&bench, "ModelInfer", &[("grpc-timeout", "20m")], message.clone()).await;
    assert_eq!(
        (seen.status, &*seen.reason, start.elapsed().as_millis()),
        (4, "request-timeout", 20)
    );
    let waiting = bench.start("/v1/models/m:predict", body).await;
    let seen = call_with(&bench, "ModelInfer", &[], message).await;
    assert_eq!((seen.status, &*seen.reason), (14, "queue-full"));
    device.finish();
    device.finish();
    assert_eq!(
        (running.await.unwrap().status, waiting.await.unwrap().status),
        (200, 200)
    );
}

#[tokio::test(start_paused = true)]
async fn rest_and_grpc_share_a_batch() {
    let device = Manual::default();
    let bench = Bench::new(config(), device.clone(), &[("m", Mock::echo(DataType::F32, 2))]).await;
    device.hold();
    let first = bench.start("/v1/models/m:predict", r#"{"instances":[[1,2]]}"#).await;
    let second = bench.start("/v1/models/m:predict", r#"{"instances":[[3,4]]}"#).await;
    let app = Arc::clone(&bench.app);
    let request = Request::post("/inference.GRPCInferenceService/ModelInfer")
        .body(Full::new(encode(&fp32(5.0, 6.0))))
        .unwrap();
    let third = tokio::spawn(async move { handle(app, request).await.into_body().collect().await });
    settle().await;
    device.finish();
    assert_eq!(device.running(), Some(2));
    device.finish();
    assert_eq!((first.await.unwrap().status, second.await.unwrap().status), (200, 200));
    assert_eq!(third.await.unwrap().unwrap().trailers().unwrap()["grpc-status"], "0");
    bench.assert_metric("ml_requests_total{status=\"success\"} 3");
}

#[tokio::test]
async fn a_stream_answers_in_order_and_survives_faults() {
    let bench = echo(DataType::F32).await;
    let mut wrong = fp32(0.0, 0.0);
    wrong.model_name = "n".into();
    wrong.id = "wrong".into();
    let requests = [fp32(1.0, 2.0), wrong, fp32(3.0, 4.0)];
    let body: Vec<u8> = requests.iter().flat_map(|request| encode(request).to_vec()).collect();
    let seen = call_with(&bench, "ModelStreamInfer", &[], body.into()).await;
    assert_eq!((seen.status, seen.messages.len()), (0, 3));
    let read = |i: usize| ModelStreamInferResponse::decode(seen.messages[i].clone()).unwrap();
    let contents = |i| {
        read(i).infer_response.unwrap().outputs[0]
            .contents
            .clone()
            .unwrap()
            .fp32_contents
    };
    assert_eq!((contents(0), contents(2)), (vec![1.0, 2.0], vec![3.0, 4.0]));
    assert!(read(1).error_message.contains("\"n\""));
    assert_eq!(read(1).infer_response.unwrap().id, "wrong");
    let cut = encode(&fp32(1.0, 2.0)).slice(..9);
    assert_eq!(call_with(&bench, "ModelStreamInfer", &[], cut).await.status, 3);
}

#[tokio::test]
async fn packed_messages_are_read() {
    let bench = echo(DataType::F32).await;
    let mut request = fp32(1.0, 2.0);
    request.id = "x".repeat(2000);
    let packed = Coding::Gzip.pack(&request.encode_to_vec()).unwrap();
    let body = [&[1][..], &(packed.len() as u32).to_be_bytes(), &packed].concat();
    let seen = call_with(&bench, "ModelInfer", &[("grpc-encoding", "gzip")], body.clone().into()).await;
    assert_eq!(seen.one::<ModelInferResponse>().id, request.id);
    assert_eq!(
        call_with(&bench, "ModelInfer", &[("grpc-encoding", "zstd")], body.into())
            .await
            .status,
        12
    );
}

#[test]
fn grpc_is_known_by_its_content_type() {
    for (value, expected) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc-web", false),
        ("application/json", false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", value.parse().unwrap());
        assert_eq!(is_grpc(&headers), expected, "{value}");
    }
}

#[tokio::test]
async fn a_version_and_classes_are_asked_for() {
    let bench = echo(DataType::F32).await;
    let mut request = fp32(1.0, 2.0);
    request.model_version = "2".into();
    assert_eq!(call(&bench, "ModelInfer", &request).await.status, 5);
    request.model_version = "1".into();
    let classes = InferParameter {
        choice: Some(Parameter::Int64(1)),
    };
    request.outputs = vec![RequestedOutput {
        name: "y".into(),
        parameters: [("classification".to_owned(), classes)].into(),
    }];
    let answer: ModelInferResponse = call(&bench, "ModelInfer", &request).await.one();
    let output = &answer.outputs[0];
    assert_eq!((&*output.datatype, &output.shape[..]), ("BYTES", &[1, 1][..]));
    assert_eq!(output.contents.as_ref().unwrap().bytes_contents, ["2.000000:1"]);
}
