//! Draws into a convolution what follows it: the addition of a residual, then bounds (`Relu`, `Clip`). A backend with a
//! kernel for that does it while the results are in the cache; another one does the same in several calls.

use crate::device::{Arith, Conv, DeviceOp, Unary};
use crate::graph::{Graph, Node, ValueId};
use crate::kernel::Kernel;
use crate::{Data, DataType};

/// Operands of a fused convolution: x, w, b, residual.
const RESIDUAL: usize = 3;

/// Fuses wherever the result in between has no other reader and is no output. In `f32` only, as the bounds are.
pub(crate) fn fuse(graph: &mut Graph) {
    let mut uses = vec![0usize; graph.constants.len()];
    let outputs = graph.outputs.iter().map(|(id, _)| id);
    for &id in graph
        .nodes
        .iter()
        .flat_map(|n| n.inputs.iter().flatten())
        .chain(outputs)
    {
        uses[id] += 1;
    }
    // For each value the convolution that makes it and that nobody else reads.
    let mut made_by: Vec<Option<usize>> = vec![None; graph.constants.len()];
    let mut gone = vec![false; graph.nodes.len()];
    for n in 0..graph.nodes.len() {
        if let Some(c) = fuse_one(graph, n, &made_by) {
            // The convolution moves to here, where a residual of any origin is there.
            graph.nodes.swap(c, n);
            gone[c] = true;
        }
        let node = &graph.nodes[n];
        if conv(node).is_some()
            && float_weights(graph, node)
            && let [Some(id)] = node.outputs[..]
            && uses[id] == 1
        {
            made_by[id] = Some(n);
        }
    }
    let mut gone = gone.iter();
    graph.nodes.retain(|_| !gone.next().is_some_and(|&g| g));
}

fn conv(node: &Node) -> Option<&Conv> {
    match &node.kernel {
        Kernel::Device {
            op: DeviceOp::Conv(conv),
            ..
        } => Some(conv),
        _ => None,
    }
}

fn float_weights(graph: &Graph, node: &Node) -> bool {
    let weights = node.inputs.get(1).copied().flatten();
    let weights = weights.and_then(|id| graph.constants[id].as_ref());
    weights.is_some_and(|w| w.datatype() == DataType::F32)
}

/// Rewrites the convolution in front of node `n` to do its work too, and returns it.
fn fuse_one(graph: &mut Graph, n: usize, made_by: &[Option<usize>]) -> Option<usize> {
    let node = &graph.nodes[n];
    let Kernel::Device { op, .. } = &node.kernel else {
        return None;
    };
    // The latest, where both operands of an addition could be.
    let makers = node.inputs.iter().flatten().filter_map(|&id| Some((made_by[id]?, id)));
    let (c, between) = makers.max()?;
    let attrs = conv(&graph.nodes[c])?;
    if attrs.clamp.is_some() {
        return None;
    }
    let mut residual = None;
    let mut clamp = None;
    match op {
        DeviceOp::Unary(Unary::Relu) => clamp = Some((0.0, f32::INFINITY)),
        DeviceOp::Clip { min, max } => {
            if node.inputs.first().copied().flatten() != Some(between) {
                return None;
            }
            let low = bound(graph, node, 1, *min, f32::NEG_INFINITY)?;
            clamp = Some((low, bound(graph, node, 2, *max, f32::INFINITY)?));
        }
        DeviceOp::Arith(Arith::Add) => {
            let [Some(a), Some(b)] = node.inputs[..] else {
                return None;
            };
            let other = if a == between { b } else { a };
            // A constant is a bias in most models; those are short and would have to be stretched.
            if other == between || graph.constants[other].is_some() || graph.nodes[c].inputs.len() > RESIDUAL {
                return None;
            }
            residual = Some(other);
        }
        _ => return None,
    }
    let outputs = node.outputs.clone();
    let conv = &mut graph.nodes[c];
    if let Kernel::Device {
        op: DeviceOp::Conv(attrs),
        ..
    } = &mut conv.kernel
    {
        attrs.clamp = clamp;
    }
    if residual.is_some() {
        conv.inputs.resize(RESIDUAL, None);
        conv.inputs.push(residual);
    }
    conv.outputs = outputs;
    Some(c)
}

/// A constant bound, from the operand or else the attribute. `None` where it is computed, or is no number.
fn bound(graph: &Graph, node: &Node, i: usize, attribute: Option<f64>, default: f32) -> Option<f32> {
    let bound = match node.inputs.get(i).copied().flatten() {
        Some(id) => single(graph, id)?,
        None => attribute.map_or(default, |b| b as f32),
    };
    (!bound.is_nan()).then_some(bound)
}

