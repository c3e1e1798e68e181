//! What is kept of the cluster's objects: a few facts of each and not the object, so that thousands cost little.
//!
//! Synchronous and without a client; watches write it, the reconciler and the autoscaler read it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod, discovery::v1::EndpointSlice},
    jiff::Timestamp,
};
use pilotlight_manifests::{
    failure::{PodFailure, Trouble, deployment_failure, in_the_making, pod_failure},
    kubernetes::{
        ANNOTATION_ARMED, ANNOTATION_CLAIMED_AT, ANNOTATION_CLAIMING, ANNOTATION_PARKED, ANNOTATION_TRAFFIC_PERCENT,
        ANNOTATION_WOKEN_AT, COMPONENT_PREDICTOR, LABEL_BACKEND, LABEL_COMPONENT, LABEL_INFERENCE_SERVICE,
        LABEL_MANAGED_BY, LABEL_REVISION, MANAGED_BY, Workload,
    },
};

use super::objects::{ANNOTATION_APPLIED, ANNOTATION_SCALED_BY, Endpoint};
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
        let workload = workload(&namespace, &name, deployment.metadata.labels.as_ref()?)?;
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
        let workload = workload(&namespace, &name, pod.metadata.labels.as_ref()?)?;
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

/// Whose a Deployment or pod is: by our label, or KServe's.
fn workload(namespace: &str, _name: &str, labels: &BTreeMap<String, String>) -> Option<Workload> {
    if let Some(label) = labels.get(LABEL_BACKEND) {
        return Workload::from_label(namespace, label);
    }
    let of_predictor = labels
        .get(LABEL_COMPONENT)
        .is_some_and(|component| component == COMPONENT_PREDICTOR);
    let service = labels.get(LABEL_INFERENCE_SERVICE).filter(|_| of_predictor)?;
    Some(Workload::stable(namespace, service))
}

fn deployment_facts(deployment: &Deployment) -> DeploymentFacts {
    let metadata = &deployment.metadata;
    let annotation = |key: &str| metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
    let spec = deployment.spec.as_ref();
    let status = deployment.status.clone().unwrap_or_default();
    // A Deployment that was not asked for a number has one.
    let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0);
    let all = |count: Option<i32>| count.unwrap_or(0) == replicas;
    DeploymentFacts {
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        replicas: replicas as u32,
        revision: annotation(LABEL_REVISION).unwrap_or_default(),
        applied: annotation(ANNOTATION_APPLIED),
        handed_over: annotation(ANNOTATION_SCALED_BY).is_some(),
        woken_at: annotation(ANNOTATION_WOKEN_AT),
        percent: annotation(ANNOTATION_TRAFFIC_PERCENT).and_then(|percent| percent.parse().ok()),
        ours: metadata
            .labels
            .as_ref()
            .is_some_and(|all| all.get(LABEL_MANAGED_BY).is_some_and(|by| by == MANAGED_BY)),
        rolled_out: status.observed_generation >= metadata.generation
            && all(status.updated_replicas)
            && all(status.replicas)
            && all(status.ready_replicas),
        settled: status.observed_generation >= metadata.generation && status.replicas.unwrap_or(0) == 0,
        parked: annotation(ANNOTATION_PARKED),
        armed: annotation(ANNOTATION_ARMED),
        claiming: annotation(ANNOTATION_CLAIMING),
        failure: deployment_failure(deployment),
        deleting: metadata.deletion_timestamp.is_some(),
    }
}

fn pod_facts(pod: &Pod, name: String) -> Option<PodFacts> {
    let metadata = &pod.metadata;
    let status = pod.status.as_ref();
    let conditions = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten();
    let ready = conditions
        .clone()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let containers = status
        .and_then(|status| status.container_statuses.as_ref())
        .into_iter()
        .flatten();
    let backing_off = containers.into_iter().any(|container| {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"))
    });
    Some(PodFacts {
        name,
        uid: metadata.uid.clone()?,
        revision: metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(LABEL_REVISION))
            .cloned()
            .unwrap_or_default(),
        ready,
        terminating: metadata.deletion_timestamp.is_some(),
        failure: pod_failure(pod),
        in_the_making: in_the_making(pod),
        backing_off,
        served: ready,
        claimed_at: metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(ANNOTATION_CLAIMED_AT))
            .cloned(),
        owned: metadata
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.controller == Some(true)),
        created: metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0.to_string())
            .unwrap_or_default(),
    })
}

