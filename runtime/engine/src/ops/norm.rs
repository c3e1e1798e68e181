//! Normalisations.

use crate::device::DeviceOp;
use crate::fault::{OpResult, ensure};
use crate::host::{Element, Number, floats};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("BatchNormalization", 1, batch_norm),
    entry("GroupNormalization", 18, |s| group_norm(s, true)),
    entry("GroupNormalization", 21, |s| group_norm(s, false)),
    entry("InstanceNormalization", 6, instance_norm),
    entry("LayerNormalization", 17, layer_norm),
    entry("LRN", 1, lrn),
    entry("LpNormalization", 1, lp_norm),
    entry("MeanVarianceNormalization", 9, mean_variance_norm),
    entry("RMSNormalization", 23, rms_norm),
];

fn one<T: Element>(dims: &[usize], v: Vec<T>) -> OpResult<Vec<Tensor>> {
    Ok(vec![tensor(dims.to_vec(), T::wrap(v))?])
}

/// Parameters as doubles, of exactly `n` elements.
fn parameter(i: &Inputs<'_>, k: usize, n: usize) -> OpResult<Vec<f64>> {
    let t = i.get(k)?;
    let v: Vec<f64> = match t.data() {
        Data::F16(v) => v.iter().map(|x| x.to_f64()).collect(),
        Data::BF16(v) => v.iter().map(|x| x.to_f64()).collect(),
        data => floats!(data, v => v.iter().map(|x| x.to_f64()).collect()),
    };
    ensure!(v.len() == n, "input {k} has {} elements instead of {n}", v.len());
    Ok(v)
}

fn batch_norm(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(5, 5)?;
    let momentum = f64::from(spec.float("momentum", 0.9)?);
    ensure!(
        spec.flag("spatial", true)?,
        "statistics for each place are not supported"
    );
    let epsilon = f64::from(spec.float("epsilon", 1e-5)?);
    if spec.flag("training_mode", false)? {
        return Ok(Kernel::host(
            move |i| floats!(i.get(0)?.data(), v => batch_norm_training(v, i, epsilon, momentum)),
        ));
    }
    ensure!(
        spec.outputs.iter().skip(1).all(|o| !o),
        "outputs of training are not supported"
    );
    fn run<T: Number>(v: &[T], i: &Inputs<'_>, epsilon: f64) -> OpResult<Vec<Tensor>> {
        let (dims, channels) = channels(i)?;
        let [scale, bias, mean, variance] = [1, 2, 3, 4].map(|k| parameter(i, k, channels));
        one(dims, scaled(v, dims, &scale?, &bias?, &mean?, &variance?, epsilon))
    }
    Ok(Kernel::dual(
        DeviceOp::BatchNorm { epsilon },
        move |i: &Inputs<'_>| floats!(i.get(0)?.data(), v => run(v, i, epsilon)),
    ))
}

fn channels<'a>(i: &'a Inputs<'_>) -> OpResult<(&'a [usize], usize)> {
    let dims = i.get(0)?.shape();
    ensure!(dims.len() >= 2, "input of rank {} instead of at least 2", dims.len());
    Ok((dims, dims[1]))
}

fn scaled<T: Number>(
    v: &[T],
    dims: &[usize],
    scale: &[f64],
    bias: &[f64],
    mean: &[f64],
    variance: &[f64],
    epsilon: f64,
) -> Vec<T> {
    let inner: usize = dims[2..].iter().product();
    let value = |(n, x): (usize, &T)| {
        let c = n / inner.max(1) % dims[1];
        let k = scale[c] / (variance[c] + epsilon).sqrt();
        T::from_f64((x.to_f64() - mean[c]) * k + bias[c])
    };
    v.iter().enumerate().map(value).collect()
}

