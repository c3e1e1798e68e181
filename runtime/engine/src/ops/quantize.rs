//! Numbers as small integers with a scale and a zero point.

mod product;

pub(crate) use product::scaled;

use super::cast::Target;
use crate::fault::{OpResult, bail, ensure};
use crate::host::{self, Number, floats};
use crate::kernel::{Inputs, Kernel, i64s, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::window::Window;
use crate::{Data, DataType, Tensor, shape};
use pilotlight_kernels as kernels;

pub(crate) const TABLE: &[Entry] = &[
    entry("ConvInteger", 10, conv_integer),
    entry("DequantizeLinear", 10, dequantize),
    entry("DynamicQuantizeLinear", 11, dynamic_quantize),
    entry("MatMulInteger", 10, matmul_integer),
    entry("QLinearConv", 10, qlinear_conv),
    entry("QLinearMatMul", 10, qlinear_matmul),
    entry("QuantizeLinear", 10, quantize),
];

/// How scales and zero points spread over a tensor.
struct Spread {
    axis: usize,
    block: usize,
    /// One for all.
    single: bool,
    dims: Vec<usize>,
    params: Vec<usize>,
}

impl Spread {
    fn new(x: &Tensor, scale: &Tensor, axis: i64, block: usize) -> OpResult<Self> {
        let (dims, params) = (x.shape().to_vec(), scale.shape().to_vec());
        let single = scale.data().len() == 1 && block == 0;
        let axis = if single { 0 } else { shape::axis(axis, dims.len())? };
        if !single && block == 0 {
            ensure!(
                params == [dims[axis]],
                "scales of shape {params:?} for {} along axis {axis}",
                dims[axis]
            );
        }
        if block > 0 {
            let fits = params
                .iter()
                .zip(&dims)
                .enumerate()
                .all(|(d, (p, x))| *p == if d == axis { x.div_ceil(block) } else { *x });
            ensure!(
                params.len() == dims.len() && fits,
                "scales of shape {params:?} for {dims:?} in blocks of {block}"
            );
        }
        Ok(Self {
            axis,
            block,
            single,
            dims,
            params,
        })
    }

    /// The parameter for the element at a flat position.
    fn at(&self, n: usize) -> usize {
        if self.single {
            return 0;
        }
        let strides = shape::strides(&self.dims);
        let index = |d: usize| n / strides[d] % self.dims[d];
        if self.block == 0 {
            return index(self.axis);
        }
        (0..self.dims.len()).fold(0, |p, d| {
            p * self.params[d]
                + if d == self.axis {
                    index(d) / self.block
                } else {
                    index(d)
                }
        })
    }
}

fn wide(t: &Tensor) -> OpResult<Vec<f64>> {
    if t.small().is_some() {
        return super::cast::doubles(t);
    }
    Ok(match t.data() {
        Data::F16(v) => v.iter().map(|x| x.to_f64()).collect(),
        Data::BF16(v) => v.iter().map(|x| x.to_f64()).collect(),
        Data::F32(_) | Data::F64(_) => floats!(t.data(), v => v.iter().map(|x| x.to_f64()).collect()),
        _ => i64s(t)?.into_iter().map(|v| v as f64).collect(),
    })
}

/// Rounds to even and keeps to the type's range.
fn saturate(v: impl Iterator<Item = f64>, to: DataType) -> OpResult<Data> {
    fn all<T: Number>(v: impl Iterator<Item = f64>) -> Data {
        T::wrap(v.map(T::from_f64).collect())
    }
    Ok(match to {
        DataType::U8 => all::<u8>(v),
        DataType::I8 => all::<i8>(v),
        DataType::U16 => all::<u16>(v),
        DataType::I16 => all::<i16>(v),
        DataType::I32 => all::<i32>(v),
        other => bail!("quantisation to {other} is not supported"),
    })
}

fn block(spec: &Spec<'_>) -> OpResult<usize> {
    let block = spec.int("block_size", 0)?;
    ensure!((0..1 << 31).contains(&block), "attribute \"block_size\" is {block}");
    Ok(block as usize)
}

fn quantize(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 3)?;
    let (axis, block) = (spec.int("axis", 1)?, block(spec)?);
    spec.ignore(&["precision"]);
    let saturates = spec.flag("saturate", true)?;
    let wanted = output_type(spec)?;
    Ok(Kernel::stored(move |i| {
        let (x, scale) = (i.get(0)?, i.get(1)?);
        let zero = i.opt(2).map(wide).transpose()?;
        let to = wanted.or(i.opt(2).map(Target::of));
        let to = to.unwrap_or(Target::Plain(DataType::U8));
        let spread = Spread::new(x, scale, axis, block)?;
        if spread.single
            && let Some(data) = quantize_all(x, scale, i.opt(2), to)
        {
            return Ok(vec![tensor(x.shape().to_vec(), data)?]);
        }
        let scale = wide(scale)?;
        ensure!(
            zero.as_ref().is_none_or(|z| z.len() == scale.len()),
            "scales and zero points differ in number"
        );
        let single = matches!(x.data(), Data::F32(_) | Data::F16(_) | Data::BF16(_));
        let value = |(n, x): (usize, f64)| {
            let p = spread.at(n);
            // The quotient in the input's precision, since rounding it first decides ties.
            let q = if single {
                f64::from(x as f32 / scale[p] as f32)
            } else {
                x / scale[p]
            };
            // Floats of eight bits are rounded to their own steps.
            let whole = !matches!(to, Target::Small(small) if small.range().is_none());
            let q = if whole { q.round_ties_even() } else { q };
            q + zero.as_ref().map_or(0.0, |z| z[p])
        };
        let values = wide(x)?.into_iter().enumerate().map(value);
        let dims = x.shape().to_vec();
        Ok(vec![match to {
            Target::Plain(to) => tensor(dims, saturate(values, to)?)?,
            Target::Small(small) if small.range().is_some() => {
                let bits = values.map(|x| small.saturated(x)).collect();
                tensor(dims, Data::U8(bits))?.marked(Some(small))
            }
            Target::Small(_) => {
                let values = tensor(dims, Data::F64(values.collect()))?;
                super::cast::cast_to(&values, to, (saturates, crate::small::Rounding::Up))?
            }
        }])
    }))
}

