use serde_json::json;

use super::*;
use crate::kubernetes::testing::{onnx, runtime, service};

fn settings() -> Settings {
    Settings {
        image: "pilotlight:1".to_owned(),
        gpu_image: Some("pilotlight:1-cuda".to_owned()),
        drain_delay: std::time::Duration::from_secs(3),
    }
}

fn owner() -> Owner {
    Owner {
        name: "iris".to_owned(),
        namespace: "shop".to_owned(),
        uid: "u".to_owned(),
    }
}

fn plan(service: &Service) -> DeploymentPlan {
    deployment(service, &Runtime::Own, &settings(), &owner(), None).expect("a plan")
}

fn container(plan: &DeploymentPlan) -> &Value {
    &plan.object["spec"]["template"]["spec"]["containers"][0]
}

#[test]
fn a_deployment_is_called_labelled_and_ported_as_kserve_s_and_has_no_replicas() {
    let plan = plan(&onnx(json!({ "minReplicas": 0 })));
    let object = &plan.object;
    assert_eq!(object["metadata"]["name"], "iris-predictor");
    assert_eq!(
        object["spec"]["selector"]["matchLabels"],
        json!({ "app": "isvc.iris-predictor" })
    );
    assert!(object["spec"].get("replicas").is_none());
    let labels = &object["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["serving.kserve.io/inferenceservice"], "iris");
    assert_eq!(labels["component"], "predictor");
    assert_eq!(labels["pilotlight.dev/revision"], plan.revision.as_str());
    assert_eq!(container(&plan)["name"], "kserve-container");
    assert_eq!(container(&plan)["ports"][0]["containerPort"], 8080);
    assert_eq!(object["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u");
    assert_eq!(plan.initial, 0);
}

#[test]
fn the_model_of_a_claim_is_mounted_read_only_and_named_on_the_command_line() {
    let plan = plan(&onnx(json!({ "containerConcurrency": 2, "timeout": 30 })));
    let spec = &plan.object["spec"]["template"]["spec"];
    let volume =
        json!({ "name": "kserve-model", "persistentVolumeClaim": { "claimName": "models", "readOnly": true } });
    assert!(spec["volumes"].as_array().unwrap().contains(&volume));
    let arguments: Vec<_> = container(&plan)["args"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let line = arguments.join(" ");
    assert!(
        line.starts_with("runtime --model iris=/mnt/models/iris.onnx --http-address 0.0.0.0:8080"),
        "{line}"
    );
    assert!(
        line.contains("--request-timeout-ms 30000 --drain-delay-ms 3000"),
        "{line}"
    );
    let limit = json!({ "name": "CONTAINER_CONCURRENCY", "value": "2" });
    assert_eq!(container(&plan)["env"], json!([limit]));
    assert_eq!(spec["terminationGracePeriodSeconds"], 38);
}

#[test]
fn remote_models_are_fetched_by_the_runtime_and_images_are_mounted() {
    let of = |uri: &str| {
        plan(&service(
            json!({ "model": { "modelFormat": { "name": "onnx" }, "storageUri": uri } }),
        ))
    };
    let remote = of("s3://bucket/iris.onnx");
    assert_eq!(container(&remote)["args"][2], "iris=s3://bucket/iris.onnx");
    let image = of("oci://registry.example.com/iris:1");
    let volume = json!({ "name": "kserve-model", "image": {
        "reference": "registry.example.com/iris:1", "pullPolicy": "IfNotPresent",
    } });
    assert!(
        image.object["spec"]["template"]["spec"]["volumes"]
            .as_array()
            .unwrap()
            .contains(&volume)
    );
    assert_eq!(container(&image)["args"][2], "iris=/mnt/models");
}

#[test]
fn the_user_s_pod_fields_go_before_ours_and_lists_are_extended() {
    let given = service(json!({
        "nodeSelector": { "disk": "ssd" },
        "tolerations": [{ "key": "gpu" }],
        "terminationGracePeriodSeconds": 7,
        "volumes": [{ "name": "extra", "emptyDir": {} }],
        "securityContext": { "runAsUser": 1000 },
        "model": {
            "modelFormat": { "name": "onnx" },
            "storageUri": "pvc://models/iris.onnx",
            "volumeMounts": [{ "name": "extra", "mountPath": "/extra" }],
            "resources": { "limits": { "nvidia.com/gpu": 1 } },
            "env": [{ "name": "MAX_BATCH_SIZE", "value": "4" }],
        },
    }));
    let plan = plan(&given);
    let spec = &plan.object["spec"]["template"]["spec"];
    assert_eq!(spec["nodeSelector"]["disk"], "ssd");
    assert_eq!(spec["terminationGracePeriodSeconds"], 7);
    assert_eq!(spec["securityContext"]["runAsUser"], 1000);
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    assert_eq!(spec["volumes"].as_array().unwrap().len(), 3);
    let main = container(&plan);
    assert_eq!(main["image"], "pilotlight:1-cuda");
    assert_eq!(main["resources"], json!({ "limits": { "nvidia.com/gpu": 1 } }));
    assert_eq!(main["volumeMounts"].as_array().unwrap().len(), 3);
    let args = main["args"].as_array().unwrap();
    assert!(args.windows(2).any(|pair| pair == ["--device", "cuda"]), "{args:?}");
    assert_eq!(main["env"][0]["name"], "CUDA_CACHE_PATH");
    assert!(!main["args"].as_array().unwrap().contains(&"--max-batch-size".into()));
}

#[test]
fn a_serving_runtime_is_filled_in_and_overlaid_as_in_kserve() {
    let given = service(json!({ "model": {
        "modelFormat": { "name": "sklearn" },
        "storageUri": "pvc://models/iris",
        "args": ["--workers=2"],
        "env": [{ "name": "A", "value": "user" }],
        "image": "server:2",
    } }));
    let chosen = Runtime::Serving {
        runtime: runtime("server", json!([{ "name": "sklearn" }])),
        cluster: true,
    };
    let plan = deployment(&given, &chosen, &settings(), &owner(), None).unwrap();
    let main = container(&plan);
    assert_eq!(
        main["args"],
        json!(["--model_name=iris", "--http_port=8080", "--workers=2"])
    );
    assert_eq!(main["image"], "server:2");
    assert_eq!(main["env"][0], json!({ "name": "A", "value": "user" }));
    assert_eq!(main["volumeMounts"][0]["mountPath"], "/mnt/models");
    // No path to ask over HTTP: the pod's own condition has to do.
    assert_eq!(plan.object["metadata"]["annotations"]["pilotlight.dev/probe-path"], "");
}

#[test]
fn a_custom_container_serves_under_the_well_known_name() {
    let given = service(json!({ "containers": [{
        "name": "mine", "image": "x", "readinessProbe": { "httpGet": { "path": "/healthy", "port": 8080 } },
    }] }));
    let plan = deployment(&given, &Runtime::Custom, &settings(), &owner(), None).unwrap();
    assert_eq!(container(&plan)["name"], "kserve-container");
    assert_eq!(
        plan.object["metadata"]["annotations"]["pilotlight.dev/probe-path"],
        "/healthy"
    );
}

#[test]
fn only_what_needs_new_pods_changes_the_revision() {
    let first = plan(&onnx(json!({ "minReplicas": 0 }))).revision;
    assert_eq!(
        first,
        plan(&onnx(json!({ "minReplicas": 3, "maxReplicas": 9 }))).revision
    );
    assert_ne!(first, plan(&onnx(json!({ "timeout": 60 }))).revision);
}

#[test]
fn a_canary_has_names_of_its_own_and_its_share() {
    let canary = deployment(
        &onnx(json!({})),
        &Runtime::Own,
        &settings(),
        &owner(),
        Some(("canary", 10)),
    )
    .unwrap();
    assert_eq!(canary.object["metadata"]["name"], "iris-predictor-canary");
    assert_eq!(
        canary.object["metadata"]["annotations"]["pilotlight.dev/traffic-percent"],
        "10"
    );
    assert_eq!(
        canary.object["spec"]["selector"]["matchLabels"]["app"],
        "isvc.iris-predictor-canary"
    );
}

#[test]
fn the_service_leads_to_the_activators_and_a_headless_one_to_the_pods() {
    let around = surroundings(&onnx(json!({})), &owner());
    let public = &around.present[0];
    assert_eq!(
        (&public["metadata"]["name"], &public["spec"]["ports"][0]["port"]),
        (&json!("iris-predictor"), &json!(80))
    );
    assert!(public["spec"].get("selector").is_none());
    let private = &around.present[1];
    assert_eq!(private["metadata"]["name"], "iris-predictor-private");
    assert_eq!(private["spec"]["clusterIP"], "None");
    let activator = Endpoint {
        address: "10.0.0.7".to_owned(),
        ready: true,
        serving: true,
        terminating: false,
        node: Some("n".to_owned()),
        zone: None,
    };
    let slice = endpoint_slice(&owner(), &[activator], false);
    assert_eq!(
        slice["metadata"]["labels"]["kubernetes.io/service-name"],
        "iris-predictor"
    );
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["10.0.0.7"]));
    assert_eq!(slice["ports"][0]["name"], public["spec"]["ports"][0]["name"]);
}

#[test]
fn a_disruption_budget_stands_only_where_two_replicas_are_promised() {
    assert_eq!(
        surroundings(&onnx(json!({ "minReplicas": 1 })), &owner()).absent.len(),
        1
    );
    let two = surroundings(&onnx(json!({ "minReplicas": 2 })), &owner());
    assert_eq!(two.absent, []);
    assert_eq!(two.present[2]["spec"]["maxUnavailable"], 1);
}

/// A service of a claim with this name, model file and number of standby pods.
fn shared(name: &str, file: &str, standby: u32) -> (Service, Owner) {
    let mut service = onnx(json!({}));
    service.name = name.to_owned();
    service.scaling.standby = Some(standby);
    service.storage = pilotlight_manifests::Storage::Claim {
        claim: "models".to_owned(),
        path: file.to_owned(),
    };
    let owner = Owner {
        name: name.to_owned(),
        ..owner()
    };
    (service, owner)
}

#[test]
fn services_whose_pods_are_the_same_but_for_the_model_share_standby_pods() {
    let plan =
        |(service, owner): (Service, Owner)| deployment(&service, &Runtime::Own, &settings(), &owner, None).unwrap();
    let (one, two) = (plan(shared("a", "a.onnx", 1)), plan(shared("b", "b.onnx", 0)));
    let wish = one.standby.clone().unwrap();
    assert_eq!(wish.group, two.standby.as_ref().unwrap().group);
    assert_eq!((wish.count, two.standby.as_ref().unwrap().count), (1, 0));
    assert_eq!(
        one.object["metadata"]["annotations"]["pilotlight.dev/standby-group"],
        wish.group
    );
    let template = &one.object["spec"]["template"];
    assert_eq!(
        template["metadata"]["annotations"]["pilotlight.dev/model"],
        "a=/mnt/models/a.onnx"
    );
    assert_ne!(one.revision, two.revision, "another model is another revision");
    let main = container(&one);
    assert!(!main["args"].to_string().contains("a.onnx"), "{main}");
    assert_eq!(main["readinessProbe"]["httpGet"]["path"], "/v2/health/ready");
    assert_eq!(
        main["env"][0]["valueFrom"]["fieldRef"]["fieldPath"],
        "metadata.annotations['pilotlight.dev/model']"
    );

    let (mut other, owner) = shared("c", "c.onnx", 1);
    other.timeout = std::time::Duration::from_mins(1);
    assert_ne!(
        plan((other, owner)).standby.unwrap().group,
        wish.group,
        "another pod is another group"
    );
    assert_eq!(self::plan(&onnx(json!({}))).standby, None);
}

#[test]
fn a_group_belongs_to_all_its_services_and_is_no_service_s_pod() {
    let (service, owner) = shared("a", "a.onnx", 2);
    let wish = deployment(&service, &Runtime::Own, &settings(), &owner, None)
        .unwrap()
        .standby
        .unwrap();
    let owners = [("a", "1"), ("b", "2")].map(|(name, uid)| (name.to_owned(), uid.to_owned()));
    let object = standby(&Group {
        namespace: "shop".to_owned(),
        name: wish.group.clone(),
        count: wish.count,
        spec: wish.spec,
        owners: owners.into(),
    });
    assert_eq!(object["metadata"]["name"], format!("pilotlight-standby-{}", wish.group));
    assert_eq!(object["metadata"]["ownerReferences"].as_array().unwrap().len(), 2);
    assert_eq!(object["spec"]["replicas"], 2);
    let labels = object["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
    assert_eq!(labels.keys().collect::<Vec<_>>(), ["pilotlight.dev/standby-group"]);
}
