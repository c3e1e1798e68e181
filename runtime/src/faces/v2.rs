//! V2, the Open Inference Protocol, with tensors in JSON or, by its binary extension, behind it.
//!
//! `data` is flat or nested; its type is the model's, which `datatype` must name. FP16 and BF16 have no JSON form in the protocol
//! and go in binary only. Requested outputs come in the order asked for; an output's own `binary_data` wins over the request's
//! `binary_data_output`.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use pilotlight_engine::{DataType, Dim, Signature, Tensor, TensorInfo};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeStruct as _, Serializer};
use serde_json::value::RawValue;

use super::json::{Collector, Label, Nested, Node, check_text, declared};
use super::raw;
use crate::error::{ApiError, Code};

/// The header of bodies that hold binary tensors: the length of the JSON before them.
pub(crate) const BINARY_HEADER: &str = "Inference-Header-Content-Length";

/// What models run on, in the protocol's form.
pub(crate) const PLATFORM: &str = "burn_onnx";

/// The one version that every model has.
pub(crate) const VERSION: &str = "1";

/// A parsed request.
#[derive(Debug, PartialEq)]
pub(crate) struct InferRequest {
    /// Echoed.
    pub(crate) id: Option<String>,
    /// In the signature's order.
    pub(crate) inputs: Vec<Tensor>,
    /// The outputs to answer with.
    pub(crate) outputs: Vec<Requested>,
    /// How long it may take, where the client says so.
    pub(crate) timeout: Option<Duration>,
}

/// An output to answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Requested {
    /// Its place in the signature.
    pub(crate) index: usize,
    /// Not in JSON.
    pub(crate) binary: bool,
}

/// Reads an inference request for a model of this signature. `json` is the length of the JSON where the client gave it: binary
/// tensors follow it, or the body is one tensor and has no JSON.
pub(crate) fn parse(body: &Bytes, json: Option<usize>, signature: &Signature) -> Result<InferRequest, ApiError> {
    let text = match json {
        None => &body[..],
        Some(0) => return single(body, signature),
        Some(len) => body.get(..len).ok_or_else(|| {
            ApiError::invalid(format!(
                "{BINARY_HEADER} says {len}, the body has {} bytes only",
                body.len()
            ))
        })?,
    };
    let mut reader = serde_json::Deserializer::from_slice(text);
    let mut parsed = Body { signature }
        .deserialize(&mut reader)
        .and_then(|parsed| reader.end().map(|()| parsed))
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    let binary = std::mem::take(&mut parsed.binary);
    match json {
        Some(len) => take_binary(&mut parsed.inputs, binary, body.slice(len..), body.len(), signature)?,
        None => {
            if let Some(input) = binary.first() {
                let name = &signature.inputs[input.at].name;
                return Err(ApiError::invalid(format!(
                    "input {name:?} has \"binary_data_size\", but the request has no header {BINARY_HEADER} that says \
                     where the JSON ends"
                )));
            }
        }
    }
    Ok(InferRequest {
        id: parsed.id,
        inputs: in_order(parsed.inputs, signature)?,
        outputs: requested(parsed.outputs, parsed.binary_output, signature)?,
        timeout: parsed.timeout,
    })
}

/// The binary tensors, which stand behind the JSON in the order in which it names them.
fn take_binary(
    found: &mut [Option<Tensor>],
    binary: Vec<Binary>,
    mut tail: Bytes,
    whole: usize,
    signature: &Signature,
) -> Result<(), ApiError> {
    for Binary { at, shape, size } in binary {
        let info = &signature.inputs[at];
        let size = usize::try_from(size)
            .ok()
            .filter(|size| *size <= tail.len())
            .ok_or_else(|| {
                ApiError::invalid(format!(
                    "input {:?}: binary_data_size is {size}, the body has {} bytes left only",
                    info.name,
                    tail.len()
                ))
            })?;
        let tensor = raw::decode(info, shape, tail.split_to(size), whole).map_err(ApiError::invalid)?;
        if found[at].replace(tensor).is_some() {
            return Err(ApiError::invalid(format!("input {:?} is there twice", info.name)));
        }
    }
    if tail.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "{} bytes of the body follow the last binary tensor; {BINARY_HEADER} and every binary_data_size must add up to its length",
        tail.len()
    )))
}

