//! Tensors from nothing or from shapes.

use bytes::Bytes;

use crate::fault::{OpResult, bail, ensure};
use crate::host::{Element, Number, numbers, typed};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, each_data, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("Constant", 1, constant),
    entry("ConstantOfShape", 9, constant_of_shape),
    entry("EyeLike", 9, eye_like),
    entry("Range", 11, range),
    entry("Shape", 1, shape_of),
    entry("Size", 1, size_of),
    entry("Trilu", 14, trilu),
];

fn constant(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(0, 0)?;
    let list = |data: Data| tensor(vec![data.len()], data);
    let text = |s: &str| Bytes::copy_from_slice(s.as_bytes());
    let value = if let Some(t) = spec.tensor("value")? {
        t
    } else if let Some(v) = spec.opt_float("value_float")? {
        tensor(vec![], Data::F32(vec![v]))?
    } else if let Some(v) = spec.opt_int("value_int")? {
        tensor(vec![], Data::I64(vec![v]))?
    } else if let Some(v) = spec.opt_string("value_string")? {
        tensor(vec![], Data::Bytes(vec![text(v)]))?
    } else if let Some(v) = spec.floats("value_floats")? {
        list(Data::F32(v))?
    } else if let Some(v) = spec.ints("value_ints")? {
        list(Data::I64(v))?
    } else if let Some(v) = spec.strings("value_strings")? {
        list(Data::Bytes(v.iter().map(|s| text(s)).collect()))?
    } else {
        bail!("it has no value that is supported")
    };
    Ok(Kernel::host(move |_| Ok(vec![value.clone()])))
}

fn constant_of_shape(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let value = match spec.tensor("value")? {
        Some(v) => v,
        None => tensor(vec![1], Data::F32(vec![0.0]))?,
    };
    ensure!(
        value.data().len() == 1,
        "attribute \"value\" has {} elements instead of 1",
        value.data().len()
    );
    Ok(Kernel::host(move |i| {
        let dims = shape::from_i64s(&i.i64s(0)?)?;
        let n = shape::elements(&dims)?;
        let data = each_data!(value.data(), v => repeated(v, n));
        Ok(vec![tensor(dims, data)?.marked(value.small())])
    }))
}

fn repeated<T: Element>(v: &[T], n: usize) -> Data {
    T::wrap(vec![v[0].clone(); n])
}

/// `start` and `end` as from opset 15.
fn shape_of(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let (start, end) = (spec.int("start", 0)?, spec.int("end", i64::MAX)?);
    Ok(Kernel::shape(move |dims| {
        let rank = dims.len() as i64;
        let at = |v: i64| if v < 0 { v.saturating_add(rank).max(0) } else { v.min(rank) } as usize;
        let (start, end) = (at(start), at(end));
        let picked = dims.get(start..end).unwrap_or_default();
        Data::I64(picked.iter().map(|&d| d as i64).collect())
    }))
}

fn size_of(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    Ok(Kernel::Shape {
        scalar: true,
        op: Box::new(|dims| Data::I64(vec![dims.iter().product::<usize>() as i64])),
    })
}

fn range(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, 3)?;
    fn numbers_between<T: Number>(start: &[T], i: &Inputs<'_>) -> OpResult<Data> {
        let (&[start], &[limit], &[delta]) = (start, typed::<T>(i.get(1)?)?, typed::<T>(i.get(2)?)?) else {
            bail!("start, limit and delta are not scalars")
        };
        let steps = ((limit.to_f64() - start.to_f64()) / delta.to_f64()).ceil();
        ensure!(!steps.is_nan(), "delta is 0");
        let n = shape::elements(&[steps.max(0.0) as usize])?;
        Ok(T::wrap(
            (0..n).map(|k| start.add(delta.mul(T::from_i64(k as i64)))).collect(),
        ))
    }
    Ok(Kernel::host(|i| {
        let data = numbers!(i.get(0)?.data(), v => numbers_between(v, i)?);
        Ok(vec![tensor(vec![data.len()], data)?])
    }))
}

fn eye_like(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let (k, datatype) = (spec.int("k", 0)?, spec.data_type("dtype")?);
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let &[rows, columns] = x.shape() else {
            bail!("input of rank {} instead of 2", x.shape().len())
        };
        let eye = (0..rows).flat_map(|r| (0..columns).map(move |c| r as i64 + k == c as i64));
        let eye = tensor(vec![rows, columns], Data::Bool(eye.collect()))?;
        Ok(vec![super::cast::cast(&eye, datatype.unwrap_or(x.datatype()), true)?])
    }))
}

fn trilu(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 2)?;
    let upper = spec.flag("upper", true)?;
    fn triangle<T: Element>(v: &[T], rows: usize, columns: usize, keep: impl Fn(i64, i64) -> bool) -> Data {
        let keep = |n: usize| keep((n / columns % rows) as i64, (n % columns) as i64);
        T::wrap(
            v.iter()
                .enumerate()
                .map(|(n, x)| if keep(n) { x.clone() } else { T::default() })
                .collect(),
        )
    }
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let k = i.opt_i64s(1)?.and_then(|k| k.first().copied()).unwrap_or(0);
        let [.., rows, columns] = *x.shape() else {
            bail!("input of rank {} instead of at least 2", x.shape().len())
        };
        let keep = |r: i64, c: i64| {
            let diagonal = r.saturating_add(k);
            if upper { c >= diagonal } else { c <= diagonal }
        };
        let data = each_data!(x.data(), v => triangle(v, rows, columns, keep));
        Ok(vec![tensor(x.shape().to_vec(), data)?])
    }))
}

#[cfg(test)]
mod tests {
    use crate::testing::{eval, f32s, ints};

    #[test]
    fn shapes_are_cut_as_python_cuts() {
        let x = f32s(&[2, 3, 4], &[0.0; 24]);
        assert_eq!(eval("Shape", |_| {}, &[x.clone()]), ints(&[3], &[2, 3, 4]));
        assert_eq!(eval("Shape", |a| a.int("start", -2), &[x.clone()]), ints(&[2], &[3, 4]));
        assert_eq!(eval("Size", |_| {}, &[x]), ints(&[], &[24]));
    }

    #[test]
    fn ranges_and_triangles() {
        let range = eval("Range", |_| {}, &[ints(&[], &[5]), ints(&[], &[0]), ints(&[], &[-2])]);
        assert_eq!(range, ints(&[3], &[5, 3, 1]));
        let lower = eval("Trilu", |a| a.int("upper", 0), &[ints(&[2, 2], &[1, 2, 3, 4])]);
        assert_eq!(lower, ints(&[2, 2], &[1, 0, 3, 4]));
    }
}
