//! V2, the Open Inference Protocol, with tensors in JSON.
//!
//! `data` is flat or nested; its type is the model's, which `datatype` must name. FP16 and BF16 have no JSON form in the protocol
//! and are refused both ways. Requested outputs come in the order asked for.

use std::borrow::Cow;

use pilotlight_engine::{DataType, Signature, Tensor, TensorInfo};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeStruct as _, Serializer};
use serde_json::value::RawValue;

use super::json::{Collector, Label, Nested, Node, check_text, declared};
use crate::error::{ApiError, Code};

/// The one version that every model has.
pub(crate) const VERSION: &str = "1";

/// A parsed request.
#[derive(Debug, PartialEq)]
pub(crate) struct InferRequest {
    /// Echoed.
    pub(crate) id: Option<String>,
    /// In the signature's order.
    pub(crate) inputs: Vec<Tensor>,
    /// Indices of the outputs to answer with.
    pub(crate) outputs: Vec<usize>,
}

/// Reads an inference request for a model of this signature.
pub(crate) fn parse(body: &[u8], signature: &Signature) -> Result<InferRequest, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let parsed = Body { signature }
        .deserialize(&mut reader)
        .and_then(|parsed| reader.end().map(|()| parsed))
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    if parsed.binary {
        return Err(ApiError::new(
            Code::Unsupported,
            "binary tensors are not served yet; send and ask for JSON data",
        ));
    }
    Ok(InferRequest {
        id: parsed.id,
        inputs: in_order(parsed.inputs, signature)?,
        outputs: requested(parsed.outputs, signature)?,
    })
}

fn in_order(mut found: Vec<Option<Tensor>>, signature: &Signature) -> Result<Vec<Tensor>, ApiError> {
    found.resize(signature.inputs.len(), None);
    let missing = |info: &TensorInfo| ApiError::invalid(format!("input {:?} is missing", info.name));
    found
        .into_iter()
        .zip(&signature.inputs)
        .map(|(t, info)| t.ok_or_else(|| missing(info)))
        .collect()
}

fn requested(names: Option<Vec<String>>, signature: &Signature) -> Result<Vec<usize>, ApiError> {
    let indices: Vec<usize> = match names {
        None => (0..signature.outputs.len()).collect(),
        Some(names) => names
            .iter()
            .map(|name| output_index(name, signature))
            .collect::<Result<_, _>>()?,
    };
    for (i, &index) in indices.iter().enumerate() {
        let info = &signature.outputs[index];
        if indices[..i].contains(&index) {
            return Err(ApiError::invalid(format!("output {:?} is asked for twice", info.name)));
        }
        if matches!(info.datatype, DataType::F16 | DataType::BF16) {
            return Err(ApiError::invalid(format!(
                "output {:?}: {} data via JSON is not supported; ask for other outputs",
                info.name, info.datatype
            )));
        }
    }
    Ok(indices)
}

fn output_index(name: &str, signature: &Signature) -> Result<usize, ApiError> {
    signature
        .outputs
        .iter()
        .position(|info| info.name == name)
        .ok_or_else(|| {
            let known = signature
                .outputs
                .iter()
                .map(|o| format!("{:?}", o.name))
                .collect::<Vec<_>>()
                .join(", ");
            ApiError::invalid(format!("there is no output {name:?}; the model has {known}"))
        })
}

struct Parsed {
    id: Option<String>,
    /// By the signature's index.
    inputs: Vec<Option<Tensor>>,
    outputs: Option<Vec<String>>,
    binary: bool,
}

#[derive(Deserialize)]
struct RequestedOutput {
    name: String,
    #[serde(default)]
    parameters: Parameters,
}

/// Of a request, an input or an output: what they say about binary tensors. Other parameters are ignored.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Parameters {
    #[serde(rename = "binary_data")]
    requested: bool,
    #[serde(rename = "binary_data_output")]
    requested_by_default: bool,
    #[serde(rename = "binary_data_size")]
    sent: Option<IgnoredAny>,
}

impl Parameters {
    fn binary(&self) -> bool {
        self.requested || self.requested_by_default || self.sent.is_some()
    }
}

struct Body<'a> {
    signature: &'a Signature,
}

