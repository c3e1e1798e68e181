//! Normalisations and softmax.

use pilotlight_kernels::{self as kernels, Pair};

use super::operand::{at, dims, made, own};
use super::{Operands, Outcome};
use crate::{buffers, shape};

/// Operands: x, scale, bias?
pub(super) fn layer(axis: i64, epsilon: f64, operands: Operands<'_>) -> Outcome {
    let (Some(x), Some(scale), Some(value)) = (at(operands, 0), at(operands, 1), &operands[0]) else {
        return Ok(None);
    };
    let xs = dims(value);
    let axis = shape::axis(axis, xs.len())?;
    let inner: usize = xs[axis..].iter().product();
    let bias = match operands.get(2) {
        Some(Some(_)) => match at(operands, 2) {
            Some(b) => Some(b),
            None => return Ok(None),
        },
        _ => None,
    };
    // Parameters that are stretched are left to others.
    if inner == 0 || scale.len() != inner || bias.is_some_and(|b| b.len() != inner) {
        return Ok(None);
    }
    let mut out = buffers::take(x.len());
    kernels::layer_norm(x, None, scale, bias, epsilon as f32, &mut out);
    made(xs, out)
}

/// Operands: x, scale, bias, mean, variance
pub(super) fn batch(epsilon: f64, operands: Operands<'_>) -> Outcome {
    let [Some(_), Some(scale), Some(bias), Some(mean), Some(variance)] = [0, 1, 2, 3, 4].map(|i| at(operands, i))
    else {
        return Ok(None);
    };
    let Some(value) = operands[0].as_ref() else {
        return Ok(None);
    };
    let xs = dims(value);
    let channels = xs.get(1).copied().unwrap_or(0);
    if channels == 0 || [scale, bias, mean, variance].iter().any(|p| p.len() != channels) || xs.contains(&0) {
        return Ok(None);
    }
    let factor = |c: usize| f64::from(scale[c]) / (f64::from(variance[c]) + epsilon).sqrt();
    let factors: Vec<f32> = (0..channels).map(|c| factor(c) as f32).collect();
    let offset = |c: usize| f64::from(bias[c]) - f64::from(mean[c]) * factor(c);
    let offsets: Vec<f32> = (0..channels).map(|c| offset(c) as f32).collect();
    let inner = xs[2..].iter().product();
    let Some(x) = operands[0].take() else { return Ok(None) };
    let mut out = own(x)?;
    kernels::pair(Pair::Mul, &mut out, &factors, inner);
    kernels::pair(Pair::Add, &mut out, &offsets, inner);
    made(xs, out)
}

/// Operand: x
pub(super) fn softmax(axis: i64, log: bool, flat: bool, operands: Operands<'_>) -> Outcome {
    let (Some(_), Some(Some(value))) = (at(operands, 0), operands.first()) else {
        return Ok(None);
    };
    let xs = dims(value);
    if log || xs.is_empty() || (flat && axis == xs.len() as i64) {
        return Ok(None);
    }
    let axis = shape::axis(axis, xs.len())?;
    let inner: usize = xs[axis + 1..].iter().product();
    let n = if flat { xs[axis] * inner } else { xs[axis] };
    if n == 0 || !(flat || inner == 1) {
        return Ok(None);
    }
    let Some(x) = operands[0].take() else { return Ok(None) };
    let mut out = own(x)?;
    kernels::softmax(&mut out, n);
    made(xs, out)
}
