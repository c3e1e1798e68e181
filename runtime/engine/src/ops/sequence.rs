//! Sequences of tensors and optionals.

use std::sync::Arc;

use crate::fault::{OpResult, bail, ensure};
use crate::host::{self, Element};
use crate::item::{Held, List};
use crate::kernel::{Kernel, Range, View, i64s, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor, each_data, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("ConcatFromSequence", 11, concat),
    entry("Optional", 15, optional),
    entry("OptionalGetElement", 15, get_element),
    entry("OptionalHasElement", 15, has_element),
    entry("SequenceAt", 11, at),
    entry("SequenceConstruct", 11, construct),
    entry("SequenceEmpty", 11, empty),
    entry("SequenceErase", 11, erase),
    entry("SequenceInsert", 11, insert),
    entry("SequenceLength", 11, length),
    entry("SplitToSequence", 11, split),
];

fn operand(inputs: &[Option<Held>], k: usize) -> OpResult<&Held> {
    match inputs.get(k) {
        Some(Some(held)) => Ok(held),
        _ => bail!("input {k} is missing"),
    }
}

/// One result.
fn one(t: Tensor) -> OpResult<Vec<Held>> {
    Ok(vec![Held::Tensor(Arc::new(t))])
}

fn list(tensors: Vec<Arc<Tensor>>) -> OpResult<Vec<Held>> {
    Ok(vec![Held::List(Arc::new(tensors))])
}

/// Tensors of one shape and type side by side along a new first dimension.
pub(crate) fn stack(parts: &[Arc<Tensor>]) -> OpResult<Tensor> {
    fn joined<T: Element>(_: &[T], parts: &[Arc<Tensor>]) -> OpResult<Data> {
        let mut out = Vec::with_capacity(parts.iter().map(|t| t.data().len()).sum());
        for t in parts {
            out.extend_from_slice(host::typed::<T>(t)?);
        }
        Ok(T::wrap(out))
    }
    let Some(first) = parts.first() else {
        bail!("there is nothing to put together")
    };
    for t in parts {
        ensure!(
            t.shape() == first.shape() && t.small() == first.small(),
            "tensors of shapes {:?} and {:?} side by side",
            first.shape(),
            t.shape()
        );
    }
    let mut dims = vec![parts.len()];
    dims.extend_from_slice(first.shape());
    shape::elements(&dims)?;
    let data = each_data!(first.data(), v => joined(v, parts)?);
    Ok(tensor(dims, data)?.marked(first.small()))
}

fn construct(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, usize::MAX)?;
    Ok(Kernel::list(|inputs| {
        let tensors = (0..inputs.len()).map(|k| operand(inputs, k)?.tensor().cloned());
        list(tensors.collect::<OpResult<_>>()?)
    }))
}

fn empty(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(0, 0)?;
    spec.ignore(&["dtype"]);
    Ok(Kernel::list(|_| list(Vec::new())))
}

fn length(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    Ok(Kernel::list(|inputs| {
        let n = operand(inputs, 0)?.list()?.len();
        one(tensor(Vec::new(), Data::I64(vec![n as i64]))?)
    }))
}

/// A position in a sequence, counted from the end where negative; up to `limit`.
fn position(held: &Held, len: usize, limit: usize) -> OpResult<usize> {
    let given = match i64s(held.tensor()?)?.as_slice() {
        [p] => *p,
        other => bail!("a position of {} elements", other.len()),
    };
    let p = if given < 0 { given + len as i64 } else { given };
    match usize::try_from(p) {
        Ok(p) if p < limit => Ok(p),
        _ => bail!("position {given} in a sequence of {len}"),
    }
}

fn at(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    Ok(Kernel::list(|inputs| {
        let sequence = operand(inputs, 0)?.list()?;
        let p = position(operand(inputs, 1)?, sequence.len(), sequence.len())?;
        Ok(vec![Held::Tensor(sequence[p].clone())])
    }))
}

fn owned(sequence: &List) -> Vec<Arc<Tensor>> {
    sequence.as_ref().clone()
}

fn insert(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 3)?;
    Ok(Kernel::list(|inputs| {
        let sequence = operand(inputs, 0)?.list()?;
        let len = sequence.len();
        let p = match inputs.get(2) {
            Some(Some(p)) => position(p, len, len + 1)?,
            _ => len,
        };
        let mut out = owned(sequence);
        out.insert(p, operand(inputs, 1)?.tensor()?.clone());
        list(out)
    }))
}

fn erase(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 2)?;
    Ok(Kernel::list(|inputs| {
        let sequence = operand(inputs, 0)?.list()?;
        let len = sequence.len();
        ensure!(len > 0, "nothing can be taken out of an empty sequence");
        let p = match inputs.get(1) {
            Some(Some(p)) => position(p, len, len)?,
            _ => len - 1,
        };
        let mut out = owned(sequence);
        out.remove(p);
        list(out)
    }))
}

