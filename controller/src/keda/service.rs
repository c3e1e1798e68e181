//! `externalscaler.ExternalScaler` over gRPC, as KEDA calls it: plaintext, with `grpc.health.v1` beside it under the
//! service names `liveness` and `readiness`, and reflection.
//!
//! Errors: `NOT_FOUND` for a route that is not there (KEDA then keeps the replicas), `INVALID_ARGUMENT` for metadata that
//! name none, `UNAVAILABLE` while nothing is known. Answers that count an activator from memory carry the header
//! `x-pilotlight-stale` with their number. Streams end with OK at the end of the process, so that KEDA opens them anew at
//! once; after an error it waits for 2 s and more.

use std::{convert::Infallible, io, pin::Pin, sync::Arc, task};

use futures_util::{
    Stream, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use http::Request as HttpRequest;
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, ServerStreamingService, UnaryService},
    transport::Server,
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_prost::ProstCodec;

use super::{
    messages::{
        GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
        ScaledObjectRef,
    },
    reflection,
    scaler::{Number, Reference, ScalerError},
    state::{Answer, AskError, Scaler},
};

/// Header of answers that count activators from memory.
const STALE: &str = "x-pilotlight-stale";

/// The service. A cheap handle.
#[derive(Clone)]
pub struct ExternalScaler {
    scaler: Arc<Scaler>,
    end: CancellationToken,
}

impl ExternalScaler {
    /// Answers from `scaler`; streams end with OK once `end` is cancelled.
    pub fn new(scaler: Arc<Scaler>, end: CancellationToken) -> Self {
        Self { scaler, end }
    }

    fn is_active(&self, reference: ScaledObjectRef) -> Result<Response<IsActiveResponse>, Status> {
        let Answer { value, stale } = self.scaler.is_active(&reference.into())?;
        Ok(marked(IsActiveResponse { result: value }, stale))
    }

    fn metric_spec(&self, reference: ScaledObjectRef) -> Result<Response<GetMetricSpecResponse>, Status> {
        Ok(Response::new(specs(&self.scaler, &reference.into())?))
    }

    fn metrics(&self, request: GetMetricsRequest) -> Result<Response<GetMetricsResponse>, Status> {
        let reference = request
            .scaled_object_ref
            .ok_or_else(|| Status::invalid_argument("the call names no ScaledObject"))?;
        let Answer { value, stale } = self.scaler.values(&reference.into(), &request.metric_name)?;
        let metric_values = value.into_iter().map(|(name, value)| {
            let (int, float) = fields(value);
            MetricValue {
                metric_name: name,
                metric_value: int,
                metric_value_float: float,
            }
        });
        let metric_values = metric_values.collect();
        Ok(marked(GetMetricsResponse { metric_values }, stale))
    }

    /// `true` the moment a request arrives and every heartbeat while active, `false` once when that is over.
    fn stream_is_active(&self, reference: ScaledObjectRef) -> Result<Answers<IsActiveResponse>, Status> {
        let reference = Reference::from(reference);
        self.scaler.metrics(&reference)?;
        let heartbeat = self.scaler.config().heartbeat;
        Ok(self.follow(move |scaler, told: Option<(bool, tokio::time::Instant)>| {
            let active = scaler.is_active(&reference);
            // Before the first look there is nothing to say, and nothing wrong with the trigger.
            let active = match active {
                Err(AskError::NoCounts) => return Ok(None),
                active => active?.value,
            };
            let due = match told {
                None => true,
                Some((was, at)) => was != active || (active && at.elapsed() >= heartbeat),
            };
            Ok(due.then(|| {
                (
                    IsActiveResponse { result: active },
                    (active, tokio::time::Instant::now()),
                )
            }))
        }))
    }

