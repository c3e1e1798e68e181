//! The instructions that a backend executes, and their execution: generic over any Burn backend, free of ranks.
//!
//! Backends panic on arguments that do not fit, so everything is checked here first. Where an instruction can't be done
//! on the device (`accepts` is false), the executor takes the host kernel beside it.

use burn_backend::tensor::{Device, FloatTensor};
use burn_backend::{Backend, FloatDType, Scalar, Shape, TensorMetadata};

mod convolution;
mod fused;
mod norm;
mod product;

pub(crate) use convolution::{Conv, ConvTranspose};
pub(crate) use fused::{After, Attention, Dense, Fused};
use norm::{batch_norm, layer_norm, reduce, softmax};
use product::{gemm, matmul};

use crate::backend::Place;
use crate::fault::{Fault, OpResult, bail, ensure};
use crate::kernel::{View, i64s, is_float};
use crate::value::{Value, indices, mask_type};
use crate::window::{Axis, Window};
use crate::{Data, DataType, shape};

/// Element-wise functions of one tensor that backends have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unary {
    Abs,
    Neg,
    Exp,
    Log,
    Sqrt,
    Reciprocal,
    Floor,
    Ceil,
    Sin,
    Cos,
    Tanh,
    Sigmoid,
    Erf,
    Relu,
    LeakyRelu(f32),
    Gelu,
    HardSigmoid(f32, f32),
}

/// Arithmetic of two tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arith {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
}

/// Order of two tensors' elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// What a reduction leaves of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduce {
    Sum,
    Mean,
    Max,
    Min,
    SumSquare,
    L1,
    L2,
}

/// One instruction. Operands are named in the order in which they come.
#[derive(Clone, Debug)]
pub(crate) enum DeviceOp {
    /// x
    Unary(Unary),
    /// Left-fold over all operands.
    Arith(Arith),
    /// a, b
    Compare(Compare),
    /// condition, x, y
    Where,
    /// x, min?, max?; the attribute bounds of old opsets stand in for missing operands
    Clip { min: Option<f64>, max: Option<f64> },
    /// a, b
    MatMul,
    /// a, b, c?
    Gemm {
        alpha: f32,
        beta: f32,
        trans_a: bool,
        trans_b: bool,
    },
    /// x, w, b?, residual?
    Conv(Conv),
    /// x, w, b?
    ConvTranspose(ConvTranspose),
    /// x
    MaxPool { window: Window, kernel: Vec<usize> },
    /// x
    AveragePool {
        window: Window,
        kernel: Vec<usize>,
        count_pad: bool,
    },
    /// x; over all spatial dimensions
    GlobalPool(Reduce),
    /// x, scale, bias, mean, variance
    BatchNorm { epsilon: f64 },
    /// x, scale, bias?
    LayerNorm { axis: i64, epsilon: f64 },
    /// x; `flat` takes all dimensions from `axis` on together, as opsets before 13 did
    Softmax { axis: i64, log: bool, flat: bool },
    /// x, axes?; no axes means all of them, or none with `noop`
    Reduce {
        kind: Reduce,
        axes: Option<Vec<i64>>,
        keep: bool,
        noop: bool,
    },
    /// any number
    Concat { axis: i64 },
    /// x, indices
    Gather { axis: i64 },
    /// x
    Cast(DataType),
    /// What the planner made of several nodes.
    Fused(Fused),
}

/// What `accepts` knows of an operand.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub(crate) datatype: DataType,
    pub(crate) shape: Vec<usize>,
}

