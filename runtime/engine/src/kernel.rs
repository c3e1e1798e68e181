//! What a node becomes at load time: a kernel with its attributes parsed and checked.
//!
//! The kinds. A `HostOp` works on host tensors of any element type, knows no backend, and also folds constants. A
//! `ViewOp` only moves elements: from shapes and host operands it says how, and that is applied where the data lies. A
//! `DeviceOp` is an instruction for the backend, with a `HostOp` beside it where small or non-float inputs can occur. A
//! `ListOp` works on sequences and optionals, and a `Control` runs graphs of its own.

use std::sync::Arc;

use crate::control::Control;
use crate::device::DeviceOp;
use crate::fault::{Fault, OpResult, bail};
use crate::item::{Held, ListOp};
use crate::{Data, DataType, Tensor};

/// An operator on host tensors. Returns its outputs in order; trailing optional ones may be left out.
pub(crate) trait HostOp: Send + Sync {
    fn run(&self, inputs: &Inputs<'_>) -> OpResult<Vec<Tensor>>;

    /// Whether it knows tensors of the types in `Small`; all others would take their bits for numbers.
    fn reads_small(&self) -> bool {
        false
    }
}

/// A host operator that reads and writes tensors of the types in `Small`.
struct ReadsSmall<F>(F);

impl<F: Fn(&Inputs<'_>) -> OpResult<Vec<Tensor>> + Send + Sync> HostOp for ReadsSmall<F> {
    fn run(&self, inputs: &Inputs<'_>) -> OpResult<Vec<Tensor>> {
        self.0(inputs)
    }

    fn reads_small(&self) -> bool {
        true
    }
}

impl<F: Fn(&Inputs<'_>) -> OpResult<Vec<Tensor>> + Send + Sync> HostOp for F {
    fn run(&self, inputs: &Inputs<'_>) -> OpResult<Vec<Tensor>> {
        self(inputs)
    }
}

/// An operator that moves the elements of its first input. The other inputs are read on the host.
pub(crate) trait ViewOp: Send + Sync {
    /// One list of moves per output.
    fn views(&self, shape: &[usize], rest: &Inputs<'_>) -> OpResult<Vec<Vec<View>>>;
}

impl<F: Fn(&[usize], &Inputs<'_>) -> OpResult<Vec<Vec<View>>> + Send + Sync> ViewOp for F {
    fn views(&self, shape: &[usize], rest: &Inputs<'_>) -> OpResult<Vec<Vec<View>>> {
        self(shape, rest)
    }
}

/// One move of elements. Shapes are checked by whoever makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// Same elements in the same order.
    Reshape(Vec<usize>),
    /// Dimension `d` of the result is dimension `perm[d]` of the input.
    Permute(Vec<usize>),
    /// One range for every dimension.
    Slice(Vec<Range>),
    /// Repeats dimensions of size 1; the ranks may differ.
    Expand(Vec<usize>),
}

/// `len` elements from `start`, `step` apart; `step` may be negative, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) step: isize,
}

/// Reads its input's dimensions only, so that a tensor on the device stays there.
pub(crate) type ShapeOp = Box<dyn Fn(&[usize]) -> Data + Send + Sync>;

/// A node's behaviour.
pub(crate) enum Kernel {
    Host(Box<dyn HostOp>),
    /// The result is a scalar, or else a list.
    Shape {
        scalar: bool,
        op: ShapeOp,
    },
    View(Box<dyn ViewOp>),
    /// Works on sequences and optionals.
    List(Box<dyn ListOp>),
    /// Runs graphs of its own.
    Control(Box<Control>),
    Device {
        op: DeviceOp,
        host: Option<Box<dyn HostOp>>,
    },
}

