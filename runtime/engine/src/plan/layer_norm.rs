//! Finds layer normalisation over the last dimension where an exporter wrote it out in steps:
//! `(x - mean(x)) / √(mean((x - mean(x))²) + ε) · scale + bias`.

use super::pattern::{Pattern, floats, number, operands, with_number};
use crate::device::{Arith, DeviceOp, Unary};
use crate::graph::{Graph, ValueId};
use crate::kernel::Kernel;

/// Puts one instruction in the place of each; what led to it is dead unless someone else reads it.
pub(crate) fn fuse(graph: &mut Graph) {
    let pattern = Pattern::new(graph);
    for n in 0..graph.nodes.len() {
        let Some(found) = find(graph, &pattern, n) else {
            continue;
        };
        let node = &mut graph.nodes[found.last];
        node.kernel = Kernel::device(DeviceOp::LayerNorm {
            axis: -1,
            epsilon: f64::from(found.epsilon),
        });
        node.op = "LayerNormalization".into();
        node.inputs = vec![Some(found.x), Some(found.scale), found.bias];
    }
}

struct Found {
    /// The node whose result is the norm.
    last: usize,
    x: ValueId,
    scale: ValueId,
    bias: Option<ValueId>,
    epsilon: f32,
}

/// From the division by the deviation.
fn find(graph: &Graph, pattern: &Pattern, n: usize) -> Option<Found> {
    let [centred, deviation] = operands(&graph.nodes[n], Arith::Div)?;
    let x = centre(graph, pattern, centred)?;
    let sum = pattern.unary(graph, deviation, Unary::Sqrt)?;
    let (variance, epsilon) = with_number(graph, pattern.arith(graph, sum, Arith::Add)?)?;
    let square = pattern.mean(graph, variance)?;
    let base = squared(graph, pattern, square)?;
    // Some exporters subtract the mean twice.
    if base != centred && centre(graph, pattern, base) != Some(x) {
        return None;
    }
    let normed = graph.nodes[n].outputs.first().copied()??;
    let product = pattern.reader(normed)?;
    let scale = parameter(graph, operands(&graph.nodes[product], Arith::Mul)?, normed)?;
    let scaled = graph.nodes[product].outputs.first().copied()??;
    let found = |last, bias| Found {
        last,
        x,
        scale,
        bias,
        epsilon,
    };
    if let Some(last) = pattern.reader(scaled)
        && let Some(pair) = operands(&graph.nodes[last], Arith::Add)
        && let Some(bias) = parameter(graph, pair, scaled)
        && floats(graph, bias)?.1 == floats(graph, scale)?.1
    {
        return Some(found(last, Some(bias)));
    }
    Some(found(product, None))
}

/// x, where the value is x - mean(x).
fn centre(graph: &Graph, pattern: &Pattern, id: ValueId) -> Option<ValueId> {
    let [x, mean] = pattern.arith(graph, id, Arith::Sub)?;
    (pattern.mean(graph, mean)? == x).then_some(x)
}

fn squared(graph: &Graph, pattern: &Pattern, id: ValueId) -> Option<ValueId> {
    if let Some([base, two]) = pattern.arith(graph, id, Arith::Pow) {
        return (number(graph, two)? == 2.0).then_some(base);
    }
    let [a, b] = pattern.arith(graph, id, Arith::Mul)?;
    (a == b).then_some(a)
}

/// The operand that is a list of constants, beside the known one.
fn parameter(graph: &Graph, [a, b]: [ValueId; 2], known: ValueId) -> Option<ValueId> {
    let other = if a == known { b } else { a };
    (floats(graph, other)?.1.len() == 1 && a != b).then_some(other)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Graphs, f32_tensor, run_f32};

    fn graph(axis: i64) -> Graphs {
        Graphs::new(14)
            .input("x", 1, &[None, Some(2)])
            .constant("two", f32_tensor(&[], &[2.0]))
            .constant("tiny", f32_tensor(&[], &[0.0]))
            .constant("scale", f32_tensor(&[2], &[10.0, 100.0]))
            .constant("bias", f32_tensor(&[2], &[1.0, 2.0]))
            .node_with("ReduceMean", &["x"], &["m"], |a| a.ints("axes", &[axis]))
            .node("Sub", &["x", "m"], &["c"])
            .node("Pow", &["c", "two"], &["q"])
            .node_with("ReduceMean", &["q"], &["v"], |a| a.ints("axes", &[axis]))
            .node("Add", &["v", "tiny"], &["w"])
            .node("Sqrt", &["w"], &["d"])
            .node("Div", &["c", "d"], &["n"])
            .node("Mul", &["n", "scale"], &["s"])
    }

    fn ops(graph: Graphs) -> Vec<String> {
        graph.plan().unwrap().steps.into_iter().map(|s| s.op).collect()
    }

    #[test]
    fn the_steps_become_one_with_and_without_a_bias() {
        let with = || graph(-1).node("Add", &["s", "bias"], &["y"]).output("y");
        assert_eq!(ops(with()), ["LayerNormalization"]);
        let x: &[f32] = &[1.0, 3.0, 5.0, 1.0];
        assert_eq!(run_f32(&with(), &[&[2, 2]], &[x]), [[-9.0, 102.0, 11.0, -98.0]]);
        let without = || graph(-1).output("s");
        assert_eq!(ops(without()), ["LayerNormalization"]);
        assert_eq!(run_f32(&without(), &[&[2, 2]], &[x]), [[-10.0, 100.0, 10.0, -100.0]]);
    }

    #[test]
    fn another_dimension_is_left_alone() {
        assert_eq!(ops(graph(0).output("s")).len(), 8);
    }
}
