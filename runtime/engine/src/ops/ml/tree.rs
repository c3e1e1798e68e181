//! Ensembles of decision trees: nodes in one array, walked on the host.
//!
//! The three operators that ONNX has for them are read into one `Forest`; `aggregate` says how the leaves of the trees
//! become scores.

mod forest;
mod parse;
mod score;

use std::sync::OnceLock;

use super::post::Post;
use super::{label_tensor, labels};
use crate::fault::{OpResult, bail, ensure};
use crate::kernel::{Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor, shape};

use forest::{Forest, Threshold};
use parse::Trees;
use score::Aggregate;

pub(crate) const TABLE: &[Entry] = &[
    entry("TreeEnsemble", 5, ensemble),
    entry("TreeEnsembleClassifier", 1, classifier),
    entry("TreeEnsembleRegressor", 1, regressor),
];

/// Thresholds are compared in the input's precision; each form is built when an input first needs it.
struct Forests {
    trees: Trees,
    /// Features that the trees ask for.
    features: usize,
    single: OnceLock<Forest<f32>>,
    double: OnceLock<Forest<f64>>,
}

impl Forests {
    fn new(trees: Trees) -> OpResult<Self> {
        let single = OnceLock::new();
        // The form that nearly every model uses, and the check of the structure.
        let forest = Forest::new(&trees)?;
        let _ = single.set(forest);
        Ok(Self {
            features: trees.features(),
            trees,
            single,
            double: OnceLock::new(),
        })
    }

    /// For each row the aggregated scores.
    fn scores(&self, x: &Tensor, aggregate: Aggregate) -> OpResult<(usize, Vec<score::Scored>)> {
        let (n, c) = match *x.shape() {
            [c] => (1, c),
            [n, c] => (n, c),
            _ => bail!("input of shape {:?} instead of rows", x.shape()),
        };
        ensure!(
            c >= self.features,
            "rows of {c} features where the trees ask for {}",
            self.features
        );
        shape::elements(&[n, self.trees.targets])?;
        let wide: Vec<f32>;
        let v: &[f32] = match x.data() {
            Data::F64(v) => return Ok((n, self.run(self.double()?, v, c, aggregate))),
            Data::F32(v) if self.trees.double => {
                let wide: Vec<f64> = v.iter().map(|&x| f64::from(x)).collect();
                return Ok((n, self.run(self.double()?, &wide, c, aggregate)));
            }
            Data::F32(v) => v,
            Data::I64(v) => {
                wide = v.iter().map(|&x| x as f32).collect();
                &wide
            }
            Data::I32(v) => {
                wide = v.iter().map(|&x| x as f32).collect();
                &wide
            }
            other => bail!("element type {} is not supported here", other.datatype()),
        };
        let single = self.single.get();
        let Some(forest) = single else {
            bail!("internal: the trees are gone")
        };
        Ok((n, self.run(forest, v, c, aggregate)))
    }

    fn double(&self) -> OpResult<&Forest<f64>> {
        if let Some(forest) = self.double.get() {
            return Ok(forest);
        }
        let forest = Forest::new(&self.trees)?;
        Ok(self.double.get_or_init(|| forest))
    }

    fn run<T: Threshold>(&self, forest: &Forest<T>, v: &[T], c: usize, aggregate: Aggregate) -> Vec<score::Scored> {
        score::rows(forest, v, c, self.trees.targets, aggregate)
    }
}

fn classifier(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let labels = labels(spec)?;
    let classes = super::count(&labels);
    let trees = parse::attributes(spec, "class", classes)?;
    let base = parse::base_values(spec)?;
    ensure!(
        base.is_empty() || base.len() == classes || (classes == 2 && base.len() == 1),
        "{} base values for {classes} classes",
        base.len()
    );
    let post = Post::parse(spec)?;
    let decision = score::Decision::new(&trees, classes, base, post);
    let forests = Forests::new(trees)?;
    Ok(Kernel::host(move |i| {
        let (n, rows) = forests.scores(i.get(0)?, Aggregate::Sum)?;
        let mut picked = Vec::with_capacity(n);
        let columns = decision.columns();
        let mut scores = Vec::with_capacity(n * columns);
        for row in rows {
            picked.push(decision.decide(row, &mut scores));
        }
        Ok(vec![
            label_tensor(&labels, &picked)?,
            tensor(vec![n, columns], Data::F32(scores))?,
        ])
    }))
}

