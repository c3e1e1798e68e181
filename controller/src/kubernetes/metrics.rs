//! The controller's metrics in a cluster.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Seconds; a reconciliation is a few writes.
const SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Every metric of the controller in a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// 1 where this process leads.
    pub(crate) leader: IntGauge,
    /// Reconciliations by result: `applied`, `unchanged`, `invalid`, `adopted`, `error`.
    pub(crate) reconciles: IntCounterVec,
    /// How long they took.
    pub(crate) reconcile_seconds: Histogram,
    /// Writes to the API server by kind and result: `ok`, `conflict`, `error`.
    pub(crate) writes: IntCounterVec,
    /// Scalings by direction (`up`, `down`, `zero`) and result: `done`, `conflict`, `taken-back`, `error`.
    pub(crate) scalings: IntCounterVec,
    /// Workloads by what the last decision said: `up`, `down`, `keep`, `unknown`.
    pub(crate) decisions: IntCounterVec,
    /// Activators by state: `answering`, `silent`.
    pub(crate) activators: IntGaugeVec,
    /// Services that are looked after.
    pub(crate) services: IntGauge,
    /// Pods that served and crashed, deleted so that a new one starts without kubelet's pause.
    pub(crate) replaced: IntCounterVec,
    /// Standby pods: `wanted`, `ready`.
    pub(crate) standby: IntGaugeVec,
    /// Steps by which Deployments are made ready for claims, and taken out of it: `park`, `arm`, `unpark`.
    pub(crate) parkings: IntCounterVec,
}

impl Metrics {
    /// Registers them; fails where a name is taken.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let seconds = Histogram::with_opts(
            HistogramOpts::new("pilotlight_reconcile_seconds", "Duration of reconciliations").buckets(SECONDS.to_vec()),
        )?;
        registry.register(Box::new(seconds.clone()))?;
        let activators = IntGaugeVec::new(
            Opts::new("pilotlight_controller_activators", "Activators by whether they answer"),
            &["state"],
        )?;
        registry.register(Box::new(activators.clone()))?;
        let standby = IntGaugeVec::new(
            Opts::new("pilotlight_standby_pods", "Started pods without a model, by state"),
            &["state"],
        )?;
        registry.register(Box::new(standby.clone()))?;
        Ok(Self {
            standby,
            parkings: counter(
                "pilotlight_standby_parkings_total",
                "Deployments made ready for a claim, by step",
                &["step"],
            )?,
            leader: gauge("pilotlight_controller_leader", "1 where this process leads")?,
            reconciles: counter("pilotlight_reconciles_total", "Reconciliations by result", &["result"])?,
            reconcile_seconds: seconds,
            writes: counter(
                "pilotlight_api_writes_total",
                "Writes to the API server",
                &["kind", "result"],
            )?,
            scalings: counter(
                "pilotlight_scalings_total",
                "Scalings of workloads",
                &["direction", "result"],
            )?,
            decisions: counter(
                "pilotlight_scale_decisions_total",
                "Decisions of the autoscaler",
                &["result"],
            )?,
            activators,
            services: gauge("pilotlight_controller_services", "Services that are looked after")?,
            replaced: counter(
                "pilotlight_pods_replaced_total",
                "Pods deleted out of a crash loop",
                &[],
            )?,
        })
    }

    pub(crate) fn wrote(&self, kind: &str, outcome: Result<(), &kube::Error>) {
        let result = match outcome {
            Ok(()) => "ok",
            Err(kube::Error::Api(status)) if status.code == 409 => "conflict",
            Err(_) => "error",
        };
        self.writes.with_label_values(&[kind, result]).inc();
    }
}
