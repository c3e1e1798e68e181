//! The models of the process: loaded and unloaded at any time, each with its own state.
//!
//! The process may have none. A model is ready after its file was loaded and it ran once; a reload keeps the old one in service
//! until the new one is ready, and for good where the new one fails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use parking_lot::RwLock;
use pilotlight_engine::Model;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::config::check_name;
use crate::error::{ApiError, Code};
use crate::executor::panic_text;
use crate::metrics::Metrics;
use crate::scheduler::Scheduler;
use crate::served::{Readiness, Served};
use crate::warmup::warm_up;

/// Reads a model file. Runs on a thread where it may block.
pub type Loader = dyn Fn(&Path) -> Result<Arc<dyn Model>, String> + Send + Sync;

/// Where a model stands.
#[derive(Clone, Debug)]
pub enum ModelState {
    /// It is being loaded and warmed up.
    Loading,
    /// It answers.
    Ready(Arc<Served>, Readiness),
    /// It could not be loaded, for this reason. Loading it again is allowed.
    Failed(String),
    /// It takes no new requests and finishes those it has.
    Unloading,
}

impl ModelState {
    /// The state's name in the repository index.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Loading => "LOADING",
            Self::Ready(..) => "READY",
            Self::Failed(_) => "UNAVAILABLE",
            Self::Unloading => "UNLOADING",
        }
    }
}

/// Why a model was not loaded or unloaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The name can't stand in a URL.
    #[error("{0}")]
    Name(String),
    /// Another load or unload of this name is under way.
    #[error("model {0:?} is being loaded or unloaded; try again when that is done")]
    Busy(String),
    /// There is no model of this name.
    #[error("there is no model {0:?}")]
    NotFound(String),
    /// The file can't be loaded, or the model can't run.
    #[error("model {name:?} from {}: {reason}", .path.display())]
    Load {
        /// The model.
        name: String,
        /// Its file.
        path: PathBuf,
        /// The engine's words.
        reason: String,
    },
}

/// The models. Clones share them.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

struct Inner {
    entries: RwLock<BTreeMap<String, Entry>>,
    loader: Box<Loader>,
    scheduler: Scheduler,
    metrics: Arc<Metrics>,
    /// A load has ended.
    loaded: Notify,
}

struct Entry {
    state: ModelState,
    /// A load or unload is under way; `state` alone does not tell, because a reload keeps the old model ready.
    busy: bool,
}

/// A ready model in use by one request. While it lives, an unload waits.
#[derive(Debug)]
pub struct Lease {
    /// The model.
    pub served: Arc<Served>,
    _user: TaskTrackerToken,
}

impl Repository {
    /// An empty repository.
    pub fn new(loader: Box<Loader>, scheduler: Scheduler, metrics: Arc<Metrics>) -> Self {
        Self {
            inner: Arc::new(Inner {
                entries: RwLock::default(),
                loader,
                scheduler,
                metrics,
                loaded: Notify::new(),
            }),
        }
    }

    /// Says that a model of this name will be loaded in a moment: until then it is loading, not unknown.
    pub fn announce(&self, name: &str) {
        let entry = || Entry {
            state: ModelState::Loading,
            busy: false,
        };
        self.inner.entries.write().entry(name.to_owned()).or_insert_with(entry);
    }

    /// Loads a model and warms it up; returns when it is ready. Cancelled, the load goes on in the background.
    ///
    /// # Errors
    /// The state is then `Failed`, or still `Ready` with the old model where there was one.
    pub async fn load(&self, name: &str, path: &Path) -> Result<(), ModelError> {
        check_name(name).map_err(ModelError::Name)?;
        self.inner.begin_load(name)?;
        let (inner, name, path) = (Arc::clone(&self.inner), name.to_owned(), path.to_owned());
        // A task of its own, so that a caller that goes away leaves no entry that is busy for ever.
        let load = tokio::spawn(async move {
            let result = inner.load(&name, &path).await;
            inner.end_load(&name, result.clone());
            result
                .map(drop)
                .map_err(|reason| ModelError::Load { name, path, reason })
        });
        match load.await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Unloads a model; returns when its last request is answered. Cancelled, it stays unloading and its name busy.
    ///
    /// # Errors
    /// Where there is none of this name, or it is being loaded.
    pub async fn unload(&self, name: &str) -> Result<(), ModelError> {
        if let Some(served) = self.inner.begin_unload(name)? {
            served.users.close();
            served.users.wait().await;
        }
        self.inner.entries.write().remove(name);
        self.inner.metrics.forget(name);
        tracing::info!(model = name, "model unloaded");
        Ok(())
    }

    /// A ready model, for one request.
    ///
    /// # Errors
    /// 404 for an unknown name, 503 with the reason for one that is not ready.
    pub fn lease(&self, name: &str) -> Result<Lease, ApiError> {
        match self.inner.entries.read().get(name).map(|entry| &entry.state) {
            Some(ModelState::Ready(served, _)) => Ok(Lease {
                served: Arc::clone(served),
                _user: served.users.token(),
            }),
            Some(state) => Err(not_ready(name, state)),
            None => Err(not_found(name)),
        }
    }

    /// Since when a model is ready.
    ///
    /// # Errors
    /// As `lease`.
    pub fn readiness(&self, name: &str) -> Result<Readiness, ApiError> {
        match self.inner.entries.read().get(name).map(|entry| &entry.state) {
            Some(ModelState::Ready(_, readiness)) => Ok(*readiness),
            Some(state) => Err(not_ready(name, state)),
            None => Err(not_found(name)),
        }
    }

    /// Waits while the model is loading; returns at once where it is in any other state, or there is none.
    pub async fn loaded(&self, name: &str) {
        loop {
            // Listens before it looks, so that a load that ends in between is not missed.
            let mut ended = pin!(self.inner.loaded.notified());
            ended.as_mut().enable();
            let loading = |entry: &Entry| matches!(entry.state, ModelState::Loading);
            if !self.inner.entries.read().get(name).is_some_and(loading) {
                return;
            }
            ended.await;
        }
    }

    /// Every model and its state, sorted by name.
    pub fn index(&self) -> Vec<(String, ModelState)> {
        self.inner
            .entries
            .read()
            .iter()
            .map(|(name, entry)| (name.clone(), entry.state.clone()))
            .collect()
    }

    /// The names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.inner.entries.read().keys().cloned().collect()
    }

