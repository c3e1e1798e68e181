//! Requests that lead nowhere are told why.

use pilotlight_e2e::{
    LIMIT, Manifest, Up,
    client::{self, flowers_v1},
    places, until,
};
use serde_json::json;

#[tokio::test]
async fn an_unknown_route_says_what_was_tried() {
    let up = Up::with([Manifest::new("iris", places::example("iris.onnx"))]).await;

    let reply = client::post(&up.predict_url("tulip"), &flowers_v1()).await;
    assert_eq!(reply.error(404), "unknown-model");
    assert!(reply.text().contains("tulip"), "{reply:?}");

    let reply = client::post_to_host(&up.url("/anything"), Some("tulip.default.example.com"), &flowers_v1()).await;
    assert_eq!(reply.error(404), "unknown-route");
    assert!(reply.text().contains("tulip.default.example.com"), "{reply:?}");

    let reply = client::post(&up.url("/serving/default/tulip/v1/models/tulip:predict"), &flowers_v1()).await;
    reply.error(404);
    assert!(reply.text().contains("default/tulip"), "{reply:?}");
    assert_eq!(up.runtimes(), []);
}

#[tokio::test]
async fn a_host_and_a_name_that_disagree_are_refused() {
    let up = Up::with([
        Manifest::new("iris", places::example("iris.onnx")),
        Manifest::new("forest", places::example("iris-forest.onnx")),
    ])
    .await;
    let host = Some("iris.default.example.com");
    let reply = client::post_to_host(&up.predict_url("forest"), host, &flowers_v1()).await;
    assert_eq!(reply.error(404), "route-disagreement");
    assert!(
        reply.text().contains("iris") && reply.text().contains("forest"),
        "{reply:?}"
    );
}

#[tokio::test]
async fn one_name_in_two_namespaces_is_told_apart_by_host_and_path() {
    let garden = Manifest::new("iris", places::example("iris.onnx")).namespace("garden");
    let forest = Manifest::new("iris", places::example("iris-forest.onnx")).namespace("forest");
    let both = format!("{}---\n{}", garden.yaml(), forest.yaml());
    let up = Up::with([]).await;
    up.save_text("both.yaml", &both);
    until("both are deployed", LIMIT, async || {
        let services = up.services().await;
        services.len() == 2 && services.iter().all(|item| item["ready"] == true)
    })
    .await;

    let reply = client::post(&up.predict_url("iris"), &flowers_v1()).await;
    assert_eq!(reply.error(404), "ambiguous-route");
    for namespace in ["garden", "forest"] {
        let host = format!("iris.{namespace}.example.com");
        let reply = client::post_to_host(&up.predict_url("iris"), Some(&host), &flowers_v1()).await;
        assert_eq!(reply.json(), json!({ "predictions": [1, 1] }));
        let path = format!("/serving/{namespace}/iris/v1/models/iris:predict");
        let reply = client::post(&up.url(&path), &flowers_v1()).await;
        assert_eq!(reply.json(), json!({ "predictions": [1, 1] }));
    }
}

#[tokio::test]
async fn a_client_may_speak_http2_without_tls() {
    let up = Up::with([Manifest::new("iris", places::example("iris.onnx"))]).await;
    let curl = tokio::process::Command::new("curl")
        .args([
            "--silent",
            "--http2-prior-knowledge",
            "--write-out",
            " %{http_version}",
            "--data",
        ])
        .args([flowers_v1().to_string(), up.predict_url("iris")])
        .output()
        .await
        .expect("curl is installed");
    assert_eq!(String::from_utf8_lossy(&curl.stdout), r#"{"predictions":[1,1]} 2"#);
}
