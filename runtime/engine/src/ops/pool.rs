//! Pools: on the device where it has them, on the host in every other shape, size and padding.

use crate::device::DeviceOp;
use crate::fault::{OpResult, ensure};
use crate::host::{Number, floats, numbers};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::shape;
use crate::spec::Spec;
use crate::window::{Axis, Window};
use crate::{Data, Tensor};

pub(crate) const TABLE: &[Entry] = &[
    entry("AveragePool", 1, average_pool),
    entry("GlobalAveragePool", 1, |s| global(s, Global::Average)),
    entry("GlobalLpPool", 2, |s| {
        let p = s.int("p", 2)?;
        global(s, Global::Norm(p as f64))
    }),
    entry("GlobalMaxPool", 1, |s| global(s, Global::Max)),
    entry("LpPool", 2, lp_pool),
    entry("MaxPool", 1, max_pool),
];

fn window(spec: &Spec<'_>) -> OpResult<(Window, Vec<usize>)> {
    spec.expect_inputs(1, 1)?;
    let mut window = Window::parse(spec)?;
    window.ceil = spec.flag("ceil_mode", false)?;
    let kernel = spec.sizes("kernel_shape", 1)?.unwrap_or_default();
    ensure!(!kernel.is_empty(), "attribute \"kernel_shape\" is missing");
    Ok((window, kernel))
}

fn max_pool(spec: &Spec<'_>) -> OpResult<Kernel> {
    let (window, kernel) = window(spec)?;
    let column_major = spec.flag("storage_order", false)?;
    let wants_indices = spec.has_output(1);
    let device = DeviceOp::MaxPool {
        window: window.clone(),
        kernel: kernel.clone(),
    };
    fn maxima<T: Number>(v: &[T], x: &Tensor, axes: &[Axis], column_major: bool, wants: bool) -> OpResult<Vec<Tensor>> {
        let mut indices = Vec::new();
        let spatial: Vec<usize> = axes.iter().map(|a| a.input).collect();
        let plane: usize = spatial.iter().product();
        let (dims, out) = windows(v, x.shape(), axes, |base, taps| {
            let mut best: Option<(usize, T)> = None;
            for &(_, at) in taps {
                let value = v[base + at];
                if best.is_none_or(|(_, b)| value > b || (value.is_nan() && !b.is_nan())) {
                    best = Some((at, value));
                }
            }
            let (at, value) = best.unwrap_or((0, T::lowest()));
            if wants {
                let at = if column_major { transposed(at, &spatial) } else { at };
                indices.push((base / plane.max(1) * plane + at) as i64);
            }
            value
        })?;
        let mut results = vec![tensor(dims.clone(), T::wrap(out))?];
        if wants {
            results.push(tensor(dims, Data::I64(indices))?);
        }
        Ok(results)
    }
    let host = move |i: &Inputs<'_>| {
        let x = i.get(0)?;
        let axes = axes(x, &window, &kernel)?;
        numbers!(x.data(), v => maxima(v, x, &axes, column_major, wants_indices))
    };
    Ok(if wants_indices {
        Kernel::host(host)
    } else {
        Kernel::dual(device, host)
    })
}

/// The flat index of the same element with the first spatial dimension running fastest.
fn transposed(mut at: usize, dims: &[usize]) -> usize {
    let mut index = vec![0; dims.len()];
    for d in (0..dims.len()).rev() {
        index[d] = at % dims[d];
        at /= dims[d];
    }
    index.iter().zip(dims).rev().fold(0, |n, (i, d)| n * d + i)
}

fn axes(x: &Tensor, window: &Window, kernel: &[usize]) -> OpResult<Vec<Axis>> {
    ensure!(
        x.shape().len() >= 3,
        "input of rank {} instead of at least 3",
        x.shape().len()
    );
    window.resolve(&x.shape()[2..], kernel)
}