impl DeviceOp {
    /// Whether the device can execute this on operands like these.
    pub(crate) fn accepts(&self, operands: &[Option<Operand>]) -> bool {
        let given = || operands.iter().flatten();
        // Reductions and moves of nothing are corner cases that backends differ in.
        if given().any(|o| o.shape.contains(&0)) {
            return false;
        }
        let first = given().next();
        let same_floats = || first.is_some_and(|f| is_float(f.datatype) && given().all(|o| o.datatype == f.datatype));
        let first_float = || first.is_some_and(|f| is_float(f.datatype));
        match self {
            Self::Where => match operands {
                [Some(_), Some(x), Some(y)] => is_float(x.datatype) && x.datatype == y.datatype,
                _ => false,
            },
            Self::Gather { .. } | Self::Reduce { .. } | Self::Clip { .. } => first_float(),
            Self::Cast(to) => first_float() && is_float(*to),
            Self::MaxPool { window, kernel } => same_floats() && pool_fits(window, kernel, first),
            Self::AveragePool { window, kernel, .. } => {
                same_floats() && window.dilations.iter().all(|&d| d == 1) && pool_fits(window, kernel, first)
            }
            Self::LayerNorm { axis, .. } => same_floats() && layer_norm_fits(*axis, operands),
            _ => same_floats(),
        }
    }
}

/// Pools of two dimensions with even padding of less than half the kernel, whole windows only.
fn pool_fits(window: &Window, kernel: &[usize], x: Option<&Operand>) -> bool {
    let Some(x) = x.filter(|x| x.shape.len() == 4 && kernel.len() == 2) else {
        return false;
    };
    let Ok(axes) = window.resolve(&x.shape[2..], kernel) else {
        return false;
    };
    axes.iter()
        .all(|a| a.begin == a.end && 2 * a.begin <= a.kernel && a.output == whole_windows(a))
}

fn whole_windows(a: &Axis) -> usize {
    (a.input + a.begin + a.end - (a.kernel - 1) * a.dilation - 1) / a.stride + 1
}

fn layer_norm_fits(axis: i64, operands: &[Option<Operand>]) -> bool {
    let [Some(x), Some(scale), rest @ ..] = operands else {
        return false;
    };
    let Ok(axis) = shape::axis(axis, x.shape.len()) else {
        return false;
    };
    let norm = &x.shape[axis..];
    scale.shape == norm && rest.iter().flatten().all(|b| b.shape == norm)
}

