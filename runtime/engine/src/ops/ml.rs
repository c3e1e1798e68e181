//! `ai.onnx.ml`: classical models, all on the host.

pub(crate) mod encode;
pub(crate) mod linear;
pub(crate) mod post;
pub(crate) mod scale;
pub(crate) mod svm;
pub(crate) mod tree;

use bytes::Bytes;

use crate::fault::{OpResult, bail, ensure};
use crate::kernel::{Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Labels, Tensor};

pub(crate) const TABLE: &[Entry] = &[entry("ZipMap", 1, zip_map)];

/// Resolved when the model is planned; its kernel passes the scores on.
fn zip_map(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    labels(spec)?;
    Ok(Kernel::view(|_, _| Ok(vec![Vec::new()])))
}

/// The class names of a classifier or a `ZipMap`.
pub(crate) fn labels(spec: &Spec<'_>) -> OpResult<Labels> {
    let ints = spec.ints("classlabels_int64s")?.or(spec.ints("classlabels_ints")?);
    let strings = spec
        .strings("classlabels_strings")?
        .or(spec.strings("classlabels_strings")?);
    match (ints.filter(|l| !l.is_empty()), strings.filter(|l| !l.is_empty())) {
        (Some(ints), None) => Ok(Labels::Ints(ints)),
        (None, Some(strings)) => Ok(Labels::Strings(strings)),
        (None, None) => bail!("it has no class labels"),
        _ => bail!("it has both integer and string class labels"),
    }
}

/// Number of labels.
pub(crate) fn count(labels: &Labels) -> usize {
    match labels {
        Labels::Ints(l) => l.len(),
        Labels::Strings(l) => l.len(),
    }
}

/// The labels of the classes picked for each row.
pub(crate) fn label_tensor(labels: &Labels, picked: &[usize]) -> OpResult<Tensor> {
    ensure!(picked.iter().all(|&k| k < count(labels)), "more classes than labels");
    let data = match labels {
        Labels::Ints(l) => Data::I64(picked.iter().map(|&k| l[k]).collect()),
        Labels::Strings(l) => {
            let names: Vec<Bytes> = l.iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect();
            Data::Bytes(picked.iter().map(|&k| names[k].clone()).collect())
        }
    };
    tensor(vec![picked.len()], data)
}

/// Any numeric input as rows of floats: `[N, C]`, or `[C]` for one row.
pub(crate) fn rows(x: &Tensor) -> OpResult<(std::borrow::Cow<'_, [f32]>, usize, usize)> {
    use std::borrow::Cow;
    let (n, c) = match *x.shape() {
        [c] => (1, c),
        [n, c] => (n, c),
        _ => bail!("input of shape {:?} instead of rows", x.shape()),
    };
    let v = match x.data() {
        Data::F32(v) => Cow::Borrowed(v.as_slice()),
        Data::F64(v) => Cow::Owned(v.iter().map(|&x| x as f32).collect()),
        Data::I64(v) => Cow::Owned(v.iter().map(|&x| x as f32).collect()),
        Data::I32(v) => Cow::Owned(v.iter().map(|&x| x as f32).collect()),
        other => bail!("element type {} is not supported here", other.datatype()),
    };
    Ok((v, n, c))
}

/// The index of the largest score; the first of equals.
pub(crate) fn argmax(scores: &[f32]) -> usize {
    (1..scores.len()).fold(0, |best, k| if scores[k] > scores[best] { k } else { best })
}
