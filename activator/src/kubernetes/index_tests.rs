use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::kubernetes::{
    pod::tests::pod,
    service::tests::{domains, object},
};

const GRACE: Duration = Duration::from_secs(2);

struct Stage {
    index: Index,
    now: Instant,
}

fn key(name: &str) -> Key {
    Key {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    }
}

fn iris() -> BackendId {
    BackendId::new("shop/iris")
}

fn deployment(name: &str, label: &str, changes: &Value) -> Deployment {
    let annotations = changes.get("annotations").cloned().unwrap_or(json!({}));
    let replicas = changes.get("replicas").cloned().unwrap_or(json!(1));
    let status = changes.get("status").cloned().unwrap_or(json!({}));
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "shop", "resourceVersion": "7",
            "labels": { "pilotlight.dev/backend": label }, "annotations": annotations,
        },
        "spec": { "replicas": replicas, "selector": {}, "template": {} },
        "status": status,
    }))
    .unwrap()
}

impl Stage {
    fn new() -> Self {
        let index = Index::new(domains(), "a".to_owned(), GRACE);
        Self {
            index,
            now: Instant::now(),
        }
    }

    fn service(&mut self, name: &str, changes: &Value) -> Touched {
        let mut object = object(&json!({
            "minReplicas": 0, "containerConcurrency": 4,
            "model": { "modelFormat": { "name": "onnx" }, "storageUri": "pvc://models/iris.onnx" },
        }));
        object["metadata"]["name"] = name.into();
        for (path, value) in changes.as_object().unwrap() {
            *object.pointer_mut(path).unwrap() = value.clone();
        }
        self.index
            .set(&key(name), Object::Service(Some(Box::new(object))), self.now)
    }

    fn deployment(&mut self, name: &str, label: &str, changes: &Value) -> Touched {
        let view = DeploymentView::of(&deployment(name, label, changes)).map(Box::new);
        self.index.set(&key(name), Object::Deployment(view), self.now)
    }

    fn pod(&mut self, name: &str, changes: Value) -> Touched {
        self.set_pod(&pod(name, changes))
    }

    fn set_pod(&mut self, pod: &Pod) -> Touched {
        let name = pod.metadata.name.clone().unwrap();
        self.index
            .set(&key(&name), Object::Pod(PodView::of(pod).map(Box::new)), self.now)
    }

    fn peers(&mut self, names: &[&str]) -> Touched {
        let endpoints: Vec<Value> = names
            .iter()
            .map(|name| json!({ "addresses": ["10.0.0.1"], "targetRef": { "kind": "Pod", "name": name } }))
            .collect();
        let slice = serde_json::from_value(json!({ "metadata": {}, "addressType": "IPv4", "endpoints": endpoints }));
        self.index
            .set(&key("slice"), Object::Slice(Some(Box::new(slice.unwrap()))), self.now)
    }

    fn endpoints(&self, ready: &[&str]) -> Vec<Endpoint> {
        self.index.endpoints(&iris(), |id| ready.contains(&id.as_str()))
    }

    fn capacities(&self, ready: &[&str]) -> Vec<Option<u32>> {
        self.endpoints(ready).iter().map(|endpoint| endpoint.capacity).collect()
    }

    fn outlook(&self) -> Outlook {
        self.index.outlook(&iris(), |_| false, self.now)
    }

    fn hosts(&self) -> Vec<String> {
        self.index
            .routes()
            .into_iter()
            .flat_map(|route| route.predicate.hosts)
            .collect()
    }
}

fn image_error() -> Value {
    json!({ "status": { "phase": "Pending", "podIP": "10.0.0.7", "containerStatuses": [{
        "name": "kserve-container", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "waiting": { "reason": "ImagePullBackOff", "message": "not found" } },
    }] } })
}

