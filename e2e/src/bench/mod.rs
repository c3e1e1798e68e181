//! What the benches share: a load generator that costs little itself, `HAProxy`, and the form of the figures.

mod generator;
mod haproxy;
mod statistics;

pub use generator::{Request, Round, run, run_at};
pub use haproxy::HaProxy;
pub use statistics::{figure, median, percentile};
