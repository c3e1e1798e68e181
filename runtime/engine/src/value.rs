//! Tensors while a graph runs: on the host, or on the backend's device.

use std::sync::Arc;

use burn_backend::tensor::{BoolTensor, Device, FloatTensor, IntTensor};
use burn_backend::{Backend, BoolDType, DType, Element as _, Shape, Slice, TensorData, TensorMetadata, read_sync};
use half::{bf16, f16};

use crate::fault::{Fault, OpResult, bail};
use crate::item::{Held, List};
use crate::kernel::{Range, View, is_float, tensor};
use crate::{Data, DataType, Tensor, host, shape};

/// A tensor of any type on the host; floats and masks may be on the device. Integers stay on the host, where their
/// arithmetic is exact and shape computations cost no round trip.
#[derive(Clone, Debug)]
pub(crate) enum Value<B: Backend> {
    Host(Arc<Tensor>),
    Float(FloatTensor<B>),
    Bool(BoolTensor<B>),
    /// FP32 by the model's word, held in 16 bits on the device.
    Narrow(FloatTensor<B>),
    /// A sequence, always on the host.
    List(List),
    /// An optional without a value.
    Nothing,
}

impl<B: Backend> From<Held> for Value<B> {
    fn from(held: Held) -> Self {
        match held {
            Held::Tensor(t) => Self::Host(t),
            Held::List(list) => Self::List(list),
            Held::Nothing => Self::Nothing,
        }
    }
}

impl<B: Backend> Value<B> {
    pub(crate) fn shape(&self) -> Vec<usize> {
        match self {
            Self::Host(t) => t.shape().to_vec(),
            Self::Float(t) | Self::Narrow(t) => t.shape().to_vec(),
            Self::Bool(t) => t.shape().to_vec(),
            Self::List(_) | Self::Nothing => Vec::new(),
        }
    }

    pub(crate) fn datatype(&self) -> DataType {
        match self {
            Self::Host(t) => t.datatype(),
            Self::Float(t) => match t.dtype() {
                DType::F64 => DataType::F64,
                DType::F16 => DataType::F16,
                DType::BF16 => DataType::BF16,
                _ => DataType::F32,
            },
            Self::Narrow(_) => DataType::F32,
            Self::Bool(_) => DataType::Bool,
            // No operator that computes takes it, and none that computes takes these either.
            Self::List(_) | Self::Nothing => DataType::Bytes,
        }
    }

    pub(crate) fn on_device(&self) -> bool {
        matches!(self, Self::Float(_) | Self::Narrow(_) | Self::Bool(_))
    }

    /// Keeps the memory of a host tensor that nobody else holds for a later result.
    pub(crate) fn recycle(self) {
        if let Self::Host(t) = self
            && let Ok(t) = Arc::try_unwrap(t)
        {
            crate::buffers::recycle(t);
        }
    }

    /// The value as operators on sequences see it.
    pub(crate) fn into_held(self) -> OpResult<Held> {
        Ok(match self {
            Self::List(list) => Held::List(list),
            Self::Nothing => Held::Nothing,
            tensor => Held::Tensor(tensor.into_host()?),
        })
    }

    /// The tensor on the host; copies only where the device shares it.
    pub(crate) fn into_host(self) -> OpResult<Arc<Tensor>> {
        let (dims, data) = match self {
            Self::Host(t) => return Ok(t),
            Self::Float(t) => {
                let data =
                    read_sync(B::float_into_data(t)).map_err(|e| Fault(format!("reading from the device: {e:?}")))?;
                (data.shape.to_vec(), float_data(data)?)
            }
            Self::Narrow(t) => {
                let data =
                    read_sync(B::float_into_data(t)).map_err(|e| Fault(format!("reading from the device: {e:?}")))?;
                (data.shape.to_vec(), widened(float_data(data)?))
            }
            Self::Bool(t) => {
                let data =
                    read_sync(B::bool_into_data(t)).map_err(|e| Fault(format!("reading from the device: {e:?}")))?;
                (data.shape.to_vec(), Data::Bool(data.iter::<bool>().collect()))
            }
            Self::List(_) => bail!("a sequence where a tensor is needed"),
            Self::Nothing => bail!("an optional without a value where a tensor is needed"),
        };
        Ok(Arc::new(tensor(dims, data)?))
    }

    /// The tensor as floats on the device; a fault for any other type.
    pub(crate) fn into_float(self, device: &Device<B>) -> OpResult<FloatTensor<B>> {
        match self {
            Self::Float(t) | Self::Narrow(t) => Ok(t),
            Self::Host(t) if is_float(t.datatype()) => {
                let (dims, data) = Arc::try_unwrap(t).unwrap_or_else(|t| (*t).clone()).into_parts();
                Ok(B::float_from_data(upload(dims, data)?, device))
            }
            other => bail!("element type {} where a float is needed", other.datatype()),
        }
    }

    /// The tensor as a mask on the device.
    pub(crate) fn into_bool(self, device: &Device<B>) -> OpResult<BoolTensor<B>> {
        match self {
            Self::Bool(t) => Ok(t),
            Self::Host(t) if t.datatype() == DataType::Bool => {
                let (dims, data) = Arc::try_unwrap(t).unwrap_or_else(|t| (*t).clone()).into_parts();
                Ok(B::bool_from_data(upload(dims, data)?, device))
            }
            other => bail!("element type {} where BOOL is needed", other.datatype()),
        }
    }

