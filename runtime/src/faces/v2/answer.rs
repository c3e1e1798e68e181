//! Writing an answer: JSON, and the binary tensors behind it.

use std::borrow::Cow;

use pilotlight_engine::{Signature, Tensor};
use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::super::json::{Nested, check_text};
use super::super::raw;
use super::{Requested, classify};
use crate::error::{ApiError, Code};

/// What an answer begins with.
pub(crate) struct Head<'a> {
    pub(crate) model: &'a str,
    pub(crate) version: &'a str,
    /// The request's.
    pub(crate) id: Option<&'a str>,
}

/// The answer's body and, where binary tensors follow its JSON, the length of that.
pub(crate) fn answer(
    head: &Head<'_>,
    signature: &Signature,
    requested: &[Requested],
    outputs: &[Tensor],
) -> Result<(Vec<u8>, Option<usize>), ApiError> {
    let outputs: Vec<Output<'_>> = requested
        .iter()
        .map(|requested| output(requested, signature, outputs))
        .collect::<Result<_, _>>()?;
    let answer = Answer {
        head,
        outputs: &outputs,
    };
    let mut body =
        serde_json::to_vec(&answer).map_err(|error| ApiError::new(Code::ExecutionFailed, error.to_string()))?;
    let mut binary = outputs.iter().filter(|output| output.binary).peekable();
    if binary.peek().is_none() {
        return Ok((body, None));
    }
    let json = body.len();
    binary.for_each(|output| raw::encode(output.tensor.data(), &mut body));
    Ok((body, Some(json)))
}

fn output<'a>(requested: &Requested, signature: &'a Signature, outputs: &'a [Tensor]) -> Result<Output<'a>, ApiError> {
    let (info, tensor) = (&signature.outputs[requested.index], &outputs[requested.index]);
    let name = &*info.name;
    let tensor = match requested.classes {
        0 => Cow::Borrowed(tensor),
        classes => Cow::Owned(
            classify(tensor, info, classes)
                .ok_or_else(|| ApiError::invalid(format!("output {name:?}: classification needs numbers")))?,
        ),
    };
    if !requested.binary {
        check_text(&tensor).map_err(|at| {
            ApiError::invalid(format!(
                "output {name:?}: element {at} is not UTF-8 and can't be given in JSON; ask for it in binary"
            ))
        })?;
    }
    Ok(Output {
        name,
        tensor,
        binary: requested.binary,
    })
}

struct Answer<'a> {
    head: &'a Head<'a>,
    outputs: &'a [Output<'a>],
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut answer = serializer.serialize_struct("Answer", 4)?;
        answer.serialize_field("model_name", self.head.model)?;
        answer.serialize_field("model_version", self.head.version)?;
        if let Some(id) = self.head.id {
            answer.serialize_field("id", id)?;
        }
        answer.serialize_field("outputs", self.outputs)?;
        answer.end()
    }
}

struct Output<'a> {
    name: &'a str,
    tensor: Cow<'a, Tensor>,
    binary: bool,
}

impl Serialize for Output<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Size(usize);
        impl Serialize for Size {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map([("binary_data_size", self.0)])
            }
        }
        let Self { name, tensor, binary } = self;
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
