//! One workload that is scaled by us: a task that looks at its triggers, decides and writes its `scale` and the status.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{api::autoscaling::v1::Scale, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
};
use pilotlight_activator::kubernetes::keda::resource;
use pilotlight_manifests::keda::{HttpScaledObjectSpec, ScaledObjectSpec, Trigger};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, JoinSet},
    time::{Interval, MissedTickBehavior},
};

use super::{
    super::{
        hpa::Hpa,
        messages::ScaledObjectRef,
        scaling::{HPA_PERIOD, Look, Pause, Policy, Reason, Scaling, Step},
        state::Scaler,
    },
    auth,
    clock::Clock,
    objects::{Scalable, Subject, resource_of},
    original, scale,
    seal::Sealer,
    status::{self, Condition},
    triggers::{Triggers, Unsupported},
};

/// `lastActiveTime` is written again only after so long: a restart then forgets no more than that of a cool-down.
const ACTIVE_WRITTEN: Duration = Duration::from_secs(10);
/// Pauses of streams that failed, as KEDA's.
const STREAM_PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(1));

/// What workers work with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) client: Client,
    pub(crate) http: reqwest::Client,
    pub(crate) scaler: Arc<Scaler>,
    pub(crate) sealer: Sealer,
    /// Where the secrets of ClusterTriggerAuthentications are.
    pub(crate) secrets: Arc<str>,
}

/// A task; dropped, it ends. What it was about to write may be written still.
pub(crate) struct Worker {
    scalable: watch::Sender<Scalable>,
    task: AbortHandle,
}

impl Worker {
    pub(crate) fn start(tools: Tools, subject: Subject, scalable: Scalable) -> Self {
        let (sender, receiver) = watch::channel(scalable);
        let task = tokio::spawn(run(tools, subject, receiver)).abort_handle();
        Self { scalable: sender, task }
    }

    /// Takes the object as it is now.
    pub(crate) fn set(&self, scalable: Scalable) {
        self.scalable.send_if_modified(|known| {
            // The status is our own.
            let news = known.spec != scalable.spec || known.meta != scalable.meta;
            known.status.clone_from(&scalable.status);
            if news {
                *known = scalable;
            }
            news
        });
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(tools: Tools, subject: Subject, mut scalable: watch::Receiver<Scalable>) {
    let now = scalable.borrow_and_update().clone();
    let mut changes = tools.scaler.changes();
    let mut work = Work::new(tools, subject, now);
    work.read_triggers().await;
    let mut pushes = work.follow_pushes();
    let mut ticks = work.ticks();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                // Secrets may be there now, or others.
                if work.is_stale() {
                    work.read_triggers().await;
                    pushes = work.follow_pushes();
                }
                work.look().await;
            }
            () = work.pushed.notified() => work.push().await,
            changed = changes.changed() => match changed {
                Ok(()) => work.counted().await,
                Err(_) => return,
            },
            changed = scalable.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = scalable.borrow_and_update().clone();
                work.change(now).await;
                pushes = work.follow_pushes();
                ticks = work.ticks();
            }
        }
        // The tasks of the streams go with this one.
        let _ = &pushes;
    }
}

struct Work {
    tools: Tools,
    subject: Subject,
    scalable: Scalable,
    scaling: Scaling,
    triggers: Result<Arc<Triggers>, Unsupported>,
    /// A trigger failed since its secrets were read.
    failed: bool,
    /// The replicas that were there at first are noted on the object.
    remembered: bool,
    clock: Clock,
    pushed: Arc<Notify>,
    /// The kind of the workload, once the API server told it.
    resource: Option<ApiResource>,
    /// Replicas at the last look.
    replicas: Option<u32>,
    told_active: Option<Duration>,
}

