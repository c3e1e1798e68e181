//! `ZipMap` at an output: the scores go out as they are, and the class names into the output's `labels`.

use super::replace;
use crate::Labels;
use crate::graph::{Graph, Role};
use crate::{Dim, LoadError};

/// Takes every `ZipMap` out of the graph. One whose result another node reads can't be, since maps are no tensors.
pub(crate) fn resolve(graph: &mut Graph) -> Result<(), LoadError> {
    let maps: Vec<usize> = (0..graph.nodes.len())
        .filter(|&n| matches!(graph.nodes[n].role, Role::ZipMap(_)))
        .collect();
    for n in maps {
        let node = &graph.nodes[n];
        let (Role::ZipMap(labels), Some(Some(from)), Some(Some(to))) = (
            node.role.clone(),
            node.outputs.first().copied(),
            node.inputs.first().copied(),
        ) else {
            continue;
        };
        if graph.nodes.iter().any(|n| n.inputs.contains(&Some(from))) {
            return Err(LoadError::Node {
                node: node.name.clone(),
                op: node.op.clone(),
                reason: "another node reads its result; that is supported only as an output of the model".into(),
            });
        }
        let classes = match &labels {
            Labels::Ints(l) => l.len(),
            Labels::Strings(l) => l.len(),
        };
        for (_, info) in graph.outputs.iter_mut().filter(|(id, _)| *id == from) {
            info.labels = Some(labels.clone());
            info.shape = Some(vec![Dim::Unknown, Dim::Fixed(classes)]);
        }
        replace(graph, from, to);
    }
    graph.nodes.retain(|n| !matches!(n.role, Role::ZipMap(_)));
    Ok(())
}
