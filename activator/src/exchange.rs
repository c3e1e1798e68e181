//! One request on its way through: count, keep, wait, forward, replay, answer.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use pilotlight_telemetry::ServerSpan;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    activator::RouteEntry,
    backend::{Arrival, Backend, Permit},
    body::{Content, Outgoing, ProxyBody},
    core::{
        retry::{self, Attempted, Cause, Decision},
        weight,
    },
    error::{Code, Failure},
    forward::{self, Attempt},
    grpc, headers,
    inference::Call,
    metrics::RouteStats,
    phases::Woken,
    random,
    replay::{self, Head, Received, RequestBody},
    server::Client,
    trace, upgrade,
};

/// The counts of a request: from its arrival until its answer is sent or its client gone.
pub(crate) struct InFlight {
    client: Arc<Client>,
    stats: Arc<RouteStats>,
    method: Method,
    at: Instant,
    status: Option<StatusCode>,
    /// The backend's counts, which end with this.
    arrival: Option<Arrival>,
    /// Where traces are exported.
    span: Option<ServerSpan>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        drop(self.arrival.take());
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
pub(crate) struct Exchange {
    entry: Arc<RouteEntry>,
    call: Call,
    /// Failures are gRPC statuses, and the endpoint is spoken to over HTTP/2.
    grpc: bool,
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

impl Exchange {
    /// Counts a request that takes a route, from now on.
    pub(crate) fn new(client: Arc<Client>, entry: Arc<RouteEntry>, call: Call, at: Instant) -> Self {
        let stats = Arc::clone(&entry.stats);
        stats.concurrency.fetch_add(1, Ordering::Relaxed);
        stats.requests.fetch_add(1, Ordering::Relaxed);
        let arrival = choose(&entry).arrive(at);
        Self {
            call,
            grpc: false,
            in_flight: InFlight {
                client,
                stats,
                method: Method::GET,
                at,
                status: None,
                arrival: None,
                span: None,
            },
            entry,
            arrival,
            failed: 0,
            spent: Duration::ZERO,
            woken: None,
            tunnel: None,
        }
    }

    /// It is a gRPC call.
    pub(crate) fn grpc(mut self) -> Self {
        self.grpc = true;
        self
    }

