//! Finds out when an endpoint that starts, or that failed, can be given requests.
//!
//! One probe at a time, the next one a short pause after an answer or a failure. A probe is not given up after that
//! pause: a local listener accepts connections before its process runs, and the request that waits there is answered
//! the moment it does. The connection of the successful probe carries the first request.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
    uri::{PathAndQuery, Scheme},
};
use tokio::time::Instant;

use crate::{
    Config, Probe, Protocol,
    backend::{Backend, Replica},
    body::Outgoing,
    core::state::Pick,
    phases::{Startup, Woken},
    pool::{self, PoolLimits, Wire},
};

/// What a runtime says of its start.
const STARTUP: HeaderName = HeaderName::from_static("x-pilotlight-startup");

/// Bytes of a probe's answer that are read to get the connection back; more is not worth it.
const DRAIN_LIMIT: usize = 16 << 10;

/// Probes until the endpoint answers or is no longer declared. `fresh`: it has never been ready, so its first request
/// is a cold wake.
pub(crate) async fn run(backend: Arc<Backend>, pick: Pick<Arc<Replica>>, fresh: bool) {
    let replica = Arc::clone(&pick.endpoint);
    tokio::select! {
        () = replica.retired.cancelled() => {}
        startup = until_ready(&backend, &replica) => {
            let woken = Woken { started: replica.started, seen: Instant::now(), startup };
            backend.mark_ready(&pick, fresh.then_some(woken));
        }
    }
}

async fn until_ready(backend: &Backend, replica: &Arc<Replica>) -> Startup {
    let config = &backend.shared.config;
    let limits = backend.shared.pool_limits();
    let began = Instant::now();
    loop {
        let result = tokio::time::timeout(config.probe_timeout, once(replica, limits)).await;
        let startup = result.ok().flatten();
        backend.shared.metrics.probed(startup.is_some());
        if let Some(startup) = startup {
            return startup;
        }
        tokio::time::sleep(pause(config, began.elapsed())).await;
    }
}

/// The pause after a probe of an endpoint that has been probed for `elapsed`. At first a tenth of that time, so that a
/// replica up in 20 ms is not found out 10 ms late; then the configured interval; at last 1 % of the time so far.
fn pause(config: &Config, elapsed: Duration) -> Duration {
    let interval = config.probe_interval;
    let soon = (elapsed / 10).clamp(config.probe_interval_min.min(interval), interval);
    let late = (elapsed / 100).min(config.probe_interval_max);
    soon.max(late)
}

/// One probe; what the endpoint says of its start if it is ready.
async fn once(replica: &Arc<Replica>, limits: PoolLimits) -> Option<Startup> {
    let Probe::Http(path) = &replica.probe else {
        let connected = pool::connect(replica.address, limits.connect_timeout).await;
        return connected.is_ok().then(Startup::default);
    };
    let response = pool::send(replica, replica.protocol, request(replica, path)?, limits)
        .await
        .ok()?;
    let ready = response.status() == StatusCode::OK;
    let startup = startup(&response);
    drain(response.into_body()).await;
    ready.then_some(startup)
}

/// A `GET` of a replica by the activator itself.
pub(crate) fn request(replica: &Replica, path: &PathAndQuery) -> Option<Request<Outgoing>> {
    let host = replica.address.to_string();
    let mut uri = Uri::builder().path_and_query(path.clone());
    if replica.protocol == Protocol::H2c {
        uri = uri.scheme(Scheme::HTTP).authority(host.as_str());
    }
    let mut request = Request::new(Outgoing::empty());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri.build().ok()?;
    let host = HeaderValue::from_maybe_shared(Bytes::from(host)).ok()?;
    request.headers_mut().insert(header::HOST, host);
    request
        .headers_mut()
        .insert(header::USER_AGENT, HeaderValue::from_static("pilotlight-probe"));
    Some(request)
}

fn startup(response: &Response<Wire>) -> Startup {
    response
        .headers()
        .get(STARTUP)
        .and_then(|value| value.to_str().ok())
        .map_or_else(Startup::default, Startup::parse)
}

async fn drain(mut wire: Wire) {
    let mut read = 0;
    while !wire.is_end_stream() && read <= DRAIN_LIMIT {
        match wire.frame().await {
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => return,
            None => break,
        }
    }
    if read <= DRAIN_LIMIT {
        wire.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_the_time_so_far() {
        let config = Config::default();
        for (elapsed, expected) in [(0, 1), (50, 5), (100, 10), (1_000, 10), (5_000, 50), (500_000, 100)] {
            let pause = pause(&config, Duration::from_millis(elapsed));
            assert_eq!(pause.as_millis(), expected, "after {elapsed} ms");
        }
    }
}
