//! The same code over Vulkan, for tests where there is no NVIDIA GPU: Mesa's lavapipe runs its kernels on the processor.
//!
//! With `PILOTLIGHT_GPU_TWIN` in the environment the first GPU is this one. Everything above this crate is then as it is with CUDA; what
//! it can't show is CUDA itself: NVRTC and its cache of kernels, tensor cores, bf16, how fast anything is.

use cubecl::wgpu::WgpuDevice;

use crate::Gpu;

/// In the environment of a test.
const VARIABLE: &str = "PILOTLIGHT_GPU_TWIN";
/// Where a driver's version would stand.
const DRIVER: &str = "Vulkan";

/// The twin, where the environment asks for it.
pub(super) fn find(index: u32) -> Option<Gpu> {
    std::env::var_os(VARIABLE).filter(|_| index == 0)?;
    Some(Gpu {
        index,
        name: "twin on Vulkan".to_owned(),
        driver: DRIVER.to_owned(),
        memory: 0,
    })
}

/// Whether this GPU is the twin.
pub(super) fn is(gpu: &Gpu) -> bool {
    gpu.driver == DRIVER
}

/// Vulkan's driver for processors.
pub(super) fn device() -> WgpuDevice {
    WgpuDevice::Cpu
}
