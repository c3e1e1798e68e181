//! Functions of one number without branches, so that loops over them become vector code under the instructions of their
//! caller. Each agrees with the exact function to a few units in the last place.

use crate::simd::Isa;

/// `a * b + c`, in one rounding where that is one instruction.
#[inline(always)]
pub(crate) fn fma<I: Isa>(a: f32, b: f32, c: f32) -> f32 {
    if I::FMA { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn horner<I: Isa, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut y = coefficients[0];
    for c in &coefficients[1..] {
        y = fma::<I>(y, x, *c);
    }
    y
}

/// e to the power of x. After Cephes' `expf`: x = n·ln 2 + r, a polynomial in r, and n into the exponent.
#[inline(always)]
pub(crate) fn exp<I: Isa>(x: f32) -> f32 {
    /// 1.5 · 2^23: adding it leaves the nearest integer in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // Beyond these the result is infinite or 0. Written so that NaN stays.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let shifted = fma::<I>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<I>(n, 2.121_944_4e-4, fma::<I>(n, -0.693_359_4, x));
    let r2 = r * r;
    let p = horner::<I, 6>(
        r,
        [
            1.987_569_1e-4,
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            0.166_666_65,
            0.5,
        ],
    );
    let p = fma::<I>(p, r2, r) + 1.0;
    // In two factors, since n goes past what one exponent holds on both sides.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
    let half = n >> 1;
    let power = |n: i32| f32::from_bits(((n + 127) << 23).cast_unsigned());
    p * power(half) * power(n - half)
}

/// The logistic function.
#[inline(always)]
pub(crate) fn sigmoid<I: Isa>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<I>(-x))
}

/// After Cephes' `tanhf`: a polynomial near 0, the exponential elsewhere.
#[inline(always)]
pub(crate) fn tanh<I: Isa>(x: f32) -> f32 {
    let a = x.abs();
    let s = x * x;
    let small = horner::<I, 5>(
        s,
        [-5.704_989e-3, 2.063_909e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8],
    );
    let small = fma::<I>(small * s, x, x);
    let large = 1.0 - 2.0 / (exp::<I>(2.0 * a) + 1.0);
    if a < 0.625 { small } else { large.copysign(x) }
}

/// The error function, by two polynomials after N. Juffa: within one unit in the last place.
#[inline(always)]
pub(crate) fn erf<I: Isa>(x: f32) -> f32 {
    let t = x.abs();
    let s = x * x;
    let r = fma::<I>(-1.728_534_7e-5, t, 3.831_979_7e-4);
    let u = fma::<I>(-3.883_964_4e-3, t, 2.425_462_2e-2);
    let r = fma::<I>(r, s, u);
    let r = fma::<I>(r, t, -0.106_777_88);
    let r = fma::<I>(r, t, -0.634_846_7);
    let r = fma::<I>(r, t, -0.128_717_51);
    let r = fma::<I>(r, t, -t);
    let large = (1.0 - exp::<I>(r)).copysign(x);
    let p = horner::<I, 6>(
        s,
        [
            -5.967_617e-4,
            4.991_194_2e-3,
            -2.676_813_5e-2,
            0.112_819_925,
            -0.376_125_34,
            0.128_379_17,
        ],
    );
    let small = fma::<I>(p, x, x);
    if t > 0.927_734_4 { large } else { small }
}

/// x·Φ(x), exactly.
#[inline(always)]
pub(crate) fn gelu<I: Isa>(x: f32) -> f32 {
    let h = 0.5 * x;
    fma::<I>(h, erf::<I>(x * std::f32::consts::FRAC_1_SQRT_2), h)
}

/// x·Φ(x) with the normal distribution approximated by tanh.
#[inline(always)]
pub(crate) fn gelu_tanh<I: Isa>(x: f32) -> f32 {
    let inner = 0.797_884_6 * fma::<I>(0.044_715 * x * x, x, x);
    let h = 0.5 * x;
    fma::<I>(h, tanh::<I>(inner), h)
}
