//! The matrix product behind a convolution: packing of both sides, and the loop over tiles with everything that is done
//! to a result while it is in the cache.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::finish::within;
use crate::simd::{Isa, Level, MAX_TILE, Tile, Work, dispatch};

/// Taps that are packed at a time: a panel of windows then fits the first cache, a block the second.
const DEPTH: usize = 384;

/// Floats that are copied at a time from a row of the image.
const CHUNK: usize = 8;

/// Buffers that a thread keeps; a larger one goes back to the allocator.
const KEPT: usize = 4 << 20;

/// What all blocks of a run have in common.
pub(crate) struct Source<'a> {
    /// Where each tap reads, relative to its window.
    pub(crate) taps: &'a [usize],
    /// From one window to the next in a row.
    pub(crate) stride: usize,
    pub(crate) clamp: Option<(f32, f32)>,
    pub(crate) accumulate: bool,
}

/// Pixels of one row of the output that lie in one panel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// Pixels of the block in front of it.
    pub(crate) to: usize,
    /// Where its first window begins in the padded image.
    pub(crate) from: usize,
    pub(crate) len: usize,
}

/// Some filters at some pixels.
pub(crate) struct Block<'a> {
    /// Panels of the group's filters, from this block's first on.
    pub(crate) weights: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    /// The group's channels.
    pub(crate) x: &'a [f32],
    pub(crate) segments: Vec<Segment>,
    /// For each filter its part of the output.
    pub(crate) rows: Vec<&'a mut [f32]>,
}

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of this length with any content.
pub(crate) fn borrow(len: usize) -> Vec<f32> {
    let mut buffer = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
    buffer.resize(len, 0.0);
    buffer
}

/// Keeps a buffer for this thread's next `borrow`.
pub(crate) fn give_back(buffer: Vec<f32>) {
    BUFFERS.with_borrow_mut(|buffers| {
        if buffers.len() < 2 && buffer.capacity() <= KEPT {
            buffers.push(buffer);
        }
    });
}

/// Lays the weights of each group out in panels of `rows` filters, taps outermost; missing filters are 0.
pub(crate) fn pack_rows(weights: &[f32], filters: usize, groups: usize, taps: usize, rows: usize) -> Vec<f32> {
    let panels = filters.div_ceil(rows);
    let mut packed = vec![0.0; groups * panels * rows * taps];
    packed
        .par_chunks_exact_mut(rows * taps)
        .enumerate()
        .for_each(|(p, panel)| {
            let (group, first) = (p / panels, p % panels * rows);
            for r in 0..rows.min(filters - first) {
                let from = &weights[(group * filters + first + r) * taps..][..taps];
                for (to, &w) in panel[r..].iter_mut().step_by(rows).zip(from) {
                    *to = w;
                }
            }
        });
    packed
}

/// Computes a block.
pub(crate) fn run(level: Level, source: &Source<'_>, block: Block<'_>) {
    dispatch(level, Product { source, block });
}

struct Product<'a, 'b> {
    source: &'a Source<'b>,
    block: Block<'a>,
}

impl Work for Product<'_, '_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { source, mut block } = self;
        let Some(pixels) = block.rows.first().map(|r| r.len()) else {
            return;
        };
        let panels = pixels.div_ceil(I::NR);
        let all = source.taps.len();
        // Copies go beyond their segment by less than a chunk.
        let mut windows = borrow(panels * I::NR * all.min(DEPTH) + CHUNK);
        let mut tile: Tile = [0.0; MAX_TILE];
        for first in (0..all).step_by(DEPTH) {
            let taps = &source.taps[first..all.min(first + DEPTH)];
            pack_windows::<I>(source.stride, &block, taps, &mut windows);
            let add = source.accumulate || first > 0;
            let last = first + taps.len() == all;
            for (f, rows) in block.rows.chunks_mut(I::MR).enumerate() {
                let weights = &block.weights[(f * all + first) * I::MR..][..taps.len() * I::MR];
                for p in 0..panels {
                    let windows = &windows[p * I::NR * taps.len()..][..I::NR * taps.len()];
                    // SAFETY: the caller of `run` vouches for the instructions of `I`.
                    unsafe { I::product(weights, windows, &mut tile) };
                    for (r, row) in rows.iter_mut().enumerate() {
                        let sums = &tile[r * I::NR..(r + 1) * I::NR];
                        let end = pixels.min((p + 1) * I::NR);
                        let row = &mut row[p * I::NR..end];
                        let bias = block.bias.map_or(0.0, |b| b[f * I::MR + r]);
                        match (last, source.clamp) {
                            (false, _) => store(row, sums, add, 0.0, None),
                            (true, clamp) => store(row, sums, add, bias, clamp),
                        }
                    }
                }
            }
        }
        give_back(windows);
    }
}