    /// The specs at once, and whenever they change.
    fn stream_metric_spec(&self, reference: ScaledObjectRef) -> Result<Answers<GetMetricSpecResponse>, Status> {
        let reference = Reference::from(reference);
        self.scaler.metrics(&reference)?;
        Ok(self.follow(move |scaler, told: Option<GetMetricSpecResponse>| {
            let specs = specs(scaler, &reference)?;
            Ok((told.as_ref() != Some(&specs)).then(|| (specs.clone(), specs)))
        }))
    }

    /// Asks `next` after every change and at least every heartbeat what to send, giving it what it kept of the last
    /// message. Holds one message at a time: a slow reader gets the latest.
    fn follow<M: Send + 'static, T: Clone + Send + 'static>(
        &self,
        next: impl Fn(&Scaler, Option<T>) -> Result<Option<(M, T)>, AskError> + Send + Sync + 'static,
    ) -> Answers<M> {
        let following = Following {
            scaler: Arc::clone(&self.scaler),
            changes: self.scaler.changes(),
            end: self.end.clone(),
            told: None,
            next,
        };
        Answers(following.stream().boxed())
    }
}

/// The messages of a stream, the last one an error where it ends with one.
struct Answers<M>(BoxStream<'static, Result<M, Status>>);

impl<M> Stream for Answers<M> {
    type Item = Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

struct Following<T, F> {
    scaler: Arc<Scaler>,
    changes: watch::Receiver<u64>,
    end: CancellationToken,
    told: Option<T>,
    next: F,
}

impl<T: Clone + Send + 'static, F> Following<T, F> {
    fn stream<M: Send + 'static>(self) -> impl Stream<Item = Result<M, Status>>
    where
        F: Fn(&Scaler, Option<T>) -> Result<Option<(M, T)>, AskError> + Send + Sync + 'static,
    {
        stream::unfold(Some(self), |following| async move {
            let mut following = following?;
            loop {
                following.changes.mark_unchanged();
                match (following.next)(&following.scaler, following.told.clone()) {
                    Ok(Some((message, told))) => {
                        following.told = Some(told);
                        return Some((Ok(message), Some(following)));
                    }
                    Ok(None) => {}
                    Err(error) => return Some((Err(error.into()), None)),
                }
                let heartbeat = following.scaler.config().heartbeat;
                tokio::select! {
                    () = following.end.cancelled() => return None,
                    _ = tokio::time::timeout(heartbeat, following.changes.changed()) => {}
                }
            }
        })
    }
}

fn marked<T>(message: T, stale: usize) -> Response<T> {
    let mut response = Response::new(message);
    if stale > 0 {
        response.metadata_mut().insert(STALE, stale.into());
    }
    response
}

fn specs(scaler: &Scaler, reference: &Reference) -> Result<GetMetricSpecResponse, AskError> {
    let metric_specs = scaler.metrics(reference)?.into_iter().map(|metric| {
        let (int, float) = fields(metric.target);
        MetricSpec {
            metric_name: metric.name,
            target_size: int,
            target_size_float: float,
        }
    });
    Ok(GetMetricSpecResponse {
        metric_specs: metric_specs.collect(),
    })
}

/// The deprecated field and that of today.
fn fields(number: Number) -> (i64, f64) {
    match number {
        Number::Int(value) => (value, 0.0),
        Number::Float(value) => (0, value),
    }
}

impl From<ScaledObjectRef> for Reference {
    fn from(reference: ScaledObjectRef) -> Self {
        Self {
            name: reference.name,
            namespace: reference.namespace,
            metadata: reference.scaler_metadata,
        }
    }
}

impl From<AskError> for Status {
    fn from(error: AskError) -> Self {
        let text = error.to_string();
        match error {
            AskError::Trigger(ScalerError::UnknownRoute { .. }) => Self::not_found(text),
            AskError::Trigger(ScalerError::Unnamed | ScalerError::NotANumber { .. }) => Self::invalid_argument(text),
            AskError::NoRoutes | AskError::NoCounts => Self::unavailable(text),
        }
    }
}

// --- the plumbing that a generator would write ----------------------------------------------------------------------

/// A unary call. Functions and not closures: the compiler can't show that the latter's futures may move between threads.
struct Unary<M, R>(ExternalScaler, fn(&ExternalScaler, M) -> Result<Response<R>, Status>);

impl<M, R: Send + 'static> UnaryService<M> for Unary<M, R> {
    type Response = R;
    type Future = std::future::Ready<Result<Response<R>, Status>>;

    fn call(&mut self, request: Request<M>) -> Self::Future {
        std::future::ready((self.1)(&self.0, request.into_inner()))
    }
}

