//! What passes ask of a graph when they look for a pattern: who makes a value, who reads it, what number it is.

use crate::Data;
use crate::device::{Arith, DeviceOp, Reduce, Unary};
use crate::graph::{Graph, Node, Role, ValueId};
use crate::kernel::{Kernel, i64s};

/// Makers and readers of all values, as they were when it was made.
pub(super) struct Pattern {
    /// For each value the node that makes it.
    made_by: Vec<Option<usize>>,
    /// For each value the nodes that read it, once for each time.
    read_by: Vec<Vec<usize>>,
    /// Values that go out of the graph.
    outgoing: Vec<bool>,
}

impl Pattern {
    pub(super) fn new(graph: &Graph) -> Self {
        let n = graph.constants.len();
        let (mut made_by, mut read_by, mut outgoing) = (vec![None; n], vec![Vec::new(); n], vec![false; n]);
        for (k, node) in graph.nodes.iter().enumerate() {
            for &id in node.inputs.iter().flatten() {
                read_by[id].push(k);
            }
            for &id in node.outputs.iter().flatten() {
                made_by[id] = Some(k);
            }
        }
        for &(id, _) in &graph.outputs {
            outgoing[id] = true;
        }
        Self {
            made_by,
            read_by,
            outgoing,
        }
    }

    /// The node that makes a value.
    pub(super) fn maker(&self, id: ValueId) -> Option<usize> {
        self.made_by[id]
    }

    /// The one node that reads a value, where it is one, once, and the value does not go out.
    pub(super) fn reader(&self, id: ValueId) -> Option<usize> {
        match self.read_by[id][..] {
            [one] if !self.outgoing[id] => Some(one),
            _ => None,
        }
    }

    /// The two operands of the arithmetic that makes a value.
    pub(super) fn arith(&self, graph: &Graph, id: ValueId, f: Arith) -> Option<[ValueId; 2]> {
        operands(&graph.nodes[self.maker(id)?], f)
    }

    /// The operand of the function that makes a value.
    pub(super) fn unary(&self, graph: &Graph, id: ValueId, f: Unary) -> Option<ValueId> {
        let node = &graph.nodes[self.maker(id)?];
        match op(node)? {
            DeviceOp::Unary(g) if *g == f => *node.inputs.first()?,
            _ => None,
        }
    }

    /// What the mean over the last dimension, kept as 1, is taken of.
    pub(super) fn mean(&self, graph: &Graph, id: ValueId) -> Option<ValueId> {
        let node = &graph.nodes[self.maker(id)?];
        let DeviceOp::Reduce {
            kind: Reduce::Mean,
            axes,
            keep: true,
            ..
        } = op(node)?
        else {
            return None;
        };
        let axes = match node.inputs.get(1).copied().flatten() {
            Some(axes) => i64s(graph.constants[axes].as_deref()?).ok()?,
            None => axes.clone()?,
        };
        (axes == [-1]).then_some(*node.inputs.first()?).flatten()
    }
}

/// A node's instruction for the device.
pub(super) fn op(node: &Node) -> Option<&DeviceOp> {
    match &node.kernel {
        Kernel::Device { op, .. } => Some(op),
        _ => None,
    }
}

/// The two operands of a node that does this arithmetic.
pub(super) fn operands(node: &Node, f: Arith) -> Option<[ValueId; 2]> {
    match (op(node)?, &node.inputs[..]) {
        (DeviceOp::Arith(g), &[Some(a), Some(b)]) if *g == f => Some([a, b]),
        _ => None,
    }
}

/// A constant of one number.
pub(super) fn number(graph: &Graph, id: ValueId) -> Option<f32> {
    match graph.constants[id].as_ref()?.data() {
        Data::F32(v) if v.len() == 1 => Some(v[0]),
        _ => None,
    }
}

/// Of two values the one that is a number, and the other.
pub(super) fn with_number(graph: &Graph, pair: [ValueId; 2]) -> Option<(ValueId, f32)> {
    let [a, b] = pair;
    number(graph, b)
        .map(|n| (a, n))
        .or_else(|| number(graph, a).map(|n| (b, n)))
}

/// A constant of FP32 and its dimensions.
pub(super) fn floats(graph: &Graph, id: ValueId) -> Option<(&[f32], &[usize])> {
    let tensor = graph.constants[id].as_ref()?;
    match tensor.data() {
        Data::F32(v) => Some((v, tensor.shape())),
        _ => None,
    }
}

/// Whether two numbers are the same to the precision in which models write their constants.
pub(super) fn about(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-4 * b.abs()
}

/// The four dimensions that a transpose reads, in the result's order.
pub(super) fn order(node: &Node) -> Option<[usize; 4]> {
    let Role::Transpose(Some(perm)) = &node.role else {
        return None;
    };
    let perm: Vec<usize> = perm.iter().map(|&p| usize::try_from(p).unwrap_or(4)).collect();
    <[usize; 4]>::try_from(perm).ok().filter(|p| p.iter().all(|&d| d < 4))
}
