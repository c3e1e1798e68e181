//! What is seen of a service as the status that KServe writes, and what a change of it is worth telling.
//!
//! Pure: the time is an argument, the former status gives the times of conditions that did not change.

mod standby;

use pilotlight_manifests::{
    Fault,
    failure::{FailureKind, PodFailure},
    kubernetes::{cluster_hosts, predictor},
};
use serde_json::{Map, Value, json};

pub(crate) use standby::Tier;

use crate::kubernetes::runtimes::{NoRuntime, reason as runtime_reason};

/// Condition types, KServe's.
pub(crate) mod condition {
    pub(crate) const READY: &str = "Ready";
    pub(crate) const PREDICTOR_READY: &str = "PredictorReady";
    pub(crate) const INGRESS_READY: &str = "IngressReady";
    pub(crate) const CANARY_READY: &str = "CanaryPredictorReady";
    pub(crate) const STOPPED: &str = "Stopped";
    /// Ours: whether the next wake may claim a standby pod.
    pub(crate) const STANDBY_READY: &str = "StandbyReady";
}

/// Reasons of conditions.
pub(crate) mod reason {
    pub(crate) const INVALID_SPEC: &str = "InvalidSpec";
    pub(crate) const STANDBY: &str = "Standby";
    pub(crate) const STARTING: &str = "Starting";
    pub(crate) const STOPPED: &str = "Stopped";
    pub(crate) const NO_ACTIVATOR: &str = "NoActivator";
    pub(crate) const NOT_DEPLOYED: &str = "NotDeployed";
    pub(crate) const STANDBY_ARMED: &str = "StandbyArmed";
    pub(crate) const STANDBY_ARMING: &str = "StandbyArming";
    pub(crate) const STANDBY_CLAIMED: &str = "StandbyClaimed";
    pub(crate) const AWAKE: &str = "Awake";
}

/// Why a spec can't be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    /// KServe's `lastFailureInfo.reason`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Invalid {
    /// The first faults of a document, as many as a condition holds.
    pub(crate) fn from_faults(faults: &[Fault]) -> Self {
        let mut words: Vec<String> = faults
            .iter()
            .take(5)
            .map(|fault| format!("{}: {}", fault.field, fault.message))
            .collect();
        if faults.len() > words.len() {
            words.push(format!("and {} more", faults.len() - words.len()));
        }
        Self {
            reason: runtime_reason::INVALID_SPEC,
            message: words.join("; "),
        }
    }
}

impl From<NoRuntime> for Invalid {
    fn from(none: NoRuntime) -> Self {
        Self {
            reason: none.reason,
            message: none.message,
        }
    }
}

/// One workload as it is seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// Whether its Deployment is there.
    pub(crate) exists: bool,
    /// `spec.replicas`.
    pub(crate) replicas: u32,
    /// Pods that serve.
    pub(crate) ready: u32,
    /// Pods that serve the newest revision.
    pub(crate) ready_newest: u32,
    /// Pods that can't start.
    pub(crate) failed: u32,
    /// Why, of the newest revision.
    pub(crate) failure: Option<PodFailure>,
    /// The newest revision; empty where it is not known.
    pub(crate) revision: String,
}

/// Everything that the status follows from.
#[derive(Clone, Debug)]
pub(crate) struct Observed<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) generation: i64,
    pub(crate) domain: &'a str,
    pub(crate) cluster_domain: &'a str,
    /// Why the spec as it is now can't be served. What ran before goes on.
    pub(crate) invalid: Option<Invalid>,
    /// Whether it is stopped by annotation.
    pub(crate) stopped: bool,
    /// `minReplicas`.
    pub(crate) promised: u32,
    pub(crate) stable: Seen,
    /// Name, share and state of each canary that has a Deployment.
    pub(crate) canaries: Vec<(String, u8, Seen)>,
    /// Whether an activator answers for it.
    pub(crate) reachable: bool,
    /// Name of a ServingRuntime, and whether it is the whole cluster's.
    pub(crate) runtime: Option<(String, bool)>,
    /// `None`: it asks for no standby pods.
    pub(crate) tier: Option<Tier>,
}

