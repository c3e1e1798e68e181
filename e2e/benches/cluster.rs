//! How long a request to a model without a pod takes on a real cluster, where the time goes, and what the cluster itself takes.
//!
//! The floor is a bare server on the same cluster: from the call that scales its Deployment from zero to its first answer on the
//! pod's own address. Wakes, wakes that claim a standby pod, and floors take turns, so that all meet the same machine. The boundaries
//! of the phases are what the API server tells a watch, the times at which the node started the processes, which it knows to 10 ms,
//! and what the activator says of load, probe and first byte.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use parking_lot::Mutex;
use pilotlight_e2e::{
    LIMIT,
    bench::{figure, median, percentile},
    cluster::{Cluster, Namespace},
    eventually, processes,
};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::time::Instant;

const ROUNDS: usize = 5;
const PROXY: &str = "http://127.0.0.1:8001";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "bench").await;
    let _proxy = cluster.kubectl().proxy(8001);
    let api = Api::new(home.name());
    api.up().await;
    let shared = home
        .service("ready", "iris.onnx")
        .annotation("pilotlight.dev/standby", "1");
    home.deploy(&[home.service("iris", "iris.onnx"), shared]).await;
    for name in ["iris", "ready"] {
        home.flowers(name).send().await.expect("the right answer");
    }
    bare(cluster, &home).await;

    let (mut wakes, mut claims, mut floors) = (Vec::new(), Vec::new(), Vec::new());
    let mut phases = vec![Vec::new(); PHASES.len()];
    let mut claimed = vec![Vec::new(); CLAIM_PHASES.len()];
    for _ in 0..ROUNDS {
        home.asleep("iris").await;
        floors.push(floor(&api, &home).await);
        let (spent, split) = wake(&api, cluster, &home).await;
        wakes.push(spent);
        push(&mut phases, &split);
        armed(&home).await;
        let (spent, split) = claim(&api, &home).await;
        claims.push(spent);
        push(&mut claimed, &split);
    }

    println!("{ROUNDS} wakes of iris from zero on the cluster, as the client sees them, and as many of a bare server");
    let (wake, floor) = (median(&mut wakes), median(&mut floors));
    figure("cluster-wake-p50-ms", wake);
    figure("cluster-wake-max-ms", percentile(&mut wakes, 1.0));
    figure("cluster-floor-p50-ms", floor);
    figure("cluster-floor-max-ms", percentile(&mut floors, 1.0));
    figure("cluster-wake-to-floor", wake / floor);
    for (name, spent) in PHASES.into_iter().zip(&mut phases) {
        figure(&format!("cluster-wake-{name}-p50-ms"), median(spent));
    }
    println!("{ROUNDS} wakes of iris that claim a standby pod, in the same rounds");
    figure("cluster-standby-p50-ms", median(&mut claims));
    figure("cluster-standby-max-ms", percentile(&mut claims, 1.0));
    for (name, spent) in CLAIM_PHASES.into_iter().zip(&mut claimed) {
        figure(&format!("cluster-standby-{name}-p50-ms"), median(spent));
    }
}

fn push(all: &mut [Vec<f64>], split: &[f64]) {
    for (all, one) in all.iter_mut().zip(split) {
        all.push(*one);
    }
}

/// Request to scale written; pod made; bound to the node; sandbox's process; runtime's process; model loading begins; loaded; seen by
/// the activator's probe; answer.
const PHASES: [&str; 9] = [
    "decision-and-write",
    "create",
    "schedule",
    "sandbox",
    "start",
    "runtime-start",
    "load",
    "probe",
    "first-byte",
];

/// Request to Deployment locked; pod relabelled; model loading begins; loaded; seen by the activator's probe; answer.
const CLAIM_PHASES: [&str; 6] = ["decision-and-lock", "relabel", "assign", "load", "probe", "first-byte"];

