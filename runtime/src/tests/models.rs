//! Models that come, fail, change and go.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pilotlight_engine::{DataType, Dim, RunError};

use crate::models::{ModelError, Origin};
use crate::testing::{Bench, Inline, Manual, Mock, config, info, n, settle, signature};

const ONE: &str = r#"{"instances":[[1]]}"#;

#[tokio::test]
async fn a_process_may_start_empty_and_load_later() {
    let bench = Bench::new(config(), Inline, &[]).await;
    assert_eq!(bench.get("/v2/models").await.body, r#"{"models":[]}"#);
    assert_eq!(bench.get("/ready").await.status, 200, "empty is a fine state");
    let seen = bench.post("/v1/models/m:predict", ONE).await;
    assert_eq!((seen.status, seen.code()), (404, "model-not-found"));
}

#[tokio::test(start_paused = true)]
async fn an_announced_model_is_loading_and_not_unknown() {
    let bench = Bench::new(config(), Inline, &[]).await;
    bench.repository.announce("m");
    assert_eq!(bench.get("/v2/models/m/ready").await.status, 503);
    assert_eq!(bench.get("/ready").await.status, 503);
}

#[tokio::test]
async fn a_model_runs_once_before_it_is_ready() {
    let model = Mock::echo(DataType::F32, 1);
    let bench = Bench::new(config(), Inline, &[("m", Arc::clone(&model))]).await;
    assert_eq!(model.runs(), 1);
    assert_eq!(bench.get("/v2/models/m/ready").await.status, 200);
    let load = bench.metrics.render();
    assert!(load.contains("model_load_time_seconds{model=\"m\"}"), "{load}");
}

#[tokio::test(start_paused = true)]
async fn a_loading_model_is_503_and_named_in_the_index() {
    let device = Manual::default();
    let bench = Bench::new(config(), device.clone(), &[("m", Mock::echo(DataType::F32, 1))]).await;
    bench.repository.unload("m").await.unwrap();
    device.hold();
    let repository = bench.repository.clone();
    let load = tokio::spawn(async move { repository.load("m", Origin::file("m")).await });
    while device.running().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for path in ["/v2/models/m/ready", "/v1/models/m", "/v2/models/m", "/ready"] {
        assert_eq!(bench.get(path).await.status, 503, "{path}");
    }
    let seen = bench.post("/v1/models/m:predict", ONE).await;
    assert_eq!(
        (seen.status, seen.code(), seen.header("retry-after")),
        (503, "model-not-ready", Some("1"))
    );
    assert!(bench.post("/v2/repository/index", "").await.body.contains("LOADING"));
    assert_eq!(
        bench.repository.load("m", Origin::file("m")).await,
        Err(ModelError::Busy("m".into()))
    );
    assert_eq!(bench.repository.unload("m").await, Err(ModelError::Busy("m".into())));
    device.finish();
    load.await.unwrap().unwrap();
    assert_eq!(bench.get("/v2/models/m/ready").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_a_loading_model_is_answered_the_moment_it_is_ready() {
    let device = Manual::default();
    let bench = Bench::new(config(), device.clone(), &[("m", Mock::echo(DataType::F32, 1))]).await;
    bench.repository.unload("m").await.unwrap();
    device.hold();
    let repository = bench.repository.clone();
    let load = tokio::spawn(async move { repository.load("m", Origin::file("m")).await });
    while device.running().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let start = tokio::time::Instant::now();
    assert_eq!(bench.get("/v2/models/m/ready").await.status, 503);
    assert_eq!(start.elapsed().as_millis() / 10, 5, "held for 50 ms, then told");
    let start = tokio::time::Instant::now();
    let (seen, ()) = tokio::join!(bench.get("/v2/models/m/ready"), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        device.finish();
    });
    assert_eq!(seen.status, 200);
    assert_eq!(start.elapsed().as_millis() / 10, 2);
    load.await.unwrap().unwrap();
    assert_eq!(bench.get("/v2/models/none/ready").await.status, 404, "at once");
}

#[tokio::test]
async fn a_model_that_fails_to_load_says_why_and_may_be_loaded_again() {
    let bench = Bench::new(config(), Inline, &[("m", Mock::echo(DataType::F32, 1))]).await;
    let error = bench
        .repository
        .load("broken", Origin::file("nowhere"))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "model \"broken\" from nowhere: can't read nowhere");
    let seen = bench.post("/v1/models/broken:predict", ONE).await;
    assert_eq!((seen.status, seen.code()), (503, "model-not-ready"));
    assert!(seen.body.contains("can't read nowhere"), "{}", seen.body);
    assert_eq!(bench.get("/ready").await.status, 503);
    assert_eq!(
        bench.post("/v1/models/m:predict", ONE).await.status,
        200,
        "the others go on"
    );
    bench.repository.load("broken", Origin::file("m")).await.unwrap();
    assert_eq!(bench.post("/v1/models/broken:predict", ONE).await.status, 200);
}

#[tokio::test]
async fn an_engine_that_panics_while_loading_fails_that_model_only() {
    let bench = Bench::new(config(), Inline, &[("m", Mock::echo(DataType::F32, 1))]).await;
    let error = bench.repository.load("bad", Origin::file("panics")).await.unwrap_err();
    assert!(error.to_string().contains("the engine panicked: as asked"), "{error}");
    assert_eq!(bench.post("/v1/models/m:predict", ONE).await.status, 200);
}

#[tokio::test]
async fn a_reload_that_fails_keeps_the_old_model() {
    let bench = Bench::new(config(), Inline, &[("m", Mock::echo(DataType::F32, 1))]).await;
    assert!(bench.repository.load("m", Origin::file("nowhere")).await.is_err());
    assert_eq!(bench.post("/v1/models/m:predict", ONE).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn an_unload_waits_for_the_requests_of_the_model() {
    let device = Manual::default();
    let bench = Bench::new(config(), device.clone(), &[("m", Mock::echo(DataType::F32, 1))]).await;
    device.hold();
    let request = bench.start("/v1/models/m:predict", ONE).await;
    let repository = bench.repository.clone();
    let unload = tokio::spawn(async move { repository.unload("m").await });
    settle().await;
    assert!(!unload.is_finished());
    assert!(
        bench
            .post("/v1/models/m:predict", ONE)
            .await
            .body
            .contains("being unloaded")
    );
    device.finish();
    assert_eq!(request.await.unwrap().status, 200);
    unload.await.unwrap().unwrap();
    assert_eq!(bench.post("/v1/models/m:predict", ONE).await.status, 404);
    assert_eq!(
        bench.repository.unload("m").await,
        Err(ModelError::NotFound("m".into()))
    );
    assert!(!bench.metrics.render().contains("model=\"m\""));
}

#[tokio::test]
async fn names_that_cannot_stand_in_a_path_are_refused() {
    let bench = Bench::new(config(), Inline, &[]).await;
    let error = bench.repository.load("a/b", Origin::file("m")).await.unwrap_err();
    assert!(matches!(error, ModelError::Name(_)), "{error}");
}

#[tokio::test]
async fn the_warm_up_judges_only_fair_samples() {
    let node = || RunError::Node {
        node: "n".into(),
        op: "MaxPool".into(),
        reason: "too small".into(),
    };
    let input = || RunError::Input {
        name: "x".into(),
        reason: "not such zeros".into(),
    };
    let fails = |shape: Vec<Dim>, datatype: DataType, error: RunError| {
        let x = info("x", datatype, shape);
        Mock::new(signature(vec![x.clone()], vec![x]), move |_| Err(error.clone()))
    };
    let fixed = || vec![n(), Dim::Fixed(2)];
    for (model, loads) in [
        (fails(fixed(), DataType::F32, node()), false),
        (fails(fixed(), DataType::F32, input()), true),
        (fails(fixed(), DataType::Bytes, node()), true),
        (fails(vec![n(), Dim::Unknown], DataType::F32, node()), true),
    ] {
        let bench = Bench::new(config(), Inline, &[]).await;
        let (scheduler, metrics) = (bench.scheduler.clone(), Arc::clone(&bench.metrics));
        let loader = move |_: &Path| Ok(Arc::clone(&model) as Arc<dyn crate::Model>);
        let repository = crate::models::Repository::new(Box::new(loader), scheduler, metrics);
        assert_eq!(repository.load("m", Origin::file("m")).await.is_ok(), loads);
    }
}

#[tokio::test]
async fn a_panicking_warm_up_fails_the_model() {
    let x = info("x", DataType::F32, vec![n()]);
    let model = Mock::new(signature(vec![x.clone()], vec![x]), |_| panic!("ouch"));
    let bench = Bench::new(config(), Inline, &[]).await;
    let loader = move |_: &Path| Ok(Arc::clone(&model) as Arc<dyn crate::Model>);
    let repository =
        crate::models::Repository::new(Box::new(loader), bench.scheduler.clone(), Arc::clone(&bench.metrics));
    let error = repository.load("m", Origin::file("m")).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the warm-up run failed: the model panicked: ouch"),
        "{error}"
    );
}
