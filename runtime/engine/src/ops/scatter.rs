//! Elements put in place by index.

use super::gather::{element_offsets, tuple_offsets};
use crate::fault::{OpResult, bail, ensure};
use crate::host::{Element, Number, typed};
use crate::kernel::{Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor};

pub(crate) const TABLE: &[Entry] = &[
    entry("Scatter", 9, scatter_elements),
    entry("ScatterElements", 11, scatter_elements),
    entry("ScatterND", 11, scatter_nd),
    entry("TensorScatter", 24, tensor_scatter),
];

/// What happens to the element that is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reduction {
    None,
    Add,
    Mul,
    Max,
    Min,
}

fn reduction(spec: &Spec<'_>) -> OpResult<Reduction> {
    Ok(match spec.string("reduction", "none")? {
        "none" => Reduction::None,
        "add" => Reduction::Add,
        "mul" => Reduction::Mul,
        "max" => Reduction::Max,
        "min" => Reduction::Min,
        other => bail!("attribute \"reduction\" is {other:?}"),
    })
}

/// Puts `updates[k]` at `at(k)`. Numbers can be combined with what is there, other types only replace it.
fn put(x: &Tensor, updates: &Tensor, at: &[usize], how: Reduction) -> OpResult<Tensor> {
    fn replaced<T: Element>(v: &[T], updates: &Tensor, at: &[usize]) -> OpResult<Data> {
        let mut out = v.to_vec();
        for (&at, u) in at.iter().zip(typed::<T>(updates)?) {
            out[at] = u.clone();
        }
        Ok(T::wrap(out))
    }
    fn combined<T: Number>(v: &[T], updates: &Tensor, at: &[usize], how: Reduction) -> OpResult<Data> {
        let mut out = v.to_vec();
        for (&at, &u) in at.iter().zip(typed::<T>(updates)?) {
            let old = out[at];
            out[at] = match how {
                Reduction::None => u,
                Reduction::Add => old.add(u),
                Reduction::Mul => old.mul(u),
                Reduction::Max => {
                    if u > old || u.is_nan() {
                        u
                    } else {
                        old
                    }
                }
                Reduction::Min => {
                    if u < old || u.is_nan() {
                        u
                    } else {
                        old
                    }
                }
            };
        }
        Ok(T::wrap(out))
    }
    ensure!(
        updates.data().len() == at.len(),
        "{} updates for {} places",
        updates.data().len(),
        at.len()
    );
    let data = if how == Reduction::None {
        crate::each_data!(x.data(), v => replaced(v, updates, at)?)
    } else {
        crate::host::numbers!(x.data(), v => combined(v, updates, at, how)?)
    };
    tensor(x.shape().to_vec(), data)
}

fn scatter_elements(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, 3)?;
    let (axis, how) = (spec.int("axis", 0)?, reduction(spec)?);
    Ok(Kernel::host(move |i| {
        let (x, index, updates) = (i.get(0)?, i.get(1)?, i.get(2)?);
        ensure!(
            index.shape() == updates.shape(),
            "indices {:?} and updates {:?}",
            index.shape(),
            updates.shape()
        );
        let at = element_offsets(x.shape(), index.shape(), &i.i64s(1)?, axis)?;
        Ok(vec![put(x, updates, &at, how)?])
    }))
}

fn scatter_nd(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, 3)?;
    let how = reduction(spec)?;
    Ok(Kernel::host(move |i| {
        let (x, index, updates) = (i.get(0)?, i.get(1)?, i.get(2)?);
        let (at, inner, dims) = tuple_offsets(x.shape(), index.shape(), &i.i64s(1)?, 0)?;
        ensure!(
            updates.shape() == dims,
            "updates of shape {:?} instead of {dims:?}",
            updates.shape()
        );
        let at: Vec<usize> = at.iter().flat_map(|&a| a..a + inner).collect();
        Ok(vec![put(x, updates, &at, how)?])
    }))
}

/// Writes new keys or values into a cache at each sequence's position.
fn tensor_scatter(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 3)?;
    let axis = spec.int("axis", -2)?;
    let circular = match spec.string("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => bail!("attribute \"mode\" is {other:?}"),
    };
    Ok(Kernel::host(move |i| {
        let (x, update) = (i.get(0)?, i.get(1)?);
        let dims = x.shape();
        let axis = crate::shape::axis(axis, dims.len())?;
        let fits = update
            .shape()
            .iter()
            .zip(dims)
            .enumerate()
            .all(|(d, (u, x))| d == axis || u == x);
        ensure!(
            axis > 0 && update.shape().len() == dims.len() && fits,
            "update {:?} for {dims:?}",
            update.shape()
        );
        let starts = i.opt_i64s(2)?.unwrap_or_else(|| vec![0; dims[0]]);
        ensure!(
            starts.len() == dims[0],
            "{} positions for a batch of {}",
            starts.len(),
            dims[0]
        );
        let strides = crate::shape::strides(dims);
        let mut at = Vec::with_capacity(update.data().len());
        let mut index = vec![0; dims.len()];
        for _ in 0..update.data().len() {
            let start = usize::try_from(starts[index[0]]).unwrap_or(usize::MAX / 2) + index[axis];
            let place = if circular { start % dims[axis].max(1) } else { start };
            ensure!(place < dims[axis], "position {place} in a cache of {}", dims[axis]);
            at.push(
                (0..dims.len())
                    .map(|d| strides[d] * if d == axis { place } else { index[d] })
                    .sum(),
            );
            crate::shape::step(&mut index, update.shape());
        }
        Ok(vec![put(x, update, &at, Reduction::None)?])
    }))
}

#[cfg(test)]
mod tests {
    use crate::testing::{eval, eval_at, ints};

    #[test]
    fn updates_replace_or_combine() {
        let x = ints(&[3], &[1, 2, 3]);
        let inputs = [x, ints(&[2], &[0, 0]), ints(&[2], &[10, 5])];
        assert_eq!(eval("ScatterElements", |_| {}, &inputs), ints(&[3], &[5, 2, 3]));
        assert_eq!(
            eval("ScatterElements", |a| a.string("reduction", "add"), &inputs),
            ints(&[3], &[16, 2, 3])
        );
        assert_eq!(
            eval("ScatterElements", |a| a.string("reduction", "max"), &inputs),
            ints(&[3], &[10, 2, 3])
        );
    }

    #[test]
    fn tuples_name_whole_slices() {
        let x = ints(&[2, 2], &[1, 2, 3, 4]);
        let out = eval(
            "ScatterND",
            |_| {},
            &[x.clone(), ints(&[1, 1], &[1]), ints(&[1, 2], &[8, 9])],
        );
        assert_eq!(out, ints(&[2, 2], &[1, 2, 8, 9]));
        let error = eval_at(
            18,
            "ScatterND",
            |_| {},
            &[x, ints(&[1, 1], &[2]), ints(&[1, 2], &[8, 9])],
            1,
        );
        assert!(error.unwrap_err().contains("out of range"));
    }
}
