//! The batch former: which waiting requests run together, and when.
//!
//! `Queue` keeps what waits, in groups that may share a run, each first in first out. `decide` looks at a queue, the time and
//! the device, and says what to do next. Both are pure: no clock, no IO, no thread; the scheduler around them locks, measures
//! and executes. Neither ever looks at the tensors.

mod decide;
mod queue;
#[cfg(test)]
mod tests;

pub use decide::{Decision, Device, Terms, decide};
pub use queue::{Queue, Ticket, Waiting};
