//! Element types on the host and the loops that all host operators share.

use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};

use crate::fault::{OpResult, bail};
use crate::kernel::{HostOp, Inputs, Range, View, tensor};
use crate::{Data, DataType, Tensor, each_data, shape};

/// An element type of a host tensor.
pub(crate) trait Element: Clone + Default + PartialEq + Send + Sync + 'static {
    fn wrap(v: Vec<Self>) -> Data;
    fn slice(data: &Data) -> Option<&[Self]>;
}

macro_rules! element {
    ($($t:ty => $variant:ident),*) => {
        $(impl Element for $t {
            fn wrap(v: Vec<Self>) -> Data {
                Data::$variant(v)
            }
            fn slice(data: &Data) -> Option<&[Self]> {
                match data {
                    Data::$variant(v) => Some(v),
                    _ => None,
                }
            }
        })*
    };
}

element!(bool => Bool, u8 => U8, u16 => U16, u32 => U32, u64 => U64, i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    f16 => F16, bf16 => BF16, f32 => F32, f64 => F64, Bytes => Bytes);

/// A number with the arithmetic that ONNX gives it: integers wrap, division truncates.
pub(crate) trait Number: Element + Copy + PartialOrd + std::fmt::Debug {
    const FLOAT: bool;
    fn to_f64(self) -> f64;
    fn to_i64(self) -> i64;
    /// Saturating for integers, as Rust's `as`.
    fn from_f64(v: f64) -> Self;
    fn from_i64(v: i64) -> Self;
    fn add(self, o: Self) -> Self;
    fn sub(self, o: Self) -> Self;
    fn mul(self, o: Self) -> Self;
    /// The caller has excluded a zero divisor of an integer.
    fn div(self, o: Self) -> Self;
    /// The sign of the dividend, as C's `fmod`.
    fn rem(self, o: Self) -> Self;
    fn lowest() -> Self;
    fn highest() -> Self;
    fn is_nan(self) -> bool {
        false
    }
}

macro_rules! integer {
    ($($t:ty),*) => {
        $(impl Number for $t {
            const FLOAT: bool = false;
            fn to_f64(self) -> f64 { self as f64 }
            fn to_i64(self) -> i64 { self as i64 }
            fn from_f64(v: f64) -> Self { v as Self }
            fn from_i64(v: i64) -> Self { v as Self }
            fn add(self, o: Self) -> Self { self.wrapping_add(o) }
            fn sub(self, o: Self) -> Self { self.wrapping_sub(o) }
            fn mul(self, o: Self) -> Self { self.wrapping_mul(o) }
            fn div(self, o: Self) -> Self { self.wrapping_div(o) }
            fn rem(self, o: Self) -> Self { self.wrapping_rem(o) }
            fn lowest() -> Self { Self::MIN }
            fn highest() -> Self { Self::MAX }
        })*
    };
}

macro_rules! float {
    ($($t:ty),*) => {
        $(impl Number for $t {
            const FLOAT: bool = true;
            fn to_f64(self) -> f64 { f64::from(self) }
            fn to_i64(self) -> i64 { self as i64 }
            fn from_f64(v: f64) -> Self { v as Self }
            fn from_i64(v: i64) -> Self { v as Self }
            fn add(self, o: Self) -> Self { self + o }
            fn sub(self, o: Self) -> Self { self - o }
            fn mul(self, o: Self) -> Self { self * o }
            fn div(self, o: Self) -> Self { self / o }
            fn rem(self, o: Self) -> Self { self % o }
            fn lowest() -> Self { Self::NEG_INFINITY }
            fn highest() -> Self { Self::INFINITY }
            fn is_nan(self) -> bool { self.is_nan() }
        })*
    };
}

#[allow(clippy::cast_lossless, reason = "one body for all integer types")]
mod integers {
    use super::Number;
    integer!(u8, u16, u32, u64, i8, i16, i32, i64);
}
float!(f32, f64);

