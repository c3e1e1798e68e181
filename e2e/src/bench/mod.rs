//! What the benches share: a load generator that costs little itself, `HAProxy`, and the form of the figures.

mod generator;
pub mod grpc;
mod haproxy;
mod statistics;

pub use generator::{Client, Request, Round, ask, ask_at, run, run_at};
pub use haproxy::HaProxy;
pub use statistics::{figure, median, percentile};