/// With the batch's own statistics, and the running ones as they are after it.
fn batch_norm_training<T: Number>(v: &[T], i: &Inputs<'_>, epsilon: f64, momentum: f64) -> OpResult<Vec<Tensor>> {
    let (dims, channels) = channels(i)?;
    let [scale, bias, mean, variance] = [1, 2, 3, 4].map(|k| parameter(i, k, channels));
    let (mean, variance) = (mean?, variance?);
    let inner = dims[2..].iter().product::<usize>().max(1);
    let mut moments = vec![(0.0, 0.0, 0.0); channels];
    for (n, x) in v.iter().enumerate() {
        let m = &mut moments[n / inner % channels];
        (m.0, m.1) = (m.0 + x.to_f64(), m.1 + 1.0);
    }
    let own_mean: Vec<f64> = moments.iter().map(|m| m.0 / m.1).collect();
    for (n, x) in v.iter().enumerate() {
        let c = n / inner % channels;
        moments[c].2 += (x.to_f64() - own_mean[c]).powi(2);
    }
    let own_variance: Vec<f64> = moments.iter().map(|m| m.2 / m.1).collect();
    let running = |old: &[f64], new: &[f64]| -> OpResult<Tensor> {
        let mixed = old
            .iter()
            .zip(new)
            .map(|(o, n)| T::from_f64(o * momentum + n * (1.0 - momentum)));
        tensor(vec![channels], T::wrap(mixed.collect()))
    };
    let y = scaled(v, dims, &scale?, &bias?, &own_mean, &own_variance, epsilon);
    Ok(vec![
        tensor(dims.to_vec(), T::wrap(y))?,
        running(&mean, &own_mean)?,
        running(&variance, &own_variance)?,
    ])
}

/// Mean and 1/√(variance + ε) of a group.
fn moments<T: Number>(v: &[T], epsilon: f64) -> (f64, f64) {
    let n = v.len().max(1) as f64;
    let mean = v.iter().map(|x| x.to_f64()).sum::<f64>() / n;
    let variance = v.iter().map(|x| (x.to_f64() - mean).powi(2)).sum::<f64>() / n;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

fn layer_norm(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 3)?;
    spec.ignore(&["stash_type"]);
    let (axis, epsilon) = (spec.int("axis", -1)?, f64::from(spec.float("epsilon", 1e-5)?));
    fn run<T: Number>(v: &[T], i: &Inputs<'_>, axis: i64, epsilon: f64) -> OpResult<Vec<Tensor>> {
        let dims = i.get(0)?.shape();
        let axis = shape::axis(axis, dims.len())?;
        let inner: usize = dims[axis..].iter().product();
        let norm = &dims[axis..];
        let read = |k: usize| -> OpResult<Vec<f64>> { spread(i, k, norm) };
        let scale = read(1)?;
        let bias = if i.opt(2).is_some() { read(2)? } else { vec![0.0; inner] };
        let (mut out, mut means, mut inverses) = (Vec::with_capacity(v.len()), Vec::new(), Vec::new());
        for group in v.chunks(inner.max(1)) {
            let (mean, inverse) = moments(group, epsilon);
            out.extend(
                (0..group.len()).map(|k| T::from_f64((group[k].to_f64() - mean) * inverse * scale[k] + bias[k])),
            );
            means.push(T::from_f64(mean));
            inverses.push(T::from_f64(inverse));
        }
        let mut reduced = dims[..axis].to_vec();
        reduced.resize(dims.len(), 1);
        let stats = |v: Vec<T>| tensor(reduced.clone(), T::wrap(v));
        Ok(vec![
            tensor(dims.to_vec(), T::wrap(out))?,
            stats(means)?,
            stats(inverses)?,
        ])
    }
    let host = move |i: &Inputs<'_>| floats!(i.get(0)?.data(), v => run(v, i, axis, epsilon));
    if spec.has_output(1) || spec.has_output(2) {
        return Ok(Kernel::host(host));
    }
    Ok(Kernel::dual(DeviceOp::LayerNorm { axis, epsilon }, host))
}

/// A parameter broadcast to the normalised dimensions.
fn spread(i: &Inputs<'_>, k: usize, norm: &[usize]) -> OpResult<Vec<f64>> {
    let t = i.get(k)?;
    let n = shape::elements(norm)?;
    let own = parameter(i, k, t.data().len())?;
    let (dims, v) = crate::host::zip((&own, t.shape()), (&vec![0u8; n], norm), |x, _| x)?;
    ensure!(
        shape::elements(&dims)? == n,
        "input {k} of shape {:?} does not broadcast to {norm:?}",
        t.shape()
    );
    Ok(v)
}

