//! From the leaves of all trees to scores and classes.

use std::sync::{Mutex, PoisonError};

use super::forest::{Forest, Threshold};
use super::parse::Trees;
use crate::fault::{OpResult, bail};
use crate::ops::ml::post::{Post, logistic, probit};

/// How the trees' values for one target come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aggregate {
    Sum,
    Average,
    Min,
    Max,
}

impl Aggregate {
    pub(crate) fn parse(name: &str) -> OpResult<Self> {
        Ok(match name {
            "SUM" => Self::Sum,
            "AVERAGE" => Self::Average,
            "MIN" => Self::Min,
            "MAX" => Self::Max,
            other => bail!("attribute \"aggregate_function\" is {other:?}"),
        })
    }

    pub(crate) fn from_number(n: i64) -> OpResult<Self> {
        Ok(match n {
            0 => Self::Average,
            1 => Self::Sum,
            2 => Self::Min,
            3 => Self::Max,
            other => bail!("attribute \"aggregate_function\" is {other}"),
        })
    }
}

/// One row's values; `None` for a target that no leaf spoke of.
pub(crate) type Scored = Vec<Option<f64>>;

/// What a walk costs in multiply-adds, by the time that it takes.
const WALK: usize = 500;

/// Walks every tree for every row.
pub(crate) fn rows<T: Threshold>(
    forest: &Forest<T>,
    v: &[T],
    columns: usize,
    targets: usize,
    aggregate: Aggregate,
) -> Vec<Scored> {
    let columns = columns.max(1);
    let some = |v: &[T]| {
        let mut scores: Vec<Scored> = vec![vec![None; targets]; v.len() / columns];
        forest.walk(v, columns, |row, target, weight| {
            let slot = &mut scores[row][target as usize];
            *slot = Some(match (*slot, aggregate) {
                (None, _) => weight,
                (Some(s), Aggregate::Sum | Aggregate::Average) => s + weight,
                (Some(s), Aggregate::Min) => s.min(weight),
                (Some(s), Aggregate::Max) => s.max(weight),
            });
        });
        scores
    };
    let parts = Mutex::new(Vec::new());
    pilotlight_kernels::ranges(v.len() / columns, forest.trees() * WALK, |rows| {
        let scores = some(&v[rows.start * columns..rows.end * columns]);
        parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((rows.start, scores));
    });
    let mut parts = parts.into_inner().unwrap_or_else(PoisonError::into_inner);
    parts.sort_unstable_by_key(|p| p.0);
    parts.into_iter().flat_map(|p| p.1).collect()
}

/// A regressor's targets.
pub(crate) fn finish(row: Scored, aggregate: Aggregate, trees: usize, base: &[f64]) -> Vec<f64> {
    let count = if aggregate == Aggregate::Average {
        trees as f64
    } else {
        1.0
    };
    row.into_iter()
        .enumerate()
        .map(|(k, v)| v.unwrap_or(0.0) / count + base.get(k).copied().unwrap_or(0.0))
        .collect()
}

/// How a classifier picks a class, after ONNX Runtime, since the specification leaves the binary case open.
pub(crate) struct Decision {
    classes: usize,
    base: Vec<f64>,
    post: Post,
    /// Two classes, and the leaves speak of one.
    single: bool,
    /// In that case: whether weights are probabilities (none is negative), so that 1/2 decides instead of 0.
    positive: bool,
}

impl Decision {
    pub(crate) fn new(trees: &Trees, classes: usize, base: Vec<f64>, post: Post) -> Self {
        let first = trees.weights.first().map(|w| w.0);
        Self {
            classes,
            base,
            post,
            single: classes == 2 && trees.weights.iter().all(|w| Some(w.0) == first),
            positive: trees.weights.iter().all(|w| w.1 >= 0.0),
        }
    }

    /// Scores per row.
    pub(crate) fn columns(&self) -> usize {
        self.classes.max(1)
    }

    /// Appends the row's scores and returns its class.
    pub(crate) fn decide(&self, row: Scored, out: &mut Vec<f32>) -> usize {
        if self.single {
            return self.decide_single(&row, out);
        }
        let start = out.len();
        let spoken: Vec<bool> = row.iter().map(Option::is_some).collect();
        out.extend(finish(row, Aggregate::Sum, 1, &self.base).into_iter().map(|v| v as f32));
        let scores = &mut out[start..];
        // A class that no leaf spoke of is never picked, unless it has a base value.
        let candidate = |k: &usize| spoken[*k] || self.base.len() == scores.len();
        let picked = (0..scores.len())
            .filter(candidate)
            .reduce(|b, k| if scores[k] > scores[b] { k } else { b });
        self.post.apply(scores);
        picked.unwrap_or(0)
    }

    fn decide_single(&self, row: &[Option<f64>], out: &mut Vec<f32>) -> usize {
        let class = usize::from(row.get(1).is_some_and(Option::is_some));
        let base = self.base.get(class).copied().unwrap_or(0.0);
        let score = (row.iter().flatten().sum::<f64>() + base) as f32;
        let picked = usize::from(score > if self.positive { 0.5 } else { 0.0 });
        if class == 1 {
            // The second class has its own column, the first has no score.
            let mut pair = [0.0, score];
            self.post.apply(&mut pair);
            out.extend(pair);
            return picked;
        }
        out.extend(match (self.post, self.positive) {
            (Post::Probit, _) => [1.0 - probit(score), probit(score)],
            (Post::Logistic, true) => [1.0 - logistic(score), logistic(score)],
            (Post::Logistic, false) => [logistic(-score), logistic(score)],
            (_, true) => [1.0 - score, score],
            (_, false) => [-score, score],
        });
        picked
    }
}
