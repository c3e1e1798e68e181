//! Sums of products over named dimensions.

use std::collections::BTreeMap;

use crate::fault::{OpResult, bail, ensure};
use crate::host::{Number, numbers, typed};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Tensor, shape};

pub(crate) const TABLE: &[Entry] = &[entry("Einsum", 12, einsum)];

/// Labels of dimensions: letters, and numbers for those that an ellipsis stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Rest(usize),
    Letter(char),
}

#[derive(Clone, Debug)]
struct Term {
    before: Vec<char>,
    /// The letters after an ellipsis, where there is one.
    after: Option<Vec<char>>,
}

impl Term {
    fn parse(text: &str) -> OpResult<Self> {
        let letters = |s: &str| -> OpResult<Vec<char>> {
            ensure!(s.chars().all(|c| c.is_ascii_alphabetic()), "equation part {s:?}");
            Ok(s.chars().collect())
        };
        Ok(match text.split_once("...") {
            Some((before, after)) => Self {
                before: letters(before)?,
                after: Some(letters(after)?),
            },
            None => Self {
                before: letters(text)?,
                after: None,
            },
        })
    }

    fn labels(&self, rest: usize, widest: usize) -> Vec<Label> {
        let letters = |v: &[char]| v.iter().map(|&c| Label::Letter(c)).collect::<Vec<_>>();
        let mut out = letters(&self.before);
        if let Some(after) = &self.after {
            // Aligned at the last, as all broadcasting is.
            out.extend((widest - rest..widest).map(Label::Rest));
            out.extend(letters(after));
        }
        out
    }

    fn len(&self) -> usize {
        self.before.len() + self.after.as_ref().map_or(0, Vec::len)
    }
}

fn einsum(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, usize::MAX)?;
    let equation: String = spec
        .string("equation", "")?
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect();
    let (left, right) = match equation.split_once("->") {
        Some((l, r)) => (l.to_owned(), Some(Term::parse(r)?)),
        None => (equation.clone(), None),
    };
    let terms = left.split(',').map(Term::parse).collect::<OpResult<Vec<_>>>()?;
    ensure!(
        terms.len() == spec.inputs.len(),
        "equation {equation:?} for {} inputs",
        spec.inputs.len()
    );
    let right = right.unwrap_or_else(|| implicit(&terms));
    Ok(Kernel::host(
        move |i| numbers!(i.get(0)?.data(), v => run(v, i, &terms, &right)),
    ))
}

/// Without a right side the letters that stand once come out, in alphabetical order.
fn implicit(terms: &[Term]) -> Term {
    let mut count: BTreeMap<char, usize> = BTreeMap::new();
    for c in terms
        .iter()
        .flat_map(|t| t.before.iter().chain(t.after.iter().flatten()))
    {
        *count.entry(*c).or_default() += 1;
    }
    let once: Vec<char> = count.into_iter().filter(|(_, n)| *n == 1).map(|(c, _)| c).collect();
    if terms.iter().any(|t| t.after.is_some()) {
        Term {
            before: Vec::new(),
            after: Some(once),
        }
    } else {
        Term {
            before: once,
            after: None,
        }
    }
}

fn run<T: Number>(_first: &[T], i: &Inputs<'_>, terms: &[Term], right: &Term) -> OpResult<Vec<Tensor>> {
    let tensors = (0..i.len()).map(|k| i.get(k)).collect::<OpResult<Vec<_>>>()?;
    let mut rests = Vec::new();
    for (t, term) in tensors.iter().zip(terms) {
        let rank = t.shape().len();
        ensure!(
            rank >= term.len() && (term.after.is_some() || rank == term.len()),
            "a term of {} letters for rank {rank}",
            term.len()
        );
        rests.push(rank - term.len());
    }
    let widest = rests.iter().copied().max().unwrap_or(0);
    let mut sizes: BTreeMap<Label, usize> = BTreeMap::new();
    let labels: Vec<Vec<Label>> = terms.iter().zip(&rests).map(|(t, &r)| t.labels(r, widest)).collect();
    for (t, labels) in tensors.iter().zip(&labels) {
        for (&size, &label) in t.shape().iter().zip(labels) {
            let known = sizes.entry(label).or_insert(size);
            ensure!(
                *known == size || *known == 1 || size == 1,
                "dimension {label:?} is {known} and {size}"
            );
            *known = (*known).max(size);
        }
    }
    let out_labels = right.labels(if right.after.is_some() { widest } else { 0 }, widest);
    let Some(out_dims) = out_labels
        .iter()
        .map(|l| sizes.get(l).copied())
        .collect::<Option<Vec<_>>>()
    else {
        bail!("the result names a dimension that no input has")
    };
    let summed: Vec<Label> = sizes.keys().filter(|l| !out_labels.contains(l)).copied().collect();
    let sum_dims: Vec<usize> = summed.iter().map(|l| sizes[l]).collect();
    // A label that stands twice in a term walks the diagonal: its strides add up.
    let stride = |k: usize, label: Label| -> usize {
        let strides = shape::strides(tensors[k].shape());
        let dims = tensors[k].shape();
        (0..dims.len())
            .filter(|&d| labels[k][d] == label && dims[d] > 1)
            .map(|d| strides[d])
            .sum()
    };
    let table = |over: &[Label]| -> Vec<Vec<usize>> {
        (0..tensors.len())
            .map(|k| over.iter().map(|&l| stride(k, l)).collect())
            .collect()
    };
    let (out_strides, sum_strides) = (table(&out_labels), table(&summed));
    let slices = tensors.iter().map(|t| typed::<T>(t)).collect::<OpResult<Vec<_>>>()?;
    let n = shape::elements(&out_dims)?;
    let inner = shape::elements(&sum_dims)?;
    // The summed positions are the same for every output.
    let mut offsets: Vec<Vec<usize>> = vec![Vec::with_capacity(inner); tensors.len()];
    let mut index = vec![0; sum_dims.len()];
    for _ in 0..inner {
        for (k, list) in offsets.iter_mut().enumerate() {
            list.push(index.iter().zip(&sum_strides[k]).map(|(i, s)| i * s).sum());
        }
        shape::step(&mut index, &sum_dims);
    }
    let mut out = Vec::with_capacity(n);
    let mut index = vec![0; out_dims.len()];
    for _ in 0..n {
        let base: Vec<usize> = out_strides
            .iter()
            .map(|s| index.iter().zip(s).map(|(i, s)| i * s).sum())
            .collect();
        let mut total = T::from_i64(0);
        for j in 0..inner {
            let factor = |k: usize| slices[k][base[k] + offsets[k][j]];
            total = total.add((1..slices.len()).fold(factor(0), |p, k| p.mul(factor(k))));
        }
        out.push(total);
        shape::step(&mut index, &out_dims);
    }
    Ok(vec![tensor(out_dims, T::wrap(out))?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, eval, eval_at, f32s};

    #[test]
    fn products_traces_and_batches() {
        let a = f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let run = |equation: &str, inputs: &[Tensor]| eval("Einsum", |at| at.string("equation", equation), inputs);
        assert_close(
            &run("ij,jk->ik", &[a.clone(), a.clone()]),
            &f32s(&[2, 2], &[7.0, 10.0, 15.0, 22.0]),
        );
        assert_close(&run("ii", &[a.clone()]), &f32s(&[], &[5.0]));
        assert_close(&run("...j->...", &[a.clone()]), &f32s(&[2], &[3.0, 7.0]));
        assert!(eval_at(18, "Einsum", |at| at.string("equation", "ij->ik"), &[a], 1).is_err());
    }
}
