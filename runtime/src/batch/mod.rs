//! The batch former: which waiting requests run together, and when.
//!
//! `Queue` keeps what waits, in groups that may share a run, each by priority and then first in first out. `decide` looks at a
//! queue, the time and the device, and says what to do next; `forecast` tells when a request that comes now would be answered;
//! `Learner` learns what a run costs. All are pure: no clock, no IO, no thread; the scheduler around them locks, measures and
//! executes. None ever looks at the tensors.

mod cost;
mod decide;
mod fill;
mod forecast;
mod queue;
#[cfg(test)]
mod tests;

pub use cost::{Cost, Learner};
pub use decide::{Decision, Device, decide};
pub use fill::Terms;
pub use forecast::forecast;
pub use queue::{Arrival, Priority, Queue, Ticket, Waiting};
