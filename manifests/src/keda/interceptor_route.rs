//! `http.keda.sh/v1beta1 InterceptorRoute`: where requests go, by which metrics their workload scales, and what is
//! answered while it can't.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GoDuration, HTTP_GROUP, Problem, Spec, at_least, not_empty, one_of_ports};

/// Message of the rule that a metric is needed.
const NO_METRIC: &str = "at least one of 'concurrency' or 'requestRate' must be set";

/// Where requests go and how they are counted. It scales nothing: a `ScaledObject` that names it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InterceptorRouteSpec {
    /// Service that answers.
    pub target: TargetRef,
    /// By what its workload is scaled.
    pub scaling_metric: ScalingMetric,
    /// Which requests take this route, any of them. None: no request does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// What is answered while the Service has no ready endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_start: Option<ColdStart>,
    /// Limits that differ from the interceptor's.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Requests of the route that are answered without the workload; the first one that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub static_routes: Vec<StaticRoute>,
}

/// A port of a Service in the route's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "has(self.portName) != has(self.port)", "message": "must define either the 'portName' or the 'port'"}]))]
pub struct TargetRef {
    /// Name of the Service.
    #[schemars(length(min = 1))]
    pub service: String,
    /// Port of the Service by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
    /// Port of the Service by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub port_name: Option<String>,
}

/// Metrics and their targets; with both the larger result counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "has(self.concurrency) || has(self.requestRate)", "message": NO_METRIC}]))]
pub struct ScalingMetric {
    /// By requests in flight and waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// By requests that arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_rate: Option<RequestRate>,
}

/// Scaling by requests in flight and waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Concurrency {
    /// Requests at once per replica.
    #[schemars(range(min = 1))]
    pub target_value: i32,
}

/// Scaling by requests that arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestRate {
    /// Requests per granularity and replica.
    #[schemars(range(min = 1))]
    pub target_value: i32,
    /// Time over which the average is taken.
    #[serde(default = "minute")]
    pub window: GoDuration,
    /// Width of one bucket of the average, 1 s and more.
    #[serde(default = "second")]
    pub granularity: GoDuration,
}

pub(super) fn minute() -> GoDuration {
    GoDuration(Duration::from_mins(1))
}

pub(super) fn second() -> GoDuration {
    GoDuration(Duration::from_secs(1))
}

/// Hosts, paths and headers that have to match together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Host names, or `*.example.com` for every name below one, or `*`. None: any host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub hosts: Vec<String>,
    /// Path prefixes by whole segments. None: any path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub paths: Vec<PathMatch>,
    /// Headers that have to be there, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub headers: Vec<HeaderMatch>,
}

/// A path prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PathMatch {
    /// The prefix, matched by whole segments.
    #[schemars(length(min = 1))]
    pub value: String,
}

/// A header that has to be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeaderMatch {
    /// Its name, in any case.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Its exact value; absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// What is answered while the Service has no ready endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.fallback) || has(self.placeholder) || has(self.maxPendingRequests)",
    "message": "must define 'fallback', 'placeholder' or 'maxPendingRequests'",
}]))]
pub struct ColdStart {
    /// Service that answers once the readiness limit has passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<ColdStartFallback>,
    /// Answer that is given at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placeholder: Option<Placeholder>,
    /// Requests that may wait at once, at each interceptor.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_pending_requests: Option<i32>,
    /// What a request past that limit gets.
    #[serde(default)]
    pub overflow: Overflow,
}

/// What a request gets that finds the waiting room full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Overflow {
    /// 503.
    #[default]
    Reject,
    /// The placeholder, which then goes to such requests only.
    Placeholder,
}

/// A Service that answers in place of the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ColdStartFallback {
    /// The Service.
    pub service: ServiceRef,
}

/// A port of a Service in the route's namespace, in the fallback's notation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "has(self.portName) != has(self.port)", "message": "must define either the 'portName' or the 'port'"}]))]
pub struct ServiceRef {
    /// Name of the Service.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Port of the Service by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
    /// Port of the Service by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub port_name: Option<String>,
}

impl From<ServiceRef> for TargetRef {
    fn from(service: ServiceRef) -> Self {
        Self {
            service: service.name,
            port: service.port,
            port_name: service.port_name,
        }
    }
}

/// An answer that is given at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Placeholder {
    /// The answer; its status is 503 unless it says otherwise.
    pub response: StaticResponse,
}

/// An answer that is known beforehand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "!(has(self.body) && has(self.bodyFromConfigMap))", "message": "at most one of 'body' and 'bodyFromConfigMap' may be set"}]))]
pub struct StaticResponse {
    /// Its status.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 599))]
    pub status_code: Option<i32>,
    /// Its body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32_768))]
    pub body: Option<String>,
    /// Its body as a key of a ConfigMap with the label `http.keda.sh/response-body: "true"` in the route's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_from_config_map: Option<ConfigMapKey>,
    /// Its headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// A key of a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigMapKey {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1))]
    pub name: String,
    /// The key. Absent: the request's path, `index.html` for `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Limits of a route. Absent: the interceptor's own; `0s`: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    /// How long a request may wait for a ready endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness: Option<GoDuration>,
    /// How long a request may take as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<GoDuration>,
    /// How long the head of the answer may take from forwarding on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_header: Option<GoDuration>,
}

