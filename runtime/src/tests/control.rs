//! Models that clients load and unload.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use pilotlight_engine::DataType;

use crate::app::{App, Stage};
use crate::config::{Config, ModelControl};
use crate::model::Model;
use crate::models::{Origin, Repository};
use crate::testing::{Bench, Inline, Mock, call, config, scheduler};

fn explicit() -> Config {
    Config {
        model_control: ModelControl::Explicit,
        ..config()
    }
}

/// An app over a repository on disk, whose files hold the width of the model.
fn over(directory: &Path) -> App {
    let config = Config {
        model_repository: Some(directory.to_owned()),
        ..explicit()
    };
    let (scheduler, metrics) = scheduler(&config, Inline);
    let loader = |path: &Path| -> Result<Arc<dyn Model>, String> {
        let width = fs::read_to_string(path).map_err(|error| error.to_string())?;
        Ok(Mock::echo(
            DataType::F32,
            width.parse().map_err(|_| "not a width".to_owned())?,
        ))
    };
    let repository = Repository::new(Box::new(loader), scheduler.clone(), Arc::clone(&metrics));
    let app = App::new(repository, scheduler, metrics, config);
    app.enter(Stage::Serving);
    app
}

fn put(directory: &Path, version: &str, width: &str) {
    let folder = directory.join("m").join(version);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("model.onnx"), width).unwrap();
}

#[tokio::test]
async fn without_explicit_control_a_load_says_which_flag_allows_it() {
    let bench = Bench::new(config(), Inline, &[("m", Mock::echo(DataType::F32, 1))]).await;
    for verb in ["load", "unload"] {
        let seen = bench.post(&format!("/v2/repository/models/m/{verb}"), "").await;
        assert_eq!((seen.status, seen.code()), (501, "unsupported"));
        assert!(seen.body.contains("--model-control-mode explicit"), "{}", seen.body);
    }
    assert_eq!(bench.get("/v2/models/m/ready").await.status, 200);
}

#[tokio::test]
async fn a_model_of_the_repository_is_loaded_renewed_and_unloaded() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "1", "2");
    let app = over(directory.path());
    let post = |path: &'static str, body: &'static str| call(&app, "POST", path, body);
    let index = r#"[{"name":"m","reason":"not loaded","state":"UNAVAILABLE","version":""}]"#;
    assert_eq!(post("/v2/repository/index", "").await.body, index);
    assert_eq!(post("/v2/repository/index", r#"{"ready":true}"#).await.body, "[]");
    assert_eq!(call(&app, "GET", "/v2/models/m", "").await.status, 404);

    assert_eq!(post("/v2/repository/models/m/load", "{}").await.status, 200);
    let index = r#"[{"name":"m","reason":"","state":"READY","version":"1"}]"#;
    assert_eq!(post("/v2/repository/index", r#"{"ready":true}"#).await.body, index);

    put(directory.path(), "2", "3");
    assert_eq!(post("/v2/repository/models/m/load", "").await.status, 200);
    let seen = call(&app, "GET", "/v2/models/m/versions/2", "").await;
    assert!(
        seen.body.contains(r#""versions":["2"]"#) && seen.body.contains("[-1,3]"),
        "{}",
        seen.body
    );
    let seen = call(&app, "GET", "/v2/models/m/versions/1", "").await;
    assert_eq!((seen.status, seen.code()), (404, "model-not-found"));
    let infer = r#"{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}"#;
    assert!(
        post("/v2/models/m/infer", infer)
            .await
            .body
            .contains(r#""model_version":"2""#)
    );
    let metrics = call(&app, "GET", "/metrics", "").await.body;
    assert!(
        metrics.contains(r#"nv_inference_count{model="m",version="2"}"#),
        "{metrics}"
    );
    assert!(
        !metrics.contains(r#"model="m",version="1""#),
        "the old version's series are gone"
    );

    // A newer version that does not load leaves the one before in service.
    put(directory.path(), "3", "wide");
    let seen = post("/v2/repository/models/m/load", "").await;
    assert_eq!((seen.status, seen.code()), (503, "model-not-ready"));
    assert!(seen.body.contains("not a width"), "{}", seen.body);
    assert_eq!(post("/v2/models/m/infer", infer).await.status, 200);

    let unload = r#"{"parameters":{"unload_dependents":true}}"#;
    assert_eq!(post("/v2/repository/models/m/unload", unload).await.status, 200);
    assert_eq!(post("/v2/models/m/infer", infer).await.status, 404);
    assert!(!call(&app, "GET", "/metrics", "").await.body.contains("\"m\""));
}

#[tokio::test]
async fn a_load_of_what_is_not_there_says_where_it_was_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let app = over(directory.path());
    for name in ["none", "..", "%2e%2e"] {
        let seen = call(&app, "POST", &format!("/v2/repository/models/{name}/load"), "").await;
        assert_eq!((seen.status, seen.code()), (404, "model-not-found"), "{name}");
        assert!(seen.body.contains("model.onnx"), "{}", seen.body);
    }
    let bench = Bench::new(explicit(), Inline, &[]).await;
    let seen = bench.post("/v2/repository/models/none/load", "").await;
    assert!(seen.body.contains("--model-repository"), "{}", seen.body);
}

#[tokio::test]
async fn overrides_of_a_load_are_refused_by_name() {
    let bench = Bench::new(explicit(), Inline, &[("m", Mock::echo(DataType::F32, 1))]).await;
    bench.app.give("m", Origin::file("m"));
    for (body, code) in [
        (r#"{"parameters":{"config":"{}"}}"#, "unsupported"),
        (r#"{"parameters":{"file:1/model.onnx":"AAAA"}}"#, "unsupported"),
        (r#"{"parameters":{"colour":1}}"#, "invalid-request"),
        (r#"{"parameters":[]}"#, "invalid-request"),
        ("[", "invalid-request"),
    ] {
        let seen = bench.post("/v2/repository/models/m/load", body).await;
        assert_eq!(seen.code(), code, "{body}");
    }
    assert_eq!(bench.post("/v2/repository/models/m/load", " \n").await.status, 200);
}

#[tokio::test]
async fn an_unload_whose_client_leaves_ends_all_the_same() {
    let device = crate::testing::Manual::default();
    let bench = Bench::new(explicit(), device.clone(), &[("m", Mock::echo(DataType::F32, 1))]).await;
    device.hold();
    let request = bench.start("/v1/models/m:predict", r#"{"instances":[[1]]}"#).await;
    let unload = bench.start("/v2/repository/models/m/unload", "").await;
    unload.abort();
    device.finish();
    assert_eq!(request.await.unwrap().status, 200, "the last request is answered");
    crate::testing::settle().await;
    assert!(bench.repository.names().is_empty(), "and the name is free again");
}
