//! Where the executor meets concrete backends: [`load_on`] runs a model on any Burn backend, in a crate of its own where that
//! backend takes long to build. The CPU's instantiation, `flex`, is in this crate.

pub(crate) mod flex;
mod place;

use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

pub use burn_backend::Backend;
use burn_backend::ops::ConvOptions;
use burn_backend::tensor::{Device, FloatTensor};

use crate::device::DeviceOp;
use crate::exec::Executor;
use crate::fault::OpResult;
use crate::value::Value;
use crate::{LoadError, Model, Tensor, load};

/// What a backend offers besides its primitives: the choice of kernel where Burn's own choice is not the one wanted. Every
/// function may panic where the device fails (it has no memory left, say): the run or the load then ends with an error.
pub trait Primitives<B: Backend>: Send + Sync + 'static {
    /// A convolution of two spatial dimensions, `[batch, channels, height, width]`; everything is known to fit.
    fn conv2d(
        &self,
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        bias: Option<FloatTensor<B>>,
        options: ConvOptions<2>,
    ) -> FloatTensor<B> {
        B::conv2d(x, weight, bias, options)
    }

    /// A product of matrices in the last two dimensions; ranks are equal, the other dimensions equal or 1.
    fn matmul(&self, a: FloatTensor<B>, b: FloatTensor<B>) -> FloatTensor<B> {
        B::float_matmul(a, b)
    }

    /// A convolution's constant weights once, at load, in whichever layout `conv2d` reads best. Shape and elements stay.
    fn lay_out(&self, weight: FloatTensor<B>) -> FloatTensor<B> {
        weight
    }
}

/// Burn's own choices.
#[derive(Clone, Copy, Debug)]
pub struct Unchanged;

impl<B: Backend> Primitives<B> for Unchanged {}

/// How wide the numbers are with which a device computes what the model declares as FP32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Width {
    /// 32 bits, as the model says.
    #[default]
    Full,
    /// IEEE half precision: 11 bits of precision, up to 65,504.
    F16,
    /// The upper half of an FP32: 8 bits of precision, FP32's range.
    Bf16,
}

/// A device and how models run on it.
pub struct Place<B: Backend> {
    /// The device.
    pub device: Device<B>,
    /// Who computes what Burn's own choice is not wanted for.
    pub primitives: Arc<dyn Primitives<B>>,
    /// In what the device holds weights and values that the model declares as FP32. Inputs are narrowed on the host before they
    /// are copied, outputs widened after; what runs on the host stays FP32.
    pub width: Width,
}

/// Reads an ONNX file and makes it ready to run there, through the backend's primitives. Uploads the weights.
///
/// # Errors
/// As [`crate::load`]; also where the device has no memory left, and where a model with 16-bit numbers of its own is asked for
/// in another width than [`Width::Full`].
pub fn load_on<B: Backend>(path: &Path, place: &Place<B>) -> Result<Box<dyn Model>, LoadError> {
    load::on_place(path, |plan| {
        let executor = crate::fault::caught(|| Executor::<Plain<B>>::new(plan, place.clone()))?;
        Ok(Box::new(executor) as Box<dyn Model>)
    })
}

/// What a backend made of a step's constant operands at load.
pub(crate) struct Prepared<P> {
    /// What its kernel reads.
    pub(crate) weights: P,
    /// The operands that the step no longer reads.
    pub(crate) consumed: Vec<usize>,
    /// Memory that it takes.
    pub(crate) bytes: usize,
}

/// A backend with what the executor can do better than through the backend's own primitives. A type beside the backend, so that a
/// backend of another crate can have one.
pub(crate) trait Accelerate: Send + Sync + Sized + 'static {
    /// The backend.
    type Backend: Backend;

    /// Constant operands of a step in the layout that this backend's kernels read.
    type Weights: Send + Sync;

    /// Whether its values are in the host's memory, so that inputs have nowhere to be copied to.
    const ON_HOST: bool;

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
        _operands: &mut [Option<Value<Self::Backend>>],
    ) -> OpResult<Option<Value<Self::Backend>>> {
        Ok(None)
    }
}

/// A backend with its primitives and nothing else.
pub(crate) struct Plain<B>(PhantomData<fn() -> B>);

impl<B: Backend> Accelerate for Plain<B> {
    type Backend = B;
    type Weights = ();
    const ON_HOST: bool = false;
}
