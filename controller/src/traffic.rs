//! The seam to the proxy in the path of the requests: what the controller asks of it and hears from it.

use std::{sync::Arc, time::Duration};

use futures_util::{future::BoxFuture, stream::BoxStream};
use pilotlight_activator::{BackendId, Endpoint, EndpointId, Route, Snapshot, WakeError};

/// What the proxy tells.
#[derive(Clone, Debug, PartialEq)]
pub enum TrafficEvent {
    /// A starting endpoint answered its probe and takes requests now.
    Ready(BackendId, EndpointId),
    /// An endpoint that was ready no longer answers. The platform says what became of it.
    Failed(BackendId, EndpointId),
    /// A request that waited for a wake was answered; so long after it arrived.
    Woken(BackendId, Duration),
    /// So many events were lost as they weren't read in time.
    Lagged(u64),
}

/// The proxy. Nothing here waits: each call is a change of its tables.
pub trait Traffic: Send + Sync + 'static {
    /// Replaces the routing table. On an error, in words, the former one stays.
    fn set_routes(&self, routes: Vec<Route>) -> Result<(), String>;

    /// Replaces the endpoints of a backend. One that is known keeps its counts, readiness and seal.
    fn set_endpoints(&self, backend: &BackendId, endpoints: Vec<Endpoint>);

    /// Requests that wait for this backend get this reason instead of waiting on.
    fn wake_failed(&self, backend: &BackendId, error: WakeError);

    /// No new picks of this endpoint. The future resolves when nothing is in flight on it; `None` where the endpoint isn't
    /// known, so that nothing can be in flight. Dropping the future does not take the seal back.
    fn seal(&self, backend: &BackendId, endpoint: &EndpointId) -> Option<BoxFuture<'static, ()>>;

    /// Takes a seal back.
    fn unseal(&self, backend: &BackendId, endpoint: &EndpointId);

    /// The counts as they are now, under the reporter's next sequence number.
    fn snapshot(&self) -> Snapshot;

    /// Endpoints that answered their probe and take requests, for one who missed the events.
    fn ready(&self, backend: &BackendId) -> Vec<EndpointId>;

    /// How long the first request of the last wake took from its arrival to its answer; `None` before the first wake.
    fn last_wake(&self, backend: &BackendId) -> Option<Duration>;

    /// What happens from now on. Bounded: a reader that lags gets [`TrafficEvent::Lagged`].
    fn events(&self) -> BoxStream<'static, TrafficEvent>;
}

impl<T: Traffic + ?Sized> Traffic for Arc<T> {
    fn set_routes(&self, routes: Vec<Route>) -> Result<(), String> {
        (**self).set_routes(routes)
    }

    fn set_endpoints(&self, backend: &BackendId, endpoints: Vec<Endpoint>) {
        (**self).set_endpoints(backend, endpoints);
    }

    fn wake_failed(&self, backend: &BackendId, error: WakeError) {
        (**self).wake_failed(backend, error);
    }

    fn seal(&self, backend: &BackendId, endpoint: &EndpointId) -> Option<BoxFuture<'static, ()>> {
        (**self).seal(backend, endpoint)
    }

    fn unseal(&self, backend: &BackendId, endpoint: &EndpointId) {
        (**self).unseal(backend, endpoint);
    }

    fn snapshot(&self) -> Snapshot {
        (**self).snapshot()
    }

    fn ready(&self, backend: &BackendId) -> Vec<EndpointId> {
        (**self).ready(backend)
    }

    fn last_wake(&self, backend: &BackendId) -> Option<Duration> {
        (**self).last_wake(backend)
    }

    fn events(&self) -> BoxStream<'static, TrafficEvent> {
        (**self).events()
    }
}
