//! All metrics of the activator. Handles that a request touches are resolved once per route, never by label.
//!
//! Names under `interceptor_` are those of the KEDA HTTP add-on's interceptor, so that its dashboards work.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, core::Collector,
    proto::MetricFamily,
};

use crate::{
    WakeError, WakePhases,
    core::{retry::Cause, state::EndpointCounts},
    error::Code,
};

/// KEDA's buckets for request durations, in seconds.
const REQUEST_BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
/// From a millisecond to the longest wait.
const WAIT_BUCKETS: [f64; 14] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0,
];
/// Finer below 100 ms, where a local wake is at home.
const WAKE_BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0,
];

/// Status under which a request is counted whose client left before the answer began.
const CLIENT_LEFT: u16 = 499;

/// The metrics of one activator.
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    keda_requests: IntCounterVec,
    keda_duration: HistogramVec,
    keda_rejections: IntCounterVec,
    keda_concurrency: IntGaugeVec,
    in_flight: IntGaugeVec,
    waiting: IntGaugeVec,
    endpoints: IntGaugeVec,
    wait: Histogram,
    wake_phases: [Histogram; 5],
    wake: Histogram,
    wakes: IntCounterVec,
    replays: IntCounterVec,
    dropped: IntCounterVec,
    /// Of requests that no route took.
    unrouted: RouteSeries,
    probe_ready: IntCounter,
    probe_not_ready: IntCounter,
}

/// Registers metrics with constant names. Creating or registering one fails only on a bad or doubled name, which every
/// start of the process would show.
struct Maker(Registry);

