//! What right manifests mean.

use std::{num::NonZeroU32, path::Path, time::Duration};

use pilotlight_manifests::{Activation, Batching, Parsed, Scaling, Service, Storage, parse};

const GOOD: &str = include_str!("good.yaml");

fn minimal(more: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\n{more}spec:\n  predictor:\n    \
         model:\n      modelFormat: {{name: onnx}}\n      storageUri: iris.onnx\n"
    )
}

fn only(text: &str) -> Service {
    let Parsed {
        mut services, faults, ..
    } = parse(text, Path::new("/srv/m.yaml"));
    assert!(faults.is_empty(), "{faults:#?}");
    assert_eq!(services.len(), 1);
    services.remove(0)
}

#[test]
fn every_supported_field_arrives() {
    let parsed = parse(GOOD, Path::new("/srv/iris.yaml"));
    assert_eq!(parsed.warnings, []);
    let service = only(GOOD);
    assert_eq!((service.key().as_str(), service.source.line), ("flowers/iris", 2));
    assert_eq!(service.storage, Storage::Local("/srv/iris.onnx".into()));
    assert_eq!(service.args, ["--max-latency-ms", "5"]);
    assert_eq!(service.env, [("RUST_LOG".to_owned(), "debug".to_owned())].into());
    assert_eq!(service.container_concurrency, NonZeroU32::new(32));
    assert_eq!(service.timeout, Duration::from_mins(1));
    assert_eq!(
        service.object["spec"]["predictor"]["model"]["storageUri"],
        "models/../iris.onnx"
    );
    assert_eq!(
        service.scaling,
        Scaling {
            min_replicas: 0,
            max_replicas: Some(4),
            target: 8.0,
            target_utilization: 0.8,
            stable_window: Duration::from_secs(10),
            panic_window: 0.2,
            panic_threshold: 1.5,
            max_scale_up_rate: 10.0,
            max_scale_down_rate: 1.5,
            scale_down_delay: Duration::from_mins(1),
            scale_to_zero_retention: Duration::from_secs(65),
            activation_scale: 2,
            initial_scale: 1,
            standby: Some(2),
        }
    );
    assert_eq!(
        service.batching,
        Batching {
            max_batch_size: NonZeroU32::new(16).expect("not 0"),
            max_latency: Duration::from_millis(50),
            queue_size: 50,
            ready_queue_limit: 5,
            priority_levels: 3,
            default_priority: Some(2),
            preferred_batch_sizes: vec![4, 8],
            adaptive: true,
        }
    );
    assert_eq!(
        service.activation,
        Activation {
            max_waiting: 20,
            max_waiting_bytes: 1 << 20,
            wait_timeout: Duration::from_secs(30),
            replay_limit: 1024,
            pure: false,
        }
    );
}

#[test]
fn defaults_are_those_of_kserve_and_knative() {
    let service = only(&minimal(""));
    assert_eq!(service.key(), "default/iris");
    assert_eq!(service.scaling, Scaling::default());
    assert_eq!((service.scaling.min_replicas, service.scaling.initial_scale), (1, 1));
    assert_eq!(service.batching, Batching::default());
    assert_eq!(service.activation, Activation::default());
    assert_eq!(service.container_concurrency, None);
    assert_eq!(service.timeout, Duration::from_secs(5));
}

#[test]
fn a_service_that_may_sleep_starts_asleep() {
    let service = only(&format!("{}    minReplicas: 0\n", minimal("")));
    assert_eq!(service.scaling.initial_scale, 0);
}

#[test]
fn the_target_is_the_fields_then_the_annotations_then_the_hard_limit() {
    let annotated = "  annotations: {autoscaling.knative.dev/target: \"20.5\"}\n";
    for (annotations, fields, target) in [
        ("", "", 100.0),
        ("", "    containerConcurrency: 7\n", 7.0),
        ("", "    containerConcurrency: 0\n", 100.0),
        (annotated, "", 20.5),
        (annotated, "    scaleTarget: 5\n", 5.0),
        (annotated, "    containerConcurrency: 7\n", 7.0),
        ("", "    scaleTarget: 50\n    containerConcurrency: 7\n", 7.0),
    ] {
        let service = only(&format!("{}{fields}", minimal(annotations)));
        assert_eq!(service.scaling.target, target, "{annotations}{fields}");
    }
}

