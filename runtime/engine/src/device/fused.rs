//! Instructions that the planner puts in the place of several nodes. Every backend can execute them by its primitives; one
//! with kernels of its own does each in one pass (`backend::Accelerate`).

use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, Shape, TensorMetadata};

use super::{DeviceOp, Unary, align, arith_or_scalar, clip, gemm, matmul, scalar, softmax, unary};
use crate::backend::Place;
use crate::device::Arith;
use crate::fault::{Fault, OpResult, ensure};
use crate::value::Value;

/// One of them.
#[derive(Clone, Debug)]
pub(crate) enum Fused {
    /// x, w, b?, residual?
    Dense(Dense),
    /// query, key, value, mask?
    Attention(Attention),
}

/// What a dense layer does to its sums.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum After {
    #[default]
    Nothing,
    Clamp(f32, f32),
    Function(Unary),
}

/// `after(x · w + b + residual)` with constant weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dense {
    /// It was a `Gemm`, whose operands have two dimensions, not a `MatMul`.
    pub(crate) gemm: bool,
    /// The weights lie as `[columns, depth]`.
    pub(crate) transposed: bool,
    pub(crate) after: After,
}

/// `softmax(scale · query · keyᵗ + mask) · value`. The operands have four dimensions in some order; an order says for batch,
/// heads, positions and size where it lies in the operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Attention {
    pub(crate) scale: f32,
    pub(crate) query: [usize; 4],
    pub(crate) key: [usize; 4],
    pub(crate) value: [usize; 4],
    /// The result is `[batch, heads, positions, size]`, else `[batch, positions, heads, size]`.
    pub(crate) heads_first: bool,
}

impl Fused {
    /// Executes it by the backend's primitives.
    pub(super) fn run<B: Backend>(
        &self,
        operands: Vec<Option<Value<B>>>,
        place: &Place<B>,
    ) -> OpResult<FloatTensor<B>> {
        let mut operands = operands.into_iter();
        let mut next = || {
            operands
                .next()
                .flatten()
                .map(|v| v.into_float(&place.device))
                .transpose()
        };
        let missing = || Fault("a required input is missing".into());
        match self {
            Self::Dense(dense) => {
                let (x, w) = (next()?.ok_or_else(missing)?, next()?.ok_or_else(missing)?);
                dense.run::<B>(x, w, next()?, next()?, place)
            }
            Self::Attention(attention) => {
                let [q, k, v] = [next()?, next()?, next()?].map(|t| t.ok_or_else(missing));
                attention.run::<B>(q?, k?, v?, next()?, place)
            }
        }
    }
}

impl DeviceOp {
    /// What the planner drew into it, in words. `given` says which operands there are.
    pub(crate) fn drawn_in(&self, given: &[bool]) -> String {
        let given = |i: usize, name: &str| given.get(i).is_some_and(|&g| g).then(|| name.to_owned());
        let parts = match self {
            Self::Conv(conv) => [
                given(2, "bias"),
                given(3, "residual"),
                conv.clamp.map(|(l, h)| format!("{l}..{h}")),
            ],
            Self::Fused(Fused::Dense(dense)) => {
                let after = match dense.after {
                    After::Nothing => None,
                    After::Clamp(low, high) => Some(format!("{low}..{high}")),
                    After::Function(f) => Some(format!("{f:?}")),
                };
                [given(2, "bias"), given(3, "residual"), after]
            }
            Self::Fused(Fused::Attention(_)) => [given(3, "mask"), None, None],
            _ => [None, None, None],
        };
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

impl Dense {
    fn run<B: Backend>(
        &self,
        x: FloatTensor<B>,
        w: FloatTensor<B>,
        bias: Option<FloatTensor<B>>,
        residual: Option<FloatTensor<B>>,
        place: &Place<B>,
    ) -> OpResult<FloatTensor<B>> {
        let mut out = if self.gemm {
            gemm::<B>(x, w, None, (1.0, 1.0), (false, self.transposed), place)?
        } else {
            let w = if self.transposed {
                B::float_swap_dims(w, 0, 1)
            } else {
                w
            };
            matmul::<B>(x, w, place)?
        };
        for term in [bias, residual].into_iter().flatten() {
            let (a, b) = align::<B>(out, term)?;
            out = B::float_add(a, b);
        }
        Ok(self.after.run::<B>(out))
    }
}

impl After {
    /// Applies it by the backend's primitives.
    pub(crate) fn run<B: Backend>(self, x: FloatTensor<B>) -> FloatTensor<B> {
        match self {
            Self::Nothing => x,
            Self::Clamp(0.0, f32::INFINITY) => B::relu(x),
            Self::Clamp(low, high) => clip::<B>(x, Some(f64::from(low)), Some(f64::from(high))),
            Self::Function(f) => unary::<B>(f, x),
        }
    }
}

impl Attention {
    /// Batch, heads, queries, keys, size of a query and of a value, once all operands are known to fit.
    pub(crate) fn sizes(&self, query: &[usize], key: &[usize], value: &[usize]) -> OpResult<[usize; 6]> {
        let all = |dims: &[usize], order: [usize; 4]| -> OpResult<[usize; 4]> {
            ensure!(
                dims.len() == 4,
                "an operand of shape {dims:?} instead of four dimensions"
            );
            Ok(order.map(|d| dims[d]))
        };
        let [batch, heads, queries, depth] = all(query, self.query)?;
        let [b, h, keys, d] = all(key, self.key)?;
        let [c, i, n, values] = all(value, self.value)?;
        ensure!(
            (b, h, d) == (batch, heads, depth) && (c, i, n) == (batch, heads, keys),
            "query of shape {query:?}, key of shape {key:?} and value of shape {value:?} do not fit"
        );
        Ok([batch, heads, queries, keys, depth, values])
    }

    fn run<B: Backend>(
        &self,
        query: FloatTensor<B>,
        key: FloatTensor<B>,
        value: FloatTensor<B>,
        mask: Option<FloatTensor<B>>,
        place: &Place<B>,
    ) -> OpResult<FloatTensor<B>> {
        let ordered = |t: FloatTensor<B>, [b, h, s, d]: [usize; 4]| -> OpResult<FloatTensor<B>> {
            let rank = t.shape().num_dims();
            ensure!(rank == 4, "an operand of rank {rank} instead of 4");
            Ok(B::float_permute(t, &[b, h, s, d]))
        };
        let (q, k, v) = (
            ordered(query, self.query)?,
            ordered(key, self.key)?,
            ordered(value, self.value)?,
        );
        let scores = matmul::<B>(q, B::float_swap_dims(k, 2, 3), place)?;
        let mut scores = Value::<B>::Float(B::float_mul_scalar(scores, scalar(self.scale)));
        if let Some(mask) = mask {
            scores = arith_or_scalar(Arith::Add, scores, Value::Float(mask), &place.device)?;
        }
        let shares = softmax::<B>(scores.into_float(&place.device)?, -1, false, false)?;
        let out = matmul::<B>(shares, v, place)?;
        if self.heads_first {
            return Ok(out);
        }
        let [b, h, s, d] = <[usize; 4]>::try_from(out.shape().to_vec())
            .map_err(|dims| Fault(format!("a result of shape {dims:?}")))?;
        let turned = B::float_permute(out, &[0, 2, 1, 3]);
        Ok(B::float_reshape(turned, Shape::from(vec![b, s, h, d])))
    }
}

impl From<Fused> for DeviceOp {
    fn from(fused: Fused) -> Self {
        Self::Fused(fused)
    }
}
