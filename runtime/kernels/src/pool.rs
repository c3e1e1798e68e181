//! Pools over windows of two dimensions.

use crate::conv::Geometry;
use crate::simd::{Isa, Level, Work, dispatch};
use crate::tasks;

/// What a pool makes of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The largest number within the input; NaN where one is.
    Max,
    /// The mean.
    Average {
        /// Zeros of the padding count; what reaches behind it never does.
        count_pad: bool,
    },
}

/// A pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// What it makes of a window.
    pub kind: Kind,
    /// Rows and columns of a window.
    pub kernel: [usize; 2],
    /// Where windows lie. The last ones may reach behind the padded input.
    pub geometry: Geometry,
}

impl Pool {
    /// Pools every plane of `x`.
    ///
    /// # Panics
    /// Where a length is not what the geometry asks for.
    pub fn run(&self, x: &[f32], out: &mut [f32]) {
        let plane = self.geometry.input[0] * self.geometry.input[1];
        let pixels = self.geometry.pixels();
        assert!(plane > 0 && x.len().is_multiple_of(plane), "input length");
        assert_eq!(out.len(), x.len() / plane * pixels, "output length");
        if pixels == 0 {
            return;
        }
        let level = Level::detect();
        tasks::chunks(out, pixels, self.kernel[0] * self.kernel[1], |at, out| {
            let first = at / pixels;
            let x = &x[first * plane..(first + out.len() / pixels) * plane];
            dispatch(level, Planes { pool: self, x, out });
        });
    }
}

struct Planes<'a> {
    pool: &'a Pool,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Work for Planes<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { pool, x, out } = self;
        let g = &pool.geometry;
        let plane = g.input[0] * g.input[1];
        for (x, out) in x.chunks_exact(plane).zip(out.chunks_exact_mut(g.pixels())) {
            for (r, row) in out.chunks_exact_mut(g.output[1]).enumerate() {
                match pool.kind {
                    Kind::Max => {
                        row.fill(f32::NEG_INFINITY);
                        pool.taps(x, r, row, |y, x| if x > y || x.is_nan() { x } else { y });
                    }
                    Kind::Average { count_pad } => {
                        row.fill(0.0);
                        pool.taps(x, r, row, |y, x| y + x);
                        let rows = pool.count(0, r, count_pad);
                        for (c, y) in row.iter_mut().enumerate() {
                            *y /= (rows * pool.count(1, c, count_pad)).max(1) as f32;
                        }
                    }
                }
            }
        }
    }
}

impl Pool {
    /// Goes over the window's taps, and for each over all pixels of row `r` whose tap lies within the input.
    #[inline(always)]
    fn taps(&self, x: &[f32], r: usize, row: &mut [f32], f: impl Fn(f32, f32) -> f32) {
        let g = &self.geometry;
        let stride = g.stride[1];
        for kr in 0..self.kernel[0] {
            let at = (r * g.stride[0] + kr * g.dilation[0]).wrapping_sub(g.begin[0]);
            if at >= g.input[0] {
                continue;
            }
            let line = &x[at * g.input[1]..(at + 1) * g.input[1]];
            for kc in 0..self.kernel[1] {
                let offset = kc * g.dilation[1];
                let first = g.begin[1].saturating_sub(offset).div_ceil(stride);
                if first >= row.len() {
                    continue;
                }
                let from = first * stride + offset - g.begin[1];
                let Some(line) = line.get(from..) else { continue };
                let row = &mut row[first..];
                // Constant strides become shuffles of whole vectors.
                match stride {
                    1 => each(row, line.iter(), &f),
                    2 => each(row, line.iter().step_by(2), &f),
                    s => each(row, line.iter().step_by(s), &f),
                }
            }
        }
    }

    /// How many places of a window count along a dimension.
    #[inline(always)]
    fn count(&self, d: usize, at: usize, count_pad: bool) -> usize {
        let g = &self.geometry;
        let (first, step) = (at * g.stride[d], g.dilation[d]);
        let inside = |place: usize| {
            if count_pad {
                place < g.begin[d] + g.input[d] + g.end[d]
            } else {
                place >= g.begin[d] && place < g.begin[d] + g.input[d]
            }
        };
        (0..self.kernel[d]).filter(|k| inside(first + k * step)).count()
    }
}

#[inline(always)]
fn each<'x>(row: &mut [f32], x: impl Iterator<Item = &'x f32>, f: impl Fn(f32, f32) -> f32) {
    for (y, &x) in row.iter_mut().zip(x) {
        *y = f(*y, x);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Kind, Pool};
    use crate::conv::Geometry;
    use crate::testing::{near, noise};

    proptest! {
        #[test]
        fn every_window_is_pooled_as_defined(
            input in [1..12usize, 1..40usize],
            kernel in [1..4usize, 1..4usize],
            stride in [1..4usize, 1..4usize],
            dilation in [1..3usize, 1..3usize],
            begin in [0..3usize, 0..3usize],
            over in [0..2usize, 0..2usize],
            (count_pad, average) in any::<(bool, bool)>(),
            seed in any::<u32>(),
        ) {
            let mut g = Geometry { input, output: [0; 2], stride, dilation, begin, end: begin };
            for d in 0..2 {
                let Some(span) = g.padded()[d].checked_sub((kernel[d] - 1) * dilation[d] + 1) else { return Ok(()) };
                // A partial last window, as `ceil_mode` makes them.
                g.output[d] = span / stride[d] + 1 + over[d];
            }
            let kind = if average { Kind::Average { count_pad } } else { Kind::Max };
            let x = noise(3 * input[0] * input[1], seed);
            let mut wanted = Vec::new();
            for plane in x.chunks(input[0] * input[1]) {
                for r in 0..g.output[0] {
                    for c in 0..g.output[1] {
                        let (mut top, mut sum, mut count) = (f64::NEG_INFINITY, 0.0, 0);
                        for i in 0..kernel[0] {
                            for j in 0..kernel[1] {
                                let (y, z) = (r * stride[0] + i * dilation[0], c * stride[1] + j * dilation[1]);
                                count += usize::from(count_pad && y < g.padded()[0] && z < g.padded()[1]);
                                let (y, z) = (y.wrapping_sub(begin[0]), z.wrapping_sub(begin[1]));
                                if y < input[0] && z < input[1] {
                                    let v = f64::from(plane[y * input[1] + z]);
                                    top = top.max(v);
                                    sum += v;
                                    count += usize::from(!count_pad);
                                }
                            }
                        }
                        wanted.push(if average { sum / count.max(1) as f64 } else { top });
                    }
                }
            }
            let mut out = vec![f32::NAN; wanted.len()];
            Pool { kind, kernel, geometry: g }.run(&x, &mut out);
            for (&f, &w) in out.iter().zip(&wanted) {
                prop_assert!(f64::from(f) == w || near(&[f], &[w], 1e-6), "{f} instead of {w}");
            }
        }
    }
}