/// Executes an instruction that `accepts` these operands.
pub(crate) fn run<B: Backend>(op: &DeviceOp, operands: Vec<Option<Value<B>>>, place: &Place<B>) -> OpResult<Value<B>> {
    let device = &place.device;
    let mut rest = operands.into_iter();
    let mut next = || rest.next().flatten();
    let mut float = || -> OpResult<FloatTensor<B>> {
        next()
            .ok_or_else(|| Fault("a required input is missing".into()))?
            .into_float(device)
    };
    Ok(Value::Float(match op {
        DeviceOp::Unary(f) => unary::<B>(*f, float()?),
        DeviceOp::Arith(f) => {
            let first = next().ok_or_else(|| Fault("a required input is missing".into()))?;
            rest.flatten()
                .try_fold(first, |a, b| arith_or_scalar(*f, a, b, device))?
                .into_float(device)?
        }
        DeviceOp::Compare(f) => {
            let (a, b) = (float()?, float()?);
            let (a, b) = align::<B>(a, b)?;
            return Ok(Value::Bool(compare::<B>(*f, a, b)));
        }
        DeviceOp::Where => {
            let mut next = || {
                rest.next()
                    .flatten()
                    .ok_or_else(|| Fault("a required input is missing".into()))
            };
            select(next()?, next()?, next()?, device)?
        }
        DeviceOp::Clip { min, max } => {
            let x = float()?;
            let mut bound = |attr: &Option<f64>| match next() {
                Some(v) => crate::kernel::Inputs(&[Some(v.into_host()?)]).opt_f64(0),
                None => Ok(*attr),
            };
            clip::<B>(x, bound(min)?, bound(max)?)
        }
        DeviceOp::MatMul => matmul::<B>(float()?, float()?, place)?,
        DeviceOp::Gemm {
            alpha,
            beta,
            trans_a,
            trans_b,
        } => {
            let (a, b) = (float()?, float()?);
            let c = next().map(|c| c.into_float(device)).transpose()?;
            gemm::<B>(a, b, c, (*alpha, *beta), (*trans_a, *trans_b), place)?
        }
        DeviceOp::Conv(attrs) => {
            let (x, w) = (float()?, float()?);
            let mut rest = || next().map(|b| b.into_float(device)).transpose();
            attrs.run::<B>(x, w, rest()?, rest()?, place)?
        }
        DeviceOp::ConvTranspose(attrs) => {
            let (x, w) = (float()?, float()?);
            let b = next().map(|b| b.into_float(device)).transpose()?;
            attrs.run::<B>(x, w, b)?
        }
        DeviceOp::MaxPool { window, kernel } => pool::<B>(float()?, window, kernel, None)?,
        DeviceOp::AveragePool {
            window,
            kernel,
            count_pad,
        } => pool::<B>(float()?, window, kernel, Some(*count_pad))?,
        DeviceOp::GlobalPool(kind) => {
            let x = float()?;
            let dims = x.shape().to_vec();
            ensure!(dims.len() >= 2, "input of rank {} instead of at least 2", dims.len());
            let flat = reshape::<B>(x, vec![dims[0], dims[1], dims[2..].iter().product()]);
            let mut out = dims[..2].to_vec();
            out.resize(dims.len(), 1);
            reshape::<B>(reduce::<B>(flat, *kind, Some(vec![2]), true, false)?, out)
        }
        DeviceOp::BatchNorm { epsilon } => {
            let x = float()?;
            batch_norm::<B>(x, [float()?, float()?, float()?, float()?], *epsilon)?
        }
        DeviceOp::LayerNorm { axis, epsilon } => {
            let (x, scale) = (float()?, float()?);
            let bias = next().map(|b| b.into_float(device)).transpose()?;
            layer_norm::<B>(x, scale, bias, *axis, *epsilon)?
        }
        DeviceOp::Softmax { axis, log, flat } => softmax::<B>(float()?, *axis, *log, *flat)?,
        DeviceOp::Reduce { kind, axes, keep, noop } => {
            let x = float()?;
            let given = match next() {
                Some(v) => Some(i64s(&*v.into_host()?)?),
                None => axes.clone(),
            };
            reduce::<B>(x, *kind, given, *keep, *noop)?
        }
        DeviceOp::Concat { axis } => {
            let parts = rest
                .flatten()
                .map(|v| v.into_float(device))
                .collect::<OpResult<Vec<_>>>()?;
            let shapes: Vec<_> = parts.iter().map(|p| p.shape().to_vec()).collect();
            let axis = concat_axis(&shapes, *axis)?;
            B::float_cat(parts, axis)
        }
        DeviceOp::Gather { axis } => {
            let x = float()?;
            let index = next().ok_or_else(|| Fault("input 1 is missing".into()))?.into_host()?;
            gather::<B>(x, &i64s(&index)?, index.shape(), *axis, device)?
        }
        DeviceOp::Cast(to) => B::float_cast(float()?, float_type(*to)?),
        DeviceOp::Fused(fused) => fused.run::<B>(rest.collect(), place)?,
    }))
}

fn float_type(t: DataType) -> OpResult<FloatDType> {
    Ok(match t {
        DataType::F32 => FloatDType::F32,
        DataType::F64 => FloatDType::F64,
        DataType::F16 => FloatDType::F16,
        DataType::BF16 => FloatDType::BF16,
        other => bail!("{other} is no float type"),
    })
}

fn scalar(v: impl Into<f64>) -> Scalar {
    Scalar::Float(v.into())
}

fn reshape<B: Backend>(t: FloatTensor<B>, to: Vec<usize>) -> FloatTensor<B> {
    if t.shape().to_vec() == to {
        t
    } else {
        B::float_reshape(t, Shape::from(to))
    }
}

/// Primitives stretch dimensions of 1 but want equal ranks.
fn align<B: Backend>(a: FloatTensor<B>, b: FloatTensor<B>) -> OpResult<(FloatTensor<B>, FloatTensor<B>)> {
    let (sa, sb) = (a.shape().to_vec(), b.shape().to_vec());
    if sa == sb {
        return Ok((a, b));
    }
    shape::broadcast(&sa, &sb)?;
    let rank = sa.len().max(sb.len());
    Ok((
        reshape::<B>(a, shape::lead_ones(&sa, rank)),
        reshape::<B>(b, shape::lead_ones(&sb, rank)),
    ))
}

