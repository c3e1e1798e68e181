//! Element-wise functions of one tensor.

use crate::device::{DeviceOp, Unary};
use crate::fault::{OpResult, bail};
use crate::host::{self, Number, floats, numbers};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor};

/// Functions that have no attributes and read floats only; half floats go through `f32`.
pub(crate) const TABLE: &[Entry] = &[
    entry("Abs", 1, abs),
    entry("Acos", 7, |s| float(s, f64::acos)),
    entry("Acosh", 9, |s| float(s, f64::acosh)),
    entry("Asin", 7, |s| float(s, f64::asin)),
    entry("Asinh", 9, |s| float(s, f64::asinh)),
    entry("Atan", 7, |s| float(s, f64::atan)),
    entry("Atanh", 9, |s| float(s, f64::atanh)),
    entry("BitwiseNot", 18, bitwise_not),
    entry("Ceil", 1, |s| device(s, Unary::Ceil, f64::ceil)),
    entry("Celu", 12, celu),
    entry("Cos", 7, |s| device(s, Unary::Cos, f64::cos)),
    entry("Cosh", 9, |s| float(s, f64::cosh)),
    entry("Elu", 1, elu),
    entry("Erf", 9, |s| device(s, Unary::Erf, libm::erf)),
    entry("Exp", 1, |s| device(s, Unary::Exp, f64::exp)),
    entry("Floor", 1, |s| device(s, Unary::Floor, f64::floor)),
    entry("Gelu", 20, gelu),
    entry("HardSigmoid", 1, hard_sigmoid),
    entry("HardSwish", 14, |s| float(s, |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0))),
    entry("IsInf", 10, is_inf),
    entry("IsNaN", 9, is_nan),
    entry("LeakyRelu", 1, leaky_relu),
    entry("Log", 1, |s| device(s, Unary::Log, f64::ln)),
    entry("Mish", 18, |s| float(s, |x| x * softplus(x).tanh())),
    entry("Neg", 1, neg),
    entry("Not", 1, not),
    entry("Reciprocal", 1, |s| device(s, Unary::Reciprocal, |x| 1.0 / x)),
    entry("Relu", 1, relu),
    entry("Round", 11, |s| float(s, f64::round_ties_even)),
    entry("Selu", 1, selu),
    entry("Shrink", 9, shrink),
    entry("Sigmoid", 1, |s| {
        device(s, Unary::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()))
    }),
    entry("Sign", 9, sign),
    entry("Sin", 7, |s| device(s, Unary::Sin, f64::sin)),
    entry("Sinh", 9, |s| float(s, f64::sinh)),
    entry("Softplus", 1, |s| float(s, softplus)),
    entry("Softsign", 1, |s| float(s, |x| x / (1.0 + x.abs()))),
    entry("Sqrt", 1, |s| device(s, Unary::Sqrt, f64::sqrt)),
    entry("Swish", 24, swish),
    entry("Tan", 7, |s| float(s, f64::tan)),
    entry("Tanh", 1, |s| device(s, Unary::Tanh, f64::tanh)),
    entry("ThresholdedRelu", 10, thresholded_relu),
];

/// ONNX Runtime's.
pub(crate) const MICROSOFT: &[Entry] = &[entry("Gelu", 1, |s| device(s, Unary::Gelu, gelu_exact))];

fn softplus(x: f64) -> f64 {
    // Without overflow for large x.
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn gelu_exact(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// A function of one float tensor, computed in double precision and rounded once.
fn map(inputs: &Inputs<'_>, f: impl Fn(f64) -> f64) -> OpResult<Vec<Tensor>> {
    fn all<T: Number>(v: &[T], f: impl Fn(f64) -> f64) -> Data {
        host::map(v, |x| T::from_f64(f(x.to_f64())))
    }
    let x = inputs.get(0)?;
    let data = floats!(x.data(), v => all(v, f));
    Ok(vec![tensor(x.shape().to_vec(), data)?])
}

/// The same on integers too, whose arithmetic must not go through floats.
fn each(inputs: &Inputs<'_>, f: impl NumberMap) -> OpResult<Vec<Tensor>> {
    let x = inputs.get(0)?;
    let data = numbers!(x.data(), v => host::map(v, |x| f.map(x)));
    Ok(vec![tensor(x.shape().to_vec(), data)?])
}

/// A function that every number type has.
trait NumberMap {
    fn map<T: Number>(&self, x: T) -> T;
}

fn float(spec: &Spec<'_>, f: impl Fn(f64) -> f64 + Send + Sync + 'static) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    Ok(Kernel::host(move |i| map(i, &f)))
}

fn device(spec: &Spec<'_>, op: Unary, f: impl Fn(f64) -> f64 + Send + Sync + 'static) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    Ok(Kernel::dual(DeviceOp::Unary(op), move |i| map(i, &f)))
}

