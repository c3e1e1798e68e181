//! Calls that the activator answers itself: about all models, and whether one is ready. They neither wake nor count.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    WakeError,
    activator::RouteEntry,
    backend::Readiness,
    body::ProxyBody,
    error::{self, Failure},
    inference::Call,
};

/// Answers `call` for the routes in `scope`: all of them, or the one that host or path chose.
pub(crate) fn answer<'a>(
    call: Call,
    scope: impl Iterator<Item = &'a RouteEntry> + Clone,
    retry_after: u32,
) -> Response<ProxyBody> {
    match call {
        Call::Ready | Call::ModelReady => ready(call, scope, retry_after),
        Call::ServerMetadata => ok(&json!({
            "name": "pilotlight",
            "version": env!("CARGO_PKG_VERSION"),
            "extensions": ["model_repository"],
        })),
        Call::ModelList => ok(&json!({"models": names(scope)})),
        Call::RepositoryIndex => ok(&index(scope)),
        _ => ok(&json!({"status": "alive", "live": true})),
    }
}

/// A model that sleeps counts as ready: the next request wakes it. One whose last wake failed does not.
fn ready<'a>(call: Call, scope: impl Iterator<Item = &'a RouteEntry> + Clone, retry_after: u32) -> Response<ProxyBody> {
    let mut scope = scope.peekable();
    let only = scope.next().filter(|_| scope.peek().is_none());
    let Some(route) = only else {
        // The server as a whole is ready: each model answers for itself.
        return ok(&json!({"ready": true}));
    };
    if let Some(error) = failure(route) {
        return Failure::from(&error).response(retry_after);
    }
    match name(route) {
        Some(name) if call == Call::ModelReady => ok(&json!({"name": name, "ready": true})),
        _ => ok(&json!({"ready": true})),
    }
}

fn names<'a>(scope: impl Iterator<Item = &'a RouteEntry>) -> Vec<&'a str> {
    let mut names: Vec<&str> = scope.filter_map(name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn index<'a>(scope: impl Iterator<Item = &'a RouteEntry>) -> Value {
    let mut rows: Vec<(&str, Value)> = scope
        .filter_map(|route| Some((name(route)?, failure(route))))
        .map(|(name, failure)| {
            let state = if failure.is_some() { "UNAVAILABLE" } else { "READY" };
            let reason = failure.map(|error| error.message.to_string()).unwrap_or_default();
            (
                name,
                json!({"name": name, "version": "1", "state": state, "reason": reason}),
            )
        })
        .collect();
    rows.sort_by_key(|(name, _)| *name);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn name(route: &RouteEntry) -> Option<&str> {
    route.route.predicate.model_name.as_deref()
}

/// Why a route can't answer: no backend of it is ready or can be woken.
fn failure(route: &RouteEntry) -> Option<WakeError> {
    let mut failure = None;
    for backend in &route.backends {
        match backend.readiness() {
            Readiness::Failed(error) => failure = Some(error),
            Readiness::Ready | Readiness::Asleep => return None,
        }
    }
    failure
}

fn ok(value: &Value) -> Response<ProxyBody> {
    error::json(StatusCode::OK, value)
}