/// What Events say against a pod in the making.
fn troubled(troubles: &VecDeque<Trouble>, pod: &PodFacts) -> Option<PodFailure> {
    let trouble = troubles.iter().find(|trouble| trouble.uid == pod.uid)?;
    trouble.failure(pod.in_the_making?).cloned()
}

fn activators(slice: &EndpointSlice) -> Vec<Endpoint> {
    let endpoints = slice.endpoints.iter().flat_map(|endpoint| {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // Absent is to be read as true for the first, and as the first for the second.
        let ready = conditions.ready.unwrap_or(true);
        endpoint.addresses.iter().map(move |address| Endpoint {
            address: address.clone(),
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
            node: endpoint.node_name.clone(),
            zone: endpoint.zone.clone(),
        })
    });
    let mut endpoints: Vec<Endpoint> = endpoints.collect();
    endpoints.sort();
    endpoints
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(name: &str, labels: Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "shop", "labels": labels, "resourceVersion": "7",
                "annotations": { LABEL_REVISION: "r1" } },
            "spec": { "replicas": 2, "selector": {}, "template": {} },
        }))
        .unwrap()
    }

    pub(crate) fn pod(name: &str, ready: bool, revision: &str, waiting: Option<&str>) -> Pod {
        let state = waiting.map_or(
            json!({ "running": {} }),
            |reason| json!({ "waiting": { "reason": reason } }),
        );
        serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-{name}"),
                "labels": { LABEL_BACKEND: "iris", LABEL_REVISION: revision } },
            "status": {
                "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
                "containerStatuses": [{ "name": "kserve-container", "image": "", "imageID": "", "ready": ready,
                    "restartCount": 0, "state": state }],
            },
        }))
        .unwrap()
    }

    fn iris() -> Workload {
        Workload::stable("shop", "iris")
    }

    fn ours() -> Value {
        json!({ LABEL_BACKEND: "iris", LABEL_MANAGED_BY: MANAGED_BY })
    }

    #[test]
    fn deployments_are_found_by_our_label_and_by_kserve_s() {
        let mut world = World::default();
        let iris_service = ("shop".to_owned(), "iris".to_owned());
        let service = Some(iris_service.clone());
        assert_eq!(world.put_deployment(&deployment("iris-predictor", ours())), service);
        assert!(world.deployment(&iris()).unwrap().ours);
        let theirs = json!({ LABEL_INFERENCE_SERVICE: "iris", LABEL_COMPONENT: "predictor" });
        assert_eq!(
            world.put_deployment(&deployment("iris-predictor", theirs.clone())),
            service
        );
        assert!(!world.deployment(&iris()).unwrap().ours);
        assert_eq!(world.put_deployment(&deployment("iris-predictor-worker", theirs)), None);
        assert_eq!(world.retain_deployments(&HashSet::new()), [iris_service]);
        assert!(world.deployment(&iris()).is_none());
    }

    #[test]
    fn the_status_sees_pods_of_the_newest_revision_apart() {
        let mut world = World::default();
        world.put_deployment(&deployment("iris-predictor", ours()));
        world.put_pod(&pod("old", true, "r0", None));
        world.put_pod(&pod("new", false, "r1", Some("ImagePullBackOff")));
        let seen = world.seen(&iris());
        assert_eq!((seen.ready, seen.ready_newest, seen.failed), (1, 0, 1));
        assert_eq!(seen.failure.unwrap().kind.reason(), "ImagePullFailed");
        world.drop_pod(&("shop".to_owned(), "old".to_owned()));
        assert_eq!(world.ready(&iris()), 0);
    }

    #[test]
    fn only_a_pod_that_served_is_taken_out_of_kubelet_s_pause() {
        let (mut world, service) = (World::default(), ("shop".to_owned(), "iris".to_owned()));
        world.put_pod(&pod("never", false, "r1", Some("CrashLoopBackOff")));
        world.put_pod(&pod("served", true, "r1", None));
        assert!(world.pausing(&service).is_empty());
        world.put_pod(&pod("served", false, "r1", Some("CrashLoopBackOff")));
        assert_eq!(
            world.pausing(&service),
            [(("shop".into(), "served".into()), "uid-served".into())]
        );
    }

    #[test]
    fn a_pod_made_again_under_its_name_is_another() {
        let mut world = World::default();
        world.put_pod(&pod("a", true, "r1", None));
        let mut again = pod("a", false, "r1", None);
        again.metadata.uid = Some("other".to_owned());
        world.put_pod(&again);
        assert_eq!(
            world.pods(&iris()).map(|pod| pod.uid.clone()).collect::<Vec<_>>(),
            ["other"]
        );
    }

    #[test]
    fn what_says_nothing_new_concerns_nobody() {
        let mut world = World::default();
        let mut deployment = deployment("iris-predictor", ours());
        assert!(world.put_deployment(&deployment).is_some());
        deployment.metadata.resource_version = Some("8".to_owned());
        assert_eq!(world.put_deployment(&deployment), None);
        assert_eq!(world.deployment(&iris()).unwrap().resource_version, "8");
        assert!(world.put_pod(&pod("a", true, "r1", None)).is_some());
        assert_eq!(world.put_pod(&pod("a", true, "r1", None)), None);
    }

    #[test]
    fn canaries_are_found_beside_their_stable_workload_and_nowhere_else() {
        let mut world = World::default();
        for (name, label) in [
            ("iris-predictor", "iris"),
            ("iris-predictor-a", "iris.a"),
            ("iris-2-predictor-a", "iris-2.a"),
        ] {
            world.put_deployment(&deployment(name, json!({ LABEL_BACKEND: label })));
        }
        let found = world.canaries(&("shop".to_owned(), "iris".to_owned()));
        let names: Vec<String> = found.iter().map(|(workload, _)| workload.backend()).collect();
        assert_eq!(names, ["shop/iris@a"]);
    }

    #[test]
    fn an_event_tells_what_a_pod_in_the_making_lacks_whichever_comes_first() {
        let making: Pod = serde_json::from_value(json!({
            "metadata": { "name": "a", "namespace": "shop", "uid": "uid-a", "labels": { LABEL_BACKEND: "iris" } },
            "status": { "phase": "Pending", "startTime": "2026-11-23T12:00:00Z" },
        }))
        .unwrap();
        let event = json!({
            "metadata": {}, "reason": "FailedMount", "message": "no secret", "lastTimestamp": "2026-11-23T12:00:09Z",
            "involvedObject": { "kind": "Pod", "namespace": "shop", "name": "a", "uid": "uid-a" },
        });
        let trouble = Trouble::of(&serde_json::from_value(event).unwrap()).unwrap();
        let told = |world: &World| world.pods(&iris()).next().and_then(|pod| pod.failure.clone()).is_some();
        let mut first = World::default();
        assert_eq!(first.put_trouble(trouble.clone()), None);
        first.put_pod(&making);
        assert!(told(&first));
        let mut later = World::default();
        later.put_pod(&making);
        assert!(later.put_trouble(trouble.clone()).is_some() && told(&later));
        assert_eq!(later.put_trouble(trouble), None, "it is known");
    }

    #[test]
    fn activators_are_ready_where_nothing_is_said() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": { "name": "a", "namespace": "system" }, "addressType": "IPv4",
            "endpoints": [
                { "addresses": ["10.0.0.2"], "conditions": { "ready": false, "serving": true, "terminating": true } },
                { "addresses": ["10.0.0.1"] },
            ],
        }))
        .unwrap();
        let mut world = World::default();
        assert!(world.put_activators(&slice));
        assert!(!world.put_activators(&slice));
        let found: Vec<_> = world
            .activators()
            .into_iter()
            .map(|one| (one.address, one.ready, one.serving))
            .collect();
        assert_eq!(
            found,
            [
                ("10.0.0.1".to_owned(), true, true),
                ("10.0.0.2".to_owned(), false, true)
            ]
        );
        assert!(world.retain_activators(|_| false) && world.activators().is_empty());
    }
}
