//! Arithmetic, comparison and logic of broadcast tensors.

use crate::device::{Arith, Compare, DeviceOp};
use crate::fault::{OpResult, bail, ensure};
use crate::host::{self, Element, Number, numbers, typed};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor, each_data};

pub(crate) const TABLE: &[Entry] = &[
    entry("Add", 1, |s| legacy(s, Arith::Add)),
    entry("Add", 7, |s| arithmetic(s, Arith::Add)),
    entry("And", 7, |s| logic(s, |a, b| a & b)),
    entry("BitShift", 11, bit_shift),
    entry("BitwiseAnd", 18, |s| bitwise(s, |a, b| a & b)),
    entry("BitwiseOr", 18, |s| bitwise(s, |a, b| a | b)),
    entry("BitwiseXor", 18, |s| bitwise(s, |a, b| a ^ b)),
    entry("Clip", 1, clip),
    entry("Div", 1, |s| legacy(s, Arith::Div)),
    entry("Div", 7, |s| arithmetic(s, Arith::Div)),
    entry("Equal", 7, |s| comparison(s, Compare::Equal)),
    entry("Greater", 7, |s| comparison(s, Compare::Greater)),
    entry("GreaterOrEqual", 12, |s| comparison(s, Compare::GreaterOrEqual)),
    entry("Less", 7, |s| comparison(s, Compare::Less)),
    entry("LessOrEqual", 12, |s| comparison(s, Compare::LessOrEqual)),
    entry("Max", 6, |s| variadic(s, Fold::Max)),
    entry("Mean", 6, |s| variadic(s, Fold::Mean)),
    entry("Min", 6, |s| variadic(s, Fold::Min)),
    entry("Mod", 10, modulo),
    entry("Mul", 1, |s| legacy(s, Arith::Mul)),
    entry("Mul", 7, |s| arithmetic(s, Arith::Mul)),
    entry("Or", 7, |s| logic(s, |a, b| a | b)),
    entry("PRelu", 1, prelu),
    entry("PRelu", 7, prelu),
    entry("Pow", 1, |s| legacy(s, Arith::Pow)),
    entry("Pow", 7, pow),
    entry("Sub", 1, |s| legacy(s, Arith::Sub)),
    entry("Sub", 7, |s| arithmetic(s, Arith::Sub)),
    entry("Sum", 6, sum),
    entry("Where", 9, select),
    entry("Xor", 7, |s| logic(s, |a, b| a ^ b)),
];

/// A function of two numbers of one type.
trait Pair {
    fn apply<T: Number>(&self, a: T, b: T) -> T;
}

fn one(shape: Vec<usize>, data: Data) -> OpResult<Vec<Tensor>> {
    Ok(vec![tensor(shape, data)?])
}

fn pairs<T: Number>(a: &[T], a_shape: &[usize], b: &Tensor, f: &impl Pair) -> OpResult<(Vec<usize>, Data)> {
    let (shape, v) = host::zip((a, a_shape), (typed::<T>(b)?, b.shape()), |a, b| f.apply(a, b))?;
    Ok((shape, T::wrap(v)))
}

fn both(a: &Tensor, b: &Tensor, f: &impl Pair) -> OpResult<Tensor> {
    let (shape, data) = numbers!(a.data(), v => pairs(v, a.shape(), b, f)?);
    tensor(shape, data)
}

impl Pair for Arith {
    fn apply<T: Number>(&self, a: T, b: T) -> T {
        match self {
            Self::Add => a.add(b),
            Self::Sub => a.sub(b),
            Self::Mul => a.mul(b),
            Self::Div => a.div(b),
            Self::Pow => T::from_f64(a.to_f64().powf(b.to_f64())),
        }
    }
}

/// Integers have no infinity to divide into.
fn divisor(b: &Tensor) -> OpResult<()> {
    let zero = match b.data() {
        Data::F32(_) | Data::F64(_) | Data::F16(_) | Data::BF16(_) => false,
        data => numbers!(data, v => v.iter().any(|x| x.to_i64() == 0)),
    };
    ensure!(!zero, "division of integers by zero");
    Ok(())
}