fn regressor(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let targets = usize::try_from(spec.int("n_targets", 1)?).unwrap_or(0);
    let trees = parse::attributes(spec, "target", targets)?;
    let base = parse::base_values(spec)?;
    let aggregate = Aggregate::parse(spec.string("aggregate_function", "SUM")?)?;
    let post = Post::parse(spec)?;
    regression(trees, base, aggregate, post, false)
}

/// Version 5's one operator for both: always raw targets.
fn ensemble(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let aggregate = Aggregate::from_number(spec.int("aggregate_function", 1)?)?;
    let post = Post::from_number(spec.int("post_transform", 0)?)?;
    regression(parse::ensemble(spec)?, Vec::new(), aggregate, post, true)
}

fn regression(trees: Trees, base: Vec<f64>, aggregate: Aggregate, post: Post, keeps_type: bool) -> OpResult<Kernel> {
    let targets = trees.targets;
    ensure!(targets > 0 && targets <= 1 << 20, "{targets} targets");
    ensure!(
        base.is_empty() || base.len() == targets,
        "{} base values for {targets} targets",
        base.len()
    );
    let forests = Forests::new(trees)?;
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let (n, rows) = forests.scores(x, aggregate)?;
        let trees = forests.trees.roots.len();
        let values = rows
            .into_iter()
            .flat_map(|row| score::finish(row, aggregate, trees, &base));
        if let (true, Data::F64(_), Post::None) = (keeps_type, x.data(), post) {
            return Ok(vec![tensor(vec![n, targets], Data::F64(values.collect()))?]);
        }
        let mut out: Vec<f32> = values.map(|v| v as f32).collect();
        out.chunks_exact_mut(targets).for_each(|row| post.apply(row));
        Ok(vec![tensor(vec![n, targets], Data::F32(out))?])
    }))
}

#[cfg(test)]
mod tests {
    use crate::testing::{Attributes, assert_close, eval, eval_at, f32s, ints};

    /// x0 <= 1 leads to leaf 1, else to leaf 2.
    fn stump(a: &mut Attributes, kind: &str, missing_true: i64) {
        a.ints("nodes_treeids", &[0, 0, 0]);
        a.ints("nodes_nodeids", &[0, 1, 2]);
        a.ints("nodes_featureids", &[0, 0, 0]);
        a.floats("nodes_values", &[1.0, 0.0, 0.0]);
        a.strings("nodes_modes", &["BRANCH_LEQ", "LEAF", "LEAF"]);
        a.ints("nodes_truenodeids", &[1, 0, 0]);
        a.ints("nodes_falsenodeids", &[2, 0, 0]);
        a.ints("nodes_missing_value_tracks_true", &[missing_true, 0, 0]);
        a.ints(&format!("{kind}_treeids"), &[0, 0]);
        a.ints(&format!("{kind}_nodeids"), &[1, 2]);
    }

    #[test]
    fn a_missing_value_goes_where_its_node_says() {
        let model = |missing| {
            move |a: &mut Attributes| {
                stump(a, "target", missing);
                a.ints("target_ids", &[0, 0]);
                a.floats("target_weights", &[10.0, 20.0]);
            }
        };
        let x = f32s(&[3, 1], &[1.0, 1.5, f32::NAN]);
        assert_close(
            &eval("TreeEnsembleRegressor", model(0), &[x.clone()]),
            &f32s(&[3, 1], &[10.0, 20.0, 20.0]),
        );
        assert_close(
            &eval("TreeEnsembleRegressor", model(1), &[x]),
            &f32s(&[3, 1], &[10.0, 20.0, 10.0]),
        );
    }

