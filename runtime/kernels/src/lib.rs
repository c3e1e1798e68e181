//! Kernels for the CPU that the engine can't get from its backend, or not fast enough: convolutions and products over
//! packed weights, attention, normalisations, element-wise functions and transposes; and a model file's bytes without a
//! copy.
//!
//! A crate of its own, because it is the only one with `unsafe` code: loads and stores of vector kernels, calls into code
//! compiled for instructions that were found at run time (`simd`), slices that several tasks write in parts (`shared`),
//! the mapping of a file (`mapping`), the opening of a library (`library`), and a caller's work on other threads (`crew`).
//! Everything runs on the caller's thread, with the help of as many others as the process's rayon pool has where there is
//! enough work to share (`crew`).

mod attention;
mod conv;
mod crew;
mod depthwise;
#[cfg(target_arch = "x86_64")]
mod direct;
mod elementwise;
mod finish;
mod gemm;
mod integer;
pub mod library;
pub mod mapping;
mod math;
mod matmul;
mod norm;
mod permute;
mod planes;
mod pool;
mod quantize;
mod recurrent;
mod reduce;
mod shared;
mod simd;
mod tasks;
#[cfg(test)]
mod testing;

pub use attention::{Attention, Heads, Mask, Sizes};
pub use conv::{Conv, Geometry};
pub use crew::{each, threads};
pub use elementwise::{Pair, map, pair};
pub use finish::Function;
pub use integer::{Eight, IntegerMatrix, IntegerOut};
pub use matmul::{Batch, Finish, Matrix};
pub use norm::{layer_norm, softmax};
pub use permute::permute;
pub use pool::{Kind as PoolKind, Pool};
pub use quantize::{dequantize, quantize_i8, quantize_u8, range_with_zero};
pub use recurrent::lstm_cell;
pub use reduce::{Fold, fold};
pub use tasks::ranges;