impl Work {
    fn new(tools: Tools, subject: Subject, scalable: Scalable) -> Self {
        let clock = Clock::new();
        let Scalable { meta, spec, status } = &scalable;
        let last_active = status
            .get("lastActiveTime")
            .and_then(Value::as_str)
            .and_then(|text| clock.read(text));
        let created = clock.read(&meta.creation_timestamp).unwrap_or_else(|| clock.now());
        let scaling = Scaling::new(Policy::new(meta, spec), Hpa::new(spec.behavior()), created, last_active);
        Self {
            tools,
            subject,
            scalable,
            scaling,
            triggers: Err(Unsupported::Unread),
            failed: false,
            remembered: false,
            clock,
            pushed: Arc::new(Notify::new()),
            resource: None,
            replicas: None,
            told_active: last_active,
        }
    }

    /// The shorter of KEDA's period and that of a HorizontalPodAutoscaler: one task does both.
    fn ticks(&self) -> Interval {
        let mut ticks = tokio::time::interval(self.scaling.policy().polling.min(HPA_PERIOD));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    async fn change(&mut self, scalable: Scalable) {
        let Scalable { meta, spec, .. } = &scalable;
        self.scaling.set_policy(Policy::new(meta, spec), spec.behavior());
        if spec.scale_target_ref != self.scalable.spec.scale_target_ref {
            self.resource = None;
        }
        self.replicas = None;
        self.scalable = scalable;
        self.read_triggers().await;
    }

    /// Reads the triggers anew, with their secrets.
    async fn read_triggers(&mut self) {
        let Scalable { meta, spec, .. } = &self.scalable;
        self.failed = false;
        let secrets = auth::read(&self.tools.client, &self.tools.secrets, &meta.namespace, spec).await;
        let triggers = secrets.and_then(|secrets| Triggers::new(&meta.namespace, &meta.name, spec, &secrets));
        self.triggers = triggers.map(Arc::new);
    }

    /// Whether other secrets may help.
    fn is_stale(&self) -> bool {
        let has_secrets = |trigger: &Trigger| trigger.authentication_ref.is_some();
        (self.failed || self.triggers.is_err()) && self.scalable.spec.triggers.iter().any(has_secrets)
    }

    /// Follows the streams of other external scalers, until what is returned is dropped.
    fn follow_pushes(&self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for (client, reference) in self.triggers.iter().flat_map(|triggers| triggers.push()) {
            tasks.spawn(follow(client.clone(), reference.clone(), Arc::clone(&self.pushed)));
        }
        tasks
    }

    /// Our own counts are new: whether a workload that sleeps has to be started.
    async fn counted(&mut self) {
        let asleep = self
            .replicas
            .is_none_or(|replicas| replicas < self.scaling.policy().awake());
        let Ok(triggers) = &self.triggers else { return };
        if asleep && triggers.is_own_active(&self.tools.scaler) {
            self.push().await;
        }
    }

    /// A trigger became active.
    async fn push(&mut self) {
        if self.triggers.is_err() {
            return;
        }
        let Some((current, version)) = self.read().await else {
            return;
        };
        let step = self.scaling.pushed(self.clock.now(), current);
        self.carry_out(current, &version, step).await;
    }

    /// The look of a tick.
    async fn look(&mut self) {
        let triggers = match &self.triggers {
            Ok(triggers) => Arc::clone(triggers),
            Err(unsupported) => {
                let condition = left_alone(unsupported);
                return self.tell(&[condition]).await;
            }
        };
        let look = triggers.look(&self.tools.scaler, &self.tools.http).await;
        self.failed = look.failed;
        let Some((current, version)) = self.read().await else {
            return;
        };
        let step = self.scaling.look(self.clock.now(), current, &look);
        self.carry_out(current, &version, step).await;
        let conditions = self.conditions(&look);
        self.tell(&conditions).await;
    }

    /// The replicas asked for, and the version that says so. What went wrong is in the condition.
    async fn read(&mut self) -> Option<(u32, String)> {
        let api = self.api().await?;
        match api.get_scale(&self.scalable.spec.scale_target_ref.name).await {
            Ok(scale) => {
                let seen = seen(&scale);
                self.replicas = Some(seen.0);
                self.remember(seen.0).await.then_some(seen)
            }
            Err(error) => {
                self.unreachable(&error).await;
                None
            }
        }
    }

    async fn api(&mut self) -> Option<Api<DynamicObject>> {
        if self.resource.is_none() {
            let target = &self.scalable.spec.scale_target_ref;
            match resource(&self.tools.client, target.api_version(), target.kind()).await {
                Ok(resource) => self.resource = Some(resource),
                Err(error) => {
                    self.unreachable(&error).await;
                    return None;
                }
            }
        }
        let resource = self.resource.as_ref()?;
        Some(Api::namespaced_with(
            self.tools.client.clone(),
            &self.scalable.meta.namespace,
            resource,
        ))
    }

    async fn unreachable(&mut self, error: &kube::Error) {
        let condition = Condition {
            kind: "Ready",
            status: false,
            reason: "ScaleTargetNotFound",
            message: format!("the scale of the workload can't be read: {error}"),
        };
        self.tell(&[condition]).await;
    }

    /// Writes a step if nobody wrote since it was decided on; the next look decides anew otherwise.
    async fn carry_out(&mut self, current: u32, version: &str, step: Step) {
        let Step::Scale(replicas, reason) = step else { return };
        let Some(api) = self.api().await else { return };
        let object = self.scalable.meta.key();
        let name = self.scalable.spec.scale_target_ref.name.clone();
        let step = scale::Write {
            api: &api,
            name: &name,
            version,
            current,
            replicas,
        };
        let written = match self.backends() {
            // What somebody else orders, such as a pause at zero, doesn't wait for requests.
            backends if replicas == 0 && reason == Reason::CooledDown && !backends.is_empty() => {
                step.to_zero(&self.tools.sealer, &backends).await
            }
            _ => step.once(version).await.map_err(scale::Refused::from),
        };
        match written {
            Ok(scale) => {
                tracing::info!(
                    object,
                    from = current,
                    to = replicas,
                    reason = reason.as_str(),
                    "scaled"
                );
                self.replicas = Some(seen(&scale).0);
                self.scaling.scaled(self.clock.now(), current, replicas);
            }
            Err(error) => tracing::info!(object, %error, "a step was not taken"),
        }
    }

    /// The activators' names for what our own triggers are about.
    fn backends(&self) -> Vec<String> {
        let namespace = &self.scalable.meta.namespace;
        let backend = |trigger: &Trigger| {
            let named = |key: &str| trigger.metadata.get(key);
            let app = named("interceptorRoute").or(named("httpScaledObject"));
            let app = app.map(|name| format!("{namespace}/{name}@http"));
            app.or_else(|| named("inferenceService").map(|name| format!("{namespace}/{name}")))
        };
        self.scalable.spec.triggers.iter().filter_map(backend).collect()
    }

    /// Notes on the object, once, how many replicas there were before it was scaled by it, and asks to be told before it is deleted
    /// where they are to come back then. False where that could not be written: nothing may be scaled before.
    async fn remember(&mut self, current: u32) -> bool {
        if !self.remembered {
            let noted = original::remember(&self.tools.client, &self.subject, &self.scalable, current).await;
            match noted {
                Ok(()) => self.remembered = true,
                Err(error) => {
                    tracing::warn!(object = self.scalable.meta.key(), %error, "the replicas of before can't be noted");
                }
            }
        }
        self.remembered
    }

    fn conditions(&self, look: &Look) -> [Condition; 4] {
        let policy = self.scaling.policy();
        let condition = |kind, status, reason, message: &str| Condition {
            kind,
            status,
            reason,
            message: message.to_owned(),
        };
        let active = look.active || policy.force;
        let paused = policy.pause != Pause::No;
        [
            condition(
                "Ready",
                !look.failed,
                if look.failed {
                    "TriggerError"
                } else {
                    "ScaledObjectReady"
                },
                &self.readiness(look),
            ),
            condition(
                "Active",
                active,
                if active { "ScalerActive" } else { "ScalerNotActive" },
                if active {
                    "Scaling is performed because triggers are active"
                } else {
                    "Scaling is not performed because triggers are not active"
                },
            ),
            condition(
                "Fallback",
                self.scaling.is_fallen_back(),
                if self.scaling.is_fallen_back() {
                    "FallbackExists"
                } else {
                    "NoFallbackFound"
                },
                "replicas of the fallback, while triggers fail",
            ),
            condition(
                "Paused",
                paused,
                if paused {
                    "ScaledObjectPaused"
                } else {
                    "ScaledObjectUnpaused"
                },
                "annotations say whether it is",
            ),
        ]
    }

    /// The message of the condition `Ready`. Fields that are there for KEDA only are named.
    fn readiness(&self, look: &Look) -> String {
        let message = if look.failed {
            "a trigger can't be asked; the workload is not scaled to zero"
        } else {
            "ScaledObject is defined correctly and is ready for scaling"
        };
        match self.scalable.spec.unheeded().as_slice() {
            [] => message.to_owned(),
            fields => format!("{message}; without KEDA these have no effect: {}", fields.join(", ")),
        }
    }

    /// Writes what is new of the status. An HTTPScaledObject's own is its condition of being accepted, and stays.
    async fn tell(&mut self, conditions: &[Condition]) {
        let resource = match self.subject {
            Subject::ScaledObject(_) => resource_of::<ScaledObjectSpec>(),
            Subject::HttpScaledObject(_) => resource_of::<HttpScaledObjectSpec>(),
        };
        let faults = conditions
            .iter()
            .filter(|condition| condition.kind == "Ready" && !condition.status);
        for fault in faults {
            tracing::warn!(
                object = self.scalable.meta.key(),
                reason = fault.reason,
                message = fault.message,
                "not scaled"
            );
        }
        let mut status = json!({});
        if let Some(active) = self.news_of_activity() {
            status["lastActiveTime"] = active.into();
        }
        if matches!(self.subject, Subject::ScaledObject(_)) {
            let new = status::conditions(&self.scalable.status, &self.scalable.meta, conditions, Timestamp::now());
            if self.scalable.status.get("conditions") != Some(&new) {
                status["conditions"] = new;
            }
            let kind = self
                .resource
                .as_ref()
                .map(|resource| format!("{}.{}", resource.api_version, resource.kind));
            if let Some(kind) = kind.filter(|kind| self.scalable.status.get("scaleTargetKind") != Some(&json!(kind))) {
                status["scaleTargetKind"] = kind.into();
            }
        }
        let Some(fields) = status.as_object().filter(|fields| !fields.is_empty()) else {
            return;
        };
        let known = &mut self.scalable.status;
        if !known.is_object() {
            *known = json!({});
        }
        for (field, value) in fields {
            known[field] = value.clone();
        }
        status::patch(&self.tools.client, &resource, &self.scalable.meta, status).await;
    }

    fn news_of_activity(&mut self) -> Option<String> {
        let active = self.scaling.last_active()?;
        let old = self
            .told_active
            .is_none_or(|told| active.saturating_sub(told) >= ACTIVE_WRITTEN);
        old.then(|| {
            self.told_active = Some(active);
            self.clock.show(active)
        })
    }
}

fn left_alone(unsupported: &Unsupported) -> Condition {
    Condition {
        kind: "Ready",
        status: false,
        reason: unsupported.reason(),
        message: format!("{unsupported}; the workload is left alone"),
    }
}

fn seen(scale: &Scale) -> (u32, String) {
    let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
    let version = scale.metadata.resource_version.clone().unwrap_or_default();
    (u32::try_from(replicas).unwrap_or(0), version)
}

/// Follows the stream of an external scaler, as KEDA does.
async fn follow(client: super::super::client::Client, reference: ScaledObjectRef, pushed: Arc<Notify>) {
    let mut pause = STREAM_PAUSE.0;
    loop {
        let ended = async {
            let mut stream = client.stream_is_active(reference.clone()).await?;
            while let Some(message) = stream.message().await? {
                if message.result {
                    pushed.notify_one();
                }
            }
            Ok::<(), tonic::Status>(())
        };
        match ended.await {
            Ok(()) => pause = STREAM_PAUSE.0,
            Err(error) => tracing::debug!(%error, "the stream of an external scaler failed"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(STREAM_PAUSE.1);
    }
}
