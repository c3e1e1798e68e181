//! The replicas that a HorizontalPodAutoscaler (`autoscaling/v2`) would want, as a decision.
//!
//! From the values of the metrics comes a proposal for each, the largest counts; it is stabilised (over a window the
//! smallest proposal counts upwards, the largest downwards) and its speed is limited by the policies. Rules and order are
//! those of Kubernetes' controller (`pkg/controller/podautoscaler`), where `behavior` is always taken as given, with its
//! defaults filled in.

use std::time::Duration;

use pilotlight_manifests::keda::{Behavior, MetricType, Policy, PolicyKind, ScalingRules, SelectPolicy};

/// Kubernetes' tolerance: by how much a metric may miss its target without effect.
const TOLERANCE: f64 = 0.1;

/// Changes and proposals are forgotten after the longest period and window that Kubernetes allows.
const LONGEST: Duration = Duration::from_hours(1);

/// The value of a metric and its target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The value; `None` could not be read.
    pub value: Option<f64>,
    /// The target, above 0.
    pub target: f64,
    /// Whether the target is per replica.
    pub kind: MetricType,
}

/// Bounds of the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// At least so many; at least 1.
    pub min: u32,
    /// At most so many.
    pub max: u32,
}

/// One workload's autoscaler. Time is the time since an epoch of the caller's.
#[derive(Clone, Debug, PartialEq)]
pub struct Hpa {
    up: Rules,
    down: Rules,
    proposals: Vec<(Duration, u32)>,
    /// When replicas changed and by how many.
    changes: Vec<(Duration, i64)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Rules {
    window: Duration,
    select: SelectPolicy,
    policies: Vec<Policy>,
    tolerance: f64,
}

impl Rules {
    fn new(given: Option<&ScalingRules>, window: u64, policies: &[(PolicyKind, i32)]) -> Self {
        let default = ScalingRules::default();
        let given = given.unwrap_or(&default);
        let defaults = policies.iter().map(|(kind, value)| Policy {
            kind: *kind,
            value: *value,
            period_seconds: 15,
        });
        let seconds = given
            .stabilization_window_seconds
            .and_then(|window| u64::try_from(window).ok());
        Self {
            window: Duration::from_secs(seconds.unwrap_or(window)),
            select: given.select_policy.unwrap_or_default(),
            policies: given.policies.clone().unwrap_or_else(|| defaults.collect()),
            tolerance: given.tolerance.unwrap_or(TOLERANCE),
        }
    }

    /// The end that the policies allow, where `proposal` gives it for one policy and the replicas at its period's begin.
    fn limit(&self, up: bool, current: u32, now: Duration, changes: &[(Duration, i64)]) -> u32 {
        let limits = self.policies.iter().map(|policy| {
            let period = Duration::from_secs(u64::try_from(policy.period_seconds).unwrap_or(0));
            let changed: i64 = changes
                .iter()
                .filter(|(at, _)| now.saturating_sub(*at) < period)
                .map(|(_, change)| change)
                .sum();
            allowed(policy, up, i64::from(current) - changed)
        });
        // The most change is the highest limit upwards and the lowest downwards.
        let limit = match (self.select, up) {
            (SelectPolicy::Disabled, _) => None,
            (SelectPolicy::Max, true) | (SelectPolicy::Min, false) => limits.max(),
            (SelectPolicy::Min, true) | (SelectPolicy::Max, false) => limits.min(),
        };
        limit.map_or(current, |limit| u32::try_from(limit.max(0)).unwrap_or(u32::MAX))
    }
}

fn allowed(policy: &Policy, up: bool, start: i64) -> i64 {
    let share = f64::from(policy.value) / 100.0;
    match (policy.kind, up) {
        (PolicyKind::Pods, true) => start + i64::from(policy.value),
        (PolicyKind::Pods, false) => start - i64::from(policy.value),
        (PolicyKind::Percent, true) => (start as f64 * (1.0 + share)).ceil() as i64,
        (PolicyKind::Percent, false) => (start as f64 * (1.0 - share)) as i64,
    }
}

impl Hpa {
    /// One that has seen nothing yet.
    pub fn new(behavior: Option<&Behavior>) -> Self {
        let mut hpa = Self {
            up: Rules::new(None, 0, &[]),
            down: Rules::new(None, 0, &[]),
            proposals: Vec::new(),
            changes: Vec::new(),
        };
        hpa.set_behavior(behavior);
        hpa
    }