fn arithmetic(spec: &Spec<'_>, op: Arith) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    Ok(Kernel::dual(DeviceOp::Arith(op), move |i: &Inputs<'_>| {
        let (a, b) = (i.get(0)?, i.get(1)?);
        // One match outside the loop, so that each loop is over one operation.
        Ok(vec![match op {
            Arith::Add => both(a, b, &Add)?,
            Arith::Sub => both(a, b, &Sub)?,
            Arith::Mul => both(a, b, &Mul)?,
            _ => {
                divisor(b)?;
                both(a, b, &Div)?
            }
        }])
    }))
}

/// Before opset 7 the second operand was stretched only where `broadcast` said so, from dimension `axis` on.
fn legacy(spec: &Spec<'_>, op: Arith) -> OpResult<Kernel> {
    let broadcast = spec.flag("broadcast", false)?;
    let axis = spec.opt_int("axis")?;
    let (true, Some(axis)) = (broadcast, axis) else {
        return if op == Arith::Pow {
            pow(spec)
        } else {
            arithmetic(spec, op)
        };
    };
    spec.expect_inputs(2, 2)?;
    Ok(Kernel::host(move |i| {
        let (a, b) = (i.get(0)?, i.get(1)?);
        let b = trailing_ones(b, a.shape(), axis)?;
        match op {
            Arith::Div => divisor(&b)?,
            Arith::Pow => ensure!(!matches!(a.data(), Data::I32(_) | Data::I64(_)), "powers of integers"),
            _ => {}
        }
        Ok(vec![both(a, &b, &op)?])
    }))
}

/// `b` with its dimensions at `axis` of `to`, followed by ones.
fn trailing_ones(b: &Tensor, to: &[usize], axis: i64) -> OpResult<Tensor> {
    let axis = if to.is_empty() {
        0
    } else {
        crate::shape::axis(axis, to.len())?
    };
    let rest = to.len().saturating_sub(axis + b.shape().len());
    let mut dims = b.shape().to_vec();
    dims.extend(std::iter::repeat_n(1, rest));
    tensor(dims, b.data().clone())
}

macro_rules! pair {
    ($($name:ident => $f:ident),*) => {
        $(struct $name;
        impl Pair for $name {
            fn apply<T: Number>(&self, a: T, b: T) -> T {
                a.$f(b)
            }
        })*
    };
}
pair!(Add => add, Sub => sub, Mul => mul, Div => div);

/// The larger number; not a number if either is.
struct Larger;
impl Pair for Larger {
    fn apply<T: Number>(&self, a: T, b: T) -> T {
        if a.is_nan() || a > b { a } else { b }
    }
}

struct Smaller;
impl Pair for Smaller {
    fn apply<T: Number>(&self, a: T, b: T) -> T {
        if a.is_nan() || a < b { a } else { b }
    }
}

/// What `Max`, `Min` and `Mean` do with any number of tensors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fold {
    Max,
    Min,
    Mean,
}

fn variadic(spec: &Spec<'_>, fold: Fold) -> OpResult<Kernel> {
    spec.expect_inputs(1, usize::MAX)?;
    Ok(Kernel::host(move |i| {
        let mut out = i.get(0)?.clone();
        for k in 1..i.len() {
            out = match fold {
                Fold::Max => both(&out, i.get(k)?, &Larger)?,
                Fold::Min => both(&out, i.get(k)?, &Smaller)?,
                Fold::Mean => both(&out, i.get(k)?, &Add)?,
            };
        }
        if fold == Fold::Mean {
            let n = i.len() as f64;
            let data = host::floats!(out.data(), v => host::map(v, |x| x.div(Number::from_f64(n))));
            out = tensor(out.shape().to_vec(), data)?;
        } else {
            // A single input must be a number too.
            numbers!(out.data(), _v => ());
        }
        Ok(vec![out])
    }))
}

fn sum(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, usize::MAX)?;
    Ok(Kernel::dual(DeviceOp::Arith(Arith::Add), |i: &Inputs<'_>| {
        let mut out = i.get(0)?.clone();
        for k in 1..i.len() {
            out = both(&out, i.get(k)?, &Add)?;
        }
        Ok(vec![out])
    }))
}

fn modulo(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    let truncate = spec.flag("fmod", false)?;
    struct Mod(bool);
    impl Pair for Mod {
        fn apply<T: Number>(&self, a: T, b: T) -> T {
            let r = a.rem(b);
            let zero = T::from_i64(0);
            // The divisor's sign, unless C's rule was asked for.
            if !self.0 && r != zero && (r < zero) != (b < zero) {
                r.add(b)
            } else {
                r
            }
        }
    }
    Ok(Kernel::host(move |i| {
        let (a, b) = (i.get(0)?, i.get(1)?);
        divisor(b)?;
        Ok(vec![both(a, b, &Mod(truncate))?])
    }))
}

