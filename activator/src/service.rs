//! The way of one request: match, count, keep, wait, forward, replay, answer.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::PathAndQuery, uri::Scheme};
use hyper::body::Incoming;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Protocol, Purity,
    activator::{Inner, RouteEntry},
    backend::{Arrival, Permit},
    body::{Content, Outgoing, ProxyBody},
    catalogue,
    core::{
        retry::{self, Attempted, Cause, Decision},
        state::Outcome,
        table::{Found, Miss, Query},
        weight,
    },
    error::{Code, Failure, REASON},
    headers,
    inference::{self, Call},
    metrics::RouteStats,
    phases::Woken,
    pool::{self, Broken},
    random,
    replay::{self, Head, RequestBody},
    server::Client,
    upgrade,
};

/// What a runtime says when its queue is full.
const QUEUE_FULL: &str = "queue-full";

/// Answers one request.
pub(crate) async fn handle(client: Arc<Client>, request: Request<Incoming>) -> Response<ProxyBody> {
    let arrived = Instant::now();
    let (parts, body) = request.into_parts();
    let retry_after = client.inner.shared.config.retry_after;
    let target = resolve(&client.inner, &parts);
    match target {
        Ok(Target::Route { entry, call, strip }) => {
            let exchange = Exchange::new(client, entry, call, arrived);
            exchange.run(parts, body, strip).await
        }
        Ok(Target::Here {
            call,
            scope: Some(entry),
        }) => catalogue::answer(call, std::iter::once(&*entry), retry_after),
        Ok(Target::Here { call, scope: None }) => {
            let live = client.inner.live.load();
            catalogue::answer(call, live.entries.iter().map(AsRef::as_ref), retry_after)
        }
        Err(miss) => {
            client.inner.shared.metrics.dropped(miss.code);
            Failure::new(miss.code, miss.message).response(retry_after)
        }
    }
}

enum Target {
    /// A backend answers.
    Route {
        entry: Arc<RouteEntry>,
        call: Call,
        strip: usize,
    },
    /// The activator answers, for one route or for all.
    Here { call: Call, scope: Option<Arc<RouteEntry>> },
}

fn resolve(inner: &Inner, parts: &http::request::Parts) -> Result<Target, Miss> {
    let live = inner.live.load();
    let path = parts.uri.path();
    let host = headers::authority(parts).map(headers::host_name);
    let query = Query {
        host: host.as_deref(),
        path,
        headers: &parts.headers,
    };
    match live.table.find(query, inference::model_name) {
        Ok(Found { route, strip }) => {
            let entry = Arc::clone(&live.entries[route]);
            let call = match entry.route.policy.purity {
                Purity::Inference => inference::classify(&parts.method, &path[strip..]),
                Purity::Opaque => Call::Other,
            };
            if call.is_answered_here() {
                let scope = Some(entry);
                return Ok(Target::Here { call, scope });
            }
            Ok(Target::Route { entry, call, strip })
        }
        Err(miss) => {
            let call = inference::classify(&parts.method, path);
            if miss.code == Code::UnknownRoute && call.is_answered_here() {
                return Ok(Target::Here { call, scope: None });
            }
            Err(miss)
        }
    }
}

/// The counts of a request: from its arrival until its answer is sent or its client gone.
pub(crate) struct InFlight {
    client: Arc<Client>,
    stats: Arc<RouteStats>,
    method: Method,
    at: Instant,
    status: Option<StatusCode>,
    /// Dropped with this: the backend's counts end then.
    _arrival: Option<Arrival>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.stats.concurrency.fetch_sub(1, Ordering::Relaxed);
        let metrics = &self.client.inner.shared.metrics;
        self.stats.series.ended(
            metrics,
            self.stats.id.as_str(),
            &self.method,
            self.status,
            self.at.elapsed(),
        );
    }
}

/// One request on its way through.
struct Exchange {
    entry: Arc<RouteEntry>,
    call: Call,
    in_flight: InFlight,
    arrival: Arrival,
    /// Attempts that failed.
    failed: u32,
    /// Time spent in attempts.
    spent: Duration,
    woken: Option<Woken>,
    /// Where the counts go on of a request that left HTTP behind.
    tunnel: Option<oneshot::Sender<InFlight>>,
}

