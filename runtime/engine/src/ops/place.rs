//! Elements put at other places: `CenterCropPad`, `Col2Im`, `MaxUnpool`; and the determinant.

use crate::fault::{OpResult, bail, ensure};
use crate::host::{Element, Number, numbers};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::ops::cast::{cast, doubles};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor, each_data, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("CenterCropPad", 18, centre),
    entry("Col2Im", 18, col2im),
    entry("Det", 11, determinant),
    entry("MaxUnpool", 9, unpool),
];

/// Cuts or pads around the middle.
fn centre(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    let axes = spec.ints("axes")?;
    fn moved<T: Element>(v: &[T], from: &[usize], to: &[usize], shifts: &[(usize, usize)]) -> Data {
        let strides = shape::strides(from);
        let mut out = Vec::with_capacity(to.iter().product());
        if to.contains(&0) {
            return T::wrap(out);
        }
        let mut index = vec![0; to.len()];
        loop {
            let source = index.iter().enumerate().try_fold(0, |sum, (d, &k)| {
                let (pad, crop) = shifts[d];
                let p = (k + crop).checked_sub(pad)?;
                (p < from[d]).then(|| sum + p * strides[d])
            });
            out.push(source.map_or_else(T::default, |p| v[p].clone()));
            if !shape::step(&mut index, to) {
                return T::wrap(out);
            }
        }
    }
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let from = x.shape();
        let wanted = shape::from_i64s(&i.i64s(1)?)?;
        let axes = match &axes {
            Some(list) => list
                .iter()
                .map(|&a| shape::axis(a, from.len()))
                .collect::<OpResult<Vec<_>>>()?,
            None => (0..from.len()).collect(),
        };
        ensure!(
            axes.len() == wanted.len(),
            "{} sizes for {} axes",
            wanted.len(),
            axes.len()
        );
        let (mut to, mut shifts) = (from.to_vec(), vec![(0, 0); from.len()]);
        for (&axis, &size) in axes.iter().zip(&wanted) {
            let have = from[axis];
            shifts[axis] = (size.saturating_sub(have) / 2, have.saturating_sub(size) / 2);
            to[axis] = size;
        }
        shape::elements(&to)?;
        let data = each_data!(x.data(), v => moved(v, from, &to, &shifts));
        Ok(vec![tensor(to, data)?])
    }))
}

/// Adds columns of blocks up to images: the reverse of im2col.
fn col2im(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, 3)?;
    let pads = spec.sizes("pads", 0)?.unwrap_or_default();
    let strides = spec.sizes("strides", 1)?.unwrap_or_default();
    let dilations = spec.sizes("dilations", 1)?.unwrap_or_default();
    Ok(Kernel::host(move |i| {
        let (image, block) = (shape::from_i64s(&i.i64s(1)?)?, shape::from_i64s(&i.i64s(2)?)?);
        let d = image.len();
        let &[n, rows, columns] = i.get(0)?.shape() else {
            bail!("input of shape {:?} instead of three dimensions", i.get(0)?.shape())
        };
        let fits = |list: &[usize], want: usize| list.is_empty() || list.len() == want;
        ensure!(
            block.len() == d && fits(&pads, 2 * d) && fits(&strides, d) && fits(&dilations, d),
            "blocks of {block:?} in images of {image:?}"
        );
        let at = |list: &[usize], k: usize, default: usize| list.get(k).copied().unwrap_or(default);
        let mut steps = Vec::with_capacity(d);
        for k in 0..d {
            let reach = block[k]
                .checked_sub(1)
                .and_then(|b| b.checked_mul(at(&dilations, k, 1)));
            let padded = image[k]
                .checked_add(at(&pads, k, 0))
                .and_then(|p| p.checked_add(at(&pads, d + k, 0)));
            let free = padded.zip(reach).and_then(|(p, r)| p.checked_sub(r)?.checked_sub(1));
            let Some(free) = free else {
                bail!("blocks of {block:?} do not fit images of {image:?}")
            };
            steps.push(free / at(&strides, k, 1) + 1);
        }
        let taps = shape::elements(&block)?;
        ensure!(
            taps > 0 && rows.is_multiple_of(taps) && shape::elements(&steps)? == columns,
            "columns of shape {:?} for blocks of {block:?} in {steps:?} places",
            i.get(0)?.shape()
        );
        let channels = rows / taps;
        let mut dims = vec![n, channels];
        dims.extend_from_slice(&image);
        let mut out = vec![0.0; shape::elements(&dims)?];
        let (v, plane, own) = (
            doubles(i.get(0)?)?,
            image.iter().product::<usize>(),
            shape::strides(&image),
        );
        let (mut tap, mut place) = (vec![0; d], vec![0; d]);
        for t in 0..taps {
            for p in 0..columns {
                let target = (0..d).try_fold(0, |sum, k| {
                    let x = place[k] * at(&strides, k, 1) + tap[k] * at(&dilations, k, 1);
                    let x = x.checked_sub(at(&pads, k, 0))?;
                    (x < image[k]).then(|| sum + x * own[k])
                });
                if let Some(target) = target {
                    for c in 0..n * channels {
                        out[c * plane + target] += v[(c * taps + t) * columns + p];
                    }
                }
                shape::step(&mut place, &steps);
            }
            shape::step(&mut tap, &block);
        }
        let out = tensor(dims, Data::F64(out))?;
        Ok(vec![cast(&out, i.get(0)?.datatype(), true)?])
    }))
}