fn average_pool(spec: &Spec<'_>) -> OpResult<Kernel> {
    let (window, kernel) = window(spec)?;
    let count_pad = spec.flag("count_include_pad", false)?;
    let device = DeviceOp::AveragePool {
        window: window.clone(),
        kernel: kernel.clone(),
        count_pad,
    };
    fn averages<T: Number>(v: &[T], x: &Tensor, axes: &[Axis], count_pad: bool) -> OpResult<Vec<Tensor>> {
        let (dims, out) = windows(v, x.shape(), axes, |base, taps| {
            let sum: f64 = taps.iter().map(|&(_, at)| v[base + at].to_f64()).sum();
            // Padding counts up to the padded border, a partial last window's overhang never.
            let n = if count_pad {
                taps.first().map_or(1, |t| t.0)
            } else {
                taps.len()
            };
            T::from_f64(sum / n.max(1) as f64)
        })?;
        Ok(vec![tensor(dims, T::wrap(out))?])
    }
    Ok(Kernel::dual(device, move |i: &Inputs<'_>| {
        let x = i.get(0)?;
        let axes = axes(x, &window, &kernel)?;
        floats!(x.data(), v => averages(v, x, &axes, count_pad))
    }))
}

fn lp_pool(spec: &Spec<'_>) -> OpResult<Kernel> {
    let (window, kernel) = window(spec)?;
    let p = spec.int("p", 2)? as f64;
    fn norms<T: Number>(v: &[T], x: &Tensor, axes: &[Axis], p: f64) -> OpResult<Vec<Tensor>> {
        let (dims, out) = windows(v, x.shape(), axes, |base, taps| {
            T::from_f64(
                taps.iter()
                    .map(|&(_, at)| v[base + at].to_f64().abs().powf(p))
                    .sum::<f64>()
                    .powf(1.0 / p),
            )
        })?;
        Ok(vec![tensor(dims, T::wrap(out))?])
    }
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let axes = axes(x, &window, &kernel)?;
        floats!(x.data(), v => norms(v, x, &axes, p))
    }))
}

/// Calls `f` for each window of each plane with the plane's offset and the taps inside the input: for each the number
/// of places of the window within the padded input, and the element's offset in the plane.
fn windows<T, U>(
    _v: &[T],
    dims: &[usize],
    axes: &[Axis],
    mut f: impl FnMut(usize, &[(usize, usize)]) -> U,
) -> OpResult<(Vec<usize>, Vec<U>)> {
    let mut out_dims = dims[..2].to_vec();
    out_dims.extend(axes.iter().map(|a| a.output));
    let n = shape::elements(&out_dims)?;
    let mut out = Vec::with_capacity(n);
    let plane: usize = dims[2..].iter().product();
    if n == 0 {
        return Ok((out_dims, out));
    }
    let strides = shape::strides(&dims[2..]);
    let positions = &out_dims[2..];
    // The taps of a window are the same in all planes.
    let mut taps_of = Vec::with_capacity(positions.iter().product());
    let mut index = vec![0; axes.len()];
    loop {
        taps_of.push(taps(axes, &index, &strides));
        if !shape::step(&mut index, positions) {
            break;
        }
    }
    for p in 0..dims[0] * dims[1] {
        out.extend(taps_of.iter().map(|taps| f(p * plane, taps)));
    }
    Ok((out_dims, out))
}

fn taps(axes: &[Axis], position: &[usize], strides: &[usize]) -> Vec<(usize, usize)> {
    let mut taps = vec![(1, 0)];
    for ((a, &p), &stride) in axes.iter().zip(position).zip(strides) {
        let start = p * a.stride;
        let padded = a.input + a.begin + a.end;
        let within = (0..a.kernel).filter(|k| start + k * a.dilation < padded).count();
        let inside: Vec<usize> = (0..a.kernel)
            .map(|k| start + k * a.dilation)
            .filter(|&at| at >= a.begin && at < a.begin + a.input)
            .map(|at| (at - a.begin) * stride)
            .collect();
        taps = taps
            .iter()
            .flat_map(|&(n, base)| inside.iter().map(move |at| (n * within, base + at)))
            .collect();
    }
    taps
}

/// What a global pool makes of a plane.
#[derive(Clone, Copy)]
enum Global {
    Average,
    Max,
    Norm(f64),
}

