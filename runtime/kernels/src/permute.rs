//! Copies a tensor with its dimensions in another order.

use crate::shared::Shared;
use crate::tasks;

/// Side of the squares that are turned at a time, so that both sides stay in the first cache.
const SIDE: usize = 16;

/// What moving an element costs in multiply-adds.
const COST: usize = 16;

/// `out` is `x` with dimension `d` of the result being dimension `perm[d]` of `dims`.
///
/// # Panics
/// Where a length does not fit the dimensions, or `perm` is no permutation of them.
pub fn permute<T: Copy + Send + Sync>(x: &[T], dims: &[usize], perm: &[usize], out: &mut [T]) {
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    assert!(sorted.iter().copied().eq(0..dims.len()), "{perm:?} is no permutation");
    let n: usize = dims.iter().product();
    assert!(x.len() == n && out.len() == n, "length");
    if n == 0 {
        return;
    }
    let (sizes, strides) = merged(dims, perm);
    let Some((&len, lead)) = sizes.split_last() else {
        return out.copy_from_slice(x);
    };
    let steps = &strides[..lead.len()];
    let step = strides[lead.len()];
    if step == 1 {
        // Runs of neighbours stay together.
        return blocks(out, lead, steps, len, |from, to| {
            to.copy_from_slice(&x[from..from + len]);
        });
    }
    // The dimension whose elements are neighbours in x turns with the last one; further ones may lie between.
    let Some(d) = steps.iter().position(|&s| s == 1) else {
        return blocks(out, lead, steps, len, |from, to| {
            for (k, to) in to.iter_mut().enumerate() {
                *to = x[from + k * step];
            }
        });
    };
    let rows = lead[d];
    let between: usize = lead[d + 1..].iter().product();
    blocks(out, &lead[..d], &steps[..d], rows * between * len, |from, to| {
        let pitch = between * len;
        let mut index = vec![0; lead.len() - d - 1];
        for b in 0..between {
            let from = from + index.iter().zip(&steps[d + 1..]).map(|(i, s)| i * s).sum::<usize>();
            turn(&x[from..], step, &mut to[b * len..], pitch, rows, len);
            advance(&mut index, &lead[d + 1..]);
        }
    });
}

/// `to[r * pitch + c] = from[c * step + r]`, in squares.
fn turn<T: Copy>(from: &[T], step: usize, to: &mut [T], pitch: usize, rows: usize, columns: usize) {
    for r in (0..rows).step_by(SIDE) {
        let height = SIDE.min(rows - r);
        for c in (0..columns).step_by(SIDE) {
            let width = SIDE.min(columns - c);
            if height == SIDE && width == SIDE {
                for i in 0..SIDE {
                    let to = &mut to[(r + i) * pitch + c..][..SIDE];
                    let from = &from[c * step + r + i..][..=(SIDE - 1) * step];
                    for (k, to) in to.iter_mut().enumerate() {
                        *to = from[k * step];
                    }
                }
                continue;
            }
            for i in 0..height {
                for k in 0..width {
                    to[(r + i) * pitch + c + k] = from[(c + k) * step + r + i];
                }
            }
        }
    }
}

/// The result's dimensions with their distances in the input, without ones, neighbours that stay together merged.
fn merged(dims: &[usize], perm: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let mut own = vec![1; dims.len()];
    for d in (1..dims.len()).rev() {
        own[d - 1] = own[d] * dims[d];
    }
    let (mut sizes, mut strides): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    for &p in perm.iter().filter(|&&p| dims[p] != 1) {
        match (sizes.last_mut(), strides.last_mut()) {
            (Some(size), Some(stride)) if *stride == own[p] * dims[p] => {
                *size *= dims[p];
                *stride = own[p];
            }
            _ => {
                sizes.push(dims[p]);
                strides.push(own[p]);
            }
        }
    }
    (sizes, strides)
}

/// Calls `f` for each block of `len` elements of the result with where it begins in the input.
fn blocks<T: Send>(out: &mut [T], lead: &[usize], steps: &[usize], len: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let run = |first: usize, out: &mut [T]| {
        // The index of the first block, then one step at a time.
        let mut index = vec![0; lead.len()];
        let mut rest = first;
        for (i, &d) in index.iter_mut().zip(lead).rev() {
            *i = rest % d;
            rest /= d;
        }
        for block in out.chunks_exact_mut(len) {
            f(index.iter().zip(steps).map(|(i, s)| i * s).sum(), block);
            advance(&mut index, lead);
        }
    };
    let count = out.len() / len;
    let total = out.len() * COST;
    let all = Shared::new(out);
    tasks::ranges(count, total / count.max(1), |range| {
        // SAFETY: no two ranges have a block in common.
        run(range.start, unsafe { all.part(range.start * len, range.len() * len) });
    });
}

fn advance(index: &mut [usize], dims: &[usize]) {
    for (i, &d) in index.iter_mut().zip(dims).rev() {
        *i += 1;
        if *i < d {
            return;
        }
        *i = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::permute;

    fn naive(x: &[u32], dims: &[usize], perm: &[usize]) -> Vec<u32> {
        let shape: Vec<usize> = perm.iter().map(|&p| dims[p]).collect();
        let mut strides = vec![1; dims.len()];
        for d in (1..dims.len()).rev() {
            strides[d - 1] = strides[d] * dims[d];
        }
        (0..x.len())
            .map(|k| {
                let mut rest = k;
                let mut at = 0;
                for d in (0..shape.len()).rev() {
                    at += rest % shape[d] * strides[perm[d]];
                    rest /= shape[d];
                }
                x[at]
            })
            .collect()
    }

    fn case() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
        (0..6usize).prop_flat_map(|rank| {
            let dims = proptest::collection::vec(prop_oneof![1..4usize, 15..40usize], rank);
            (dims, Just((0..rank).collect::<Vec<_>>()).prop_shuffle())
        })
    }

    proptest! {
        #[test]
        fn every_order_is_copied_as_defined((dims, perm) in case()) {
            prop_assume!(dims.iter().product::<usize>() < 200_000);
            let x: Vec<u32> = (0..dims.iter().product::<usize>() as u32).collect();
            let mut out = vec![0; x.len()];
            permute(&x, &dims, &perm, &mut out);
            prop_assert_eq!(out, naive(&x, &dims, &perm));
        }
    }

    #[test]
    fn large_tensors_are_cut_between_threads() {
        for perm in [[0, 2, 1, 3], [0, 1, 3, 2], [3, 2, 1, 0], [0, 2, 3, 1], [2, 0, 3, 1]] {
            let dims = [3, 58, 29, 31];
            let x: Vec<u32> = (0..dims.iter().product::<usize>() as u32).collect();
            let mut out = vec![0; x.len()];
            permute(&x, &dims, &perm, &mut out);
            assert_eq!(out, naive(&x, &dims, &perm), "{perm:?}");
        }
    }
}
