//! Kernels for the CPU that the engine can't get from its backend: a convolution over packed weights.
//!
//! A crate of its own, because it is the only one with `unsafe` code: `simd` holds all of it, which is the loads and
//! stores of three vector kernels and the calls into code compiled for instructions that were found at run time.

mod conv;
mod depthwise;
mod gemm;
mod simd;

pub use conv::{Conv, Geometry};
