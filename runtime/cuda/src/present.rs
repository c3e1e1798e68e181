//! What there is with the feature.

mod engine;
mod nvml;
mod primitives;
mod probe;

pub use engine::{load, use_kernels};
pub use nvml::usage;
pub use probe::find;
