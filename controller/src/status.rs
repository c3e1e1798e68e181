//! What is shown of each service: the items of the API.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use pilotlight_activator::{BackendCounts, BackendId, EndpointId, WakeError, WakeReason};
use pilotlight_manifests::Service;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    config::Config,
    model::ModelError,
    platform::{Revision, Workload},
    replicas::Phase,
    service::ServiceState,
    workload,
};

/// Reasons of a service that isn't ready.
pub mod reason {
    /// The model's file is being read or checked.
    pub const CHECKING: &str = "Checking";
    /// The model is being fetched from remote storage.
    pub const FETCHING: &str = "Fetching";
    /// There is no model file.
    pub const MODEL_NOT_FOUND: &str = "ModelNotFound";
    /// The model can't be fetched from remote storage. It is tried again.
    pub const FETCH_FAILED: &str = "FetchFailed";
    /// This platform has no storage of the kind.
    pub const STORAGE_UNSUPPORTED: &str = "StorageUnsupported";
    /// The model can't be loaded.
    pub const MODEL_INVALID: &str = "ModelInvalid";
    /// The newest revision can't serve; a former one goes on.
    pub const REVISION_FAILED: &str = "RevisionFailed";
    /// Replicas are wished for and none is ready yet.
    pub const STARTING: &str = "Starting";
    /// Replicas die before they are ready.
    pub const LOAD_FAILED: &str = "LoadFailed";
    /// The platform has no room or refuses.
    pub const NO_CAPACITY: &str = "NoCapacity";
    /// The manifest says that it is not to run.
    pub const STOPPED: &str = "Stopped";
}

/// How a service comes to have no replica at all.
const STOPPED_BY: &str = "stopped by the annotation serving.kserve.io/stop; remove it to serve again";

/// What keeps a revision from serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// One of [`reason`].
    pub(crate) reason: &'static str,
    /// For the owner.
    pub(crate) message: String,
    /// The revision that it is about; `None` where there is no file to have one.
    pub(crate) revision: Option<Revision>,
    /// The file or directory at fault.
    pub(crate) path: PathBuf,
    /// For clients.
    public: String,
}

impl Problem {
    pub(crate) fn model_missing(error: &ModelError) -> Self {
        Self {
            reason: error.reason(),
            message: error.message(),
            revision: None,
            path: error.path().to_owned(),
            public: error.public(),
        }
    }

    /// With the revision that goes on serving, if there is one.
    pub(crate) fn model_invalid(error: &str, failed: &Workload, stays: Option<&Revision>) -> Self {
        let (reason, message) = match stays {
            None => (reason::MODEL_INVALID, error.to_owned()),
            Some(stays) => (
                reason::REVISION_FAILED,
                format!("{error}; revision {stays} goes on serving"),
            ),
        };
        Self {
            reason,
            message,
            revision: Some(failed.revision.clone()),
            path: failed.runtime.path.clone(),
            public: format!("the model can't be loaded: {error}"),
        }
    }

    pub(crate) fn wake_error(&self) -> WakeError {
        WakeError {
            reason: WakeReason::LoadFailed,
            message: self.public.as_str().into(),
        }
    }
}

/// Replicas by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplicaCounts {
    /// Serving.
    pub ready: u32,
    /// Started, not seen ready.
    pub starting: u32,
    /// Wished for.
    pub desired: u32,
    /// Finishing what they have. Not part of the API's promise.
    #[serde(skip)]
    pub draining: u32,
}

/// One service as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceStatus {
    /// What is declared.
    pub service: Arc<Service>,
    /// Where clients reach it whatever their host name.
    pub url: String,
    /// Whether a request would be answered: asleep counts, a model that can't be loaded doesn't.
    pub ready: bool,
    /// Why it isn't ready; one of [`reason`].
    pub reason: Option<&'static str>,
    /// The reason in words.
    pub message: Option<String>,
    /// False while the newest document or model file is being checked: what `ready` and `reason` say isn't about it yet.
    pub checked: bool,
    /// Its replicas.
    pub replicas: ReplicaCounts,
    /// Requests being answered.
    pub in_flight: u64,
    /// Requests held.
    pub waiting: u64,
    /// How long the first request of the last wake took; `None` before the first wake.
    pub last_wake: Option<Duration>,
    /// The revision that serves or would.
    pub revision: Option<Revision>,
    /// Ids of its replicas.
    pub replica_ids: Vec<EndpointId>,
}

