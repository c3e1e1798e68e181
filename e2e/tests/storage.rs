//! Models in an S3 store that checks signatures: fetched, served from zero, kept in a cache.

use std::{fs, process::Stdio};

use pilotlight_e2e::{
    LIMIT, Manifest, Settings, Up,
    client::{self, flowers_v1},
    eventually, places,
    store::{Store, tar_gz},
};
use serde_json::{Value, json};

fn iris() -> Vec<u8> {
    fs::read(places::example("iris.onnx")).expect("the example is in the repository")
}

/// `up` with these services, this environment, and a cache of its own or a given one.
async fn up(manifests: Vec<Manifest>, env: Vec<(String, String)>, cache: &std::path::Path) -> Up {
    Up::start_only(&Settings {
        manifests,
        env,
        args: vec!["--cache-dir".to_owned(), cache.display().to_string()],
        ..Settings::default()
    })
    .await
}

#[tokio::test]
async fn models_in_s3_are_served_from_zero_as_file_as_folder_and_as_archive() {
    let store = Store::start(&[
        ("iris.onnx", iris()),
        ("folder/1/model.onnx", iris()),
        ("folder/readme.txt", b"iris".to_vec()),
        ("iris.tar.gz", tar_gz("iris/model.onnx", &iris())),
    ]);
    let cache = tempfile::tempdir().expect("a temporary folder");
    let manifests = vec![
        Manifest::new("file", "s3://models/iris.onnx"),
        Manifest::new("folder", "s3://models/folder"),
        Manifest::new("archive", "s3://models/iris.tar.gz"),
    ];
    let up = up(manifests, store.env(), cache.path()).await;
    for name in ["file", "folder", "archive"] {
        up.deployed(name).await;
        let reply = client::post(&up.predict_url(name), &flowers_v1()).await;
        assert_eq!(
            (reply.status, reply.json()),
            (200, json!({ "predictions": [1, 1] })),
            "{name}: {reply:?}"
        );
    }
    assert!(
        up.runtimes_of("file")[0]
            .model
            .contains(&cache.path().display().to_string())
    );
}

#[tokio::test]
async fn what_was_fetched_is_served_without_the_store() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let manifest = Manifest::new("iris", "s3://models/iris.onnx");
    let store = Store::start(&[("iris.onnx", iris())]);
    let env = store.env();
    let first = up(vec![manifest.clone()], env.clone(), cache.path()).await;
    first.deployed("iris").await;
    drop((first, store));
    let second = up(vec![manifest], env, cache.path()).await;
    second.deployed("iris").await;
    let reply = client::post(&second.predict_url("iris"), &flowers_v1()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[tokio::test]
async fn what_can_not_be_fetched_is_a_problem_that_tells_no_secret() {
    let store = Store::start(&[("iris.onnx", iris())]);
    let cache = tempfile::tempdir().expect("a temporary folder");
    let wrong = "not-the-secret-that-it-wants";
    let manifests = vec![Manifest::new("iris", "s3://models/iris.onnx")];
    let up = up(manifests, store.env_with(wrong), cache.path()).await;
    let item: Value = eventually("the problem is told", LIMIT, async || {
        up.service("iris").await.filter(|item| item["reason"] == "FetchFailed")
    })
    .await;
    let message = item["message"].as_str().unwrap_or_default().to_owned();
    assert!(
        message.contains("access denied") && message.contains("SignatureDoesNotMatch"),
        "{message}"
    );
    let reply = client::post(&up.predict_url("iris"), &flowers_v1()).await;
    assert_eq!(reply.error(503), "load-failed");
    for text in [message, reply.text(), up.log()] {
        assert!(!text.contains(wrong) && !text.contains(store.key()), "{text}");
    }
    assert_eq!(fs::read_dir(cache.path().join("models")).expect("the cache").count(), 0);
}

#[tokio::test]
async fn a_model_that_is_not_there_yet_is_served_when_it_comes() {
    // Nobody listens there until the store does.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let cache = tempfile::tempdir().expect("a temporary folder");
    let manifests = vec![Manifest::new("iris", format!("http://{address}/iris.onnx"))];
    let up = up(
        manifests,
        vec![("NO_PROXY".to_owned(), "127.0.0.1".to_owned())],
        cache.path(),
    )
    .await;
    eventually("the problem is told", LIMIT, async || {
        up.service("iris").await.filter(|item| item["reason"] == "FetchFailed")
    })
    .await;
    let folder = places::example("iris.onnx");
    let mut server = std::process::Command::new("python3")
        .args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"])
        .arg(folder.parent().expect("a file has a folder"))
        .arg(address.port().to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("Python starts");
    up.deployed("iris").await;
    let _ = server.kill();
    let _ = server.wait();
}

#[tokio::test]
async fn a_runtime_takes_a_uri_as_its_model() {
    let store = Store::start(&[("iris.onnx", iris())]);
    let cache = tempfile::tempdir().expect("a temporary folder");
    let run = async |uri: &str| {
        let mut command = tokio::process::Command::new(places::binary());
        command
            .args(["runtime", "--check", uri, "--cache-dir"])
            .arg(cache.path())
            .envs(store.env())
            .kill_on_drop(true);
        let output = tokio::time::timeout(LIMIT, command.output()).await;
        let output = output.expect("it ends").expect("the binary starts");
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        let outcome: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        outcome
    };
    let outcome = run("s3://models/iris.onnx").await;
    assert_eq!(outcome["ok"], true, "{outcome}");
    let outcome = run("s3://models/nothing.onnx").await;
    assert!(
        outcome["error"]
            .as_str()
            .is_some_and(|error| error.contains("no such object")),
        "{outcome}"
    );
    let wrong = format!("s3://models/iris.onnx#sha256={}", "0".repeat(64));
    let outcome = run(&wrong).await;
    assert!(
        outcome["error"].as_str().is_some_and(|error| error.contains("SHA-256")),
        "{outcome}"
    );
}