impl Maker {
    fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let metric = made.expect("metric names are constant and valid");
        self.0
            .register(Box::new(metric.clone()))
            .expect("metric names are registered once");
        metric
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.register(HistogramVec::new(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
            labels,
        ))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.register(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        ))
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let maker = Maker(Registry::new());
        let keda = ["code", "method", "route_name", "route_namespace"];
        let phases = maker.histograms(
            "activator_wake_phase_seconds",
            "Cold wakes: where the time went. The phases of a wake sum to activator_wake_seconds.",
            &["phase"],
            &WAKE_BUCKETS,
        );
        let probes = maker.counters(
            "activator_probes_total",
            "Probes of starting and suspended endpoints.",
            &["result"],
        );
        Self {
            requests: maker.counters(
                "activator_requests_total",
                "Requests by answer; those that no route took have none.",
                &["route", "code"],
            ),
            keda_requests: maker.counters(
                "interceptor_request_count_total",
                "Requests; those that no route took have no name.",
                &keda,
            ),
            keda_duration: maker.histograms(
                "interceptor_request_duration_seconds",
                "From arrival to the last byte of the answer.",
                &keda,
                &REQUEST_BUCKETS,
            ),
            keda_rejections: maker.counters(
                "interceptor_cold_start_rejections_total",
                "Requests of a route that found no ready endpoint and no place to wait.",
                &["route_name", "route_namespace"],
            ),
            keda_concurrency: maker.gauges(
                "interceptor_request_concurrency",
                "Requests of a route that are open now.",
                &["route_name", "route_namespace"],
            ),
            in_flight: maker.gauges("activator_in_flight_requests", "Requests being answered.", &["backend"]),
            waiting: maker.gauges("activator_waiting_requests", "Requests being held.", &["backend"]),
            endpoints: maker.gauges("activator_endpoints", "Endpoints by state.", &["backend", "state"]),
            wait: maker.histogram(
                "activator_wait_seconds",
                "Time in the waiting room, per wait.",
                &WAIT_BUCKETS,
            ),
            wake_phases: WakePhases::NAMES.map(|name| phases.with_label_values(&[name])),
            wake: maker.histogram(
                "activator_wake_seconds",
                "Cold wakes: from the arrival of the request to the first byte of its answer.",
                &WAKE_BUCKETS,
            ),
            wakes: maker.counters(
                "activator_wakes_total",
                "Answers of the platform when asked to wake.",
                &["outcome"],
            ),
            replays: maker.counters(
                "activator_replays_total",
                "Attempts that were repeated, by cause.",
                &["reason"],
            ),
            dropped: maker.counters(
                "activator_dropped_requests_total",
                "Requests answered with an error of our own, or left by their client, by reason.",
                &["reason"],
            ),
            unrouted: RouteSeries::default(),
            probe_ready: probes.with_label_values(&["ready"]),
            probe_not_ready: probes.with_label_values(&["not-ready"]),
            registry: maker.0,
        }
    }

    /// The registry that all of them are in.
    pub(crate) fn registry(&self) -> Registry {
        self.registry.clone()
    }

    pub(crate) fn waited(&self, waited: Duration) {
        self.wait.observe(waited.as_secs_f64());
    }

    pub(crate) fn wake_finished(&self, phases: &WakePhases) {
        for (histogram, duration) in self.wake_phases.iter().zip(phases.durations()) {
            histogram.observe(duration.as_secs_f64());
        }
        self.wake.observe(phases.total().as_secs_f64());
    }

    pub(crate) fn wake_answered(&self, result: &Result<(), WakeError>) {
        let outcome = result.as_ref().map_or_else(|error| error.reason.code(), |()| "started");
        self.wakes.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn replayed(&self, cause: Cause) {
        self.replays.with_label_values(&[cause.label()]).inc();
    }

    /// A request of a route found no ready endpoint and no place to wait.
    pub(crate) fn cold_start_rejected(&self, route: &str) {
        let (namespace, name) = split(route);
        self.keda_rejections.with_label_values(&[name, namespace]).inc();
    }

    /// A request that no route took was answered: in the interceptor's metrics without a route's name.
    pub(crate) fn missed(&self, method: &http::Method, status: http::StatusCode, duration: Duration) {
        self.unrouted.ended(self, "", method, Some(status), duration);
    }

    pub(crate) fn dropped(&self, code: Code) {
        self.dropped.with_label_values(&[code.as_str()]).inc();
    }

    fn client_left(&self) {
        self.dropped.with_label_values(&["client-left"]).inc();
    }

    pub(crate) fn probed(&self, ready: bool) {
        if ready {
            self.probe_ready.inc();
        } else {
            self.probe_not_ready.inc();
        }
    }

    /// Sets the gauges of one backend; called when metrics are read.
    pub(crate) fn show_backend(&self, backend: &str, in_flight: u64, waiting: u64, endpoints: EndpointCounts) {
        self.in_flight.with_label_values(&[backend]).set(in_flight as i64);
        self.waiting.with_label_values(&[backend]).set(waiting as i64);
        let EndpointCounts {
            starting,
            ready,
            suspended,
            sealed,
        } = endpoints;
        for (state, count) in [
            ("starting", starting),
            ("ready", ready),
            ("suspended", suspended),
            ("sealed", sealed),
        ] {
            self.endpoints.with_label_values(&[backend, state]).set(count as i64);
        }
    }

    /// Sets the gauge of one route; called when metrics are read.
    pub(crate) fn show_route(&self, route: &str, concurrency: u64) {
        let (namespace, name) = split(route);
        self.keda_concurrency
            .with_label_values(&[name, namespace])
            .set(concurrency as i64);
    }

    /// Forgets gauges, so that those of backends and routes that are no more don't stay. Called when metrics are read,
    /// before the others are set.
    pub(crate) fn clear_gauges(&self) {
        for gauges in [&self.in_flight, &self.waiting, &self.endpoints, &self.keda_concurrency] {
            gauges.reset();
        }
    }

    /// Every series.
    pub(crate) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

/// Namespace and name of a route.
fn split(route: &str) -> (&str, &str) {
    route.split_once('/').unwrap_or(("", route))
}

/// Methods as KEDA labels them.
fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        "CONNECT" => "CONNECT",
        "TRACE" => "TRACE",
        _ => "_OTHER",
    }
}

struct Series {
    code: u16,
    method: &'static str,
    requests: IntCounter,
    keda_requests: IntCounter,
    keda_duration: Histogram,
}

/// The counters of one route: one series for each status and method that ever occurred, a handful.
#[derive(Default)]
pub(crate) struct RouteSeries(Mutex<Vec<Series>>);

impl RouteSeries {
    /// Counts a request of `route` that ended after `duration`, with `None` where its client left before the answer.
    pub(crate) fn ended(
        &self,
        metrics: &Metrics,
        route: &str,
        method: &http::Method,
        status: Option<http::StatusCode>,
        duration: Duration,
    ) {
        let code = status.map_or(CLIENT_LEFT, |status| status.as_u16());
        if status.is_none() {
            metrics.client_left();
        }
        let method = method_label(method);
        let mut all = self.0.lock();
        let known = all
            .iter()
            .position(|series| series.code == code && series.method == method);
        let at = known.unwrap_or_else(|| {
            all.push(Series::new(metrics, route, code, method));
            all.len() - 1
        });
        let series = &all[at];
        series.requests.inc();
        series.keda_requests.inc();
        series.keda_duration.observe(duration.as_secs_f64());
    }

