//! Recognising a classifier by its outputs: one that gives a label a row and scores a row.
//!
//! The signature must say so: two outputs, labels (INT64 or BYTES, one a row) and floating-point scores (a list a row) that
//! either carry class names (ONNX's ZipMap) or are called so, in the way of skl2onnx: `label` beside `probabilities`. Two outputs
//! of such types alone do not make a classifier; a detector's classes and boxes look the same.

use pilotlight_engine::{DataType, Signature, Tensor, TensorInfo};

/// What a classifier gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Classified<'a> {
    pub(crate) labels: &'a Tensor,
    pub(crate) scores: &'a Tensor,
    /// Describes `scores`.
    pub(crate) info: &'a TensorInfo,
}

/// Which outputs are the labels and the scores, by index.
pub(crate) fn roles(signature: &Signature) -> Option<(usize, usize)> {
    let [a, b] = &signature.outputs[..] else { return None };
    if is_pair(a, b) {
        Some((0, 1))
    } else if is_pair(b, a) {
        Some((1, 0))
    } else {
        None
    }
}

/// The roles filled with what came out, where that has one label and one list of scores a row.
pub(crate) fn classifier<'a>(signature: &'a Signature, outputs: &'a [Tensor]) -> Option<Classified<'a>> {
    let (labels, scores) = roles(signature)?;
    let found = Classified {
        labels: outputs.get(labels)?,
        scores: outputs.get(scores)?,
        info: &signature.outputs[scores],
    };
    let rows = *found.labels.shape().first()?;
    let one_each = found.labels.data().len() == rows;
    (one_each && found.scores.shape().len() == 2 && found.scores.shape()[0] == rows).then_some(found)
}

fn is_pair(label: &TensorInfo, scores: &TensorInfo) -> bool {
    let types = matches!(label.datatype, DataType::I64 | DataType::Bytes)
        && matches!(
            scores.datatype,
            DataType::F16 | DataType::BF16 | DataType::F32 | DataType::F64
        );
    let called = label.name.to_ascii_lowercase().contains("label")
        && ["prob", "score"]
            .iter()
            .any(|word| scores.name.to_ascii_lowercase().contains(word));
    types && (scores.labels.is_some() || called)
}
