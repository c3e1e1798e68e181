//! Resampling along axes. Each axis is a list of taps (input positions and weights) per output position.

use crate::fault::{OpResult, bail, ensure};
use crate::host::{Number, numbers};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("Resize", 10, resize_v10),
    entry("Resize", 11, resize),
    entry("Upsample", 7, upsample),
    entry("Upsample", 9, resize_v10),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    CropAndResize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

#[derive(Clone, Debug)]
struct Settings {
    mode: Mode,
    coordinates: Coordinates,
    rounding: Rounding,
    cubic: f64,
    exclude_outside: bool,
    extrapolation: f64,
    antialias: bool,
}

fn mode(name: &str) -> OpResult<Mode> {
    Ok(match name {
        "nearest" => Mode::Nearest,
        "linear" | "bilinear" => Mode::Linear,
        "cubic" => Mode::Cubic,
        other => bail!("attribute \"mode\" is {other:?}"),
    })
}

/// Before opset 11 positions were scaled from the corner and rounded down.
fn old_settings(spec: &Spec<'_>) -> OpResult<Settings> {
    Ok(Settings {
        mode: mode(spec.string("mode", "nearest")?)?,
        coordinates: Coordinates::Asymmetric,
        rounding: Rounding::Floor,
        cubic: -0.75,
        exclude_outside: false,
        extrapolation: 0.0,
        antialias: false,
    })
}

fn upsample(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let settings = old_settings(spec)?;
    let scales: Vec<f64> = spec
        .floats("scales")?
        .unwrap_or_default()
        .into_iter()
        .map(f64::from)
        .collect();
    Ok(Kernel::host(move |i| scaled(i.get(0)?, &scales, &settings)))
}

fn resize_v10(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    let settings = old_settings(spec)?;
    Ok(Kernel::host(move |i| scaled(i.get(0)?, &floats(i, 1)?, &settings)))
}

fn scaled(x: &Tensor, scales: &[f64], settings: &Settings) -> OpResult<Vec<Tensor>> {
    ensure!(
        scales.len() == x.shape().len(),
        "{} scales for rank {}",
        scales.len(),
        x.shape().len()
    );
    let axes = x.shape().iter().zip(scales).map(|(&d, &s)| Axis {
        size: scaled_size(d, s),
        scale: s,
        crop: None,
    });
    run(x, &axes.collect::<Vec<_>>(), settings)
}

fn scaled_size(size: usize, scale: f64) -> usize {
    (size as f64 * scale).floor().clamp(0.0, 1e9) as usize
}

fn floats(i: &Inputs<'_>, k: usize) -> OpResult<Vec<f64>> {
    let Some(t) = i.opt(k) else { return Ok(Vec::new()) };
    Ok(match t.data() {
        Data::F16(v) => v.iter().map(|x| x.to_f64()).collect(),
        Data::F32(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Data::F64(v) => v.clone(),
        other => bail!("input {k} has type {}", other.datatype()),
    })
}

/// One axis: its new size, its scale and the part of the input that is taken.
#[derive(Clone, Copy, Debug)]
struct Axis {
    size: usize,
    scale: f64,
    crop: Option<(f64, f64)>,
}

fn resize(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 4)?;
    let settings = Settings {
        mode: mode(spec.string("mode", "nearest")?)?,
        coordinates: match spec.string("coordinate_transformation_mode", "half_pixel")? {
            "half_pixel" => Coordinates::HalfPixel,
            "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
            "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            "tf_crop_and_resize" => Coordinates::CropAndResize,
            other => bail!("attribute \"coordinate_transformation_mode\" is {other:?}"),
        },
        rounding: match spec.string("nearest_mode", "round_prefer_floor")? {
            "round_prefer_floor" => Rounding::PreferFloor,
            "round_prefer_ceil" => Rounding::PreferCeil,
            "floor" => Rounding::Floor,
            "ceil" => Rounding::Ceil,
            other => bail!("attribute \"nearest_mode\" is {other:?}"),
        },
        cubic: f64::from(spec.float("cubic_coeff_a", -0.75)?),
        exclude_outside: spec.flag("exclude_outside", false)?,
        extrapolation: f64::from(spec.float("extrapolation_value", 0.0)?),
        antialias: spec.flag("antialias", false)?,
    };
    let listed = spec.ints("axes")?;
    let policy = spec.string("keep_aspect_ratio_policy", "stretch")?.to_owned();
    ensure!(
        ["stretch", "not_larger", "not_smaller"].contains(&policy.as_str()),
        "policy {policy:?}"
    );
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let dims = x.shape();
        let listed: Vec<usize> = match &listed {
            Some(axes) => axes
                .iter()
                .map(|&a| shape::axis(a, dims.len()))
                .collect::<OpResult<_>>()?,
            None => (0..dims.len()).collect(),
        };
        let (roi, scales, sizes) = (floats(i, 1)?, floats(i, 2)?, i.opt_i64s(3)?.unwrap_or_default());
        ensure!(scales.is_empty() != sizes.is_empty(), "it needs either scales or sizes");
        ensure!(
            scales.is_empty() || scales.len() == listed.len(),
            "{} scales for {} axes",
            scales.len(),
            listed.len()
        );
        let wanted = shape::from_i64s(&sizes)?;
        ensure!(
            wanted.is_empty() || wanted.len() == listed.len(),
            "{} sizes for {} axes",
            wanted.len(),
            listed.len()
        );
        let crops = settings.coordinates == Coordinates::CropAndResize;
        ensure!(
            !crops || roi.len() == 2 * listed.len(),
            "{} values of a region for {} axes",
            roi.len(),
            listed.len()
        );
        let ratio = |k: usize| wanted[k] as f64 / dims[listed[k]].max(1) as f64;
        let common = match policy.as_str() {
            "not_larger" => (0..wanted.len()).map(ratio).reduce(f64::min),
            "not_smaller" => (0..wanted.len()).map(ratio).reduce(f64::max),
            _ => None,
        };
        let mut axes: Vec<Axis> = dims
            .iter()
            .map(|&size| Axis {
                size,
                scale: 1.0,
                crop: None,
            })
            .collect();
        for (k, &d) in listed.iter().enumerate() {
            let crop = crops.then(|| (roi[k], roi[listed.len() + k]));
            let (size, scale) = if scales.is_empty() {
                match common {
                    Some(s) => ((s * dims[d] as f64).round() as usize, s),
                    None => (wanted[k], ratio(k)),
                }
            } else {
                let part = crop.map_or(1.0, |(start, end)| end - start);
                (scaled_size(dims[d], scales[k] * part), scales[k])
            };
            axes[d] = Axis { size, scale, crop };
        }
        run(x, &axes, &settings)
    }))
}

