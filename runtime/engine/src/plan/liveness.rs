//! Which nodes matter, and where each value is read last.

use crate::graph::Graph;

/// Removes nodes and constants from which no output can be reached.
pub(crate) fn remove_dead(graph: &mut Graph) {
    let mut live = vec![false; graph.constants.len()];
    for (id, _) in &graph.outputs {
        live[*id] = true;
    }
    let mut keep = vec![false; graph.nodes.len()];
    for (n, node) in graph.nodes.iter().enumerate().rev() {
        keep[n] = node.outputs.iter().flatten().any(|&o| live[o]);
        if keep[n] {
            for &i in node.inputs.iter().flatten() {
                live[i] = true;
            }
        }
    }
    let mut keep = keep.iter();
    graph.nodes.retain(|_| keep.next().is_some_and(|&k| k));
    for (id, constant) in graph.constants.iter_mut().enumerate() {
        if !live[id] {
            *constant = None;
        }
    }
}

/// For each node and input whether that is the last time the value is read. A value that goes out is never let go.
pub(crate) fn last_uses(graph: &Graph) -> Vec<Vec<bool>> {
    let mut seen = vec![false; graph.constants.len()];
    for (id, _) in &graph.outputs {
        seen[*id] = true;
    }
    let mut last: Vec<Vec<bool>> = Vec::with_capacity(graph.nodes.len());
    for node in graph.nodes.iter().rev() {
        // From the right, so that a node reading one value twice lets go of it at its last operand.
        let mut flags: Vec<bool> = node
            .inputs
            .iter()
            .rev()
            .map(|i| i.is_some_and(|i| !std::mem::replace(&mut seen[i], true)))
            .collect();
        flags.reverse();
        last.push(flags);
    }
    last.reverse();
    last
}

#[cfg(test)]
mod tests {
    use crate::testing::Graphs;

    #[test]
    fn a_value_is_let_go_at_its_last_operand_and_outputs_never() {
        let plan = Graphs::new(13)
            .input("x", 1, &[None])
            .node("Add", &["x", "x"], &["y"])
            .node("Add", &["y", "y"], &["z"])
            .output("y")
            .output("z")
            .plan()
            .unwrap();
        let last: Vec<Vec<bool>> = plan
            .steps
            .iter()
            .map(|s| s.inputs.iter().flatten().map(|o| o.last).collect())
            .collect();
        assert_eq!(last, [[false, true], [false, false]]);
    }

    #[test]
    fn nodes_that_lead_to_no_output_are_dropped() {
        let plan = Graphs::new(13)
            .input("x", 1, &[None])
            .node("Neg", &["x"], &["dead"])
            .node("Abs", &["x"], &["y"])
            .output("y")
            .plan()
            .unwrap();
        assert_eq!(plan.steps.len(), 1);
    }
}