/// A condition before it has its times.
struct Verdict {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes() -> Self {
        Self {
            status: "True",
            reason: "",
            message: String::new(),
        }
    }

    fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: "False",
            reason,
            message: message.into(),
        }
    }

    fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: "Unknown",
            ..Self::no(reason, message)
        }
    }
}

/// The status of a service, from what is seen and its former status; `now` is RFC 3339.
pub(crate) fn status(observed: &Observed<'_>, former: &Value, now: &str) -> Value {
    let known = known_failure(observed, former);
    let predictor_ready = predictor_verdict(observed, known.as_ref());
    let ingress = if observed.stopped {
        Verdict::no(reason::STOPPED, "the service is stopped")
    } else if observed.reachable {
        Verdict::yes()
    } else {
        Verdict::no(reason::NO_ACTIVATOR, "no activator is ready")
    };
    let mut verdicts = vec![
        (condition::INGRESS_READY, ingress),
        (condition::PREDICTOR_READY, predictor_ready),
    ];
    let overall = overall(&verdicts[..2]);
    if let Some(verdict) = canaries_verdict(&observed.canaries) {
        verdicts.push((condition::CANARY_READY, verdict));
    }
    verdicts.push((condition::READY, overall));
    if let Some(tier) = &observed.tier {
        verdicts.push((condition::STANDBY_READY, tier.verdict()));
    }
    let stopped = if observed.stopped {
        Verdict::yes()
    } else {
        Verdict::no("", "")
    };
    verdicts.push((condition::STOPPED, stopped));
    let conditions: Vec<Value> = verdicts
        .iter()
        .map(|(kind, verdict)| stamped(kind, verdict, former, now))
        .collect();
    let mut status = json!({
        "observedGeneration": observed.generation,
        "url": url(observed),
        "address": { "url": address(observed) },
        "deploymentMode": "Standard",
        "conditions": conditions,
        "components": { "predictor": component(observed, former) },
        "modelStatus": model_status(observed, known.as_ref(), former, now),
    });
    if let Some((runtime, cluster)) = &observed.runtime {
        let key = if *cluster {
            "clusterServingRuntimeName"
        } else {
            "servingRuntimeName"
        };
        status[key] = runtime.as_str().into();
    }
    if !observed.canaries.is_empty() {
        let told = observed.canaries.iter().map(|(name, percent, canary)| {
            let ready = canary_verdict(canary).status == "True";
            json!({ "name": name, "ready": ready, "trafficPercent": percent })
        });
        status["canaryStatuses"] = told.collect();
    }
    status
}

fn url(observed: &Observed<'_>) -> String {
    format!("http://{}-{}.{}", observed.name, observed.namespace, observed.domain)
}

fn address(observed: &Observed<'_>) -> String {
    let [host, ..] = cluster_hosts(observed.namespace, observed.name, observed.cluster_domain);
    format!("http://{host}")
}

/// What keeps the newest revision from serving: seen now, or seen before, while nothing of the same revision served since.
/// At zero nobody would say it any more, and the next request would meet it again.
fn known_failure(observed: &Observed<'_>, former: &Value) -> Option<Value> {
    let stable = &observed.stable;
    if stable.ready_newest > 0 {
        return None;
    }
    if let Some(failure) = &stable.failure {
        return Some(failure_info(failure, &stable.revision));
    }
    let last = former.pointer("/modelStatus/lastFailureInfo")?;
    let blocked = former.pointer("/modelStatus/transitionStatus") == Some(&"BlockedByFailedLoad".into());
    let same = last.get("modelRevisionName").and_then(Value::as_str) == Some(&stable.revision);
    (blocked && same && !stable.revision.is_empty()).then(|| last.clone())
}

