//! The command line as a user types it.

use std::{
    fs,
    process::{Output, Stdio},
};

use pilotlight_e2e::{LIMIT, Manifest, Up, client, places, until};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::timeout,
};

fn said(output: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!("{} {out}{err}", output.status)
}

fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn apply_get_predict_logs_and_delete_tell_the_story_of_a_service() {
    let up = Up::with([]).await;
    // The model beside the manifest, named relative to it.
    let folder = up.scratch().join("mine");
    fs::create_dir(&folder).expect("the folder is ours");
    fs::copy(places::example("iris.onnx"), folder.join("model.onnx")).expect("a copy");
    let file = folder.join("iris.yaml");
    fs::write(&file, Manifest::new("iris", "model.onnx").yaml()).expect("the folder is ours");
    let file = file.to_str().expect("it is text");

    let text = good(&up.cli(&["apply", "-f", file]).await);
    assert!(text.contains("iris") && text.contains("created"), "{text}");
    let text = good(&up.cli(&["apply", "-f", file]).await);
    assert!(text.contains("unchanged"), "{text}");
    up.deployed("iris").await;

    let table = good(&up.cli(&["get"]).await);
    assert!(table.lines().count() >= 2, "{table}");
    let head = table.lines().next().unwrap_or_default().to_ascii_uppercase();
    for column in ["NAME", "URL", "READY", "REPLICAS", "IN FLIGHT", "WAITING", "LAST WAKE"] {
        assert!(head.contains(column), "no {column} in {head}");
    }

    let body = up.scratch().join("flowers.json");
    fs::write(&body, client::flowers_v1().to_string()).expect("the folder is ours");
    let data = format!("@{}", body.display());
    let answer = good(&up.cli(&["predict", "iris", "--data", &data]).await);
    assert_eq!(
        serde_json::from_str::<Value>(&answer).ok(),
        Some(json!({ "predictions": [1, 1] })),
        "{answer}"
    );

    // The answer may be here before the controller has heard that the replica is ready.
    until("the wake is told", LIMIT, async || {
        let item = up.service("iris").await.expect("it is there");
        item["lastWakeMs"].is_number() && item["replicas"]["ready"] == 1
    })
    .await;
    let items: Value = serde_json::from_str(&good(&up.cli(&["get", "-o", "json"]).await)).expect("JSON");
    let item = &items["items"][0];
    assert_eq!(item["replicas"]["ready"], 1, "{item}");
    assert!(item["lastWakeMs"].as_f64() > Some(0.0), "{item}");
    assert_eq!(item["object"]["kind"], "InferenceService", "{item}");

    let logs = good(&up.cli(&["logs", "iris"]).await);
    assert!(!logs.trim().is_empty(), "a runtime says something when it starts");

    good(&up.cli(&["delete", "iris"]).await);
    until("its processes are gone", LIMIT, async || up.runtimes().is_empty()).await;
    assert_eq!(
        client::post(&up.predict_url("iris"), &client::flowers_v1())
            .await
            .status,
        404
    );
    assert!(
        !up.cli(&["delete", "iris"]).await.status.success(),
        "it is gone already"
    );
}

#[tokio::test]
async fn deleting_a_document_that_a_person_wrote_is_refused_with_its_file() {
    let up = Up::with([Manifest::new("iris", places::example("iris.onnx"))]).await;
    let output = up.cli(&["delete", "iris"]).await;
    assert!(
        !output.status.success() && said(&output).contains("iris.yaml"),
        "{}",
        said(&output)
    );
    assert!(up.service("iris").await.is_some());
}

#[tokio::test]
async fn get_watch_shows_a_model_wake() {
    let up = Up::with([Manifest::new("iris", places::example("iris.onnx"))]).await;
    let mut watch = tokio::process::Command::new(places::binary())
        .args(["get", "--watch", "-o", "json"])
        .env("PILOTLIGHT_SERVER", format!("http://{}", up.admin()))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let mut text = BufReader::new(watch.stdout.take().expect("it is piped"));

    // Spaces and line breaks aside, whatever the layout is.
    let mut seen = String::new();
    let mut shows = async |wanted: &str| {
        let reading = async {
            while !seen.contains(wanted) {
                let read = text.read_line(&mut seen).await.expect("text");
                assert!(read > 0, "the watch ended after {seen}");
                seen.retain(|c| !c.is_whitespace());
            }
        };
        timeout(LIMIT, reading).await.unwrap_or_else(|_| panic!("no {wanted}"));
    };
    shows(r#""ready":0"#).await;
    client::post(&up.predict_url("iris"), &client::flowers_v1()).await;
    shows(r#""ready":1"#).await;
}

#[tokio::test]
async fn apply_names_the_fault_and_changes_nothing() {
    let up = Up::with([]).await;
    let file = up.scratch().join("wrong.yaml");
    let text = Manifest::new("wrong", places::example("iris.onnx"))
        .field("maxReplica", "3")
        .yaml();
    let line = 1 + text
        .lines()
        .position(|line| line.contains("maxReplica:"))
        .expect("it is set");
    fs::write(&file, text).expect("the folder is ours");

    let output = up.cli(&["apply", "-f", file.to_str().expect("it is text")]).await;
    let said = said(&output);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains(&format!("wrong.yaml:{line}")) && said.contains("maxReplica"),
        "{said}"
    );
    assert!(said.contains("maxReplicas"), "what was meant is suggested: {said}");
    assert_eq!(up.services().await, Vec::<Value>::new());
}

#[tokio::test]
async fn an_unreachable_platform_is_said_so() {
    let output = tokio::process::Command::new(places::binary())
        .args(["get"])
        .env("PILOTLIGHT_SERVER", "http://127.0.0.1:1")
        .output()
        .await
        .expect("the binary starts");
    assert!(
        !output.status.success() && said(&output).contains("127.0.0.1:1"),
        "{}",
        said(&output)
    );
}

#[tokio::test]
async fn crds_prints_the_definition_for_kubernetes() {
    let up = Up::with([]).await;
    let text = good(&up.cli(&["crds"]).await);
    assert!(text.contains("inferenceservices.serving.kserve.io"), "{text}");
}
