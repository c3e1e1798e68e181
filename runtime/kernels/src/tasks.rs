//! How work is cut into tasks.

use std::ops::Range;

use crate::crew;
use crate::shared::Shared;

/// Multiply-adds, or numbers through a costly function, below which a task is not worth a thread of its own.
pub(crate) const SERIAL: usize = 500_000;

/// Tasks for each thread, so that one that is held up leaves the rest to others.
const PER_THREAD: usize = 4;

/// Into how many tasks `n` pieces of `total` multiply-adds are cut.
fn pieces(n: usize, total: usize) -> usize {
    if n < 2 || total < SERIAL {
        return 1;
    }
    n.min(PER_THREAD * crew::threads()).min((2 * total).div_ceil(SERIAL))
}

/// Runs `f` on ranges that make up `0..n`, in parallel where `n * cost` multiply-adds are worth it.
pub fn ranges(n: usize, cost: usize, f: impl Fn(Range<usize>) + Sync) {
    let total = n.saturating_mul(cost);
    let pieces = pieces(n, total);
    crew::each(pieces, total, |p| f(p * n / pieces..(p + 1) * n / pieces));
}

/// Chunks of equal length, each whole multiples of `unit`, for a loop that does little work on each number.
pub(crate) fn chunks<'a>(out: &'a mut [f32], unit: usize, cost: usize, f: impl Fn(usize, &'a mut [f32]) + Sync) {
    let unit = unit.max(1);
    let len = out.len();
    let total = len.saturating_mul(cost);
    let pieces = pieces(len.div_ceil(unit), total);
    if pieces < 2 {
        return f(0, out);
    }
    let size = len.div_ceil(unit).div_ceil(pieces) * unit;
    let out = Shared::new(out);
    crew::each(len.div_ceil(size), total, |p| {
        let at = p * size;
        // SAFETY: every piece has a part of its own.
        f(at, unsafe { out.part(at, size.min(len - at)) });
    });
}
