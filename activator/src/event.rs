//! What the activator tells whoever runs the replicas.

use crate::{BackendId, EndpointId, WakePhases};

/// Something that happened at an endpoint or backend.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A starting or suspended endpoint answered its probe and may be picked from now on.
    EndpointReady {
        /// Its backend.
        backend: BackendId,
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// A ready endpoint refused a connection or broke one under a request. It gets no picks until it answers its probe
    /// again; its platform may want to look at it.
    EndpointFailed {
        /// Its backend.
        backend: BackendId,
        /// The endpoint.
        endpoint: EndpointId,
        /// What was seen, for logs.
        error: String,
    },
    /// A request that had to wait for its backend to wake got its first byte.
    WakeFinished {
        /// The backend.
        backend: BackendId,
        /// Where the time went.
        phases: WakePhases,
    },
}
