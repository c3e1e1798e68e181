//! What is kept of the cluster's objects: a few facts of each and not the object, so that thousands cost little.
//!
//! Synchronous and without a client; watches write it, the reconciler and the autoscaler read it.

mod read;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod, discovery::v1::EndpointSlice},
    jiff::Timestamp,
};
use pilotlight_manifests::{
    failure::{PodFailure, Trouble},
    kubernetes::Workload,
};

use self::read::{activators, deployment_facts, pod_facts, troubled, workload};
use super::objects::Endpoint;
use crate::kubernetes::status::Seen;

/// Pods that Events are remembered of.
const MAX_TROUBLES: usize = 256;

/// `namespace` and `name` of an object.
pub(crate) type Key = (String, String);

/// Facts of a Deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DeploymentFacts {
    pub(crate) resource_version: String,
    /// `spec.replicas`.
    pub(crate) replicas: u32,
    pub(crate) revision: String,
    /// Digest of what was applied with it; `None` where it was not applied to the end.
    pub(crate) applied: Option<String>,
    /// Whether its replicas belong to the autoscaler's field manager.
    pub(crate) handed_over: bool,
    pub(crate) woken_at: Option<String>,
    /// A canary's share of the requests.
    pub(crate) percent: Option<u8>,
    /// Whether we made it.
    pub(crate) ours: bool,
    /// Whether all its pods are of the newest template and ready.
    pub(crate) rolled_out: bool,
    /// Whether Kubernetes has seen it as it is and it has no pods.
    pub(crate) settled: bool,
    /// Revision and hash that it was paused with, for a standby pod.
    pub(crate) parked: Option<String>,
    /// The same once a standby pod may be claimed for it.
    pub(crate) armed: Option<String>,
    /// Who claims one.
    pub(crate) claiming: Option<String>,
    /// Why it gets no pods at all.
    pub(crate) failure: Option<PodFailure>,
    pub(crate) deleting: bool,
}

/// Facts of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodFacts {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) revision: String,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
    pub(crate) failure: Option<PodFailure>,
    /// Since when its containers are being made; only its Events say then what it lacks.
    pub(crate) in_the_making: Option<Timestamp>,
    /// In the pause that kubelet makes between starts.
    pub(crate) backing_off: bool,
    /// Whether it was ever seen ready.
    pub(crate) served: bool,
    /// RFC 3339, so that the text orders as the time does.
    pub(crate) created: String,
    /// When a standby pod was claimed, RFC 3339.
    pub(crate) claimed_at: Option<String>,
    /// Whether it has a controller.
    pub(crate) owned: bool,
}

/// What is known of the cluster.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// In order, so that a service's canaries stand beside its stable workload.
    deployments: BTreeMap<Workload, DeploymentFacts>,
    deployment_keys: HashMap<Key, Workload>,
    pods: HashMap<Workload, BTreeMap<String, PodFacts>>,
    pod_keys: HashMap<Key, (Workload, String)>,
    /// What Events say against pods in the making, the latest [`MAX_TROUBLES`]: an Event may come before its pod is known.
    troubles: VecDeque<Trouble>,
    activator_slices: BTreeMap<String, Vec<Endpoint>>,
}

impl World {
    /// Takes a Deployment in; answers whose it is, where anything about it is new.
    pub(crate) fn put_deployment(&mut self, deployment: &Deployment) -> Option<Key> {
        let (namespace, name) = key_of(&deployment.metadata)?;
        let workload = workload(&namespace, deployment.metadata.labels.as_ref()?)?;
        // KServe names a workload so as well; transformers and workers are not ours to scale.
        if workload.deployment() != name {
            return None;
        }
        let service = (workload.namespace.clone(), workload.name.clone());
        self.deployment_keys.insert((namespace, name), workload.clone());
        let facts = deployment_facts(deployment);
        let before = self.deployments.insert(workload, facts.clone());
        let known = before.is_some_and(|before| {
            let resource_version = facts.resource_version.clone();
            let moved = DeploymentFacts {
                resource_version,
                ..before
            };
            moved == facts
        });
        (!known).then_some(service)
    }

    /// Takes a Deployment in that is not known yet; what a watch said of it already is newer.
    pub(crate) fn add_deployment(&mut self, deployment: &Deployment) {
        let known = key_of(&deployment.metadata).is_some_and(|key| self.deployment_keys.contains_key(&key));
        if !known {
            self.put_deployment(deployment);
        }
    }