    /// Applies one move where the data lies.
    pub(crate) fn apply(self, view: &View) -> OpResult<Self> {
        Ok(match self {
            Self::Host(t) => Self::Host(host::apply(t, view)?),
            Self::Float(t) => Self::Float(float_view::<B>(t, view)?),
            Self::Narrow(t) => Self::Narrow(float_view::<B>(t, view)?),
            Self::Bool(t) => Self::Bool(bool_view::<B>(t, view)?),
            Self::List(_) | Self::Nothing => bail!("a sequence or an optional where a tensor is needed"),
        })
    }
}

/// The representation of masks that the backend works with.
pub(crate) fn mask_type<B: Backend>() -> BoolDType {
    #[allow(deprecated, reason = "burn 0.21 names the mask's storage in no other way")]
    BoolDType::from(B::BoolElem::dtype())
}

/// Index tensors are 64 bits wide, as ONNX has them.
pub(crate) fn indices<B: Backend>(v: Vec<i64>, dims: Vec<usize>, device: &Device<B>) -> IntTensor<B> {
    B::int_from_data(TensorData::new(v, Shape::from(dims)), device)
}

fn upload(dims: Vec<usize>, data: Data) -> OpResult<TensorData> {
    let dims = Shape::from(dims);
    Ok(match data {
        Data::F32(v) => TensorData::new(v, dims),
        Data::F64(v) => TensorData::new(v, dims),
        Data::F16(v) => TensorData::new(v, dims),
        Data::BF16(v) => TensorData::new(v, dims),
        Data::Bool(v) => TensorData::new(v, dims),
        other => bail!("element type {} on the device", other.datatype()),
    })
}

fn float_data(data: TensorData) -> OpResult<Data> {
    let bad = |e| Fault(format!("reading from the device: {e:?}"));
    Ok(match data.dtype {
        DType::F64 => Data::F64(data.into_vec().map_err(bad)?),
        DType::F16 => Data::F16(data.into_vec::<f16>().map_err(bad)?),
        DType::BF16 => Data::BF16(data.into_vec::<bf16>().map_err(bad)?),
        DType::F32 => Data::F32(data.into_vec().map_err(bad)?),
        _ => Data::F32(data.convert::<f32>().into_vec().map_err(bad)?),
    })
}

/// As FP32.
fn widened(data: Data) -> Data {
    match data {
        Data::F16(v) => Data::F32(v.iter().map(|x| x.to_f32()).collect()),
        Data::BF16(v) => Data::F32(v.iter().map(|x| x.to_f32()).collect()),
        other => other,
    }
}

/// Burn reads a range backwards by flipping first; so `start` moves to the other end.
fn slices(dims: &[usize], ranges: &[Range]) -> (Vec<usize>, Vec<Slice>) {
    let flips = ranges
        .iter()
        .enumerate()
        .filter(|(_, r)| r.step < 0 && r.len > 0)
        .map(|(d, _)| d)
        .collect();
    let slices = ranges
        .iter()
        .zip(dims)
        .map(|(r, &size)| {
            let start = if r.step < 0 && r.len > 0 {
                size - 1 - r.start
            } else {
                r.start
            };
            let step = r.step.unsigned_abs();
            // The end lies just behind the last element, never behind the dimension.
            let end = if r.len == 0 {
                start
            } else {
                start + (r.len - 1) * step + 1
            };
            Slice::new(start as isize, Some(end as isize), step as isize)
        })
        .collect();
    (flips, slices)
}

macro_rules! device_view {
    ($name:ident, $tensor:ident, $reshape:ident, $permute:ident, $flip:ident, $slice:ident, $expand:ident) => {
        fn $name<B: Backend>(t: $tensor<B>, view: &View) -> OpResult<$tensor<B>> {
            let dims = t.shape().to_vec();
            Ok(match view {
                View::Reshape(to) if *to == dims => t,
                View::Reshape(to) => B::$reshape(t, Shape::from(to.clone())),
                View::Permute(perm) => B::$permute(t, perm),
                View::Slice(ranges) => {
                    if ranges
                        .iter()
                        .zip(&dims)
                        .all(|(r, &d)| r.start == 0 && r.step == 1 && r.len == d)
                    {
                        return Ok(t);
                    }
                    let (flips, slices) = slices(&dims, ranges);
                    let t = if flips.is_empty() { t } else { B::$flip(t, &flips) };
                    B::$slice(t, &slices)
                }
                View::Expand(to) => {
                    shape::elements(to)?;
                    let lead = shape::lead_ones(&dims, to.len());
                    let t = if lead == dims {
                        t
                    } else {
                        B::$reshape(t, Shape::from(lead))
                    };
                    if t.shape().to_vec() == *to {
                        t
                    } else {
                        B::$expand(t, Shape::from(to.clone()))
                    }
                }
            })
        }
    };
}

device_view!(
    float_view,
    FloatTensor,
    float_reshape,
    float_permute,
    float_flip,
    float_slice,
    float_expand
);
device_view!(
    bool_view,
    BoolTensor,
    bool_reshape,
    bool_permute,
    bool_flip,
    bool_slice,
    bool_expand
);
