//! Support vector machines.

use super::post::Post;
use super::{count, label_tensor, labels, rows};
use crate::Data;
use crate::fault::{OpResult, bail, ensure};
use crate::kernel::{Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;

pub(crate) const TABLE: &[Entry] = &[
    entry("SVMClassifier", 1, classifier),
    entry("SVMRegressor", 1, regressor),
];

/// How alike two rows are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Similarity {
    Linear,
    Poly { gamma: f32, coef0: f32, degree: f32 },
    Rbf { gamma: f32 },
    Sigmoid { gamma: f32, coef0: f32 },
}

impl Similarity {
    fn parse(spec: &Spec<'_>) -> OpResult<Self> {
        let params = spec.floats("kernel_params")?.unwrap_or_default();
        let [gamma, coef0, degree] = [0, 1, 2].map(|k| params.get(k).copied().unwrap_or(0.0));
        Ok(match spec.string("kernel_type", "LINEAR")? {
            "LINEAR" => Self::Linear,
            "POLY" => Self::Poly { gamma, coef0, degree },
            "RBF" => Self::Rbf { gamma },
            "SIGMOID" => Self::Sigmoid { gamma, coef0 },
            other => bail!("attribute \"kernel_type\" is {other:?}"),
        })
    }

    fn of(self, a: &[f32], b: &[f32]) -> f32 {
        let dot = || a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        match self {
            Self::Linear => dot(),
            Self::Poly { gamma, coef0, degree } => (gamma * dot() + coef0).powf(degree),
            Self::Rbf { gamma } => (-gamma * a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f32>()).exp(),
            Self::Sigmoid { gamma, coef0 } => (gamma * dot() + coef0).tanh(),
        }
    }
}

fn regressor(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let similarity = Similarity::parse(spec)?;
    let coefficients = spec.floats("coefficients")?.unwrap_or_default();
    let vectors = spec.floats("support_vectors")?.unwrap_or_default();
    let supports = usize::try_from(spec.int("n_supports", 0)?).unwrap_or(0);
    let rho = spec.floats("rho")?.unwrap_or_default().first().copied().unwrap_or(0.0);
    let (one_class, post) = (spec.flag("one_class", false)?, Post::parse(spec)?);
    let features = if supports > 0 {
        ensure!(
            vectors.len().is_multiple_of(supports) && coefficients.len() >= supports,
            "support vectors do not fit"
        );
        vectors.len() / supports
    } else {
        coefficients.len()
    };
    ensure!(features > 0, "it has no coefficients");
    Ok(Kernel::host(move |i| {
        let (v, n, c) = rows(i.get(0)?)?;
        ensure!(c == features, "rows of {c} features instead of {features}");
        let score = |row: &[f32]| {
            let sum: f32 = if supports > 0 {
                vectors
                    .chunks_exact(features)
                    .zip(&coefficients)
                    .map(|(sv, w)| w * similarity.of(row, sv))
                    .sum()
            } else {
                similarity.of(row, &coefficients)
            };
            let sum = sum + rho;
            match one_class {
                true if sum > 0.0 => 1.0,
                true => -1.0,
                false => sum,
            }
        };
        let mut out: Vec<f32> = v.chunks_exact(c).map(score).collect();
        for x in &mut out {
            post.apply(std::slice::from_mut(x));
        }
        Ok(vec![tensor(vec![n, 1], Data::F32(out))?])
    }))
}

/// One machine for each pair of classes, or one linear one for each class.
struct Machines {
    similarity: Similarity,
    coefficients: Vec<f32>,
    vectors: Vec<f32>,
    /// Where each class's support vectors start, and the end.
    starts: Vec<usize>,
    rho: Vec<f32>,
    probability: Option<(Vec<f32>, Vec<f32>)>,
    classes: usize,
    features: usize,
}

/// One row's result before post-processing.
struct Judged {
    scores: Vec<f32>,
    picked: usize,
}