fn unary<B: Backend>(f: Unary, x: FloatTensor<B>) -> FloatTensor<B> {
    match f {
        Unary::Abs => B::float_abs(x),
        Unary::Neg => B::float_neg(x),
        Unary::Exp => B::float_exp(x),
        Unary::Log => B::float_log(x),
        Unary::Sqrt => B::float_sqrt(x),
        Unary::Reciprocal => B::float_recip(x),
        Unary::Floor => B::float_floor(x),
        Unary::Ceil => B::float_ceil(x),
        Unary::Sin => B::float_sin(x),
        Unary::Cos => B::float_cos(x),
        Unary::Tanh => B::float_tanh(x),
        Unary::Sigmoid => B::sigmoid(x),
        Unary::Erf => B::float_erf(x),
        Unary::Relu => B::relu(x),
        Unary::LeakyRelu(alpha) => B::leaky_relu(x, scalar(alpha)),
        Unary::Gelu => B::gelu(x),
        Unary::HardSigmoid(alpha, beta) => B::hard_sigmoid(x, scalar(alpha), scalar(beta)),
    }
}

/// The one number that an operand consists of, and its rank, while it is still on the host.
fn single<B: Backend>(value: &Value<B>) -> Option<(f64, usize)> {
    let Value::Host(t) = value else { return None };
    let number = match t.data() {
        Data::F32(v) if v.len() == 1 => f64::from(v[0]),
        Data::F64(v) if v.len() == 1 => v[0],
        _ => return None,
    };
    Some((number, t.shape().len()))
}

/// Arithmetic with a single number takes no second tensor through memory.
pub(crate) fn arith_or_scalar<B: Backend>(
    f: Arith,
    a: Value<B>,
    b: Value<B>,
    device: &Device<B>,
) -> OpResult<Value<B>> {
    let (ranks, numbers) = ((a.shape().len(), b.shape().len()), (single(&a), single(&b)));
    Ok(Value::Float(match (numbers, f) {
        ((_, Some((s, rank))), _) if rank <= ranks.0 => {
            let a = a.into_float(device)?;
            match f {
                Arith::Add => B::float_add_scalar(a, scalar(s)),
                Arith::Sub => B::float_sub_scalar(a, scalar(s)),
                Arith::Mul => B::float_mul_scalar(a, scalar(s)),
                Arith::Div => B::float_div_scalar(a, scalar(s)),
                Arith::Pow => B::float_powf_scalar(a, scalar(s)),
            }
        }
        ((Some((s, rank)), _), Arith::Add) if rank <= ranks.1 => B::float_add_scalar(b.into_float(device)?, scalar(s)),
        ((Some((s, rank)), _), Arith::Mul) if rank <= ranks.1 => B::float_mul_scalar(b.into_float(device)?, scalar(s)),
        _ => {
            let (a, b) = align::<B>(a.into_float(device)?, b.into_float(device)?)?;
            arith::<B>(f, a, b)
        }
    }))
}

fn arith<B: Backend>(f: Arith, a: FloatTensor<B>, b: FloatTensor<B>) -> FloatTensor<B> {
    match f {
        Arith::Add => B::float_add(a, b),
        Arith::Sub => B::float_sub(a, b),
        Arith::Mul => B::float_mul(a, b),
        Arith::Div => B::float_div(a, b),
        Arith::Pow => B::float_powf(a, b),
    }
}

fn compare<B: Backend>(f: Compare, a: FloatTensor<B>, b: FloatTensor<B>) -> burn_backend::tensor::BoolTensor<B> {
    let mask = mask_type::<B>();
    match f {
        Compare::Equal => B::float_equal(a, b, mask),
        Compare::Greater => B::float_greater(a, b, mask),
        Compare::GreaterOrEqual => B::float_greater_equal(a, b, mask),
        Compare::Less => B::float_lower(a, b, mask),
        Compare::LessOrEqual => B::float_lower_equal(a, b, mask),
    }
}