#[test]
fn a_pod_is_an_endpoint_from_its_address_on_and_draining_from_its_deletion_on() {
    let mut stage = Stage::new();
    stage.service("iris", &json!({}));
    stage.pod("p", json!({ "status": { "podIP": null } }));
    assert!(stage.endpoints(&[]).is_empty(), "no address yet");
    stage.pod("p", json!({}));
    let endpoints = stage.endpoints(&[]);
    assert_eq!(
        endpoints[0].state,
        EndpointState::Starting,
        "probed before the kubelet says anything"
    );
    assert_eq!(endpoints[0].address, "10.0.0.7:8080".parse().unwrap());
    let touched = stage.pod(
        "p",
        json!({ "metadata": { "deletionTimestamp": "2026-11-23T16:00:00Z" } }),
    );
    assert_eq!(touched.backends, [iris()].into());
    assert_eq!(stage.endpoints(&["uid-p"])[0].state, EndpointState::Draining);
    stage.index.set(&key("p"), Object::Pod(None), stage.now);
    assert!(stage.endpoints(&[]).is_empty());
}

#[test]
fn what_the_kubelet_alone_can_ask_follows_it_both_ways() {
    let mut stage = Stage::new();
    let with = |ready: &str| {
        json!({
            "spec": { "containers": [{ "name": "kserve-container" }] },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        })
    };
    stage.pod("p", with("False"));
    assert_eq!(stage.endpoints(&[])[0].state, EndpointState::Starting);
    stage.pod("p", with("True"));
    assert_eq!(stage.endpoints(&[])[0].state, EndpointState::Ready);
    stage.pod("p", with("False"));
    assert!(stage.endpoints(&["uid-p"]).is_empty());
}

#[test]
fn activators_share_the_concurrency_of_those_that_serve() {
    let mut stage = Stage::new();
    stage.service("iris", &json!({}));
    for (name, second) in [("p", 1), ("q", 2)] {
        stage.pod(
            name,
            json!({ "metadata": { "creationTimestamp": format!("2026-11-23T15:00:0{second}Z") } }),
        );
    }
    assert_eq!(
        stage.capacities(&["uid-p", "uid-q"]),
        [Some(4), Some(4)],
        "alone it has all"
    );
    let touched = stage.peers(&["a", "b", "c"]);
    assert_eq!(touched.backends, [iris()].into());
    let sum: u32 = stage.capacities(&["uid-p", "uid-q"]).into_iter().flatten().sum();
    assert_eq!(sum, 3, "8 places among 3, and this is the first");
    stage.service(
        "iris",
        &json!({ "/spec/predictor/containerConcurrency": 1, "/metadata/generation": 2 }),
    );
    assert_eq!(
        stage.capacities(&["uid-q"]),
        [Some(1), Some(1)],
        "the one that starts is not counted on"
    );
    stage.service(
        "iris",
        &json!({ "/spec/predictor/containerConcurrency": 0, "/metadata/generation": 3 }),
    );
    assert_eq!(stage.capacities(&["uid-p", "uid-q"]), [None, None]);
}

#[test]
fn a_bare_name_leads_to_a_service_while_it_can_mean_only_one() {
    let mut stage = Stage::new();
    assert!(stage.service("iris", &json!({})).routes);
    assert!(stage.hosts().contains(&"iris-predictor".to_owned()));
    let other = Key {
        namespace: "lab".to_owned(),
        name: "iris".to_owned(),
    };
    let mut object = object(&json!({}));
    object["metadata"]["namespace"] = "lab".into();
    stage
        .index
        .set(&other, Object::Service(Some(Box::new(object))), stage.now);
    let hosts = stage.hosts();
    assert!(!hosts.contains(&"iris-predictor".to_owned()));
    assert!(hosts.contains(&"iris-predictor.lab".to_owned()) && hosts.contains(&"iris-predictor.shop.svc".to_owned()));
}

#[test]
fn a_status_write_rebuilds_no_routes() {
    let mut stage = Stage::new();
    stage.service("iris", &json!({}));
    assert_eq!(stage.service("iris", &json!({})), Touched::default());
    let touched = stage.service("iris", &json!({ "/metadata/generation": 2 }));
    assert!(!touched.routes, "the route is the same");
}

