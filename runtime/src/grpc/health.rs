//! `grpc.health.v1.Health`: whether the process serves, asked once or watched.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use http_body::Body;
use hyper::body::Frame;
use tokio::sync::watch;
use tokio::time::timeout;

use super::lookup::SERVICE;
use super::messages::{HealthRequest, HealthResponse};
use super::wire::{GrpcBody, Messages, decode, encode, reply, trailers};
use crate::app::App;
use crate::error::{ApiError, Code, InferError};

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;
const SERVICE_UNKNOWN: i32 = 3;

/// The state of a service; the empty name is the process.
fn status(app: &App, service: &str) -> i32 {
    match service {
        "" | SERVICE if app.serving().is_ok() => SERVING,
        "" | SERVICE => NOT_SERVING,
        _ => SERVICE_UNKNOWN,
    }
}

/// `Check`.
///
/// # Errors
/// `NOT_FOUND` for a service that there is not.
pub(super) fn check(app: &App, request: &HealthRequest) -> Result<HealthResponse, ApiError> {
    match status(app, &request.service) {
        SERVICE_UNKNOWN => {
            let message = format!("there is no service {:?}", request.service);
            Err(ApiError::new(Code::ModelNotFound, message))
        }
        status => Ok(HealthResponse { status }),
    }
}

/// `Watch`: the state at once and whenever it changes, until the client leaves or the process is ending, which is told before.
///
/// # Errors
/// Where there is no request to read.
pub(super) async fn watch<B>(app: Arc<App>, mut messages: Messages<B>) -> Result<Response<GrpcBody>, ApiError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let limit = app.config.request_timeout;
    let request = timeout(limit, messages.next()).await;
    let request = request.map_err(|_| InferError::Timeout { limit })??;
    let (message, _) = request.ok_or_else(|| ApiError::invalid("the call has no message"))?;
    let watched = Watched {
        service: decode::<HealthRequest>(message)?.service,
        told: None,
        models: app.repository.changes(),
        stages: app.stages(),
        app,
    };
    Ok(reply(stream::unfold(Some(watched), |watched| async {
        let mut watched = watched?;
        if let Some(status) = watched.next().await {
            return Some((Frame::data(encode(&HealthResponse { status })), Some(watched)));
        }
        Some((Frame::trailers(trailers(Ok(()))), None))
    })))
}

struct Watched {
    app: Arc<App>,
    service: String,
    told: Option<i32>,
    models: watch::Receiver<u64>,
    stages: watch::Receiver<()>,
}

impl Watched {
    /// The next state that differs from the one told last. `None`: there will be none.
    async fn next(&mut self) -> Option<i32> {
        loop {
            // Marked as seen before it is looked at, so that no change in between is missed.
            self.models.mark_unchanged();
            self.stages.mark_unchanged();
            let status = status(&self.app, &self.service);
            if self.told.replace(status) != Some(status) {
                return Some(status);
            }
            if self.app.is_draining() {
                return None;
            }
            tokio::select! {
                changed = self.models.changed() => changed.ok()?,
                changed = self.stages.changed() => changed.ok()?,
            }
        }
    }
}
