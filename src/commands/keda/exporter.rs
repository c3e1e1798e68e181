//! The add-on's port for Prometheus: `/metrics` by itself, beside the admin side, which has it too.

use std::net::{IpAddr, SocketAddr};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{TEXT_FORMAT, TextEncoder, proto::MetricFamily};
use tokio::{net::TcpListener, task::AbortHandle};

use super::{Failure, flag, port};

/// The add-on's default of `OTEL_PROM_EXPORTER_PORT`.
const PORT: u16 = 2223;

/// Serves it until it is dropped.
#[must_use = "dropping it ends the serving"]
pub(crate) struct Exporter(AbortHandle);

impl Drop for Exporter {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves what `gather` gives at this address and `OTEL_PROM_EXPORTER_PORT` (2223), unless `OTEL_PROM_EXPORTER_ENABLED` is false.
pub(crate) async fn start(
    address: IpAddr,
    gather: impl Fn() -> Vec<MetricFamily> + Clone + Send + Sync + 'static,
) -> Result<Option<Exporter>, Failure> {
    if flag("OTEL_PROM_EXPORTER_ENABLED")? == Some(false) {
        return Ok(None);
    }
    let address = SocketAddr::new(address, port("OTEL_PROM_EXPORTER_PORT")?.unwrap_or(PORT));
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let remedy = "give OTEL_PROM_EXPORTER_PORT another port, or set OTEL_PROM_EXPORTER_ENABLED=false";
        Failure::Message(format!("can't listen on {address} for metrics: {error}; {remedy}"))
    })?;
    let router = Router::new().route("/metrics", get(move || std::future::ready(answer(&gather()))));
    let serving = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "metrics are no longer served");
        }
    });
    Ok(Some(Exporter(serving.abort_handle())))
}

fn answer(families: &[MetricFamily]) -> Response {
    match TextEncoder::new().encode_to_string(families) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
