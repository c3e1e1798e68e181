//! What the activator knows of one replica.

use std::{net::SocketAddr, sync::Arc};

use http::uri::PathAndQuery;
use tokio::time::Instant;

use crate::EndpointId;

/// How to speak to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive.
    H1,
    /// HTTP/2 with prior knowledge, without TLS.
    H2c,
}

/// How the activator finds out that an endpoint can serve: one that starts, or one that failed under a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `GET` of this path answers 200 once the endpoint can serve, anything else before.
    Http(PathAndQuery),
    /// It can serve once it accepts a connection.
    Tcp,
    /// Whoever declares it says so, by declaring it `Ready`: a starting one is not probed. One that failed under a request
    /// is back once it accepts a connection.
    Declared,
}

impl From<PathAndQuery> for Probe {
    fn from(path: PathAndQuery) -> Self {
        Self::Http(path)
    }
}

/// The life of an endpoint, as seen by whoever declares it. It only ever moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointState {
    /// It exists but has not been seen ready: the activator probes it and makes it ready itself.
    Starting,
    /// It may be picked.
    Ready,
    /// It finishes what it has and gets no new picks.
    Draining,
}

/// One replica of a backend, as declared by the platform.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Unique over time; a restarted replica is another endpoint.
    pub id: EndpointId,
    /// Where it listens.
    pub address: SocketAddr,
    /// How to speak to it.
    pub protocol: Protocol,
    /// The name that its certificate has to be for, where requests go on to it over TLS. Default its address.
    pub server_name: Option<Arc<str>>,
    /// Hard limit of requests in flight on it at once (`containerConcurrency`, or this activator's share of it); `None` is
    /// unlimited, 0 is an endpoint that is left to other activators. A later declaration may change it: requests in flight
    /// past a lowered one are finished.
    pub capacity: Option<u32>,
    /// Requests that a replica which never answered may hold at once; doubled at each success up to `capacity`.
    pub initial_capacity: u32,
    /// When it can serve this backend.
    pub probe: Probe,
    /// Declared state. The activator itself takes `Starting` to `Ready` when the probe succeeds.
    pub state: EndpointState,
    /// When the platform began to start it; the base of the cold-wake phases.
    pub started: Instant,
}
