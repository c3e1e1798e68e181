//! Functions of every number of one or two tensors.

use crate::finish::{Function, within};
use crate::simd::{Isa, Level, Work, dispatch};
use crate::tasks;

/// Multiply-adds that one number of a costly function counts for.
const COST: usize = 4;

/// Replaces every number by the function's value.
pub fn map(function: Function, x: &mut [f32]) {
    let level = Level::detect();
    tasks::chunks(x, 64, COST, |_, x| dispatch(level, Map { function, x }));
}

struct Map<'a> {
    function: Function,
    x: &'a mut [f32],
}

impl Work for Map<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        self.function.apply::<I>(self.x);
    }
}

/// Arithmetic of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// a + b
    Add,
    /// a - b
    Sub,
    /// b - a
    SubFrom,
    /// a · b
    Mul,
    /// a / b
    Div,
    /// b / a
    DivInto,
    /// The larger; NaN where one is.
    Max,
    /// The smaller; NaN where one is.
    Min,
}

/// Replaces every number `a` of `x` by the function of it and of its partner `b` in `y`: number `k` of `x` has the partner
/// `k / inner % y.len()`. So `inner` is 1 where `y` belongs to the last dimensions, and `x.len()` where it is one number.
///
/// # Panics
/// Where `y` is empty and `x` is not, or whole rounds of `y` do not make up `x`.
pub fn pair(function: Pair, x: &mut [f32], y: &[f32], inner: usize) {
    if x.is_empty() {
        return;
    }
    assert!(
        !y.is_empty() && inner > 0 && x.len().is_multiple_of(y.len() * inner),
        "partners' length"
    );
    let level = Level::detect();
    // Cuts fall on whole rounds of y, or within a single round on whole runs.
    let (unit, whole) = if inner == 1 && y.len() < 4096 {
        (y.len(), true)
    } else {
        (inner, false)
    };
    if y.len() == x.len() {
        return tasks::chunks(x, 64, 1, |at, x| {
            let y = &y[at..at + x.len()];
            dispatch(level, Zip { function, x, y });
        });
    }
    tasks::chunks(x, unit, 1, |at, x| {
        let first = if whole { 0 } else { at / inner % y.len() };
        dispatch(
            level,
            Spread {
                function,
                x,
                y,
                inner,
                first,
            },
        );
    });
}

struct Zip<'a> {
    function: Pair,
    x: &'a mut [f32],
    y: &'a [f32],
}

struct Spread<'a> {
    function: Pair,
    x: &'a mut [f32],
    y: &'a [f32],
    inner: usize,
    /// The partner of the first number.
    first: usize,
}

macro_rules! by_function {
    ($function:expr, $each:ident, $($argument:expr),*) => {
        match $function {
            Pair::Add => $each($($argument,)* |a, b| a + b),
            Pair::Sub => $each($($argument,)* |a, b| a - b),
            Pair::SubFrom => $each($($argument,)* |a, b| b - a),
            Pair::Mul => $each($($argument,)* |a, b| a * b),
            Pair::Div => $each($($argument,)* |a, b| a / b),
            Pair::DivInto => $each($($argument,)* |a, b| b / a),
            Pair::Max => $each($($argument,)* |a, b| if b.is_nan() { b } else { within(a, (b, f32::INFINITY)) }),
            Pair::Min => $each($($argument,)* |a, b| if b.is_nan() { b } else { within(a, (f32::NEG_INFINITY, b)) }),
        }
    };
}

impl Work for Zip<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        by_function!(self.function, zip, self.x, self.y);
    }
}

#[inline(always)]
fn zip(x: &mut [f32], y: &[f32], f: impl Fn(f32, f32) -> f32) {
    for (x, &y) in x.iter_mut().zip(y) {
        *x = f(*x, y);
    }
}

impl Work for Spread<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        by_function!(self.function, spread, self.x, self.y, self.inner, self.first);
    }
}

