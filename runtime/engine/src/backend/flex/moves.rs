//! Operators that only copy elements.

use super::operand::{at, dims, floats, made};
use super::{Operands, Outcome};
use crate::device::{checked_indices, concat_axis};
use crate::fault::OpResult;
use crate::kernel::i64s;
use crate::value::Value;
use crate::{buffers, shape};

/// Operands: any number
pub(super) fn concat(axis: i64, operands: Operands<'_>) -> Outcome {
    let parts: Option<Vec<&[f32]>> = operands.iter().flatten().map(floats).collect();
    let Some(parts) = parts else { return Ok(None) };
    let shapes: Vec<_> = operands.iter().flatten().map(dims).collect();
    let axis = concat_axis(&shapes, axis)?;
    let mut out_dims = shapes[0].clone();
    out_dims[axis] = shapes.iter().map(|s| s[axis]).sum();
    let n = shape::elements(&out_dims)?;
    let runs: Vec<usize> = shapes.iter().map(|s| s[axis..].iter().product()).collect();
    let mut out = buffers::take(n);
    let row: usize = runs.iter().sum();
    if row > 0 {
        for (k, row) in out.chunks_exact_mut(row).enumerate() {
            let mut rest = row;
            for (part, &run) in parts.iter().zip(&runs) {
                let (to, more) = rest.split_at_mut(run);
                to.copy_from_slice(&part[k * run..(k + 1) * run]);
                rest = more;
            }
        }
    }
    made(out_dims, out)
}

/// Operands: x, indices
pub(super) fn gather(axis: i64, operands: Operands<'_>) -> Outcome {
    let (Some(x), [Some(data), Some(Value::Host(index)), ..]) = (at(operands, 0), &*operands) else {
        return Ok(None);
    };
    let xs = dims(data);
    let axis = shape::axis(axis, xs.len())?;
    let list: OpResult<Vec<i64>> = checked_indices(&i64s(index)?, xs[axis]);
    let list = list?;
    let inner: usize = xs[axis + 1..].iter().product();
    let mut out_dims = xs[..axis].to_vec();
    out_dims.extend_from_slice(index.shape());
    out_dims.extend_from_slice(&xs[axis + 1..]);
    let n = shape::elements(&out_dims)?;
    let mut out = buffers::take(n);
    if n > 0 {
        let block = xs[axis] * inner;
        for (block, to) in x.chunks_exact(block).zip(out.chunks_exact_mut(list.len() * inner)) {
            for (to, &i) in to.chunks_exact_mut(inner).zip(&list) {
                to.copy_from_slice(&block[i as usize * inner..][..inner]);
            }
        }
    }
    made(out_dims, out)
}
