//! What happens to a workload where no KEDA runs, as a decision: KEDA's own part (zero, idle, cool-down, pause, fallback)
//! over the HorizontalPodAutoscaler's ([`Hpa`]).
//!
//! KEDA looks at the triggers every `pollingInterval` and on each push: an active one takes the workload from zero or idle
//! to its least number at once; without one it goes to zero or idle once `cooldownPeriod` has passed since the last activity
//! (`initialCooldownPeriod` since creation, if it was never active). In between the HorizontalPodAutoscaler decides.

use std::time::Duration;

use pilotlight_manifests::keda::{self, FallbackBehavior, Meta, ScaledObjectSpec};

use super::hpa::{Bounds, Hpa, Reading};

/// How often a HorizontalPodAutoscaler decides.
pub const HPA_PERIOD: Duration = Duration::from_secs(15);

/// What the annotations of a `ScaledObject` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Nothing.
    No,
    /// Leave the replicas as they are.
    AsItIs,
    /// Keep so many.
    At(u32),
}

/// A `ScaledObject` as the decision sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Replicas at least while active.
    pub min: u32,
    /// Replicas at most.
    pub max: u32,
    /// Replicas while no trigger is active, where it is not `min` or zero.
    pub idle: Option<u32>,
    /// From the last activity to zero or idle.
    pub cooldown: Duration,
    /// From creation to zero or idle, if it was never active.
    pub initial_cooldown: Duration,
    /// Between two looks.
    pub polling: Duration,
    /// While triggers fail.
    pub fallback: Option<keda::Fallback>,
    /// Pause.
    pub pause: Pause,
    /// Never fewer replicas.
    pub keep_up: bool,
    /// Never more replicas.
    pub keep_down: bool,
    /// Active whatever the triggers say.
    pub force: bool,
}

impl Policy {
    /// With KEDA's defaults; `spec` is one without problems.
    pub fn new(meta: &Meta, spec: &ScaledObjectSpec) -> Self {
        let count = |value: i32| u32::try_from(value).unwrap_or(0);
        let seconds = |value: Option<i32>, default: u64| {
            let given = value.and_then(|value| u64::try_from(value).ok());
            Duration::from_secs(given.unwrap_or(default))
        };
        Self {
            min: count(spec.min()),
            max: count(spec.max()),
            idle: spec.idle_replica_count.map(count),
            cooldown: seconds(spec.cooldown_period, 300),
            initial_cooldown: seconds(spec.initial_cooldown_period, 0),
            polling: seconds(spec.polling_interval, 30).max(Duration::from_secs(1)),
            fallback: spec.fallback,
            pause: pause(meta),
            keep_up: meta.is_marked(keda::PAUSED_SCALE_IN),
            keep_down: meta.is_marked(keda::PAUSED_SCALE_OUT),
            force: meta.is_marked(keda::FORCE_ACTIVATION),
        }
    }

    /// Replicas without activity.
    fn rest(&self) -> u32 {
        self.idle.unwrap_or(self.min)
    }

    /// Replicas that an activation starts.
    pub fn awake(&self) -> u32 {
        self.min.max(1)
    }
}

/// A pause beats one at a number of replicas only where the number can't be read.
fn pause(meta: &Meta) -> Pause {
    let replicas = meta.annotations.get(keda::PAUSED_REPLICAS).map(|value| value.parse());
    match (replicas, meta.annotations.get(keda::PAUSED)) {
        (Some(Ok(replicas)), _) => Pause::At(replicas),
        (Some(Err(_)), _) => Pause::AsItIs,
        (None, Some(value)) if value != "false" => Pause::AsItIs,
        (None, _) => Pause::No,
    }
}

/// What the triggers said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Any of them is active.
    pub active: bool,
    /// Any of them could not be asked.
    pub failed: bool,
    /// Their metrics.
    pub readings: Vec<Reading>,
}

/// What is done, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// So many replicas.
    Scale(u32, Reason),
}

/// Why replicas change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A trigger became active.
    Activated,
    /// None was for as long as the cool-down.
    CooledDown,
    /// The metrics ask for it.
    Metrics,
    /// Its bounds ask for it.
    Bounds,
    /// Paused at this number.
    Paused,
    /// Triggers fail.
    Fallback,
}

impl Reason {
    /// For events and conditions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Activated => "Activated",
            Self::CooledDown => "CooledDown",
            Self::Metrics => "Metrics",
            Self::Bounds => "Bounds",
            Self::Paused => "Paused",
            Self::Fallback => "Fallback",
        }
    }
}

/// One workload's scaling. Time is the time since an epoch of the caller's.
#[derive(Clone, Debug)]
pub struct Scaling {
    policy: Policy,
    hpa: Hpa,
    /// When it was created, or first seen where that is not known.
    created: Duration,
    last_active: Option<Duration>,
    /// Looks in a row at which a trigger could not be asked.
    failures: i32,
    next_hpa: Duration,
    fallen_back: bool,
}