    /// Forgets a Deployment; answers whose it was.
    pub(crate) fn drop_deployment(&mut self, key: &Key) -> Option<Key> {
        let workload = self.deployment_keys.remove(key)?;
        self.deployments.remove(&workload);
        Some((workload.namespace, workload.name))
    }

    /// Forgets every Deployment that is not among these.
    pub(crate) fn retain_deployments(&mut self, kept: &HashSet<Key>) -> Vec<Key> {
        let gone: Vec<Key> = self
            .deployment_keys
            .keys()
            .filter(|key| !kept.contains(*key))
            .cloned()
            .collect();
        gone.iter().filter_map(|key| self.drop_deployment(key)).collect()
    }

    /// Takes in what an Event says against a pod; answers whose the pod is, where that changes what is known of it.
    pub(crate) fn put_trouble(&mut self, trouble: Trouble) -> Option<Key> {
        let key = (trouble.namespace.clone(), trouble.pod.clone());
        self.troubles.retain(|known| known.uid != trouble.uid);
        self.troubles.push_back(trouble);
        if self.troubles.len() > MAX_TROUBLES {
            self.troubles.pop_front();
        }
        let (workload, uid) = self.pod_keys.get(&key)?;
        let pod = self.pods.get_mut(workload)?.get_mut(uid)?;
        let failure = troubled(&self.troubles, pod)?;
        let changed = pod.failure.as_ref() != Some(&failure);
        pod.failure = Some(failure);
        changed.then(|| (workload.namespace.clone(), workload.name.clone()))
    }

    /// Takes a pod in; answers whose it is, where anything about it is new.
    pub(crate) fn put_pod(&mut self, pod: &Pod) -> Option<Key> {
        let (namespace, name) = key_of(&pod.metadata)?;
        let workload = workload(&namespace, pod.metadata.labels.as_ref()?)?;
        let mut facts = pod_facts(pod, name.clone())?;
        if facts.failure.is_none() {
            facts.failure = troubled(&self.troubles, &facts);
        }
        let service = (workload.namespace.clone(), workload.name.clone());
        let pods = self.pods.entry(workload.clone()).or_default();
        facts.served = facts.ready || pods.get(&facts.uid).is_some_and(|before| before.served);
        if let Some((_, before)) = self.pod_keys.insert((namespace, name), (workload, facts.uid.clone()))
            && before != facts.uid
        {
            pods.remove(&before);
        }
        let known = pods
            .insert(facts.uid.clone(), facts.clone())
            .is_some_and(|before| before == facts);
        (!known).then_some(service)
    }

    /// Forgets a pod; answers whose it was.
    pub(crate) fn drop_pod(&mut self, key: &Key) -> Option<Key> {
        let (workload, uid) = self.pod_keys.remove(key)?;
        if let Some(pods) = self.pods.get_mut(&workload) {
            pods.remove(&uid);
            if pods.is_empty() {
                self.pods.remove(&workload);
            }
        }
        Some((workload.namespace, workload.name))
    }

    /// Forgets every pod that is not among these.
    pub(crate) fn retain_pods(&mut self, kept: &HashSet<Key>) -> Vec<Key> {
        let gone: Vec<Key> = self
            .pod_keys
            .keys()
            .filter(|key| !kept.contains(*key))
            .cloned()
            .collect();
        gone.iter().filter_map(|key| self.drop_pod(key)).collect()
    }

    /// Takes a slice of the activators in; answers whether anything changed.
    pub(crate) fn put_activators(&mut self, slice: &EndpointSlice) -> bool {
        let Some((_, name)) = key_of(&slice.metadata) else {
            return false;
        };
        let endpoints = activators(slice);
        self.activator_slices.insert(name, endpoints.clone()) != Some(endpoints)
    }

    /// Forgets slices of the activators but these.
    pub(crate) fn retain_activators(&mut self, keep: impl Fn(&str) -> bool) -> bool {
        let before = self.activator_slices.len();
        self.activator_slices.retain(|name, _| keep(name));
        before != self.activator_slices.len()
    }

