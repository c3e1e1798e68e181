//! The engine's executor on a GPU: the one place that monomorphises it for CUDA, and for Vulkan in tests.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use burn_backend::Backend;
use burn_backend::tensor::Device;
use burn_cubecl::CubeRuntime;
use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig as _};
use cubecl::cuda::{CudaDevice, CudaRuntime};
use pilotlight_engine::Model;
use pilotlight_engine::backend::{Place, Width, load_on};

use super::launch::Cube;
use super::primitives::Fixed;
use super::tuning::Tuning;
use crate::{Choices, Gpu, Precision};

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

/// Reads an ONNX file and makes it ready to run on a GPU that [`crate::find`] found, by the kernels that a preparation chose.
/// Uploads the weights.
///
/// # Errors
/// The engine's words; also where the GPU's memory does not suffice, and where a model with 16-bit numbers of its own is asked for in
/// f16 or bf16.
pub fn load(path: &Path, gpu: &Gpu, precision: Precision, choices: Choices) -> Result<Box<dyn Model>, String> {
    on(path, gpu, precision, choices, None)
}

/// A preparation under way: what its model's runs chose so far.
#[derive(Clone, Debug)]
pub struct Tuned(Arc<Tuning>);

impl Tuned {
    /// The fastest way for every problem that was met.
    pub fn choices(&self) -> Choices {
        self.0.choices()
    }
}

/// As [`load`], for a preparation: the first run at a size times the ways to compute what it has to, for `limit` altogether, and the
/// next ones take the fastest. Not for serving.
///
/// # Errors
/// As [`load`].
pub fn tune(path: &Path, gpu: &Gpu, precision: Precision, limit: Duration) -> Result<(Box<dyn Model>, Tuned), String> {
    let tuning = Arc::new(Tuning::new(limit));
    let model = on(path, gpu, precision, Choices::default(), Some(Arc::clone(&tuning)))?;
    Ok((model, Tuned(tuning)))
}

fn on(
    path: &Path,
    gpu: &Gpu,
    precision: Precision,
    choices: Choices,
    tuning: Option<Arc<Tuning>>,
) -> Result<Box<dyn Model>, String> {
    let fixed = Fixed {
        strict: precision == Precision::F32,
        choices,
        tuning,
    };
    #[cfg(feature = "twin")]
    if super::twin::is(gpu) {
        return of::<cubecl::wgpu::WgpuRuntime>(path, super::twin::device(), precision, fixed);
    }
    of::<CudaRuntime>(path, CudaDevice::new(gpu.index as usize), precision, fixed)
}

fn of<R: CubeRuntime>(
    path: &Path,
    device: Device<Cube<R>>,
    precision: Precision,
    fixed: Fixed,
) -> Result<Box<dyn Model>, String>
where
    Cube<R>: Backend,
{
    let place = Place::<Cube<R>> {
        device,
        primitives: Arc::new(fixed),
        width: match precision {
            Precision::F32 | Precision::Tf32 => Width::Full,
            Precision::F16 => Width::F16,
            Precision::Bf16 => Width::Bf16,
        },
    };
    load_on(path, &place).map_err(|error| error.to_string())
}
