//! Whatever changes under load, no request fails.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use pilotlight_e2e::{
    Load, Outcome,
    cluster::{ACTIVATOR, CONTROLLER, Cluster, Namespace, PATIENCE, Pod, SYSTEM},
    processes, until,
};
use rustix::process::Signal;
use serde_json::Value;

const CLIENTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(20);

/// Clients that ask the service without pause while `change` happens and for a second after it.
async fn under_load(home: &Namespace, service: &str, change: impl Future<Output = ()>) -> Outcome {
    let ask = home.flowers(service);
    let load = Load::start(CLIENTS, PAUSE, move |_, _| ask.clone());
    tokio::time::sleep(Duration::from_secs(1)).await;
    change.await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    load.stop().await
}

#[tokio::test]
async fn a_rollout_in_the_cluster_loses_no_request() {
    let home = Namespace::new(Cluster::shared(), "rollout").await;
    let service = home.service("iris", "iris.onnx").min(2).max(2);
    home.deploy(std::slice::from_ref(&service)).await;
    let before = home.settled("iris", 2).await;
    let outcome = under_load(&home, "iris", async {
        home.deploy(&[service.model("pvc://models/iris-forest.onnx")]).await;
        until("both pods are new", PATIENCE, async || {
            let pods = home.pods("iris").await;
            pods.len() == 2
                && pods
                    .iter()
                    .all(|pod| pod.ready && !before.iter().any(|old| old.uid == pod.uid))
        })
        .await;
    })
    .await;
    outcome.assert_none_lost(50);
}

#[tokio::test]
async fn a_canary_takes_its_share_and_is_promoted_without_loss() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "canary").await;
    let service = home.service("iris", "iris.onnx").min(1);
    home.deploy(std::slice::from_ref(&service)).await;
    let canary = service.model("pvc://models/iris-forest.onnx");
    let outcome = under_load(&home, "iris", async {
        home.deploy(&[canary.clone().field("canaryTrafficPercent", "50")]).await;
        until("stable and canary have a pod each", PATIENCE, async || {
            let list = home.kubectl("get deployments -o json").await;
            let list: Value = serde_json::from_str(&list).expect("kubectl writes JSON");
            let deployments = list["items"].as_array().cloned().unwrap_or_default();
            deployments.len() == 2 && deployments.iter().all(|one| one["status"]["readyReplicas"] == 1)
        })
        .await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        home.deploy(&[canary]).await;
        until("the canary's deployment is gone", PATIENCE, async || {
            home.kubectl("get deployments -o name").await.lines().count() == 1
        })
        .await;
    })
    .await;
    outcome.assert_none_lost(50);
}

#[tokio::test]
async fn a_canary_is_promoted_while_the_controllers_are_killed_without_loss_or_pause() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "promoted").await;
    let service = home.service("iris", "iris.onnx").min(1);
    home.deploy(std::slice::from_ref(&service)).await;
    let canary = service.model("pvc://models/iris-forest.onnx");
    let deployments = async || home.kubectl("get deployments -o name").await.lines().count();
    let outcome = under_load(&home, "iris", async {
        home.deploy(&[canary.clone().field("canaryTrafficPercent", "50")]).await;
        until("the canary is there", PATIENCE, async || deployments().await == 2).await;
        for _ in 0..2 {
            cluster.kubectl().apply(&canary.yaml()).await;
            kill_controllers(cluster).await;
        }
        home.ready("iris").await;
        until("the canary's deployment is gone", PATIENCE, async || {
            deployments().await == 1
        })
        .await;
    })
    .await;
    outcome.assert_none_lost(50);
    eprintln!("the slowest answer took {:?}", outcome.slowest);
    // A start of a pod on a busy machine is some seconds; a connection that nobody answers is ten and more.
    assert!(outcome.slowest < Duration::from_secs(8), "{:?}", outcome.slowest);
}

/// Kills the process of every controller; kubelet starts them again.
async fn kill_controllers(cluster: &Cluster) {
    let pods = format!("--namespace {SYSTEM} pods --selector app={CONTROLLER}");
    let uids = cluster.kubectl().get(&pods, "{.items[*].metadata.uid}").await;
    for process in uids
        .split_whitespace()
        .filter_map(|uid| cluster.own().process_of(uid, "pilotlight"))
    {
        processes::signal(process, Signal::KILL);
    }
}