    /// The activators that requests are to be led to, in order: the ready ones, and only where there is none those that serve
    /// on. One that begins or ends would change the slices of every service twice more, and no node would send it anything.
    pub(crate) fn reachable_activators(&self) -> Vec<Endpoint> {
        let all = self.activators();
        let ready: Vec<Endpoint> = all.iter().filter(|endpoint| endpoint.ready).cloned().collect();
        if !ready.is_empty() {
            return ready;
        }
        all.into_iter().filter(|endpoint| endpoint.serving).collect()
    }

    /// The activators, in order and each once.
    pub(crate) fn activators(&self) -> Vec<Endpoint> {
        let all: BTreeSet<&Endpoint> = self.activator_slices.values().flatten().collect();
        all.into_iter().cloned().collect()
    }

    pub(crate) fn deployment(&self, workload: &Workload) -> Option<&DeploymentFacts> {
        self.deployments.get(workload)
    }

    /// The canaries of a service that have a Deployment.
    pub(crate) fn canaries(&self, (namespace, name): &Key) -> Vec<(Workload, DeploymentFacts)> {
        let stable = Workload::stable(namespace, name);
        let beside = self.deployments.range(stable.clone()..);
        let beside = beside.take_while(|(workload, _)| workload.is_beside(&stable));
        let canaries = beside.filter(|(workload, _)| workload.is_canary());
        canaries
            .map(|(workload, facts)| (workload.clone(), facts.clone()))
            .collect()
    }

    /// Deployments of ours whose service is nowhere, which garbage collection sees to, are not asked for here.
    pub(crate) fn pods(&self, workload: &Workload) -> impl Iterator<Item = &PodFacts> {
        self.pods.get(workload).into_iter().flat_map(BTreeMap::values)
    }

    /// Pods that take requests.
    pub(crate) fn ready(&self, workload: &Workload) -> u32 {
        self.pods(workload).filter(|pod| pod.ready && !pod.terminating).count() as u32
    }

    /// What the status needs of a workload.
    pub(crate) fn seen(&self, workload: &Workload) -> Seen {
        let Some(deployment) = self.deployment(workload) else {
            return Seen::default();
        };
        let newest = |pod: &&PodFacts| pod.revision == deployment.revision && !pod.terminating;
        let failing = self
            .pods(workload)
            .filter(newest)
            .filter(|pod| !pod.ready && pod.failure.is_some());
        let failures: Vec<&PodFailure> = failing.filter_map(|pod| pod.failure.as_ref()).collect();
        Seen {
            exists: true,
            replicas: deployment.replicas,
            ready: self.ready(workload),
            ready_newest: self.pods(workload).filter(newest).filter(|pod| pod.ready).count() as u32,
            failed: failures.len() as u32,
            failure: failures.first().copied().or(deployment.failure.as_ref()).cloned(),
            revision: deployment.revision.clone(),
        }
    }

    /// The service's own workload and its canaries'.
    fn workloads(&self, service: &Key) -> Vec<Workload> {
        let canaries = self.canaries(service).into_iter().map(|(workload, _)| workload);
        std::iter::once(Workload::stable(&service.0, &service.1))
            .chain(canaries)
            .collect()
    }

    /// Claimed standby pods of a service that have no controller, with the time at which they were claimed.
    pub(crate) fn unowned(&self, service: &Key) -> Vec<(Key, String, String)> {
        let workloads = self.workloads(service);
        let pods = workloads.iter().flat_map(|workload| self.pods(workload));
        let unowned = pods.filter(|pod| !pod.owned && !pod.terminating);
        unowned
            .filter_map(|pod| {
                let at = pod.claimed_at.clone()?;
                Some(((service.0.clone(), pod.name.clone()), pod.uid.clone(), at))
            })
            .collect()
    }

    /// Pods that served and are in kubelet's pause between crashes: a new one starts without it.
    pub(crate) fn pausing(&self, service: &Key) -> Vec<(Key, String)> {
        let workloads = self.workloads(service);
        let pods = workloads.iter().flat_map(|workload| self.pods(workload));
        let pausing = pods.filter(|pod| pod.served && pod.backing_off && !pod.terminating);
        pausing
            .map(|pod| ((service.0.clone(), pod.name.clone()), pod.uid.clone()))
            .collect()
    }
}

fn key_of(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<Key> {
    Some((metadata.namespace.clone()?, metadata.name.clone()?))
}

#[cfg(test)]
pub(crate) mod tests;
