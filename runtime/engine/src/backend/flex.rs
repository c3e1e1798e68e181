//! The CPU, through `burn-flex`. The one place in this crate that monomorphises the executor.

use burn_backend::{DType, Shape, TensorData, TensorMetadata};
use burn_flex::{Flex, FlexDevice, FlexTensor};
use pilotlight_kernels::{Conv as Kernel, Geometry};

use super::Accelerate;
use crate::device::{Conv, check_bias};
use crate::exec::Executor;
use crate::fault::{OpResult, ensure};
use crate::plan::Plan;
use crate::window::Axis;
use crate::{Data, Model, Tensor, shape};

/// The plan on the CPU.
pub(crate) fn compile(plan: Plan) -> OpResult<Box<dyn Model>> {
    Ok(Box::new(Executor::<Flex>::new(plan, FlexDevice)?))
}

/// A convolution of one or two spatial dimensions.
pub(crate) struct Convolution {
    kernel: Kernel,
    /// The weights' shape as the model has it.
    shape: Vec<usize>,
}

impl Accelerate for Flex {
    type Convolution = Convolution;

    fn pack(weights: &Tensor, attrs: &Conv) -> Option<Convolution> {
        let Data::F32(values) = weights.data() else { return None };
        // One spatial dimension is a single row.
        let dims = match *weights.shape() {
            [filters, depth, columns] => [filters, depth, 1, columns],
            [filters, depth, rows, columns] => [filters, depth, rows, columns],
            _ => return None,
        };
        Some(Convolution {
            kernel: Kernel::new(values, dims, attrs.group)?,
            shape: weights.shape().to_vec(),
        })
    }

    fn conv2d_fused(
        weights: &Convolution,
        attrs: &Conv,
        x: FlexTensor,
        bias: Option<FlexTensor>,
        residual: Option<FlexTensor>,
    ) -> OpResult<FlexTensor> {
        let xs = x.shape().to_vec();
        let axes = attrs.resolve(&xs, &weights.shape)?;
        check_bias::<Flex>(bias.as_ref(), weights.shape[0])?;
        let same = x.dtype() == DType::F32 && bias.as_ref().is_none_or(|b| b.dtype() == DType::F32);
        ensure!(
            same && !xs[1..].contains(&0),
            "input of shape {xs:?} and type {:?} with weights of type FP32",
            x.dtype()
        );
        let mut padded = vec![xs[1]];
        padded.extend(axes.iter().map(|a| a.begin + a.input + a.end));
        shape::elements(&padded)?;
        let mut dims = vec![xs[0], weights.shape[0]];
        dims.extend(axes.iter().map(|a| a.output));

        let x = x.to_contiguous();
        let bias = bias.map(|b| b.to_contiguous());
        let bias = bias.as_ref().map(FlexTensor::storage::<f32>);
        let fits = |r: &FlexTensor| r.dtype() == DType::F32 && r.shape().to_vec() == dims;
        let geometry = geometry(&axes);
        match residual {
            // The sum takes the residual's place in memory; one that is read elsewhere is copied by `storage_mut`.
            Some(residual) if fits(&residual) => {
                let mut out = residual.to_contiguous();
                drop(residual);
                let sums = out.storage_mut::<f32>();
                weights.kernel.run(x.storage(), bias, geometry, attrs.clamp, true, sums);
                Ok(out)
            }
            residual => {
                // A residual of another shape is stretched, or stretches the result.
                let clamp = attrs.clamp.filter(|_| residual.is_none());
                let mut out = vec![0.0f32; dims.iter().product()];
                weights.kernel.run(x.storage(), bias, geometry, clamp, false, &mut out);
                let out = FlexTensor::from_data(TensorData::new(out, Shape::from(dims)));
                match residual {
                    None => Ok(out),
                    residual => attrs.finish::<Flex>(out, residual),
                }
            }
        }
    }
}

/// The window for the kernel, which has two dimensions always.
fn geometry(axes: &[Axis]) -> Geometry {
    let row = Axis {
        input: 1,
        output: 1,
        kernel: 1,
        stride: 1,
        dilation: 1,
        begin: 0,
        end: 0,
    };
    let pair = match *axes {
        [rows, columns] => [rows, columns],
        [columns] => [row, columns],
        _ => [row, row],
    };
    Geometry {
        input: pair.map(|a| a.input),
        output: pair.map(|a| a.output),
        stride: pair.map(|a| a.stride),
        dilation: pair.map(|a| a.dilation),
        begin: pair.map(|a| a.begin),
        end: pair.map(|a| a.end),
    }
}