fn pow(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    fn power<T: Number, E: Number>(a: (&[T], &[usize]), b: (&[E], &[usize])) -> OpResult<(Vec<usize>, Data)> {
        let (shape, v) = host::zip(a, b, |a: T, b: E| {
            let e = b.to_i64();
            if !T::FLOAT && !E::FLOAT && (0..1 << 32).contains(&e) {
                return integer_power(a, e);
            }
            T::from_f64(a.to_f64().powf(b.to_f64()))
        })?;
        Ok((shape, T::wrap(v)))
    }
    // The exponent's type is free; the base's is the result's.
    Ok(Kernel::dual(DeviceOp::Arith(Arith::Pow), |i: &Inputs<'_>| {
        let (a, b) = (i.get(0)?, i.get(1)?);
        let wide = host::widen(b);
        let b = wide.as_ref().unwrap_or(b);
        let (shape, data) = match a.data() {
            Data::F32(x) => numbers!(b.data(), y => power((x, a.shape()), (y, b.shape()))?),
            Data::F64(x) => numbers!(b.data(), y => power((x, a.shape()), (y, b.shape()))?),
            Data::I32(x) => numbers!(b.data(), y => power((x, a.shape()), (y, b.shape()))?),
            Data::I64(x) => numbers!(b.data(), y => power((x, a.shape()), (y, b.shape()))?),
            other => bail!("element type {} of the base is not supported", other.datatype()),
        };
        one(shape, data)
    }))
}

fn integer_power<T: Number>(mut base: T, mut exponent: i64) -> T {
    let mut out = T::from_i64(1);
    while exponent > 0 {
        if exponent & 1 == 1 {
            out = out.mul(base);
        }
        base = base.mul(base);
        exponent >>= 1;
    }
    out
}

fn comparison(spec: &Spec<'_>, op: Compare) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    fn compared<T: Element + PartialOrd>(a: &[T], b: &Tensor, a_shape: &[usize], op: Compare) -> OpResult<Vec<Tensor>> {
        // References, since strings can't be copied.
        let b = (&typed::<T>(b)?.iter().collect::<Vec<_>>()[..], b.shape());
        let a = (&a.iter().collect::<Vec<_>>()[..], a_shape);
        let (shape, v) = match op {
            Compare::Equal => host::zip(a, b, |a, b| a == b)?,
            Compare::Greater => host::zip(a, b, |a, b| a > b)?,
            Compare::GreaterOrEqual => host::zip(a, b, |a, b| a >= b)?,
            Compare::Less => host::zip(a, b, |a, b| a < b)?,
            Compare::LessOrEqual => host::zip(a, b, |a, b| a <= b)?,
        };
        one(shape, Data::Bool(v))
    }
    Ok(Kernel::dual(DeviceOp::Compare(op), move |i: &Inputs<'_>| {
        let (a, b) = (i.get(0)?, i.get(1)?);
        each_data!(a.data(), v => compared(v, b, a.shape(), op))
    }))
}

fn logic(spec: &Spec<'_>, f: fn(bool, bool) -> bool) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    Ok(Kernel::host(move |i| {
        let (a, b) = (i.get(0)?, i.get(1)?);
        let (shape, v) = host::zip((typed(a)?, a.shape()), (typed(b)?, b.shape()), f)?;
        one(shape, Data::Bool(v))
    }))
}

/// Integers as bits; wider ones are sign-extended, which no bit operation minds.
fn bitwise(spec: &Spec<'_>, f: fn(i64, i64) -> i64) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    struct Bits(fn(i64, i64) -> i64);
    impl Pair for Bits {
        fn apply<T: Number>(&self, a: T, b: T) -> T {
            T::from_i64((self.0)(a.to_i64(), b.to_i64()))
        }
    }
    Ok(Kernel::host(move |i| {
        let (a, b) = (i.get(0)?, i.get(1)?);
        ensure!(
            !matches!(a.data(), Data::F32(_) | Data::F64(_)),
            "bit operations on floats"
        );
        Ok(vec![both(a, b, &Bits(f))?])
    }))
}