#[test]
fn annotations_of_the_predictor_go_before_those_of_the_object() {
    let text = minimal("  annotations: {autoscaling.knative.dev/window: 10s, pilotlight.dev/queue-size: \"7\"}\n")
        + "    annotations: {autoscaling.knative.dev/window: 20s}\n";
    let service = only(&text);
    assert_eq!(service.scaling.stable_window, Duration::from_secs(20));
    assert_eq!(service.batching.queue_size, 7);
}

#[test]
fn the_old_onnx_key_is_read_as_a_model() {
    let text = minimal("")
        .replace("model:", "onnx:")
        .replace("      modelFormat: {name: onnx}\n", "");
    assert_eq!(only(&text).storage, Storage::Local("/srv/iris.onnx".into()));
}

#[test]
fn json_is_yaml() {
    let service = only(GOOD);
    let json = serde_json::to_string_pretty(&service.object).expect("JSON");
    let mut again = only(&json.replace("/srv/m.yaml", ""));
    again.source = service.source.clone();
    assert_eq!(again.scaling, service.scaling);
    assert_eq!(again.object, service.object);
}

#[test]
fn a_broken_document_hides_no_other() {
    let text = format!(
        "{}---\n{{ broken: [\n---\n{}",
        minimal(""),
        minimal("").replace("iris", "other")
    );
    let parsed = parse(&text, Path::new("/srv/m.yaml"));
    let names: Vec<&str> = parsed.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["iris", "other"]);
    assert_eq!(parsed.faults.len(), 1);
    assert_eq!(parsed.services[1].source.line, 13);
}

#[test]
fn nothing_is_no_manifest_and_no_fault() {
    for text in ["", "\n", "# only a comment\n", "---\n---\n", "null"] {
        assert_eq!(parse(text, Path::new("m.yaml")), Parsed::default(), "{text:?}");
    }
}

#[test]
fn json_beside_manifests_that_is_none_says_nothing() {
    for text in [
        r#"{"instances": [[1]]}"#,
        "[1, 2",
        &format!("[{}0]", "1, ".repeat(60_000)),
    ] {
        assert_eq!(parse(text, Path::new("input.json")), Parsed::default());
        assert_ne!(parse(text, Path::new("input.yaml")), Parsed::default());
    }
    let forgotten = r#"{"kind": "InferenceService", "metadata": {"name": "iris"}}"#;
    assert!(!parse(forgotten, Path::new("iris.json")).faults.is_empty());
}

#[test]
fn a_stopped_service_has_no_replica_at_all() {
    let text =
        minimal("  annotations: {serving.kserve.io/stop: \"true\"}\n") + "    minReplicas: 2\n    maxReplicas: 3\n";
    let scaling = only(&text).scaling;
    assert_eq!(
        (scaling.min_replicas, scaling.max_replicas, scaling.initial_scale),
        (0, Some(0), 0)
    );
    assert_eq!(only(&text.replace("true", "false")).scaling.max_replicas, Some(3));
}

#[test]
fn a_gpu_is_asked_for_by_resources_and_computes_as_the_annotation_says() {
    let with = |model: &str, annotations: &str| {
        let text = minimal(annotations).replace("storageUri: iris.onnx", &format!("storageUri: iris.onnx\n{model}"));
        let parsed = parse(&text, Path::new("/srv/m.yaml"));
        assert_eq!(parsed.faults, []);
        (parsed.services[0].devices.clone(), parsed.warnings)
    };
    let gpu = "      resources: {limits: {nvidia.com/gpu: 1}}";
    let (devices, warnings) = with(gpu, "  annotations: {pilotlight.dev/precision: bf16}\n");
    assert_eq!((devices.gpus, devices.precision), (1, "bf16"));
    assert_eq!(warnings, [], "a GPU is given, not ignored");
    let (devices, _) = with("", "");
    assert_eq!((devices.gpus, devices.precision), (0, "f32"));
    let (devices, warnings) = with("      resources: {limits: {cpu: 1}}", "");
    assert_eq!((devices.gpus, warnings.len()), (0, 1));
}

#[test]
fn a_precision_that_there_is_not_is_a_fault() {
    let text = minimal("  annotations: {pilotlight.dev/precision: fp16}\n");
    let faults = parse(&text, Path::new("/srv/m.yaml")).faults;
    assert!(
        faults[0].to_string().contains("`bf16`") || faults[0].to_string().contains("bf16"),
        "{faults:?}"
    );
}
