//! Files that come, change, break and go while others are served.

use std::{fs, time::Duration};

use futures_util::future::join_all;
use pilotlight_e2e::{
    Ask, LIMIT, Load, Manifest, Up,
    client::{self, flowers_v1, flowers_v2, output},
    eventually, places, until,
};
use serde_json::{Value, json};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

fn iris(name: &str) -> Manifest {
    Manifest::new(name, places::example("iris.onnx"))
}

fn steady_load(up: &Up) -> Load {
    let url = up.predict_url("steady");
    Load::start(4, PAUSE, move |_, _| Ask::flowers(url.clone()))
}

async fn status(up: &Up, name: &str) -> u16 {
    client::post(&up.predict_url(name), &flowers_v1()).await.status
}

/// The score of the first flower's class, by which the two iris models can be told apart: 0.80 and 0.93.
async fn score(up: &Up, name: &str) -> f64 {
    let answer = client::post(&up.infer_url(name), &flowers_v2()).await.json();
    output(&answer, "probabilities")["data"][1].as_f64().expect("a number")
}

#[tokio::test]
async fn a_manifest_takes_effect_within_a_second_and_others_notice_nothing() {
    let up = Up::with([iris("steady")]).await;
    let load = steady_load(&up);

    up.save(&iris("guest"));
    let added = until("the new service answers", LIMIT, async || {
        status(&up, "guest").await == 200
    })
    .await;
    assert!((score(&up, "guest").await - 0.80).abs() < 0.01);

    up.save(&iris("guest").model(places::example("iris-forest.onnx")));
    let changed = until("the changed service answers", LIMIT, async || {
        (score(&up, "guest").await - 0.93).abs() < 0.01
    })
    .await;

    up.remove("guest.yaml");
    let removed = until("the removed service is unknown", LIMIT, async || {
        status(&up, "guest").await == 404
    })
    .await;
    until("its processes are gone", LIMIT, async || {
        up.runtimes_of("guest").is_empty()
    })
    .await;

    load.stop().await.assert_none_lost(20);
    assert!(
        added < SECOND && changed < SECOND && removed < SECOND,
        "{added:?} {changed:?} {removed:?}"
    );
}

#[tokio::test]
async fn a_service_removed_while_requests_wait_finishes_what_runs_and_tells_the_others() {
    let slow = Manifest::new("slow", places::fixture("slow.onnx"));
    let up = Up::with([slow.concurrency(1).max(1).timeout(60)]).await;
    let url = up.predict_url("slow");
    let body = client::slow_v1(1.0);
    let asks = join_all((0..20).map(|_| client::post(&url, &body)));
    let (replies, ()) = tokio::join!(asks, async {
        until("one runs", LIMIT, async || !up.runtimes().is_empty()).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        up.remove("slow.yaml");
    });
    let (answered, told): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.status == 200);
    assert!(
        !answered.is_empty() && !told.is_empty(),
        "{} answered, {} told",
        answered.len(),
        told.len()
    );
    for reply in told {
        assert_eq!(reply.error(404), "route-removed");
    }
    until("its processes are gone", LIMIT, async || up.runtimes().is_empty()).await;
}

#[tokio::test]
async fn a_changed_model_rolls_over_without_losing_a_request() {
    let up = Up::with([iris("steady")]).await;
    let load = steady_load(&up);
    until("it is awake", LIMIT, async || !up.runtimes().is_empty()).await;

    for file in ["iris-forest.onnx", "iris.onnx", "iris-forest.onnx"] {
        let model = places::example(file);
        up.save(&iris("steady").model(&model));
        let wanted = format!("steady={}", model.display());
        until("only the new model's processes are left", LIMIT, async || {
            let runtimes = up.runtimes();
            !runtimes.is_empty() && runtimes.iter().all(|runtime| runtime.model == wanted)
        })
        .await;
    }
    load.stop().await.assert_none_lost(20);
    assert!((score(&up, "steady").await - 0.93).abs() < 0.01);
}