/// How an attempt went.
enum Attempt {
    Answered(Response<Content>, Instant),
    Broken {
        broken: Broken,
        /// The endpoint's own refusal, if that is what it was.
        refusal: Option<Response<Content>>,
    },
}

impl Exchange {
    fn new(client: Arc<Client>, entry: Arc<RouteEntry>, call: Call, at: Instant) -> Self {
        let stats = Arc::clone(&entry.stats);
        stats.concurrency.fetch_add(1, Ordering::Relaxed);
        stats.requests.fetch_add(1, Ordering::Relaxed);
        let arrival = choose(&entry).arrive(at);
        Self {
            call,
            in_flight: InFlight {
                client,
                stats,
                method: Method::GET,
                at,
                status: None,
                _arrival: None,
            },
            entry,
            arrival,
            failed: 0,
            spent: Duration::ZERO,
            woken: None,
            tunnel: None,
        }
    }

    async fn run(mut self, parts: http::request::Parts, body: Incoming, strip: usize) -> Response<ProxyBody> {
        self.in_flight.method = parts.method.clone();
        let client = Arc::clone(&self.in_flight.client);
        let config = &client.inner.shared.config;
        let result = match self.forward(parts, body, strip).await {
            Ok(mut response) => {
                headers::strip_hop_by_hop_of_answer(&mut response);
                if config.cold_start_header {
                    let cold = if self.arrival.cold { "true" } else { "false" };
                    response
                        .headers_mut()
                        .insert(headers::COLD_START, HeaderValue::from_static(cold));
                }
                response.map(ProxyBody::new)
            }
            Err(failure) => {
                client.inner.shared.metrics.dropped(failure.code);
                failure.response(config.retry_after)
            }
        };
        let mut in_flight = self.in_flight;
        in_flight.status = Some(result.status());
        in_flight._arrival = Some(self.arrival);
        match self.tunnel {
            Some(tunnel) => {
                // A tunnel that is over already drops them, which is right.
                tunnel.send(in_flight).ok();
                result
            }
            None => result.map(|body| body.counting(in_flight)),
        }
    }

    async fn forward(
        &mut self,
        mut parts: http::request::Parts,
        body: Incoming,
        strip: usize,
    ) -> Result<Response<Content>, Failure> {
        let entry = Arc::clone(&self.entry);
        let policy = &entry.route.policy;
        self.arrival.check_place(policy)?;
        if self.call == Call::Other && headers::wants_upgrade(&parts.headers) {
            return self.tunnel(parts, strip).await;
        }
        self.prepare(&mut parts, strip, None)?;
        let mut body = if self.call.is_pure() {
            replay::keep(body, &mut self.arrival, policy).await?
        } else {
            replay::pass(body)
        };
        let mut head = Head::new(parts);
        loop {
            let permit = self.acquire().await?;
            let Some(request) = head.request(&mut body) else {
                return Err(Failure::new(
                    Code::ReplicaFailed,
                    "the replica failed and the request can't be sent again",
                ));
            };
            match self.attempt(permit, request).await? {
                Attempt::Answered(response, first_byte) => {
                    self.finish_wake(first_byte);
                    return Ok(response);
                }
                Attempt::Broken { broken, refusal } => {
                    let cause = broken.cause;
                    if let Some(unsent) = broken.unsent {
                        head.put_back(&mut body, *unsent);
                    }
                    match self.decide(cause, &body, &broken.error) {
                        Ok(Decision::PassRefusal) => {
                            if let Some(refusal) = refusal {
                                return Ok(refusal);
                            }
                            return Err(Failure::new(Code::ReplicaFailed, "the replica refused the request"));
                        }
                        Ok(_) => self.arrival.hold_again(body.kept_bytes(), policy)?,
                        Err(failure) => return Err(failure),
                    }
                }
            }
        }
    }

