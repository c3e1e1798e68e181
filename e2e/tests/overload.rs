//! More requests than a model can take, and clients that do not wait for their answer.

use std::time::Duration;

use futures_util::future::join_all;
use pilotlight_e2e::{
    LIMIT, Manifest, Up,
    client::{self, Reply, slow_v1},
    places, until,
};
use reqwest::Method;
use serde_json::json;

/// A model that takes its time, on one replica that takes one request at a time.
fn slow() -> Manifest {
    Manifest::new("slow", places::fixture("slow.onnx")).max(1).timeout(60)
}

async fn ask_all(url: &str, count: u32) -> Vec<Reply> {
    let bodies: Vec<_> = (0..count).map(|n| slow_v1(f64::from(n))).collect();
    join_all(bodies.iter().map(|body| client::post(url, body))).await
}

async fn counts(up: &Up) -> (u64, u64) {
    let item = up.service("slow").await.expect("it is there");
    let count = |field: &str| item[field].as_u64().unwrap_or_else(|| panic!("no {field} in {item}"));
    (count("inFlight"), count("waiting"))
}

#[tokio::test]
async fn a_full_waiting_room_answers_503_and_everyone_in_it_is_served() {
    let up = Up::with([slow().concurrency(1).annotation("pilotlight.dev/max-waiting", "3")]).await;
    client::post(&up.predict_url("slow"), &slow_v1(0.0)).await;

    let replies = ask_all(&up.predict_url("slow"), 12).await;
    let (served, refused): (Vec<_>, Vec<_>) = replies
        .into_iter()
        .enumerate()
        .partition(|(_, reply)| reply.status == 200);
    assert!(
        served.len() >= 4,
        "one is run and three wait, {} were served",
        served.len()
    );
    assert!(!refused.is_empty(), "twelve do not fit");
    for (n, reply) in served {
        assert_eq!(
            reply.json(),
            json!({ "predictions": [[n as f64]] }),
            "each gets its own answer"
        );
    }
    for (_, reply) in refused {
        assert_eq!(reply.error(503), "waiting-room-full");
        assert!(reply.header("retry-after").parse::<u32>().is_ok(), "{reply:?}");
    }
}

#[tokio::test]
async fn a_full_queue_of_a_replica_is_the_platforms_business_and_not_the_clients() {
    let queue = [
        ("pilotlight.dev/queue-size", "1"),
        ("pilotlight.dev/ready-queue-limit", "1"),
    ];
    let manifest = queue.iter().fold(slow().batcher(1, 0), |manifest, (key, value)| {
        manifest.annotation(key, value)
    });
    let up = Up::with([manifest]).await;

    for (n, reply) in ask_all(&up.predict_url("slow"), 16).await.into_iter().enumerate() {
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(
            reply.json(),
            json!({ "predictions": [[n as f64]] }),
            "each gets its own answer"
        );
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place_and_is_not_computed() {
    let up = Up::with([slow().concurrency(1)]).await;
    let url = up.predict_url("slow");
    client::post(&url, &slow_v1(0.0)).await;

    // Ten wait behind one that is run; nine of them lose patience at once.
    let ask = |n: u32| {
        let (url, body) = (url.clone(), slow_v1(f64::from(n)).to_string().into_bytes());
        tokio::spawn(async move { client::send(Method::POST, &url, None, Some(body)).await })
    };
    let clients: Vec<_> = (0..11).map(ask).collect();
    until("all wait", LIMIT, async || counts(&up).await.1 >= 8).await;
    for leaving in &clients[2..] {
        leaving.abort();
    }
    let freed = until("their places are free", LIMIT, async || {
        let (in_flight, waiting) = counts(&up).await;
        in_flight + waiting <= 2
    })
    .await;
    assert!(freed < Duration::from_secs(2), "after {freed:?}");
    for (n, client) in clients.into_iter().enumerate().take(2) {
        let reply = client.await.expect("it did not panic").expect("an answer");
        assert_eq!(reply.json(), json!({ "predictions": [[n as f64]] }));
    }
    until("nothing is left", LIMIT, async || counts(&up).await == (0, 0)).await;
}

#[tokio::test]
async fn the_first_client_that_leaves_before_the_wake_is_over_takes_nobody_with_it() {
    let up = Up::with([slow()]).await;
    let url = up.predict_url("slow");
    let body = slow_v1(1.0).to_string().into_bytes();
    let leaving = {
        let (url, body) = (url.clone(), body.clone());
        tokio::spawn(async move { client::send(Method::POST, &url, None, Some(body)).await })
    };
    until("it waits", LIMIT, async || counts(&up).await != (0, 0)).await;
    leaving.abort();
    let reply = client::post(&url, &slow_v1(2.0)).await;
    assert_eq!(reply.json(), json!({ "predictions": [[2.0]] }));
    until("nothing is left", LIMIT, async || counts(&up).await == (0, 0)).await;
}

#[tokio::test]
async fn a_body_larger_than_what_is_kept_for_replays_is_forwarded_all_the_same() {
    let up = Up::with([Manifest::new("digits", places::example("digits.onnx")).timeout(60)]).await;
    let rows = 30_000;
    let pixels: Vec<u8> = (0..rows * 64).map(|n| (n % 17) as u8).collect();
    let tensor = json!({ "name": "image", "shape": [rows, 1, 8, 8], "datatype": "FP32", "data": pixels });
    let body = json!({ "inputs": [tensor] });
    assert!(body.to_string().len() > 4 << 20, "more than the replay buffer holds");
    let reply = client::post(&up.infer_url("digits"), &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(client::output(&reply.json(), "scores")["shape"], json!([rows, 10]));
}