/// What the activator says of the wake of a service that ended last: load, probe, first byte, in milliseconds. Of several activators
/// the one that has it.
async fn told(home: &Namespace, service: &str) -> [f64; 3] {
    let backend = format!("{}/{service}", home.name());
    let list = "--namespace pilotlight-system get pods --selector app=pilotlight-activator -o json";
    let list: Value = serde_json::from_str(&home.cluster().kubectl().must(list).await).unwrap_or_default();
    let addresses = list["items"].as_array().into_iter().flatten();
    let addresses = addresses.filter_map(|pod| pod["status"]["podIP"].as_str());
    for address in addresses {
        let url = format!("http://{address}:9090/api/v1/wakes");
        let Ok(reply) = reqwest::get(url).await else { continue };
        let wakes: Value = reply.json().await.unwrap_or_default();
        let phases = &wakes["backends"][&backend];
        if phases.is_object() {
            let phase = |name: &str| phases[name].as_f64().unwrap_or_default() * 1e3;
            return [phase("load"), phase("ready_seen"), phase("first_byte")];
        }
    }
    panic!("no activator knows of a wake of {backend}");
}

/// The marks and, of the rest from the last of them to `end`, what the activator tells.
async fn split<const MARKS: usize>(home: &Namespace, service: &str, marks: [Instant; MARKS], end: Instant) -> Vec<f64> {
    let mut split: Vec<f64> = marks.windows(2).map(|pair| milliseconds(pair[0], pair[1])).collect();
    let told = told(home, service).await;
    split.push(milliseconds(marks[MARKS - 1], end) - told.iter().sum::<f64>());
    split.extend(told);
    split
}

/// One wake in milliseconds, whole and in its phases.
async fn wake(api: &Api, cluster: &Cluster, home: &Namespace) -> (f64, Vec<f64>) {
    let deployments = api.watch("apis/apps/v1", "deployments").await;
    let pods = api.watch("api/v1", "pods").await;
    let start = Instant::now();
    home.flowers("iris").send().await.expect("the right answer");
    let end = Instant::now();

    let written = deployments.first(|it| it["metadata"]["name"] == "iris-predictor" && it["spec"]["replicas"] == 1);
    let of_iris = |it: &Value| it["metadata"]["labels"]["serving.kserve.io/inferenceservice"] == "iris";
    let created = pods.first(|it| of_iris(it));
    let bound = pods.first(|it| of_iris(it) && it["spec"]["nodeName"].is_string());
    let uid = home.pods("iris").await.pop().expect("the pod that answered").uid;
    let process = |name| cluster.own().process_of(&uid, name).map(processes::started);
    let sandbox = process("pause").expect("the sandbox runs");
    let runtime = process("pilotlight").expect("the runtime runs");

    let marks = [start, written, created, bound, sandbox, runtime];
    (milliseconds(start, end), split(home, "iris", marks, end).await)
}

