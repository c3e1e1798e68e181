//! The family of KServe's Python server: histograms of a request's stages by `model_name`, in the default buckets of Prometheus's
//! Python client.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry};

use super::register;
use crate::scheduler::Timings;

const BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// The families: preprocess, predict, postprocess and explain.
#[derive(Debug)]
pub(super) struct KServe([HistogramVec; 4]);

impl KServe {
    pub(super) fn new(registry: &Registry) -> Self {
        let histogram = |name: &str, help: &str| {
            let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            register(registry, HistogramVec::new(options, &["model_name"]))
        };
        Self([
            histogram("request_preprocess_seconds", "Seconds from the body to tensors."),
            histogram("request_predict_seconds", "Seconds in the queue and in the model."),
            histogram("request_postprocess_seconds", "Seconds from tensors to the answer."),
            histogram("request_explain_seconds", "Always empty: explanations are not served."),
        ])
    }

    pub(super) fn of(&self, model: &str) -> ModelKServe {
        let [preprocess, predict, postprocess, explain] = &self.0;
        // There from the start, as in KServe, so that a dashboard shows none instead of an error.
        explain.with_label_values(&[model]);
        ModelKServe {
            preprocess: preprocess.with_label_values(&[model]),
            predict: predict.with_label_values(&[model]),
            postprocess: postprocess.with_label_values(&[model]),
        }
    }

    pub(super) fn forget(&self, model: &str) {
        for histogram in &self.0 {
            // Absent where the model never got that far.
            let _ = histogram.remove_label_values(&[model]);
        }
    }
}

/// The series of one model.
#[derive(Debug)]
pub(super) struct ModelKServe {
    preprocess: Histogram,
    predict: Histogram,
    postprocess: Histogram,
}

impl ModelKServe {
    /// A request was answered. `input` and `output` are what it took to read it and to write its answer.
    pub(super) fn answered(&self, run: &Timings, input: Duration, output: Duration) {
        self.preprocess.observe(input.as_secs_f64());
        let predict = run.queue + run.input + run.compute + run.output;
        self.predict.observe(predict.as_secs_f64());
        self.postprocess.observe(output.as_secs_f64());
    }
}
