//! Operators that put tensors together or repeat them.

use crate::device::{DeviceOp, concat_axis};
use crate::fault::{OpResult, bail, ensure};
use crate::host::{Element, typed};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Tensor, each_data, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("Concat", 4, concat),
    entry("Pad", 2, pad_attributes),
    entry("Pad", 11, pad_operands),
    entry("Tile", 6, tile),
];

fn concat(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, usize::MAX)?;
    let axis = spec.int("axis", 0)?;
    fn joined<T: Element>(_first: &[T], i: &Inputs<'_>, axis: i64) -> OpResult<Vec<Tensor>> {
        let parts = (0..i.len()).map(|k| i.get(k)).collect::<OpResult<Vec<_>>>()?;
        let shapes: Vec<Vec<usize>> = parts.iter().map(|p| p.shape().to_vec()).collect();
        let axis = concat_axis(&shapes, axis)?;
        let mut dims = shapes[0].clone();
        dims[axis] = shapes.iter().map(|s| s[axis]).sum();
        let mut out: Vec<T> = Vec::with_capacity(shape::elements(&dims)?);
        let slices = parts.iter().map(|p| typed::<T>(p)).collect::<OpResult<Vec<_>>>()?;
        let chunk: Vec<usize> = shapes.iter().map(|s| s[axis..].iter().product()).collect();
        for row in 0..dims[..axis].iter().product() {
            for (v, &n) in slices.iter().zip(&chunk) {
                out.extend_from_slice(&v[row * n..(row + 1) * n]);
            }
        }
        Ok(vec![tensor(dims, T::wrap(out))?])
    }
    Ok(Kernel::dual(
        DeviceOp::Concat { axis },
        move |i: &Inputs<'_>| each_data!(i.get(0)?.data(), v => joined(v, i, axis)),
    ))
}

/// Builds a tensor by saying for each output index which input element it takes, dimension by dimension.
fn mapped<T: Element>(v: &[T], dims: &[usize], sources: &[Vec<Option<usize>>], fill: &T) -> OpResult<Tensor> {
    let out_dims: Vec<usize> = sources.iter().map(Vec::len).collect();
    let n = shape::elements(&out_dims)?;
    let strides = shape::strides(dims);
    let mut out = Vec::with_capacity(n);
    if n > 0 {
        let mut index = vec![0; out_dims.len()];
        loop {
            let at = index
                .iter()
                .zip(sources)
                .zip(&strides)
                .try_fold(0, |at, ((&i, s), stride)| Some(at + s[i]? * stride));
            out.push(at.map_or_else(|| fill.clone(), |at| v[at].clone()));
            if !shape::step(&mut index, &out_dims) {
                break;
            }
        }
    }
    tensor(out_dims, T::wrap(out))
}

fn repeated<T: Element>(v: &[T], dims: &[usize], sources: &[Vec<Option<usize>>]) -> OpResult<Tensor> {
    mapped(v, dims, sources, &T::default())
}

fn tile(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    Ok(Kernel::host(|i| {
        let x = i.get(0)?;
        let repeats = shape::from_i64s(&i.i64s(1)?)?;
        ensure!(
            repeats.len() == x.shape().len(),
            "repeats {repeats:?} for shape {:?}",
            x.shape()
        );
        let out: Vec<usize> = x
            .shape()
            .iter()
            .zip(&repeats)
            .map(|(&d, &r)| d.saturating_mul(r))
            .collect();
        shape::elements(&out)?;
        let sources: Vec<Vec<_>> = out
            .iter()
            .zip(x.shape())
            .map(|(&n, &d)| (0..n).map(|k| Some(k % d.max(1))).collect())
            .collect();
        Ok(vec![each_data!(x.data(), v => repeated(v, x.shape(), &sources))?])
    }))
}

/// What stands beyond the border.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

fn mode(spec: &Spec<'_>) -> OpResult<Mode> {
    Ok(match spec.string("mode", "constant")? {
        "constant" => Mode::Constant,
        "reflect" => Mode::Reflect,
        "edge" => Mode::Edge,
        "wrap" => Mode::Wrap,
        other => bail!("attribute \"mode\" is {other:?}"),
    })
}

fn pad_attributes(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let mode = mode(spec)?;
    let pads = spec.ints("pads")?.or(spec.ints("paddings")?).unwrap_or_default();
    let value = f64::from(spec.float("value", 0.0)?);
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let fill = tensor(vec![], crate::Data::F64(vec![value]))?;
        Ok(vec![pad(
            x,
            &pads,
            None,
            Some(&super::cast::cast(&fill, x.datatype(), true)?),
            mode,
        )?])
    }))
}

fn pad_operands(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 4)?;
    let mode = mode(spec)?;
    Ok(Kernel::host(move |i| {
        let (pads, axes) = (i.i64s(1)?, i.opt_i64s(3)?);
        Ok(vec![pad(i.get(0)?, &pads, axes.as_deref(), i.opt(2), mode)?])
    }))
}