fn output_type(spec: &Spec<'_>) -> OpResult<Option<Target>> {
    match spec.int("output_dtype", 0)? {
        0 => Ok(None),
        t => Target::from_onnx(t).map(Some),
    }
}

fn dequantize(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 3)?;
    let (axis, block) = (spec.int("axis", 1)?, block(spec)?);
    let wanted = output_type(spec)?;
    Ok(Kernel::stored(move |i| {
        let (x, scale) = (i.get(0)?, i.get(1)?);
        let zero = i.opt(2).map(wide).transpose()?;
        let spread = Spread::new(x, scale, axis, block)?;
        let to = wanted.unwrap_or(Target::Plain(scale.datatype()));
        if spread.single
            && to == Target::Plain(DataType::F32)
            && let Some(data) = dequantize_all(x, scale, i.opt(2))
        {
            return Ok(vec![tensor(x.shape().to_vec(), data)?]);
        }
        let scale = wide(scale)?;
        ensure!(
            zero.as_ref().is_none_or(|z| z.len() == scale.len()),
            "scales and zero points differ in number"
        );
        let value = |(n, x): (usize, f64)| {
            let p = spread.at(n);
            (x - zero.as_ref().map_or(0.0, |z| z[p])) * scale[p]
        };
        let values = wide(x)?.into_iter().enumerate().map(value).collect();
        let t = tensor(x.shape().to_vec(), Data::F64(values))?;
        Ok(vec![super::cast::cast_to(&t, to, (true, crate::small::Rounding::Up))?])
    }))
}