fn bit_shift(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    let left = match spec.string("direction", "")? {
        "LEFT" => true,
        "RIGHT" => false,
        other => bail!("attribute \"direction\" is {other:?} instead of LEFT or RIGHT"),
    };
    macro_rules! shift {
        ($t:ty, $x:ident, $a:ident, $b:ident) => {{
            let shift = move |a: $t, b: $t| {
                let by = u32::try_from(b).unwrap_or(u32::MAX);
                if left {
                    a.checked_shl(by).unwrap_or(0)
                } else {
                    a.checked_shr(by).unwrap_or(0)
                }
            };
            let (shape, v) = host::zip(($x, $a.shape()), (typed::<$t>($b)?, $b.shape()), shift)?;
            one(shape, <$t>::wrap(v))
        }};
    }
    Ok(Kernel::host(move |i| {
        let (a, b) = (i.get(0)?, i.get(1)?);
        match a.data() {
            Data::U8(x) => shift!(u8, x, a, b),
            Data::U16(x) => shift!(u16, x, a, b),
            Data::U32(x) => shift!(u32, x, a, b),
            Data::U64(x) => shift!(u64, x, a, b),
            other => bail!("element type {} where an unsigned integer is needed", other.datatype()),
        }
    }))
}

fn prelu(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    struct Slope;
    impl Pair for Slope {
        fn apply<T: Number>(&self, x: T, slope: T) -> T {
            if x < T::from_i64(0) { x.mul(slope) } else { x }
        }
    }
    let per_channel = spec.opset < 7;
    Ok(Kernel::host(move |i| {
        let (x, slope) = (i.get(0)?, i.get(1)?);
        // Before opset 7 a list was one slope for each channel.
        let channels = per_channel && slope.shape().len() == 1 && slope.data().len() > 1 && x.shape().len() > 1;
        let slope = if channels {
            trailing_ones(slope, x.shape(), 1)?
        } else {
            slope.clone()
        };
        let out = both(x, &slope, &Slope)?;
        ensure!(
            out.shape() == i.get(0)?.shape(),
            "the slope does not broadcast to the input"
        );
        Ok(vec![out])
    }))
}

fn clip(spec: &Spec<'_>) -> OpResult<Kernel> {
    let (min, max) = if spec.opset < 11 {
        spec.expect_inputs(1, 1)?;
        (
            spec.opt_float("min")?.map(f64::from),
            spec.opt_float("max")?.map(f64::from),
        )
    } else {
        spec.expect_inputs(1, 3)?;
        (None, None)
    };
    fn clipped<T: Number>(v: &[T], i: &Inputs<'_>, min: Option<f64>, max: Option<f64>) -> OpResult<Data> {
        let bound = |k: usize, attr: Option<f64>| -> OpResult<Option<T>> {
            let Some(t) = i.opt(k) else {
                return Ok(attr.map(T::from_f64));
            };
            match typed::<T>(t)? {
                [b] => Ok(Some(*b)),
                b => bail!("bound {k} has {} elements instead of 1", b.len()),
            }
        };
        let (min, max) = (bound(1, min)?, bound(2, max)?);
        Ok(host::map(v, |x| {
            let x = min.filter(|&m| x < m).unwrap_or(x);
            max.filter(|&m| x > m).unwrap_or(x)
        }))
    }
    Ok(Kernel::dual(DeviceOp::Clip { min, max }, move |i: &Inputs<'_>| {
        let x = i.get(0)?;
        let data = numbers!(x.data(), v => clipped(v, i, min, max)?);
        one(x.shape().to_vec(), data)
    }))
}

