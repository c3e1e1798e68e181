use std::{fs, sync::Arc};

use axum::{body::to_bytes, http::Request};
use pilotlight_activator::{BackendId, Waker};
use prometheus::Registry;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

use super::*;
use crate::{
    Config, Controller, Parts, Source, SourceConfig,
    testing::{MockPlatform, MockTraffic},
    wake::{WakeHandle, channel},
};

struct Server {
    router: Router,
    directory: TempDir,
    traffic: Arc<MockTraffic>,
    wakes: WakeHandle,
    _shutdown: DropGuard,
}

fn document(name: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {{name: {name}}}\n\
         spec: {{predictor: {{minReplicas: 0, model: {{modelFormat: {{name: onnx}}, storageUri: m.onnx}}}}}}\n"
    )
}

async fn server() -> Server {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("m.onnx"), "model").unwrap();
    fs::write(directory.path().join("iris.yaml"), document("iris")).unwrap();
    let source = Source::open(SourceConfig::for_directory(directory.path()), "example.com").unwrap();
    let (wakes, end) = channel();
    let traffic = Arc::new(MockTraffic::new());
    let parts = Parts {
        wakes: end,
        traffic: traffic.clone(),
        platform: Arc::new(MockPlatform::default()),
        checker: None,
        source,
        registry: Registry::new(),
    };
    let controller = Controller::new(
        Config {
            max_manifest_bytes: 4096,
            ..Config::default()
        },
        parts,
    )
    .unwrap();
    let (router, mut status, shutdown) = (controller.api_router(), controller.status(), CancellationToken::new());
    tokio::spawn(controller.run(shutdown.clone()));
    let ready = |set: &Arc<StatusSet>| set.services.values().any(|service| service.ready);
    timeout(Duration::from_secs(10), status.wait_for(ready))
        .await
        .expect("ready in time")
        .unwrap();
    Server {
        router,
        directory,
        traffic,
        wakes,
        _shutdown: shutdown.drop_guard(),
    }
}

impl Server {
    async fn send(&self, method: &str, path: &str, body: String) -> Response {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-pilotlight-base", self.directory.path().to_str().unwrap())
            .body(Body::from(body))
            .unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn json(&self, method: &str, path: &str, body: String) -> (u16, Value) {
        let response = self.send(method, path, body).await;
        let (status, reason) = (
            response.status().as_u16(),
            response.headers().get("x-pilotlight-reason").cloned(),
        );
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let value: Value = serde_json::from_slice(&to_bytes(response.into_body(), 1 << 20).await.unwrap()).unwrap();
        assert_eq!(
            reason.as_ref().map(|reason| reason.to_str().unwrap()),
            value["code"].as_str()
        );
        (status, value)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.json("GET", path, String::new()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_listed_with_fresh_counts() {
    let server = server().await;
    server.traffic.load(&BackendId::new("default/iris"), 2, 3);
    let (status, list) = server.get("/api/v1/services").await;
    let item = &list["items"][0];
    assert_eq!(
        (status, &item["name"], &item["namespace"]),
        (200, &json!("iris"), &json!("default"))
    );
    assert_eq!((&item["inFlight"], &item["waiting"]), (&json!(2), &json!(3)));
    assert_eq!((&item["ready"], &item["lastWakeMs"]), (&json!(true), &Value::Null));
    assert_eq!(item["source"]["line"], 1);
    assert_eq!(item["object"]["kind"], "InferenceService");
    assert_eq!(item["replicas"], json!({ "ready": 0, "starting": 0, "desired": 0 }));
    let (status, one) = server.get("/api/v1/services/default/iris").await;
    assert_eq!((status, &one["name"]), (200, &json!("iris")));
    let (status, error) = server.get("/api/v1/services/default/nobody").await;
    assert_eq!((status, &error["code"]), (404, &json!("unknown-service")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_each_change_as_one_line() {
    let server = server().await;
    let response = server.send("GET", "/api/v1/services?watch=true", String::new()).await;
    let mut lines = response.into_body().into_data_stream();
    let mut next = async || {
        let line = timeout(Duration::from_secs(10), lines.next())
            .await
            .expect("a line in time")
            .unwrap()
            .unwrap();
        assert!(line.ends_with(b"\n"));
        serde_json::from_slice::<Value>(&line).unwrap()
    };
    assert_eq!(next().await["items"][0]["replicas"]["starting"], 0);
    server.wakes.wake(&BackendId::new("default/iris")).await.unwrap();
    assert_eq!(next().await["items"][0]["replicas"]["starting"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_applied_and_deleted_and_seen_at_once() {
    let server = server().await;
    let text = format!("{}---\n{}", document("a"), document("b"));
    let (status, applied) = server.json("PUT", "/api/v1/manifests", text.clone()).await;
    assert_eq!(status, 200, "{applied}");
    let expected = json!({ "kind": "InferenceService", "namespace": "default", "name": "a", "action": "created" });
    assert_eq!(applied["applied"][0], expected);
    assert_eq!(
        server.get("/api/v1/services").await.1["items"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    let (_, again) = server.json("PUT", "/api/v1/manifests", text).await;
    assert_eq!(again["applied"][1]["action"], "unchanged");
    let (status, _) = server.json("DELETE", "/api/v1/services/default/a", String::new()).await;
    assert_eq!((status, server.get("/api/v1/services/default/a").await.0), (200, 404));
    assert_eq!(
        server
            .json("DELETE", "/api/v1/services/default/a", String::new())
            .await
            .0,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_written_document_is_not_deleted() {
    let server = server().await;
    let (status, error) = server
        .json("DELETE", "/api/v1/services/default/iris", String::new())
        .await;
    assert_eq!((status, &error["code"]), (409, &json!("declared-in-file")));
    assert!(error["error"].as_str().unwrap().contains("iris.yaml"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_manifest_gets_its_faults_and_a_large_one_is_refused() {
    let server = server().await;
    let (status, error) = server.json("PUT", "/api/v1/manifests", "kind: Foo\n".to_owned()).await;
    assert_eq!((status, &error["code"]), (400, &json!("invalid-manifest")));
    assert_eq!(error["faults"][0]["line"], 1);
    assert!(error["faults"][0]["message"].is_string());
    let (status, error) = server.json("PUT", "/api/v1/manifests", "#".repeat(5000)).await;
    assert_eq!((status, &error["code"]), (413, &json!("manifest-too-large")));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_text() {
    let server = server().await;
    let path = "/api/v1/services/default/iris/logs?tail=5";
    let response = server.send("GET", path, String::new()).await;
    assert_eq!(response.status(), 200);
    let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
    assert!(kind.starts_with("text/plain"));
    assert_eq!(server.get("/api/v1/services/default/nobody/logs").await.0, 404);
}
