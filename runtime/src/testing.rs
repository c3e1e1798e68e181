//! Models and devices for the tests of this crate.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use pilotlight_engine::{Data, DataType, Dim, Labels, RunError, Signature, Tensor, TensorInfo};
use tokio::task::JoinHandle;

use crate::app::{App, Stage};
use crate::config::{Config, ModelControl};
use crate::executor::execute;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::models::{Origin, Repository};
use crate::scheduler::{Device, Run, Scheduler};

/// A model file: iris, one input of four floats.
pub(crate) fn iris() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples/iris.onnx")
}

pub(crate) fn info(name: &str, datatype: DataType, shape: Vec<Dim>) -> TensorInfo {
    TensorInfo {
        name: name.into(),
        datatype,
        shape: Some(shape),
        labels: None,
    }
}

pub(crate) fn signature(inputs: Vec<TensorInfo>, outputs: Vec<TensorInfo>) -> Signature {
    Signature { inputs, outputs }
}

pub(crate) fn n() -> Dim {
    Dim::Symbol("N".into())
}

type Body = dyn Fn(Vec<Tensor>) -> Result<Vec<Tensor>, RunError> + Send + Sync;

/// A model made of a closure that counts its runs.
pub(crate) struct Mock {
    signature: Signature,
    body: Box<Body>,
    pure: bool,
    pub(crate) runs: AtomicUsize,
}

impl Mock {
    pub(crate) fn new(
        signature: Signature,
        body: impl Fn(Vec<Tensor>) -> Result<Vec<Tensor>, RunError> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            signature,
            body: Box::new(body),
            pure: true,
            runs: AtomicUsize::new(0),
        })
    }

    /// One that must not run again, and fails where a value is negative.
    pub(crate) fn impure(model: Arc<Self>) -> Arc<Self> {
        let signature = model.signature.clone();
        let body = move |inputs: Vec<Tensor>| {
            let negative = matches!(inputs[0].data(), Data::F32(x) if x.iter().any(|x| *x < 0.0));
            if negative {
                return Err(RunError::Node {
                    node: "n".into(),
                    op: "Op".into(),
                    reason: "negative".into(),
                });
            }
            (model.body)(inputs)
        };
        Arc::new(Self {
            signature,
            body: Box::new(body),
            pure: false,
            runs: AtomicUsize::new(0),
        })
    }

    /// `[N, width]` of any type in, the same out.
    pub(crate) fn echo(datatype: DataType, width: usize) -> Arc<Self> {
        let shape = vec![n(), Dim::Fixed(width)];
        Self::new(
            signature(
                vec![info("x", datatype, shape.clone())],
                vec![info("y", datatype, shape)],
            ),
            Ok,
        )
    }

    /// A classifier of `[N, 2]`: the class is the larger column's index, the scores are `[0.25, 0.75]` around it.
    pub(crate) fn classifier(labels: Option<Labels>) -> Arc<Self> {
        let mut scores = info("probabilities", DataType::F32, vec![n(), Dim::Fixed(2)]);
        scores.labels = labels;
        let input = info("X", DataType::F32, vec![n(), Dim::Fixed(2)]);
        Self::new(
            signature(vec![input], vec![info("label", DataType::I64, vec![n()]), scores]),
            |inputs| {
                let Data::F32(x) = inputs[0].data() else {
                    unreachable!("declared FP32")
                };
                let labels: Vec<i64> = x.chunks(2).map(|row| i64::from(row[1] > row[0])).collect();
                let scores = labels
                    .iter()
                    .flat_map(|&l| if l == 1 { [0.25, 0.75] } else { [0.75, 0.25] })
                    .collect();
                let rows = labels.len();
                Ok(vec![
                    Tensor::new(vec![rows], Data::I64(labels)).expect("one label a row"),
                    Tensor::new(vec![rows, 2], Data::F32(scores)).expect("two scores a row"),
                ])
            },
        )
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

impl Model for Mock {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn platform(&self) -> &'static str {
        "burn_onnx"
    }

    fn is_pure(&self) -> bool {
        self.pure
    }

    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, RunError> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        (self.body)(inputs)
    }
}

/// Executes a run within the call that starts it: no thread, so paused clocks stay in hand.
pub(crate) struct Inline;

impl Device for Inline {
    fn start(&self, run: Run) {
        let mut next = Some(run);
        while let Some(run) = next {
            next = execute(run);
        }
    }
}

/// Executes at once until `hold`; from then on keeps runs until the test lets them go.
#[derive(Clone, Default)]
pub(crate) struct Manual {
    runs: Arc<Mutex<Vec<Run>>>,
    held: Arc<AtomicBool>,
}

impl Manual {
    /// Keeps the runs that start from now on.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// Number of requests in the run on the device.
    pub(crate) fn running(&self) -> Option<usize> {
        self.runs.lock().last().map(|run| run.jobs.len())
    }