/// A body that is one tensor: of the only input, in its declared shape, with one row where there is more than one free dimension.
/// For BYTES it is one element, without a length. Every output comes in binary.
fn single(body: &Bytes, signature: &Signature) -> Result<InferRequest, ApiError> {
    let [info] = &signature.inputs[..] else {
        return Err(ApiError::invalid(format!(
            "{BINARY_HEADER}: 0 says that the body is one tensor, but the model has {} inputs",
            signature.inputs.len()
        )));
    };
    let name = &info.name;
    let fault = |why: &str| {
        ApiError::invalid(format!(
            "{BINARY_HEADER}: 0 says that the body is one tensor, but {why}"
        ))
    };
    let declared = info
        .shape
        .as_ref()
        .ok_or_else(|| fault(&format!("input {name:?} declares no shape")))?;
    let mut shape: Vec<Option<usize>> = declared.iter().map(fixed).collect();
    let mut free = shape.iter().filter(|size| size.is_none()).count();
    if free > 1 && shape[0].is_none() {
        shape[0] = Some(1);
        free -= 1;
    }
    let Some(size) = raw::element_size(info.datatype) else {
        let shape: Vec<usize> = shape.into_iter().map(|size| size.unwrap_or(1)).collect();
        let data = pilotlight_engine::Data::Bytes(vec![body.clone()]);
        let tensor = Tensor::new(shape, data)
            .ok_or_else(|| fault(&format!("input {name:?} of BYTES takes more than one element")))?;
        return Ok(all_binary(tensor, signature));
    };
    if free > 1 {
        return Err(fault(&format!("input {name:?} has more than one free dimension")));
    }
    let known: usize = shape.iter().flatten().product::<usize>() * size;
    let rest = body.len().checked_div(known).unwrap_or(0);
    let shape = shape.into_iter().map(|size| size.unwrap_or(rest)).collect();
    let tensor = raw::decode(info, shape, body.clone(), body.len()).map_err(ApiError::invalid)?;
    Ok(all_binary(tensor, signature))
}

fn fixed(dim: &Dim) -> Option<usize> {
    match dim {
        Dim::Fixed(size) => Some(*size),
        Dim::Symbol(_) | Dim::Unknown => None,
    }
}

fn all_binary(tensor: Tensor, signature: &Signature) -> InferRequest {
    let binary = |index| Requested { index, binary: true };
    InferRequest {
        id: None,
        inputs: vec![tensor],
        outputs: (0..signature.outputs.len()).map(binary).collect(),
        timeout: None,
    }
}

pub(crate) fn in_order(mut found: Vec<Option<Tensor>>, signature: &Signature) -> Result<Vec<Tensor>, ApiError> {
    found.resize(signature.inputs.len(), None);
    let missing = |info: &TensorInfo| ApiError::invalid(format!("input {:?} is missing", info.name));
    found
        .into_iter()
        .zip(&signature.inputs)
        .map(|(t, info)| t.ok_or_else(|| missing(info)))
        .collect()
}

fn requested(
    outputs: Option<Vec<RequestedOutput>>,
    binary: bool,
    signature: &Signature,
) -> Result<Vec<Requested>, ApiError> {
    let requested: Vec<Requested> = match outputs.filter(|outputs| !outputs.is_empty()) {
        None => (0..signature.outputs.len())
            .map(|index| Requested { index, binary })
            .collect(),
        Some(outputs) => outputs
            .into_iter()
            .map(|output| {
                let index = output_index(&output.name, signature)?;
                let binary = output.parameters.unwrap_or_default().binary_data.unwrap_or(binary);
                Ok(Requested { index, binary })
            })
            .collect::<Result<_, ApiError>>()?,
    };
    check_requested(&requested, signature)?;
    Ok(requested)
}

/// # Errors
/// Where an output is asked for twice, or in JSON that has no form there.
pub(crate) fn check_requested(requested: &[Requested], signature: &Signature) -> Result<(), ApiError> {
    for (i, output) in requested.iter().enumerate() {
        let info = &signature.outputs[output.index];
        if requested[..i].iter().any(|other| other.index == output.index) {
            return Err(ApiError::invalid(format!("output {:?} is asked for twice", info.name)));
        }
        if !output.binary && matches!(info.datatype, DataType::F16 | DataType::BF16) {
            return Err(ApiError::invalid(format!(
                "output {:?}: {} data via JSON is not supported; ask for it in binary, or for other outputs",
                info.name, info.datatype
            )));
        }
    }
    Ok(())
}

