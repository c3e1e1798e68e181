//! The admin side: liveness, readiness, counts as the KEDA HTTP add-on's interceptor shows them, metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use serde::Serialize;

use crate::{activator::Inner, arrivals};

pub(crate) fn router(inner: Arc<Inner>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        // KEDA's scaler may use any method.
        .route("/queue", any(queue))
        .route("/metrics", get(metrics))
        .route("/api/v1/active", get(arrivals::active))
        .with_state(inner)
}

async fn readyz(State(inner): State<Arc<Inner>>) -> (StatusCode, &'static str) {
    if inner.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no routes yet, or shutting down\n")
    }
}

#[derive(Serialize)]
struct QueueCounts {
    #[serde(rename = "Concurrency")]
    concurrency: u64,
    #[serde(rename = "RequestCount")]
    request_count: u64,
}

async fn queue(State(inner): State<Arc<Inner>>) -> Json<BTreeMap<String, QueueCounts>> {
    let live = inner.live.load();
    let counts = live.entries.iter().map(|entry| {
        let counts = QueueCounts {
            concurrency: entry.stats.concurrency.load(Ordering::Relaxed),
            request_count: entry.stats.requests.load(Ordering::Relaxed),
        };
        (entry.stats.id.to_string(), counts)
    });
    Json(counts.collect())
}

async fn metrics(State(inner): State<Arc<Inner>>) -> Response {
    match prometheus::TextEncoder::new().encode_to_string(&inner.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