/// Puts the maxima back where `MaxPool` found them.
fn unpool(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 3)?;
    let Some(kernel) = spec.sizes("kernel_shape", 1)? else {
        bail!("attribute \"kernel_shape\" is missing")
    };
    let (pads, strides) = (
        spec.sizes("pads", 0)?.unwrap_or_default(),
        spec.sizes("strides", 1)?.unwrap_or_default(),
    );
    fn put<T: Number>(v: &[T], at: &[i64], inner: &[usize], dims: &[usize]) -> OpResult<Data> {
        let mut out = vec![T::from_i64(0); shape::elements(dims)?];
        let strides = shape::strides(dims);
        for (&x, &p) in v.iter().zip(at) {
            let p = usize::try_from(p).unwrap_or(usize::MAX);
            ensure!(p < inner.iter().product(), "place {p} in an output of {inner:?}");
            // The places count in the smaller output, which lies in the corner of a larger one.
            let (mut rest, mut target) = (p, 0);
            for (d, &size) in inner.iter().enumerate().rev() {
                ensure!(rest % size < dims[d], "place {p} lies outside of {dims:?}");
                target += rest % size * strides[d];
                rest /= size;
            }
            out[target] = x;
        }
        Ok(T::wrap(out))
    }
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let xs = x.shape();
        ensure!(
            xs.len() == kernel.len() + 2 && i.get(1)?.shape() == xs,
            "places of shape {:?} for maxima of {xs:?}",
            i.get(1)?.shape()
        );
        let d = kernel.len();
        let mut inner = xs[..2].to_vec();
        for k in 0..d {
            let at = |list: &[usize], k: usize, default: usize| list.get(k).copied().unwrap_or(default);
            let whole = xs[k + 2].saturating_sub(1).saturating_mul(at(&strides, k, 1)) + kernel[k];
            let Some(size) = whole.checked_sub(at(&pads, k, 0) + at(&pads, d + k, 0)) else {
                bail!("pads larger than the output")
            };
            inner.push(size);
        }
        let dims = match i.opt_i64s(2)? {
            Some(dims) => shape::from_i64s(&dims)?,
            None => inner.clone(),
        };
        ensure!(dims.len() == inner.len(), "an output of shape {dims:?} for {inner:?}");
        shape::elements(&inner)?;
        let places = i.i64s(1)?;
        let data = numbers!(x.data(), v => put(v, &places, &inner, &dims)?);
        Ok(vec![tensor(dims, data)?])
    }))
}

/// By elimination with the largest pivot.
fn determinant(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    fn of(m: &mut [f64], n: usize) -> f64 {
        let mut det = 1.0;
        for c in 0..n {
            let pivot = (c..n).max_by(|&a, &b| m[a * n + c].abs().total_cmp(&m[b * n + c].abs()));
            let Some(pivot) = pivot.filter(|&p| m[p * n + c] != 0.0) else {
                return 0.0;
            };
            if pivot != c {
                det = -det;
                (0..n).for_each(|k| m.swap(pivot * n + k, c * n + k));
            }
            det *= m[c * n + c];
            for r in c + 1..n {
                let factor = m[r * n + c] / m[c * n + c];
                (c..n).for_each(|k| m[r * n + k] -= factor * m[c * n + k]);
            }
        }
        det
    }
    Ok(Kernel::host(|i: &Inputs<'_>| -> OpResult<Vec<Tensor>> {
        let x = i.get(0)?;
        let [lead @ .., rows, columns] = x.shape() else {
            bail!("input of rank {} instead of at least 2", x.shape().len())
        };
        ensure!(rows == columns, "a matrix of {rows} x {columns} has no determinant");
        let mut v = doubles(x)?;
        let count: usize = lead.iter().product();
        let size = rows * columns;
        let out = (0..count)
            .map(|k| of(&mut v[k * size..(k + 1) * size], *rows))
            .collect();
        Ok(vec![cast(&tensor(lead.to_vec(), Data::F64(out))?, x.datatype(), true)?])
    }))
}

#[cfg(test)]
mod tests {
    use crate::testing::{assert_close, eval, f32s, ints};

    #[test]
    fn determinants_know_swaps_and_singular_matrices() {
        let det = |v: &[f32]| eval("Det", |_| {}, &[f32s(&[2, 2], v)]);
        assert_close(&det(&[0.0, 2.0, 3.0, 4.0]), &f32s(&[], &[-6.0]));
        assert_close(&det(&[1.0, 2.0, 2.0, 4.0]), &f32s(&[], &[0.0]));
    }

    #[test]
    fn the_middle_is_cut_and_padded() {
        let x = f32s(&[3], &[1.0, 2.0, 3.0]);
        assert_eq!(
            eval("CenterCropPad", |_| {}, &[x.clone(), ints(&[1], &[1])]),
            f32s(&[1], &[2.0])
        );
        let padded = eval("CenterCropPad", |_| {}, &[x, ints(&[1], &[6])]);
        assert_eq!(padded, f32s(&[6], &[0.0, 1.0, 2.0, 3.0, 0.0, 0.0]));
    }
}
