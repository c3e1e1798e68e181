//! Calls that the activator answers itself: about all models, and whether one is ready. They neither wake nor count.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::{
    WakeError,
    activator::RouteEntry,
    backend::Readiness,
    body::ProxyBody,
    error::{self, Failure},
    inference::Call,
};

/// Who answers, as the server's metadata tell it.
pub(crate) const NAME: &str = "pilotlight";
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
pub(crate) const EXTENSIONS: &[&str] = &["binary_tensor_data", "model_configuration", "parameters", "statistics"];

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
        Call::ServerMetadata => ok(&json!({"name": NAME, "version": VERSION, "extensions": EXTENSIONS})),
        Call::ModelList => ok(&json!({"models": names(scope)})),
        Call::RepositoryIndex => ok(&rows(scope)),
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

/// A model in the repository's index.
#[derive(Serialize)]
pub(crate) struct Row<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'static str,
    pub(crate) state: &'static str,
    pub(crate) reason: String,
}

/// The repository's index, by name.
pub(crate) fn rows(scope: Scope<'_>) -> Vec<Row<'_>> {
    let models = scope.routes().filter_map(|route| Some((name(route)?, failure(route))));
    let mut rows: Vec<Row<'_>> = models
        .map(|(name, failure)| Row {
            name,
            version: "1",
            state: if failure.is_some() { "UNAVAILABLE" } else { "READY" },
            reason: failure.map(|error| error.message.to_string()).unwrap_or_default(),
        })
        .collect();
    rows.sort_by_key(|row| row.name);
    rows
}

/// Whether a model can answer, awake or not; the server as a whole always can.
pub(crate) fn is_ready(scope: Scope<'_>) -> bool {
    match scope {
        Scope::All(_) => true,
        Scope::One(route) => failure(route).is_none(),
    }
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

fn ok(value: &impl Serialize) -> Response<ProxyBody> {
    error::json(StatusCode::OK, value)
}