    /// Takes other rules; what was seen stays.
    pub fn set_behavior(&mut self, behavior: Option<&Behavior>) {
        let rules = |pick: fn(&Behavior) -> Option<&ScalingRules>| behavior.and_then(pick);
        let up = [(PolicyKind::Pods, 4), (PolicyKind::Percent, 100)];
        self.up = Rules::new(rules(|behavior| behavior.scale_up.as_ref()), 0, &up);
        let down = [(PolicyKind::Percent, 100)];
        self.down = Rules::new(rules(|behavior| behavior.scale_down.as_ref()), 300, &down);
    }

    /// The replicas wanted at `now`, where `current` are asked for: `None` leaves them as they are because no metric, or
    /// one that would be needed for a scale-down, could be read. Only for a workload with replicas: zero is not its
    /// business. The answer is taken as carried out only once [`Self::changed`] says so.
    pub fn desire(&mut self, now: Duration, current: u32, bounds: Bounds, readings: &[Reading]) -> Option<u32> {
        let proposals: Vec<u32> = readings
            .iter()
            .filter_map(|reading| self.propose(*reading, current))
            .collect();
        let proposal = *proposals.iter().max()?;
        if proposals.len() < readings.len() && proposal < current {
            return None;
        }
        Some(self.limit(now, current, bounds, proposal))
    }

    /// Replicas were changed at `now`, by us.
    pub fn changed(&mut self, now: Duration, from: u32, to: u32) {
        if from != to {
            self.changes.push((now, i64::from(to) - i64::from(from)));
        }
    }

    fn propose(&self, reading: Reading, current: u32) -> Option<u32> {
        let value = reading.value?;
        let share = match reading.kind {
            MetricType::AverageValue => value / (reading.target * f64::from(current)),
            MetricType::Value => value / reading.target,
            MetricType::Utilization => return None,
        };
        let tolerated = 1.0 - self.down.tolerance..=1.0 + self.up.tolerance;
        if tolerated.contains(&share) {
            return Some(current);
        }
        // The share times the replicas, without the division where it would cost precision.
        let replicas = match reading.kind {
            MetricType::Value => share * f64::from(current),
            MetricType::AverageValue | MetricType::Utilization => value / reading.target,
        };
        Some(replicas.ceil() as u32)
    }

    fn limit(&mut self, now: Duration, current: u32, bounds: Bounds, proposal: u32) -> u32 {
        self.forget(now);
        if self.proposals.is_empty() {
            // As Kubernetes: what there is at the begin is the first proposal, so that nothing shrinks within the window.
            self.proposals.push((now, current));
        }
        let stable = self.stabilise(now, current, proposal);
        self.proposals.push((now, proposal));
        let limited = match stable.cmp(&current) {
            std::cmp::Ordering::Greater => {
                let limit = self.up.limit(true, current, now, &self.changes).max(current);
                stable.min(limit)
            }
            std::cmp::Ordering::Less => {
                let limit = self.down.limit(false, current, now, &self.changes).min(current);
                stable.max(limit)
            }
            std::cmp::Ordering::Equal => current,
        };
        limited.max(bounds.min.max(1)).min(bounds.max)
    }

    fn stabilise(&self, now: Duration, current: u32, proposal: u32) -> u32 {
        let within = |window: Duration| {
            self.proposals
                .iter()
                .filter(move |(at, _)| now.saturating_sub(*at) < window)
                .map(|(_, proposal)| *proposal)
        };
        let up = within(self.up.window).chain([proposal]).min().unwrap_or(proposal);
        let down = within(self.down.window).chain([proposal]).max().unwrap_or(proposal);
        current.max(up).min(down)
    }

    fn forget(&mut self, now: Duration) {
        self.proposals.retain(|(at, _)| now.saturating_sub(*at) <= LONGEST);
        self.changes.retain(|(at, _)| now.saturating_sub(*at) <= LONGEST);
    }
}

#[cfg(test)]
#[path = "hpa_tests.rs"]
mod tests;
