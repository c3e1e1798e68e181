//! Convolutions on any backend, plain and transposed. A plain one may have an addition and bounds behind it that the
//! planner put there; a backend with kernels of its own does them in one (`backend::Accelerate`).

use burn_backend::ops::{ConvOptions, ConvTransposeOptions};
use burn_backend::tensor::{Device, FloatTensor};
use burn_backend::{Backend, FloatDType, Shape, Slice, TensorMetadata};

use super::{align, array, clip};
use crate::backend::Place;
use crate::fault::{OpResult, bail, ensure};
use crate::shape;
use crate::window::{Axis, Padding, Window};

/// A convolution's attributes.
#[derive(Clone, Debug)]
pub(crate) struct Conv {
    pub(crate) window: Window,
    pub(crate) group: usize,
    /// Bounds of the result; with a residual, of the sum.
    pub(crate) clamp: Option<(f32, f32)>,
}

impl Conv {
    /// The window on an input and weights of these shapes, once everything is known to fit.
    pub(crate) fn resolve(&self, xs: &[usize], ws: &[usize]) -> OpResult<Vec<Axis>> {
        ensure!(
            xs.len() >= 3 && xs.len() == ws.len(),
            "input of shape {xs:?} with weights of shape {ws:?}"
        );
        ensure!(
            ws[1].checked_mul(self.group) == Some(xs[1]) && ws[0].is_multiple_of(self.group),
            "{} input channels with weights of shape {ws:?} in {} groups",
            xs[1],
            self.group
        );
        let axes = self.window.resolve(&xs[2..], &ws[2..])?;
        let mut sizes = vec![xs[0], ws[0]];
        sizes.extend(axes.iter().map(|a| a.output));
        shape::elements(&sizes)?;
        Ok(axes)
    }

    /// The convolution through the backend's own, then what else there is to do.
    pub(crate) fn run<B: Backend>(
        &self,
        x: FloatTensor<B>,
        w: FloatTensor<B>,
        b: Option<FloatTensor<B>>,
        residual: Option<FloatTensor<B>>,
        place: &Place<B>,
    ) -> OpResult<FloatTensor<B>> {
        let axes = self.resolve(&x.shape(), &w.shape())?;
        check_bias::<B>(b.as_ref(), w.shape()[0])?;
        let (x, pads) = even_pads::<B>(x, &axes, &place.device)?;
        macro_rules! conv {
            ($f:expr, $n:literal) => {{
                let strides = array::<$n>(axes.iter().map(|a| a.stride))?;
                let dilations = array::<$n>(axes.iter().map(|a| a.dilation))?;
                let pads = array::<$n>(pads.into_iter())?;
                $f(x, w, b, ConvOptions::new(strides, pads, dilations, self.group))
            }};
        }
        let out = match axes.len() {
            1 => conv!(B::conv1d, 1),
            2 => conv!(|x, w, b, options| place.primitives.conv2d(x, w, b, options), 2),
            3 => conv!(B::conv3d, 3),
            n => bail!("convolutions of {n} spatial dimensions are not supported"),
        };
        self.finish::<B>(out, residual)
    }

    /// Adds the residual, which may have to be stretched, and keeps the sum within bounds.
    pub(crate) fn finish<B: Backend>(
        &self,
        mut out: FloatTensor<B>,
        residual: Option<FloatTensor<B>>,
    ) -> OpResult<FloatTensor<B>> {
        if let Some(residual) = residual {
            let (a, b) = align::<B>(out, residual)?;
            out = B::float_add(a, b);
        }
        let Some((low, high)) = self.clamp else { return Ok(out) };
        if (low, high) == (0.0, f32::INFINITY) {
            return Ok(B::relu(out));
        }
        Ok(clip::<B>(out, Some(f64::from(low)), Some(f64::from(high))))
    }
}

/// A transposed convolution's attributes; empty lists stand for defaults.
#[derive(Clone, Debug)]
pub(crate) struct ConvTranspose {
    pub(crate) window: Window,
    pub(crate) output_padding: Vec<usize>,
    pub(crate) output_shape: Vec<usize>,
    pub(crate) group: usize,
}

/// Pads spatial dimensions where the two sides differ; returns what is left to the primitive.
fn even_pads<B: Backend>(
    x: FloatTensor<B>,
    axes: &[Axis],
    device: &Device<B>,
) -> OpResult<(FloatTensor<B>, Vec<usize>)> {
    if axes.iter().all(|a| a.begin == a.end) {
        return Ok((x, axes.iter().map(|a| a.begin).collect()));
    }
    let dims = x.shape().to_vec();
    let mut padded = dims.clone();
    let mut slices: Vec<Slice> = dims.iter().map(|&d| Slice::new(0, Some(d as isize), 1)).collect();
    for (d, a) in axes.iter().enumerate() {
        padded[2 + d] += a.begin + a.end;
        slices[2 + d] = Slice::new(a.begin as isize, Some((a.begin + a.input) as isize), 1);
    }
    shape::elements(&padded)?;
    let dtype = FloatDType::from(x.dtype());
    let base = B::float_zeros(Shape::from(padded), device, dtype);
    Ok((B::float_slice_assign(base, &slices, x), vec![0; axes.len()]))
}

pub(crate) fn check_bias<B: Backend>(bias: Option<&FloatTensor<B>>, channels: usize) -> OpResult<()> {
    let dims = bias.map(|b| b.shape().to_vec());
    ensure!(
        dims.as_ref().is_none_or(|d| *d == [channels]),
        "bias has shape {dims:?} instead of [{channels}]"
    );
    Ok(())
}

