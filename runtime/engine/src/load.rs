//! From a file to a model that can run.

use std::path::Path;
use std::sync::OnceLock;

use bytes::Bytes;
use prost::Message;

use crate::onnx::{ModelProto, TensorProto};
use crate::{LoadError, Model, Tensor, backend, decode, graph, plan};

/// Where a model runs and on how many threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Default: `Auto`.
    pub device: Device,
    /// Worker threads of the CPU backend; `None` takes one per core (or `RAYON_NUM_THREADS`). The process has one pool,
    /// made at its first use: the first load that says a number decides, later ones change nothing.
    pub threads: Option<usize>,
}

/// Kinds of devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The best that this build and machine have; today the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
}

/// Reads an ONNX file and makes it ready to run.
///
/// # Errors
/// A `LoadError` names the node, tensor or operator at fault. Nothing in a file makes this panic or take memory out of
/// proportion to the file's size.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Box<dyn Model>, LoadError> {
    let bytes = std::fs::read(path).map_err(|e| LoadError::Read {
        path: path.display().to_string(),
        reason: e.to_string(),
    })?;
    load_bytes(Bytes::from(bytes), options)
}

/// Makes an ONNX file that is already in memory ready to run.
///
/// # Errors
/// As `load`.
pub fn load_bytes(bytes: Bytes, options: &LoadOptions) -> Result<Box<dyn Model>, LoadError> {
    set_threads(options.threads);
    let plan = compile(bytes)?;
    match options.device {
        Device::Auto | Device::Cpu => backend::flex::compile(plan).map_err(|e| LoadError::Invalid(e.0)),
    }
}

/// Reads a tensor file (a serialised `TensorProto`), as ONNX's test data has them.
///
/// # Errors
/// `LoadError::Invalid` where the bytes are no tensor of a supported type.
pub fn read_tensor(bytes: Bytes) -> Result<Tensor, LoadError> {
    let proto = TensorProto::decode(bytes).map_err(|e| LoadError::Invalid(e.to_string()))?;
    decode::tensor(&proto).map_err(|e| LoadError::Invalid(e.0))
}

/// Everything up to the backend.
pub(crate) fn compile(bytes: Bytes) -> Result<plan::Plan, LoadError> {
    let model = ModelProto::decode(bytes).map_err(|e| LoadError::Invalid(e.to_string()))?;
    plan::plan(graph::read(&model)?)
}

fn set_threads(threads: Option<usize>) {
    static POOL: OnceLock<()> = OnceLock::new();
    if let Some(threads) = threads.filter(|&t| t > 0) {
        POOL.get_or_init(|| {
            if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
                tracing::warn!(%error, threads, "the worker pool was there before; its size stays");
            }
        });
    }
}