pub(super) fn rms_norm(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    spec.ignore(&["stash_type"]);
    let (axis, epsilon) = (spec.int("axis", -1)?, f64::from(spec.float("epsilon", 1e-5)?));
    fn run<T: Number>(v: &[T], i: &Inputs<'_>, axis: i64, epsilon: f64) -> OpResult<Vec<Tensor>> {
        let dims = i.get(0)?.shape();
        let axis = shape::axis(axis, dims.len())?;
        let norm = &dims[axis..];
        let scale = spread(i, 1, norm)?;
        let mut out = Vec::with_capacity(v.len());
        for group in v.chunks(scale.len().max(1)) {
            let square = group.iter().map(|x| x.to_f64().powi(2)).sum::<f64>() / group.len() as f64;
            let inverse = 1.0 / (square + epsilon).sqrt();
            out.extend(
                group
                    .iter()
                    .zip(&scale)
                    .map(|(x, s)| T::from_f64(x.to_f64() * inverse * s)),
            );
        }
        one(dims, out)
    }
    Ok(Kernel::host(
        move |i| floats!(i.get(0)?.data(), v => run(v, i, axis, epsilon)),
    ))
}

/// Normalises `groups` equal parts of each sample's channels; `scale` and `bias` are per group or per channel.
fn grouped<T: Number>(v: &[T], i: &Inputs<'_>, groups: usize, epsilon: f64, per_group: bool) -> OpResult<Vec<Tensor>> {
    let dims = i.get(0)?.shape();
    ensure!(
        dims.len() >= 2 && groups > 0 && dims[1].is_multiple_of(groups),
        "{dims:?} in {groups} groups"
    );
    let (channels, inner): (usize, usize) = (dims[1], dims[2..].iter().product());
    let each = channels / groups;
    let n = if per_group { groups } else { channels };
    let (scale, bias) = (parameter(i, 1, n)?, parameter(i, 2, n)?);
    let mut out = Vec::with_capacity(v.len());
    for (g, group) in v.chunks((each * inner).max(1)).enumerate() {
        let (mean, inverse) = moments(group, epsilon);
        out.extend(group.iter().enumerate().map(|(k, x)| {
            let p = if per_group {
                g % groups
            } else {
                g % groups * each + k / inner
            };
            T::from_f64((x.to_f64() - mean) * inverse * scale[p] + bias[p])
        }));
    }
    one(dims, out)
}

fn group_norm(spec: &Spec<'_>, per_group: bool) -> OpResult<Kernel> {
    spec.expect_inputs(3, 3)?;
    spec.ignore(&["stash_type"]);
    let epsilon = f64::from(spec.float("epsilon", 1e-5)?);
    let groups = usize::try_from(spec.int("num_groups", 0)?).unwrap_or(0);
    Ok(Kernel::host(
        move |i| floats!(i.get(0)?.data(), v => grouped(v, i, groups, epsilon, per_group)),
    ))
}

fn instance_norm(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, 3)?;
    let epsilon = f64::from(spec.float("epsilon", 1e-5)?);
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let groups = x.shape().get(1).copied().unwrap_or(0);
        floats!(x.data(), v => grouped(v, i, groups, epsilon, false))
    }))
}

fn lrn(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let [alpha, beta, bias] = [("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)].map(|(n, d)| spec.float(n, d));
    let (alpha, beta, bias) = (f64::from(alpha?), f64::from(beta?), f64::from(bias?));
    let size = usize::try_from(spec.int("size", 0)?).unwrap_or(0);
    ensure!(size > 0, "attribute \"size\" is missing");
    let run = move |v: &[f64], dims: &[usize]| -> Vec<f64> {
        let (channels, inner): (usize, usize) = (dims[1], dims[2..].iter().product());
        let (before, after) = ((size - 1) / 2, size / 2);
        (0..v.len())
            .map(|n| {
                let (c, base) = (n / inner % channels, n - n / inner % channels * inner);
                let range = c.saturating_sub(before)..=(c.saturating_add(after)).min(channels - 1);
                let sum: f64 = range.map(|k| v[base + k * inner].powi(2)).sum();
                v[n] / (bias + alpha / size as f64 * sum).powf(beta)
            })
            .collect()
    };
    fn wide<T: Number>(v: &[T]) -> Vec<f64> {
        v.iter().map(|x| x.to_f64()).collect()
    }
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        ensure!(
            x.shape().len() >= 2,
            "input of rank {} instead of at least 2",
            x.shape().len()
        );
        let out = floats!(x.data(), v => run(&wide(v), x.shape()));
        match x.data() {
            Data::F64(_) => one(x.shape(), out),
            _ => one(x.shape(), out.into_iter().map(|x| x as f32).collect()),
        }
    }))
}

