//! The models of the process: loaded and unloaded at any time, each with its own state.
//!
//! The process may have none. A model is ready after its file was loaded and it ran once; a reload keeps the old one in service
//! until the new one is ready, and for good where the new one fails.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::config::check_name;
use crate::error::{ApiError, Code};
use crate::executor::panic_text;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::scheduler::Scheduler;
use crate::served::{Readiness, Served};
use crate::warmup::warm_up;

/// Reads a model file. Runs on a thread where it may block.
pub type Loader = dyn Fn(&Path) -> Result<Arc<dyn Model>, String> + Send + Sync;

/// Makes a model. Runs on a thread where it may block.
pub type Maker = dyn Fn() -> Result<Arc<dyn Model>, String> + Send + Sync;

/// What a model is loaded from.
#[derive(Clone)]
pub enum Source {
    /// A file that the loader reads.
    File(PathBuf),
    /// Code of the program around the runtime.
    Code(Arc<Maker>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Code(_) => f.write_str("its code"),
        }
    }
}

/// Where a model comes from: its source, and the version that it is served as.
#[derive(Clone)]
pub struct Origin {
    /// What to load.
    pub source: Source,
    /// A number.
    pub version: String,
}

impl Origin {
    /// A file, served as version 1.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            source: Source::File(path.into()),
            version: "1".to_owned(),
        }
    }
}

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

/// A model and its state.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it stands.
    pub state: ModelState,
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
    #[error("model {name:?} from {from}: {reason}")]
    Load {
        /// The model.
        name: String,
        /// Its file.
        from: String,
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
    /// Counts the changes of any model's state.
    changes: watch::Sender<u64>,
}

struct Entry {
    /// Of the load that made the state, or is making it.
    version: String,
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
                changes: watch::Sender::new(0),
            }),
        }
    }

    /// Says that a model of this name will be loaded in a moment: until then it is loading, not unknown.
    pub fn announce(&self, name: &str) {
        let entry = || Entry {
            version: "1".to_owned(),
            state: ModelState::Loading,
            busy: false,
        };
        self.inner.entries.write().entry(name.to_owned()).or_insert_with(entry);
    }

    /// Loads a model and warms it up; returns when it is ready. Cancelled, the load goes on in the background.
    ///
    /// # Errors
    /// The state is then `Failed`, or still `Ready` with the old model where there was one.
    pub async fn load(&self, name: &str, origin: Origin) -> Result<(), ModelError> {
        check_name(name).map_err(ModelError::Name)?;
        self.inner.begin_load(name, &origin.version)?;
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        // A task of its own, so that a caller that goes away leaves no entry that is busy for ever.
        in_background(async move {
            let result = inner.load(&name, &origin).await;
            inner.end_load(&name, &origin.version, result.clone());
            let from = origin.source.to_string();
            result
                .map(drop)
                .map_err(|reason| ModelError::Load { name, from, reason })
        })
        .await
    }

    /// Unloads a model; returns when its last request is answered. Cancelled, the unload goes on in the background.
    ///
    /// # Errors
    /// Where there is none of this name, or it is being loaded.
    pub async fn unload(&self, name: &str) -> Result<(), ModelError> {
        let served = self.inner.begin_unload(name)?;
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        in_background(async move {
            let mut version = String::new();
            if let Some(served) = served {
                served.users.close();
                served.users.wait().await;
                served.version().clone_into(&mut version);
            }
            inner.entries.write().remove(&name);
            inner.metrics.forget(&name, &version);
            inner.changed();
            tracing::info!(model = name, "model unloaded");
            Ok(())
        })
        .await
    }

    /// Changes whenever any model's state does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
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

    /// `lease`, where the version is the model's, or none is asked for.
    ///
    /// # Errors
    /// As `lease`; 404 for another version.
    pub fn lease_version(&self, name: &str, version: Option<&str>) -> Result<Lease, ApiError> {
        let lease = self.lease(name)?;
        let has = lease.served.version();
        match version {
            Some(asked) if asked != has => {
                let message = format!("model {name:?} has no version {asked:?}; it has the version {has:?}");
                Err(ApiError::new(Code::ModelNotFound, message))
            }
            _ => Ok(lease),
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

    /// Every model, sorted by name.
    pub fn index(&self) -> Vec<Listed> {
        self.inner
            .entries
            .read()
            .iter()
            .map(|(name, entry)| Listed {
                name: name.clone(),
                version: entry.version.clone(),
                state: entry.state.clone(),
            })
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

/// Runs to its end whether or not the caller waits for that.
async fn in_background<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
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
    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn begin_load(&self, name: &str, version: &str) -> Result<(), ModelError> {
        let mut entries = self.entries.write();
        let entry = entries.entry(name.to_owned()).or_insert_with(|| Entry {
            version: version.to_owned(),
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
        if let ModelState::Loading = entry.state {
            version.clone_into(&mut entry.version);
        }
        drop(entries);
        self.changed();
        Ok(())
    }

    async fn load(self: &Arc<Self>, name: &str, origin: &Origin) -> Result<(Arc<Served>, Readiness), String> {
        let start = Instant::now();
        let (inner, source) = (Arc::clone(self), origin.source.clone());
        let make = move || match source {
            Source::File(path) => (inner.loader)(&path),
            Source::Code(make) => make(),
        };
        let model = match tokio::task::spawn_blocking(make).await {
            Ok(model) => model?,
            Err(error) if error.is_panic() => {
                return Err(format!("the engine panicked: {}", panic_text(&*error.into_panic())));
            }
            Err(_) => return Err("the process is ending".to_owned()),
        };
        let metrics = self.metrics.of(name, &origin.version);
        let served = Arc::new(Served::new(name, &origin.version, model, metrics));
        warm_up(&self.scheduler, &served).await?;
        served.stats.reset();
        let readiness = Readiness {
            load: start.elapsed(),
            since: Instant::now(),
        };
        Ok((served, readiness))
    }

    fn end_load(&self, name: &str, version: &str, result: Result<(Arc<Served>, Readiness), String>) {
        let mut entries = self.entries.write();
        let Some(entry) = entries.get_mut(name) else { return };
        entry.busy = false;
        match result {
            Ok((served, readiness)) => {
                served.metrics.load_time.set(readiness.load.as_secs_f64());
                tracing::info!(
                    model = name,
                    load_ms = readiness.load.as_secs_f64() * 1000.0,
                    batchable = served.batchable(),
                    "model ready"
                );
                let before = std::mem::replace(&mut entry.state, ModelState::Ready(Arc::clone(&served), readiness));
                if let ModelState::Ready(before, _) = before
                    && before.version() != served.version()
                {
                    self.metrics.forget_version(name, before.version());
                }
                version.clone_into(&mut entry.version);
            }
            Err(reason) => {
                tracing::error!(model = name, %reason, "model not loaded");
                match &entry.state {
                    ModelState::Ready(served, _) if served.version() == version => {}
                    ModelState::Ready(..) => self.metrics.forget_version(name, version),
                    _ => {
                        self.metrics.forget(name, version);
                        entry.state = ModelState::Failed(reason);
                    }
                }
            }
        }
        drop(entries);
        self.loaded.notify_waiters();
        self.changed();
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
        let before = std::mem::replace(&mut entry.state, ModelState::Unloading);
        drop(entries);
        self.changed();
        match before {
            ModelState::Ready(served, _) => Ok(Some(served)),
            _ => Ok(None),
        }
    }
}
