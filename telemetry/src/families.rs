//! Families of Prometheus as messages of OTLP. Names and labels stay, so that a dashboard finds the same series by either way.

use opentelemetry::KeyValue as Attribute;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};
use prometheus::proto::{self, MetricFamily, MetricType};

/// When the series began and when they were read, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) start: u64,
    pub(crate) now: u64,
}

/// One export. Summaries have no place in it: nothing here makes them.
pub(crate) fn request(resource: &[Attribute], families: &[MetricFamily], times: Times) -> ExportMetricsServiceRequest {
    let attributes = resource.iter().map(|attribute| KeyValue {
        key: attribute.key.to_string(),
        value: Some(attribute.value.clone().into()),
        ..KeyValue::default()
    });
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource {
                attributes: attributes.collect(),
                ..Resource::default()
            }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(InstrumentationScope {
                    name: "pilotlight".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..InstrumentationScope::default()
                }),
                metrics: families.iter().filter_map(|family| metric(family, times)).collect(),
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    }
}

fn metric(family: &MetricFamily, times: Times) -> Option<Metric> {
    let cumulative = AggregationTemporality::Cumulative as i32;
    let series = family.get_metric();
    let numbers = |value: fn(&proto::Metric) -> f64| -> Vec<NumberDataPoint> {
        series
            .iter()
            .map(|metric| number(metric, value(metric), times))
            .collect()
    };
    let data = match family.get_field_type() {
        MetricType::COUNTER => Data::Sum(Sum {
            data_points: numbers(|metric| metric.get_counter().get_value()),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        MetricType::GAUGE => Data::Gauge(Gauge {
            data_points: numbers(|metric| metric.get_gauge().get_value()),
        }),
        MetricType::HISTOGRAM => Data::Histogram(Histogram {
            data_points: series.iter().map(|metric| histogram(metric, times)).collect(),
            aggregation_temporality: cumulative,
        }),
        MetricType::SUMMARY | MetricType::UNTYPED => return None,
    };
    Some(Metric {
        name: family.name().to_owned(),
        description: family.help().to_owned(),
        unit: unit(family.name()).to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

fn number(metric: &proto::Metric, value: f64, times: Times) -> NumberDataPoint {
    NumberDataPoint {
        attributes: labels(metric),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

/// Prometheus counts what is at most a bound, OTLP what is between two, with one more for what is above the last.
fn histogram(metric: &proto::Metric, times: Times) -> HistogramDataPoint {
    let found = metric.get_histogram();
    let mut below = 0;
    let (mut bounds, mut counts) = (Vec::new(), Vec::new());
    for bucket in found
        .get_bucket()
        .iter()
        .filter(|bucket| bucket.upper_bound().is_finite())
    {
        bounds.push(bucket.upper_bound());
        counts.push(bucket.cumulative_count().saturating_sub(below));
        below = bucket.cumulative_count();
    }
    // The count is read apart from the buckets: never less than they.
    let count = found.get_sample_count().max(below);
    counts.push(count - below);
    HistogramDataPoint {
        attributes: labels(metric),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        count,
        sum: Some(found.get_sample_sum()),
        bucket_counts: counts,
        explicit_bounds: bounds,
        ..HistogramDataPoint::default()
    }
}

fn labels(metric: &proto::Metric) -> Vec<KeyValue> {
    let label = |label: &proto::LabelPair| KeyValue {
        key: label.name().to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(label.value().to_owned())),
        }),
        ..KeyValue::default()
    };
    metric.get_label().iter().map(label).collect()
}

/// By the name's end, as Prometheus wants names to be.
fn unit(name: &str) -> &'static str {
    match name.trim_end_matches("_total").rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        Some("us") => "us",
        Some("ms") => "ms",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

    use super::*;

    #[test]
    fn every_kind_of_series_keeps_its_name_labels_and_value() {
        let registry = Registry::new();
        let counter = IntCounterVec::new(Opts::new("requests_total", "Requests."), &["model"]).unwrap();
        counter.with_label_values(&["iris"]).inc_by(3);
        let gauge = IntGauge::new("waiting", "Waiting.").unwrap();
        gauge.set(-2);
        let options = HistogramOpts::new("latency_seconds", "Latency.").buckets(vec![0.1, 1.0]);
        let histogram = HistogramVec::new(options, &["model"]).unwrap();
        for value in [0.05, 0.1, 0.5, 7.0] {
            histogram.with_label_values(&["iris"]).observe(value);
        }
        registry.register(Box::new(counter)).unwrap();
        registry.register(Box::new(gauge)).unwrap();
        registry.register(Box::new(histogram)).unwrap();

        let times = Times { start: 1, now: 2 };
        let resource = [Attribute::new("service.name", "test")];
        let mut sent = request(&resource, &registry.gather(), times).resource_metrics.remove(0);
        assert_eq!(sent.resource.unwrap().attributes[0].key, "service.name");
        let metrics = sent.scope_metrics.remove(0).metrics;
        let find = |name: &str| metrics.iter().find(|metric| metric.name == name).unwrap();

        let latency = find("latency_seconds");
        assert_eq!((&*latency.unit, &*latency.description), ("s", "Latency."));
        let Some(Data::Histogram(latency)) = &latency.data else {
            panic!("{latency:?}")
        };
        let point = &latency.data_points[0];
        assert_eq!(point.explicit_bounds, [0.1, 1.0]);
        assert_eq!(point.bucket_counts, [2, 1, 1]);
        assert_eq!((point.count, point.sum), (4, Some(7.65)));
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1, 2));

        let Some(Data::Sum(requests)) = &find("requests_total").data else {
            panic!("a counter is a sum")
        };
        assert!(requests.is_monotonic);
        let point = &requests.data_points[0];
        assert_eq!(point.value, Some(number_data_point::Value::AsDouble(3.0)));
        assert_eq!(point.attributes[0].key, "model");

        let Some(Data::Gauge(waiting)) = &find("waiting").data else {
            panic!("a gauge is a gauge")
        };
        assert_eq!(
            waiting.data_points[0].value,
            Some(number_data_point::Value::AsDouble(-2.0))
        );
    }
}