#[test]
fn a_canary_has_its_share_while_its_deployment_is_there() {
    let mut stage = Stage::new();
    stage.service("iris", &json!({}));
    let canary = |percent: &str| json!({ "annotations": { "pilotlight.dev/traffic-percent": percent } });
    let weights = |stage: &Stage| -> Vec<u32> {
        let routes = stage.index.routes();
        routes[0].backends.iter().map(|weighted| weighted.weight).collect()
    };
    assert!(
        stage
            .deployment("iris-predictor-canary", "iris.canary", &canary("20"))
            .routes
    );
    assert_eq!(weights(&stage), [80, 20]);
    assert!(
        stage
            .deployment("iris-predictor-canary", "iris.canary", &canary("0"))
            .routes
    );
    assert_eq!(weights(&stage), [100, 0], "0 % is a canary that is reached by nobody");
    assert!(
        !stage
            .deployment("iris-predictor-canary", "iris.canary", &canary("0"))
            .routes
    );
    let gone = stage
        .index
        .set(&key("iris-predictor-canary"), Object::Deployment(None), stage.now);
    assert!(gone.routes);
    assert_eq!(weights(&stage), [100]);
}

#[test]
fn canaries_of_other_services_are_none_of_this_one() {
    let mut stage = Stage::new();
    stage.service("iris", &json!({}));
    let share = json!({ "annotations": { "pilotlight.dev/traffic-percent": "20" } });
    stage.deployment("iris-predictor-a", "iris.a", &share);
    stage.deployment("iris-predictor-b", "iris.b", &share);
    stage.deployment("iris-2-predictor-a", "iris-2.a", &share);
    let routes = stage.index.routes();
    let backends = routes[0].backends.iter();
    let found: Vec<(&str, u32)> = backends.map(|one| (one.backend.as_str(), one.weight)).collect();
    assert_eq!(found, [("shop/iris", 60), ("shop/iris@a", 20), ("shop/iris@b", 20)]);
}

#[test]
fn what_a_pod_in_the_making_lacks_is_told_by_its_events() {
    let mut stage = Stage::new();
    stage.service("iris", &json!({}));
    stage.pod(
        "p",
        json!({ "status": { "phase": "Pending", "podIP": null, "startTime": "2026-11-23T15:00:00Z" } }),
    );
    assert_eq!(stage.index.outlook(&iris(), |_| false, stage.now), Outlook::Hopeful);
    let event = json!({
        "metadata": {}, "reason": "FailedMount", "message": "no secret", "lastTimestamp": "2026-11-23T15:00:07Z",
        "involvedObject": { "kind": "Pod", "namespace": "shop", "name": "p", "uid": "uid-p" },
    });
    let trouble = Trouble::of(&serde_json::from_value(event).unwrap()).unwrap();
    let touched = stage
        .index
        .set(&key("p"), Object::Trouble(Some(Box::new(trouble))), stage.now);
    assert!(touched.backends.contains(&iris()));
    let later = stage.now + GRACE;
    assert!(
        matches!(stage.index.outlook(&iris(), |_| false, later), Outlook::Failing(error) if error.message.contains("no secret"))
    );
    stage.pod("p", json!({ "status": { "phase": "Running" } }));
    assert_eq!(stage.index.outlook(&iris(), |_| false, later), Outlook::Hopeful);
}

#[test]
fn a_failure_is_told_once_it_has_lasted_and_only_while_no_pod_is_better() {
    let mut stage = Stage::new();
    stage.service("iris", &json!({}));
    stage.pod("p", image_error());
    assert_eq!(stage.outlook(), Outlook::Unsure(GRACE));
    stage.now += GRACE;
    stage.pod("p", image_error());
    let Outlook::Failing(error) = stage.outlook() else {
        panic!("{:?}", stage.outlook());
    };
    assert_eq!(error.reason, WakeReason::LoadFailed);
    assert!(error.message.starts_with("pod p: ImagePullFailed: "), "{error}");
    assert!(
        stage.endpoints(&[]).is_empty(),
        "nobody waits for it: a request asks for a wake and gets the reason"
    );
    stage.pod("q", json!({}));
    assert_eq!(stage.outlook(), Outlook::Hopeful, "another one is starting");
    let gone = json!({ "metadata": { "deletionTimestamp": "2026-11-23T16:00:00Z" } });
    stage.pod("q", gone);
    assert!(matches!(stage.outlook(), Outlook::Failing(_)));
}

