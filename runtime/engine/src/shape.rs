//! Arithmetic on shapes: checked sizes, strides, axes and ONNX's broadcasting.

use crate::fault::{OpResult, bail, ensure};
use crate::limits;

/// The longest dimension of any tensor, of an empty one too: sums and products with small numbers then stay numbers.
pub(crate) const LONGEST: usize = 1 << 40;

/// Refuses dimensions that only an empty tensor could have, and that arithmetic on them would overflow.
pub(crate) fn bounded(shape: &[usize]) -> OpResult<()> {
    match shape.iter().find(|&&d| d > LONGEST) {
        None => Ok(()),
        Some(d) => bail!("a dimension of {d} in shape {shape:?}; {LONGEST} is the longest"),
    }
}

/// The number of elements, within what `Limits` allow.
pub(crate) fn elements(shape: &[usize]) -> OpResult<usize> {
    bounded(shape)?;
    // A zero anywhere makes the whole zero, whatever the other dimensions say.
    if shape.contains(&0) {
        return Ok(0);
    }
    let most = limits::elements();
    match shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) {
        Some(n) if n <= most => Ok(n),
        _ => bail!("a tensor of shape {shape:?} is larger than the {most} elements allowed"),
    }
}

/// Row-major strides in elements.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d].saturating_mul(shape[d]);
    }
    strides
}

/// A possibly negative axis as an index below `rank`.
pub(crate) fn axis(axis: i64, rank: usize) -> OpResult<usize> {
    let rank_i = rank as i64;
    ensure!(
        axis >= -rank_i && axis < rank_i,
        "axis {axis} is out of range for rank {rank}"
    );
    Ok(if axis < 0 {
        (axis + rank_i) as usize
    } else {
        axis as usize
    })
}

/// Possibly negative axes as sorted, distinct indices.
pub(crate) fn axes(list: &[i64], rank: usize) -> OpResult<Vec<usize>> {
    let mut out = list.iter().map(|&a| axis(a, rank)).collect::<OpResult<Vec<_>>>()?;
    out.sort_unstable();
    ensure!(
        out.windows(2).all(|w| w[0] != w[1]),
        "axes {list:?} name one axis twice"
    );
    Ok(out)
}

/// The shape that `a` and `b` broadcast to (aligned at the last dimension; 1 stretches).
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> OpResult<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], d: usize| if d + s.len() < rank { 1 } else { s[d + s.len() - rank] };
    let out = (0..rank)
        .map(|d| match (at(a, d), at(b, d)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect::<Option<Vec<_>>>();
    match out {
        Some(out) => {
            elements(&out)?;
            Ok(out)
        }
        None => bail!("shapes {a:?} and {b:?} can't be broadcast together"),
    }
}

/// Strides with which a tensor of shape `from` is read as one of shape `to` (0 where it repeats).
pub(crate) fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<usize> {
    let own = strides(from);
    let lead = to.len() - from.len();
    (0..to.len())
        .map(|d| {
            if d < lead || from[d - lead] == 1 {
                0
            } else {
                own[d - lead]
            }
        })
        .collect()
}

/// `shape` with ones in front until it has `rank` dimensions.
pub(crate) fn lead_ones(shape: &[usize], rank: usize) -> Vec<usize> {
    let mut out = vec![1; rank.saturating_sub(shape.len())];
    out.extend_from_slice(shape);
    out
}

/// Dimensions as a shape operand gives them: none negative.
pub(crate) fn from_i64s(dims: &[i64]) -> OpResult<Vec<usize>> {
    dims.iter()
        .map(|&d| match usize::try_from(d) {
            Ok(d) => Ok(d),
            Err(_) => bail!("dimension {d} in shape {dims:?} is negative"),
        })
        .collect()
}

/// Advances a row-major index; `false` once it wrapped around.
pub(crate) fn step(index: &mut [usize], shape: &[usize]) -> bool {
    for d in (0..shape.len()).rev() {
        index[d] += 1;
        if index[d] < shape[d] {
            return true;
        }
        index[d] = 0;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_different_rank_broadcast_from_the_right() {
        assert_eq!(broadcast(&[2, 3, 1], &[4]).unwrap(), [2, 3, 4]);
        assert_eq!(broadcast(&[], &[5]).unwrap(), [5]);
        assert_eq!(broadcast(&[0], &[1]).unwrap(), [0]);
        assert!(broadcast(&[2], &[3]).is_err());
        assert_eq!(broadcast_strides(&[3, 1], &[2, 3, 4]), [0, 1, 0]);
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        assert!(elements(&[usize::MAX, 2]).is_err());
        assert!(elements(&[1 << 20, 1 << 20]).is_err());
        assert_eq!(elements(&[LONGEST, 0]).unwrap(), 0);
        assert!(from_i64s(&[1, -2]).is_err());
    }

    #[test]
    fn dimensions_of_empty_tensors_are_bounded_too() {
        let refusal = elements(&[LONGEST + 1, 0]).unwrap_err();
        assert!(refusal.0.contains("a dimension of"), "{refusal:?}");
        assert!(bounded(&[0, usize::MAX]).is_err());
    }

    #[test]
    fn axes_are_checked_and_made_positive() {
        assert_eq!(axes(&[-1, 0], 3).unwrap(), [0, 2]);
        assert!(axes(&[0, -3], 3).is_err());
        assert!(axis(3, 3).is_err());
        assert!(axis(-4, 3).is_err());
    }
}