/// Writes sums into a row of the output.
#[inline(always)]
fn store(row: &mut [f32], sums: &[f32], add: bool, bias: f32, clamp: Option<(f32, f32)>) {
    if add {
        for (y, &s) in row.iter_mut().zip(sums) {
            *y += s + bias;
        }
    } else {
        for (y, &s) in row.iter_mut().zip(sums) {
            *y = s + bias;
        }
    }
    if let Some(bounds) = clamp {
        for y in row {
            *y = within(*y, bounds);
        }
    }
}

/// Copies what the windows of all pixels read at these taps: for each panel, `NR` numbers for each tap.
#[inline(always)]
fn pack_windows<I: Isa>(stride: usize, block: &Block<'_>, taps: &[usize], windows: &mut [f32]) {
    let mut rest = block.segments.as_slice();
    let mut panel = 0;
    while let Some(first) = rest.first() {
        let end = (panel + 1) * I::NR;
        let n = rest.iter().take_while(|s| s.to < end).count();
        let (segments, others) = rest.split_at(n);
        rest = others;
        let base = panel * I::NR * taps.len();
        if stride == 1 && first.len == I::NR {
            for (to, &tap) in windows[base..].chunks_exact_mut(I::NR).zip(taps) {
                to.copy_from_slice(&block.x[first.from + tap..][..I::NR]);
            }
        } else {
            for (k, &tap) in taps.iter().enumerate() {
                for s in segments {
                    let to = base + k * I::NR + s.to - panel * I::NR;
                    copy(stride, &mut windows[to..], &block.x[s.from + tap..], s.len);
                }
            }
        }
        panel += 1;
    }
}

/// Copies `len` numbers that lie `stride` apart; may write up to a chunk more, which later copies overwrite.
#[inline(always)]
fn copy(stride: usize, to: &mut [f32], from: &[f32], len: usize) {
    if stride == 2 {
        // Constant strides become shuffles of whole vectors.
        let (whole, rest) = to[..len].as_chunks_mut::<CHUNK>();
        let mut pairs = from.chunks(2 * CHUNK);
        for to in whole {
            let from = pairs.next().unwrap_or_default();
            if let Some(from) = from.first_chunk::<{ 2 * CHUNK - 1 }>() {
                for (k, to) in to.iter_mut().enumerate() {
                    *to = from[2 * k];
                }
            }
        }
        for (to, &x) in rest.iter_mut().zip(pairs.next().unwrap_or_default().iter().step_by(2)) {
            *to = x;
        }
        return;
    }
    if stride != 1 {
        for (to, &x) in to[..len].iter_mut().zip(from.iter().step_by(stride)) {
            *to = x;
        }
        return;
    }
    let chunks = len.div_ceil(CHUNK);
    let (to_chunks, from_chunks) = (to.as_chunks_mut::<CHUNK>().0, from.as_chunks::<CHUNK>().0);
    if chunks <= to_chunks.len() && chunks <= from_chunks.len() {
        for (to, from) in to_chunks.iter_mut().zip(from_chunks).take(chunks) {
            *to = *from;
        }
    } else {
        to[..len].copy_from_slice(&from[..len]);
    }
}
