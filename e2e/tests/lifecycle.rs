//! How `up` starts, ends, and is ended.

use std::{net::TcpListener, process::Command, time::Duration};

use pilotlight_e2e::{
    Ask, LIMIT, Load, Manifest, Settings, Up,
    client::{self, slow_v1},
    places, processes, until,
};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;

#[tokio::test]
async fn no_process_outlives_a_killed_platform() {
    let mut up = Up::with([
        Manifest::new("iris", places::example("iris.onnx")).min(2),
        Manifest::new("slow", places::fixture("slow.onnx")),
    ])
    .await;
    let url = up.predict_url("slow");
    // One of them is computing when it happens.
    let busy = tokio::spawn(async move {
        client::send(Method::POST, &url, None, Some(slow_v1(1.0).to_string().into_bytes())).await
    });
    until("three runtimes", LIMIT, async || up.runtimes().len() == 3).await;
    let children = processes::children(up.pid());

    up.signal(Signal::KILL);
    up.ended(LIMIT).await;
    until("all runtimes are gone", Duration::from_secs(5), async || {
        children.iter().all(|pid| !processes::alive(*pid))
    })
    .await;
    busy.abort();
}

#[tokio::test]
async fn sigterm_finishes_what_is_in_flight_and_leaves_nothing() {
    let mut up = Up::with([Manifest::new("slow", places::fixture("slow.onnx")).max(1).timeout(60)]).await;
    let url = up.predict_url("slow");
    client::post(&url, &slow_v1(0.0)).await;
    let clients: Vec<_> = (0..6)
        .map(|n| {
            let (url, body) = (url.clone(), slow_v1(f64::from(n)).to_string().into_bytes());
            tokio::spawn(async move { client::send(Method::POST, &url, None, Some(body)).await })
        })
        .collect();
    until("they are in flight", LIMIT, async || {
        up.service("slow")
            .await
            .is_some_and(|item| item["inFlight"].as_u64() >= Some(6))
    })
    .await;
    let children = processes::children(up.pid());

    up.signal(Signal::TERM);
    for (n, client) in clients.into_iter().enumerate() {
        let reply = client
            .await
            .expect("it did not panic")
            .expect("an answer, though `up` ends");
        assert_eq!(reply.json(), json!({ "predictions": [[n as f64]] }));
    }
    let status = up.ended(Duration::from_secs(30)).await;
    assert_eq!(status.code(), Some(0), "{}", up.log());
    assert!(
        children.iter().all(|pid| !processes::alive(*pid)),
        "a runtime outlived `up`"
    );
}

#[tokio::test]
async fn a_platform_started_again_serves_again() {
    let iris = Manifest::new("iris", places::example("iris.onnx"));
    let mut first = Up::with([iris.clone()]).await;
    let url = first.predict_url("iris");
    let load = Load::start(2, Duration::from_millis(5), move |_, _| Ask::flowers(url.clone()));
    until("it is awake", LIMIT, async || !first.runtimes().is_empty()).await;
    load.stop().await.assert_none_lost(1);
    first.signal(Signal::INT);
    assert_eq!(
        first.ended(Duration::from_secs(30)).await.code(),
        Some(0),
        "{}",
        first.log()
    );

    let second = Up::with([iris]).await;
    let reply = Ask::flowers(second.predict_url("iris")).send().await;
    assert!(reply.is_ok(), "{reply:?}");
}

/// What `pilotlight up` with these arguments says on standard error; it has to fail.
fn complaint(args: &[&str]) -> String {
    let output = Command::new(places::binary())
        .arg("up")
        .args(args)
        .output()
        .expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path().to_str().expect("it is text");
    for (flag, other) in [
        ("--http-address", "--admin-address"),
        ("--admin-address", "--http-address"),
    ] {
        let text = complaint(&[folder, flag, &address, other, "127.0.0.1:0"]);
        assert!(text.contains(&address) && text.contains("in use"), "{flag}: {text}");
    }
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let text = complaint(&[
        "/no/such/folder",
        "--http-address",
        "127.0.0.1:0",
        "--admin-address",
        "127.0.0.1:0",
    ]);
    assert!(text.contains("/no/such/folder"), "{text}");
}

#[tokio::test]
async fn the_admin_address_tells_what_probes_and_scalers_ask() {
    let up = Up::start(Settings {
        manifests: vec![Manifest::new("iris", places::example("iris.onnx"))],
        ..Settings::default()
    })
    .await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(up.admin_get(path).await.status, 200, "{path}");
    }
    let queue = up.admin_get("/queue").await.json();
    assert!(
        queue.to_string().contains("default/iris"),
        "idle services are in it: {queue}"
    );
    Ask::flowers(up.predict_url("iris"))
        .send()
        .await
        .expect("the right answer");
    let text = up.metrics().await;
    assert!(text.contains("# TYPE "), "{text}");
}