fn dynamic_quantize(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    Ok(Kernel::host(|i| {
        let x = i.get(0)?;
        let v = host::typed::<f32>(x)?;
        // The range always holds 0, so that it has an exact representation.
        let (low, high) = kernels::range_with_zero(v);
        let scale = (high - low) / 255.0;
        let zero = if scale == 0.0 {
            0.0
        } else {
            (-low / scale).round_ties_even().clamp(0.0, 255.0)
        };
        let mut bits = vec![zero as u8; v.len()];
        if scale != 0.0 {
            kernels::quantize_u8(v, scale, zero, &mut bits);
        }
        Ok(vec![
            tensor(x.shape().to_vec(), Data::U8(bits))?,
            tensor(vec![], Data::F32(vec![scale]))?,
            tensor(vec![], Data::U8(vec![zero as u8]))?,
        ])
    }))
}

/// FP32 to eight bits with one scale for all, as `quantize` does it number by number.
fn quantize_all(x: &Tensor, scale: &Tensor, zero: Option<&Tensor>, to: Target) -> Option<Data> {
    let (Data::F32(x), Data::F32(scale)) = (x.data(), scale.data()) else {
        return None;
    };
    let &[scale] = scale.as_slice() else { return None };
    let zero = match zero {
        None => 0.0,
        Some(zero) => match (zero.small(), zero.data()) {
            (None, Data::U8(z)) if z.len() == 1 => f32::from(z[0]),
            (None, Data::I8(z)) if z.len() == 1 => f32::from(z[0]),
            _ => return None,
        },
    };
    Some(match to {
        Target::Plain(DataType::U8) => {
            let mut out = vec![0; x.len()];
            kernels::quantize_u8(x, scale, zero, &mut out);
            Data::U8(out)
        }
        Target::Plain(DataType::I8) => {
            let mut out = vec![0; x.len()];
            kernels::quantize_i8(x, scale, zero, &mut out);
            Data::I8(out)
        }
        _ => return None,
    })
}

/// Eight bits to FP32 with one scale for all, as `dequantize` does it number by number.
fn dequantize_all(x: &Tensor, scale: &Tensor, zero: Option<&Tensor>) -> Option<Data> {
    let Data::F32(scale) = scale.data() else { return None };
    let &[scale] = scale.as_slice() else { return None };
    if x.small().is_some() || zero.is_some_and(|z| z.small().is_some()) {
        return None;
    }
    let zero = match zero.map(i64s) {
        None => 0,
        Some(Ok(z)) if z.len() == 1 => i32::try_from(z[0]).ok()?,
        _ => return None,
    };
    let mut out = crate::buffers::take(x.data().len());
    match x.data() {
        Data::U8(v) => kernels::dequantize(v, scale, zero, &mut out),
        Data::I8(v) => kernels::dequantize(v, scale, zero, &mut out),
        _ => return None,
    }
    Some(Data::F32(out))
}

/// Integers without their zero point. `axis` is that along which several zero points lie.
fn centred(i: &Inputs<'_>, k: usize, zero: usize, axis: usize) -> OpResult<(Vec<i64>, Vec<usize>)> {
    let t = i.get(k)?;
    let mut v = i64s(t)?;
    let zero = i.opt_i64s(zero)?.unwrap_or_else(|| vec![0]);
    let dims = t.shape().to_vec();
    match zero.as_slice() {
        [z] => v.iter_mut().for_each(|x| *x -= z),
        list => {
            ensure!(
                dims.get(axis) == Some(&list.len()),
                "{} zero points for {dims:?}",
                list.len()
            );
            let inner: usize = dims[axis + 1..].iter().product();
            v.iter_mut()
                .enumerate()
                .for_each(|(n, x)| *x -= list[n / inner.max(1) % list.len()]);
        }
    }
    Ok((v, dims))
}

fn integer_product(i: &Inputs<'_>, operands: [(usize, usize); 2]) -> OpResult<Tensor> {
    let rank = |k: usize| i.get(k).map(|t| t.shape().len());
    let [(a, za), (b, zb)] = operands;
    let (va, sa) = centred(i, a, za, rank(a)?.saturating_sub(2))?;
    let (vb, sb) = centred(i, b, zb, rank(b)?.saturating_sub(1))?;
    super::matmul::product(&va, &sa, &vb, &sb)
}

