//! Why a pod doesn't start, in words that a user can act on: read from what kubelet, scheduler and the ReplicaSet say.
//!
//! The controller writes it into the status, the activator gives it to the requests that wait.

use std::time::Duration;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ContainerState, ContainerStatus, Event, Pod},
    },
    jiff::Timestamp,
};

/// What keeps a pod from serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// The image can't be had.
    Image,
    /// The container can't be made: a missing variable's secret, a wrong command.
    Config,
    /// A volume can't be had: a missing secret, configuration or disk.
    Volume,
    /// The pod's sandbox can't be made: no address, no room on the node.
    Sandbox,
    /// It starts and ends, again and again.
    Crash,
    /// It was ended for the memory it took.
    OutOfMemory,
    /// No node takes it.
    Unschedulable,
    /// A quota or an admission rule refuses it.
    Quota,
    /// Its node ended it.
    Evicted,
}

impl FailureKind {
    /// Whether waiting longer for the same pod is without hope until somebody changes something.
    pub fn needs_change(self) -> bool {
        !matches!(self, Self::Evicted)
    }

    /// The kind of this name.
    pub fn from_reason(reason: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.reason() == reason)
    }

    /// Every kind.
    const ALL: [Self; 9] = [
        Self::Image,
        Self::Config,
        Self::Volume,
        Self::Sandbox,
        Self::Crash,
        Self::OutOfMemory,
        Self::Unschedulable,
        Self::Quota,
        Self::Evicted,
    ];

    /// Whether it is a lack of room and not a fault of the model or its pod.
    pub fn is_capacity(self) -> bool {
        matches!(self, Self::Unschedulable | Self::Quota | Self::Evicted)
    }

    /// The name in CamelCase, for Events and conditions.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Image => "ImagePullFailed",
            Self::Config => "ContainerConfigError",
            Self::Volume => "FailedMount",
            Self::Sandbox => "FailedCreatePodSandBox",
            Self::Crash => "CrashLoopBackOff",
            Self::OutOfMemory => "OOMKilled",
            Self::Unschedulable => "Unschedulable",
            Self::Quota => "FailedCreate",
            Self::Evicted => "Evicted",
        }
    }
}

/// Why a pod does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFailure {
    /// What kind of reason.
    pub kind: FailureKind,
    /// In words, at most a few hundred characters.
    pub message: String,
    /// Exit code of the container, where it ended.
    pub exit_code: Option<i32>,
}

/// How long a pod's containers may be in the making before what its Events say counts: a volume that is attached, or a secret
/// that is written a moment after the pod, passes by itself.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// Selects, of all Events, warnings about pods without those whose reason their status tells too.
pub const TROUBLES: &str =
    "type=Warning,involvedObject.kind=Pod,reason!=BackOff,reason!=Unhealthy,reason!=FailedScheduling,reason!=Failed";

/// What an Event says against a pod whose containers are in the making: its status says nothing then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// When it was seen last.
    pub at: Timestamp,
    failure: PodFailure,
}

impl Trouble {
    /// What the Event says; `None` for one of another matter.
    pub fn of(event: &Event) -> Option<Self> {
        let about = &event.involved_object;
        let reason = event
            .reason
            .as_deref()
            .filter(|_| about.kind.as_deref() == Some("Pod"))?;
        let kind = match reason {
            "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => FailureKind::Volume,
            "FailedCreatePodSandBox" | "FailedCreatePodContainer" | "NetworkNotReady" => FailureKind::Sandbox,
            _ => return None,
        };
        let series = event
            .series
            .as_ref()
            .and_then(|series| series.last_observed_time.as_ref());
        let at = series
            .map(|time| time.0)
            .or(event.last_timestamp.as_ref().map(|time| time.0));
        Some(Self {
            namespace: about.namespace.clone()?,
            pod: about.name.clone()?,
            uid: about.uid.clone()?,
            at: at.or(event.event_time.as_ref().map(|time| time.0))?,
            failure: failure(kind, event.message.clone().unwrap_or_default(), None),
        })
    }

    /// What keeps a pod from starting whose containers are in the making since then, once that has lasted.
    pub fn failure(&self, since: Timestamp) -> Option<&PodFailure> {
        let lasted = Duration::try_from(self.at.duration_since(since)).unwrap_or_default();
        (lasted >= PATIENCE).then_some(&self.failure)
    }
}

