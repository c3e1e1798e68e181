//! Everything beside inference: metadata, readiness, health, the repository, reflection.

use super::*;
use crate::grpc::messages::{
    HealthRequest, HealthResponse, ModelConfigResponse, ModelMetadataResponse, ModelStatisticsResponse, ReadyResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelResponse,
    RepositoryParameter, ServerMetadataResponse,
};

#[tokio::test]
async fn server_and_models_tell_of_themselves() {
    let bench = echo(DataType::F32).await;
    let server: ServerMetadataResponse = call(&bench, "ServerMetadata", &model("")).await.one();
    assert_eq!(server.name, "pilotlight");
    assert!(server.extensions.iter().any(|name| name == "statistics"));
    let metadata: ModelMetadataResponse = call(&bench, "ModelMetadata", &model("m")).await.one();
    assert_eq!(
        (&*metadata.inputs[0].datatype, &metadata.inputs[0].shape[..]),
        ("FP32", &[-1, 2][..])
    );
    let config: ModelConfigResponse = call(&bench, "ModelConfig", &model("m")).await.one();
    let config = config.config.unwrap();
    assert_eq!(
        (
            config.max_batch_size,
            config.input[0].data_type,
            &config.output[0].dims[..]
        ),
        (32, 11, &[2][..])
    );
    let index: RepositoryIndexResponse = call(&bench, "RepositoryIndex", &RepositoryIndexRequest { ready: true })
        .await
        .one();
    assert_eq!((&*index.models[0].name, &*index.models[0].state), ("m", "READY"));
    call(&bench, "ModelInfer", &fp32(1.0, 2.0))
        .await
        .one::<ModelInferResponse>();
    for name in ["m", ""] {
        let stats: ModelStatisticsResponse = call(&bench, "ModelStatistics", &model(name)).await.one();
        let stats = &stats.model_stats[0];
        assert_eq!(
            (
                stats.inference_count,
                stats.execution_count,
                stats.batch_stats[0].batch_size
            ),
            (1, 1, 1)
        );
        assert_eq!(stats.inference_stats.as_ref().unwrap().success.unwrap().count, 1);
    }
    for method in ["ModelMetadata", "ModelConfig", "ModelStatistics", "ModelReady"] {
        assert_eq!(call(&bench, method, &model("n")).await.status, 5, "{method}");
    }
}

#[tokio::test]
async fn readiness_and_health_follow_the_process() {
    let bench = echo(DataType::F32).await;
    let health = HealthRequest { service: String::new() };
    for (stage, ready, status) in [(Stage::Serving, true, 1), (Stage::Draining, false, 2)] {
        bench.app.enter(stage);
        assert_eq!(
            call(&bench, "ServerReady", &model(""))
                .await
                .one::<ReadyResponse>()
                .ready,
            ready
        );
        assert_eq!(
            call(&bench, "ModelReady", &model("m"))
                .await
                .one::<ReadyResponse>()
                .ready,
            ready
        );
        assert!(
            call(&bench, "ServerLive", &model(""))
                .await
                .one::<ReadyResponse>()
                .ready
        );
        let seen = call(&bench, "/grpc.health.v1.Health/Check", &health).await;
        assert_eq!(seen.one::<HealthResponse>().status, status);
    }
}

#[tokio::test]
async fn models_are_loaded_and_unloaded_in_tritons_and_in_kserves_layout() {
    let config = crate::config::Config {
        model_control: crate::config::ModelControl::Explicit,
        ..config()
    };
    let bench = Bench::new(config, Inline, &[("m", Mock::echo(DataType::F32, 2))]).await;
    bench.app.give("m", crate::models::Origin::file("m"));
    let triton = RepositoryModelLoadRequest {
        model_name: "m".into(),
        ..RepositoryModelLoadRequest::default()
    };
    let kserve = RepositoryModelLoadRequest {
        repository_name: "m".into(),
        ..RepositoryModelLoadRequest::default()
    };
    for request in [triton, kserve] {
        let answer: RepositoryModelResponse = call(&bench, "RepositoryModelUnload", &request).await.one();
        assert_eq!((&*answer.model_name, answer.done), ("m", true));
        assert_eq!(call(&bench, "ModelReady", &model("m")).await.status, 5);
        let answer: RepositoryModelResponse = call(&bench, "RepositoryModelLoad", &request).await.one();
        assert!(answer.done);
        assert!(
            call(&bench, "ModelReady", &model("m"))
                .await
                .one::<ReadyResponse>()
                .ready
        );
    }
    let mut request = RepositoryModelLoadRequest {
        model_name: "m".into(),
        ..RepositoryModelLoadRequest::default()
    };
    request
        .parameters
        .insert("config".into(), RepositoryParameter::default());
    let seen = call(&bench, "RepositoryModelLoad", &request).await;
    assert_eq!((seen.status, &*seen.reason), (12, "unsupported"));
    let bench = echo(DataType::F32).await;
    request.parameters.clear();
    assert!(
        call(&bench, "RepositoryModelLoad", &request)
            .await
            .text
            .contains("--model-control-mode")
    );
}

#[tokio::test]
async fn health_is_watched_until_the_process_ends() {
    let bench = echo(DataType::F32).await;
    let health = HealthRequest { service: String::new() };
    let request = Request::post("/grpc.health.v1.Health/Watch")
        .body(Full::new(encode(&health)))
        .unwrap();
    let mut body = handle(Arc::clone(&bench.app), request).await.into_body();
    let mut next = async || {
        body.frame()
            .await
            .map(|frame| frame.unwrap().into_data().map(|data| data[6]))
    };
    let status = async |found: Option<Result<u8, _>>| found.unwrap().ok().unwrap();
    assert_eq!(status(next().await).await, 1);
    bench.repository.announce("late");
    bench
        .repository
        .load("late", crate::models::Origin::file("nowhere"))
        .await
        .unwrap_err();
    assert_eq!(status(next().await).await, 2, "a model failed");
    bench.repository.unload("late").await.unwrap();
    assert_eq!(status(next().await).await, 1);
    bench.app.enter(Stage::Draining);
    assert_eq!(status(next().await).await, 2);
    assert!(next().await.unwrap().is_err(), "trailers");
    assert!(next().await.is_none());
    let unknown = HealthRequest { service: "x".into() };
    assert_eq!(call(&bench, "/grpc.health.v1.Health/Check", &unknown).await.status, 5);
}

#[tokio::test]
async fn reflection_lists_the_services_and_gives_their_descriptors() {
    let bench = echo(DataType::F32).await;
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        // list_services, file_containing_symbol: one request after the other in one stream.
        let ask = |tag: u8, text: &str| {
            let message = [&[tag, text.len() as u8], text.as_bytes()].concat();
            [&[0, 0, 0, 0, message.len() as u8][..], &message].concat()
        };
        let body = [ask(0x3a, ""), ask(0x22, "inference.ModelInferRequest.InferInputTensor")].concat();
        let request = Request::post(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let reply = handle(Arc::clone(&bench.app), request).await;
        let body = reply.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        for name in [
            "inference.GRPCInferenceService",
            "grpc.health.v1.Health",
            "raw_input_contents",
            "ModelStreamInfer",
        ] {
            assert!(body.contains(name), "{version}: {name}");
        }
    }
}
