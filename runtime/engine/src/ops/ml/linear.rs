//! Linear models.

use super::post::{Post, logistic, probit};
use super::{argmax, count, label_tensor, labels, rows};
use crate::Data;
use crate::fault::{OpResult, ensure};
use crate::kernel::{Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;

pub(crate) const TABLE: &[Entry] = &[
    entry("LinearClassifier", 1, classifier),
    entry("LinearRegressor", 1, regressor),
];

/// `targets` rows of coefficients.
struct Linear {
    coefficients: Vec<f32>,
    intercepts: Vec<f32>,
    targets: usize,
    features: usize,
}

impl Linear {
    fn new(coefficients: Vec<f32>, intercepts: Option<Vec<f32>>, targets: usize) -> OpResult<Self> {
        let intercepts = intercepts
            .filter(|v| !v.is_empty())
            .unwrap_or_else(|| vec![0.0; targets]);
        ensure!(
            targets > 0 && !coefficients.is_empty() && coefficients.len().is_multiple_of(targets),
            "{} coefficients for {targets} targets",
            coefficients.len()
        );
        ensure!(
            intercepts.len() == targets,
            "{} intercepts for {targets} targets",
            intercepts.len()
        );
        let features = coefficients.len() / targets;
        Ok(Self {
            coefficients,
            intercepts,
            targets,
            features,
        })
    }

    fn scores(&self, v: &[f32], n: usize, c: usize) -> OpResult<Vec<f32>> {
        ensure!(c == self.features, "rows of {c} features instead of {}", self.features);
        let mut out = Vec::with_capacity(n * self.targets);
        for row in v.chunks_exact(c) {
            for (w, b) in self.coefficients.chunks_exact(c).zip(&self.intercepts) {
                out.push(w.iter().zip(row).map(|(w, x)| w * x).sum::<f32>() + b);
            }
        }
        Ok(out)
    }
}

fn classifier(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let labels = labels(spec)?;
    let (coefficients, intercepts) = (
        spec.floats("coefficients")?.unwrap_or_default(),
        spec.floats("intercepts")?,
    );
    // Says how the training was done; the result is the same.
    spec.ignore(&["multi_class"]);
    let classes = count(&labels);
    // A binary model may have one row of coefficients, for its second class.
    let targets = intercepts.as_ref().filter(|v| !v.is_empty()).map_or(classes, Vec::len);
    let linear = Linear::new(coefficients, intercepts, targets)?;
    let post = Post::parse(spec)?;
    ensure!(
        targets == classes || (targets == 1 && classes <= 2),
        "{targets} rows of coefficients for {classes} classes"
    );
    Ok(Kernel::host(move |i| {
        let (v, n, c) = rows(i.get(0)?)?;
        let scores = linear.scores(&v, n, c)?;
        let (picked, scores) = classify(&scores, n, targets, classes, post);
        let columns = scores.len() / n.max(1);
        Ok(vec![
            label_tensor(&labels, &picked)?,
            tensor(
                vec![n, if n == 0 { classes.max(2) } else { columns }],
                Data::F32(scores),
            )?,
        ])
    }))
}

/// Classes and final scores; a single score decides between two classes by its sign.
fn classify(scores: &[f32], n: usize, targets: usize, classes: usize, post: Post) -> (Vec<usize>, Vec<f32>) {
    let mut picked = Vec::with_capacity(n);
    let mut out = Vec::with_capacity(n * targets.max(2));
    for row in scores.chunks_exact(targets) {
        if targets == 1 {
            let score = row[0];
            picked.push(usize::from(score > 0.0 && classes == 2));
            // As ONNX Runtime does; the specification leaves it open.
            out.extend(match post {
                Post::Logistic => [1.0 - logistic(score), logistic(score)],
                Post::Probit => [1.0 - probit(score), probit(score)],
                Post::None | Post::Softmax | Post::SoftmaxZero => [1.0 - score, score],
            });
        } else {
            picked.push(argmax(row));
            let start = out.len();
            out.extend_from_slice(row);
            post.apply(&mut out[start..]);
        }
    }
    (picked, out)
}

fn regressor(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let targets = usize::try_from(spec.int("targets", 1)?).unwrap_or(0);
    let linear = Linear::new(
        spec.floats("coefficients")?.unwrap_or_default(),
        spec.floats("intercepts")?,
        targets,
    )?;
    let post = Post::parse(spec)?;
    Ok(Kernel::host(move |i| {
        let (v, n, c) = rows(i.get(0)?)?;
        let mut scores = linear.scores(&v, n, c)?;
        scores.chunks_exact_mut(targets).for_each(|row| post.apply(row));
        Ok(vec![tensor(vec![n, targets], Data::F32(scores))?])
    }))
}

#[cfg(test)]
mod tests {
    use crate::testing::{Attributes, assert_close, eval, eval_at, f32s, ints};

    fn model(post: &'static str) -> impl Fn(&mut Attributes) {
        move |a| {
            a.floats("coefficients", &[1.0, 0.0, 0.0, 1.0]);
            a.floats("intercepts", &[0.0, 0.5]);
            a.ints("classlabels_ints", &[10, 20]);
            a.string("post_transform", post);
        }
    }

    #[test]
    fn the_largest_score_names_the_class() {
        let x = f32s(&[2, 2], &[2.0, 1.0, 0.0, 0.0]);
        let out = eval_at(15, "LinearClassifier", model("NONE"), &[x.clone()], 2).unwrap();
        assert_eq!(out[0], ints(&[2], &[10, 20]));
        assert_close(&out[1], &f32s(&[2, 2], &[2.0, 1.5, 0.0, 0.5]));
        let out = eval_at(15, "LinearClassifier", model("LOGISTIC"), &[x], 2).unwrap();
        let logistic = |x: f32| 1.0 / (1.0 + (-x).exp());
        assert_close(
            &out[1],
            &f32s(&[2, 2], &[logistic(2.0), logistic(1.5), 0.5, logistic(0.5)]),
        );
    }

    #[test]
    fn one_row_of_coefficients_decides_by_sign() {
        let out = eval_at(
            15,
            "LinearClassifier",
            |a| {
                a.floats("coefficients", &[0.8]);
                a.floats("intercepts", &[0.1]);
                a.ints("classlabels_ints", &[5, 7]);
            },
            &[f32s(&[2, 1], &[1.0, -1.0])],
            2,
        )
        .unwrap();
        assert_eq!(out[0], ints(&[2], &[7, 5]));
        assert_close(&out[1], &f32s(&[2, 2], &[0.1, 0.9, 1.7, -0.7]));
    }

    #[test]
    fn a_regressor_has_a_column_per_target_and_checks_features() {
        let build = |a: &mut Attributes| {
            a.floats("coefficients", &[1.0, 2.0]);
            a.int("targets", 2);
        };
        let out = eval("LinearRegressor", build, &[f32s(&[1, 1], &[3.0])]);
        assert_close(&out, &f32s(&[1, 2], &[3.0, 6.0]));
        let error = eval_at(15, "LinearRegressor", build, &[f32s(&[1, 2], &[3.0, 1.0])], 1).unwrap_err();
        assert!(error.contains("2 features instead of 1"), "{error}");
    }
}
