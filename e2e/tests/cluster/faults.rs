//! What can't work says why: in the status, in an Event, in the answer.

use std::time::{Duration, Instant};

use pilotlight_e2e::{
    Manifest,
    client::{self, flowers_v1},
    cluster::{Cluster, Namespace, PATIENCE, condition},
    eventually, processes, until,
};
use rustix::process::Signal;

/// In which a client hears why no pod starts, a machine's whole load included. A wake that nobody explains ends after 60 of them.
const SECONDS: Duration = Duration::from_secs(45);

#[tokio::test]
async fn a_faulty_service_gets_a_condition_and_an_event_and_what_runs_goes_on() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "faulty").await;
    let service = home.service("iris", "iris.onnx").min(1);
    home.deploy(std::slice::from_ref(&service)).await;
    let before = home.settled("iris", 1).await.remove(0);

    cluster
        .kubectl()
        .apply(&service.model("ftp://nowhere/iris.onnx").yaml())
        .await;
    let message = eventually("the condition says what is wrong", PATIENCE, async || {
        let found = home.get("iris").await;
        let conditions = found["status"]["conditions"].as_array()?;
        let message = conditions
            .iter()
            .find_map(|one| one["message"].as_str().filter(|text| text.contains("storageUri")));
        message.map(ToOwned::to_owned)
    })
    .await;
    until("an Event says it as well", PATIENCE, async || {
        let events = home
            .kubectl("get events --field-selector involvedObject.name=iris -o yaml")
            .await;
        events.contains("storageUri") && events.contains("Warning")
    })
    .await;
    home.flowers("iris").send().await.unwrap();
    let now = home.pods("iris").await;
    assert!(now.len() == 1 && now[0].uid == before.uid, "{message}: {now:?}");
}

#[tokio::test]
async fn pods_that_cannot_be_placed_are_told_to_the_client_within_seconds() {
    let home = Namespace::new(Cluster::shared(), "unschedulable").await;
    let service = home.service("iris", "iris.onnx");
    refused(
        &home,
        &service.field("nodeSelector", "{ e2e/no-such-node: \"true\" }"),
        "Unschedulable",
    )
    .await;
}

#[tokio::test]
async fn a_model_file_that_is_missing_is_told_to_the_client_within_seconds() {
    let home = Namespace::new(Cluster::shared(), "missing").await;
    refused(&home, &home.service("iris", "no-such.onnx"), "no-such.onnx").await;
}

#[tokio::test]
async fn an_image_that_nobody_has_is_told_to_the_client_within_seconds() {
    let home = Namespace::new(Cluster::shared(), "image").await;
    let service = home.service("iris", "iris.onnx");
    refused(
        &home,
        &service.model_field("image", "localhost/no-such:1"),
        "ImagePullFailed",
    )
    .await;
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_told_to_the_client_within_seconds() {
    let home = Namespace::new(Cluster::shared(), "quota").await;
    home.kubectl("create quota none --hard=pods=0").await;
    refused(&home, &home.service("iris", "iris.onnx"), "exceeded quota").await;
}

#[tokio::test]
async fn a_pod_that_waits_for_a_secret_that_nobody_made_is_told_to_the_client_within_seconds() {
    let home = Namespace::new(Cluster::shared(), "secret").await;
    let service = home.service("iris", "iris.onnx");
    let volume = "[{ name: key, secret: { secretName: no-such } }]";
    // One that no container mounts is not waited for.
    let mount = "[{ name: key, mountPath: /key, readOnly: true }]";
    let service = service.field("volumes", volume).model_field("volumeMounts", mount);
    refused(&home, &service, "FailedMount").await;
    // It is made, and nobody has to do anything else.
    home.kubectl("create secret generic no-such --from-literal=key=value")
        .await;
    until("the service answers", PATIENCE, async || {
        home.flowers("iris").send().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_served_and_crashes_again_and_again_is_replaced_without_a_pause() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "crash").await;
    home.deploy(&[home.service("iris", "iris.onnx").min(1).max(1)]).await;
    let pod = home.settled("iris", 1).await.remove(0);
    // The first restart comes at once, the second after a pause of ten seconds that doubles with each: left to kubelet, this pod would
    // stay, and nothing else would ever serve.
    until("another pod serves", PATIENCE, async || {
        if let Some(process) = cluster.own().process_of(&pod.uid, "pilotlight") {
            processes::signal(process, Signal::KILL);
        }
        let pods = home.pods("iris").await;
        pods.iter().any(|now| now.ready && now.uid != pod.uid)
    })
    .await;
    home.flowers("iris").send().await.unwrap();
}

/// Applies a service whose pods can't start and asks once the route is there. The answer has to be a 503 that names `why`, within
/// [`SECONDS`], and the status has to say it.
async fn refused(home: &Namespace, service: &Manifest, why: &str) {
    Cluster::shared().kubectl().apply(&service.yaml()).await;
    told(home, why).await;
}

async fn told(home: &Namespace, why: &str) {
    let url = home.predict_url("iris");
    until("the service has a route", PATIENCE, async || {
        client::get(&url).await.status != 404
    })
    .await;
    let start = Instant::now();
    let reply = client::post(&url, &flowers_v1()).await;
    let code = reply.error(503);
    assert!(reply.text().contains(why), "{code}: {}", reply.text());
    assert!(start.elapsed() < SECONDS, "{code} after {:?}", start.elapsed());
    let message = eventually("the status tells the failure", PATIENCE, async || {
        let found = home.get("iris").await;
        let failed = condition(&found, "Ready")["status"] != "True";
        let info = found["status"]["modelStatus"]["lastFailureInfo"].clone();
        (failed && info.is_object()).then(|| info.to_string())
    })
    .await;
    assert!(message.contains(why), "{message}");
}
