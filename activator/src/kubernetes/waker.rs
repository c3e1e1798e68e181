//! Wakes by the `scale` of a workload, whatever its kind.
//!
//! A raise is conditioned on the version that was read, so two activators that wake at once, an autoscaler between, or a
//! scale-down that was decided before never undo each other. Where there are replicas enough but all are being taken out of
//! service, a touch of the object makes the scale-down fail that is about to come, and the seals of this activator are taken
//! back at once. All of it needs the API server only, not the controller.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use k8s_openapi::{api::autoscaling::v1::Scale, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
};
use parking_lot::Mutex;
use pilotlight_manifests::kubernetes::{ANNOTATION_WOKEN_AT, AUTOSCALER_MANAGER};
use serde_json::json;
use tokio::time::Instant;

use super::{
    claim::{Claimer, Progress, Raised},
    config::ClusterConfig,
    limiter::Limiter,
    scale::{self, Known, Meaning, Step},
    seals::Seals,
    target::{Target, Targets},
};
use crate::{BackendId, WakeError, WakeReason, Waker, random};

/// First pause before an API server that failed is asked again; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(50);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Conflicts in a row that are read again without a pause.
const EAGER: u32 = 5;

/// A call of the API server that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// HTTP status; `None` where there was no answer.
    status: Option<u16>,
    message: String,
}

impl Refusal {
    #[cfg(test)]
    pub(crate) fn new(status: Option<u16>, message: &str) -> Self {
        Self {
            status,
            message: message.to_owned(),
        }
    }

    pub(crate) fn status(&self) -> Option<u16> {
        self.status
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

/// The seam to the API server.
pub(crate) trait Scales: Send + Sync + 'static {
    /// The scale as it is.
    fn read(&self, target: &Target) -> BoxFuture<'static, Result<Known, Refusal>>;
    /// Sets the replicas if nothing has been written since `known`.
    fn raise(&self, target: &Target, known: &Known, replicas: i32) -> BoxFuture<'static, Result<Known, Refusal>>;
    /// Writes the object without changing its replicas.
    fn touch(&self, target: &Target) -> BoxFuture<'static, Result<(), Refusal>>;
}

/// The API server.
pub(crate) struct KubeScales {
    pub(crate) client: Client,
    pub(crate) timeout: Duration,
}

impl KubeScales {
    fn api(&self, target: &Target) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &target.namespace, &target.resource)
    }
}

/// A call with its time limit and its error as a status.
pub(crate) fn call<T: Send + 'static>(
    limit: Duration,
    call: impl Future<Output = kube::Result<T>> + Send + 'static,
) -> BoxFuture<'static, Result<T, Refusal>> {
    async move {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(kube::Error::Api(status))) => Err(Refusal {
                status: Some(status.code),
                message: status.message,
            }),
            Ok(Err(error)) => Err(Refusal {
                status: None,
                message: error.to_string(),
            }),
            Err(_) => Err(Refusal {
                status: None,
                message: format!("no answer within {limit:?}"),
            }),
        }
    }
    .boxed()
}

fn known(scale: Scale) -> Known {
    Known {
        version: scale.metadata.resource_version.unwrap_or_default(),
        replicas: scale.spec.and_then(|spec| spec.replicas).unwrap_or(0),
    }
}

fn manager() -> PatchParams {
    PatchParams {
        field_manager: Some(AUTOSCALER_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

impl Scales for KubeScales {
    fn read(&self, target: &Target) -> BoxFuture<'static, Result<Known, Refusal>> {
        let (api, name) = (self.api(target), target.name.clone());
        call(self.timeout, async move { api.get_scale(&name).await.map(known) })
    }

    fn raise(&self, target: &Target, before: &Known, replicas: i32) -> BoxFuture<'static, Result<Known, Refusal>> {
        let (api, name) = (self.api(target), target.name.clone());
        let patch = json!({ "metadata": { "resourceVersion": before.version }, "spec": { "replicas": replicas } });
        call(self.timeout, async move {
            api.patch_scale(&name, &manager(), &Patch::Merge(patch))
                .await
                .map(known)
        })
    }

    fn touch(&self, target: &Target) -> BoxFuture<'static, Result<(), Refusal>> {
        let (api, name) = (self.api(target), target.name.clone());
        let now = Timestamp::now().to_string();
        let patch = json!({ "metadata": { "annotations": { ANNOTATION_WOKEN_AT: now } } });
        call(self.timeout, async move {
            api.patch(&name, &manager(), &Patch::Merge(patch)).await.map(drop)
        })
    }
}

