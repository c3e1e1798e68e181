//! What there is without the feature: nothing.

use std::path::Path;
use std::time::Duration;

use pilotlight_engine::Model;

use crate::{Choices, Gauge, Gpu, Precision, Reason, Unavailable};

/// The GPU of this number, with all that is needed to run on it.
///
/// # Errors
/// What is missing.
pub fn find(_index: u32) -> Result<Gpu, Unavailable> {
    Err(Unavailable(vec![Reason::NotBuilt]))
}

/// Keeps compiled kernels in this folder.
///
/// # Errors
/// Always: there are none.
pub fn use_kernels(_folder: &Path) -> Result<(), String> {
    Err(Reason::NotBuilt.to_string())
}

/// Reads an ONNX file and makes it ready to run there.
///
/// # Errors
/// Always.
pub fn load(_path: &Path, _gpu: &Gpu, _precision: Precision, _choices: Choices) -> Result<Box<dyn Model>, String> {
    Err(Reason::NotBuilt.to_string())
}

/// A preparation under way; there is none.
#[derive(Clone, Debug)]
pub struct Tuned(std::convert::Infallible);

impl Tuned {
    /// What was chosen so far.
    pub fn choices(&self) -> Choices {
        match self.0 {}
    }
}

/// As [`load`], for a preparation.
///
/// # Errors
/// Always.
pub fn tune(_: &Path, _: &Gpu, _: Precision, _limit: Duration) -> Result<(Box<dyn Model>, Tuned), String> {
    Err(Reason::NotBuilt.to_string())
}

/// A gauge of the GPU.
pub fn usage(_gpu: &Gpu) -> Option<Gauge> {
    None
}
