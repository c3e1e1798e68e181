//! The admin side: liveness, readiness, metrics.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Registry, TextEncoder};

use super::{context::Context, watches::WATCHES};

#[derive(Clone)]
struct Admin {
    context: Arc<Context>,
    registry: Registry,
}

/// `/livez`, `/readyz` (every watch has listed everything once; a follower is ready too) and `/metrics`.
pub(crate) fn router(context: Arc<Context>, registry: Registry) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Admin { context, registry })
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    if *admin.context.synced.borrow() >= WATCHES {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the watches have not listed everything yet\n",
        )
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match TextEncoder::new().encode_to_string(&admin.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
