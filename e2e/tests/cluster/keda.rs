//! An application of KEDA's HTTP add-on where no KEDA runs. The whole list of the add-on is in `e2e/keda`.

use pilotlight_e2e::{
    client::{self, flowers_v1},
    cluster::{Cluster, Namespace, PATIENCE, infer_flowers},
    places, until,
};
use serde_json::json;

/// An activator and a controller of their own, for this namespace only, so that those of the platform are as without KEDA.
fn parts(namespace: &str, image: &str) -> String {
    let deployment = |name: &str, args: &str, ports: &str| {
        format!(
            r"apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      serviceAccountName: keda
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
        - name: {name}
          image: {image}
          args: [{args}, --keda, --watch-namespace, {namespace}, --namespace, {namespace}]
          env:
            - {{name: KEDA_HTTP_WATCH_NAMESPACE, value: {namespace}}}
            - {{name: KEDA_HTTP_OPERATOR_WATCH_NAMESPACE, value: {namespace}}}
            - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
          ports: [{ports}]
          readinessProbe: {{httpGet: {{path: /readyz, port: 9090}}, periodSeconds: 1}}
          securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
---
"
        )
    };
    let access = format!(
        r"apiVersion: v1
kind: ServiceAccount
metadata: {{name: keda, namespace: {namespace}}}
---
# What each part needs is `manifests/install/overlays/keda/access.yaml`; its roles are for the whole cluster.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}}
subjects: [{{kind: ServiceAccount, name: keda, namespace: {namespace}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: pilotlight-activator, namespace: {namespace}}}
spec:
  selector: {{app: interceptor}}
  ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: admin, port: 9090}}]
---
"
    );
    access
        + &deployment("interceptor", "activator", "{containerPort: 8080}")
        + &deployment("operator", "controller", "")
}

/// An application: any program that speaks HTTP; this one is a runtime, which nobody here knows to be one.
fn application(namespace: &str, image: &str) -> String {
    format!(
        r"apiVersion: apps/v1
kind: Deployment
metadata: {{name: app, namespace: {namespace}}}
spec:
  replicas: 0
  selector: {{matchLabels: {{app: app}}}}
  template:
    metadata: {{labels: {{app: app}}}}
    spec:
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
        - name: app
          image: {image}
          args: [runtime, --model, iris=/models/iris.onnx, --http-address, 0.0.0.0:8080]
          readinessProbe: {{httpGet: {{path: /v2/health/ready, port: 8080}}, periodSeconds: 1}}
          volumeMounts: [{{name: models, mountPath: /models, readOnly: true}}]
          securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
      volumes: [{{name: models, persistentVolumeClaim: {{claimName: models, readOnly: true}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: app, namespace: {namespace}}}
spec:
  selector: {{app: app}}
  ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: kubernetes.io/h2c}}]
---
apiVersion: http.keda.sh/v1beta1
kind: InterceptorRoute
metadata: {{name: app, namespace: {namespace}}}
spec:
  target: {{service: app, portName: http}}
  rules: [{{hosts: [app.test]}}]
  scalingMetric: {{concurrency: {{targetValue: 100}}}}
  timeouts: {{readiness: 180s}}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {{name: app, namespace: {namespace}}}
spec:
  scaleTargetRef: {{name: app}}
  maxReplicaCount: 2
  cooldownPeriod: 3
  pollingInterval: 1
  triggers:
    - {{type: external-push, metadata: {{scalerAddress: 'any:9090', interceptorRoute: app}}}}
"
    )
}

#[tokio::test]
async fn an_application_of_the_add_on_goes_from_zero_and_back_without_keda() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "keda").await;
    let kinds = places::root().join("manifests/install/overlays/keda/crds");
    let kinds = format!("apply --server-side -k {}", kinds.display());
    cluster.kubectl().must(&kinds).await;
    let controller = "--namespace pilotlight-system deployment pilotlight-controller";
    let image = cluster
        .kubectl()
        .get(controller, "{.spec.template.spec.containers[0].image}")
        .await;
    cluster.kubectl().apply(&parts(home.name(), &image)).await;
    cluster.kubectl().apply(&application(home.name(), &image)).await;
    for part in ["interceptor", "operator"] {
        home.kubectl(&format!("rollout status deployment/{part} --timeout=240s"))
            .await;
    }
    let replicas = async || home.kubectl("get deployment app -o jsonpath={.spec.replicas}").await;
    let address = home
        .kubectl("get service pilotlight-activator -o jsonpath={.spec.clusterIP}")
        .await;
    let url = format!("http://{address}/v1/models/iris:predict");
    until("its route is known", PATIENCE, async || {
        tokio::net::TcpStream::connect((address.as_str(), 80)).await.is_ok()
            && client::post_to_host(&url, Some("app.test"), &flowers_v1()).await.status == 200
    })
    .await;
    // Asked again and again: a slow look finds an idle one at zero.
    until("it has a pod", PATIENCE, async || {
        client::post_to_host(&url, Some("app.test"), &flowers_v1()).await.status == 200 && replicas().await == "1"
    })
    .await;

    until("it is at zero", PATIENCE, async || replicas().await == "0").await;
    let address = address.parse().expect("a Service has an address");
    assert_eq!(
        infer_flowers(address, "app.test", "iris").await.unwrap(),
        [1, 1],
        "by gRPC, from zero"
    );
    let answer = client::post_to_host(&url, Some("app.test"), &flowers_v1()).await;
    assert_eq!(answer.json(), json!({ "predictions": [1, 1] }));
    until("it is at zero again", PATIENCE, async || replicas().await == "0").await;
    cluster
        .kubectl()
        .must(&format!("delete clusterrolebinding {}", home.name()))
        .await;
}
