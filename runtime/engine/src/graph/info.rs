//! Names, types and shapes of what goes in and out of a graph.

use crate::onnx::{TypeProto, ValueInfoProto};
use crate::{DataType, Dim, LoadError, Small, TensorInfo, decode};

/// An input or output as the signature shows it.
pub(super) struct Info {
    pub(super) tensor: TensorInfo,
    /// What it is, where no protocol has a name for that.
    pub(super) unservable: Option<String>,
}

/// An input of a model; it must say its type.
pub(super) fn input(v: &ValueInfoProto) -> Result<Info, LoadError> {
    match &v.r#type {
        Some(_) => info(v),
        None => Err(LoadError::Invalid(format!(
            "input {:?} has no type",
            v.name.as_deref().unwrap_or_default()
        ))),
    }
}

/// Name, type and shape; a sequence of maps (what `ZipMap` makes) becomes its scores.
pub(super) fn info(v: &ValueInfoProto) -> Result<Info, LoadError> {
    let name = v.name.clone().unwrap_or_default();
    let ty = v.r#type.as_ref();
    let (inner, special) = ty.map_or((None, None), inner);
    let tensor = inner.and_then(|t| t.tensor_type.as_ref());
    let element = tensor.and_then(|t| t.elem_type);
    let small = element.and_then(Small::from_onnx);
    let datatype = match element {
        // Their bits go in and out in bytes.
        Some(_) if small.is_some() => DataType::U8,
        Some(t) => decode::data_type(t).map_err(|e| LoadError::Invalid(format!("{name:?}: {e}")))?,
        None if ty.is_some_and(is_map_sequence) => DataType::F32,
        // Some writers leave the type of outputs to inference; the first run corrects it.
        None if ty.is_none_or(is_empty) || special.is_some() => DataType::F32,
        None => return Err(LoadError::Invalid(format!("{name:?} is no tensor"))),
    };
    let shape = tensor.filter(|_| special.is_none()).and_then(|t| t.shape.as_ref());
    let shape = shape.map(|s| {
        s.dim
            .iter()
            .map(|d| match (d.dim_value.map(usize::try_from), d.dim_param.as_deref()) {
                (Some(Ok(v)), _) => Dim::Fixed(v),
                (_, Some(p)) if !p.is_empty() => Dim::Symbol(p.to_owned()),
                _ => Dim::Unknown,
            })
            .collect()
    });
    let unservable = special
        .map(str::to_owned)
        .or_else(|| small.map(|small| format!("of type {small}")))
        .map(|what| format!("{name:?} is {what}"));
    Ok(Info {
        tensor: TensorInfo {
            name,
            datatype,
            shape,
            labels: None,
        },
        unservable,
    })
}

fn is_empty(t: &TypeProto) -> bool {
    *t == TypeProto::default()
}

/// The tensor's type inside sequences and optionals.
fn inner(t: &TypeProto) -> (Option<&TypeProto>, Option<&'static str>) {
    if is_map_sequence(t) {
        return (None, None);
    }
    if let Some(optional) = &t.optional_type {
        let element = optional.elem_type.as_deref();
        let element = element.map(|e| e.sequence_type.as_ref().map_or(Some(e), |s| s.elem_type.as_deref()));
        return (element.flatten(), Some("an optional"));
    }
    match &t.sequence_type {
        Some(sequence) => (sequence.elem_type.as_deref(), Some("a sequence")),
        None => (Some(t), None),
    }
}

fn is_map_sequence(t: &TypeProto) -> bool {
    let element = t.sequence_type.as_ref().and_then(|s| s.elem_type.as_ref());
    t.map_type.is_some() || element.is_some_and(|e| e.map_type.is_some())
}