fn matmul_integer(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 4)?;
    let packed = product::Cache::default();
    Ok(Kernel::host(move |i| {
        if let Some(sums) = packed.product(i, [(0, 2), (1, 3)])? {
            return Ok(vec![sums]);
        }
        let out = integer_product(i, [(0, 2), (1, 3)])?;
        Ok(vec![super::cast::cast(&out, DataType::I32, true)?])
    }))
}

/// Rescales an exact product to the output's scale; `channel` gives the position in lists of scales.
fn requantize(
    product: &Tensor,
    i: &Inputs<'_>,
    [a, b, y]: [usize; 3],
    channel: impl Fn(usize) -> usize,
) -> OpResult<Tensor> {
    let (sa, sb, sy) = (wide(i.get(a)?)?, wide(i.get(b)?)?, wide(i.get(y)?)?);
    let zero = i.get(y + 1)?;
    let z = wide(zero)?;
    ensure!(
        sa.len() == 1 && sy.len() == 1 && z.len() == 1 && !sb.is_empty(),
        "scales are not single numbers"
    );
    let value = |(n, x): (usize, i64)| {
        let scale = sa[0] * sb[channel(n) % sb.len()] / sy[0];
        (x as f64 * scale).round_ties_even() + z[0]
    };
    let data = saturate(i64s(product)?.into_iter().enumerate().map(value), zero.datatype())?;
    tensor(product.shape().to_vec(), data)
}

fn qlinear_matmul(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(8, 8)?;
    let packed = product::Cache::default();
    Ok(Kernel::host(move |i| {
        let product = match packed.product(i, [(0, 2), (3, 5)])? {
            Some(sums) => sums,
            None => integer_product(i, [(0, 2), (3, 5)])?,
        };
        let columns = product.shape().last().copied().unwrap_or(1).max(1);
        Ok(vec![requantize(&product, i, [1, 4, 6], |n| n % columns)?])
    }))
}

/// An exact convolution of integers.
fn convolve(x: (&[i64], &[usize]), w: (&[i64], &[usize]), window: &Window, group: usize) -> OpResult<Tensor> {
    let ((x, xs), (w, ws)) = (x, w);
    ensure!(
        xs.len() >= 3
            && xs.len() == ws.len()
            && group > 0
            && ws[1].checked_mul(group) == Some(xs[1])
            && ws[0].is_multiple_of(group),
        "input of shape {xs:?} with weights of shape {ws:?} in {group} groups"
    );
    let axes = window.resolve(&xs[2..], &ws[2..])?;
    let mut dims = vec![xs[0], ws[0]];
    dims.extend(axes.iter().map(|a| a.output));
    let n = shape::elements(&dims)?;
    let (plane, kernel): (usize, usize) = (xs[2..].iter().product(), ws[2..].iter().product());
    let strides = shape::strides(&xs[2..]);
    let mut out = Vec::with_capacity(n);
    let mut at = vec![0; dims.len()];
    for _ in 0..n {
        let mut taps: Vec<(usize, usize)> = Vec::with_capacity(kernel);
        let mut k = vec![0; axes.len()];
        for tap in 0..kernel {
            let place = axes.iter().enumerate().try_fold(0, |sum, (d, a)| {
                let p = (at[2 + d] * a.stride + k[d] * a.dilation).checked_sub(a.begin)?;
                (p < a.input).then(|| sum + p * strides[d])
            });
            taps.extend(place.map(|p| (p, tap)));
            shape::step(&mut k, &ws[2..]);
        }
        let first = at[1] / (ws[0] / group) * ws[1];
        let sum = (0..ws[1]).map(|c| {
            let (px, pw) = ((at[0] * xs[1] + first + c) * plane, (at[1] * ws[1] + c) * kernel);
            taps.iter().map(|&(p, tap)| x[px + p] * w[pw + tap]).sum::<i64>()
        });
        out.push(sum.sum());
        shape::step(&mut at, &dims);
    }
    tensor(dims, Data::I64(out))
}