#[test]
fn a_quota_is_told_where_there_should_be_pods_and_are_none() {
    let mut stage = Stage::new();
    stage.service("iris", &json!({}));
    let quota = |replicas: i32| {
        json!({ "replicas": replicas, "status": { "conditions": [{
            "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: q",
        }] } })
    };
    stage.deployment("iris-predictor", "iris", &quota(1));
    stage.now += GRACE;
    assert!(
        matches!(
            stage.outlook(),
            Outlook::Failing(WakeError {
                reason: WakeReason::NoCapacity,
                ..
            })
        ),
        "{:?}",
        stage.outlook()
    );
    stage.deployment("iris-predictor", "iris", &quota(0));
    assert_eq!(stage.outlook(), Outlook::Hopeful, "what sleeps may be woken");
}

#[test]
fn a_target_says_what_to_scale_and_what_stands_against_it() {
    let mut stage = Stage::new();
    let resource = ApiResource::erase::<Deployment>(&());
    assert_eq!(stage.index.target(&iris(), &resource, stage.now), None);
    stage.service("iris", &json!({}));
    let target = stage.index.target(&iris(), &resource, stage.now).unwrap();
    assert_eq!((target.name.as_str(), target.known), ("iris-predictor", None));
    let annotations = json!({ "pilotlight.dev/activation-scale": "3", "pilotlight.dev/stopped": "by its user" });
    stage.deployment(
        "iris-predictor",
        "iris",
        &json!({ "annotations": annotations, "replicas": 0 }),
    );
    let target = stage.index.target(&iris(), &resource, stage.now).unwrap();
    assert_eq!(
        (target.activation_scale, target.stopped.as_deref()),
        (3, Some("by its user"))
    );
    let known = Known {
        version: "7".to_owned(),
        replicas: 0,
    };
    assert_eq!(target.known, Some(known));
}

#[test]
fn what_a_complete_list_does_not_name_is_gone() {
    let mut stage = Stage::new();
    stage.service("iris", &json!({}));
    stage.service("digits", &json!({}));
    stage.pod("p", json!({}));
    let touched = stage
        .index
        .keep(Kind::Service, None, &HashSet::from([key("iris")]), stage.now);
    assert!(touched.routes && touched.backends.contains(&BackendId::new("shop/digits")));
    assert_eq!(stage.index.routes().len(), 1);
    let none = stage.index.keep(Kind::Pod, Some("lab"), &HashSet::new(), stage.now);
    assert_eq!(none, Touched::default(), "another namespace");
    stage.index.keep(Kind::Pod, Some("shop"), &HashSet::new(), stage.now);
    assert!(stage.endpoints(&[]).is_empty());
}

proptest! {
    /// Whatever comes and goes in whatever order, nothing stays of pods that are gone.
    #[test]
    fn the_index_holds_what_the_last_objects_say(steps in proptest::collection::vec((0usize..5, 0u8..4), 0..60)) {
        let mut stage = Stage::new();
        let mut model: BTreeMap<String, bool> = BTreeMap::new();
        for (name, what) in steps {
            let name = format!("p{name}");
            match what {
                0 => {
                    stage.index.set(&key(&name), Object::Pod(None), stage.now);
                    model.remove(&name);
                }
                1 => {
                    stage.pod(&name, json!({ "metadata": { "deletionTimestamp": "2026-11-23T16:00:00Z" } }));
                    model.insert(name, true);
                }
                2 => {
                    // The same name with another uid: made anew.
                    stage.pod(&name, json!({ "metadata": { "uid": format!("uid-{name}-new") } }));
                    model.insert(name, false);
                }
                _ => {
                    stage.pod(&name, json!({}));
                    model.insert(name, false);
                }
            }
        }
        let endpoints = stage.endpoints(&[]);
        prop_assert_eq!(endpoints.len(), model.len());
        let draining = endpoints.iter().filter(|endpoint| endpoint.state == EndpointState::Draining).count();
        prop_assert_eq!(draining, model.values().filter(|terminating| **terminating).count());
        prop_assert_eq!(stage.index.uids(&iris()).len(), model.len());
        stage.index.keep(Kind::Pod, None, &HashSet::new(), stage.now);
        prop_assert!(stage.index.pods_of.is_empty() && stage.index.pods.is_empty());
    }
}