#[tokio::test]
async fn a_manifest_that_breaks_changes_nothing_and_names_file_line_and_field() {
    let up = Up::with([iris("steady")]).await;
    let load = steady_load(&up);
    until("it is awake", LIMIT, async || !up.runtimes().is_empty()).await;
    let before = up.runtimes();

    let broken = iris("steady").field("minReplicas", "-1").yaml();
    let line = 1 + broken
        .lines()
        .position(|line| line.contains("minReplicas"))
        .expect("it is set");
    up.save_text("steady.yaml", &broken);
    let place = format!("steady.yaml:{line}");
    until("the fault is told with file and line", LIMIT, async || {
        let log = up.log();
        log.lines()
            .any(|line| line.contains(&place) && line.contains("spec.predictor.minReplicas"))
    })
    .await;
    // The same through the admin API.
    let url = format!("http://{}/api/v1/manifests", up.admin());
    let reply = client::send(reqwest::Method::PUT, &url, None, Some(broken.into_bytes()))
        .await
        .expect("an answer");
    assert_eq!(reply.error(400), "invalid-manifest");
    let fault = reply.json()["faults"][0].clone();
    assert_eq!(
        (&fault["line"], &fault["field"]),
        (&json!(line), &json!("spec.predictor.minReplicas")),
        "{fault}"
    );

    // Neither a document that is no YAML at all nor one of another kind does any more harm.
    up.save_text("noise.yaml", "a: [1, 2\nb: }");
    until("the noise is told", LIMIT, async || up.log().contains("noise.yaml:")).await;

    load.stop().await.assert_none_lost(20);
    assert_eq!(up.runtimes(), before, "nothing was restarted");
    assert_eq!(up.services().await.len(), 1);
}

/// The service's item once the platform says that it is not ready and why.
async fn failed(up: &Up, name: &str) -> Value {
    eventually("the failure is told", LIMIT, async || {
        let item = up.service(name).await?;
        (item["ready"] == false && item["reason"] != "Checking").then_some(item)
    })
    .await
}

#[tokio::test]
async fn a_model_that_cannot_load_is_reported_at_deployment_and_answers_at_once() {
    let up = Up::with([iris("steady")]).await;
    let whole = fs::read(places::example("digits.onnx")).expect("it is a file");
    let torn = up.scratch().join("torn.onnx");
    fs::write(&torn, &whole[..whole.len() / 2]).expect("the folder is ours");

    up.save(&Manifest::new("torn", &torn));
    up.save(&Manifest::new("missing", up.scratch().join("missing.onnx")));
    up.save(&Manifest::new("odd", places::fixture("no-such-operator.onnx")));
    let messages = [
        ("torn", "not a valid ONNX model"),
        ("missing", "missing.onnx"),
        ("odd", "Frobnicate"),
    ];
    for (name, expected) in messages {
        let item = failed(&up, name).await;
        let message = item["message"].as_str().unwrap_or_default();
        assert!(message.contains(expected), "{name}: {item}");
    }
    let odd = failed(&up, "odd").await;
    assert!(
        odd["message"].as_str().unwrap_or_default().contains("the_odd_one"),
        "the node is named: {odd}"
    );

    for (name, _) in messages {
        let start = Instant::now();
        let reply = client::post(&up.predict_url(name), &flowers_v1()).await;
        assert_eq!(reply.error(503), "load-failed");
        assert!(!reply.header("retry-after").is_empty(), "{reply:?}");
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{name} answered after {:?}",
            start.elapsed()
        );
    }
    assert_eq!(status(&up, "steady").await, 200);

    // Mended, it is served.
    fs::write(&torn, &whole).expect("the folder is ours");
    up.save(&Manifest::new("torn", &torn).annotation("pilotlight.dev/queue-size", "999"));
    up.deployed("torn").await;
}

#[tokio::test]
async fn a_model_file_that_breaks_while_its_model_sleeps_is_answered_within_seconds() {
    let up = Up::with([]).await;
    let model = up.scratch().join("model.onnx");
    fs::copy(places::example("iris.onnx"), &model).expect("a copy");
    up.save(&Manifest::new("iris", &model));
    up.deployed("iris").await;
    fs::write(&model, b"not a model any more").expect("the folder is ours");

    let start = Instant::now();
    let reply = client::post(&up.predict_url("iris"), &flowers_v1()).await;
    assert_eq!(reply.error(503), "load-failed");
    assert!(start.elapsed() < Duration::from_secs(10), "after {:?}", start.elapsed());

    fs::copy(places::example("iris.onnx"), &model).expect("a copy");
    until("the mended model answers", LIMIT, async || {
        status(&up, "iris").await == 200
    })
    .await;
}