    #[test]
    fn a_classifier_sums_the_leaves_of_its_classes() {
        let model = |a: &mut Attributes| {
            stump(a, "class", 0);
            a.ints("class_ids", &[0, 2]);
            a.floats("class_weights", &[0.9, 0.7]);
            a.ints("classlabels_int64s", &[5, 6, 7]);
        };
        let out = eval_at(15, "TreeEnsembleClassifier", model, &[f32s(&[2, 1], &[0.0, 2.0])], 2).unwrap();
        assert_eq!(out[0], ints(&[2], &[5, 7]));
        assert_close(&out[1], &f32s(&[2, 3], &[0.9, 0.0, 0.0, 0.0, 0.0, 0.7]));
    }

    #[test]
    fn nodes_in_any_order_and_number_are_the_same_trees() {
        // Two stumps, their nodes mixed, numbered with gaps; each leaf's weight is named before the other tree's.
        let model = |a: &mut Attributes| {
            a.ints("nodes_treeids", &[7, 3, 7, 3, 3, 7]);
            a.ints("nodes_nodeids", &[10, 0, 5, 9, 4, 30]);
            a.ints("nodes_featureids", &[0, 0, 0, 0, 0, 0]);
            a.floats("nodes_values", &[0.0, 5.0, 1.0, 0.0, 0.0, 0.0]);
            a.strings(
                "nodes_modes",
                &["LEAF", "BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"],
            );
            a.ints("nodes_truenodeids", &[0, 9, 10, 0, 0, 0]);
            a.ints("nodes_falsenodeids", &[0, 4, 30, 0, 0, 0]);
            a.ints("target_treeids", &[3, 7, 3, 7]);
            a.ints("target_nodeids", &[4, 30, 9, 10]);
            a.ints("target_ids", &[0, 0, 0, 0]);
            a.floats("target_weights", &[1000.0, 20.0, 100.0, 10.0]);
        };
        let x = f32s(&[3, 1], &[0.0, 2.0, 6.0]);
        let wanted = f32s(&[3, 1], &[110.0, 120.0, 1020.0]);
        assert_close(&eval("TreeEnsembleRegressor", model, &[x]), &wanted);
    }

    #[test]
    fn a_node_that_is_there_twice_is_refused() {
        let model = |a: &mut Attributes| {
            stump(a, "target", 0);
            a.ints("nodes_nodeids", &[0, 1, 1]);
        };
        assert!(eval_at(15, "TreeEnsembleRegressor", model, &[f32s(&[1, 1], &[0.0])], 1).is_err());
    }

    #[test]
    fn a_tree_that_leads_into_itself_is_refused() {
        let model = |a: &mut Attributes| {
            a.ints("nodes_treeids", &[0, 0]);
            a.ints("nodes_nodeids", &[0, 1]);
            a.ints("nodes_featureids", &[0, 0]);
            a.floats("nodes_values", &[1.0, 1.0]);
            a.strings("nodes_modes", &["BRANCH_LEQ", "BRANCH_LEQ"]);
            a.ints("nodes_truenodeids", &[1, 0]);
            a.ints("nodes_falsenodeids", &[1, 1]);
        };
        assert!(eval_at(15, "TreeEnsembleRegressor", model, &[f32s(&[1, 1], &[0.0])], 1).is_err());
    }

    #[test]
    fn fewer_features_than_the_trees_ask_for_are_an_error() {
        let model = |a: &mut Attributes| {
            stump(a, "target", 0);
            a.ints("target_ids", &[0, 0]);
            a.floats("target_weights", &[1.0, 2.0]);
        };
        assert!(eval_at(15, "TreeEnsembleRegressor", model, &[f32s(&[1, 0], &[])], 1).is_err());
    }
}
