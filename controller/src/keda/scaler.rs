//! What an external scaler answers, as a decision: which route a `ScaledObject`'s trigger means, under which names and
//! targets its metrics go, and what their values are.
//!
//! | metadata key, the first that is there | metrics | fields |
//! |---|---|---|
//! | `interceptorRoute` | `http_NAME_concurrency`, `http_NAME_rate` | floats |
//! | `httpScaledObject` | `http-NAMESPACE_002FNAME` | integers |
//! | `inferenceService` (ours) | `http_NAME_concurrency` | floats |
//! | `interceptorTargetPendingRequests` | `http-NAMESPACE_002FNAME` of the ScaledObject: all routes together | integers |

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use pilotlight_manifests::keda::ScalingMetric;

use super::counts::Counts;

/// A `ScaledObject` with the metadata of its trigger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    /// Name of the `ScaledObject`.
    pub name: String,
    /// Its namespace, which is the route's too.
    pub namespace: String,
    /// `metadata` of the trigger.
    pub metadata: HashMap<String, String>,
}

/// What can be named by a trigger, by `namespace/name`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Directory {
    /// Every good `InterceptorRoute`.
    pub interceptor_routes: HashMap<String, ScalingMetric>,
    /// Every good `HTTPScaledObject`.
    pub http_scaled_objects: HashMap<String, ScalingMetric>,
    /// Every good `InferenceService`, with its target of concurrency.
    pub inference_services: HashMap<String, f64>,
}

/// Why a trigger can't be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScalerError {
    /// It names no route.
    #[error(
        "the trigger's metadata has none of `interceptorRoute`, `httpScaledObject`, `inferenceService` and `interceptorTargetPendingRequests`"
    )]
    Unnamed,
    /// The route that it names does not exist or is not valid.
    #[error("{kind} {key} does not exist or is not valid")]
    UnknownRoute {
        /// Its kind.
        kind: &'static str,
        /// `namespace/name`.
        key: String,
    },
    /// A number is none.
    #[error("the trigger's `{field}` is {value:?}, not a number of 1 or more")]
    NotANumber {
        /// Key in the metadata.
        field: &'static str,
        /// Its value.
        value: String,
    },
}

/// Where a metric's value comes from.
#[derive(Clone, Debug, PartialEq)]
enum Source {
    Concurrency(String),
    Rate {
        route: String,
        window: Duration,
        granularity: Duration,
    },
    All,
}

/// A number in the field of the messages that the add-on uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// In the deprecated field.
    Int(i64),
    /// In the field of today.
    Float(f64),
}

impl Number {
    /// Its value.
    pub fn get(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}

/// One metric of a trigger.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// Its target, above 0.
    pub target: Number,
    source: Source,
}

impl Metric {
    /// Its value at `now`.
    pub fn value(&self, counts: &mut Counts, now: Duration) -> Number {
        let value = match &self.source {
            Source::Concurrency(route) => counts.concurrency(route) as f64,
            Source::All => counts.total_concurrency() as f64,
            Source::Rate {
                route,
                window,
                granularity,
            } => counts.rate(now, route, *window, *granularity),
        };
        match self.target {
            Number::Int(_) => Number::Int(value.ceil() as i64),
            Number::Float(_) => Number::Float(value),
        }
    }

    fn was_pushed(&self, counts: &Counts, now: Duration) -> bool {
        match &self.source {
            Source::Concurrency(route) | Source::Rate { route, .. } => counts.was_pushed(now, route),
            Source::All => false,
        }
    }

    /// The route that it counts; `None` for all of them.
    pub fn route(&self) -> Option<&str> {
        match &self.source {
            Source::Concurrency(route) | Source::Rate { route, .. } => Some(route),
            Source::All => None,
        }
    }
}