fn select<B: Backend>(condition: Value<B>, x: Value<B>, y: Value<B>, device: &Device<B>) -> OpResult<FloatTensor<B>> {
    let out = shape::broadcast(&shape::broadcast(&condition.shape(), &x.shape())?, &y.shape())?;
    let to = View::Expand(out);
    let mask = Value::<B>::Bool(condition.into_bool(device)?)
        .apply(&to)?
        .into_bool(device)?;
    let x = Value::<B>::Float(x.into_float(device)?)
        .apply(&to)?
        .into_float(device)?;
    let y = Value::<B>::Float(y.into_float(device)?)
        .apply(&to)?
        .into_float(device)?;
    Ok(B::float_mask_where(y, mask, x))
}

fn clip<B: Backend>(x: FloatTensor<B>, min: Option<f64>, max: Option<f64>) -> FloatTensor<B> {
    // ONNX: where min is above max, everything becomes max.
    let x = match min {
        Some(min) => B::float_clamp_min(x, scalar(min)),
        None => x,
    };
    match max {
        Some(max) => B::float_clamp_max(x, scalar(max)),
        None => x,
    }
}

fn array<const N: usize>(list: impl Iterator<Item = usize>) -> OpResult<[usize; N]> {
    let list: Vec<usize> = list.collect();
    <[usize; N]>::try_from(list).map_err(|l| Fault(format!("{} values instead of {N}", l.len())))
}

/// A maximum where `count_pad` is `None`, else an average.
fn pool<B: Backend>(
    x: FloatTensor<B>,
    window: &Window,
    kernel: &[usize],
    count_pad: Option<bool>,
) -> OpResult<FloatTensor<B>> {
    let axes = window.resolve(&x.shape().to_vec()[2..], kernel)?;
    let kernel = array::<2>(axes.iter().map(|a| a.kernel))?;
    let strides = array::<2>(axes.iter().map(|a| a.stride))?;
    let pads = array::<2>(axes.iter().map(|a| a.begin))?;
    let dilations = array::<2>(axes.iter().map(|a| a.dilation))?;
    Ok(match count_pad {
        None => B::max_pool2d(x, kernel, strides, pads, dilations, false),
        Some(count_pad) => B::avg_pool2d(x, kernel, strides, pads, count_pad, false),
    })
}

/// The axis of a concatenation, once all other dimensions are known to agree.
pub(crate) fn concat_axis(shapes: &[Vec<usize>], axis: i64) -> OpResult<usize> {
    let Some(first) = shapes.first() else {
        bail!("no inputs")
    };
    let axis = shape::axis(axis, first.len())?;
    for s in shapes {
        let fits = s.len() == first.len() && s.iter().zip(first).enumerate().all(|(d, (a, b))| d == axis || a == b);
        ensure!(fits, "shapes {first:?} and {s:?} can't be joined along axis {axis}");
    }
    Ok(axis)
}

/// Indices made positive and checked against a dimension.
pub(crate) fn checked_indices(list: &[i64], size: usize) -> OpResult<Vec<i64>> {
    let size = size as i64;
    list.iter()
        .map(|&i| {
            ensure!(
                i >= -size && i < size,
                "index {i} is out of range for a dimension of {size}"
            );
            Ok(if i < 0 { i + size } else { i })
        })
        .collect()
}

fn gather<B: Backend>(
    x: FloatTensor<B>,
    index: &[i64],
    index_shape: &[usize],
    axis: i64,
    device: &Device<B>,
) -> OpResult<FloatTensor<B>> {
    let dims = x.shape().to_vec();
    let axis = shape::axis(axis, dims.len())?;
    let index = checked_indices(index, dims[axis])?;
    let n = index.len();
    let picked = B::float_select(x, axis, indices::<B>(index, vec![n], device));
    let mut out = dims[..axis].to_vec();
    out.extend_from_slice(index_shape);
    out.extend_from_slice(&dims[axis + 1..]);
    Ok(reshape::<B>(picked, out))
}
