use std::collections::BTreeMap;

use pilotlight_manifests::keda::{Concurrency, GoDuration, RequestRate};

use super::*;
use crate::keda::counts::{Queue, RouteCount};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn metric(concurrency: Option<i32>, rate: Option<i32>) -> ScalingMetric {
    ScalingMetric {
        concurrency: concurrency.map(|target_value| Concurrency { target_value }),
        request_rate: rate.map(|target_value| RequestRate {
            target_value,
            window: GoDuration(seconds(10)),
            granularity: GoDuration(seconds(1)),
        }),
    }
}

fn directory() -> Directory {
    Directory {
        interceptor_routes: HashMap::from([
            ("shop/app".to_owned(), metric(Some(5), Some(3))),
            ("shop/slow".to_owned(), metric(Some(1), None)),
        ]),
        http_scaled_objects: HashMap::from([
            ("shop/app".to_owned(), metric(Some(7), None)),
            ("shop/rate".to_owned(), metric(None, Some(2))),
        ]),
        inference_services: HashMap::from([("shop/iris".to_owned(), 4.0)]),
    }
}

fn reference(metadata: &[(&str, &str)]) -> Reference {
    Reference {
        name: "so".to_owned(),
        namespace: "shop".to_owned(),
        metadata: metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

fn specs(metadata: &[(&str, &str)]) -> Vec<(String, Number)> {
    let metrics = metrics(&reference(metadata), &directory()).unwrap();
    metrics.into_iter().map(|metric| (metric.name, metric.target)).collect()
}

fn look(counts: &mut Counts, at: u64, routes: &[(&str, i64, i64)]) {
    let queue: Queue = routes
        .iter()
        .map(|(route, concurrency, request_count)| {
            let count = RouteCount {
                concurrency: *concurrency,
                request_count: *request_count,
            };
            ((*route).to_owned(), count)
        })
        .collect();
    counts.take(seconds(at), BTreeMap::from([("pod".to_owned(), Some(queue))]));
}

/// Add-on unit test `TestGetMetricSpec` for both kinds.
#[test]
fn add_on_metric_specs_have_these_names_and_targets() {
    assert_eq!(
        specs(&[("interceptorRoute", "app")]),
        [
            ("http_app_concurrency".to_owned(), Number::Float(5.0)),
            ("http_app_rate".to_owned(), Number::Float(3.0)),
        ]
    );
    assert_eq!(
        specs(&[("httpScaledObject", "app")]),
        [("http-shop_002Fapp".to_owned(), Number::Int(7))]
    );
    assert_eq!(
        specs(&[("httpScaledObject", "rate")]),
        [("http-shop_002Frate".to_owned(), Number::Int(2))]
    );
    let own = [("interceptorTargetPendingRequests", "200")];
    assert_eq!(specs(&own), [("http-shop_002Fso".to_owned(), Number::Int(200))]);
}

#[test]
fn add_on_metadata_keys_are_looked_for_in_this_order() {
    let all = [
        ("interceptorTargetPendingRequests", "200"),
        ("httpScaledObject", "app"),
        ("interceptorRoute", "slow"),
        ("scalerAddress", "here:9090"),
    ];
    assert_eq!(specs(&all), [("http_slow_concurrency".to_owned(), Number::Float(1.0))]);
}

#[test]
fn an_inference_service_has_its_own_target_unless_the_trigger_says_otherwise() {
    let name = "http_iris_concurrency".to_owned();
    assert_eq!(
        specs(&[("inferenceService", "iris")]),
        [(name.clone(), Number::Float(4.0))]
    );
    let other = [("inferenceService", "iris"), ("targetValue", "2.5")];
    assert_eq!(specs(&other), [(name, Number::Float(2.5))]);
}

#[test]
fn an_unknown_route_is_an_error_and_not_zero() {
    for metadata in [
        ("interceptorRoute", "none"),
        ("httpScaledObject", "none"),
        ("inferenceService", "none"),
    ] {
        let error = metrics(&reference(&[metadata]), &directory()).unwrap_err();
        assert!(matches!(error, ScalerError::UnknownRoute { .. }), "{error}");
        assert!(error.to_string().contains("shop/none"), "{error}");
    }
    assert_eq!(metrics(&reference(&[]), &directory()), Err(ScalerError::Unnamed));
    for target in ["0", "many"] {
        let error = metrics(
            &reference(&[("interceptorTargetPendingRequests", target)]),
            &directory(),
        );
        assert!(matches!(error, Err(ScalerError::NotANumber { .. })));
    }
}

/// Add-on unit tests `TestGetMetrics` and `TestIsActive` for both kinds.
#[test]
fn add_on_values_are_concurrency_and_rate() {
    let mut counts = Counts::new(seconds(2));
    look(
        &mut counts,
        1,
        &[("shop/app", 0, 0), ("shop/rate", 0, 0), ("shop/other", 0, 0)],
    );
    let value = |counts: &mut Counts, metadata: &[(&str, &str)], at: u64| -> Vec<Number> {
        let metrics = metrics(&reference(metadata), &directory()).unwrap();
        metrics.iter().map(|metric| metric.value(counts, seconds(at))).collect()
    };
    let all: [&[(&str, &str)]; 4] = [
        &[("interceptorRoute", "app")],
        &[("httpScaledObject", "app")],
        &[("httpScaledObject", "rate")],
        &[("interceptorTargetPendingRequests", "1")],
    ];
    for metadata in all {
        let metrics = metrics(&reference(metadata), &directory()).unwrap();
        assert!(!is_active(&metrics, &mut counts, seconds(1)), "{metadata:?}");
        // The first reading sets the windows.
        value(&mut counts, metadata, 1);
    }
    look(
        &mut counts,
        2,
        &[("shop/app", 3, 5), ("shop/rate", 0, 5), ("shop/other", 4, 0)],
    );
    assert_eq!(value(&mut counts, all[0], 2), [Number::Float(3.0), Number::Float(5.0)]);
    assert_eq!(value(&mut counts, all[1], 2), [Number::Int(3)]);
    assert_eq!(value(&mut counts, all[2], 2), [Number::Int(5)]);
    assert_eq!(value(&mut counts, all[3], 2), [Number::Int(7)]);
    look(
        &mut counts,
        3,
        &[("shop/app", 0, 5), ("shop/rate", 0, 5), ("shop/other", 0, 0)],
    );
    assert_eq!(
        value(&mut counts, all[2], 3),
        [Number::Int(3)],
        "5 arrivals in 2 buckets, rounded up"
    );
    let metrics = metrics(&reference(all[2]), &directory()).unwrap();
    assert!(is_active(&metrics, &mut counts, seconds(3)));
}

#[test]
fn a_pushed_arrival_makes_a_route_active_before_the_next_look() {
    let mut counts = Counts::new(seconds(2));
    look(&mut counts, 1, &[("shop/app", 0, 0)]);
    let metrics = metrics(&reference(&[("interceptorRoute", "app")]), &directory()).unwrap();
    counts.pushed(seconds(1), "shop/app");
    assert!(is_active(&metrics, &mut counts, seconds(1)));
    assert!(!is_active(&metrics, &mut counts, seconds(9)));
}
