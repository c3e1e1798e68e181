//! Order along an axis: the largest, running sums, distinct values, boxes by score.

use std::cmp::Ordering;

use crate::fault::{OpResult, bail, ensure};
use crate::host::{Element, Number, numbers, typed};
use crate::kernel::{Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor, each_data, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("CumProd", 26, |s| cumulative(s, true)),
    entry("CumSum", 11, |s| cumulative(s, false)),
    entry("NonMaxSuppression", 10, non_max_suppression),
    entry("ReverseSequence", 10, reverse_sequence),
    entry("TopK", 1, |s| {
        let k = s.int("k", 0)?;
        top_k(s, Some(k))
    }),
    entry("TopK", 10, |s| top_k(s, None)),
    entry("Unique", 11, unique),
];

/// The offsets of the first elements of all lanes along an axis, the step within a lane, and its length.
fn lanes(dims: &[usize], axis: usize) -> (impl Iterator<Item = usize> + use<>, usize, usize) {
    let (size, inner) = (dims[axis], dims[axis + 1..].iter().product::<usize>());
    let outer: usize = dims[..axis].iter().product();
    (
        (0..outer).flat_map(move |o| (0..inner).map(move |k| o * size * inner + k)),
        inner,
        size,
    )
}

fn top_k(spec: &Spec<'_>, attribute: Option<i64>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 2)?;
    let axis = spec.int("axis", -1)?;
    let (largest, _sorted) = (spec.flag("largest", true)?, spec.flag("sorted", true)?);
    fn best<T: Number>(v: &[T], dims: &[usize], axis: usize, k: usize, largest: bool) -> OpResult<Vec<Tensor>> {
        let (starts, step, size) = lanes(dims, axis);
        let mut out_dims = dims.to_vec();
        out_dims[axis] = k;
        let n = shape::elements(&out_dims)?;
        let (mut values, mut positions) = (vec![T::from_i64(0); n], vec![0i64; n]);
        let mut order: Vec<usize> = Vec::with_capacity(size);
        for start in starts {
            order.clear();
            order.extend(0..size);
            let value = |j: usize| v[start + j * step];
            // Equal values keep their order; a value that is no number counts as the largest.
            let compare = |&a: &usize, &b: &usize| {
                let (x, y) = (value(a), value(b));
                let less = x.partial_cmp(&y).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()));
                (if largest { less.reverse() } else { less }).then(a.cmp(&b))
            };
            if k < size {
                order.select_nth_unstable_by(k, compare);
                order.truncate(k);
            }
            order.sort_unstable_by(compare);
            let base = start / (size * step).max(1) * k * step + start % step.max(1);
            for (j, &p) in order.iter().enumerate() {
                values[base + j * step] = value(p);
                positions[base + j * step] = p as i64;
            }
        }
        Ok(vec![
            tensor(out_dims.clone(), T::wrap(values))?,
            tensor(out_dims, Data::I64(positions))?,
        ])
    }
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let k = match attribute {
            Some(k) => k,
            None => i.i64s(1)?.first().copied().unwrap_or(-1),
        };
        let axis = shape::axis(axis, x.shape().len())?;
        ensure!(
            k >= 0 && k as usize <= x.shape()[axis],
            "k is {k} for a dimension of {}",
            x.shape()[axis]
        );
        numbers!(x.data(), v => best(v, x.shape(), axis, k as usize, largest))
    }))
}

fn cumulative(spec: &Spec<'_>, product: bool) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    let (exclusive, reverse) = (spec.flag("exclusive", false)?, spec.flag("reverse", false)?);
    fn run<T: Number>(v: &[T], dims: &[usize], axis: usize, flags: (bool, bool, bool)) -> OpResult<Vec<Tensor>> {
        let (exclusive, reverse, product) = flags;
        let (starts, step, size) = lanes(dims, axis);
        let mut out = v.to_vec();
        for start in starts {
            let mut total = T::from_i64(i64::from(product));
            for j in 0..size {
                let at = start + if reverse { size - 1 - j } else { j } * step;
                let next = if product { total.mul(v[at]) } else { total.add(v[at]) };
                out[at] = if exclusive { total } else { next };
                total = next;
            }
        }
        Ok(vec![tensor(dims.to_vec(), T::wrap(out))?])
    }
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let Some(axis) = i.i64s(1)?.first().copied() else {
            bail!("the axis is missing")
        };
        let axis = shape::axis(axis, x.shape().len())?;
        numbers!(x.data(), v => run(v, x.shape(), axis, (exclusive, reverse, product)))
    }))
}

