//! `http.keda.sh/v1alpha1 HTTPScaledObject`: route, metric and scaling in one object. The add-on calls it deprecated.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ColdStart, ColdStartFallback, Concurrency, GoDuration, HTTP_GROUP, HeaderMatch, InterceptorRouteSpec, Overflow,
    PathMatch, Problem, RequestRate, Rule, ScalingMetric, ServiceRef, Spec, TargetRef, Timeouts,
    interceptor_route::{minute, second},
    not_empty, one_of_ports,
};

/// Target of a metric that none is given for.
const DEFAULT_TARGET: i32 = 100;

/// Routes requests to a Service and scales the workload behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpScaledObjectSpec {
    /// Host names, or `*.example.com` for every name below one, or `*`. None: any host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Path prefixes by whole segments. None: any path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path_prefixes: Vec<String>,
    /// Headers that have to be there, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub headers: Vec<HttpHeader>,
    /// What answers and what is scaled.
    pub scale_target_ref: RouteScaleTarget,
    /// Service that answers while the target can't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_start_timeout_failover_ref: Option<FailoverRef>,
    /// Bounds of the replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<ReplicaBounds>,
    /// Deprecated: requests at once per replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_pending_requests: Option<i32>,
    /// Seconds without requests before the last replica ends. Absent: KEDA's 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaledown_period: Option<i32>,
    /// Seconds from creation before the last replica may end for the first time. Absent: KEDA's 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_cooldown_period: Option<i32>,
    /// By what the workload is scaled; one of the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling_metric: Option<HttpScalingMetric>,
    /// Limits that differ from the interceptor's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<HttpScaledObjectTimeouts>,
}

/// A header that has to be there.
pub type HttpHeader = HeaderMatch;

/// What answers and what is scaled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "has(self.portName) != has(self.port)", "message": "must define either the 'portName' or the 'port'"}]))]
pub struct RouteScaleTarget {
    /// Name of the workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its `apiVersion`. Absent: `apps/v1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// Its `kind`, any with a `/scale`. Absent: `Deployment`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Service that answers.
    pub service: String,
    /// Port of the Service by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// Port of the Service by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_name: Option<String>,
}

/// Service that answers while the target can't.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "has(self.portName) != has(self.port)", "message": "must define either the 'portName' or the 'port'"}]))]
pub struct FailoverRef {
    /// Name of the Service.
    pub service: String,
    /// Port of the Service by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// Port of the Service by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_name: Option<String>,
    /// Seconds that a request waits for the target.
    #[serde(default = "thirty")]
    pub timeout_seconds: i32,
}

fn thirty() -> i32 {
    30
}

/// Bounds of the replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaBounds {
    /// At least so many. Absent: KEDA's 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<i32>,
    /// At most so many. Absent: KEDA's 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<i32>,
}

/// By what the workload is scaled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpScalingMetric {
    /// By requests in flight and waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<HttpConcurrency>,
    /// By requests that arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_rate: Option<HttpRequestRate>,
}

/// Scaling by requests in flight and waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpConcurrency {
    /// Requests at once per replica.
    #[serde(default = "hundred")]
    pub target_value: i32,
}

/// Scaling by requests that arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRequestRate {
    /// Requests per granularity and replica.
    #[serde(default = "hundred")]
    pub target_value: i32,
    /// Time over which the average is taken.
    #[serde(default = "minute")]
    pub window: GoDuration,
    /// Width of one bucket of the average, 1 s and more.
    #[serde(default = "second")]
    pub granularity: GoDuration,
}

fn hundred() -> i32 {
    DEFAULT_TARGET
}

/// Limits of a route; 0 is the interceptor's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpScaledObjectTimeouts {
    /// How long a request may wait for a ready endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition_wait: Option<GoDuration>,
    /// How long the head of the answer may take from forwarding on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_header: Option<GoDuration>,
}

impl Spec for HttpScaledObjectSpec {
    const KIND: &'static str = "HTTPScaledObject";
    const GROUP: &'static str = HTTP_GROUP;
    const VERSION: &'static str = "v1alpha1";
    const PLURAL: &'static str = "httpscaledobjects";

    fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let target = &self.scale_target_ref;
        not_empty("spec.scaleTargetRef.service", &target.service, &mut found);
        one_of_ports(
            "spec.scaleTargetRef",
            target.port,
            target.port_name.as_deref(),
            &mut found,
        );
        if let Some(failover) = &self.cold_start_timeout_failover_ref {
            let field = "spec.coldStartTimeoutFailoverRef";
            not_empty(&format!("{field}.service"), &failover.service, &mut found);
            one_of_ports(field, failover.port, failover.port_name.as_deref(), &mut found);
        }
        if let Some(metric) = &self.scaling_metric {
            if metric.concurrency.is_some() && metric.request_rate.is_some() {
                let message = "only one of 'concurrency' and 'requestRate' may be set";
                found.push(Problem::new("spec.scalingMetric", message));
            }
            if let Some(rate) = metric.request_rate {
                RequestRate::from(rate).problems("spec.scalingMetric.requestRate", &mut found);
            }
        }
        for (index, header) in self.headers.iter().enumerate() {
            not_empty(&format!("spec.headers[{index}].name"), &header.name, &mut found);
        }
        found
    }
}

impl From<HttpRequestRate> for RequestRate {
    fn from(rate: HttpRequestRate) -> Self {
        Self {
            target_value: rate.target_value,
            window: rate.window,
            granularity: rate.granularity,
        }
    }
}

impl HttpScaledObjectSpec {
    /// The one metric that counts: the rate where it is given, else concurrency with its target, else concurrency with
    /// the deprecated target, else with 100. A target below 1 is 100 too.
    pub fn metric(&self) -> ScalingMetric {
        let given = self.scaling_metric.unwrap_or_default();
        if let Some(rate) = given.request_rate {
            return ScalingMetric {
                request_rate: Some(rate.into()),
                concurrency: None,
            };
        }
        let target = given
            .concurrency
            .map(|metric| metric.target_value)
            .or(self.target_pending_requests)
            .filter(|target| *target > 0)
            .unwrap_or(DEFAULT_TARGET);
        ScalingMetric {
            concurrency: Some(Concurrency { target_value: target }),
            request_rate: None,
        }
    }

    /// The same route as an `InterceptorRoute` would say it.
    pub fn route(&self) -> InterceptorRouteSpec {
        let target = &self.scale_target_ref;
        let limits = self.timeouts.unwrap_or_default();
        let positive = |limit: Option<GoDuration>| limit.filter(|limit| !limit.0.is_zero());
        let failover = self.cold_start_timeout_failover_ref.as_ref();
        let failover_after = failover
            .and_then(|failover| u64::try_from(failover.timeout_seconds).ok())
            .filter(|seconds| *seconds > 0)
            .map(|seconds| GoDuration(std::time::Duration::from_secs(seconds)));
        InterceptorRouteSpec {
            target: TargetRef {
                service: target.service.clone(),
                port: target.port,
                port_name: target.port_name.clone(),
            },
            scaling_metric: self.metric(),
            rules: vec![Rule {
                hosts: self.hosts.clone(),
                paths: self
                    .path_prefixes
                    .iter()
                    .map(|value| PathMatch { value: value.clone() })
                    .collect(),
                headers: self.headers.clone(),
            }],
            cold_start: failover.map(|failover| ColdStart {
                fallback: Some(ColdStartFallback {
                    service: ServiceRef {
                        name: failover.service.clone(),
                        port: failover.port,
                        port_name: failover.port_name.clone(),
                    },
                }),
                placeholder: None,
                max_pending_requests: None,
                overflow: Overflow::Reject,
            }),
            timeouts: Timeouts {
                readiness: failover_after.or(positive(limits.condition_wait)),
                request: None,
                response_header: positive(limits.response_header),
            },
            static_routes: Vec::new(),
        }
    }

    /// `status.targetWorkload`: `apiVersion/kind/name` as given.
    pub fn target_workload(&self) -> String {
        let target = &self.scale_target_ref;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        format!(
            "{}/{}/{}",
            text(&target.api_version),
            text(&target.kind),
            text(&target.name)
        )
    }

    /// `status.targetService`: `service:port`, with port 0 for a named one.
    pub fn target_service(&self) -> String {
        let target = &self.scale_target_ref;
        format!("{}:{}", target.service, target.port.unwrap_or(0))
    }
}