/// The input of this name.
pub(crate) fn input_index(name: &str, signature: &Signature) -> Result<usize, String> {
    let inputs = &signature.inputs;
    inputs.iter().position(|info| info.name == name).ok_or_else(|| {
        let known = inputs
            .iter()
            .map(|i| format!("{:?}", i.name))
            .collect::<Vec<_>>()
            .join(", ");
        format!("there is no input {name:?}; the model has {known}")
    })
}

/// The output of this name.
pub(crate) fn output_index(name: &str, signature: &Signature) -> Result<usize, ApiError> {
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
    /// The ones whose data is behind the JSON, in its order.
    binary: Vec<Binary>,
    outputs: Option<Vec<RequestedOutput>>,
    binary_output: bool,
    timeout: Option<Duration>,
}

/// An input whose data is behind the JSON.
struct Binary {
    at: usize,
    shape: Vec<usize>,
    size: u64,
}

#[derive(Deserialize)]
struct RequestedOutput {
    name: String,
    parameters: Option<OutputParameters>,
}

/// Parameters that are not in these structs are ignored.
#[derive(Default, Deserialize)]
struct OutputParameters {
    binary_data: Option<bool>,
}

#[derive(Deserialize)]
struct InputParameters {
    binary_data_size: Option<u64>,
}

#[derive(Deserialize)]
struct RequestParameters {
    binary_data_output: Option<bool>,
    /// Microseconds; 0: none.
    timeout: Option<u64>,
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
            binary: Vec::new(),
            outputs: None,
            binary_output: false,
            timeout: None,
        };
        let mut inputs = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "id" => parsed.id = map.next_value::<Option<String>>()?,
                "parameters" => {
                    if let Some(parameters) = map.next_value::<Option<RequestParameters>>()? {
                        parsed.binary_output = parameters.binary_data_output.unwrap_or(false);
                        parsed.timeout = parameters.timeout.filter(|&us| us > 0).map(Duration::from_micros);
                    }
                }
                "inputs" if inputs.is_some() => return Err(Error::custom("\"inputs\" is there twice")),
                "inputs" => {
                    let list = map.next_value_seed(Inputs {
                        signature: self.signature,
                    })?;
                    parsed.binary = list.binary;
                    inputs = Some(list.found);
                }
                "outputs" => parsed.outputs = map.next_value()?,
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
    binary: Vec<Binary>,
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
            binary: Vec::new(),
        };
        while let Some(input) = list.next_element_seed(Input {
            signature: self.signature,
        })? {
            match input {
                Parsing::Binary(input) => all.binary.push(input),
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
    Binary(Binary),
}

struct Input<'a> {
    signature: &'a Signature,
}

