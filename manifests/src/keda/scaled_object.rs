//! `keda.sh/v1alpha1 ScaledObject`: the part that is needed to scale where no KEDA runs. Fields that are missing here
//! are kept by the API server and have no effect.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GROUP, Problem, Spec, at_least, not_empty};

/// Which workload is scaled, within which bounds, by what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScaledObjectSpec {
    /// The workload.
    pub scale_target_ref: ScaleTargetRef,
    /// Seconds between two looks at the triggers. Absent: 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub polling_interval: Option<i32>,
    /// Seconds without an active trigger before the workload goes to `idleReplicaCount` or zero. Absent: 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_period: Option<i32>,
    /// The same for a workload that was never active, from creation on. Absent: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_cooldown_period: Option<i32>,
    /// Replicas while no trigger is active, less than `minReplicaCount`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_replica_count: Option<i32>,
    /// Replicas at least. Absent: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replica_count: Option<i32>,
    /// Replicas at most. Absent: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replica_count: Option<i32>,
    /// What holds while a trigger can't be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// How replicas change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advanced: Option<Advanced>,
    /// What is looked at; the largest result counts.
    pub triggers: Vec<Trigger>,
}

/// The workload that is scaled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScaleTargetRef {
    /// Its name.
    pub name: String,
    /// Its `apiVersion`. Absent: `apps/v1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// Its `kind`, any with a `/scale`. Absent: `Deployment`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// KEDA's only: the container whose variables triggers may name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub env_source_container_name: Option<String>,
}

impl ScaleTargetRef {
    /// `apiVersion` with its default.
    pub fn api_version(&self) -> &str {
        self.api_version
            .as_deref()
            .filter(|text| !text.is_empty())
            .unwrap_or("apps/v1")
    }

    /// `kind` with its default.
    pub fn kind(&self) -> &str {
        self.kind
            .as_deref()
            .filter(|text| !text.is_empty())
            .unwrap_or("Deployment")
    }
}

/// What holds while a trigger can't be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fallback {
    /// Failures in a row before it holds.
    pub failure_threshold: i32,
    /// Replicas then.
    pub replicas: i32,
    /// Whether they stand for themselves or beside what runs.
    #[serde(default)]
    pub behavior: FallbackBehavior,
}

/// How a fallback's replicas are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum FallbackBehavior {
    /// As they are.
    #[default]
    Static,
    /// What runs stays.
    CurrentReplicas,
    /// What runs stays where it is more.
    CurrentReplicasIfHigher,
    /// What runs stays where it is less.
    CurrentReplicasIfLower,
}

/// How replicas change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Advanced {
    /// Whether the replicas of before come back once the object is deleted. Absent: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_to_original_replica_count: Option<bool>,
    /// What KEDA hands to its HorizontalPodAutoscaler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub horizontal_pod_autoscaler_config: Option<HpaConfig>,
    /// KEDA's only: a formula over the triggers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub scaling_modifiers: Option<serde_json::Value>,
}

/// Settings of the HorizontalPodAutoscaler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HpaConfig {
    /// How fast replicas change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behavior: Option<Behavior>,
    /// KEDA's only: there is no such object here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub name: Option<String>,
}

/// How fast replicas change, as in `autoscaling/v2`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Behavior {
    /// Upwards. Absent: the larger of 4 pods and 100 % per 15 s, without window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_up: Option<ScalingRules>,
    /// Downwards. Absent: 100 % per 15 s, with a window of 300 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<ScalingRules>,
}

/// One direction of a [`Behavior`]. What is absent has the direction's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingRules {
    /// Seconds over which the safest proposal counts, 0 to 3600.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3_600))]
    pub stabilization_window_seconds: Option<i32>,
    /// Which policy counts where several are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select_policy: Option<SelectPolicy>,
    /// Largest changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policies: Option<Vec<Policy>>,
    /// Share by which a metric may miss its target without effect. Absent: 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
}

/// Which policy counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SelectPolicy {
    /// The one that allows the largest change.
    #[default]
    Max,
    /// The one that allows the smallest change.
    Min,
    /// No change in this direction.
    Disabled,
}

/// A largest change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Unit of the value.
    #[serde(rename = "type")]
    pub kind: PolicyKind,
    /// How much, above 0.
    #[schemars(range(min = 1))]
    pub value: i32,
    /// Seconds in which it may change by so much, 1 to 1800.
    #[schemars(range(min = 1, max = 1_800))]
    pub period_seconds: i32,
}

/// Unit of a [`Policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyKind {
    /// Replicas.
    Pods,
    /// Percent of the replicas at the begin of the period.
    Percent,
}

/// What is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trigger {
    /// `external`, `external-push`, `prometheus` or `cron` where no KEDA runs.
    #[serde(rename = "type")]
    pub kind: String,
    /// Name of the trigger, free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its settings.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// How its target is meant.
    #[serde(default)]
    pub metric_type: MetricType,
    /// The `TriggerAuthentication` (`name`), or with `kind` the `ClusterTriggerAuthentication`, that names its secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub authentication_ref: Option<BTreeMap<String, String>>,
    /// KEDA's only: what a HorizontalPodAutoscaler asks is answered from the last look.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub use_cached_metrics: Option<bool>,
}

