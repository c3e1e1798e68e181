//! The runtime: one process that serves ONNX models over HTTP with dynamic batching.
//!
//! `faces` and `grpc` turn bodies into tensors and back; `app` leads a request through them; `scheduler` queues it and asks `batch`,
//! which is pure, what runs next; `executor` runs it on its thread; `models` keeps what can run. `server` has the sockets and
//! `process` the life of it all.
//! Knows nothing of routes, replicas or scaling.

mod app;
pub mod batch;
mod check;
pub mod config;
pub mod error;
mod executor;
mod faces;
mod gate;
mod grpc;
pub mod metrics;
pub mod models;
mod process;
pub mod scheduler;
pub mod served;
mod server;
mod stats;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod warmup;

pub use app::{App, REQUEST_ID_HEADER, Reply, STARTUP_HEADER, Stage};
pub use config::Args;
pub use process::main;