/// Requests that are answered without the workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StaticRoute {
    /// Which ones, any of these; an empty rule is all of them.
    #[schemars(length(min = 1))]
    pub rules: Vec<Rule>,
    /// The answer; its status is 200 unless it says otherwise.
    pub response: StaticResponse,
    /// When it is given.
    #[serde(default)]
    pub response_mode: ResponseMode,
}

/// When a static route answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ResponseMode {
    /// Whatever the workload does.
    Always,
    /// While the Service has no ready endpoint; the workload answers otherwise.
    #[default]
    WhenUnavailable,
}

impl Spec for InterceptorRouteSpec {
    const KIND: &'static str = "InterceptorRoute";
    const GROUP: &'static str = HTTP_GROUP;
    const VERSION: &'static str = "v1beta1";
    const PLURAL: &'static str = "interceptorroutes";

    fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        not_empty("spec.target.service", &self.target.service, &mut found);
        let TargetRef { port, port_name, .. } = &self.target;
        one_of_ports("spec.target", *port, port_name.as_deref(), &mut found);
        self.scaling_metric.problems(&mut found);
        for (index, rule) in self.rules.iter().enumerate() {
            rule.problems(&format!("spec.rules[{index}]"), &mut found);
        }
        if let Some(cold_start) = &self.cold_start {
            cold_start.problems(&mut found);
        }
        for (index, route) in self.static_routes.iter().enumerate() {
            route.problems(&format!("spec.staticRoutes[{index}]"), &mut found);
        }
        found
    }
}

impl ScalingMetric {
    fn problems(&self, found: &mut Vec<Problem>) {
        let field = "spec.scalingMetric";
        if self.concurrency.is_none() && self.request_rate.is_none() {
            found.push(Problem::new(field, NO_METRIC));
        }
        let targets = [
            ("concurrency", self.concurrency.map(|metric| metric.target_value)),
            ("requestRate", self.request_rate.map(|metric| metric.target_value)),
        ];
        for (name, target) in targets {
            at_least(&format!("{field}.{name}.targetValue"), target, 1, found);
        }
        if let Some(rate) = &self.request_rate {
            rate.problems(&format!("{field}.requestRate"), found);
        }
    }
}

impl RequestRate {
    /// The add-on checks none of these, and divides by zero where the granularity is below a second.
    pub(super) fn problems(&self, field: &str, found: &mut Vec<Problem>) {
        if self.granularity.0 < Duration::from_secs(1) {
            found.push(Problem::new(format!("{field}.granularity"), "must be 1s or more"));
        }
        if self.window < self.granularity {
            found.push(Problem::new(
                format!("{field}.window"),
                "must not be shorter than the granularity",
            ));
        }
    }
}

impl Rule {
    fn problems(&self, field: &str, found: &mut Vec<Problem>) {
        for (index, path) in self.paths.iter().enumerate() {
            not_empty(&format!("{field}.paths[{index}].value"), &path.value, found);
        }
        for (index, header) in self.headers.iter().enumerate() {
            not_empty(&format!("{field}.headers[{index}].name"), &header.name, found);
        }
    }
}

impl ColdStart {
    fn problems(&self, found: &mut Vec<Problem>) {
        let field = "spec.coldStart";
        if self.fallback.is_none() && self.placeholder.is_none() && self.max_pending_requests.is_none() {
            let message = "must define 'fallback', 'placeholder' or 'maxPendingRequests'";
            found.push(Problem::new(field, message));
        }
        if let Some(ColdStartFallback { service }) = &self.fallback {
            let field = format!("{field}.fallback.service");
            not_empty(&format!("{field}.name"), &service.name, found);
            one_of_ports(&field, service.port, service.port_name.as_deref(), found);
        }
        if let Some(Placeholder { response }) = &self.placeholder {
            response.problems(&format!("{field}.placeholder.response"), found);
        }
        at_least(
            &format!("{field}.maxPendingRequests"),
            self.max_pending_requests,
            1,
            found,
        );
    }
}

impl StaticRoute {
    fn problems(&self, field: &str, found: &mut Vec<Problem>) {
        if self.rules.is_empty() {
            found.push(Problem::new(format!("{field}.rules"), "must have at least one rule"));
        }
        for (index, rule) in self.rules.iter().enumerate() {
            rule.problems(&format!("{field}.rules[{index}]"), found);
        }
        self.response.problems(&format!("{field}.response"), found);
    }
}

impl StaticResponse {
    /// Longest body in the object itself, in characters.
    const LONGEST_BODY: usize = 32_768;

    fn problems(&self, field: &str, found: &mut Vec<Problem>) {
        if let Some(status) = self.status_code.filter(|status| !(100..=599).contains(status)) {
            found.push(Problem::new(
                format!("{field}.statusCode"),
                format!("found {status}, allowed is 100 to 599"),
            ));
        }
        if self.body.is_some() && self.body_from_config_map.is_some() {
            found.push(Problem::new(
                field,
                "at most one of 'body' and 'bodyFromConfigMap' may be set",
            ));
        }
        if self
            .body
            .as_ref()
            .is_some_and(|body| body.chars().count() > Self::LONGEST_BODY)
        {
            found.push(Problem::new(format!("{field}.body"), "is longer than 32768 characters"));
        }
        if let Some(source) = &self.body_from_config_map {
            not_empty(&format!("{field}.bodyFromConfigMap.name"), &source.name, found);
        }
    }
}
