//! The attributes of tree operators, read into flat lists.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use crate::fault::{OpResult, bail, ensure};
use crate::spec::Spec;
use crate::{Data, Tensor};

/// How a node compares its feature with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
    /// Is the feature one of the set of this number?
    Member(usize),
}

/// A node as the file has it.
#[derive(Clone, Debug)]
pub(crate) enum RawNode {
    Branch {
        feature: usize,
        value: f64,
        mode: Mode,
        missing_true: bool,
        yes: usize,
        no: usize,
    },
    /// A range of `Trees::weights`.
    Leaf { start: usize, end: usize },
}

/// Checked but for the shape of the trees.
#[derive(Clone, Debug)]
pub(crate) struct Trees {
    pub(crate) nodes: Vec<RawNode>,
    pub(crate) roots: Vec<usize>,
    /// Target and weight of leaves.
    pub(crate) weights: Vec<(u32, f64)>,
    pub(crate) sets: Vec<Vec<f64>>,
    pub(crate) targets: usize,
    /// Whether thresholds were given in double precision.
    pub(crate) double: bool,
}

impl Trees {
    /// The number of features that the trees look at.
    pub(crate) fn features(&self) -> usize {
        let feature = |n: &RawNode| match n {
            RawNode::Branch { feature, .. } => feature + 1,
            RawNode::Leaf { .. } => 0,
        };
        self.nodes.iter().map(feature).max().unwrap_or(0)
    }
}

fn doubles(t: &Tensor) -> OpResult<Vec<f64>> {
    Ok(match t.data() {
        Data::F64(v) => v.clone(),
        Data::F32(v) => v.iter().map(|&x| f64::from(x)).collect(),
        other => bail!("element type {} where a float is needed", other.datatype()),
    })
}

/// A list of floats, or the same in double precision.
fn floats(spec: &Spec<'_>, name: &str) -> OpResult<(Vec<f64>, bool)> {
    let single = spec.floats(name)?.filter(|v| !v.is_empty());
    let tensor = spec
        .tensor(&format!("{name}_as_tensor"))?
        .filter(|t| !t.data().is_empty());
    ensure!(single.is_none() || tensor.is_none(), "{name} are given twice");
    match (single, tensor) {
        (_, Some(t)) => Ok((doubles(&t)?, matches!(t.data(), Data::F64(_)))),
        (v, None) => Ok((v.unwrap_or_default().into_iter().map(f64::from).collect(), false)),
    }
}

pub(crate) fn base_values(spec: &Spec<'_>) -> OpResult<Vec<f64>> {
    Ok(floats(spec, "base_values")?.0)
}

fn mode(name: &[u8]) -> OpResult<Option<Mode>> {
    Ok(Some(match name {
        b"BRANCH_LEQ" => Mode::LessOrEqual,
        b"BRANCH_LT" => Mode::Less,
        b"BRANCH_GTE" => Mode::GreaterOrEqual,
        b"BRANCH_GT" => Mode::Greater,
        b"BRANCH_EQ" => Mode::Equal,
        b"BRANCH_NEQ" => Mode::NotEqual,
        b"LEAF" => return Ok(None),
        other => bail!("node mode {:?} is not known", String::from_utf8_lossy(other)),
    }))
}

/// The classifier's and regressor's form: nodes named by tree and node number; `kind` is `class` or `target`.
pub(crate) fn attributes(spec: &Spec<'_>, kind: &str, targets: usize) -> OpResult<Trees> {
    let list = |name: &str| spec.long_ints(name);
    let (tree_ids, node_ids) = (list("nodes_treeids")?, list("nodes_nodeids")?);
    let (features, yes, no) = (
        list("nodes_featureids")?,
        list("nodes_truenodeids")?,
        list("nodes_falsenodeids")?,
    );
    let modes = spec.long_strings("nodes_modes")?;
    let (values, double) = floats(spec, "nodes_values")?;
    let missing = list("nodes_missing_value_tracks_true")?;
    // How often each branch was taken in training; nothing reads it.
    floats(spec, "nodes_hitrates")?;
    let n = node_ids.len();
    for (name, len) in [
        ("nodes_treeids", tree_ids.len()),
        ("nodes_featureids", features.len()),
        ("nodes_truenodeids", yes.len()),
        ("nodes_falsenodeids", no.len()),
        ("nodes_modes", modes.len()),
        ("nodes_values", values.len()),
    ] {
        ensure!(len == n, "attribute {name:?} has {len} entries for {n} nodes");
    }
    ensure!(
        missing.is_empty() || missing.len() == n,
        "\"nodes_missing_value_tracks_true\" has {} entries",
        missing.len()
    );
    ensure!(n > 0, "it has no nodes");
    let index = Index::new(tree_ids, node_ids)?;
    let (starts, weights) = leaves(spec, kind, targets, &index, modes)?;
    let mut nodes = Vec::with_capacity(n);
    let mut is_child = vec![false; n];
    for k in 0..n {
        let Some(mode) = mode(&modes[k])? else {
            nodes.push(RawNode::Leaf {
                start: starts[k],
                end: starts[k + 1],
            });
            continue;
        };
        let child = |id: i64| match index.get(tree_ids[k], id) {
            Some(c) => Ok(c),
            None => bail!(
                "node {} of tree {} leads to node {id}, which is not there",
                node_ids[k],
                tree_ids[k]
            ),
        };
        let (yes, no) = (child(yes[k])?, child(no[k])?);
        is_child[yes] = true;
        is_child[no] = true;
        let Ok(feature) = u32::try_from(features[k]) else {
            bail!("feature {} of a node", features[k])
        };
        let missing_true = missing.get(k).is_some_and(|&m| m != 0);
        nodes.push(RawNode::Branch {
            feature: feature as usize,
            value: values[k],
            mode,
            missing_true,
            yes,
            no,
        });
    }
    // A tree starts where no branch leads.
    let roots: Vec<usize> = (0..n).filter(|&k| !is_child[k]).collect();
    let distinct: HashSet<_> = roots.iter().map(|&r| tree_ids[r]).collect();
    ensure!(
        distinct.len() == roots.len() && index.trees() == roots.len(),
        "a tree has no root, or two"
    );
    Ok(Trees {
        nodes,
        roots,
        weights,
        sets: Vec::new(),
        targets,
        double,
    })
}

