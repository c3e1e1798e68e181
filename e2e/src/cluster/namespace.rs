//! A namespace for one test: models in a claim, restricted pods, and all of it gone afterwards.

use std::{fmt::Write as _, thread, time::Instant};

use reqwest::Method;
use serde_json::Value;

use super::{ACTIVATOR, CONTROLLER, Cluster, PATIENCE, SYSTEM};
use crate::{Ask, Manifest, client, eventually, until};

/// A pod of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// Whether kubelet reports it ready.
    pub ready: bool,
    /// Whether it is on its way out.
    pub terminating: bool,
}

/// A namespace. Dropping it deletes it; when the test panics, it first prints what is in it and what Pilotlight said.
#[derive(Debug)]
pub struct Namespace {
    cluster: &'static Cluster,
    name: String,
    start: Instant,
}

impl Namespace {
    /// Makes a namespace whose name has `hint` in it, with the model files in the claim `models`.
    pub async fn new(cluster: &'static Cluster, hint: &str) -> Self {
        let name = format!("e2e-{hint}-{}", std::process::id());
        let models = cluster.models().display();
        cluster
            .kubectl()
            .apply(&format!(
                r#"apiVersion: v1
kind: Namespace
metadata: {{name: {name}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: models-{name}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadOnlyMany]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  hostPath: {{path: {models}}}
  claimRef: {{namespace: {name}, name: models}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: models, namespace: {name}}}
spec:
  accessModes: [ReadOnlyMany]
  storageClassName: ""
  volumeName: models-{name}
  resources: {{requests: {{storage: 1Gi}}}}
"#
            ))
            .await;
        // A pod whose claim is not bound yet is only looked at again after some seconds; one without an account is refused.
        for wait in [
            "pvc/models --for=jsonpath={.status.phase}=Bound",
            "serviceaccount/default --for=create",
        ] {
            let wait = format!("--namespace {name} wait {wait} --timeout=240s");
            cluster.kubectl().must(&wait).await;
        }
        Self {
            cluster,
            name,
            start: Instant::now(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster that it is in.
    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    /// A service of the model file `model`, as [`Manifest::new`] makes it, in this namespace, so modest that twenty fit on a node.
    pub fn service(&self, name: &str, model: &str) -> Manifest {
        let manifest = Manifest::new(name, format!("pvc://models/{model}"));
        manifest.namespace(&self.name).requests("10m", "32Mi")
    }

    /// Applies services and waits until each is Ready.
    pub async fn deploy(&self, services: &[Manifest]) {
        let documents: Vec<String> = services.iter().map(Manifest::yaml).collect();
        self.cluster.kubectl().apply(&documents.join("---\n")).await;
        for service in services {
            self.ready(service.name()).await;
        }
    }

    /// Waits until the service is Ready in the generation that was applied last, and every activator knows it: each learns of it by
    /// a watch of its own, and any of them may get the next request.
    pub async fn ready(&self, service: &str) {
        until(&format!("{service} is ready"), PATIENCE, async || {
            let found = self.get(service).await;
            found["status"]["observedGeneration"] == found["metadata"]["generation"]
                && condition(&found, "Ready")["status"] == "True"
        })
        .await;
        until(&format!("every activator knows {service}"), PATIENCE, async || {
            self.is_known(service).await
        })
        .await;
    }

    /// Whether every activator that takes requests has the service's route.
    async fn is_known(&self, service: &str) -> bool {
        let slices = format!("--namespace {SYSTEM} endpointslices --selector kubernetes.io/service-name={ACTIVATOR}");
        let path = "{.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}";
        let addresses = self.cluster.kubectl().get(&slices, path).await;
        let backend = format!("{}/{service}", self.name);
        for address in addresses.split_whitespace() {
            let url = format!("http://{address}:9090/api/v1/snapshot");
            let Ok(reply) = client::send(Method::GET, &url, None, None).await else {
                return false;
            };
            let snapshot: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            if !snapshot["backends"][&backend].is_object() {
                return false;
            }
        }
        !addresses.is_empty()
    }

    /// The InferenceService; null where there is none.
    pub async fn get(&self, service: &str) -> Value {
        let args = format!("{} inferenceservice {service} --ignore-not-found", self.flag());
        let text = self.cluster.kubectl().must(&format!("get {args} -o json")).await;
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The pods of a service, those on their way out included.
    pub async fn pods(&self, service: &str) -> Vec<Pod> {
        let selector = format!("serving.kserve.io/inferenceservice={service}");
        let list = self
            .cluster
            .kubectl()
            .json(&format!("{} pods --selector {selector}", self.flag()))
            .await;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(pod).collect()
    }

    /// Waits until a service has no pod at all.
    pub async fn asleep(&self, service: &str) {
        until(&format!("{service} has no pods"), PATIENCE, async || {
            self.pods(service).await.is_empty()
        })
        .await;
    }

    /// Waits until a service has exactly `count` pods that are ready and none on its way out.
    pub async fn settled(&self, service: &str, count: usize) -> Vec<Pod> {
        eventually(&format!("{service} has {count} ready pods"), PATIENCE, async || {
            let pods = self.pods(service).await;
            let fine = pods.len() == count && pods.iter().all(|pod| pod.ready && !pod.terminating);
            fine.then_some(pods)
        })
        .await
    }

    /// The V1 question of the two flowers for an iris service, by path.
    pub fn flowers(&self, service: &str) -> Ask {
        Ask::flowers(self.predict_url(service))
    }

    /// The address for V1 predictions of a service, by path.
    pub fn predict_url(&self, service: &str) -> String {
        self.cluster
            .url(&format!("/serving/{}/{service}/v1/models/{service}:predict", self.name))
    }

    /// `kubectl` with this namespace; panics, with what it said, where it fails.
    pub async fn kubectl(&self, args: &str) -> String {
        self.cluster.kubectl().must(&format!("{} {args}", self.flag())).await
    }

    fn flag(&self) -> String {
        format!("--namespace {}", self.name)
    }

    fn tell(&self) -> String {
        let seconds = self.start.elapsed().as_secs() + 5;
        let mut told = String::new();
        let questions = [
            format!(
                "{} get inferenceservices,deployments,pods,endpointslices -o wide",
                self.flag()
            ),
            format!("{} get inferenceservices -o yaml", self.flag()),
            format!("{} get events --sort-by=.lastTimestamp", self.flag()),
            format!("--namespace {SYSTEM} get pods -o wide"),
            format!("--namespace {SYSTEM} logs --selector app={CONTROLLER} --since={seconds}s --tail=60 --prefix"),
            format!("--namespace {SYSTEM} logs --selector app={ACTIVATOR} --since={seconds}s --tail=60 --prefix"),
        ];
        for question in questions {
            let answer = self.cluster.kubectl().now(&question, "").unwrap_or_else(|error| error);
            let _ = writeln!(told, "$ kubectl {question}\n{answer}");
        }
        told
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.tell());
        }
        let kubectl = self.cluster.kubectl();
        // What is left ends with the cluster, or in a foreign one is seen by its name.
        let _ = kubectl.now(&format!("delete namespace {} --wait=false", self.name), "");
        let _ = kubectl.now(
            &format!("delete persistentvolume models-{} --wait=false", self.name),
            "",
        );
    }
}

/// A condition of an InferenceService; null where it has none of this type.
pub fn condition<'a>(service: &'a Value, kind: &str) -> &'a Value {
    let conditions = service["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|condition| condition["type"] == kind));
    found.unwrap_or(&Value::Null)
}

fn pod(pod: &Value) -> Pod {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let conditions = pod["status"]["conditions"].as_array();
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    Pod {
        name: text(&pod["metadata"]["name"]),
        uid: text(&pod["metadata"]["uid"]),
        ready: conditions.is_some_and(|all| all.iter().any(ready)),
        terminating: pod["metadata"]["deletionTimestamp"].is_string(),
    }
}
