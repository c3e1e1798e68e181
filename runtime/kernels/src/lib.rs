//! Kernels for the CPU that the engine can't get from its backend: a convolution over packed weights. And the mapping of
//! files.
//!
//! A crate of its own, because it is the only one with `unsafe` code: `simd` holds the loads and stores of three vector
//! kernels and the calls into code compiled for instructions that were found at run time, `mapping` the one call that
//! maps a file.

mod conv;
mod depthwise;
mod gemm;
pub mod mapping;
mod simd;

pub use conv::{Conv, Geometry};
