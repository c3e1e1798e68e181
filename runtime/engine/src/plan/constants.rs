//! Computes at load what depends on no input: shape arithmetic above all.

use std::sync::Arc;

use crate::graph::{Graph, Node};
use crate::host;
use crate::kernel::{Inputs, Kernel};
use crate::{Tensor, shape};

/// Results larger than this are left to the run: a file of a few bytes must not fill the memory when it is loaded.
const MAX_FOLDED: usize = 1 << 20;

/// Replaces nodes whose inputs are all constant by their results. A node that fails is kept and fails when it runs.
pub(crate) fn fold(graph: &mut Graph) {
    let mut budget = 16 * MAX_FOLDED;
    let constants = &mut graph.constants;
    graph.nodes.retain(|n| match results(n, constants) {
        Some(results) if results.iter().map(|t| t.data().len()).sum::<usize>() <= budget => {
            budget -= results.iter().map(|t| t.data().len()).sum::<usize>();
            for (o, t) in n.outputs.iter().zip(results) {
                if let Some(o) = *o {
                    constants[o] = Some(t);
                }
            }
            false
        }
        _ => true,
    });
}

fn results(node: &Node, constants: &[Option<Arc<Tensor>>]) -> Option<Vec<Arc<Tensor>>> {
    if crate::ops::random::is_random(&node.op) {
        return None;
    }
    let inputs = node
        .inputs
        .iter()
        .map(|i| match i {
            None => Some(None),
            Some(id) => constants[*id].clone().map(Some),
        })
        .collect::<Option<Vec<_>>>()?;
    if inputs.iter().flatten().any(|t| t.data().len() > MAX_FOLDED) {
        return None;
    }
    let results: Vec<Arc<Tensor>> = match &node.kernel {
        Kernel::Host(op) | Kernel::Device { host: Some(op), .. } => {
            if !sized_within(node, &inputs) {
                return None;
            }
            host::run(op.as_ref(), &Inputs(&inputs))
                .ok()?
                .into_iter()
                .map(Arc::new)
                .collect()
        }
        Kernel::Shape { scalar, op } => {
            vec![Arc::new(
                crate::kernel::shape_result(*scalar, op, inputs.first()?.as_ref()?.shape()).ok()?,
            )]
        }
        Kernel::View(op) => {
            let first = inputs.first()?.clone()?;
            let views = op.views(first.shape(), &Inputs(&inputs[1..])).ok()?;
            let apply = |moves: Vec<crate::kernel::View>| {
                moves.iter().try_fold(first.clone(), |t, v| {
                    if let crate::kernel::View::Expand(to) = v
                        && shape::elements(to).ok()? > MAX_FOLDED
                    {
                        return None;
                    }
                    host::apply(t, v).ok()
                })
            };
            views.into_iter().map(apply).collect::<Option<_>>()?
        }
        Kernel::List(_) | Kernel::Control(_) | Kernel::Device { host: None, .. } => return None,
    };
    // Every output that is read must have come.
    let read = node.outputs.iter().rposition(Option::is_some).map_or(0, |p| p + 1);
    (results.len() >= read).then_some(results)
}

/// Operators whose result's size is a value in an operand are folded only where that value is small.
fn sized_within(node: &Node, inputs: &[Option<Arc<Tensor>>]) -> bool {
    let small = |t: &Tensor| {
        crate::kernel::i64s(t).is_ok_and(|v| {
            v.iter()
                .map(|&d| d.unsigned_abs() as usize)
                .try_fold(1usize, |n, d| n.checked_mul(d.max(1)))
                .is_some_and(|n| n <= MAX_FOLDED)
        })
    };
    match node.op.as_str() {
        "ConstantOfShape" | "Tile" | "Pad" | "OneHot" | "Resize" | "Upsample" => {
            inputs
                .iter()
                .skip(usize::from(node.op != "ConstantOfShape"))
                .flatten()
                .all(|t| small(t) || t.data().len() <= 1)
                && inputs.iter().flatten().all(|t| t.data().len() <= 64)
                && !matches!(node.op.as_str(), "Resize" | "Upsample" | "OneHot")
        }
        "Range" => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Graphs, i64_tensor};

    #[test]
    fn shape_arithmetic_on_constants_disappears_and_leaves_its_result() {
        let plan = Graphs::new(13)
            .input("x", 1, &[None, Some(4)])
            .constant("a", i64_tensor(&[2], &[2, 3]))
            .constant("b", i64_tensor(&[2], &[1, 1]))
            .node("Mul", &["a", "b"], &["c"])
            .node("Reshape", &["x", "c"], &["y"])
            .output("y")
            .plan()
            .unwrap();
        assert_eq!(plan.steps.len(), 1);
        assert_eq!(plan.steps[0].op, "Reshape");
    }

    #[test]
    fn a_constant_that_would_be_huge_is_left_to_the_run() {
        let plan = Graphs::new(13)
            .constant("s", i64_tensor(&[2], &[1 << 20, 1 << 10]))
            .node("ConstantOfShape", &["s"], &["y"])
            .output("y")
            .plan()
            .unwrap();
        assert_eq!(plan.steps.len(), 1);
    }
}
