//! What very many services cost one controller and one activator on a real API server: time to settle, calls, memory.
//!
//! `COUNT` services (default 10,000), all at zero: no pod is started, so the node bounds nothing. Each makes a Deployment, two
//! Services and an EndpointSlice of ours, and what Kubernetes' own controllers add. `WRITES` sets the controller's bound on writes a
//! second (default: the product's own), and after `LIMIT` seconds (default 900) it says how far it came.
//!
//! Then the steady state, in which nothing happens: watches are open and nothing else is asked. Then a restart of the controller,
//! which finds everything as it should be: it lists once and writes nothing.

use std::{collections::BTreeMap, fs, time::Duration};

use futures_util::{StreamExt as _, stream};
use pilotlight_e2e::{
    bench::figure,
    cluster::{ACTIVATOR, CONTROLLER, Cluster, Namespace, SYSTEM},
    eventually, processes,
};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const PROXY: &str = "http://127.0.0.1:8001";
/// Services that are created at once.
const CREATORS: usize = 16;
/// How long a new controller may take to look at everything.
const RESTART: Duration = Duration::from_mins(5);
/// How long nothing happens.
const STEADY: Duration = Duration::from_secs(30);
/// Mebibyte.
const MIB: f64 = 1_048_576.0;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let count = variable("COUNT").unwrap_or(10_000);
    let cluster = Cluster::shared();
    one_of_each(cluster).await;
    let home = Namespace::new(cluster, "fleet").await;
    let _proxy = cluster.kubectl().proxy(8001);
    let mut bench = Bench::new(cluster, home).await;
    println!("{count} services at zero on one controller and one activator");
    bench.memory("empty").await;

    let start = Instant::now();
    bench.create(count).await;
    figure("fleet-create-s", start.elapsed().as_secs_f64());
    let limit = Duration::from_secs(variable("LIMIT").unwrap_or(900));
    let settled = bench.settle(count, start + limit).await;
    figure("fleet-services-settled", settled as f64);
    figure("fleet-settle-s", start.elapsed().as_secs_f64());
    bench.totals(start.elapsed()).await;
    bench.ready(settled).await;
    bench.memory("full").await;
    bench.steady("fleet-steady").await;
    bench.restart(settled).await;
    bench.memory("restarted").await;
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// One controller and one activator, so that a figure is one process's.
async fn one_of_each(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    if let Some(writes) = variable("WRITES") {
        kubectl
            .must(&format!(
                "--namespace {SYSTEM} set env deployment/{CONTROLLER} PILOTLIGHT_WRITES_PER_SECOND={writes}"
            ))
            .await;
    }
    for part in [CONTROLLER, ACTIVATOR] {
        let deployment = format!("--namespace {SYSTEM} deployment/{part}");
        kubectl.must(&format!("scale {deployment} --replicas=1")).await;
        kubectl
            .must(&format!("rollout status {deployment} --timeout=120s"))
            .await;
        eventually("one pod of it is left", pilotlight_e2e::LIMIT, async || {
            let pods = format!("--namespace {SYSTEM} get pods --selector app={part} -o name");
            (kubectl.must(&pods).await.lines().count() == 1).then_some(())
        })
        .await;
    }
}

struct Bench {
    cluster: &'static Cluster,
    home: Namespace,
    client: Client,
    /// What the controller had counted when it was last looked at.
    before: Counts,
}

/// Counters of the controller by series.
type Counts = BTreeMap<String, f64>;

impl Bench {
    async fn new(cluster: &'static Cluster, home: Namespace) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .no_proxy()
            .build()
            .expect("a client needs no resources");
        eventually("kubectl proxy answers", pilotlight_e2e::LIMIT, async || {
            client.get(format!("{PROXY}/readyz")).send().await.ok()
        })
        .await;
        Self {
            cluster,
            home,
            client,
            before: Counts::new(),
        }
    }

    fn services(&self) -> String {
        let namespace = self.home.name();
        format!("{PROXY}/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices")
    }

    async fn create(&self, count: u64) {
        let url = self.services();
        let made = stream::iter(0..count).map(|n| {
            let body = json!({
                "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
                "metadata": { "name": format!("iris-{n}") },
                "spec": { "predictor": { "minReplicas": 0, "model": {
                    "modelFormat": { "name": "onnx" }, "storageUri": "pvc://models/iris.onnx",
                } } },
            });
            let request = self.client.post(&url).header("content-type", "application/json");
            async move {
                request
                    .body(body.to_string())
                    .send()
                    .await
                    .expect("the API server answers")
            }
        });
        let mut made = made.buffer_unordered(CREATORS);
        while let Some(reply) = made.next().await {
            assert!(
                reply.status().is_success(),
                "{}",
                reply.text().await.unwrap_or_default()
            );
        }
    }

