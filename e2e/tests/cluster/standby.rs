//! Standby pods: a wake claims one and loads the model into it.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use pilotlight_e2e::{
    Load, Manifest,
    cluster::{Cluster, Namespace, PATIENCE, Pod, condition},
    eventually, processes, until,
};
use rustix::process::Signal;
use serde_json::Value;

const STANDBY: usize = 2;

fn service(home: &Namespace, name: &str, standby: usize) -> Manifest {
    // Long enough to be looked at after its answer, on a slow machine too.
    let manifest = home
        .service(name, "iris.onnx")
        .annotation("autoscaling.knative.dev/window", "15s");
    manifest.annotation("pilotlight.dev/standby", &standby.to_string())
}

/// Waits until so many standby pods are ready; their uids.
async fn standby(home: &Namespace, count: usize) -> BTreeSet<String> {
    eventually(&format!("{count} standby pods are ready"), PATIENCE, async || {
        let list = home
            .kubectl("get pods --selector pilotlight.dev/standby-group -o json")
            .await;
        let list: Value = serde_json::from_str(&list).unwrap_or_default();
        let ready = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array();
            pod["metadata"]["deletionTimestamp"].is_null()
                && conditions.is_some_and(|all| all.iter().any(|it| it["type"] == "Ready" && it["status"] == "True"))
        };
        let pods = list["items"].as_array()?;
        let uids = pods.iter().filter(ready);
        let uids: BTreeSet<String> = uids
            .filter_map(|pod| Some(pod["metadata"]["uid"].as_str()?.to_owned()))
            .collect();
        (uids.len() == count && pods.len() == count).then_some(uids)
    })
    .await
}

/// Waits until the service sleeps and its next wake may claim a pod.
async fn armed(home: &Namespace, name: &str) {
    home.asleep(name).await;
    until(&format!("{name} may claim a pod"), PATIENCE, async || {
        let deployment = home.kubectl(&format!("get deployment {name}-predictor -o yaml")).await;
        deployment.contains("pilotlight.dev/standby-armed")
    })
    .await;
}

/// How often a ReplicaSet of the service made a pod.
async fn made(home: &Namespace, name: &str) -> u64 {
    let list = home
        .kubectl("get events --field-selector involvedObject.kind=ReplicaSet,reason=SuccessfulCreate -o json")
        .await;
    let list: Value = serde_json::from_str(&list).unwrap_or_default();
    let prefix = format!("{name}-predictor-");
    let events = list["items"].as_array().into_iter().flatten();
    let of_service = events.filter(|event| {
        let name = event["involvedObject"]["name"].as_str();
        name.is_some_and(|name| name.starts_with(&prefix))
    });
    of_service.map(|event| event["count"].as_u64().unwrap_or(1)).sum()
}

/// The one pod of a service, owned by a ReplicaSet of it. The service is asked meanwhile, so that it stays awake.
async fn only_pod(home: &Namespace, name: &str) -> Pod {
    until(&format!("the pod of {name} is owned"), PATIENCE, async || {
        home.flowers(name).send().await.unwrap();
        let path = "{.items[*].metadata.ownerReferences[*].name}";
        let selector = format!("serving.kserve.io/inferenceservice={name}");
        let owners = home
            .kubectl(&format!("get pods --selector {selector} -o jsonpath={path}"))
            .await;
        owners.starts_with(&format!("{name}-predictor-"))
    })
    .await;
    let mut pods = home.pods(name).await;
    assert_eq!(pods.len(), 1, "{pods:?}");
    pods.remove(0)
}

#[tokio::test]
async fn a_wake_claims_a_standby_pod_and_never_makes_a_second() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "standby").await;
    let services = ["iris-a", "iris-b"].map(|name| service(&home, name, STANDBY));
    home.deploy(&services).await;

    for round in 0..3 {
        let waiting = standby(&home, STANDBY).await;
        for service in &services {
            armed(&home, service.name()).await;
        }
        let wakes = services.iter().map(|service| home.flowers(service.name()));
        for answer in join_all(wakes.map(|ask| async move { ask.send().await.map(drop) })).await {
            answer.unwrap();
        }
        for service in &services {
            let pod = only_pod(&home, service.name()).await;
            assert!(
                waiting.contains(&pod.uid),
                "round {round}: {pod:?} was none of {waiting:?}"
            );
            assert_eq!(made(&home, service.name()).await, 0, "round {round}");
        }
    }
    until("the claim is told", PATIENCE, async || {
        home.flowers("iris-a").send().await.unwrap();
        let events = "get events --field-selector involvedObject.name=iris-a,reason=StandbyClaimed -o name";
        let found = home.get("iris-a").await;
        !home.kubectl(events).await.is_empty() && condition(&found, "StandbyReady")["reason"] == "StandbyClaimed"
    })
    .await;
}

#[tokio::test]
async fn a_claimed_pod_keeps_its_model_when_its_container_dies_and_goes_with_it_to_zero() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "claimed").await;
    home.deploy(&[service(&home, "iris", 1)]).await;
    standby(&home, 1).await;
    armed(&home, "iris").await;
    home.flowers("iris").send().await.unwrap();
    let pod = only_pod(&home, "iris").await;
    let process = cluster.own().process_of(&pod.uid, "pilotlight").expect("the pod runs");
    processes::signal(process, Signal::KILL);
    until("it runs again", PATIENCE, async || {
        let again = cluster.own().process_of(&pod.uid, "pilotlight");
        again.is_some_and(|again| again != process)
    })
    .await;
    home.flowers("iris").send().await.unwrap();
    assert_eq!(only_pod(&home, "iris").await.uid, pod.uid);

    armed(&home, "iris").await;
    standby(&home, 1).await;
    home.flowers("iris").send().await.unwrap();
    assert_eq!(made(&home, "iris").await, 0);
}

#[tokio::test]
async fn more_wakes_than_standby_pods_are_answered_all_the_same() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "scarce").await;
    let names: Vec<String> = (0..6).map(|n| format!("iris-{n}")).collect();
    let services: Vec<_> = names.iter().map(|name| service(&home, name, STANDBY)).collect();
    home.deploy(&services).await;
    let waiting = standby(&home, STANDBY).await;
    for name in &names {
        armed(&home, name).await;
    }
    let asks = names.iter().map(|name| home.flowers(name));
    for answer in join_all(asks.map(|ask| async move { ask.send().await.map(drop) })).await {
        answer.unwrap();
    }
    // All of them are kept awake while one after the other is looked at.
    let asks: Vec<_> = names.iter().map(|name| home.flowers(name)).collect();
    let all = asks.len();
    let load = Load::start(1, Duration::from_millis(500), move |_, nth| asks[nth % all].clone());
    let mut claimed = 0;
    for name in &names {
        let pod = only_pod(&home, name).await;
        let was_waiting = waiting.contains(&pod.uid);
        claimed += usize::from(was_waiting);
        let made = made(&home, name).await;
        assert!(made <= 1, "{name}: {made} pods were made");
    }
    load.stop().await.assert_none_lost(1);
    assert_eq!(claimed, STANDBY, "all that waited were claimed");
}
