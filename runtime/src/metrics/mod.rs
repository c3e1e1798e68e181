//! What the runtime counts: our own family, and beside it those of KServe and Triton for the dashboards there are. Names and
//! buckets are constants; a test pins the list.

mod kserve;
mod triton;

use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use tokio::time::Instant;

use self::kserve::{KServe, ModelKServe};
use self::triton::{ModelTriton, Triton};
use crate::scheduler::Timings;

/// Inference requests by `model` and how they ended (`status`, the values of `Outcome`).
pub const REQUESTS_TOTAL: &str = "ml_requests_total";
/// Seconds from arrival to the answer, for inference requests (`model`).
pub const REQUEST_LATENCY: &str = "ml_request_latency_seconds";
/// Rows in each run (`model`).
pub const BATCH_SIZE: &str = "ml_batch_size";
/// Requests that wait for the device.
pub const QUEUE_SIZE: &str = "ml_queue_size";
/// Inference requests between arrival and answer.
pub const ACTIVE_REQUESTS: &str = "ml_active_requests";
/// Seconds that a model took to load and warm up (`model`).
pub const LOAD_TIME: &str = "model_load_time_seconds";
/// Requests that wait for the device (`model`).
pub const QUEUE_DEPTH: &str = "inference_queue_depth";
/// Requests that are on the device now.
pub const ACTIVE_INFERENCES: &str = "active_inferences";
/// Seconds of a request by `model` and `phase`, the values of `Phase`.
pub const PHASE_SECONDS: &str = "ml_request_phase_seconds";
/// Requests that left the queue without a run, by `model` and `reason`, the values of `Drop`.
pub const DROPPED_TOTAL: &str = "ml_requests_dropped_total";

const LATENCY_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
const PHASE_BUCKETS: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0,
];
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// How an inference request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Success,
    /// Refused for what the client sent.
    ClientError,
    /// Refused, the queue being full.
    QueueFull,
    /// Refused, its deadline being out of reach.
    Deadline,
    /// Past its deadline.
    Timeout,
    /// The client left.
    Cancelled,
    /// Failed for another reason.
    Error,
}

impl Outcome {
    const ALL: [Self; 7] = [
        Self::Success,
        Self::ClientError,
        Self::QueueFull,
        Self::Deadline,
        Self::Timeout,
        Self::Cancelled,
        Self::Error,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ClientError => "client_error",
            Self::QueueFull => "queue_full",
            Self::Deadline => "deadline_unreachable",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Error => "error",
        }
    }
}

/// A part of a request's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// From the queue's door to the start of its run.
    Queue,
    /// Body to tensors, and putting the tensors of a batch together.
    Input,
    /// The model's run.
    Compute,
    /// Taking the batch apart, and tensors to body.
    Output,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Queue, Self::Input, Self::Compute, Self::Output];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Input => "input",
            Self::Compute => "compute",
            Self::Output => "output",
        }
    }
}

/// Why a request left the queue, or never entered it, without a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// Its client left.
    Cancelled,
    /// Its deadline passed.
    Deadline,
    /// The queue was full.
    QueueFull,
    /// Its deadline was out of reach.
    Unreachable,
}

impl Drop {
    const ALL: [Self; 4] = [Self::Cancelled, Self::Deadline, Self::QueueFull, Self::Unreachable];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
            Self::QueueFull => "queue_full",
            Self::Unreachable => "deadline_unreachable",
        }
    }
}