fn reverse_sequence(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    let (batch_axis, time_axis) = (spec.int("batch_axis", 1)?, spec.int("time_axis", 0)?);
    ensure!(
        (batch_axis, time_axis) == (0, 1) || (batch_axis, time_axis) == (1, 0),
        "axes {batch_axis} and {time_axis}"
    );
    fn reversed<T: Element>(v: &[T], dims: &[usize], lens: &[usize], time: usize) -> Data {
        let inner: usize = dims[2..].iter().product();
        let at = |a: usize, b: usize| (a * dims[1] + b) * inner;
        let mut out = Vec::with_capacity(v.len());
        for a in 0..dims[0] {
            for b in 0..dims[1] {
                let (t, n) = if time == 0 { (a, lens[b]) } else { (b, lens[a]) };
                let from = if t < n { n - 1 - t } else { t };
                let start = if time == 0 { at(from, b) } else { at(a, from) };
                out.extend_from_slice(&v[start..start + inner]);
            }
        }
        T::wrap(out)
    }
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let dims = x.shape();
        ensure!(dims.len() >= 2, "input of rank {} instead of at least 2", dims.len());
        let lens = shape::from_i64s(&i.i64s(1)?)?;
        let (time, batch) = (time_axis as usize, batch_axis as usize);
        ensure!(
            lens.len() == dims[batch] && lens.iter().all(|&n| n <= dims[time]),
            "lengths {lens:?} for {dims:?}"
        );
        Ok(vec![tensor(
            dims.to_vec(),
            each_data!(x.data(), v => reversed(v, dims, &lens, time)),
        )?])
    }))
}

fn unique(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let (axis, sorted) = (spec.opt_int("axis")?, spec.flag("sorted", true)?);
    fn run<T: Element + PartialOrd>(v: &[T], dims: &[usize], axis: Option<i64>, sorted: bool) -> OpResult<Vec<Tensor>> {
        let flat = [v.len()];
        let (dims, axis) = match axis {
            Some(a) => (dims, shape::axis(a, dims.len())?),
            None => (flat.as_slice(), 0),
        };
        let inner: usize = dims[axis + 1..].iter().product();
        let outer: usize = dims[..axis].iter().product();
        let size = dims[axis];
        let slice = |k: usize| (0..outer).flat_map(move |o| (0..inner).map(move |j| &v[(o * size + k) * inner + j]));
        let compare = |a: usize, b: usize| slice(a).partial_cmp(slice(b)).unwrap_or(Ordering::Equal);
        let mut order: Vec<usize> = (0..size).collect();
        order.sort_by(|&a, &b| compare(a, b));
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for k in order {
            match groups.last_mut() {
                Some(g) if slice(g[0]).eq(slice(k)) => g.push(k),
                _ => groups.push(vec![k]),
            }
        }
        if !sorted {
            groups.sort_by_key(|g| g[0]);
        }
        let firsts: Vec<i64> = groups.iter().map(|g| g[0] as i64).collect();
        let mut inverse = vec![0; size];
        for (n, g) in groups.iter().enumerate() {
            for &k in g {
                inverse[k] = n as i64;
            }
        }
        let counts = groups.iter().map(|g| g.len() as i64).collect();
        let list = |v: Vec<i64>| tensor(vec![v.len()], Data::I64(v));
        let values = super::gather::take(v, dims, axis, &firsts, &[firsts.len()])?;
        Ok(vec![values, list(firsts)?, list(inverse)?, list(counts)?])
    }
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        each_data!(x.data(), v => run(v, x.shape(), axis, sorted))
    }))
}

