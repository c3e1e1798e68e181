//! Makes dense layers: a product with constant weights (`MatMul`, `Gemm`), and what follows it: the addition of a bias and of
//! a residual, then a function.

use super::pattern::{Pattern, floats, op, operands};
use crate::device::{After, Arith, Dense, DeviceOp, Fused, Unary};
use crate::graph::{Graph, Node, ValueId};
use crate::kernel::Kernel;

/// Operands of a dense layer: x, w, b, residual.
const BIAS: usize = 2;
const RESIDUAL: usize = 3;

/// Turns products into dense layers, then draws into each what follows while nobody else reads the result in between. In
/// `f32` only.
pub(crate) fn fuse(graph: &mut Graph) {
    for n in 0..graph.nodes.len() {
        if let Some(dense) = start(graph, &graph.nodes[n]) {
            graph.nodes[n].kernel = Kernel::device(Fused::Dense(dense).into());
        }
    }
    let pattern = Pattern::new(graph);
    // For each layer the node where it ends.
    let mut ends: Vec<usize> = (0..graph.nodes.len()).collect();
    let mut gone = vec![false; graph.nodes.len()];
    for n in 0..graph.nodes.len() {
        if dense(&graph.nodes[n]).is_none() || gone[n] {
            continue;
        }
        let mut at = n;
        while let Some(next) = absorb(graph, &pattern, at) {
            // The layer moves to where its last operand is there.
            graph.nodes.swap(at, next);
            gone[at] = true;
            at = next;
        }
        ends[n] = at;
    }
    let mut gone = gone.iter();
    graph.nodes.retain(|_| !gone.next().is_some_and(|&g| g));
}

fn dense(node: &Node) -> Option<Dense> {
    match op(node)? {
        DeviceOp::Fused(Fused::Dense(dense)) => Some(*dense),
        _ => None,
    }
}

/// The layer that a product with constant weights is.
fn start(graph: &Graph, node: &Node) -> Option<Dense> {
    let (_, dims) = floats(graph, node.inputs.get(1).copied()??)?;
    let [rows, columns] = *dims else { return None };
    if rows == 0 || columns == 0 || graph.constants[node.inputs.first().copied()??].is_some() {
        return None;
    }
    match *op(node)? {
        DeviceOp::MatMul => Some(Dense {
            gemm: false,
            transposed: false,
            after: After::Nothing,
        }),
        DeviceOp::Gemm {
            alpha: 1.0,
            beta: 1.0,
            trans_a: false,
            trans_b,
        } => {
            if let Some(Some(c)) = node.inputs.get(BIAS) {
                is_bias(graph, *c, if trans_b { rows } else { columns })?;
            }
            Some(Dense {
                gemm: true,
                transposed: trans_b,
                after: After::Nothing,
            })
        }
        _ => None,
    }
}

/// Whether a value is a constant with one number for each column.
fn is_bias(graph: &Graph, id: ValueId, columns: usize) -> Option<()> {
    let (v, dims) = floats(graph, id)?;
    let (last, lead) = dims.split_last()?;
    (v.len() == columns && *last == columns && lead.len() < 2).then_some(())
}