/// Every series of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    latency: HistogramVec,
    phases: HistogramVec,
    drops: IntCounterVec,
    batch_size: HistogramVec,
    queue_depth: IntGaugeVec,
    load_time: GaugeVec,
    kserve: KServe,
    triton: Triton,
    pub(crate) queue_size: IntGauge,
    pub(crate) active_inferences: IntGauge,
    active_requests: IntGauge,
    /// Of requests that lead to no model: the label is empty, so that no client makes series by making up names.
    nobody: Ours,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All series at zero in a registry of their own.
    pub fn new() -> Self {
        let registry = Registry::new();
        let counters =
            |name, help, labels: &[&str]| register(&registry, IntCounterVec::new(Opts::new(name, help), labels));
        let gauge = |name, help| register(&registry, IntGauge::new(name, help));
        let histograms = |name, help, buckets: &[f64], labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            register(&registry, HistogramVec::new(options, labels))
        };
        let requests = counters(
            REQUESTS_TOTAL,
            "Inference requests by how they ended.",
            &["model", "status"],
        );
        let drops = counters(
            DROPPED_TOTAL,
            "Requests that left the queue without a run, by reason.",
            &["model", "reason"],
        );
        let latency = histograms(
            REQUEST_LATENCY,
            "Seconds from arrival to the answer.",
            LATENCY_BUCKETS,
            &["model"],
        );
        let phases = histograms(
            PHASE_SECONDS,
            "Seconds of a request by phase.",
            PHASE_BUCKETS,
            &["model", "phase"],
        );
        Self {
            nobody: Ours::of("", &requests, &drops, &latency, &phases),
            requests,
            drops,
            latency,
            phases,
            batch_size: histograms(BATCH_SIZE, "Rows in each run.", BATCH_BUCKETS, &["model"]),
            queue_depth: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(QUEUE_DEPTH, "Requests of a model that wait for the device."),
                    &["model"],
                ),
            ),
            load_time: register(
                &registry,
                GaugeVec::new(
                    Opts::new(LOAD_TIME, "Seconds that a model took to load and warm up."),
                    &["model"],
                ),
            ),
            kserve: KServe::new(&registry),
            triton: Triton::new(&registry),
            queue_size: gauge(QUEUE_SIZE, "Requests that wait for the device."),
            active_inferences: gauge(ACTIVE_INFERENCES, "Requests that are on the device now."),
            active_requests: gauge(ACTIVE_REQUESTS, "Inference requests between arrival and answer."),
            registry,
        }
    }

    /// The series of one model. Loaded again, it goes on counting where it was.
    pub fn of(&self, model: &str, version: &str) -> ModelMetrics {
        ModelMetrics {
            ours: Ours::of(model, &self.requests, &self.drops, &self.latency, &self.phases),
            batch_size: self.batch_size.with_label_values(&[model]),
            depth: self.queue_depth.with_label_values(&[model]),
            load_time: self.load_time.with_label_values(&[model]),
            kserve: self.kserve.of(model),
            triton: self.triton.of(model, version),
        }
    }

    /// Forgets the series of a model that was unloaded.
    pub(crate) fn forget(&self, model: &str, version: &str) {
        // Absent where the model never got that far; so in the calls below.
        let _ = self.queue_depth.remove_label_values(&[model]);
        let _ = self.load_time.remove_label_values(&[model]);
        let _ = self.batch_size.remove_label_values(&[model]);
        let _ = self.latency.remove_label_values(&[model]);
        for outcome in Outcome::ALL {
            let _ = self.requests.remove_label_values(&[model, outcome.as_str()]);
        }
        for phase in Phase::ALL {
            let _ = self.phases.remove_label_values(&[model, phase.as_str()]);
        }
        for reason in Drop::ALL {
            let _ = self.drops.remove_label_values(&[model, reason.as_str()]);
        }
        self.kserve.forget(model);
        self.forget_version(model, version);
    }

    /// Forgets what is counted by version, where another version took its place.
    pub(crate) fn forget_version(&self, model: &str, version: &str) {
        self.triton.forget(model, version);
    }

    /// Every series as it stands.
    pub fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.registry.gather()
    }

    /// The text format of Prometheus, version 0.0.4.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.gather()).unwrap_or_default()
    }
}

/// The series of our own that every inference request has.
#[derive(Debug)]
struct Ours {
    requests: [IntCounter; Outcome::ALL.len()],
    drops: [IntCounter; Drop::ALL.len()],
    latency: Histogram,
    phases: [Histogram; Phase::ALL.len()],
}