impl Kernel {
    pub(crate) fn host(op: impl Fn(&Inputs<'_>) -> OpResult<Vec<Tensor>> + Send + Sync + 'static) -> Self {
        Self::Host(Box::new(op))
    }

    /// A host operator for which `Small` tensors are no different from others.
    pub(crate) fn stored(op: impl Fn(&Inputs<'_>) -> OpResult<Vec<Tensor>> + Send + Sync + 'static) -> Self {
        Self::Host(Box::new(ReadsSmall(op)))
    }

    pub(crate) fn list(op: impl Fn(&[Option<Held>]) -> OpResult<Vec<Held>> + Send + Sync + 'static) -> Self {
        Self::List(Box::new(op))
    }

    pub(crate) fn view(op: impl Fn(&[usize], &Inputs<'_>) -> OpResult<Vec<Vec<View>>> + Send + Sync + 'static) -> Self {
        Self::View(Box::new(op))
    }

    pub(crate) fn shape(op: impl Fn(&[usize]) -> Data + Send + Sync + 'static) -> Self {
        Self::Shape {
            scalar: false,
            op: Box::new(op),
        }
    }

    pub(crate) fn device(op: DeviceOp) -> Self {
        Self::Device { op, host: None }
    }

    pub(crate) fn dual(
        op: DeviceOp,
        host: impl Fn(&Inputs<'_>) -> OpResult<Vec<Tensor>> + Send + Sync + 'static,
    ) -> Self {
        Self::Device {
            op,
            host: Some(Box::new(host)),
        }
    }
}

impl Kernel {
    /// As `dual`, where the host reads `Small` tensors.
    pub(crate) fn dual_stored(
        op: DeviceOp,
        host: impl Fn(&Inputs<'_>) -> OpResult<Vec<Tensor>> + Send + Sync + 'static,
    ) -> Self {
        Self::Device {
            op,
            host: Some(Box::new(ReadsSmall(host))),
        }
    }
}

/// What a `ShapeOp` gives for a shape.
pub(crate) fn shape_result(scalar: bool, op: &ShapeOp, dims: &[usize]) -> OpResult<Tensor> {
    let data = op(dims);
    tensor(if scalar { Vec::new() } else { vec![data.len()] }, data)
}

/// A node's inputs on the host; an optional one that was left out is `None`.
pub(crate) struct Inputs<'a>(pub(crate) &'a [Option<Arc<Tensor>>]);

impl Inputs<'_> {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn opt(&self, i: usize) -> Option<&Tensor> {
        self.0.get(i)?.as_deref()
    }

    pub(crate) fn get(&self, i: usize) -> OpResult<&Tensor> {
        self.opt(i).ok_or_else(|| Fault(format!("input {i} is missing")))
    }

    /// An integer operand (a shape, axes, indices), whatever integer type it has.
    pub(crate) fn i64s(&self, i: usize) -> OpResult<Vec<i64>> {
        i64s(self.get(i)?)
    }

    pub(crate) fn opt_i64s(&self, i: usize) -> OpResult<Option<Vec<i64>>> {
        self.opt(i).map(i64s).transpose()
    }

    /// The one number in a scalar operand.
    pub(crate) fn opt_f64(&self, i: usize) -> OpResult<Option<f64>> {
        let Some(t) = self.opt(i) else { return Ok(None) };
        Ok(match t.data() {
            Data::F32(v) if v.len() == 1 => Some(f64::from(v[0])),
            Data::F64(v) if v.len() == 1 => Some(v[0]),
            Data::F16(v) if v.len() == 1 => Some(v[0].to_f64()),
            Data::BF16(v) if v.len() == 1 => Some(v[0].to_f64()),
            _ => match i64s(t)?.as_slice() {
                [v] => Some(*v as f64),
                v => bail!("input {i} has {} elements instead of 1", v.len()),
            },
        })
    }
}

/// The elements of an integer tensor.
pub(crate) fn i64s(t: &Tensor) -> OpResult<Vec<i64>> {
    Ok(match t.data() {
        Data::I64(v) => v.clone(),
        Data::I32(v) => v.iter().map(|&x| i64::from(x)).collect(),
        Data::I16(v) => v.iter().map(|&x| i64::from(x)).collect(),
        Data::I8(v) => v.iter().map(|&x| i64::from(x)).collect(),
        Data::U32(v) => v.iter().map(|&x| i64::from(x)).collect(),
        Data::U16(v) => v.iter().map(|&x| i64::from(x)).collect(),
        Data::U8(v) => v.iter().map(|&x| i64::from(x)).collect(),
        Data::U64(v) => v.iter().map(|&x| x as i64).collect(),
        _ => bail!("an integer operand has type {}", t.datatype()),
    })
}

/// A tensor whose shape and data are known to agree; a fault instead of a panic if they do not.
pub(crate) fn tensor(shape: Vec<usize>, data: Data) -> OpResult<Tensor> {
    crate::shape::bounded(&shape)?;
    let found = data.len();
    match Tensor::new(shape, data) {
        Some(t) => Ok(t),
        None => bail!("internal: a result of {found} elements does not fit its shape"),
    }
}

/// Whether it is one of the four floating-point types.
pub(crate) fn is_float(t: DataType) -> bool {
    matches!(t, DataType::F16 | DataType::BF16 | DataType::F32 | DataType::F64)
}
