//! Tensors of gRPC messages: raw contents, or typed ones.

use std::time::Duration;

use bytes::Bytes;
use pilotlight_engine::{Data, DataType, Signature, Tensor, TensorInfo};

use super::messages::{
    Contents, InferParameter, InferTensor, ModelInferRequest, ModelInferResponse, Parameter, RequestedOutput,
};
use crate::error::ApiError;
use crate::faces::v2::{self, Requested};
use crate::faces::{check_shape, raw};
use crate::served::Served;

/// What a request says, read for a model.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) model: String,
    pub(crate) id: String,
    pub(crate) outputs: Vec<Requested>,
    /// The answer is raw as the request was.
    pub(crate) raw: bool,
    /// How long it may take, where the client says so.
    pub(crate) timeout: Option<Duration>,
    /// How important it is; 0: the client does not say.
    pub(crate) priority: u32,
}

/// Inputs in the signature's order, and what is to be remembered until the answer. `whole` is the message's length.
///
/// # Errors
/// Name the tensor and what is wrong.
pub(crate) fn parse(
    request: ModelInferRequest,
    whole: usize,
    signature: &Signature,
) -> Result<(Vec<Tensor>, Call), ApiError> {
    let raw = !request.raw_input_contents.is_empty();
    if raw && request.raw_input_contents.len() != request.inputs.len() {
        return Err(ApiError::invalid(format!(
            "raw_input_contents has {} entries for {} inputs",
            request.raw_input_contents.len(),
            request.inputs.len()
        )));
    }
    let mut contents = request.raw_input_contents.into_iter();
    let mut found = vec![None; signature.inputs.len()];
    for tensor in request.inputs {
        let at = v2::input_index(&tensor.name, signature).map_err(ApiError::invalid)?;
        let tensor = input(tensor, contents.next(), whole, &signature.inputs[at]).map_err(ApiError::invalid)?;
        if found[at].replace(tensor).is_some() {
            let name = &signature.inputs[at].name;
            return Err(ApiError::invalid(format!("input {name:?} is there twice")));
        }
    }
    let timeout = whole_number("timeout", request.parameters.get("timeout"))?;
    let call = Call {
        outputs: outputs(&request.outputs, raw, signature)?,
        timeout: (timeout > 0).then(|| Duration::from_micros(timeout)),
        priority: v2::priority(whole_number("priority", request.parameters.get("priority"))?),
        model: request.model_name,
        id: request.id,
        raw,
    };
    Ok((v2::in_order(found, signature)?, call))
}

fn input(tensor: InferTensor, raw: Option<Bytes>, whole: usize, info: &TensorInfo) -> Result<Tensor, String> {
    let name = &info.name;
    v2::same_type(info, &tensor.datatype)?;
    let shape: Vec<usize> = tensor
        .shape
        .iter()
        .map(|&size| usize::try_from(size))
        .collect::<Result<_, _>>()
        .map_err(|_| format!("input {name:?}: shape {:?} has a negative dimension", tensor.shape))?;
    match (raw, tensor.contents) {
        (Some(raw), None) => raw::decode(info, shape, raw, whole),
        (Some(_), Some(_)) => Err(format!("input {name:?} has both contents and raw_input_contents")),
        (None, contents) => {
            let count = raw::count(info, &shape)?;
            check_shape(&shape, info)?;
            let (data, field) = typed(info, contents.unwrap_or_default())?;
            let len = data.len();
            Tensor::new(shape, data)
                .ok_or_else(|| format!("input {name:?}: {field} has {len} elements where the shape needs {count}"))
        }
    }
}

/// The elements, and the field in which this type has them.
fn typed(info: &TensorInfo, contents: Contents) -> Result<(Data, &'static str), String> {
    fn narrow<T, U: TryFrom<T>>(info: &TensorInfo, items: Vec<T>) -> Result<Vec<U>, String>
    where
        T: Copy + std::fmt::Display,
    {
        let narrow = |item: T| {
            U::try_from(item)
                .map_err(|_| format!("input {:?}: {item} is out of the range of {}", info.name, info.datatype))
        };
        items.into_iter().map(narrow).collect()
    }
    let Contents {
        bool_contents,
        int_contents,
        int64_contents,
        uint_contents,
        uint64_contents,
        fp32_contents,
        fp64_contents,
        bytes_contents,
    } = contents;
    Ok(match info.datatype {
        DataType::Bool => (Data::Bool(bool_contents), "bool_contents"),
        DataType::I8 => (Data::I8(narrow(info, int_contents)?), "int_contents"),
        DataType::I16 => (Data::I16(narrow(info, int_contents)?), "int_contents"),
        DataType::I32 => (Data::I32(int_contents), "int_contents"),
        DataType::I64 => (Data::I64(int64_contents), "int64_contents"),
        DataType::U8 => (Data::U8(narrow(info, uint_contents)?), "uint_contents"),
        DataType::U16 => (Data::U16(narrow(info, uint_contents)?), "uint_contents"),
        DataType::U32 => (Data::U32(uint_contents), "uint_contents"),
        DataType::U64 => (Data::U64(uint64_contents), "uint64_contents"),
        DataType::F32 => (Data::F32(fp32_contents), "fp32_contents"),
        DataType::F64 => (Data::F64(fp64_contents), "fp64_contents"),
        // Copied, so that the message does not outlive its use for the sake of a few bytes.
        DataType::Bytes => {
            let items = bytes_contents.iter().map(|item| Bytes::copy_from_slice(item)).collect();
            (Data::Bytes(items), "bytes_contents")
        }
        DataType::F16 | DataType::BF16 => {
            return Err(format!(
                "input {:?}: {} has no typed contents; send raw_input_contents",
                info.name, info.datatype
            ));
        }
    })
}

