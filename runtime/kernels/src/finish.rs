//! What is done to results while they are in the cache.

use crate::math;
use crate::simd::Isa;

/// A function of every result.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Function {
    /// The number itself.
    #[default]
    Identity,
    /// Within two bounds; NaN stays NaN.
    Clamp(f32, f32),
    /// x·Φ(x) with the exact error function.
    Gelu,
    /// x·Φ(x) with Φ approximated by tanh.
    GeluTanh,
    /// The hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// x · sigmoid(αx).
    Swish(f32),
    /// The error function.
    Erf,
    /// e^x.
    Exp,
    /// The square root.
    Sqrt,
    /// x²
    Square,
    /// 1/x.
    Reciprocal,
    /// |x|.
    Abs,
    /// -x.
    Neg,
    /// αx below 0.
    LeakyRelu(f32),
    /// αx + β between 0 and 1.
    HardSigmoid(f32, f32),
    /// x · hard sigmoid of x with 1/6 and 1/2.
    HardSwish,
    /// αx + β.
    Affine(f32, f32),
}

impl Function {
    /// Replaces every number by the function's value.
    #[inline(always)]
    pub(crate) fn apply<I: Isa>(self, v: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Clamp(low, high) => each(v, |x| within(x, (low, high))),
            Self::Gelu => each(v, math::gelu::<I>),
            Self::GeluTanh => each(v, math::gelu_tanh::<I>),
            Self::Tanh => each(v, math::tanh::<I>),
            Self::Sigmoid => each(v, math::sigmoid::<I>),
            Self::Swish(alpha) => each(v, |x| x * math::sigmoid::<I>(alpha * x)),
            Self::Erf => each(v, math::erf::<I>),
            Self::Exp => each(v, math::exp::<I>),
            Self::Sqrt => each(v, f32::sqrt),
            Self::Square => each(v, |x| x * x),
            Self::Reciprocal => each(v, |x| 1.0 / x),
            Self::Abs => each(v, f32::abs),
            Self::Neg => each(v, |x| -x),
            Self::LeakyRelu(alpha) => each(v, |x| if x < 0.0 { alpha * x } else { x }),
            Self::HardSigmoid(alpha, beta) => each(v, |x| within(math::fma::<I>(alpha, x, beta), (0.0, 1.0))),
            Self::HardSwish => each(v, |x| x * within(math::fma::<I>(x, 1.0 / 6.0, 0.5), (0.0, 1.0))),
            Self::Affine(alpha, beta) => each(v, |x| alpha * x + beta),
        }
    }
}

#[inline(always)]
fn each(v: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in v {
        *x = f(*x);
    }
}

/// The number within bounds; NaN stays NaN.
#[inline(always)]
pub(crate) fn within(y: f32, (low, high): (f32, f32)) -> f32 {
    let y = if y < low { low } else { y };
    if y > high { high } else { y }
}