fn global(spec: &Spec<'_>, kind: Global) -> OpResult<Kernel> {
    use crate::device::Reduce;
    spec.expect_inputs(1, 1)?;
    fn planes<T: Number>(v: &[T], dims: &[usize], kind: Global) -> OpResult<Vec<Tensor>> {
        ensure!(dims.len() >= 2, "input of rank {} instead of at least 2", dims.len());
        let plane: usize = dims[2..].iter().product();
        ensure!(plane > 0, "empty planes in shape {dims:?}");
        let value = |c: &[T]| match kind {
            Global::Average => T::from_f64(c.iter().map(|x| x.to_f64()).sum::<f64>() / plane as f64),
            Global::Max => c
                .iter()
                .copied()
                .fold(T::lowest(), |a, b| if a.is_nan() || a > b { a } else { b }),
            Global::Norm(p) => T::from_f64(c.iter().map(|x| x.to_f64().abs().powf(p)).sum::<f64>().powf(1.0 / p)),
        };
        let mut out = dims[..2].to_vec();
        out.resize(dims.len(), 1);
        Ok(vec![tensor(out, T::wrap(v.chunks(plane).map(value).collect()))?])
    }
    let host = move |i: &Inputs<'_>| {
        let x = i.get(0)?;
        floats!(x.data(), v => planes(v, x.shape(), kind))
    };
    let reduce = match kind {
        Global::Average => Reduce::Mean,
        Global::Max => Reduce::Max,
        Global::Norm(_) => return Ok(Kernel::host(host)),
    };
    Ok(Kernel::dual(DeviceOp::GlobalPool(reduce), host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Attributes, assert_close, eval, eval_at, f32s};

    fn window(a: &mut Attributes) {
        a.ints("kernel_shape", &[2, 2]);
        a.ints("strides", &[2, 2]);
    }

    fn square() -> Tensor {
        f32s(&[1, 1, 3, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
    }

    #[test]
    fn whole_windows_only_unless_ceil_mode() {
        assert_close(&eval("MaxPool", window, &[square()]), &f32s(&[1, 1, 1, 1], &[5.0]));
        let ceil = |a: &mut Attributes| {
            window(a);
            a.int("ceil_mode", 1);
        };
        assert_close(
            &eval("MaxPool", ceil, &[square()]),
            &f32s(&[1, 1, 2, 2], &[5.0, 6.0, 8.0, 9.0]),
        );
        assert_close(
            &eval("AveragePool", ceil, &[square()]),
            &f32s(&[1, 1, 2, 2], &[3.0, 4.5, 7.5, 9.0]),
        );
    }

    #[test]
    fn padding_counts_in_an_average_only_when_asked() {
        let padded = |count: i64| {
            move |a: &mut Attributes| {
                a.ints("kernel_shape", &[2]);
                a.ints("pads", &[1, 0]);
                a.int("count_include_pad", count);
            }
        };
        let x = f32s(&[1, 1, 2], &[2.0, 4.0]);
        assert_close(
            &eval("AveragePool", padded(0), &[x.clone()]),
            &f32s(&[1, 1, 2], &[2.0, 3.0]),
        );
        assert_close(&eval("AveragePool", padded(1), &[x]), &f32s(&[1, 1, 2], &[1.0, 3.0]));
    }

    #[test]
    fn indices_of_maxima_count_through_the_whole_tensor() {
        let out = eval_at(18, "MaxPool", window, &[square()], 2).unwrap();
        assert_eq!(out[1].data(), &Data::I64(vec![4]));
    }

    #[test]
    fn the_device_pools_as_the_host_does() {
        let v: Vec<f32> = (0..4096).map(|k| (k * 37 % 101) as f32).collect();
        let (large, small) = (f32s(&[1, 4, 32, 32], &v), f32s(&[1, 1, 32, 32], &v[..1024]));
        let (a, b) = (eval("MaxPool", window, &[large]), eval("MaxPool", window, &[small]));
        let (Data::F32(a), Data::F32(b)) = (a.data(), b.data()) else {
            panic!("no floats")
        };
        assert_eq!(a[..256], b[..]);
    }

    #[test]
    fn global_pools_leave_one_place() {
        assert_close(
            &eval("GlobalAveragePool", |_| {}, &[square()]),
            &f32s(&[1, 1, 1, 1], &[5.0]),
        );
        assert_close(
            &eval("GlobalMaxPool", |_| {}, &[square()]),
            &f32s(&[1, 1, 1, 1], &[9.0]),
        );
    }
}
