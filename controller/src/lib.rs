//! The control loop: what is declared becomes replicas and routes, and the load decides how many replicas there are.
//!
//! Three layers. Pure decisions, without IO and clock: [`autoscaler`] (how many), [`replicas`] (which ones to start, seal and
//! end), [`backoff`], [`reports`] (sums of counts). State and its transitions: one per service, synchronous. Adapters: the
//! [`Traffic`] and [`Platform`] seams, the [`local`] platform, the [`source`] of manifests, the model [`check`], the API.
//!
//! It never speaks HTTP to a model and holds no request: requests wait in the activator, which asks by [`wake`].

mod api;
pub mod autoscaler;
pub mod backoff;
pub mod change;
pub mod check;
pub mod config;
mod controller;
pub mod error;
mod fetching;
mod flags;
pub mod keda;
pub mod kubernetes;
pub mod local;
pub mod metrics;
mod model;
pub mod platform;
pub mod replicas;
pub mod reports;
mod service;
pub mod source;
pub mod status;
#[cfg(test)]
mod testing;
pub mod traffic;
pub mod wake;
mod workload;

pub use change::{Change, What};
pub use check::{Check, Checker};
pub use config::{CheckConfig, Config, LocalConfig, SourceConfig};
pub use controller::{Controller, Parts};
pub use error::Error;
pub use local::LocalPlatform;
pub use platform::Platform;
pub use source::{Source, SourceHandle};
pub use status::{ServiceStatus, StatusSet};
pub use traffic::Traffic;
pub use wake::{WakeHandle, Wakes};