fn concat(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let (axis, new_axis) = (spec.int("axis", 0)?, spec.flag("new_axis", false)?);
    Ok(Kernel::list(move |inputs| {
        let sequence = operand(inputs, 0)?.list()?;
        let Some(first) = sequence.first() else {
            bail!("an empty sequence has nothing to put together")
        };
        let rank = first.shape().len() + usize::from(new_axis);
        let axis = shape::axis(axis, rank)?;
        // Along the first axis elements lie one behind the other; other axes are moved there and back.
        let front = |t: &Arc<Tensor>| -> OpResult<Arc<Tensor>> {
            let mut t = t.clone();
            if new_axis {
                let mut dims = t.shape().to_vec();
                dims.insert(axis, 1);
                t = host::apply(t, &View::Reshape(dims))?;
            }
            ensure!(t.shape().len() == rank, "tensors of different rank side by side");
            let mut perm: Vec<usize> = (0..rank).filter(|&d| d != axis).collect();
            perm.insert(0, axis);
            host::apply(t, &View::Permute(perm))
        };
        let parts = sequence.iter().map(front).collect::<OpResult<Vec<_>>>()?;
        let joined = join(&parts)?;
        let mut perm: Vec<usize> = (1..rank).collect();
        perm.insert(axis, 0);
        Ok(vec![Held::Tensor(host::apply(Arc::new(joined), &View::Permute(perm))?)])
    }))
}

/// Tensors one behind the other along their first dimension.
fn join(parts: &[Arc<Tensor>]) -> OpResult<Tensor> {
    fn joined<T: Element>(_: &[T], parts: &[Arc<Tensor>]) -> OpResult<Data> {
        let mut out = Vec::new();
        for t in parts {
            out.extend_from_slice(host::typed::<T>(t)?);
        }
        Ok(T::wrap(out))
    }
    let first = &parts[0];
    let mut dims = first.shape().to_vec();
    dims[0] = 0;
    for t in parts {
        ensure!(
            t.shape()[1..] == first.shape()[1..],
            "tensors of shapes {:?} and {:?} side by side",
            first.shape(),
            t.shape()
        );
        dims[0] += t.shape()[0];
    }
    shape::elements(&dims)?;
    tensor(dims, each_data!(first.data(), v => joined(v, parts)?))
}

fn split(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 2)?;
    let (axis, keep) = (spec.int("axis", 0)?, spec.flag("keepdims", true)?);
    Ok(Kernel::list(move |inputs| {
        let x = operand(inputs, 0)?.tensor()?;
        let dims = x.shape();
        let axis = shape::axis(axis, dims.len())?;
        let sizes = match inputs.get(1) {
            Some(Some(sizes)) => Some(sizes.tensor()?),
            _ => None,
        };
        let single = sizes.is_none();
        let lens: Vec<usize> = match sizes {
            None => vec![1; dims[axis]],
            Some(t) if t.shape().is_empty() => {
                let size = i64s(t)?.first().map_or(0, |&s| usize::try_from(s).unwrap_or(0));
                ensure!(size > 0, "parts of {size} elements");
                (0..dims[axis])
                    .step_by(size)
                    .map(|p| size.min(dims[axis] - p))
                    .collect()
            }
            Some(t) => shape::from_i64s(&i64s(t)?)?,
        };
        ensure!(
            lens.iter().try_fold(0usize, |n, &l| n.checked_add(l)) == Some(dims[axis]),
            "parts of {lens:?} for {} elements",
            dims[axis]
        );
        let mut start = 0;
        let parts = lens.iter().map(|&len| {
            let ranges = dims.iter().enumerate().map(|(d, &whole)| Range {
                start: if d == axis { start } else { 0 },
                len: if d == axis { len } else { whole },
                step: 1,
            });
            let part = host::apply(x.clone(), &View::Slice(ranges.collect()))?;
            start += len;
            if single && !keep {
                let mut dims = part.shape().to_vec();
                dims.remove(axis);
                return host::apply(part, &View::Reshape(dims));
            }
            Ok(part)
        });
        list(parts.collect::<OpResult<_>>()?)
    }))
}

/// An optional is the value in it, or nothing.
fn optional(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(0, 1)?;
    spec.ignore(&["type"]);
    Ok(Kernel::list(|inputs| {
        Ok(vec![inputs.first().cloned().flatten().unwrap_or(Held::Nothing)])
    }))
}

fn get_element(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    Ok(Kernel::list(|inputs| match operand(inputs, 0)? {
        Held::Nothing => bail!("the optional has no value"),
        held => Ok(vec![held.clone()]),
    }))
}

fn has_element(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(0, 1)?;
    Ok(Kernel::list(|inputs| {
        let there = !matches!(inputs.first().cloned().flatten(), None | Some(Held::Nothing));
        one(tensor(Vec::new(), Data::Bool(vec![there]))?)
    }))
}
