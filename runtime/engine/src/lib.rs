//! Runs ONNX models on Burn. Knows nothing of serving: a model file in, tensors in, tensors out.
//!
//! `onnx` reads the file into a `Graph` that is checked as hostile input; `plan` turns the graph into steps (constant
//! folding, liveness); `exec` runs the steps on a Burn backend, one operator family per file under `ops`.

#![cfg_attr(
    test,
    allow(
        clippy::cloned_ref_to_slice_refs,
        reason = "tests list their inputs alike, one or many"
    )
)]

pub mod backend;
pub mod error;
pub mod explain;
pub mod onnx;
pub mod tensor;

mod buffers;
mod control;
mod decode;
mod device;
mod exec;
mod fault;
mod files;
mod graph;
mod host;
mod item;
mod kernel;
mod limits;
mod load;
mod ops;
mod permute;
mod plan;
mod registry;
mod shape;
mod small;
mod spec;
#[cfg(test)]
mod testing;
mod value;
mod window;

use std::any::Any;

pub use error::{LoadError, RunError};
pub use item::Item;
pub use limits::{Limits, set_limits};
pub use load::{Device, LoadOptions, load, load_bytes, load_items, read_item, read_tensor};
pub use small::Small;
pub use tensor::{Data, DataType, Tensor};

/// A model loaded on a device, ready to run. Shared by threads; runs may overlap.
pub trait Model: Send + Sync + 'static {
    /// Names, types and shapes of inputs and outputs.
    fn signature(&self) -> &Signature;

    /// Runs the model once. `inputs` come in the signature's order, one per input, already of its data type and rank.
    ///
    /// # Errors
    /// A `RunError` names the node at fault; the model stays usable. A backend's panic is caught and returned as one.
    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, RunError>;

    /// Copies the inputs of a coming run to the device, while another run may be under way.
    ///
    /// # Errors
    /// As `run`.
    fn stage(&self, inputs: Vec<Tensor>) -> Result<Staged, RunError> {
        Ok(Staged::new(inputs))
    }

    /// As `run`, with what `stage` of the same model made of the inputs.
    ///
    /// # Errors
    /// As `run`.
    fn run_staged(&self, staged: Staged) -> Result<Vec<Tensor>, RunError> {
        self.run(staged.take()?)
    }
}

/// Inputs on their way to a run, in whatever form the model has them until then.
pub struct Staged(Box<dyn Any + Send>);

impl Staged {
    /// Inputs in a model's own form.
    pub fn new<T: Any + Send>(inputs: T) -> Self {
        Self(Box::new(inputs))
    }

    /// The form back.
    ///
    /// # Errors
    /// Where it is another model's.
    pub fn take<T: Any + Send>(self) -> Result<T, RunError> {
        let other = |_| RunError::Node {
            node: String::new(),
            op: String::new(),
            reason: "internal: the inputs were staged by another model".to_owned(),
        };
        self.0.downcast().map(|inputs| *inputs).map_err(other)
    }
}

impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staged").finish_non_exhaustive()
    }
}

/// A loaded model that may take and give sequences and optionals, which no protocol carries: for running, not for serving.
pub trait ItemModel: Send + Sync {
    /// Names, types and shapes; of a sequence or an optional those of the tensors in it.
    fn signature(&self) -> &Signature;

    /// Runs the model once. `inputs` come in the signature's order; their types and shapes are not compared with it.
    ///
    /// # Errors
    /// As `Model::run`.
    fn run_items(&self, inputs: Vec<Item>) -> Result<Vec<Item>, RunError>;
}

/// One dimension of a declared shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always this size.
    Fixed(usize),
    /// Any size, the same wherever the symbol stands (`N`, `batch`).
    Symbol(String),
    /// Any size.
    Unknown,
}

/// Class names of a classifier's scores, in the order of the last dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    /// Integer classes.
    Ints(Vec<i64>),
    /// String classes.
    Strings(Vec<String>),
}

/// A model's input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name in the graph.
    pub name: String,
    /// Its element type.
    pub datatype: DataType,
    /// Its declared shape; `None` where the model declares not even the rank.
    pub shape: Option<Vec<Dim>>,
    /// For scores that the model maps to class names (ONNX's ZipMap, passed through as the plain score tensor).
    pub labels: Option<Labels>,
}

/// What goes in and what comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Inputs without initialisers, in the graph's order.
    pub inputs: Vec<TensorInfo>,
    /// Outputs in the graph's order.
    pub outputs: Vec<TensorInfo>,
}