/// Since when the containers of a pod are in the making on its node; `None` where they are not, or one of them has run.
pub fn in_the_making(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let pending = status.phase.as_deref() == Some("Pending") && pod.metadata.deletion_timestamp.is_none();
    let since = status.start_time.as_ref().filter(|_| pending)?.0;
    let mut containers = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    let made = containers.any(|container| {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        !waiting.is_some_and(|waiting| {
            matches!(
                waiting.reason.as_deref(),
                None | Some("ContainerCreating" | "PodInitializing")
            )
        })
    });
    (!made).then_some(since)
}

/// Longest message; a container's last words may be a whole backtrace.
const MESSAGE_LIMIT: usize = 500;

/// Why this pod doesn't serve, or `None` where it does or is on its way. A pod that is being deleted says nothing.
pub fn pod_failure(pod: &Pod) -> Option<PodFailure> {
    let status = pod.status.as_ref()?;
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    if status.phase.as_deref() == Some("Failed") {
        let reason = status.reason.as_deref().unwrap_or("Failed");
        let message = status.message.as_deref().unwrap_or_default();
        return Some(failure(FailureKind::Evicted, format!("{reason}: {message}"), None));
    }
    if let Some(failure) = unschedulable(pod) {
        return Some(failure);
    }
    let init = status.init_container_statuses.iter().flatten();
    let main = status.container_statuses.iter().flatten();
    init.chain(main).find_map(container_failure)
}

/// Why the Deployment gets no pods at all: a quota, an admission rule.
pub fn deployment_failure(deployment: &Deployment) -> Option<PodFailure> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let refused = conditions
        .iter()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    let message = refused.message.clone().unwrap_or_default();
    Some(failure(FailureKind::Quota, message, None))
}

fn unschedulable(pod: &Pod) -> Option<PodFailure> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let refused = conditions.iter().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    })?;
    let message = refused.message.clone().unwrap_or_default();
    Some(failure(FailureKind::Unschedulable, message, None))
}

fn container_failure(status: &ContainerStatus) -> Option<PodFailure> {
    let state = status.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let message = waiting.message.as_deref().unwrap_or(reason);
        let kind = match reason {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "SignatureValidationFailed" => FailureKind::Image,
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" | "PostStartHookError" => {
                FailureKind::Config
            }
            "CrashLoopBackOff" => return Some(crash(status, message)),
            _ => return None,
        };
        return Some(failure(kind, format!("{}: {reason}: {message}", status.name), None));
    }
    // Between the end and the next start there is no back-off yet, but an end before it was ever ready says enough.
    let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
    Some(crash_of(
        &status.name,
        ended.reason.as_deref(),
        ended.exit_code,
        ended.message.as_deref(),
    ))
}

fn crash(status: &ContainerStatus, message: &str) -> PodFailure {
    let last = status
        .last_state
        .as_ref()
        .and_then(|state: &ContainerState| state.terminated.as_ref());
    match last {
        Some(ended) => crash_of(
            &status.name,
            ended.reason.as_deref(),
            ended.exit_code,
            ended.message.as_deref(),
        ),
        None => failure(FailureKind::Crash, format!("{}: {message}", status.name), None),
    }
}

fn crash_of(name: &str, reason: Option<&str>, code: i32, words: Option<&str>) -> PodFailure {
    if reason == Some("OOMKilled") {
        let message = format!("{name} was ended for taking more memory than its limit; raise resources.limits.memory");
        return failure(FailureKind::OutOfMemory, message, Some(code));
    }
    let words = words.map_or_else(|| reason.unwrap_or_default().to_owned(), last_words);
    failure(
        FailureKind::Crash,
        format!("{name} ended with exit code {code}: {words}"),
        Some(code),
    )
}

/// The last line that is not empty: what a program says before it ends.
fn last_words(message: &str) -> String {
    let line = message.lines().rev().find(|line| !line.trim().is_empty());
    line.unwrap_or_default().trim().to_owned()
}

