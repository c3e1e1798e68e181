//! The way of a service: applied, Ready, asked through every door, left alone, gone to zero, asked again.

use pilotlight_e2e::{
    client::{self, flowers_v1},
    cluster::{Cluster, Namespace, PATIENCE, condition, infer_flowers},
    eventually, until,
};
use serde_json::json;

#[tokio::test]
async fn a_service_in_the_cluster_sleeps_and_the_next_request_is_answered() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "way").await;
    home.deploy(&[home.service("iris", "iris.onnx")]).await;
    // Asked again and again: a slow look finds the pods of an idle service gone.
    until("it is answered by a pod", PATIENCE, async || {
        home.flowers("iris").send().await.unwrap();
        !home.pods("iris").await.is_empty()
    })
    .await;

    home.asleep("iris").await;
    until("the service is Ready and stands by", PATIENCE, async || {
        let asleep = home.get("iris").await;
        condition(&asleep, "Ready")["status"] == "True"
            && asleep["status"]["modelStatus"]["states"]["targetModelState"] == "Standby"
    })
    .await;

    until("the service is loaded", PATIENCE, async || {
        home.flowers("iris").send().await.unwrap();
        home.get("iris").await["status"]["modelStatus"]["states"]["targetModelState"] == "Loaded"
    })
    .await;
}

#[tokio::test]
async fn every_door_in_the_cluster_leads_to_the_same_model() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "doors").await;
    home.deploy(&[home.service("iris", "iris.onnx").min(1)]).await;
    let namespace = home.name().to_owned();
    let right = json!({ "predictions": [1, 1] });

    let by_path = client::post(&home.predict_url("iris"), &flowers_v1()).await;
    assert_eq!(by_path.json(), right);
    let v1 = cluster.url("/v1/models/iris:predict");
    let host = format!("iris.{namespace}.example.com");
    let by_host = client::post_to_host(&v1, Some(&host), &flowers_v1()).await;
    assert_eq!(by_host.json(), right);

    for form in ["", ".svc", ".svc.cluster.local"] {
        let name = format!("iris-predictor.{namespace}{form}");
        let address = cluster
            .resolve(&format!("iris-predictor.{namespace}.svc.cluster.local"))
            .await;
        cluster.reachable(address).await;
        let url = format!("http://{address}/v1/models/iris:predict");
        let by_name = client::post_to_host(&url, Some(&name), &flowers_v1()).await;
        assert_eq!(by_name.json(), right, "{name}");
        assert_eq!(infer_flowers(address, &name, "iris").await.unwrap(), [1, 1], "{name}");
    }
    let activators = cluster
        .resolve("pilotlight-activator.pilotlight-system.svc.cluster.local")
        .await;
    assert_eq!(infer_flowers(activators, &host, "iris").await.unwrap(), [1, 1]);
}

#[tokio::test]
async fn a_pod_asks_a_sleeping_model_by_every_form_of_its_name() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "pod").await;
    home.deploy(&[home.service("iris", "iris.onnx")]).await;
    home.asleep("iris").await;
    let status = home.get("iris").await;
    let address = status["status"]["address"]["url"].clone();
    let full = format!("http://iris-predictor.{}.svc.cluster.local", home.name());
    assert_eq!(address, *full, "{status}");
    let service = home
        .kubectl("get service iris-predictor -o jsonpath={.spec.clusterIP}")
        .await;
    cluster.reachable(service.parse().expect("an address")).await;
    let controller = "--namespace pilotlight-system deployment pilotlight-controller";
    let image = cluster
        .kubectl()
        .get(controller, "{.spec.template.spec.containers[0].image}")
        .await;

    let namespace = home.name();
    let forms = [
        "",
        &format!(".{namespace}"),
        &format!(".{namespace}.svc"),
        &format!(".{namespace}.svc.cluster.local"),
    ];
    let containers = forms.iter().enumerate().map(|(n, form)| {
        format!(
            r#"    - name: client-{n}
      image: {image}
      args: [predict, iris, --namespace, {namespace}, --url, "http://iris-predictor{form}", --data, '{{"instances": [[6.8, 2.8, 4.8, 1.4]]}}']
      securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"#
        )
    });
    let containers: String = containers.collect();
    cluster
        .kubectl()
        .apply(&format!(
            r"apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: {namespace}}}
spec:
  restartPolicy: Never
  securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
{containers}"
        ))
        .await;
    let phase = eventually("the client pod ends", PATIENCE, async || {
        let phase = home.kubectl("get pod client -o jsonpath={.status.phase}").await;
        ["Succeeded", "Failed"].contains(&phase.as_str()).then_some(phase)
    })
    .await;
    for (n, form) in forms.iter().enumerate() {
        let said = home.kubectl(&format!("logs client --container client-{n}")).await;
        assert!(said.contains("predictions"), "{phase}, iris-predictor{form}: {said}");
    }
    assert_eq!(phase, "Succeeded");
}

#[tokio::test]
async fn kubectl_shows_what_kserve_shows() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "columns").await;
    home.deploy(&[home.service("iris", "iris.onnx").min(1)]).await;

    let table = home.kubectl("get isvc").await;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let head = [
        "NAME",
        "URL",
        "READY",
        "PREV",
        "LATEST",
        "PREVROLLEDOUTREVISION",
        "LATESTREADYREVISION",
        "AGE",
    ];
    assert_eq!(lines[0], head, "{table}");
    let url = format!("http://iris-{}.example.com", home.name());
    assert_eq!(lines[1][..3], ["iris", &*url, "True"], "{table}");

    let deployment = home.kubectl("get deployment iris-predictor -o json").await;
    let deployment: serde_json::Value = serde_json::from_str(&deployment).unwrap();
    assert_eq!(
        deployment["metadata"]["ownerReferences"][0]["name"], "iris",
        "{deployment}"
    );
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["name"], "kserve-container", "{deployment}");
}

#[tokio::test]
async fn a_deleted_service_leaves_nothing_behind() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "deletion").await;
    home.deploy(&[home.service("iris", "iris.onnx").min(1)]).await;
    home.kubectl("delete isvc iris --wait=false").await;
    until("every object of the service is gone", PATIENCE, async || {
        let kinds = "deployments,services,endpointslices,poddisruptionbudgets,pods";
        home.kubectl(&format!("get {kinds} -o name")).await.is_empty()
    })
    .await;
    until("its route is gone", PATIENCE, async || {
        client::post(&home.predict_url("iris"), &flowers_v1()).await.status == 404
    })
    .await;
}