impl Machines {
    fn parse(spec: &Spec<'_>, classes: usize) -> OpResult<Self> {
        let similarity = Similarity::parse(spec)?;
        let coefficients = spec.floats("coefficients")?.unwrap_or_default();
        let vectors = spec.floats("support_vectors")?.unwrap_or_default();
        let per_class = spec.sizes("vectors_per_class", 0)?.unwrap_or_default();
        let rho = spec.floats("rho")?.unwrap_or_default();
        let (a, b) = (
            spec.floats("prob_a")?.unwrap_or_default(),
            spec.floats("prob_b")?.unwrap_or_default(),
        );
        let mut starts = vec![0];
        for n in &per_class {
            starts.push(starts[starts.len() - 1] + n);
        }
        let supports = starts[starts.len() - 1];
        let pairs = classes * classes.saturating_sub(1) / 2;
        ensure!(classes > 0 && classes <= 1 << 12, "{classes} classes");
        let features = if supports > 0 {
            ensure!(
                per_class.len() == classes,
                "{} counts of vectors for {classes} classes",
                per_class.len()
            );
            ensure!(vectors.len().is_multiple_of(supports), "support vectors do not fit");
            ensure!(
                coefficients.len() == supports * (classes - 1),
                "coefficients do not fit"
            );
            ensure!(rho.len() >= pairs, "{} intercepts for {pairs} pairs", rho.len());
            vectors.len() / supports
        } else {
            ensure!(
                coefficients.len().is_multiple_of(classes) && !rho.is_empty(),
                "coefficients do not fit"
            );
            coefficients.len() / classes
        };
        ensure!(features > 0, "it has no coefficients");
        ensure!(
            a.len() == b.len() && (a.is_empty() || a.len() >= pairs),
            "probabilities do not fit"
        );
        let probability = (!a.is_empty() && supports > 0).then_some((a, b));
        Ok(Self {
            similarity,
            coefficients,
            vectors,
            starts,
            rho,
            probability,
            classes,
            features,
        })
    }

    fn judge(&self, row: &[f32]) -> Judged {
        if self.starts[self.starts.len() - 1] == 0 {
            let scores: Vec<f32> = self
                .coefficients
                .chunks_exact(self.features)
                .map(|w| Similarity::Linear.of(row, w) + self.rho[0])
                .collect();
            return Judged {
                picked: super::argmax(&scores),
                scores,
            };
        }
        let near: Vec<f32> = self
            .vectors
            .chunks_exact(self.features)
            .map(|sv| self.similarity.of(row, sv))
            .collect();
        let supports = near.len();
        let part = |class: usize, weights: usize| -> f64 {
            let range = self.starts[class]..self.starts[class + 1];
            range
                .map(|k| f64::from(self.coefficients[weights * supports + k] * near[k]))
                .sum()
        };
        let mut scores = Vec::new();
        let mut votes = vec![0usize; self.classes];
        for i in 0..self.classes {
            for j in i + 1..self.classes {
                let score = (part(i, j - 1) + part(j, i)) as f32 + self.rho[scores.len()];
                votes[if score > 0.0 { i } else { j }] += 1;
                scores.push(score);
            }
        }
        // Votes decide, as in libsvm, even where probabilities come out.
        let picked = (1..votes.len()).fold(0, |best, k| if votes[k] > votes[best] { k } else { best });
        let scores = match &self.probability {
            Some((a, b)) => self.probabilities(&scores, a, b),
            None => scores,
        };
        Judged { scores, picked }
    }

    /// Pairwise probabilities coupled into one per class (Wu, Lin and Weng, 2004, as libsvm does).
    fn probabilities(&self, scores: &[f32], a: &[f32], b: &[f32]) -> Vec<f32> {
        let n = self.classes;
        let mut pair = vec![0.0; n * n];
        let mut k = 0;
        for i in 0..n {
            for j in i + 1..n {
                let p = super::post::logistic(-(scores[k] * a[k] + b[k])).clamp(1e-7, 1.0 - 1e-7);
                (pair[i * n + j], pair[j * n + i]) = (f64::from(p), f64::from(1.0 - p));
                k += 1;
            }
        }
        couple(&pair, n).into_iter().map(|p| p as f32).collect()
    }
}

