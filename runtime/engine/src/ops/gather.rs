//! Elements picked by index.

use crate::device::{DeviceOp, checked_indices};
use crate::fault::{OpResult, bail, ensure};
use crate::host::Element;
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor, each_data, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("Compress", 9, compress),
    entry("Gather", 1, gather),
    entry("GatherElements", 11, gather_elements),
    entry("GatherND", 11, gather_nd),
    entry("NonZero", 9, non_zero),
    entry("OneHot", 9, one_hot),
];

fn gather(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    let axis = spec.int("axis", 0)?;
    Ok(Kernel::dual(DeviceOp::Gather { axis }, move |i: &Inputs<'_>| {
        let (x, index) = (i.get(0)?, i.get(1)?);
        let axis = shape::axis(axis, x.shape().len())?;
        let list = checked_indices(&i.i64s(1)?, x.shape()[axis])?;
        Ok(vec![
            each_data!(x.data(), v => take(v, x.shape(), axis, &list, index.shape()))?,
        ])
    }))
}

/// Whole slices along `axis`, whose dimension becomes `index_shape`.
pub(crate) fn take<T: Element>(
    v: &[T],
    dims: &[usize],
    axis: usize,
    index: &[i64],
    index_shape: &[usize],
) -> OpResult<Tensor> {
    let mut out_dims = dims[..axis].to_vec();
    out_dims.extend_from_slice(index_shape);
    out_dims.extend_from_slice(&dims[axis + 1..]);
    let mut out = Vec::with_capacity(shape::elements(&out_dims)?);
    let inner: usize = dims[axis + 1..].iter().product();
    for o in 0..dims[..axis].iter().product() {
        for &k in index {
            let at = (o * dims[axis] + k as usize) * inner;
            out.extend_from_slice(&v[at..at + inner]);
        }
    }
    tensor(out_dims, T::wrap(out))
}

fn gather_elements(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    let axis = spec.int("axis", 0)?;
    fn pick<T: Element>(v: &[T], at: &[usize], dims: &[usize]) -> OpResult<Tensor> {
        tensor(dims.to_vec(), T::wrap(at.iter().map(|&at| v[at].clone()).collect()))
    }
    Ok(Kernel::host(move |i| {
        let (x, index) = (i.get(0)?, i.get(1)?);
        let at = element_offsets(x.shape(), index.shape(), &i.i64s(1)?, axis)?;
        Ok(vec![each_data!(x.data(), v => pick(v, &at, index.shape()))?])
    }))
}

/// For each index its element's offset: the index replaces the coordinate along `axis`.
pub(crate) fn element_offsets(dims: &[usize], index_dims: &[usize], list: &[i64], axis: i64) -> OpResult<Vec<usize>> {
    let axis = shape::axis(axis, dims.len())?;
    let fits = index_dims
        .iter()
        .zip(dims)
        .enumerate()
        .all(|(d, (i, x))| d == axis || i <= x);
    ensure!(
        index_dims.len() == dims.len() && fits,
        "indices of shape {index_dims:?} for {dims:?}"
    );
    let list = checked_indices(list, dims[axis])?;
    let strides = shape::strides(dims);
    let mut at = vec![0; dims.len()];
    let mut out = Vec::with_capacity(list.len());
    for k in list {
        let base: usize = at
            .iter()
            .zip(&strides)
            .enumerate()
            .map(|(d, (i, s))| if d == axis { 0 } else { i * s })
            .sum();
        out.push(base + k as usize * strides[axis]);
        shape::step(&mut at, index_dims);
    }
    Ok(out)
}

/// For each index tuple (the last dimension of the indices) the offset of the slice it names, and the slice's size.
pub(crate) fn tuple_offsets(
    dims: &[usize],
    index_dims: &[usize],
    list: &[i64],
    batch: usize,
) -> OpResult<(Vec<usize>, usize, Vec<usize>)> {
    let Some((&width, lead)) = index_dims.split_last() else {
        bail!("indices are a scalar")
    };
    ensure!(
        batch <= lead.len() && batch + width <= dims.len() && lead[..batch] == dims[..batch],
        "indices of shape {index_dims:?} for {dims:?}"
    );
    let strides = shape::strides(dims);
    let inner = dims[batch + width..].iter().product();
    let tuples = lead.iter().product::<usize>();
    let per_batch = lead[batch..].iter().product::<usize>().max(1);
    let batch_stride = dims[batch..].iter().product::<usize>();
    let mut out = Vec::with_capacity(tuples);
    for t in 0..tuples {
        let mut at = t / per_batch * batch_stride;
        for w in 0..width {
            let k = checked_indices(&list[t * width + w..=t * width + w], dims[batch + w])?[0];
            at += k as usize * strides[batch + w];
        }
        out.push(at);
    }
    let mut out_dims = lead.to_vec();
    out_dims.extend_from_slice(&dims[batch + width..]);
    shape::elements(&out_dims)?;
    Ok((out, inner, out_dims))
}

fn gather_nd(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    let batch = usize::try_from(spec.int("batch_dims", 0)?).unwrap_or(usize::MAX);
    fn pick<T: Element>(v: &[T], at: &[usize], inner: usize, dims: Vec<usize>) -> OpResult<Tensor> {
        tensor(
            dims,
            T::wrap(at.iter().flat_map(|&at| v[at..at + inner].iter().cloned()).collect()),
        )
    }
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let (at, inner, dims) = tuple_offsets(x.shape(), i.get(1)?.shape(), &i.i64s(1)?, batch)?;
        Ok(vec![each_data!(x.data(), v => pick(v, &at, inner, dims))?])
    }))
}

