//! Reductions.

use crate::norm;
use crate::simd::{Isa, Level, Work, dispatch};
use crate::tasks;

/// What is left of many numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// The sum.
    Sum,
    /// The sum divided by their count.
    Mean,
    /// The largest; NaN where one is.
    Max,
    /// The smallest; NaN where one is.
    Min,
    /// The sum of their squares.
    SumSquare,
    /// The sum of their absolute values.
    L1,
    /// The root of the sum of their squares.
    L2,
}

/// Folds the middle one of three dimensions: `out` has `outer * inner` numbers.
///
/// # Panics
/// Where a length does not fit, or the middle dimension is 0.
pub fn fold(kind: Fold, x: &[f32], [outer, n, inner]: [usize; 3], out: &mut [f32]) {
    assert!(
        n > 0 && x.len() == outer * n * inner && out.len() == outer * inner,
        "length"
    );
    if out.is_empty() {
        return;
    }
    let level = Level::detect();
    tasks::chunks(out, inner, n, |at, out| {
        let x = &x[at * n..(at + out.len()) * n];
        dispatch(level, Folded { kind, x, n, inner, out });
    });
}

struct Folded<'a> {
    kind: Fold,
    x: &'a [f32],
    n: usize,
    inner: usize,
    out: &'a mut [f32],
}

impl Work for Folded<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { kind, x, n, inner, out } = self;
        match kind {
            Fold::Sum | Fold::Mean => sums(x, n, inner, out, |v| v),
            Fold::SumSquare | Fold::L2 => sums(x, n, inner, out, |v| v * v),
            Fold::L1 => sums(x, n, inner, out, f32::abs),
            Fold::Max => extremes(x, n, inner, out, |a, b| if b > a || b.is_nan() { b } else { a }),
            Fold::Min => extremes(x, n, inner, out, |a, b| if b < a || b.is_nan() { b } else { a }),
        }
        match kind {
            Fold::Mean => {
                let count = n as f32;
                for y in out {
                    *y /= count;
                }
            }
            Fold::L2 => {
                for y in out {
                    *y = y.sqrt();
                }
            }
            _ => {}
        }
    }
}

#[inline(always)]
fn sums(x: &[f32], n: usize, inner: usize, out: &mut [f32], f: impl Fn(f32) -> f32) {
    if inner == 1 {
        for (y, row) in out.iter_mut().zip(x.chunks_exact(n)) {
            *y = norm::sum(row, &f);
        }
        return;
    }
    for (out, block) in out.chunks_exact_mut(inner).zip(x.chunks_exact(n * inner)) {
        out.fill(0.0);
        for row in block.chunks_exact(inner) {
            for (y, &v) in out.iter_mut().zip(row) {
                *y += f(v);
            }
        }
    }
}

#[inline(always)]
fn extremes(x: &[f32], n: usize, inner: usize, out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    for (out, block) in out.chunks_exact_mut(inner).zip(x.chunks_exact(n * inner)) {
        out.copy_from_slice(&block[..inner]);
        if inner == 1 {
            // Lanes of their own, as for sums.
            let mut lanes = [block[0]; 16];
            let (chunks, rest) = block.as_chunks::<16>();
            for chunk in chunks {
                for (lane, &v) in lanes.iter_mut().zip(chunk) {
                    *lane = f(*lane, v);
                }
            }
            out[0] = lanes.iter().chain(rest).fold(block[0], |a, &b| f(a, b));
            continue;
        }
        for row in block.chunks_exact(inner).skip(1) {
            for (y, &v) in out.iter_mut().zip(row) {
                *y = f(*y, v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fold, fold};
    use crate::testing::{near, noise};

    #[test]
    fn every_fold_is_the_definition() {
        for size in [[1, 1, 1], [3, 70, 1], [5, 7, 9], [40, 49, 33], [2, 1, 5], [2000, 49, 1]] {
            let [outer, n, inner] = size;
            let x = noise(outer * n * inner, 5);
            for kind in [
                Fold::Sum,
                Fold::Mean,
                Fold::Max,
                Fold::Min,
                Fold::SumSquare,
                Fold::L1,
                Fold::L2,
            ] {
                let mut out = vec![f32::NAN; outer * inner];
                fold(kind, &x, size, &mut out);
                let of = |o: usize, i: usize| -> f64 {
                    let v = (0..n).map(|k| f64::from(x[(o * n + k) * inner + i]));
                    match kind {
                        Fold::Sum => v.sum(),
                        Fold::Mean => v.sum::<f64>() / n as f64,
                        Fold::Max => v.fold(f64::NEG_INFINITY, f64::max),
                        Fold::Min => v.fold(f64::INFINITY, f64::min),
                        Fold::SumSquare => v.map(|v| v * v).sum(),
                        Fold::L1 => v.map(f64::abs).sum(),
                        Fold::L2 => v.map(|v| v * v).sum::<f64>().sqrt(),
                    }
                };
                let wanted: Vec<f64> = (0..outer * inner).map(|k| of(k / inner, k % inner)).collect();
                assert!(near(&out, &wanted, 1e-5), "{kind:?} of {size:?}");
            }
        }
    }

    #[test]
    fn an_extreme_of_nan_is_nan() {
        let mut x = [0.0; 40];
        x[7] = f32::NAN;
        let mut out = [0.0];
        fold(Fold::Max, &x, [1, 40, 1], &mut out);
        assert!(out[0].is_nan());
        let mut out = [0.0; 2];
        fold(Fold::Min, &x, [1, 20, 2], &mut out);
        assert!(out[0] == 0.0 && out[1].is_nan());
    }
}