impl Ours {
    fn of(
        model: &str,
        requests: &IntCounterVec,
        drops: &IntCounterVec,
        latency: &HistogramVec,
        phases: &HistogramVec,
    ) -> Self {
        Self {
            requests: Outcome::ALL.map(|o| requests.with_label_values(&[model, o.as_str()])),
            drops: Drop::ALL.map(|d| drops.with_label_values(&[model, d.as_str()])),
            latency: latency.with_label_values(&[model]),
            phases: Phase::ALL.map(|p| phases.with_label_values(&[model, p.as_str()])),
        }
    }
}

/// The series of one model.
#[derive(Debug)]
pub struct ModelMetrics {
    ours: Ours,
    batch_size: Histogram,
    depth: IntGauge,
    pub(crate) load_time: Gauge,
    kserve: ModelKServe,
    triton: ModelTriton,
}

impl ModelMetrics {
    /// Requests came into the queue (or, where negative, left it).
    pub(crate) fn waiting(&self, change: i64) {
        self.depth.add(change);
        self.triton.pending.add(change);
    }

    /// Counts a request that left without a run.
    pub(crate) fn dropped(&self, reason: Drop) {
        self.ours.drops[reason as usize].inc();
    }

    /// A run of this many rows starts.
    pub(crate) fn starts(&self, rows: usize) {
        self.batch_size.observe(rows as f64);
    }

    /// A run of this many rows gave outputs.
    pub(crate) fn ran(&self, rows: usize) {
        self.triton.ran(rows);
    }

    /// A request was answered `total` after it arrived. `input` and `output` are what it took to read it and to write its answer.
    pub(crate) fn answered(&self, total: Duration, run: &Timings, input: Duration, output: Duration) {
        let whole = Timings {
            input: run.input + input,
            output: run.output + output,
            ..*run
        };
        for (phase, time) in [
            (Phase::Queue, whole.queue),
            (Phase::Input, whole.input),
            (Phase::Compute, whole.compute),
            (Phase::Output, whole.output),
        ] {
            self.ours.phases[phase as usize].observe(time.as_secs_f64());
        }
        self.kserve.answered(run, input, output);
        self.triton.answered(total, &whole);
    }
}

/// Registers what was just made. Both steps fail on a bad or doubled name only, and the names are the constants above.
fn register<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("the constant name and labels are valid");
    registry
        .register(Box::new(collector.clone()))
        .expect("every name is registered once");
    collector
}

/// Counts one inference request from arrival on. Dropped without `finish`, it counts as cancelled: that is what happens to
/// the handler of a client that left.
pub(crate) struct Meter<'a> {
    metrics: &'a Metrics,
    model: Option<Arc<ModelMetrics>>,
    arrived: Instant,
    outcome: Outcome,
}

impl<'a> Meter<'a> {
    pub(crate) fn start(metrics: &'a Metrics, arrived: Instant) -> Self {
        metrics.active_requests.inc();
        Self {
            metrics,
            model: None,
            arrived,
            outcome: Outcome::Cancelled,
        }
    }

    /// The request is for this model.
    pub(crate) fn model(&mut self, model: &Arc<ModelMetrics>) {
        self.model = Some(Arc::clone(model));
    }

