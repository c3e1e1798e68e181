//! NVIDIA GPUs: whether one can be used and what is missing where not, models on it, and how busy it is.
//!
//! Without the feature `cuda` there is no GPU and everything says so; the rest of the program is the same either way. With it,
//! `engine` instantiates the engine's executor for CubeCL's CUDA runtime. That takes minutes to build, so it happens here, behind
//! `dyn Model`, and nothing else is rebuilt for it. Kernels are written by CubeCL and compiled by NVRTC, at run time.

#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "decisions for the GPU's side"))]
mod choices;
mod found;
mod precision;
#[cfg(any(feature = "cuda", test))]
mod toolkit;
mod visible;

#[cfg(not(feature = "cuda"))]
#[path = "absent.rs"]
mod present;
#[cfg(feature = "cuda")]
mod present;

pub use choices::{Choices, Problem, Way};
pub use found::{Gpu, Reason, Unavailable};
pub use precision::Precision;
pub use present::{Tuned, find, load, tune, usage, use_kernels};

/// What a GPU does now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Part of the last sample period (a second or less) in which a kernel ran, 0 to 1. Of the whole card, whoever uses it.
    pub utilisation: f64,
    /// Bytes of its memory that are taken, by all processes.
    pub used: u64,
    /// Bytes of its memory.
    pub total: u64,
}

/// Reads a GPU's usage. Never blocks for long; `None` where the driver does not say.
pub type Gauge = Box<dyn Fn() -> Option<Usage> + Send + Sync>;
