//! Calls that the activator answers itself: about all models, and whether one is ready. They neither wake nor count.

use std::sync::Arc;

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

/// Whom a call is about.
#[derive(Clone, Copy)]
pub(crate) enum Scope<'a> {
    /// The server: all models.
    All(&'a [Arc<RouteEntry>]),
    /// The one route that host, path or name chose.
    One(&'a RouteEntry),
}

impl<'a> Scope<'a> {
    fn routes(self) -> impl Iterator<Item = &'a RouteEntry> {
        let (all, one) = match self {
            Self::All(all) => (all, None),
            Self::One(one) => (&[][..], Some(one)),
        };
        all.iter().map(AsRef::as_ref).chain(one)
    }
}

/// Answers `call`. `retry_after` in seconds goes with a 503.
pub(crate) fn answer(call: Call, scope: Scope<'_>, retry_after: u32) -> Response<ProxyBody> {
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

/// A model that sleeps counts as ready: the next request wakes it. One whose last wake failed does not. The server as
/// a whole is always ready, since each model answers for itself.
fn ready(call: Call, scope: Scope<'_>, retry_after: u32) -> Response<ProxyBody> {
    let Scope::One(route) = scope else {
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

fn names(scope: Scope<'_>) -> Vec<&str> {
    let mut names: Vec<&str> = scope.routes().filter_map(name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn index(scope: Scope<'_>) -> Value {
    let models = scope.routes().filter_map(|route| Some((name(route)?, failure(route))));
    let mut rows: Vec<(&str, Value)> = models
        .map(|(name, failure)| {
            let state = if failure.is_some() { "UNAVAILABLE" } else { "READY" };
            let reason = failure.map(|error| error.message.to_string()).unwrap_or_default();
            let row = json!({"name": name, "version": "1", "state": state, "reason": reason});
            (name, row)
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