/// Applies `$body` to the vector of any number type but the half floats (which `widened` handles) and to nothing else.
macro_rules! numbers {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            $crate::Data::U8($v) => $body,
            $crate::Data::U16($v) => $body,
            $crate::Data::U32($v) => $body,
            $crate::Data::U64($v) => $body,
            $crate::Data::I8($v) => $body,
            $crate::Data::I16($v) => $body,
            $crate::Data::I32($v) => $body,
            $crate::Data::I64($v) => $body,
            $crate::Data::F32($v) => $body,
            $crate::Data::F64($v) => $body,
            other => $crate::fault::bail!("element type {} is not supported here", other.datatype()),
        }
    };
}

/// Applies `$body` to the vector of `f32` or `f64`.
macro_rules! floats {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            $crate::Data::F32($v) => $body,
            $crate::Data::F64($v) => $body,
            other => $crate::fault::bail!("element type {} where a float is needed", other.datatype()),
        }
    };
}

pub(crate) use {floats, numbers};

/// The elements of a tensor as `T`, a fault naming both types otherwise.
pub(crate) fn typed<T: Element>(t: &Tensor) -> OpResult<&[T]> {
    match T::slice(t.data()) {
        Some(v) => Ok(v),
        None => bail!(
            "element type {} where {} is needed",
            t.datatype(),
            T::wrap(Vec::new()).datatype()
        ),
    }
}

/// The element type that carries a half float through host arithmetic.
pub(crate) fn widen(t: &Tensor) -> Option<Tensor> {
    let wide = match t.data() {
        Data::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
        Data::BF16(v) => v.iter().map(|x| x.to_f32()).collect(),
        _ => return None,
    };
    Tensor::new(t.shape().to_vec(), Data::F32(wide))
}

fn narrow(t: Tensor, to: DataType) -> Tensor {
    let (dims, data) = t.into_parts();
    let data = match (data, to) {
        (Data::F32(v), DataType::F16) => Data::F16(v.into_iter().map(f16::from_f32).collect()),
        (Data::F32(v), DataType::BF16) => Data::BF16(v.into_iter().map(bf16::from_f32).collect()),
        (data, _) => data,
    };
    // The count is unchanged, so this never takes the default.
    Tensor::new(dims, data).unwrap_or_else(|| crate::host::empty(to))
}

/// An empty tensor.
pub(crate) fn empty(datatype: DataType) -> Tensor {
    match Tensor::new(vec![0], Data::zeros(datatype, 0)) {
        Some(t) => t,
        None => unreachable!("no elements for a shape of none"),
    }
}

/// Runs an operator written for `f32` on half floats: widened before, rounded after, as one operation.
pub(crate) fn run(op: &dyn HostOp, inputs: &Inputs<'_>) -> OpResult<Vec<Tensor>> {
    if !op.reads_small()
        && let Some(small) = inputs.0.iter().flatten().find_map(|t| t.small())
    {
        bail!("element type {small} is not supported here");
    }
    let half = inputs
        .0
        .iter()
        .flatten()
        .map(|t| t.datatype())
        .find(|t| matches!(t, DataType::F16 | DataType::BF16));
    let Some(half) = half else { return op.run(inputs) };
    // Operators that only move elements take them as they are.
    if let Ok(outputs) = op.run(inputs) {
        return Ok(outputs);
    }
    let wide: Vec<_> = inputs
        .0
        .iter()
        .map(|t| t.as_ref().map(|t| widen(t).map_or_else(|| t.clone(), Arc::new)))
        .collect();
    Ok(op.run(&Inputs(&wide))?.into_iter().map(|t| narrow(t, half)).collect())
}

/// Applies `f` to every element.
pub(crate) fn map<T: Copy, U: Element>(v: &[T], f: impl Fn(T) -> U) -> Data {
    U::wrap(v.iter().map(|&x| f(x)).collect())
}

