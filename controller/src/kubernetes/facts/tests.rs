use pilotlight_manifests::kubernetes::{
    LABEL_BACKEND, LABEL_COMPONENT, LABEL_INFERENCE_SERVICE, LABEL_MANAGED_BY, LABEL_REVISION, MANAGED_BY,
};
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
