//! The proxy that is always in the path of a request.
//!
//! It routes, counts what is in flight, holds requests while nothing can serve them, wakes sleeping backends, spreads
//! load and drains endpoints. Its core knows routes, backends and endpoints only: no models, processes or pods.
//! `inference` and `grpc` are the modules that know the inference protocols.
//!
//! [`Activator`] is the control surface; the way of a request begins in `service` and goes on in `exchange`. Decisions are in `core`, without IO
//! and clock; the rest are adapters around them.

mod access;
mod activator;
mod admin;
mod arrivals;
mod backend;
mod body;
mod catalogue;
pub mod cold_start;
mod config;
mod core;
pub mod endpoint;
pub mod error;
mod event;
mod exchange;
mod forward;
mod grpc;
mod headers;
pub mod id;
mod inference;
pub mod kubernetes;
mod metrics;
mod phases;
mod pool;
mod probe;
mod random;
mod replay;
pub mod route;
pub mod secure;
mod server;
mod service;
pub mod services;
pub mod snapshot;
mod statistics;
mod trace;
mod upgrade;
pub mod wake;

pub use self::core::table::RouteError;
pub use activator::{Activator, Sealed};
pub use cold_start::ColdStart;
pub use config::Config;
pub use endpoint::{Endpoint, EndpointState, Probe, Protocol};
pub use error::Code;
pub use event::Event;
pub use id::{BackendId, EndpointId, ReporterId, RouteId};
pub use phases::WakePhases;
pub use route::{Predicate, Purity, Route, RoutePolicy, Rule, WeightedBackend};
pub use snapshot::{BackendCounts, Snapshot};
pub use wake::{WakeError, WakeReason, Waker};