/// A tree's first node's place, its number, and how many nodes stand there.
type Run = (usize, i64, usize);

/// Where a node of the file stands in its lists.
struct Index {
    /// The nodes of each tree that stand side by side, numbered upwards by one. Exporters write all trees so.
    runs: HashMap<i64, Run>,
    /// The tree that was asked for last; most questions are about the same one.
    last: Cell<(i64, Run)>,
    /// Every node, where they stand in any other way.
    others: HashMap<(i64, i64), usize>,
    trees: usize,
    nodes: usize,
}

impl Index {
    fn new(tree_ids: &[i64], node_ids: &[i64]) -> OpResult<Self> {
        let mut index = Self {
            runs: HashMap::new(),
            last: Cell::new((0, (0, 0, 0))),
            others: HashMap::new(),
            trees: 0,
            nodes: node_ids.len(),
        };
        let mut ordered = true;
        let mut start = 0;
        for run in tree_ids.chunk_by(|a, b| a == b) {
            let ids = &node_ids[start..start + run.len()];
            ordered &= ids.windows(2).all(|w| w[0].checked_add(1) == Some(w[1]));
            ordered &= index.runs.insert(run[0], (start, ids[0], ids.len())).is_none();
            start += run.len();
        }
        index.trees = index.runs.len();
        if !ordered {
            index.runs.clear();
            for (k, (&tree, &node)) in tree_ids.iter().zip(node_ids).enumerate() {
                let twice = index.others.insert((tree, node), k).is_some();
                ensure!(!twice, "node {node} of tree {tree} is there twice");
            }
        }
        Ok(index)
    }

    fn get(&self, tree: i64, node: i64) -> Option<usize> {
        let (last, run) = self.last.get();
        if last == tree && run.2 > 0 {
            return Self::within(run, node);
        }
        match self.runs.get(&tree) {
            Some(&run) => {
                self.last.set((tree, run));
                Self::within(run, node)
            }
            None => self.others.get(&(tree, node)).copied(),
        }
    }

    fn within((start, first, len): Run, node: i64) -> Option<usize> {
        let k = usize::try_from(node.checked_sub(first)?).ok()?;
        (k < len).then_some(start + k)
    }

    fn trees(&self) -> usize {
        self.trees
    }
}

/// For each node where its weights begin (and for the last one, where they end); then target and weight of all.
type Leaves = (Vec<usize>, Vec<(u32, f64)>);

fn leaves(spec: &Spec<'_>, kind: &str, targets: usize, index: &Index, modes: &[Bytes]) -> OpResult<Leaves> {
    let list = |name: &str| spec.long_ints(&format!("{kind}_{name}"));
    let (tree_ids, node_ids, ids) = (list("treeids")?, list("nodeids")?, list("ids")?);
    let (weights, _) = floats(spec, &format!("{kind}_weights"))?;
    let n = ids.len();
    ensure!(
        tree_ids.len() == n && node_ids.len() == n && weights.len() == n,
        "the lists of leaf weights differ in length"
    );
    let mut places = Vec::with_capacity(n);
    let mut starts = vec![0usize; index.nodes + 1];
    for k in 0..n {
        let Some(node) = index.get(tree_ids[k], node_ids[k]) else {
            bail!(
                "a weight belongs to node {} of tree {}, which is not there",
                node_ids[k],
                tree_ids[k]
            )
        };
        ensure!(
            usize::try_from(ids[k]).is_ok_and(|id| id < targets && u32::try_from(id).is_ok()),
            "a weight belongs to {kind} {} of {targets}",
            ids[k]
        );
        // What a branch is given has no meaning.
        let is_leaf = modes[node] == b"LEAF"[..];
        places.push(is_leaf.then_some(node));
        starts[node + 1] += usize::from(is_leaf);
    }
    for node in 0..index.nodes {
        starts[node + 1] += starts[node];
    }
    // A node's weights keep the file's order.
    let mut next = starts.clone();
    let mut sorted = vec![(0, 0.0); starts[index.nodes]];
    for (k, node) in places.into_iter().enumerate() {
        let Some(node) = node else { continue };
        sorted[next[node]] = (ids[k] as u32, weights[k]);
        next[node] += 1;
    }
    Ok((starts, sorted))
}