    pub(crate) fn finish(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl std::ops::Drop for Meter<'_> {
    fn drop(&mut self) {
        self.metrics.active_requests.dec();
        let ours = self.model.as_ref().map_or(&self.metrics.nobody, |model| &model.ours);
        ours.latency.observe(self.arrived.elapsed().as_secs_f64());
        ours.requests[self.outcome as usize].inc();
        if let Some(model) = &self.model {
            model.triton.ended(self.outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_series_is_pinned() {
        let metrics = Metrics::new();
        metrics.of("iris", "1").load_time.set(0.25);
        let names: Vec<String> = metrics.registry.gather().iter().map(|f| f.name().to_owned()).collect();
        assert_eq!(
            names,
            [
                "active_inferences",
                "inference_queue_depth",
                "ml_active_requests",
                "ml_batch_size",
                "ml_queue_size",
                "ml_request_latency_seconds",
                "ml_request_phase_seconds",
                "ml_requests_dropped_total",
                "ml_requests_total",
                "model_load_time_seconds",
                "nv_inference_compute_infer_duration_us",
                "nv_inference_compute_input_duration_us",
                "nv_inference_compute_output_duration_us",
                "nv_inference_count",
                "nv_inference_exec_count",
                "nv_inference_pending_request_count",
                "nv_inference_queue_duration_us",
                "nv_inference_request_duration_us",
                "nv_inference_request_failure",
                "nv_inference_request_success",
                "request_explain_seconds",
                "request_postprocess_seconds",
                "request_predict_seconds",
                "request_preprocess_seconds",
            ]
        );
        let text = metrics.render();
        for line in [
            "ml_requests_total{model=\"\",status=\"success\"} 0",
            "ml_requests_total{model=\"iris\",status=\"cancelled\"} 0",
            "ml_requests_dropped_total{model=\"iris\",reason=\"deadline\"} 0",
            "ml_request_phase_seconds_count{model=\"iris\",phase=\"compute\"} 0",
            "model_load_time_seconds{model=\"iris\"} 0.25",
            "request_predict_seconds_bucket{model_name=\"iris\",le=\"0.075\"} 0",
            "nv_inference_request_failure{model=\"iris\",reason=\"REJECTED\",version=\"1\"} 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn an_unfinished_request_counts_as_cancelled() {
        let metrics = Metrics::new();
        let model = Arc::new(metrics.of("m", "1"));
        drop(Meter::start(&metrics, Instant::now()));
        let mut meter = Meter::start(&metrics, Instant::now());
        meter.model(&model);
        drop(meter);
        let mut meter = Meter::start(&metrics, Instant::now());
        meter.model(&model);
        meter.finish(Outcome::Success);
        let text = metrics.render();
        for line in [
            "ml_requests_total{model=\"\",status=\"cancelled\"} 1",
            "ml_requests_total{model=\"m\",status=\"cancelled\"} 1",
            "ml_requests_total{model=\"m\",status=\"success\"} 1",
            "nv_inference_request_failure{model=\"m\",reason=\"CANCELED\",version=\"1\"} 1",
            "nv_inference_request_success{model=\"m\",version=\"1\"} 1",
            "ml_active_requests 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn an_answered_request_counts_in_every_family() {
        let metrics = Metrics::new();
        let model = metrics.of("m", "3");
        let ms = Duration::from_millis;
        let run = Timings {
            queue: ms(1),
            input: ms(2),
            compute: ms(40),
            output: ms(3),
        };
        model.ran(8);
        model.answered(ms(60), &run, ms(6), ms(5));
        let text = metrics.render();
        for line in [
            "ml_request_phase_seconds_sum{model=\"m\",phase=\"input\"} 0.008",
            "request_preprocess_seconds_sum{model_name=\"m\"} 0.006",
            "request_predict_seconds_sum{model_name=\"m\"} 0.046",
            "request_postprocess_seconds_sum{model_name=\"m\"} 0.005",
            "nv_inference_count{model=\"m\",version=\"3\"} 8",
            "nv_inference_exec_count{model=\"m\",version=\"3\"} 1",
            "nv_inference_request_duration_us{model=\"m\",version=\"3\"} 60000",
            "nv_inference_compute_output_duration_us{model=\"m\",version=\"3\"} 8000",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_forgotten_model_leaves_no_series() {
        let metrics = Metrics::new();
        metrics.of("gone", "1").waiting(1);
        metrics.forget("gone", "1");
        assert!(!metrics.render().contains("gone"));
    }
}