fn conv_transpose<B: Backend>(
    attrs: &ConvTranspose,
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    b: Option<FloatTensor<B>>,
) -> OpResult<FloatTensor<B>> {
    let (xs, ws) = (x.shape().to_vec(), w.shape().to_vec());
    ensure!(
        xs.len() >= 3 && xs.len() == ws.len(),
        "input of shape {xs:?} with weights of shape {ws:?}"
    );
    let group = attrs.group;
    ensure!(
        xs[1] == ws[0] && xs[1].is_multiple_of(group),
        "{} input channels with weights of shape {ws:?}",
        xs[1]
    );
    check_bias::<B>(b.as_ref(), ws[1] * group)?;
    let n = xs.len() - 2;
    let plan = attrs.resolve(&xs[2..], &ws[2..])?;
    macro_rules! conv {
        ($f:ident, $n:literal) => {{
            let strides = array::<$n>(plan.iter().map(|a| a.stride))?;
            let dilations = array::<$n>(plan.iter().map(|a| a.dilation))?;
            let extra = array::<$n>(plan.iter().map(|a| a.extra))?;
            B::$f(
                x,
                w,
                b,
                ConvTransposeOptions::new(strides, [0; $n], extra, dilations, group),
            )
        }};
    }
    let out = match n {
        1 => conv!(conv_transpose1d, 1),
        2 => conv!(conv_transpose2d, 2),
        3 => conv!(conv_transpose3d, 3),
        n => bail!("transposed convolutions of {n} spatial dimensions are not supported"),
    };
    let full = out.shape().to_vec();
    let mut slices: Vec<Slice> = full.iter().map(|&d| Slice::new(0, Some(d as isize), 1)).collect();
    for (d, a) in plan.iter().enumerate() {
        slices[2 + d] = Slice::new(a.begin as isize, Some((a.begin + a.output) as isize), 1);
    }
    Ok(
        if plan.iter().all(|a| a.begin == 0) && plan.iter().zip(&full[2..]).all(|(a, &f)| a.output == f) {
            out
        } else {
            B::float_slice(out, &slices)
        },
    )
}

/// One spatial dimension of a transposed convolution: the full result is cut to `output` elements from `begin` on.
struct TransposeAxis {
    stride: usize,
    dilation: usize,
    extra: usize,
    begin: usize,
    output: usize,
}

impl ConvTranspose {
    /// The convolution on the backend.
    pub(super) fn run<B: Backend>(
        &self,
        x: FloatTensor<B>,
        w: FloatTensor<B>,
        b: Option<FloatTensor<B>>,
    ) -> OpResult<FloatTensor<B>> {
        conv_transpose::<B>(self, x, w, b)
    }

    fn resolve(&self, input: &[usize], kernel: &[usize]) -> OpResult<Vec<TransposeAxis>> {
        let n = input.len();
        let fits = |list: &[usize], want: usize| list.is_empty() || list.len() == want;
        ensure!(
            fits(&self.window.strides, n)
                && fits(&self.window.dilations, n)
                && fits(&self.output_padding, n)
                && (fits(&self.output_shape, n) || self.output_shape.len() == n + 2),
            "attributes do not fit {n} spatial dimensions"
        );
        let wanted = self
            .output_shape
            .get(self.output_shape.len().saturating_sub(n)..)
            .unwrap_or_default();
        let mut sizes = Vec::with_capacity(n);
        let plan = (0..n)
            .map(|d| {
                let stride = self.window.strides.get(d).copied().unwrap_or(1);
                let dilation = self.window.dilations.get(d).copied().unwrap_or(1);
                let extra = self.output_padding.get(d).copied().unwrap_or(0);
                ensure!(input[d] > 0 && kernel[d] > 0, "an empty dimension");
                let full = (input[d] - 1)
                    .checked_mul(stride)
                    .and_then(|v| v.checked_add((kernel[d] - 1).checked_mul(dilation)?))
                    .and_then(|v| v.checked_add(1 + extra));
                let Some(full) = full else {
                    bail!("the result is too large")
                };
                // A wanted size beyond the full one is reached with more padding at the end.
                let missing = wanted.get(d).map_or(0, |&want| want.saturating_sub(full));
                let (extra, full) = (extra + missing, full + missing);
                let (begin, end) = match (&self.window.padding, wanted.get(d)) {
                    (padding, Some(&want)) => {
                        let total = full - want;
                        if *padding == Padding::SameUpper {
                            (total / 2, total - total / 2)
                        } else {
                            (total - total / 2, total / 2)
                        }
                    }
                    (Padding::Explicit(p), None) => {
                        ensure!(fits(p, 2 * n), "pads {p:?} do not fit {n} spatial dimensions");
                        (p.get(d).copied().unwrap_or(0), p.get(d + n).copied().unwrap_or(0))
                    }
                    (same, None) => {
                        let total = full.saturating_sub(input[d] * stride);
                        if *same == Padding::SameUpper {
                            (total / 2, total - total / 2)
                        } else {
                            (total - total / 2, total / 2)
                        }
                    }
                };
                ensure!(begin + end < full, "pads {begin} and {end} leave nothing of {full}");
                sizes.push(full);
                Ok(TransposeAxis {
                    stride,
                    dilation,
                    extra,
                    begin,
                    output: full - begin - end,
                })
            })
            .collect::<OpResult<Vec<_>>>()?;
        shape::elements(&sizes)?;
        Ok(plan)
    }
}
