//! The runtime: one process that serves models over HTTP and gRPC with dynamic batching: ONNX files, and models of your own that
//! implement [`Model`].
//!
//! `faces` and `grpc` turn bodies into tensors and back; `app` leads a request through them; `scheduler` queues it and asks `batch`,
//! which is pure, what runs next; `executor` runs it on its thread; `models` keeps what can run. `server` has the sockets and
//! `process` the life of it all.
//! Knows nothing of routes, replicas or scaling.

mod app;
pub mod batch;
mod check;
pub mod config;
mod control;
mod device;
pub mod directory;
pub mod error;
mod executor;
mod faces;
mod fetch;
mod gate;
mod grpc;
pub mod ladder;
pub mod metrics;
pub mod model;
pub mod models;
mod padded;
mod prepared;
mod process;
pub mod protocol;
pub mod scheduler;
pub mod served;
mod server;
mod standby;
mod stats;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trace;
mod warmup;

pub use app::{App, REQUEST_ID_HEADER, Reply, STARTUP_HEADER, Stage};
pub use config::{Args, Command, PrepareArgs};
pub use device::DeviceArg;
pub use model::Model;
pub use pilotlight_engine::{
    Data, DataType, Dim, Labels, LoadOptions, RunError, Signature, Staged, Tensor, TensorInfo,
};
pub use process::{Server, command, main};
