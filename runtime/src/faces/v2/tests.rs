use pilotlight_engine::{Data, Dim};

use super::*;
use crate::error::Code;
use crate::testing::{info, n, signature};

fn model() -> Signature {
    signature(
        vec![
            info("a", DataType::F32, vec![n(), Dim::Fixed(2)]),
            info("b", DataType::I8, vec![n()]),
        ],
        vec![
            info("y", DataType::F32, vec![n()]),
            info("h", DataType::F16, vec![n()]),
            info("z", DataType::Bytes, vec![n()]),
        ],
    )
}

fn one(datatype: DataType) -> Signature {
    signature(
        vec![info("x", datatype, vec![n()])],
        vec![info("y", datatype, vec![n()])],
    )
}

fn body(a: &str, b: &str) -> String {
    format!(r#"{{"id": "7", "inputs": [{a}, {b}], "outputs": [{{"name": "z"}}, {{"name": "y"}}]}}"#)
}

fn read(text: &str, signature: &Signature) -> Result<InferRequest, ApiError> {
    parse(&Bytes::copy_from_slice(text.as_bytes()), None, signature)
}

/// With these bytes behind the JSON.
fn read_with(text: &str, tail: &[u8], signature: &Signature) -> Result<InferRequest, ApiError> {
    parse(&[text.as_bytes(), tail].concat().into(), Some(text.len()), signature)
}

fn json(index: usize) -> Requested {
    Requested {
        index,
        binary: false,
        classes: 0,
    }
}

fn binary(index: usize) -> Requested {
    Requested {
        index,
        binary: true,
        classes: 0,
    }
}

const HEAD: Head<'_> = Head {
    model: "m",
    version: "1",
    id: None,
};

const A: &str = r#"{"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [[1, 2]]}"#;
const B: &str = r#"{"data": [-3], "datatype": "int8", "name": "b", "parameters": {}, "shape": [1]}"#;

#[test]
fn inputs_come_in_any_order_nested_or_flat_with_keys_in_any_order() {
    let expected = vec![
        Tensor::new(vec![1, 2], Data::F32(vec![1.0, 2.0])).unwrap(),
        Tensor::new(vec![1], Data::I8(vec![-3])).unwrap(),
    ];
    for text in [body(A, B), body(B, A), body(&A.replace("[[1, 2]]", "[1, 2]"), B)] {
        let request = read(&text, &model()).unwrap();
        assert_eq!(
            request,
            InferRequest {
                id: Some("7".into()),
                inputs: expected.clone(),
                outputs: vec![json(2), json(0)],
                timeout: None,
                priority: 0,
            }
        );
    }
}

#[test]
fn every_datatype_but_the_half_floats_goes_both_ways() {
    for (datatype, data) in [
        (DataType::Bool, "[true,false]"),
        (DataType::U8, "[0,255]"),
        (DataType::U16, "[0,65535]"),
        (DataType::U32, "[0,4294967295]"),
        (DataType::U64, "[0,18446744073709551615]"),
        (DataType::I8, "[-128,127]"),
        (DataType::I16, "[-32768,32767]"),
        (DataType::I32, "[-2147483648,2147483647]"),
        (DataType::I64, "[-9223372036854775808,9223372036854775807]"),
        (DataType::F32, "[0.1,-3.4028235e38]"),
        (DataType::F64, "[0.1,1e300]"),
        (DataType::Bytes, r#"["a","ü"]"#),
    ] {
        let signature = one(datatype);
        let text = format!(r#"{{"inputs":[{{"name":"x","shape":[2],"datatype":"{datatype}","data":{data}}}]}}"#);
        let request = read(&text, &signature).unwrap();
        let (answer, binary) = answer(&HEAD, &signature, &request.outputs, &request.inputs).unwrap();
        assert_eq!(binary, None);
        let expected = format!(
            r#"{{"model_name":"m","model_version":"1","outputs":[{{"name":"y","shape":[2],"datatype":"{datatype}","data":{data}}}]}}"#
        );
        let answer = String::from_utf8(answer).unwrap().replace("e+", "e");
        assert_eq!(answer, expected);
    }
    for datatype in [DataType::F16, DataType::BF16] {
        let text =
            format!(r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"{datatype}","data":[1]}}],"outputs":[]}}"#);
        let error = read(&text, &one(datatype)).unwrap_err();
        assert!(
            error
                .message
                .contains(&format!("{datatype} data via JSON is not supported")),
            "{error}"
        );
    }
}