impl<'de> DeserializeSeed<'de> for Body<'_> {
    type Value = Parsed;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parsed, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Body<'_> {
    type Value = Parsed;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with \"inputs\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
        let mut parsed = Parsed {
            id: None,
            inputs: Vec::new(),
            outputs: None,
            binary: false,
        };
        let mut inputs = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "id" => parsed.id = map.next_value::<Option<String>>()?,
                "parameters" => {
                    parsed.binary |= map.next_value::<Option<Parameters>>()?.is_some_and(|p| p.binary());
                }
                "inputs" if inputs.is_some() => return Err(Error::custom("\"inputs\" is there twice")),
                "inputs" => {
                    let list = map.next_value_seed(Inputs {
                        signature: self.signature,
                    })?;
                    parsed.binary |= list.binary;
                    inputs = Some(list.found);
                }
                "outputs" => {
                    if let Some(outputs) = map.next_value::<Option<Vec<RequestedOutput>>>()? {
                        parsed.binary |= outputs.iter().any(|o| o.parameters.binary());
                        parsed.outputs = Some(outputs.into_iter().map(|o| o.name).collect());
                    }
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        parsed.inputs = inputs.ok_or_else(|| Error::custom("\"inputs\" is missing"))?;
        Ok(parsed)
    }
}

struct Inputs<'a> {
    signature: &'a Signature,
}

struct Found {
    found: Vec<Option<Tensor>>,
    binary: bool,
}

impl<'de> DeserializeSeed<'de> for Inputs<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Inputs<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of tensors for \"inputs\"")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Found, A::Error> {
        let mut all = Found {
            found: vec![None; self.signature.inputs.len()],
            binary: false,
        };
        while let Some(input) = list.next_element_seed(Input {
            signature: self.signature,
        })? {
            match input {
                Parsing::Binary => all.binary = true,
                Parsing::Tensor(at, tensor) => {
                    if all.found[at].replace(tensor).is_some() {
                        let name = &self.signature.inputs[at].name;
                        return Err(Error::custom(format!("input {name:?} is there twice")));
                    }
                }
            }
        }
        Ok(all)
    }
}

/// What one entry of `inputs` turned out to be.
enum Parsing {
    Tensor(usize, Tensor),
    /// Its data is binary.
    Binary,
}

struct Input<'a> {
    signature: &'a Signature,
}

impl<'a> Input<'a> {
    fn find<E: Error>(&self, name: &str) -> Result<usize, E> {
        self.signature
            .inputs
            .iter()
            .position(|info| info.name == name)
            .ok_or_else(|| {
                let known = self
                    .signature
                    .inputs
                    .iter()
                    .map(|i| format!("{:?}", i.name))
                    .collect::<Vec<_>>()
                    .join(", ");
                E::custom(format!("there is no input {name:?}; the model has {known}"))
            })
    }

    fn collect<'de, D: Deserializer<'de>>(&self, at: usize, deserializer: D) -> Result<Collector<'a>, D::Error> {
        let mut collector = Collector::new(&self.signature.inputs[at], Label::Data);
        Node {
            collector: &mut collector,
            depth: 0,
        }
        .deserialize(deserializer)?;
        Ok(collector)
    }
}

impl<'de> DeserializeSeed<'de> for Input<'_> {
    type Value = Parsing;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parsing, D::Error> {
        deserializer.deserialize_map(self)
    }
}

