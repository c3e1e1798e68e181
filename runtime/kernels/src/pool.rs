//! Pools over windows of two dimensions.

use crate::conv::Geometry;
#[cfg(target_arch = "x86_64")]
use crate::direct;
use crate::gemm::{borrow, give_back};
use crate::planes::{Planes, Vector};
use crate::simd::{Isa, Last, Level, MAX_TILE, Tile, Work, dispatch};
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
        self.run_at(Level::detect(), x, out);
    }

    fn run_at(&self, level: Level, x: &[f32], out: &mut [f32]) {
        let plane = self.geometry.input[0] * self.geometry.input[1];
        let pixels = self.geometry.pixels();
        assert!(plane > 0 && x.len().is_multiple_of(plane), "input length");
        assert_eq!(out.len(), x.len() / plane * pixels, "output length");
        if pixels == 0 {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if self.kind == Kind::Max && level == Level::Avx512 && direct::pools(&self.geometry, self.kernel) {
            return self.in_place(x, out);
        }
        let (planes, vectors) = self.laid_out(level.columns() / 2);
        // The costs of a copy and of the taps, by the time that they take.
        tasks::chunks(out, pixels, 60 + 8 * self.kernel[0] * self.kernel[1], |at, out| {
            let first = at / pixels;
            let x = &x[first * plane..(first + out.len() / pixels) * plane];
            match self.kind {
                Kind::Max => dispatch(
                    level,
                    Maxima {
                        planes: &planes,
                        vectors: &vectors,
                        x,
                        plane,
                        pixels,
                        out,
                    },
                ),
                Kind::Average { count_pad } => dispatch(
                    level,
                    Means {
                        pool: self,
                        count_pad,
                        x,
                        out,
                    },
                ),
            }
        });
    }

    /// Maxima without a copy. Only at the level of AVX-512, for windows of which `direct::pools` says so.
    #[cfg(target_arch = "x86_64")]
    fn in_place(&self, x: &[f32], out: &mut [f32]) {
        let plane = self.geometry.input[0] * self.geometry.input[1];
        let pixels = self.geometry.pixels();
        tasks::chunks(out, pixels, 2 + self.kernel[0] * self.kernel[1], |at, out| {
            let x = x[at / pixels * plane..].chunks_exact(plane);
            for (x, out) in x.zip(out.chunks_exact_mut(pixels)) {
                // SAFETY: a value of the level exists only where its instructions were found.
                unsafe { direct::maxima(&self.geometry, self.kernel[0], x, out) };
            }
        });
    }

    /// How the planes lie for the taps, with everything that windows reach behind the input.
    fn laid_out(&self, lanes: usize) -> (Planes, Vec<Vector>) {
        let mut g = self.geometry;
        for d in 0..2 {
            let reach = (g.output[d] - 1) * g.stride[d] + (self.kernel[d] - 1) * g.dilation[d] + 1;
            g.end[d] = g.end[d].max(reach.saturating_sub(g.begin[d] + g.input[d]));
        }
        let mut planes = Planes::new(&g, self.kernel, lanes, false);
        planes.in_place = false;
        let vectors = planes.vectors(lanes);
        (planes, vectors)
    }
}

/// Vectors whose maxima are found at a time.
const WIDE: usize = 4;

struct Maxima<'a> {
    planes: &'a Planes,
    vectors: &'a [Vector],
    x: &'a [f32],
    plane: usize,
    pixels: usize,
    out: &'a mut [f32],
}

impl Work for Maxima<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let planes = self.planes;
        let mut tile: Tile = [0.0; MAX_TILE];
        let mut buffer = borrow(planes.space(1));
        planes.write_padding(f32::NEG_INFINITY, &mut buffer);
        for (x, out) in self
            .x
            .chunks_exact(self.plane)
            .zip(self.out.chunks_exact_mut(self.pixels))
        {
            // SAFETY: the caller of `run` vouches for the instructions of `I`.
            unsafe { planes.write::<I>(x, &mut buffer) };
            let mut rest = self.vectors;
            while let Some(first) = rest.first() {
                // Vectors without a window are left out of the list, so only neighbours go together.
                let near = rest.iter().take(WIDE).enumerate();
                let n = near.take_while(|(k, v)| v.from == first.from + k * I::LANES).count();
                let reach = first.from + planes.reach + WIDE * I::LANES;
                assert!(reach <= buffer.len(), "windows reach behind their plane");
                let x = buffer[first.from..].as_ptr();
                // SAFETY: the caller of `run` vouches for the instructions of `I`, the assertion for the memory.
                unsafe {
                    match n {
                        1 => I::maxima::<1>(x, &planes.window, &mut tile),
                        _ => I::maxima::<WIDE>(x, &planes.window, &mut tile),
                    }
                }
                let (group, others) = rest.split_at(n);
                rest = others;
                for (v, top) in group.iter().zip(tile.chunks_exact(I::LANES)) {
                    // SAFETY: the caller of `run` vouches for the instructions of `I`.
                    unsafe { I::put(top, v.keep, Last::NOTHING, &mut out[v.to..]) };
                }
            }
        }
        give_back(buffer);
    }
}

struct Means<'a> {
    pool: &'a Pool,
    count_pad: bool,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Work for Means<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self {
            pool,
            count_pad,
            x,
            out,
        } = self;
        let g = &pool.geometry;
        let plane = g.input[0] * g.input[1];
        let columns: Vec<f32> = (0..g.output[1]).map(|c| pool.count(1, c, count_pad) as f32).collect();
        for (x, out) in x.chunks_exact(plane).zip(out.chunks_exact_mut(g.pixels())) {
            for (r, row) in out.chunks_exact_mut(g.output[1]).enumerate() {
                row.fill(0.0);
                pool.taps(x, r, row, |y, x| y + x);
                let rows = pool.count(0, r, count_pad) as f32;
                for (y, columns) in row.iter_mut().zip(&columns) {
                    *y /= (rows * columns).max(1.0);
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
    use crate::simd::Level;
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
            for level in Level::all() {
                let mut out = vec![f32::NAN; wanted.len()];
                Pool { kind, kernel, geometry: g }.run_at(level, &x, &mut out);
                for (&f, &w) in out.iter().zip(&wanted) {
                    prop_assert!(f64::from(f) == w || near(&[f], &[w], 1e-6), "{f} instead of {w} at {level:?}");
                }
            }
        }
    }

    #[test]
    fn the_largest_of_numbers_and_a_nan_is_nan_wherever_it_is() {
        let geometry = Geometry {
            input: [3, 40],
            output: [1, 38],
            stride: [1; 2],
            dilation: [1; 2],
            begin: [0; 2],
            end: [0; 2],
        };
        let pool = Pool {
            kind: Kind::Max,
            kernel: [3, 3],
            geometry,
        };
        for level in Level::all() {
            for at in 0..120 {
                let mut x = noise(120, 5);
                x[at] = f32::NAN;
                let mut out = vec![0.0; 38];
                pool.run_at(level, &x, &mut out);
                for (c, y) in out.iter().enumerate() {
                    let inside = (c..c + 3).contains(&(at % 40));
                    assert_eq!(y.is_nan(), inside, "column {c}, NaN at {at}, {level:?}");
                }
            }
        }
    }
}
