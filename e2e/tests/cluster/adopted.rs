//! A workload that KServe's controller made: routed, counted, ended when idle and woken, and nothing of it written but its scale.

use pilotlight_e2e::{
    cluster::{Cluster, Namespace, PATIENCE},
    until,
};
use serde_json::Value;

/// The Deployment as KServe's controller writes it for a Standard service, with its labels and field manager.
fn deployment(namespace: &str, image: &str) -> String {
    format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata:
  name: iris-predictor
  namespace: {namespace}
  labels: {{app: isvc.iris-predictor, component: predictor, serving.kserve.io/inferenceservice: iris}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: isvc.iris-predictor}}}}
  template:
    metadata:
      labels: {{app: isvc.iris-predictor, component: predictor, serving.kserve.io/inferenceservice: iris}}
    spec:
      terminationGracePeriodSeconds: 10
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      volumes: [{{name: kserve-pvc-source, persistentVolumeClaim: {{claimName: models}}}}]
      containers:
        - name: kserve-container
          image: {image}
          args: [runtime, --http-address, "0.0.0.0:8080", --model, iris=/mnt/models/iris.onnx]
          ports: [{{containerPort: 8080, protocol: TCP}}]
          readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
          volumeMounts: [{{name: kserve-pvc-source, mountPath: /mnt/models, readOnly: true}}]
          securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"#
    )
}

#[tokio::test]
async fn a_workload_that_kserve_made_is_adopted_and_only_its_scale_is_written() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "adopted").await;
    let controller = "--namespace pilotlight-system deployment pilotlight-controller";
    let path = "{.spec.template.spec.containers[0].image}";
    let image = cluster.kubectl().get(controller, path).await;
    let theirs = deployment(home.name(), &image);
    let apply = "apply --server-side --field-manager=kserve-controller-manager -f -";
    cluster.kubectl().run(apply, &theirs).await.unwrap();
    home.settled("iris", 1).await;
    cluster.kubectl().apply(&home.service("iris", "iris.onnx").yaml()).await;

    until("requests are led to its pod", PATIENCE, async || {
        home.flowers("iris").send().await.is_ok()
    })
    .await;
    home.asleep("iris").await;
    home.flowers("iris").send().await.unwrap();

    let deployment = home
        .kubectl("get deployment iris-predictor -o json --show-managed-fields")
        .await;
    let deployment: Value = serde_json::from_str(&deployment).unwrap();
    let managed = deployment["metadata"]["managedFields"].as_array().unwrap();
    for one in managed.iter().filter(|one| {
        one["manager"]
            .as_str()
            .is_some_and(|name| name.starts_with("pilotlight"))
    }) {
        let fields = one["fieldsV1"].as_object().unwrap();
        let metadata = &one["fieldsV1"]["f:metadata"]["f:annotations"];
        let spec = one["fieldsV1"]["f:spec"]
            .as_object()
            .map(|spec| spec.keys().cloned().collect::<Vec<_>>());
        assert!(spec.is_none_or(|spec| spec == ["f:replicas"]), "{one}");
        assert!(
            fields
                .keys()
                .all(|key| ["f:spec", "f:metadata"].contains(&key.as_str())),
            "{one}"
        );
        assert!(
            metadata
                .as_object()
                .is_none_or(|all| all.keys().all(|key| key.contains("pilotlight.dev"))),
            "{one}"
        );
    }
    assert_eq!(
        home.get("iris").await["status"],
        Value::Null,
        "the status is KServe's to write"
    );
    let services = home
        .kubectl("get services,endpointslices,poddisruptionbudgets -o name")
        .await;
    assert_eq!(services, "", "what is around it is KServe's to make");
}