fn outputs(asked: &[RequestedOutput], raw: bool, signature: &Signature) -> Result<Vec<Requested>, ApiError> {
    let requested = |index, classes| Requested {
        index,
        binary: true,
        classes,
    };
    let outputs: Vec<Requested> = if asked.is_empty() {
        (0..signature.outputs.len()).map(|index| requested(index, 0)).collect()
    } else {
        let read = |output: &RequestedOutput| {
            let classes = whole_number("classification", output.parameters.get("classification"))?;
            Ok(requested(v2::output_index(&output.name, signature)?, classes as usize))
        };
        asked.iter().map(read).collect::<Result<_, ApiError>>()?
    };
    v2::check_requested(&outputs, signature)?;
    let half = |output: &&Requested| {
        output.classes == 0 && matches!(signature.outputs[output.index].datatype, DataType::F16 | DataType::BF16)
    };
    match outputs.iter().find(half) {
        Some(output) if !raw => Err(ApiError::invalid(format!(
            "output {:?}: {} has no typed contents; send raw_input_contents, which are answered with raw_output_contents",
            signature.outputs[output.index].name, signature.outputs[output.index].datatype
        ))),
        _ => Ok(outputs),
    }
}

/// The parameter of this name, 0 where it is not there.
fn whole_number(name: &str, parameter: Option<&InferParameter>) -> Result<u64, ApiError> {
    let number = match parameter.and_then(|parameter| parameter.choice.as_ref()) {
        None => Some(0),
        Some(Parameter::Int64(n)) => u64::try_from(*n).ok(),
        Some(Parameter::Uint64(n)) => Some(*n),
        Some(_) => None,
    };
    let what = if name == "timeout" { " of microseconds" } else { "" };
    number.ok_or_else(|| ApiError::invalid(format!("the parameter {name} is a whole number{what}")))
}

/// The answer's message.
pub(crate) fn answer(call: &Call, served: &Served, outputs: Vec<Tensor>) -> ModelInferResponse {
    let signature = served.signature();
    let mut outputs: Vec<Option<Tensor>> = outputs.into_iter().map(Some).collect();
    let mut response = ModelInferResponse {
        model_name: call.model.clone(),
        model_version: served.version().to_owned(),
        id: call.id.clone(),
        ..ModelInferResponse::default()
    };
    for output in &call.outputs {
        // Each is asked for once, and there are as many as the signature has.
        let Some(tensor) = outputs.get_mut(output.index).and_then(Option::take) else {
            continue;
        };
        let info = &signature.outputs[output.index];
        // Numbers only, as was checked with the request; what the model gave against its signature goes as it is.
        let tensor = match output.classes {
            0 => tensor,
            classes => v2::classify(&tensor, info, classes).unwrap_or(tensor),
        };
        let mut message = InferTensor {
            name: info.name.clone(),
            datatype: tensor.datatype().as_str().to_owned(),
            shape: tensor.shape().iter().map(|&size| size as i64).collect(),
            contents: None,
        };
        if call.raw {
            let mut bytes = Vec::new();
            raw::encode(tensor.data(), &mut bytes);
            response.raw_output_contents.push(bytes.into());
        } else {
            message.contents = Some(contents(tensor.into_parts().1));
        }
        response.outputs.push(message);
    }
    response
}

fn contents(data: Data) -> Contents {
    fn widen<T, U: From<T>>(items: Vec<T>) -> Vec<U> {
        items.into_iter().map(U::from).collect()
    }
    let mut contents = Contents::default();
    match data {
        Data::Bool(items) => contents.bool_contents = items,
        Data::I8(items) => contents.int_contents = widen(items),
        Data::I16(items) => contents.int_contents = widen(items),
        Data::I32(items) => contents.int_contents = items,
        Data::I64(items) => contents.int64_contents = items,
        Data::U8(items) => contents.uint_contents = widen(items),
        Data::U16(items) => contents.uint_contents = widen(items),
        Data::U32(items) => contents.uint_contents = items,
        Data::U64(items) => contents.uint64_contents = items,
        Data::F32(items) => contents.fp32_contents = items,
        Data::F64(items) => contents.fp64_contents = items,
        Data::Bytes(items) => contents.bytes_contents = items,
        // Refused with the request.
        Data::F16(_) | Data::BF16(_) => {}
    }
    contents
}
