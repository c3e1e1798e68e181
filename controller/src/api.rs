//! The API under `/api/v1` of the admin address.
//!
//! | request | answer |
//! |---|---|
//! | `GET /services` | all services with fresh counts; `?watch=true` the same document, one JSON line per change |
//! | `GET /services/{ns}/{name}` | one of them |
//! | `PUT /manifests` | applies all documents of the body or none |
//! | `DELETE /services/{ns}/{name}` | deletes an applied object |
//! | `GET /services/{ns}/{name}/logs` | the runtimes' log lines; `?tail=n`, `?follow=true` |
//!
//! Every error is `{"error","code"}` with the code in `x-pilotlight-reason` too. It decides nothing.

use std::{convert::Infallible, path::PathBuf, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::StringRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get, put},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use pilotlight_manifests::Fault;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    controller::Shared,
    error::Error,
    source::Refusal,
    status::{ServiceStatus, StatusSet},
};

/// Lines of a log that are shown where the request doesn't say.
const DEFAULT_TAIL: usize = 100;

/// How long an apply or delete waits for its change to be taken up before it answers all the same.
const TAKE_UP: Duration = Duration::from_secs(1);

/// Time between two lines of a watch, so that a storm of changes is one line.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) fn router(shared: Shared) -> Router {
    let most = shared.config.max_manifest_bytes;
    Router::new()
        .route("/api/v1/services", get(list))
        .route("/api/v1/services/{namespace}/{name}", get(one))
        .route("/api/v1/services/{namespace}/{name}", delete(remove))
        .route("/api/v1/services/{namespace}/{name}/logs", get(logs))
        .route("/api/v1/manifests", put(apply))
        .layer(DefaultBodyLimit::max(most))
        .with_state(shared)
}

/// An error with its stable code.
struct Failure {
    status: StatusCode,
    code: &'static str,
    body: Value,
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            body: json!({ "error": message.into(), "code": code }),
        }
    }

    fn not_found(namespace: &str, name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown-service",
            format!("there is no service {namespace}/{name}"),
        )
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        response
            .headers_mut()
            .insert("x-pilotlight-reason", HeaderValue::from_static(self.code));
        response
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Faults(faults) => invalid(&message, &faults),
            Refusal::Empty => invalid(&message, &[]),
            Refusal::DeclaredInFile { .. } => Self::new(StatusCode::CONFLICT, "declared-in-file", message),
            Refusal::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "unknown-service", message),
            Refusal::State(Error::DiskFull(_)) => Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk-full", message),
            Refusal::State(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "state-directory", message),
            Refusal::Stopped => Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting-down", message),
        }
    }
}

fn invalid(message: &str, faults: &[Fault]) -> Failure {
    let code = "invalid-manifest";
    let body = json!({ "error": message, "code": code, "faults": faults });
    Failure {
        status: StatusCode::BAD_REQUEST,
        code,
        body,
    }
}

#[derive(Deserialize)]
struct ListQuery {
    #[serde(default)]
    watch: bool,
}

async fn list(State(shared): State<Shared>, Query(query): Query<ListQuery>) -> Response {
    if !query.watch {
        return Json(document(&shared, &shared.status.borrow().clone())).into_response();
    }
    let ending = shared.ending.clone().cancelled_owned();
    let lines = watch(shared).map(Ok::<_, Infallible>).take_until(ending);
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}

/// One line now and one after each change that can be seen.
fn watch(shared: Shared) -> impl Stream<Item = Bytes> {
    let receiver = shared.status.subscribe();
    stream::unfold(
        (shared, receiver, String::new()),
        |(shared, mut receiver, mut last)| async move {
            loop {
                let set = receiver.borrow_and_update().clone();
                let line = format!("{}\n", document(&shared, &set));
                if line != last {
                    last.clone_from(&line);
                    return Some((Bytes::from(line), (shared, receiver, last)));
                }
                sleep(WATCH_INTERVAL).await;
                receiver.changed().await.ok()?;
            }
        },
    )
}

/// All services, with the counts of this moment.
fn document(shared: &Shared, set: &StatusSet) -> Value {
    let counts = shared.traffic.snapshot().backends;
    let items: Vec<_> = set
        .services
        .values()
        .map(|status| status.clone().with_counts(counts.get(&status.backend())))
        .collect();
    json!({ "items": items })
}

async fn one(
    State(shared): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<ServiceStatus>, Failure> {
    let status = find(&shared, &namespace, &name)?;
    let counts = shared.traffic.snapshot().backends;
    let fresh = counts.get(&status.backend());
    Ok(Json(status.with_counts(fresh)))
}

fn find(shared: &Shared, namespace: &str, name: &str) -> Result<ServiceStatus, Failure> {
    let set = shared.status.borrow().clone();
    let found = set.services.get(format!("{namespace}/{name}").as_str());
    found.cloned().ok_or_else(|| Failure::not_found(namespace, name))
}

async fn apply(
    State(shared): State<Shared>,
    headers: HeaderMap,
    body: Result<String, StringRejection>,
) -> Result<Json<Value>, Failure> {
    let text = body.map_err(|rejection| {
        let most = shared.config.max_manifest_bytes;
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let message = format!("the manifest is larger than {most} bytes; split it");
                Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "manifest-too-large", message)
            }
            status => Failure::new(status, "invalid-manifest", rejection.body_text()),
        }
    })?;
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let base = PathBuf::from(header("x-pilotlight-base").unwrap_or("."));
    let file = header("x-pilotlight-file").unwrap_or("manifest");
    let applied = shared.source.apply(text, base.join(file)).await?;
    taken_up(&shared, applied.generation).await;
    let objects: Vec<_> = applied
        .objects
        .iter()
        .map(|(namespace, name, outcome)| {
            json!({ "kind": "InferenceService", "namespace": namespace, "name": name, "action": outcome })
        })
        .collect();
    Ok(Json(json!({ "applied": objects, "warnings": applied.warnings })))
}

async fn remove(
    State(shared): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    let generation = shared.source.delete(&namespace, &name).await?;
    taken_up(&shared, generation).await;
    Ok(Json(
        json!({ "deleted": { "kind": "InferenceService", "namespace": namespace, "name": name } }),
    ))
}

/// Waits until the controller acts on this generation, so that what follows sees it.
async fn taken_up(shared: &Shared, generation: u64) {
    let mut status = shared.status.subscribe();
    // Late or ending: the order stands all the same.
    let _ = timeout(TAKE_UP, status.wait_for(|set| set.generation >= generation)).await;
}

#[derive(Deserialize)]
struct LogsQuery {
    #[serde(default)]
    follow: bool,
    tail: Option<usize>,
}

async fn logs(
    State(shared): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Failure> {
    let backend = find(&shared, &namespace, &name)?.backend();
    let lines = shared
        .platform
        .logs(&backend, query.tail.unwrap_or(DEFAULT_TAIL), query.follow);
    let lines = lines.map(|line| Ok::<_, Infallible>(Bytes::from(format!("{} {}\n", line.endpoint, line.text))));
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    let lines = lines.take_until(shared.ending.clone().cancelled_owned());
    Ok((kind, Body::from_stream(lines)).into_response())
}

#[cfg(test)]
mod tests;