fn failure_info(failure: &PodFailure, revision: &str) -> Value {
    let why = match failure.kind {
        FailureKind::Crash | FailureKind::OutOfMemory => "ModelLoadFailed",
        _ => "RuntimeUnhealthy",
    };
    let mut info = json!({
        "reason": why,
        "message": failure.message,
        "modelRevisionName": revision,
        "location": failure.kind.reason(),
    });
    if let Some(code) = failure.exit_code {
        info["exitCode"] = code.into();
    }
    info
}

fn predictor_verdict(observed: &Observed<'_>, failure: Option<&Value>) -> Verdict {
    let stable = &observed.stable;
    if let Some(invalid) = &observed.invalid {
        return Verdict::no(reason::INVALID_SPEC, invalid.message.clone());
    }
    if observed.stopped {
        return Verdict::no(reason::STOPPED, "stopped by the annotation serving.kserve.io/stop");
    }
    if !stable.exists {
        return Verdict::unknown(reason::NOT_DEPLOYED, "the Deployment is not there yet");
    }
    if stable.ready > 0 {
        return Verdict::yes();
    }
    if let Some(failure) = failure {
        let message = failure.get("message").and_then(Value::as_str).unwrap_or_default();
        return Verdict::no(failed_reason(failure), message);
    }
    // A service that sleeps or wakes answers requests; one that promises a replica at all times and has none doesn't yet.
    if observed.promised == 0 {
        return Verdict::yes();
    }
    let message = format!("0 of {} replicas are ready", stable.replicas.max(observed.promised));
    Verdict::unknown(reason::STARTING, message)
}

/// The constant that the failure's place is the text of.
fn failed_reason(failure: &Value) -> &'static str {
    let location = failure.get("location").and_then(Value::as_str).unwrap_or_default();
    FailureKind::from_reason(location).map_or("Failed", FailureKind::reason)
}

/// All canaries as one: the first that is not ready speaks for them.
fn canaries_verdict(canaries: &[(String, u8, Seen)]) -> Option<Verdict> {
    let mut verdicts = canaries.iter().map(|(name, _, canary)| (name, canary_verdict(canary)));
    let (name, first) = verdicts.next()?;
    if first.status != "True" {
        return Some(named(name, first, canaries.len()));
    }
    let other = verdicts.find(|(_, verdict)| verdict.status != "True");
    Some(other.map_or(first, |(name, verdict)| named(name, verdict, canaries.len())))
}

/// With the canary's name in its words, where there are several.
fn named(name: &str, verdict: Verdict, canaries: usize) -> Verdict {
    let message = match canaries {
        1 => verdict.message,
        _ => format!("{name}: {}", verdict.message),
    };
    Verdict { message, ..verdict }
}

fn canary_verdict(canary: &Seen) -> Verdict {
    match &canary.failure {
        _ if !canary.exists => Verdict::unknown(reason::NOT_DEPLOYED, "the Deployment is not there yet"),
        _ if canary.ready > 0 => Verdict::yes(),
        Some(failure) => Verdict::no(failure.kind.reason(), failure.message.clone()),
        None if canary.replicas == 0 => Verdict {
            reason: reason::STANDBY,
            ..Verdict::yes()
        },
        None => Verdict::unknown(reason::STARTING, "no replica is ready"),
    }
}

/// The first that isn't true speaks for all, a false one before an unknown one.
fn overall(parts: &[(&str, Verdict)]) -> Verdict {
    let worst = |status: &str| parts.iter().rev().find(|(_, verdict)| verdict.status == status);
    match worst("False").or_else(|| worst("Unknown")) {
        Some((_, verdict)) => Verdict {
            status: verdict.status,
            reason: verdict.reason,
            message: verdict.message.clone(),
        },
        None => Verdict::yes(),
    }
}

