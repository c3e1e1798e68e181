//! The CPU, through `burn-flex` and, where that is not fast enough, through kernels of our own. The one place in this crate
//! that monomorphises the executor.
//!
//! Tensors that our kernels make stay on the host, as plain vectors; Burn's primitives take them over where a step has no
//! kernel here. Every file has the kernels of one kind, each tested against the primitives.

mod convolution;
mod elementwise;
mod moves;
mod norm;
mod operand;
mod pool;
mod product;
mod reduce;

use std::sync::Arc;

use burn_flex::{Flex, FlexDevice};

use super::{Accelerate, Place, Prepared};
use crate::device::{DeviceOp, Fused};
use crate::exec::Executor;
use crate::fault::OpResult;
use crate::plan::Plan;
use crate::value::Value;
use crate::{ItemModel, Model, Tensor};

/// The same for one whose steps are watched.
pub(crate) fn compile_watched(plan: Plan) -> OpResult<Box<dyn crate::explain::Watched>> {
    Ok(Box::new(Executor::<Kernels>::new(plan, Place::plain(FlexDevice))?))
}

/// A step's operands.
type Operands<'a> = &'a mut [Option<Value<Flex>>];

/// What a kernel made of them; `None` where it can't and left them as they were.
type Outcome = OpResult<Option<Value<Flex>>>;

/// The plan on the CPU.
pub(crate) fn compile(plan: Plan) -> OpResult<Box<dyn Model>> {
    Ok(Box::new(Executor::<Kernels>::new(plan, Place::plain(FlexDevice))?))
}

/// The same for a model with sequences or optionals in its signature.
pub(crate) fn compile_items(plan: Plan) -> OpResult<Box<dyn ItemModel>> {
    Ok(Box::new(Executor::<Kernels>::new(plan, Place::plain(FlexDevice))?))
}

/// Packed weights.
pub(crate) enum Weights {
    Convolution(convolution::Convolution),
    Dense(pilotlight_kernels::Matrix),
}

/// Flex with our kernels before it.
pub(crate) struct Kernels;

impl Accelerate for Kernels {
    type Backend = Flex;
    type Weights = Weights;
    const ON_HOST: bool = true;

    fn prepare(op: &DeviceOp, constants: &[Option<Arc<Tensor>>]) -> Option<Prepared<Weights>> {
        let weights = constants.get(1)?.as_deref()?;
        let (weights, bytes) = match op {
            DeviceOp::Conv(attrs) => {
                let packed = convolution::pack(weights, attrs)?;
                let bytes = 4 * weights.data().len();
                (Weights::Convolution(packed), bytes)
            }
            DeviceOp::Fused(Fused::Dense(dense)) => {
                let packed = product::pack(weights, dense.transposed)?;
                let bytes = packed.bytes();
                (Weights::Dense(packed), bytes)
            }
            _ => return None,
        };
        Some(Prepared {
            weights,
            consumed: vec![1],
            bytes,
        })
    }

    fn covers(op: &DeviceOp) -> bool {
        use DeviceOp as D;
        matches!(
            op,
            D::Unary(_)
                | D::Arith(_)
                | D::Clip { .. }
                | D::MatMul
                | D::Conv(_)
                | D::MaxPool { .. }
                | D::AveragePool { .. }
                | D::GlobalPool(_)
                | D::BatchNorm { .. }
                | D::LayerNorm { .. }
                | D::Softmax { .. }
                | D::Reduce { .. }
                | D::Concat { .. }
                | D::Gather { .. }
                | D::Fused(_)
        )
    }

    fn run(op: &DeviceOp, weights: Option<&Weights>, operands: Operands<'_>) -> Outcome {
        use DeviceOp as D;
        match (op, weights) {
            (D::Conv(attrs), Some(Weights::Convolution(w))) => convolution::run(w, attrs, operands),
            (D::Fused(Fused::Dense(dense)), Some(Weights::Dense(w))) => product::dense(w, dense, operands),
            (D::Fused(Fused::Attention(attention)), _) => product::attention(attention, operands),
            (D::MatMul, _) => product::matmul(operands),
            (D::Unary(f), _) => elementwise::unary(*f, operands),
            (D::Arith(f), _) => elementwise::arith(*f, operands),
            (D::Clip { min, max }, _) => elementwise::clip(*min, *max, operands),
            (D::BatchNorm { epsilon }, _) => norm::batch(*epsilon, operands),
            (D::LayerNorm { axis, epsilon }, _) => norm::layer(*axis, *epsilon, operands),
            (D::Softmax { axis, log, flat }, _) => norm::softmax(*axis, *log, *flat, operands),
            (D::MaxPool { window, kernel }, _) => pool::maxima(window, kernel, operands),
            (
                D::AveragePool {
                    window,
                    kernel,
                    count_pad,
                },
                _,
            ) => pool::averages(window, kernel, *count_pad, operands),
            (D::GlobalPool(kind), _) => reduce::global(*kind, operands),
            (D::Reduce { kind, axes, keep, noop }, _) => reduce::run(*kind, axes.as_deref(), *keep, *noop, operands),
            (D::Concat { axis }, _) => moves::concat(*axis, operands),
            (D::Gather { axis }, _) => moves::gather(*axis, operands),
            _ => Ok(None),
        }
    }
}
