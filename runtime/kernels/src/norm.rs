//! Layer normalisation and softmax: a pass over each row while it is in the first cache.

use crate::math;
use crate::simd::{Isa, Level, Work, dispatch};
use crate::tasks;

/// Independent sums, so that a row's reduction becomes vector code.
const LANES: usize = 32;

/// Normalises every row of `scale.len()` numbers to mean 0 and variance 1, then scales and shifts it:
/// `out = (x + residual - mean) / √(variance + ε) · scale + bias`.
///
/// # Panics
/// Where a length does not fit.
pub fn layer_norm(
    x: &[f32],
    residual: Option<&[f32]>,
    scale: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
    out: &mut [f32],
) {
    let n = scale.len();
    assert!(n > 0 && x.len().is_multiple_of(n) && x.len() == out.len(), "row length");
    assert!(bias.is_none_or(|b| b.len() == n), "bias length");
    assert!(residual.is_none_or(|r| r.len() == x.len()), "residual length");
    let level = Level::detect();
    tasks::chunks(out, n, 4, |at, out| {
        let x = &x[at..at + out.len()];
        let residual = residual.map(|r| &r[at..at + out.len()]);
        dispatch(
            level,
            LayerNorm {
                x,
                residual,
                scale,
                bias,
                epsilon,
                out,
            },
        );
    });
}

struct LayerNorm<'a> {
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    scale: &'a [f32],
    bias: Option<&'a [f32]>,
    epsilon: f32,
    out: &'a mut [f32],
}

impl Work for LayerNorm<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let n = self.scale.len();
        for (r, row) in self.out.chunks_exact_mut(n).enumerate() {
            row.copy_from_slice(&self.x[r * n..(r + 1) * n]);
            if let Some(residual) = self.residual {
                for (y, x) in row.iter_mut().zip(&residual[r * n..(r + 1) * n]) {
                    *y += x;
                }
            }
            let mean = sum(row, |x| x) / n as f32;
            let variance = sum(row, |x| (x - mean) * (x - mean)) / n as f32;
            let inverse = 1.0 / (variance + self.epsilon).sqrt();
            match self.bias {
                Some(bias) => {
                    for ((y, s), b) in row.iter_mut().zip(self.scale).zip(bias) {
                        *y = math::fma::<I>((*y - mean) * inverse, *s, *b);
                    }
                }
                None => {
                    for (y, s) in row.iter_mut().zip(self.scale) {
                        *y = (*y - mean) * inverse * s;
                    }
                }
            }
        }
    }
}

/// The sum over a row, in lanes of their own.
#[inline(always)]
pub(crate) fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|&x| f(x)).sum::<f32>()
}

/// The largest number; NaN only where all are.
#[inline(always)]
pub(crate) fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let largest = |a: f32, b: f32| if b > a { b } else { a };
    rest.iter()
        .copied()
        .fold(lanes.into_iter().fold(f32::NEG_INFINITY, largest), largest)
}

/// Softmax of one row in place.
#[inline(always)]
pub(crate) fn softmax_row<I: Isa>(row: &mut [f32]) {
    let top = max(row);
    // A row of nothing but -∞ has no finite top; subtracting it would give NaN, as the definition does.
    for x in row.iter_mut() {
        *x = math::exp::<I>(*x - top);
    }
    let factor = 1.0 / sum(row, |x| x);
    for x in row {
        *x *= factor;
    }
}

/// Replaces every row of `n` numbers by its softmax.
///
/// # Panics
/// Where the length is no multiple of `n`.
pub fn softmax(x: &mut [f32], n: usize) {
    assert!(n > 0 && x.len().is_multiple_of(n), "row length");
    let level = Level::detect();
    tasks::chunks(x, n, 8, |_, rows| dispatch(level, Softmax { rows, n }));
}

struct Softmax<'a> {
    rows: &'a mut [f32],
    n: usize,
}

impl Work for Softmax<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        for row in self.rows.chunks_exact_mut(self.n) {
            softmax_row::<I>(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{layer_norm, softmax};
    use crate::testing::{near, noise};

    #[test]
    fn rows_are_normalised_as_defined() {
        for (rows, n) in [(1, 1), (3, 5), (40, 384), (300, 1000)] {
            let (x, more) = (noise(rows * n, 7), noise(rows * n, 8));
            let (scale, bias) = (noise(n, 9), noise(n, 10));
            let mut out = vec![f32::NAN; x.len()];
            layer_norm(&x, Some(&more), &scale, Some(&bias), 1e-5, &mut out);
            let mut wanted = Vec::new();
            for r in 0..rows {
                let row: Vec<f64> = (r * n..(r + 1) * n)
                    .map(|k| f64::from(x[k]) + f64::from(more[k]))
                    .collect();
                let mean = row.iter().sum::<f64>() / n as f64;
                let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
                let one = |(k, v): (usize, &f64)| {
                    (v - mean) / (variance + 1e-5).sqrt() * f64::from(scale[k]) + f64::from(bias[k])
                };
                wanted.extend(row.iter().enumerate().map(one));
            }
            assert!(near(&out, &wanted, 2e-5), "{rows} rows of {n}");
        }
    }

    #[test]
    fn softmax_adds_up_to_one_and_stands_large_numbers() {
        for n in [1, 3, 33, 700] {
            let x: Vec<f32> = noise(50 * n, 3).iter().map(|v| 90.0 * v + 1e4).collect();
            let mut out = x.clone();
            softmax(&mut out, n);
            for (x, y) in x.chunks(n).zip(out.chunks(n)) {
                let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let powers: Vec<f64> = x.iter().map(|v| f64::from(v - top).exp()).collect();
                let total: f64 = powers.iter().sum();
                assert!(near(y, &powers.iter().map(|p| p / total).collect::<Vec<_>>(), 1e-6));
            }
        }
    }

    #[test]
    fn a_masked_place_gets_nothing() {
        let mut row = [0.0, f32::NEG_INFINITY, 0.0, f32::MIN];
        softmax(&mut row, 4);
        assert_eq!(row, [0.5, 0.0, 0.5, 0.0]);
    }
}
