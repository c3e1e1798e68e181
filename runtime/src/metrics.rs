//! What the runtime counts. One struct; names and buckets are constants; a test pins the list.

use std::time::Duration;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use tokio::time::Instant;

/// Inference requests by how they ended (`status`, the values of `Outcome`).
pub const REQUESTS_TOTAL: &str = "ml_requests_total";
/// Seconds from arrival to the answer, for inference requests.
pub const REQUEST_LATENCY: &str = "ml_request_latency_seconds";
/// Rows in each run.
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
/// Seconds of a request by `phase`, the values of `Phase`.
pub const PHASE_SECONDS: &str = "ml_request_phase_seconds";
/// Requests that left the queue without a run, by `reason`, the values of `Drop`.
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
    /// Past its deadline.
    Timeout,
    /// The client left.
    Cancelled,
    /// Failed for another reason.
    Error,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::Success,
        Self::ClientError,
        Self::QueueFull,
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
}

impl Drop {
    const ALL: [Self; 3] = [Self::Cancelled, Self::Deadline, Self::QueueFull];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
            Self::QueueFull => "queue_full",
        }
    }
}

/// Every series of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: [IntCounter; Outcome::ALL.len()],
    phases: [Histogram; Phase::ALL.len()],
    drops: [IntCounter; Drop::ALL.len()],
    latency: Histogram,
    queue_depth: IntGaugeVec,
    load_time: GaugeVec,
    pub(crate) batch_size: Histogram,
    pub(crate) queue_size: IntGauge,
    pub(crate) active_inferences: IntGauge,
    active_requests: IntGauge,
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
        let counters = |name, help, label| register(&registry, IntCounterVec::new(Opts::new(name, help), &[label]));
        let gauge = |name, help| register(&registry, IntGauge::new(name, help));
        let histogram = |name, help, buckets: &[f64]| {
            register(
                &registry,
                Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())),
            )
        };
        let requests = counters(REQUESTS_TOTAL, "Inference requests by how they ended.", "status");
        let drops = counters(
            DROPPED_TOTAL,
            "Requests that left the queue without a run, by reason.",
            "reason",
        );
        let phases = register(
            &registry,
            HistogramVec::new(
                HistogramOpts::new(PHASE_SECONDS, "Seconds of a request by phase.").buckets(PHASE_BUCKETS.to_vec()),
                &["phase"],
            ),
        );
        Self {
            requests: Outcome::ALL.map(|o| requests.with_label_values(&[o.as_str()])),
            phases: Phase::ALL.map(|p| phases.with_label_values(&[p.as_str()])),
            drops: Drop::ALL.map(|d| drops.with_label_values(&[d.as_str()])),
            latency: histogram(REQUEST_LATENCY, "Seconds from arrival to the answer.", LATENCY_BUCKETS),
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
            batch_size: histogram(BATCH_SIZE, "Rows in each run.", BATCH_BUCKETS),
            queue_size: gauge(QUEUE_SIZE, "Requests that wait for the device."),
            active_inferences: gauge(ACTIVE_INFERENCES, "Requests that are on the device now."),
            active_requests: gauge(ACTIVE_REQUESTS, "Inference requests between arrival and answer."),
            registry,
        }
    }

    /// Adds one request's time in a phase.
    pub(crate) fn phase(&self, phase: Phase, time: Duration) {
        self.phases[phase as usize].observe(time.as_secs_f64());
    }

    /// Counts a request that left without a run.
    pub(crate) fn dropped(&self, reason: Drop) {
        self.drops[reason as usize].inc();
    }

    /// The queue depth of one model.
    pub(crate) fn depth_of(&self, model: &str) -> IntGauge {
        self.queue_depth.with_label_values(&[model])
    }

    /// The load time of one model.
    pub(crate) fn load_time_of(&self, model: &str) -> Gauge {
        self.load_time.with_label_values(&[model])
    }

    /// Forgets the series of a model that was unloaded.
    pub(crate) fn forget(&self, model: &str) {
        // Absent where the model never got that far.
        let _ = self.queue_depth.remove_label_values(&[model]);
        let _ = self.load_time.remove_label_values(&[model]);
    }

    /// The text format of Prometheus, version 0.0.4.
    pub fn render(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
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
    arrived: Instant,
    outcome: Outcome,
}

impl<'a> Meter<'a> {
    pub(crate) fn start(metrics: &'a Metrics, arrived: Instant) -> Self {
        metrics.active_requests.inc();
        Self {
            metrics,
            arrived,
            outcome: Outcome::Cancelled,
        }
    }

    pub(crate) fn finish(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl std::ops::Drop for Meter<'_> {
    fn drop(&mut self) {
        self.metrics.active_requests.dec();
        self.metrics.latency.observe(self.arrived.elapsed().as_secs_f64());
        self.metrics.requests[self.outcome as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_series_is_pinned() {
        let metrics = Metrics::new();
        metrics.depth_of("iris").set(0);
        metrics.load_time_of("iris").set(0.25);
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
            ]
        );
        let text = metrics.render();
        for line in [
            "ml_requests_total{status=\"success\"} 0",
            "ml_requests_total{status=\"cancelled\"} 0",
            "ml_requests_dropped_total{reason=\"deadline\"} 0",
            "ml_request_phase_seconds_count{phase=\"compute\"} 0",
            "model_load_time_seconds{model=\"iris\"} 0.25",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn an_unfinished_request_counts_as_cancelled() {
        let metrics = Metrics::new();
        drop(Meter::start(&metrics, Instant::now()));
        Meter::start(&metrics, Instant::now()).finish(Outcome::Success);
        let text = metrics.render();
        assert!(text.contains("ml_requests_total{status=\"cancelled\"} 1"));
        assert!(text.contains("ml_requests_total{status=\"success\"} 1"));
        assert!(text.contains("ml_active_requests 0"));
    }

    #[test]
    fn a_forgotten_model_leaves_no_series() {
        let metrics = Metrics::new();
        metrics.depth_of("gone").inc();
        metrics.forget("gone");
        assert!(!metrics.render().contains("gone"));
    }
}