fn non_zero(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    fn found<T: Element>(v: &[T]) -> Vec<usize> {
        v.iter()
            .enumerate()
            .filter(|(_, x)| **x != T::default())
            .map(|(k, _)| k)
            .collect()
    }
    Ok(Kernel::host(|i| {
        let x = i.get(0)?;
        let at = each_data!(x.data(), v => found(v));
        let (dims, strides) = (x.shape(), shape::strides(x.shape()));
        let coordinates = (0..dims.len()).flat_map(|d| at.iter().map(move |a| (d, *a)));
        let coordinates = coordinates.map(|(d, a)| (a / strides[d] % dims[d]) as i64).collect();
        Ok(vec![tensor(vec![dims.len(), at.len()], Data::I64(coordinates))?])
    }))
}

fn compress(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    let axis = spec.opt_int("axis")?;
    Ok(Kernel::host(move |i| {
        let (x, mask) = (i.get(0)?, crate::host::typed::<bool>(i.get(1)?)?);
        let flat = [x.data().len()];
        let (dims, axis) = match axis {
            Some(a) => (x.shape(), shape::axis(a, x.shape().len())?),
            None => (flat.as_slice(), 0),
        };
        let kept: Vec<i64> = (0..dims[axis].min(mask.len()))
            .filter(|&k| mask[k])
            .map(|k| k as i64)
            .collect();
        Ok(vec![
            each_data!(x.data(), v => take(v, dims, axis, &kept, &[kept.len()]))?,
        ])
    }))
}

fn one_hot(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, 3)?;
    let axis = spec.int("axis", -1)?;
    fn hot<T: Element>(values: &[T], list: &[i64], lead: usize, inner: usize, depth: usize) -> OpResult<Data> {
        let [off, on] = values else {
            bail!("{} values instead of 2", values.len())
        };
        let mut out = vec![off.clone(); shape::elements(&[lead, inner, depth])?];
        for (n, &k) in list.iter().enumerate() {
            let k = if k < 0 { k + depth as i64 } else { k };
            if (0..depth as i64).contains(&k) {
                out[(n / inner * depth + k as usize) * inner + n % inner] = on.clone();
            }
        }
        Ok(T::wrap(out))
    }
    Ok(Kernel::host(move |i| {
        let index = i.get(0)?;
        let depth = i.opt_f64(1)?.filter(|d| *d >= 0.0 && *d < 1e9);
        let Some(depth) = depth.map(|d| d as usize) else {
            bail!("depth is no size")
        };
        let list = super::cast::cast(index, crate::DataType::I64, true)?;
        let list = crate::kernel::i64s(&list)?;
        let axis = shape::axis(axis, index.shape().len() + 1)?;
        let mut dims = index.shape().to_vec();
        dims.insert(axis, depth);
        let lead: usize = dims[..axis].iter().product();
        let inner: usize = dims[axis + 1..].iter().product();
        let data = each_data!(i.get(2)?.data(), v => hot(v, &list, lead, inner, depth))?;
        Ok(vec![tensor(dims, data)?])
    }))
}

#[cfg(test)]
mod tests {
    use crate::testing::{eval, eval_at, f32s, ints};

    #[test]
    fn negative_indices_count_from_the_end_and_others_are_refused() {
        let x = ints(&[3, 2], &[1, 2, 3, 4, 5, 6]);
        let out = eval("Gather", |_| {}, &[x.clone(), ints(&[1, 2], &[-1, 0])]);
        assert_eq!(out, ints(&[1, 2, 2], &[5, 6, 1, 2]));
        assert!(
            eval_at(18, "Gather", |_| {}, &[x, ints(&[1], &[3])], 1)
                .unwrap_err()
                .contains("out of range")
        );
    }

    #[test]
    fn the_device_gathers_as_the_host_does() {
        let v: Vec<f32> = (0..4000).map(|k| k as f32).collect();
        let out = eval("Gather", |_| {}, &[f32s(&[1000, 4], &v), ints(&[2], &[999, -1000])]);
        assert_eq!(
            out,
            f32s(&[2, 4], &[3996.0, 3997.0, 3998.0, 3999.0, 0.0, 1.0, 2.0, 3.0])
        );
    }

    #[test]
    fn elements_and_tuples_are_picked() {
        let x = ints(&[2, 2], &[1, 2, 3, 4]);
        let out = eval(
            "GatherElements",
            |a| a.int("axis", 1),
            &[x.clone(), ints(&[2, 1], &[1, 0])],
        );
        assert_eq!(out, ints(&[2, 1], &[2, 3]));
        assert_eq!(
            eval("GatherND", |_| {}, &[x.clone(), ints(&[2, 2], &[0, 0, 1, 1])]),
            ints(&[2], &[1, 4])
        );
        assert_eq!(
            eval("NonZero", |_| {}, &[ints(&[2, 2], &[0, 1, 1, 0])]),
            ints(&[2, 2], &[0, 1, 1, 0])
        );
    }

    #[test]
    fn an_index_outside_the_depth_has_no_hot_place() {
        let out = eval(
            "OneHot",
            |_| {},
            &[ints(&[3], &[0, -1, 5]), ints(&[], &[2]), ints(&[2], &[0, 9])],
        );
        assert_eq!(out, ints(&[3, 2], &[9, 0, 0, 9, 0, 0]));
    }
}
