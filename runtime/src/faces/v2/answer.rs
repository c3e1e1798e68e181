//! Writing an answer: JSON, and the binary tensors behind it.

use pilotlight_engine::{Signature, Tensor};
use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::super::json::{Nested, check_text};
use super::super::raw;
use super::{Requested, VERSION};
use crate::error::{ApiError, Code};

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
