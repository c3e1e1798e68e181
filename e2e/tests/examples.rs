//! The first thing a user does: start the examples, ask them, leave them alone, ask them again.

use std::time::Duration;

use pilotlight_e2e::{
    Manifest, Settings, Up,
    client::{self, FLOWERS, flowers_v1, flowers_v2, output},
    places,
};
use serde_json::{Value, json};

async fn examples() -> Up {
    Up::start(Settings {
        examples: true,
        ..Settings::default()
    })
    .await
}

#[tokio::test]
async fn the_first_command_of_the_readme_is_answered_to_the_letter() {
    let up = examples().await;
    let reply = client::post(&up.predict_url("iris"), &flowers_v1()).await;
    assert_eq!(
        (reply.status, reply.text().trim_end()),
        (200, r#"{"predictions":[1,1]}"#),
        "{reply:?}"
    );
    assert_eq!(reply.header("x-keda-http-cold-start"), "true");

    let again = client::post(&up.predict_url("iris"), &flowers_v1()).await;
    assert_eq!(again.header("x-keda-http-cold-start"), "false");
}

#[tokio::test]
async fn every_door_leads_to_the_same_model() {
    let up = examples().await;
    let v1 = "/v1/models/iris:predict";

    for host in ["iris.default.example.com", "iris-default.example.com"] {
        let reply = client::post_to_host(&up.url(v1), Some(host), &flowers_v1()).await;
        assert_eq!(reply.json(), json!({ "predictions": [1, 1] }), "by host {host}");
    }
    let by_path = client::post(&up.url(&format!("/serving/default/iris{v1}")), &flowers_v1()).await;
    assert_eq!(by_path.json(), json!({ "predictions": [1, 1] }));

    for url in [
        up.infer_url("iris"),
        up.url("/serving/default/iris/v2/models/iris/infer"),
    ] {
        let answer = client::post(&url, &flowers_v2()).await.json();
        assert_eq!(answer["model_name"], "iris", "{answer}");
        assert_eq!(output(&answer, "label")["data"], json!([1, 1]), "{answer}");
        assert_eq!(output(&answer, "label")["datatype"], "INT64", "{answer}");
        assert_eq!(output(&answer, "probabilities")["shape"], json!([2, 3]), "{answer}");
    }

    let request = json!({ "features": FLOWERS[0], "request_id": "a-flower" });
    let answer = client::post(&up.url("/serving/default/iris/predict"), &request)
        .await
        .json();
    assert_eq!(answer["prediction"], 1, "{answer}");
    assert!(
        (answer["confidence"].as_f64().unwrap_or_default() - 0.8015).abs() < 1e-3,
        "{answer}"
    );
    assert_eq!(answer["batch_size"], 1, "{answer}");
    assert!(answer["latency_ms"].is_number(), "{answer}");
}

#[tokio::test]
async fn the_forest_votes_and_the_digits_are_read() {
    let up = examples().await;
    let forest = client::post(&up.predict_url("iris-forest"), &flowers_v1()).await;
    assert_eq!(forest.json(), json!({ "predictions": [1, 1] }));

    let text = std::fs::read(places::example("digits-input.json")).expect("it is a file");
    let images: Value = serde_json::from_slice(&text).expect("it is JSON");
    let answer = client::post(&up.predict_url("digits"), &images).await.json();
    let scores = answer["predictions"].as_array().expect("a row for each image");
    let digits: Vec<usize> = scores.iter().map(best).collect();
    assert_eq!(digits, [3, 1, 4], "{answer}");
}

#[tokio::test]
async fn an_idle_model_has_no_process_and_the_next_request_is_answered() {
    let up = Up::with([Manifest::new("iris", places::example("iris.onnx"))]).await;
    up.no_process_left(Duration::from_secs(5)).await;

    for _ in 0..2 {
        let reply = client::post(&up.predict_url("iris"), &flowers_v1()).await;
        assert_eq!(reply.json(), json!({ "predictions": [1, 1] }));
        assert_eq!(reply.header("x-keda-http-cold-start"), "true");
        assert_eq!(up.runtimes_of("iris").len(), 1);
        // The window is 6 s; one tick of a second on either side, and the end of the process.
        let idle = up.no_process_left(Duration::from_secs(12)).await;
        assert!(idle > Duration::from_secs(4), "asleep after {idle:?} already");
    }
}

#[tokio::test]
async fn asking_for_health_wakes_nothing_and_asking_for_metadata_does() {
    let up = examples().await;
    for path in [
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v1/models",
        "/v2/models/iris/ready",
    ] {
        let reply = client::get(&up.url(path)).await;
        assert!([200, 503].contains(&reply.status), "{path}: {reply:?}");
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(up.runtimes(), []);

    let metadata = client::get(&up.url("/v2/models/iris")).await.json();
    assert_eq!(metadata["name"], "iris");
    assert_eq!(
        metadata["inputs"],
        json!([{ "name": "input", "datatype": "FP32", "shape": [-1, 4] }])
    );
    assert_eq!(up.runtimes_of("iris").len(), 1);
}

fn best(scores: &Value) -> usize {
    let scores: Vec<f64> = scores
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .collect();
    let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    best.expect("a row of scores")
}
