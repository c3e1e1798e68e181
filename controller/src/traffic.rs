//! The seam to the proxy in the path of the requests: what the controller asks of it and hears from it.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use pilotlight_activator::{Activator, BackendId, Endpoint, EndpointId, Event, Route, Snapshot, WakeError};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

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

    /// What was said by [`Self::wake_failed`] no longer holds.
    fn wake_recovered(&self, backend: &BackendId);

    /// No new picks of this endpoint. The future resolves when nothing is in flight on it; `None` where the endpoint isn't
    /// known, so that nothing can be in flight. Dropping the future does not take the seal back.
    fn seal(&self, backend: &BackendId, endpoint: &EndpointId) -> Option<BoxFuture<'static, ()>>;

    /// Takes a seal back.
    fn unseal(&self, backend: &BackendId, endpoint: &EndpointId);

    /// The counts as they are now, under the reporter's next sequence number.
    fn snapshot(&self) -> Snapshot;

    /// Endpoints that answered their probe, for one who missed the events. A proxy that can't tell says none.
    fn ready(&self, _backend: &BackendId) -> Vec<EndpointId> {
        Vec::new()
    }

    /// How long the first request of the last wake took from its arrival to its answer; `None` before the first wake.
    fn last_wake(&self, backend: &BackendId) -> Option<Duration>;

    /// What happens from now on. Bounded: a reader that lags gets [`TrafficEvent::Lagged`].
    fn events(&self) -> BoxStream<'static, TrafficEvent>;
}

/// The activator in the same process.
impl Traffic for Activator {
    fn set_routes(&self, routes: Vec<Route>) -> Result<(), String> {
        Self::set_routes(self, routes).map_err(|error| error.to_string())
    }

    fn set_endpoints(&self, backend: &BackendId, endpoints: Vec<Endpoint>) {
        Self::set_endpoints(self, backend, endpoints);
    }

    fn wake_failed(&self, backend: &BackendId, error: WakeError) {
        Self::wake_failed(self, backend, error);
    }

    fn wake_recovered(&self, backend: &BackendId) {
        Self::wake_recovered(self, backend);
    }

    fn seal(&self, backend: &BackendId, endpoint: &EndpointId) -> Option<BoxFuture<'static, ()>> {
        let sealed = Self::seal(self, backend, endpoint)?;
        Some(async move { sealed.drained().await }.boxed())
    }

    fn unseal(&self, backend: &BackendId, endpoint: &EndpointId) {
        // One that vanished meanwhile is replaced when the platform says so.
        Self::unseal(self, backend, endpoint);
    }

    fn ready(&self, backend: &BackendId) -> Vec<EndpointId> {
        Self::ready(self, backend)
    }

    fn snapshot(&self) -> Snapshot {
        Self::snapshot(self)
    }

    fn last_wake(&self, backend: &BackendId) -> Option<Duration> {
        Some(Self::last_wake(self, backend)?.total())
    }

    fn events(&self) -> BoxStream<'static, TrafficEvent> {
        BroadcastStream::new(Self::events(self)).map(translate).boxed()
    }
}

fn translate(event: Result<Event, BroadcastStreamRecvError>) -> TrafficEvent {
    match event {
        Ok(Event::EndpointReady { backend, endpoint }) => TrafficEvent::Ready(backend, endpoint),
        Ok(Event::EndpointFailed { backend, endpoint, .. }) => TrafficEvent::Failed(backend, endpoint),
        Ok(Event::WakeFinished { backend, phases }) => TrafficEvent::Woken(backend, phases.total()),
        Err(BroadcastStreamRecvError::Lagged(lost)) => TrafficEvent::Lagged(lost),
    }
}
