//! ONNX's own cases of its operators, run by the engine: what passes, by operator and by data type.
//!
//! The `onnx` package carries them as directories with a model of one node or few, inputs, and the outputs of ONNX's
//! reference implementation. They run on the CPU backend in this process. A second pass runs them on other inputs, for
//! which onnxruntime gave the outputs, so that no case can be met by anything but its operator.

mod case;
mod compare;
mod report;

pub use case::{Case, Outcome, all};
pub use report::{Report, Row};
