//! What a wake of each backend scales: kept by whoever knows the workloads, read by the waker.

use std::collections::{HashMap, HashSet};

use kube::core::ApiResource;
use parking_lot::Mutex;

use super::{scale::Known, standby::Parking};
use crate::{BackendId, WakeError};

/// A workload with a `scale` subresource, and what is known to stand against waking it.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub resource: ApiResource,
    /// Replicas that a wake starts, at least 1.
    pub activation_scale: i32,
    /// Why it must not be woken; `None` where it may. Told to waiting requests as `disabled`.
    pub stopped: Option<String>,
    /// Why its replicas can't serve, though there are as many as were asked for.
    pub failure: Option<WakeError>,
    /// What to tell where the workload does not exist.
    pub fault: Option<String>,
    /// As last seen; only a hint, since every write is conditioned on it.
    pub(crate) known: Option<Known>,
    /// What is known of its standby pods, of the same version.
    pub(crate) standby: Option<Parking>,
    /// It has pods, whatever its replicas say.
    pub(crate) held: bool,
}

impl Target {
    /// A workload of which nothing stands against waking.
    pub fn new(resource: ApiResource, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            resource,
            activation_scale: 1,
            stopped: None,
            failure: None,
            fault: None,
            known: None,
            standby: None,
            held: false,
        }
    }
}

/// The targets of all backends.
#[derive(Debug, Default)]
pub struct Targets {
    map: Mutex<HashMap<BackendId, Target>>,
    unscaled: Mutex<HashSet<BackendId>>,
}

impl Targets {
    /// Sets the target of a backend; `None` makes it unknown.
    pub fn set(&self, backend: &BackendId, target: Option<Target>) {
        let mut map = self.map.lock();
        match target {
            Some(target) => map.insert(backend.clone(), target),
            None => map.remove(backend),
        };
    }

    /// Says that a backend is not scaled by us, but by somebody who learns of its requests otherwise, or by nobody: a wake
    /// succeeds without doing anything, and requests wait for what may come.
    pub fn set_unscaled(&self, backend: &BackendId, unscaled: bool) {
        let mut backends = self.unscaled.lock();
        if unscaled {
            backends.insert(backend.clone());
        } else {
            backends.remove(backend);
        }
    }

    /// Whether a wake of a backend has nothing to do.
    pub(crate) fn is_unscaled(&self, backend: &BackendId) -> bool {
        self.unscaled.lock().contains(backend)
    }

    /// The target of a backend.
    pub fn get(&self, backend: &BackendId) -> Option<Target> {
        self.map.lock().get(backend).cloned()
    }

    /// What was just read or written of a workload's scale.
    pub(crate) fn learn(&self, backend: &BackendId, known: Option<Known>) {
        if let Some(target) = self.map.lock().get_mut(backend) {
            target.known = known;
        }
    }
}