impl ServiceStatus {
    /// Its backend.
    pub fn backend(&self) -> BackendId {
        workload::backend(&self.service)
    }

    /// Replaces the counts by fresher ones.
    pub(crate) fn with_counts(mut self, counts: Option<&BackendCounts>) -> Self {
        if let Some(counts) = counts {
            self.in_flight = counts.in_flight;
            self.waiting = counts.waiting;
        }
        self
    }
}

impl Serialize for ServiceStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &self.service.name)?;
        map.serialize_entry("namespace", &self.service.namespace)?;
        map.serialize_entry("url", &self.url)?;
        map.serialize_entry("ready", &self.ready)?;
        if let Some(reason) = self.reason {
            map.serialize_entry("reason", reason)?;
        }
        if let Some(message) = &self.message {
            map.serialize_entry("message", message)?;
        }
        map.serialize_entry("checked", &self.checked)?;
        map.serialize_entry("replicas", &self.replicas)?;
        map.serialize_entry("inFlight", &self.in_flight)?;
        map.serialize_entry("waiting", &self.waiting)?;
        map.serialize_entry("lastWakeMs", &self.last_wake.map(|wake| wake.as_secs_f64() * 1e3))?;
        map.serialize_entry("revision", &self.revision.as_ref().map(Revision::as_str))?;
        let source = serde_json::json!({ "file": self.service.source.file, "line": self.service.source.line });
        map.serialize_entry("source", &source)?;
        map.serialize_entry("object", &self.service.object)?;
        map.end()
    }
}

/// All services at one moment, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatusSet {
    /// The generation of the declared services that this is about.
    pub generation: u64,
    /// By `namespace/name`.
    pub services: BTreeMap<Arc<str>, ServiceStatus>,
}

/// The status of one service.
pub(crate) fn status(state: &ServiceState, config: &Config, last_wake: Option<Duration>) -> ServiceStatus {
    let replicas = count(state);
    let condition = condition(state, replicas);
    ServiceStatus {
        url: format!("{}{}", config.base_url, workload::path_prefix(&state.service)),
        ready: condition.is_none(),
        reason: condition.as_ref().map(|(reason, _)| *reason),
        message: condition.map(|(_, message)| message),
        checked: !state.examining,
        replicas,
        in_flight: state.reading.map_or(0, |reading| reading.in_flight),
        waiting: state.reading.map_or(0, |reading| reading.waiting),
        last_wake,
        revision: state.applied.as_ref().map(|applied| applied.revision.clone()),
        replica_ids: state.replicas.keys().cloned().collect(),
        service: state.service.clone(),
    }
}

fn count(state: &ServiceState) -> ReplicaCounts {
    let mut counts = ReplicaCounts {
        desired: state.autoscaler.desired(),
        ..ReplicaCounts::default()
    };
    for replica in state.replicas.values() {
        match replica.phase {
            Phase::Ready => counts.ready += 1,
            Phase::Starting => counts.starting += 1,
            Phase::Sealed { .. } | Phase::Ending => counts.draining += 1,
        }
    }
    counts
}

/// Why it isn't ready, if it isn't.
fn condition(state: &ServiceState, replicas: ReplicaCounts) -> Option<(&'static str, String)> {
    if let Some(problem) = state.problem.as_ref().filter(|_| !state.examining) {
        return Some((problem.reason, problem.message.clone()));
    }
    if state.service.scaling.max_replicas == Some(0) {
        return Some((reason::STOPPED, STOPPED_BY.to_owned()));
    }
    if replicas.ready > 0 {
        return None;
    }
    if let Some(error) = state.backoff.error() {
        let reason = if error.reason == WakeReason::LoadFailed {
            reason::LOAD_FAILED
        } else {
            reason::NO_CAPACITY
        };
        return Some((reason, error.message.to_string()));
    }
    if let Some(progress) = state.fetching.as_ref().and_then(|fetching| fetching.words()) {
        return Some((reason::FETCHING, progress));
    }
    if state.examining || !state.checked {
        return Some((reason::CHECKING, "the model is being checked".to_owned()));
    }
    // A service that sleeps or wakes answers requests; one that promises a replica at all times and has none doesn't yet.
    let promised = state.service.scaling.min_replicas;
    (promised > 0).then(|| (reason::STARTING, format!("0 of {promised} replicas are ready")))
}