impl Scaling {
    /// `created` and `last_active` as the object's status tells them, so that a restart forgets neither.
    pub fn new(policy: Policy, hpa: Hpa, created: Duration, last_active: Option<Duration>) -> Self {
        Self {
            policy,
            hpa,
            created,
            last_active,
            failures: 0,
            next_hpa: Duration::ZERO,
            fallen_back: false,
        }
    }

    /// Takes another policy; what was seen stays.
    pub fn set_policy(&mut self, policy: Policy, behavior: Option<&keda::Behavior>) {
        self.policy = policy;
        self.hpa.set_behavior(behavior);
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// When a trigger was active last.
    pub fn last_active(&self) -> Option<Duration> {
        self.last_active
    }

    /// Whether the fallback holds.
    pub fn is_fallen_back(&self) -> bool {
        self.fallen_back
    }

    /// A trigger said that it is active, outside of a look.
    pub fn pushed(&mut self, now: Duration, current: u32) -> Step {
        self.last_active = Some(now);
        self.bounded(current, self.activate(current))
    }

    /// Decides on a look at all triggers at `now`, where the workload asks for `current` replicas.
    pub fn look(&mut self, now: Duration, current: u32, look: &Look) -> Step {
        self.failures = if look.failed {
            self.failures.saturating_add(1)
        } else {
            0
        };
        let active = look.active || self.policy.force;
        if active {
            self.last_active = Some(now);
        }
        let step = match self.policy.pause {
            Pause::At(replicas) if current != replicas => return Step::Scale(replicas, Reason::Paused),
            Pause::At(_) | Pause::AsItIs => return Step::Stay,
            Pause::No => self.decide(now, current, active, look),
        };
        self.bounded(current, step)
    }

    fn decide(&mut self, now: Duration, current: u32, active: bool, look: &Look) -> Step {
        self.fallen_back = false;
        if active && let step @ Step::Scale(..) = self.activate(current) {
            return step;
        }
        if let Some(replicas) = self.fallback(current, active, look) {
            self.fallen_back = true;
            return scale(current, replicas.min(self.policy.max), Reason::Fallback);
        }
        if !active && !look.failed && self.is_cool(now) {
            let rest = self.policy.rest();
            if rest < self.policy.awake() && current > rest {
                return Step::Scale(rest, Reason::CooledDown);
            }
            if current < rest || (current == rest && rest < self.policy.awake()) {
                return scale(current, rest, Reason::Bounds);
            }
        }
        self.by_metrics(now, current, look)
    }

    /// From zero or idle to the least number of replicas.
    fn activate(&self, current: u32) -> Step {
        let asleep = current == 0 || (self.policy.idle.is_some() && current < self.policy.min);
        if self.policy.pause != Pause::No || !asleep {
            return Step::Stay;
        }
        Step::Scale(self.policy.awake(), Reason::Activated)
    }

    fn fallback(&self, current: u32, active: bool, look: &Look) -> Option<u32> {
        let fallback = self
            .policy
            .fallback
            .filter(|fallback| self.failures > fallback.failure_threshold)?;
        // With other triggers that can be asked the largest proposal still counts.
        if !look.failed || (active && look.readings.iter().all(|reading| reading.value.is_some())) {
            return None;
        }
        let replicas = u32::try_from(fallback.replicas).unwrap_or(0);
        Some(match fallback.behavior {
            FallbackBehavior::Static => replicas,
            FallbackBehavior::CurrentReplicas => current,
            FallbackBehavior::CurrentReplicasIfHigher => replicas.max(current),
            FallbackBehavior::CurrentReplicasIfLower => replicas.min(current),
        })
    }

    fn is_cool(&self, now: Duration) -> bool {
        match self.last_active {
            Some(last) => now.saturating_sub(last) >= self.policy.cooldown,
            None => now.saturating_sub(self.created) >= self.policy.initial_cooldown,
        }
    }

    fn by_metrics(&mut self, now: Duration, current: u32, look: &Look) -> Step {
        // The HorizontalPodAutoscaler is off at zero, and at idle until the next activation.
        let idle = self.policy.idle.is_some_and(|idle| current <= idle);
        if current == 0 || idle || now < self.next_hpa {
            return Step::Stay;
        }
        self.next_hpa = now + HPA_PERIOD;
        let bounds = Bounds {
            min: self.policy.awake(),
            max: self.policy.max,
        };
        match self.hpa.desire(now, current, bounds, &look.readings) {
            Some(replicas) => scale(current, replicas, Reason::Metrics),
            None => Step::Stay,
        }
    }

    /// `paused-scale-in` and `paused-scale-out`.
    fn bounded(&self, current: u32, step: Step) -> Step {
        match step {
            Step::Scale(to, _) if to < current && self.policy.keep_up => Step::Stay,
            Step::Scale(to, _) if to > current && self.policy.keep_down => Step::Stay,
            step => step,
        }
    }

    /// A step was carried out.
    pub fn scaled(&mut self, now: Duration, from: u32, to: u32) {
        self.hpa.changed(now, from, to);
    }
}

fn scale(current: u32, to: u32, reason: Reason) -> Step {
    if current == to {
        Step::Stay
    } else {
        Step::Scale(to, reason)
    }
}

#[cfg(test)]
#[path = "scaling_tests.rs"]
mod tests;