/// Data read in place, where the name came before it; else as text, to be read when the name is known.
enum Payload<'de, 'a> {
    Read(Collector<'a>),
    Text(&'de RawValue),
}

impl<'de> Visitor<'de> for Input<'_> {
    type Value = Parsing;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a tensor: an object with \"name\", \"shape\", \"datatype\" and \"data\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsing, A::Error> {
        let mut at: Option<usize> = None;
        let mut shape: Option<Vec<usize>> = None;
        let mut datatype: Option<Cow<'de, str>> = None;
        let mut payload: Option<Payload<'de, '_>> = None;
        let mut binary = false;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "name" => at = Some(self.find(&map.next_value::<Cow<'de, str>>()?)?),
                "shape" => shape = Some(map.next_value()?),
                "datatype" => datatype = Some(map.next_value()?),
                "parameters" => binary |= map.next_value::<Option<Parameters>>()?.is_some_and(|p| p.binary()),
                "data" => {
                    payload = Some(match at {
                        Some(at) if can_read(&self.signature.inputs[at], datatype.as_deref()) => {
                            Payload::Read(map.next_value_seed(InPlace { input: &self, at })?)
                        }
                        _ => Payload::Text(map.next_value()?),
                    });
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let at = at.ok_or_else(|| Error::custom("an input has no \"name\""))?;
        if binary {
            return Ok(Parsing::Binary);
        }
        let info = &self.signature.inputs[at];
        let missing = |what| Error::custom(format!("input {:?} has no {what:?}", info.name));
        check_type(info, &datatype.ok_or_else(|| missing("datatype"))?).map_err(Error::custom)?;
        let collector = match payload.ok_or_else(|| missing("data"))? {
            Payload::Read(collector) => collector,
            Payload::Text(text) => {
                let mut reader = serde_json::Deserializer::from_str(text.get());
                self.collect(at, &mut reader).map_err(Error::custom)?
            }
        };
        let tensor = collector
            .finish_as(shape.ok_or_else(|| missing("shape"))?)
            .map_err(Error::custom)?;
        Ok(Parsing::Tensor(at, tensor))
    }
}

struct InPlace<'i, 'a> {
    input: &'i Input<'a>,
    at: usize,
}

impl<'de, 'a> DeserializeSeed<'de> for InPlace<'_, 'a> {
    type Value = Collector<'a>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Collector<'a>, D::Error> {
        self.input.collect(self.at, deserializer)
    }
}

/// Whether the data can be read now. Under a wrong datatype it is not, so that the error speaks of the datatype.
fn can_read(info: &TensorInfo, datatype: Option<&str>) -> bool {
    datatype.is_none_or(|datatype| check_type(info, datatype).is_ok())
}

fn check_type(info: &TensorInfo, datatype: &str) -> Result<(), String> {
    let name = &info.name;
    let given: DataType = datatype
        .parse()
        .map_err(|()| format!("input {name:?}: unknown datatype {datatype:?}"))?;
    if matches!(given, DataType::F16 | DataType::BF16) {
        return Err(format!("input {name:?}: {given} data via JSON is not supported"));
    }
    if given != info.datatype {
        return Err(format!(
            "input {name:?}: datatype {given} given, the model takes {}",
            info.datatype
        ));
    }
    Ok(())
}

/// The answer's body.
pub(crate) fn answer(
    model: &str,
    request_id: Option<&str>,
    signature: &Signature,
    requested: &[usize],
    outputs: &[Tensor],
) -> Result<Vec<u8>, ApiError> {
    for &i in requested {
        check_text(&outputs[i]).map_err(|at| {
            let name = &signature.outputs[i].name;
            ApiError::invalid(format!(
                "output {name:?}: element {at} is not UTF-8 and can't be given in JSON"
            ))
        })?;
    }
    let answer = Answer {
        model,
        id: request_id,
        signature,
        requested,
        outputs,
    };
    serde_json::to_vec(&answer).map_err(|error| ApiError::new(Code::ExecutionFailed, error.to_string()))
}

struct Answer<'a> {
    model: &'a str,
    id: Option<&'a str>,
    signature: &'a Signature,
    requested: &'a [usize],
    outputs: &'a [Tensor],
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Outputs<'a>(&'a Answer<'a>);
        impl Serialize for Outputs<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let Answer {
                    signature,
                    requested,
                    outputs,
                    ..
                } = self.0;
                serializer.collect_seq(
                    requested
                        .iter()
                        .map(|&i| Output(&signature.outputs[i].name, &outputs[i])),
                )
            }
        }
        let mut answer = serializer.serialize_struct("Answer", 4)?;
        answer.serialize_field("model_name", self.model)?;
        answer.serialize_field("model_version", VERSION)?;
        if let Some(id) = self.id {
            answer.serialize_field("id", id)?;
        }
        answer.serialize_field("outputs", &Outputs(self))?;
        answer.end()
    }
}

struct Output<'a>(&'a str, &'a Tensor);

impl Serialize for Output<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(name, tensor) = self;
        let mut output = serializer.serialize_struct("Output", 4)?;
        output.serialize_field("name", name)?;
        output.serialize_field("shape", tensor.shape())?;
        output.serialize_field("datatype", tensor.datatype().as_str())?;
        output.serialize_field("data", &Nested::flat(tensor, &[tensor.data().len()]))?;
        output.end()
    }
}

/// `GET /v2/models/{m}`.
pub(crate) fn metadata(model: &str, signature: &Signature) -> serde_json::Value {
    let tensors = |infos: &[TensorInfo]| -> Vec<serde_json::Value> {
        infos
            .iter()
            .map(|i| serde_json::json!({"name": i.name, "datatype": i.datatype.as_str(), "shape": declared(i)}))
            .collect()
    };
    serde_json::json!({
        "name": model,
        "versions": [VERSION],
        "platform": "burn_onnx",
        "inputs": tensors(&signature.inputs),
        "outputs": tensors(&signature.outputs),
    })
}