#[tokio::test]
async fn two_canaries_take_their_shares_and_one_is_promoted_without_loss() {
    let home = Namespace::new(Cluster::shared(), "canaries").await;
    let service = home.service("iris", "iris.onnx").min(1);
    home.deploy(std::slice::from_ref(&service)).await;
    let (next, forest) = ("pvc://models/iris.onnx", "pvc://models/iris-forest.onnx");
    let names = async || {
        let list = home.kubectl("get deployments -o json").await;
        let list: Value = serde_json::from_str(&list).expect("kubectl writes JSON");
        let deployments = list["items"].as_array().cloned().unwrap_or_default();
        let ready = |one: &Value| one["status"]["readyReplicas"] == 1;
        let names = deployments.iter().map(|one| {
            format!(
                "{}{}",
                one["metadata"]["name"].as_str().unwrap_or_default(),
                if ready(one) { "" } else { " (not ready)" }
            )
        });
        names.collect::<Vec<String>>()
    };
    let outcome = under_load(&home, "iris", async {
        let both = service.clone().canary("next", 30, next).canary("forest", 20, forest);
        home.deploy(&[both]).await;
        let all = ["iris-predictor", "iris-predictor-forest", "iris-predictor-next"];
        until("stable and both canaries have a pod each", PATIENCE, async || {
            names().await == all
        })
        .await;
        let found = home.get("iris").await;
        assert_eq!(
            found["status"]["canaryStatuses"].as_array().map(Vec::len),
            Some(2),
            "{found}"
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
        // KServe's way to promote: the predictor takes the canary's name and content, the entry goes.
        home.deploy(&[service.clone().field("name", "forest").model(forest)])
            .await;
        until("only the stable deployment is left", PATIENCE, async || {
            names().await == ["iris-predictor"]
        })
        .await;
    })
    .await;
    outcome.assert_none_lost(50);
}

#[tokio::test]
async fn an_eviction_drains_the_pod_first() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "eviction").await;
    home.deploy(&[home.service("iris", "iris.onnx").min(2).max(2)]).await;
    let before = home.settled("iris", 2).await;
    let outcome = under_load(&home, "iris", async {
        for pod in &before {
            evict(cluster, &home, &pod.name).await;
            until("the evicted pod is replaced", PATIENCE, async || {
                let pods = home.pods("iris").await;
                pods.len() == 2 && pods.iter().all(|now| now.ready && now.uid != pod.uid)
            })
            .await;
        }
    })
    .await;
    outcome.assert_none_lost(50);
}

/// Asks the Eviction API, which refuses what a budget forbids, and again until the budget has seen the pods as they are: as
/// `kubectl drain` does.
async fn evict(cluster: &Cluster, home: &Namespace, pod: &str) {
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", home.name());
    let body = format!(
        r#"{{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {{"name": "{pod}", "namespace": "{}"}}}}"#,
        home.name()
    );
    until("the eviction is granted", PATIENCE, async || {
        let said = cluster.kubectl().run(&format!("create --raw {path} -f -"), &body).await;
        let Err(error) = said else { return true };
        assert!(error.contains("disruption budget"), "{error}");
        false
    })
    .await;
}

#[tokio::test]
async fn a_killed_pod_loses_no_request() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "kill").await;
    home.deploy(&[home.service("iris", "iris.onnx").min(2).max(2)]).await;
    let pods = home.settled("iris", 2).await;
    let outcome = under_load(&home, "iris", async {
        for pod in &pods {
            let process = cluster.own().process_of(&pod.uid, "pilotlight").expect("the pod runs");
            processes::signal(process, Signal::KILL);
            until("the container runs again", PATIENCE, async || {
                let again = cluster.own().process_of(&pod.uid, "pilotlight");
                again.is_some_and(|now| now != process)
            })
            .await;
            home.settled("iris", 2).await;
        }
    })
    .await;
    outcome.assert_none_lost(50);
}

#[tokio::test]
async fn a_restarted_controller_changes_nothing_for_clients() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "controller").await;
    home.deploy(&[home.service("iris", "iris.onnx"), home.service("other", "iris.onnx")])
        .await;
    home.asleep("other").await;
    let outcome = under_load(&home, "iris", async {
        cluster
            .kubectl()
            .must(&format!(
                "--namespace {SYSTEM} delete pods --selector app={CONTROLLER} --wait=false"
            ))
            .await;
        // A wake needs no controller.
        home.flowers("other").send().await.unwrap();
        cluster
            .kubectl()
            .must(&format!(
                "--namespace {SYSTEM} rollout status deployment/{CONTROLLER} --timeout=240s"
            ))
            .await;
    })
    .await;
    outcome.assert_none_lost(50);
    home.asleep("iris").await;
}

