//! KEDA's objects as far as they have an effect here: `HTTPScaledObject` and `InterceptorRoute` of the HTTP add-on, and
//! `ScaledObject` of KEDA itself, each with its rules between fields, its defaults and its CRD.
//!
//! An API server hands them over as JSON: [`read`] makes the types of it, or says what is wrong with the path of the
//! field. The rules that the add-on's CRDs leave to the API server (CEL) are checked here too, since an object may have
//! been taken before they were installed. An `HTTPScaledObject` becomes an [`InterceptorRouteSpec`] for everything that
//! routes and counts ([`HttpScaledObjectSpec::route`]), as in the add-on.

mod crd;
mod duration;
mod http_scaled_object;
mod interceptor_route;
mod scaled_object;
mod trigger_authentication;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

pub use crd::{Definition, definitions};
pub use duration::GoDuration;
pub use http_scaled_object::{
    FailoverRef, HttpConcurrency, HttpHeader, HttpRequestRate, HttpScaledObjectSpec, HttpScaledObjectTimeouts,
    HttpScalingMetric, ReplicaBounds, RouteScaleTarget,
};
pub use interceptor_route::{
    ColdStart, ColdStartFallback, Concurrency, ConfigMapKey, HeaderMatch, InterceptorRouteSpec, Overflow, PathMatch,
    Placeholder, RequestRate, ResponseMode, Rule, ScalingMetric, ServiceRef, StaticResponse, StaticRoute, TargetRef,
    Timeouts,
};
pub use scaled_object::{
    Advanced, Behavior, Fallback, FallbackBehavior, HpaConfig, MetricType, Policy, PolicyKind, ScaleTargetRef,
    ScaledObjectSpec, ScalingRules, SelectPolicy, Trigger,
};
pub use trigger_authentication::{
    AuthenticationProblem, ClusterTriggerAuthenticationSpec, KeyRef, TriggerAuthenticationSpec,
};

/// Group of the add-on's objects.
pub const HTTP_GROUP: &str = "http.keda.sh";
/// Group of KEDA's own objects.
pub const GROUP: &str = "keda.sh";

/// Label of the ConfigMaps that static responses may be read from; its value is `true`.
pub const RESPONSE_BODY_LABEL: &str = "http.keda.sh/response-body";
/// Annotation of an `HTTPScaledObject`: make no `ScaledObject` of it. Holds where the value is exactly `true`.
pub const SKIP_SCALED_OBJECT: &str = "httpscaledobject.keda.sh/skip-scaledobject-creation";
/// Annotation of an `HTTPScaledObject`: leave its `ScaledObject` to itself. Holds where the value is exactly `true`.
pub const ORPHAN_SCALED_OBJECT: &str = "httpscaledobject.keda.sh/orphan-scaledobject";
/// Annotation of a `ScaledObject`: nothing is scaled while it is there, whatever its value but `false`.
pub const PAUSED: &str = "autoscaling.keda.sh/paused";
/// Annotation of a `ScaledObject`: the replicas to keep, and nothing else is done.
pub const PAUSED_REPLICAS: &str = "autoscaling.keda.sh/paused-replicas";
/// Annotation of a `ScaledObject`: never fewer replicas while its value is `true`.
pub const PAUSED_SCALE_IN: &str = "autoscaling.keda.sh/paused-scale-in";
/// Annotation of a `ScaledObject`: never more replicas while its value is `true`.
pub const PAUSED_SCALE_OUT: &str = "autoscaling.keda.sh/paused-scale-out";
/// Annotation of a `ScaledObject`: as if a trigger were active while its value is `true`.
pub const FORCE_ACTIVATION: &str = "autoscaling.keda.sh/force-activation";

/// Finalizer of a `ScaledObject`, KEDA's own name for it.
pub const FINALIZER: &str = "finalizer.keda.sh";
/// Finalizer of an `HTTPScaledObject`, the add-on's own name for it.
pub const HTTP_FINALIZER: &str = "httpscaledobject.http.keda.sh";
/// Annotation of an `HTTPScaledObject` that is scaled without KEDA: the replicas that its workload had before.
pub const ORIGINAL_REPLICAS: &str = "pilotlight.dev/original-replicas";

/// Something wrong with an object, for a condition or an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// Path of the field, `spec.target.port`; empty where it is the object as a whole.
    pub field: String,
    /// What was found, what is allowed. One line.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl Problem {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// The part of an object's metadata that matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Unique over time.
    pub uid: String,
    /// Rises with each change of the spec; what `observedGeneration` repeats.
    pub generation: i64,
    /// RFC 3339, so that the order of texts is the order of times.
    pub creation_timestamp: String,
    /// Set once it is being deleted.
    pub deletion_timestamp: Option<String>,
    /// What keeps it until somebody takes it out.
    pub finalizers: Vec<String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl Meta {
    /// `namespace/name`, as `/queue` and metrics name a route.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether an annotation is exactly `true`.
    pub fn is_marked(&self, annotation: &str) -> bool {
        self.annotations.get(annotation).is_some_and(|value| value == "true")
    }
}

/// An object of one of the kinds of this module.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Object<S> {
    /// Its metadata.
    #[serde(default)]
    pub metadata: Meta,
    /// What it asks for.
    pub spec: S,
}

/// The spec of a kind.
pub trait Spec: DeserializeOwned {
    /// `kind` of its objects.
    const KIND: &'static str;
    /// Group of its objects.
    const GROUP: &'static str;
    /// Version of its objects.
    const VERSION: &'static str;
    /// The name in paths of the API.
    const PLURAL: &'static str;

    /// Whether its objects are in no namespace.
    const CLUSTER: bool = false;

    /// What is wrong between its fields; empty where it is good.
    fn problems(&self) -> Vec<Problem>;
}

/// Reads an object as an API server gives it. Unknown fields are passed over.
///
/// # Errors
/// Everything that is wrong with it; a field of the wrong type hides what is wrong elsewhere.
pub fn read<S: Spec>(object: Value) -> Result<Object<S>, Vec<Problem>> {
    let parsed: Result<Object<S>, _> = serde_path_to_error::deserialize(object);
    let object = parsed.map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { path };
        vec![Problem::new(field, error.inner().to_string())]
    })?;
    let problems = object.spec.problems();
    if problems.is_empty() { Ok(object) } else { Err(problems) }
}

/// Says what is wrong with a pair of fields of which exactly one has to be there.
fn one_of_ports(field: &str, port: Option<i32>, name: Option<&str>, problems: &mut Vec<Problem>) {
    match (port, name) {
        (Some(_), Some(_)) | (None, None) => {
            problems.push(Problem::new(field, "must define either the 'portName' or the 'port'"));
        }
        (Some(port), None) if !(1..=65_535).contains(&port) => problems.push(Problem::new(
            format!("{field}.port"),
            format!("found {port}, allowed is 1 to 65535"),
        )),
        (None, Some("")) => problems.push(Problem::new(format!("{field}.portName"), "must not be empty")),
        _ => {}
    }
}

fn at_least(field: &str, value: Option<i32>, least: i32, problems: &mut Vec<Problem>) {
    if let Some(value) = value.filter(|value| *value < least) {
        problems.push(Problem::new(
            field,
            format!("found {value}, allowed is {least} and more"),
        ));
    }
}

fn not_empty(field: &str, value: &str, problems: &mut Vec<Problem>) {
    if value.is_empty() {
        problems.push(Problem::new(field, "must not be empty"));
    }
}

#[cfg(test)]
mod tests;
