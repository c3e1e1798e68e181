//! The engine's executor on a GPU: the one place that monomorphises it for CUDA.

use std::path::Path;
use std::sync::Arc;

use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig as _};
use cubecl::cuda::CudaDevice;
use pilotlight_engine::Model;
use pilotlight_engine::backend::{Place, Width, load_on};

use super::primitives::{Cuda, Fixed};
use crate::{Gpu, Precision};

/// Keeps compiled kernels in this folder and takes what is there. Once in a process, before the first model is loaded. The folder
/// has to be writable, and of this very program, GPU model and driver: CubeCL's names of kernels say nothing of them.
///
/// # Errors
/// Where the folder can't be written to.
pub fn use_kernels(folder: &Path) -> Result<(), String> {
    let said = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(said)?;
    // A folder that can't be written to makes every kernel wait for its lock.
    tempfile_in(folder).map_err(said)?;
    let mut config = CubeClRuntimeConfig::default().override_from_env();
    config.compilation.cache = Some(CacheConfig::File(folder.to_owned()));
    config.autotune.cache = CacheConfig::File(folder.to_owned());
    // It panics where a configuration is there already, that is, in a second call.
    let set = std::panic::catch_unwind(move || CubeClRuntimeConfig::set(config));
    set.map_err(|_| "CubeCL was used before its folder was told".to_owned())
}

fn tempfile_in(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(format!(".writable-{}", std::process::id()));
    std::fs::write(&probe, "")?;
    std::fs::remove_file(&probe)
}

/// Reads an ONNX file and makes it ready to run on a GPU that [`crate::find`] found. Uploads the weights.
///
/// # Errors
/// The engine's words; also where the GPU's memory does not suffice, and where a model with 16-bit numbers of its own is asked for in
/// f16 or bf16.
pub fn load(path: &Path, gpu: &Gpu, precision: Precision) -> Result<Box<dyn Model>, String> {
    let place = Place::<Cuda> {
        device: CudaDevice::new(gpu.index as usize),
        primitives: Arc::new(Fixed {
            strict: precision == Precision::F32,
        }),
        width: match precision {
            Precision::F32 | Precision::Tf32 => Width::Full,
            Precision::F16 => Width::F16,
            Precision::Bf16 => Width::Bf16,
        },
    };
    load_on(path, &place).map_err(|error| error.to_string())
}