#[tokio::test]
async fn the_next_controller_takes_over_from_a_leader_that_died() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "leader").await;
    let waits = home
        .service("waits", "iris.onnx")
        .annotation("autoscaling.knative.dev/window", "40s");
    // The new leader's first window begins after the Lease was taken; what is looked at until then was not ended in it.
    let window = Duration::from_secs(30);
    home.deploy(&[
        home.service("iris", "iris.onnx"),
        waits,
        home.service("other", "iris.onnx"),
    ])
    .await;
    home.asleep("other").await;
    home.flowers("waits").send().await.unwrap();
    let pods = uids(&home.settled("waits", 1).await);
    let mut led = Instant::now();
    let outcome = under_load(&home, "iris", async {
        let leader = leader(cluster).await;
        let pod = format!("--namespace {SYSTEM} pod {leader}");
        let uid = cluster.kubectl().get(&pod, "{.metadata.uid}").await;
        let process = cluster.own().process_of(&uid, "pilotlight").expect("the leader runs");
        // Stopped, so that it can't give its Lease back when it is told to end.
        processes::signal(process, Signal::STOP);
        let delete = format!("--namespace {SYSTEM} delete pod {leader} --force --grace-period=0 --wait=false");
        cluster.kubectl().must(&delete).await;
        processes::signal(process, Signal::KILL);
        led = Instant::now();
        let next = async || {
            let holder = self::leader(cluster).await;
            holder != leader && !holder.is_empty()
        };
        // A wake needs no leader.
        let other = home.flowers("other");
        let (woken, took) = tokio::join!(other.send(), until("another controller leads", PATIENCE, next));
        woken.unwrap();
        assert!(took > Duration::from_secs(5), "the Lease was given back after {took:?}");
    })
    .await;
    outcome.assert_none_lost(50);
    // Idle for longer than its window in the end; but the new leader has not seen that.
    while led.elapsed() < window {
        let now = uids(&home.pods("waits").await);
        // What was seen late says nothing.
        assert!(
            now == pods || led.elapsed() > window,
            "scaled down in the new leader's first window: {now:?}"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    home.asleep("waits").await;
}

/// Who they are, those on their way out left out: whether kubelet calls one ready for a moment says nothing here.
fn uids(pods: &[Pod]) -> BTreeSet<String> {
    let stay = pods.iter().filter(|pod| !pod.terminating);
    stay.map(|pod| pod.uid.clone()).collect()
}

/// The pod that leads.
async fn leader(cluster: &Cluster) -> String {
    let lease = format!("--namespace {SYSTEM} lease {CONTROLLER}");
    cluster.kubectl().get(&lease, "{.spec.holderIdentity}").await
}

#[tokio::test]
async fn activators_restart_one_after_the_other_without_loss() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "activators").await;
    home.deploy(&[home.service("iris", "iris.onnx").min(1)]).await;
    let outcome = under_load(&home, "iris", async {
        let deployment = format!("--namespace {SYSTEM} rollout");
        cluster
            .kubectl()
            .must(&format!("{deployment} restart deployment/{ACTIVATOR}"))
            .await;
        cluster
            .kubectl()
            .must(&format!("{deployment} status deployment/{ACTIVATOR} --timeout=240s"))
            .await;
    })
    .await;
    outcome.assert_none_lost(50);
}

#[tokio::test]
async fn an_api_server_that_is_away_is_not_noticed_by_clients() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "apiserver").await;
    home.deploy(&[
        home.service("iris", "iris.onnx").min(1),
        home.service("other", "iris.onnx"),
    ])
    .await;
    home.asleep("other").await;
    let outcome = under_load(&home, "iris", async {
        let process = cluster.own().api_server();
        processes::signal(process, Signal::KILL);
        until("the API server is back", PATIENCE, async || {
            cluster.kubectl().run("get --raw /readyz", "").await.is_ok()
        })
        .await;
        // Watches come back by themselves: a sleeping model is woken by a request that comes now.
        home.flowers("other").send().await.unwrap();
    })
    .await;
    outcome.assert_none_lost(50);
    home.asleep("other").await;
}

#[tokio::test]
async fn a_scale_down_ends_no_busy_pod() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "down").await;
    home.deploy(&[home.service("iris", "iris.onnx").concurrency(1).max(3)])
        .await;
    let ask = home.flowers("iris");
    let (crowd, few) = (ask.clone(), ask);
    let load = Load::start(1, Duration::from_millis(100), move |_, _| few.clone());
    let burst = Load::start(6, Duration::ZERO, move |_, _| crowd.clone());
    until("the burst has brought pods that serve", PATIENCE, async || {
        home.pods("iris").await.iter().filter(|pod| pod.ready).count() > 1
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    burst.stop().await.assert_none_lost(50);
    until("one pod is left", PATIENCE, async || home.pods("iris").await.len() == 1).await;
    load.stop().await.assert_none_lost(20);
}
