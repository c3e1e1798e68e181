//! Standby pods, and what a wake does about one: decisions and state. `claim` carries them out; the controller's module of the same
//! name has the whole design.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    jiff::Timestamp,
};
use parking_lot::Mutex;
use pilotlight_manifests::kubernetes::{
    ANNOTATION_ARMED, ANNOTATION_CLAIMED_AT, ANNOTATION_CLAIMING, ANNOTATION_MODEL, ANNOTATION_PARKED,
    ANNOTATION_STANDBY_GROUP, DATA_PORT, LABEL_BACKEND, LABEL_REVISION, LABEL_STANDBY, LABEL_TEMPLATE_HASH,
};
use serde_json::{Value, json};

use super::index::Key;

/// A claim that is older has broken off.
pub(crate) const CLAIM_LIMIT: Duration = Duration::from_secs(5);

/// What a Deployment with a standby group says of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parking {
    /// `None`: it has none any more, and may still be parked.
    pub(crate) group: Option<String>,
    /// It is paused until somebody raises it.
    pub(crate) parked: bool,
    /// The hash of its pods, where one may be claimed.
    pub(crate) armed: Option<String>,
    /// Who claims one.
    pub(crate) claiming: Option<String>,
    /// Labels and annotations of its pods.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Parking {
    /// Reads a Deployment; `None` for one that has nothing to do with it.
    pub(crate) fn of(deployment: &Deployment) -> Option<Self> {
        let annotation = |key: &str| deployment.metadata.annotations.as_ref()?.get(key).cloned();
        let (group, parked) = (annotation(ANNOTATION_STANDBY_GROUP), annotation(ANNOTATION_PARKED));
        if group.is_none() && parked.is_none() {
            return None;
        }
        let meta = deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.template.metadata.as_ref());
        let labels = meta.and_then(|meta| meta.labels.clone()).unwrap_or_default();
        let annotations = meta.and_then(|meta| meta.annotations.clone()).unwrap_or_default();
        let armed = annotation(ANNOTATION_ARMED).filter(|armed| parked.as_ref() == Some(armed));
        // The mark of another template says nothing of the pods of this one.
        let hash = armed.and_then(|armed| {
            let (revision, hash) = armed.split_once('.')?;
            (labels.get(LABEL_REVISION).map(String::as_str) == Some(revision)).then(|| hash.to_owned())
        });
        Some(Self {
            group,
            parked: parked.is_some(),
            armed: hash,
            claiming: annotation(ANNOTATION_CLAIMING),
            labels,
            annotations,
        })
    }

    /// The model that its pods serve, `{name}={path or URI}`.
    pub(crate) fn model(&self) -> Option<&str> {
        self.annotations.get(ANNOTATION_MODEL).map(String::as_str)
    }
}

/// What a wake from zero does first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Claim a pod for this group, with this hash.
    Claim { group: String, hash: String },
    /// Raise; the word says why no pod is claimed.
    Raise(&'static str),
    /// Nothing: somebody else claims one right now.
    Leave,
}

/// Decides for a Deployment at zero. `held`: it has a pod already, by a claim that broke off. `own`: our own mark on it.
pub(crate) fn plan(parking: &Parking, held: bool, own: Option<&str>, now: Timestamp) -> Plan {
    let claiming = parking.claiming.as_deref();
    if claiming.is_some_and(|mark| Some(mark) != own && is_fresh(mark, now)) {
        return Plan::Leave;
    }
    match (&parking.group, &parking.armed) {
        _ if held => Plan::Raise("held"),
        (Some(group), Some(hash)) => Plan::Claim {
            group: group.clone(),
            hash: hash.clone(),
        },
        _ => Plan::Raise("not-armed"),
    }
}

/// The mark of who claims.
pub(crate) fn mark(pod: &StandbyPod, now: Timestamp) -> String {
    format!("{} {now}", pod.uid)
}

fn is_fresh(mark: &str, now: Timestamp) -> bool {
    let began = mark.split_once(' ').and_then(|(_, at)| at.parse::<Timestamp>().ok());
    let passed = began.map(|began| now.as_millisecond().saturating_sub(began.as_millisecond()));
    passed.is_some_and(|passed| passed < CLAIM_LIMIT.as_millis() as i64)
}