    /// Executes the run on the device; the next one then stands there.
    pub(crate) fn finish(&self) {
        let run = self.runs.lock().pop().expect("a run on the device");
        if let Some(next) = execute(run) {
            self.runs.lock().push(next);
        }
    }
}

impl Device for Manual {
    fn start(&self, run: Run) {
        if !self.held.load(Ordering::SeqCst) {
            return Inline.start(run);
        }
        let mut runs = self.runs.lock();
        assert!(runs.is_empty(), "two runs at a time");
        runs.push(run);
    }
}

/// What answers requests in a test, and its parts.
pub(crate) struct Bench {
    pub(crate) app: Arc<App>,
    pub(crate) repository: Repository,
    pub(crate) scheduler: Scheduler,
    pub(crate) metrics: Arc<Metrics>,
}

/// A reply, read.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The error's code, which must be the same in the body and the header.
    pub(crate) fn code(&self) -> &str {
        let code = self.header("x-pilotlight-reason").unwrap_or_default();
        let body: serde_json::Value = serde_json::from_str(&self.body).expect("errors are JSON");
        assert_eq!(body["code"], code);
        assert!(!body["error"].as_str().unwrap_or_default().is_empty());
        assert_eq!(self.header("content-type"), Some("application/json"));
        code
    }
}

impl Bench {
    /// Serves these models; a loader finds them under their names as paths.
    pub(crate) async fn new(config: Config, device: impl Device, models: &[(&str, Arc<Mock>)]) -> Self {
        let (scheduler, metrics) = scheduler(&config, device);
        let files: HashMap<PathBuf, Arc<Mock>> = models.iter().map(|(n, m)| (n.into(), Arc::clone(m))).collect();
        let loader = move |path: &Path| -> Result<Arc<dyn Model>, String> {
            assert!(!path.ends_with("panics"), "as asked");
            let model = files
                .get(path)
                .ok_or_else(|| format!("can't read {}", path.display()))?;
            Ok(Arc::clone(model) as Arc<dyn Model>)
        };
        let repository = Repository::new(Box::new(loader), scheduler.clone(), Arc::clone(&metrics));
        for (name, _) in models {
            repository.load(name, Origin::file(name)).await.expect("the mock loads");
        }
        let app = App::new(repository.clone(), scheduler.clone(), Arc::clone(&metrics), config);
        app.enter(Stage::Serving);
        Self {
            app: Arc::new(app),
            repository,
            scheduler,
            metrics,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Seen {
        call(&self.app, "GET", path, "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Seen {
        call(&self.app, "POST", path, body).await
    }

    /// Posts in the background and lets it get as far as it can.
    pub(crate) async fn start(&self, path: &str, body: &str) -> JoinHandle<Seen> {
        let (app, path, body) = (Arc::clone(&self.app), path.to_owned(), body.to_owned());
        let task = tokio::spawn(async move { call(&app, "POST", &path, &body).await });
        settle().await;
        task
    }

    /// Whether the series with these labels, whatever others they have, add up to the value.
    #[track_caller]
    pub(crate) fn assert_metric(&self, line: &str) {
        let text = self.metrics.render();
        let (wanted, value) = line.rsplit_once(' ').expect("a series and its value");
        let (name, labels) = wanted.trim_end_matches('}').split_once('{').unwrap_or((wanted, ""));
        let labels: Vec<&str> = labels.split(',').filter(|label| !label.is_empty()).collect();
        let matches = |line: &&str| {
            let series = line.rsplit_once(' ').map_or("", |(series, _)| series);
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            found == name && labels.iter().all(|label| rest.contains(label))
        };
        let values = text
            .lines()
            .filter(matches)
            .filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok());
        let sum: f64 = values.sum();
        assert_eq!(Ok(sum), value.parse(), "{line} is missing in\n{text}");
    }
}

/// Lets every task get as far as it can without time passing.
pub(crate) async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn call(app: &App, method: &str, path: &str, body: &str) -> Seen {
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .body(body)
        .expect("a valid request");
    let (head, body) = app.handle(request).await.into_parts();
    let body = body.collect().await.expect("replies are whole").to_bytes();
    Seen {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    }
}

pub(crate) fn config() -> Config {
    Config {
        container_concurrency: 0,
        max_batch_size: 32,
        max_latency: Duration::ZERO,
        priority_levels: 1,
        default_priority: 1,
        preferred_batch_sizes: Vec::new(),
        adaptive_batching: false,
        model_control: ModelControl::None,
        model_repository: None,
        queue_size: 1000,
        queue_bytes: 1 << 30,
        ready_queue_limit: 100,
        request_timeout: Duration::from_secs(5),
        drain_delay: Duration::ZERO,
        drain_timeout: Duration::from_secs(30),
        max_body_bytes: 1 << 20,
        max_connections: 64,
        standby_key: None,
        assigned_model: None,
    }
}

pub(crate) fn scheduler(config: &Config, device: impl Device) -> (Scheduler, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    (Scheduler::new(config, device, Arc::clone(&metrics)), metrics)
}
