//! Kernels for the CPU that the engine can't get from its backend, or not fast enough: convolutions and products over
//! packed weights, attention, normalisations, element-wise functions and transposes; and a model file's bytes without a
//! copy.
//!
//! A crate of its own, because it is the only one with `unsafe` code: loads and stores of vector kernels, calls into code
//! compiled for instructions that were found at run time (`simd`), slices that several tasks write in parts (`shared`),
//! the mapping of a file (`mapping`), and the opening of a library (`library`).
//! Everything runs on the current rayon pool, and on the caller's thread alone where there is too little work to share.

mod attention;
mod conv;
mod depthwise;
mod elementwise;
mod finish;
mod gemm;
pub mod library;
pub mod mapping;
mod math;
mod matmul;
mod norm;
mod permute;
mod pool;
mod reduce;
mod shared;
mod simd;
mod tasks;
#[cfg(test)]
mod testing;

pub use attention::{Attention, Heads, Mask, Sizes};
pub use conv::{Conv, Geometry};
pub use elementwise::{Pair, map, pair};
pub use finish::Function;
pub use matmul::{Batch, Finish, Matrix};
pub use norm::{layer_norm, softmax};
pub use permute::permute;
pub use pool::{Kind as PoolKind, Pool};
pub use reduce::{Fold, fold};