fn non_max_suppression(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 5)?;
    let centre = spec.flag("center_point_box", false)?;
    Ok(Kernel::host(move |i| {
        let (boxes, scores) = (i.get(0)?, i.get(1)?);
        let (&[batches, n, 4], &[b, classes, m]) = (boxes.shape(), scores.shape()) else {
            bail!(
                "boxes of shape {:?} and scores of shape {:?}",
                boxes.shape(),
                scores.shape()
            )
        };
        ensure!(
            b == batches && m == n,
            "boxes of shape {:?} and scores of shape {:?}",
            boxes.shape(),
            scores.shape()
        );
        let limit = i.opt_i64s(2)?.and_then(|v| v.first().copied()).unwrap_or(0).max(0) as usize;
        let overlap = i.opt_f64(3)?.unwrap_or(0.0) as f32;
        let least = i.opt_f64(4)?.map(|v| v as f32);
        let (boxes, scores) = (typed::<f32>(boxes)?, typed::<f32>(scores)?);
        let mut out = Vec::new();
        for batch in 0..batches {
            let corner = |k: usize| corners(&boxes[(batch * n + k) * 4..][..4], centre);
            for class in 0..classes {
                let score = |k: usize| scores[(batch * classes + class) * n + k];
                let mut order: Vec<usize> = (0..n).filter(|&k| least.is_none_or(|l| score(k) > l)).collect();
                order.sort_by(|&a, &b| score(b).partial_cmp(&score(a)).unwrap_or(Ordering::Equal));
                let mut kept: Vec<usize> = Vec::new();
                for k in order {
                    if kept.len() >= limit {
                        break;
                    }
                    if kept
                        .iter()
                        .all(|&o| intersection_over_union(corner(o), corner(k)) <= overlap)
                    {
                        kept.push(k);
                        out.extend([batch as i64, class as i64, k as i64]);
                    }
                }
            }
        }
        Ok(vec![tensor(vec![out.len() / 3, 3], Data::I64(out))?])
    }))
}

/// Smaller and larger coordinates of a box given by two corners, or by its centre and size.
fn corners(b: &[f32], centre: bool) -> [f32; 4] {
    if centre {
        let (w, h) = (b[2] / 2.0, b[3] / 2.0);
        return [b[1] - h, b[0] - w, b[1] + h, b[0] + w];
    }
    [b[0].min(b[2]), b[1].min(b[3]), b[0].max(b[2]), b[1].max(b[3])]
}

fn intersection_over_union(a: [f32; 4], b: [f32; 4]) -> f32 {
    let side = |d: usize| (a[d + 2].min(b[d + 2]) - a[d].max(b[d])).max(0.0);
    let area = |c: [f32; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    let both = side(0) * side(1);
    let union = area(a) + area(b) - both;
    if union > 0.0 { both / union } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::testing::{eval, eval_at, f32s, ints};

    #[test]
    fn equal_values_keep_their_order_among_the_largest() {
        let x = f32s(&[1, 4], &[1.0, 3.0, 3.0, 2.0]);
        let out = eval_at(18, "TopK", |_| {}, &[x, ints(&[1], &[3])], 2).unwrap();
        assert_eq!(out[0], f32s(&[1, 3], &[3.0, 3.0, 2.0]));
        assert_eq!(out[1], ints(&[1, 3], &[1, 2, 3]));
    }

    #[test]
    fn running_sums_go_both_ways() {
        let inputs = [ints(&[3], &[1, 2, 3]), ints(&[], &[0])];
        assert_eq!(eval("CumSum", |_| {}, &inputs), ints(&[3], &[1, 3, 6]));
        let backwards = |a: &mut crate::testing::Attributes| {
            a.int("reverse", 1);
            a.int("exclusive", 1);
        };
        assert_eq!(eval("CumSum", backwards, &inputs), ints(&[3], &[5, 3, 0]));
    }

    #[test]
    fn distinct_values_come_with_places_and_counts() {
        let out = eval_at(18, "Unique", |_| {}, &[ints(&[4], &[3, 1, 3, 2])], 4).unwrap();
        let lists = [[1, 2, 3].as_slice(), &[1, 3, 0], &[2, 0, 2, 1], &[1, 1, 2]];
        assert_eq!(out, lists.map(|v| ints(&[v.len()], v)));
    }

    #[test]
    fn boxes_overlap_by_area() {
        assert_eq!(
            intersection_over_union([0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0]),
            2.0 / 6.0
        );
        assert_eq!(intersection_over_union([0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0]), 0.0);
        assert_eq!(corners(&[1.0, 1.0, 2.0, 4.0], true), [-1.0, 0.0, 3.0, 2.0]);
    }
}
