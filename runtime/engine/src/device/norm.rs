//! Normalisations and reductions through a backend's primitives.

use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, TensorMetadata};

use super::{Reduce, reshape, scalar};
use crate::fault::{OpResult, bail, ensure};
use crate::shape;

pub(super) fn batch_norm<B: Backend>(
    x: FloatTensor<B>,
    [scale, bias, mean, variance]: [FloatTensor<B>; 4],
    epsilon: f64,
) -> OpResult<FloatTensor<B>> {
    let dims = x.shape().to_vec();
    ensure!(dims.len() >= 2, "input of rank {} instead of at least 2", dims.len());
    for p in [&scale, &bias, &mean, &variance] {
        ensure!(
            p.shape().to_vec() == [dims[1]],
            "parameters of shape {:?} for {} channels",
            p.shape(),
            dims[1]
        );
    }
    let mut channel = vec![1; dims.len()];
    channel[1] = dims[1];
    let inverse = B::float_recip(B::float_sqrt(B::float_add_scalar(variance, scalar(epsilon))));
    let factor = B::float_mul(scale, inverse);
    let offset = B::float_sub(bias, B::float_mul(mean, factor.clone()));
    let scaled = B::float_mul(x, reshape::<B>(factor, channel.clone()));
    Ok(B::float_add(scaled, reshape::<B>(offset, channel)))
}

pub(super) fn layer_norm<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    axis: i64,
    epsilon: f64,
) -> OpResult<FloatTensor<B>> {
    let dims = x.shape().to_vec();
    let axis = shape::axis(axis, dims.len())?;
    let (outer, inner): (usize, usize) = (dims[..axis].iter().product(), dims[axis..].iter().product());
    let x = reshape::<B>(x, vec![outer, inner]);
    let mean = B::float_mean_dim(x.clone(), 1);
    let centred = B::float_sub(x, mean);
    let variance = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), 1);
    let inverse = B::float_recip(B::float_sqrt(B::float_add_scalar(variance, scalar(epsilon))));
    let mut out = B::float_mul(B::float_mul(centred, inverse), reshape::<B>(scale, vec![1, inner]));
    if let Some(bias) = bias {
        out = B::float_add(out, reshape::<B>(bias, vec![1, inner]));
    }
    Ok(reshape::<B>(out, dims))
}

pub(super) fn softmax<B: Backend>(x: FloatTensor<B>, axis: i64, log: bool, flat: bool) -> OpResult<FloatTensor<B>> {
    let dims = x.shape().to_vec();
    if dims.is_empty() {
        bail!("softmax of a scalar");
    }
    let f = |x, axis| {
        if log {
            B::log_softmax(x, axis)
        } else {
            B::softmax(x, axis)
        }
    };
    let axis = if flat && axis == dims.len() as i64 {
        dims.len()
    } else {
        shape::axis(axis, dims.len())?
    };
    if flat {
        let (outer, inner) = (dims[..axis].iter().product(), dims[axis..].iter().product());
        return Ok(reshape::<B>(f(reshape::<B>(x, vec![outer, inner]), 1), dims));
    }
    Ok(f(x, axis))
}

pub(super) fn reduce<B: Backend>(
    x: FloatTensor<B>,
    kind: Reduce,
    axes: Option<Vec<i64>>,
    keep: bool,
    noop: bool,
) -> OpResult<FloatTensor<B>> {
    let mut dims = x.shape().to_vec();
    let axes = match axes.filter(|a| !a.is_empty()) {
        Some(axes) => shape::axes(&axes, dims.len())?,
        None if noop => Vec::new(),
        None => (0..dims.len()).collect(),
    };
    let x = match kind {
        Reduce::SumSquare | Reduce::L2 => B::float_mul(x.clone(), x),
        Reduce::L1 => B::float_abs(x),
        _ => x,
    };
    let mut out = axes.iter().fold(x, |x, &a| match kind {
        Reduce::Mean => B::float_mean_dim(x, a),
        Reduce::Max => B::float_max_dim(x, a),
        Reduce::Min => B::float_min_dim(x, a),
        _ => B::float_sum_dim(x, a),
    });
    if kind == Reduce::L2 {
        out = B::float_sqrt(out);
    }
    if keep {
        return Ok(out);
    }
    for &a in axes.iter().rev() {
        dims.remove(a);
    }
    Ok(reshape::<B>(out, dims))
}
