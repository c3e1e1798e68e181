//! The sizes of batches that a device is prepared for, and how a batch gets to one of them.
//!
//! A GPU's kernels are compiled by size. On a ladder of few sizes every one of them can be compiled ahead; a batch in between is
//! filled up with copies of its last row, whose results are thrown away.

use pilotlight_engine::{Data, Tensor, each_data};

/// Rungs 1, 2, 4, ... up to the largest batch, which is one whatever its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ladder {
    most: usize,
}

impl Ladder {
    /// The ladder up to this many rows, at least 1.
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1) }
    }

    /// Its rungs, the smallest first.
    pub fn rungs(self) -> Vec<usize> {
        let powers = std::iter::successors(Some(1usize), |rung| rung.checked_mul(2));
        powers.take_while(|&rung| rung < self.most).chain([self.most]).collect()
    }

    /// The smallest size, not below `rows`, that a run may have. A request of more rows than a batch may have runs at the next
    /// multiple of that.
    pub fn rung(self, rows: usize) -> usize {
        if rows <= self.most {
            rows.max(1).next_power_of_two().min(self.most)
        } else {
            rows.div_ceil(self.most).saturating_mul(self.most)
        }
    }
}

/// Fills the first dimension of each tensor up to `rung` with copies of its last row. `None` where one of them has no rows, or not
/// `rows` of them; they are then as they were.
pub(crate) fn pad(tensors: Vec<Tensor>, rows: usize, rung: usize) -> Result<Vec<Tensor>, Vec<Tensor>> {
    let fits = |t: &Tensor| t.shape().first() == Some(&rows);
    if rows == 0 || rung < rows || !tensors.iter().all(fits) {
        return Err(tensors);
    }
    Ok(tensors.into_iter().map(|t| padded(t, rows, rung)).collect())
}

fn padded(tensor: Tensor, rows: usize, rung: usize) -> Tensor {
    let (mut shape, mut data) = tensor.into_parts();
    let width: usize = shape[1..].iter().product();
    each_data!(&mut data, v => {
        v.reserve_exact((rung - rows) * width);
        for _ in rows..rung {
            v.extend_from_within((rows - 1) * width..rows * width);
        }
    });
    shape[0] = rung;
    // It has as many elements as the shape says: rows of `width` were added.
    Tensor::new(shape, data).unwrap_or_else(|| unreachable!("rows of the same width"))
}

/// The first `rows` of `rung` rows of each tensor. `None` where one of them does not have `rung` rows.
pub(crate) fn cut(tensors: Vec<Tensor>, rung: usize, rows: usize) -> Option<Vec<Tensor>> {
    if tensors.iter().any(|t| t.shape().first() != Some(&rung)) {
        return None;
    }
    let cut = |t: Tensor| {
        let (mut shape, mut data) = t.into_parts();
        let width: usize = shape[1..].iter().product();
        truncate(&mut data, rows * width);
        shape[0] = rows;
        Tensor::new(shape, data)
    };
    tensors.into_iter().map(cut).collect()
}

fn truncate(data: &mut Data, len: usize) {
    each_data!(data, v => v.truncate(len));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rungs_double_up_to_the_largest_batch() {
        assert_eq!(Ladder::new(8).rungs(), [1, 2, 4, 8]);
        assert_eq!(Ladder::new(12).rungs(), [1, 2, 4, 8, 12]);
        assert_eq!(Ladder::new(1).rungs(), [1]);
        assert_eq!(Ladder::new(0).rungs(), [1]);
    }

    proptest! {
        #[test]
        fn a_batch_runs_at_the_smallest_rung_that_holds_it(most in 1usize..300, rows in 0usize..900) {
            let ladder = Ladder::new(most);
            let rung = ladder.rung(rows);
            prop_assert!(rung >= rows.max(1));
            if rows <= most {
                let smallest = ladder.rungs().into_iter().find(|&r| r >= rows);
                prop_assert_eq!(Some(rung), smallest);
            } else {
                prop_assert!(rung.is_multiple_of(most) && rung - rows < most);
            }
        }

        #[test]
        fn what_is_padded_and_cut_is_what_it_was(rows in 1usize..9, more in 0usize..9, width in 0usize..4) {
            let data: Vec<i64> = (0..(rows * width) as i64).collect();
            let words = (0..rows).map(|i| bytes::Bytes::from(i.to_string())).collect();
            let tensors = vec![
                Tensor::new(vec![rows, width], Data::I64(data)).unwrap(),
                Tensor::new(vec![rows], Data::Bytes(words)).unwrap(),
            ];
            let rung = rows + more;
            let up = pad(tensors.clone(), rows, rung).unwrap();
            prop_assert_eq!(up[0].shape(), &[rung, width]);
            prop_assert_eq!(cut(up, rung, rows), Some(tensors));
        }
    }

    #[test]
    fn what_does_not_fit_comes_back_untouched() {
        let t = |rows: usize| Tensor::new(vec![rows], Data::F32(vec![1.0; rows])).unwrap();
        assert_eq!(pad(vec![t(2), t(3)], 2, 4), Err(vec![t(2), t(3)]));
        assert_eq!(pad(vec![t(0)], 0, 4), Err(vec![t(0)]));
        assert_eq!(cut(vec![t(3)], 4, 2), None);
    }
}