    async fn acquire(&mut self) -> Result<Permit, Failure> {
        let mut permit = self
            .arrival
            .acquire(&self.entry.route.id, &self.entry.route.policy)
            .await?;
        self.woken = permit.woken.take().or(self.woken);
        Ok(permit)
    }

    fn decide(&mut self, cause: Cause, body: &RequestBody, error: &str) -> Result<Decision, Failure> {
        let policy = &self.entry.route.policy;
        if cause != Cause::QueueFull {
            self.failed += 1;
        }
        let attempted = Attempted {
            failed: self.failed,
            max_tries: policy.max_tries,
            pure: self.call.is_pure(),
            intact: body.is_intact(),
        };
        let metrics = &self.in_flight.client.inner.shared.metrics;
        match retry::decide(cause, attempted) {
            Decision::Again => {
                metrics.replayed(cause);
                Ok(Decision::Again)
            }
            Decision::PassRefusal => Ok(Decision::PassRefusal),
            Decision::GiveUp(code) => {
                tracing::warn!(route = %self.entry.route.id, code = code.as_str(), error, tries = self.failed, "request failed");
                let message = match code {
                    Code::ReplicasFailed => format!("{} replicas failed under the request", self.failed),
                    _ => "the replica failed under the request, which can't be sent again".to_owned(),
                };
                Err(Failure::new(code, message))
            }
        }
    }

    async fn attempt(&mut self, permit: Permit, request: Request<Outgoing>) -> Result<Attempt, Failure> {
        let limit = self.entry.route.policy.response_timeout;
        let hold = if self.call.is_pure() {
            self.entry.route.policy.replay_limit
        } else {
            0
        };
        let limits = self.in_flight.client.inner.shared.pool_limits();
        let began = Instant::now();
        let attempt =
            tokio::time::timeout(limit.saturating_sub(self.spent), attempt(permit, request, hold, limits)).await;
        self.spent += began.elapsed();
        attempt.map_err(|_| {
            Failure::new(
                Code::ResponseTimeout,
                format!("the replica did not answer within the response limit of {limit:?}"),
            )
        })
    }

    fn finish_wake(&mut self, first_byte: Instant) {
        if let Some(woken) = self.woken.take() {
            self.arrival
                .backend()
                .wake_finished(woken.phases(self.arrival.at, first_byte));
        }
    }

    /// Turns the client's head into the endpoint's.
    fn prepare(
        &self,
        parts: &mut http::request::Parts,
        strip: usize,
        keep_upgrade: Option<HeaderValue>,
    ) -> Result<(), Failure> {
        let host = headers::authority(parts).and_then(|host| HeaderValue::from_str(host).ok());
        headers::strip_hop_by_hop(&mut parts.headers);
        if let Some(upgrade) = keep_upgrade {
            parts.headers.insert(header::UPGRADE, upgrade);
            parts
                .headers
                .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        headers::add_forwarded(&mut parts.headers, &self.in_flight.client.address, host.as_ref());
        headers::add_trace_context(&mut parts.headers, random::next);
        // HTTP/2 has it in the URI, HTTP/1.1 as a header: the endpoint always finds the header.
        if let Some(host) = host {
            parts.headers.insert(header::HOST, host);
        }
        parts.uri = target_uri(&parts.uri, strip).map_err(|error| {
            Failure::new(
                Code::RequestBodyFailed,
                format!("the request's path is malformed: {error}"),
            )
        })?;
        parts.version = http::Version::HTTP_11;
        parts.extensions.clear();
        Ok(())
    }

    /// A request that leaves HTTP behind: counted and bounded like others, never sent twice.
    async fn tunnel(&mut self, mut parts: http::request::Parts, strip: usize) -> Result<Response<Content>, Failure> {
        let upgrade = parts.headers.get(header::UPGRADE).cloned();
        let on_client = upgrade::take(&mut parts);
        self.prepare(&mut parts, strip, upgrade)?;
        let permit = self.acquire().await?;
        let (counts, counted) = oneshot::channel();
        let limits = self.in_flight.client.inner.shared.pool_limits();
        let response = upgrade::tunnel(permit, parts, on_client, counted, limits).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.tunnel = Some(counts);
        }
        Ok(response)
    }
}

