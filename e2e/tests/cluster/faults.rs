//! What can't work says why: in the status, in an Event, in the answer.

use std::time::{Duration, Instant};

use pilotlight_e2e::{
    LIMIT,
    client::{self, flowers_v1},
    cluster::{Cluster, Namespace, condition},
    eventually, until,
};

#[tokio::test]
async fn a_faulty_service_gets_a_condition_and_an_event_and_what_runs_goes_on() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "faulty").await;
    let service = home.service("iris", "iris.onnx").min(1);
    home.deploy(std::slice::from_ref(&service)).await;
    let before = home.settled("iris", 1).await;

    cluster
        .kubectl()
        .apply(&service.model("ftp://nowhere/iris.onnx").yaml())
        .await;
    let message = eventually("the condition says what is wrong", LIMIT, async || {
        let found = home.get("iris").await;
        let conditions = found["status"]["conditions"].as_array()?;
        let message = conditions
            .iter()
            .find_map(|one| one["message"].as_str().filter(|text| text.contains("storageUri")));
        message.map(ToOwned::to_owned)
    })
    .await;
    until("an Event says it as well", LIMIT, async || {
        let events = home
            .kubectl("get events --field-selector involvedObject.name=iris -o yaml")
            .await;
        events.contains("storageUri") && events.contains("Warning")
    })
    .await;
    home.flowers("iris").send().await.unwrap();
    assert_eq!(home.pods("iris").await, before, "{message}");
}

#[tokio::test]
async fn pods_that_cannot_be_placed_are_told_to_the_client_within_seconds() {
    refused("unschedulable", "nodeSelector", "{ e2e/no-such-node: \"true\" }").await;
}

#[tokio::test]
async fn a_model_file_that_is_missing_is_told_to_the_client_within_seconds() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "missing").await;
    cluster
        .kubectl()
        .apply(&home.service("iris", "no-such.onnx").yaml())
        .await;
    told(&home).await;
}

/// A service with one field more, whose pods can't start.
async fn refused(hint: &str, key: &str, value: &str) {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, hint).await;
    let service = home.service("iris", "iris.onnx").field(key, value);
    cluster.kubectl().apply(&service.yaml()).await;
    told(&home).await;
}

/// Asks until the route is there; then the answer has to be a 503 with a reason within 20 seconds, and the status has to say why.
async fn told(home: &Namespace) {
    let url = home.predict_url("iris");
    until("the service has a route", LIMIT, async || {
        client::get(&url).await.status != 404
    })
    .await;
    let start = Instant::now();
    let reply = client::post(&url, &flowers_v1()).await;
    let code = reply.error(503);
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{code} after {:?}",
        start.elapsed()
    );
    until("the status tells the failure", LIMIT, async || {
        let found = home.get("iris").await;
        condition(&found, "Ready")["status"] != "True" && found["status"]["modelStatus"]["lastFailureInfo"].is_object()
    })
    .await;
}