fn run(x: &Tensor, axes: &[Axis], settings: &Settings) -> OpResult<Vec<Tensor>> {
    fn all<T: Number>(v: &[T], dims: &[usize], axes: &[Axis], settings: &Settings) -> OpResult<Vec<Tensor>> {
        let mut current: Vec<f64> = v.iter().map(|x| x.to_f64()).collect();
        let mut dims = dims.to_vec();
        let mut outside: Vec<Vec<bool>> = Vec::new();
        for (d, axis) in axes.iter().enumerate() {
            outside.push(vec![false; axis.size]);
            if axis.size == dims[d] && axis.scale == 1.0 && axis.crop.is_none() {
                continue;
            }
            ensure!(
                dims[d] > 0 && axis.scale > 0.0,
                "an axis of {} can't be scaled by {}",
                dims[d],
                axis.scale
            );
            let taps: Vec<Vec<(usize, f64)>> = (0..axis.size)
                .map(|o| {
                    let at = position(o, dims[d], axis, settings.coordinates);
                    outside[d][o] = axis.crop.is_some() && (at < 0.0 || at > (dims[d] - 1) as f64);
                    taps(at, dims[d], axis.scale, settings)
                })
                .collect();
            current = resample(&current, &mut dims, d, &taps)?;
        }
        if outside.iter().flatten().any(|&o| o) {
            let mut index = vec![0; dims.len()];
            for value in &mut current {
                if index.iter().zip(&outside).any(|(&i, o)| o[i]) {
                    *value = settings.extrapolation;
                }
                shape::step(&mut index, &dims);
            }
        }
        let out = current.into_iter().map(|x| {
            if T::FLOAT {
                T::from_f64(x)
            } else {
                T::from_f64(x.round_ties_even())
            }
        });
        Ok(vec![tensor(dims, T::wrap(out.collect()))?])
    }
    let out: Vec<usize> = axes.iter().map(|a| a.size).collect();
    shape::elements(&out)?;
    numbers!(x.data(), v => all(v, x.shape(), axes, settings))
}

/// Applies an axis' taps.
fn resample(v: &[f64], dims: &mut [usize], d: usize, taps: &[Vec<(usize, f64)>]) -> OpResult<Vec<f64>> {
    let (size, inner) = (dims[d], dims[d + 1..].iter().product::<usize>());
    let outer: usize = dims[..d].iter().product();
    dims[d] = taps.len();
    let mut out = Vec::with_capacity(shape::elements(dims)?);
    for o in 0..outer {
        for taps in taps {
            for k in 0..inner {
                out.push(taps.iter().map(|&(at, w)| v[(o * size + at) * inner + k] * w).sum());
            }
        }
    }
    Ok(out)
}

