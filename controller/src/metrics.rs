//! The controller's metrics. Names and labels are constants; `service` is `namespace/name`.

use prometheus::{GaugeVec, Histogram, HistogramOpts, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::error::Error;

/// All metrics of this part.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `pilotlight_controller_replicas{service,state}`: desired, ready, starting, draining.
    pub replicas: IntGaugeVec,
    /// `pilotlight_controller_concurrency{service,window}`: stable and panic averages.
    pub concurrency: GaugeVec,
    /// `pilotlight_controller_panic{service}`: 1 while panicking.
    pub panic: IntGaugeVec,
    /// `pilotlight_controller_decisions_total{service,result}`: up, down, keep, unknown.
    pub decisions: IntCounterVec,
    /// `pilotlight_controller_wakes_total{service,result}`: ok or a reason's code.
    pub wakes: IntCounterVec,
    /// `pilotlight_controller_replica_starts_total{service}`.
    pub starts: IntCounterVec,
    /// `pilotlight_controller_replica_exits_total{service,reason}`: ended, died, never-ready, refused.
    pub exits: IntCounterVec,
    /// `pilotlight_controller_check_seconds`: duration of model checks.
    pub checks: Histogram,
}

impl Metrics {
    /// Registers them all; fails where a name is taken.
    pub fn new(registry: &Registry) -> Result<Self, Error> {
        let gauges = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, Error> {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, Error> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let concurrency = GaugeVec::new(
            Opts::new(
                "pilotlight_controller_concurrency",
                "Average concurrency over the autoscaler's windows.",
            ),
            &["service", "window"],
        )?;
        registry.register(Box::new(concurrency.clone()))?;
        let checks = Histogram::with_opts(
            HistogramOpts::new("pilotlight_controller_check_seconds", "Duration of model checks.")
                .buckets(vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]),
        )?;
        registry.register(Box::new(checks.clone()))?;
        Ok(Self {
            replicas: gauges(
                "pilotlight_controller_replicas",
                "Replicas by state.",
                &["service", "state"],
            )?,
            concurrency,
            panic: gauges(
                "pilotlight_controller_panic",
                "1 while the autoscaler panics.",
                &["service"],
            )?,
            decisions: counters(
                "pilotlight_controller_decisions_total",
                "Decisions of the autoscaler.",
                &["service", "result"],
            )?,
            wakes: counters(
                "pilotlight_controller_wakes_total",
                "Wakes asked for.",
                &["service", "result"],
            )?,
            starts: counters(
                "pilotlight_controller_replica_starts_total",
                "Replicas started.",
                &["service"],
            )?,
            exits: counters(
                "pilotlight_controller_replica_exits_total",
                "Ends of replicas by reason.",
                &["service", "reason"],
            )?,
            checks,
        })
    }

    /// Drops the series of a service that is gone, so that they don't pile up.
    pub(crate) fn forget(&self, service: &str) {
        for state in ["desired", "ready", "starting", "draining"] {
            let _ = self.replicas.remove_label_values(&[service, state]);
        }
        for window in ["stable", "panic"] {
            let _ = self.concurrency.remove_label_values(&[service, window]);
        }
        let _ = self.panic.remove_label_values(&[service]);
        for result in ["up", "down", "keep", "unknown"] {
            let _ = self.decisions.remove_label_values(&[service, result]);
        }
        for result in ["ok", "load-failed", "no-capacity", "platform-error", "disabled"] {
            let _ = self.wakes.remove_label_values(&[service, result]);
        }
        let _ = self.starts.remove_label_values(&[service]);
        for reason in ["ended", "died", "never-ready", "refused"] {
            let _ = self.exits.remove_label_values(&[service, reason]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_names_is_as_documented() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        metrics.replicas.with_label_values(&["a", "ready"]).set(1);
        metrics.concurrency.with_label_values(&["a", "stable"]).set(1.0);
        metrics.panic.with_label_values(&["a"]).set(1);
        metrics.decisions.with_label_values(&["a", "up"]).inc();
        metrics.wakes.with_label_values(&["a", "ok"]).inc();
        metrics.starts.with_label_values(&["a"]).inc();
        metrics.exits.with_label_values(&["a", "died"]).inc();
        let names: Vec<_> = registry
            .gather()
            .iter()
            .map(|family| family.name().to_owned())
            .collect();
        let expected = [
            "check_seconds",
            "concurrency",
            "decisions_total",
            "panic",
            "replica_exits_total",
            "replica_starts_total",
            "replicas",
            "wakes_total",
        ];
        assert_eq!(names, expected.map(|name| format!("pilotlight_controller_{name}")));
        metrics.forget("a");
        assert_eq!(registry.gather().len(), 1);
    }
}
