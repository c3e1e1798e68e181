//! What an operator says when it can't go on; the executor and the planner add the node's name.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// The reason in words, with what was found and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) String);

/// The result of anything inside an operator.
pub(crate) type OpResult<T> = Result<T, Fault>;

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns a `Fault` from the enclosing function.
macro_rules! bail {
    ($($arg:tt)*) => { return Err($crate::fault::Fault(format!($($arg)*))) };
}

/// Returns a `Fault` unless the condition holds.
macro_rules! ensure {
    ($cond:expr, $($arg:tt)*) => { if !$cond { return Err($crate::fault::Fault(format!($($arg)*))) } };
}

pub(crate) use {bail, ensure};

/// Runs something that a backend may panic in; the panic becomes a fault. What it changed is not to be looked at after one.
pub(crate) fn caught<T>(f: impl FnOnce() -> OpResult<T>) -> OpResult<T> {
    let panicked = |panic: Box<dyn std::any::Any + Send>| Fault(format!("the backend panicked: {}", message(&*panic)));
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| Err(panicked(panic)))
}

/// What a panic said.
pub(crate) fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