/// The place in the input that an output position looks at.
fn position(o: usize, size: usize, axis: &Axis, coordinates: Coordinates) -> f64 {
    let (x, n, scale) = (o as f64, size as f64, axis.scale);
    match coordinates {
        Coordinates::HalfPixel => (x + 0.5) / scale - 0.5,
        Coordinates::HalfPixelSymmetric => {
            let exact = n * scale;
            let adjusted = axis.size as f64 / exact;
            let offset = n / 2.0 * (1.0 - adjusted);
            offset + (x + 0.5) / scale - 0.5
        }
        Coordinates::PytorchHalfPixel if axis.size <= 1 => 0.0,
        Coordinates::PytorchHalfPixel => (x + 0.5) / scale - 0.5,
        Coordinates::AlignCorners if n * scale == 1.0 => 0.0,
        // The scaled size need not be whole.
        Coordinates::AlignCorners => x * (n - 1.0) / (n * scale - 1.0),
        Coordinates::Asymmetric => x / scale,
        Coordinates::CropAndResize => {
            let (start, end) = axis.crop.unwrap_or((0.0, 1.0));
            if axis.size > 1 {
                start * (n - 1.0) + x * (end - start) * (n - 1.0) / (axis.size as f64 - 1.0)
            } else {
                0.5 * (start + end) * (n - 1.0)
            }
        }
    }
}

/// Input positions and weights around a place; beyond the border the border repeats.
fn taps(at: f64, size: usize, scale: f64, settings: &Settings) -> Vec<(usize, f64)> {
    let clamp = |k: i64| k.clamp(0, size as i64 - 1) as usize;
    if settings.mode == Mode::Nearest {
        let k = match settings.rounding {
            Rounding::PreferFloor => (at - 0.5).ceil(),
            Rounding::PreferCeil => (at + 0.5).floor(),
            Rounding::Floor => at.floor(),
            Rounding::Ceil => at.ceil(),
        };
        return vec![(clamp(k as i64), 1.0)];
    }
    // When shrinking, an antialiasing filter is as much wider as the input is larger.
    let stretch = if settings.antialias && scale < 1.0 {
        1.0 / scale
    } else {
        1.0
    };
    let reach = if settings.mode == Mode::Linear { 1.0 } else { 2.0 } * stretch;
    let (first, last) = ((at - reach).floor() as i64 + 1, (at + reach).ceil() as i64 - 1);
    let weight = |k: i64| {
        let t = ((k as f64 - at) / stretch).abs();
        let inside = (0..size as i64).contains(&k);
        match settings.mode {
            _ if settings.exclude_outside && !inside => 0.0,
            Mode::Linear => (1.0 - t).max(0.0),
            _ => cubic(t, settings.cubic),
        }
    };
    let mut taps: Vec<(usize, f64)> = (first..=last.max(first)).map(|k| (clamp(k), weight(k))).collect();
    let total: f64 = taps.iter().map(|t| t.1).sum();
    if total != 0.0 && (stretch > 1.0 || settings.exclude_outside) {
        for t in &mut taps {
            t.1 /= total;
        }
    }
    taps
}

fn cubic(t: f64, a: f64) -> f64 {
    if t <= 1.0 {
        ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
    } else if t < 2.0 {
        ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Attributes, assert_close, eval_at, f32s};

    fn resized(attributes: impl FnOnce(&mut Attributes), v: &[f32], scale: f32) -> Vec<f32> {
        let x = f32s(&[1, v.len()], v);
        let empty = f32s(&[0], &[]);
        let out = eval_at(13, "Resize", attributes, &[x, empty, f32s(&[2], &[1.0, scale])], 1).unwrap();
        match out[0].data() {
            Data::F32(v) => v.clone(),
            other => panic!("{}", other.datatype()),
        }
    }

    #[test]
    fn nearest_repeats_and_linear_goes_between() {
        assert_eq!(resized(|_| {}, &[1.0, 2.0], 2.0), [1.0, 1.0, 2.0, 2.0]);
        let linear = |a: &mut Attributes| a.string("mode", "linear");
        assert_eq!(resized(linear, &[1.0, 2.0], 2.0), [1.0, 1.25, 1.75, 2.0]);
        let corners = |a: &mut Attributes| {
            a.string("mode", "linear");
            a.string("coordinate_transformation_mode", "align_corners");
        };
        let v = resized(corners, &[1.0, 4.0], 2.0);
        assert_close(&f32s(&[4], &v), &f32s(&[4], &[1.0, 2.0, 3.0, 4.0]));
    }

    #[test]
    fn old_upsampling_scales_from_the_corner() {
        let x = f32s(&[1, 2], &[1.0, 2.0]);
        let out = eval_at(9, "Upsample", |_| {}, &[x, f32s(&[2], &[1.0, 2.0])], 1).unwrap();
        assert_eq!(out[0], f32s(&[1, 4], &[1.0, 1.0, 2.0, 2.0]));
    }
}
