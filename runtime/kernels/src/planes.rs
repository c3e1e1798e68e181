//! The planes of an image laid out so that every tap of a window reads neighbours, whatever the stride.
//!
//! A plane gets its padding around it; with a stride it is taken apart into one part for each place within a step that a
//! tap falls on. Then all windows are one long row: those between the end of one row of windows and the begin of the next
//! are computed too, and left out when results are written (`Vector::keep`).

use crate::conv::Geometry;
use crate::simd::{Isa, Level, Work, dispatch};

/// Floats of a plane up to which it is filled as a whole before its padding is what is left of that.
const SMALL: usize = 2048;

/// Floats behind the last plane that may be read for windows which are left out.
pub(crate) const SLACK: usize = 512;

/// Planes whose distance is a multiple of this many floats fall on the same few places of the first cache.
const ALIAS: usize = 256;

/// How planes lie in memory, and where windows begin in them.
pub(crate) struct Planes {
    geometry: Geometry,
    /// Whether they lie as they came.
    pub(crate) in_place: bool,
    /// Rows and columns of a part.
    part: [usize; 2],
    /// What is copied from the input.
    bodies: Vec<Body>,
    /// From one plane to the next.
    pub(crate) pitch: usize,
    /// Where each tap reads, relative to its window.
    pub(crate) window: Vec<usize>,
    /// The largest of them.
    pub(crate) reach: usize,
}

/// A part's numbers that come from the input.
struct Body {
    /// The first one's place in the input, and in the laid out plane.
    from: usize,
    to: usize,
    /// How many there are.
    rows: usize,
    columns: usize,
}

/// Windows that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vector {
    /// Where the first begins in its plane.
    pub(crate) from: usize,
    /// A bit for each that is one.
    pub(crate) keep: u32,
    /// Where the results of those go.
    pub(crate) to: usize,
}

impl Planes {
    /// The layout for windows of this size. With `copies`, planes that could stay as they are get a better distance where
    /// theirs is a bad one.
    pub(crate) fn new(geometry: &Geometry, kernel: [usize; 2], lanes: usize, copies: bool) -> Self {
        let g = geometry;
        let size = g.input[0] * g.input[1];
        let in_place = g.stride == [1, 1]
            && !g.is_padded()
            && (g.output[0] - 1) * g.input[1] + g.output[1] >= lanes
            && !(copies && size.is_multiple_of(ALIAS));
        let padded = g.padded();
        let part = [0, 1].map(|d| padded[d].div_ceil(g.stride[d]));
        let places = [0, 1].map(|d| {
            let mut places: Vec<usize> = (0..kernel[d]).map(|k| k * g.dilation[d] % g.stride[d]).collect();
            places.sort_unstable();
            places.dedup();
            places
        });
        let mut window = Vec::with_capacity(kernel[0] * kernel[1]);
        for kr in 0..kernel[0] {
            for kc in 0..kernel[1] {
                let (r, c) = (kr * g.dilation[0], kc * g.dilation[1]);
                let place = |d: usize, at: usize| places[d].iter().position(|&p| p == at % g.stride[d]).unwrap_or(0);
                let number = place(0, r) * places[1].len() + place(1, c);
                window.push((number * part[0] + r / g.stride[0]) * part[1] + c / g.stride[1]);
            }
        }
        let parts = places[0].len() * places[1].len() * part[0] * part[1];
        let pitch = match (in_place, parts.is_multiple_of(ALIAS)) {
            (true, _) => size,
            (false, false) => parts,
            (false, true) => parts + 16,
        };
        // The input's first row or column that falls on a place, where it goes, and how many there are.
        let along = |d: usize, place: usize| {
            let skip = (place + g.stride[d] - g.begin[d] % g.stride[d]) % g.stride[d];
            let to = ((skip + g.begin[d]) / g.stride[d]).min(part[d]);
            let n = g.input[d].saturating_sub(skip).div_ceil(g.stride[d]);
            (skip, to, n.min(part[d] - to))
        };
        let mut bodies = Vec::with_capacity(places[0].len() * places[1].len());
        for (number, (&pr, &pc)) in places[0]
            .iter()
            .flat_map(|r| places[1].iter().map(move |c| (r, c)))
            .enumerate()
        {
            let ((top, row, rows), (left, column, columns)) = (along(0, pr), along(1, pc));
            bodies.push(Body {
                from: top * g.input[1] + left,
                to: (number * part[0] + row) * part[1] + column,
                rows: if columns == 0 { 0 } else { rows },
                columns,
            });
        }
        Self {
            geometry: *g,
            in_place,
            part,
            bodies,
            pitch,
            reach: window.iter().copied().max().unwrap_or(0),
            window,
        }
    }

    /// Floats that so many planes take, with what may be read behind them.
    pub(crate) fn space(&self, planes: usize) -> usize {
        planes * self.pitch + SLACK
    }

