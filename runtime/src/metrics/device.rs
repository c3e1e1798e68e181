//! What is counted of the device: preparations, and a GPU's usage as its driver tells it.

use parking_lot::Mutex;
use pilotlight_cuda::Gauge as Reader;
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::register;

/// Models on a ladder of sizes by `state`: `prepared` or `unprepared`.
pub const PREPARED_MODELS: &str = "ml_prepared_models";
/// Runs of such models by `result`: `hit` where a run had a size that was prepared, else `miss`.
pub const PREPARED_RUNS: &str = "ml_prepared_runs_total";
/// Part of the time in which the GPU ran a kernel, 0 to 1, by `gpu` (its number).
pub const GPU_UTILISATION: &str = "nv_gpu_utilization";
/// Bytes of its memory that are taken, by `gpu`.
pub const GPU_MEMORY_USED: &str = "nv_gpu_memory_used_bytes";
/// Bytes of its memory, by `gpu`.
pub const GPU_MEMORY_TOTAL: &str = "nv_gpu_memory_total_bytes";

/// The series. Those of a GPU are there where its driver can be read.
pub(super) struct DeviceMetrics {
    models: IntGaugeVec,
    runs: IntCounterVec,
    gpu: Mutex<Option<Gpu>>,
}

struct Gpu {
    read: Reader,
    utilisation: Gauge,
    used: Gauge,
    total: Gauge,
}

/// What one loaded model counts. Dropped with the model, which then counts as loaded no more.
pub(crate) struct Preparation {
    models: IntGauge,
    hits: IntCounter,
    misses: IntCounter,
}

impl Preparation {
    /// A run of a size that was prepared, or of another.
    pub(crate) fn ran(&self, prepared: bool) {
        if prepared {
            self.hits.inc();
        } else {
            self.misses.inc();
        }
    }
}

impl Drop for Preparation {
    fn drop(&mut self) {
        self.models.dec();
    }
}

impl std::fmt::Debug for DeviceMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceMetrics").finish_non_exhaustive()
    }
}

impl DeviceMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let models = Opts::new(
            PREPARED_MODELS,
            "Models whose batches keep to a ladder of sizes, by state.",
        );
        let runs = Opts::new(
            PREPARED_RUNS,
            "Runs of such models: hit where the size was prepared ahead.",
        );
        Self {
            models: register(registry, IntGaugeVec::new(models, &["state"])),
            runs: register(registry, IntCounterVec::new(runs, &["result"])),
            gpu: Mutex::new(None),
        }
    }

    pub(super) fn preparation(&self, prepared: bool) -> Preparation {
        let state = if prepared { "prepared" } else { "unprepared" };
        let models = self.models.with_label_values(&[state]);
        models.inc();
        Preparation {
            models,
            hits: self.runs.with_label_values(&["hit"]),
            misses: self.runs.with_label_values(&["miss"]),
        }
    }

    pub(super) fn watch(&self, registry: &Registry, number: u32, read: Reader) {
        let gauge = |name, help| {
            let gauges = register(registry, GaugeVec::new(Opts::new(name, help), &["gpu"]));
            gauges.with_label_values(&[&number.to_string()])
        };
        *self.gpu.lock() = Some(Gpu {
            read,
            utilisation: gauge(GPU_UTILISATION, "Part of the time in which the GPU ran a kernel."),
            used: gauge(
                GPU_MEMORY_USED,
                "Bytes of the GPU's memory that are taken, by all processes.",
            ),
            total: gauge(GPU_MEMORY_TOTAL, "Bytes of the GPU's memory."),
        });
    }

    /// Reads the GPU: metrics are asked for seldom, so nothing is read in between.
    pub(super) fn refresh(&self) {
        if let Some(gpu) = &*self.gpu.lock()
            && let Some(usage) = (gpu.read)()
        {
            gpu.utilisation.set(usage.utilisation);
            gpu.used.set(usage.used as f64);
            gpu.total.set(usage.total as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use pilotlight_cuda::Usage;

    use crate::metrics::Metrics;

    #[test]
    fn without_a_gpu_there_are_no_series_of_one() {
        assert!(!Metrics::new().render().contains("nv_gpu"));
    }

    #[test]
    fn a_gpu_is_read_whenever_metrics_are_asked_for() {
        let metrics = Metrics::new();
        let used = Arc::new(AtomicU64::new(7));
        let reads = Arc::clone(&used);
        metrics.watch_gpu(
            1,
            Box::new(move || {
                Some(Usage {
                    utilisation: 0.5,
                    used: reads.load(Ordering::Relaxed),
                    total: 80,
                })
            }),
        );
        let text = metrics.render();
        for line in [
            "nv_gpu_utilization{gpu=\"1\"} 0.5",
            "nv_gpu_memory_used_bytes{gpu=\"1\"} 7",
            "nv_gpu_memory_total_bytes{gpu=\"1\"} 80",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        used.store(9, Ordering::Relaxed);
        assert!(metrics.render().contains("nv_gpu_memory_used_bytes{gpu=\"1\"} 9"));
    }

    #[test]
    fn a_gpu_that_can_t_be_read_any_more_keeps_its_last_values() {
        let metrics = Metrics::new();
        metrics.watch_gpu(0, Box::new(|| None));
        assert!(metrics.render().contains("nv_gpu_utilization{gpu=\"0\"} 0"));
    }

    #[test]
    fn an_unloaded_model_counts_as_loaded_no_more() {
        let metrics = Metrics::new();
        drop(metrics.preparation(true));
        assert!(metrics.render().contains("ml_prepared_models{state=\"prepared\"} 0"));
    }
}