    /// The route is no more: its series disappear.
    pub(crate) fn remove(&self, metrics: &Metrics, route: &str) {
        let (namespace, name) = split(route);
        // It may never have rejected one.
        metrics.keda_rejections.remove_label_values(&[name, namespace]).ok();
        for series in self.0.lock().drain(..) {
            let code = series.code.to_string();
            let keda = [code.as_str(), series.method, name, namespace];
            // Another method with the same status may have removed it before.
            metrics.requests.remove_label_values(&[route, &code]).ok();
            metrics.keda_requests.remove_label_values(&keda).ok();
            metrics.keda_duration.remove_label_values(&keda).ok();
        }
    }
}

impl Series {
    fn new(metrics: &Metrics, route: &str, code: u16, method: &'static str) -> Self {
        let (namespace, name) = split(route);
        let text = code.to_string();
        let keda = [text.as_str(), method, name, namespace];
        Self {
            code,
            method,
            requests: metrics.requests.with_label_values(&[route, &text]),
            keda_requests: metrics.keda_requests.with_label_values(&keda),
            keda_duration: metrics.keda_duration.with_label_values(&keda),
        }
    }
}

/// Counts of one route, as `/queue` shows them.
pub(crate) struct RouteStats {
    pub(crate) id: crate::RouteId,
    pub(crate) concurrency: std::sync::atomic::AtomicU64,
    pub(crate) requests: std::sync::atomic::AtomicU64,
    /// Number of the last arrival while it had none, in the sequence of `arrivals`.
    pub(crate) activated: std::sync::atomic::AtomicU64,
    pub(crate) series: RouteSeries,
}

impl RouteStats {
    pub(crate) fn new(id: crate::RouteId) -> Arc<Self> {
        Arc::new(Self {
            id,
            concurrency: 0.into(),
            requests: 0.into(),
            activated: 0.into(),
            series: RouteSeries::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and labels are a contract with dashboards and alerts.
    fn text(metrics: &Metrics) -> String {
        let families = metrics.gather();
        prometheus::TextEncoder::new().encode_to_string(&families).unwrap()
    }

    #[test]
    fn the_list_of_metrics_is_this() {
        let metrics = Metrics::new();
        let stats = RouteStats::new(crate::RouteId::new("ns/a"));
        stats.series.ended(
            &metrics,
            "ns/a",
            &http::Method::POST,
            Some(http::StatusCode::OK),
            Duration::from_millis(3),
        );
        metrics.show_backend("ns/a", 1, 2, EndpointCounts::default());
        metrics.show_route("ns/a", 3);
        metrics.wake_answered(&Ok(()));
        metrics.replayed(Cause::Reset);
        metrics.dropped(Code::WaitTimeout);
        metrics.cold_start_rejected("ns/a");
        let text = text(&metrics);
        let mut names: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .map(|line| {
                let name = line.split(' ').next().unwrap();
                let label = text
                    .lines()
                    .find(|l| l.starts_with(name) && l.contains('{') && !l.contains("{le="))
                    .map(|l| {
                        let labels = &l[l.find('{').unwrap() + 1..l.rfind('}').unwrap()];
                        let mut keys: Vec<&str> = labels
                            .split(',')
                            .filter_map(|kv| kv.split('=').next())
                            .filter(|k| *k != "le")
                            .collect();
                        keys.sort_unstable();
                        keys.join(",")
                    });
                format!("{line} {}", label.unwrap_or_default()).trim_end().to_owned()
            })
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "activator_dropped_requests_total counter reason",
                "activator_endpoints gauge backend,state",
                "activator_in_flight_requests gauge backend",
                "activator_probes_total counter result",
                "activator_replays_total counter reason",
                "activator_requests_total counter code,route",
                "activator_wait_seconds histogram",
                "activator_waiting_requests gauge backend",
                "activator_wake_phase_seconds histogram phase",
                "activator_wake_seconds histogram",
                "activator_wakes_total counter outcome",
                "interceptor_cold_start_rejections_total counter route_name,route_namespace",
                "interceptor_request_concurrency gauge route_name,route_namespace",
                "interceptor_request_count_total counter code,method,route_name,route_namespace",
                "interceptor_request_duration_seconds histogram code,method,route_name,route_namespace",
            ]
        );
    }

    #[test]
    fn a_removed_route_leaves_no_series() {
        let metrics = Metrics::new();
        let stats = RouteStats::new(crate::RouteId::new("ns/a"));
        for method in [http::Method::POST, http::Method::GET] {
            stats.series.ended(&metrics, "ns/a", &method, None, Duration::ZERO);
        }
        stats.series.remove(&metrics, "ns/a");
        let text = text(&metrics);
        assert!(!text.contains("\"ns"), "{text}");
    }
}