#[test]
fn half_outputs_are_refused_unless_left_out() {
    let text = format!(r#"{{"inputs": [{A}, {B}]}}"#);
    let error = read(&text, &model()).unwrap_err();
    assert!(error.message.contains("output \"h\": FP16 data via JSON"), "{error}");
}

#[test]
fn faults_name_the_tensor() {
    for (a, b, part) in [
        (
            A.replace("FP32", "FP64"),
            B.to_owned(),
            "input \"a\": datatype FP64 given, the model takes FP32",
        ),
        (
            A.replace("FP32", "FLOAT"),
            B.to_owned(),
            "input \"a\": unknown datatype \"FLOAT\"",
        ),
        (
            A.replace("[1, 2],", "[1, 3],"),
            B.to_owned(),
            "input \"a\": data has 2 elements where shape [1, 3] needs 3",
        ),
        (
            A.replace("[1, 2],", "[2, 1],"),
            B.to_owned(),
            "input \"a\": data is nested as [1, 2], shape says [2, 1]",
        ),
        (
            A.replace("[[1, 2]]", "[[1, \"q\"]]"),
            B.to_owned(),
            "input \"a\" data[0][1]: expected a number",
        ),
        (
            A.to_owned(),
            B.replace("-3", "-300"),
            "input \"b\" data[0]: -300 is out of the range of INT8",
        ),
        (A.to_owned(), B.replace("[1]", "[-1]"), "invalid value: integer `-1`"),
        (
            A.to_owned(),
            B.replace("\"b\"", "\"c\""),
            "there is no input \"c\"; the model has \"a\", \"b\"",
        ),
        (A.to_owned(), A.to_owned(), "input \"a\" is there twice"),
        (
            A.replace("\"shape\"", "\"shap\""),
            B.to_owned(),
            "input \"a\" has no \"shape\"",
        ),
        (
            A.replace("\"data\"", "\"dat\""),
            B.to_owned(),
            "input \"a\" has no \"data\"",
        ),
        (
            A.replace("\"name\"", "\"nam\""),
            B.to_owned(),
            "an input has no \"name\"",
        ),
        (
            A.replace("[1, 2],", "[4611686018427387904, 4, 1],"),
            B.to_owned(),
            "more than there can be",
        ),
    ] {
        let message = read(&body(&a, &b), &model()).unwrap_err().message;
        assert!(message.contains(part), "{message} lacks {part}");
    }
    let missing = format!(r#"{{"inputs": [{A}], "outputs": [{{"name": "y"}}]}}"#);
    assert_eq!(read(&missing, &model()).unwrap_err().message, "input \"b\" is missing");
    let unknown = format!(r#"{{"inputs": [{A}, {B}], "outputs": [{{"name": "q"}}]}}"#);
    assert!(
        read(&unknown, &model())
            .unwrap_err()
            .message
            .contains("there is no output \"q\"")
    );
    let twice = format!(r#"{{"inputs": [{A}, {B}], "outputs": [{{"name": "y"}}, {{"name": "y"}}]}}"#);
    assert!(read(&twice, &model()).unwrap_err().message.contains("asked for twice"));
    assert!(
        read("{}", &model())
            .unwrap_err()
            .message
            .contains("\"inputs\" is missing")
    );
}

const BINARY_A: &str = r#"{"name": "a", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}"#;
const BINARY_B: &str = r#"{"parameters": {"binary_data_size": 1}, "name": "b", "shape": [1], "datatype": "INT8"}"#;
const A_THEN_B: &[u8] = &[0, 0, 0x80, 0x3f, 0, 0, 0, 0x40, 0xfd];

#[test]
fn binary_inputs_mix_with_json_and_follow_its_order() {
    let expected = read(&body(A, B), &model()).unwrap().inputs;
    let b_then_a = [&A_THEN_B[8..], &A_THEN_B[..8]].concat();
    for (text, tail) in [
        (body(BINARY_A, BINARY_B), A_THEN_B),
        (body(BINARY_B, BINARY_A), &b_then_a[..]),
        (body(BINARY_A, B), &A_THEN_B[..8]),
        (body(BINARY_B, A), &A_THEN_B[8..]),
        (body(A, B), &[][..]),
    ] {
        assert_eq!(read_with(&text, tail, &model()).unwrap().inputs, expected, "{text}");
    }
}

#[test]
fn faults_of_binary_inputs_say_what_is_wrong() {
    for (a, tail, part) in [
        (
            BINARY_A.to_owned(),
            &A_THEN_B[..7],
            "input \"a\": binary_data_size is 8, the body has 7 bytes left",
        ),
        (
            BINARY_A.replace('8', "18446744073709551615"),
            A_THEN_B,
            "binary_data_size is 18446744073709551615",
        ),
        (
            BINARY_A.replace('8', "7"),
            &A_THEN_B[..7],
            "input \"a\": 7 bytes of binary data where shape [1, 2]",
        ),
        (BINARY_A.replace('8', "-8"), A_THEN_B, "invalid value: integer `-8`"),
        (BINARY_A.replace('8', "\"8\""), A_THEN_B, "invalid type: string"),
        (
            BINARY_A.to_owned(),
            A_THEN_B,
            "1 bytes of the body follow the last binary tensor",
        ),
        (
            BINARY_A.replace("[1, 2]", "[-1, 2]"),
            A_THEN_B,
            "invalid value: integer `-1`",
        ),
        (
            BINARY_A.replace("[1, 2]", "[4611686018427387904, 4]"),
            &A_THEN_B[..8],
            "more elements than there can be",
        ),
        (
            BINARY_A.replace("FP32", "FP64"),
            A_THEN_B,
            "datatype FP64 given, the model takes FP32",
        ),
        (
            BINARY_A.replace("\"datatype\"", "\"data\": [1, 2], \"datatype\""),
            A_THEN_B,
            "has both \"data\"",
        ),
        (
            A.to_owned() + "," + BINARY_A,
            &A_THEN_B[..8],
            "input \"a\" is there twice",
        ),
    ] {
        let error = read_with(&body(&a, B), tail, &model()).unwrap_err();
        assert_eq!(error.code, Code::InvalidRequest);
        assert!(error.message.contains(part), "{error} lacks {part}");
    }
    let no_header = read(&body(BINARY_A, B), &model()).unwrap_err();
    assert!(no_header.message.contains(BINARY_HEADER), "{no_header}");
    let past_the_end = parse(&Bytes::from_static(b"{}"), Some(3), &model()).unwrap_err();
    assert!(
        past_the_end.message.contains("says 3, the body has 2 bytes only"),
        "{past_the_end}"
    );
}

#[test]
fn an_outputs_own_binary_data_wins_over_the_requests() {
    let read = |parameters: &str, outputs: &str| {
        let text = format!(r#"{{"inputs": [{A}, {B}], "outputs": [{outputs}], "parameters": {{{parameters}}}}}"#);
        read(&text, &model()).map(|request| request.outputs)
    };
    let all = r#""binary_data_output": true"#;
    assert_eq!(read(all, "").unwrap(), [binary(0), binary(1), binary(2)]);
    assert_eq!(read(all, r#"{"name": "y"}"#).unwrap(), [binary(0)]);
    let mixed =
        r#"{"name": "z", "parameters": {"binary_data": false}}, {"name": "h", "parameters": {"binary_data": true}}"#;
    assert_eq!(read(all, mixed).unwrap(), [json(2), binary(1)]);
    assert_eq!(read("", mixed).unwrap(), [json(2), binary(1)]);
    assert!(
        read("", r#"{"name": "h"}"#)
            .unwrap_err()
            .message
            .contains("ask for it in binary")
    );
}

#[test]
fn half_floats_go_both_ways_in_binary() {
    for (datatype, bytes) in [(DataType::F16, [0, 0x3c]), (DataType::BF16, [0x80, 0x3f])] {
        let text = format!(
            r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"{datatype}","parameters":{{"binary_data_size":2}}}}],"parameters":{{"binary_data_output":true}}}}"#
        );
        let signature = one(datatype);
        let request = read_with(&text, &bytes, &signature).unwrap();
        let (answer, json) = answer(&HEAD, &signature, &request.outputs, &request.inputs).unwrap();
        let (head, tail) = answer.split_at(json.unwrap());
        assert_eq!(tail, bytes);
        let expected = format!(
            r#"{{"model_name":"m","model_version":"1","outputs":[{{"name":"y","shape":[1],"datatype":"{datatype}","parameters":{{"binary_data_size":2}}}}]}}"#
        );
        assert_eq!(String::from_utf8_lossy(head), expected);
    }
}

#[test]
fn a_body_without_json_is_the_only_input() {
    let whole = |signature: &Signature, bytes: &'static [u8]| parse(&Bytes::from_static(bytes), Some(0), signature);
    let with = |datatype, shape| signature(vec![info("x", datatype, shape)], vec![info("y", datatype, vec![n()])]);
    let request = whole(&with(DataType::U8, vec![n(), Dim::Fixed(2)]), &[1, 2, 3, 4]).unwrap();
    assert_eq!(
        (request.inputs[0].shape(), &request.outputs[..]),
        (&[2, 2][..], &[binary(0)][..])
    );
    let request = whole(&with(DataType::U8, vec![n(), Dim::Unknown]), &[1, 2, 3]).unwrap();
    assert_eq!(request.inputs[0].shape(), [1, 3]);
    let request = whole(&with(DataType::Bytes, vec![n(), Dim::Fixed(1)]), b"as it is").unwrap();
    assert_eq!(request.inputs[0].data(), &Data::Bytes(vec!["as it is".into()]));
    for (signature, bytes, part) in [
        (
            with(DataType::U8, vec![n(), Dim::Fixed(2)]),
            &[1, 2, 3][..],
            "it has 3 bytes, and input \"x\" takes a multiple of 2",
        ),
        (
            with(DataType::U8, vec![n(), Dim::Unknown, Dim::Unknown]),
            &[1],
            "more than one free dimension",
        ),
        (
            with(DataType::Bytes, vec![Dim::Fixed(2)]),
            b"x",
            "more than one element",
        ),
        (model(), b"x", "the model has 2 inputs"),
    ] {
        let error = whole(&signature, bytes).unwrap_err();
        assert!(error.message.contains(part), "{error} lacks {part}");
    }
}

#[test]
fn a_timeout_is_in_microseconds_and_0_is_none() {
    let read = |us: &str| {
        read(
            &format!(r#"{{"inputs": [{B}], "parameters": {{"timeout": {us}}}}}"#),
            &one_b(),
        )
    };
    assert_eq!(read("1500").unwrap().timeout, Some(Duration::from_micros(1500)));
    assert_eq!(read("0").unwrap().timeout, None);
    assert!(read("-1").is_err());
}

fn one_b() -> Signature {
    signature(
        vec![info("b", DataType::I8, vec![n()])],
        vec![info("y", DataType::I8, vec![n()])],
    )
}

#[test]
fn opaque_bytes_have_no_json_form() {
    let output = Tensor::new(vec![1], Data::Bytes(vec![bytes::Bytes::from_static(&[0xff])])).unwrap();
    let error = answer(&HEAD, &one(DataType::Bytes), &[json(0)], &[output]).unwrap_err();
    assert!(error.message.contains("element 0 is not UTF-8"));
}

#[test]
fn metadata_gives_free_dimensions_as_minus_one() {
    let metrics = crate::metrics::Metrics::new().of("iris", "3");
    let served = Served::new("iris", "3", crate::testing::Mock::new(one(DataType::F32), Ok), metrics);
    assert_eq!(
        metadata(&served).to_string(),
        r#"{"inputs":[{"datatype":"FP32","name":"x","shape":[-1]}],"name":"iris","outputs":[{"datatype":"FP32","name":"y","shape":[-1]}],"platform":"burn_onnx","versions":["3"]}"#
    );
}
