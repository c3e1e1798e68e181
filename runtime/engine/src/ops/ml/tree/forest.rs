//! Trees in the form in which they are walked.

use super::parse::{Mode, RawNode, Trees};
use crate::fault::{OpResult, bail, ensure};

/// The precision of thresholds and features.
pub(crate) trait Threshold: Copy + PartialOrd + Send + Sync + 'static {
    fn from_f64(v: f64) -> Self;
    fn is_nan(self) -> bool;
    fn to_f64(self) -> f64;
}

impl Threshold for f32 {
    fn from_f64(v: f64) -> Self {
        v as f32
    }
    fn is_nan(self) -> bool {
        self.is_nan()
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Threshold for f64 {
    fn from_f64(v: f64) -> Self {
        v
    }
    fn is_nan(self) -> bool {
        self.is_nan()
    }
    fn to_f64(self) -> f64 {
        self
    }
}

/// The feature's number of a leaf.
const LEAF: u32 = u32::MAX;

/// A branch with its two children, or a leaf with its range of weights, in 16 bytes (24 in double precision).
#[derive(Clone, Copy)]
struct Node<T> {
    value: T,
    feature: u32,
    yes: u32,
    no: u32,
}

/// All trees in one array, each in the order in which a walk meets its nodes.
pub(crate) struct Forest<T> {
    nodes: Vec<Node<T>>,
    /// How each node compares; `None` where all do by `<=` and none counts a missing value as true.
    modes: Option<Vec<(Mode, bool)>>,
    sets: Vec<Vec<f64>>,
    roots: Vec<u32>,
    weights: Vec<(u32, f64)>,
}

impl<T: Threshold> Forest<T> {
    /// Checks that every tree is a tree: no node is met twice.
    pub(crate) fn new(trees: &Trees) -> OpResult<Self> {
        let n = trees.nodes.len();
        ensure!(
            n < LEAF as usize && trees.weights.len() < LEAF as usize,
            "{n} nodes are too many"
        );
        let mut place = vec![None; n];
        let mut nodes: Vec<Node<T>> = Vec::with_capacity(n);
        let mut modes = Vec::with_capacity(n);
        let mut roots = Vec::with_capacity(trees.roots.len());
        for &root in &trees.roots {
            roots.push(nodes.len() as u32);
            let mut open = vec![root];
            while let Some(k) = open.pop() {
                ensure!(place[k].is_none(), "node {k} has two parents");
                place[k] = Some(nodes.len() as u32);
                match trees.nodes[k] {
                    RawNode::Leaf { start, end } => {
                        nodes.push(Node {
                            value: T::from_f64(0.0),
                            feature: LEAF,
                            yes: start as u32,
                            no: end as u32,
                        });
                        modes.push((Mode::LessOrEqual, false));
                    }
                    RawNode::Branch {
                        feature,
                        value,
                        mode,
                        missing_true,
                        yes,
                        no,
                    } => {
                        ensure!(feature < LEAF as usize, "feature {feature} is too large");
                        // Children are still the file's numbers here.
                        nodes.push(Node {
                            value: T::from_f64(value),
                            feature: feature as u32,
                            yes: yes as u32,
                            no: no as u32,
                        });
                        modes.push((mode, missing_true));
                        open.push(no);
                        if yes != no {
                            open.push(yes);
                        }
                    }
                }
            }
        }
        for node in nodes.iter_mut().filter(|n| n.feature != LEAF) {
            let (Some(yes), Some(no)) = (place[node.yes as usize], place[node.no as usize]) else {
                bail!("internal: a branch leads nowhere")
            };
            (node.yes, node.no) = (yes, no);
        }
        let plain = modes.iter().all(|&m| m == (Mode::LessOrEqual, false));
        Ok(Self {
            nodes,
            modes: (!plain).then_some(modes),
            sets: trees.sets.clone(),
            roots,
            weights: trees.weights.clone(),
        })
    }

    /// Calls `f` with target and weight of every leaf that the row ends in. The row has all features.
    pub(crate) fn walk(&self, row: &[T], mut f: impl FnMut(u32, f64)) {
        for &root in &self.roots {
            let leaf = match &self.modes {
                None => self.descend(root, row),
                Some(modes) => self.descend_by_mode(root, row, modes),
            };
            for &(target, weight) in &self.weights[leaf.yes as usize..leaf.no as usize] {
                f(target, weight);
            }
        }
    }

    fn descend(&self, root: u32, row: &[T]) -> Node<T> {
        let mut node = self.nodes[root as usize];
        while node.feature != LEAF {
            // False for a missing value, as it should be.
            let next = if row[node.feature as usize] <= node.value {
                node.yes
            } else {
                node.no
            };
            node = self.nodes[next as usize];
        }
        node
    }

    fn descend_by_mode(&self, root: u32, row: &[T], modes: &[(Mode, bool)]) -> Node<T> {
        let mut at = root as usize;
        loop {
            let node = self.nodes[at];
            if node.feature == LEAF {
                return node;
            }
            let x = row[node.feature as usize];
            let (mode, missing_true) = modes[at];
            let yes = match mode {
                Mode::LessOrEqual => x <= node.value,
                Mode::Less => x < node.value,
                Mode::GreaterOrEqual => x >= node.value,
                Mode::Greater => x > node.value,
                Mode::Equal => x == node.value,
                Mode::NotEqual => x != node.value,
                Mode::Member(set) => self.sets[set].iter().any(|&m| m == x.to_f64()),
            };
            at = if yes || (missing_true && x.is_nan()) {
                node.yes
            } else {
                node.no
            } as usize;
        }
    }
}
