//! Reductions over dimensions that lie side by side.

use pilotlight_kernels::{Fold, fold};

use super::operand::{at, dims, made};
use super::{Operands, Outcome};
use crate::device::Reduce;
use crate::kernel::i64s;
use crate::value::Value;
use crate::{buffers, shape};

fn kind(reduce: Reduce) -> Fold {
    match reduce {
        Reduce::Sum => Fold::Sum,
        Reduce::Mean => Fold::Mean,
        Reduce::Max => Fold::Max,
        Reduce::Min => Fold::Min,
        Reduce::SumSquare => Fold::SumSquare,
        Reduce::L1 => Fold::L1,
        Reduce::L2 => Fold::L2,
    }
}

/// Operand: x; over all spatial dimensions
pub(super) fn global(reduce: Reduce, operands: Operands<'_>) -> Outcome {
    let (Some(x), Some(value)) = (at(operands, 0), &operands[0]) else {
        return Ok(None);
    };
    let xs = dims(value);
    if xs.len() < 2 || xs.contains(&0) {
        return Ok(None);
    }
    let mut out_dims = xs[..2].to_vec();
    let planes = xs[0] * xs[1];
    out_dims.resize(xs.len(), 1);
    let mut out = buffers::take(planes);
    fold(kind(reduce), x, [planes, xs[2..].iter().product(), 1], &mut out);
    made(out_dims, out)
}

/// Operands: x, axes?
pub(super) fn run(reduce: Reduce, axes: Option<&[i64]>, keep: bool, noop: bool, operands: Operands<'_>) -> Outcome {
    let (Some(x), Some(value)) = (at(operands, 0), &operands[0]) else {
        return Ok(None);
    };
    let xs = dims(value);
    let given = match operands.get(1) {
        Some(Some(Value::Host(t))) => Some(i64s(t)?),
        Some(Some(_)) => return Ok(None),
        _ => axes.map(<[i64]>::to_vec),
    };
    let axes = match given.filter(|a| !a.is_empty()) {
        Some(axes) => shape::axes(&axes, xs.len())?,
        None if noop => return Ok(None),
        None => (0..xs.len()).collect(),
    };
    let (Some(&first), Some(&last)) = (axes.first(), axes.last()) else {
        return Ok(None);
    };
    if xs.contains(&0) || last - first + 1 != axes.len() {
        return Ok(None);
    }
    let size = [
        xs[..first].iter().product(),
        xs[first..=last].iter().product(),
        xs[last + 1..].iter().product(),
    ];
    let mut out_dims = xs[..first].to_vec();
    if keep {
        out_dims.resize(last + 1, 1);
    }
    out_dims.extend_from_slice(&xs[last + 1..]);
    let mut out = buffers::take(size[0] * size[2]);
    fold(kind(reduce), x, size, &mut out);
    made(out_dims, out)
}
