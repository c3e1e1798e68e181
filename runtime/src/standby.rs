//! A runtime that waits for its model: started ahead, without one, it is given exactly one later and serves it from then on.
//!
//! `POST /v2/standby` with `{"key", "name", "model"}` gives it, and is answered once the model is ready. The key is what the process
//! was started with (`--standby-key`; in a cluster the pod's uid, which those know who may read the pod, and which tells an address
//! that has changed hands from the right one). The same model again waits for the same load; another one is refused. A process that
//! starts again finds its model in `--assigned-model`, which a platform sets for it.
//!
//! It can't take a model back: what served one model never serves another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::app::{App, Reply};
use crate::config::ModelArg;
use crate::error::{ApiError, Code};
use crate::faces::Of;
use crate::models::Origin;

/// The model that is waited for.
pub(crate) struct Standby {
    /// `None`: no model is taken.
    key: Option<String>,
    assigned: Mutex<Option<ModelArg>>,
    /// The assigned model was ready once. What becomes of it later is not this module's.
    given: AtomicBool,
    /// Why the assigned model can't be loaded.
    failure: Arc<watch::Sender<Option<String>>>,
}

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Assignment {
    key: String,
    name: String,
    model: String,
}

impl Standby {
    /// `key` is what a caller has to know; `model` what the process was started with.
    pub(crate) fn new(key: Option<String>, model: Option<ModelArg>) -> Self {
        Self {
            key,
            assigned: Mutex::new(model),
            given: AtomicBool::new(false),
            failure: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Whether this process is one that is given its model, and does not have it yet; `ready` tells whether a model is.
    pub(crate) fn waits(&self, ready: impl FnOnce(&str) -> bool) -> bool {
        if self.key.is_none() || self.given.load(Ordering::Acquire) {
            return false;
        }
        let has = self.assigned.lock().as_ref().is_some_and(|model| ready(&model.name));
        self.given.store(has, Ordering::Release);
        !has
    }

    /// Resolves with the reason once the assigned model could not be loaded; else never.
    pub(crate) async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        let reason = match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone(),
            // The sender lives as long as this.
            Err(_) => None,
        };
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Takes the model; `true` where it has to be loaded, `false` where it is already.
    fn assign(&self, assignment: &Assignment) -> Result<(ModelArg, bool), ApiError> {
        match &self.key {
            None => return Err(ApiError::new(Code::UnknownPath, "this process waits for no model")),
            Some(key) if !same(key, &assignment.key) => {
                return Err(ApiError::invalid("the key is not this process's"));
            }
            Some(_) => {}
        }
        let Assignment { name, model, .. } = assignment;
        let wanted: ModelArg = format!("{name}={model}").parse().map_err(ApiError::invalid)?;
        let mut assigned = self.assigned.lock();
        match &*assigned {
            None => {
                *assigned = Some(wanted.clone());
                Ok((wanted, true))
            }
            Some(before) if *before == wanted => Ok((wanted, false)),
            Some(before) => Err(ApiError::invalid(format!(
                "this process serves {:?} and takes no other model",
                before.name
            ))),
        }
    }
}

/// Compares in a time that does not depend on how much of it is right.
fn same(key: &str, given: &str) -> bool {
    let differ = key.bytes().zip(given.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    key.len() == given.len() && differ == 0
}

impl App {
    /// Takes the model that this process waits for; answers when it is ready.
    pub(crate) async fn assign<B>(&self, headers: &HeaderMap, body: B) -> Result<Reply, ApiError>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let by = Instant::now() + self.config.request_timeout;
        let (body, _share) = self.body_by(by, headers, body).await?;
        let assignment: Assignment =
            serde_json::from_slice(&body).map_err(|error| ApiError::invalid(error.to_string()))?;
        let (ModelArg { name, path }, load) = self.standby.assign(&assignment)?;
        if load {
            let origin = Origin::file(&path);
            // From here on it is loading, not unknown.
            self.repository.announce(&name);
            self.give(&name, origin.clone());
            tracing::info!(model = name, "assigned");
            let (repository, failure, name) =
                (self.repository.clone(), Arc::clone(&self.standby.failure), name.clone());
            // A task of its own: the load goes on where the caller leaves, and its failure ends the process.
            tokio::spawn(async move {
                if let Err(error) = repository.load(&name, origin).await {
                    failure.send_replace(Some(error.to_string()));
                }
            });
        }
        self.repository.loaded(&name).await;
        let (model, version) = (&*name, None);
        self.model_ready(Of { model, version })
    }
}

#[cfg(test)]
mod tests {
    use pilotlight_engine::DataType;