/// Applies `f` to the pairs of two broadcast tensors.
pub(crate) fn zip<A: Copy, B: Copy, U>(
    (a, a_shape): (&[A], &[usize]),
    (b, b_shape): (&[B], &[usize]),
    f: impl Fn(A, B) -> U,
) -> OpResult<(Vec<usize>, Vec<U>)> {
    if a_shape == b_shape {
        return Ok((a_shape.to_vec(), a.iter().zip(b).map(|(&x, &y)| f(x, y)).collect()));
    }
    let out = shape::broadcast(a_shape, b_shape)?;
    let n = shape::elements(&out)?;
    if n == 0 {
        return Ok((out, Vec::new()));
    }
    if let [y] = *b {
        return Ok((out, a.iter().map(|&x| f(x, y)).collect()));
    }
    if let [x] = *a {
        return Ok((out, b.iter().map(|&y| f(x, y)).collect()));
    }
    let (sa, sb) = (
        shape::broadcast_strides(a_shape, &out),
        shape::broadcast_strides(b_shape, &out),
    );
    let mut result = Vec::with_capacity(n);
    rows(&out, [&sa, &sb], |[pa, pb], [ia, ib], len| {
        result.extend((0..len).map(|k| f(a[pa + k * ia], b[pb + k * ib])));
    });
    Ok((out, result))
}

/// Walks the rows (last dimension) of a shape read with several strides: offsets of the first element, step, length.
pub(crate) fn rows<const N: usize>(
    out: &[usize],
    strides: [&[usize]; N],
    mut row: impl FnMut([usize; N], [usize; N], usize),
) {
    let Some((&len, lead)) = out.split_last() else {
        return row([0; N], [0; N], 1);
    };
    if out.contains(&0) {
        return;
    }
    let inner = strides.map(|s| s[lead.len()]);
    let mut index = vec![0; lead.len()];
    loop {
        let offset = strides.map(|s| index.iter().zip(s).map(|(i, s)| i * s).sum());
        row(offset, inner, len);
        if !shape::step(&mut index, lead) {
            return;
        }
    }
}

/// Copies a tensor read with arbitrary strides from `offset` on. Each index must lie within `src`.
fn strided<T: Clone>(src: &[T], offset: isize, dims: &[usize], strides: &[isize]) -> Vec<T> {
    let n: usize = dims.iter().product();
    let mut out = Vec::with_capacity(n);
    if n == 0 {
        return out;
    }
    // Dimensions that follow each other without a gap are one longer row.
    let (mut merged, mut steps): (Vec<usize>, Vec<isize>) = (Vec::new(), Vec::new());
    for (&d, &s) in dims.iter().zip(strides) {
        match (merged.last_mut(), steps.last_mut()) {
            (Some(size), Some(step)) if *step == s * d as isize => {
                *size *= d;
                *step = s;
            }
            _ => {
                merged.push(d);
                steps.push(s);
            }
        }
    }
    let (dims, strides) = (merged.as_slice(), steps.as_slice());
    let Some((&len, lead)) = dims.split_last() else {
        out.push(src[offset as usize].clone());
        return out;
    };
    let inner = strides[lead.len()];
    let mut index = vec![0; lead.len()];
    loop {
        let at = offset + index.iter().zip(strides).map(|(&i, &s)| i as isize * s).sum::<isize>();
        if inner == 1 {
            out.extend_from_slice(&src[at as usize..at as usize + len]);
        } else {
            out.extend((0..len).map(|k| src[(at + k as isize * inner) as usize].clone()));
        }
        if !shape::step(&mut index, lead) {
            return out;
        }
    }
}