async fn attempt(permit: Permit, mut request: Request<Outgoing>, hold: usize, limits: pool::PoolLimits) -> Attempt {
    let Some(replica) = permit.replica() else {
        return broken(Cause::ConnectFailed, "no endpoint".to_owned());
    };
    if replica.protocol == Protocol::H2c {
        make_absolute(&mut request);
    }
    let response = match pool::send(&replica, request, limits).await {
        Ok(response) => response,
        Err(broken) => {
            permit.fail(&broken.error);
            return Attempt::Broken { broken, refusal: None };
        }
    };
    let first_byte = Instant::now();
    let refused = is_refusal(&response);
    if !refused && (hold == 0 || !replay::is_unary(&response, hold)) {
        return Attempt::Answered(stream(response, permit, Default::default()), first_byte);
    }
    let (parts, mut wire) = response.into_parts();
    // A refusal is small; what of it is not is not worth a connection.
    let limit = if refused { hold.max(1 << 16) } else { hold };
    match replay::hold(&mut wire, limit).await {
        Ok(Ok(kept)) => {
            let response = Response::from_parts(parts, replay::held(kept));
            if refused {
                permit.release(Outcome::Refused);
                let Attempt::Broken { broken, .. } = broken(Cause::QueueFull, "queue full".to_owned()) else {
                    return Attempt::Answered(response, first_byte);
                };
                return Attempt::Broken {
                    broken,
                    refusal: Some(response),
                };
            }
            permit.release(Outcome::Answered);
            Attempt::Answered(response, first_byte)
        }
        Ok(Err(prefix)) => Attempt::Answered(stream(Response::from_parts(parts, wire), permit, prefix), first_byte),
        Err(error) => {
            permit.fail(&error.to_string());
            broken(Cause::AnswerCut, error.to_string())
        }
    }
}

fn broken(cause: Cause, error: String) -> Attempt {
    Attempt::Broken {
        broken: Broken {
            cause,
            error,
            unsent: None,
        },
        refusal: None,
    }
}

fn stream(
    response: Response<pool::Wire>,
    permit: Permit,
    prefix: std::collections::VecDeque<bytes::Bytes>,
) -> Response<Content> {
    response.map(|wire| {
        let mut wire = wire.holding(permit);
        if wire.is_end_stream() {
            wire.finish();
        }
        Content::Stream {
            prefix,
            rest: Box::new(wire),
        }
    })
}

fn is_refusal<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::SERVICE_UNAVAILABLE
        && response
            .headers()
            .get(REASON)
            .is_some_and(|reason| reason == QUEUE_FULL)
}

/// Draws the backend of a request.
fn choose(entry: &RouteEntry) -> &Arc<crate::backend::Backend> {
    let index = match entry.backends.len() {
        1 => 0,
        _ => {
            let weights = entry.route.backends.iter().map(|weighted| weighted.weight);
            // A table in which all weights are 0 is refused.
            weight::choose(weights, random::next()).unwrap_or(0)
        }
    };
    &entry.backends[index]
}

/// Path and query without the route's prefix.
fn target_uri(uri: &Uri, strip: usize) -> Result<Uri, http::Error> {
    let path_and_query = match uri.path_and_query() {
        Some(path_and_query) if strip == 0 => path_and_query.clone(),
        Some(path_and_query) => {
            let rest = &path_and_query.as_str()[strip..];
            if rest.starts_with('/') {
                PathAndQuery::try_from(rest)?
            } else {
                PathAndQuery::try_from(format!("/{rest}"))?
            }
        }
        None => PathAndQuery::from_static("/"),
    };
    Ok(Uri::from(path_and_query))
}

/// HTTP/2 wants scheme and authority in the URI.
fn make_absolute(request: &mut Request<Outgoing>) {
    let host = request.headers_mut().remove(header::HOST);
    let authority = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let path = request
        .uri()
        .path_and_query()
        .cloned()
        .unwrap_or(PathAndQuery::from_static("/"));
    let uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority)
        .path_and_query(path)
        .build();
    if let Ok(uri) = uri {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = http::Version::HTTP_2;
}