/// Rewrites the layer at `at` to do its reader's work too, and returns the reader.
fn absorb(graph: &mut Graph, pattern: &Pattern, at: usize) -> Option<usize> {
    let layer = dense(&graph.nodes[at])?;
    let result = graph.nodes[at].outputs.first().copied()??;
    let reader = pattern.reader(result)?;
    if layer.after != After::Nothing {
        return None;
    }
    let mut changed = layer;
    let mut operand = None;
    let node = &graph.nodes[reader];
    match op(node)? {
        DeviceOp::Unary(Unary::Relu) => changed.after = After::Clamp(0.0, f32::INFINITY),
        DeviceOp::Unary(f @ (Unary::Gelu | Unary::Tanh | Unary::Sigmoid)) => changed.after = After::Function(*f),
        DeviceOp::Arith(Arith::Add) => {
            let [a, b] = operands(node, Arith::Add)?;
            let other = if a == result { b } else { a };
            operand = Some(other);
            if other == result {
                return None;
            }
        }
        _ => return None,
    }
    if let Some(other) = operand {
        let inputs = &graph.nodes[at].inputs;
        let (_, w) = floats(graph, inputs.get(1).copied()??)?;
        let columns = if layer.transposed { w[0] } else { w[1] };
        let given = |i: usize| inputs.get(i).copied().flatten().is_some();
        // A bias of more dimensions than the result would give it more.
        let bias = is_bias(graph, other, columns).is_some() && floats(graph, other)?.1.len() == 1;
        let slot = if bias && !given(BIAS) && !given(RESIDUAL) {
            BIAS
        } else if graph.constants[other].is_none() && !given(RESIDUAL) {
            RESIDUAL
        } else {
            return None;
        };
        let inputs = &mut graph.nodes[at].inputs;
        inputs.resize(inputs.len().max(slot + 1), None);
        inputs[slot] = Some(other);
    }
    let outputs = graph.nodes[reader].outputs.clone();
    let node = &mut graph.nodes[at];
    node.outputs = outputs;
    node.kernel = Kernel::device(Fused::Dense(changed).into());
    Some(reader)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Graphs, f32_tensor, run_f32};

    fn graph() -> Graphs {
        Graphs::new(20)
            .input("x", 1, &[None, Some(2)])
            .constant("w", f32_tensor(&[2, 2], &[1.0, 2.0, 3.0, 4.0]))
            .constant("b", f32_tensor(&[2], &[-10.0, 1.0]))
            .node("MatMul", &["x", "w"], &["p"])
    }

    fn ops(graph: Graphs) -> Vec<String> {
        graph.plan().unwrap().steps.into_iter().map(|s| s.op).collect()
    }

    const X: &[f32] = &[1.0, 1.0, 0.0, 2.0];

    #[test]
    fn a_bias_a_residual_and_a_function_are_drawn_in() {
        let all = || {
            graph()
                .node("Add", &["b", "p"], &["s"])
                .node("Add", &["s", "x"], &["r"])
                .node("Relu", &["r"], &["y"])
                .output("y")
        };
        assert_eq!(ops(all()), ["MatMul"]);
        assert_eq!(run_f32(&all(), &[&[2, 2]], &[X]), [[0.0, 8.0, 0.0, 11.0]]);
    }

    #[test]
    fn a_gemm_brings_its_bias() {
        let gemm = || {
            Graphs::new(13)
                .input("x", 1, &[None, Some(2)])
                .constant("w", f32_tensor(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
                .constant("b", f32_tensor(&[3], &[0.5, 0.0, -0.5]))
                .node_with("Gemm", &["x", "w", "b"], &["p"], |a| a.int("transB", 1))
                .node("Tanh", &["p"], &["y"])
                .output("y")
        };
        assert_eq!(ops(gemm()), ["Gemm"]);
        let found = run_f32(&gemm(), &[&[1, 2]], &[&[0.1, 0.2]]);
        for (found, wanted) in found[0].iter().zip([1.0f32, 1.1, 1.2]) {
            assert!((found - wanted.tanh()).abs() < 1e-6);
        }
    }

    #[test]
    fn a_result_that_someone_else_reads_stays() {
        let twice = || graph().node("Add", &["p", "p"], &["y"]).output("y");
        assert_eq!(ops(twice()), ["MatMul", "Add"]);
        assert_eq!(run_f32(&twice(), &[&[2, 2]], &[X]), [[8.0, 12.0, 12.0, 16.0]]);
        let out = || graph().node("Relu", &["p"], &["y"]).output("y").output("p");
        assert_eq!(ops(out()), ["MatMul", "Relu"]);
    }

    #[test]
    fn a_residual_that_is_stretched_is_added_all_the_same() {
        let wide = || {
            graph()
                .input("z", 1, &[None, Some(1), Some(2)])
                .node("Add", &["p", "z"], &["y"])
                .output("y")
        };
        assert_eq!(ops(wide()), ["MatMul"]);
        let found = run_f32(&wide(), &[&[2, 2], &[2, 1, 2]], &[X, &[0.0, 0.0, 100.0, 200.0]]);
        assert_eq!(found, [[4.0, 6.0, 6.0, 8.0, 104.0, 206.0, 106.0, 208.0]]);
    }

    #[test]
    fn what_comes_later_is_waited_for() {
        let later = || {
            graph()
                .node("Abs", &["x"], &["a"])
                .node("Add", &["p", "a"], &["y"])
                .output("y")
        };
        assert_eq!(ops(later()), ["Abs", "MatMul"]);
        assert_eq!(run_f32(&later(), &[&[2, 2]], &[X]), [[5.0, 7.0, 6.0, 10.0]]);
    }
}
