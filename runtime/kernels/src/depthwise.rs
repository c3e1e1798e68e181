//! Convolutions of one channel: no sum over channels, so a matrix product would only copy.

use crate::conv::Geometry;
use crate::finish::within;
use crate::gemm::{borrow, give_back};
use crate::simd::{Isa, Level, Work, dispatch};

/// One channel's convolution.
pub(crate) struct Plane<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) weights: &'a [f32],
    pub(crate) kernel: [usize; 2],
    pub(crate) geometry: Geometry,
    pub(crate) bias: f32,
    pub(crate) clamp: Option<(f32, f32)>,
    pub(crate) accumulate: bool,
}

/// Writes a channel with its zeros around it.
pub(crate) fn pad(x: &[f32], geometry: &Geometry, to: &mut [f32]) {
    let width = geometry.padded()[1];
    let [top, left] = geometry.begin;
    let [rows, columns] = geometry.input;
    let (head, rest) = to.split_at_mut(top * width);
    let (body, tail) = rest.split_at_mut(rows * width);
    head.fill(0.0);
    tail.fill(0.0);
    for (to, from) in body.chunks_exact_mut(width).zip(x.chunks_exact(columns)) {
        to[..left].fill(0.0);
        to[left..left + columns].copy_from_slice(from);
        to[left + columns..].fill(0.0);
    }
}

/// Convolves one channel into `out`.
pub(crate) fn plane(level: Level, plane: &Plane<'_>, out: &mut [f32]) {
    let padded = plane.geometry.padded();
    if padded == plane.geometry.input {
        return dispatch(level, Rows { plane, x: plane.x, out });
    }
    let mut buffer = borrow(padded[0] * padded[1]);
    pad(plane.x, &plane.geometry, &mut buffer);
    dispatch(level, Rows { plane, x: &buffer, out });
    give_back(buffer);
}

struct Rows<'a> {
    plane: &'a Plane<'a>,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Work for Rows<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { plane, x, out } = self;
        let g = &plane.geometry;
        let [_, width] = g.padded();
        for (r, row) in out.chunks_exact_mut(g.output[1]).enumerate() {
            if !plane.accumulate {
                row.fill(0.0);
            }
            for (kr, weights) in plane.weights.chunks_exact(plane.kernel[1]).enumerate() {
                let line = &x[(r * g.stride[0] + kr * g.dilation[0]) * width..];
                for (kc, &w) in weights.iter().enumerate() {
                    let line = &line[kc * g.dilation[1]..];
                    // Constant strides become shuffles of whole vectors.
                    match g.stride[1] {
                        1 => tap::<I>(row, line.iter(), w),
                        2 => tap::<I>(row, line.iter().step_by(2), w),
                        s => tap::<I>(row, line.iter().step_by(s), w),
                    }
                }
            }
            for y in row.iter_mut() {
                *y += plane.bias;
            }
            if let Some(bounds) = plane.clamp {
                for y in row {
                    *y = within(*y, bounds);
                }
            }
        }
    }
}

/// Adds one tap of a window to a row of results.
#[inline(always)]
fn tap<'x, I: Isa>(row: &mut [f32], x: impl Iterator<Item = &'x f32>, w: f32) {
    for (y, &x) in row.iter_mut().zip(x) {
        *y = if I::FMA { w.mul_add(x, *y) } else { w * x + *y };
    }
}
