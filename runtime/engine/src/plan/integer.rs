//! Makes one step of a product of integers and what turns its sums into numbers: `Cast`, the multiplication by a scale, the
//! addition of a bias.

use super::pattern::{Pattern, floats, op, operands};
use crate::DataType;
use crate::device::{Arith, DeviceOp};
use crate::graph::{Graph, ValueId};
use crate::ops::quantize;

/// Positions of the inputs of the step.
const SCALE: usize = 4;
const BIAS: usize = 5;

/// Rewrites every `MatMulInteger` with constant weights whose sums nobody else reads.
pub(crate) fn fuse(graph: &mut Graph) {
    let pattern = Pattern::new(graph);
    let mut gone = vec![false; graph.nodes.len()];
    for n in 0..graph.nodes.len() {
        let Some(found) = scaled(graph, &pattern, n) else {
            continue;
        };
        let mut inputs = graph.nodes[n].inputs.clone();
        inputs.resize(SCALE, None);
        inputs.push(Some(found.scale));
        inputs.extend(found.bias.map(Some));
        debug_assert!(inputs.len() <= BIAS + 1);
        gone[n] = true;
        gone[found.cast] = true;
        if found.last != found.product {
            gone[found.product] = true;
        }
        // The step takes the place of the last node, where all of its operands are there.
        let (name, op) = (graph.nodes[n].name.clone(), graph.nodes[n].op.clone());
        let node = &mut graph.nodes[found.last];
        (node.name, node.op, node.inputs) = (name, op, inputs);
        node.kernel = quantize::scaled();
    }
    let mut gone = gone.iter();
    graph.nodes.retain(|_| !gone.next().is_some_and(|&g| g));
}

struct Scaled {
    cast: usize,
    product: usize,
    last: usize,
    scale: ValueId,
    bias: Option<ValueId>,
}

fn scaled(graph: &Graph, pattern: &Pattern, n: usize) -> Option<Scaled> {
    let node = &graph.nodes[n];
    if node.op != "MatMulInteger" || node.inputs.len() > SCALE {
        return None;
    }
    let weights = graph.constants[node.inputs.get(1).copied()??].as_ref()?;
    let &[_, columns] = weights.shape() else { return None };
    let result = |k: usize| -> Option<ValueId> { graph.nodes[k].outputs.first().copied()? };
    let cast = pattern.reader(result(n)?)?;
    if !matches!(op(&graph.nodes[cast])?, DeviceOp::Cast(DataType::F32)) {
        return None;
    }
    let product = pattern.reader(result(cast)?)?;
    let [a, b] = operands(&graph.nodes[product], Arith::Mul)?;
    let scale = if a == result(cast)? { b } else { a };
    let mut found = Scaled {
        cast,
        product,
        last: product,
        scale,
        bias: None,
    };
    if let Some(add) = pattern.reader(result(product)?)
        && let Some([a, b]) = operands(&graph.nodes[add], Arith::Add)
    {
        let other = if Some(a) == result(product) { b } else { a };
        if let Some((bias, [_])) = floats(graph, other)
            && bias.len() == columns
        {
            found.last = add;
            found.bias = Some(other);
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use crate::onnx::TensorProto;
    use crate::testing::{Graphs, f32_tensor, f32s};
    use crate::{Data, Tensor};

    fn bytes(data_type: i32, dims: &[i64], values: &[i32]) -> TensorProto {
        TensorProto {
            data_type: Some(data_type),
            dims: dims.to_vec(),
            int32_data: values.to_vec(),
            ..TensorProto::default()
        }
    }

    /// A dense layer as tools for dynamic quantisation leave it.
    fn layer(shown: bool) -> Graphs {
        let graph = Graphs::new(17)
            .input("x", 1, &[None, Some(3)])
            .constant("w", bytes(3, &[3, 2], &[1, -128, 127, 5, -7, 0]))
            .constant("z", bytes(3, &[], &[3]))
            .constant("s", f32_tensor(&[], &[0.25]))
            .constant("b", f32_tensor(&[2], &[0.5, -100.0]))
            .node("DynamicQuantizeLinear", &["x"], &["q", "qs", "qz"])
            .node("MatMulInteger", &["q", "w", "qz", "z"], &["p"])
            .node_with("Cast", &["p"], &["f"], |a| a.int("to", 1))
            .node("Mul", &["qs", "s"], &["scale"])
            .node("Mul", &["f", "scale"], &["m"])
            .node("Add", &["b", "m"], &["y"])
            .output("y");
        if shown { graph.output("p") } else { graph }
    }

    #[test]
    fn a_quantised_dense_layer_is_one_step_and_gives_the_same_bits() {
        let x = f32s(&[2, 3], &[0.1, -3.0, 2.0, 9.0, 0.0, 1.0]);
        let ops: Vec<String> = layer(false).plan().unwrap().steps.into_iter().map(|s| s.op).collect();
        assert_eq!(ops, ["DynamicQuantizeLinear", "Mul", "MatMulInteger"]);
        let steps = layer(true).run(vec![x.clone()]);
        let one = layer(false).run(vec![x]);
        assert_eq!(one[0], steps[0]);
        // Sums that someone else reads stay.
        assert_eq!(layer(true).plan().unwrap().steps.len(), 6);
    }

    #[test]
    fn rows_and_columns_may_have_zero_points_of_their_own() {
        let graph = Graphs::new(17)
            .input("x", 2, &[None, Some(2)])
            .input("p", 2, &[None])
            .constant("w", bytes(2, &[2, 2], &[1, 255, 7, 0]))
            .constant("q", bytes(2, &[2], &[1, 200]))
            .node("MatMulInteger", &["x", "w", "p", "q"], &["y"])
            .output("y");
        let u8s = |dims: &[usize], v: &[u8]| Tensor::new(dims.to_vec(), Data::U8(v.to_vec())).expect("fits");
        let out = graph.run(vec![u8s(&[2, 2], &[0, 255, 9, 4]), u8s(&[2], &[5, 9])]);
        let sum = |r: [i32; 2], c: [i32; 2]| r[0] * c[0] + r[1] * c[1];
        let (a, b) = ([[-5, 250], [0, -5]], [[0, 6], [55, -200]]);
        let wanted = vec![sum(a[0], b[0]), sum(a[0], b[1]), sum(a[1], b[0]), sum(a[1], b[1])];
        assert_eq!(out[0].data(), &Data::I32(wanted));
    }
}
