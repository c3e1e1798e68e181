//! Trees in the form in which they are walked.

use super::parse::{Mode, RawNode, Trees};
use crate::fault::{OpResult, bail, ensure};

/// The precision of thresholds and features.
pub(crate) trait Threshold: Copy + Default + PartialOrd + Send + Sync + 'static {
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

/// Walks side by side.
const LANES: usize = 8;

/// The feature's number of a leaf.
const LEAF: u32 = u32::MAX;

/// A branch with its two children, or a leaf with its range of weights, in 16 bytes (24 in double precision).
#[derive(Clone, Copy, Default)]
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

    /// Number of trees.
    pub(crate) fn trees(&self) -> usize {
        self.roots.len()
    }

    /// Calls `f` with the row's number, target and weight of every leaf that each row ends in, for each row in the trees'
    /// order. Every row has all features; `rows` holds whole rows.
    pub(crate) fn walk(&self, rows: &[T], columns: usize, mut f: impl FnMut(usize, u32, f64)) {
        let columns = columns.max(1);
        let mut leaf = |row: usize, node: Node<T>| {
            for &(target, weight) in &self.weights[node.yes as usize..node.no as usize] {
                f(row, target, weight);
            }
        };
        if let Some(modes) = &self.modes {
            for (r, row) in rows.chunks_exact(columns).enumerate() {
                for &root in &self.roots {
                    leaf(r, self.descend_by_mode(root, row, modes));
                }
            }
            return;
        }
        if rows.len() < LANES * columns {
            for (r, row) in rows.chunks_exact(columns).enumerate() {
                for roots in self.roots.chunks(LANES) {
                    let mut nodes = [Node::default(); LANES];
                    self.descend(roots.iter().map(|&root| (root, row)), &mut nodes);
                    nodes[..roots.len()].iter().for_each(|&node| leaf(r, node));
                }
            }
            return;
        }
        // One tree for many rows, so that it stays in the cache.
        for &root in &self.roots {
            for (block, many) in rows.chunks(LANES * columns).enumerate() {
                let mut nodes = [Node::default(); LANES];
                self.descend(many.chunks_exact(columns).map(|row| (root, row)), &mut nodes);
                for (k, &node) in nodes[..many.len() / columns].iter().enumerate() {
                    leaf(block * LANES + k, node);
                }
            }
        }
    }

    /// Several walks side by side: each waits for memory most of the time.
    fn descend<'a>(&self, starts: impl Iterator<Item = (u32, &'a [T])>, nodes: &mut [Node<T>; LANES]) {
        let mut rows: [&[T]; LANES] = [&[]; LANES];
        let mut count = 0;
        for (k, (root, row)) in starts.take(LANES).enumerate() {
            (nodes[k], rows[k]) = (self.nodes[root as usize], row);
            count = k + 1;
        }
        let mut open = true;
        while open {
            open = false;
            for (node, row) in nodes[..count].iter_mut().zip(&rows) {
                if node.feature != LEAF {
                    // False for a missing value, as it should be.
                    let yes = row[node.feature as usize] <= node.value;
                    *node = self.nodes[if yes { node.yes } else { node.no } as usize];
                    open = true;
                }
            }
        }
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
