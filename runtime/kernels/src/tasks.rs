//! How work is cut into tasks.

use std::ops::Range;

use rayon::prelude::*;

/// Multiply-adds, or numbers through a costly function, below which waking other threads takes longer than the work.
pub(crate) const SERIAL: usize = 1_000_000;

/// Tasks for each thread, so that one that is held up leaves the rest to others.
const PER_THREAD: usize = 4;

/// Runs `f` on ranges that make up `0..n`, in parallel where `n * cost` multiply-adds are worth it.
pub(crate) fn ranges(n: usize, cost: usize, f: impl Fn(Range<usize>) + Sync) {
    let threads = rayon::current_num_threads();
    let total = n.saturating_mul(cost);
    if n < 2 || threads == 1 || total < SERIAL {
        return f(0..n);
    }
    let pieces = n.min(PER_THREAD * threads).min((2 * total).div_ceil(SERIAL));
    (0..pieces)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|p| f(p * n / pieces..(p + 1) * n / pieces));
}

/// Chunks of equal length, each whole multiples of `unit`, for a loop that does little work on each number.
pub(crate) fn chunks<'a>(out: &'a mut [f32], unit: usize, cost: usize, f: impl Fn(usize, &'a mut [f32]) + Sync) {
    let unit = unit.max(1);
    let n = out.len().div_ceil(unit);
    let threads = rayon::current_num_threads();
    let total = out.len().saturating_mul(cost);
    if n < 2 || threads == 1 || total < SERIAL {
        return f(0, out);
    }
    let pieces = n.min(PER_THREAD * threads).min((2 * total).div_ceil(SERIAL));
    let size = n.div_ceil(pieces) * unit;
    out.par_chunks_mut(size)
        .with_max_len(1)
        .enumerate()
        .for_each(|(p, chunk)| f(p * size, chunk));
}
