//! From a graph to steps: passes that shrink the graph, then the last use of every value.

mod attention;
mod batch_norm;
mod constants;
mod convolution;
mod dense;
mod gelu;
mod identity;
mod integer;
mod layer_norm;
mod liveness;
mod pattern;
mod rows;
mod zip_map;

use std::sync::Arc;

pub(crate) use rows::{Cut, Rows};

use crate::graph::{Graph, ValueId};
use crate::kernel::Kernel;
use crate::{LoadError, Signature, Tensor};

/// A graph ready to run on any backend.
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// For each value its constant, where it has one that is still read.
    pub(crate) constants: Vec<Option<Arc<Tensor>>>,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<ValueId>,
    pub(crate) signature: Signature,
    /// Each pass with the number of nodes that it left.
    pub(crate) passes: Vec<(&'static str, usize)>,
    /// Why no protocol can carry what goes in or out, where that is so.
    pub(crate) unservable: Option<String>,
}

/// One node to execute.
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) op: String,
    pub(crate) inputs: Vec<Option<Operand>>,
    pub(crate) outputs: Vec<Option<ValueId>>,
    pub(crate) kernel: Kernel,
}

/// A value that a step reads; after its last use its memory is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operand {
    pub(crate) value: ValueId,
    pub(crate) last: bool,
}

/// Runs all passes.
pub(crate) fn plan(mut graph: Graph) -> Result<Plan, LoadError> {
    let mut passes = vec![("file", graph.nodes.len())];
    let mut pass = |name, graph: &Graph| passes.push((name, graph.nodes.len()));
    zip_map::resolve(&mut graph)?;
    identity::remove(&mut graph);
    pass("identities", &graph);
    constants::fold(&mut graph);
    pass("constants", &graph);
    batch_norm::fold(&mut graph);
    convolution::fuse(&mut graph);
    pass("convolutions", &graph);
    gelu::fuse(&mut graph);
    integer::fuse(&mut graph);
    layer_norm::fuse(&mut graph);
    attention::fuse(&mut graph);
    // What the patterns left behind must not count as a reader of what dense layers draw in.
    liveness::remove_dead(&mut graph);
    pass("patterns", &graph);
    dense::fuse(&mut graph);
    liveness::remove_dead(&mut graph);
    pass("dense layers", &graph);
    let last = liveness::last_uses(&graph);
    let (inputs, input_infos) = graph.inputs.into_iter().unzip();
    let (outputs, output_infos): (Vec<_>, _) = graph.outputs.into_iter().unzip();
    let steps = graph.nodes.into_iter().zip(last);
    let steps = steps
        .map(|(n, last)| Step {
            name: n.name,
            op: n.op,
            inputs: n
                .inputs
                .iter()
                .zip(last)
                .map(|(i, last)| i.map(|value| Operand { value, last }))
                .collect(),
            outputs: n.outputs,
            kernel: n.kernel,
        })
        .collect();
    let signature = Signature {
        inputs: input_infos,
        outputs: output_infos,
    };
    Ok(Plan {
        steps,
        constants: graph.constants,
        inputs,
        outputs,
        signature,
        passes,
        unservable: graph.unservable,
    })
}

/// Makes every reader of `from` read `to` instead.
fn replace(graph: &mut Graph, from: ValueId, to: ValueId) {
    for n in &mut graph.nodes {
        for i in n.inputs.iter_mut().flatten() {
            if *i == from {
                *i = to;
            }
        }
    }
    for (o, _) in &mut graph.outputs {
        if *o == from {
            *o = to;
        }
    }
}
