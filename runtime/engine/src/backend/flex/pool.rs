//! Pools of one and two spatial dimensions, in every padding.

use pilotlight_kernels::{Pool, PoolKind};

use super::convolution::geometry;
use super::operand::{at, dims, made};
use super::{Operands, Outcome};
use crate::window::Window;
use crate::{buffers, shape};

/// Operand: x
pub(super) fn maxima(window: &Window, kernel: &[usize], operands: Operands<'_>) -> Outcome {
    run(window, kernel, PoolKind::Max, operands)
}

/// Operand: x
pub(super) fn averages(window: &Window, kernel: &[usize], count_pad: bool, operands: Operands<'_>) -> Outcome {
    run(window, kernel, PoolKind::Average { count_pad }, operands)
}

fn run(window: &Window, kernel: &[usize], kind: PoolKind, operands: Operands<'_>) -> Outcome {
    let (Some(x), Some(value)) = (at(operands, 0), &operands[0]) else {
        return Ok(None);
    };
    let xs = dims(value);
    if !matches!(xs.len(), 3 | 4) || xs.contains(&0) {
        return Ok(None);
    }
    let axes = window.resolve(&xs[2..], kernel)?;
    let mut out_dims = xs[..2].to_vec();
    out_dims.extend(axes.iter().map(|a| a.output));
    let n = shape::elements(&out_dims)?;
    let mut out = buffers::take(n);
    let kernel = match *kernel {
        [rows, columns] => [rows, columns],
        [columns] => [1, columns],
        _ => return Ok(None),
    };
    let pool = Pool {
        kind,
        kernel,
        geometry: geometry(&axes),
    };
    pool.run(x, &mut out);
    made(out_dims, out)
}
