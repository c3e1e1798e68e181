//! One request on its way through: count, keep, wait, forward, replay, answer.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use pilotlight_telemetry::ServerSpan;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Protocol, Purity, Route,
    activator::RouteEntry,
    backend::{Arrival, Backend, Permit, Readiness},
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
    pool::Line,
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
    /// Whether it is in the counts of its route.
    counted: bool,
    /// The backend's counts, which end with this.
    arrival: Option<Arrival>,
    /// Where traces are exported.
    span: Option<ServerSpan>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        drop(self.arrival.take());
        if self.counted {
            self.stats.concurrency.fetch_sub(1, Ordering::Relaxed);
        }
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
    /// The route's fallback answers it.
    fallen_back: bool,
    /// It has had a place at an endpoint.
    placed: bool,
}

impl Exchange {
    /// Counts a request that takes a route, from now on.
    pub(crate) fn new(client: Arc<Client>, entry: Arc<RouteEntry>, call: Call, at: Instant) -> Self {
        let stats = &entry.stats;
        stats.requests.fetch_add(1, Ordering::Relaxed);
        if stats.concurrency.fetch_add(1, Ordering::Relaxed) == 0 {
            client.inner.arrivals.note(stats);
        }
        Self::with(client, entry, call, at, true)
    }

    /// A request that is not in the counts of its route, so that it keeps nothing awake.
    pub(crate) fn uncounted(client: Arc<Client>, entry: Arc<RouteEntry>, call: Call, at: Instant) -> Self {
        Self::with(client, entry, call, at, false)
    }

    fn with(client: Arc<Client>, entry: Arc<RouteEntry>, call: Call, at: Instant, counted: bool) -> Self {
        let stats = Arc::clone(&entry.stats);
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
                counted,
                arrival: None,
                span: None,
            },
            entry,
            arrival,
            failed: 0,
            spent: Duration::ZERO,
            woken: None,
            tunnel: None,
            fallen_back: false,
            placed: false,
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
        let cold_start = self.entry.route.policy.cold_start.clone();
        let path = cold_start.as_ref().map(|_| parts.uri.path().to_owned());
        let placeholder = cold_start.as_ref().and_then(|cold| cold.at_once());
        if let Some(placeholder) = placeholder.filter(|_| !self.grpc && !self.is_ready()) {
            replay::discard(body.rest).await;
            return self.finish(placeholder.answer(path.as_deref().unwrap_or("/")));
        }
        let result = match self.forward_in_time(parts, body, strip).await {
            Ok(mut response) => {
                headers::strip_hop_by_hop_of_answer(&mut response);
                let grpc = self.grpc;
                let deadline = self.deadline();
                response.map(|content| {
                    let body = ProxyBody::new(content).until(deadline);
                    if grpc { body.grpc() } else { body }
                })
            }
            Err(failure) => {
                client.inner.shared.metrics.dropped(failure.code);
                if let Some(span) = &self.in_flight.span {
                    span.fail(failure.code.as_str());
                }
                let rejected = failure.code == Code::WaitingRoomFull && !self.is_ready();
                if rejected {
                    client
                        .inner
                        .shared
                        .metrics
                        .cold_start_rejected(self.entry.route.id.as_str());
                }
                let placeholder = cold_start.as_ref().and_then(|cold| cold.placeholder.as_ref());
                if let Some(placeholder) = placeholder.filter(|_| rejected && !self.grpc) {
                    placeholder.answer(path.as_deref().unwrap_or("/"))
                } else if self.grpc {
                    grpc::status::failed(&failure)
                } else if self.entry.route.policy.purity == Purity::Opaque {
                    failure.plain(config.retry_after)
                } else {
                    failure.response(config.retry_after)
                }
            }
        };
        let result = self.cold_start_told(result);
        self.finish(result)
    }

    /// Says whether it was cold, to a request whose wait is over, whatever became of it then.
    fn cold_start_told(&self, mut response: Response<ProxyBody>) -> Response<ProxyBody> {
        let wanted = self.in_flight.client.inner.shared.config.cold_start_header;
        if wanted && self.in_flight.counted && self.placed && !self.fallen_back {
            let cold = if self.arrival.cold { "true" } else { "false" };
            let cold = HeaderValue::from_static(cold);
            response.headers_mut().insert(headers::COLD_START, cold);
        }
        response
    }

    /// When the request as a whole has to be over, its answer's last byte included.
    fn deadline(&self) -> Option<Instant> {
        let limit = self.entry.route.policy.request_timeout?;
        self.in_flight.at.checked_add(limit)
    }

    /// Whether the backend has a ready endpoint.
    fn is_ready(&self) -> bool {
        self.arrival.backend().readiness() == Readiness::Ready
    }

    /// Hands the counts to what ends them: the answer's last byte, or the end of a tunnel.
    fn finish(self, result: Response<ProxyBody>) -> Response<ProxyBody> {
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

    /// Within the limit of the request as a whole, where there is one.
    async fn forward_in_time(
        &mut self,
        parts: http::request::Parts,
        body: Received,
        strip: usize,
    ) -> Result<Response<Content>, Failure> {
        let Some(limit) = self.entry.route.policy.request_timeout else {
            return self.forward(parts, body, strip).await;
        };
        let left = limit.saturating_sub(self.in_flight.at.elapsed());
        // Boxed: requests without this limit should not pay for its size.
        match tokio::time::timeout(left, Box::pin(self.forward(parts, body, strip))).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(
                Code::ResponseTimeout,
                format!("the request was not answered within its limit of {limit:?}"),
            )),
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
                Attempt::Refused(cause, refusal) => {
                    if self.decide(cause, &body)? == Decision::PassRefusal {
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
        let acquired = self.place().await;
        if let Some(span) = &self.in_flight.span {
            trace::waited(span, began, self.arrival.cold);
        }
        let mut permit = acquired?;
        self.placed = true;
        self.woken = permit.woken.take().or(self.woken);
        Ok(permit)
    }

    /// A place on an endpoint: the backend's, or where that is too long in coming the fallback's.
    async fn place(&mut self) -> Result<Permit, Failure> {
        let entry = Arc::clone(&self.entry);
        let Route { id, policy, .. } = &entry.route;
        let failure = match self.arrival.acquire(id, policy).await {
            Ok(permit) => return Ok(permit),
            Err(failure) => failure,
        };
        match &entry.fallback {
            Some(fallback) if !self.fallen_back && failure.is_of_cold_start() => {
                self.fallen_back = true;
                self.arrival = fallback.arrive(Instant::now());
                self.arrival.acquire(id, policy).await
            }
            _ => Err(failure),
        }
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
        let tls = self.in_flight.client.upstream.clone();
        let began = Instant::now();
        let attempt = tokio::time::timeout(
            limit.saturating_sub(self.spent),
            forward::attempt(permit, request, hold, limits, tls.as_ref(), self.grpc),
        )
        .await;
        self.spent += began.elapsed();
        if let Some(span) = &self.in_flight.span {
            let status = attempt.as_ref().ok().and_then(Attempt::status);
            trace::forwarded(span, began, self.failed, status);
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
        let client = Arc::clone(&self.in_flight.client);
        let line = Line {
            protocol: Protocol::H1,
            tls: client.upstream.as_ref(),
            limits: client.inner.shared.pool_limits(),
        };
        let response = upgrade::tunnel(permit, parts, on_client, counted, line, self.deadline()).await?;
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
