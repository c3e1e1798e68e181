//! What an operator says when it can't go on; the executor and the planner add the node's name.

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