    /// Waits until the controller has written the status of each; answers of how many it did.
    async fn settle(&mut self, count: u64, until: Instant) -> u64 {
        let (mut most, mut last, mut written) = (0.0_f64, self.counts().await, 0);
        let mut looked = Instant::now();
        while Instant::now() < until {
            sleep(Duration::from_secs(2)).await;
            let now = self.counts().await;
            let rate = (sum(&now, CALLS) - sum(&last, CALLS)) / looked.elapsed().as_secs_f64();
            (most, last, looked) = (most.max(rate), now, Instant::now());
            written = sum(&last, r#"pilotlight_api_writes_total{kind="Status",result="ok"#) as u64;
            if written >= count {
                break;
            }
        }
        figure("fleet-calls-per-s-most", most);
        written.min(count)
    }

    /// Work and calls since the start.
    async fn totals(&mut self, spent: Duration) {
        let now = self.counts().await;
        let reconciles = sum(&now, "pilotlight_reconciles_total");
        figure("fleet-reconciles", reconciles);
        figure("fleet-reconciles-per-s", reconciles / spent.as_secs_f64());
        figure("fleet-calls", sum(&now, CALLS));
        for verb in VERBS {
            figure(&format!("fleet-calls-{verb}"), sum(&now, &calls(verb)));
        }
        self.before = now;
    }

    /// Asserts that as many are Ready as were settled.
    async fn ready(&self, settled: u64) {
        let mut ready = 0;
        let mut next = String::new();
        loop {
            let url = format!("{}?limit=500&continue={next}", self.services());
            let page = self.client.get(url).send().await.expect("the API server answers");
            let page: Value = page.json().await.expect("it answers JSON");
            let items = page["items"].as_array().cloned().unwrap_or_default();
            let is_ready = |item: &&Value| {
                let conditions = item["status"]["conditions"].as_array();
                conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
            };
            ready += items.iter().filter(is_ready).count() as u64;
            let token = page["metadata"]["continue"].as_str().unwrap_or_default();
            token.clone_into(&mut next);
            if next.is_empty() {
                break;
            }
        }
        figure("fleet-services-ready", ready as f64);
        assert!(ready >= settled, "{settled} were settled");
    }

    async fn steady(&mut self, name: &str) {
        // What Kubernetes' own controllers still do with the fleet shows in objects that are watched; ours follow.
        let before = self.counts().await;
        let (controller, activator) = (self.process(CONTROLLER).await, self.process(ACTIVATOR).await);
        let busy = (cpu(controller), cpu(activator));
        sleep(STEADY).await;
        let after = self.counts().await;
        for verb in VERBS {
            let made = sum(&after, &calls(verb)) - sum(&before, &calls(verb));
            figure(&format!("{name}-calls-{verb}"), made);
        }
        figure(
            &format!("{name}-reconciles"),
            sum(&after, "pilotlight_reconciles_total") - sum(&before, "pilotlight_reconciles_total"),
        );
        figure(
            &format!("{name}-controller-cpu"),
            (cpu(controller) - busy.0) / STEADY.as_secs_f64(),
        );
        figure(
            &format!("{name}-activator-cpu"),
            (cpu(activator) - busy.1) / STEADY.as_secs_f64(),
        );
    }

    /// A new controller looks at everything once.
    async fn restart(&mut self, settled: u64) {
        let process = self.process(CONTROLLER).await;
        let start = Instant::now();
        processes::signal(process, rustix::process::Signal::KILL);
        let counts = loop {
            sleep(Duration::from_secs(1)).await;
            let now = self.try_counts().await.unwrap_or_default();
            if sum(&now, "pilotlight_reconciles_total") as u64 >= settled {
                break now;
            }
            assert!(
                start.elapsed() < RESTART,
                "the new controller did not look at everything"
            );
        };
        figure("fleet-restart-s", start.elapsed().as_secs_f64());
        for verb in VERBS {
            figure(&format!("fleet-restart-calls-{verb}"), sum(&counts, &calls(verb)));
        }
    }

    /// Resident memory of every process that holds the fleet.
    async fn memory(&self, when: &str) {
        for part in [CONTROLLER, ACTIVATOR] {
            let process = self.process(part).await;
            figure(
                &format!("fleet-{when}-{part}-mib"),
                processes::resident_bytes(process) as f64 / MIB,
            );
        }
        let server = self.cluster.own().api_server();
        figure(
            &format!("fleet-{when}-kube-apiserver-mib"),
            processes::resident_bytes(server) as f64 / MIB,
        );
    }

    async fn process(&self, part: &str) -> u32 {
        let pods = format!("--namespace {SYSTEM} pods --selector app={part}");
        eventually("its process runs", pilotlight_e2e::LIMIT, async || {
            let uid = self.cluster.kubectl().get(&pods, "{.items[0].metadata.uid}").await;
            self.cluster.own().process_of(&uid, "pilotlight")
        })
        .await
    }

    async fn counts(&self) -> Counts {
        eventually("the controller shows its metrics", pilotlight_e2e::LIMIT, async || {
            self.try_counts().await
        })
        .await
    }

    async fn try_counts(&self) -> Option<Counts> {
        let pods = format!("--namespace {SYSTEM} pods --selector app={CONTROLLER}");
        let address = self.cluster.kubectl().get(&pods, "{.items[0].status.podIP}").await;
        let reply = self
            .client
            .get(format!("http://{address}:9090/metrics"))
            .send()
            .await
            .ok()?;
        let text = reply.text().await.ok()?;
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Some(series.collect())
    }
}

const CALLS: &str = "pilotlight_api_calls_total";
const VERBS: [&str; 7] = ["list", "watch", "get", "create", "update", "patch", "delete"];

fn calls(verb: &str) -> String {
    format!(r#"{CALLS}{{verb="{verb}""#)
}

fn sum(counts: &Counts, prefix: &str) -> f64 {
    let of_it = counts.iter().filter(|(name, _)| name.starts_with(prefix));
    // The sum of nothing would be shown as -0.
    of_it.fold(0.0, |sum, (_, value)| sum + value)
}

/// Seconds that a process has computed.
fn cpu(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
    let ticks = fields.into_iter().flatten().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