fn single(graph: &Graph, id: ValueId) -> Option<f32> {
    match graph.constants[id].as_ref()?.data() {
        Data::F32(v) if v.len() == 1 => Some(v[0]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Graphs, f32_tensor, run_f32};

    /// Two convolutions of one channel by a number: c = 2x, d = -3x.
    fn graph() -> Graphs {
        Graphs::new(13)
            .input("x", 1, &[Some(1), Some(1), None])
            .constant("w", f32_tensor(&[1, 1, 1], &[2.0]))
            .constant("v", f32_tensor(&[1, 1, 1], &[-3.0]))
            .constant("low", f32_tensor(&[], &[-1.0]))
            .constant("high", f32_tensor(&[], &[1.5]))
            .node("Conv", &["x", "w"], &["c"])
            .node("Conv", &["x", "v"], &["d"])
    }

    fn ops(graph: Graphs) -> Vec<String> {
        graph.plan().unwrap().steps.into_iter().map(|s| s.op).collect()
    }

    fn run(graph: &Graphs) -> Vec<Vec<f32>> {
        run_f32(graph, &[&[1, 1, 3]], &[&[1.0, -1.0, 0.25]])
    }

    #[test]
    fn an_addition_and_bounds_are_drawn_into_the_later_convolution() {
        let graph = || {
            graph()
                .node("Add", &["c", "d"], &["s"])
                .node("Relu", &["s"], &["y"])
                .output("y")
        };
        assert_eq!(ops(graph()), ["Conv", "Conv"]);
        assert_eq!(run(&graph()), [[0.0, 1.0, 0.0]]);
    }

    #[test]
    fn bounds_are_operands_or_missing() {
        let both = || graph().node("Clip", &["c", "low", "high"], &["y"]).output("y");
        assert_eq!(ops(both()), ["Conv"]);
        assert_eq!(run(&both()), [[1.5, -1.0, 0.5]]);
        let one = || graph().node("Clip", &["c", "", "high"], &["y"]).output("y");
        assert_eq!(ops(one()), ["Conv"]);
        assert_eq!(run(&one()), [[1.5, -2.0, 0.5]]);
    }

    #[test]
    fn a_result_that_someone_else_reads_stays() {
        let output = || graph().node("Relu", &["c"], &["y"]).output("y").output("c");
        assert_eq!(ops(output()), ["Conv", "Relu"]);
        assert_eq!(run(&output()), [[2.0, 0.0, 0.5], [2.0, -2.0, 0.5]]);
        let reader = || {
            graph()
                .node("Relu", &["c"], &["r"])
                .node("Mul", &["r", "c"], &["y"])
                .output("y")
        };
        assert_eq!(ops(reader()), ["Conv", "Relu", "Mul"]);
        let twice = || graph().node("Add", &["c", "c"], &["y"]).output("y");
        assert_eq!(ops(twice()), ["Conv", "Add"]);
        assert_eq!(run(&twice()), [[4.0, -4.0, 1.0]]);
    }

    #[test]
    fn a_residual_may_be_the_input_or_come_later_or_be_stretched() {
        let input = || graph().node("Add", &["x", "c"], &["y"]).output("y").output("x");
        assert_eq!(ops(input()), ["Conv"]);
        assert_eq!(run(&input()), [[3.0, -3.0, 0.75], [1.0, -1.0, 0.25]]);
        let later = || {
            graph()
                .node("Abs", &["x"], &["a"])
                .node("Add", &["c", "a"], &["y"])
                .output("y")
        };
        assert_eq!(ops(later()), ["Abs", "Conv"]);
        assert_eq!(run(&later()), [[3.0, -1.0, 0.75]]);
        let stretched = || {
            graph()
                .node("GlobalMaxPool", &["x"], &["m"])
                .node("Add", &["c", "m"], &["s"])
                .node("Relu", &["s"], &["y"])
                .output("y")
        };
        assert_eq!(ops(stretched()), ["GlobalMaxPool", "Conv"]);
        assert_eq!(run(&stretched()), [[3.0, 0.0, 1.5]]);
    }

    #[test]
    fn nothing_follows_bounds_and_no_second_residual() {
        let after = || {
            graph()
                .node("Relu", &["c"], &["r"])
                .node("Add", &["r", "x"], &["y"])
                .output("y")
        };
        assert_eq!(ops(after()), ["Conv", "Add"]);
        assert_eq!(run(&after()), [[3.0, -1.0, 0.75]]);
        let second = || {
            graph()
                .node("Add", &["c", "x"], &["s"])
                .node("Add", &["s", "x"], &["y"])
                .output("y")
        };
        assert_eq!(ops(second()), ["Conv", "Add"]);
        assert_eq!(run(&second()), [[4.0, -4.0, 1.0]]);
    }
}
