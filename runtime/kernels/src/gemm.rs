//! The matrix product behind a convolution: packing of the filters, and the loop over tiles with everything that is done to
//! a result while it is in the cache. Windows are not copied: each tap of neighbouring windows is read where it lies.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::planes::{Planes, Vector};
use crate::shared::Shared;
use crate::simd::{self, Isa, Last, Level, MAX_TILE, Tile, Work, dispatch};

/// Taps that are summed up at a time: a panel of filters then fits the first cache.
pub(crate) const DEPTH: usize = 384;

/// The most rows that a tile has.
const MAX_ROWS: usize = 12;

/// Buffers that a thread keeps; a larger one goes back to the allocator.
const KEPT: usize = 4 << 20;

/// Some filters at some windows.
pub(crate) struct Block<'a> {
    /// Panels of these filters.
    pub(crate) weights: &'a [f32],
    /// The first of the filters in the output, and how many.
    pub(crate) filters: (usize, usize),
    /// The group's channels, and what lies behind them.
    pub(crate) x: &'a [f32],
    pub(crate) channels: usize,
    pub(crate) planes: &'a Planes,
    pub(crate) vectors: &'a [Vector],
    /// One number for each filter of the output.
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) finish: Last,
    /// Numbers that each filter has in the output.
    pub(crate) pixels: usize,
    pub(crate) out: Shared<'a>,
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

/// Computes a block. No two blocks that run at a time have a filter and a window in common.
pub(crate) fn run(level: Level, block: &Block<'_>) {
    dispatch(level, Product { block });
}

struct Product<'a, 'b> {
    block: &'a Block<'b>,
}

impl Work for Product<'_, '_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let block = self.block;
        let planes = block.planes;
        let taps = planes.window.len();
        let step = (DEPTH / taps).max(1);
        let mut tile: Tile = [0.0; MAX_TILE];
        let (from, count) = block.filters;
        for channel in (0..block.channels).step_by(step) {
            let channels = step.min(block.channels - channel);
            let x = &block.x[channel * planes.pitch..];
            let last = channel + channels == block.channels;
            for f in (0..count).step_by(I::MR) {
                let rows = I::MR.min(count - f);
                let weights = &block.weights[(f * block.channels + channel * I::MR) * taps..];
                let mut finish = [Last::NOTHING; MAX_ROWS];
                for (r, finish) in finish[..rows].iter_mut().enumerate() {
                    if last {
                        *finish = block.finish;
                        finish.bias = block.bias.map_or(0.0, |b| b[from + f + r]);
                    }
                    finish.add = block.finish.add || channel > 0;
                }
                for pair in block.vectors.chunks(2) {
                    let starts = [pair[0].from, pair[pair.len() - 1].from];
                    let window = (planes.window.as_slice(), planes.reach);
                    let depth = (channels, planes.pitch);
                    // SAFETY: the caller of `run` vouches for the instructions of `I`.
                    unsafe { simd::windows::<I>(rows, weights, x, starts, pair.len(), window, depth, &mut tile) };
                    for (r, (sums, finish)) in tile.chunks_exact(I::NR).zip(&finish[..rows]).enumerate() {
                        for (v, sums) in pair.iter().zip(sums.chunks_exact(I::LANES)) {
                            let at = (from + f + r) * block.pixels + v.to;
                            // SAFETY: no two blocks have a filter and a window in common, and this borrow ends here.
                            let out = unsafe { block.out.part(at, v.keep.count_ones() as usize) };
                            // SAFETY: the caller of `run` vouches for the instructions of `I`.
                            unsafe { I::put(sums, v.keep, *finish, out) };
                        }
                    }
                }
            }
        }
    }
}
