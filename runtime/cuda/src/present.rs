//! What there is with the feature.

mod engine;
mod launch;
mod nvml;
mod primitives;
mod probe;
mod tuning;
#[cfg(feature = "twin")]
mod twin;

pub use engine::{Tuned, load, tune, use_kernels};
pub use nvml::usage;
pub use probe::find;