/// Applies one move to a host tensor.
pub(crate) fn apply(t: Arc<Tensor>, view: &View) -> OpResult<Arc<Tensor>> {
    let small = t.small();
    let own: Vec<isize> = shape::strides(t.shape()).into_iter().map(|s| s as isize).collect();
    let (dims, offset, strides) = match view {
        View::Reshape(to) if to.as_slice() == t.shape() => return Ok(t),
        View::Reshape(to) => {
            let (_, data) = Arc::try_unwrap(t).unwrap_or_else(|t| (*t).clone()).into_parts();
            return Ok(Arc::new(tensor(to.clone(), data)?.marked(small)));
        }
        View::Permute(perm) if let Some(data) = crate::permute::permuted(&t, perm) => {
            let dims = perm.iter().map(|&p| t.shape()[p]).collect();
            return Ok(Arc::new(tensor(dims, data)?.marked(small)));
        }
        View::Permute(perm) => (
            perm.iter().map(|&p| t.shape()[p]).collect(),
            0,
            perm.iter().map(|&p| own[p]).collect::<Vec<_>>(),
        ),
        View::Slice(ranges) => {
            if ranges
                .iter()
                .zip(t.shape())
                .all(|(r, &d)| r.start == 0 && r.step == 1 && r.len == d)
            {
                return Ok(t);
            }
            let offset = ranges.iter().zip(&own).map(|(r, s)| r.start as isize * s).sum();
            let dims: Vec<usize> = ranges.iter().map(|r: &Range| r.len).collect();
            (dims, offset, ranges.iter().zip(&own).map(|(r, s)| r.step * s).collect())
        }
        View::Expand(to) if t.shape() == to.as_slice() => return Ok(t),
        View::Expand(to) => {
            shape::elements(to)?;
            let strides = shape::broadcast_strides(t.shape(), to);
            (to.clone(), 0, strides.into_iter().map(|s| s as isize).collect())
        }
    };
    let data = each_data!(t.data(), v => Element::wrap(strided(v, offset, &dims, &strides)));
    Ok(Arc::new(tensor(dims, data)?.marked(small)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(dims: &[usize], v: &[i32]) -> Arc<Tensor> {
        Arc::new(Tensor::new(dims.to_vec(), Data::I32(v.to_vec())).unwrap())
    }

    #[test]
    fn zip_broadcasts_ranks_and_ones() {
        let a = ([1, 2, 3].as_slice(), [3, 1].as_slice());
        let b = ([10, 20].as_slice(), [2].as_slice());
        let (dims, v) = zip(a, b, |x: i32, y: i32| x + y).unwrap();
        assert_eq!((dims, v), (vec![3, 2], vec![11, 21, 12, 22, 13, 23]));
    }

    #[test]
    fn views_permute_slice_backwards_and_expand() {
        let t = ints(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        let p = apply(t.clone(), &View::Permute(vec![1, 0])).unwrap();
        assert_eq!(*p, *ints(&[3, 2], &[1, 4, 2, 5, 3, 6]));
        let back = View::Slice(vec![
            Range {
                start: 1,
                len: 1,
                step: 1,
            },
            Range {
                start: 2,
                len: 2,
                step: -2,
            },
        ]);
        assert_eq!(*apply(t, &back).unwrap(), *ints(&[1, 2], &[6, 4]));
        let e = apply(ints(&[2, 1], &[7, 8]), &View::Expand(vec![2, 2, 2])).unwrap();
        assert_eq!(*e, *ints(&[2, 2, 2], &[7, 7, 8, 8, 7, 7, 8, 8]));
    }

    #[test]
    fn half_floats_run_through_f32_and_are_rounded_once() {
        let op = |i: &Inputs<'_>| {
            let t = i.get(0)?;
            let data = floats!(t.data(), v => map(v, |x| x.add(Number::from_f64(1.0))));
            Ok(vec![tensor(t.shape().to_vec(), data)?])
        };
        let half = Tensor::new(vec![1], Data::F16(vec![f16::from_f32(0.5)])).unwrap();
        let out = run(&op, &Inputs(&[Some(Arc::new(half))])).unwrap();
        assert_eq!(out[0].data(), &Data::F16(vec![f16::from_f32(1.5)]));
    }
}