struct Abs;
impl NumberMap for Abs {
    fn map<T: Number>(&self, x: T) -> T {
        if T::FLOAT {
            T::from_f64(x.to_f64().abs())
        } else if x < T::from_i64(0) {
            T::from_i64(0).sub(x)
        } else {
            x
        }
    }
}

struct Neg;
impl NumberMap for Neg {
    fn map<T: Number>(&self, x: T) -> T {
        // A float's zero keeps its sign change.
        if T::FLOAT {
            T::from_f64(-x.to_f64())
        } else {
            T::from_i64(0).sub(x)
        }
    }
}

struct Relu;
impl NumberMap for Relu {
    fn map<T: Number>(&self, x: T) -> T {
        let zero = T::from_i64(0);
        if x < zero { zero } else { x }
    }
}

struct Sign;
impl NumberMap for Sign {
    fn map<T: Number>(&self, x: T) -> T {
        let zero = T::from_i64(0);
        match x.partial_cmp(&zero) {
            Some(std::cmp::Ordering::Less) => zero.sub(T::from_i64(1)),
            Some(std::cmp::Ordering::Greater) => T::from_i64(1),
            Some(std::cmp::Ordering::Equal) => zero,
            None => x,
        }
    }
}

fn abs(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    Ok(Kernel::dual(DeviceOp::Unary(Unary::Abs), |i| each(i, Abs)))
}

fn neg(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    Ok(Kernel::dual(DeviceOp::Unary(Unary::Neg), |i| each(i, Neg)))
}

fn relu(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    Ok(Kernel::dual(DeviceOp::Unary(Unary::Relu), |i| each(i, Relu)))
}

fn sign(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    Ok(Kernel::host(|i| each(i, Sign)))
}

fn elu(spec: &Spec<'_>) -> OpResult<Kernel> {
    let alpha = f64::from(spec.float("alpha", 1.0)?);
    float(spec, move |x| if x < 0.0 { alpha * x.exp_m1() } else { x })
}

fn celu(spec: &Spec<'_>) -> OpResult<Kernel> {
    let alpha = f64::from(spec.float("alpha", 1.0)?);
    float(spec, move |x| x.max(0.0) + (alpha * (x / alpha).exp_m1()).min(0.0))
}

fn selu(spec: &Spec<'_>) -> OpResult<Kernel> {
    let alpha = f64::from(spec.float("alpha", 1.673_263_2)?);
    let gamma = f64::from(spec.float("gamma", 1.050_701)?);
    float(
        spec,
        move |x| if x > 0.0 { gamma * x } else { gamma * alpha * x.exp_m1() },
    )
}

fn gelu(spec: &Spec<'_>) -> OpResult<Kernel> {
    match spec.string("approximate", "none")? {
        "none" => device(spec, Unary::Gelu, gelu_exact),
        "tanh" => float(spec, |x| {
            0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x * x * x)).tanh())
        }),
        other => bail!("attribute \"approximate\" is {other:?} instead of \"none\" or \"tanh\""),
    }
}

fn swish(spec: &Spec<'_>) -> OpResult<Kernel> {
    let alpha = f64::from(spec.float("alpha", 1.0)?);
    float(spec, move |x| x / (1.0 + (-alpha * x).exp()))
}

fn hard_sigmoid(spec: &Spec<'_>) -> OpResult<Kernel> {
    let (alpha, beta) = (spec.float("alpha", 0.2)?, spec.float("beta", 0.5)?);
    let (a, b) = (f64::from(alpha), f64::from(beta));
    device(spec, Unary::HardSigmoid(alpha, beta), move |x| {
        (a * x + b).clamp(0.0, 1.0)
    })
}

fn leaky_relu(spec: &Spec<'_>) -> OpResult<Kernel> {
    let alpha = spec.float("alpha", 0.01)?;
    device(spec, Unary::LeakyRelu(alpha), move |x| {
        if x < 0.0 { f64::from(alpha) * x } else { x }
    })
}

fn thresholded_relu(spec: &Spec<'_>) -> OpResult<Kernel> {
    let alpha = f64::from(spec.float("alpha", 1.0)?);
    float(spec, move |x| if x > alpha { x } else { 0.0 })
}

fn shrink(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let (lambd, bias) = (
        f64::from(spec.float("lambd", 0.5)?),
        f64::from(spec.float("bias", 0.0)?),
    );
    struct Shrink(f64, f64);
    impl NumberMap for Shrink {
        fn map<T: Number>(&self, x: T) -> T {
            let x = x.to_f64();
            T::from_f64(match () {
                () if x < -self.0 => x + self.1,
                () if x > self.0 => x - self.1,
                () => 0.0,
            })
        }
    }
    Ok(Kernel::host(move |i| each(i, Shrink(lambd, bias))))
}