    use crate::app::Stage;
    use crate::config::Config;
    use crate::model::Model;
    use crate::models::Repository;
    use crate::testing::{Inline, Mock, Seen, call, config, scheduler};

    use super::*;

    /// A process that waits for a model under the key `k`.
    fn waiting() -> App {
        let config = Config {
            standby_key: Some("k".to_owned()),
            ..config()
        };
        let (scheduler, metrics) = scheduler(&config, Inline);
        let loader = |path: &std::path::Path| -> Result<Arc<dyn Model>, String> {
            match path.to_str() {
                Some("broken") => Err("broken".to_owned()),
                _ => Ok(Mock::echo(DataType::F32, 1)),
            }
        };
        let repository = Repository::new(Box::new(loader), scheduler.clone(), Arc::clone(&metrics));
        let app = App::new(repository, scheduler, metrics, config);
        app.enter(Stage::Serving);
        app
    }

    async fn assign(app: &App, key: &str, name: &str, model: &str) -> Seen {
        let body = serde_json::json!({ "key": key, "name": name, "model": model }).to_string();
        call(app, "POST", "/v2/standby", &body).await
    }

    #[tokio::test]
    async fn a_waiting_runtime_takes_one_model_from_who_knows_its_key() {
        let app = waiting();
        assert_eq!(call(&app, "GET", "/v2/health/ready", "").await.status, 200);
        assert_eq!(assign(&app, "other", "m", "m.onnx").await.status, 400);
        assert_eq!(call(&app, "GET", "/v2/models/m/ready", "").await.status, 404);

        let (first, again) = tokio::join!(assign(&app, "k", "m", "m.onnx"), assign(&app, "k", "m", "m.onnx"));
        assert_eq!(
            (first.status, again.status),
            (200, 200),
            "{} {}",
            first.body,
            again.body
        );
        assert_eq!(call(&app, "GET", "/v2/models/m/ready", "").await.status, 200);

        let other = assign(&app, "k", "n", "n.onnx").await;
        assert_eq!(other.status, 400);
        assert!(other.body.contains("takes no other model"), "{}", other.body);
    }

    #[tokio::test]
    async fn a_request_to_a_container_that_has_no_model_yet_is_marked_to_be_asked_again() {
        let app = waiting();
        let infer = || call(&app, "POST", "/v2/models/m/infer", "{}");
        let early = infer().await;
        assert_eq!((early.status, early.code()), (503, "draining"));
        assign(&app, "k", "m", "m.onnx").await;
        assert_eq!(infer().await.status, 400, "it is read now, and is no request");
    }

    #[tokio::test]
    async fn an_assigned_model_that_cannot_load_ends_the_process_with_its_reason() {
        let app = waiting();
        let seen = assign(&app, "k", "m", "broken").await;
        assert_eq!((seen.status, seen.code()), (503, "model-not-ready"));
        assert!(app.standby.failed().await.contains("broken"));
    }

    #[tokio::test]
    async fn a_runtime_that_waits_for_nothing_takes_no_model() {
        let (scheduler, metrics) = scheduler(&config(), Inline);
        let loader = |_: &std::path::Path| -> Result<Arc<dyn Model>, String> { Ok(Mock::echo(DataType::F32, 1)) };
        let repository = Repository::new(Box::new(loader), scheduler.clone(), Arc::clone(&metrics));
        let app = App::new(repository, scheduler, metrics, config());
        assert_eq!(assign(&app, "", "m", "m.onnx").await.status, 404);
    }
}