fn select(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, 3)?;
    fn pick<T: Element>(c: &Tensor, x: &[T], x_shape: &[usize], y: &Tensor) -> OpResult<Vec<Tensor>> {
        let values = typed::<T>(y)?;
        let mask = typed::<bool>(c)?;
        // Two steps of broadcasting: first which side, then the pair.
        let xs: Vec<usize> = (0..x.len()).collect();
        let ys: Vec<usize> = (0..values.len()).collect();
        let (shape, side) = host::zip((mask, c.shape()), (&xs, x_shape), bool::then_some)?;
        let (shape, v) = host::zip((&side, &shape), (&ys, y.shape()), |side, k| match side {
            Some(side) => x[side].clone(),
            None => values[k].clone(),
        })?;
        one(shape, T::wrap(v))
    }
    Ok(Kernel::dual(DeviceOp::Where, |i: &Inputs<'_>| {
        let (c, x, y) = (i.get(0)?, i.get(1)?, i.get(2)?);
        each_data!(x.data(), v => pick(c, v, x.shape(), y))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, eval_at, f32s, ints};

    fn bools(dims: &[usize], v: &[bool]) -> Tensor {
        Tensor::new(dims.to_vec(), Data::Bool(v.to_vec())).unwrap()
    }

    #[test]
    fn arithmetic_broadcasts_across_ranks() {
        let sum = eval(
            "Add",
            |_| {},
            &[f32s(&[2, 1], &[1.0, 2.0]), f32s(&[3], &[10.0, 20.0, 30.0])],
        );
        assert_eq!(sum, f32s(&[2, 3], &[11.0, 21.0, 31.0, 12.0, 22.0, 32.0]));
    }

    #[test]
    fn old_opsets_stretch_from_the_axis_they_name() {
        let x = f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let attributes = |a: &mut crate::testing::Attributes| {
            a.int("broadcast", 1);
            a.int("axis", 0);
        };
        let out = eval_at(6, "Add", attributes, &[x.clone(), f32s(&[2], &[10.0, 20.0])], 1).unwrap();
        assert_eq!(out[0], f32s(&[2, 2], &[11.0, 12.0, 23.0, 24.0]));
        let out = eval_at(
            6,
            "PRelu",
            |_| {},
            &[f32s(&[1, 2, 1], &[-1.0, -1.0]), f32s(&[2], &[2.0, 3.0])],
            1,
        )
        .unwrap();
        assert_eq!(out[0], f32s(&[1, 2, 1], &[-2.0, -3.0]));
    }

    #[test]
    fn large_tensors_give_on_the_device_what_small_ones_give_on_the_host() {
        let a: Vec<f32> = (0..3000).map(|k| k as f32).collect();
        let out = eval("Sub", |_| {}, &[f32s(&[1000, 3], &a), f32s(&[3], &[1.0, 2.0, 3.0])]);
        let wanted: Vec<f32> = (0..3000).map(|k| k as f32 - (k % 3 + 1) as f32).collect();
        assert_eq!(out, f32s(&[1000, 3], &wanted));
    }

    #[test]
    fn integer_division_truncates_and_by_zero_is_an_error() {
        assert_eq!(
            eval("Div", |_| {}, &[ints(&[2], &[-7, 7]), ints(&[1], &[2])]),
            ints(&[2], &[-3, 3])
        );
        let error = eval_at(18, "Div", |_| {}, &[ints(&[1], &[1]), ints(&[1], &[0])], 1).unwrap_err();
        assert!(error.contains("division"), "{error}");
    }

    #[test]
    fn the_remainder_takes_the_divisors_sign_unless_c_is_asked_for() {
        let inputs = [ints(&[2], &[-4, 4]), ints(&[2], &[3, -3])];
        assert_eq!(eval("Mod", |_| {}, &inputs), ints(&[2], &[2, -2]));
        assert_eq!(eval("Mod", |a| a.int("fmod", 1), &inputs), ints(&[2], &[-1, 1]));
    }

    #[test]
    fn integer_powers_are_exact() {
        let big = ints(&[1], &[3]);
        assert_eq!(
            eval("Pow", |_| {}, &[big, ints(&[1], &[39])]),
            ints(&[1], &[4_052_555_153_018_976_267])
        );
    }

    #[test]
    fn comparisons_and_logic_give_masks() {
        let less = eval("Less", |_| {}, &[f32s(&[3], &[1.0, f32::NAN, 3.0]), f32s(&[], &[2.0])]);
        assert_eq!(less, bools(&[3], &[true, false, false]));
        let xor = eval("Xor", |_| {}, &[bools(&[2], &[true, false]), bools(&[1], &[true])]);
        assert_eq!(xor, bools(&[2], &[false, true]));
    }

    #[test]
    fn clip_and_where_choose() {
        let clipped = eval(
            "Clip",
            |_| {},
            &[ints(&[3], &[-5, 1, 9]), ints(&[], &[0]), ints(&[], &[4])],
        );
        assert_eq!(clipped, ints(&[3], &[0, 1, 4]));
        let picked = eval(
            "Where",
            |_| {},
            &[bools(&[2, 1], &[true, false]), ints(&[2], &[1, 2]), ints(&[], &[7])],
        );
        assert_eq!(picked, ints(&[2, 2], &[1, 2, 7, 7]));
    }
}
