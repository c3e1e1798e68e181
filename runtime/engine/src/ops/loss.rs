//! Losses. Models exported after training sometimes still carry them.

use crate::fault::{OpResult, bail, ensure};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::ops::cast::{cast, doubles};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor};

pub(crate) const TABLE: &[Entry] = &[
    entry("NegativeLogLikelihoodLoss", 12, likelihood),
    entry("SoftmaxCrossEntropyLoss", 12, cross_entropy),
];

#[derive(Clone, Copy)]
enum Reduction {
    None,
    Sum,
    Mean,
}

struct Loss {
    reduction: Reduction,
    ignored: Option<i64>,
}

impl Loss {
    fn parse(spec: &Spec<'_>) -> OpResult<Self> {
        spec.expect_inputs(2, 3)?;
        Ok(Self {
            reduction: match spec.string("reduction", "mean")? {
                "none" => Reduction::None,
                "sum" => Reduction::Sum,
                "mean" => Reduction::Mean,
                other => bail!("reduction {other:?}; none, sum and mean are known"),
            },
            ignored: spec.opt_int("ignore_index")?,
        })
    }

    /// The loss of log probabilities of `[N, C, ...]` against classes of `[N, ...]`, weighted by class.
    fn of(&self, log: &[f64], dims: &[usize], i: &Inputs<'_>) -> OpResult<(Vec<usize>, Vec<f64>)> {
        let (n, classes) = (dims[0], dims[1]);
        let inner: usize = dims[2..].iter().product();
        let target = i.i64s(1)?;
        let mut wanted = vec![n];
        wanted.extend_from_slice(&dims[2..]);
        ensure!(
            i.get(1)?.shape() == wanted,
            "classes of shape {:?} instead of {wanted:?}",
            i.get(1)?.shape()
        );
        let weights = i.opt(2).map(doubles).transpose()?;
        ensure!(
            weights.as_ref().is_none_or(|w| w.len() == classes),
            "weights do not fit {classes} classes"
        );
        let (mut losses, mut total) = (Vec::with_capacity(target.len()), 0.0);
        for (k, &class) in target.iter().enumerate() {
            if Some(class) == self.ignored {
                losses.push(0.0);
                continue;
            }
            let class = match usize::try_from(class) {
                Ok(c) if c < classes => c,
                _ => bail!("class {class} of {classes}"),
            };
            let weight = weights.as_ref().map_or(1.0, |w| w[class]);
            let at = (k / inner * classes + class) * inner + k % inner;
            losses.push(-log[at] * weight);
            total += weight;
        }
        Ok(match self.reduction {
            Reduction::None => (wanted, losses),
            Reduction::Sum => (Vec::new(), vec![losses.iter().sum()]),
            Reduction::Mean => (Vec::new(), vec![losses.iter().sum::<f64>() / total]),
        })
    }
}

/// Scores and their dimensions, of which there must be two at least.
fn scores(i: &Inputs<'_>) -> OpResult<(Vec<f64>, Vec<usize>)> {
    let x = i.get(0)?;
    let dims = x.shape().to_vec();
    ensure!(dims.len() >= 2, "input of rank {} instead of at least 2", dims.len());
    Ok((doubles(x)?, dims))
}

fn like(i: &Inputs<'_>, dims: Vec<usize>, v: Vec<f64>) -> OpResult<Tensor> {
    cast(&tensor(dims, Data::F64(v))?, i.get(0)?.datatype(), true)
}

fn likelihood(spec: &Spec<'_>) -> OpResult<Kernel> {
    let loss = Loss::parse(spec)?;
    Ok(Kernel::host(move |i| {
        let (log, dims) = scores(i)?;
        let (dims, v) = loss.of(&log, &dims, i)?;
        Ok(vec![like(i, dims, v)?])
    }))
}

fn cross_entropy(spec: &Spec<'_>) -> OpResult<Kernel> {
    let loss = Loss::parse(spec)?;
    Ok(Kernel::host(move |i| {
        let (mut v, dims) = scores(i)?;
        let (classes, inner) = (dims[1], dims[2..].iter().product::<usize>());
        for sample in v.chunks_mut((classes * inner).max(1)) {
            for p in 0..inner {
                let at = |c: usize| c * inner + p;
                let max = (0..classes).fold(f64::NEG_INFINITY, |m, c| m.max(sample[at(c)]));
                let sum: f64 = (0..classes).map(|c| (sample[at(c)] - max).exp()).sum();
                (0..classes).for_each(|c| sample[at(c)] -= max + sum.ln());
            }
        }
        let (shape, losses) = loss.of(&v, &dims, i)?;
        Ok(vec![like(i, shape, losses)?, like(i, dims, v)?])
    }))
}

#[cfg(test)]
mod tests {
    use crate::testing::{assert_close, eval, eval_at, f32s, ints};

    #[test]
    fn the_mean_is_over_what_counts() {
        let log = f32s(&[2, 2], &[-1.0, -2.0, -3.0, -4.0]);
        let mean = eval("NegativeLogLikelihoodLoss", |_| {}, &[log.clone(), ints(&[2], &[0, 1])]);
        assert_close(&mean, &f32s(&[], &[2.5]));
        let weighted = [log.clone(), ints(&[2], &[0, 1]), f32s(&[2], &[3.0, 1.0])];
        assert_close(
            &eval("NegativeLogLikelihoodLoss", |_| {}, &weighted),
            &f32s(&[], &[1.75]),
        );
        let ignored = eval(
            "NegativeLogLikelihoodLoss",
            |a| a.int("ignore_index", 1),
            &[log.clone(), ints(&[2], &[0, 1])],
        );
        assert_close(&ignored, &f32s(&[], &[1.0]));
        assert!(eval_at(18, "NegativeLogLikelihoodLoss", |_| {}, &[log, ints(&[2], &[0, 2])], 1).is_err());
    }

    #[test]
    fn equal_scores_cost_the_logarithm_of_the_number_of_classes() {
        let x = f32s(&[1, 4], &[7.0; 4]);
        let loss = eval("SoftmaxCrossEntropyLoss", |_| {}, &[x, ints(&[1], &[2])]);
        assert_close(&loss, &f32s(&[], &[4f32.ln()]));
    }
}
