//! `DeformConv`: a convolution whose taps are moved by offsets of their own.

use super::like;
use crate::fault::{OpResult, bail, ensure};
use crate::kernel::{Inputs, Kernel};
use crate::ops::cast::doubles;
use crate::spec::Spec;
use crate::window::{Axis, Window};
use crate::{Tensor, shape};

pub(super) fn build(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, 5)?;
    spec.ignore(&["kernel_shape"]);
    let window = Window::parse(spec)?;
    let groups = |name: &str| -> OpResult<usize> { Ok(usize::try_from(spec.int(name, 1)?).unwrap_or(0)) };
    let (group, offset_group) = (groups("group")?, groups("offset_group")?);
    Ok(Kernel::host(move |i| run(i, &window, group, offset_group)))
}

fn run(i: &Inputs<'_>, window: &Window, group: usize, offset_group: usize) -> OpResult<Vec<Tensor>> {
    let (&[n, channels, h, w], &[outputs, per_group, kh, kw]) = (i.get(0)?.shape(), i.get(1)?.shape()) else {
        bail!("operands of another rank than 4")
    };
    ensure!(
        group > 0
            && offset_group > 0
            && per_group.checked_mul(group) == Some(channels)
            && outputs.is_multiple_of(group)
            && channels.is_multiple_of(offset_group),
        "{channels} channels, weights of {:?}, {group} groups and {offset_group} groups of offsets",
        i.get(1)?.shape()
    );
    let axes = window.resolve(&[h, w], &[kh, kw])?;
    let [rows, columns]: [Axis; 2] = match axes.as_slice() {
        &[a, b] => [a, b],
        _ => bail!("a window of {} dimensions", axes.len()),
    };
    let (oh, ow, taps) = (rows.output, columns.output, kh * kw);
    ensure!(
        i.get(2)?.shape() == [n, offset_group * taps * 2, oh, ow],
        "offsets of shape {:?} instead of {:?}",
        i.get(2)?.shape(),
        [n, offset_group * taps * 2, oh, ow]
    );
    let (x, weights, offsets) = (doubles(i.get(0)?)?, doubles(i.get(1)?)?, doubles(i.get(2)?)?);
    let bias = i.opt(3).map(doubles).transpose()?;
    ensure!(
        bias.as_ref().is_none_or(|b| b.len() == outputs),
        "bias does not fit {outputs} channels"
    );
    let mask = i.opt(4).map(doubles).transpose()?;
    ensure!(
        i.opt(4).is_none_or(|m| m.shape() == [n, offset_group * taps, oh, ow]),
        "the mask does not fit the offsets"
    );
    let dims = vec![n, outputs, oh, ow];
    let mut out = vec![0.0; shape::elements(&dims)?];
    let plane = oh * ow;
    for b in 0..n {
        for p in 0..plane {
            // What each tap of each channel reads, for all output channels.
            let mut read = vec![0.0; channels * taps];
            for (c, read) in read.chunks_mut(taps.max(1)).enumerate() {
                let owner = c / (channels / offset_group);
                let image = &x[(b * channels + c) * h * w..][..h * w];
                for (t, value) in read.iter_mut().enumerate() {
                    let at = |k: usize| offsets[((b * offset_group + owner) * taps * 2 + 2 * t + k) * plane + p];
                    let place = |a: &Axis, position: usize, tap: usize| {
                        (position * a.stride + tap * a.dilation) as f64 - a.begin as f64
                    };
                    let y = place(&rows, p / ow, t / kw) + at(0);
                    let x = place(&columns, p % ow, t % kw) + at(1);
                    let weight = mask
                        .as_ref()
                        .map_or(1.0, |m| m[((b * offset_group + owner) * taps + t) * plane + p]);
                    *value = bilinear(image, y, x, h, w) * weight;
                }
            }
            for o in 0..outputs {
                let first = o / (outputs / group) * per_group;
                let kernel = &weights[o * per_group * taps..][..per_group * taps];
                let sum: f64 = kernel.iter().zip(&read[first * taps..]).map(|(a, b)| a * b).sum();
                out[(b * outputs + o) * plane + p] = sum + bias.as_ref().map_or(0.0, |b| b[o]);
            }
        }
    }
    like(i, dims, out)
}

/// The image between its pixels, zero outside.
fn bilinear(image: &[f64], y: f64, x: f64, h: usize, w: usize) -> f64 {
    if !(-1.0..=h as f64).contains(&y) || !(-1.0..=w as f64).contains(&x) {
        return 0.0;
    }
    let (y0, x0) = (y.floor(), x.floor());
    let (fy, fx) = (y - y0, x - x0);
    let pixel = |y: f64, x: f64| {
        let inside = y >= 0.0 && x >= 0.0 && y < h as f64 && x < w as f64;
        if inside {
            image[y as usize * w + x as usize]
        } else {
            0.0
        }
    };
    pixel(y0, x0) * (1.0 - fy) * (1.0 - fx)
        + pixel(y0, x0 + 1.0) * (1.0 - fy) * fx
        + pixel(y0 + 1.0, x0) * fy * (1.0 - fx)
        + pixel(y0 + 1.0, x0 + 1.0) * fy * fx
}