    /// Whether every model is ready. True where there is none.
    pub fn all_ready(&self) -> bool {
        self.inner
            .entries
            .read()
            .values()
            .all(|entry| matches!(entry.state, ModelState::Ready(..)))
    }
}

fn not_found(name: &str) -> ApiError {
    ApiError::new(
        Code::ModelNotFound,
        format!("there is no model {name:?}; GET /v2/models lists those there are"),
    )
}

fn not_ready(name: &str, state: &ModelState) -> ApiError {
    let why = match state {
        ModelState::Failed(reason) => format!("failed to load: {reason}"),
        ModelState::Unloading => "is being unloaded".to_owned(),
        ModelState::Loading | ModelState::Ready(..) => "is still loading".to_owned(),
    };
    ApiError::new(Code::ModelNotReady, format!("model {name:?} {why}"))
}

impl Inner {
    fn begin_load(&self, name: &str) -> Result<(), ModelError> {
        let mut entries = self.entries.write();
        let entry = entries.entry(name.to_owned()).or_insert(Entry {
            state: ModelState::Loading,
            busy: false,
        });
        if entry.busy {
            return Err(ModelError::Busy(name.to_owned()));
        }
        entry.busy = true;
        if let ModelState::Failed(_) = entry.state {
            entry.state = ModelState::Loading;
        }
        Ok(())
    }

    async fn load(self: &Arc<Self>, name: &str, path: &Path) -> Result<(Arc<Served>, Readiness), String> {
        let start = Instant::now();
        let (inner, file) = (Arc::clone(self), path.to_owned());
        let model = match tokio::task::spawn_blocking(move || (inner.loader)(&file)).await {
            Ok(model) => model?,
            Err(error) if error.is_panic() => {
                return Err(format!("the engine panicked: {}", panic_text(&*error.into_panic())));
            }
            Err(_) => return Err("the process is ending".to_owned()),
        };
        let served = Arc::new(Served::new(name, model, self.metrics.depth_of(name)));
        warm_up(&self.scheduler, &served).await?;
        served.stats.reset();
        let readiness = Readiness {
            load: start.elapsed(),
            since: Instant::now(),
        };
        Ok((served, readiness))
    }

    fn end_load(&self, name: &str, result: Result<(Arc<Served>, Readiness), String>) {
        let mut entries = self.entries.write();
        let Some(entry) = entries.get_mut(name) else { return };
        entry.busy = false;
        match result {
            Ok((served, readiness)) => {
                self.metrics.load_time_of(name).set(readiness.load.as_secs_f64());
                tracing::info!(
                    model = name,
                    load_ms = readiness.load.as_secs_f64() * 1000.0,
                    batchable = served.batchable(),
                    "model ready"
                );
                entry.state = ModelState::Ready(served, readiness);
            }
            Err(reason) => {
                tracing::error!(model = name, %reason, "model not loaded");
                if !matches!(entry.state, ModelState::Ready(..)) {
                    entry.state = ModelState::Failed(reason);
                }
            }
        }
        drop(entries);
        self.loaded.notify_waiters();
    }

    /// What is to be waited for before the entry can go.
    fn begin_unload(&self, name: &str) -> Result<Option<Arc<Served>>, ModelError> {
        let mut entries = self.entries.write();
        let entry = entries
            .get_mut(name)
            .ok_or_else(|| ModelError::NotFound(name.to_owned()))?;
        if entry.busy {
            return Err(ModelError::Busy(name.to_owned()));
        }
        entry.busy = true;
        match std::mem::replace(&mut entry.state, ModelState::Unloading) {
            ModelState::Ready(served, _) => Ok(Some(served)),
            _ => Ok(None),
        }
    }
}