    /// Answers it.
    pub(crate) async fn run(
        mut self,
        parts: http::request::Parts,
        body: Received,
        strip: usize,
    ) -> Response<ProxyBody> {
        self.in_flight.method = parts.method.clone();
        self.in_flight.span = trace::begin(&self.entry.route.id, &parts, self.in_flight.at);
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
                let grpc = self.grpc;
                response.map(|content| {
                    let body = ProxyBody::new(content);
                    if grpc { body.grpc() } else { body }
                })
            }
            Err(failure) => {
                client.inner.shared.metrics.dropped(failure.code);
                if let Some(span) = &self.in_flight.span {
                    span.fail(failure.code.as_str());
                }
                if self.grpc {
                    grpc::status::failed(&failure)
                } else {
                    failure.response(config.retry_after)
                }
            }
        };
        let mut in_flight = self.in_flight;
        in_flight.status = Some(result.status());
        if let Some(span) = &in_flight.span {
            trace::answered(span, result.status(), self.arrival.cold);
        }
        in_flight.arrival = Some(self.arrival);
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
        body: Received,
        strip: usize,
    ) -> Result<Response<Content>, Failure> {
        let entry = Arc::clone(&self.entry);
        let policy = &entry.route.policy;
        if let Err(failure) = self.arrival.check_place(policy) {
            // One stream of HTTP/2 ends without harm to its connection.
            if !self.grpc {
                replay::discard(body.rest).await;
            }
            return Err(failure);
        }
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
            // Only a request that was handed over and not given back has none left, and such a one does not come here.
            let request = head.request(&mut body).ok_or_else(cannot_repeat)?;
            match self.attempt(permit, request).await? {
                Attempt::Answered(response, first_byte) => {
                    self.finish_wake(first_byte);
                    return Ok(response);
                }
                Attempt::Refused(refusal) => {
                    if self.decide(Cause::QueueFull, &body)? == Decision::PassRefusal {
                        return Ok(refusal);
                    }
                }
                Attempt::ClientBroke(failure) => return Err(failure),
                Attempt::Broken(broken) => {
                    if let Some(unsent) = broken.unsent {
                        head.put_back(&mut body, *unsent);
                    }
                    self.failed += u32::from(!broken.cause.is_overload());
                    tracing::debug!(route = %entry.route.id, error = broken.error, tries = self.failed, "attempt failed");
                    self.decide(broken.cause, &body)?;
                }
            }
            self.arrival.hold_again(body.kept_bytes(), policy)?;
        }
    }

    async fn acquire(&mut self) -> Result<Permit, Failure> {
        let began = Instant::now();
        let acquired = self
            .arrival
            .acquire(&self.entry.route.id, &self.entry.route.policy)
            .await;
        if let Some(span) = &self.in_flight.span {
            trace::waited(span, began, self.arrival.cold);
        }
        let mut permit = acquired?;
        self.woken = permit.woken.take().or(self.woken);
        Ok(permit)
    }

    fn decide(&self, cause: Cause, body: &RequestBody) -> Result<Decision, Failure> {
        let attempted = Attempted {
            failed: self.failed,
            max_tries: self.entry.route.policy.max_tries,
            pure: self.call.is_pure(),
            intact: body.is_intact(),
        };
        let decision = retry::decide(cause, attempted);
        match decision {
            Decision::Again => self.in_flight.client.inner.shared.metrics.replayed(cause),
            Decision::PassRefusal => {}
            Decision::GiveUp(Code::ReplicasFailed) => {
                let message = format!("{} replicas failed under the request", self.failed);
                return Err(Failure::new(Code::ReplicasFailed, message));
            }
            Decision::GiveUp(_) => return Err(cannot_repeat()),
        }
        Ok(decision)
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
        let attempt = tokio::time::timeout(
            limit.saturating_sub(self.spent),
            forward::attempt(permit, request, hold, limits, self.grpc),
        )
        .await;
        self.spent += began.elapsed();
        if let Some(span) = &self.in_flight.span {
            trace::forwarded(span, began, self.failed);
        }
        attempt.map_err(|_| {
            Failure::new(
                Code::ResponseTimeout,
                format!("the replica did not answer within the response limit of {limit:?}"),
            )
        })
    }

    fn finish_wake(&mut self, first_byte: Instant) {
        if let Some(woken) = self.woken.take() {
            let phases = woken.phases(self.arrival.at, first_byte);
            if let Some(span) = &self.in_flight.span {
                trace::woke(span, self.arrival.at, &phases);
            }
            self.arrival.backend().wake_finished(phases);
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
        if self.grpc {
            parts.headers.insert(header::TE, headers::TRAILERS);
        }
        let client = &self.in_flight.client;
        headers::add_forwarded(&mut parts.headers, &client.address, client.scheme(), host.as_ref());
        match &self.in_flight.span {
            Some(span) => span.inject(&mut parts.headers),
            None => headers::add_trace_context(&mut parts.headers, random::next),
        }
        // HTTP/2 has it in the URI, HTTP/1.1 as a header: the endpoint always finds the header.
        if let Some(host) = host {
            parts.headers.insert(header::HOST, host);
        }
        parts.uri = forward::target_uri(&parts.uri, strip)
            .map_err(|error| Failure::new(Code::BadRequest, format!("the request's path is malformed: {error}")))?;
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

fn cannot_repeat() -> Failure {
    Failure::new(
        Code::ReplicaFailed,
        "the replica failed under the request, which can't be sent again",
    )
}

/// Draws the backend of a request.
fn choose(entry: &RouteEntry) -> &Arc<Backend> {
    let index = if entry.backends.len() == 1 {
        0
    } else {
        let weights = entry.route.backends.iter().map(|weighted| weighted.weight);
        // A table in which all weights are 0 is refused.
        weight::choose(weights, random::next()).unwrap_or(0)
    };
    &entry.backends[index]
}
