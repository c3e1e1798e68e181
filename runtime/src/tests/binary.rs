//! Binary tensors and packed bodies over the wire.

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use pilotlight_engine::DataType;

use crate::faces::Coding;
use crate::testing::{Bench, Inline, Mock, config};

const HEADER: &str = "inference-header-content-length";

async fn post(bench: &Bench, headers: &[(&str, &str)], body: Vec<u8>) -> (http::response::Parts, Bytes) {
    let mut request = http::Request::post("/v2/models/m/infer");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let reply = bench
        .app
        .handle(request.body(Full::new(Bytes::from(body))).unwrap())
        .await;
    let (head, body) = reply.into_parts();
    (head, body.collect().await.unwrap().to_bytes())
}

async fn echo(datatype: DataType) -> Bench {
    Bench::new(config(), Inline, &[("m", Mock::echo(datatype, 2))]).await
}

#[tokio::test]
async fn binary_goes_both_ways_with_the_length_of_the_json_in_a_header() {
    let bench = echo(DataType::F16).await;
    let json = r#"{"id":"1","inputs":[{"name":"x","shape":[1,2],"datatype":"FP16","parameters":{"binary_data_size":4}}],"outputs":[{"name":"y","parameters":{"binary_data":true}}]}"#;
    let (head, body) = post(
        &bench,
        &[(HEADER, &json.len().to_string())],
        [json.as_bytes(), &[0, 0x3c, 0, 0x40]].concat(),
    )
    .await;
    assert_eq!(
        (head.status.as_u16(), &head.headers[CONTENT_TYPE]),
        (200, &"application/octet-stream".parse().unwrap())
    );
    let len: usize = head.headers[HEADER].to_str().unwrap().parse().unwrap();
    assert_eq!(body[len..], [0, 0x3c, 0, 0x40]);
    let expected = r#"{"model_name":"m","model_version":"1","id":"1","outputs":[{"name":"y","shape":[1,2],"datatype":"FP16","parameters":{"binary_data_size":4}}]}"#;
    assert_eq!(body[..len], *expected.as_bytes());

    let (head, body) = post(&bench, &[(HEADER, "0")], vec![0, 0x3c, 0, 0x40, 0, 0, 0, 0]).await;
    assert_eq!(head.status.as_u16(), 200);
    assert_eq!(body[body.len() - 8..], [0, 0x3c, 0, 0x40, 0, 0, 0, 0]);
}

#[tokio::test]
async fn what_is_wrong_with_the_header_is_a_400_that_names_it() {
    let bench = echo(DataType::F32).await;
    for value in ["-1", "x", "99999999999999999999", "9"] {
        let (head, body) = post(&bench, &[(HEADER, value)], b"{}".to_vec()).await;
        let text = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(head.status.as_u16(), 400, "{value}");
        assert!(text.contains("Inference-Header-Content-Length"), "{value}: {text}");
    }
    let (head, body) = post(&bench, &[("content-type", "application/octet-stream")], vec![0; 8]).await;
    assert_eq!(head.status.as_u16(), 400);
    assert!(String::from_utf8_lossy(&body).contains("needs the header Inference-Header-Content-Length"));
    let request = http::Request::post("/v1/models/m:predict")
        .header(HEADER, "2")
        .body(Full::new(Bytes::from("{}")));
    assert_eq!(bench.app.handle(request.unwrap()).await.status().as_u16(), 400);
}

#[tokio::test]
async fn packed_bodies_are_read_and_answers_packed_where_asked() {
    let bench = echo(DataType::F32).await;
    let data = vec!["[0.5,1.5]"; 400].join(",");
    let text = format!(r#"{{"inputs":[{{"name":"x","shape":[400,2],"datatype":"FP32","data":[{data}]}}]}}"#);
    let (_, plain) = post(&bench, &[], text.clone().into_bytes()).await;
    for coding in [Coding::Gzip, Coding::Deflate] {
        let name = coding.as_str();
        let packed = coding.pack(text.as_bytes()).unwrap();
        let headers = [(CONTENT_ENCODING.as_str(), name), (ACCEPT_ENCODING.as_str(), name)];
        let (head, body) = post(&bench, &headers, packed).await;
        assert_eq!(
            (head.status.as_u16(), head.headers[CONTENT_ENCODING].to_str().unwrap()),
            (200, name)
        );
        assert!(body.len() < plain.len() / 4);
        let budget = crate::faces::Budget::new(usize::MAX);
        assert_eq!(coding.unpack(&body, 1 << 20, &mut budget.share()).unwrap(), plain);
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_in_the_request_shortens_its_deadline() {
    let device = crate::testing::Manual::default();
    let bench = Bench::new(config(), device.clone(), &[("m", Mock::echo(DataType::F32, 2))]).await;
    device.hold();
    let text =
        r#"{"parameters":{"timeout":2000},"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}"#;
    let start = tokio::time::Instant::now();
    let (head, _) = post(&bench, &[], text.into()).await;
    assert_eq!((head.status.as_u16(), start.elapsed().as_millis()), (504, 2));
}