/// The metrics of a trigger; never none.
///
/// # Errors
/// Where it names no route, or one that is not there: unknown is not zero.
pub fn metrics(reference: &Reference, directory: &Directory) -> Result<Vec<Metric>, ScalerError> {
    let Reference {
        name: own,
        namespace,
        metadata,
    } = reference;
    if let Some(name) = metadata.get("interceptorRoute") {
        let key = format!("{namespace}/{name}");
        let metric = find(&directory.interceptor_routes, "InterceptorRoute", &key)?;
        return Ok(of_interceptor_route(name, &key, metric));
    }
    if let Some(name) = metadata.get("httpScaledObject") {
        let key = format!("{namespace}/{name}");
        let metric = find(&directory.http_scaled_objects, "HTTPScaledObject", &key)?;
        return Ok(vec![of_http_scaled_object(&key, metric)]);
    }
    if let Some(name) = metadata.get("inferenceService") {
        let key = format!("{namespace}/{name}");
        let target = *find(&directory.inference_services, "InferenceService", &key)?;
        return Ok(vec![Metric {
            name: format!("http_{name}_concurrency"),
            target: Number::Float(own_target(metadata)?.unwrap_or(target)),
            source: Source::Concurrency(key),
        }]);
    }
    if let Some(value) = metadata.get("interceptorTargetPendingRequests") {
        let target = value.parse().ok().filter(|target| *target > 0);
        let field = "interceptorTargetPendingRequests";
        return Ok(vec![Metric {
            name: format!("http-{}", escaped(&format!("{namespace}/{own}"))),
            target: Number::Int(target.ok_or_else(|| not_a_number(field, value))?),
            source: Source::All,
        }]);
    }
    Err(ScalerError::Unnamed)
}

/// Whether a trigger is active: any of its metrics is above 0, or a request arrived a moment ago.
pub fn is_active(metrics: &[Metric], counts: &mut Counts, now: Duration) -> bool {
    metrics
        .iter()
        .any(|metric| metric.was_pushed(counts, now) || metric.value(counts, now).get() > 0.0)
}

fn find<'a, T>(known: &'a HashMap<String, T>, kind: &'static str, key: &str) -> Result<&'a T, ScalerError> {
    known.get(key).ok_or_else(|| ScalerError::UnknownRoute {
        kind,
        key: key.to_owned(),
    })
}

fn own_target(metadata: &HashMap<String, String>) -> Result<Option<f64>, ScalerError> {
    let Some(value) = metadata.get("targetValue") else {
        return Ok(None);
    };
    let target = value
        .parse()
        .ok()
        .filter(|target| *target >= 1.0 && f64::is_finite(*target));
    target.map(Some).ok_or_else(|| not_a_number("targetValue", value))
}

fn not_a_number(field: &'static str, value: &str) -> ScalerError {
    ScalerError::NotANumber {
        field,
        value: value.to_owned(),
    }
}

fn of_interceptor_route(name: &str, key: &str, metric: &ScalingMetric) -> Vec<Metric> {
    let concurrency = metric.concurrency.map(|metric| Metric {
        name: format!("http_{name}_concurrency"),
        target: Number::Float(metric.target_value.into()),
        source: Source::Concurrency(key.to_owned()),
    });
    let rate = metric.request_rate.map(|metric| Metric {
        name: format!("http_{name}_rate"),
        target: Number::Float(metric.target_value.into()),
        source: Source::Rate {
            route: key.to_owned(),
            window: metric.window.0,
            granularity: metric.granularity.0,
        },
    });
    concurrency.into_iter().chain(rate).collect()
}

/// `metric` as `HttpScaledObjectSpec::metric` gives it: one of the two.
fn of_http_scaled_object(key: &str, metric: &ScalingMetric) -> Metric {
    let route = key.to_owned();
    let concurrency = metric.concurrency.map_or(100, |metric| metric.target_value);
    let (target, source) = match metric.request_rate {
        Some(rate) => (
            rate.target_value,
            Source::Rate {
                route,
                window: rate.window.0,
                granularity: rate.granularity.0,
            },
        ),
        None => (concurrency, Source::Concurrency(route)),
    };
    Metric {
        name: format!("http-{}", escaped(key)),
        target: Number::Int(target.max(1).into()),
        source,
    }
}

/// Bytes outside `[-.0-9A-Za-z]` as `_` and four hexadecimal digits.
fn escaped(key: &str) -> String {
    let mut text = String::with_capacity(key.len() + 4);
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.' {
            text.push(byte.into());
        } else {
            // Writing to a string can't fail.
            write!(text, "_{byte:04X}").ok();
        }
    }
    text
}

#[cfg(test)]
#[path = "scaler_tests.rs"]
mod tests;
