//! Where the executor meets concrete backends. Another backend's crate instantiates it the same way.

pub(crate) mod flex;

use std::sync::Arc;

use burn_backend::Backend;

use crate::Tensor;
use crate::device::DeviceOp;
use crate::fault::OpResult;
use crate::value::Value;

/// What a backend made of a step's constant operands at load.
pub(crate) struct Prepared<P> {
    /// What its kernel reads.
    pub(crate) weights: P,
    /// The operands that the step no longer reads.
    pub(crate) consumed: Vec<usize>,
    /// Memory that it takes.
    pub(crate) bytes: usize,
}

/// A backend with what the executor can do better than through the backend's own primitives. A backend that has nothing
/// of its own implements this with `type Weights = ()` and no functions.
pub(crate) trait Accelerate: Backend {
    /// Constant operands of a step in the layout that this backend's kernels read.
    type Weights: Send + Sync;

    /// Prepares a step's constants at load; `None` where there is nothing to prepare. Steps are prepared in parallel.
    fn prepare(_op: &DeviceOp, _constants: &[Option<Arc<Tensor>>]) -> Option<Prepared<Self::Weights>> {
        None
    }

    /// Whether `run` may take steps of this kind: their constants then stay on the host.
    fn covers(_op: &DeviceOp) -> bool {
        false
    }

    /// Executes a step by a kernel of its own. `None` leaves it to the backend's primitives; the operands are then as they
    /// were. Operands that are used up may be taken out of the list.
    fn run(
        _op: &DeviceOp,
        _weights: Option<&Self::Weights>,
        _operands: &mut [Option<Value<Self>>],
    ) -> OpResult<Option<Value<Self>>> {
        Ok(None)
    }
}