/// What makes a standby pod one of the Deployment's.
pub(crate) fn relabelling(pod: &StandbyPod, parking: &Parking, hash: &str, now: Timestamp) -> Value {
    let mut labels = json!(parking.labels);
    labels[LABEL_STANDBY] = Value::Null;
    labels[LABEL_TEMPLATE_HASH] = hash.into();
    let mut annotations = json!(parking.annotations);
    annotations[ANNOTATION_CLAIMED_AT] = now.to_string().into();
    json!({ "metadata": {
        "uid": pod.uid,
        "resourceVersion": pod.version,
        "labels": labels,
        "annotations": annotations,
        "ownerReferences": null,
    } })
}

/// What makes a Deployment have so many replicas, parked or not.
pub(crate) fn raising(version: &str, replicas: i32) -> Value {
    json!({
        "metadata": {
            "resourceVersion": version,
            "annotations": { ANNOTATION_PARKED: null, ANNOTATION_ARMED: null, ANNOTATION_CLAIMING: null },
        },
        "spec": { "paused": false, "replicas": replicas },
    })
}

/// A started pod without a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StandbyPod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) version: String,
    pub(crate) address: SocketAddr,
    group: String,
    created: Timestamp,
}

impl StandbyPod {
    /// Reads a pod; `None` for one that can't be claimed: taken, not ready, on its way out.
    pub(crate) fn of(pod: &Pod) -> Option<Self> {
        let meta = &pod.metadata;
        let status = pod.status.as_ref()?;
        let labels = meta.labels.as_ref()?;
        let mut conditions = status.conditions.iter().flatten();
        let ready = conditions.any(|it| it.type_ == "Ready" && it.status == "True");
        if meta.deletion_timestamp.is_some() || labels.contains_key(LABEL_BACKEND) || !ready {
            return None;
        }
        let ip: IpAddr = status.pod_ip.as_deref()?.parse().ok()?;
        Some(Self {
            namespace: meta.namespace.clone()?,
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            version: meta.resource_version.clone()?,
            address: SocketAddr::new(ip, DATA_PORT),
            group: labels.get(LABEL_STANDBY)?.clone(),
            created: meta.creation_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0),
        })
    }
}

/// The standby pods that can be claimed.
#[derive(Debug, Default)]
pub(crate) struct StandbyPods {
    pods: Mutex<HashMap<Key, StandbyPod>>,
}

impl StandbyPods {
    /// Takes a pod as it is now; `None` where it can't be claimed or is gone.
    pub(crate) fn set(&self, key: &Key, pod: Option<StandbyPod>) {
        let mut pods = self.pods.lock();
        match pod {
            Some(pod) => pods.insert(key.clone(), pod),
            None => pods.remove(key),
        };
    }

    /// One that was taken and not touched.
    pub(crate) fn give_back(&self, pod: StandbyPod) {
        let key = Key {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
        };
        self.pods.lock().entry(key).or_insert(pod);
    }

    /// Forgets those that are not among these.
    pub(crate) fn keep(&self, namespace: Option<&str>, listed: &HashSet<Key>) {
        let elsewhere = |key: &Key| namespace.is_some_and(|namespace| key.namespace != namespace);
        self.pods.lock().retain(|key, _| elsewhere(key) || listed.contains(key));
    }

