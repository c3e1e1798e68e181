//! The CPU, through `burn-flex`. The one place in this crate that monomorphises the executor.

use burn_flex::{Flex, FlexDevice};

use crate::Model;
use crate::exec::Executor;
use crate::fault::OpResult;
use crate::plan::Plan;

/// The plan on the CPU.
pub(crate) fn compile(plan: Plan) -> OpResult<Box<dyn Model>> {
    Ok(Box::new(Executor::<Flex>::new(plan, FlexDevice)?))
}
