//! A client that calls in KEDA core's order, over the wire.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use pilotlight_manifests::keda::{Concurrency, GoDuration, RequestRate, ScalingMetric};
use prometheus::Registry;
use tonic::Code;

use super::*;
use crate::keda::{
    client::Client,
    counts::{Queue, RouteCount},
    scaler::Directory,
    state::Config,
};

struct Stage {
    scaler: Arc<Scaler>,
    client: Client,
    end: CancellationToken,
    address: String,
}

impl Stage {
    async fn new() -> Self {
        let config = Config {
            heartbeat: Duration::from_millis(50),
            ..Config::default()
        };
        let scaler = Arc::new(Scaler::new(config, &Registry::new()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let end = CancellationToken::new();
        tokio::spawn(serve(Arc::clone(&scaler), listener, end.clone()));
        let client = Client::new(&address).unwrap();
        Self {
            scaler,
            client,
            end,
            address,
        }
    }

    /// With the routes and the idle counts of two activators.
    async fn ready() -> Self {
        let stage = Self::new().await;
        stage.scaler.set_directory(directory());
        stage.look(&[("a", Some((0, 0))), ("b", Some((0, 0)))]);
        stage
    }

    fn look(&self, pods: &[(&str, Option<(i64, i64)>)]) {
        let queue = |(concurrency, request_count)| -> Queue {
            let count = RouteCount {
                concurrency,
                request_count,
            };
            BTreeMap::from([("shop/app".to_owned(), count), ("shop/iris".to_owned(), count)])
        };
        let looks = pods.iter().map(|(pod, counts)| ((*pod).to_owned(), counts.map(queue)));
        self.scaler.take(looks.collect(), Duration::ZERO);
    }
}

fn directory() -> Directory {
    let both = ScalingMetric {
        concurrency: Some(Concurrency { target_value: 5 }),
        request_rate: Some(RequestRate {
            target_value: 3,
            window: GoDuration(Duration::from_secs(10)),
            granularity: GoDuration(Duration::from_secs(1)),
        }),
    };
    Directory {
        interceptor_routes: HashMap::from([("shop/app".to_owned(), both)]),
        http_scaled_objects: HashMap::from([(
            "shop/app".to_owned(),
            ScalingMetric {
                request_rate: None,
                ..both
            },
        )]),
        inference_services: HashMap::from([("shop/iris".to_owned(), 2.0)]),
    }
}

/// As KEDA sends it: the whole metadata of the trigger.
fn reference(key: &str, name: &str) -> ScaledObjectRef {
    ScaledObjectRef {
        name: "so".to_owned(),
        namespace: "shop".to_owned(),
        scaler_metadata: HashMap::from([
            (
                "scalerAddress".to_owned(),
                "pilotlight-controller.pilotlight-system:9091".to_owned(),
            ),
            (key.to_owned(), name.to_owned()),
        ]),
    }
}

/// KEDA's polling tick: GetMetricSpec, then for each metric GetMetrics with its name and IsActive. The sum of what comes
/// for each metric, as KEDA adds up every value of an answer.
async fn tick(client: &Client, reference: &ScaledObjectRef) -> Result<Vec<(String, f64, f64, bool)>, Status> {
    let mut seen = Vec::new();
    let specs = client.metric_spec(reference.clone()).await?.metric_specs;
    assert!(!specs.is_empty(), "KEDA takes an empty list for an error");
    for spec in specs {
        let answer = client.metrics(reference.clone(), &spec.metric_name).await?.into_inner();
        let active = client.is_active(reference.clone()).await?;
        let value = answer.metric_values.iter().map(|value| {
            if value.metric_value_float > 0.0 {
                value.metric_value_float
            } else {
                value.metric_value as f64
            }
        });
        let target = if spec.target_size_float > 0.0 {
            spec.target_size_float
        } else {
            spec.target_size as f64
        };
        assert!(target > 0.0);
        seen.push((spec.metric_name, target, value.sum(), active));
    }
    Ok(seen)
}

#[tokio::test]
async fn a_client_in_kedas_call_order_sees_targets_values_and_activity() {
    let stage = Stage::ready().await;
    let route = reference("interceptorRoute", "app");
    let idle = tick(&stage.client, &route).await.unwrap();
    assert_eq!(
        idle,
        [
            ("http_app_concurrency".to_owned(), 5.0, 0.0, false),
            ("http_app_rate".to_owned(), 3.0, 0.0, false),
        ]
    );
    stage.look(&[("a", Some((4, 6))), ("b", Some((3, 4)))]);
    let busy = tick(&stage.client, &route).await.unwrap();
    assert_eq!((busy[0].2, busy[0].3, busy[1].3), (7.0, true, true));
    assert!(busy[1].2 > 0.0);
    let old = tick(&stage.client, &reference("httpScaledObject", "app"))
        .await
        .unwrap();
    assert_eq!(old, [("http-shop_002Fapp".to_owned(), 5.0, 7.0, true)]);
}

#[tokio::test]
async fn inference_services_can_be_named_too() {
    let stage = Stage::ready().await;
    stage.look(&[("a", Some((4, 6))), ("b", Some((3, 4)))]);
    let seen = tick(&stage.client, &reference("inferenceService", "iris"))
        .await
        .unwrap();
    assert_eq!(seen, [("http_iris_concurrency".to_owned(), 2.0, 7.0, true)]);
}

/// Add-on unit test `TestGetMetrics`, its cases of the filter.
#[tokio::test]
async fn add_on_get_metrics_filters_by_name() {
    let stage = Stage::ready().await;
    let route = reference("interceptorRoute", "app");
    for (name, expected) in [("", 2), ("http_app_rate", 1), ("nothing", 0)] {
        let answer = stage.client.metrics(route.clone(), name).await.unwrap().into_inner();
        assert_eq!(answer.metric_values.len(), expected, "{name:?}");
    }
}

#[tokio::test]
async fn an_unknown_route_is_an_error_status_for_every_call() {
    let stage = Stage::ready().await;
    let unknown = reference("interceptorRoute", "none");
    assert_eq!(tick(&stage.client, &unknown).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(
        stage.client.is_active(unknown.clone()).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        stage.client.stream_is_active(unknown.clone()).await.unwrap_err().code(),
        Code::NotFound
    );
    let unnamed = reference("other", "none");
    assert_eq!(
        stage.client.metric_spec(unnamed).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn while_nothing_is_known_nobody_is_told_zero() {
    let stage = Stage::new().await;
    let route = reference("interceptorRoute", "app");
    assert_eq!(
        stage.client.metric_spec(route.clone()).await.unwrap_err().code(),
        Code::Unavailable
    );
    stage.scaler.set_directory(directory());
    assert!(stage.client.metric_spec(route.clone()).await.is_ok());
    assert_eq!(
        stage.client.is_active(route.clone()).await.unwrap_err().code(),
        Code::Unavailable
    );
    stage.look(&[("a", None)]);
    assert_eq!(
        stage.client.is_active(route).await.unwrap_err().code(),
        Code::Unavailable
    );
}

#[tokio::test]
async fn an_activator_that_is_missing_counts_with_its_last_value_and_marks_the_answer() {
    let stage = Stage::ready().await;
    stage.look(&[("a", Some((4, 4))), ("b", Some((3, 3)))]);
    stage.look(&[("a", Some((1, 4))), ("b", None)]);
    let answer = stage
        .client
        .metrics(reference("interceptorRoute", "app"), "http_app_concurrency")
        .await
        .unwrap();
    assert_eq!(answer.metadata().get(STALE).unwrap(), "1");
    assert_eq!(answer.into_inner().metric_values[0].metric_value_float, 4.0);
}

#[tokio::test]
async fn the_first_waiting_request_is_pushed_at_once_and_repeated_while_it_is_active() {
    let stage = Stage::ready().await;
    let mut stream = stage
        .client
        .stream_is_active(reference("interceptorRoute", "app"))
        .await
        .unwrap();
    assert!(!stream.message().await.unwrap().unwrap().result);
    stage.scaler.pushed(["shop/app"]);
    for _ in 0..3 {
        assert!(stream.message().await.unwrap().unwrap().result);
    }
}

#[tokio::test]
async fn streams_end_with_ok_so_that_keda_opens_them_again_at_once() {
    let stage = Stage::ready().await;
    let route = reference("interceptorRoute", "app");
    let mut active = stage.client.stream_is_active(route.clone()).await.unwrap();
    let mut specs = stage.client.stream_metric_spec(route).await.unwrap();
    assert!(active.message().await.unwrap().is_some());
    assert_eq!(specs.message().await.unwrap().unwrap().metric_specs.len(), 2);
    stage.end.cancel();
    assert!(active.message().await.unwrap().is_none());
    assert!(specs.message().await.unwrap().is_none());
}

#[tokio::test]
async fn streamed_specs_follow_the_route_and_are_those_of_the_call() {
    let stage = Stage::ready().await;
    let route = reference("interceptorRoute", "app");
    let mut stream = stage.client.stream_metric_spec(route.clone()).await.unwrap();
    stream.message().await.unwrap().unwrap();
    let mut changed = directory();
    let only = ScalingMetric {
        concurrency: Some(Concurrency { target_value: 9 }),
        request_rate: None,
    };
    changed.interceptor_routes.insert("shop/app".to_owned(), only);
    stage.scaler.set_directory(changed);
    let streamed = stream.message().await.unwrap().unwrap();
    assert_eq!(streamed.metric_specs[0].target_size_float, 9.0);
    assert_eq!(stage.client.metric_spec(route).await.unwrap(), streamed);
}

#[tokio::test]
async fn a_route_that_is_deleted_ends_its_stream_with_an_error() {
    let stage = Stage::ready().await;
    let mut stream = stage
        .client
        .stream_is_active(reference("interceptorRoute", "app"))
        .await
        .unwrap();
    assert!(stream.message().await.unwrap().is_some());
    stage.scaler.set_directory(Directory::default());
    assert_eq!(stream.message().await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn health_is_that_of_the_last_look() {
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

    let stage = Stage::ready().await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", stage.address)).unwrap();
    let mut health = HealthClient::new(channel.connect().await.unwrap());
    for service in ["liveness", "readiness"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status, ServingStatus::Serving as i32, "{service}");
    }
}

/// Fact 3.2: reflection is on, and its descriptors are those of KEDA's proto.
#[tokio::test]
async fn add_on_reflection_lists_the_services_and_describes_the_scaler() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let stage = Stage::new().await;
    let channel = tonic::transport::Endpoint::try_from(format!("http://{}", stage.address)).unwrap();
    let mut client = ServerReflectionClient::new(channel.connect().await.unwrap());
    let asked = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("externalscaler.ExternalScaler.GetMetrics".to_owned()),
    ];
    let asked = asked.map(|message| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    });
    let mut answers = client
        .server_reflection_info(stream::iter(asked))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(listed)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services");
    };
    let names: Vec<&str> = listed.service.iter().map(|service| service.name.as_str()).collect();
    assert!(
        names.contains(&"externalscaler.ExternalScaler") && names.contains(&"grpc.health.v1.Health"),
        "{names:?}"
    );
    let Some(MessageResponse::FileDescriptorResponse(file)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no descriptor");
    };
    let file: prost_types::FileDescriptorProto = prost::Message::decode(&file.file_descriptor_proto[0][..]).unwrap();
    assert_eq!((file.package(), file.service[0].method.len()), ("externalscaler", 5));
    assert_eq!(file.message_type[0].nested_type[0].name(), "ScalerMetadataEntry");
}