fn pad(x: &Tensor, pads: &[i64], axes: Option<&[i64]>, fill: Option<&Tensor>, mode: Mode) -> OpResult<Tensor> {
    fn filled<T: Element>(
        v: &[T],
        dims: &[usize],
        sources: &[Vec<Option<usize>>],
        fill: Option<&Tensor>,
    ) -> OpResult<Tensor> {
        let fill = match fill {
            Some(t) => match typed::<T>(t)? {
                [v] => v.clone(),
                v => bail!("the constant has {} elements instead of 1", v.len()),
            },
            None => T::default(),
        };
        mapped(v, dims, sources, &fill)
    }
    let dims = x.shape();
    let all: Vec<i64> = (0..dims.len() as i64).collect();
    let axes = axes.unwrap_or(&all);
    let n = axes.len();
    ensure!(pads.len() == 2 * n, "{} pads for {n} axes", pads.len());
    let mut ends = vec![(0i64, 0i64); dims.len()];
    for k in 0..n {
        ends[shape::axis(axes[k], dims.len())?] = (pads[k], pads[n + k]);
    }
    let mut out = Vec::with_capacity(dims.len());
    for (&d, &(begin, end)) in dims.iter().zip(&ends) {
        // Far from where the arithmetic on places would overflow.
        ensure!(
            begin.unsigned_abs().max(end.unsigned_abs()) <= shape::LONGEST as u64,
            "pads {begin} and {end} of a dimension of {d}"
        );
        match (d as i64).checked_add(begin).and_then(|v| v.checked_add(end)) {
            Some(v) if v >= 0 => out.push(v as usize),
            _ => bail!("pads {begin} and {end} of a dimension of {d}"),
        }
    }
    shape::elements(&out)?;
    let sources = out.iter().zip(dims).zip(&ends);
    let sources = sources
        .map(|((&n, &d), &(begin, _))| {
            ensure!(
                mode == Mode::Constant || d > 0 || n == 0,
                "an empty dimension can't be continued"
            );
            Ok((0..n as i64).map(|k| source(k - begin, d as i64, mode)).collect())
        })
        .collect::<OpResult<Vec<Vec<_>>>>()?;
    each_data!(x.data(), v => filled(v, dims, &sources, fill))
}

fn source(at: i64, size: i64, mode: Mode) -> Option<usize> {
    let at = match mode {
        _ if (0..size).contains(&at) => at,
        Mode::Constant => return None,
        Mode::Edge => at.clamp(0, size - 1),
        Mode::Wrap => at.rem_euclid(size),
        // There and back again, without repeating the border.
        Mode::Reflect => {
            let period = (2 * (size - 1)).max(1);
            let k = at.rem_euclid(period);
            if k < size { k } else { period - k }
        }
    };
    Some(at as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Data;

    use crate::testing::{eval, eval_at, f32s, ints};

    #[test]
    fn parts_are_joined_repeated_and_padded() {
        let (a, b) = (ints(&[2, 1], &[1, 2]), ints(&[2, 2], &[3, 4, 5, 6]));
        assert_eq!(
            eval("Concat", |at| at.int("axis", -1), &[a.clone(), b]),
            ints(&[2, 3], &[1, 3, 4, 2, 5, 6])
        );
        assert_eq!(
            eval("Tile", |_| {}, &[a.clone(), ints(&[2], &[1, 3])]),
            ints(&[2, 3], &[1, 1, 1, 2, 2, 2])
        );
        let padded = eval("Pad", |_| {}, &[a.clone(), ints(&[4], &[-1, 1, 0, 0]), ints(&[], &[9])]);
        assert_eq!(padded, ints(&[1, 2], &[9, 2]));
        assert!(eval_at(18, "Concat", |at| at.int("axis", 0), &[a, ints(&[1, 2], &[0, 0])], 1).is_err());
    }

    #[test]
    fn the_device_joins_as_the_host_does() {
        let v: Vec<f32> = (0..1200).map(|k| k as f32).collect();
        let out = eval(
            "Concat",
            |a| a.int("axis", 0),
            &[f32s(&[600, 2], &v), f32s(&[1, 2], &[7.0, 8.0])],
        );
        let Data::F32(out) = out.into_parts().1 else {
            panic!("no floats")
        };
        assert_eq!((out.len(), out[1199], out[1200]), (1202, 1199.0, 7.0));
    }

    #[test]
    fn borders_are_continued_as_the_mode_says() {
        let at = |mode| {
            (-3..6)
                .map(|k| source(k, 3, mode))
                .map(|s| s.map_or(9, |s| s))
                .collect::<Vec<_>>()
        };
        assert_eq!(at(Mode::Constant), [9, 9, 9, 0, 1, 2, 9, 9, 9]);
        assert_eq!(at(Mode::Edge), [0, 0, 0, 0, 1, 2, 2, 2, 2]);
        assert_eq!(at(Mode::Wrap), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
        assert_eq!(at(Mode::Reflect), [1, 2, 1, 0, 1, 2, 1, 0, 1]);
    }
}