/// The condition with the time of its last change of status.
fn stamped(kind: &str, verdict: &Verdict, former: &Value, now: &str) -> Value {
    let before = former
        .get("conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind);
    let since = before
        .filter(|before| before["status"] == verdict.status)
        .and_then(|before| before["lastTransitionTime"].as_str())
        .unwrap_or(now);
    let mut condition = json!({ "type": kind, "status": verdict.status, "lastTransitionTime": since });
    if !matches!(
        kind,
        condition::READY | condition::PREDICTOR_READY | condition::INGRESS_READY
    ) {
        condition["severity"] = "Info".into();
    }
    if !verdict.reason.is_empty() {
        condition["reason"] = verdict.reason.into();
    }
    if !verdict.message.is_empty() {
        condition["message"] = verdict.message.as_str().into();
    }
    condition
}

fn component(observed: &Observed<'_>, former: &Value) -> Value {
    let stable = &observed.stable;
    let name = |revision: &str| format!("{}-{revision}", predictor(observed.name));
    let before = former.pointer("/components/predictor").cloned().unwrap_or_default();
    let was = |key: &str| before.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut component = json!({ "url": address(observed), "address": { "url": address(observed) } });
    if stable.revision.is_empty() {
        return component;
    }
    // The latest is the last canary that is named, as the newest is added behind the others.
    let newest = observed
        .canaries
        .last()
        .map_or(&stable.revision, |(.., canary)| &canary.revision);
    component["latestCreatedRevision"] = name(newest).into();
    let rolled_out = name(&stable.revision);
    if let Some(previous) = was("latestRolledoutRevision") {
        let previous = if previous == rolled_out {
            was("previousRolledoutRevision")
        } else {
            Some(previous)
        };
        if let Some(previous) = previous {
            component["previousRolledoutRevision"] = previous.into();
        }
    }
    component["latestRolledoutRevision"] = rolled_out.as_str().into();
    let ready = if stable.ready_newest > 0 || stable.replicas == 0 {
        Some(rolled_out.clone())
    } else {
        was("latestReadyRevision")
    };
    if let Some(ready) = ready {
        component["latestReadyRevision"] = ready.into();
    }
    component["traffic"] = traffic(observed, name);
    component
}

/// Who gets which share, the newest revision first, as KServe's columns read it.
fn traffic(observed: &Observed<'_>, name: impl Fn(&str) -> String) -> Value {
    let stable = name(&observed.stable.revision);
    let Some((last, others)) = observed.canaries.split_last() else {
        return json!([{ "latestRevision": true, "percent": 100, "revisionName": stable }]);
    };
    let given: u32 = observed
        .canaries
        .iter()
        .map(|(_, percent, _)| u32::from(*percent))
        .sum();
    let (_, percent, canary) = last;
    let mut traffic = vec![
        json!({ "latestRevision": true, "percent": percent, "revisionName": name(&canary.revision), "tag": "latest" }),
        json!({ "latestRevision": false, "percent": 100_u32.saturating_sub(given), "revisionName": stable, "tag": "prev" }),
    ];
    for (tag, percent, canary) in others {
        let revision = name(&canary.revision);
        traffic.push(json!({ "latestRevision": false, "percent": percent, "revisionName": revision, "tag": tag }));
    }
    traffic.into()
}

fn model_status(observed: &Observed<'_>, failure: Option<&Value>, former: &Value, now: &str) -> Value {
    let stable = &observed.stable;
    let (transition, target) = if observed.invalid.is_some() {
        ("InvalidSpec", "FailedToLoad")
    } else if failure.is_some() {
        ("BlockedByFailedLoad", "FailedToLoad")
    } else if stable.ready_newest > 0 {
        ("UpToDate", "Loaded")
    } else if stable.exists && stable.replicas == 0 {
        ("UpToDate", "Standby")
    } else if stable.exists {
        ("InProgress", "Loading")
    } else {
        ("InProgress", "Pending")
    };
    let mut states = json!({ "targetModelState": target });
    if stable.ready > 0 {
        states["activeModelState"] = "Loaded".into();
    } else if target == "Standby" {
        states["activeModelState"] = "Standby".into();
    }
    let mut model = json!({
        "transitionStatus": transition,
        "states": states,
        "copies": { "failedCopies": stable.failed, "totalCopies": stable.ready },
    });
    let invalid = observed
        .invalid
        .as_ref()
        .map(|invalid| json!({ "reason": invalid.reason, "message": invalid.message }));
    let last = former.pointer("/modelStatus/lastFailureInfo");
    let info = invalid.as_ref().or(failure);
    // What failed last stays to be read after it was mended, as in KServe.
    if let Some(mut info) = info.or(last).cloned() {
        let same = |key: &str| last.and_then(|last| last.get(key)) == info.get(key);
        let known = same("reason") && same("message") && same("modelRevisionName");
        let since = last.filter(|_| known).and_then(|last| last.get("time")).cloned();
        info["time"] = since.unwrap_or_else(|| now.into());
        model["lastFailureInfo"] = info;
    }
    model
}

/// Something that happened to a service, for an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) warning: bool,
    pub(crate) reason: String,
    pub(crate) note: String,
}

