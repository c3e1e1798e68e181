//! Constants in the form in which the backend's kernels read them, made once at load.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use crate::Tensor;
use crate::backend::{Accelerate, Prepared};
use crate::kernel::Kernel;
use crate::plan::{Plan, Step};

/// What the backend makes of the steps' constants. A constant that only one step reads is let go as soon as that step has it in
/// its own form, so that a model is in memory twice only by what is being prepared.
pub(super) fn prepare_all<A: Accelerate>(plan: &mut Plan) -> Vec<Option<Prepared<A::Weights>>> {
    let mut readers = vec![0usize; plan.constants.len()];
    let reads = plan
        .steps
        .iter()
        .flat_map(|s| s.inputs.iter().flatten())
        .map(|o| o.value);
    for value in reads.chain(plan.outputs.iter().copied()) {
        readers[value] += 1;
    }
    let slots: Vec<_> = std::mem::take(&mut plan.constants)
        .into_iter()
        .map(Mutex::new)
        .collect();
    let prepared: Vec<_> = plan
        .steps
        .par_iter()
        .map(|step| prepare::<A>(step, &slots, &readers))
        .collect();
    let inner = |slot: Mutex<_>| slot.into_inner().unwrap_or_else(PoisonError::into_inner);
    plan.constants = slots.into_iter().map(inner).collect();
    for (step, prepared) in plan.steps.iter_mut().zip(&prepared) {
        for &i in prepared.iter().flat_map(|p| &p.consumed) {
            step.inputs[i] = None;
        }
    }
    prepared
}

fn prepare<A: Accelerate>(
    step: &Step,
    constants: &[Mutex<Option<Arc<Tensor>>>],
    readers: &[usize],
) -> Option<Prepared<A::Weights>> {
    let Kernel::Device { op, .. } = &step.kernel else {
        return None;
    };
    let slot = |value: usize| constants[value].lock().unwrap_or_else(PoisonError::into_inner);
    let operands = step.inputs.iter().map(|o| slot((*o)?.value).clone());
    let prepared = A::prepare(op, &operands.collect::<Vec<_>>())?;
    for operand in prepared.consumed.iter().filter_map(|&i| step.inputs[i]) {
        if readers[operand.value] == 1 {
            *slot(operand.value) = None;
        }
    }
    Some(prepared)
}
