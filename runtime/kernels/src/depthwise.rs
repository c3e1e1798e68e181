//! Convolutions of one channel: no sum over channels, so a matrix product would only copy.
//!
//! The channel is laid out with its zeros around it, and with a stride taken apart into one image for each place within a
//! step, so that whatever the stride, every tap reads neighbours. Then all pixels are one long row: those between the end
//! of one row of windows and the begin of the next are computed too and left out when the rows are copied.

use crate::conv::Geometry;
use crate::finish::within;
use crate::gemm::{borrow, give_back};
use crate::math::fma;
use crate::simd::{Isa, Level, Work, dispatch};

/// Pixels that are summed up at a time, in registers.
const LANES: usize = 32;

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
    dispatch(level, Rows { plane, out });
}

/// Rows and columns of the image for one place within a step.
fn part(geometry: &Geometry) -> [usize; 2] {
    let padded = geometry.padded();
    [0, 1].map(|d| padded[d].div_ceil(geometry.stride[d]))
}

/// Writes the padded channel, taken apart.
#[inline(always)]
fn take_apart(x: &[f32], geometry: &Geometry, to: &mut [f32]) {
    let [height, width] = part(geometry);
    let [sr, sc] = geometry.stride;
    to.fill(0.0);
    for (r, row) in x.chunks_exact(geometry.input[1]).enumerate() {
        let r = r + geometry.begin[0];
        for place in 0..sc {
            // The first column of the input at this place.
            let skip = (place + sc - geometry.begin[1] % sc) % sc;
            if skip >= row.len() {
                continue;
            }
            let at = ((r % sr * sc + place) * height + r / sr) * width + (skip + geometry.begin[1]) / sc;
            let from = &row[skip..];
            let to = &mut to[at..][..from.len().div_ceil(sc)];
            // Constant strides become shuffles of whole vectors.
            match sc {
                1 => to.copy_from_slice(from),
                2 => to.iter_mut().zip(from.iter().step_by(2)).for_each(|(to, x)| *to = *x),
                s => to.iter_mut().zip(from.iter().step_by(s)).for_each(|(to, x)| *to = *x),
            }
        }
    }
}

struct Rows<'a> {
    plane: &'a Plane<'a>,
    out: &'a mut [f32],
}

impl Work for Rows<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { plane, out } = self;
        let g = &plane.geometry;
        let [height, width] = part(g);
        let [sr, sc] = g.stride;
        let pixels = (g.output[0] - 1) * width + g.output[1];
        let rounded = pixels.next_multiple_of(LANES);
        let image = sr * sc * height * width;
        // What is read behind the image goes into pixels that are left out.
        let mut buffer = borrow(image + rounded);
        take_apart(plane.x, g, &mut buffer[..image]);
        let tap = |kr: usize, kc: usize| {
            let (r, c) = (kr * g.dilation[0], kc * g.dilation[1]);
            ((r % sr * sc + c % sc) * height + r / sr) * width + c / sc
        };
        let places = (0..plane.kernel[0]).flat_map(|kr| (0..plane.kernel[1]).map(move |kc| (kr, kc)));
        let taps: Vec<(usize, f32)> = places
            .map(|(kr, kc)| tap(kr, kc))
            .zip(plane.weights.iter().copied())
            .collect();
        let mut sums = borrow(rounded);
        for (at, sums) in sums.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let mut lanes = [plane.bias; LANES];
            for &(tap, w) in &taps {
                let x = &buffer[at * LANES + tap..][..LANES];
                for (lane, &x) in lanes.iter_mut().zip(x) {
                    *lane = fma::<I>(w, x, *lane);
                }
            }
            *sums = lanes;
        }
        for (row, sums) in out.chunks_exact_mut(g.output[1]).zip(sums.chunks(width)) {
            if plane.accumulate {
                row.iter_mut().zip(sums).for_each(|(y, s)| *y += s);
            } else {
                row.copy_from_slice(&sums[..row.len()]);
            }
            if let Some(bounds) = plane.clamp {
                for y in row {
                    *y = within(*y, bounds);
                }
            }
        }
        give_back(sums);
        give_back(buffer);
    }
}