/// Version 5's form: branches and leaves in two lists, children named by position.
pub(crate) fn ensemble(spec: &Spec<'_>) -> OpResult<Trees> {
    let list = |name: &str| -> OpResult<Vec<i64>> { Ok(spec.ints(name)?.unwrap_or_default()) };
    let tensor = |name: &str| -> OpResult<Tensor> {
        match spec.tensor(name)? {
            Some(t) => Ok(t),
            None => bail!("attribute {name:?} is missing"),
        }
    };
    let targets = usize::try_from(spec.int("n_targets", 1)?).unwrap_or(0);
    let splits = tensor("nodes_splits")?;
    let (values, double) = (doubles(&splits)?, matches!(splits.data(), Data::F64(_)));
    let modes = match tensor("nodes_modes")?.into_parts().1 {
        Data::U8(v) => v,
        other => bail!("nodes_modes have type {}", other.datatype()),
    };
    if let Some(t) = spec.tensor("nodes_hitrates")? {
        doubles(&t)?;
    }
    let features = list("nodes_featureids")?;
    let (yes, yes_leaf) = (list("nodes_truenodeids")?, list("nodes_trueleafs")?);
    let (no, no_leaf) = (list("nodes_falsenodeids")?, list("nodes_falseleafs")?);
    let missing = list("nodes_missing_value_tracks_true")?;
    let (leaf_targets, leaf_weights) = (list("leaf_targetids")?, doubles(&tensor("leaf_weights")?)?);
    let n = values.len();
    let lens = [
        modes.len(),
        features.len(),
        yes.len(),
        yes_leaf.len(),
        no.len(),
        no_leaf.len(),
    ];
    ensure!(lens.iter().all(|&l| l == n), "the lists of nodes differ in length");
    ensure!(
        missing.is_empty() || missing.len() == n,
        "\"nodes_missing_value_tracks_true\" has {} entries",
        missing.len()
    );
    ensure!(
        leaf_targets.len() == leaf_weights.len(),
        "the lists of leaves differ in length"
    );
    let member_values = spec
        .tensor("membership_values")?
        .map(|t| doubles(&t))
        .transpose()?
        .unwrap_or_default();
    let mut sets = member_values.split(|v| v.is_nan()).map(<[f64]>::to_vec);
    let mut found = Vec::new();
    let child = |id: i64, leaf: i64| -> OpResult<usize> {
        let (base, len) = if leaf == 0 { (0, n) } else { (n, leaf_targets.len()) };
        match usize::try_from(id) {
            Ok(id) if id < len => Ok(base + id),
            _ => bail!("a branch leads to {id} of {len}"),
        }
    };
    let mut nodes = Vec::with_capacity(n + leaf_targets.len());
    for k in 0..n {
        let mode = match modes[k] {
            0 => Mode::LessOrEqual,
            1 => Mode::Less,
            2 => Mode::GreaterOrEqual,
            3 => Mode::Greater,
            4 => Mode::Equal,
            5 => Mode::NotEqual,
            6 => {
                found.push(sets.next().unwrap_or_default());
                Mode::Member(found.len() - 1)
            }
            other => bail!("node mode {other} is not known"),
        };
        let Ok(feature) = u32::try_from(features[k]) else {
            bail!("feature {} of a node", features[k])
        };
        let (yes, no) = (child(yes[k], yes_leaf[k])?, child(no[k], no_leaf[k])?);
        let missing_true = missing.get(k).is_some_and(|&m| m != 0);
        nodes.push(RawNode::Branch {
            feature: feature as usize,
            value: values[k],
            mode,
            missing_true,
            yes,
            no,
        });
    }
    let mut weights = Vec::with_capacity(leaf_targets.len());
    for (&t, &w) in leaf_targets.iter().zip(&leaf_weights) {
        match u32::try_from(t) {
            Ok(t) if (t as usize) < targets => weights.push((t, w)),
            _ => bail!("a leaf belongs to target {t} of {targets}"),
        }
        nodes.push(RawNode::Leaf {
            start: weights.len() - 1,
            end: weights.len(),
        });
    }
    let roots = list("tree_roots")?;
    // A root that is both children of itself stands for a tree of one leaf, which needs no special case here.
    let roots = roots.iter().map(|&r| child(r, 0)).collect::<OpResult<Vec<_>>>()?;
    ensure!(!roots.is_empty(), "it has no trees");
    Ok(Trees {
        nodes,
        roots,
        weights,
        sets: found,
        targets,
        double,
    })
}
