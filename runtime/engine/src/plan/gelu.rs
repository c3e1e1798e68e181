//! Finds GELU where an exporter wrote it out: x · ½ · (1 + erf(x / √2)), in any order of the factors.

use super::pattern::{Pattern, about, operands, with_number};
use crate::device::{Arith, DeviceOp, Unary};
use crate::graph::{Graph, ValueId};
use crate::kernel::Kernel;

/// Puts one instruction in the place of each; what led to it is dead unless someone else reads it.
pub(crate) fn fuse(graph: &mut Graph) {
    let pattern = Pattern::new(graph);
    for n in 0..graph.nodes.len() {
        if let Some((last, x)) = find(graph, &pattern, n) {
            let node = &mut graph.nodes[last];
            node.kernel = Kernel::device(DeviceOp::Unary(Unary::Gelu));
            node.op = "Gelu".into();
            node.inputs = vec![Some(x)];
        }
    }
}

/// From a multiplication of 1 + erf(x / √2): the node whose result is the GELU, and x.
fn find(graph: &Graph, pattern: &Pattern, n: usize) -> Option<(usize, ValueId)> {
    let [a, b] = operands(&graph.nodes[n], Arith::Mul)?;
    for (sum, other) in [(a, b), (b, a)] {
        let Some(x) = erf_of(graph, pattern, sum) else { continue };
        if other == x {
            // x · (1 + erf) first, then ½.
            let product = graph.nodes[n].outputs.first().copied()??;
            let last = pattern.reader(product)?;
            let (_, half) = with_number(graph, operands(&graph.nodes[last], Arith::Mul)?)?;
            return about(half, 0.5).then_some((last, x));
        }
        // ½ · x, or ½ · (1 + erf) on this side.
        if let Some((y, half)) = halved(graph, pattern, other)
            && y == x
            && about(half, 0.5)
        {
            return Some((n, x));
        }
        if let Some(half) = super::pattern::number(graph, other)
            && about(half, 0.5)
        {
            let product = graph.nodes[n].outputs.first().copied()??;
            let last = pattern.reader(product)?;
            let [c, d] = operands(&graph.nodes[last], Arith::Mul)?;
            return [c, d].contains(&x).then_some((last, x)).filter(|_| c != d);
        }
    }
    None
}

fn halved(graph: &Graph, pattern: &Pattern, id: ValueId) -> Option<(ValueId, f32)> {
    if let Some(pair) = pattern.arith(graph, id, Arith::Mul) {
        return with_number(graph, pair);
    }
    let [y, two] = pattern.arith(graph, id, Arith::Div)?;
    Some((y, 1.0 / super::pattern::number(graph, two)?))
}

/// x, where the value is 1 + erf(x / √2).
fn erf_of(graph: &Graph, pattern: &Pattern, id: ValueId) -> Option<ValueId> {
    let (erf, one) = with_number(graph, pattern.arith(graph, id, Arith::Add)?)?;
    if one != 1.0 {
        return None;
    }
    let scaled = pattern.unary(graph, erf, Unary::Erf)?;
    if let Some([x, root]) = pattern.arith(graph, scaled, Arith::Div) {
        return about(super::pattern::number(graph, root)?, std::f32::consts::SQRT_2).then_some(x);
    }
    let (x, root) = with_number(graph, pattern.arith(graph, scaled, Arith::Mul)?)?;
    about(root, std::f32::consts::FRAC_1_SQRT_2).then_some(x)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Graphs, f32_tensor, run_f32};

    fn graph() -> Graphs {
        Graphs::new(14)
            .input("x", 1, &[None])
            .constant("root", f32_tensor(&[], &[std::f32::consts::SQRT_2]))
            .constant("one", f32_tensor(&[], &[1.0]))
            .constant("half", f32_tensor(&[], &[0.5]))
            .node("Div", &["x", "root"], &["d"])
            .node("Erf", &["d"], &["e"])
            .node("Add", &["one", "e"], &["s"])
    }

    fn ops(graph: Graphs) -> Vec<String> {
        graph.plan().unwrap().steps.into_iter().map(|s| s.op).collect()
    }

    #[test]
    fn every_order_of_the_factors_becomes_one_step() {
        let orders: [fn(Graphs) -> Graphs; 3] = [
            |g| g.node("Mul", &["x", "s"], &["p"]).node("Mul", &["p", "half"], &["y"]),
            |g| g.node("Mul", &["half", "x"], &["h"]).node("Mul", &["s", "h"], &["y"]),
            |g| g.node("Mul", &["s", "half"], &["p"]).node("Mul", &["p", "x"], &["y"]),
        ];
        for order in orders {
            let graph = order(graph()).output("y");
            let found = run_f32(&graph, &[&[3]], &[&[1.0, -2.0, 0.0]]);
            for (found, wanted) in found[0].iter().zip([0.841_344_7_f32, -0.045_500_3, 0.0]) {
                assert!((found - wanted).abs() < 1e-6, "{found} instead of {wanted}");
            }
            assert_eq!(ops(graph), ["Gelu"]);
        }
    }

    #[test]
    fn other_numbers_or_another_factor_are_left_alone() {
        let other = graph()
            .input("z", 1, &[None])
            .node("Mul", &["z", "s"], &["p"])
            .node("Mul", &["p", "half"], &["y"])
            .output("y");
        assert_eq!(ops(other).len(), 5);
        let number = graph()
            .node("Mul", &["x", "s"], &["p"])
            .node("Mul", &["p", "root"], &["y"])
            .output("y");
        assert_eq!(ops(number).len(), 5);
    }

    #[test]
    fn what_someone_else_reads_stays() {
        let graph = || {
            graph()
                .node("Mul", &["x", "s"], &["p"])
                .node("Mul", &["p", "half"], &["y"])
                .output("y")
                .output("s")
        };
        assert_eq!(ops(graph()), ["Div", "Erf", "Add", "Gelu"]);
        let found = run_f32(&graph(), &[&[1]], &[&[0.0]]);
        assert_eq!(found, [[0.0], [1.0]]);
    }
}
