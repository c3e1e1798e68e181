//! From a file to a model that can run.

use std::path::Path;
use std::sync::OnceLock;

use bytes::Bytes;
use pilotlight_kernels::mapping::Mapping;
use prost::Message;

use crate::fault::OpResult;
use crate::files::Files;
use crate::onnx::{ModelProto, OptionalProto, SequenceProto, TensorProto};
use crate::{Item, ItemModel, LoadError, Model, Tensor, backend, decode, graph, plan};

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
    /// The best that this crate has: the CPU. Other devices are reached through [`crate::backend::load_on`].
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
    on_device(compile_file(path)?, options)
}

/// As `load`, of a model that may take and give sequences and optionals.
///
/// # Errors
/// As `load`.
pub fn load_items(path: &Path, options: &LoadOptions) -> Result<Box<dyn ItemModel>, LoadError> {
    set_threads(options.threads);
    let plan = compile_file(path)?;
    match options.device {
        Device::Auto | Device::Cpu => backend::flex::compile_items(plan).map_err(|e| LoadError::Invalid(e.0)),
    }
}

/// As `load`, of a model whose steps can be watched.
pub(crate) fn watched(path: &Path, options: &LoadOptions) -> Result<Box<dyn crate::explain::Watched>, LoadError> {
    set_threads(options.threads);
    let plan = compile_file(path)?;
    match options.device {
        Device::Auto | Device::Cpu => backend::flex::compile_watched(plan).map_err(|e| LoadError::Invalid(e.0)),
    }
}

/// The plan of a file, which is mapped: the weights are copied once, into the tensors, and what was copied is let go.
fn compile_file(path: &Path) -> Result<plan::Plan, LoadError> {
    let mapping = Mapping::new(path).map_err(|e| LoadError::Read {
        path: path.display().to_string(),
        reason: e.to_string(),
    })?;
    compile_in(mapping.bytes(), &Files::beside(path).with(mapping))
}

/// Makes an ONNX file that is already in memory ready to run.
///
/// # Errors
/// As `load`.
pub fn load_bytes(bytes: Bytes, options: &LoadOptions) -> Result<Box<dyn Model>, LoadError> {
    on_device(compile(bytes)?, options)
}

/// Reads a file and hands its plan, of which a protocol can carry what goes in and out, to an executor.
pub(crate) fn on_place(
    path: &Path,
    make: impl FnOnce(plan::Plan) -> OpResult<Box<dyn Model>>,
) -> Result<Box<dyn Model>, LoadError> {
    let plan = compile_file(path)?;
    servable(&plan)?;
    make(plan).map_err(|e| LoadError::Invalid(e.0))
}

fn servable(plan: &plan::Plan) -> Result<(), LoadError> {
    match &plan.unservable {
        Some(reason) => Err(LoadError::Invalid(format!("{reason}; only tensors can be served"))),
        None => Ok(()),
    }
}

fn on_device(plan: plan::Plan, options: &LoadOptions) -> Result<Box<dyn Model>, LoadError> {
    servable(&plan)?;
    set_threads(options.threads);
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

/// Reads a file of ONNX's test data as what the model's signature says there is: 0 a tensor, 1 a sequence, 2 an optional.
///
/// # Errors
/// As `read_tensor`.
pub fn read_item(bytes: Bytes, kind: i32) -> Result<Item, LoadError> {
    let invalid = |e: prost::DecodeError| LoadError::Invalid(e.to_string());
    let sequence = |s: &SequenceProto| {
        let list = s.tensor_values.iter().map(decode::tensor).collect::<Result<_, _>>();
        list.map(Item::Sequence).map_err(|e| LoadError::Invalid(e.0))
    };
    match kind {
        1 => sequence(&SequenceProto::decode(bytes).map_err(invalid)?),
        2 => {
            let optional = OptionalProto::decode(bytes).map_err(invalid)?;
            match (&optional.tensor_value, &optional.sequence_value) {
                (Some(t), _) => Ok(Item::Tensor(decode::tensor(t).map_err(|e| LoadError::Invalid(e.0))?)),
                (_, Some(s)) => sequence(s),
                _ => Ok(Item::Nothing),
            }
        }
        _ => read_tensor(bytes).map(Item::Tensor),
    }
}

/// Everything up to the backend, of a model without other files.
pub(crate) fn compile(bytes: Bytes) -> Result<plan::Plan, LoadError> {
    compile_in(bytes, &Files::default())
}

fn compile_in(bytes: Bytes, files: &Files) -> Result<plan::Plan, LoadError> {
    let mut model = ModelProto::decode(bytes).map_err(|e| LoadError::Invalid(e.to_string()))?;
    graph::expand(&mut model);
    plan::plan(graph::read(&model, files)?)
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
