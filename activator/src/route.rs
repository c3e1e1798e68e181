//! Routes: a predicate over weighted backends, and the policy for requests that take it.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};

use crate::{BackendId, RouteId, cold_start::ColdStart};

/// Which requests take a route. Hosts, path prefixes and model name are alternatives of each other (first a known
/// host, then the path, then the name); within each list any entry matches; headers must all match in addition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predicate {
    /// Lower-case host names without port.
    pub hosts: Vec<String>,
    /// Path prefixes matched by whole segments (`/serving/ns/name`), taken off before forwarding.
    pub path_prefixes: Vec<String>,
    /// Headers that have to be present with this value; `None` means any value.
    pub headers: Vec<(HeaderName, Option<HeaderValue>)>,
    /// The name in `/v1/models/{name}` and `/v2/models/{name}`.
    pub model_name: Option<String>,
    /// Rules of which any may match beside the above, by the precedence of `core::rules`. An empty list matches nothing: the
    /// route is known and counted, and no request takes it.
    pub rules: Option<Vec<Rule>>,
}

/// Hosts, path prefixes and headers that a request has to match together, one of each list and all headers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// Host names without port, `*.example.com` for every name below one, or `*`. None: any host.
    pub hosts: Vec<String>,
    /// Path prefixes matched by whole segments and left on the path. None: any path.
    pub path_prefixes: Vec<String>,
    /// Headers that have to be present with this value; `None` means any value.
    pub headers: Vec<(HeaderName, Option<HeaderValue>)>,
}

/// One backend of a route with its share of the traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedBackend {
    /// The backend.
    pub backend: BackendId,
    /// Its share, relative to the sum over the route's backends. 0 gets nothing.
    pub weight: u32,
}

/// Whether a request may be sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purity {
    /// Inference requests have no effect beyond their answer: they may be replayed on another replica.
    Inference,
    /// Nothing is replayed once a byte of it was sent.
    Opaque,
}

/// Bounds and promises for the requests of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutePolicy {
    /// Requests that may wait at once. One more is answered 503 `waiting-room-full` with Retry-After. Default 10,000.
    pub max_waiting: usize,
    /// Bytes of request bodies that may be buffered by waiting requests. Past it: 503 `waiting-room-full`. Default 64 MiB.
    pub max_waiting_bytes: usize,
    /// How long a request may wait for an endpoint, all its waits together. Past it: 504 `wait-timeout`. Default 300 s.
    pub wait_timeout: Duration,
    /// From forwarding to the response's head, per request. Past it: 504 `response-timeout`. Default 300 s.
    pub response_timeout: Duration,
    /// Whether its inference requests may be replayed.
    pub purity: Purity,
    /// Largest request body kept for a replay and largest unary response held to its end. Default 4 MiB.
    pub replay_limit: usize,
    /// Attempts of one request on replicas that failed under it; then a typed 502 `replicas-failed`. Default 5.
    pub max_tries: u32,
    /// From arrival to the answer's last byte, waiting included. Past it: 504 `response-timeout`, or the end of an answer that has
    /// begun; a WebSocket ends too. Default none.
    pub request_timeout: Option<Duration>,
    /// What is answered in the place of the backend. Default nothing.
    pub cold_start: Option<Arc<ColdStart>>,
    /// Why none of its requests can be sent on: its target's port is not to be found. Each is answered 500 `unresolved-port` and neither
    /// counted nor a reason to wake. Default none.
    pub unresolved: Option<Arc<str>>,
}

impl Default for RoutePolicy {
    fn default() -> Self {
        Self {
            max_waiting: 10_000,
            max_waiting_bytes: 64 << 20,
            wait_timeout: Duration::from_mins(5),
            response_timeout: Duration::from_mins(5),
            purity: Purity::Inference,
            replay_limit: 4 << 20,
            max_tries: 5,
            request_timeout: None,
            cold_start: None,
            unresolved: None,
        }
    }
}

/// A route: who takes it, where it leads, under which policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its name; unique in a table.
    pub id: RouteId,
    /// Which requests take it.
    pub predicate: Predicate,
    /// Where they go, one of them picked by weight. One of weight 100 today.
    pub backends: Vec<WeightedBackend>,
    /// Bounds and promises.
    pub policy: RoutePolicy,
}
