//! The planes of an image laid out so that every tap of a window reads neighbours, whatever the stride.
//!
//! A plane gets its padding around it; with a stride it is taken apart into one part for each place within a step that a
//! tap falls on. Then all windows are one long row: those between the end of one row of windows and the begin of the next
//! are computed too, and left out when results are written (`Vector::keep`).

use crate::conv::Geometry;

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
    /// Places within a step that have a part: rows, then columns.
    places: [Vec<usize>; 2],
    /// From one plane to the next.
    pub(crate) pitch: usize,
    /// Where each tap reads, relative to its window.
    pub(crate) window: Vec<usize>,
    /// The largest of them.
    pub(crate) reach: usize,
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
        Self {
            geometry: *g,
            in_place,
            part,
            places,
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
                    keep |= ((1u64 << (last - first)) - 1 << (first - from)) as u32;
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

    /// Writes a plane in this layout, `fill` where the padding is.
    #[inline(always)]
    pub(crate) fn write(&self, x: &[f32], fill: f32, to: &mut [f32]) {
        let g = &self.geometry;
        let [height, width] = self.part;
        let [sr, sc] = g.stride;
        let parts = to[..self.pitch].chunks_exact_mut(height * width);
        let places = self.places[0].iter().flat_map(|r| self.places[1].iter().map(move |c| [*r, *c]));
        for (part, [pr, pc]) in parts.zip(places) {
            // The first column of the input that falls on this place, and where it goes.
            let skip = (pc + sc - g.begin[1] % sc) % sc;
            let left = ((skip + g.begin[1]) / sc).min(width);
            let n = g.input[1].saturating_sub(skip).div_ceil(sc).min(width - left);
            for (r, row) in part.chunks_exact_mut(width).enumerate() {
                let at = (r * sr + pr).wrapping_sub(g.begin[0]);
                if at >= g.input[0] || n == 0 {
                    row.fill(fill);
                    continue;
                }
                let from = &x[at * g.input[1] + skip..(at + 1) * g.input[1]];
                let (head, rest) = row.split_at_mut(left);
                let (body, tail) = rest.split_at_mut(n);
                head.fill(fill);
                tail.fill(fill);
                // Constant strides become shuffles of whole vectors.
                match sc {
                    1 => body.copy_from_slice(&from[..n]),
                    2 => body.iter_mut().zip(from.iter().step_by(2)).for_each(|(to, x)| *to = *x),
                    s => body.iter_mut().zip(from.iter().step_by(s)).for_each(|(to, x)| *to = *x),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Planes;
    use crate::conv::Geometry;

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
                planes.write(&x, 0.0, &mut laid);
            }
            let mut found = vec![Vec::new(); g.pixels()];
            for v in planes.vectors(lanes) {
                prop_assert!(v.from + planes.reach + lanes <= laid.len());
                let mut to = v.to;
                for lane in (0..lanes).filter(|lane| v.keep >> lane & 1 == 1) {
                    found[to].extend(planes.window.iter().map(|tap| laid[v.from + lane + tap]));
                    to += 1;
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