    /// Takes the oldest one of a group out, so that no other wake of this process tries it too. One that is not claimed after all
    /// comes back with its next change.
    pub(crate) fn take(&self, namespace: &str, group: &str) -> Option<StandbyPod> {
        let mut pods = self.pods.lock();
        let of_group = pods
            .iter()
            .filter(|(key, pod)| key.namespace == namespace && pod.group == group);
        let (key, _) = of_group.min_by_key(|(_, pod)| (pod.created, &pod.uid))?;
        let key = key.clone();
        pods.remove(&key)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn parked(marks: Value) -> Deployment {
        let mut annotations = json!({
            "pilotlight.dev/standby-group": "g", "pilotlight.dev/standby-parked": "r1.h1",
            "pilotlight.dev/standby-armed": "r1.h1",
        });
        let map = annotations.as_object_mut().unwrap();
        map.extend(marks.as_object().unwrap().clone());
        map.retain(|_, value| !value.is_null());
        serde_json::from_value(json!({
            "metadata": { "name": "iris-predictor", "namespace": "shop", "resourceVersion": "7",
                "labels": { "pilotlight.dev/backend": "iris" }, "annotations": annotations },
            "spec": { "replicas": 0, "paused": true, "selector": {}, "template": { "metadata": {
                "labels": { "app": "isvc.iris-predictor", "pilotlight.dev/revision": "r1", "pilotlight.dev/backend": "iris" },
                "annotations": { "pilotlight.dev/model": "iris=/mnt/models/iris.onnx" },
            } } },
        }))
        .unwrap()
    }

    pub(crate) fn pod(name: &str, created: u32) -> StandbyPod {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": "3",
                "creationTimestamp": format!("2026-11-23T15:00:{created:02}Z"),
                "labels": { "pilotlight.dev/standby-group": "g", "pod-template-hash": "s" } },
            "status": { "podIP": "10.0.0.9", "conditions": [{ "type": "Ready", "status": "True" }] },
        }))
        .unwrap();
        StandbyPod::of(&pod).unwrap()
    }

    fn key(name: &str) -> Key {
        Key {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        }
    }

    fn now() -> Timestamp {
        "2026-11-23T15:01:00Z".parse().unwrap()
    }

    #[test]
    fn an_armed_deployment_claims_and_any_other_is_raised() {
        let decide = |marks: Value, held| plan(&Parking::of(&parked(marks)).unwrap(), held, None, now());
        let claim = Plan::Claim {
            group: "g".to_owned(),
            hash: "h1".to_owned(),
        };
        assert_eq!(decide(json!({}), false), claim);
        assert_eq!(decide(json!({}), true), Plan::Raise("held"));
        let unarmed = json!({ "pilotlight.dev/standby-armed": null });
        assert_eq!(decide(unarmed, false), Plan::Raise("not-armed"));
        let of_another_template =
            json!({ "pilotlight.dev/standby-armed": "r0.h0", "pilotlight.dev/standby-parked": "r0.h0" });
        assert_eq!(decide(of_another_template, false), Plan::Raise("not-armed"));
    }

    #[test]
    fn a_claim_of_another_is_left_alone_until_it_has_broken_off() {
        let decide = |at: &str, own: Option<&str>| {
            let parking =
                Parking::of(&parked(json!({ "pilotlight.dev/standby-claiming": format!("u {at}") }))).unwrap();
            plan(&parking, false, own, now())
        };
        assert_eq!(decide("2026-11-23T15:00:58Z", None), Plan::Leave);
        assert!(matches!(decide("2026-11-23T15:00:50Z", None), Plan::Claim { .. }));
        let own = Some("u 2026-11-23T15:00:58Z");
        assert!(matches!(decide("2026-11-23T15:00:58Z", own), Plan::Claim { .. }));
    }

    #[test]
    fn a_relabelled_pod_has_the_labels_of_the_model_s_pods_and_no_owner() {
        let parking = Parking::of(&parked(json!({}))).unwrap();
        assert_eq!(parking.model(), Some("iris=/mnt/models/iris.onnx"));
        let patch = relabelling(&pod("a", 1), &parking, "h1", now());
        let meta = &patch["metadata"];
        assert_eq!(
            meta["labels"],
            json!({ "app": "isvc.iris-predictor", "pilotlight.dev/backend": "iris", "pilotlight.dev/revision": "r1",
                "pod-template-hash": "h1", "pilotlight.dev/standby-group": null })
        );
        assert_eq!(
            (&meta["ownerReferences"], &meta["resourceVersion"]),
            (&Value::Null, &json!("3"))
        );
        assert_eq!(
            meta["annotations"]["pilotlight.dev/model"],
            "iris=/mnt/models/iris.onnx"
        );
    }

    #[test]
    fn the_oldest_pod_of_a_group_is_taken_and_by_one_wake_only() {
        let pods = StandbyPods::default();
        for (name, created) in [("a", 9), ("b", 2), ("c", 5)] {
            pods.set(&key(name), Some(pod(name, created)));
        }
        pods.set(&key("c"), None);
        let take = || pods.take("shop", "g").map(|pod| pod.name);
        assert_eq!(pods.take("shop", "other"), None);
        assert_eq!(
            (take().as_deref(), take().as_deref(), take()),
            (Some("b"), Some("a"), None)
        );
        pods.set(&key("a"), Some(pod("a", 1)));
        pods.keep(Some("lab"), &HashSet::new());
        assert!(take().is_some(), "a list of another namespace says nothing");
    }
}
