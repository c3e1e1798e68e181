//! V2, the Open Inference Protocol, with tensors in JSON or, by its binary extension, behind it.
//!
//! `data` is flat or nested; its type is the model's, which `datatype` must name. FP16 and BF16 have no JSON form in the protocol
//! and go in binary only. Requested outputs come in the order asked for; an output's own `binary_data` wins over the request's
//! `binary_data_output`.

mod answer;
mod classification;
mod request;

use std::time::Duration;

use bytes::Bytes;
use pilotlight_engine::{DataType, Dim, Signature, Tensor, TensorInfo};
use serde::de::DeserializeSeed as _;

pub(crate) use self::answer::{Head, answer};
pub(crate) use self::classification::classify;
pub(crate) use self::request::priority;
use self::request::{Binary, Body, Parsed, RequestedOutput};
use super::json::{Holes, cut, declared};
use super::raw;
use crate::error::ApiError;
use crate::served::Served;

/// The header of bodies that hold binary tensors: the length of the JSON before them.
pub(crate) const BINARY_HEADER: &str = "Inference-Header-Content-Length";

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
    /// How important it is; 0: the client does not say.
    pub(crate) priority: u32,
}

/// An output to answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Requested {
    /// Its place in the signature.
    pub(crate) index: usize,
    /// Not in JSON.
    pub(crate) binary: bool,
    /// Not the tensor but its highest values with their classes, this many of each row; 0: the tensor.
    pub(crate) classes: usize,
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
    let mut parsed = read(text, signature)?;
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
        priority: parsed.priority,
    })
}

fn read(text: &[u8], signature: &Signature) -> Result<Parsed, ApiError> {
    fn read(text: &[u8], signature: &Signature, holes: Holes<'_>) -> serde_json::Result<Parsed> {
        let mut reader = serde_json::Deserializer::from_slice(text);
        let parsed = Body { signature, holes }.deserialize(&mut reader)?;
        reader.end().map(|()| parsed)
    }
    if let Some(cut) = cut(text)
        && let Ok(parsed) = read(cut.rest(), signature, cut.holes())
    {
        return Ok(parsed);
    }
    read(text, signature, Holes::default()).map_err(|error| ApiError::invalid(error.to_string()))
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
    if free == 1 && rest * known != body.len() {
        return Err(fault(&format!(
            "it has {} bytes, and input {name:?} takes a multiple of {known}",
            body.len()
        )));
    }
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
    let binary = |index| Requested {
        index,
        binary: true,
        classes: 0,
    };
    InferRequest {
        id: None,
        inputs: vec![tensor],
        outputs: (0..signature.outputs.len()).map(binary).collect(),
        timeout: None,
        priority: 0,
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
            .map(|index| Requested {
                index,
                binary,
                classes: 0,
            })
            .collect(),
        Some(outputs) => outputs
            .into_iter()
            .map(|output| {
                let index = output_index(&output.name, signature)?;
                let parameters = output.parameters.unwrap_or_default();
                let binary = parameters.binary_data.unwrap_or(binary);
                let classes = parameters.classification.unwrap_or(0);
                Ok(Requested { index, binary, classes })
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
        if output.classes > 0 && matches!(info.datatype, DataType::Bytes | DataType::Bool) {
            return Err(ApiError::invalid(format!(
                "output {:?}: classification needs numbers, and it is of {}",
                info.name, info.datatype
            )));
        }
        if !output.binary && output.classes == 0 && matches!(info.datatype, DataType::F16 | DataType::BF16) {
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

/// `GET /v2/models/{m}`.
pub(crate) fn metadata(served: &Served) -> serde_json::Value {
    let signature = served.signature();
    let tensors = |infos: &[TensorInfo]| -> Vec<serde_json::Value> {
        infos
            .iter()
            .map(|i| serde_json::json!({"name": i.name, "datatype": i.datatype.as_str(), "shape": declared(i)}))
            .collect()
    };
    serde_json::json!({
        "name": served.name(),
        "versions": [served.version()],
        "platform": served.platform(),
        "inputs": tensors(&signature.inputs),
        "outputs": tensors(&signature.outputs),
    })
}

#[cfg(test)]
mod tests;
