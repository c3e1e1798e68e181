//! Where the executor meets concrete backends. Another backend's crate instantiates it the same way.

pub(crate) mod flex;

use burn_backend::Backend;
use burn_backend::tensor::FloatTensor;

use crate::Tensor;
use crate::device::Conv;
use crate::fault::{OpResult, bail};

/// A backend with what the executor can do better than through the backend's own primitives. A backend that has nothing
/// of its own implements this with `type Convolution = ()` and no functions.
pub(crate) trait Accelerate: Backend {
    /// Constant weights of a convolution in the layout that this backend's kernel reads.
    type Convolution: Send + Sync;

    /// Prepares weights at load; `None` leaves the convolution to the backend's primitives.
    fn pack(_weights: &Tensor, _attrs: &Conv) -> Option<Self::Convolution> {
        None
    }

    /// Convolution, bias, addition of the residual and bounds in one. Called only with what `pack` returned.
    fn conv2d_fused(
        _weights: &Self::Convolution,
        _attrs: &Conv,
        _x: FloatTensor<Self>,
        _bias: Option<FloatTensor<Self>>,
        _residual: Option<FloatTensor<Self>>,
    ) -> OpResult<FloatTensor<Self>> {
        bail!("the backend has no convolution of its own")
    }
}