    /// All windows, `lanes` at a time. Where planes lie in place nothing behind the last is read.
    pub(crate) fn vectors(&self, lanes: usize) -> Vec<Vector> {
        let [rows, columns] = self.geometry.output;
        let width = self.part[1];
        let total = (rows - 1) * width + columns;
        let count = total.div_ceil(lanes);
        let mut vectors = Vec::with_capacity(count);
        // The first row of windows that the next vector may have a part of.
        let mut row = 0;
        let mut done = 0;
        for v in 0..count {
            let begin = v * lanes;
            let end = begin + lanes;
            let from = if self.in_place { begin.min(total - lanes) } else { begin };
            let (mut keep, mut n) = (0u32, 0);
            while row < rows && row * width < end {
                let first = begin.max(row * width);
                let last = end.min(row * width + columns);
                if first < last {
                    keep |= (((1u64 << (last - first)) - 1) << (first - from)) as u32;
                    n += last - first;
                }
                if row * width + columns > end {
                    break;
                }
                row += 1;
            }
            if n > 0 {
                vectors.push(Vector { from, keep, to: done });
            }
            done += n;
        }
        vectors
    }

    /// Writes the padding of a plane, which stays while planes are written over each other.
    pub(crate) fn write_padding(&self, fill: f32, to: &mut [f32]) {
        let to = &mut to[..self.pitch];
        if self.pitch <= SMALL {
            return to.fill(fill);
        }
        let mut done = 0;
        for body in &self.bodies {
            for row in 0..body.rows {
                let at = body.to + row * self.part[1];
                to[done..at].fill(fill);
                done = at + body.columns;
            }
        }
        to[done..].fill(fill);
    }

    /// Writes a plane, without its padding.
    ///
    /// # Safety
    /// The CPU has the instructions of `I`.
    #[inline(always)]
    pub(crate) unsafe fn write<I: Isa>(&self, x: &[f32], to: &mut [f32]) {
        let [sr, sc] = self.geometry.stride;
        let line = sr * self.geometry.input[1];
        for body in &self.bodies {
            for row in 0..body.rows {
                let from = &x[body.from + row * line..];
                let to = &mut to[body.to + row * self.part[1]..][..body.columns];
                // SAFETY: this function's own condition.
                unsafe { I::copy(from, sc, to) };
            }
        }
    }
}

/// Lays planes out one behind the other, with zeros around them where what is there is `fresh`.
pub(crate) fn lay_out(level: Level, planes: &Planes, fresh: bool, x: &[f32], plane: usize, to: &mut [f32]) {
    dispatch(
        level,
        Layout {
            planes,
            fresh,
            x,
            plane,
            to,
        },
    );
}

struct Layout<'a> {
    planes: &'a Planes,
    fresh: bool,
    x: &'a [f32],
    plane: usize,
    to: &'a mut [f32],
}

impl Work for Layout<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let to = self.to.chunks_exact_mut(self.planes.pitch);
        for (to, x) in to.zip(self.x.chunks_exact(self.plane)) {
            if self.fresh {
                self.planes.write_padding(0.0, to);
            }
            // SAFETY: the caller of `run` vouches for the instructions of `I`.
            unsafe { self.planes.write::<I>(x, to) };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Planes;
    use crate::conv::Geometry;
    use crate::simd::Portable;

    proptest! {
        #[test]
        fn every_window_is_kept_once_and_reads_its_own_taps(
            input in [1..12usize, 1..30usize],
            kernel in [1..4usize, 1..4usize],
            stride in [1..4usize, 1..4usize],
            dilation in [1..3usize, 1..3usize],
            (begin, end) in ([0..3usize, 0..3usize], [0..3usize, 0..3usize]),
            lanes in prop_oneof![Just(4usize), Just(8), Just(16)],
        ) {
            let mut g = Geometry { input, output: [0; 2], stride, dilation, begin, end };
            for d in 0..2 {
                let Some(span) = g.padded()[d].checked_sub((kernel[d] - 1) * dilation[d] + 1) else { return Ok(()) };
                g.output[d] = span / stride[d] + 1;
            }
            let planes = Planes::new(&g, kernel, lanes, false);
            let x: Vec<f32> = (1..=input[0] * input[1]).map(|n| n as f32).collect();
            let mut laid = x.clone();
            if !planes.in_place {
                laid = vec![f32::NAN; planes.space(1)];
                planes.write_padding(0.0, &mut laid);
                // SAFETY: the portable level needs nothing.
                unsafe { planes.write::<Portable>(&x, &mut laid) };
            }
            let mut found = vec![Vec::new(); g.pixels()];
            for v in planes.vectors(lanes) {
                prop_assert!(v.from + planes.reach + lanes <= laid.len());
                let kept = (0..lanes).filter(|lane| v.keep >> lane & 1 == 1);
                for (found, lane) in found[v.to..].iter_mut().zip(kept) {
                    found.extend(planes.window.iter().map(|tap| laid[v.from + lane + tap]));
                }
            }
            for (pixel, found) in found.iter().enumerate() {
                let (r, c) = (pixel / g.output[1], pixel % g.output[1]);
                let mut wanted = Vec::new();
                for i in 0..kernel[0] {
                    for j in 0..kernel[1] {
                        let y = (r * stride[0] + i * dilation[0]).wrapping_sub(begin[0]);
                        let z = (c * stride[1] + j * dilation[1]).wrapping_sub(begin[1]);
                        let inside = y < input[0] && z < input[1];
                        wanted.push(if inside { x[y * input[1] + z] } else { 0.0 });
                    }
                }
                prop_assert_eq!(found, &wanted, "window {}", pixel);
            }
        }
    }
}