fn couple(r: &[f64], n: usize) -> Vec<f64> {
    let mut q = vec![0.0; n * n];
    for t in 0..n {
        for j in (0..n).filter(|&j| j != t) {
            q[t * n + t] += r[j * n + t] * r[j * n + t];
            q[t * n + j] = -r[j * n + t] * r[t * n + j];
        }
    }
    let mut p = vec![1.0 / n as f64; n];
    for _ in 0..n.max(100) {
        let mut qp: Vec<f64> = (0..n).map(|t| (0..n).map(|j| q[t * n + j] * p[j]).sum()).collect();
        let mut pqp: f64 = p.iter().zip(&qp).map(|(p, q)| p * q).sum();
        let error = qp.iter().map(|q| (q - pqp).abs()).fold(0.0, f64::max);
        if error < 0.005 / n as f64 {
            break;
        }
        for t in 0..n {
            let diff = (pqp - qp[t]) / q[t * n + t];
            p[t] += diff;
            pqp = (pqp + diff * (diff * q[t * n + t] + 2.0 * qp[t])) / (1.0 + diff) / (1.0 + diff);
            for j in 0..n {
                qp[j] = (qp[j] + diff * q[t * n + j]) / (1.0 + diff);
                p[j] /= 1.0 + diff;
            }
        }
    }
    p
}

fn classifier(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let labels = labels(spec)?;
    let classes = count(&labels);
    let machines = Machines::parse(spec, classes)?;
    let post = Post::parse(spec)?;
    Ok(Kernel::host(move |i| {
        let (v, n, c) = rows(i.get(0)?)?;
        ensure!(
            c == machines.features,
            "rows of {c} features instead of {}",
            machines.features
        );
        let mut picked = Vec::with_capacity(n);
        let mut out = Vec::new();
        for row in v.chunks_exact(c) {
            let Judged {
                mut scores,
                picked: class,
            } = machines.judge(row);
            picked.push(class);
            // A single score speaks for the first of two classes.
            if machines.probability.is_none() && scores.len() == 1 && classes == 2 {
                scores.insert(
                    0,
                    if post == Post::None {
                        -scores[0]
                    } else {
                        1.0 - scores[0]
                    },
                );
            }
            post.apply(&mut scores);
            out.extend(scores);
        }
        let columns = out.len() / n.max(1);
        Ok(vec![
            label_tensor(&labels, &picked)?,
            tensor(vec![n, columns], Data::F32(out))?,
        ])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, eval, f32s};

    #[test]
    fn a_regressor_weighs_its_support_vectors() {
        let out = eval(
            "SVMRegressor",
            |a| {
                a.string("kernel_type", "POLY");
                a.floats("kernel_params", &[1.0, 1.0, 2.0]);
                a.floats("support_vectors", &[1.0, 2.0]);
                a.floats("coefficients", &[1.0, -1.0]);
                a.floats("rho", &[0.5]);
                a.int("n_supports", 2);
            },
            &[f32s(&[1, 1], &[1.0])],
        );
        // (1 + 1)² - (2 + 1)² + 1/2
        assert_close(&out, &f32s(&[1, 1], &[-4.5]));
    }

    #[test]
    fn coupled_probabilities_sum_to_one() {
        let p = couple(&[0.0, 0.9, 0.6, 0.1, 0.0, 0.5, 0.4, 0.5, 0.0], 3);
        assert!(
            (p.iter().sum::<f64>() - 1.0).abs() < 1e-9 && p[0] > p[2] && p[2] > p[1],
            "{p:?}"
        );
    }
}
