//! Takes nodes out of the graph that only pass their input on.

use crate::graph::{Graph, Role};

/// Readers of an identity's output read its input instead. One pass: nodes come in order, so chains collapse.
pub(crate) fn remove(graph: &mut Graph) {
    let mut alias: Vec<usize> = (0..graph.constants.len()).collect();
    for n in &mut graph.nodes {
        for i in n.inputs.iter_mut().flatten() {
            *i = alias[*i];
        }
        if n.role == Role::Identity
            && let (Some(Some(from)), Some(Some(to))) = (n.outputs.first().copied(), n.inputs.first().copied())
        {
            alias[from] = to;
        }
    }
    for (id, _) in &mut graph.outputs {
        *id = alias[*id];
    }
    graph.nodes.retain(|n| n.role != Role::Identity);
}
