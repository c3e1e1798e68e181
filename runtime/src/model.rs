//! What can be served: the seam between the runtime and whatever computes.

use std::path::Path;
use std::sync::Arc;

pub use pilotlight_engine::Staged;
use pilotlight_engine::{LoadOptions, RunError, Signature, Tensor};

/// A model. ONNX files are one implementation; implement it for a model of your own, in Burn or anything else, and
/// [`crate::Server`] gives it batching, the protocols and metrics. `examples/own_model.rs` shows it.
pub trait Model: Send + Sync + 'static {
    /// Names, types and shapes of inputs and outputs. Requests may share a run where every shape begins with the same symbol
    /// (or an unknown size): such a model has to treat each row on its own.
    fn signature(&self) -> &Signature;

    /// Runs the model once, on the executor's thread, one run at a time. `inputs` come in the signature's order, one per input,
    /// of its data type and of a shape that fits the declared one; the outputs have to be in the signature's order too.
    /// It may block; a request whose deadline passes meanwhile is answered without it. A panic fails the run, not the process.
    ///
    /// # Errors
    /// `RunError::Input` for what the client sent (400), `RunError::Node` for everything else (500).
    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, RunError>;

    /// Takes the inputs of a coming run to where the model runs, while another run may be under way: called on another thread than
    /// `run`, one run ahead. The default leaves them where they are.
    ///
    /// # Errors
    /// As `run`.
    fn stage(&self, inputs: Vec<Tensor>) -> Result<Staged, RunError> {
        Ok(Staged::new(inputs))
    }

    /// As `run`, with what `stage` made of the inputs.
    ///
    /// # Errors
    /// As `run`.
    fn run_staged(&self, staged: Staged) -> Result<Vec<Tensor>, RunError> {
        self.run(staged.take()?)
    }

    /// Whether running it again on the same inputs is harmless and gives the same. One that says no is not run on made-up inputs
    /// before it is ready, and a batch that fails is not run again request by request: all its requests get the error. What
    /// proxies in front replay is not decided here: set the annotation `pilotlight.dev/pure` too.
    fn is_pure(&self) -> bool {
        true
    }

    /// What the metadata says it runs on, in the form `project_format`.
    fn platform(&self) -> &'static str {
        "burn_rust"
    }
}

/// A model of an ONNX file.
pub(crate) struct Onnx(pub(crate) Box<dyn pilotlight_engine::Model>);

impl Model for Onnx {
    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, RunError> {
        self.0.run(inputs)
    }

    fn stage(&self, inputs: Vec<Tensor>) -> Result<Staged, RunError> {
        self.0.stage(inputs)
    }

    fn run_staged(&self, staged: Staged) -> Result<Vec<Tensor>, RunError> {
        self.0.run_staged(staged)
    }

    fn platform(&self) -> &'static str {
        "burn_onnx"
    }
}

/// Loads an ONNX file. Blocks.
///
/// # Errors
/// The engine's words.
pub fn load_onnx(path: &Path, options: &LoadOptions) -> Result<Arc<dyn Model>, String> {
    let model = pilotlight_engine::load(path, options).map_err(|error| error.to_string())?;
    Ok(Arc::new(Onnx(model)))
}