fn failure(kind: FailureKind, message: String, exit_code: Option<i32>) -> PodFailure {
    let message = if message.chars().count() > MESSAGE_LIMIT {
        let kept: String = message.chars().take(MESSAGE_LIMIT - 1).collect();
        format!("{kept}…")
    } else {
        message
    };
    PodFailure {
        kind,
        message,
        exit_code,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p" }, "status": status })).unwrap()
    }

    fn container(state: Value, last: Value) -> Pod {
        pod(json!({ "phase": "Pending", "containerStatuses": [{
            "name": "kserve-container", "image": "x", "imageID": "", "ready": false, "restartCount": 1,
            "state": state, "lastState": last,
        }] }))
    }

    fn kind(pod: &Pod) -> Option<FailureKind> {
        pod_failure(pod).map(|failure| failure.kind)
    }

    #[test]
    fn what_a_volume_lacks_is_told_by_an_event_once_it_has_lasted() {
        let event = |reason: &str, at: &str| {
            let event = json!({
                "metadata": {}, "reason": reason, "message": "secret \"s\" not found", "lastTimestamp": at,
                "involvedObject": { "kind": "Pod", "namespace": "shop", "name": "p", "uid": "u" },
            });
            Trouble::of(&serde_json::from_value(event).unwrap())
        };
        let making = pod(json!({
            "phase": "Pending", "startTime": "2026-11-23T12:00:00Z",
            "containerStatuses": [{ "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "waiting": { "reason": "ContainerCreating" } } }],
        }));
        let since = in_the_making(&making).unwrap();
        let soon = event("FailedMount", "2026-11-23T12:00:02Z").unwrap();
        assert_eq!(soon.failure(since), None);
        let later = event("FailedMount", "2026-11-23T12:00:08Z").unwrap();
        let failure = later.failure(since).unwrap();
        assert_eq!(
            (failure.kind, failure.message.as_str()),
            (FailureKind::Volume, "secret \"s\" not found")
        );
        assert_eq!(event("Unhealthy", "2026-11-23T12:00:08Z"), None);
    }

    #[test]
    fn a_pod_one_of_whose_containers_has_run_is_not_in_the_making() {
        let running = container(json!({ "running": {} }), json!({}));
        assert_eq!(in_the_making(&running), None);
        assert_eq!(
            in_the_making(&pod(json!({ "phase": "Pending" }))),
            None,
            "no node has it yet"
        );
    }

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in FailureKind::ALL {
            assert_eq!(FailureKind::from_reason(kind.reason()), Some(kind));
        }
    }

    #[test]
    fn a_pod_that_starts_or_serves_has_no_reason() {
        assert_eq!(kind(&pod(json!({ "phase": "Pending" }))), None);
        assert_eq!(
            kind(&container(
                json!({ "waiting": { "reason": "ContainerCreating" } }),
                json!({})
            )),
            None
        );
        assert_eq!(
            kind(&container(
                json!({ "running": {} }),
                json!({ "terminated": { "exitCode": 1 } })
            )),
            None
        );
    }

    #[test]
    fn each_thing_that_keeps_a_pod_from_starting_has_its_kind_and_words() {
        for (reason, expected) in [
            ("ImagePullBackOff", FailureKind::Image),
            ("CreateContainerConfigError", FailureKind::Config),
        ] {
            let pod = container(
                json!({ "waiting": { "reason": reason, "message": "because" } }),
                json!({}),
            );
            let failure = pod_failure(&pod).unwrap();
            assert_eq!(
                (failure.kind, failure.message),
                (expected, format!("kserve-container: {reason}: because"))
            );
        }
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available",
        });
        let unscheduled = pod(json!({ "phase": "Pending", "conditions": [condition] }));
        assert_eq!(kind(&unscheduled), Some(FailureKind::Unschedulable));
        assert_eq!(
            kind(&pod(json!({ "phase": "Failed", "reason": "Evicted" }))),
            Some(FailureKind::Evicted)
        );
    }

    #[test]
    fn a_crash_tells_its_exit_code_and_last_words_and_memory_its_remedy() {
        let waiting = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
        let ended = json!({ "terminated": { "exitCode": 3, "reason": "Error", "message": "log\nno such file\n" } });
        let failure = pod_failure(&container(waiting.clone(), ended)).unwrap();
        assert_eq!(failure.exit_code, Some(3));
        assert_eq!(failure.message, "kserve-container ended with exit code 3: no such file");
        let killed = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
        assert_eq!(kind(&container(waiting, killed)), Some(FailureKind::OutOfMemory));
    }

    #[test]
    fn a_quota_is_read_from_the_deployment() {
        let deployment = serde_json::from_value(json!({ "metadata": {}, "status": { "conditions": [
            { "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota" },
        ] } }))
        .unwrap();
        let failure = deployment_failure(&deployment).unwrap();
        assert_eq!(
            (failure.kind, failure.message.as_str()),
            (FailureKind::Quota, "exceeded quota")
        );
    }

    #[test]
    fn a_backtrace_is_cut() {
        let words = "x".repeat(5000);
        let ended = json!({ "terminated": { "exitCode": 1, "message": words } });
        let failure = pod_failure(&container(
            json!({ "waiting": { "reason": "CrashLoopBackOff" } }),
            ended,
        ))
        .unwrap();
        assert_eq!(failure.message.chars().count(), MESSAGE_LIMIT);
    }
}
