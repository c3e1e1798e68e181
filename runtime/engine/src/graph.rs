//! A model's graph, checked as hostile input: every name is defined once and before it is read, every operator is known.
//!
//! Values are numbers from here on. What is refused: duplicate names, unknown or later-defined inputs (which includes
//! cycles), unknown operators and attributes, tensors that contradict their dimensions, graphs and functions that nest
//! too deep, functions that call themselves. Calls of functions are replaced by their bodies.

mod expand;
mod info;
mod names;
mod read;

use std::sync::Arc;

pub(crate) use expand::expand;
pub(crate) use read::read;

use crate::kernel::Kernel;
use crate::registry::{self, ML};
use crate::spec::Spec;
use crate::{Tensor, TensorInfo};

/// The number of a value: an index into the graph's tables.
pub(crate) type ValueId = usize;

/// A node with its kernel.
pub(crate) struct Node {
    /// Its name, or its first output where it has none.
    pub(crate) name: String,
    pub(crate) op: String,
    pub(crate) inputs: Vec<Option<ValueId>>,
    /// `None` where nobody can read the output.
    pub(crate) outputs: Vec<Option<ValueId>>,
    pub(crate) kernel: Kernel,
    /// What passes rewrite; `None` for all other nodes.
    pub(crate) role: Role,
}

/// Nodes that passes over the graph look for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Role {
    Plain,
    /// Passes its first input on.
    Identity,
    Conv,
    BatchNorm {
        epsilon: f32,
    },
    /// Reorders dimensions; `None` turns them around.
    Transpose(Option<Vec<i64>>),
    /// Names the columns of its input.
    ZipMap(crate::Labels),
}

/// Nodes in an order in which they can run, and what goes in and out.
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    /// For each value its constant, where it has one.
    pub(crate) constants: Vec<Option<Arc<Tensor>>>,
    pub(crate) inputs: Vec<(ValueId, TensorInfo)>,
    pub(crate) outputs: Vec<(ValueId, TensorInfo)>,
    /// Why no protocol can carry what goes in or out, where that is so.
    pub(crate) unservable: Option<String>,
}

fn role(domain: &str, spec: &Spec<'_>) -> crate::fault::OpResult<Role> {
    Ok(match (domain, spec.op) {
        (registry::ONNX, "Identity") => Role::Identity,
        // With a mask output, or in training, it is no plain identity.
        (registry::ONNX, "Dropout") if !spec.has_output(1) && !spec.has_input(2) => Role::Identity,
        (registry::ONNX, "Conv") => Role::Conv,
        (registry::ONNX, "BatchNormalization")
            if !spec.outputs.iter().skip(1).any(|&o| o) && !spec.flag("training_mode", false)? =>
        {
            Role::BatchNorm {
                epsilon: spec.float("epsilon", 1e-5)?,
            }
        }
        (registry::ONNX, "Transpose") => Role::Transpose(spec.ints("perm")?),
        (ML, "ZipMap") => Role::ZipMap(crate::ops::ml::labels(spec)?),
        _ => Role::Plain,
    })
}
