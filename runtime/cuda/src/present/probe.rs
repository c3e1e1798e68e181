//! Looks for what CUDA needs, before Burn touches any of it: with a library missing, its threads would panic.

use std::path::PathBuf;

use pilotlight_kernels::library;

use super::nvml;
use crate::found::{Findings, verdict};
use crate::toolkit::{headers, roots};
use crate::{Gpu, Unavailable};

/// Names under which CubeCL opens them.
const DRIVER: &[&str] = &["libcuda.so", "libcuda.so.1"];
const NVRTC: &[&str] = &["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11"];

/// The GPU of this number, with all that is needed to run on it. Opens libraries and looks at files; takes some milliseconds.
///
/// # Errors
/// What is missing.
pub fn find(index: u32) -> Result<Gpu, Unavailable> {
    #[cfg(feature = "twin")]
    if let Some(gpu) = super::twin::find(index) {
        return Ok(gpu);
    }
    let findings = Findings {
        driver: nvml::driver(index),
        library: library::open(DRIVER),
        nvrtc: library::open(NVRTC),
        headers: headers(&roots(std::env::var_os("CUDA_PATH").map(PathBuf::from))),
    };
    verdict(index, findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_here_gives_a_gpu_or_says_what_is_missing() {
        if let Err(error) = find(0) {
            assert!(!error.0.is_empty(), "{error}");
        }
    }
}