/// What changed between two statuses and is worth an Event.
pub(crate) fn transitions(former: &Value, status: &Value) -> Vec<Transition> {
    let mut told = Vec::new();
    for kind in [
        condition::PREDICTOR_READY,
        condition::INGRESS_READY,
        condition::READY,
        condition::CANARY_READY,
    ] {
        let (before, after) = (find(former, kind), find(status, kind));
        let (was, is) = (text(before, "status"), text(after, "status"));
        let why = (text(after, "reason"), text(after, "message"));
        let changed = was != is || (is == "False" && why != (text(before, "reason"), text(before, "message")));
        // Nothing to tell of what begins without being either, and a part that is well shows in the whole.
        let part = matches!(kind, condition::PREDICTOR_READY | condition::INGRESS_READY);
        if !changed || is.is_empty() || is == "Unknown" || (part && is == "True") {
            continue;
        }
        let note = match (is, why.1) {
            ("True", _) => format!("{kind} is true"),
            (_, "") => format!("{kind} is false"),
            (_, message) => message.to_owned(),
        };
        let name = if is == "True" {
            kind.to_owned()
        } else {
            no_reason(kind, why.0)
        };
        // One fault is told once, though it makes several conditions false.
        if !told
            .iter()
            .any(|one: &Transition| one.reason == name && one.note == note)
        {
            told.push(Transition {
                warning: is == "False" && why.0 != reason::STOPPED,
                reason: name,
                note,
            });
        }
    }
    told.extend(standby::transition(former, status));
    let state = |value: &Value| {
        value
            .pointer("/modelStatus/states/activeModelState")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let (was, is) = (state(former), state(status));
    // That a new service sleeps is told by its being ready.
    let begins = former.get("conditions").is_none() && is.as_deref() == Some("Standby");
    if was != is
        && !begins
        && let Some(is) = is
    {
        told.push(Transition {
            warning: false,
            reason: format!("Model{is}"),
            note: match is.as_str() {
                "Standby" => "the service sleeps; the next request wakes it".to_owned(),
                _ => "the model is loaded".to_owned(),
            },
        });
    }
    told
}

fn no_reason(kind: &str, reason: &str) -> String {
    if reason.is_empty() {
        format!("{kind}False")
    } else {
        reason.to_owned()
    }
}

fn find<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let conditions = status.get("conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind)
        .unwrap_or(&Value::Null)
}

fn text<'a>(condition: &'a Value, key: &str) -> &'a str {
    condition.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Whether two statuses say the same but for members that only one writes.
pub(crate) fn same(former: &Value, status: &Value) -> bool {
    said(former) == said(status)
}

/// The members of a status that we write.
pub(crate) fn said(status: &Value) -> Map<String, Value> {
    let keys = [
        "observedGeneration",
        "url",
        "address",
        "deploymentMode",
        "conditions",
        "components",
        "modelStatus",
        "canaryStatuses",
        "servingRuntimeName",
        "clusterServingRuntimeName",
    ];
    let members = keys
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), status.get(*key)?.clone())));
    members.collect()
}

#[cfg(test)]
mod tests;