type Running = Shared<BoxFuture<'static, Result<(), WakeError>>>;

struct Inner {
    scales: Box<dyn Scales>,
    /// `None`: no standby pods are claimed.
    claimer: Option<Claimer>,
    targets: Arc<Targets>,
    seals: Arc<Seals>,
    limiter: Limiter,
    wake_patience: Duration,
    absent_patience: Duration,
    running: Mutex<HashMap<BackendId, Running>>,
}

/// The waker of a cluster. Wakes of one backend that are under way at once are one.
#[derive(Clone)]
pub(crate) struct ScaleWaker {
    inner: Arc<Inner>,
}

/// Why an attempt brought nothing.
enum Trouble {
    /// The API server said so.
    Refused(Refusal),
    /// There are replicas, and they can't serve.
    Failing(WakeError),
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl ScaleWaker {
    pub(crate) fn new(
        config: &ClusterConfig,
        scales: impl Scales,
        claimer: Option<Claimer>,
        targets: Arc<Targets>,
        seals: Arc<Seals>,
    ) -> Self {
        let inner = Inner {
            scales: Box::new(scales),
            claimer,
            targets,
            seals,
            limiter: Limiter::new(config.wake_concurrency, config.wake_rate, config.wake_burst),
            wake_patience: config.wake_patience,
            absent_patience: config.absent_patience,
            running: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }
}

impl Waker for ScaleWaker {
    fn wake(&self, backend: &BackendId) -> BoxFuture<'static, Result<(), WakeError>> {
        let mut running = self.inner.running.lock();
        if let Some(running) = running.get(backend) {
            return running.clone().boxed();
        }
        let (inner, id) = (Arc::clone(&self.inner), backend.clone());
        // A task of its own: dropping what is returned here does not take the wake back.
        let task = tokio::spawn(async move {
            let result = inner.wake(&id).await;
            inner.running.lock().remove(&id);
            result
        });
        let wake = async {
            task.await.unwrap_or_else(|_| {
                Err(error(
                    WakeReason::PlatformError,
                    "the platform failed while starting a replica",
                ))
            })
        };
        let wake = wake.boxed().shared();
        running.insert(backend.clone(), wake.clone());
        wake.boxed()
    }
}

fn error(reason: WakeReason, message: impl Into<Arc<str>>) -> WakeError {
    WakeError {
        reason,
        message: message.into(),
    }
}

impl Inner {
    async fn wake(&self, backend: &BackendId) -> Result<(), WakeError> {
        let began = Instant::now();
        let mut conflicts = 0;
        let mut pause = PAUSE;
        let mut progress = Progress::default();
        loop {
            let Some(target) = self.targets.get(backend) else {
                if self.targets.is_unscaled(backend) {
                    return Ok(());
                }
                return Err(error(
                    WakeReason::UnknownBackend,
                    format!("{backend} is no workload (any more)"),
                ));
            };
            if let Some(why) = target.stopped {
                return Err(error(WakeReason::Disabled, why));
            }
            let refusal = match self.attempt(backend, &target, &mut progress).await {
                Ok(()) => return Ok(()),
                Err(Trouble::Failing(error)) => return Err(error),
                Err(Trouble::Refused(refusal)) => refusal,
            };
            // Whatever it was: what was known is not known any more.
            self.targets.learn(backend, None);
            let meaning = scale::meaning(refusal.status);
            if meaning == Meaning::Stale && conflicts < EAGER {
                conflicts += 1;
                continue;
            }
            if began.elapsed() >= self.patience(meaning) {
                return Err(give_up(meaning, &target, refusal));
            }
            tracing::debug!(%backend, error = refusal.message, "a wake is tried again");
            // Half of it at random, so that many do not come back at once.
            let random = (random::next() % 1000) as u32;
            tokio::time::sleep(pause / 2 + pause / 2 * random / 1000).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn patience(&self, meaning: Meaning) -> Duration {
        match meaning {
            Meaning::Never => Duration::ZERO,
            Meaning::Absent | Meaning::Forbidden => self.absent_patience,
            Meaning::Stale | Meaning::Later => self.wake_patience,
        }
    }

    /// One try, under the limits.
    async fn attempt(&self, backend: &BackendId, target: &Target, progress: &mut Progress) -> Result<(), Trouble> {
        let wanted = target.activation_scale.max(1);
        let enough = |known: &Known| known.replicas >= wanted;
        let sealed = self.seals.any(backend);
        if let (Some(failure), false) = (&target.failure, sealed)
            && target.known.as_ref().is_none_or(enough)
        {
            return Err(Trouble::Failing(failure.clone()));
        }
        let _place = self.limiter.enter().await;
        if let (Some(claimer), Some(_)) = (&self.claimer, &target.standby)
            && self.raise_parked(claimer, backend, target, progress).await?
        {
            return Ok(());
        }
        // What was seen by watching saves a call; where it is old the write is refused.
        let known = match &target.known {
            Some(known) if !enough(known) => known.clone(),
            _ => self.scales.read(target).await?,
        };
        match scale::step(&known, wanted, sealed) {
            Step::Raise(replicas) => {
                let after = self.scales.raise(target, &known, replicas).await?;
                tracing::info!(%backend, from = known.replicas, to = after.replicas, "woken");
                self.targets.learn(backend, Some(after));
                if known.replicas > 0 {
                    self.seals.release(backend);
                }
            }
            Step::Touch => {
                self.scales.touch(target).await?;
                let after = self.scales.read(target).await?;
                if after.replicas < wanted {
                    // The scale-down came first. Its pods are gone, so go on from what it left.
                    return Err(Trouble::Refused(Refusal {
                        status: Some(409),
                        message: "scaled down meanwhile".to_owned(),
                    }));
                }
                self.seals.release(backend);
            }
            Step::Nothing => {}
        }
        Ok(())
    }
}

impl Inner {
    /// Raises a Deployment that may be parked, by a write of itself. `false` where it has replicas enough and is like any.
    async fn raise_parked(
        &self,
        claimer: &Claimer,
        backend: &BackendId,
        target: &Target,
        progress: &mut Progress,
    ) -> Result<bool, Refusal> {
        let wanted = target.activation_scale.max(1);
        // What was seen by watching is of one version, and the first write is conditioned on it.
        let (known, parking) = match &target.known {
            Some(known) if known.replicas < wanted => (known.clone(), target.standby.clone()),
            _ => claimer.claims.read(target).await?,
        };
        let parked = parking.as_ref().is_some_and(|parking| parking.parked);
        if known.replicas >= wanted && !parked {
            return Ok(false);
        }
        let (from, to) = (known.replicas, known.replicas.max(wanted));
        match claimer.raise(backend, target, (known, parking), to, progress).await? {
            Raised::Done(after) => {
                tracing::info!(%backend, from, to = after.replicas, "woken");
                self.targets.learn(backend, Some(after));
                if from > 0 {
                    self.seals.release(backend);
                }
            }
            Raised::ByAnother => tracing::debug!(%backend, "another activator wakes it"),
        }
        Ok(true)
    }
}

fn give_up(meaning: Meaning, target: &Target, refusal: Refusal) -> WakeError {
    let Target {
        namespace,
        name,
        resource,
        ..
    } = target;
    let kind = &resource.kind;
    match (meaning, &target.fault) {
        (Meaning::Absent, Some(fault)) => error(WakeReason::UnknownBackend, format!("the service is invalid: {fault}")),
        (Meaning::Absent, None) => error(
            WakeReason::UnknownBackend,
            format!("{kind} {namespace}/{name} does not exist; the controller has not made it yet"),
        ),
        (Meaning::Later, _) => error(
            WakeReason::PlatformError,
            format!("the Kubernetes API server does not answer: {}", refusal.message),
        ),
        _ => error(
            WakeReason::PlatformError,
            format!("scaling {kind} {namespace}/{name} was refused: {}", refusal.message),
        ),
    }
}

#[cfg(test)]
#[path = "waker_tests.rs"]
mod tests;
