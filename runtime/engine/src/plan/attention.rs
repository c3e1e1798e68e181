//! Finds scaled dot-product attention: the softmax of a product of queries and transposed keys, scaled and masked, times the
//! values. The transposes around it become part of it, so that nothing is moved in memory for them.

use super::pattern::{Pattern, number, op, operands, order, with_number};
use crate::device::{Arith, Attention, DeviceOp, Fused};
use crate::graph::{Graph, ValueId};
use crate::kernel::Kernel;

/// Puts one instruction in the place of each; what led to it is dead unless someone else reads it.
pub(crate) fn fuse(graph: &mut Graph) {
    let pattern = Pattern::new(graph);
    for n in 0..graph.nodes.len() {
        let Some(mut found) = find(graph, &pattern, n) else {
            continue;
        };
        let mut last = n;
        // Positions in front of heads again, where the result is read so.
        if let Some(id) = graph.nodes[n].outputs.first().copied().flatten()
            && let Some(reader) = pattern.reader(id)
            && order(&graph.nodes[reader]) == Some([0, 2, 1, 3])
        {
            found.attention.heads_first = false;
            last = reader;
        }
        let node = &mut graph.nodes[last];
        node.kernel = Kernel::device(Fused::Attention(found.attention).into());
        node.op = "Attention".into();
        node.role = crate::graph::Role::Plain;
        node.inputs = vec![Some(found.query), Some(found.key), Some(found.value), found.mask];
    }
}

struct Found {
    attention: Attention,
    query: ValueId,
    key: ValueId,
    value: ValueId,
    mask: Option<ValueId>,
}

/// From the product of shares and values.
fn find(graph: &Graph, pattern: &Pattern, n: usize) -> Option<Found> {
    let [shares, values] = product(graph, n)?;
    let softmax = pattern.maker(shares)?;
    pattern.reader(shares)?;
    let DeviceOp::Softmax {
        axis: -1 | 3,
        log: false,
        flat: false,
    } = op(&graph.nodes[softmax])?
    else {
        return None;
    };
    let masked = graph.nodes[softmax].inputs.first().copied()??;
    for (scores, mask) in unmasked(graph, pattern, masked) {
        let (scores, mut scale) = scaled(graph, pattern, scores);
        let Some([query, keys]) = pattern.maker(scores).and_then(|m| product(graph, m)) else {
            continue;
        };
        let (query, by) = scaled(graph, pattern, query);
        scale *= by;
        let (keys, by) = scaled(graph, pattern, keys);
        scale *= by;
        let ((query, q), (key, k), (value, v)) = (
            source(graph, pattern, query)?,
            source(graph, pattern, keys)?,
            source(graph, pattern, values)?,
        );
        // The keys came transposed: their last two dimensions are size and position.
        let [b, h, d, s] = k;
        return Some(Found {
            attention: Attention {
                scale,
                query: q,
                key: [b, h, s, d],
                value: v,
                heads_first: true,
            },
            query,
            key,
            value,
            mask,
        });
    }
    None
}

fn product(graph: &Graph, n: usize) -> Option<[ValueId; 2]> {
    match (op(&graph.nodes[n])?, &graph.nodes[n].inputs[..]) {
        (DeviceOp::MatMul, &[Some(a), Some(b)]) => Some([a, b]),
        _ => None,
    }
}

/// What the scores may be, and the mask beside them.
fn unmasked(graph: &Graph, pattern: &Pattern, id: ValueId) -> Vec<(ValueId, Option<ValueId>)> {
    match pattern.arith(graph, id, Arith::Add) {
        Some([a, b]) => vec![(a, Some(b)), (b, Some(a))],
        None => vec![(id, None)],
    }
}

/// A value without the number that it was multiplied with.
fn scaled(graph: &Graph, pattern: &Pattern, id: ValueId) -> (ValueId, f32) {
    let Some(node) = pattern.maker(id).map(|m| &graph.nodes[m]) else {
        return (id, 1.0);
    };
    if let Some([x, by]) = operands(node, Arith::Div)
        && let Some(by) = number(graph, by)
    {
        return (x, 1.0 / by);
    }
    if let Some(pair) = operands(node, Arith::Mul)
        && let Some((x, by)) = with_number(graph, pair)
    {
        return (x, by);
    }
    (id, 1.0)
}

