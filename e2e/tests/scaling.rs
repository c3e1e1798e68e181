//! More replicas while many ask, fewer when they stop.

use std::time::Duration;

use pilotlight_e2e::{
    Ask, LIMIT, Load, Manifest, Up,
    client::{self, slow_v1},
    places, until,
};
use serde_json::json;

#[tokio::test]
async fn replicas_follow_the_requests_in_flight_up_to_the_maximum_and_back_to_none() {
    let slow = Manifest::new("slow", places::fixture("slow.onnx")).timeout(60).max(3);
    let up = Up::with([slow.field("scaleMetric", "concurrency").field("scaleTarget", "1")]).await;
    let url = up.predict_url("slow");
    let load = Load::start(8, Duration::from_millis(1), move |client, nth| {
        let x = f64::from((client * 100 + nth % 100) as u32);
        Ask {
            url: url.clone(),
            body: slow_v1(x),
            answer: json!({ "predictions": [[x]] }),
        }
    });
    until("three replicas", LIMIT, async || {
        let item = up.service("slow").await.expect("it is there");
        item["replicas"]["ready"] == 3
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(up.runtimes().len(), 3, "no more than the maximum");
    load.stop().await.assert_none_lost(20);
    up.no_process_left(Duration::from_secs(30)).await;
}

#[tokio::test]
async fn a_minimum_of_replicas_is_there_without_a_request_and_stays() {
    let up = Up::with([Manifest::new("iris", places::example("iris.onnx")).min(2)]).await;
    until("two replicas", LIMIT, async || up.runtimes().len() == 2).await;
    let reply = client::post(&up.predict_url("iris"), &client::flowers_v1()).await;
    assert_eq!(reply.header("x-keda-http-cold-start"), "false");
    let before = up.runtimes();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(up.runtimes(), before);
}