#[inline(always)]
fn spread(x: &mut [f32], y: &[f32], inner: usize, first: usize, f: impl Fn(f32, f32) -> f32) {
    if inner > 1 {
        let partners = y.iter().cycle().skip(first);
        for (run, &y) in x.chunks_mut(inner).zip(partners) {
            for x in run {
                *x = f(*x, y);
            }
        }
        return;
    }
    let (head, rest) = x.split_at_mut(x.len().min((y.len() - first) % y.len()));
    zip(head, &y[first..], &f);
    for round in rest.chunks_mut(y.len()) {
        zip(round, y, &f);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Pair, map, pair};
    use crate::finish::Function;
    use crate::testing::{near, noise};

    /// Every function within 1e-6 of the double-precision one, relative to 1 or the result.
    #[test]
    fn functions_are_exact_to_rounding() {
        let mut x: Vec<f32> = (-4000..4000i16).map(|k| f32::from(k) / 100.0).collect();
        x.extend((-1000..1000i16).map(|k| f32::from(k) / 2000.0));
        x.extend([0.0, -0.0, 1e-20, -1e-20, 88.5, -87.9, -103.0]);
        let erf = |x: f64| {
            // Abramowitz and Stegun's series, enough terms for double precision below 4.
            let mut term = x;
            let mut sum = x;
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            if x.abs() > 4.0 {
                x.signum()
            } else {
                2.0 / std::f64::consts::PI.sqrt() * sum
            }
        };
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let check = |function: Function, f: &dyn Fn(f64) -> f64| {
            let mut found = x.clone();
            map(function, &mut found);
            for (&x, &found) in x.iter().zip(&found) {
                let wanted = f(f64::from(x));
                let near = (f64::from(found) - wanted).abs() <= 1e-6 * wanted.abs().max(1.0);
                assert!(
                    near || found == wanted as f32,
                    "{function:?} of {x}: {found} instead of {wanted}"
                );
            }
        };
        check(Function::Exp, &f64::exp);
        check(Function::Tanh, &f64::tanh);
        check(Function::Sigmoid, &sigmoid);
        check(Function::Swish(1.5), &|x| x * sigmoid(1.5 * x));
        check(Function::Erf, &erf);
        check(Function::Gelu, &|x| 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)));
        check(Function::GeluTanh, &|x| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        });
        check(Function::HardSwish, &|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0));
    }

    #[test]
    fn functions_keep_nan_and_reach_infinity() {
        for function in [
            Function::Exp,
            Function::Tanh,
            Function::Sigmoid,
            Function::Erf,
            Function::Gelu,
            Function::Clamp(0.0, 1.0),
        ] {
            let mut x = [f32::NAN; 40];
            map(function, &mut x);
            assert!(x.iter().all(|x| x.is_nan()), "{function:?}");
        }
        let mut x = [f32::INFINITY, f32::NEG_INFINITY, 200.0, -200.0];
        map(Function::Exp, &mut x);
        assert_eq!(x, [f32::INFINITY, 0.0, f32::INFINITY, 0.0]);
        let mut x = [f32::INFINITY, f32::NEG_INFINITY];
        map(Function::Tanh, &mut x);
        assert_eq!(x, [1.0, -1.0]);
    }

    proptest! {
        #[test]
        fn partners_are_found_through_every_cut(
            (outer, n, inner) in (1..20usize, 1..300usize, 1..200usize),
            wide in any::<bool>(),
            seed in any::<u32>(),
        ) {
            let outer = if wide { outer * 20 } else { outer };
            let (x, y) = (noise(outer * n * inner, seed), noise(n, !seed));
            for function in [Pair::Sub, Pair::SubFrom, Pair::Max] {
                let mut out = x.clone();
                pair(function, &mut out, &y, inner);
                let wanted: Vec<f64> = x.iter().enumerate().map(|(k, &a)| {
                    let b = y[k / inner % n];
                    f64::from(match function { Pair::Sub => a - b, Pair::SubFrom => b - a, _ => a.max(b) })
                }).collect();
                prop_assert!(near(&out, &wanted, 0.0));
            }
        }
    }
}
