//! What a run may take, so that a hostile or mistaken model fails instead of exhausting the machine.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bounds of every run, of all models in the process. A run that would pass one of them ends with an error that names the
/// node; the process lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Elements of a tensor that is computed; weights are bounded by their file. Default: 2^29.
    pub elements: usize,
    /// Bytes of all values of one run that are alive at a time, weights not counted. Default: 16 GiB.
    pub bytes: usize,
    /// How often the bodies of loops run in one run, all loops together. Default: 2^20.
    pub passes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            elements: 1 << 29,
            bytes: 16 << 30,
            passes: 1 << 20,
        }
    }
}

static ELEMENTS: AtomicUsize = AtomicUsize::new(1 << 29);
static BYTES: AtomicUsize = AtomicUsize::new(16 << 30);
static PASSES: AtomicU64 = AtomicU64::new(1 << 20);

/// Sets the bounds of the process, for runs that begin later; runs that are under way may see either.
pub fn set_limits(limits: Limits) {
    ELEMENTS.store(limits.elements, Ordering::Relaxed);
    BYTES.store(limits.bytes, Ordering::Relaxed);
    PASSES.store(limits.passes, Ordering::Relaxed);
}

pub(crate) fn elements() -> usize {
    ELEMENTS.load(Ordering::Relaxed)
}

pub(crate) fn bytes() -> usize {
    BYTES.load(Ordering::Relaxed)
}

pub(crate) fn passes() -> u64 {
    PASSES.load(Ordering::Relaxed)
}