/// What a value is a transpose of, with the order of its dimensions. Without a transpose there is no telling how many
/// dimensions it has.
fn source(graph: &Graph, pattern: &Pattern, id: ValueId) -> Option<(ValueId, [usize; 4])> {
    let mut at = id;
    let mut all: Option<[usize; 4]> = None;
    while let Some(node) = pattern.maker(at).map(|m| &graph.nodes[m])
        && let Some(one) = order(node)
    {
        all = Some(all.map_or(one, |all| all.map(|d| one[d])));
        at = node.inputs.first().copied()??;
    }
    Some((at, all?))
}

#[cfg(test)]
mod tests {
    use crate::testing::{Graphs, f32_tensor, run_f32};

    /// Two heads of two numbers, three positions.
    fn graph(masked: bool, turned: bool, divided: bool) -> Graphs {
        let dims = [Some(1), Some(3), Some(2), Some(2)];
        let turn = |perm: &'static [i64]| move |a: &mut crate::testing::Attributes| a.ints("perm", perm);
        let mut g = Graphs::new(14)
            .input("q", 1, &dims)
            .input("k", 1, &dims)
            .input("v", 1, &dims)
            .constant("root", f32_tensor(&[], &[2.0]))
            .constant("part", f32_tensor(&[], &[0.5]))
            .constant("mask", f32_tensor(&[1, 1, 1, 3], &[0.0, -1e9, 0.5]))
            .node_with("Transpose", &["q"], &["qt"], turn(&[0, 2, 1, 3]))
            .node_with("Transpose", &["k"], &["kt"], turn(&[0, 2, 3, 1]))
            .node_with("Transpose", &["v"], &["vt"], turn(&[0, 2, 1, 3]));
        g = if divided {
            g.node("MatMul", &["qt", "kt"], &["raw"])
                .node("Div", &["raw", "root"], &["s"])
        } else {
            g.node("Mul", &["qt", "part"], &["qs"])
                .node("MatMul", &["qs", "kt"], &["s"])
        };
        let scores = if masked {
            g = g.node("Add", &["s", "mask"], &["m"]);
            "m"
        } else {
            "s"
        };
        g = g
            .node_with("Softmax", &[scores], &["p"], |a| a.int("axis", -1))
            .node("MatMul", &["p", "vt"], &["o"]);
        if turned {
            g.node_with("Transpose", &["o"], &["y"], turn(&[0, 2, 1, 3]))
                .output("y")
        } else {
            g.output("o")
        }
    }

    #[test]
    fn every_form_becomes_one_step_and_gives_what_the_steps_give() {
        let q: Vec<f32> = (0..12u8).map(|k| f32::from(k % 5) / 3.0 - 0.5).collect();
        let k: Vec<f32> = (0..12u8).map(|k| f32::from(k % 7) / 4.0 - 0.6).collect();
        let v: Vec<f32> = (0..12u8).map(f32::from).collect();
        for (masked, turned, divided) in [
            (false, false, true),
            (true, true, true),
            (true, false, false),
            (false, true, false),
        ] {
            let ops: Vec<String> = graph(masked, turned, divided)
                .plan()
                .unwrap()
                .steps
                .into_iter()
                .map(|s| s.op)
                .collect();
            assert_eq!(ops, ["Attention"]);
            let dims: &[usize] = &[1, 3, 2, 2];
            let found = run_f32(&graph(masked, turned, divided), &[dims; 3], &[&q, &k, &v]);
            for head in 0..2 {
                for i in 0..3 {
                    let dot =
                        |j: usize| -> f32 { (0..2).map(|d| q[i * 4 + head * 2 + d] * k[j * 4 + head * 2 + d]).sum() };
                    let mask = if masked { [0.0, -1e9, 0.5] } else { [0.0; 3] };
                    let powers: Vec<f32> = (0..3).map(|j| (dot(j) / 2.0 + mask[j]).exp()).collect();
                    let total: f32 = powers.iter().sum();
                    for d in 0..2 {
                        let wanted: f32 = (0..3).map(|j| powers[j] / total * v[j * 4 + head * 2 + d]).sum();
                        let at = if turned {
                            (i * 2 + head) * 2 + d
                        } else {
                            (head * 3 + i) * 2 + d
                        };
                        assert!(
                            (found[0][at] - wanted).abs() < 1e-5,
                            "{} instead of {wanted}",
                            found[0][at]
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn shares_that_go_out_stay() {
        let steps = graph(true, true, true).output("p").plan().unwrap().steps;
        assert!(steps.iter().all(|s| s.op != "Attention"));
    }
}
