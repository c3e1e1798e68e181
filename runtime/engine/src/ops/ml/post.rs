//! What classifiers and regressors do to their scores at the end.

use crate::fault::{OpResult, bail};
use crate::spec::Spec;

/// The attribute `post_transform`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Post {
    None,
    Softmax,
    /// Softmax over the scores that are not 0.
    SoftmaxZero,
    Logistic,
    Probit,
}

impl Post {
    pub(crate) fn parse(spec: &Spec<'_>) -> OpResult<Self> {
        Ok(match spec.string("post_transform", "NONE")? {
            "NONE" | "" => Self::None,
            "SOFTMAX" => Self::Softmax,
            "SOFTMAX_ZERO" => Self::SoftmaxZero,
            "LOGISTIC" => Self::Logistic,
            "PROBIT" => Self::Probit,
            other => bail!("attribute \"post_transform\" is {other:?}"),
        })
    }

    /// The same from the number that newer operators use.
    pub(crate) fn from_number(n: i64) -> OpResult<Self> {
        Ok(match n {
            0 => Self::None,
            1 => Self::Softmax,
            2 => Self::Logistic,
            3 => Self::SoftmaxZero,
            4 => Self::Probit,
            other => bail!("attribute \"post_transform\" is {other}"),
        })
    }

    /// Transforms one row of scores in place.
    pub(crate) fn apply(self, row: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Softmax => softmax(row, |_| true),
            Self::SoftmaxZero => softmax(row, |x| x.abs() > 1e-7),
            Self::Logistic => row.iter_mut().for_each(|x| *x = logistic(*x)),
            Self::Probit => row.iter_mut().for_each(|x| *x = probit(*x)),
        }
    }
}

fn softmax(row: &mut [f32], counts: impl Fn(f32) -> bool) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in row.iter_mut() {
        *x = if counts(*x) { (*x - max).exp() } else { 0.0 };
        sum += *x;
    }
    if sum > 0.0 {
        for x in row.iter_mut() {
            *x /= sum;
        }
    }
}

pub(crate) fn logistic(x: f32) -> f32 {
    // Symmetric, so that large negative scores keep their precision.
    let y = 1.0 / (1.0 + (-x.abs()).exp());
    if x < 0.0 { 1.0 - y } else { y }
}

/// The inverse of the normal distribution, by Winitzki's approximation, which is what ONNX Runtime computes.
pub(crate) fn probit(x: f32) -> f32 {
    std::f32::consts::SQRT_2 * inverse_erf(2.0 * x - 1.0)
}

fn inverse_erf(x: f32) -> f32 {
    let sign = if x < 0.0 { -1.0 } else { 1.0 };
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let v = 2.0 / (std::f32::consts::PI * 0.147) + 0.5 * log;
    sign * (-v + (v * v - log / 0.147).sqrt()).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_match_their_formulas() {
        let mut row = [1.0, 0.0, 1.0];
        Post::SoftmaxZero.apply(&mut row);
        assert_eq!(row, [0.5, 0.0, 0.5]);
        let mut row = [0.0, f32::ln(3.0)];
        Post::Softmax.apply(&mut row);
        assert!((row[0] - 0.25).abs() < 1e-6 && (row[1] - 0.75).abs() < 1e-6);
        assert_eq!(logistic(0.0), 0.5);
        assert!(probit(0.5).abs() < 1e-6 && (probit(0.975) - 1.96).abs() < 2e-3);
    }
}