/// A call with a stream of answers.
struct Streaming<M, R>(ExternalScaler, fn(&ExternalScaler, M) -> Result<Answers<R>, Status>);

impl<M, R: Send + 'static> ServerStreamingService<M> for Streaming<M, R> {
    type Response = R;
    type ResponseStream = Answers<R>;
    type Future = std::future::Ready<Result<Response<Answers<R>>, Status>>;

    fn call(&mut self, request: Request<M>) -> Self::Future {
        std::future::ready((self.1)(&self.0, request.into_inner()).map(Response::new))
    }
}

impl NamedService for ExternalScaler {
    const NAME: &'static str = "externalscaler.ExternalScaler";
}

impl tower::Service<HttpRequest<Body>> for ExternalScaler {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await) })
    }
}

impl ExternalScaler {
    async fn answer(self, request: HttpRequest<Body>) -> http::Response<Body> {
        match request.uri().path() {
            "/externalscaler.ExternalScaler/IsActive" => {
                let call = Unary(self, Self::is_active);
                Grpc::new(ProstCodec::default()).unary(call, request).await
            }
            "/externalscaler.ExternalScaler/GetMetricSpec" => {
                let call = Unary(self, Self::metric_spec);
                Grpc::new(ProstCodec::default()).unary(call, request).await
            }
            "/externalscaler.ExternalScaler/GetMetrics" => {
                let call = Unary(self, Self::metrics);
                Grpc::new(ProstCodec::default()).unary(call, request).await
            }
            "/externalscaler.ExternalScaler/StreamIsActive" => {
                let call = Streaming(self, Self::stream_is_active);
                Grpc::new(ProstCodec::default()).server_streaming(call, request).await
            }
            "/externalscaler.ExternalScaler/StreamMetricSpec" => {
                let call = Streaming(self, Self::stream_metric_spec);
                Grpc::new(ProstCodec::default()).server_streaming(call, request).await
            }
            path => Status::unimplemented(format!("{path} is not served here")).into_http(),
        }
    }
}

/// Serves the external scaler, its health and reflection until `end`, then ends the streams with OK and closes.
///
/// # Errors
/// Where the listener is unusable.
pub async fn serve(scaler: Arc<Scaler>, listener: TcpListener, end: CancellationToken) -> io::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let service = ExternalScaler::new(Arc::clone(&scaler), end.clone());
    // Before the first call, which would not find the names otherwise.
    report_health(&scaler, &health).await;
    let reporting = keep_reporting(scaler, health);
    let serving = Server::builder()
        .add_service(service)
        .add_service(health_service)
        .add_service(reflection::builder().build_v1().map_err(io::Error::other)?)
        .add_service(reflection::builder().build_v1alpha().map_err(io::Error::other)?)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), end.cancelled_owned());
    tokio::select! {
        served = serving => served.map_err(io::Error::other),
        never = reporting => match never {},
    }
}

/// `liveness` and `readiness` serve while a look succeeded within two ticks.
async fn report_health(scaler: &Scaler, health: &HealthReporter) {
    let status = if scaler.is_fresh() {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for service in ["readiness", "liveness"] {
        health.set_service_status(service, status).await;
    }
}

async fn keep_reporting(scaler: Arc<Scaler>, health: HealthReporter) -> Infallible {
    let mut ticks = tokio::time::interval(scaler.config().tick);
    loop {
        ticks.tick().await;
        report_health(&scaler, &health).await;
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
