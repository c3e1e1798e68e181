//! The proxy that is always in the path of a request.
//!
//! It routes, counts what is in flight, holds requests while nothing can serve them, wakes sleeping backends, spreads
//! load and drains endpoints. Its core knows routes, backends and endpoints only: no models, processes or pods.
//! `inference` is the one module that knows the inference protocols' paths.

pub mod endpoint;
pub mod id;
pub mod route;
pub mod snapshot;
pub mod wake;

pub use endpoint::{Endpoint, EndpointState, Protocol};
pub use id::{BackendId, EndpointId, ReporterId, RouteId};
pub use route::{Predicate, Purity, Route, RoutePolicy, WeightedBackend};
pub use snapshot::{BackendCounts, Snapshot};
pub use wake::{WakeError, WakeReason, Waker};