impl<'a> Input<'a> {
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
        let mut binary = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "name" => {
                    at = Some(input_index(&map.next_value::<Cow<'de, str>>()?, self.signature).map_err(Error::custom)?);
                }
                "shape" => shape = Some(map.next_value()?),
                "datatype" => datatype = Some(map.next_value()?),
                "parameters" => {
                    binary = map
                        .next_value::<Option<InputParameters>>()?
                        .and_then(|p| p.binary_data_size);
                }
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
        let info = &self.signature.inputs[at];
        let missing = |what| Error::custom(format!("input {:?} has no {what:?}", info.name));
        let datatype = datatype.ok_or_else(|| missing("datatype"))?;
        if let Some(size) = binary {
            if payload.is_some() {
                let name = &info.name;
                return Err(Error::custom(format!(
                    "input {name:?} has both \"data\" and \"binary_data_size\""
                )));
            }
            same_type(info, &datatype).map_err(Error::custom)?;
            let shape = shape.ok_or_else(|| missing("shape"))?;
            return Ok(Parsing::Binary(Binary { at, shape, size }));
        }
        check_type(info, &datatype).map_err(Error::custom)?;
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
    if let Ok(given @ (DataType::F16 | DataType::BF16)) = datatype.parse() {
        return Err(format!(
            "input {name:?}: {given} data via JSON is not supported; send it in binary"
        ));
    }
    same_type(info, datatype)
}

/// # Errors
/// Where `datatype` is not the input's.
pub(crate) fn same_type(info: &TensorInfo, datatype: &str) -> Result<(), String> {
    let name = &info.name;
    let given: DataType = datatype
        .parse()
        .map_err(|()| format!("input {name:?}: unknown datatype {datatype:?}"))?;
    if given != info.datatype {
        return Err(format!(
            "input {name:?}: datatype {given} given, the model takes {}",
            info.datatype
        ));
    }
    Ok(())
}

/// The answer's body and, where binary tensors follow its JSON, the length of that.
pub(crate) fn answer(
    model: &str,
    request_id: Option<&str>,
    signature: &Signature,
    requested: &[Requested],
    outputs: &[Tensor],
) -> Result<(Vec<u8>, Option<usize>), ApiError> {
    for output in requested.iter().filter(|output| !output.binary) {
        check_text(&outputs[output.index]).map_err(|at| {
            let name = &signature.outputs[output.index].name;
            ApiError::invalid(format!(
                "output {name:?}: element {at} is not UTF-8 and can't be given in JSON; ask for it in binary"
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
    let mut body =
        serde_json::to_vec(&answer).map_err(|error| ApiError::new(Code::ExecutionFailed, error.to_string()))?;
    let mut binary = requested.iter().filter(|output| output.binary).peekable();
    if binary.peek().is_none() {
        return Ok((body, None));
    }
    let json = body.len();
    binary.for_each(|output| raw::encode(outputs[output.index].data(), &mut body));
    Ok((body, Some(json)))
}

struct Answer<'a> {
    model: &'a str,
    id: Option<&'a str>,
    signature: &'a Signature,
    requested: &'a [Requested],
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
                        .map(|r| Output(&signature.outputs[r.index].name, &outputs[r.index], r.binary)),
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

struct Output<'a>(&'a str, &'a Tensor, bool);

impl Serialize for Output<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Size(usize);
        impl Serialize for Size {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map([("binary_data_size", self.0)])
            }
        }
        let Self(name, tensor, binary) = self;
        let mut output = serializer.serialize_struct("Output", 4)?;
        output.serialize_field("name", name)?;
        output.serialize_field("shape", tensor.shape())?;
        output.serialize_field("datatype", tensor.datatype().as_str())?;
        if *binary {
            output.serialize_field("parameters", &Size(raw::encoded_len(tensor.data())))?;
        } else {
            output.serialize_field("data", &Nested::flat(tensor, &[tensor.data().len()]))?;
        }
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
        "platform": PLATFORM,
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

    fn read(text: &str, signature: &Signature) -> Result<InferRequest, ApiError> {
        parse(&Bytes::copy_from_slice(text.as_bytes()), None, signature)
    }

    /// With these bytes behind the JSON.
    fn read_with(text: &str, tail: &[u8], signature: &Signature) -> Result<InferRequest, ApiError> {
        parse(&[text.as_bytes(), tail].concat().into(), Some(text.len()), signature)
    }

    fn json(index: usize) -> Requested {
        Requested { index, binary: false }
    }

    fn binary(index: usize) -> Requested {
        Requested { index, binary: true }
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
            let request = read(&text, &model()).unwrap();
            assert_eq!(
                request,
                InferRequest {
                    id: Some("7".into()),
                    inputs: expected.clone(),
                    outputs: vec![json(2), json(0)],
                    timeout: None
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
            let (answer, binary) = answer("m", None, &signature, &request.outputs, &request.inputs).unwrap();
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

    const BINARY_A: &str =
        r#"{"name": "a", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}"#;
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
        let mixed = r#"{"name": "z", "parameters": {"binary_data": false}}, {"name": "h", "parameters": {"binary_data": true}}"#;
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
            let (answer, json) = answer("m", None, &signature, &request.outputs, &request.inputs).unwrap();
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
                "3 bytes of binary data where shape [1, 2]",
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
        let error = answer("m", Some("1"), &one(DataType::Bytes), &[json(0)], &[output]).unwrap_err();
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
