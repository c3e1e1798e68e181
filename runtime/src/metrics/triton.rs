//! Triton's family: the names, labels and meanings of its metrics endpoint, so that its dashboards work.

use std::time::Duration;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{Outcome, register};
use crate::scheduler::Timings;

const LABELS: &[&str] = &["model", "version"];

/// Why a request failed, in Triton's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// Refused, or left the queue at its deadline.
    Rejected,
    Canceled,
    Backend,
    Other,
}

impl Reason {
    const ALL: [(Self, &str); 4] = [
        (Self::Rejected, "REJECTED"),
        (Self::Canceled, "CANCELED"),
        (Self::Backend, "BACKEND"),
        (Self::Other, "OTHER"),
    ];

    fn of(outcome: Outcome) -> Option<Self> {
        Some(match outcome {
            Outcome::Success => return None,
            Outcome::QueueFull | Outcome::Deadline | Outcome::Timeout => Self::Rejected,
            Outcome::Cancelled => Self::Canceled,
            Outcome::Error => Self::Backend,
            Outcome::ClientError => Self::Other,
        })
    }
}

/// The families.
#[derive(Debug)]
pub(super) struct Triton {
    success: IntCounterVec,
    failure: IntCounterVec,
    inferences: IntCounterVec,
    executions: IntCounterVec,
    pending: IntGaugeVec,
    /// Request, queue, input, infer, output.
    durations: [IntCounterVec; 5],
}

impl Triton {
    pub(super) fn new(registry: &Registry) -> Self {
        let counter = |name: &str, help: &str| register(registry, IntCounterVec::new(Opts::new(name, help), LABELS));
        Self {
            success: counter("nv_inference_request_success", "Requests that were answered."),
            failure: register(
                registry,
                IntCounterVec::new(
                    Opts::new("nv_inference_request_failure", "Requests that failed, by reason."),
                    &["model", "reason", "version"],
                ),
            ),
            inferences: counter("nv_inference_count", "Rows that were run; a batch of n counts n."),
            executions: counter("nv_inference_exec_count", "Runs; a batch counts once."),
            pending: register(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "nv_inference_pending_request_count",
                        "Requests that wait for the device.",
                    ),
                    LABELS,
                ),
            ),
            durations: [
                counter(
                    "nv_inference_request_duration_us",
                    "Microseconds of answered requests, arrival to answer.",
                ),
                counter(
                    "nv_inference_queue_duration_us",
                    "Microseconds of answered requests in the queue.",
                ),
                counter(
                    "nv_inference_compute_input_duration_us",
                    "Microseconds of answered requests in reading and batching inputs.",
                ),
                counter(
                    "nv_inference_compute_infer_duration_us",
                    "Microseconds of answered requests in the model.",
                ),
                counter(
                    "nv_inference_compute_output_duration_us",
                    "Microseconds of answered requests in splitting and writing outputs.",
                ),
            ],
        }
    }

    pub(super) fn of(&self, model: &str, version: &str) -> ModelTriton {
        let labels = [model, version];
        ModelTriton {
            success: self.success.with_label_values(&labels),
            failure: Reason::ALL.map(|(_, reason)| self.failure.with_label_values(&[model, reason, version])),
            inferences: self.inferences.with_label_values(&labels),
            executions: self.executions.with_label_values(&labels),
            pending: self.pending.with_label_values(&labels),
            durations: [0, 1, 2, 3, 4].map(|at: usize| self.durations[at].with_label_values(&labels)),
        }
    }

    pub(super) fn forget(&self, model: &str, version: &str) {
        let labels = [model, version];
        // Absent where the model never got that far; so in the calls below.
        let _ = self.success.remove_label_values(&labels);
        let _ = self.inferences.remove_label_values(&labels);
        let _ = self.executions.remove_label_values(&labels);
        let _ = self.pending.remove_label_values(&labels);
        for duration in &self.durations {
            let _ = duration.remove_label_values(&labels);
        }
        for (_, reason) in Reason::ALL {
            let _ = self.failure.remove_label_values(&[model, reason, version]);
        }
    }
}

/// The series of one model.
#[derive(Debug)]
pub(super) struct ModelTriton {
    success: IntCounter,
    failure: [IntCounter; Reason::ALL.len()],
    inferences: IntCounter,
    executions: IntCounter,
    pub(super) pending: IntGauge,
    durations: [IntCounter; 5],
}

impl ModelTriton {
    /// A request ended.
    pub(super) fn ended(&self, outcome: Outcome) {
        match Reason::of(outcome) {
            None => self.success.inc(),
            Some(reason) => self.failure[reason as usize].inc(),
        }
    }

    /// A request was answered `total` after it arrived.
    pub(super) fn answered(&self, total: Duration, timings: &Timings) {
        let times = [total, timings.queue, timings.input, timings.compute, timings.output];
        for (counter, time) in self.durations.iter().zip(times) {
            counter.inc_by(time.as_micros() as u64);
        }
    }

    /// A run of this many rows gave outputs.
    pub(super) fn ran(&self, rows: usize) {
        self.inferences.inc_by(rows as u64);
        self.executions.inc();
    }
}