/// Waits until the service `ready` sleeps, and its next wake finds a standby pod.
async fn armed(home: &Namespace) {
    home.asleep("ready").await;
    eventually("its wake may claim a pod", LIMIT, async || {
        let deployment = home.kubectl("get deployment ready-predictor -o yaml").await;
        deployment.contains("pilotlight.dev/standby-armed").then_some(())
    })
    .await;
    home.kubectl("wait pods --selector pilotlight.dev/standby-group --for=condition=Ready --timeout=60s")
        .await;
    // Both activators know it too by then.
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// One wake that claims a pod, in milliseconds, whole and in its phases.
async fn claim(api: &Api, home: &Namespace) -> (f64, Vec<f64>) {
    let deployments = api.watch("apis/apps/v1", "deployments").await;
    let pods = api.watch("api/v1", "pods").await;
    let start = Instant::now();
    home.flowers("ready").send().await.expect("the right answer");
    let end = Instant::now();

    let marked = |it: &Value| it["metadata"]["annotations"]["pilotlight.dev/standby-claiming"].is_string();
    let locked = deployments.first(|it| it["metadata"]["name"] == "ready-predictor" && marked(it));
    let relabelled = pods.first(|it| it["metadata"]["labels"]["serving.kserve.io/inferenceservice"] == "ready");
    (
        milliseconds(start, end),
        split(home, "ready", [start, locked, relabelled], end).await,
    )
}

/// Negative where the node's coarse clock has it so.
fn milliseconds(from: Instant, to: Instant) -> f64 {
    (to.saturating_duration_since(from).as_secs_f64() - from.saturating_duration_since(to).as_secs_f64()) * 1e3
}

/// A Deployment of a server that does nothing but answer, with no pod.
async fn bare(cluster: &Cluster, home: &Namespace) {
    let controller = "--namespace pilotlight-system deployment pilotlight-controller";
    let image = cluster
        .kubectl()
        .get(controller, "{.spec.template.spec.containers[0].image}")
        .await;
    cluster
        .kubectl()
        .apply(&format!(
            r#"apiVersion: apps/v1
kind: Deployment
metadata: {{name: bare, namespace: {}}}
spec:
  replicas: 0
  selector: {{matchLabels: {{app: bare}}}}
  template:
    metadata: {{labels: {{app: bare}}}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
        - name: bare
          image: {image}
          args: [runtime, --http-address, "0.0.0.0:8080"]
          securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"#,
            home.name()
        ))
        .await;
}

/// From the scale call to the first answer of the bare server, in milliseconds; then scales it back.
async fn floor(api: &Api, home: &Namespace) -> f64 {
    let pods = api.watch("api/v1", "pods").await;
    let start = Instant::now();
    api.scale("bare", 1).await;
    let address = eventually("the bare pod has an address", LIMIT, async || {
        let seen = pods.find(|it| it["metadata"]["labels"]["app"] == "bare" && it["status"]["podIP"].is_string());
        seen.map(|it| it["status"]["podIP"].as_str().unwrap_or_default().to_owned())
    })
    .await;
    let url = format!("http://{address}:8080/v2/health/live");
    while !matches!(api.client.get(&url).send().await, Ok(reply) if reply.status() == 200) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let spent = milliseconds(start, Instant::now());
    api.scale("bare", 0).await;
    eventually("the bare pod is gone", LIMIT, async || {
        home.kubectl("get pods --selector app=bare -o name")
            .await
            .is_empty()
            .then_some(())
    })
    .await;
    spent
}

/// The API server, through `kubectl proxy`.
struct Api {
    client: Client,
    namespace: String,
}

impl Api {
    fn new(namespace: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .no_proxy()
            .build()
            .expect("a client needs no resources");
        Self {
            client,
            namespace: namespace.to_owned(),
        }
    }

    async fn up(&self) {
        eventually("kubectl proxy answers", LIMIT, async || {
            self.client.get(format!("{PROXY}/readyz")).send().await.ok()
        })
        .await;
    }

    async fn scale(&self, deployment: &str, replicas: u32) {
        let url = format!(
            "{PROXY}/apis/apps/v1/namespaces/{}/deployments/{deployment}/scale",
            self.namespace
        );
        let request = self.client.request(Method::PATCH, url);
        let request = request.header("content-type", "application/merge-patch+json");
        let body = json!({ "spec": { "replicas": replicas } }).to_string();
        let reply = request.body(body).send().await.expect("the API server answers");
        assert!(reply.status().is_success(), "{reply:?}");
    }

    /// Watches from now on.
    async fn watch(&self, group: &str, kind: &str) -> Watch {
        let url = format!("{PROXY}/{group}/namespaces/{}/{kind}", self.namespace);
        let list = self.client.get(&url).send().await.expect("the API server answers");
        let list: Value = list.json().await.expect("it answers JSON");
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let url = format!("{url}?watch=1&resourceVersion={version}");
        let reply = self.client.get(url).send().await.expect("the API server answers");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(read(reply, seen.clone()));
        Watch { seen, task }
    }
}

async fn read(reply: reqwest::Response, seen: Arc<Mutex<Vec<(Instant, Value)>>>) {
    let mut stream = reply.bytes_stream();
    let mut kept = Vec::new();
    while let Some(Ok(bytes)) = stream.next().await {
        kept.extend_from_slice(&bytes);
        while let Some(end) = kept.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = kept.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).unwrap_or_default();
            seen.lock().push((Instant::now(), event["object"].clone()));
        }
    }
}

/// The states of objects since the watch began, each with the time at which it was seen. Ends on drop.
struct Watch {
    seen: Arc<Mutex<Vec<(Instant, Value)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    fn first(&self, is: impl Fn(&Value) -> bool) -> Instant {
        let seen = self.seen.lock();
        let found = seen.iter().find(|(_, object)| is(object));
        found.expect("the watch has seen it before the answer came").0
    }

    fn find(&self, is: impl Fn(&Value) -> bool) -> Option<Value> {
        let seen = self.seen.lock();
        seen.iter()
            .find(|(_, object)| is(object))
            .map(|(_, object)| object.clone())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
