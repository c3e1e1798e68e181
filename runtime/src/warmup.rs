//! The one run that a model must survive before it is ready.
//!
//! Its inputs are zeros (empty strings) in the declared shape, dimensions of no fixed size being 1. Where that is a fair sample
//! (every input numeric, every dimension but the first fixed) a failing run fails the model. Otherwise the sample may be at
//! fault: an empty string need not be a known category, a picture of one pixel may be too small for the first pooling. Such a
//! failure is logged and the model is ready; a model that refuses its inputs (`RunError::Input`) is ready as well, and one that is
//! not pure is not run.

use std::sync::Arc;
use std::time::Duration;

use pilotlight_engine::{Data, DataType, Dim, RunError, Signature, Tensor, TensorInfo};
use tokio::time::Instant;

use crate::error::InferError;
use crate::model::Model;
use crate::scheduler::{Request, Scheduler};
use crate::served::Served;

/// A first run may compile and tune; it has nothing to do with a request's deadline.
const LIMIT: Duration = Duration::from_mins(10);

/// Elements of a sample; past it there is no warm-up, for what would be measured is the allocator.
const MOST_ELEMENTS: usize = 1 << 28;

/// Runs the model once through the executor.
///
/// # Errors
/// The reason why the model can't serve.
pub(crate) async fn warm_up(scheduler: &Scheduler, served: &Arc<Served>) -> Result<(), String> {
    if !served.model().is_pure() {
        return Ok(());
    }
    let Some(inputs) = sample(served.signature()) else {
        tracing::warn!(
            model = served.name(),
            "no warm-up run: the declared inputs are too large"
        );
        return Ok(());
    };
    let now = Instant::now();
    let request = Request {
        inputs,
        arrived: now,
        deadline: now + LIMIT,
        priority: 0,
    };
    let result = match scheduler.submit(scheduler.open(served), request) {
        Ok(pending) => pending.wait().await.map(drop),
        Err(refused) => Err(refused),
    };
    let Err(error) = result else { return Ok(()) };
    if forgivable(&error, served.signature()) {
        tracing::warn!(model = served.name(), %error, "the warm-up run failed on made-up inputs; the model is ready all the same");
        return Ok(());
    }
    Err(format!("the warm-up run failed: {error}"))
}

/// Runs the model once on the calling thread, with the same rules.
pub(crate) fn run_once(model: &dyn Model) -> Result<(), String> {
    let Some(inputs) = sample(model.signature()) else {
        return Ok(());
    };
    match model.run(inputs).map_err(InferError::from) {
        Err(error) if !forgivable(&error, model.signature()) => Err(format!("the warm-up run failed: {error}")),
        _ => Ok(()),
    }
}

fn forgivable(error: &InferError, signature: &Signature) -> bool {
    match error {
        // A full queue is no fault of the model; it will be warm after its first request.
        InferError::Run(RunError::Input { .. })
        | InferError::QueueFull { .. }
        | InferError::QueueBytesFull { .. }
        | InferError::Unreachable { .. } => true,
        InferError::Run(RunError::Node { .. }) => !signature.inputs.iter().all(is_fair),
        InferError::Timeout { .. } | InferError::Broken(_) => false,
    }
}

/// Whether zeros in the smallest shape are as good an input as any.
fn is_fair(input: &TensorInfo) -> bool {
    let fixed = |shape: &Vec<Dim>| shape.iter().skip(1).all(|d| matches!(d, Dim::Fixed(_)));
    input.datatype != DataType::Bytes && input.shape.as_ref().is_some_and(fixed)
}

fn sample(signature: &Signature) -> Option<Vec<Tensor>> {
    sample_of(signature, 1)
}

/// Zeros of this many rows, where the first dimension is of no fixed size. `None` where they are too large.
pub(crate) fn sample_of(signature: &Signature, rows: usize) -> Option<Vec<Tensor>> {
    signature.inputs.iter().map(|info| zeros(info, rows)).collect()
}

fn zeros(info: &TensorInfo, rows: usize) -> Option<Tensor> {
    let size = |(i, dim): (usize, &Dim)| match dim {
        Dim::Fixed(n) => *n,
        Dim::Symbol(_) | Dim::Unknown if i == 0 => rows,
        Dim::Symbol(_) | Dim::Unknown => 1,
    };
    let shape: Vec<usize> = info
        .shape
        .as_ref()
        .map_or_else(|| vec![rows], |dims| dims.iter().enumerate().map(size).collect());
    let n = shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= MOST_ELEMENTS)?;
    Tensor::new(shape, Data::zeros(info.datatype, n))
}