fn convolution(spec: &Spec<'_>) -> OpResult<(Window, usize)> {
    spec.ignore(&["kernel_shape"]);
    Ok((
        Window::parse(spec)?,
        usize::try_from(spec.int("group", 1)?).unwrap_or(0),
    ))
}

fn conv_integer(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 4)?;
    let (window, group) = convolution(spec)?;
    Ok(Kernel::host(move |i| {
        let ((x, xs), (w, ws)) = (centred(i, 0, 2, 1)?, centred(i, 1, 3, 0)?);
        let out = convolve((&x, &xs), (&w, &ws), &window, group)?;
        Ok(vec![super::cast::cast(&out, DataType::I32, true)?])
    }))
}

fn qlinear_conv(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(8, 9)?;
    let (window, group) = convolution(spec)?;
    Ok(Kernel::host(move |i| {
        let ((x, xs), (w, ws)) = (centred(i, 0, 2, 1)?, centred(i, 3, 5, 0)?);
        let out = convolve((&x, &xs), (&w, &ws), &window, group)?;
        let plane = out.shape()[2..].iter().product::<usize>().max(1);
        let channels = out.shape()[1];
        let channel = |n: usize| n / plane % channels;
        let bias = i.opt_i64s(8)?;
        ensure!(
            bias.as_ref().is_none_or(|b| b.len() == channels),
            "bias does not fit {channels} channels"
        );
        let biased = i64s(&out)?
            .into_iter()
            .enumerate()
            .map(|(n, v)| v + bias.as_ref().map_or(0, |b| b[channel(n)]));
        let biased = tensor(out.shape().to_vec(), Data::I64(biased.collect()))?;
        Ok(vec![requantize(&biased, i, [1, 4, 6], channel)?])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, eval_at, f32s};

    fn bytes(dims: &[usize], v: &[u8]) -> Tensor {
        Tensor::new(dims.to_vec(), Data::U8(v.to_vec())).unwrap()
    }

    #[test]
    fn values_round_to_even_and_saturate() {
        let x = f32s(&[4], &[-9.0, 1.0, 3.0, 900.0]);
        let out = eval("QuantizeLinear", |_| {}, &[x, f32s(&[], &[2.0]), bytes(&[], &[1])]);
        assert_eq!(out, bytes(&[4], &[0, 1, 3, 255]));
        let back = eval("DequantizeLinear", |_| {}, &[out, f32s(&[], &[2.0]), bytes(&[], &[1])]);
        assert_eq!(back, f32s(&[4], &[-2.0, 0.0, 4.0, 508.0]));
    }

    #[test]
    fn integer_products_subtract_zero_points() {
        let inputs = [
            bytes(&[1, 2], &[3, 4]),
            bytes(&[2, 1], &[5, 6]),
            bytes(&[], &[1]),
            bytes(&[], &[5]),
        ];
        let out = eval("MatMulInteger", |_| {}, &inputs);
        assert_eq!(out.data(), &Data::I32(vec![3]));
        let conv = eval(
            "ConvInteger",
            |_| {},
            &[bytes(&[1, 1, 3], &[1, 2, 3]), bytes(&[1, 1, 2], &[1, 10])],
        );
        assert_eq!(conv.data(), &Data::I32(vec![21, 32]));
    }

    #[test]
    fn a_dynamic_range_holds_zero() {
        let out = eval_at(18, "DynamicQuantizeLinear", |_| {}, &[f32s(&[2], &[0.0, 51.0])], 3).unwrap();
        assert_eq!(out[0], bytes(&[2], &[0, 255]));
        assert_eq!(out[1], f32s(&[], &[0.2]));
        assert_eq!(out[2], bytes(&[], &[0]));
    }
}