fn is_nan(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    Ok(Kernel::host(|i| {
        let x = i.get(0)?;
        let data = match x.data() {
            Data::F16(v) => host::map(v, half::f16::is_nan),
            Data::BF16(v) => host::map(v, half::bf16::is_nan),
            data => floats!(data, v => host::map(v, Number::is_nan)),
        };
        Ok(vec![tensor(x.shape().to_vec(), data)?])
    }))
}

fn is_inf(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let (positive, negative) = (spec.flag("detect_positive", true)?, spec.flag("detect_negative", true)?);
    let found = move |x: f64| (positive && x == f64::INFINITY) || (negative && x == f64::NEG_INFINITY);
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let data = match x.data() {
            Data::F16(v) => host::map(v, |x| found(x.to_f64())),
            Data::BF16(v) => host::map(v, |x| found(x.to_f64())),
            data => floats!(data, v => host::map(v, |x| found(x.to_f64()))),
        };
        Ok(vec![tensor(x.shape().to_vec(), data)?])
    }))
}

fn not(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    Ok(Kernel::host(|i| {
        let x = i.get(0)?;
        Ok(vec![tensor(
            x.shape().to_vec(),
            host::map(host::typed::<bool>(x)?, |b| !b),
        )?])
    }))
}

fn bitwise_not(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    Ok(Kernel::host(|i| {
        let x = i.get(0)?;
        let data = match x.data() {
            Data::U8(v) => host::map(v, |x| !x),
            Data::U16(v) => host::map(v, |x| !x),
            Data::U32(v) => host::map(v, |x| !x),
            Data::U64(v) => host::map(v, |x| !x),
            Data::I8(v) => host::map(v, |x| !x),
            Data::I16(v) => host::map(v, |x| !x),
            Data::I32(v) => host::map(v, |x| !x),
            Data::I64(v) => host::map(v, |x| !x),
            other => bail!("element type {} where an integer is needed", other.datatype()),
        };
        Ok(vec![tensor(x.shape().to_vec(), data)?])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, eval, eval_at, f32s, ints};

    fn run(op: &str, v: &[f32]) -> Vec<f32> {
        match eval(op, |_| {}, &[f32s(&[v.len()], v)]).into_parts().1 {
            Data::F32(v) => v,
            other => panic!("{}", other.datatype()),
        }
    }

    #[test]
    fn integers_do_not_go_through_floats() {
        let big = i64::MAX - 1;
        assert_eq!(eval("Neg", |_| {}, &[ints(&[2], &[big, -3])]), ints(&[2], &[-big, 3]));
        assert_eq!(eval("Abs", |_| {}, &[ints(&[2], &[-big, 3])]), ints(&[2], &[big, 3]));
        assert_eq!(
            eval("Sign", |_| {}, &[ints(&[3], &[-5, 0, 9])]),
            ints(&[3], &[-1, 0, 1])
        );
    }

    #[test]
    fn rounding_goes_to_even() {
        assert_eq!(run("Round", &[0.5, 1.5, 2.5, -1.5]), [0.0, 2.0, 2.0, -2.0]);
    }

    #[test]
    fn activations_follow_their_formulas() {
        assert_eq!(run("Relu", &[-1.0, 2.0]), [0.0, 2.0]);
        assert_eq!(run("HardSwish", &[-3.0, 0.0, 3.0]), [0.0, 0.0, 3.0]);
        assert_eq!(run("Softsign", &[1.0, -3.0]), [0.5, -0.75]);
        let elu = eval("Elu", |a| a.float("alpha", 2.0), &[f32s(&[2], &[-1.0, 1.0])]);
        assert_close(&elu, &f32s(&[2], &[2.0 * (1f32.recip().exp().recip() - 1.0), 1.0]));
        // The same through the device, which takes over for larger tensors.
        let many = vec![-0.5f32; 4096];
        let small = run("Sigmoid", &many[..1])[0];
        assert!(run("Sigmoid", &many).iter().all(|x| (x - small).abs() < 1e-6));
    }

    #[test]
    fn half_floats_and_doubles_keep_their_type() {
        let half = Tensor::new(vec![1], Data::F16(vec![half::f16::from_f32(4.0)])).unwrap();
        assert_eq!(
            eval("Sqrt", |_| {}, &[half]).data(),
            &Data::F16(vec![half::f16::from_f32(2.0)])
        );
        let double = Tensor::new(vec![1], Data::F64(vec![2.0])).unwrap();
        assert_eq!(eval("Sqrt", |_| {}, &[double]).data(), &Data::F64(vec![2f64.sqrt()]));
    }

    #[test]
    fn an_attribute_that_the_operator_does_not_have_is_refused() {
        let error = eval_at(18, "Relu", |a| a.float("slope", 0.1), &[f32s(&[1], &[1.0])], 1).unwrap_err();
        assert!(error.contains("slope") && error.contains("Relu"), "{error}");
    }
}