/// How a trigger's target is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MetricType {
    /// Per replica.
    #[default]
    AverageValue,
    /// For all replicas together.
    Value,
    /// A share of what the pods request, which no trigger here can tell.
    Utilization,
}

impl Spec for ScaledObjectSpec {
    const KIND: &'static str = "ScaledObject";
    const GROUP: &'static str = GROUP;
    const VERSION: &'static str = "v1alpha1";
    const PLURAL: &'static str = "scaledobjects";

    fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        not_empty("spec.scaleTargetRef.name", &self.scale_target_ref.name, &mut found);
        for (name, value, least) in [
            ("pollingInterval", self.polling_interval, 1),
            ("cooldownPeriod", self.cooldown_period, 0),
            ("initialCooldownPeriod", self.initial_cooldown_period, 0),
            ("idleReplicaCount", self.idle_replica_count, 0),
            ("minReplicaCount", self.min_replica_count, 0),
            ("maxReplicaCount", self.max_replica_count, 1),
        ] {
            at_least(&format!("spec.{name}"), value, least, &mut found);
        }
        if self.min() > self.max() {
            found.push(Problem::new(
                "spec.minReplicaCount",
                format!("found {}, more than maxReplicaCount {}", self.min(), self.max()),
            ));
        }
        if let Some(idle) = self
            .idle_replica_count
            .filter(|idle| *idle >= self.min_replica_count.unwrap_or(0))
        {
            found.push(Problem::new(
                "spec.idleReplicaCount",
                format!("found {idle}, must be less than minReplicaCount"),
            ));
        }
        if self.triggers.is_empty() {
            found.push(Problem::new("spec.triggers", "must have at least one trigger"));
        }
        if let Some(fallback) = self.fallback {
            at_least(
                "spec.fallback.failureThreshold",
                Some(fallback.failure_threshold),
                0,
                &mut found,
            );
            at_least("spec.fallback.replicas", Some(fallback.replicas), 0, &mut found);
        }
        if let Some(behavior) = self.behavior() {
            behavior.problems(&mut found);
        }
        found
    }
}

impl ScaledObjectSpec {
    /// Replicas at least, with KEDA's default.
    pub fn min(&self) -> i32 {
        self.min_replica_count.unwrap_or(0)
    }

    /// Replicas at most, with KEDA's default.
    pub fn max(&self) -> i32 {
        self.max_replica_count.unwrap_or(100)
    }

    /// Whether the replicas of before come back once the object is deleted.
    pub fn restores(&self) -> bool {
        let advanced = self.advanced.as_ref();
        advanced.and_then(|advanced| advanced.restore_to_original_replica_count) == Some(true)
    }

    /// Fields that are set and have no effect without KEDA, by their paths.
    pub fn unheeded(&self) -> Vec<String> {
        let hpa = self
            .advanced
            .as_ref()
            .and_then(|advanced| advanced.horizontal_pod_autoscaler_config.as_ref());
        let mut found = Vec::new();
        if self.scale_target_ref.env_source_container_name.is_some() {
            found.push("scaleTargetRef.envSourceContainerName".to_owned());
        }
        if hpa.is_some_and(|hpa| hpa.name.is_some()) {
            found.push("advanced.horizontalPodAutoscalerConfig.name".to_owned());
        }
        let cached = |trigger: &Trigger| trigger.use_cached_metrics == Some(true);
        let triggers = self.triggers.iter().enumerate();
        found.extend(
            triggers
                .filter(|(_, trigger)| cached(trigger))
                .map(|(index, _)| format!("triggers[{index}].useCachedMetrics")),
        );
        found
    }

    /// A formula over the triggers, which is KEDA's to compute.
    pub fn has_formula(&self) -> bool {
        let modifiers = self
            .advanced
            .as_ref()
            .and_then(|advanced| advanced.scaling_modifiers.as_ref());
        modifiers.is_some_and(|modifiers| modifiers["formula"].as_str().is_some_and(|text| !text.is_empty()))
    }

    /// How fast replicas change, where the object says it.
    pub fn behavior(&self) -> Option<&Behavior> {
        self.advanced
            .as_ref()?
            .horizontal_pod_autoscaler_config
            .as_ref()?
            .behavior
            .as_ref()
    }
}

impl Behavior {
    fn problems(&self, found: &mut Vec<Problem>) {
        for (name, rules) in [("scaleUp", &self.scale_up), ("scaleDown", &self.scale_down)] {
            let Some(rules) = rules else { continue };
            let field = format!("spec.advanced.horizontalPodAutoscalerConfig.behavior.{name}");
            if rules
                .stabilization_window_seconds
                .is_some_and(|window| !(0..=3_600).contains(&window))
            {
                let field = format!("{field}.stabilizationWindowSeconds");
                found.push(Problem::new(field, "allowed is 0 to 3600"));
            }
            for (index, policy) in rules.policies.iter().flatten().enumerate() {
                let field = format!("{field}.policies[{index}]");
                at_least(&format!("{field}.value"), Some(policy.value), 1, found);
                if !(1..=1_800).contains(&policy.period_seconds) {
                    found.push(Problem::new(format!("{field}.periodSeconds"), "allowed is 1 to 1800"));
                }
            }
        }
    }
}
