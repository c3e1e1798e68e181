//! Reading a request's JSON: tensors go straight into vectors of the model's types, whatever the order of the fields.

use std::borrow::Cow;
use std::time::Duration;

use pilotlight_engine::{DataType, Signature, Tensor, TensorInfo};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::super::json::{Collector, Holes, Label, Node};
use super::{input_index, same_type};

pub(super) struct Parsed {
    pub(super) id: Option<String>,
    /// By the signature's index.
    pub(super) inputs: Vec<Option<Tensor>>,
    /// The ones whose data is behind the JSON, in its order.
    pub(super) binary: Vec<Binary>,
    pub(super) outputs: Option<Vec<RequestedOutput>>,
    pub(super) binary_output: bool,
    pub(super) timeout: Option<Duration>,
    pub(super) priority: u32,
}

/// An input whose data is behind the JSON.
pub(super) struct Binary {
    pub(super) at: usize,
    pub(super) shape: Vec<usize>,
    pub(super) size: u64,
}

#[derive(Deserialize)]
pub(super) struct RequestedOutput {
    pub(super) name: String,
    pub(super) parameters: Option<OutputParameters>,
}

/// Parameters that are not in these structs are ignored.
#[derive(Default, Deserialize)]
pub(super) struct OutputParameters {
    pub(super) binary_data: Option<bool>,
    pub(super) classification: Option<usize>,
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
    /// 1 is the highest; 0: none.
    priority: Option<u64>,
}

pub(super) struct Body<'a> {
    pub(super) signature: &'a Signature,
    pub(super) holes: Holes<'a>,
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
            priority: 0,
        };
        let mut inputs = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "id" => parsed.id = map.next_value::<Option<String>>()?,
                "parameters" => {
                    if let Some(parameters) = map.next_value::<Option<RequestParameters>>()? {
                        parsed.binary_output = parameters.binary_data_output.unwrap_or(false);
                        parsed.priority = priority(parameters.priority.unwrap_or(0));
                        parsed.timeout = parameters.timeout.filter(|&us| us > 0).map(Duration::from_micros);
                    }
                }
                "inputs" if inputs.is_some() => return Err(Error::custom("\"inputs\" is there twice")),
                "inputs" => {
                    let list = map.next_value_seed(Inputs {
                        signature: self.signature,
                        holes: self.holes,
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

/// A level past what the type holds is past every configured one too.
pub(crate) fn priority(asked: u64) -> u32 {
    u32::try_from(asked).unwrap_or(u32::MAX)
}

struct Inputs<'a> {
    signature: &'a Signature,
    holes: Holes<'a>,
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
            holes: self.holes,
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
    holes: Holes<'a>,
}

impl<'a> Input<'a> {
    fn collect<'de, D: Deserializer<'de>>(&self, at: usize, deserializer: D) -> Result<Collector<'a>, D::Error> {
        let mut collector = Collector::over(&self.signature.inputs[at], Label::Data, self.holes);
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