fn lp_norm(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let (axis, p) = (spec.int("axis", -1)?, spec.int("p", 2)?);
    ensure!(p == 1 || p == 2, "attribute \"p\" is {p} instead of 1 or 2");
    fn run<T: Number>(v: &[T], dims: &[usize], axis: i64, p: i64) -> OpResult<Vec<Tensor>> {
        let axis = shape::axis(axis, dims.len())?;
        let (size, inner) = (dims[axis], dims[axis + 1..].iter().product::<usize>());
        let mut out = v.to_vec();
        for start in (0..v.len() / size.max(1)).map(|n| n / inner * inner * size + n % inner) {
            let lane = (0..size).map(|k| v[start + k * inner].to_f64());
            let norm = if p == 1 {
                lane.map(f64::abs).sum()
            } else {
                lane.map(|x| x * x).sum::<f64>().sqrt()
            };
            for k in 0..size {
                let x = v[start + k * inner].to_f64();
                out[start + k * inner] = T::from_f64(if norm == 0.0 { 0.0 } else { x / norm });
            }
        }
        one(dims, out)
    }
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        floats!(x.data(), v => run(v, x.shape(), axis, p))
    }))
}

fn mean_variance_norm(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let axes = spec.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    fn run<T: Number>(v: &[T], dims: &[usize], axes: &[i64]) -> OpResult<Vec<Tensor>> {
        let axes = shape::axes(axes, dims.len())?;
        let strides = shape::strides(dims);
        let group = |n: usize| {
            (0..dims.len())
                .filter(|d| !axes.contains(d))
                .fold(0, |g, d| g * dims[d] + n / strides[d] % dims[d])
        };
        let mut groups: Vec<Vec<f64>> = Vec::new();
        for (n, x) in v.iter().enumerate() {
            let g = group(n);
            if groups.len() <= g {
                groups.resize(g + 1, Vec::new());
            }
            groups[g].push(x.to_f64());
        }
        let stats: Vec<_> = groups.iter().map(|g| moments(g, 0.0)).collect();
        let value = |(n, x): (usize, &T)| {
            let (mean, inverse) = stats[group(n)];
            T::from_f64((x.to_f64() - mean) / (1.0 / inverse + 1e-9))
        };
        one(dims, v.iter().enumerate().map(value).collect())
    }
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        floats!(x.data(), v => run(v, x.shape(), &axes))
    }))
}

#[cfg(test)]
mod tests {
    use crate::testing::{assert_close, eval, f32s};

    #[test]
    fn a_batch_norm_scales_each_channel() {
        let one = |v: f32| f32s(&[1], &[v]);
        let x = f32s(&[1, 1, 2], &[1.0, 3.0]);
        let out = eval(
            "BatchNormalization",
            |a| a.float("epsilon", 0.0),
            &[x, one(2.0), one(5.0), one(1.0), one(4.0)],
        );
        assert_close(&out, &f32s(&[1, 1, 2], &[5.0, 7.0]));
    }

    #[test]
    fn a_layer_norm_is_the_same_on_host_and_device() {
        let row = [1.0f32, 3.0, 5.0, 7.0];
        let wanted: Vec<f32> = row.iter().map(|x| (x - 4.0) / 5f32.sqrt()).collect();
        let ones = f32s(&[4], &[1.0; 4]);
        let small = eval(
            "LayerNormalization",
            |a| a.float("epsilon", 0.0),
            &[f32s(&[1, 4], &row), ones.clone()],
        );
        assert_close(&small, &f32s(&[1, 4], &wanted));
        let large = eval(
            "LayerNormalization",
            |a| a.float("epsilon", 0.0),
            &[f32s(&[500, 4], &row.repeat(500)), ones],
        );
        assert_close(&large, &f32s(&[500, 4], &wanted.repeat(500)));
    }

    #[test]
    fn local_response_looks_at_neighbouring_channels() {
        let out = eval(
            "LRN",
            |a| {
                a.int("size", 3);
                a.float("alpha", 3.0);
                a.float("beta", 1.0);
            },
            &[f32s(&[1, 3, 1], &[1.0, 2.0, 3.0])],
        );
        assert_close(&out, &f32s(&[1, 3, 1], &[1.0 / 6.0, 2.0 / 15.0, 3.0 / 14.0]));
    }
}
