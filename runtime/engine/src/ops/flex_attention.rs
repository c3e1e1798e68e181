//! Attention whose scores and probabilities go through graphs of the model (`FlexAttention`, a preview of ONNX).

use std::sync::Arc;

use crate::fault::{OpResult, ensure};
use crate::kernel::tensor;
use crate::ops::cast::{cast, doubles};
use crate::{Data, DataType, Tensor, shape};

/// Query, key and value of `[batch, heads, length, size]`. `modify` is called with the scores (0) and the
/// probabilities (1), in the softmax's type.
pub(crate) fn run(
    operands: &[Arc<Tensor>],
    scale: Option<f32>,
    precision: Option<DataType>,
    modify: impl Fn(usize, Tensor) -> OpResult<Arc<Tensor>>,
) -> OpResult<Tensor> {
    let [q, k, v] = operands else {
        crate::fault::bail!("{} operands instead of 3", operands.len())
    };
    let (&[b, heads, lq, size], &[kb, kh, lk, kd], &[vb, vh, vl, vd]) = (q.shape(), k.shape(), v.shape()) else {
        crate::fault::bail!("operands of another rank than 4")
    };
    ensure!(
        b == kb && b == vb && kh == vh && lk == vl && size == kd && kh > 0 && heads.is_multiple_of(kh),
        "query {:?}, key {:?} and value {:?} do not fit",
        q.shape(),
        k.shape(),
        v.shape()
    );
    let compute = precision.unwrap_or(match q.datatype() {
        DataType::F64 => DataType::F64,
        _ => DataType::F32,
    });
    let root = scale.map_or(1.0 / (size as f64).sqrt(), f64::from).sqrt();
    let scaled = |t: &Tensor| -> OpResult<Vec<f64>> {
        let v = doubles(t)?.into_iter().map(|x| x * root).collect();
        // Both operands are scaled in the query's own type.
        doubles(&cast(&tensor(t.shape().to_vec(), Data::F64(v))?, t.datatype(), true)?)
    };
    let (qs, ks, vs) = (scaled(q)?, scaled(k)?, doubles(v)?);
    let mut scores = vec![0.0; shape::elements(&[b, heads, lq, lk])?];
    let source = |h: usize| (h / heads * kh) + h % heads / (heads / kh);
    for h in 0..b * heads {
        for i in 0..lq {
            let query = &qs[(h * lq + i) * size..][..size];
            for j in 0..lk {
                let key = &ks[(source(h) * lk + j) * size..][..size];
                scores[(h * lq + i) * lk + j] = query.iter().zip(key).map(|(a, b)| a * b).sum();
            }
        }
    }
    let dims = vec![b, heads, lq, lk];
    let typed = |v: Vec<f64>| cast(&tensor(dims.clone(), Data::F64(v))?, compute, true);
    let fits = |t: Arc<Tensor>| -> OpResult<Vec<f64>> {
        ensure!(t.shape() == dims, "a graph made {:?} of {dims:?}", t.shape());
        doubles(&t)
    };
    let mut scores = fits(modify(0, typed(scores)?)?)?;
    for row in scores.chunks_mut(lk.max(1)) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for x in row.iter_mut() {
            *x = (*x - max).exp();
        }
        let sum: f64 = row.iter().sum();
        for x in row {
            *x /= sum;
        }
    }
    let probabilities = fits(modify(1, typed(scores)?)?)?;
    let mut out = vec![0.0; shape::elements(&[b, heads, lq, vd])?];
    for h in 0..b * heads {
        for i in 0..lq {
            let target = &mut out[(h * lq + i) * vd..][..vd];
            for j in 0..lk {
                let p = probabilities[(h * lq + i) * lk + j];
                let value = &vs[(source(h) * lk + j) * vd..][..vd];
                target.iter_mut().zip(value).for_each(|(o, x)| *o += p * x);
            }
        }
    }
    cast(&tensor(vec![b, heads, lq, vd], Data::F64(out))?, v.datatype(), true)
}
