//! Values on their way to a device and back, where the device holds them in fewer bits than the model declares.

use std::sync::Arc;

use burn_backend::tensor::{Device, FloatTensor};
use burn_backend::{Backend, DType, FloatDType, Shape, TensorData, TensorMetadata};
use half::{bf16, f16};
use rayon::prelude::*;

use super::{Place, Unchanged, Width};
use crate::device::DeviceOp;
use crate::fault::OpResult;
use crate::value::Value;
use crate::{Data, DataType};

impl<B: Backend> Clone for Place<B> {
    fn clone(&self) -> Self {
        Self {
            device: self.device.clone(),
            primitives: Arc::clone(&self.primitives),
            width: self.width,
        }
    }
}

impl<B: Backend> Place<B> {
    /// The device with Burn's own choices, at full width.
    pub fn plain(device: Device<B>) -> Self {
        Self {
            device,
            primitives: Arc::new(Unchanged),
            width: Width::Full,
        }
    }

    /// A float tensor of the host on the device.
    pub(crate) fn put(&self, value: Value<B>) -> OpResult<Value<B>> {
        if let (Value::Host(t), Some(_)) = (&value, self.narrow())
            && let Data::F32(v) = t.data()
        {
            let data = narrowed(v, t.shape(), self.width);
            return Ok(Value::Narrow(B::float_from_data(data, &self.device)));
        }
        Ok(Value::Float(value.into_float(&self.device)?))
    }

    /// Operands as an instruction takes them where FP32 is held in fewer bits: on the device, but for those that it reads on the
    /// host.
    pub(crate) fn put_operands(&self, op: &DeviceOp, operands: &mut [Option<Value<B>>]) -> OpResult<()> {
        if self.narrow().is_none() {
            return Ok(());
        }
        let ranks: Vec<usize> = operands.iter().flatten().map(|v| v.shape().len()).collect();
        for (i, operand) in operands.iter_mut().enumerate() {
            let Some(Value::Host(t)) = operand else { continue };
            let read_on_host = match op {
                DeviceOp::Clip { .. } => i > 0,
                // A single number goes into the instruction itself, where it stands second and is not the wider one.
                DeviceOp::Arith(_) => ranks.len() == 2 && i == 1 && t.data().len() == 1 && ranks[1] <= ranks[0],
                _ => false,
            };
            if t.datatype() == DataType::F32 && !read_on_host {
                let value = Value::Host(Arc::clone(t));
                *operand = Some(self.put(value)?);
            }
        }
        Ok(())
    }

    /// An instruction's result: what came out wider is narrowed again.
    pub(crate) fn settle(&self, value: Value<B>) -> Value<B> {
        let (Value::Float(t), Some(narrow)) = (&value, self.narrow()) else {
            return value;
        };
        match t.dtype() {
            DType::F64 => value,
            DType::F16 | DType::BF16 => Value::Narrow(t.clone()),
            _ => Value::Narrow(B::float_cast(t.clone(), narrow)),
        }
    }

    /// A convolution's weights on the device.
    pub(crate) fn lay_out(&self, value: Value<B>) -> Value<B> {
        let lay_out = |t: FloatTensor<B>| self.primitives.lay_out(t);
        match value {
            Value::Float(t) => Value::Float(lay_out(t)),
            Value::Narrow(t) => Value::Narrow(lay_out(t)),
            other => other,
        }
    }

    fn narrow(&self) -> Option<FloatDType> {
        match self.width {
            Width::Full => None,
            Width::F16 => Some(FloatDType::F16),
            Width::Bf16 => Some(FloatDType::BF16),
        }
    }
}

/// Rounded to the nearest; past the largest finite number infinite.
fn narrowed(v: &[f32], shape: &[usize], width: Width) -> TensorData {
    let shape = Shape::from(shape.to_vec());
    if width == Width::Bf16 {
        let v: Vec<bf16> = v.par_iter().with_min_len(1 << 14).map(|&x| bf16::from_f32(x)).collect();
        return TensorData::new(v, shape);
    }
    let v: Vec<f16> = v.par_iter().with_min_len(1 << 14).map(|&x| f16::from_f32(x)).collect();
    TensorData::new(v, shape)
}
