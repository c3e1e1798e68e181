//! Folds a batch normalisation into the convolution in front of it: y = (x·w + b - mean)·k + bias, with k = scale /
//! √(variance + ε), is a convolution with the weights w·k and the bias (b - mean)·k + bias.

use std::sync::Arc;

use crate::graph::{Graph, Role, ValueId};
use crate::{Data, Tensor};

/// Folds every pair whose parameters are constant and whose intermediate result nobody else reads.
pub(crate) fn fold(graph: &mut Graph) {
    let mut uses = vec![0usize; graph.constants.len()];
    for id in graph.nodes.iter().flat_map(|n| n.inputs.iter().flatten()) {
        uses[*id] += 1;
    }
    for (id, _) in &graph.outputs {
        uses[*id] += 1;
    }
    let mut made_by: Vec<Option<usize>> = vec![None; graph.constants.len()];
    for (n, node) in graph.nodes.iter().enumerate() {
        for id in node.outputs.iter().flatten() {
            made_by[*id] = Some(n);
        }
    }
    let mut folded = vec![false; graph.nodes.len()];
    for (n, folded) in folded.iter_mut().enumerate() {
        *folded = fold_one(graph, n, &uses, &made_by).is_some();
    }
    let mut folded = folded.iter();
    graph.nodes.retain(|_| !folded.next().is_some_and(|&f| f));
}

fn fold_one(graph: &mut Graph, n: usize, uses: &[usize], made_by: &[Option<usize>]) -> Option<()> {
    let norm = &graph.nodes[n];
    let Role::BatchNorm { epsilon } = norm.role else {
        return None;
    };
    let between = norm.inputs.first().copied()??;
    let c = made_by[between]?;
    let conv = &graph.nodes[c];
    if conv.role != Role::Conv || uses[between] != 1 {
        return None;
    }
    let floats = |id: Option<&Option<ValueId>>| -> Option<Vec<f32>> {
        match graph.constants[(*id?)?].as_ref()?.data() {
            Data::F32(v) => Some(v.clone()),
            _ => None,
        }
    };
    let [scale, bias, mean, variance] = [1, 2, 3, 4].map(|i| floats(norm.inputs.get(i)));
    let (scale, bias, mean, variance) = (scale?, bias?, mean?, variance?);
    let weights = graph.constants[conv.inputs.get(1).copied()??].clone()?;
    let mut w = floats(conv.inputs.get(1))?;
    let channels = *weights.shape().first()?;
    let own_bias = match conv.inputs.get(2) {
        Some(Some(_)) => floats(conv.inputs.get(2))?,
        _ => vec![0.0; channels],
    };
    if channels == 0
        || [&scale, &bias, &mean, &variance, &own_bias]
            .iter()
            .any(|v| v.len() != channels)
    {
        return None;
    }
    let per_channel = w.len() / channels;
    let mut b = Vec::with_capacity(channels);
    for o in 0..channels {
        // In double precision, since the one rounding error is then multiplied by every input.
        let k = f64::from(scale[o]) / (f64::from(variance[o]) + f64::from(epsilon)).sqrt();
        for v in &mut w[o * per_channel..(o + 1) * per_channel] {
            *v = (f64::from(*v) * k) as f32;
        }
        b.push(((f64::from(own_bias[o]) - f64::from(mean[o])) * k + f64::from(bias[o])) as f32);
    }
    let w = Tensor::new(weights.shape().to_vec(), Data::F32(w))?;
    let b = Tensor::new(vec![channels], Data::F32(b))?;
    let output = norm.outputs.clone();
    // New values: another node may share the old weights.
    let id = graph.constants.len();
    graph.constants.push(Some(Arc::new(w)));
    graph.constants.push(Some(Arc::new(b)));
    let conv = &mut graph.nodes[c];
    conv.inputs.truncate(1);
    conv.inputs.extend([Some(id), Some(id + 1)]);
    // The convolution may have taken an earlier fold's output name; here it takes the norm's.
    conv.outputs = output;
    Some(())
}

#[cfg(test)]
mod tests {
    use crate::testing::{Graphs, f32_tensor, run_f32};

    fn graph(second_reader: bool) -> Graphs {
        let g = Graphs::new(13)
            .input("x", 1, &[Some(1), Some(1), Some(2)])
            .constant("w", f32_tensor(&[1, 1, 1], &[3.0]))
            .constant("s", f32_tensor(&[1], &[2.0]))
            .constant("b", f32_tensor(&[1], &[1.0]))
            .constant("m", f32_tensor(&[1], &[4.0]))
            .constant("v", f32_tensor(&[1], &[0.25]))
            .node("Conv", &["x", "w"], &["c"])
            .node_with("BatchNormalization", &["c", "s", "b", "m", "v"], &["y"], |a| {
                a.float("epsilon", 0.0);
            })
            .output("y");
        if second_reader { g.output("c") } else { g }
    }

    #[test]
    fn a_norm_behind_a_convolution_disappears_and_the_result_stays() {
        let plan = graph(false).plan().unwrap();
        assert_eq!(plan.steps.len(), 1);
        // (3x - 4) * 2 / 0.5 + 1
        assert_eq!(
            run_f32(&graph(false), &[&[1, 1, 2]], &[&[1.0, 2.0]]),
            vec![vec![-3.0, 9.0]]
        );
    }

    #[test]
    fn a_norm_whose_input_someone_else_reads_stays() {
        assert_eq!(graph(true).plan().unwrap().steps.len(), 2);
        assert_eq!(
            run_f32(&graph(true), &[&[1, 1, 2]], &[&[1.0, 2.0]]),
            vec![vec![-3.0, 9.0], vec![3.0, 6.0]]
        );
    }
}