#[cfg(test)]
mod tests {
    use pilotlight_engine::{Data, Dim};

    use super::*;
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

    const A: &str = r#"{"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [[1, 2]]}"#;
    const B: &str = r#"{"data": [-3], "datatype": "int8", "name": "b", "parameters": {}, "shape": [1]}"#;

    #[test]
    fn inputs_come_in_any_order_nested_or_flat_with_keys_in_any_order() {
        let expected = vec![
            Tensor::new(vec![1, 2], Data::F32(vec![1.0, 2.0])).unwrap(),
            Tensor::new(vec![1], Data::I8(vec![-3])).unwrap(),
        ];
        for text in [body(A, B), body(B, A), body(&A.replace("[[1, 2]]", "[1, 2]"), B)] {
            let request = parse(text.as_bytes(), &model()).unwrap();
            assert_eq!(
                request,
                InferRequest {
                    id: Some("7".into()),
                    inputs: expected.clone(),
                    outputs: vec![2, 0]
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
            let request = parse(text.as_bytes(), &signature).unwrap();
            let answer = answer("m", None, &signature, &request.outputs, &request.inputs).unwrap();
            let expected = format!(
                r#"{{"model_name":"m","model_version":"1","outputs":[{{"name":"y","shape":[2],"datatype":"{datatype}","data":{data}}}]}}"#
            );
            let answer = String::from_utf8(answer).unwrap().replace("e+", "e");
            assert_eq!(answer, expected);
        }
        for datatype in [DataType::F16, DataType::BF16] {
            let text =
                format!(r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"{datatype}","data":[1]}}],"outputs":[]}}"#);
            let error = parse(text.as_bytes(), &one(datatype)).unwrap_err();
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
        let error = parse(text.as_bytes(), &model()).unwrap_err();
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
            let message = parse(body(&a, &b).as_bytes(), &model()).unwrap_err().message;
            assert!(message.contains(part), "{message} lacks {part}");
        }
        let missing = format!(r#"{{"inputs": [{A}], "outputs": [{{"name": "y"}}]}}"#);
        assert_eq!(
            parse(missing.as_bytes(), &model()).unwrap_err().message,
            "input \"b\" is missing"
        );
        let unknown = format!(r#"{{"inputs": [{A}, {B}], "outputs": [{{"name": "q"}}]}}"#);
        assert!(
            parse(unknown.as_bytes(), &model())
                .unwrap_err()
                .message
                .contains("there is no output \"q\"")
        );
        let twice = format!(r#"{{"inputs": [{A}, {B}], "outputs": [{{"name": "y"}}, {{"name": "y"}}]}}"#);
        assert!(
            parse(twice.as_bytes(), &model())
                .unwrap_err()
                .message
                .contains("asked for twice")
        );
        assert!(
            parse(b"{}", &model())
                .unwrap_err()
                .message
                .contains("\"inputs\" is missing")
        );
    }

    #[test]
    fn binary_tensors_are_refused_by_name() {
        let a = r#"{"name": "a", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}"#;
        for text in [
            body(a, B),
            format!(
                r#"{{"inputs": [{A}, {B}], "parameters": {{"binary_data_output": true}}, "outputs": [{{"name": "y"}}]}}"#
            ),
            format!(r#"{{"inputs": [{A}, {B}], "outputs": [{{"name": "y", "parameters": {{"binary_data": true}}}}]}}"#),
        ] {
            assert_eq!(
                parse(text.as_bytes(), &model()).unwrap_err().code,
                Code::Unsupported,
                "{text}"
            );
        }
    }

    #[test]
    fn opaque_bytes_have_no_json_form() {
        let output = Tensor::new(vec![1], Data::Bytes(vec![bytes::Bytes::from_static(&[0xff])])).unwrap();
        let error = answer("m", Some("1"), &one(DataType::Bytes), &[0], &[output]).unwrap_err();
        assert!(error.message.contains("element 0 is not UTF-8"));
    }

    #[test]
    fn metadata_gives_free_dimensions_as_minus_one() {
        assert_eq!(
            metadata("iris", &one(DataType::F32)).to_string(),
            r#"{"inputs":[{"datatype":"FP32","name":"x","shape":[-1]}],"name":"iris","outputs":[{"datatype":"FP32","name":"y","shape":[-1]}],"platform":"burn_onnx","versions":["1"]}"#
        );
    }
}
